//! What Nodes, and the objects of the pods' own network, say of nodes: [`NodeSpec`] and
//! [`PodNetworkSpec`].
//!
//! Entries that cannot be read are left out: there is then no route, which the status of the
//! routes shows.

use std::collections::BTreeMap;
use std::net::IpAddr;

use haflinger_core::{NodeSpec, PodNetworkSpec, RouteOrigin};
use ipnet::IpNet;

use super::annotations::VALUE_BYTES_MAX;
use crate::objects::lax::Lax;
use crate::objects::{AffinityBody, CiliumNodeBody, Name, NodeBody, Object};

/// Networks that are read of one object. Pod networks hand out blocks one by one, so that even a
/// large node has some tens; an object that lists more is wrong, and must not fill the routing
/// table by itself.
pub(crate) const NETWORKS_MAX: usize = 256;

/// Cilium's annotations.
const CILIUM: [Name; 4] =
    [Name::CILIUM_V4, Name::CILIUM_V6, Name::CILIUM_OLD_V4, Name::CILIUM_OLD_V6];

/// The cluster's own network in OVN-Kubernetes's annotation; others are of pods with several interfaces.
const OVN_NETWORK: &str = "default";

/// The label of nodes whose ports no external load balancer sends to, whatever its value.
const EXCLUDED: &str = "node.kubernetes.io/exclude-from-external-load-balancers";

/// A Node's pod networks and internal addresses, and whether packets may be sent to its ports.
pub(crate) fn node(object: &Object<NodeBody>) -> NodeSpec {
    let spec = object.body.spec.get();
    let mut networks: Vec<&str> = spec
        .map(|spec| spec.pod_cidrs.elements().iter().filter_map(Lax::text).collect())
        .unwrap_or_default();
    if networks.is_empty() {
        networks.extend(spec.and_then(|spec| spec.pod_cidr.text()));
    }
    let status = object.body.status.get();
    let addresses = status.map(|status| status.addresses.elements());
    let conditions = status.map(|status| status.conditions.elements()).unwrap_or_default();
    let mut conditions = conditions.iter().filter_map(Lax::get);
    let ready = conditions.find(|condition| condition.condition_type.text() == Some("Ready"));
    let cilium = parsed(CILIUM.into_iter().filter_map(|name| object.annotation(name)));
    let cilium = cilium.into_iter().map(|network| (RouteOrigin::Cilium, network));
    let ovn = ovn(object).into_iter().map(|network| (RouteOrigin::Ovn, network));
    NodeSpec {
        pod_networks: parsed(networks),
        annotated: cilium.chain(ovn).collect(),
        addresses: addresses
            .unwrap_or_default()
            .iter()
            .filter_map(Lax::get)
            .filter(|address| address.address_type.text() == Some("InternalIP"))
            .filter_map(|address| address.address.text()?.parse().ok())
            .collect(),
        not_ready: ready.and_then(|ready| ready.status.text()) != Some("True"),
        excluded: object.label(EXCLUDED).is_some(),
    }
}

/// A block that Calico has given to a node for good; `None` for one that it is about to give or
/// to take back, and for addresses of its own load balancer (type `virtual`).
pub(crate) fn block_affinity(object: &Object<AffinityBody>) -> Option<PodNetworkSpec> {
    let spec = object.body.spec.get()?;
    let confirmed = matches!(spec.state.text(), None | Some("confirmed"));
    let deleted = spec.deleted.get().is_some_and(|deleted| deleted.0);
    let of_host = matches!(spec.affinity_type.text(), None | Some("host"));
    if !confirmed || deleted || !of_host || object.deleting {
        return None;
    }
    let networks = parsed(spec.cidr.text());
    let node = spec.node.text().filter(|_| !networks.is_empty())?;
    Some(PodNetworkSpec { node: node.into(), networks, addresses: Vec::new() })
}

/// A CiliumNode's pod networks, of every pool, and internal addresses.
pub(crate) fn cilium_node(object: &Object<CiliumNodeBody>) -> Option<PodNetworkSpec> {
    let spec = object.body.spec.get()?;
    let mut networks: Vec<&str> = Vec::new();
    if let Some(ipam) = spec.ipam.get() {
        networks.extend(ipam.pod_cidrs.elements().iter().filter_map(Lax::text));
        let pools = ipam.pools.get().map(|pools| pools.allocated.elements()).unwrap_or_default();
        let of_pools = pools.iter().filter_map(Lax::get).flat_map(|pool| pool.cidrs.elements());
        networks.extend(of_pools.filter_map(Lax::text));
    }
    let addresses = spec.addresses.elements().iter().filter_map(Lax::get);
    let internal = addresses.filter(|address| address.address_type.text() == Some("InternalIP"));
    let addresses: Vec<IpAddr> =
        internal.filter_map(|address| address.ip.text()?.parse().ok()).collect();
    Some(PodNetworkSpec { node: object.name().into(), networks: parsed(networks), addresses })
}

/// OVN-Kubernetes's annotation: JSON, for each network one subnet or a list of them.
fn ovn(object: &Object<NodeBody>) -> Vec<IpNet> {
    let text = object.annotation(Name::OVN_SUBNETS);
    let Some(text) = text.filter(|text| text.len() <= VALUE_BYTES_MAX) else { return Vec::new() };
    let subnets: BTreeMap<String, serde_json::Value> =
        serde_json::from_str(text).unwrap_or_default();
    match subnets.get(OVN_NETWORK) {
        Some(serde_json::Value::String(subnet)) => parsed([subnet.as_str()]),
        Some(serde_json::Value::Array(subnets)) => {
            parsed(subnets.iter().filter_map(serde_json::Value::as_str))
        }
        _ => Vec::new(),
    }
}

/// Networks without the bits of a host, in their order, each once.
fn parsed<'a>(texts: impl IntoIterator<Item = &'a str>) -> Vec<IpNet> {
    let mut networks = Vec::new();
    for network in texts.into_iter().filter_map(|text| text.trim().parse::<IpNet>().ok()) {
        let network = network.trunc();
        if networks.len() < NETWORKS_MAX && !networks.contains(&network) {
            networks.push(network);
        }
    }
    networks
}
