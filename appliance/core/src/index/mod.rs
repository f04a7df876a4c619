//! Updates in, snapshot out.
//!
//! [`Index::apply`] notes a change and marks what it touches; [`Index::publish`] brings the
//! touched parts up to date and hands out the next snapshot. The work is proportional to what
//! was touched: a changed slice costs its service, never the number of services.
//!
//! ```text
//!  updates ─> apply ─> dirty marks ─> publish:  claims ─> services ─> ingresses ─> addresses
//!                                               (who holds  (targets,   (rules,      (VIPs,
//!                                                a VIP)      tables)     hosts)       listeners)
//!                                                  └── Gateways ──┘
//! ```
//!
//! The same facts in any order end in the same snapshot, but for the forwarding tables, which
//! are functions of their history.

mod backends;
mod claims;
mod forwarding;
mod gates;
mod gateway;
mod http;
mod ingress_rules;
mod network;
mod reach;
mod reports;
mod routes;
mod services;
mod shared;
mod slices;
mod stand_ins;
mod wishes;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use imbl::OrdMap;

pub use self::claims::Effort;
use self::claims::{Claims, Want, WantedPort};
use self::forwarding::DataPath;
use self::gates::Gates;
use self::gateway::GatewayApi;
pub use self::gateway::SUPPORTED_FEATURES;
use self::http::IngressEntry;
use self::network::Hostnames;
use self::reach::Reachability;
pub use self::reach::{Fallback, REACH_MAX};
use self::routes::PodNetworks;
pub use self::services::Movement;
use self::services::ServiceEntry;
use self::shared::SharedServices;
use crate::forwarding::{ForwardingTable, Starts};
use crate::{
    AddressWish, CertificateRef, CertificateSpec, IpMode, ObjectRef, ObjectReport, PodRef, Policy,
    ProbeKey, Snapshot, SourceFault, SourceId, SourceUpdate, StatusAddress, Target, Update,
};

/// Folds updates into snapshots. Time is an argument in whole seconds of any monotonic clock.
#[derive(Default)]
pub struct Index {
    policy: Arc<Policy>,
    /// Whether any policy has been told.
    configured: bool,
    synced: BTreeSet<SourceId>,
    services: BTreeMap<ObjectRef, ServiceEntry>,
    ingresses: BTreeMap<ObjectRef, IngressEntry>,
    certificates: BTreeMap<CertificateRef, CertificateEntry>,
    health: BTreeMap<ProbeKey, bool>,
    /// VIPs that this host has.
    bound: BTreeSet<IpAddr>,
    data_path: DataPath,
    tables: BTreeMap<Target, Box<ForwardingTable<SocketAddr>>>,
    starts: Starts,
    movement: Movement,
    claims: Claims,
    networks: PodNetworks,
    gates: Gates,
    reach: Reachability,
    shared: SharedServices,
    hostnames: Hostnames,
    gateway_api: GatewayApi,
    /// Ingresses served on each address.
    sites: BTreeMap<IpAddr, BTreeSet<ObjectRef>>,
    dirty: Dirty,
    published: Snapshot,
}

#[derive(Default)]
struct CertificateEntry {
    material: Option<Arc<CertificateSpec>>,
    fault: Option<SourceFault>,
    /// What its users are told although it is served.
    notices: Vec<SourceFault>,
    users: BTreeSet<ObjectRef>,
}

/// What `publish` has to look at.
#[derive(Default)]
struct Dirty {
    /// Services of several clusters.
    shared: BTreeSet<ObjectRef>,
    services: BTreeSet<ObjectRef>,
    ingresses: BTreeSet<ObjectRef>,
    /// Listeners and announcement.
    addresses: BTreeSet<IpAddr>,
    /// Announcement only.
    vips: BTreeSet<IpAddr>,
    reports: BTreeSet<ObjectRef>,
    certificates: BTreeSet<CertificateRef>,
    /// Gates.
    pods: BTreeSet<PodRef>,
    changed: bool,
}

impl Index {
    /// An index that knows nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// The snapshot published last.
    pub fn current(&self) -> &Snapshot {
        &self.published
    }

    /// Whether the configuration is known and every source in it has listed everything once.
    pub fn is_complete(&self) -> bool {
        self.configured && self.policy.sources.iter().all(|source| self.synced.contains(source))
    }

    /// What settling who holds which address has cost since the start.
    pub fn effort(&self) -> Effort {
        self.claims.effort()
    }

    /// Gateways that were built anew since the start, each with all of its listeners and routes.
    pub fn gateway_builds(&self) -> u64 {
        self.builds_of_gateways()
    }

    /// What the forwarding tables have changed since the start.
    pub fn movement(&self) -> Movement {
        self.movement
    }

    /// Notes one change.
    pub fn apply(&mut self, update: Update) {
        match update {
            Update::Source(update) => self.apply_source(update),
            Update::Synced(source) => drop(self.synced.insert(source)),
            Update::Retired(source) => self.retire(&source),
            Update::Health { probe, healthy } => self.note_health(probe, healthy),
            Update::Reach { address, asked, reached } => self.note_reach(address, asked, reached),
            Update::Bound { address, bound } => {
                let changed = match bound {
                    true => self.bound.insert(address),
                    false => self.bound.remove(&address),
                };
                if changed {
                    self.dirty.vips.insert(address);
                }
            }
            Update::Certificate { certificate, fault } => {
                let entry = self.certificates.entry(certificate).or_default();
                if entry.fault != fault {
                    entry.fault = fault;
                    let users = entry.users.clone();
                    self.mark_users(&users);
                }
            }
            Update::CertificateNotice { certificate, notices } => {
                let entry = self.certificates.entry(certificate).or_default();
                if entry.notices != notices {
                    entry.notices = notices;
                    // Nothing is served otherwise: their reports alone.
                    self.dirty.reports.extend(entry.users.iter().cloned());
                }
            }
            Update::Datapath { fault } => self.note_data_path(fault),
            Update::Forwarding { service, refused } => self.note_refused(service, refused),
            Update::Held { service, held } => self.note_held(service, held),
            Update::Served { listener, fault } => self.note_unserved(listener, fault),
            Update::Policy(policy) => self.note_policy(policy),
        }
    }

    fn apply_source(&mut self, update: SourceUpdate) {
        match update {
            SourceUpdate::Service { object, spec } => self.note_service(object, spec),
            SourceUpdate::Slice { service, slice, content } => {
                let entry = self.services.entry(service);
                // The name that is known already: whatever is kept shares it.
                let object = entry.key().clone();
                let entry = entry.or_default();
                if entry.slices.note(slice, content) || entry.is_empty() {
                    self.slices_changed(&object);
                    self.feed_changed(&object);
                    self.dirty.services.insert(object);
                }
            }
            SourceUpdate::Node { source, name, spec } => {
                let (key, spec) = ((source, name), spec.map(|spec| *spec));
                if !self.networks.leads_alike(&key, spec.as_ref()) {
                    self.note_nodes(&key.0);
                }
                let touched = self.networks.note_node(key, spec, &self.policy);
                self.publish_routes(touched);
            }
            SourceUpdate::PodNetwork { source, origin, name, spec } => {
                let spec = spec.map(|spec| *spec);
                let touched = self.networks.note_object(source, origin, name, spec, &self.policy);
                self.publish_routes(touched);
            }
            SourceUpdate::Namespace { source, name, spec } => {
                self.note_namespace_labels(&source, &name, spec.as_deref());
                self.claims.note_namespace(&source, &name, spec.map(|spec| spec.labels));
            }
            SourceUpdate::Pod { pod, spec } => self.note_pod(pod, spec),
            SourceUpdate::Ingress { object, spec } => self.note_ingress(object, spec),
            SourceUpdate::UserList { secret, list } => {
                self.dirty.changed |= put(&mut self.published.user_lists, secret, list);
            }
            SourceUpdate::Certificate { certificate, material } => {
                let entry = self.certificates.entry(certificate.clone()).or_default();
                let material = material.map(|spec| Arc::new(*spec));
                if entry.material != material {
                    entry.material = material;
                    let users = entry.users.clone();
                    self.mark_users(&users);
                    self.dirty.certificates.insert(certificate);
                }
            }
            SourceUpdate::GatewayClass { .. }
            | SourceUpdate::Gateway { .. }
            | SourceUpdate::ListenerSet { .. }
            | SourceUpdate::Route { .. }
            | SourceUpdate::ReferenceGrant { .. }
            | SourceUpdate::BackendTlsPolicy { .. }
            | SourceUpdate::RequestPolicy { .. }
            | SourceUpdate::BackendPolicy { .. }
            | SourceUpdate::Authority { .. } => self.note_gateway_api(update),
        }
    }

    fn note_health(&mut self, probe: ProbeKey, healthy: Option<bool>) {
        let before = match healthy {
            Some(healthy) => self.health.insert(probe.clone(), healthy),
            None => self.health.remove(&probe),
        };
        if before != healthy {
            self.dirty.services.insert(probe.object);
        }
    }

    fn note_policy(&mut self, policy: Arc<Policy>) {
        if self.configured && *self.policy == *policy {
            return;
        }
        self.configured = true;
        let (old, new) = (&self.policy, &policy);
        self.dirty.addresses.extend(&old.shared_http_addresses);
        self.dirty.addresses.extend(&new.shared_http_addresses);
        self.dirty.vips.extend(self.published.vips.keys());
        let forwarding = |policy: &Policy| (policy.default_mode, policy.timeouts, policy.xdp);
        let led = |policy: &Policy| (policy.zone.clone(), policy.fallback);
        if forwarding(old) != forwarding(new) || led(old) != led(new) {
            self.dirty.services.extend(self.services.keys().cloned());
        }
        let gated = old.gated != new.gated;
        self.claims.configure(old, new);
        let touched = self.networks.reorder(old, new);
        self.policy = policy;
        self.publish_routes(touched);
        if gated {
            self.reconsider_gates();
        }
        let ingresses: Vec<ObjectRef> = self.ingresses.keys().cloned().collect();
        for object in ingresses {
            self.want_for_ingress(&object);
            self.dirty.ingresses.insert(object);
        }
    }

    /// Forgets everything that a source said.
    fn retire(&mut self, source: &SourceId) {
        self.synced.remove(source);
        let of_source = |object: &&ObjectRef| object.source == *source;
        let services: Vec<ObjectRef> = self.services.keys().filter(of_source).cloned().collect();
        for object in services {
            if let Some(entry) = self.services.get_mut(&object) {
                entry.slices.clear();
            }
            // Also where only slices were known.
            self.dirty.services.insert(object.clone());
            self.note_service(object, None);
        }
        let ingresses: Vec<ObjectRef> = self.ingresses.keys().filter(of_source).cloned().collect();
        for object in ingresses {
            self.note_ingress(object, None);
        }
        self.forget_gateway_api(source);
        self.forget_pods(source);
        self.claims.forget_source(source);
        let touched = self.networks.forget_source(source, &self.policy);
        self.publish_routes(touched);
        let lists = self.published.user_lists.keys();
        let lists: Vec<_> = lists.filter(|secret| secret.source == *source).cloned().collect();
        for secret in lists {
            self.dirty.changed |= put(&mut self.published.user_lists, secret, None);
        }
        for (certificate, entry) in &mut self.certificates {
            if certificate.source == *source && entry.material.take().is_some() {
                self.dirty.certificates.insert(certificate.clone());
            }
        }
    }

    /// Brings everything touched up to date. Returns the new snapshot, or nothing when it would
    /// equal the one before.
    pub fn publish(&mut self, now_secs: u64) -> Option<Arc<Snapshot>> {
        self.settle_shared();
        // Before that, an object not heard of yet may hold an address that we would give away.
        let may_propose = self.is_complete();
        // Gateways are built of what services are, and say which services are used, and which
        // addresses are wanted. What is built does not depend on either, so that this ends.
        loop {
            self.settle_claims(may_propose);
            // One at a time: a service that gives up a port brings back those that wait for it.
            while let Some(object) = self.dirty.services.pop_first() {
                self.publish_service(&object, now_secs);
            }
            if !self.has_stale_gateways() {
                break;
            }
            self.publish_gateways();
        }
        for object in std::mem::take(&mut self.dirty.ingresses) {
            self.publish_ingress(&object);
        }
        for pod in std::mem::take(&mut self.dirty.pods) {
            self.publish_pod(pod);
        }
        for address in std::mem::take(&mut self.dirty.addresses) {
            self.publish_listeners(address);
            self.dirty.vips.insert(address);
        }
        for address in std::mem::take(&mut self.dirty.vips) {
            self.publish_vip(address);
        }
        for certificate in std::mem::take(&mut self.dirty.certificates) {
            self.publish_certificate(&certificate);
        }
        for object in std::mem::take(&mut self.dirty.reports) {
            // What is shared is told at each of its objects.
            let members = if object.source.is_shared() {
                self.shared.members_of(&object)
            } else {
                vec![object]
            };
            members.iter().for_each(|object| self.publish_report(object));
        }
        let uses = self.claims.uses();
        if *self.published.pools != uses {
            self.published.pools = Arc::new(uses);
            self.dirty.changed = true;
        }
        self.dirty.changed |= self.published.complete != may_propose;
        self.published.complete = may_propose;
        if !std::mem::take(&mut self.dirty.changed) {
            return None;
        }
        self.published.generation += 1;
        Some(Arc::new(self.published.clone()))
    }

    fn settle_claims(&mut self, may_propose: bool) {
        for object in self.claims.settle(may_propose) {
            self.dirty.reports.insert(object.clone());
            match object.kind {
                crate::ObjectKind::Service => drop(self.dirty.services.insert(object)),
                crate::ObjectKind::Gateway => self.gateway_moved(object),
                _ => drop(self.dirty.ingresses.insert(object)),
            }
        }
    }

    fn publish_report(&mut self, object: &ObjectRef) {
        let report = match object.kind {
            crate::ObjectKind::Service => self.service_report(object),
            crate::ObjectKind::Ingress => self.ingress_report(object),
            _ => self.gateway_api_report(object),
        };
        let report = report.map(|mut report| {
            report.faults = reports::summed_up(report.faults);
            Arc::new(report)
        });
        let changed = put(&mut self.published.reports, object.clone(), report);
        self.dirty.changed |= changed;
    }

    /// Desired status and faults of the claims.
    fn claim_report(
        &self,
        object: &ObjectRef,
        recorded: &[IpAddr],
        wish: &AddressWish,
        ip_mode: IpMode,
    ) -> ObjectReport {
        let outcome = self.claims.outcome(object).cloned().unwrap_or_default();
        ObjectReport {
            desired: outcome
                .desired
                .iter()
                .map(|address| StatusAddress::new(*address, ip_mode))
                .collect(),
            recorded: recorded.to_vec(),
            served: outcome.served,
            followed: wish.followed.clone(),
            details_outdated: false,
            faults: outcome.faults,
            status: None,
            recorded_status: None,
        }
    }
}

/// Sets or removes a value; returns whether anything changed.
fn put<K: Ord + Clone, V: PartialEq>(
    map: &mut OrdMap<K, Arc<V>>,
    key: K,
    value: Option<Arc<V>>,
) -> bool {
    match value {
        Some(value) if map.get(&key).is_some_and(|old| **old == *value) => false,
        Some(value) => {
            map.insert(key, value);
            true
        }
        None => map.remove(&key).is_some(),
    }
}

#[cfg(test)]
mod tests;
