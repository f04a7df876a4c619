//! What a source has said so far, as one hash an object.
//!
//! Pure. Its invariant: after any sequence of lists and events, in any order and with any
//! repetition, what was handed on adds up to what a fresh list would say. It keeps no object,
//! so 300,000 of them cost some tens of megabytes. Deletions in a mass are held first
//! ([`crate::hold`]); what is held counts as said until then. Time is an argument.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hasher};
use std::sync::Arc;
use std::time::Duration;

use haflinger_core::{
    AuthorityKind, AuthorityRef, CertificateRef, ObjectKind, ObjectRef, PodRef, RouteOrigin,
    SecretRef, SourceId, SourceUpdate,
};
use serde::Serialize;

use crate::hold::Holds;
use crate::settings::DeletionLimits;

/// The kinds of object that a source lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Watched {
    /// Services.
    Services,
    /// EndpointSlices, or the backends of the inventory's services.
    Slices,
    /// Nodes.
    Nodes,
    /// Ingresses, or the inventory's sites.
    Ingresses,
    /// TLS Secrets, or the inventory's certificate files.
    Certificates,
    /// Namespaces, where pools choose by their labels.
    Namespaces,
    /// Calico's BlockAffinities.
    BlockAffinities,
    /// CiliumNodes.
    CiliumNodes,
    /// Pods with our readiness gate.
    Pods,
    /// GatewayClasses of ours.
    GatewayClasses,
    /// Gateways.
    Gateways,
    /// ListenerSets.
    ListenerSets,
    /// HTTPRoutes.
    HttpRoutes,
    /// GRPCRoutes.
    GrpcRoutes,
    /// TLSRoutes.
    TlsRoutes,
    /// TCPRoutes.
    TcpRoutes,
    /// UDPRoutes.
    UdpRoutes,
    /// ReferenceGrants.
    ReferenceGrants,
    /// BackendTLSPolicies.
    BackendTlsPolicies,
    /// RequestPolicies.
    RequestPolicies,
    /// BackendPolicies.
    BackendPolicies,
    /// ConfigMaps with certificates of authorities.
    AuthorityMaps,
    /// Secrets with certificates of authorities.
    AuthoritySecrets,
    /// Secrets with users and the hashes of their passwords.
    UserLists,
}

impl Watched {
    /// All of them.
    pub const ALL: [Self; 24] = [
        Self::Services,
        Self::Slices,
        Self::Nodes,
        Self::Ingresses,
        Self::Certificates,
        Self::Namespaces,
        Self::BlockAffinities,
        Self::CiliumNodes,
        Self::Pods,
        Self::GatewayClasses,
        Self::Gateways,
        Self::ListenerSets,
        Self::HttpRoutes,
        Self::GrpcRoutes,
        Self::TlsRoutes,
        Self::TcpRoutes,
        Self::UdpRoutes,
        Self::ReferenceGrants,
        Self::BackendTlsPolicies,
        Self::RequestPolicies,
        Self::BackendPolicies,
        Self::AuthorityMaps,
        Self::AuthoritySecrets,
        Self::UserLists,
    ];

    /// The name in metrics and status.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Services => "services",
            Self::Slices => "slices",
            Self::Nodes => "nodes",
            Self::Ingresses => "ingresses",
            Self::Certificates => "certificates",
            Self::Namespaces => "namespaces",
            Self::BlockAffinities => "block_affinities",
            Self::CiliumNodes => "cilium_nodes",
            Self::Pods => "pods",
            Self::GatewayClasses => "gateway_classes",
            Self::Gateways => "gateways",
            Self::ListenerSets => "listener_sets",
            Self::HttpRoutes => "http_routes",
            Self::GrpcRoutes => "grpc_routes",
            Self::TlsRoutes => "tls_routes",
            Self::TcpRoutes => "tcp_routes",
            Self::UdpRoutes => "udp_routes",
            Self::ReferenceGrants => "reference_grants",
            Self::BackendTlsPolicies => "backend_tls_policies",
            Self::RequestPolicies => "request_policies",
            Self::BackendPolicies => "backend_policies",
            Self::AuthorityMaps => "authority_maps",
            Self::AuthoritySecrets => "authority_secrets",
            Self::UserLists => "user_lists",
        }
    }

    /// The kinds of the Gateway API; Gateways for any other.
    fn of_gateway_api(kind: ObjectKind) -> Self {
        match kind {
            ObjectKind::GatewayClass => Self::GatewayClasses,
            ObjectKind::ListenerSet => Self::ListenerSets,
            ObjectKind::HttpRoute => Self::HttpRoutes,
            ObjectKind::GrpcRoute => Self::GrpcRoutes,
            ObjectKind::TlsRoute => Self::TlsRoutes,
            ObjectKind::TcpRoute => Self::TcpRoutes,
            ObjectKind::UdpRoute => Self::UdpRoutes,
            ObjectKind::ReferenceGrant => Self::ReferenceGrants,
            ObjectKind::BackendTlsPolicy => Self::BackendTlsPolicies,
            ObjectKind::RequestPolicy => Self::RequestPolicies,
            ObjectKind::BackendPolicy => Self::BackendPolicies,
            ObjectKind::Service | ObjectKind::Ingress | ObjectKind::Gateway => Self::Gateways,
        }
    }

    /// Its place in [`Self::ALL`].
    pub(crate) fn index(self) -> usize {
        self as usize
    }

    /// What is missing where a cluster does not let us read the kind, as far as everything else
    /// goes on without it: then the source counts as synced all the same.
    pub(crate) fn missed_without(self) -> Option<&'static str> {
        match self {
            // Which addresses its objects hold is not known: nobody may be given one.
            Self::Services => None,
            Self::Slices => Some("backends of Services"),
            Self::Ingresses => Some("Ingresses"),
            Self::Nodes => Some("routes to pods, and nodes' ports in their place"),
            Self::Certificates => Some("HTTPS of Ingresses and Gateways"),
            Self::Namespaces => Some(
                "addresses of pools, and listeners of Gateways, that choose by labels of namespaces",
            ),
            Self::BlockAffinities => Some("routes to pods by Calico's block affinities"),
            Self::CiliumNodes => Some("routes to pods by CiliumNodes"),
            Self::Pods => Some("readiness gates of pods"),
            Self::GatewayClasses | Self::Gateways => Some("Gateways"),
            Self::ListenerSets => Some("listeners of ListenerSets"),
            Self::HttpRoutes => Some("HTTPRoutes"),
            Self::GrpcRoutes => Some("GRPCRoutes"),
            Self::TlsRoutes => Some("TLSRoutes"),
            Self::TcpRoutes => Some("TCPRoutes"),
            Self::UdpRoutes => Some("UDPRoutes"),
            Self::ReferenceGrants => Some("references of routes and Gateways across namespaces"),
            Self::BackendTlsPolicies => Some("TLS to backends"),
            Self::RequestPolicies => Some("RequestPolicies"),
            Self::BackendPolicies => Some("BackendPolicies"),
            Self::AuthorityMaps | Self::AuthoritySecrets => {
                Some("certificates of clients, and TLS to backends")
            }
            Self::UserLists => Some("what is served to those alone who have a password"),
        }
    }

    /// Whether what is known of the kind is given up at once where the cluster says that there is
    /// none, or no longer lets us read it. A pod that lacked nothing but its gate may lack more by
    /// now, and what an EndpointSlice calls ready needs no word of the pod.
    pub(crate) fn is_dropped_unconfirmed(self) -> bool {
        self == Self::Pods
    }

    /// Whose word about pod networks the objects of the kind are.
    pub(crate) fn origin(self) -> Option<RouteOrigin> {
        match self {
            Self::BlockAffinities => Some(RouteOrigin::Calico),
            Self::CiliumNodes => Some(RouteOrigin::Cilium),
            _ => None,
        }
    }
}

/// One object within its source.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Key {
    pub(crate) watched: Watched,
    /// `namespace/name`; `/name` for what has no namespace.
    path: Arc<str>,
}

impl Key {
    pub(crate) fn new(watched: Watched, namespace: &str, name: &str) -> Self {
        Self { watched, path: format!("{namespace}/{name}").into() }
    }

    /// The object that an update is about.
    pub(crate) fn of(update: &SourceUpdate) -> Self {
        match update {
            SourceUpdate::Service { object, .. } => {
                Self::new(Watched::Services, &object.namespace, &object.name)
            }
            SourceUpdate::Slice { service, slice, .. } => {
                Self::new(Watched::Slices, &service.namespace, slice)
            }
            SourceUpdate::Node { name, .. } => Self::new(Watched::Nodes, "", name),
            SourceUpdate::Namespace { name, .. } => Self::new(Watched::Namespaces, "", name),
            SourceUpdate::PodNetwork { origin, name, .. } => {
                let watched = match origin {
                    RouteOrigin::Calico => Watched::BlockAffinities,
                    // The others write no objects of their own.
                    _ => Watched::CiliumNodes,
                };
                Self::new(watched, "", name)
            }
            SourceUpdate::Pod { pod, .. } => Self::new(Watched::Pods, &pod.namespace, &pod.name),
            SourceUpdate::Ingress { object, .. } => {
                Self::new(Watched::Ingresses, &object.namespace, &object.name)
            }
            SourceUpdate::Certificate { certificate, .. } => {
                Self::new(Watched::Certificates, &certificate.namespace, &certificate.name)
            }
            SourceUpdate::UserList { secret, .. } => {
                Self::new(Watched::UserLists, &secret.namespace, &secret.name)
            }
            SourceUpdate::GatewayClass { object, .. }
            | SourceUpdate::Gateway { object, .. }
            | SourceUpdate::ListenerSet { object, .. }
            | SourceUpdate::Route { object, .. }
            | SourceUpdate::ReferenceGrant { object, .. }
            | SourceUpdate::BackendTlsPolicy { object, .. }
            | SourceUpdate::RequestPolicy { object, .. }
            | SourceUpdate::BackendPolicy { object, .. } => {
                Self::new(Watched::of_gateway_api(object.kind), &object.namespace, &object.name)
            }
            SourceUpdate::Authority { authority, .. } => {
                let watched = match authority.kind {
                    AuthorityKind::ConfigMap => Watched::AuthorityMaps,
                    AuthorityKind::Secret => Watched::AuthoritySecrets,
                };
                Self::new(watched, &authority.namespace, &authority.name)
            }
        }
    }

    fn parts(&self) -> (&str, &str) {
        self.path.split_once('/').unwrap_or(("", &self.path))
    }

    /// The update that takes the object away. `service` is the owner, for slices.
    fn gone(&self, source: &SourceId, service: Option<&str>) -> SourceUpdate {
        let (namespace, name) = self.parts();
        match self.watched {
            Watched::Services => SourceUpdate::Service {
                object: ObjectRef::service(source, namespace, name),
                spec: None,
            },
            Watched::Slices => SourceUpdate::Slice {
                service: ObjectRef::service(source, namespace, service.unwrap_or_default()),
                slice: name.into(),
                content: None,
            },
            Watched::Nodes => {
                SourceUpdate::Node { source: source.clone(), name: name.into(), spec: None }
            }
            Watched::Namespaces => {
                SourceUpdate::Namespace { source: source.clone(), name: name.into(), spec: None }
            }
            Watched::BlockAffinities => self.network_gone(RouteOrigin::Calico, source),
            Watched::CiliumNodes => self.network_gone(RouteOrigin::Cilium, source),
            Watched::Pods => SourceUpdate::Pod {
                pod: PodRef {
                    source: source.clone(),
                    namespace: namespace.into(),
                    name: name.into(),
                },
                spec: None,
            },
            Watched::Ingresses => SourceUpdate::Ingress {
                object: ObjectRef::ingress(source, namespace, name),
                spec: None,
            },
            Watched::Certificates => SourceUpdate::Certificate {
                certificate: CertificateRef {
                    source: source.clone(),
                    namespace: namespace.into(),
                    name: name.into(),
                },
                material: None,
            },
            Watched::UserLists => SourceUpdate::UserList {
                secret: SecretRef {
                    source: source.clone(),
                    namespace: namespace.into(),
                    name: name.into(),
                },
                list: None,
            },
            Watched::AuthorityMaps => {
                authority_gone(AuthorityKind::ConfigMap, source, namespace, name)
            }
            Watched::AuthoritySecrets => {
                authority_gone(AuthorityKind::Secret, source, namespace, name)
            }
            Watched::GatewayClasses
            | Watched::Gateways
            | Watched::ListenerSets
            | Watched::HttpRoutes
            | Watched::GrpcRoutes
            | Watched::TlsRoutes
            | Watched::TcpRoutes
            | Watched::UdpRoutes
            | Watched::ReferenceGrants
            | Watched::BackendTlsPolicies
            | Watched::RequestPolicies
            | Watched::BackendPolicies => gateway_api_gone(self.watched, source, namespace, name),
        }
    }
}

fn authority_gone(
    kind: AuthorityKind,
    source: &SourceId,
    namespace: &str,
    name: &str,
) -> SourceUpdate {
    let (source, namespace, name) = (source.clone(), namespace.into(), name.into());
    let authority = AuthorityRef { source, kind, namespace, name };
    SourceUpdate::Authority { authority, material: None }
}

fn gateway_api_gone(
    watched: Watched,
    source: &SourceId,
    namespace: &str,
    name: &str,
) -> SourceUpdate {
    let object = |kind| ObjectRef::of_kind(source, kind, namespace, name);
    let route = |kind| SourceUpdate::Route { object: object(kind), spec: None };
    match watched {
        Watched::GatewayClasses => {
            SourceUpdate::GatewayClass { object: object(ObjectKind::GatewayClass), spec: None }
        }
        Watched::ListenerSets => {
            SourceUpdate::ListenerSet { object: object(ObjectKind::ListenerSet), spec: None }
        }
        Watched::HttpRoutes => route(ObjectKind::HttpRoute),
        Watched::GrpcRoutes => route(ObjectKind::GrpcRoute),
        Watched::TlsRoutes => route(ObjectKind::TlsRoute),
        Watched::TcpRoutes => route(ObjectKind::TcpRoute),
        Watched::UdpRoutes => route(ObjectKind::UdpRoute),
        Watched::ReferenceGrants => {
            SourceUpdate::ReferenceGrant { object: object(ObjectKind::ReferenceGrant), spec: None }
        }
        Watched::BackendTlsPolicies => SourceUpdate::BackendTlsPolicy {
            object: object(ObjectKind::BackendTlsPolicy),
            spec: None,
        },
        Watched::RequestPolicies => {
            SourceUpdate::RequestPolicy { object: object(ObjectKind::RequestPolicy), spec: None }
        }
        Watched::BackendPolicies => {
            SourceUpdate::BackendPolicy { object: object(ObjectKind::BackendPolicy), spec: None }
        }
        _ => SourceUpdate::Gateway { object: object(ObjectKind::Gateway), spec: None },
    }
}

impl Key {
    fn network_gone(&self, origin: RouteOrigin, source: &SourceId) -> SourceUpdate {
        let (_, name) = self.parts();
        SourceUpdate::PodNetwork { source: source.clone(), origin, name: name.into(), spec: None }
    }
}

/// Something new about an object.
#[derive(Debug)]
pub(crate) struct Change {
    pub(crate) key: Key,
    /// What the core is told.
    pub(crate) update: SourceUpdate,
    /// The update as it is kept on disk.
    pub(crate) written: Vec<u8>,
}

#[derive(Debug)]
struct Entry {
    hash: u64,
    epoch: u32,
    /// The Service that a slice belongs to.
    service: Option<Arc<str>>,
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Ledger {
    source: SourceId,
    entries: HashMap<Key, Entry>,
    /// Rises with every list of a kind: entries of an earlier epoch were not listed.
    epochs: [u32; Watched::ALL.len()],
    counts: [usize; Watched::ALL.len()],
    holds: Holds,
}

impl Ledger {
    pub(crate) fn new(source: SourceId) -> Self {
        Self {
            source,
            entries: HashMap::new(),
            epochs: [0; Watched::ALL.len()],
            counts: [0; Watched::ALL.len()],
            holds: Holds::default(),
        }
    }

    /// Holds deletions beyond these limits from now on; `None`: none.
    pub(crate) fn limit(&mut self, limits: Option<DeletionLimits>) {
        self.holds.limits = limits;
    }

    /// What is held.
    pub(crate) fn holds(&self) -> &Holds {
        &self.holds
    }

    /// The kinds that should be listed once more now; each is named once.
    pub(crate) fn due(&mut self, now: Duration) -> Vec<Watched> {
        self.holds.due(now)
    }

    /// Objects of a kind that are known.
    pub(crate) fn count(&self, watched: Watched) -> usize {
        self.counts[watched.index()]
    }

    /// Takes over what an earlier run wrote: already said, so no change.
    pub(crate) fn restore(&mut self, update: &SourceUpdate, written: &[u8]) {
        let key = Key::of(update);
        let entry = Entry { hash: hash(written), epoch: 0, service: owner(update) };
        let at = key.watched.index();
        if self.entries.insert(key, entry).is_none() {
            self.counts[at] += 1;
        }
    }

    /// A list of a kind begins.
    pub(crate) fn list_began(&mut self, watched: Watched, now: Duration) {
        let epoch = &mut self.epochs[watched.index()];
        *epoch = epoch.wrapping_add(1);
        self.holds.list_began(watched, now);
    }

    /// The list is complete: what was not in it is gone, or held.
    pub(crate) fn list_ended(&mut self, watched: Watched, now: Duration) -> Vec<Change> {
        let epoch = self.epochs[watched.index()];
        let mut unlisted: Vec<Key> = self
            .entries
            .iter()
            .filter(|(key, entry)| key.watched == watched && entry.epoch != epoch)
            .map(|(key, _)| key.clone())
            .collect();
        let mut gone = self.holds.list_ended(watched, &mut unlisted);
        // What was confirmed was judged when it was held.
        let known = self.count(watched) - gone.len();
        if self.holds.admits(watched, unlisted.len(), known, now) {
            gone.append(&mut unlisted);
        }
        unlisted.into_iter().for_each(|key| self.holds.hold(key, now));
        gone.into_iter().filter_map(|key| self.remove(key)).collect()
    }

    /// The operator says that what is held is meant.
    pub(crate) fn accept(&mut self) -> Vec<Change> {
        let held: Vec<Key> =
            Watched::ALL.iter().flat_map(|watched| self.holds.accept(*watched)).collect();
        held.into_iter().filter_map(|key| self.remove(key)).collect()
    }

    /// The source deleted an object: it is gone, or held.
    pub(crate) fn gone(&mut self, key: Key, now: Duration) -> Option<Change> {
        if !self.entries.contains_key(&key) {
            return None;
        }
        let watched = key.watched;
        if self.holds.admits(watched, 1, self.count(watched), now) {
            return self.remove(key);
        }
        self.holds.hold(key, now);
        None
    }

    /// What the source says of an object now; `None`: it is there and says nothing (any more).
    pub(crate) fn heard(&mut self, key: Key, update: Option<SourceUpdate>) -> Vec<Change> {
        self.holds.settled(&key);
        let Some(update) = update else { return self.remove(key).into_iter().collect() };
        let written = written(&update);
        let hash = hash(&written);
        let service = owner(&update);
        let epoch = self.epochs[key.watched.index()];
        let mut changes = Vec::new();
        match self.entries.get_mut(&key) {
            Some(entry) => {
                entry.epoch = epoch;
                if entry.hash == hash {
                    return changes;
                }
                entry.hash = hash;
                let former = std::mem::replace(&mut entry.service, service);
                // A slice that changed its Service is taken from the former one first.
                if former != entry.service {
                    let update = key.gone(&self.source, former.as_deref());
                    changes.push(Change {
                        key: key.clone(),
                        written: self::written(&update),
                        update,
                    });
                }
            }
            None => {
                self.counts[key.watched.index()] += 1;
                self.entries.insert(key.clone(), Entry { hash, epoch, service });
            }
        }
        changes.push(Change { key, update, written });
        changes
    }

    fn remove(&mut self, key: Key) -> Option<Change> {
        let entry = self.entries.remove(&key)?;
        self.counts[key.watched.index()] -= 1;
        let update = key.gone(&self.source, entry.service.as_deref());
        Some(Change { key, written: written(&update), update })
    }
}

fn owner(update: &SourceUpdate) -> Option<Arc<str>> {
    match update {
        SourceUpdate::Slice { service, .. } => Some(service.name.clone()),
        _ => None,
    }
}

/// Whether an update takes its object away.
pub(crate) fn is_gone(update: &SourceUpdate) -> bool {
    match update {
        SourceUpdate::Service { spec, .. } => spec.is_none(),
        SourceUpdate::Slice { content, .. } => content.is_none(),
        SourceUpdate::Node { spec, .. } => spec.is_none(),
        SourceUpdate::Namespace { spec, .. } => spec.is_none(),
        SourceUpdate::PodNetwork { spec, .. } => spec.is_none(),
        SourceUpdate::Pod { spec, .. } => spec.is_none(),
        SourceUpdate::Ingress { spec, .. } => spec.is_none(),
        SourceUpdate::Certificate { material, .. } => material.is_none(),
        SourceUpdate::GatewayClass { spec, .. } => spec.is_none(),
        SourceUpdate::Gateway { spec, .. } => spec.is_none(),
        SourceUpdate::ListenerSet { spec, .. } => spec.is_none(),
        SourceUpdate::Route { spec, .. } => spec.is_none(),
        SourceUpdate::ReferenceGrant { spec, .. } => spec.is_none(),
        SourceUpdate::BackendTlsPolicy { spec, .. } => spec.is_none(),
        SourceUpdate::RequestPolicy { spec, .. } => spec.is_none(),
        SourceUpdate::BackendPolicy { spec, .. } => spec.is_none(),
        SourceUpdate::Authority { material, .. } => material.is_none(),
        SourceUpdate::UserList { list, .. } => list.is_none(),
    }
}

/// Room for what most updates are written in: a slice of five pods takes 1,100 bytes.
const USUAL_BYTES: usize = 2048;

/// Updates hold strings, numbers and lists only, so that writing one cannot fail; if a new
/// field breaks that, equal (cut) texts would hide changes, hence the assertion.
fn written(update: &SourceUpdate) -> Vec<u8> {
    let mut written = Vec::with_capacity(USUAL_BYTES);
    let result = serde_json::to_writer(&mut written, update);
    assert!(result.is_ok(), "source updates can be written as JSON");
    written
}

fn hash(written: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(written);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use haflinger_core::NodeSpec;
    use proptest::prelude::*;

    use super::*;

    const NOW: Duration = Duration::ZERO;

    fn source() -> SourceId {
        SourceId::cluster("c")
    }

    fn node(name: &str, last: u8) -> SourceUpdate {
        let spec = NodeSpec { addresses: vec![[10, 0, 0, last].into()], ..NodeSpec::default() };
        SourceUpdate::Node { source: source(), name: name.into(), spec: Some(Box::new(spec)) }
    }

    fn slice(service: &str, name: &str) -> SourceUpdate {
        SourceUpdate::Slice {
            service: ObjectRef::service(&source(), "ns", service),
            slice: name.into(),
            content: Some(Box::new(haflinger_core::BackendSlice {
                family: haflinger_core::Family::V4,
                ports: vec![],
                backends: vec![],
                faults: vec![],
            })),
        }
    }

    fn hear(ledger: &mut Ledger, update: SourceUpdate) -> Vec<SourceUpdate> {
        let changes = ledger.heard(Key::of(&update), Some(update));
        changes.into_iter().map(|change| change.update).collect()
    }

    #[test]
    fn a_relist_says_exactly_the_difference() {
        let mut ledger = Ledger::new(source());
        ledger.list_began(Watched::Nodes, NOW);
        for (name, last) in [("a", 1), ("b", 2), ("c", 3)] {
            assert_eq!(hear(&mut ledger, node(name, last)).len(), 1);
        }
        assert!(ledger.list_ended(Watched::Nodes, NOW).is_empty());
        ledger.list_began(Watched::Nodes, NOW);
        assert!(hear(&mut ledger, node("a", 1)).is_empty());
        assert_eq!(hear(&mut ledger, node("b", 9)), [node("b", 9)]);
        let gone = ledger.list_ended(Watched::Nodes, NOW);
        assert_eq!(gone.len(), 1);
        let expected = SourceUpdate::Node { source: source(), name: "c".into(), spec: None };
        assert_eq!(gone[0].update, expected);
        assert_eq!(ledger.count(Watched::Nodes), 2);
    }

    #[test]
    fn a_slice_that_changes_its_service_leaves_the_former_first() {
        let mut ledger = Ledger::new(source());
        hear(&mut ledger, slice("old", "s"));
        let said = hear(&mut ledger, slice("new", "s"));
        assert_eq!(said.len(), 2);
        assert!(is_gone(&said[0]));
        let SourceUpdate::Slice { service, .. } = &said[0] else { panic!("not a slice") };
        assert_eq!(&*service.name, "old");
        assert_eq!(said[1], slice("new", "s"));
    }

    #[test]
    fn what_was_restored_is_not_said_again_and_goes_when_it_is_not_listed() {
        let mut ledger = Ledger::new(source());
        for update in [node("kept", 1), node("gone", 2)] {
            ledger.restore(&update, &written(&update));
        }
        ledger.list_began(Watched::Nodes, NOW);
        assert!(hear(&mut ledger, node("kept", 1)).is_empty());
        assert_eq!(ledger.list_ended(Watched::Nodes, NOW).len(), 1);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Apply(u8, u8),
        Delete(u8),
        Relist(Vec<(u8, u8)>),
        Abandoned(Vec<(u8, u8)>),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let pairs = || prop::collection::vec((0u8..6, 0u8..4), 0..8);
        let step = prop_oneof![
            4 => (0u8..6, 0u8..4).prop_map(|(name, last)| Step::Apply(name, last)),
            2 => (0u8..6).prop_map(Step::Delete),
            1 => pairs().prop_map(Step::Relist),
            1 => pairs().prop_map(Step::Abandoned),
        ];
        prop::collection::vec(step, 0..40)
    }

    fn fold(state: &mut BTreeMap<Key, SourceUpdate>, changes: impl IntoIterator<Item = Change>) {
        for change in changes {
            if is_gone(&change.update) {
                assert!(state.remove(&change.key).is_some(), "removals are said once");
            } else {
                let former = state.insert(change.key, change.update.clone());
                assert_ne!(former, Some(change.update), "nothing is said twice");
            }
        }
    }

    proptest! {
        #[test]
        fn any_order_of_events_ends_as_a_fresh_list(
            steps in steps(),
            last in prop::collection::btree_map(0u8..6, 0u8..4, 0..6),
        ) {
            let mut ledger = Ledger::new(source());
            let mut state = BTreeMap::new();
            let name = |n: u8| n.to_string();
            for step in steps {
                let (listed, complete) = match step {
                    Step::Apply(n, last) => {
                        let update = node(&name(n), last);
                        fold(&mut state, ledger.heard(Key::of(&update), Some(update)));
                        continue;
                    }
                    Step::Delete(n) => {
                        let key = Key::new(Watched::Nodes, "", &name(n));
                        fold(&mut state, ledger.gone(key, NOW));
                        continue;
                    }
                    Step::Relist(listed) => (listed, true),
                    Step::Abandoned(listed) => (listed, false),
                };
                ledger.list_began(Watched::Nodes, NOW);
                for (n, last) in listed {
                    let update = node(&name(n), last);
                    fold(&mut state, ledger.heard(Key::of(&update), Some(update)));
                }
                if complete {
                    fold(&mut state, ledger.list_ended(Watched::Nodes, NOW));
                }
            }
            ledger.list_began(Watched::Nodes, NOW);
            for (n, last) in &last {
                let update = node(&name(*n), *last);
                fold(&mut state, ledger.heard(Key::of(&update), Some(update)));
            }
            fold(&mut state, ledger.list_ended(Watched::Nodes, NOW));
            let fresh: BTreeMap<_, _> = last
                .iter()
                .map(|(n, last)| node(&name(*n), *last))
                .map(|update| (Key::of(&update), update))
                .collect();
            prop_assert_eq!(ledger.count(Watched::Nodes), fresh.len());
            prop_assert_eq!(state, fresh);
        }
    }
}
