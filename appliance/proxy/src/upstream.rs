//! Which backend a request is sent to, and where it may be tried again.
//!
//! A request is a flow of its own: its hash is made from the client's address and port, the VIP,
//! and the number of the request on its connection, so that the requests of one long-lived
//! connection spread over all backends as the table says. (An affinity would be the hash of the
//! client's address alone; targets of L7 rules carry none.)
//!
//! Choosing is pure. A backend that is not active is never chosen.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use arc_swap::{ArcSwap, ArcSwapOption};
use haflinger_core::{BackendSet, BackendState};

use crate::sessions::{SessionKey, Tag, Tags};
use crate::tally::{Tallies, Tally};

/// Retries that are always in reserve, so that a small service's first failures are covered
/// before any traffic has earned retries.
pub const RETRY_RESERVE: i64 = 100;

/// Price of one retry in the units in which requests earn them.
const RETRY_PRICE: i64 = 100;

/// The backends of one target as the hot path reads them. All rules that point at a target share
/// one slot, so a change of pods is one pointer store, however many rules there are.
#[derive(Debug, Default)]
pub(crate) struct TargetSlot {
    backends: ArcSwapOption<BackendSet>,
    /// Tallies of the backends that have been asked.
    asked: ArcSwap<imbl::HashMap<SocketAddr, Arc<Tally>>>,
    tags: Tags,
}

impl TargetSlot {
    pub(crate) fn new(backends: Option<Arc<BackendSet>>) -> Self {
        let backends = ArcSwapOption::new(backends);
        Self { backends, asked: ArcSwap::default(), tags: Tags::default() }
    }

    /// The backends now; `None` when the target does not exist.
    pub(crate) fn load(&self) -> Option<Arc<BackendSet>> {
        self.backends.load_full()
    }

    /// The active backend with this tag.
    pub(crate) fn find(&self, tag: &Tag, key: &SessionKey) -> Option<SocketAddr> {
        self.tags.find(&self.load()?, tag, key)
    }

    /// Puts other backends in service for the next request.
    pub(crate) fn store(&self, backends: Option<Arc<BackendSet>>) {
        self.backends.store(backends.clone());
        if !self.asked.load().is_empty() {
            let find = |address: &SocketAddr| backends.as_ref()?.get(address);
            self.asked.rcu(|asked| {
                let mut left = imbl::HashMap::clone(asked);
                left.retain(|address, tally| find(address).is_some_and(|b| tally.is_of(&b.name)));
                left
            });
        }
    }

    /// What is counted about a backend; `None` once it has left.
    pub(crate) fn tally(&self, address: SocketAddr, tallies: &Tallies) -> Option<Arc<Tally>> {
        if let Some(tally) = self.asked.load().get(&address) {
            return Some(tally.clone());
        }
        let set = self.load()?;
        let tally = tallies.pod(&set.target.object, &set.get(&address)?.name);
        // Should the backend leave just now, the next change of backends forgets it.
        self.asked.rcu(|asked| asked.update(address, tally.clone()));
        Some(tally)
    }
}

/// The hash of request number `count` of a connection whose flow hash is `flow`.
pub(crate) fn request_hash(flow: u64, count: u64) -> u64 {
    mixed(flow.wrapping_add(count.wrapping_mul(0x9E37_79B9_7F4A_7C15)))
}

/// The finalizer of SplitMix64: a bijection in which every input bit reaches every output bit.
pub(crate) fn mixed(mut hash: u64) -> u64 {
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    hash ^ (hash >> 31)
}

/// The next backend for a request with `hash` that already failed on `tried`: the first hop, the
/// second hop, then the other active backends, each request beginning at another one.
pub(crate) fn choose(set: &BackendSet, hash: u64, tried: &[SocketAddr]) -> Option<SocketAddr> {
    let fresh = |address: &SocketAddr| {
        let active = set.get(address).is_some_and(|b| b.state == BackendState::Active);
        active && !tried.contains(address)
    };
    let hops = set.table.hops(hash)?;
    if let Some(hop) = [Some(hops.first), hops.second].into_iter().flatten().find(|a| fresh(a)) {
        return Some(*hop);
    }
    let count = set.backends.len();
    let start = usize::try_from(hash % count.max(1) as u64).unwrap_or(0);
    let mut others = set.backends[start.min(count)..].iter().chain(&set.backends[..start]);
    others.find(|backend| fresh(&backend.address)).map(|backend| backend.address)
}

/// A bound on retries over all requests: each request earns [`Self::new`]'s percentage of a
/// retry, and no more than [`RETRY_RESERVE`] are ever saved up. Without it, an outage of many
/// backends would multiply the load of the rest.
#[derive(Debug)]
pub(crate) struct RetryBudget {
    saved: AtomicI64,
    earned_per_request: i64,
}

impl RetryBudget {
    /// A full budget; `percent` retries are earned by a hundred requests.
    pub(crate) fn new(percent: u32) -> Self {
        Self {
            saved: AtomicI64::new(RETRY_RESERVE * RETRY_PRICE),
            earned_per_request: i64::from(percent),
        }
    }

    /// A request came in.
    pub(crate) fn earn(&self) {
        // Two requests at the limit may overshoot by what they earn, which does not matter.
        if self.saved.load(Ordering::Relaxed) < RETRY_RESERVE * RETRY_PRICE {
            self.saved.fetch_add(self.earned_per_request, Ordering::Relaxed);
        }
    }

    /// Whether one more retry may be made; pays for it.
    pub(crate) fn spend(&self) -> bool {
        let pay = |saved: i64| (saved >= RETRY_PRICE).then(|| saved - RETRY_PRICE);
        self.saved.fetch_update(Ordering::Relaxed, Ordering::Relaxed, pay).is_ok()
    }
}

#[cfg(test)]
#[path = "upstream_tests.rs"]
mod tests;
