//! The router: which target a host and path lead to.
//!
//! Compiled once for every change of a listener, then immutable and shared. Of all rules that
//! match, the one wins whose host is most specific (exact, then `*.suffix`, then any), then
//! whose path is (exact, then the longest prefix). A host whose rules do not match the path
//! falls through to less specific hosts, because a rule without a host "applies to all inbound
//! HTTP traffic" (Ingress v1). Of equals the first in the listener's order wins.
//!
//! Looking up walks a path once, element by element, and stops where no rule goes deeper: its
//! cost is bounded by the rules, whatever path a client sends.

use std::collections::HashMap;
use std::sync::Arc;

use haflinger_core::{HostMatch, HttpListener, PathMatch, Target};

/// What a listener answers on a host and path. `T` is what a target was resolved to.
#[derive(Debug)]
pub(crate) struct Router<T> {
    exact_hosts: HashMap<Arc<str>, Paths<T>>,
    /// Keyed by the suffix behind `*.`.
    wildcard_hosts: HashMap<Box<str>, Paths<T>>,
    any_host: Paths<T>,
}

/// What a rule says: where to, or that the service it names does not exist.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Route<T> {
    /// Send it there.
    To(T),
    /// A rule matches, but what it points at is missing: 503.
    Missing,
}

#[derive(Debug)]
struct Paths<T> {
    exact: HashMap<Box<str>, Route<T>>,
    prefixes: Node<T>,
}

#[derive(Debug)]
struct Node<T> {
    route: Option<Route<T>>,
    children: HashMap<Box<str>, Node<T>>,
}

impl<T> Default for Node<T> {
    fn default() -> Self {
        Self { route: None, children: HashMap::new() }
    }
}

impl<T> Default for Paths<T> {
    fn default() -> Self {
        Self { exact: HashMap::new(), prefixes: Node::default() }
    }
}

impl<T: Clone> Router<T> {
    /// Compiles the rules of `listener`; `resolve` turns a target into what requests are given.
    pub(crate) fn compile(listener: &HttpListener, mut resolve: impl FnMut(&Target) -> T) -> Self {
        let mut router = Self {
            exact_hosts: HashMap::new(),
            wildcard_hosts: HashMap::new(),
            any_host: Paths::default(),
        };
        for rule in listener.rules() {
            let to = rule.action.backends.iter().find_map(|backend| backend.to.as_ref().ok());
            let route = to.map_or(Route::Missing, |to| Route::To(resolve(&to.target)));
            let paths = match &rule.host {
                HostMatch::Any => &mut router.any_host,
                HostMatch::OneLabel(suffix) | HostMatch::Suffix(suffix) => {
                    router.wildcard_hosts.entry(suffix.as_ref().into()).or_default()
                }
                HostMatch::Exact(host) => router.exact_hosts.entry(host.clone()).or_default(),
            };
            match &rule.matches.path {
                PathMatch::Exact(path) => {
                    paths.exact.entry(path.as_ref().into()).or_insert(route);
                }
                PathMatch::Prefix(path) => {
                    let mut node = &mut paths.prefixes;
                    for element in elements(path) {
                        node = node.children.entry(element.into()).or_default();
                    }
                    node.route.get_or_insert(route);
                }
                PathMatch::Regex(_) => {}
            }
        }
        router
    }

    /// Where a request goes; `None` when nothing matches. `host` is in canonical form (lower
    /// case, no port) and absent only for HTTP/1.0; `path` is without the query.
    pub(crate) fn find(&self, host: Option<&str>, path: &str) -> Option<Route<T>> {
        let exact = host.and_then(|host| self.exact_hosts.get(host));
        let wildcard = host
            .and_then(|host| host.split_once('.'))
            .filter(|(label, _)| !label.is_empty())
            .and_then(|(_, suffix)| self.wildcard_hosts.get(suffix));
        [exact, wildcard, Some(&self.any_host)]
            .into_iter()
            .flatten()
            .find_map(|paths| paths.find(path))
            .cloned()
    }
}

impl<T> Paths<T> {
    fn find(&self, path: &str) -> Option<&Route<T>> {
        if let Some(route) = self.exact.get(path) {
            return Some(route);
        }
        let mut node = &self.prefixes;
        let mut deepest = node.route.as_ref();
        for element in elements(path) {
            match node.children.get(element) {
                Some(child) => node = child,
                None => break,
            }
            deepest = node.route.as_ref().or(deepest);
        }
        deepest
    }
}

/// The elements of a path. A final slash adds none: `/a` and `/a/` are one prefix (Ingress v1).
fn elements(path: &str) -> impl Iterator<Item = &str> {
    let path = path.strip_prefix('/').unwrap_or(path);
    let path = path.strip_suffix('/').unwrap_or(path);
    path.split('/').filter(move |_| !path.is_empty())
}

#[cfg(test)]
#[path = "routes_tests.rs"]
mod tests;
