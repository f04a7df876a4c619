//! Writing one service.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use haflinger_core::{Backend, BackendState, ForwardingMode, Service, ServiceKey};
use ipnet::IpNet;

use super::{Control, GRACE_SECS, HOPS_MAX, Held, HeldBackend, Need, ROUTES_AT_ONCE};
use crate::buddy::Region;
use crate::netlink::Route;
use crate::program::types;
use crate::words;

impl Control {
    /// Room that the service takes beyond what it has.
    pub(super) fn need(&self, service: &Service) -> Need {
        let held = self.services.get(&service.key);
        let known = |address: &SocketAddr| held.is_some_and(|h| h.backends.contains_key(address));
        let new = service.backends.backends.iter().filter(|backend| !known(&backend.address));
        let bits = service.backends.table.bucket_count().checked_ilog2();
        let has_table = held.and_then(|held| held.region).map(|region| region.bits);
        let ranges = held.map(|held| &held.ranges);
        let added = |range: &&IpNet| !ranges.is_some_and(|known| known.contains(*range));
        Need {
            services: u32::from(held.is_none()),
            backends: count(new.count()),
            table: bits.filter(|_| bits != has_table),
            ranges: count(service.source_ranges.iter().filter(added).count()),
        }
    }

    /// Whether there is so much room, or what there is too little of.
    pub(super) fn fits(&self, need: Need) -> Result<(), String> {
        let full = |what: &str, key: &str| Err(format!("no room for {what}: raise xdp.{key}"));
        if need.services > self.service_slots.available() {
            return full("another service", "services_max");
        }
        if need.backends > self.backend_slots.available() {
            return full(&format!("{} backends", need.backends), "backends_max");
        }
        if need.table.is_some_and(|bits| !self.regions.has(bits)) {
            let buckets = 1_u64 << need.table.unwrap_or_default();
            return full(&format!("a table of {buckets} buckets"), "buckets_max");
        }
        if need.ranges > self.ranges_max - self.ranges_used {
            return full(&format!("{} source ranges", need.ranges), "source_ranges_max");
        }
        Ok(())
    }

    /// Writes what differs. All or nothing: an error leaves the service as it was.
    pub(super) fn serve(&mut self, service: &Arc<Service>, now: u64) -> Result<(), String> {
        self.fits(self.need(service))?;
        let mut held = match self.services.remove(&service.key) {
            Some(held) => held,
            None => Held { slot: self.take_service_slot()?, ..Held::default() },
        };
        let written = self.write(service, &mut held, now);
        if written.is_err() && held.applied.is_none() {
            held.left = Some(now);
        }
        if held.left.is_some() || held.backends.values().any(|backend| backend.left.is_some()) {
            self.waiting.insert(service.key);
        }
        self.services.insert(service.key, held);
        written
    }

    fn take_service_slot(&mut self) -> Result<u32, String> {
        self.service_slots.take().ok_or_else(|| "no room for another service".to_owned())
    }

    fn write(&mut self, service: &Arc<Service>, held: &mut Held, now: u64) -> Result<(), String> {
        self.write_backends(service, held, |state| state == BackendState::Active);
        let (table, former) = self.write_table(service, held);
        let wanted: BTreeSet<IpNet> = service.source_ranges.iter().copied().collect();
        self.add_ranges(held, &wanted)?;
        let mut slot = words::service(service);
        slot.table = table;
        self.maps.services.write(held.slot, &slot);
        let key = words::service_key(&service.key);
        if held.left.take().is_some() || held.applied.is_none() {
            self.maps
                .service_index
                .insert(&key, &held.slot)
                .map_err(|error| format!("the kernel does not take the service: {error}"))?;
        }
        self.retired.regions.extend(former.map(|region| (now, region)));
        self.remove_ranges(held, |range| wanted.contains(range));
        // No bucket has those as first hop now that take no new flow.
        self.write_backends(service, held, |_| true);
        self.take_out(service, held, now);
        self.note_exits(service, held);
        held.applied = Some(service.clone());
        Ok(())
    }

    /// Fills a slot for each backend of the set whose state is asked for. What the maps say already
    /// is not looked at again.
    fn write_backends(
        &mut self,
        service: &Service,
        held: &mut Held,
        asked: impl Fn(BackendState) -> bool,
    ) {
        let applied = held.applied.as_ref().map(|applied| applied.backends.clone());
        let is_same = |backend: &Backend| {
            let known = applied.as_ref().and_then(|set| set.get(&backend.address));
            known.is_some_and(|k| (k.state, k.weight) == (backend.state, backend.weight))
        };
        let wanted = service.backends.backends.iter();
        for backend in wanted.filter(|backend| asked(backend.state) && !is_same(backend)) {
            let known = held.backends.get(&backend.address);
            let slot = match known {
                Some(known) => known.slot,
                None => {
                    // There is room: it was looked at.
                    let Some(slot) = self.backend_slots.take() else { continue };
                    if let Err(error) = self.maps.backend_counters.clear(slot) {
                        tracing::warn!(%error, "the counters of a backend begin where others ended");
                    }
                    slot
                }
            };
            // What an earlier run left comes without its route.
            let route = known
                .and_then(|known| known.route.clone())
                .or_else(|| self.route_now(service.mode, backend.address.ip()));
            let now_held = HeldBackend { slot, left: None, route: route.clone() };
            held.backends.insert(backend.address, now_held);
            let (first, count) = self.source_range(backend.address.ip(), route.as_deref());
            let record = types::backend {
                address: words::address(backend.address.ip()),
                port: backend.address.port().to_be(),
                state: words::state(backend.state),
                service: held.slot,
                weight: backend.weight,
                sources_first: first,
                sources_count: count,
                ..Default::default()
            };
            self.maps.backends.write(slot, &record);
        }
    }

    /// Writes the buckets that moved; the table that the service has then, and a region that it
    /// has no more.
    fn write_table(
        &mut self,
        service: &Service,
        held: &mut Held,
    ) -> (types::table, Option<Region>) {
        let view = &service.backends.table;
        let Some(bits) = view.bucket_count().checked_ilog2() else {
            return (types::table::default(), held.region.take());
        };
        let backends = &held.backends;
        let slot = |address: Option<&SocketAddr>| {
            address.and_then(|address| backends.get(address)).map_or(NO_BACKEND, |known| known.slot)
        };
        let bucket = |first: &SocketAddr, second: Option<&SocketAddr>| types::bucket {
            first: slot(Some(first)),
            second: slot(second),
        };
        let (region, former) = match held.region {
            Some(region) if region.bits == bits => (region, None),
            former => match self.regions.take(bits) {
                Some(region) => (region, former),
                // There is room: it was looked at.
                None => return (types::table::default(), former),
            },
        };
        let known = held.applied.as_ref().filter(|_| held.region == Some(region));
        match known.and_then(|known| view.moved_since(&known.backends.table)) {
            Some(moved) => {
                for (at, hops) in moved {
                    let at = region.first + count(at);
                    self.maps.buckets.write(at, &bucket(hops.first, hops.second));
                }
            }
            None => {
                for (at, hops) in (region.first..).zip(view.buckets()) {
                    self.maps.buckets.write(at, &bucket(hops.first, hops.second));
                }
            }
        }
        held.region = Some(region);
        (types::table { first: region.first, bits }, former)
    }

    /// Notes the ways out to backends that are new to a `dsr` service; the others are seen when
    /// their routes are looked at again.
    fn note_exits(&mut self, service: &Service, held: &Held) {
        if service.mode != ForwardingMode::Dsr {
            return;
        }
        let before = held.applied.as_ref().filter(|applied| applied.mode == service.mode);
        for (address, backend) in &held.backends {
            if before.is_some_and(|before| before.backends.get(address).is_some()) {
                continue;
            }
            // What an earlier run left comes without its route.
            if let Some(route) = backend.route.clone().or_else(|| self.route(address.ip())) {
                self.exits.note(&route, address.is_ipv4());
            }
        }
    }

    fn add_ranges(&mut self, held: &mut Held, wanted: &BTreeSet<IpNet>) -> Result<(), String> {
        for range in wanted {
            if held.ranges.insert(*range) {
                self.ranges_used += 1;
                let key = words::range_key(held.slot, *range);
                self.maps
                    .source_ranges
                    .insert(&key, &1)
                    .map_err(|error| format!("the kernel does not take {range}: {error}"))?;
            }
        }
        Ok(())
    }

    pub(super) fn remove_ranges(&mut self, held: &mut Held, keep: impl Fn(&IpNet) -> bool) {
        let (kept, removed) = held.ranges.iter().copied().partition(keep);
        held.ranges = kept;
        let removed: BTreeSet<IpNet> = removed;
        for range in removed {
            self.ranges_used -= 1;
            if let Err(error) = self.maps.source_ranges.remove(&words::range_key(held.slot, range))
            {
                tracing::warn!(%range, %error, "a source range stays in the kernel");
            }
        }
    }

    /// Backends that the set does not have any more: their UDP flows end at once.
    fn take_out(&mut self, service: &Service, held: &mut Held, now: u64) {
        for (address, backend) in &mut held.backends {
            if backend.left.is_none() && service.backends.get(address).is_none() {
                backend.left = Some(now);
                self.set_state(backend.slot, BackendState::Down);
            }
        }
    }

    fn set_state(&self, slot: u32, state: BackendState) {
        let record = self.maps.backends.read(slot);
        self.maps.backends.write(slot, &types::backend { state: words::state(state), ..record });
    }

    /// Lets no packet find the service any more. Its flows go on, with what the snapshot still
    /// says of their backends.
    pub(super) fn leave(&mut self, key: &ServiceKey, service: Option<&Arc<Service>>, now: u64) {
        let Some(mut held) = self.services.remove(key) else { return };
        if held.left.is_none() {
            if let Err(error) = self.maps.service_index.remove(&words::service_key(key)) {
                tracing::error!(service = %key, %error, "the service stays in the kernel");
            }
            held.left = Some(now);
            held.applied = None;
            let record = self.maps.services.read(held.slot);
            let table = types::table::default();
            self.maps.services.write(held.slot, &types::service { table, ..record });
            self.retired.regions.extend(held.region.take().map(|region| (now, region)));
        }
        for (address, backend) in &mut held.backends {
            let known = service.and_then(|service| service.backends.get(address));
            let state = match known.map(|known| known.state) {
                // No new flow comes this way, whatever the relay does.
                Some(BackendState::Active | BackendState::Draining) => BackendState::Draining,
                Some(BackendState::Down) | None => BackendState::Down,
            };
            backend.left.get_or_insert(now);
            self.set_state(backend.slot, state);
        }
        self.waiting.insert(*key);
        self.services.insert(*key, held);
    }

    /// How the kernel reaches a backend that is new, or new to this run. Of very many at once, as at a
    /// start, only some are asked for, where a packet needs no answer: where `nat` sends from is
    /// configured.
    fn route_now(&mut self, mode: ForwardingMode, backend: IpAddr) -> Option<Arc<Route>> {
        let can_wait = mode == ForwardingMode::Nat && self.sources.has_configured(backend);
        if can_wait && self.asked >= ROUTES_AT_ONCE {
            return None;
        }
        self.asked += 1;
        self.route(backend)
    }

    /// How the kernel reaches a backend now; notes the next hop.
    pub(super) fn route(&mut self, backend: IpAddr) -> Option<Arc<Route>> {
        let route = (self.router)(backend).ok()?;
        self.note_hop(&route);
        if let Some(own) = route.source
            && self.selves.note(own)
        {
            self.write_settings();
        }
        if let Some(known) = self.routes.get(&route) {
            return Some(known.clone());
        }
        let route = Arc::new(route);
        self.routes.insert(route.clone());
        Some(route)
    }

    pub(super) fn note_hop(&mut self, route: &Route) {
        let hop = (route.interface, route.next_hop);
        if !route.is_local && (self.hops.len() < HOPS_MAX || self.hops.contains_key(&hop)) {
            self.hops.insert(hop, 0);
        }
    }

    pub(super) fn source_range(&mut self, backend: IpAddr, route: Option<&Route>) -> (u16, u16) {
        let own = route.and_then(|route| route.source);
        self.sources.range(&self.maps, backend, own).unwrap_or_default()
    }

    /// Every backend names its sources anew.
    pub(super) fn rewrite_sources(&mut self) {
        let mut backends = Vec::new();
        for held in self.services.values() {
            let known = held.backends.iter();
            backends
                .extend(known.map(|(at, backend)| (at.ip(), backend.slot, backend.route.clone())));
        }
        for (address, slot, route) in backends {
            let (first, count) = self.source_range(address, route.as_deref());
            let record = self.maps.backends.read(slot);
            let record = types::backend { sources_first: first, sources_count: count, ..record };
            self.maps.backends.write(slot, &record);
        }
    }

    /// Whether what was taken away at `then` is out of every packet's sight.
    pub(super) fn is_over(then: u64, now: u64) -> bool {
        now.saturating_sub(then) >= GRACE_SECS
    }
}

/// No hop: what the sources call `NO_BACKEND`.
pub(super) const NO_BACKEND: u32 = 0;

/// Buckets and slots are counted in 32 bits throughout.
pub(super) fn count(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}
