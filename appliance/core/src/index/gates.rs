//! Pods whose readiness waits for the fleet.
//!
//! Kubernetes calls such a pod ready once its readiness gate is set, and an EndpointSlice says so
//! only then. The gate is set once the hosts use the pod. So the pod is used here before its slice
//! calls it ready, as soon as it lacks nothing but the gate: an endpoint is that pod where name and
//! address agree. Whether a host is done with a pod is asked of every service that leads to it: those
//! whose selector fits the pod's labels, and those with an endpoint that is the pod. The selectors
//! are what makes this safe: a slice that lags behind does not look like a service that does not
//! want the pod.
//!
//! Only what waits is looked at, and of services only those that are used here in clusters whose
//! pods may wait. It never decides that a gate is set: that takes every host.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::services::ServiceEntry;
use super::{Index, put};
use crate::{
    Backend, BackendState, DataPaths, Family, GateProgress, GatedPod, LabelPairs, ObjectRef,
    PodGate, PodRef, ProbeKey, ServiceSpec, SliceBackend, SourceId, StateReason,
};

/// A label of the pods of one namespace: source, namespace, name, value.
type PodLabel = (SourceId, Arc<str>, Arc<str>, Arc<str>);

/// What is known of gates.
#[derive(Default)]
pub(super) struct Gates {
    pods: BTreeMap<PodRef, GatedPod>,
    /// Of these, those whose gate is not set.
    waiting: BTreeSet<PodRef>,
    /// Services that are used here.
    services: BTreeMap<ObjectRef, Followed>,
    /// These services by the first label of their selectors.
    selecting: BTreeMap<PodLabel, BTreeSet<ObjectRef>>,
    /// These services by their endpoints that Kubernetes does not call ready.
    unready: BTreeMap<PodRef, BTreeSet<ObjectRef>>,
}

/// What leads from a service to its pods.
#[derive(Default, PartialEq)]
struct Followed {
    selector: LabelPairs,
    /// Names of endpoints that Kubernetes does not call ready.
    unready: BTreeSet<Arc<str>>,
}

impl Followed {
    fn concerns(&self, pod: &PodRef, labels: &LabelPairs) -> bool {
        self.unready.contains(&pod.name) || selects(&self.selector, labels)
    }
}

/// Whether a selector fits. An empty one selects nothing: somebody else writes the slices.
fn selects(selector: &LabelPairs, labels: &LabelPairs) -> bool {
    let has = |pair| labels.binary_search(pair).is_ok();
    !selector.is_empty() && selector.iter().all(has)
}

impl Gates {
    /// Whether an endpoint is a pod that lacks nothing but its gate.
    pub(super) fn lacks_only_the_gate(&self, service: &ObjectRef, endpoint: &SliceBackend) -> bool {
        if self.pods.is_empty() {
            return false;
        }
        let known = self.pods.get(&beside(service, &endpoint.name));
        known.is_some_and(|pod| pod.addresses.contains(&endpoint.address))
    }

    fn waiting_beside(&self, service: &ObjectRef) -> impl Iterator<Item = (&PodRef, &GatedPod)> {
        let (source, namespace) = (service.source.clone(), service.namespace.clone());
        let first = PodRef { source, namespace, name: "".into() };
        let (source, namespace) = (first.source.clone(), first.namespace.clone());
        let beside = self
            .waiting
            .range(first..)
            .take_while(move |pod| pod.source == source && pod.namespace == namespace);
        beside.filter_map(|pod| Some((pod, self.pods.get(pod)?)))
    }

    /// Services that lead to a pod.
    fn services_of(&self, pod: &PodRef, labels: &LabelPairs) -> BTreeSet<ObjectRef> {
        let mut found = self.unready.get(pod).cloned().unwrap_or_default();
        for (name, value) in labels {
            let label = (pod.source.clone(), pod.namespace.clone(), name.clone(), value.clone());
            let services = self.selecting.get(&label).into_iter().flatten();
            let fits = |service: &&ObjectRef| {
                let followed = self.services.get(*service);
                followed.is_some_and(|followed| selects(&followed.selector, labels))
            };
            found.extend(services.filter(fits).cloned());
        }
        found
    }

    /// Follows a service anew; answers with how it was followed before, if that was different.
    fn follow(&mut self, service: &ObjectRef, now: Option<Followed>) -> Option<Followed> {
        if self.services.get(service) == now.as_ref() {
            return None;
        }
        let before = self.services.remove(service).unwrap_or_default();
        if let Some(label) = first_label(service, &before) {
            forget(&mut self.selecting, &label, service);
        }
        for name in &before.unready {
            forget(&mut self.unready, &beside(service, name), service);
        }
        if let Some(now) = now {
            if let Some(label) = first_label(service, &now) {
                self.selecting.entry(label).or_default().insert(service.clone());
            }
            for name in &now.unready {
                let services = self.unready.entry(beside(service, name)).or_default();
                services.insert(service.clone());
            }
            self.services.insert(service.clone(), now);
        }
        Some(before)
    }
}

/// The pod of this name in the namespace of a service.
fn beside(service: &ObjectRef, name: &Arc<str>) -> PodRef {
    PodRef {
        source: service.source.clone(),
        namespace: service.namespace.clone(),
        name: name.clone(),
    }
}

fn first_label(service: &ObjectRef, followed: &Followed) -> Option<PodLabel> {
    let (name, value) = followed.selector.first()?;
    Some((service.source.clone(), service.namespace.clone(), name.clone(), value.clone()))
}

fn forget<K: Ord>(map: &mut BTreeMap<K, BTreeSet<ObjectRef>>, key: &K, service: &ObjectRef) {
    if let Some(services) = map.get_mut(key) {
        services.remove(service);
        if services.is_empty() {
            map.remove(key);
        }
    }
}

impl Index {
    pub(super) fn note_pod(&mut self, pod: PodRef, spec: Option<Box<GatedPod>>) {
        let spec = spec.map(|spec| *spec);
        let known = self.gates.pods.get(&pod);
        if known == spec.as_ref() {
            return;
        }
        if known.map(|pod| &pod.addresses) != spec.as_ref().map(|pod| &pod.addresses) {
            let services = self.gates.unready.get(&pod).into_iter().flatten();
            self.dirty.services.extend(services.cloned());
        }
        match &spec {
            Some(spec) if !spec.set => self.gates.waiting.insert(pod.clone()),
            _ => self.gates.waiting.remove(&pod),
        };
        match spec {
            Some(spec) => self.gates.pods.insert(pod.clone(), spec),
            None => self.gates.pods.remove(&pod),
        };
        self.dirty.pods.insert(pod);
    }

    /// Another configuration of who may wait touches everybody.
    pub(super) fn reconsider_gates(&mut self) {
        self.dirty.services.extend(self.services.keys().cloned());
        self.dirty.pods.extend(self.gates.waiting.iter().cloned());
    }

    pub(super) fn forget_pods(&mut self, source: &SourceId) {
        let pods = self.gates.pods.keys().filter(|pod| pod.source == *source);
        for pod in pods.cloned().collect::<Vec<_>>() {
            self.note_pod(pod, None);
        }
    }

    /// Whether pods of a source may wait.
    pub(super) fn may_wait(&self, source: &SourceId) -> bool {
        self.policy.gated.contains(source)
    }

    /// Follows what leads from a service to its pods, and marks the pods that it concerns.
    pub(super) fn follow_pods(&mut self, object: &ObjectRef, entry: &ServiceEntry) {
        let used = self.may_wait(&object.source) && entry.is_used();
        let now = entry.spec.as_deref().filter(|_| used).map(|spec| Followed {
            selector: spec.selector.clone(),
            unready: unready(entry, spec),
        });
        let before = self.gates.follow(object, now);
        if self.gates.waiting.is_empty() {
            return;
        }
        let now = self.gates.services.get(object);
        let concerned = self.gates.waiting_beside(object).filter(|(pod, spec)| {
            let mut followed = before.iter().chain(now);
            followed.any(|followed| followed.concerns(pod, &spec.labels))
        });
        self.dirty.pods.extend(concerned.map(|(pod, _)| pod.clone()));
    }

    /// Says how far this host is with a pod.
    pub(super) fn publish_pod(&mut self, pod: PodRef) {
        let waits = self.may_wait(&pod.source) && self.gates.waiting.contains(&pod);
        let gate = self.gates.pods.get(&pod).filter(|_| waits).map(|spec| {
            let before = self.published.gates.get(&pod).map(|gate| &gate.progress);
            Arc::new(PodGate { uid: spec.uid.clone(), progress: self.progress(&pod, spec, before) })
        });
        self.dirty.changed |= put(&mut self.published.gates, pod, gate);
    }

    fn progress(
        &self,
        pod: &PodRef,
        spec: &GatedPod,
        before: Option<&GateProgress>,
    ) -> GateProgress {
        let services = self.gates.services_of(pod, &spec.labels);
        let mut by = DataPaths::default();
        for service in &services {
            let Some(entry) = self.services.get(service) else { continue };
            if !self.uses(service, entry, spec) {
                return GateProgress::Lacking(service.clone());
            }
            by = by.and(self.paths_of(entry));
        }
        let services: Box<[ObjectRef]> = services.into_iter().collect();
        let generation = match before {
            Some(GateProgress::Planned { services: then, by: then_by, generation })
                if *then == services && *then_by == by =>
            {
                *generation
            }
            // Of the snapshot that is being made.
            _ => self.published.generation + 1,
        };
        GateProgress::Planned { services, by, generation }
    }

    /// Whether every target of a service that a pod belongs to uses it.
    fn uses(&self, object: &ObjectRef, entry: &ServiceEntry, pod: &GatedPod) -> bool {
        let Some(spec) = entry.spec.as_deref() else { return true };
        let targets =
            || entry.targets().iter().filter_map(|target| self.published.targets.get(target));
        let is_served = |family| targets().any(|set| set.target.family == family);
        let any_served = pod.addresses.iter().any(|address| is_served(Family::of(*address)));
        pod.addresses.iter().all(|address| {
            let family = Family::of(*address);
            // The other family of a service that is served in one has nothing to wait for.
            if any_served && !is_served(family) || !spec.families.contains(&family) {
                return true;
            }
            let mut backends = targets().flat_map(|set| at(&set.backends, *address)).peekable();
            if backends.peek().is_some() {
                return backends.all(|backend| self.is_used(object, spec, backend));
            }
            // A pod that lacks the port stands in a slice and in no target.
            let mut named = entry.slices.values().flat_map(|slice| &slice.backends);
            named.any(|endpoint| endpoint.address == *address)
        })
    }

    /// Whether a backend takes flows, or would if it were its turn. Where a node's port stands in
    /// for it, nothing more can be done for it here.
    fn is_used(&self, object: &ObjectRef, spec: &ServiceSpec, backend: &Backend) -> bool {
        if backend.reasons.contains(&StateReason::Unreachable) {
            return true;
        }
        let probe = || ProbeKey { object: object.clone(), backend: backend.address };
        backend.state != BackendState::Down
            && (spec.health_check.is_none() || self.health.get(&probe()) == Some(&true))
    }

    /// The rooms that lead flows to the backends of a service.
    fn paths_of(&self, entry: &ServiceEntry) -> DataPaths {
        let mut by = DataPaths { proxy: !entry.users.is_empty(), ..DataPaths::default() };
        for service in entry.keys.iter().filter_map(|key| self.published.services.get(key)) {
            let is_xdp = service.mode.is_xdp();
            by = by.and(DataPaths { xdp: is_xdp, relay: !is_xdp, proxy: false });
        }
        by
    }
}

/// Names of a service's endpoints that Kubernetes does not call ready.
fn unready(entry: &ServiceEntry, spec: &ServiceSpec) -> BTreeSet<Arc<str>> {
    let endpoints = entry.slices.values().flat_map(|slice| &slice.backends);
    let unready = endpoints
        .filter(|endpoint| !endpoint.ready && !endpoint.terminating && !spec.publish_not_ready);
    unready.map(|endpoint| endpoint.name.clone()).collect()
}

/// The backends at an address, whatever their ports. They are sorted by address.
fn at(backends: &[Backend], address: IpAddr) -> &[Backend] {
    let from = backends.partition_point(|backend| backend.address < SocketAddr::new(address, 0));
    let behind = &backends[from..];
    let count = behind.partition_point(|backend| backend.address.ip() <= address);
    &behind[..count]
}

#[cfg(test)]
#[path = "gates_tests.rs"]
mod tests;
