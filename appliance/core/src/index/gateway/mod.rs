//! The Gateway API: from what its objects say to listeners with rules, addresses and conditions.
//!
//! Everything turns round one Gateway: a change of an object marks the Gateways that it concerns,
//! and each of these is built anew as a whole, with its ListenerSets and routes. What was looked
//! at on the way is noted, so that a change of it finds its way back.
//!
//! ```text
//!  classes, Gateways, sets, routes ──┐
//!  grants, namespaces, policies ─────┼─> stale Gateways ─> build ─> Built ─┬─> addresses, ports
//!  Services, certificates, CAs ──────┘      (marks)                        ├─> conditions
//!                                                                          └─> what is used
//! ```

mod addresses;
mod attach;
mod build;
mod conditions;
mod features;
mod grants;
mod hosts;
mod l4;
mod listeners;
mod policies;
mod routes;
mod status;
mod tls;
mod tls_policies;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

pub(super) use self::addresses::Placed;
use self::build::Built;
pub use self::features::SUPPORTED_FEATURES;
use self::policies::{Policies, named_policies};
use super::Index;
use crate::{
    AuthorityRef, AuthoritySpec, BackendTlsPolicySpec, BackendWishes, CertificateRef,
    GatewayClassSpec, GatewaySpec, ListenerSetSpec, NamespaceSpec, ObjectKind, ObjectRef,
    ReferenceGrantSpec, RequestWishes, RouteSpec, SourceId, SourceUpdate,
};

/// Objects of the Gateway API, by name, and what follows from them.
#[derive(Default)]
pub(super) struct GatewayApi {
    classes: BTreeMap<ObjectRef, Arc<GatewayClassSpec>>,
    gateways: BTreeMap<ObjectRef, GatewayEntry>,
    listener_sets: BTreeMap<ObjectRef, Arc<ListenerSetSpec>>,
    routes: BTreeMap<ObjectRef, Arc<RouteSpec>>,
    grants: BTreeMap<ObjectRef, Arc<ReferenceGrantSpec>>,
    tls_policies: BTreeMap<ObjectRef, Arc<BackendTlsPolicySpec>>,
    request_policies: Policies<RequestWishes>,
    backend_policies: Policies<BackendWishes>,
    authorities: BTreeMap<AuthorityRef, Arc<AuthoritySpec>>,
    namespaces: BTreeMap<(SourceId, Arc<str>), AllLabels>,
    /// ListenerSets by Gateway.
    sets_of: Relation<ObjectRef>,
    /// Routes by parent.
    routes_of: Relation<ObjectRef>,
    /// BackendTLSPolicies by Service.
    policies_of: Relation<ObjectRef>,
    /// Routes by the RequestPolicies that their filters name.
    extended_by: Relation<ObjectRef>,
    /// Gateways by what they trust.
    authority_users: Relation<AuthorityRef>,
    /// Gateways by the Services that they name.
    named_by: Relation<ObjectRef>,
    /// Gateways by the Services that feed their L4 listeners.
    fed_by: Relation<ObjectRef>,
    /// Gateways by address.
    on_address: Relation<IpAddr>,
    /// Gateways to be built anew.
    stale: BTreeSet<ObjectRef>,
    /// Gateways whose addresses have changed.
    moved: BTreeSet<ObjectRef>,
    /// Gateways whose L4 listeners lead to other backends.
    refed: BTreeSet<ObjectRef>,
    /// Gateways built since the start.
    builds: u64,
}

/// Every label of a namespace.
type AllLabels = BTreeMap<Arc<str>, Arc<str>>;

/// Everything known about one Gateway.
#[derive(Default)]
struct GatewayEntry {
    spec: Option<Arc<GatewaySpec>>,
    /// Nothing, where the Gateway is not ours.
    built: Built,
    /// Where it is served.
    addresses: BTreeSet<IpAddr>,
    /// Ports that another object has, with a sentence.
    denied: BTreeMap<(IpAddr, u16), Arc<str>>,
}

/// What a Gateway leads to.
#[derive(Debug, Default, PartialEq, Eq)]
struct Uses {
    /// Services that requests are sent to.
    services: BTreeSet<ObjectRef>,
    /// Services that references name, be it in vain.
    named: BTreeSet<ObjectRef>,
    certificates: BTreeSet<CertificateRef>,
    authorities: BTreeSet<AuthorityRef>,
    /// Namespaces beside those of the naming objects: grants there decide.
    foreign: BTreeSet<Arc<str>>,
    /// Labels of namespaces decide.
    selects: bool,
}

/// Objects by something that they name.
struct Relation<K>(BTreeMap<K, BTreeSet<ObjectRef>>);

impl<K> Default for Relation<K> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<K: Ord + Clone> Relation<K> {
    fn of<'a>(&'a self, key: &K) -> impl Iterator<Item = &'a ObjectRef> + use<'a, K> {
        self.0.get(key).into_iter().flatten()
    }

    fn link(&mut self, key: &K, object: &ObjectRef) {
        self.0.entry(key.clone()).or_default().insert(object.clone());
    }

    fn unlink(&mut self, key: &K, object: &ObjectRef) {
        if let Some(objects) = self.0.get_mut(key) {
            objects.remove(object);
            if objects.is_empty() {
                self.0.remove(key);
            }
        }
    }

    /// Takes an object from the keys that it named to those that it names.
    fn relink<'a>(
        &mut self,
        object: &ObjectRef,
        old: impl IntoIterator<Item = &'a K>,
        new: impl IntoIterator<Item = &'a K>,
    ) where
        K: 'a,
    {
        old.into_iter().for_each(|key| self.unlink(key, object));
        new.into_iter().for_each(|key| self.link(key, object));
    }
}

impl Index {
    /// Notes what a source says of an object of the Gateway API; of another nothing.
    pub(super) fn note_gateway_api(&mut self, update: SourceUpdate) {
        match update {
            SourceUpdate::GatewayClass { object, spec } => {
                self.note_class(object, spec.map(|spec| *spec));
            }
            SourceUpdate::Gateway { object, spec } => self.note_gateway(object, spec),
            SourceUpdate::ListenerSet { object, spec } => {
                self.note_listener_set(object, spec.map(|spec| *spec));
            }
            SourceUpdate::Route { object, spec } => self.note_route(object, spec.map(|s| *s)),
            SourceUpdate::ReferenceGrant { object, spec } => {
                self.gateway_api.note_grant(&object, spec.map(|spec| *spec));
            }
            SourceUpdate::BackendTlsPolicy { object, spec } => {
                self.note_tls_policy(object, spec.map(|spec| *spec));
            }
            SourceUpdate::RequestPolicy { object, spec } => {
                self.note_request_policy(object, spec.map(|spec| *spec));
            }
            SourceUpdate::BackendPolicy { object, spec } => {
                self.note_backend_policy(object, spec.map(|spec| *spec));
            }
            SourceUpdate::Authority { authority, material } => {
                let api = &mut self.gateway_api;
                if note(&mut api.authorities, &authority, material.map(|m| *m)).is_some() {
                    api.stale.extend(api.authority_users.of(&authority).cloned());
                }
            }
            _ => {}
        }
    }

    fn note_class(&mut self, object: ObjectRef, spec: Option<GatewayClassSpec>) {
        let api = &mut self.gateway_api;
        let Some((old, new)) = note(&mut api.classes, &object, spec) else { return };
        if old.is_none() || new.is_none() {
            let of_class = api.gateways.iter().filter(|(gateway, entry)| {
                gateway.source == object.source
                    && entry.spec.as_ref().is_some_and(|spec| spec.class == object.name)
            });
            let of_class: Vec<ObjectRef> = of_class.map(|(name, _)| name.clone()).collect();
            of_class.iter().for_each(|gateway| self.policies_judged_anew(gateway));
            self.gateway_api.stale.extend(of_class);
        }
        self.dirty.reports.insert(object);
    }

    fn note_gateway(&mut self, object: ObjectRef, spec: Option<Box<GatewaySpec>>) {
        let known = self.gateway_api.gateways.get(&object).and_then(|entry| entry.spec.clone());
        let spec = spec.map(|spec| Arc::new(*spec));
        if known == spec {
            return;
        }
        let differs = differ(known.as_deref(), spec.as_deref());
        self.gateway_api.gateways.entry(object.clone()).or_default().spec = spec;
        if differs {
            self.policies_judged_anew(&object);
            self.gateway_api.stale.insert(object.clone());
        } else {
            self.want_for_gateway(&object);
        }
        self.dirty.reports.insert(object);
    }

    fn note_listener_set(&mut self, object: ObjectRef, spec: Option<ListenerSetSpec>) {
        let api = &mut self.gateway_api;
        let Some((old, new)) = note(&mut api.listener_sets, &object, spec) else { return };
        self.dirty.reports.insert(object.clone());
        if !differ(old.as_deref(), new.as_deref()) {
            return;
        }
        let (old, new) = (old.as_ref().map(|s| &s.parent), new.as_ref().map(|s| &s.parent));
        api.sets_of.relink(&object, old, new);
        api.stale.extend(old.into_iter().chain(new).cloned());
        self.policies_judged_anew(&object);
    }

    fn note_route(&mut self, object: ObjectRef, spec: Option<RouteSpec>) {
        let api = &mut self.gateway_api;
        let Some((old, new)) = note(&mut api.routes, &object, spec) else { return };
        self.dirty.reports.insert(object.clone());
        if !differ(old.as_deref(), new.as_deref()) {
            return;
        }
        let named = |spec: &Option<Arc<RouteSpec>>| {
            spec.as_ref().map(|spec| named_policies(&object, spec)).unwrap_or_default()
        };
        let (of_old, of_new) = (named(&old), named(&new));
        api.extended_by.relink(&object, &of_old, &of_new);
        self.dirty.reports.extend(of_old.into_iter().chain(of_new));
        let parents = |spec: &Option<Arc<RouteSpec>>| {
            let parents = spec.iter().flat_map(|spec| &spec.parents);
            parents.map(|parent| parent.object.clone()).collect::<BTreeSet<_>>()
        };
        let (old, new) = (parents(&old), parents(&new));
        api.routes_of.relink(&object, &old, &new);
        for parent in old.union(&new) {
            let gateway = api.gateway_of(parent).cloned();
            api.stale.extend(gateway);
        }
        self.policies_judged_anew(&object);
    }

    fn note_tls_policy(&mut self, object: ObjectRef, spec: Option<BackendTlsPolicySpec>) {
        let api = &mut self.gateway_api;
        let Some((old, new)) = note(&mut api.tls_policies, &object, spec) else { return };
        self.dirty.reports.insert(object.clone());
        if !differ(old.as_deref(), new.as_deref()) {
            return;
        }
        let services = |spec: &Option<Arc<BackendTlsPolicySpec>>| {
            let targets = spec.iter().flat_map(|spec| &spec.targets);
            targets.map(|(service, _)| service.clone()).collect::<BTreeSet<_>>()
        };
        let (old, new) = (services(&old), services(&new));
        api.policies_of.relink(&object, &old, &new);
        for service in old.union(&new) {
            api.stale.extend(api.named_by.of(service).cloned());
        }
    }

    /// Notes all labels of a namespace; `None`: it is gone.
    pub(super) fn note_namespace_labels(
        &mut self,
        source: &SourceId,
        name: &Arc<str>,
        spec: Option<&NamespaceSpec>,
    ) {
        let api = &mut self.gateway_api;
        let key = (source.clone(), name.clone());
        let labels = spec.map(|spec| spec.all_labels.clone());
        let before = match labels.clone() {
            Some(labels) => api.namespaces.insert(key, labels),
            None => api.namespaces.remove(&key),
        };
        if before != labels {
            let choosing = api
                .gateways
                .iter()
                .filter(|(gateway, entry)| gateway.source == *source && entry.built.uses.selects);
            let choosing: Vec<ObjectRef> = choosing.map(|(name, _)| name.clone()).collect();
            api.stale.extend(choosing);
        }
    }

    /// Marks the Gateways that name a Service whose ports have changed.
    pub(super) fn named_service_changed(&mut self, service: &ObjectRef) {
        let api = &mut self.gateway_api;
        api.stale.extend(api.named_by.of(service).cloned());
        api.refed.extend(api.fed_by.of(service).cloned());
        self.asked_by_other_ports(service);
    }

    /// Marks what has to look again at something that it uses: Gateways are built anew.
    pub(super) fn mark_users<'a>(&mut self, users: impl IntoIterator<Item = &'a ObjectRef>) {
        for user in users {
            match user.kind {
                ObjectKind::Gateway => self.gateway_api.stale.insert(user.clone()),
                _ => self.dirty.reports.insert(user.clone()),
            };
        }
    }

    /// Forgets everything that a source said.
    pub(super) fn forget_gateway_api(&mut self, source: &SourceId) {
        fn of<V>(map: &BTreeMap<ObjectRef, V>, source: &SourceId) -> Vec<ObjectRef> {
            map.keys().filter(|object| object.source == *source).cloned().collect()
        }
        for object in of(&self.gateway_api.classes, source) {
            self.note_class(object, None);
        }
        for object in of(&self.gateway_api.gateways, source) {
            self.note_gateway(object, None);
        }
        for object in of(&self.gateway_api.listener_sets, source) {
            self.note_listener_set(object, None);
        }
        for object in of(&self.gateway_api.routes, source) {
            self.note_route(object, None);
        }
        for object in of(&self.gateway_api.tls_policies, source) {
            self.note_tls_policy(object, None);
        }
        self.forget_policies(source);
        let api = &mut self.gateway_api;
        api.grants.retain(|object, _| object.source != *source);
        api.authorities.retain(|authority, _| authority.source != *source);
        api.namespaces.retain(|(of, _), _| of != source);
    }

    /// Whether a Gateway has to be looked at.
    pub(super) fn has_stale_gateways(&self) -> bool {
        let GatewayApi { stale, moved, refed, .. } = &self.gateway_api;
        !(stale.is_empty() && moved.is_empty() && refed.is_empty())
    }

    /// Brings the marked Gateways up to date.
    pub(super) fn publish_gateways(&mut self) {
        for gateway in std::mem::take(&mut self.gateway_api.stale) {
            self.rebuild_gateway(&gateway);
            self.gateway_api.moved.insert(gateway);
        }
        for gateway in std::mem::take(&mut self.gateway_api.moved) {
            self.place_gateway(&gateway);
            self.gateway_api.refed.insert(gateway);
        }
        for gateway in std::mem::take(&mut self.gateway_api.refed) {
            self.feed_gateway(&gateway);
        }
    }

    /// Gateways built since the start.
    pub(super) fn builds_of_gateways(&self) -> u64 {
        self.gateway_api.builds
    }

    fn rebuild_gateway(&mut self, gateway: &ObjectRef) {
        self.gateway_api.builds += 1;
        let Some(entry) = self.gateway_api.gateways.get(gateway) else { return };
        let ours = entry.spec.clone().filter(|spec| self.gateway_api.is_ours(gateway, spec));
        let built = ours.map(|spec| self.build_gateway(gateway, &spec)).unwrap_or_default();
        let Some(entry) = self.gateway_api.gateways.get_mut(gateway) else { return };
        let old = std::mem::replace(&mut entry.built, built);
        let new = &entry.built;
        let routes = differing(&old.routes, &new.routes).map(|(route, _)| route.clone());
        let sets = old.sets.keys().chain(new.sets.keys()).cloned();
        let policies = differing(&old.policies, &new.policies).cloned();
        let reports: Vec<ObjectRef> = routes.chain(sets).chain(policies).collect();
        self.dirty.reports.extend(reports);
        if old.ports != new.ports {
            self.dirty.addresses.extend(&entry.addresses);
        }
        self.register_gateway_uses(gateway, &old);
        self.want_for_gateway(gateway);
        self.dirty.reports.insert(gateway.clone());
    }

    /// Tells Services, certificates and authorities who points at them.
    fn register_gateway_uses(&mut self, gateway: &ObjectRef, before: &Built) {
        let api = &mut self.gateway_api;
        let Some(entry) = api.gateways.get(gateway) else { return };
        let (old, new) = (&before.uses, &entry.built.uses);
        for service in old.services.symmetric_difference(&new.services) {
            let entry = self.services.entry(service.clone()).or_default();
            match new.services.contains(service) {
                true => entry.users.insert(gateway.clone()),
                false => entry.users.remove(gateway),
            };
            self.dirty.services.insert(service.clone());
        }
        for certificate in old.certificates.symmetric_difference(&new.certificates) {
            let entry = self.certificates.entry(certificate.clone()).or_default();
            match new.certificates.contains(certificate) {
                true => entry.users.insert(gateway.clone()),
                false => entry.users.remove(gateway),
            };
            self.dirty.certificates.insert(certificate.clone());
        }
        api.authority_users.relink(gateway, &old.authorities, &new.authorities);
        api.named_by.relink(gateway, &old.named, &new.named);
        api.fed_by.relink(gateway, &before.fed_by(), &entry.built.fed_by());
    }
}

impl GatewayApi {
    /// The Gateway that a parent of routes is, or belongs to.
    fn gateway_of<'a>(&'a self, parent: &'a ObjectRef) -> Option<&'a ObjectRef> {
        match parent.kind {
            ObjectKind::Gateway => Some(parent),
            ObjectKind::ListenerSet => Some(&self.listener_sets.get(parent)?.parent),
            _ => None,
        }
    }

    /// Whether a Gateway is of a class of ours.
    fn is_ours(&self, gateway: &ObjectRef, spec: &GatewaySpec) -> bool {
        let class = ObjectRef::of_kind(&gateway.source, ObjectKind::GatewayClass, "", &spec.class);
        self.classes.contains_key(&class)
    }
}

/// Keys whose values are not the same in both.
fn differing<'a, K: Ord, V: PartialEq>(
    old: &'a BTreeMap<K, V>,
    new: &'a BTreeMap<K, V>,
) -> impl Iterator<Item = &'a K> {
    let changed = new.iter().filter(|(key, value)| old.get(key) != Some(value));
    let gone = old.keys().filter(|key| !new.contains_key(key));
    changed.map(|(key, _)| key).chain(gone)
}

/// What an object states of itself, beside which its status records what was said of it.
trait Stated: Clone + PartialEq {
    /// Without the record.
    fn without_record(&self) -> Self;
}

impl Stated for GatewaySpec {
    fn without_record(&self) -> Self {
        Self { recorded: Vec::new(), recorded_status: None, ..self.clone() }
    }
}

impl Stated for ListenerSetSpec {
    fn without_record(&self) -> Self {
        Self { recorded_status: None, ..self.clone() }
    }
}

impl Stated for RouteSpec {
    fn without_record(&self) -> Self {
        Self { recorded_status: None, ..self.clone() }
    }
}

impl Stated for BackendTlsPolicySpec {
    fn without_record(&self) -> Self {
        Self { recorded_status: None, ..self.clone() }
    }
}

/// Whether more has changed than the record: what follows from an object does not follow from that.
fn differ<V: Stated>(old: Option<&V>, new: Option<&V>) -> bool {
    old.map(V::without_record) != new.map(V::without_record)
}

/// What was known before, and what is now.
type Change<V> = (Option<Arc<V>>, Option<Arc<V>>);

/// Notes what is said of something; nothing, where it was known.
fn note<K: Ord + Clone, V: PartialEq>(
    map: &mut BTreeMap<K, Arc<V>>,
    key: &K,
    value: Option<V>,
) -> Option<Change<V>> {
    if map.get(key).map(|known| &**known) == value.as_ref() {
        return None;
    }
    let new = value.map(Arc::new);
    let old = match new.clone() {
        Some(new) => map.insert(key.clone(), new),
        None => map.remove(key),
    };
    Some((old, new))
}

#[cfg(test)]
mod tests;
