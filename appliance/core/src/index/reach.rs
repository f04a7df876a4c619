//! Whether the pods of a service can be reached from this host, and what stands in for those that
//! cannot.
//!
//! ```text
//!  probes ──Update::Reach──> answers ──> of the pods of one port that could take flows:
//!     ^                                    all reached, or nothing known    the pods
//!     │                                    some not                         nodes' ports for these
//!     └── Snapshot::reach                  some not, and none is known to   nodes' ports for all
//! ```
//!
//! What is done is never worse than what it replaces. Only what is known counts: a pod not asked
//! yet is sent to directly, but where none of its service is reached and one is known not to be. A
//! node's port takes flows once it is known to be reached itself, so that a host which lost its own
//! uplink changes nothing. What stands in takes the share of those that it stands in for; the
//! others keep theirs. Rise and fall are with the prober.
//!
//! Asked is only where something can stand in: at pods of ports with a `nodePort`. By default a
//! cluster has 2,768 of these.
//!
//! A pure function of the facts, but for the bound on questions, and for the service's own checks:
//! what they found while nothing got to the pod is forgotten once something does.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use super::Index;
use super::stand_ins::NoStandIn;
use crate::{
    Backend, BackendState, Destination, FaultReason, ObjectRef, ProbeKey, ServicePort, ServiceSpec,
    SourceFault, SourceId, StateReason, Target,
};

/// Addresses that are asked at once: twenty-odd for each node port of a cluster. Each costs some
/// 300 bytes here and at the prober, and its share of the prober's rate. Further ones are not asked
/// and sent to directly; their objects wait for room.
pub const REACH_MAX: usize = 65_536;

/// What is asked and known about reachability.
#[derive(Default)]
pub(super) struct Reachability {
    questions: BTreeMap<SocketAddr, Question>,
    /// Objects for some of whose backends there was no room.
    waiting: BTreeSet<ObjectRef>,
    /// Objects whose backends depend on the nodes of their cluster.
    on_nodes: BTreeSet<ObjectRef>,
    /// Targets for whose pods nodes' ports stand in.
    led: BTreeSet<Target>,
    /// The number of the question asked last.
    last: u64,
}

/// One address.
struct Question {
    askers: Vec<ObjectRef>,
    reached: Option<bool>,
}

/// What a service object has to know of the world.
#[derive(Default)]
pub(super) struct Asked {
    addresses: BTreeSet<SocketAddr>,
    /// The nodes of its cluster matter.
    nodes: bool,
}

/// How far nodes' ports stand in for pods.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fallback {
    /// Ports of service objects, by family, with a node's port among their backends.
    pub targets: usize,
    /// Addresses that are asked.
    pub asked: usize,
    /// Service objects with backends for which there was no room.
    pub waiting: usize,
}

impl Reachability {
    /// What is known about an address.
    pub(super) fn of(&self, address: &SocketAddr) -> Option<bool> {
        self.questions.get(address)?.reached
    }

    /// A target is gone.
    pub(super) fn forget(&mut self, target: &Target) {
        self.led.remove(target);
    }
}

impl Index {
    /// How far nodes' ports stand in for pods.
    pub fn fallback(&self) -> Fallback {
        Fallback {
            targets: self.reach.led.len(),
            asked: self.reach.questions.len(),
            waiting: self.reach.waiting.len(),
        }
    }

    pub(super) fn note_reach(&mut self, address: SocketAddr, asked: u64, reached: bool) {
        if self.published.reach.get(&address) != Some(&asked) {
            return;
        }
        let Some(question) = self.reach.questions.get_mut(&address) else { return };
        let before = question.reached.replace(reached);
        if before == Some(reached) {
            return;
        }
        self.dirty.services.extend(question.askers.iter().cloned());
        if before == Some(false) {
            for object in &question.askers {
                self.health.remove(&ProbeKey { object: object.clone(), backend: address });
            }
        }
    }

    /// A node of a cluster has changed: what its port may stand in for has to be looked at.
    pub(super) fn note_nodes(&mut self, source: &SourceId) {
        let of_source = self.reach.on_nodes.iter().filter(|object| object.source == *source);
        self.dirty.services.extend(of_source.cloned());
    }

    /// Where packets for a service should go. Backends of the inventory have no nodes.
    fn destination(&self, object: &ObjectRef, spec: &ServiceSpec) -> Destination {
        match spec.destination {
            _ if object.source.cluster_name().is_none() => Destination::Pods,
            Some(destination) => destination,
            None if self.policy.fallback => Destination::Auto,
            None => Destination::Pods,
        }
    }

    /// What takes the flows of a target whose pods are `backends`, sorted by address; and what is
    /// wrong with that. Notes what has to be asked for it.
    pub(super) fn lead(
        &mut self,
        target: &Target,
        spec: &ServiceSpec,
        port: &ServicePort,
        backends: Vec<Backend>,
        asked: &mut Asked,
    ) -> (Vec<Backend>, Option<SourceFault>) {
        self.reach.led.remove(target);
        let destination = self.destination(&target.object, spec);
        let replaced = match (destination, port.node_port) {
            (Destination::Pods, _) | (Destination::Auto, None) => return (backends, None),
            (Destination::Auto, Some(_)) => {
                let alive = |pod: &&Backend| !pod.reasons.contains(&StateReason::Terminated);
                asked.addresses.extend(backends.iter().filter(alive).map(|pod| pod.address));
                self.unreached(&backends)
            }
            (Destination::Nodes, _) => usable(&backends).map(|pod| pod.address).collect(),
        };
        if replaced.is_empty() {
            return (backends, None);
        }
        asked.nodes = true;
        let wanted = destination == Destination::Nodes;
        let stand_ins = self.stand_ins(target, spec, port, &backends, &replaced);
        let chosen = stand_ins.and_then(|stand_ins| {
            asked.addresses.extend(stand_ins.addresses());
            stand_ins.choose(|address| self.reach.of(address), wanted)
        });
        match chosen {
            Ok(stand_ins) => {
                self.reach.led.insert(target.clone());
                let fault = (!wanted).then(|| led(port));
                (stand_ins.put_in(backends, wanted), fault)
            }
            // That will be known in a second, and is worth no event.
            Err(NoStandIn::NotKnown) => (backends, None),
            Err(why) => (backends, Some(not_led(port, wanted, &why))),
        }
    }

    /// Those of the pods that could take flows which are not reached.
    fn unreached(&self, backends: &[Backend]) -> BTreeSet<SocketAddr> {
        let known = |wanted: bool| {
            usable(backends).filter(move |pod| self.reach.of(&pod.address) == Some(wanted))
        };
        if known(false).next().is_none() {
            return BTreeSet::new();
        }
        match known(true).next() {
            Some(_) => known(false).map(|pod| pod.address).collect(),
            None => usable(backends).map(|pod| pod.address).collect(),
        }
    }

    /// Takes over what an object asks in the place of what it asked before. Returns what it asks.
    pub(super) fn replace_asked(
        &mut self,
        object: &ObjectRef,
        before: &[SocketAddr],
        next: Asked,
    ) -> Box<[SocketAddr]> {
        for address in before.iter().filter(|address| !next.addresses.contains(address)) {
            self.cease_to_ask(object, address);
        }
        let mut asked = Vec::with_capacity(next.addresses.len());
        let mut has_room = true;
        for address in next.addresses {
            if self.ask(object, address) {
                asked.push(address);
            } else {
                has_room = false;
            }
        }
        let set = |set: &mut BTreeSet<ObjectRef>, belongs: bool| match belongs {
            true => drop(set.insert(object.clone())),
            false => drop(set.remove(object)),
        };
        set(&mut self.reach.waiting, !has_room);
        set(&mut self.reach.on_nodes, next.nodes);
        asked.into_boxed_slice()
    }

    /// Whether there was room for the question.
    fn ask(&mut self, object: &ObjectRef, address: SocketAddr) -> bool {
        if let Some(question) = self.reach.questions.get_mut(&address) {
            if !question.askers.contains(object) {
                question.askers.push(object.clone());
            }
            return true;
        }
        if self.reach.questions.len() >= REACH_MAX {
            return false;
        }
        let question = Question { askers: vec![object.clone()], reached: None };
        self.reach.questions.insert(address, question);
        self.reach.last += 1;
        self.published.reach.insert(address, self.reach.last);
        self.dirty.changed = true;
        true
    }

    fn cease_to_ask(&mut self, object: &ObjectRef, address: &SocketAddr) {
        let Some(question) = self.reach.questions.get_mut(address) else { return };
        question.askers.retain(|asker| asker != object);
        if question.askers.is_empty() {
            self.reach.questions.remove(address);
            self.published.reach.remove(address);
            self.dirty.changed = true;
            self.dirty.services.extend(self.reach.waiting.pop_first());
        }
    }
}

/// Backends that take flows, or would if only our own check did not fail at all of them: it does
/// where nothing gets there, and must not hide why.
pub(super) fn usable(backends: &[Backend]) -> impl Iterator<Item = &Backend> {
    let any_active = backends.iter().any(|backend| backend.state == BackendState::Active);
    let would = [StateReason::AwaitsGate, StateReason::CheckFailed];
    backends.iter().filter(move |backend| match any_active {
        true => backend.state == BackendState::Active,
        false => backend.reasons.iter().all(|reason| would.contains(reason)),
    })
}

/// Whether a pod waits for its readiness gate: nodes' ports do not lead to it yet.
pub(super) fn awaits_gate(backend: &Backend) -> bool {
    backend.reasons.contains(&StateReason::AwaitsGate)
}

/// Without numbers of pods, which would make each change of them an event of its own.
fn led(port: &ServicePort) -> SourceFault {
    let text = format!(
        "port {}: pods do not answer this host, and ports of nodes stand in for them until they do: \
         route the pod networks to this host, and let it through their policies; or write the \
         annotation haflinger.dev/targets",
        port.port
    );
    SourceFault::new(FaultReason::PodsUnreachable, text)
}

fn not_led(port: &ServicePort, wanted: bool, why: &NoStandIn) -> SourceFault {
    let port = port.port;
    match wanted {
        true => {
            let text = format!("port {port}: packets go to pods, not to ports of nodes: {why}");
            SourceFault::new(FaultReason::ModeUnavailable, text)
        }
        false => {
            let text = format!(
                "port {port}: pods do not answer this host, and no port of a node can stand in: {why}"
            );
            SourceFault::new(FaultReason::PodsUnreachable, text)
        }
    }
}
