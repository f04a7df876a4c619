//! In which order backends are tried for a new flow. Pure.
//!
//! Those that the service's algorithm prefers first, then every other active backend once,
//! beginning at a place that the flow's hash gives: so the load of a dead or full backend
//! spreads over all others.

use std::net::SocketAddr;

use haflinger_core::{Backend, BackendSet, BackendState};

use crate::selection::{PREFERRED_MAX, Preferred};

/// Active backends in the order in which they are to be tried, each once.
pub(crate) struct Candidates<'a> {
    set: &'a BackendSet,
    preferred: [Option<SocketAddr>; PREFERRED_MAX],
    next_preferred: usize,
    offset: usize,
    next_other: usize,
}

impl<'a> Candidates<'a> {
    /// Candidates for the flow with this hash.
    pub(crate) fn new(set: &'a BackendSet, preferred: Preferred, hash: u64) -> Self {
        let offset = below(set.backends.len().max(1), hash);
        Self { set, preferred: preferred.0, next_preferred: 0, offset, next_other: 0 }
    }

    fn next_preferred(&mut self) -> Option<usize> {
        while let Some(&candidate) = self.preferred.get(self.next_preferred) {
            self.next_preferred += 1;
            let Some(address) = candidate else { continue };
            let earlier = &self.preferred[..self.next_preferred - 1];
            if earlier.contains(&Some(address)) {
                continue;
            }
            if let Some(at) = position_of(self.set, address)
                && takes_flows(&self.set.backends[at])
            {
                return Some(at);
            }
        }
        None
    }
}

impl Iterator for Candidates<'_> {
    /// Position in `BackendSet::backends`.
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        if let Some(at) = self.next_preferred() {
            return Some(at);
        }
        let count = self.set.backends.len();
        while self.next_other < count {
            let at = (self.offset + self.next_other) % count;
            self.next_other += 1;
            let backend = &self.set.backends[at];
            let tried = self.preferred.contains(&Some(backend.address));
            if takes_flows(backend) && !tried {
                return Some(at);
            }
        }
        None
    }
}

/// Whether a backend may be given new flows.
pub(crate) fn takes_flows(backend: &Backend) -> bool {
    backend.state == BackendState::Active && backend.weight > 0
}

/// A place below `bound`, by the low bits of a flow's hash: the high ones picked the bucket, so
/// that all flows of a bucket share them.
pub(crate) fn below(bound: usize, hash: u64) -> usize {
    // The remainder is below a `usize`, so it always fits.
    usize::try_from(hash % bound as u64).unwrap_or_default()
}

/// Where the backend at `address` stands in the sorted set.
pub(crate) fn position_of(set: &BackendSet, address: SocketAddr) -> Option<usize> {
    set.backends.binary_search_by(|backend| backend.address.cmp(&address)).ok()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use haflinger_core::forwarding::ForwardingTable;

    use super::*;
    use crate::selection::by_hash;
    use crate::testing::{backend_set, member};

    fn order(set: &BackendSet, hash: u64, remembered: Option<SocketAddr>) -> Vec<SocketAddr> {
        let preferred = by_hash(&set.table, hash, remembered);
        Candidates::new(set, preferred, hash).map(|at| set.backends[at].address).collect()
    }

    #[test]
    fn the_first_hop_comes_first_and_the_remembered_backend_before_it() {
        let set = backend_set(&[member(1), member(2), member(3)]);
        let first = *set.table.hops(99).unwrap().first;
        assert_eq!(order(&set, 99, None)[0], first);
        let other = set.backends.iter().map(|b| b.address).find(|a| *a != first).unwrap();
        assert_eq!(order(&set, 99, Some(other))[..2], [other, first]);
    }

    #[test]
    fn the_second_hop_comes_after_the_first() {
        let [one, two, three] = [member(1), member(2), member(3)];
        let mut table = ForwardingTable::new([(one.0, 100), (two.0, 100)]);
        table.update([(one.0, 100), (two.0, 100), (three.0, 100)], 0);
        let mut set = backend_set(&[one, two, three]);
        set.table = table.view();
        let mut moved = 0;
        for hash in (0..=u64::MAX).step_by(1 << 52) {
            let hops = set.table.hops(hash).unwrap();
            let Some(second) = hops.second else { continue };
            moved += 1;
            assert_eq!(order(&set, hash, None)[..2], [*hops.first, *second]);
        }
        assert!(moved > 0);
    }

    #[test]
    fn without_backends_there_is_no_candidate() {
        assert_eq!(order(&backend_set(&[]), 5, None), []);
    }

    proptest! {
        #[test]
        fn every_active_backend_is_tried_exactly_once(
            states in proptest::collection::vec(0_u8..3, 0..12),
            hash in any::<u64>(),
            remembered in proptest::option::of(0_u16..14),
        ) {
            let members: Vec<_> = states.iter().zip(1..).map(|(state, id)| {
                let state = match state {
                    0 => BackendState::Active,
                    1 => BackendState::Draining,
                    _ => BackendState::Down,
                };
                (member(id).0, state)
            }).collect();
            let set = backend_set(&members);
            let remembered = remembered.map(|id| member(id).0);
            let tried = order(&set, hash, remembered);
            let active: BTreeSet<_> = set.active().map(|backend| backend.address).collect();
            prop_assert_eq!(tried.len(), active.len());
            prop_assert_eq!(tried.into_iter().collect::<BTreeSet<_>>(), active);
        }
    }
}
