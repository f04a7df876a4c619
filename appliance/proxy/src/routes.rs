//! The router: which rule a request leads to.
//!
//! Compiled for every change of a listener, then immutable and shared. A request belongs to one
//! section, by the server name of its connection where clients speak TLS and by its host where they
//! do not, and only rules of that section count. Of all that fit, the first by
//! [`HttpRule::precedence`] wins: the closest host, then the closest path, then the most specific
//! conditions. A host none of whose rules fit falls through to less specific hosts, because a rule
//! without a host "applies to all inbound HTTP traffic" (Ingress v1).
//!
//! The cost of looking up does not depend on the number of routes: a hash a host label, a hash a
//! path element, and then the rules that have host and path in common.

use std::sync::Arc;

use haflinger_core::{HostMatch, HttpListener, HttpRule, ObjectKind, PathMatch, Section, Serves};

use crate::conditions::{Conditions, RequestView};
use crate::expressions::{Expression, Expressions};
use crate::hosts::{HostTable, NameMap};
use crate::paths::{Candidate, Paths, without_end};
use crate::slots::Slots;

/// Faults of rules that are told one by one; of more, only the number.
const FAULTS_TOLD_MAX: usize = 16;

/// What a listener does with requests. `A` is what an action was compiled to.
#[derive(Debug)]
pub(crate) struct Router<A> {
    sections: Vec<Arc<SectionRules<A>>>,
    by_host: NameMap<usize>,
    by_server_name: bool,
    /// What is wrong with rules.
    pub(crate) faults: RuleFaults,
}

/// Rules of one section.
#[derive(Debug)]
pub(crate) struct SectionRules<A> {
    hosts: HostTable<Paths<A>>,
    faults: RuleFaults,
}

/// What is wrong with rules, of which each answers with an error or is left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RuleFaults {
    /// How many rules.
    pub(crate) count: usize,
    /// The first of them, with their objects.
    pub(crate) told: Vec<Arc<str>>,
}

/// Where a request leads.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Found<A> {
    /// To this action.
    Rule {
        /// What is done.
        action: Arc<A>,
        /// Length of the path or prefix in the rule, without slashes at its end.
        prefix_bytes: usize,
        /// A condition of the rule is broken: 500.
        broken: bool,
    },
    /// No rule fits: 404.
    Nothing,
    /// The host is of another section than the connection: 421.
    Misdirected,
}

/// The host of a request is of another section than its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Misdirected;

/// What compiled parts are found in again, so that a change costs what it changes.
#[derive(Debug)]
pub(crate) struct Shelf<A> {
    expressions: Expressions,
    /// By the address of what they were compiled from, which every entry keeps alive.
    actions: Slots<usize, A>,
}

impl<A> Default for Shelf<A> {
    fn default() -> Self {
        Self { expressions: Slots::default(), actions: Slots::default() }
    }
}

impl<A> Shelf<A> {
    /// An expression as it was compiled; anew where no rule holds it.
    pub(crate) fn expression(&self, text: &Arc<str>) -> Arc<Expression> {
        self.expressions.find(text).unwrap_or_else(|| Arc::new(Expression::new(text)))
    }
}

impl<A> Router<A> {
    /// Compiles `listener`. What was the same in `former` is shared with the router that it was
    /// compiled to. `make` turns the action of a rule into what requests are given, which has to
    /// keep what it was made from.
    pub(crate) fn compile(
        listener: &HttpListener,
        former: Option<(&HttpListener, &Self)>,
        shelf: &mut Shelf<A>,
        mut make: impl FnMut(&HttpRule) -> A,
    ) -> Self {
        let mut sections = Vec::with_capacity(listener.sections.len());
        let mut by_host = NameMap::default();
        let mut faults = RuleFaults::default();
        for (at, section) in listener.sections.iter().enumerate() {
            let rules = match former.and_then(|former| held(former, at, section)) {
                Some(rules) => rules,
                None => Arc::new(SectionRules::compile(section, shelf, &mut make)),
            };
            faults.add(&rules.faults);
            sections.push(rules);
            by_host.add(&section.host, at);
        }
        Self { sections, by_host, by_server_name: listener.tls, faults }
    }

    /// The section of a request for `host`, by its place in the listener.
    pub(crate) fn section(
        &self,
        server_name: Option<&str>,
        host: Option<&str>,
    ) -> Result<Option<usize>, Misdirected> {
        let of_host = self.by_host.find(host);
        if !self.by_server_name {
            return Ok(of_host.copied());
        }
        let own = self.by_host.find(server_name);
        // HTTP/1.0 may lack a host, and then says nothing else than its connection.
        match of_host {
            _ if host.is_none() || own == of_host => Ok(own.copied()),
            Some(_) => Err(Misdirected),
            None => Ok(None),
        }
    }

    /// Where a request leads whose connection was opened for `server_name`.
    pub(crate) fn find(&self, server_name: Option<&str>, request: &RequestView<'_>) -> Found<A> {
        let section = match self.section(server_name, request.host) {
            Ok(at) => at.and_then(|at| self.sections.get(at)),
            Err(Misdirected) => return Found::Misdirected,
        };
        let Some(section) = section else { return Found::Nothing };
        let mut near = section.hosts.near(request.host);
        match near.find_map(|near| near.entry.find(request, near.one_label)) {
            Some(Candidate { action, prefix_bytes, broken, .. }) => {
                Found::Rule { action: action.clone(), prefix_bytes: *prefix_bytes, broken: *broken }
            }
            None => Found::Nothing,
        }
    }
}

/// Rules in the order in which they are tried.
pub(crate) fn in_order(rules: &[HttpRule]) -> impl Iterator<Item = &HttpRule> {
    let mut sorted: Vec<_> = rules.iter().map(|rule| (rule.precedence(), rule)).collect();
    // Stable: rules with the same precedence stay in the listener's order.
    sorted.sort_by(|(one, _), (other, _)| one.cmp(other));
    sorted.into_iter().map(|(_, rule)| rule)
}

/// The rules of a section that is the same in what was served before.
fn held<A>(
    (spec, router): (&HttpListener, &Router<A>),
    at: usize,
    section: &Section,
) -> Option<Arc<SectionRules<A>>> {
    // Sections keep their order, so that most are found where they were.
    let named = |at: &usize| spec.sections.get(*at).is_some_and(|s| s.origin == section.origin);
    let at = Some(at).filter(named).or_else(|| (0..spec.sections.len()).find(named))?;
    (spec.sections[at] == *section).then(|| router.sections.get(at).cloned()).flatten()
}

impl<A> SectionRules<A> {
    fn compile(
        section: &Section,
        shelf: &mut Shelf<A>,
        mut make: impl FnMut(&HttpRule) -> A,
    ) -> Self {
        let mut compiled = Self { hosts: HostTable::default(), faults: RuleFaults::default() };
        let Serves::Requests(rules) = &section.serves else { return compiled };
        for rule in in_order(rules) {
            compiled.add(rule, shelf, &mut make);
        }
        compiled
    }

    fn add(&mut self, rule: &HttpRule, shelf: &mut Shelf<A>, mut make: impl FnMut(&HttpRule) -> A) {
        let Shelf { expressions, actions } = shelf;
        let mut expression = |text: &Arc<str>| expressions.slot(text, || Expression::new(text));
        let conditions = match Conditions::compile(&rule.matches, &mut expression) {
            Ok(conditions) => conditions.map(Box::new),
            Err(name) => {
                return self.faults.tell(rule, &format!("{name:?} is no name of a header field"));
            }
        };
        if let PathMatch::Regex(text) = &rule.matches.path
            && let Some(fault) = expression(text).fault()
        {
            // Which paths are meant is not known: it fits none.
            return self.faults.tell(rule, &format!("path {text:?}: {fault}"));
        }
        let fault = conditions.as_ref().and_then(|conditions| conditions.fault());
        if let Some(fault) = fault {
            self.faults.tell(rule, &format!("value of a header field or parameter: {fault}"));
        }
        let candidate = Candidate {
            one_label: matches!(rule.host, HostMatch::OneLabel(_)),
            broken: fault.is_some(),
            prefix_bytes: without_end(rule.matches.path.as_str()).len(),
            action: actions.slot(&(Arc::as_ptr(&rule.action) as usize), || make(rule)),
            conditions,
        };
        let is_grpc = rule.object.kind == ObjectKind::GrpcRoute;
        let paths = self.hosts.entry(&rule.host);
        paths.add(&rule.matches.path, is_grpc, candidate, expression);
    }
}

impl RuleFaults {
    fn tell(&mut self, rule: &HttpRule, fault: &str) {
        self.count += 1;
        if self.told.len() < FAULTS_TOLD_MAX {
            let name = rule.action.name.as_ref().map(|name| format!(" rule {name}"));
            let name = name.unwrap_or_default();
            self.told.push(format!("{}{name}: {fault}", rule.object).into());
        }
    }

    fn add(&mut self, other: &Self) {
        self.count += other.count;
        let room = FAULTS_TOLD_MAX - self.told.len().min(FAULTS_TOLD_MAX);
        self.told.extend(other.told.iter().take(room).cloned());
    }
}

#[cfg(test)]
#[path = "routes_tests.rs"]
mod tests;
