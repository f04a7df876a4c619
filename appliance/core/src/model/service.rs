//! Services and backends, as sources describe them and as the data path uses them.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{
    AddressWish, Algorithm, ConnectionLimits, Family, FaultReason, FlowTimeouts, ForwardingMode,
    IpMode, LabelPairs, ModeReason, ObjectRef, PortStatus, Protocol, ServiceKey, SourceFault,
    Target, TimeoutRequest,
};
use crate::forwarding::TableView;

/// Relative capacity of a backend. 0 takes no new flow.
pub type Weight = u32;

/// The weight of a backend about which nothing else is known.
pub const DEFAULT_WEIGHT: Weight = 100;

/// Largest accepted weight: keeps `buckets × weight` far inside 64 bits.
pub const MAX_WEIGHT: Weight = 1_000_000;

/// PROXY protocol header sent to the backend.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum ProxyProtocol {
    /// None.
    #[default]
    Off,
    /// Version 1, text.
    V1,
    /// Version 2, binary.
    V2,
}

/// An active check of a backend. Times are milliseconds.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct HealthCheck {
    /// What is asked.
    pub kind: HealthCheckKind,
    /// The port to probe, when it is not the backend's own.
    pub port: Option<u16>,
    /// The header that a backend expects which gets its clients' addresses this way. The probe
    /// sends it without an address (`LOCAL`, `UNKNOWN`). The index takes it from the service, for
    /// checks of the backend's own port.
    pub proxy_protocol: ProxyProtocol,
    /// Time between the starts of two probes.
    pub interval_ms: u32,
    /// A probe that takes longer has failed. Never above the interval.
    pub timeout_ms: u32,
    /// Successes in a row that bring a backend back.
    pub rise: u32,
    /// Failures in a row that take a backend out.
    pub fall: u32,
    /// The ways on which the backend has to answer, all of them, sorted; empty:
    /// [`ProbeWay::Direct`] alone. The index sets it, by the modes of the services.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ways: Vec<ProbeWay>,
}

impl HealthCheck {
    /// The ways on which the backend has to answer: at least one.
    pub fn ways(&self) -> &[ProbeWay] {
        if self.ways.is_empty() { &[ProbeWay::Direct] } else { &self.ways }
    }
}

/// How a probe gets to its backend: as flows do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProbeWay {
    /// To the backend's own address: `nat`, `routed`, the relay and L7.
    Direct,
    /// To this VIP, inside of IP-in-IP packets to the backend: `dsr`.
    Through(IpAddr),
}

impl fmt::Display for ProbeWay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Direct => f.write_str("direct"),
            Self::Through(vip) => write!(f, "through {vip}"),
        }
    }
}

/// What a health check asks.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HealthCheckKind {
    /// A TCP connection is accepted.
    Tcp,
    /// `GET path` over HTTP/1.1 answers with a status from 200 to 399.
    Http {
        /// Origin-form path, beginning with `/`.
        path: Arc<str>,
        /// The Host header; the address that is asked when absent.
        host: Option<Arc<str>>,
    },
}

/// One port of a service object.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ServicePort {
    /// Name; empty where the object has a single unnamed port. Slices are matched by it.
    pub name: Arc<str>,
    /// Port on the VIP.
    pub port: u16,
    /// Protocol.
    pub protocol: Protocol,
    /// What is spoken on it (`appProtocol`): kept for layer 7, without meaning at layer 4.
    #[serde(default)]
    pub app_protocol: Option<Arc<str>>,
    /// The port under which every node takes packets for it (`spec.ports[].nodePort`).
    #[serde(default)]
    pub node_port: Option<u16>,
}

/// A port of a service object that is not served, for the object's status.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct RefusedPort {
    /// Its number, as written.
    pub port: u16,
    /// Its protocol, as written: `TCP`, `UDP` or `SCTP`.
    pub protocol: Arc<str>,
    /// Why not.
    pub reason: FaultReason,
}

/// Which backends a service prefers (`spec.trafficDistribution`). A preference: where none of
/// those can be used, all are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Distribution {
    /// All alike.
    #[default]
    Even,
    /// Those in the zone of the host. An edge host is no node, so that `PreferSameNode` comes to
    /// the same.
    SameZone,
}

/// In how many families a service object wants to be served (`spec.ipFamilyPolicy`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FamilyPolicy {
    /// In every family that it names.
    #[default]
    Every,
    /// In those that there are pools for (`PreferDualStack`).
    Possible,
}

/// Where packets for a service go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Destination {
    /// To its pods, and to nodes' ports in the place of those that cannot be reached.
    Auto,
    /// To its pods, whether they can be reached or not.
    Pods,
    /// To nodes' ports.
    Nodes,
}

/// A service object as its source describes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceSpec {
    /// Ports in the object's order.
    pub ports: Vec<ServicePort>,
    /// Ports that discovery had to refuse, in the object's order. `faults` says more.
    #[serde(default)]
    pub refused_ports: Vec<RefusedPort>,
    /// What the object asks of the edge; `None` for a service that only L7 rules point at.
    pub exposure: Option<Exposure>,
    /// Seconds since 1970 at which the object was created: of two objects that want one
    /// address and port, the older keeps it.
    pub created_secs: i64,
    /// Families of the object's backends, first is preferred (`spec.ipFamilies`).
    pub families: Vec<Family>,
    /// How the backend of a new flow is chosen. Earlier releases wrote it as `affinity`.
    #[serde(default, alias = "affinity")]
    pub algorithm: Algorithm,
    /// Flows that one host holds at once.
    #[serde(default)]
    pub limits: ConnectionLimits,
    /// How long idle flows are kept.
    #[serde(default)]
    pub timeouts: TimeoutRequest,
    /// Where packets go; `None`: as configured.
    #[serde(default)]
    pub destination: Option<Destination>,
    /// `externalTrafficPolicy: Local`: a node's port leads to the node's own pods alone.
    #[serde(default)]
    pub local_traffic: bool,
    /// `publishNotReadyAddresses`: readiness is not looked at.
    pub publish_not_ready: bool,
    /// Which backends are preferred.
    #[serde(default)]
    pub distribution: Distribution,
    /// PROXY protocol towards the backends.
    pub proxy_protocol: ProxyProtocol,
    /// Own check of each backend, beside Kubernetes readiness.
    pub health_check: Option<HealthCheck>,
    /// The labels of its pods (`spec.selector`), where pods of the source may wait for the
    /// readiness gate; otherwise empty.
    #[serde(default)]
    pub selector: LabelPairs,
    /// What discovery had to refuse, for the object's status.
    pub faults: Vec<SourceFault>,
}

/// What a service object asks of the edge.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exposure {
    /// Families in which a VIP is wanted, first is preferred.
    pub families: Vec<Family>,
    /// Whether it has to be all of them.
    #[serde(default)]
    pub family_policy: FamilyPolicy,
    /// Addresses asked for (`spec.loadBalancerIP` or annotation); empty: choose from a pool.
    pub requested: Vec<IpAddr>,
    /// The pool asked for; `None`: any pool that assigns automatically.
    pub pool: Option<Arc<str>>,
    /// What else it asks about its addresses.
    #[serde(default)]
    pub wish: AddressWish,
    /// The record: addresses in `status.loadBalancer.ingress`. For the inventory, the
    /// addresses written there.
    pub recorded: Vec<IpAddr>,
    /// The `ipMode` of those entries; `None` where they have none, or not the same.
    #[serde(default)]
    pub recorded_ip_mode: Option<IpMode>,
    /// The ports of those entries, by address; empty where they list none.
    #[serde(default)]
    pub recorded_ports: Vec<(IpAddr, Vec<PortStatus>)>,
    /// Backends should see the client's address (`externalTrafficPolicy: Local`).
    #[serde(default)]
    pub wants_client_address: bool,
    /// How packets should reach the backends; `None`: as configured. Earlier releases wrote
    /// `mode`, in which nobody had a choice: it is not read.
    #[serde(default, rename = "forwarding")]
    pub mode: Option<ForwardingMode>,
    /// Clients that may connect; empty: all (`loadBalancerSourceRanges`).
    pub source_ranges: Vec<IpNet>,
    /// Host names for DNS.
    pub hostnames: Vec<Arc<str>>,
    /// Time to live of those records in seconds; the zone's default when absent.
    pub ttl_secs: Option<u32>,
    /// It is one service with the objects of its namespace and name in other clusters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub share: Option<ClusterShare>,
}

/// The weight of a cluster about which nothing else is known: its backends keep theirs.
pub const CLUSTER_WEIGHT_DEFAULT: u16 = 100;

/// Largest weight of a cluster.
pub const CLUSTER_WEIGHT_MAX: u16 = 256;

/// One cluster's part in a service of several.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterShare {
    /// The weights of its backends are multiplied with a hundredth of this, 0 to
    /// [`CLUSTER_WEIGHT_MAX`]; 0: they take no new flow.
    pub weight: u16,
    /// Lower is used first; others while no backend of a lower one can be.
    pub priority: u16,
}

impl Default for ClusterShare {
    fn default() -> Self {
        Self { weight: CLUSTER_WEIGHT_DEFAULT, priority: 0 }
    }
}

/// Backends of one service object from one slice, in one family.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackendSlice {
    /// Family of every address in it.
    pub family: Family,
    /// Ports on the backends, matched to service ports by name and protocol.
    pub ports: Vec<SlicePort>,
    /// The backends.
    pub backends: Vec<SliceBackend>,
    /// What discovery had to refuse.
    pub faults: Vec<SourceFault>,
}

/// One port of a slice.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlicePort {
    /// Name, equal to the service port's.
    pub name: Arc<str>,
    /// Protocol.
    pub protocol: Protocol,
    /// Port on the backend.
    pub port: u16,
}

/// One backend of a slice.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SliceBackend {
    /// The address to send to.
    pub address: IpAddr,
    /// Pod name, or the inventory's name for it.
    pub name: Arc<str>,
    /// The node it runs on.
    pub node: Option<Arc<str>>,
    /// The zone it runs in.
    pub zone: Option<Arc<str>>,
    /// Zones whose clients it is meant for (EndpointSlice `hints.forZones`); empty: no hint.
    #[serde(default, skip_serializing_if = "<[_]>::is_empty")]
    pub for_zones: Box<[Arc<str>]>,
    /// Relative capacity.
    pub weight: Weight,
    /// EndpointSlice condition `ready` (nil means true).
    pub ready: bool,
    /// EndpointSlice condition `serving` (nil means true).
    pub serving: bool,
    /// EndpointSlice condition `terminating` (nil means false).
    pub terminating: bool,
    /// Used only while no other backend can be.
    #[serde(default)]
    pub backup: bool,
}

/// Whether a backend takes flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BackendState {
    /// Takes new flows.
    Active,
    /// Takes no new flow and keeps its old ones.
    Draining,
    /// Takes no flow.
    Down,
}

/// Why a backend is not active. Several may hold at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StateReason {
    /// Kubernetes says that the pod is not ready.
    NotReady,
    /// The pod is terminating and still serves.
    Terminating,
    /// The pod is terminating and no longer serves.
    Terminated,
    /// Our own check failed `fall` times in a row.
    CheckFailed,
    /// Its weight is 0.
    WeightZero,
    /// Terminating, but used because no other backend is left.
    LastResort,
    /// A backup that stands by: another backend is active.
    Backup,
    /// The service prefers the zone of this host, and there is an active backend in it.
    OtherZone,
    /// Active all the same: for Kubernetes to call the pod ready, the readiness gate alone is
    /// missing, which waits for us.
    AwaitsGate,
    /// Packets of this host do not reach it: nodes' ports stand in for it.
    Unreachable,
    /// A node's port, which stands in for pods.
    NodePort,
}

/// A backend of a target as the data path uses it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backend {
    /// Address and port to send to.
    pub address: SocketAddr,
    /// Pod name, or the inventory's name for it.
    pub name: Arc<str>,
    /// The node it runs on.
    pub node: Option<Arc<str>>,
    /// The zone it runs in.
    pub zone: Option<Arc<str>>,
    /// Relative capacity.
    pub weight: Weight,
    /// Used only while no other backend can be.
    pub backup: bool,
    /// Whether it takes flows.
    pub state: BackendState,
    /// Why it is in that state; empty when simply active.
    pub reasons: Vec<StateReason>,
}

/// The backends of one target and the table that spreads flows over the active ones.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendSet {
    /// Whose backends these are.
    pub target: Target,
    /// All of them, sorted by address.
    pub backends: Vec<Backend>,
    /// Spreads flows over the active ones.
    pub table: TableView<SocketAddr>,
}

impl BackendSet {
    /// The backend at `address`, whatever its state.
    pub fn get(&self, address: &SocketAddr) -> Option<&Backend> {
        let at = self.backends.binary_search_by(|backend| backend.address.cmp(address)).ok()?;
        Some(&self.backends[at])
    }

    /// Backends that take new flows.
    pub fn active(&self) -> impl Iterator<Item = &Backend> {
        self.backends.iter().filter(|backend| backend.state == BackendState::Active)
    }

    /// Whether any backend takes new flows.
    pub fn is_available(&self) -> bool {
        self.active().next().is_some()
    }
}

/// An L4 service as the data path serves it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// VIP, port and protocol.
    pub key: ServiceKey,
    /// The object that it belongs to.
    pub object: ObjectRef,
    /// How packets reach the backends here and now.
    pub mode: ForwardingMode,
    /// How they should, by the object or else by the configuration.
    pub asked_mode: ForwardingMode,
    /// Why the two differ.
    pub mode_reason: Option<ModeReason>,
    /// How the backend of a new flow is chosen.
    pub algorithm: Algorithm,
    /// Flows that this host holds at once.
    pub limits: ConnectionLimits,
    /// How long flows without packets are kept.
    pub timeouts: FlowTimeouts,
    /// Clients that may connect; empty: all.
    pub source_ranges: Vec<IpNet>,
    /// PROXY protocol towards the backends.
    pub proxy_protocol: ProxyProtocol,
    /// Its backends and table.
    pub backends: Arc<BackendSet>,
}
