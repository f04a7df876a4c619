//! What sources say.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{
    AuthorityRef, AuthoritySpec, BackendPolicySpec, BackendSlice, BackendTlsPolicySpec,
    CertificateRef, CertificateSpec, GatedPod, GatewayClassSpec, GatewaySpec, IngressSpec,
    ListenerSetSpec, NamespaceSpec, NodeSpec, ObjectRef, PodNetworkSpec, PodRef, Policy, ProbeKey,
    ReferenceGrantSpec, RequestPolicySpec, RouteOrigin, RouteSpec, SecretRef, ServiceKey,
    ServiceSpec, SourceFault, SourceId, UserList,
};

/// One change. Absent content means that the object is gone. Updates about different objects
/// commute, and repeating one changes nothing.
#[derive(Clone, Debug)]
pub enum Update {
    /// A fact about an object of a source; what can be kept on disk.
    Source(SourceUpdate),
    /// A source has listed everything once (or was restored from disk as a whole).
    Synced(SourceId),
    /// A source was taken out of the configuration: everything it said is gone.
    Retired(SourceId),
    /// A check of ours decided.
    Health {
        /// Which backend under which object's check.
        probe: ProbeKey,
        /// `None` when the probe has ended: nothing is known any more.
        healthy: Option<bool>,
    },
    /// Whether packets of this host reach an address of [`Snapshot::reach`](super::Snapshot).
    Reach {
        /// Which.
        address: SocketAddr,
        /// The number under which it is asked there: an answer to an earlier one is late.
        asked: u64,
        /// Something there answers, be it by refusing.
        reached: bool,
    },
    /// Whether this host has a VIP among its addresses.
    Bound {
        /// The VIP.
        address: IpAddr,
        /// Packets for it are taken.
        bound: bool,
    },
    /// The proxy could, or could no longer, use a certificate.
    Certificate {
        /// Which.
        certificate: CertificateRef,
        /// What is wrong with the newest material.
        fault: Option<SourceFault>,
    },
    /// What the users of a certificate should be told although it is served.
    CertificateNotice {
        /// Which.
        certificate: CertificateRef,
        /// Everything that is to be said of it now.
        notices: Vec<SourceFault>,
    },
    /// Whether XDP runs on this host. Until the first word it counts as running where the policy
    /// asks for it, so that a start does not lead every service through the relay.
    Datapath {
        /// Why no packet is forwarded by XDP; `None`: it runs.
        fault: Option<Arc<str>>,
    },
    /// Whether XDP can take a service. Whoever refused withdraws it when there is room again, when
    /// it is gone, or when it asks for no XDP any more. That it is relayed meanwhile is no reason.
    Forwarding {
        /// Which.
        service: ServiceKey,
        /// Why not; `None`: withdrawn.
        refused: Option<Arc<str>>,
    },
    /// Whether XDP leads packets for a service to its backends. Until it does, no router is told to
    /// send any.
    Held {
        /// Which.
        service: ServiceKey,
        /// Packets find it.
        held: bool,
    },
    /// Whether the socket of a service or of an L7 listener (then the protocol is TCP) is open.
    /// Whoever could not open it says so again as `None` when it is open, and when it is no
    /// longer wanted.
    Served {
        /// VIP, port and protocol.
        listener: ServiceKey,
        /// Why it is not open; `None`: nothing stands against it.
        fault: Option<Arc<str>>,
    },
    /// The checked configuration's part for the core.
    Policy(Arc<Policy>),
}

/// A fact about an object of a source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SourceUpdate {
    /// A service object.
    Service {
        /// Which.
        object: ObjectRef,
        /// What it says now.
        spec: Option<Box<ServiceSpec>>,
    },
    /// Backends of a service object from one slice.
    Slice {
        /// The service object.
        service: ObjectRef,
        /// The slice's name, unique in the namespace.
        slice: Arc<str>,
        /// What it says now.
        content: Option<Box<BackendSlice>>,
    },
    /// A node.
    Node {
        /// Its cluster.
        source: SourceId,
        /// Its name.
        name: Arc<str>,
        /// What it says now.
        spec: Option<Box<NodeSpec>>,
    },
    /// A namespace.
    Namespace {
        /// Its cluster.
        source: SourceId,
        /// Its name.
        name: Arc<str>,
        /// What it says now.
        spec: Option<Box<NamespaceSpec>>,
    },
    /// Pod networks of a node, as an object of the pods' own network says.
    PodNetwork {
        /// Its cluster.
        source: SourceId,
        /// Whose object it is.
        origin: RouteOrigin,
        /// The object's name, unique within cluster and origin.
        name: Arc<str>,
        /// What it says now.
        spec: Option<Box<PodNetworkSpec>>,
    },
    /// A pod with our readiness gate.
    Pod {
        /// Which.
        pod: PodRef,
        /// What it says now; `None` also while it lacks more than our gate.
        spec: Option<Box<GatedPod>>,
    },
    /// An Ingress.
    Ingress {
        /// Which.
        object: ObjectRef,
        /// What it says now.
        spec: Option<Box<IngressSpec>>,
    },
    /// A GatewayClass of ours.
    GatewayClass {
        /// Which.
        object: ObjectRef,
        /// What it says now.
        spec: Option<Box<GatewayClassSpec>>,
    },
    /// A Gateway.
    Gateway {
        /// Which.
        object: ObjectRef,
        /// What it says now.
        spec: Option<Box<GatewaySpec>>,
    },
    /// A ListenerSet.
    ListenerSet {
        /// Which.
        object: ObjectRef,
        /// What it says now.
        spec: Option<Box<ListenerSetSpec>>,
    },
    /// A route of any kind.
    Route {
        /// Which.
        object: ObjectRef,
        /// What it says now.
        spec: Option<Box<RouteSpec>>,
    },
    /// A ReferenceGrant.
    ReferenceGrant {
        /// Which.
        object: ObjectRef,
        /// What it says now.
        spec: Option<Box<ReferenceGrantSpec>>,
    },
    /// A BackendTLSPolicy.
    BackendTlsPolicy {
        /// Which.
        object: ObjectRef,
        /// What it says now.
        spec: Option<Box<BackendTlsPolicySpec>>,
    },
    /// A RequestPolicy.
    RequestPolicy {
        /// Which.
        object: ObjectRef,
        /// What it says now.
        spec: Option<Box<RequestPolicySpec>>,
    },
    /// A BackendPolicy.
    BackendPolicy {
        /// Which.
        object: ObjectRef,
        /// What it says now.
        spec: Option<Box<BackendPolicySpec>>,
    },
    /// Certificates of authorities.
    Authority {
        /// Which.
        authority: AuthorityRef,
        /// What it holds now.
        material: Option<Box<AuthoritySpec>>,
    },
    /// Users of a Secret.
    UserList {
        /// Which.
        secret: SecretRef,
        /// Who they are now.
        list: Option<Arc<UserList>>,
    },
    /// A certificate with its key.
    Certificate {
        /// Which.
        certificate: CertificateRef,
        /// What it says now.
        material: Option<Box<CertificateSpec>>,
    },
}
