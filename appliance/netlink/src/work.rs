//! What the reconciler knows and does: pictures of the kernel, plans, operations.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use haflinger_core::{PodRoute, Snapshot, Vip};
use imbl::OrdMap;
use imbl::ordmap::DiffItem;
use ipnet::IpNet;
use rand::Rng;
use tracing::{info, warn};

use crate::address::{self, AddressDecision, AddressPlan, HeldAddress, HeldAddresses};
use crate::kernel::{Event, Kernel, KernelError};
use crate::metrics::Metrics;
use crate::remembered::Remembered;
use crate::retry::Retries;
use crate::route::{
    self, HeldRoute, HeldRoutes, ROUTE_PROTOCOL, RouteDecision, RoutePlan, RouteRules,
};
use crate::settings::{ADDRESSES_MAX, ROUTES_MAX, Settings};
use crate::status::{AddressState, Entry, Published, RouteEntry, RouteState};

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
    held_addresses: HeldAddresses,
    held_routes: HeldRoutes,
    address_retries: Retries<IpAddr>,
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
        // Routes first: an address announced by its presence should find its pods.
        let routes = self.reconcile_routes(&kernel, now_ms).await;
        let addresses = self.reconcile_addresses(&kernel, now_ms).await;
        self.kernel = Some(kernel);
        routes.map_err(|error| format!("routes cannot be read: {error}"))?;
        addresses.map_err(|error| format!("addresses cannot be read: {error}"))
    }

    async fn reconcile_addresses(
        &mut self,
        kernel: &Kernel,
        now_ms: u64,
    ) -> Result<Option<String>, KernelError> {
        let wanted_interface = self.settings.vip_interface.clone();
        if self.addresses_due.is_all() {
            self.interface = match &wanted_interface {
                Some(name) => kernel.interface(name).await?,
                None => None,
            };
            self.held_addresses = kernel.addresses(&self.remembered.addresses).await?;
        }
        if let (Some(name), None) = (&wanted_interface, self.interface) {
            // What stands elsewhere stays: the interface may come back.
            let reason: Arc<str> = format!("interface {name} does not exist").into();
            let entry = Entry { state: AddressState::Failing, reason: Some(reason.clone()) };
            self.published.addresses =
                self.vips.keys().map(|address| (*address, entry.clone())).collect();
            // The notification of the interface's return asks for everything.
            self.addresses_due = Due::default();
            return Ok(Some(reason.to_string()));
        }
        let scope = match std::mem::take(&mut self.addresses_due) {
            Due::Keys(mut keys) => {
                keys.extend(self.address_retries.due(now_ms));
                keys
            }
            Due::All => {
                self.published.addresses = OrdMap::new();
                self.vips.keys().chain(self.held_addresses.keys()).copied().collect()
            }
        };
        if !scope.is_empty() {
            self.change_addresses(kernel, &scope, now_ms).await;
        }
        Ok(None)
    }

    async fn change_addresses(&mut self, kernel: &Kernel, scope: &BTreeSet<IpAddr>, now_ms: u64) {
        // Beyond the limit the highest addresses stay unbound.
        let limit = beyond(&self.vips, ADDRESSES_MAX);
        // No interface has index 0: without one, nothing is wanted.
        let interface = self.interface.unwrap_or(0);
        let mut plan = AddressPlan::default();
        for &address in scope {
            let fits = limit.is_none_or(|limit| address < limit);
            let listed = self.vips.contains_key(&address) && self.interface.is_some();
            let held = &self.held_addresses;
            let decision = address::decide(address, listed && fits, interface, held, &mut plan);
            if listed && !fits {
                let reason = format!("more than {ADDRESSES_MAX} addresses");
                self.show_address(address, AddressState::Skipped, Some(reason));
            } else {
                self.show_decision(address, decision);
            }
        }
        plan.add.retain(|address| self.address_retries.is_due(address, now_ms));
        if !self.may_remove {
            plan.remove.clear();
        }
        if !kernel.marks_addresses() {
            self.remembered.update(&plan.add, &[]).await;
        }
        for address in plan.add {
            let result = kernel.add_address(interface, address).await;
            self.address_added(interface, address, result, now_ms);
        }
        for held in plan.remove {
            let result = kernel.remove_address(&held).await;
            self.address_removed(&held, result, now_ms);
            if !kernel.marks_addresses() && !self.held_addresses.contains_key(&held.address) {
                self.remembered.update(&[], &[held.address]).await;
            }
        }
    }

    fn show_decision(&mut self, address: IpAddr, decision: AddressDecision) {
        let (state, reason) = match decision {
            AddressDecision::Absent => {
                self.published.addresses.remove(&address);
                self.address_retries.settled(&address);
                return;
            }
            AddressDecision::Add => {
                let refusal = self.address_retries.get(&address);
                let reason = refusal.map(|refusal| refusal.reason.clone());
                self.show_address(address, AddressState::Failing, reason);
                return;
            }
            AddressDecision::Bound => (AddressState::Bound, None),
            AddressDecision::Foreign => {
                (AddressState::Foreign, Some("the host has it from elsewhere; it is left alone"))
            }
            AddressDecision::Unbindable => {
                (AddressState::Skipped, Some("loopback, link-local and multicast are not bound"))
            }
        };
        self.address_retries.settled(&address);
        self.show_address(address, state, reason.map(str::to_owned));
    }

    fn show_address(&mut self, address: IpAddr, state: AddressState, reason: Option<String>) {
        let entry = Entry { state, reason: reason.map(Arc::from) };
        self.published.addresses.insert(address, entry);
    }

    fn address_added(
        &mut self,
        interface: u32,
        address: IpAddr,
        result: Result<(), KernelError>,
        now_ms: u64,
    ) {
        self.metrics.operation("address_add", result.is_ok());
        match result {
            Ok(()) => {
                info!(%address, "address bound");
                let prefix_len = address::host_prefix_len(address);
                let held = HeldAddress { interface, address, prefix_len, ours: true };
                self.held_addresses.entry(address).or_default().push(held);
                self.address_retries.settled(&address);
                self.show_address(address, AddressState::Bound, None);
            }
            Err(error) => {
                // Somebody was quicker: the dump will tell who.
                if error == KernelError::Exists {
                    self.addresses_due = Due::All;
                }
                self.denied |= error == KernelError::Denied;
                warn!(%address, %error, "address not bound");
                self.show_address(address, AddressState::Failing, Some(error.to_string()));
                self.address_retries.refused(address, error.to_string(), now_ms, jitter());
            }
        }
    }

    fn address_removed(
        &mut self,
        held: &HeldAddress,
        result: Result<(), KernelError>,
        now_ms: u64,
    ) {
        self.metrics.operation("address_remove", result.is_ok());
        match result {
            Ok(()) | Err(KernelError::Gone) => {
                info!(address = %held.address, "address let go");
                address::forget(held, &mut self.held_addresses);
            }
            Err(error) => {
                self.denied |= error == KernelError::Denied;
                warn!(address = %held.address, %error, "address not let go");
                self.address_retries.refused(held.address, error.to_string(), now_ms, jitter());
            }
        }
    }

    async fn reconcile_routes(&mut self, kernel: &Kernel, now_ms: u64) -> Result<(), KernelError> {
        let table = self.settings.pod_route_table;
        if self.routes_due.is_all() {
            let wanted = |prefix: &IpNet| self.pod_routes.contains_key(prefix);
            self.held_routes = kernel.routes(table, wanted).await?;
        }
        let scope: BTreeSet<_> = match std::mem::take(&mut self.routes_due) {
            Due::Keys(mut keys) => {
                keys.extend(self.route_retries.due(now_ms));
                keys
            }
            Due::All => {
                self.published.routes = OrdMap::new();
                self.pod_routes.keys().chain(self.held_routes.keys()).copied().collect()
            }
        };
        // Without a table nothing is wanted, and what was written before goes.
        let limit = beyond(&self.pod_routes, ROUTES_MAX);
        let rules = RouteRules { table: table.unwrap_or(0) };
        let mut plan = RoutePlan::default();
        for prefix in scope {
            let fits = limit.is_none_or(|limit| prefix < limit);
            let wish = self.pod_routes.get(&prefix).filter(|_| table.is_some()).cloned();
            let via = wish.as_ref().filter(|_| fits).map(|wish| wish.via);
            let decision = route::decide(prefix, via, &rules, &self.held_routes, &mut plan);
            let over = (!fits).then(|| format!("more than {ROUTES_MAX} routes"));
            self.show_route(prefix, wish.as_deref(), decision, over);
        }
        if !self.may_remove {
            // A route in another table, or of a node not yet listed, may still be needed.
            plan.remove.clear();
        }
        self.change_routes(kernel, plan, now_ms).await;
        Ok(())
    }

    fn show_route(
        &mut self,
        prefix: IpNet,
        wish: Option<&PodRoute>,
        decision: RouteDecision,
        over_limit: Option<String>,
    ) {
        let Some(wish) = wish else {
            self.published.routes.remove(&prefix);
            self.route_retries.settled(&prefix);
            return;
        };
        let (state, reason) = match decision {
            RouteDecision::Installed => (RouteState::Installed, None),
            RouteDecision::Write => {
                let refusal = self.route_retries.get(&prefix);
                (RouteState::Failing, refusal.map(|refusal| refusal.reason.clone()))
            }
            RouteDecision::Conflict(protocol) => {
                let text = format!("a foreign route (protocol {protocol}) stands there");
                (RouteState::Conflict, Some(text))
            }
            RouteDecision::Invalid(invalid) => (RouteState::Invalid, Some(invalid.to_string())),
            RouteDecision::Absent => (RouteState::Invalid, over_limit),
        };
        if decision != RouteDecision::Write {
            self.route_retries.settled(&prefix);
        }
        let entry = Entry { state, reason: reason.map(Arc::from) };
        let route = RouteEntry { via: wish.via, node: Arc::clone(&wish.node), entry };
        self.published.routes.insert(prefix, route);
    }

    async fn change_routes(&mut self, kernel: &Kernel, plan: RoutePlan, now_ms: u64) {
        for route in plan.remove {
            let result = kernel.remove_route(&route).await;
            self.metrics.operation("route_remove", result.is_ok());
            match result {
                Ok(()) | Err(KernelError::Gone) => {
                    info!(prefix = %route.prefix, table = route.table, "route taken back");
                    route::forget(&route, &mut self.held_routes);
                }
                Err(error) => self.route_refused(&route, error, now_ms),
            }
        }
        for route in
            plan.add.into_iter().filter(|r| self.route_is_due(r, now_ms)).collect::<Vec<_>>()
        {
            let result = kernel.add_route(&route).await;
            self.route_written("route_add", route, result, now_ms);
        }
        for route in
            plan.replace.into_iter().filter(|r| self.route_is_due(r, now_ms)).collect::<Vec<_>>()
        {
            let result = kernel.replace_route(&route).await;
            self.route_written("route_replace", route, result, now_ms);
        }
    }

    fn route_is_due(&self, route: &HeldRoute, now_ms: u64) -> bool {
        self.route_retries.is_due(&route.prefix, now_ms)
    }

    fn route_written(
        &mut self,
        kind: &str,
        route: HeldRoute,
        result: Result<(), KernelError>,
        now_ms: u64,
    ) {
        self.metrics.operation(kind, result.is_ok());
        if let Err(error) = result {
            return self.route_refused(&route, error, now_ms);
        }
        info!(prefix = %route.prefix, via = ?route.via, table = route.table, "route written");
        route::note(route, &mut self.held_routes);
        self.route_retries.settled(&route.prefix);
        if let Some(shown) = self.published.routes.get_mut(&route.prefix) {
            shown.entry = Entry { state: RouteState::Installed, reason: None };
        }
    }

    fn route_refused(&mut self, route: &HeldRoute, error: KernelError, now_ms: u64) {
        if error == KernelError::Exists {
            self.routes_due = Due::All;
        }
        self.denied |= error == KernelError::Denied;
        warn!(prefix = %route.prefix, via = ?route.via, %error, "route not changed");
        if let Some(shown) = self.published.routes.get_mut(&route.prefix) {
            let reason = Some(error.to_string().into());
            shown.entry = Entry { state: RouteState::Failing, reason };
        }
        self.route_retries.refused(route.prefix, error.to_string(), now_ms, jitter());
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
