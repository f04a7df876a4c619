//! The rules of one host, by path.
//!
//! An exact path wins over regular expressions, those over prefixes, and a longer prefix over a
//! shorter one (of gRPC a service wins over expressions); among rules with the same path their further conditions decide, most specific
//! first. Looking up hashes the path once and walks it once, element by element, stopping where no
//! rule goes deeper: the cost is bounded by what is written in the rules, whatever path a client
//! sends. Regular expressions are tried one by one.

use std::collections::HashMap;
use std::sync::Arc;

use haflinger_core::PathMatch;

use crate::conditions::{Conditions, RequestView};
use crate::expressions::Expression;

/// A rule once its host and path fit.
#[derive(Debug)]
pub(crate) struct Candidate<A> {
    /// What else there is to meet.
    pub(crate) conditions: Option<Box<Conditions>>,
    /// Only hosts with one label before the suffix.
    pub(crate) one_label: bool,
    /// A condition is broken: who comes this far is answered with an error.
    pub(crate) broken: bool,
    /// Length of the path or prefix in the rule, without slashes at its end.
    pub(crate) prefix_bytes: usize,
    /// What is done.
    pub(crate) action: Arc<A>,
}

/// Rules by path. Rules are added in the order in which they are to be tried.
#[derive(Debug)]
pub(crate) struct Paths<A> {
    exact: HashMap<Arc<str>, Vec<Candidate<A>>>,
    /// Prefixes that come before expressions.
    services: Prefixes<A>,
    expressions: Vec<(Arc<Expression>, Candidate<A>)>,
    prefixes: Prefixes<A>,
}

#[derive(Debug)]
struct Prefixes<A> {
    /// The first is that of `/`. Nodes lie side by side, and not in each other, so that a path of
    /// a hundred thousand elements costs no stack.
    nodes: Vec<Node<A>>,
}

#[derive(Debug)]
struct Node<A> {
    candidates: Vec<Candidate<A>>,
    children: HashMap<Box<str>, usize>,
    parent: usize,
}

impl<A> Node<A> {
    fn below(parent: usize) -> Self {
        Self { candidates: Vec::new(), children: HashMap::new(), parent }
    }
}

impl<A> Default for Paths<A> {
    fn default() -> Self {
        Self {
            exact: HashMap::new(),
            services: Prefixes::default(),
            expressions: Vec::new(),
            prefixes: Prefixes::default(),
        }
    }
}

impl<A> Default for Prefixes<A> {
    fn default() -> Self {
        Self { nodes: vec![Node::below(0)] }
    }
}

impl<A> Candidate<A> {
    fn fits(&self, request: &RequestView<'_>, one_label: bool) -> bool {
        (one_label || !self.one_label)
            && self.conditions.as_ref().is_none_or(|conditions| conditions.fit(request))
    }
}

impl<A> Paths<A> {
    /// Adds a rule behind those that are there. `expression` compiles a [`PathMatch::Regex`];
    /// `is_grpc`: a prefix is the name of a service.
    pub(crate) fn add(
        &mut self,
        path: &PathMatch,
        is_grpc: bool,
        candidate: Candidate<A>,
        expression: impl FnOnce(&Arc<str>) -> Arc<Expression>,
    ) {
        match path {
            PathMatch::Exact(path) => {
                self.exact.entry(path.clone()).or_default().push(candidate);
            }
            PathMatch::Regex(text) => self.expressions.push((expression(text), candidate)),
            PathMatch::Prefix(path) if is_grpc && &**path != "/" => {
                self.services.add(path, candidate);
            }
            PathMatch::Prefix(path) => self.prefixes.add(path, candidate),
        }
    }

    /// The first rule that fits; `one_label`: rules for hosts with one label before the suffix do.
    pub(crate) fn find(&self, request: &RequestView<'_>, one_label: bool) -> Option<&Candidate<A>> {
        let fits = |candidate: &&Candidate<A>| candidate.fits(request, one_label);
        let path = request.path;
        let exact = self.exact.get(path).and_then(|exact| exact.iter().find(fits));
        let found = exact.or_else(|| self.services.find(path, fits)).or_else(|| {
            let mut expressions = self.expressions.iter();
            let fitting = expressions.find(|(expression, candidate)| {
                fits(&candidate) && expression.fits(path.as_bytes())
            });
            fitting.map(|(_, candidate)| candidate)
        });
        found.or_else(|| self.prefixes.find(path, fits))
    }
}

impl<A> Prefixes<A> {
    fn add(&mut self, prefix: &str, candidate: Candidate<A>) {
        let at = self.node(prefix);
        self.nodes[at].candidates.push(candidate);
    }

    fn node(&mut self, prefix: &str) -> usize {
        let mut at = 0;
        for element in elements(without_end(prefix)) {
            at = match self.nodes[at].children.get(element) {
                Some(child) => *child,
                None => {
                    let child = self.nodes.len();
                    self.nodes.push(Node::below(at));
                    self.nodes[at].children.insert(element.into(), child);
                    child
                }
            };
        }
        at
    }

    /// The first that fits of the longest prefix with any.
    fn find(&self, path: &str, fits: impl Fn(&&Candidate<A>) -> bool) -> Option<&Candidate<A>> {
        if self.nodes.len() == 1 && self.nodes[0].candidates.is_empty() {
            return None;
        }
        let mut at = 0;
        for element in elements(path) {
            match self.nodes[at].children.get(element) {
                Some(child) => at = *child,
                None => break,
            }
        }
        loop {
            let node = &self.nodes[at];
            match node.candidates.iter().find(&fits) {
                None if at != 0 => at = node.parent,
                found => return found,
            }
        }
    }
}

/// A prefix without slashes at its end, which do not count (HTTPRoute `path`, Ingress v1).
pub(crate) fn without_end(prefix: &str) -> &str {
    prefix.trim_end_matches('/')
}

/// The elements of a path. A final slash adds none: `/a` and `/a/` are one prefix (Ingress v1).
fn elements(path: &str) -> impl Iterator<Item = &str> {
    let path = path.strip_prefix('/').unwrap_or(path);
    let path = path.strip_suffix('/').unwrap_or(path);
    path.split('/').filter(move |_| !path.is_empty())
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, Method};

    use super::*;

    #[test]
    fn a_path_of_a_hundred_thousand_elements_costs_no_stack() {
        let long = "/a".repeat(100_000);
        let mut paths = Paths::default();
        let candidate = Candidate {
            conditions: None,
            one_label: false,
            broken: false,
            prefix_bytes: 0,
            action: Arc::new(()),
        };
        let none = |_: &Arc<str>| unreachable!("a prefix is no expression");
        paths.add(&PathMatch::Prefix(long.as_str().into()), false, candidate, none);
        let (method, fields) = (Method::GET, HeaderMap::new());
        let view =
            |path| RequestView { host: None, path, query: None, method: &method, fields: &fields };
        assert!(paths.find(&view(&long), true).is_some());
        assert!(paths.find(&view(&long[2..]), true).is_none());
    }
}
