//! What the room says about itself.

use std::net::IpAddr;
use std::sync::Arc;

use haflinger_core::{RouteOrigin, SourceId};
use imbl::OrdMap;
use ipnet::IpNet;
use serde::Serialize;

/// The room's part of `haflinger status`.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Status {
    /// What keeps the whole room from working, such as a missing privilege.
    pub error: Option<String>,
    /// The interface on which VIPs are bound, if they are.
    pub vip_interface: Option<String>,
    /// VIPs.
    pub addresses: Vec<AddressStatus>,
    /// Source addresses of `nat`, and those that were until lately.
    pub sources: Vec<AddressStatus>,
    /// The table to which routes to pods are written, if they are.
    pub pod_route_table: Option<u32>,
    /// Routes to pods.
    pub routes: Vec<RouteStatus>,
}

/// One VIP, or one source address of `nat`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct AddressStatus {
    /// The address.
    pub address: IpAddr,
    /// How it stands.
    pub state: AddressState,
    /// Why it is not bound by us.
    pub reason: Option<String>,
}

/// How a VIP stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum AddressState {
    /// Bound by us.
    Bound,
    /// The host has it from somebody else, who keeps it.
    Foreign,
    /// Not an address that is bound.
    Skipped,
    /// The kernel refuses; it is tried again.
    Failing,
    /// A source address that is not configured any more, still bound for flows that send from it.
    Lingering,
}

/// One route to pods.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RouteStatus {
    /// The pods' network.
    pub prefix: IpNet,
    /// The next hop.
    pub via: IpAddr,
    /// The node.
    pub node: Arc<str>,
    /// The node's cluster.
    pub source: SourceId,
    /// Who says that the network is the node's.
    pub origin: RouteOrigin,
    /// Another node that claims the same network and is not believed: node and cluster.
    pub rival: Option<(Arc<str>, SourceId)>,
    /// How it stands.
    pub state: RouteState,
    /// Why it is not installed.
    pub reason: Option<String>,
}

/// How a route stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum RouteState {
    /// In the kernel.
    Installed,
    /// Left out: a foreign route to the same network stands there, or the network of another
    /// cluster overlaps.
    Conflict,
    /// It cannot be a route to pods.
    Invalid,
    /// The kernel refuses; it is tried again.
    Failing,
}

/// State and reason of one key.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Entry<S> {
    pub(crate) state: S,
    pub(crate) reason: Option<Arc<str>>,
}

/// What the reconciler publishes: cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Published {
    pub(crate) error: Option<String>,
    pub(crate) addresses: OrdMap<IpAddr, Entry<AddressState>>,
    pub(crate) sources: OrdMap<IpAddr, Entry<AddressState>>,
    pub(crate) routes: OrdMap<IpNet, RouteEntry>,
}

/// A route as it is published.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct RouteEntry {
    pub(crate) via: IpAddr,
    pub(crate) node: Arc<str>,
    pub(crate) source: SourceId,
    pub(crate) origin: RouteOrigin,
    pub(crate) rival: Option<(Arc<str>, SourceId)>,
    pub(crate) entry: Entry<RouteState>,
}
