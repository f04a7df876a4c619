//! The namespaces and cables.
//!
//! ```text
//!           10.71.n.0/24              10.72.n.0/24
//!  client ───────────────── middle-n ─────────────── server     one middle for each way
//!     └───────────────────────────────────────────────┘         and a cable past them all
//!                       10.73.0.0/24
//! ```
//!
//! Every frame on every cable is of the size that a wire carries (no segmentation offload
//! anywhere), and the ends write whole checksums, as they would have arrived through a network
//! card. All devices collect received frames (GRO), as network cards do.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use haflinger_tests::lab::{Namespace, Place, sweep, sweep_orphans};
use rustix::process::geteuid;
use rustix::thread::{CpuSet, sched_setaffinity};

use super::datapath;

/// Core of the load generator.
pub(super) const CLIENT_CORE: usize = 0;

/// Core of the server. Proxies run on both.
pub(super) const SERVER_CORE: usize = 1;

/// Address of the server on the cable past all middles.
pub(super) const DIRECT_SERVER: Ipv4Addr = Ipv4Addr::new(10, 73, 0, 2);

/// Device of the client on that cable.
pub(super) const DIRECT_DEVICE: &str = "direct";

/// Devices of a middle.
pub(super) const TO_CLIENT: &str = "client";
pub(super) const TO_SERVER: &str = "server";

/// Where the packets of the client go and come from: what stands between it and the server.
#[derive(Debug)]
pub(super) struct Middle {
    /// What stands there.
    pub(super) name: &'static str,
    pub(super) namespace: Namespace,
    /// The third part of its networks' addresses.
    number: u8,
}

impl Middle {
    /// The virtual address that it serves; the client's route to it leads here.
    pub(super) fn vip(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, 70, self.number, 1)
    }

    /// The server's address on the cable from here.
    pub(super) fn server(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, 72, self.number, 2)
    }

    /// Addresses to send from: the server's routes to them lead here.
    pub(super) fn sources(&self) -> [Ipv4Addr; 4] {
        [1, 2, 3, 4].map(|last| Ipv4Addr::new(10, 74, self.number, last))
    }

    /// The client's device on the cable to here.
    pub(super) fn client_device(&self) -> String {
        format!("to-{}", self.name)
    }
}

/// All namespaces; removed with the value.
#[derive(Debug)]
pub(super) struct World {
    pub(super) place: Place,
    pub(super) client: Namespace,
    pub(super) server: Namespace,
    /// A BPF file system.
    pub(super) bpf: PathBuf,
}

impl World {
    /// Client and server, joined by one cable. Needs root.
    pub(super) fn create() -> Result<Self> {
        ensure!(geteuid().is_root(), "network namespaces need root");
        sweep_orphans();
        let place = Place::of(&format!("bench-{}", std::process::id()));
        place.create()?;
        let client = Namespace::create(&place, "client")?;
        let server = Namespace::create(&place, "server")?;
        let bpf = datapath::mount(&place)?;
        let world = Self { place, client, server, bpf };
        reuse_ports(&world.client)?;
        join((&world.client, DIRECT_DEVICE), (&world.server, DIRECT_DEVICE))?;
        world.client.ip("addr add 10.73.0.1/24 dev direct\n")?;
        world.server.ip(&format!("addr add {DIRECT_SERVER}/24 dev direct\n"))?;
        Ok(world)
    }

    /// One more way from client to server.
    pub(super) fn middle(&self, name: &'static str, number: u8) -> Result<Middle> {
        let namespace = Namespace::create(&self.place, name)?;
        let middle = Middle { name, namespace, number };
        let device = middle.client_device();
        join((&self.client, &device), (&middle.namespace, TO_CLIENT))?;
        join((&self.server, &device), (&middle.namespace, TO_SERVER))?;
        reuse_ports(&middle.namespace)?;
        let (vip, server) = (middle.vip(), middle.server());
        middle.namespace.ip(&format!(
            "addr add 10.71.{number}.1/24 dev {TO_CLIENT}\n\
             addr add 10.72.{number}.1/24 dev {TO_SERVER}\n"
        ))?;
        self.client.ip(&format!(
            "addr add 10.71.{number}.2/24 dev {device}\n\
             route add {vip}/32 via 10.71.{number}.1\n\
             route add 10.72.{number}.0/24 via 10.71.{number}.1\n"
        ))?;
        self.server.ip(&format!(
            "addr add {server}/24 dev {device}\n\
             route add 10.71.{number}.0/24 via 10.72.{number}.1\n\
             route add 10.74.{number}.0/24 via 10.72.{number}.1\n"
        ))?;
        Ok(middle)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        sweep(&self.place);
    }
}

/// Frees the ports of closed connections after a second, so that many runs find some.
fn reuse_ports(namespace: &Namespace) -> Result<()> {
    namespace.sysctl("ipv4/tcp_tw_reuse", "1")?;
    namespace.sysctl("ipv4/ip_local_port_range", "10000 65000")
}

/// A cable between two namespaces, without offloads.
pub(super) fn join(left: (&Namespace, &str), right: (&Namespace, &str)) -> Result<()> {
    let (left, left_device) = left;
    let (right, right_device) = right;
    left.ip(&format!(
        "link add {left_device} type veth peer name {right_device} netns {}\n",
        right.name()
    ))?;
    for (namespace, device) in [(left, left_device), (right, right_device)] {
        let offloads = ["-K", device, "tx", "off", "tso", "off", "gso", "off", "gro", "on"];
        namespace.output("ethtool", &offloads)?;
        namespace.ip(&format!("link set {device} up\n"))?;
    }
    Ok(())
}

/// Binds the calling thread to a core, where there is that core.
pub(super) fn pin(core: usize) -> Result<()> {
    let cores = std::thread::available_parallelism()?.get();
    let mut set = CpuSet::new();
    set.set(core.min(cores - 1));
    sched_setaffinity(None, &set).context("binding a thread to a core")
}
