//! Which routes attach to which listeners (`spec.parentRefs`, `allowedRoutes`, GEP-957).
//!
//! Whether a listener is accepted makes no difference here: routes attach to it all the same, and
//! are counted (`attachedRoutes`).

use std::collections::BTreeMap;
use std::sync::Arc;

use super::GatewayApi;
use super::conditions::Why;
use super::hosts::common_hosts;
use super::listeners::Merged;
use crate::{
    LabelSelector, LabelTest, NamespaceChoice, ObjectRef, ParentSpec, RouteSpec, SourceId,
};

/// Routes on one listener. Each change of one of them costs a look at all, and each request a
/// lookup among them.
pub(super) const ROUTES_MAX: usize = 16_384;

/// A route on a listener.
#[derive(Clone, Debug)]
pub(super) struct Attached {
    /// Its place in the list of routes.
    pub(super) route: usize,
    /// The hosts for which it counts there; `None` is every one.
    pub(super) hosts: Vec<Option<Arc<str>>>,
}

/// Routes of a Gateway and its ListenerSets, the oldest first.
pub(super) type Candidates<'a> = [(&'a ObjectRef, &'a RouteSpec)];

/// What attaches where.
#[derive(Debug, Default)]
pub(super) struct Attachments {
    /// By listener, in the order of the list of routes.
    pub(super) routes: Vec<Vec<Attached>>,
    /// By place in the list of routes and place of the parent in the route: why it does not
    /// attach; `None`: it does.
    pub(super) refused: BTreeMap<(usize, usize), Option<Why>>,
}

impl GatewayApi {
    /// Attaches routes to listeners. `parents` says which listeners each parent has; parents that
    /// are not in it are not judged.
    pub(super) fn attach(
        &self,
        listeners: &[Merged<'_>],
        parents: &BTreeMap<&ObjectRef, Vec<usize>>,
        candidates: &Candidates<'_>,
    ) -> Attachments {
        let mut found =
            Attachments { routes: vec![Vec::new(); listeners.len()], refused: BTreeMap::new() };
        for (at, (route, spec)) in candidates.iter().enumerate() {
            for (index, parent) in spec.parents.iter().enumerate() {
                let Some(of_parent) = parents.get(&parent.object) else { continue };
                let selected = selected(listeners, of_parent, parent);
                let why = self.attach_to(listeners, &selected, (at, route, spec), &mut found);
                found.refused.insert((at, index), why);
            }
        }
        found
    }

    /// Attaches one route to those of the selected listeners that take it; why to none.
    fn attach_to(
        &self,
        listeners: &[Merged<'_>],
        selected: &[usize],
        (at, route, spec): (usize, &ObjectRef, &RouteSpec),
        found: &mut Attachments,
    ) -> Option<Why> {
        if selected.is_empty() {
            let message = "the parent has no listener of this name and port";
            return Some(Why::new("NoMatchingParent", message));
        }
        let allows = |listener: &Merged<'_>| {
            listener.kinds.contains(&route.kind)
                && self.allows(&listener.spec.allowed_namespaces, listener.owner, route)
        };
        let allowing: Vec<usize> =
            selected.iter().copied().filter(|at| allows(&listeners[*at])).collect();
        if allowing.is_empty() {
            let message = "no listener of the parent allows routes of this kind and namespace";
            return Some(Why::new("NotAllowedByListeners", message));
        }
        let (mut matched, mut taken) = (false, false);
        for index in allowing {
            let hosts = common_hosts(listeners[index].spec.hostname.as_ref(), &spec.hostnames);
            if hosts.is_empty() {
                continue;
            }
            matched = true;
            let there = &mut found.routes[index];
            if there.last().is_some_and(|last| last.route == at) {
                // Another parentRef of the same route.
                taken = true;
            } else if there.len() < ROUTES_MAX {
                there.push(Attached { route: at, hosts });
                taken = true;
            }
        }
        if !matched {
            let message = "no listener of the parent has a host name in common with the route";
            return Some(Why::new("NoMatchingListenerHostname", message));
        }
        (!taken).then(|| {
            let message = format!("{ROUTES_MAX} older routes are attached, as many as may be");
            Why::new("TooManyRoutes", message)
        })
    }

    /// Whether an object lets those of another one's namespace attach.
    pub(super) fn allows(
        &self,
        choice: &NamespaceChoice,
        owner: &ObjectRef,
        other: &ObjectRef,
    ) -> bool {
        match choice {
            NamespaceChoice::Same => owner.namespace == other.namespace,
            NamespaceChoice::All => true,
            NamespaceChoice::None => false,
            NamespaceChoice::Labels(selector) => {
                self.namespace_fits(&other.source, &other.namespace, selector)
            }
        }
    }

    fn namespace_fits(
        &self,
        source: &SourceId,
        namespace: &Arc<str>,
        selector: &LabelSelector,
    ) -> bool {
        let key = (source.clone(), namespace.clone());
        let Some(labels) = self.namespaces.get(&key) else { return false };
        selector.requirements.iter().all(|requirement| {
            let value = labels.get(&requirement.key);
            match &requirement.test {
                LabelTest::Exists => value.is_some(),
                LabelTest::Absent => value.is_none(),
                LabelTest::In(values) => value.is_some_and(|value| values.contains(value)),
                LabelTest::NotIn(values) => value.is_none_or(|value| !values.contains(value)),
            }
        })
    }
}

/// The listeners that a parentRef means: by name and port, where it has them.
fn selected(listeners: &[Merged<'_>], of_parent: &[usize], parent: &ParentSpec) -> Vec<usize> {
    let means = |at: &usize| {
        let spec = listeners[*at].spec;
        parent.section.as_ref().is_none_or(|name| spec.name == *name)
            && parent.port.is_none_or(|port| spec.port == port)
    };
    of_parent.iter().copied().filter(means).collect()
}
