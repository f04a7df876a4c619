//! The laboratory: a client, a router, two Haflinger hosts, two nodes with pods, a name server
//! and a Kubernetes control plane, each in network namespaces of its own on one machine.
//!
//! Invariant: whatever a lab starts is gone when the lab is; [`sweep`] removes what a crash
//! left. It never touches an interface, a route or a process that is not the lab's.

mod api;
mod authority;
mod bpf;
mod cluster;
mod container;
mod control;
pub mod demo;
mod edge;
mod gateway_api;
mod kubelet;
mod line;
mod logs;
pub mod manifests;
mod nameserver;
mod netns;
mod offload;
mod page;
mod passing;
mod pattern;
mod place;
mod process;
mod router;
mod sandbox;
mod status;
pub mod topology;
mod traffic;
mod wait;

use std::env;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use sandbox::Sandbox;

use rustix::process::{Pid, Signal, geteuid, kill_process, kill_process_group};

pub use api::{Api, Refused};
pub use authority::Authority;
pub use cluster::{Cluster, is_ready, is_serving};
pub use container::Images;
pub use control::{ControlPlane, binary as control_plane_binary};
pub use edge::{Edge, ROUTE_PROTOCOL, Source, binary as haflinger_binary, check};
pub use gateway_api::{GATEWAY_CLASS, GATEWAY_CONTROLLER, install as install_gateway_api};
pub use line::{Line, Offer, VipBlock};
pub use nameserver::{FOREIGN_RECORD, Nameserver, REFUSING_ZONE, ZONE};
pub use netns::{Namespace, names as namespace_names};
pub use page::page;
pub use passing::PassingProgram;
pub use pattern::Pattern;
pub use place::{LedgerEntry, Place, binaries, checkout};
pub use process::{Process, raise_descriptor_limit, tail};
pub use router::{HOLD_TIME_SECS, Router, host_prefix};
pub use topology::Network;
pub use traffic::{
    Client, Clients, FAILURES_MAX, Failure, Held, Kind, Plan, Progress, Report, now_ms,
    progress_path,
};
pub use wait::{always, eventually};

/// Ports on which every pod's echo server listens.
pub mod echo_ports {
    /// Lines over TCP, datagrams over UDP.
    pub const LINE: u16 = 7000;
    /// Lines over TCP behind a PROXY protocol header.
    pub const PROXIED: u16 = 7001;
    /// HTTP/1.1.
    pub const HTTP: u16 = 8080;
    /// Readiness, over HTTP.
    pub const READY: u16 = 8081;
    /// Large transfers over TCP.
    pub const BULK: u16 = 7002;
    /// Here nothing listens.
    pub const CLOSED: u16 = 7009;
}

/// How long the owner of a lab may take to end it by itself.
const OWNER_STOP_MAX: Duration = Duration::from_secs(20);

/// A lab that is up.
#[derive(Debug)]
pub struct Lab {
    /// Its directories.
    pub place: Place,
    /// Starts clients.
    pub clients: Clients,
    /// The Kubernetes half; absent where Go is missing.
    pub cluster: Option<Cluster>,
    /// The Haflinger hosts.
    pub edges: [Edge; 2],
    /// BIRD.
    pub router: Router,
    /// BIND.
    pub nameserver: Nameserver,
    /// Signs certificates for Ingresses.
    pub authority: Authority,
    /// Pods of a lab without a control plane.
    stock: Vec<Sandbox>,
    /// Namespaces and wires.
    pub network: Network,
}

impl Lab {
    /// Brings a lab up, all but the daemons on the Haflinger hosts. `control_plane` is the
    /// program of tests/controlplane; without one the hosts are given an inventory file. What
    /// an earlier lab of that name left must have been swept.
    pub async fn up(id: &str, control_plane: Option<PathBuf>) -> Result<Self> {
        Self::with_images(id, control_plane, Images::default()).await
    }

    /// The same with programs for other images than the lab's own.
    pub async fn with_images(
        id: &str,
        control_plane: Option<PathBuf>,
        images: Images,
    ) -> Result<Self> {
        ensure!(geteuid().is_root(), "the lab needs root, for network namespaces");
        let place = Place::of(id);
        place.create()?;
        bpf::mount(&place)?;
        let source = match control_plane {
            Some(_) => Source::Cluster,
            None => Source::Inventory,
        };
        let network = Network::create(&place)?;
        let router = Router::start(&place, &network.router).await?;
        let nameserver = Nameserver::start(&place, &network.dns, &network.client).await?;
        let cluster = match control_plane {
            Some(binary) => Some(Cluster::start(&place, &network, binary, images).await?),
            None => None,
        };
        let [first, second] = &network.edges;
        Ok(Self {
            clients: Clients::new(&place, &network.client),
            edges: [Edge::new(&place, first, 0, source)?, Edge::new(&place, second, 1, source)?],
            authority: Authority::create(&place, "sites-ca")?,
            cluster,
            router,
            nameserver,
            stock: Vec::new(),
            network,
            place,
        })
    }

    /// The Kubernetes half, for what cannot be shown without it.
    pub fn cluster(&self) -> Result<&Cluster> {
        self.cluster.as_ref().context("the lab has no control plane")
    }

    /// The Kubernetes half, to be changed.
    pub fn cluster_mut(&mut self) -> Result<&mut Cluster> {
        self.cluster.as_mut().context("the lab has no control plane")
    }

    /// Ends everything in order.
    pub async fn down(mut self) -> Result<()> {
        for edge in &mut self.edges {
            edge.kill();
        }
        match self.cluster.as_mut() {
            Some(cluster) => cluster.stop().await,
            None => Ok(()),
        }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        sweep(&self.place);
    }
}

/// Programs that a lab runs, and Debian's packages of them.
const TOOLS: &[(&str, &str)] = &[
    ("ip", "iproute2"),
    ("bird", "bird2"),
    ("birdc", "bird2"),
    ("named", "bind9"),
    ("dig", "bind9-dnsutils"),
];

/// Fails with the packages to install when a program of another project is missing.
pub fn tools_are_installed() -> Result<()> {
    let path = env::var_os("PATH").unwrap_or_default();
    let directories: Vec<PathBuf> =
        env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]).collect();
    let mut missing: Vec<&str> = TOOLS
        .iter()
        .filter(|(tool, _)| !directories.iter().any(|directory| directory.join(tool).exists()))
        .map(|(_, package)| *package)
        .collect();
    missing.dedup();
    ensure!(missing.is_empty(), "not installed: apt-get install {}", missing.join(" "));
    Ok(())
}

/// What [`sweep`] found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Processes that were ended.
    pub processes: usize,
    /// Namespaces that were removed.
    pub namespaces: usize,
}

/// Removes everything that a lab left: the processes in its ledger, its namespaces and its
/// directory. Answers how much there was; nothing is an answer too.
pub fn sweep(place: &Place) -> Swept {
    let running = place.running();
    for entry in &running {
        if let Some(pid) = i32::try_from(entry.pid).ok().and_then(Pid::from_raw) {
            // It may exit between the look and the signal.
            let _ = kill_process_group(pid, Signal::KILL);
        }
    }
    bpf::unmount(place);
    let namespaces = netns::remove_all(place);
    // Nothing there is what is wanted.
    let _ = fs::remove_dir_all(place.path(""));
    Swept { processes: running.len(), namespaces }
}

/// Ends a lab that another process keeps, and sweeps after it.
pub async fn end(place: &Place) -> Swept {
    let before = Swept { processes: place.running().len(), namespaces: netns::names(place).len() };
    if let Some(owner) = place.owner().filter(LedgerEntry::is_running)
        && let Some(pid) = i32::try_from(owner.pid).ok().and_then(Pid::from_raw)
    {
        let _ = kill_process(pid, Signal::TERM);
        let gone = eventually(OWNER_STOP_MAX, "the lab's owner to end", async || {
            ensure!(!owner.is_running(), "process {} still runs", owner.pid);
            Ok(())
        });
        if gone.await.is_err() {
            let _ = kill_process(pid, Signal::KILL);
        }
    }
    sweep(place);
    before
}

/// Sweeps labs whose owner is gone.
pub fn sweep_orphans() {
    for place in Place::all() {
        if !place.owner().is_some_and(|owner| owner.is_running()) {
            sweep(&place);
        }
    }
}
