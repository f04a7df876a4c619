//! Keeps the maps equal to the snapshot.
//!
//! The maps lead a packet from the service's key to its slot, from the slot to its table, from a
//! bucket of the table to a backend. Each is written before what leads to it and taken away after,
//! with a grace period between, so that no packet ever meets half of anything:
//!
//! ```text
//!  add      backends ─> buckets ─> ranges ─> service slot ─> index key
//!  change   new backends ─> moved buckets (or a new region, then one store) ─> slot ─> old backends
//!  remove   index key ─> (grace) ─> table, ranges ─> (no flow left, grace) ─> backends, slot
//! ```
//!
//! A slot that a live flow names is never given to another: its load counts the flows. What does
//! not fit is refused as a whole service, and asked for again when there is room. Time is an
//! argument, in seconds.

mod reap;
pub(crate) mod report;
mod restore;
mod selves;
mod serve;
pub(crate) mod sources;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use haflinger_core::{ForwardingMode, Service, ServiceKey, Snapshot, Update};
use imbl::OrdMap;
use imbl::ordmap::DiffItem;
use ipnet::IpNet;

use crate::audit::Exits;
use crate::buddy::{Buddies, Region};
use crate::maps::Maps;
use crate::netlink::Route;
use crate::program::types;
use crate::settings::Settings;
use crate::slots::Slots;
use crate::words;
use selves::Selves;
use sources::Sources;

/// Seconds after which nobody who looked before still holds what was taken away: a packet is in
/// the program for microseconds, and the clock that measures this counts whole seconds.
const GRACE_SECS: u64 = 2;

/// Next hops that are kept resolved: more neighbours than a host's segments have by default room
/// for (`gc_thresh3` is 1024).
pub(crate) const HOPS_MAX: usize = 4096;

/// Routes that are asked for while one snapshot is applied, where they can wait: 5 ms. The others
/// are looked at in turn, as those that are known.
const ROUTES_AT_ONCE: usize = 1_000;

/// Asks the kernel how it reaches an address.
pub(crate) type Router = Box<dyn FnMut(IpAddr) -> io::Result<Route> + Send>;

/// A next hop: interface and address.
pub(crate) type Hop = (u32, IpAddr);

/// Packets and bytes by direction (to the backend, to the client), and flows ever created.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Traffic {
    /// Packets to the backend.
    pub packets_in: u64,
    /// Packets to the client.
    pub packets_out: u64,
    /// Bytes to the backend, without the link layer.
    pub bytes_in: u64,
    /// Bytes to the client, without the link layer.
    pub bytes_out: u64,
    /// Flows ever created.
    pub flows: u64,
}

impl Traffic {
    pub(crate) fn add(&mut self, other: &Self) {
        self.packets_in += other.packets_in;
        self.packets_out += other.packets_out;
        self.bytes_in += other.bytes_in;
        self.bytes_out += other.bytes_out;
        self.flows += other.flows;
    }
}

/// A backend in the maps.
#[derive(Debug)]
struct HeldBackend {
    slot: u32,
    /// Since when no bucket has it as first hop and the set does not have it.
    left: Option<u64>,
    /// How the kernel reaches it, as last asked.
    route: Option<Arc<Route>>,
}

/// A service in the maps.
#[derive(Debug, Default)]
struct Held {
    slot: u32,
    /// What the maps say of it; `None` when an earlier run wrote them.
    applied: Option<Arc<Service>>,
    region: Option<Region>,
    ranges: BTreeSet<IpNet>,
    backends: HashMap<SocketAddr, HeldBackend>,
    /// Since when no packet finds it; its flows live on.
    left: Option<u64>,
    /// Of backends whose slots were given back.
    past: Traffic,
    /// Said nothing of by a complete snapshot yet.
    unconfirmed: bool,
    /// The core knows that packets find it.
    told: bool,
}

/// A service that did not fit.
#[derive(Debug)]
struct Refused {
    need: Need,
    reason: Arc<str>,
}

/// Room that a service would take beyond what it has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Need {
    services: u32,
    backends: u32,
    /// Logarithm of the buckets of a new region.
    table: Option<u32>,
    ranges: u32,
}

/// What the maps hold, and what comes next.
pub(crate) struct Control {
    maps: Arc<Maps>,
    router: Router,
    sources: Sources,
    services: HashMap<ServiceKey, Held>,
    /// Services of which something waits to be given back.
    waiting: BTreeSet<ServiceKey>,
    refused: BTreeMap<ServiceKey, Refused>,
    /// Services that the relay takes, since when.
    handovers: BTreeMap<ServiceKey, u64>,
    service_slots: Slots,
    backend_slots: Slots,
    regions: Buddies,
    ranges_used: u32,
    ranges_max: u32,
    retired: Retired,
    applied: OrdMap<ServiceKey, Arc<Service>>,
    complete: bool,
    hops: BTreeMap<Hop, u64>,
    /// Routes that backends have: those of one node's pods are the same.
    routes: HashSet<Arc<Route>>,
    /// Ways out to backends of `dsr` services.
    pub(crate) exits: Exits,
    selves: Selves,
    round: Round,
    /// Routes asked for since the last snapshot came.
    asked: usize,
    settings: types::settings,
}

/// Whose routes are looked at again, the next one last.
#[derive(Debug, Default)]
struct Round {
    services: Vec<ServiceKey>,
    /// Of the service before those.
    backends: Vec<(ServiceKey, SocketAddr)>,
    /// Routes that are still looked at in this second.
    left: usize,
}

/// What packets may still hold, by the time at which it was taken away.
#[derive(Debug, Default)]
struct Retired {
    services: VecDeque<(u64, u32)>,
    backends: VecDeque<(u64, u32)>,
    regions: VecDeque<(u64, Region)>,
    sources: VecDeque<(u64, Region)>,
}

/// How full something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Fill {
    /// In use.
    pub used: u32,
    /// At most.
    pub max: u32,
}

impl Control {
    /// Takes over the maps, with what an earlier run wrote into them.
    pub(crate) fn new(maps: Arc<Maps>, router: Router, settings: &Settings) -> Self {
        let mut control = Self {
            sources: Sources::new(&maps, settings),
            service_slots: Slots::new(0, maps.services.len()),
            // Slot 0 says that there is no backend.
            backend_slots: Slots::new(1, maps.backends.len()),
            regions: Buddies::new(0, maps.buckets.len()),
            maps,
            router,
            services: HashMap::new(),
            waiting: BTreeSet::new(),
            refused: BTreeMap::new(),
            handovers: BTreeMap::new(),
            ranges_used: 0,
            ranges_max: settings.capacities.source_ranges,
            retired: Retired::default(),
            applied: OrdMap::new(),
            complete: false,
            hops: BTreeMap::new(),
            routes: HashSet::new(),
            exits: Exits::default(),
            selves: Selves::default(),
            round: Round::default(),
            asked: 0,
            settings: types::settings::default(),
        };
        // Whoever traced before is gone.
        control.settings = types::settings {
            trace_one_in: 0,
            trace: types::flow_key::default(),
            ..control.maps.settings.read(0)
        };
        control.restore();
        control.configure(settings, 0);
        control
    }

    /// Other settings: what the program reads of them, and where `nat` sends from.
    pub(crate) fn configure(&mut self, settings: &Settings, now: u64) {
        self.settings.hash_key = settings.flow_hash_key.0;
        self.settings.new_flows_rate = settings.new_flows_rate;
        self.write_settings();
        if self.sources.is_other(settings) {
            let old = self.sources.reconfigure(settings);
            self.rewrite_sources();
            self.retired.sources.extend(old.into_iter().map(|region| (now, region)));
        }
    }

    /// Lets the program trace what `change` says.
    pub(crate) fn set_trace(&mut self, filter: types::flow_key, one_in: u32) {
        self.settings.trace = filter;
        self.settings.trace_one_in = one_in;
        self.write_settings();
    }

    /// Whether packets are being traced.
    pub(crate) fn traces(&self) -> bool {
        self.settings.trace_one_in > 0
    }

    fn write_settings(&mut self) {
        // An address that an earlier run found stands until a route names another.
        if let Some(own) = self.selves.v4() {
            self.settings.tunnel_source_v4 = words::address(own);
            self.settings.self_v4 = words::address(own);
        }
        if let Some(own) = self.selves.v6() {
            self.settings.tunnel_source_v6 = words::address(own);
            self.settings.self_v6 = words::address(own);
        }
        self.maps.settings.write(0, &self.settings);
    }

    /// Applies the difference between the maps and the snapshot; what the core is to be told.
    pub(crate) fn apply(&mut self, snapshot: &Snapshot, now: u64) -> Vec<Update> {
        let mut told = Vec::new();
        self.asked = 0;
        let before = std::mem::replace(&mut self.applied, snapshot.services.clone());
        for item in before.diff(&snapshot.services) {
            match item {
                DiffItem::Add(_, service) | DiffItem::Update { new: (_, service), .. } => {
                    self.follow(service, snapshot.complete, now, &mut told);
                }
                DiffItem::Remove(key, _) => self.forget(key, snapshot.complete, now, &mut told),
            }
        }
        if snapshot.complete && !self.complete {
            self.complete = true;
            self.confirm(snapshot, now, &mut told);
        }
        told
    }

    /// The first complete snapshot: what it does not have is not there.
    fn confirm(&mut self, snapshot: &Snapshot, now: u64, told: &mut Vec<Update>) {
        let unconfirmed = self.services.iter().filter(|(_, held)| held.unconfirmed);
        let keys: Vec<ServiceKey> = unconfirmed.map(|(key, _)| *key).collect();
        for key in keys {
            if let Some(held) = self.services.get_mut(&key) {
                held.unconfirmed = false;
            }
            match snapshot.services.get(&key) {
                Some(service) => self.follow(service, true, now, told),
                None => self.forget(&key, true, now, told),
            }
        }
    }

    fn follow(&mut self, service: &Arc<Service>, complete: bool, now: u64, told: &mut Vec<Update>) {
        // What an earlier run left may be better informed than a snapshot that is not complete.
        if !complete && self.services.get(&service.key).is_some_and(|held| held.unconfirmed) {
            return;
        }
        if service.mode == ForwardingMode::Proxy {
            self.tell_held(&service.key, false, told);
            self.hand_over(service, now);
            if let Some(refused) = self.refused.get(&service.key) {
                let reason = refused.reason.clone();
                let need = self.need(service);
                self.refused.insert(service.key, Refused { need, reason });
            }
            return;
        }
        self.handovers.remove(&service.key);
        match self.serve(service, now) {
            Ok(()) => {
                self.tell_held(&service.key, true, told);
                if self.refused.remove(&service.key).is_some() {
                    told.push(Update::Forwarding { service: service.key, refused: None });
                }
            }
            Err(reason) => {
                let need = self.need(service);
                let reason: Arc<str> = reason.into();
                let refused = Refused { need, reason: reason.clone() };
                self.refused.insert(service.key, refused);
                told.push(Update::Forwarding { service: service.key, refused: Some(reason) });
            }
        }
    }

    /// The relay takes the service. Packets find their way here until its socket is surely open.
    fn hand_over(&mut self, service: &Arc<Service>, now: u64) {
        match self.services.get(&service.key) {
            Some(held) if held.left.is_none() => {
                self.handovers.entry(service.key).or_insert(now);
            }
            _ => self.leave(&service.key, Some(service), now),
        }
    }

    /// Takes away what the relay has had for long enough.
    fn finish_handovers(&mut self, now: u64) {
        let over: Vec<ServiceKey> = self
            .handovers
            .extract_if(.., |_, since| Self::is_over(*since, now))
            .map(|(key, _)| key)
            .collect();
        for key in over {
            let service = self.applied.get(&key).cloned();
            self.leave(&key, service.as_ref(), now);
        }
    }

    /// Says of every service that packets find it here no more.
    pub(crate) fn let_go(&mut self) -> Vec<Update> {
        let mut told = Vec::new();
        let keys: Vec<ServiceKey> = self.services.keys().copied().collect();
        for key in keys {
            self.tell_held(&key, false, &mut told);
        }
        told
    }

    /// Says whether packets find a service, when that is news.
    fn tell_held(&mut self, key: &ServiceKey, held: bool, told: &mut Vec<Update>) {
        if let Some(known) = self.services.get_mut(key)
            && known.told != held
        {
            known.told = held;
            told.push(Update::Held { service: *key, held });
        }
    }

    /// The snapshot has the service no more.
    fn forget(&mut self, key: &ServiceKey, complete: bool, now: u64, told: &mut Vec<Update>) {
        self.tell_held(key, false, told);
        self.handovers.remove(key);
        if complete {
            self.leave(key, None, now);
        } else if let Some(held) = self.services.get_mut(key) {
            held.unconfirmed = true;
        }
        if self.refused.remove(key).is_some() {
            told.push(Update::Forwarding { service: *key, refused: None });
        }
    }

    /// Services that were refused and would fit now: asked for again.
    pub(crate) fn retry(&mut self) -> Vec<Update> {
        // One at a time: whether the next one fits shows when this one is served.
        let fitting = self.refused.iter().find(|(_, refused)| self.fits(refused.need).is_ok());
        let Some(service) = fitting.map(|(key, _)| *key) else { return Vec::new() };
        self.refused.remove(&service);
        vec![Update::Forwarding { service, refused: None }]
    }

    /// Next hops of the routes to backends.
    pub(crate) fn hops(&self) -> impl Iterator<Item = Hop> {
        self.hops.keys().copied()
    }

    /// How full slots, buckets and ranges are.
    pub(crate) fn fill(&self) -> [(&'static str, Fill); 4] {
        let slots = |slots: &Slots| Fill { used: slots.taken(), max: slots.capacity() };
        let max = self.regions.capacity();
        [
            ("services", slots(&self.service_slots)),
            ("backends", slots(&self.backend_slots)),
            ("buckets", Fill { used: max - self.regions.available(), max }),
            ("source_ranges", Fill { used: self.ranges_used, max: self.ranges_max }),
        ]
    }
}
