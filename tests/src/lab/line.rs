//! A small lab for the data path: one Haflinger host between a client and backends, whose services
//! come from an inventory file, and static routes where the large lab has routing daemons.
//!
//! ```text
//!  client ───── router ──── fabric ──┬── edge1   Haflinger, XDP on eth0
//!  10.10.0.2    10.10.0.1            ├── node1   backends in 10.244.1.0/24
//!               VIPs by edge1        └── node2   backends in 10.244.2.0/24
//! ```
//!
//! Every mode works with the same backends, because their nodes send what goes to clients by its
//! source: from a VIP by the router (`dsr`), from anything else by edge1 (`routed`; in `nat` it
//! goes to edge1 itself). For `dsr` a backend takes the outer header off and has the VIPs of
//! [`VipBlock::Dsr`] on its loopback device.

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rustix::process::geteuid;

use super::echo_ports::{BULK, CLOSED, LINE};
use super::edge::Source;
use super::place::binaries;
use super::sandbox::Sandbox;
use super::topology::{CLIENT, EDGES, NODES, ROUTER, pod_routes};
use super::{Clients, Edge, Namespace, Network, Place, Process, bpf, sweep};

/// The networks of all VIPs: the router sends them to the edge host.
const VIP_NETWORKS: [&str; 2] = ["10.60.0.0/24", "fd00:60::/64"];
/// Routing table of the nodes for what comes from a VIP.
const TABLE_FROM_VIP: u8 = 101;
/// Routing table of the nodes for what else goes to clients.
const TABLE_TO_CLIENTS: u8 = 102;
/// Where a SYN flood claims to come from: answers end at the router.
const NOWHERE: &str = "198.18.0.0/15";
/// How many VIPs of [`VipBlock::Dsr`] backends have, of each family.
const DSR_VIPS: u8 = 2;
const DECAPSULATOR_START_MAX: Duration = Duration::from_secs(10);

/// VIPs of the line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VipBlock {
    /// For any mode but `dsr`.
    Plain,
    /// For `dsr`: backends have these on their own loopback device.
    Dsr,
}

/// One service of the inventory.
#[derive(Clone, Debug)]
pub struct Offer {
    /// Its name.
    pub name: String,
    /// Its VIPs, IPv4 first.
    pub vips: [IpAddr; 2],
    /// `nat`, `routed`, `dsr` or `proxy`.
    pub mode: &'static str,
    /// Weights of its backends, by name.
    pub backends: BTreeMap<String, u32>,
    /// Further keys, each on a line of its own.
    pub more: String,
}

impl Offer {
    /// A service on the VIPs number `number` (1 to 99) of `block`, without backends.
    pub fn new(name: &str, block: VipBlock, number: u8, mode: &'static str) -> Self {
        let vips = vips(block, number);
        Self { name: name.into(), vips, mode, backends: BTreeMap::new(), more: String::new() }
    }

    /// The same with `backends`, all of weight 100.
    pub fn to<S: Into<String>>(mut self, backends: impl IntoIterator<Item = S>) -> Self {
        self.backends = backends.into_iter().map(|name| (name.into(), 100)).collect();
        self
    }

    /// The same with further keys.
    pub fn with(mut self, more: &str) -> Self {
        self.more += &format!("{more}\n");
        self
    }

    /// Where its port `port` is reached, IPv4 first.
    pub fn targets(&self, port: u16) -> Vec<SocketAddr> {
        self.vips.iter().map(|vip| SocketAddr::new(*vip, port)).collect()
    }
}

/// A backend of the line.
#[derive(Debug)]
struct Backend {
    addresses: [IpAddr; 2],
    // Ended before the namespace that it lives in.
    _decapsulator: Process,
    sandbox: Sandbox,
}

/// A line that is up.
#[derive(Debug)]
pub struct Line {
    /// Its directories.
    pub place: Place,
    /// Starts clients.
    pub clients: Clients,
    /// The Haflinger host.
    pub edge: Edge,
    backends: BTreeMap<String, Backend>,
    /// Last parts of addresses that are used up: none is given twice.
    slots: u8,
    /// Namespaces and wires.
    pub network: Network,
}

impl Line {
    /// Brings a line up, all but the daemon.
    pub fn up(id: &str) -> Result<Self> {
        ensure!(geteuid().is_root(), "the lab needs root, for network namespaces");
        let place = Place::of(id);
        place.create()?;
        bpf::mount(&place)?;
        let network = Network::create(&place)?;
        route(&network)?;
        let line = Self {
            clients: Clients::new(&place, &network.client),
            edge: Edge::new(&place, &network.edges[0], 0, Source::Line)?,
            backends: BTreeMap::new(),
            slots: 1,
            network,
            place,
        };
        line.offer(&[])?;
        Ok(line)
    }

    /// Starts a backend on a node (0 or 1), known to nobody yet.
    pub async fn start_backend(&mut self, name: &str, node: usize) -> Result<()> {
        self.slots += 1;
        let router = &self.network.nodes[node];
        let sandbox = Sandbox::create(&self.place, router, node, self.slots, name, &dsr_vips())?;
        let decapsulator = decapsulate(&self.place, sandbox.namespace(), name).await?;
        let addresses = sandbox.addresses;
        let backend = Backend { addresses, _decapsulator: decapsulator, sandbox };
        self.backends.insert(name.to_owned(), backend);
        Ok(())
    }

    /// Ends a backend and all its connections at once.
    pub fn end_backend(&mut self, name: &str) -> Result<()> {
        self.backends.remove(name).map(drop).with_context(|| format!("no backend {name}"))
    }

    /// A backend's namespace.
    pub fn backend(&self, name: &str) -> Result<&Namespace> {
        let backend = self.backends.get(name).with_context(|| format!("no backend {name}"))?;
        Ok(backend.sandbox.namespace())
    }

    /// A backend's addresses, IPv4 first.
    pub fn addresses(&self, name: &str) -> Result<[IpAddr; 2]> {
        let backend = self.backends.get(name).with_context(|| format!("no backend {name}"))?;
        Ok(backend.addresses)
    }

    /// Writes the inventory: these services and no others.
    pub fn offer(&self, offers: &[Offer]) -> Result<()> {
        let text = offers.iter().map(|offer| self.entry(offer)).collect::<Result<String>>()?;
        let file = self.place.path("inventory.toml");
        let new = file.with_extension("new");
        fs::write(&new, text)?;
        fs::rename(new, file).context("replace the inventory")
    }

    fn entry(&self, offer: &Offer) -> Result<String> {
        let mut backends = String::new();
        for (name, weight) in &offer.backends {
            for address in self.addresses(name)? {
                backends += &format!(
                    "    {{ name = \"{name}\", address = \"{address}\", weight = {weight} }},\n"
                );
            }
        }
        let [v4, v6] = offer.vips;
        Ok(format!(
            "[[service]]\nname = \"{}\"\nmode = \"{}\"\naddresses = [\"{v4}\", \"{v6}\"]\n\
             ports = [\n    {{ name = \"line\", port = {LINE} }},\n    \
             {{ name = \"line-udp\", port = {LINE}, protocol = \"udp\" }},\n    \
             {{ name = \"bulk\", port = {BULK} }},\n    \
             {{ name = \"closed\", port = {CLOSED} }},\n    \
             {{ name = \"closed-udp\", port = {CLOSED}, protocol = \"udp\" }},\n]\n\
             health_check = {{ kind = \"tcp\", port = {LINE}, interval_ms = 1000, \
             timeout_ms = 900 }}\n{}backends = [\n{backends}]\n",
            offer.name, offer.mode, offer.more
        ))
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.edge.kill();
        sweep(&self.place);
    }
}

fn vips(block: VipBlock, number: u8) -> [IpAddr; 2] {
    let last = match block {
        VipBlock::Plain => number,
        VipBlock::Dsr => 100 + number,
    };
    let v6 = Ipv6Addr::new(0xfd00, 0x60, 0, 0, 0, 0, 0, last.into());
    [Ipv4Addr::new(10, 60, 0, last).into(), v6.into()]
}

fn route(network: &Network) -> Result<()> {
    let [v4, v6] = VIP_NETWORKS;
    let (edge, router) = (EDGES[0], ROUTER);
    network.router.ip(&format!(
        "route add {v4} via {}\nroute add {v6} via {}\nroute add blackhole {NOWHERE}\n",
        edge.v4(),
        edge.v6()
    ))?;
    // No inventory has routes, so the edge host is told the way to the backends.
    network.edges[0].ip(&pod_routes())?;
    for node in network.nodes.iter().take(NODES.len()) {
        let mut lines = String::new();
        for (table, [via4, via6]) in
            [(TABLE_FROM_VIP, router.addresses()), (TABLE_TO_CLIENTS, edge.addresses())]
        {
            lines += &format!(
                "route add 10.20.0.0/24 dev eth0 table {table}\n\
                 route add fd00:20::/64 dev eth0 table {table}\n\
                 route add default via {via4} table {table}\n\
                 route add default via {via6} table {table}\n"
            );
        }
        node.ip(&lines)?;
        let rules = |vips, clients: IpAddr| {
            format!(
                "rule add from {vips} lookup {TABLE_FROM_VIP} pref 90\n\
                 rule add to {clients} lookup {TABLE_TO_CLIENTS} pref 100\n"
            )
        };
        node.ip(&rules(v4, CLIENT.0.into()))?;
        node.ip6(&rules(v6, CLIENT.1.into()))?;
    }
    Ok(())
}

/// What backends have on their own loopback device.
fn dsr_vips() -> Vec<IpAddr> {
    (1..=DSR_VIPS).flat_map(|number| vips(VipBlock::Dsr, number)).collect()
}

/// Lets a backend take outer headers off.
async fn decapsulate(place: &Place, namespace: &Namespace, name: &str) -> Result<Process> {
    let binary = binaries()?.join("decapsulate");
    let command = namespace.command(&binary.display().to_string())?;
    let mut process = Process::spawn(place, &format!("decapsulate-{name}"), command)?;
    process.wait_for_output("READY", DECAPSULATOR_START_MAX).await?;
    namespace.ip("link set decap0 up\n")?;
    Ok(process)
}
