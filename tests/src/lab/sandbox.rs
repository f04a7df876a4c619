//! One pod: a namespace behind its node's bridge, with an echo server in it.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::Result;
use rustix::process::Signal;
use tokio::time::Instant;

use super::netns::join;
use super::place::binaries;
use super::router::host_prefix;
use super::topology::{pod_addresses, pod_mac};
use super::{Namespace, Place, Process};

/// A running pod. Dropping it removes its namespace and ends its server.
#[derive(Debug)]
pub(super) struct Sandbox {
    /// Number of its node.
    pub(super) node: usize,
    /// Last part of its addresses.
    pub(super) slot: u8,
    /// Its addresses, IPv4 first.
    pub(super) addresses: [IpAddr; 2],
    /// What its readiness probe said last.
    pub(super) ready: bool,
    /// What the API was told last: that readiness, and whether its readiness gates were set.
    pub(super) reported: Option<(bool, bool)>,
    /// When its grace period ends.
    deadline: Option<Instant>,
    pod: String,
    /// VIPs of its own.
    own: Vec<IpAddr>,
    place: Place,
    // Dropped in this order: the process before the namespace that it lives in.
    process: Process,
    namespace: Namespace,
}

impl Sandbox {
    /// Wires a namespace to the node and starts the echo server in it, which has the VIPs `own` on
    /// its loopback device.
    pub(super) fn create(
        place: &Place,
        node: &Namespace,
        index: usize,
        slot: u8,
        pod: &str,
        own: &[IpAddr],
    ) -> Result<Self> {
        let namespace = Namespace::create(place, &format!("pod-{}-{slot}", index + 1))?;
        let device = format!("pod{slot}");
        join((&namespace, "eth0"), (node, &device))?;
        node.ip(&format!("link set {device} master pods\n"))?;
        let addresses = pod_addresses(index, slot);
        let gateways = pod_addresses(index, 1);
        namespace.ip(&format!(
            "link set eth0 address {}\naddr add {}/24 dev eth0\naddr add {}/64 dev eth0 nodad\n\
             route add default via {}\nroute add default via {}\n",
            pod_mac(index, slot),
            addresses[0],
            addresses[1],
            gateways[0],
            gateways[1]
        ))?;
        for vip in own {
            namespace.ip(&format!("addr add {} dev lo\n", host_prefix(*vip)))?;
        }
        let process = spawn(place, &namespace, pod, own)?;
        Ok(Self {
            node: index,
            slot,
            addresses,
            ready: false,
            reported: None,
            deadline: None,
            pod: pod.to_owned(),
            own: own.to_vec(),
            place: place.clone(),
            process,
            namespace,
        })
    }

    /// Where it lives.
    pub(super) fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// Tells the server once that it is to go; answers whether the grace period is over.
    pub(super) fn terminate(&mut self, grace: Duration) -> Result<bool> {
        if self.deadline.is_none() && self.process.is_running() {
            self.process.signal(Signal::TERM)?;
        }
        let deadline = *self.deadline.get_or_insert_with(|| Instant::now() + grace);
        Ok(deadline <= Instant::now())
    }

    /// Starts the server again if it died.
    pub(super) fn revive(&mut self) -> Result<()> {
        if !self.process.is_running() {
            self.process = spawn(&self.place, &self.namespace, &self.pod, &self.own)?;
        }
        Ok(())
    }
}

fn spawn(place: &Place, namespace: &Namespace, pod: &str, own: &[IpAddr]) -> Result<Process> {
    let binary = binaries()?.join("echo");
    let mut command = namespace.command(&binary.display().to_string())?;
    command.args(["--name", pod]);
    for vip in own {
        command.args(["--vip", &vip.to_string()]);
    }
    Process::spawn(place, &format!("pod-{pod}"), command)
}
