//! Giving back what nobody needs any more, and looking again at what may have changed.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;

use haflinger_core::{ForwardingMode, ServiceKey};

use super::serve::NO_BACKEND;
use super::{Control, Held, Traffic};
use crate::program::types;

/// Seconds in which the routes to all backends are looked at again.
const ROUND_SECS: usize = 60;

/// Routes that one second may ask for, whatever their number: 5 microseconds each, so that this is
/// one hundredth of a core. Packets ask for themselves; what waits is from where `nat` sends after
/// the host's own addresses have changed.
const ROUTES_PER_SECOND: usize = 2_000;

/// Routes that are asked for in one go, while a snapshot may wait: half a millisecond.
const ROUTES_PER_PART: usize = 100;

/// Rounds after which a next hop that no route names is forgotten.
const HOP_ROUNDS: u64 = 2;

impl Control {
    /// Gives back what is out of sight. To be called about once a second.
    pub(crate) fn reap(&mut self, now: u64) {
        self.release(now);
        self.finish_handovers(now);
        for key in std::mem::take(&mut self.waiting) {
            let Some(mut held) = self.services.remove(&key) else { continue };
            self.drop_backends(&mut held, now);
            if self.is_done(&held, now) {
                self.remove_ranges(&mut held, |_| false);
                self.maps.services.write(held.slot, &types::service::default());
                self.retired.services.push_back((now, held.slot));
                continue;
            }
            let waits = held.left.is_some() || held.backends.values().any(|b| b.left.is_some());
            if waits {
                self.waiting.insert(key);
            }
            self.services.insert(key, held);
        }
    }

    /// Whether nothing of a service that left is in use.
    fn is_done(&self, held: &Held, now: u64) -> bool {
        let connections = self.maps.service_loads.read(held.slot).connections;
        held.left.is_some_and(|left| Self::is_over(left, now))
            && held.backends.is_empty()
            && connections == 0
    }

    /// Frees backends that have left and have no flow. Second hops that name them are cleared
    /// first, all in one look at the table.
    fn drop_backends(&mut self, held: &mut Held, now: u64) {
        let maps = &self.maps;
        let idle = |slot| maps.backend_loads.read(slot).connections == 0;
        let gone: HashSet<u32> = held
            .backends
            .values()
            .filter(|backend| {
                backend.left.is_some_and(|left| Self::is_over(left, now)) && idle(backend.slot)
            })
            .map(|backend| backend.slot)
            .collect();
        if gone.is_empty() {
            return;
        }
        if let Some(region) = held.region {
            for at in region.first..region.first + region.len() {
                let bucket = maps.buckets.read(at);
                if gone.contains(&bucket.second) {
                    maps.buckets.write(at, &types::bucket { second: NO_BACKEND, ..bucket });
                }
            }
        }
        for slot in &gone {
            held.past.add(&self.traffic(*slot));
            self.maps.backends.write(*slot, &types::backend::default());
            self.retired.backends.push_back((now, *slot));
        }
        held.backends.retain(|_, backend| !gone.contains(&backend.slot));
    }

    /// Makes free what was taken away long enough ago.
    fn release(&mut self, now: u64) {
        let Self { retired, maps, .. } = self;
        while let Some((then, region)) = retired.regions.front().copied()
            && Self::is_over(then, now)
        {
            retired.regions.pop_front();
            self.regions.release(region);
        }
        while let Some((then, region)) = retired.sources.front().copied()
            && Self::is_over(then, now)
        {
            retired.sources.pop_front();
            self.sources.release(region);
        }
        // A flow that was created while the slot was being taken away keeps it.
        for _ in 0..retired.backends.len() {
            let Some((then, slot)) = retired.backends.pop_front() else { break };
            if Self::is_over(then, now) && maps.backend_loads.read(slot).connections == 0 {
                self.backend_slots.release(slot);
            } else {
                retired.backends.push_back((then, slot));
            }
        }
        for _ in 0..retired.services.len() {
            let Some((then, slot)) = retired.services.pop_front() else { break };
            if Self::is_over(then, now) && maps.service_loads.read(slot).connections == 0 {
                self.service_slots.release(slot);
            } else {
                retired.services.push_back((then, slot));
            }
        }
    }

    /// A second begins: so many routes are looked at again in it that all are seen in a minute, or
    /// as soon as may be.
    pub(crate) fn begin_second(&mut self) {
        let all = self.backend_slots.taken() as usize;
        self.round.left = all.div_ceil(ROUND_SECS).clamp(1, ROUTES_PER_SECOND);
    }

    /// Looks again at the routes to some backends: where `nat` sends from and whose neighbour entry
    /// is kept may have changed. Whether more of this second's are left.
    pub(crate) fn look_again(&mut self) -> bool {
        for _ in 0..ROUTES_PER_PART.min(self.round.left) {
            self.round.left -= 1;
            match self.next_of_round() {
                Some((key, address)) => self.look_again_at(&key, address),
                None => self.round.left = 0,
            }
        }
        self.round.left > 0
    }

    /// The next backend of the round, or the first of another; `None` where there is none at all.
    fn next_of_round(&mut self) -> Option<(ServiceKey, SocketAddr)> {
        let mut begun = false;
        loop {
            if let Some(next) = self.round.backends.pop() {
                return Some(next);
            }
            if let Some(key) = self.round.services.pop() {
                let known = self.services.get(&key).into_iter();
                let addresses = known.flat_map(|held| held.backends.keys());
                self.round.backends.extend(addresses.map(|address| (key, *address)));
            } else if !std::mem::replace(&mut begun, true) {
                self.begin_round();
            } else {
                return None;
            }
        }
    }

    fn begin_round(&mut self) {
        self.hops.retain(|_, age| {
            *age += 1;
            *age <= HOP_ROUNDS
        });
        self.routes.retain(|route| Arc::strong_count(route) > 1);
        self.selves.begin_round();
        self.exits.begin_round();
        self.round.services.extend(self.services.keys());
    }

    fn look_again_at(&mut self, key: &ServiceKey, address: SocketAddr) {
        let route = self.route(address.ip());
        let Some(held) = self.services.get_mut(key) else { return };
        let is_dsr = held.applied.as_ref().is_some_and(|s| s.mode == ForwardingMode::Dsr);
        let Some(backend) = held.backends.get_mut(&address) else { return };
        if let Some(route) = route.as_ref().filter(|_| is_dsr) {
            self.exits.note(route, address.is_ipv4());
        }
        // A route that is away may come back as it was.
        if route.is_none() || backend.route == route {
            return;
        }
        backend.route.clone_from(&route);
        let slot = backend.slot;
        let (first, count) = self.source_range(address.ip(), route.as_deref());
        let record = self.maps.backends.read(slot);
        let record = types::backend { sources_first: first, sources_count: count, ..record };
        self.maps.backends.write(slot, &record);
    }

    /// What the program counted for a backend, over all CPUs.
    pub(crate) fn traffic(&self, slot: u32) -> Traffic {
        let counted = self.maps.backend_counters.get(slot).unwrap_or_default();
        counted.iter().fold(Traffic::default(), |mut sum, cpu| {
            sum.add(&Traffic {
                packets_in: cpu.packets[0],
                packets_out: cpu.packets[1],
                bytes_in: cpu.bytes[0],
                bytes_out: cpu.bytes[1],
                flows: cpu.flows,
            });
            sum
        })
    }
}
