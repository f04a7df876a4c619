//! What the reconciler knows and does: pictures of the kernel, plans, operations.

mod addresses;
mod routes;
mod sources;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use haflinger_core::{PodRoute, Snapshot, Vip};
use imbl::OrdMap;
use imbl::ordmap::DiffItem;
use ipnet::IpNet;
use rand::Rng;

use crate::address::{HeldAddress, HeldAddresses};
use crate::kernel::{Event, Kernel, KernelError};
use crate::metrics::Metrics;
use crate::remembered::Remembered;
use crate::retry::Retries;
use crate::route::{HeldRoute, HeldRoutes, ROUTE_PROTOCOL};
use crate::settings::Settings;
use crate::source::Lingering;
use crate::status::Published;

/// What must be looked at.
#[derive(Debug, PartialEq, Eq)]
enum Due<K: Ord> {
    /// These keys, by the picture at hand.
    Keys(BTreeSet<K>),
    /// Everything, after a dump.
    All,
}

impl<K: Ord> Default for Due<K> {
    fn default() -> Self {
        Self::Keys(BTreeSet::new())
    }
}

impl<K: Ord> Due<K> {
    fn add(&mut self, key: K) {
        if let Self::Keys(keys) = self {
            keys.insert(key);
        }
    }

    fn is_all(&self) -> bool {
        *self == Self::All
    }

    fn is_nothing(&self) -> bool {
        matches!(self, Self::Keys(keys) if keys.is_empty())
    }
}

/// The state of the room.
pub(crate) struct Work {
    pub(crate) settings: Arc<Settings>,
    pub(crate) published: Published,
    metrics: Metrics,
    kernel: Option<Kernel>,
    vips: OrdMap<IpAddr, Arc<Vip>>,
    pod_routes: OrdMap<IpNet, Arc<PodRoute>>,
    /// Whether what is not wanted may go: false until the sources have spoken.
    may_remove: bool,
    interface: Option<u32>,
    remembered: Remembered,
    remembered_sources: Remembered,
    held_addresses: HeldAddresses,
    held_routes: HeldRoutes,
    address_retries: Retries<IpAddr>,
    source_retries: Retries<IpAddr>,
    lingering: Lingering,
    route_retries: Retries<IpNet>,
    addresses_due: Due<IpAddr>,
    routes_due: Due<IpNet>,
    denied: bool,
    /// After the kernel could not be read at all: when it is asked again.
    paused_until_ms: Option<u64>,
}

/// Wait in milliseconds after the kernel could not be read.
const ERROR_PAUSE_MS: u64 = 2_000;

impl Work {
    pub(crate) async fn new(settings: Arc<Settings>, metrics: Metrics) -> Self {
        Self {
            remembered: Remembered::load(settings.remembered.clone()).await,
            remembered_sources: Remembered::load(settings.remembered_sources()).await,
            settings,
            published: Published::default(),
            metrics,
            kernel: None,
            vips: OrdMap::new(),
            pod_routes: OrdMap::new(),
            may_remove: false,
            interface: None,
            held_addresses: HeldAddresses::new(),
            held_routes: HeldRoutes::new(),
            address_retries: Retries::default(),
            source_retries: Retries::default(),
            lingering: Lingering::default(),
            route_retries: Retries::default(),
            addresses_due: Due::All,
            routes_due: Due::All,
            denied: false,
            paused_until_ms: None,
        }
    }

    /// Everything is compared anew, with dumps.
    pub(crate) fn resync(&mut self, cause: &str) {
        self.metrics.resync(cause);
        self.addresses_due = Due::All;
        self.routes_due = Due::All;
    }

    /// Takes over a snapshot; only what differs from the one before becomes due.
    pub(crate) fn observe(&mut self, snapshot: &Snapshot, settled: bool) {
        let may_remove = settled && snapshot.generation > 0;
        if may_remove && !self.may_remove {
            self.may_remove = true;
            self.resync("settled");
        }
        for item in self.vips.diff(&snapshot.vips) {
            match item {
                DiffItem::Add(address, _) | DiffItem::Remove(address, _) => {
                    self.addresses_due.add(*address);
                }
                // Whether a VIP is announced is no matter of the kernel's.
                DiffItem::Update { .. } => {}
            }
        }
        let rerouted = self.pod_routes.diff(&snapshot.pod_routes).any(|item| match item {
            DiffItem::Add(..) | DiffItem::Remove(..) => true,
            DiffItem::Update { old: (_, old), new: (_, new) } => old != new,
        });
        if rerouted {
            // What stands at a new destination is known only to the kernel.
            self.routes_due = Due::All;
        }
        self.vips = snapshot.vips.clone();
        self.pod_routes = snapshot.pod_routes.clone();
    }

    /// Looks at one notification; our own operations echo and change nothing.
    pub(crate) fn notice(&mut self, event: &Event, now_ms: u64) {
        let known_address = |held: &HeldAddress| {
            self.held_addresses.get(&held.address).is_some_and(|here| {
                here.iter()
                    .any(|h| (h.interface, h.prefix_len) == (held.interface, held.prefix_len))
            })
        };
        let known_route =
            |held: &HeldRoute| self.held_routes.get(&held.prefix).is_some_and(|h| h.contains(held));
        let concerns_us = match event {
            Event::AddressNew(held) => !known_address(held),
            Event::AddressGone(held) => known_address(held),
            Event::RouteGone(held) => known_route(held),
            Event::RouteNew(held) => {
                let wanted = Some(held.table) == self.settings.pod_route_table
                    && self.pod_routes.contains_key(&held.prefix);
                (wanted || held.protocol == ROUTE_PROTOCOL) && !known_route(held)
            }
            Event::Link => true,
        };
        if !matches!(event, Event::RouteNew(_) | Event::RouteGone(_)) && concerns_us {
            // A next hop may have come within reach, and routes go with their interface.
            self.address_retries.hurry(now_ms);
            self.source_retries.hurry(now_ms);
            self.route_retries.hurry(now_ms);
        }
        if concerns_us {
            self.addresses_due = Due::All;
            self.routes_due = Due::All;
        }
    }

    /// When the next retry is due.
    pub(crate) fn next_due_ms(&self) -> Option<u64> {
        let times = [
            self.address_retries.next_due_ms(),
            self.route_retries.next_due_ms(),
            self.source_retries.next_due_ms(),
            self.lingering.next_due_ms(self.linger_ms()),
            self.paused_until_ms,
        ];
        times.into_iter().flatten().min()
    }

    /// Brings the kernel to what is wanted, as far as anything is due.
    pub(crate) async fn reconcile(&mut self, now_ms: u64) {
        if self.paused_until_ms.is_some_and(|until| now_ms < until) {
            return;
        }
        self.paused_until_ms = None;
        self.denied = false;
        let result = self.reconcile_all(now_ms).await;
        self.published.error = match result {
            Err(error) => {
                // The connection may be the reason; the next attempt opens another.
                self.kernel = None;
                self.paused_until_ms = Some(now_ms + ERROR_PAUSE_MS);
                self.resync("error");
                Some(error)
            }
            Ok(missing) if self.denied => {
                Some(missing.unwrap_or_else(|| KernelError::Denied.to_string()))
            }
            Ok(missing) => missing,
        };
        self.metrics.show(&self.published);
    }

    async fn reconcile_all(&mut self, now_ms: u64) -> Result<Option<String>, String> {
        let kernel = match self.kernel.take() {
            Some(kernel) => kernel,
            None => Kernel::open().map_err(|error| format!("netlink cannot be opened: {error}"))?,
        };
        let look_at_sources = self.addresses_due.is_all() || self.sources_are_due(now_ms);
        // Routes first: an address announced by its presence should find its pods.
        let routes = self.reconcile_routes(&kernel, now_ms).await;
        let addresses = self.reconcile_addresses(&kernel, now_ms).await;
        let sources = match look_at_sources && addresses.is_ok() {
            true => self.reconcile_sources(&kernel, now_ms).await,
            false => Ok(None),
        };
        self.kernel = Some(kernel);
        routes.map_err(|error| format!("routes cannot be read: {error}"))?;
        let unread = |error| format!("addresses cannot be read: {error}");
        Ok(addresses.map_err(unread)?.or(sources.map_err(unread)?))
    }

    /// Whether no further round has something to do at once.
    pub(crate) fn is_idle(&self) -> bool {
        self.paused_until_ms.is_some()
            || (self.addresses_due.is_nothing() && self.routes_due.is_nothing())
    }
}

/// The first key that a limit leaves out.
fn beyond<K: Ord + Copy, V>(wanted: &OrdMap<K, V>, limit: usize) -> Option<K> {
    if wanted.len() <= limit {
        return None;
    }
    wanted.keys().nth(limit).copied()
}

fn jitter() -> f64 {
    rand::rng().random_range(0.5..=1.0)
}
