//! Who sits where: names and addresses of the lab, and the wires between them.
//!
//! ```text
//!  client ───── router (BIRD 2) ──┬── edge1, edge2    Haflinger: XDP on eth0, BGP to the router
//!  10.10.0.2    10.10.0.1         ├── node1, node2    pods behind them
//!               10.20.0.1         ├── dns             BIND 9
//!                                 └── control         Kubernetes API
//!                                 fabric: a bridge, 10.20.0.0/24 and fd00:20::/64
//! ```
//!
//! The router knows no route to the pods: what reaches them came through an edge host.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use anyhow::Result;

use super::netns::{Namespace, join};
use super::{PassingProgram, Place, offload};

/// A host of the lab: its name and the last part of its addresses on the fabric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Host {
    /// Name of the host, and of its namespace behind the lab's prefix.
    pub name: &'static str,
    last: u8,
}

/// The router, running BIRD 2.
pub const ROUTER: Host = Host { name: "router", last: 1 };
/// Where the Kubernetes API runs.
pub const CONTROL: Host = Host { name: "control", last: 6 };
/// Haflinger hosts.
pub const EDGES: [Host; 2] = [Host { name: "edge1", last: 11 }, Host { name: "edge2", last: 12 }];
/// Kubernetes nodes.
pub const NODES: [Host; 2] = [Host { name: "node1", last: 21 }, Host { name: "node2", last: 22 }];
/// Where BIND 9 runs.
pub const DNS: Host = Host { name: "dns", last: 53 };

/// The client's addresses.
pub const CLIENT: (Ipv4Addr, Ipv6Addr) =
    (Ipv4Addr::new(10, 10, 0, 2), Ipv6Addr::new(0xfd00, 0x10, 0, 0, 0, 0, 0, 2));

/// AS number of the router.
pub const ROUTER_AS: u32 = 65000;
/// AS number of the Haflinger hosts.
pub const EDGE_AS: u32 = 65001;

/// Pool `main`, IPv4: from which Services get their addresses.
pub const POOL_V4: &str = "10.50.0.1-10.50.0.14";
/// Pool `main`, IPv6.
pub const POOL_V6: &str = "fd00:50::1-fd00:50::e";
/// The networks that hold those two.
pub const POOL_NETWORKS: [&str; 2] = ["10.50.0.0/28", "fd00:50::/124"];
/// Pool `sites`: from which nothing is assigned unless asked for.
pub const SITES_V4: &str = "10.51.0.0/28";
/// Pool `sites`, IPv6.
pub const SITES_V6: &str = "fd00:51::/124";
/// The addresses on which Ingresses without one of their own are served.
pub const SHARED_HTTP: (Ipv4Addr, Ipv6Addr) =
    (Ipv4Addr::new(10, 51, 0, 1), Ipv6Addr::new(0xfd00, 0x51, 0, 0, 0, 0, 0, 1));

impl Host {
    /// Its IPv4 address on the fabric.
    pub const fn v4(self) -> Ipv4Addr {
        Ipv4Addr::new(10, 20, 0, self.last)
    }

    /// Its IPv6 address on the fabric. The last part reads like the IPv4 one.
    pub fn v6(self) -> Ipv6Addr {
        let group = u16::from_str_radix(&self.last.to_string(), 16).unwrap_or_default();
        Ipv6Addr::new(0xfd00, 0x20, 0, 0, 0, 0, 0, group)
    }

    /// The addresses from which XDP sends in mode `nat`, on a Haflinger host: IPv4 first.
    pub fn nat_addresses(self) -> [IpAddr; 2] {
        let last = 100 + self.last;
        let group = u16::from_str_radix(&last.to_string(), 16).unwrap_or_default();
        let v6 = Ipv6Addr::new(0xfd00, 0x20, 0, 0, 0, 0, 0, group);
        [Ipv4Addr::new(10, 20, 0, last).into(), v6.into()]
    }

    /// Both addresses.
    pub fn addresses(self) -> [IpAddr; 2] {
        [self.v4().into(), self.v6().into()]
    }
}

/// The pod networks of node number `index`, counted from 0.
pub fn pod_networks(index: usize) -> [String; 2] {
    let node = index + 1;
    [format!("10.244.{node}.0/24"), format!("fd00:244:0:{node}::/64")]
}

/// The addresses of pod number `pod` (from 2) on node number `index`; the node itself has 1.
pub fn pod_addresses(index: usize, pod: u8) -> [IpAddr; 2] {
    let node = u8::try_from(index + 1).unwrap_or(u8::MAX);
    [
        Ipv4Addr::new(10, 244, node, pod).into(),
        Ipv6Addr::new(0xfd00, 0x244, 0, node.into(), 0, 0, 0, pod.into()).into(),
    ]
}

/// The link-layer address that goes with [`pod_addresses`]: the same for every pod that gets
/// them, so that neighbours need not learn anew.
pub(super) fn pod_mac(index: usize, pod: u8) -> String {
    format!("02:00:00:00:{:02x}:{pod:02x}", index + 1)
}

/// The namespaces of a lab.
#[derive(Clone, Debug)]
pub struct Network {
    /// Programs on the switch's ports to the Haflinger hosts.
    facing: Arc<Vec<PassingProgram>>,
    /// The client's.
    pub client: Namespace,
    /// The router's.
    pub router: Namespace,
    /// The control plane's.
    pub control: Namespace,
    /// The DNS server's.
    pub dns: Namespace,
    /// The Haflinger hosts', in the order of [`EDGES`].
    pub edges: [Namespace; 2],
    /// The nodes', in the order of [`NODES`].
    pub nodes: [Namespace; 2],
    /// The switch's.
    pub fabric: Namespace,
}

impl Network {
    /// Makes all namespaces and wires them.
    pub fn create(place: &Place) -> Result<Self> {
        let fabric = Namespace::create(place, "fabric")?;
        fabric.ip("link add fabric type bridge\nlink set fabric up\n")?;
        let attach = |host: Host| attach(place, &fabric, host);
        let mut network = Self {
            facing: Arc::default(),
            client: Namespace::create(place, "client")?,
            router: attach(ROUTER)?,
            control: attach(CONTROL)?,
            dns: attach(DNS)?,
            edges: [attach(EDGES[0])?, attach(EDGES[1])?],
            nodes: [attach(NODES[0])?, attach(NODES[1])?],
            fabric,
        };
        let mut facing = Vec::new();
        for (host, namespace) in EDGES.into_iter().zip(&network.edges) {
            facing.push(offload::face_xdp(&network.fabric, host.name)?);
            let [v4, v6] = host.nat_addresses();
            // The host's own connections are made from its first addresses.
            namespace.ip(&format!(
                "addr add {v4}/32 dev eth0\n\
                 addr add {v6}/128 dev eth0 nodad preferred_lft 0\n"
            ))?;
        }
        network.facing = Arc::new(facing);
        network.wire_client()?;
        network.route()?;
        Ok(network)
    }

    fn wire_client(&self) -> Result<()> {
        join((&self.client, "eth0"), (&self.router, "client"))?;
        self.client.ip("addr add 10.10.0.2/24 dev eth0\n\
             addr add fd00:10::2/64 dev eth0 nodad\n\
             route add default via 10.10.0.1\n\
             route add default via fd00:10::1\n")?;
        self.router.ip("addr add 10.10.0.1/24 dev client\n\
             addr add fd00:10::1/64 dev client nodad\n")?;
        // A packet that is sent again gets another hash, which virtual devices hand on, and by which
        // the router would lead it to the other host. On a wire it has none.
        self.client.sysctl("core/txrehash", "0")?;
        // Spread by the five-tuple, as routers do.
        self.router.sysctl("ipv4/fib_multipath_hash_policy", "1")?;
        self.router.sysctl("ipv6/fib_multipath_hash_policy", "1")
    }

    fn route(&self) -> Result<()> {
        let behind_router = [&self.control, &self.dns];
        let all = behind_router.into_iter().chain(&self.edges).chain(&self.nodes);
        for namespace in all {
            namespace.ip(&format!(
                "route add default via {}\nroute add default via {}\n",
                ROUTER.v4(),
                ROUTER.v6()
            ))?;
        }
        for (index, node) in self.nodes.iter().enumerate() {
            let [v4, v6] = pod_addresses(index, 1);
            // A bridge without an address of its own takes one of its ports', and so another
            // one whenever pods come and go.
            node.ip(&format!(
                "link add pods address {} type bridge\nlink set pods up\n\
                 addr add {v4}/24 dev pods\naddr add {v6}/64 dev pods nodad\n",
                pod_mac(index, 1)
            ))?;
            // Nodes know each other's pods and the control plane knows all, as with any CNI;
            // edge hosts have to learn them from the API.
            self.nodes[1 - index].ip(&pod_route(index))?;
        }
        self.control.ip(&pod_routes())
    }
}

/// Commands for `ip` that add the routes to all pods.
pub(super) fn pod_routes() -> String {
    (0..NODES.len()).map(pod_route).collect()
}

fn pod_route(index: usize) -> String {
    let [v4, v6] = pod_networks(index);
    let host = NODES[index];
    format!("route add {v4} via {}\nroute add {v6} via {}\n", host.v4(), host.v6())
}

fn attach(place: &Place, fabric: &Namespace, host: Host) -> Result<Namespace> {
    let namespace = Namespace::create(place, host.name)?;
    join((&namespace, "eth0"), (fabric, host.name))?;
    fabric.ip(&format!("link set {} master fabric\n", host.name))?;
    namespace.ip(&format!(
        "addr add {}/24 dev eth0\naddr add {}/64 dev eth0 nodad\n",
        host.v4(),
        host.v6()
    ))?;
    Ok(namespace)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_both_families_read_alike() {
        assert_eq!(EDGES[1].addresses().map(|a| a.to_string()), ["10.20.0.12", "fd00:20::12"]);
        assert_eq!(DNS.v6().to_string(), "fd00:20::53");
    }

    #[test]
    fn pods_lie_in_their_nodes_networks() {
        for index in 0..NODES.len() {
            for (network, address) in pod_networks(index).iter().zip(pod_addresses(index, 7)) {
                let network: ipnet::IpNet = network.parse().expect("a network");
                assert!(network.contains(&address), "{address} is outside {network}");
            }
        }
    }
}
