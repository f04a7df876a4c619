//! The policy, VIPs, nodes and the routes to their pods.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{FlowTimeouts, ForwardingMode, Pool, SourceId};

/// What the configuration decides for the core.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// Every source that is configured: no address is proposed before each has listed once.
    pub sources: Vec<SourceId>,
    /// Address pools.
    pub pools: Vec<Pool>,
    /// VIPs on which Ingresses without an address of their own are served.
    pub shared_http_addresses: Vec<IpAddr>,
    /// Port of plain HTTP on an Ingress's VIP.
    pub http_port: u16,
    /// Port of HTTPS on an Ingress's VIP.
    pub https_port: u16,
    /// VIPs are bound on this host by netlink, and announced only once they are: a router that
    /// is told earlier sends packets that the host would send back.
    pub bind_vips: bool,
    /// The host announces nothing: it is draining.
    pub draining: bool,
    /// The mode of services that ask for none.
    pub default_mode: ForwardingMode,
    /// Flow timeouts of services that ask for none.
    pub timeouts: FlowTimeouts,
    /// This host should forward by XDP. Otherwise every service is relayed.
    pub xdp: bool,
    /// The failure zone of this host: services that ask for it prefer backends there.
    pub zone: Option<Arc<str>>,
    /// Whose word about pod networks counts, in the order of belief, for clusters that do not
    /// believe [`RouteOrigin::ALL`].
    pub pod_routes: BTreeMap<SourceId, Vec<RouteOrigin>>,
    /// Clusters whose pods may wait for the readiness gate.
    pub gated: BTreeSet<SourceId>,
    /// Pods are probed, and nodes' ports stand in for those that cannot be reached, for services
    /// that do not ask for anything else.
    pub fallback: bool,
}

/// A virtual address that some object holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vip {
    /// The address.
    pub address: IpAddr,
    /// The pool that it belongs to, if any.
    pub pool: Option<Arc<str>>,
    /// Whether routers are told about it.
    pub announcement: Announcement,
}

/// Whether a VIP is announced, and why not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Announcement {
    /// At least one service on it has a backend that takes new flows, and its port is open.
    Announced,
    /// No service on it has one.
    NoBackend,
    /// The services that have one cannot be served: their ports cannot be opened on this host.
    NotServed,
    /// This host does not have the address yet, or cannot have it.
    NotBound,
    /// This host is draining.
    Draining,
}

/// A node of a cluster, as far as packets to it or to its pods need it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeSpec {
    /// `spec.podCIDRs`.
    pub pod_networks: Vec<IpNet>,
    /// Pod networks that the pods' own network wrote into the node's annotations.
    #[serde(default)]
    pub annotated: Vec<(RouteOrigin, IpNet)>,
    /// Addresses of type InternalIP.
    pub addresses: Vec<IpAddr>,
    /// Condition `Ready` is not true.
    #[serde(default)]
    pub not_ready: bool,
    /// Label `node.kubernetes.io/exclude-from-external-load-balancers`: no packet is sent to its
    /// ports. Its pods are served all the same.
    #[serde(default)]
    pub excluded: bool,
}

/// Pod networks of a node, as an object of the pods' own network says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodNetworkSpec {
    /// The node.
    pub node: Arc<str>,
    /// Its networks.
    pub networks: Vec<IpNet>,
    /// The node's addresses, where the object has them; those of the Node count first.
    pub addresses: Vec<IpAddr>,
}

/// Who says which networks a node's pods are in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RouteOrigin {
    /// Calico's block affinities.
    Calico,
    /// CiliumNodes, or else Cilium's annotations of the Node.
    Cilium,
    /// OVN-Kubernetes's annotation of the Node.
    Ovn,
    /// `spec.podCIDRs` of the Node.
    Node,
}

impl RouteOrigin {
    /// In the order in which they are believed: whoever runs the pods' network knows better than
    /// the Node, which keeps its `podCIDRs` even where nobody uses them.
    pub const ALL: [Self; 4] = [Self::Calico, Self::Cilium, Self::Ovn, Self::Node];
}

/// A route to the pods of a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodRoute {
    /// Next hop: the node's address in the network's family.
    pub via: IpAddr,
    /// The node.
    pub node: Arc<str>,
    /// The node's cluster.
    pub source: SourceId,
    /// Who says so.
    pub origin: RouteOrigin,
    /// The route is not to be written: a network of another cluster overlaps, and that cluster
    /// comes first.
    pub overlaps: Option<RouteRival>,
    /// The first of those that say the same network of another node, and are not believed.
    pub rival: Option<RouteRival>,
}

/// Another node whose network stands against a route.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteRival {
    /// Its network.
    pub network: IpNet,
    /// The node.
    pub node: Arc<str>,
    /// The node's cluster.
    pub source: SourceId,
}
