//! Names of things: sources, objects, targets and services.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::net::{IpAddr, SocketAddr};
use std::ops::Deref;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Where an object comes from: one cluster (`cluster/NAME`) or the inventory file (`inventory`);
/// `shared` for what is of several clusters.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SourceId(Arc<str>);

impl SourceId {
    /// The cluster that the configuration calls `name`.
    pub fn cluster(name: &str) -> Self {
        Self(format!("cluster/{name}").into())
    }

    /// The inventory file.
    pub fn inventory() -> Self {
        Self("inventory".into())
    }

    /// What services of several clusters are of (`haflinger.dev/shared`): no source says
    /// anything of it, the index makes it.
    pub fn shared() -> Self {
        Self("shared".into())
    }

    /// Whether it is [`SourceId::shared`].
    pub fn is_shared(&self) -> bool {
        &*self.0 == "shared"
    }

    /// The configured name, when this source is a cluster.
    pub fn cluster_name(&self) -> Option<&str> {
        self.0.strip_prefix("cluster/")
    }

    /// `cluster/NAME` or `inventory`.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The kinds of object that are looked at one by one, most of which are reported on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum ObjectKind {
    /// A Kubernetes Service, or a `[[service]]` of the inventory.
    Service,
    /// A Kubernetes Ingress, or a `[[site]]` of the inventory.
    Ingress,
    /// A GatewayClass. Cluster-wide: its namespace is empty.
    GatewayClass,
    /// A Gateway.
    Gateway,
    /// A ListenerSet.
    ListenerSet,
    /// An HTTPRoute.
    HttpRoute,
    /// A GRPCRoute.
    GrpcRoute,
    /// A TLSRoute.
    TlsRoute,
    /// A TCPRoute.
    TcpRoute,
    /// A UDPRoute.
    UdpRoute,
    /// A ReferenceGrant.
    ReferenceGrant,
    /// A BackendTLSPolicy.
    BackendTlsPolicy,
    /// A RequestPolicy.
    RequestPolicy,
    /// A BackendPolicy.
    BackendPolicy,
}

impl ObjectKind {
    /// Lower case, as it stands in names.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Service => "service",
            Self::Ingress => "ingress",
            Self::GatewayClass => "gatewayclass",
            Self::Gateway => "gateway",
            Self::ListenerSet => "listenerset",
            Self::HttpRoute => "httproute",
            Self::GrpcRoute => "grpcroute",
            Self::TlsRoute => "tlsroute",
            Self::TcpRoute => "tcproute",
            Self::UdpRoute => "udproute",
            Self::ReferenceGrant => "referencegrant",
            Self::BackendTlsPolicy => "backendtlspolicy",
            Self::RequestPolicy => "requestpolicy",
            Self::BackendPolicy => "backendpolicy",
        }
    }

    /// The kind as the API writes it.
    pub fn api_kind(self) -> &'static str {
        match self {
            Self::Service => "Service",
            Self::Ingress => "Ingress",
            Self::GatewayClass => "GatewayClass",
            Self::Gateway => "Gateway",
            Self::ListenerSet => "ListenerSet",
            Self::HttpRoute => "HTTPRoute",
            Self::GrpcRoute => "GRPCRoute",
            Self::TlsRoute => "TLSRoute",
            Self::TcpRoute => "TCPRoute",
            Self::UdpRoute => "UDPRoute",
            Self::ReferenceGrant => "ReferenceGrant",
            Self::BackendTlsPolicy => "BackendTLSPolicy",
            Self::RequestPolicy => "RequestPolicy",
            Self::BackendPolicy => "BackendPolicy",
        }
    }

    /// Its group and version in the API.
    pub fn api_version(self) -> (&'static str, &'static str) {
        match self {
            Self::Service => ("", "v1"),
            Self::Ingress => ("networking.k8s.io", "v1"),
            Self::RequestPolicy | Self::BackendPolicy => ("haflinger.dev", "v1alpha1"),
            _ => ("gateway.networking.k8s.io", "v1"),
        }
    }

    /// Whether it is of the Gateway API, or a policy of ours for it: its status has conditions.
    pub fn has_conditions(self) -> bool {
        !matches!(self, Self::Service | Self::Ingress)
    }

    /// Whether it is a route.
    pub fn is_route(self) -> bool {
        matches!(
            self,
            Self::HttpRoute | Self::GrpcRoute | Self::TlsRoute | Self::TcpRoute | Self::UdpRoute
        )
    }
}

/// One object of one source. Ordered by source, kind, namespace and name.
///
/// A clone is the same name in memory: of 50,000 services each is named in a dozen places.
#[derive(Clone, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ObjectRef(Arc<ObjectName>);

/// What an [`ObjectRef`] consists of.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ObjectName {
    /// Where the object lives.
    pub source: SourceId,
    /// What it is.
    pub kind: ObjectKind,
    /// Its namespace; `default` for the inventory.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
}

impl ObjectRef {
    /// The service `namespace/name` of `source`.
    pub fn service(source: &SourceId, namespace: &str, name: &str) -> Self {
        Self::new(source, ObjectKind::Service, namespace.into(), name)
    }

    /// The ingress `namespace/name` of `source`.
    pub fn ingress(source: &SourceId, namespace: &str, name: &str) -> Self {
        Self::new(source, ObjectKind::Ingress, namespace.into(), name)
    }

    /// The object `namespace/name` of a kind.
    pub fn of_kind(source: &SourceId, kind: ObjectKind, namespace: &str, name: &str) -> Self {
        Self::new(source, kind, namespace.into(), name)
    }

    /// Whatever comes first in `namespace` among the objects of `source` and `kind`.
    pub fn first_of(source: &SourceId, kind: ObjectKind, namespace: &Arc<str>) -> Self {
        Self::new(source, kind, namespace.clone(), "")
    }

    /// The object of the same kind, namespace and name in another source.
    pub fn in_source(&self, source: &SourceId) -> Self {
        Self::new(source, self.kind, self.namespace.clone(), &self.name)
    }

    fn new(source: &SourceId, kind: ObjectKind, namespace: Arc<str>, name: &str) -> Self {
        let source = source.clone();
        Self(Arc::new(ObjectName { source, kind, namespace, name: name.into() }))
    }

    /// The text of its namespace, to be exchanged for an equal one that others hold too.
    pub fn namespace_mut(&mut self) -> &mut Arc<str> {
        &mut Arc::make_mut(&mut self.0).namespace
    }
}

/// Texts that are the same in memory are not read: of two objects that are compared, nearly always
/// those of the source, and often those of the namespace.
fn compare(one: &Arc<str>, other: &Arc<str>) -> Ordering {
    if Arc::ptr_eq(one, other) { Ordering::Equal } else { one.cmp(other) }
}

impl PartialOrd for ObjectName {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for ObjectName {
    fn cmp(&self, other: &Self) -> Ordering {
        compare(&self.source.0, &other.source.0)
            .then(self.kind.cmp(&other.kind))
            .then_with(|| compare(&self.namespace, &other.namespace))
            .then_with(|| self.name.cmp(&other.name))
    }
}

impl Deref for ObjectRef {
    type Target = ObjectName;

    fn deref(&self) -> &ObjectName {
        &self.0
    }
}

impl PartialEq for ObjectRef {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.0 == other.0
    }
}

impl Eq for ObjectRef {}

impl PartialOrd for ObjectRef {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for ObjectRef {
    fn cmp(&self, other: &Self) -> Ordering {
        if Arc::ptr_eq(&self.0, &other.0) { Ordering::Equal } else { self.0.cmp(&other.0) }
    }
}

impl Hash for ObjectRef {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.hash(state);
    }
}

/// A TLS certificate with its key: a Secret of type `kubernetes.io/tls`, or files of the
/// inventory.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct CertificateRef {
    /// Where it lives.
    pub source: SourceId,
    /// The Secret's namespace; `default` for the inventory.
    pub namespace: Arc<str>,
    /// The Secret's name.
    pub name: Arc<str>,
}

/// Transport protocol of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// Transmission Control Protocol, protocol number 6.
    Tcp,
    /// User Datagram Protocol, protocol number 17.
    Udp,
}

impl Protocol {
    /// The IANA protocol number.
    pub fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
        }
    }
}

/// Address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Family {
    /// IPv4.
    #[serde(rename = "ipv4")]
    V4,
    /// IPv6.
    #[serde(rename = "ipv6")]
    V6,
}

impl Family {
    /// The family of an address.
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }
}

/// A service as packets see it: VIP, port and protocol.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ServiceKey {
    /// The virtual address.
    pub vip: IpAddr,
    /// The port on the virtual address.
    pub port: u16,
    /// The protocol.
    pub protocol: Protocol,
}

impl ServiceKey {
    /// VIP and port together.
    pub fn socket_addr(&self) -> SocketAddr {
        SocketAddr::new(self.vip, self.port)
    }
}

/// One set of backends: a port of a service object, in one address family. L4 services and L7
/// rules both point at targets, so that pods and forwarding table exist once.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Target {
    /// The service object whose pods these are.
    pub object: ObjectRef,
    /// The service port's number, as clients of the cluster know it.
    pub port: u16,
    /// The service port's protocol.
    pub protocol: Protocol,
    /// The family of the backends' addresses.
    pub family: Family,
}

impl fmt::Display for SourceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for ObjectKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}/{}", self.source, self.kind, self.namespace, self.name)
    }
}

impl fmt::Display for ObjectRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&**self, f)
    }
}

impl fmt::Display for CertificateRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/secret/{}/{}", self.source, self.namespace, self.name)
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "ipv4",
            Self::V6 => "ipv6",
        })
    }
}

impl fmt::Display for ServiceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.socket_addr(), self.protocol)
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}/{} {}", self.object, self.port, self.protocol, self.family)
    }
}

macro_rules! debug_as_display {
    ($($name:ty),*) => {$(
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    )*};
}

debug_as_display!(SourceId, ObjectName, ObjectRef, CertificateRef, ServiceKey, Target);
