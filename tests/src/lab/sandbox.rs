//! One pod: a namespace behind its node's bridge, with its container's program in it.

use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use rustix::process::Signal;
use tokio::time::Instant;

use super::container::{Program, Readiness};
use super::netns::join;
use super::router::host_prefix;
use super::topology::{pod_addresses, pod_mac};
use super::{Namespace, Place, Process};

/// A running pod. Dropping it removes its namespace and ends its program.
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
    program: Program,
    place: Place,
    // Dropped in this order: the process before the namespace that it lives in.
    process: Process,
    namespace: Namespace,
}

impl Sandbox {
    /// Wires a namespace to the node and starts the lab's echo server in it, which has the VIPs
    /// `own` on its loopback device.
    pub(super) fn create(
        place: &Place,
        node: &Namespace,
        index: usize,
        slot: u8,
        pod: &str,
        own: &[IpAddr],
    ) -> Result<Self> {
        Self::run(place, node, index, slot, pod, Program::echo(pod, own)?)
    }

    /// Wires a namespace to the node and starts `program` in it.
    pub(super) fn run(
        place: &Place,
        node: &Namespace,
        index: usize,
        slot: u8,
        pod: &str,
        program: Program,
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
        for vip in program.own() {
            namespace.ip(&format!("addr add {} dev lo\n", host_prefix(*vip)))?;
        }
        let process = program.spawn(place, &namespace, &log_name(pod))?;
        Ok(Self {
            node: index,
            slot,
            addresses,
            ready: false,
            reported: None,
            deadline: None,
            pod: pod.to_owned(),
            program,
            place: place.clone(),
            process,
            namespace,
        })
    }

    /// Where it lives.
    pub(super) fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// Where its program prints.
    pub(super) fn log(&self) -> &Path {
        self.process.log()
    }

    /// How its readiness is known.
    pub(super) fn readiness(&self) -> Readiness {
        self.program.readiness
    }

    /// Whether its program runs.
    pub(super) fn is_running(&mut self) -> bool {
        self.process.is_running()
    }

    /// Tells the program once that it is to go; answers whether it is gone or its grace period is
    /// over.
    pub(super) fn terminate(&mut self, grace: Duration) -> Result<bool> {
        if self.deadline.is_none() && self.process.is_running() {
            self.process.signal(Signal::TERM)?;
        }
        let deadline = *self.deadline.get_or_insert_with(|| Instant::now() + grace);
        Ok(deadline <= Instant::now() || !self.process.is_running())
    }

    /// Starts the program again if it died before its time.
    pub(super) fn revive(&mut self) -> Result<()> {
        if self.deadline.is_none() && !self.process.is_running() {
            let log = log_name(&self.pod);
            self.process = self.program.spawn(&self.place, &self.namespace, &log)?;
        }
        Ok(())
    }
}

fn log_name(pod: &str) -> String {
    format!("pod-{pod}")
}
