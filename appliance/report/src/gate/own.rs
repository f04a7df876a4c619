//! What this host is done with, and what it says of it. Pure.

use std::collections::BTreeSet;
use std::sync::Arc;

use haflinger_core::{GateProgress, ObjectRef, PodGate, PodRef, Snapshot, SourceId};

/// Pods in one Lease. A uid takes 37 bytes, annotations of an object 256 KiB at most, and this is
/// what becomes ready in the second or so in which a Lease is written and read. The first in the
/// order of their uids, so that hosts which are done with the same pods list the same ones.
pub(crate) const LISTED_MAX: usize = 2048;

/// Generations of the snapshots that the rooms have taken over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Reached {
    pub(crate) xdp: u64,
    pub(crate) relay: u64,
    pub(crate) proxy: u64,
}

/// Pods of one cluster, as this host sees them.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Own {
    /// Pods that wait.
    pub(crate) waiting: Vec<(PodRef, Arc<str>)>,
    /// Uids of those that this host is done with.
    pub(crate) done: BTreeSet<Arc<str>>,
    /// Some wait for nothing but rooms that take over the snapshot.
    pub(crate) under_way: bool,
    /// A pod, and the service that lacks it.
    pub(crate) lacking: Option<(PodRef, ObjectRef)>,
}

impl Own {
    /// What a snapshot says of a cluster's pods. One that is not complete says nothing: a service
    /// that selects the pod may not have been heard of.
    pub(crate) fn of(snapshot: &Snapshot, source: &SourceId, reached: Reached) -> Self {
        let mut own = Self::default();
        let gates = snapshot.gates.iter().filter(|(pod, _)| pod.source == *source);
        for (pod, gate) in gates.filter(|_| snapshot.complete) {
            own.waiting.push((pod.clone(), gate.uid.clone()));
            own.look_at(pod, gate, reached);
        }
        own
    }

    fn look_at(&mut self, pod: &PodRef, gate: &PodGate, reached: Reached) {
        match &gate.progress {
            GateProgress::Lacking(service) => {
                self.lacking.get_or_insert_with(|| (pod.clone(), service.clone()));
            }
            GateProgress::Planned { by, generation, .. } => {
                let done = (!by.xdp || reached.xdp >= *generation)
                    && (!by.relay || reached.relay >= *generation)
                    && (!by.proxy || reached.proxy >= *generation);
                if done {
                    self.done.insert(gate.uid.clone());
                } else {
                    self.under_way = true;
                }
            }
        }
    }

    /// The uids that its Lease has room for, and how many are left out.
    pub(crate) fn listed(&self) -> (String, usize) {
        let listed: Vec<&str> = self.done.iter().take(LISTED_MAX).map(|uid| &**uid).collect();
        (listed.join(" "), self.done.len() - listed.len())
    }
}

/// The name of a host's Lease: a DNS subdomain name (RFC 1123), another one for every host.
pub(crate) fn lease_name(prefix: &str, identity: &str) -> String {
    /// What the API allows.
    const NAME_BYTES_MAX: usize = 253;
    /// `-` and 16 digits.
    const DIGEST_BYTES: usize = 17;
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let name = format!("{prefix}-host-{identity}");
    if identity.chars().all(plain) && !identity.ends_with('-') && name.len() <= NAME_BYTES_MAX {
        return name;
    }
    let fitting = identity.to_lowercase().chars().map(|c| if plain(c) { c } else { '-' }).collect();
    let fitting: String = fitting;
    let mut name = format!("{prefix}-host-{fitting}");
    name.truncate(NAME_BYTES_MAX - DIGEST_BYTES);
    format!("{}-{:016x}", name.trim_end_matches('.'), digest(identity))
}

/// FNV-1a: the same on every host and in every release.
fn digest(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use haflinger_core::DataPaths;

    use super::*;

    fn source() -> SourceId {
        SourceId::cluster("c")
    }

    fn pod(name: &str) -> PodRef {
        PodRef { source: source(), namespace: "ns".into(), name: name.into() }
    }

    fn planned(uid: &str, by: DataPaths, generation: u64) -> Arc<PodGate> {
        let progress = GateProgress::Planned { services: Box::default(), by, generation };
        Arc::new(PodGate { uid: uid.into(), progress })
    }

    fn snapshot(gates: impl IntoIterator<Item = (PodRef, Arc<PodGate>)>) -> Snapshot {
        Snapshot { complete: true, gates: gates.into_iter().collect(), ..Snapshot::default() }
    }

    #[test]
    fn a_pod_is_done_once_each_room_that_serves_it_has_taken_it_over() {
        let both = DataPaths { xdp: true, relay: true, proxy: false };
        let seen = snapshot([(pod("a"), planned("u", both, 7))]);
        for (xdp, relay, done) in [(6, 9, false), (7, 6, false), (7, 7, true), (9, 8, true)] {
            let own = Own::of(&seen, &source(), Reached { xdp, relay, proxy: 0 });
            assert_eq!((own.done.len(), own.under_way), (usize::from(done), !done));
        }
        let l7 = DataPaths { proxy: true, ..DataPaths::default() };
        let seen = snapshot([(pod("a"), planned("u", l7, 7))]);
        for (proxy, done) in [(6, 0), (7, 1)] {
            let reached = Reached { proxy, ..Reached::default() };
            assert_eq!(Own::of(&seen, &source(), reached).done.len(), done);
        }
        let nowhere = snapshot([(pod("a"), planned("u", DataPaths::default(), 7))]);
        assert_eq!(Own::of(&nowhere, &source(), Reached::default()).done.len(), 1);
    }

    #[test]
    fn a_pod_that_a_service_lacks_waits_and_the_service_is_named() {
        let service = ObjectRef::service(&source(), "ns", "web");
        let progress = GateProgress::Lacking(service.clone());
        let gate = Arc::new(PodGate { uid: "u".into(), progress });
        let own = Own::of(&snapshot([(pod("a"), gate)]), &source(), Reached::default());
        assert_eq!(own.lacking, Some((pod("a"), service)));
        assert!(own.done.is_empty() && !own.under_way && own.waiting.len() == 1);
    }

    #[test]
    fn nothing_is_done_before_everything_is_known_nor_for_another_cluster() {
        let gates = || [(pod("a"), planned("u", DataPaths::default(), 1))];
        let early = Snapshot { complete: false, ..snapshot(gates()) };
        assert_eq!(Own::of(&early, &source(), Reached::default()), Own::default());
        let other = SourceId::cluster("other");
        assert_eq!(Own::of(&snapshot(gates()), &other, Reached::default()), Own::default());
    }

    #[test]
    fn a_lease_lists_the_first_uids_and_no_more_than_it_has_room_for() {
        let gates = (0..LISTED_MAX + 3).map(|n| {
            (pod(&format!("p{n}")), planned(&format!("u{n:05}"), DataPaths::default(), 1))
        });
        let own = Own::of(&snapshot(gates), &source(), Reached::default());
        let (text, left_out) = own.listed();
        assert_eq!((text.split(' ').count(), left_out), (LISTED_MAX, 3));
        assert!(text.starts_with("u00000 u00001 ") && text.ends_with("u02047"));
    }

    #[test]
    fn every_identity_has_a_name_of_its_own_that_the_api_allows() {
        assert_eq!(lease_name("haflinger", "edge-1"), "haflinger-host-edge-1");
        let long = "x".repeat(300);
        let odd = ["Edge_1", "edge_1", "edge-1.example.org", "ä", "edge-", &long];
        let names: BTreeSet<String> = odd.iter().map(|odd| lease_name("haflinger", odd)).collect();
        assert_eq!(names.len(), odd.len());
        for name in names {
            let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
            assert!(name.len() <= 253 && name.chars().all(fits), "{name}");
            assert!(name.ends_with(|c: char| c.is_ascii_hexdigit()), "{name}");
        }
    }
}
