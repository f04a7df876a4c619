//! Which backends a service's algorithm prefers for a new flow. Pure: hash, turn and loads are
//! arguments.
//!
//! Every algorithm goes by the forwarding table, so weights hold for all of them, and a backend
//! of weight 0, which has no bucket, is never preferred:
//!
//! - *hash* and *source* take the hops of the bucket that the hash picks;
//! - *round-robin* walks the buckets by a stride, each once in a cycle;
//! - *least-connections* compares all backends of a small set, and of a larger one those of a
//!   few buckets, drawn by independent hashes.

use std::net::SocketAddr;

use haflinger_core::forwarding::TableView;
use haflinger_core::{BackendSet, Weight};

use crate::candidates::{below, position_of, takes_flows};

/// Backends that an algorithm puts in order. The power of two choices lies in the second sample;
/// beyond the fourth one more gains next to nothing.
pub(crate) const PREFERRED_MAX: usize = 4;

/// Sets of so many backends are compared as a whole for least-connections. Each backend costs
/// the read of a counter that other cores write to, so that this stays below a microsecond.
const COMPARED_MAX: usize = 16;

/// 2^64 divided by the golden ratio.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// The first backends to try, in this order. Not all of them need to take flows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Preferred(pub(crate) [Option<SocketAddr>; PREFERRED_MAX]);

/// The hops of the bucket that the hash picks; before them the backend that an affine client
/// was last sent to.
pub(crate) fn by_hash(
    table: &TableView<SocketAddr>,
    hash: u64,
    remembered: Option<SocketAddr>,
) -> Preferred {
    let hops = table.hops(hash);
    let first = hops.as_ref().map(|hops| *hops.first);
    let second = hops.and_then(|hops| hops.second.copied());
    Preferred([remembered, first, second, None])
}

/// The backend whose turn it is: `turn` counts the flows of the service. Of as many flows as the
/// table has buckets, each backend gets exactly its buckets' number, wherever one begins to count.
pub(crate) fn in_turn(table: &TableView<SocketAddr>, turn: u64) -> Preferred {
    let Some(bits) = table.bucket_count().checked_ilog2().filter(|bits| *bits > 0) else {
        return by_hash(table, 0, None);
    };
    // An odd stride meets each of 2^bits buckets once before it meets one again. Near the golden
    // section, flows that follow each other fall far apart, also where a backend's buckets are
    // neighbours.
    let unused = u64::BITS - bits;
    let stride = (GOLDEN >> unused) | 1;
    let bucket = turn.wrapping_mul(stride) & (u64::MAX >> unused);
    let first = table.hops(bucket << unused).map(|hops| *hops.first);
    Preferred([first, None, None, None])
}

/// The least loaded backends first. `flows` tells how many a backend has, by its position.
pub(crate) fn least_loaded(set: &BackendSet, hash: u64, flows: impl Fn(usize) -> u64) -> Preferred {
    let mut best = Best::default();
    let mut weigh = |at: usize| {
        let backend = &set.backends[at];
        if takes_flows(backend) {
            best.add(Load { at, flows: flows(at), weight: backend.weight });
        }
    };
    let sampled = |number: u64| {
        let hops = set.table.hops(independent(hash, number))?;
        position_of(set, *hops.first)
    };
    let count = set.backends.len();
    if count > COMPARED_MAX {
        (0..PREFERRED_MAX as u64).filter_map(sampled).for_each(weigh);
    } else {
        // Of equals the table's choice comes first, so that ties fall by weight.
        let first = sampled(0);
        first.into_iter().for_each(&mut weigh);
        let offset = below(count.max(1), hash);
        let others = (0..count).map(|at| (at + offset) % count);
        others.filter(|at| Some(*at) != first).for_each(weigh);
    }
    Preferred(best.loads.map(|load| load.map(|load| set.backends[load.at].address)))
}

/// A hash for each number that tells nothing about those for others: SplitMix64 (Steele, Lea and
/// Flood, 2014) with the flow's hash as its state.
fn independent(hash: u64, number: u64) -> u64 {
    let mut mixed = hash.wrapping_add(number.wrapping_mul(GOLDEN));
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// A backend with what it carries.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Load {
    at: usize,
    flows: u64,
    weight: Weight,
}

impl Load {
    /// Flows for the weight, this one included: of two idle backends the heavier is less loaded.
    fn is_below(&self, other: &Self) -> bool {
        let scaled = |flows: u64, weight: Weight| (u128::from(flows) + 1) * u128::from(weight);
        scaled(self.flows, other.weight) < scaled(other.flows, self.weight)
    }
}

/// The least loaded of those seen, in order; of equals the one seen first.
#[derive(Default)]
struct Best {
    loads: [Option<Load>; PREFERRED_MAX],
}

impl Best {
    fn add(&mut self, load: Load) {
        if self.loads.iter().flatten().any(|known| known.at == load.at) {
            return;
        }
        let mut load = Some(load);
        for place in &mut self.loads {
            let comes_before = match (&load, &*place) {
                (Some(load), Some(known)) => load.is_below(known),
                (Some(_), None) => true,
                (None, _) => return,
            };
            if comes_before {
                std::mem::swap(&mut load, place);
            }
        }
    }
}

#[cfg(test)]
mod tests;
