//! Service objects: their targets, tables, probes and L4 services.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::backends::{Gathering, backends_max};
use super::forwarding::Reach;
use super::reach::Asked;
use super::slices::Slices;
use super::{Index, Want, WantedPort, put};
use crate::forwarding::{Change, ForwardingTable, Starts, TableSettings, TableView};
use crate::{
    Backend, BackendSet, BackendState, Exposure, Family, FamilyPolicy, FaultReason, ForwardingMode,
    HealthCheck, ObjectKind, ObjectRef, ProbeKey, ProbeWay, ProxyProtocol, Service, ServiceKey,
    ServicePort, ServiceSpec, SliceBackend, SourceFault, SourceId, StateReason, Target,
};

/// Everything known about one service object.
#[derive(Default)]
pub(super) struct ServiceEntry {
    pub(super) spec: Option<Arc<ServiceSpec>>,
    pub(super) slices: Slices,
    /// Ingresses and Gateways that lead to it.
    pub(super) users: BTreeSet<ObjectRef>,
    targets: Box<[Target]>,
    pub(super) keys: Box<[ServiceKey]>,
    probes: Box<[ProbeKey]>,
    /// Addresses of which it has to be known whether they are reached.
    asked: Box<[SocketAddr]>,
    /// Ports of its addresses that another object serves.
    pub(super) taken: Box<[ServiceKey]>,
    pub(super) faults: Vec<SourceFault>,
}

impl ServiceEntry {
    pub(super) fn is_empty(&self) -> bool {
        self.spec.is_none() && self.slices.is_empty() && self.users.is_empty()
    }

    /// Whether a VIP or an L7 rule leads to it.
    pub(super) fn is_used(&self) -> bool {
        !self.targets.is_empty()
    }

    pub(super) fn targets(&self) -> &[Target] {
        &self.targets
    }

    /// The family whose backends serve a VIP of `family`: its own, or the other one where only
    /// that one has backends (the relay has a socket on each side).
    fn backend_family(&self, family: Family) -> Family {
        let has = |wanted: Family| {
            self.slices.values().any(|slice| slice.family == wanted && !slice.backends.is_empty())
        };
        let other = if family == Family::V4 { Family::V6 } else { Family::V4 };
        if !has(family) && has(other) { other } else { family }
    }

    /// The target that an L7 rule for `port` of this service leads to.
    pub(super) fn http_target(&self, object: &ObjectRef, port: &ServicePort) -> Target {
        let preferred = self.spec.as_ref().and_then(|spec| spec.families.first().copied());
        let family = self.backend_family(preferred.unwrap_or(Family::V4));
        Target { object: object.clone(), port: port.port, protocol: port.protocol, family }
    }
}

impl Index {
    pub(super) fn note_service(&mut self, object: ObjectRef, spec: Option<Box<ServiceSpec>>) {
        let alone = self.share(&object, spec);
        self.note_alone(object, alone);
    }

    /// Notes what an object says for itself.
    pub(super) fn note_alone(&mut self, object: ObjectRef, spec: Option<Box<ServiceSpec>>) {
        let entry = self.services.entry(object);
        // The name that is known already: whatever is kept shares it.
        let object = entry.key().clone();
        let entry = entry.or_default();
        let spec = spec.map(|spec| Arc::new(*spec));
        if entry.spec == spec {
            if entry.is_empty() {
                // Nothing is known: publishing takes the entry away, with what is left of it.
                self.dirty.services.insert(object);
            }
            return;
        }
        let wanted = spec.as_ref().and_then(|spec| {
            // An address on which no port can be served would lead clients nowhere.
            let exposure = spec.exposure.as_ref().filter(|_| !spec.ports.is_empty())?;
            Some(want(&object, spec, exposure))
        });
        entry.spec = spec;
        self.named_service_changed(&object);
        self.claims.want(&object, wanted);
        self.dirty.reports.insert(object.clone());
        self.dirty.services.insert(object);
    }

    /// Brings one service object's targets, tables, probes and L4 services up to date.
    pub(super) fn publish_service(&mut self, object: &ObjectRef, now_secs: u64) {
        // The entry stays in its place: a tree from which entries go and come back is half empty.
        let Some(entry) = self.services.get_mut(object) else { return };
        let mut entry = std::mem::take(entry);
        let mut next = Derived::default();
        if let Some(spec) = entry.spec.clone() {
            self.derive_targets(object, &entry, &spec, now_secs, &mut next);
            if let Some(exposure) = &spec.exposure {
                self.derive_services(object, &entry, &spec, exposure, &mut next);
            }
            // After the services: their modes say how backends are reached.
            self.derive_probes(object, &entry, &spec, &mut next);
        }
        let slice_faults = entry.slices.values().flat_map(|slice| slice.faults.iter().cloned());
        next.faults.extend(slice_faults);
        self.replace_derived(object, &mut entry, next);
        if object.kind == ObjectKind::Service {
            self.follow_pods(object, &entry);
        }
        self.dirty.reports.insert(object.clone());
        if entry.is_empty() {
            self.services.remove(object);
        } else if let Some(place) = self.services.get_mut(object) {
            *place = entry;
        }
    }

    /// Targets of every port that a VIP or an L7 rule needs.
    fn derive_targets(
        &mut self,
        object: &ObjectRef,
        entry: &ServiceEntry,
        spec: &ServiceSpec,
        now_secs: u64,
        next: &mut Derived,
    ) {
        let exposed = spec.exposure.iter().flat_map(|exposure| &exposure.families);
        let used = spec.families.iter().take(usize::from(!entry.users.is_empty()));
        let families: BTreeSet<Family> =
            exposed.chain(used).map(|family| entry.backend_family(*family)).collect();
        let zone = self.policy.zone.clone();
        let backends_max = backends_max(spec.ports.len() * families.len());
        let gathering = Gathering { spec, zone: zone.as_deref(), backends_max };
        let may_wait = self.may_wait(&object.source);
        let mut cut = false;
        for port in &spec.ports {
            for family in &families {
                let target = Target {
                    object: object.clone(),
                    port: port.port,
                    protocol: port.protocol,
                    family: *family,
                };
                let slices = entry
                    .slices
                    .iter()
                    .map(|(name, slice)| (&**slice, self.shared.rank(object, name)));
                let failed = |backend: &SocketAddr| self.check_failed(object, backend);
                let awaited = |endpoint: &SliceBackend| {
                    may_wait && self.gates.lacks_only_the_gate(object, endpoint)
                };
                let gathered = gathering.gather(port, *family, slices, failed, awaited);
                cut |= gathered.cut;
                if gathered.port_unmatched {
                    next.faults.push(unmatched(port));
                }
                let (backends, fault) =
                    self.lead(&target, spec, port, gathered.backends, &mut next.asked);
                next.faults.extend(fault);
                self.update_target(&target, backends, now_secs);
                next.targets.insert(target);
            }
        }
        if cut {
            next.faults.push(too_many(backends_max));
        }
    }

    fn check_failed(&self, object: &ObjectRef, backend: &SocketAddr) -> bool {
        let probe = ProbeKey { object: object.clone(), backend: *backend };
        self.health.get(&probe) == Some(&false)
    }

    /// One probe for each backend, on every way by which flows reach it.
    fn derive_probes(
        &mut self,
        object: &ObjectRef,
        entry: &ServiceEntry,
        spec: &ServiceSpec,
        next: &mut Derived,
    ) {
        let Some(check) = &spec.health_check else { return };
        let own_port = check.port.is_none();
        let proxy_protocol = if own_port { spec.proxy_protocol } else { ProxyProtocol::Off };
        let check = HealthCheck { proxy_protocol, ..check.clone() };
        // Ports of the service may share a backend's port.
        let mut probes: BTreeMap<ProbeKey, BTreeSet<ProbeWay>> = BTreeMap::new();
        for target in &next.targets {
            let Some(set) = self.published.targets.get(target) else { continue };
            let ways = self.ways_to(target, entry, spec, &next.keys);
            // What a node's port leads to, the node knows.
            let never = [StateReason::Terminated, StateReason::NodePort];
            let alive =
                |backend: &&Backend| !backend.reasons.iter().any(|reason| never.contains(reason));
            for backend in set.backends.iter().filter(alive) {
                let probe = ProbeKey { object: object.clone(), backend: backend.address };
                probes.entry(probe).or_default().extend(&ways);
            }
        }
        for (probe, ways) in probes {
            let direct = ways.iter().all(|way| *way == ProbeWay::Direct);
            let ways = if direct { Vec::new() } else { ways.into_iter().collect() };
            let check = Some(Arc::new(HealthCheck { ways, ..check.clone() }));
            self.dirty.changed |= put(&mut self.published.probes, probe.clone(), check);
            next.probes.insert(probe);
        }
    }

    /// The ways by which flows reach the backends of a target.
    fn ways_to(
        &self,
        target: &Target,
        entry: &ServiceEntry,
        spec: &ServiceSpec,
        keys: &BTreeSet<ServiceKey>,
    ) -> BTreeSet<ProbeWay> {
        let services = keys.iter().filter_map(|key| self.published.services.get(key));
        let mut ways: BTreeSet<ProbeWay> = services
            .filter(|service| service.backends.target == *target)
            .map(|service| match service.mode {
                ForwardingMode::Dsr => ProbeWay::Through(service.key.vip),
                ForwardingMode::Nat | ForwardingMode::Routed | ForwardingMode::Proxy => {
                    ProbeWay::Direct
                }
            })
            .collect();
        let preferred = spec.families.first().copied().unwrap_or(Family::V4);
        if !entry.users.is_empty() && target.family == entry.backend_family(preferred) {
            ways.insert(ProbeWay::Direct);
        }
        ways
    }

    fn update_target(&mut self, target: &Target, backends: Vec<Backend>, now_secs: u64) {
        let table = update_table(
            &mut self.tables,
            &mut self.starts,
            target,
            &backends,
            now_secs,
            &mut self.movement,
        );
        let known = self.published.targets.get(target);
        let same = known.is_some_and(|set| {
            set.backends == backends && set.table.generation() == table.generation()
        });
        if !same {
            let set = BackendSet { target: target.clone(), backends, table };
            self.published.targets.insert(target.clone(), Arc::new(set));
            self.dirty.changed = true;
        }
    }

    /// L4 services on the addresses that the object holds and its status records.
    fn derive_services(
        &mut self,
        object: &ObjectRef,
        entry: &ServiceEntry,
        spec: &ServiceSpec,
        exposure: &Exposure,
        next: &mut Derived,
    ) {
        let served = self.claims.outcome(object).map(|o| o.served.clone()).unwrap_or_default();
        for address in &served {
            for port in &spec.ports {
                let key = ServiceKey { vip: *address, port: port.port, protocol: port.protocol };
                if let Some(holder) = self.published.services.get(&key)
                    && holder.object != *object
                {
                    let holder = holder.object.clone();
                    if self.is_older(&holder, (spec.created_secs, object)) {
                        next.faults.push(port_taken(&key, &holder));
                        next.taken.insert(key);
                        continue;
                    }
                    // It takes the port away; the other one then learns why.
                    self.dirty.services.insert(holder);
                }
                let family = entry.backend_family(Family::of(*address));
                next.faults.extend(self.serve(key, object, spec, exposure, family));
                next.keys.insert(key);
            }
        }
        if object.kind == ObjectKind::Service {
            let names = exposure.hostnames.iter().cloned().collect();
            self.publish_hostnames(object, names, &served, exposure.ttl_secs);
        }
    }

    /// Serves one port of one address. Returns what is wrong with it.
    fn serve(
        &mut self,
        key: ServiceKey,
        object: &ObjectRef,
        spec: &ServiceSpec,
        exposure: &Exposure,
        family: Family,
    ) -> Option<SourceFault> {
        let (port, protocol) = (key.port, key.protocol);
        let target = Target { object: object.clone(), port, protocol, family };
        let backends = self.published.targets.get(&target).cloned()?;
        let resolved = self.resolve_mode(key, spec, exposure, &backends);
        let service = Service {
            key,
            object: object.clone(),
            mode: resolved.mode,
            asked_mode: resolved.asked,
            mode_reason: resolved.reason,
            algorithm: spec.algorithm,
            limits: spec.limits,
            timeouts: self.policy.timeouts.with(spec.timeouts),
            source_ranges: exposure.source_ranges.clone(),
            proxy_protocol: spec.proxy_protocol,
            backends,
        };
        let known = self.published.services.get(&key);
        if known.is_none_or(|known| !known.serves_like(&service)) {
            self.published.services.insert(key, Arc::new(service));
            self.dirty.addresses.insert(key.vip);
            self.dirty.changed = true;
        }
        resolved.fault
    }

    /// Takes away what the object no longer needs.
    fn replace_derived(&mut self, object: &ObjectRef, entry: &mut ServiceEntry, next: Derived) {
        for key in entry.keys.iter().filter(|known| !next.keys.contains(known)) {
            let holder = self.published.services.get(key).map(|service| &service.object);
            if holder.is_some_and(|holder| holder != object) {
                // An older object has taken it over.
                continue;
            }
            self.published.services.remove(key);
            self.dirty.addresses.insert(key.vip);
            self.dirty.changed = true;
            self.reconsider_port(key);
        }
        for target in entry.targets.iter().filter(|known| !next.targets.contains(known)) {
            self.published.targets.remove(target);
            self.tables.remove(target);
            self.reach.forget(target);
            self.dirty.changed = true;
        }
        for probe in entry.probes.iter().filter(|known| !next.probes.contains(known)) {
            self.published.probes.remove(probe);
            self.health.remove(probe);
            self.dirty.changed = true;
        }
        let exposed = entry.spec.as_ref().is_some_and(|spec| spec.exposure.is_some());
        if !exposed && object.kind == ObjectKind::Service {
            self.publish_hostnames(object, BTreeSet::new(), &[], None);
        }
        // Rules name targets: they change only when targets come or go. Whether a target has
        // backends decides about the announcement alone.
        if !entry.targets.iter().eq(&next.targets) {
            let (gateways, ingresses): (Vec<&ObjectRef>, Vec<&ObjectRef>) =
                entry.users.iter().partition(|user| user.kind == ObjectKind::Gateway);
            self.dirty.ingresses.extend(ingresses.into_iter().cloned());
            self.mark_users(gateways);
        }
        let sites = entry.users.iter().filter_map(|user| self.ingresses.get(user));
        self.dirty.vips.extend(sites.flat_map(|site| &site.addresses));
        let vips: Vec<IpAddr> = self.gateway_addresses(&entry.users).copied().collect();
        self.dirty.vips.extend(vips);
        entry.asked = self.replace_asked(object, &entry.asked, next.asked);
        entry.keys = next.keys.into_iter().collect();
        entry.targets = next.targets.into_iter().collect();
        entry.probes = next.probes.into_iter().collect();
        entry.taken = next.taken.into_iter().collect();
        entry.faults = next.faults;
    }

    /// Of two objects on one address (of the inventory, or with one sharing key) that want one
    /// port, the older has it, then the one with the smaller name.
    fn is_older(&self, holder: &ObjectRef, than: (i64, &ObjectRef)) -> bool {
        let spec = self.services.get(holder).and_then(|entry| entry.spec.as_ref());
        // One that is gone gives the port up when it is looked at next.
        spec.is_none_or(|spec| (spec.created_secs, holder) < than)
    }

    /// A freed port may be what others that share the address wait for.
    fn reconsider_port(&mut self, key: &ServiceKey) {
        let holders = self.claims.holders(key.vip);
        // A Gateway's L4 listeners are services under its name.
        let services = holders.into_iter().filter(|holder| holder.kind != ObjectKind::Ingress);
        self.dirty.services.extend(services);
    }

    /// How far a new flow gets on the address at best; `None` without an L4 service.
    pub(super) fn service_reach_on(&self, address: IpAddr) -> Option<Reach> {
        let lowest = ServiceKey { vip: address, port: 0, protocol: crate::Protocol::Tcp };
        let mut best = None;
        for (key, service) in self.published.services.range(lowest..) {
            if key.vip != address {
                break;
            }
            let open = self.is_reachable(key, service.mode);
            best = best.max(Some(Reach::of(service.backends.is_available(), open)));
            if best == Some(Reach::Backend) {
                break;
            }
        }
        best
    }
}

/// What one round of derivation found.
#[derive(Default)]
struct Derived {
    targets: BTreeSet<Target>,
    keys: BTreeSet<ServiceKey>,
    probes: BTreeSet<ProbeKey>,
    taken: BTreeSet<ServiceKey>,
    asked: Asked,
    faults: Vec<SourceFault>,
}

/// What an exposed service wants of the claims.
fn want(object: &ObjectRef, spec: &ServiceSpec, exposure: &Exposure) -> Want {
    let wanted =
        |port: &ServicePort| WantedPort { protocol: port.protocol, port: port.port, http: false };
    Want {
        families: exposure.families.clone(),
        any_family: exposure.family_policy == FamilyPolicy::Possible,
        requested: exposure.requested.clone(),
        pool: exposure.pool.clone(),
        recorded: exposure.recorded.clone(),
        created_secs: spec.created_secs,
        sharing: exposure.wish.sharing.clone(),
        ports: spec.ports.iter().map(wanted).collect(),
        labels: exposure.wish.labels.clone(),
        fixed: object.source == SourceId::inventory(),
    }
}

fn port_taken(key: &ServiceKey, holder: &ObjectRef) -> SourceFault {
    SourceFault::new(
        FaultReason::PortTaken,
        format!(
            "{key} is served for {holder}, which shares the address and is older: choose another \
             port, or another sharing key"
        ),
    )
}

fn unmatched(port: &ServicePort) -> SourceFault {
    SourceFault::new(
        FaultReason::PortUnmatched,
        format!(
            "no EndpointSlice has a {} port named {:?} for service port {}: check targetPort",
            port.protocol, port.name, port.port
        ),
    )
}

fn too_many(backends_max: usize) -> SourceFault {
    SourceFault::new(
        FaultReason::TooManyBackends,
        format!(
            "a port has more backends than are used: the first {backends_max} in the order of \
             their EndpointSlices' names; spread them over several Services"
        ),
    )
}

/// What all service tables together have changed since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Movement {
    /// Buckets whose first hop went from one backend to another.
    pub moved: u64,
    /// Of these, buckets that had moved within the hold time before: flows that have lived
    /// through both moves may be cut off.
    pub at_risk: u64,
    /// Second hops cleared, because their backend was found dead or slots ran out.
    pub cleared: u64,
    /// Tables doubled.
    pub doubled: u64,
    /// Backends given nothing because their table had too many.
    pub refused: u64,
}

impl Movement {
    fn add(&mut self, change: Change) {
        self.moved += u64::from(change.moved);
        self.at_risk += u64::from(change.at_risk);
        self.cleared += u64::from(change.cleared);
        self.doubled += u64::from(change.doubled);
        self.refused += change.refused as u64;
    }
}

/// Moves the target's table to the active backends. A backend that failed our check is dead:
/// its buckets fall back to the hop before it. Every other change is planned.
fn update_table(
    tables: &mut BTreeMap<Target, Box<ForwardingTable<SocketAddr>>>,
    starts: &mut Starts,
    target: &Target,
    backends: &[Backend],
    now_secs: u64,
    movement: &mut Movement,
) -> TableView<SocketAddr> {
    let active = || {
        let active = backends.iter().filter(|backend| backend.state == BackendState::Active);
        active.map(|backend| (backend.address, backend.weight))
    };
    let table = match tables.entry(target.clone()) {
        std::collections::btree_map::Entry::Vacant(vacant) => {
            let mut table = ForwardingTable::with_settings(TableSettings::of_services());
            table.update_sharing(starts, active(), now_secs);
            vacant.insert(Box::new(table))
        }
        std::collections::btree_map::Entry::Occupied(occupied) => {
            let table = occupied.into_mut();
            for backend in backends {
                if backend.reasons.contains(&StateReason::CheckFailed) {
                    movement.add(table.fail(&backend.address, now_secs));
                }
            }
            movement.add(table.update_sharing(starts, active(), now_secs));
            table
        }
    };
    table.view()
}

impl Service {
    /// Whether the data path would see no difference.
    fn serves_like(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.backends, &other.backends)
            && self.object == other.object
            && self.mode == other.mode
            && self.asked_mode == other.asked_mode
            && self.mode_reason == other.mode_reason
            && self.algorithm == other.algorithm
            && self.limits == other.limits
            && self.timeouts == other.timeouts
            && self.source_ranges == other.source_ranges
            && self.proxy_protocol == other.proxy_protocol
    }
}
