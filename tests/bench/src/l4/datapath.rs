//! Our XDP path, run as the daemon runs it, in the namespace of whoever calls.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use haflinger_core::flow::FlowHashKey;
use haflinger_core::{ForwardingMode, Protocol, Snapshot, Update};
use haflinger_tests::lab::Place;
use haflinger_xdp::{AttachWish, Capacities, Settings, Xdp, XdpHandle};
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::snapshot::{backends, service, snapshot};

/// First argument of the process that is the XDP path under test.
pub(crate) const UNDER_TEST: &str = "xdp-under-test";

/// Loading and attaching take a second or two; a busy machine gets more.
const START_PATIENCE: Duration = Duration::from_secs(60);

/// How often its state is looked at.
const POLL: Duration = Duration::from_millis(20);

/// Updates on their way from the data path: it says little.
const UPDATES: usize = 1024;

/// A data path that forwards; until it is dropped with its runtime.
pub(super) struct Datapath {
    handle: XdpHandle,
    snapshots: watch::Sender<Arc<Snapshot>>,
    /// Why it does not forward, or cannot take a service; `None` until it has said anything.
    said: watch::Receiver<Option<Result<(), String>>>,
}

impl Datapath {
    /// Starts it, and waits until it forwards.
    pub(super) async fn start(settings: Settings, first: Arc<Snapshot>) -> Result<Self> {
        let xdp = Xdp::new(settings, &prometheus::Registry::new())?;
        let handle = xdp.handle();
        let (snapshots, receiver) = watch::channel(first);
        let (sender, updates) = mpsc::channel(UPDATES);
        tokio::spawn(xdp.run(receiver, sender, CancellationToken::new()));
        let (say, said) = watch::channel(None);
        tokio::spawn(listen(updates, say));
        let mut datapath = Self { handle, snapshots, said };
        timeout(START_PATIENCE, datapath.forwards()).await.context("XDP does not start")??;
        Ok(datapath)
    }

    /// Waits until the data path says that it forwards.
    async fn forwards(&mut self) -> Result<()> {
        let said = self.said.wait_for(Option::is_some).await.context("XDP ended")?.clone();
        match said {
            Some(Err(fault)) => bail!("{fault}"),
            _ => Ok(()),
        }
    }

    /// Has it follow another snapshot.
    pub(super) fn publish(&self, snapshot: Arc<Snapshot>) {
        self.snapshots.send_replace(snapshot);
    }

    /// Waits until it holds so many services.
    pub(super) async fn serves(&self, count: usize) -> Result<()> {
        let holds = || self.handle.status().fill.get("services").map(|fill| fill.used as usize);
        let wait = async {
            while holds() != Some(count) {
                sleep(POLL).await;
            }
        };
        timeout(START_PATIENCE, wait).await.with_context(|| {
            format!("{:?} services instead of {count}: {:?}", holds(), self.handle.status())
        })
    }

    /// Goes on until the process is killed; a refusal ends it.
    async fn stay(mut self) -> Result<()> {
        loop {
            self.forwards().await?;
            self.said.changed().await.context("XDP ended")?;
        }
    }
}

/// Takes what the data path says for as long as it runs.
async fn listen(
    mut updates: mpsc::Receiver<Update>,
    say: watch::Sender<Option<Result<(), String>>>,
) {
    while let Some(update) = updates.recv().await {
        match update {
            Update::Datapath { fault: None } => {
                say.send_replace(Some(Ok(())));
            }
            Update::Datapath { fault: Some(fault) } => {
                say.send_replace(Some(Err(format!("XDP cannot run: {fault}"))));
            }
            Update::Forwarding { service, refused: Some(refused) } => {
                say.send_replace(Some(Err(format!("XDP refuses {service}: {refused}"))));
            }
            _ => {}
        }
    }
}

/// Settings of a data path on two interfaces.
pub(super) fn settings(pin_dir: PathBuf, interfaces: [&str; 2], sources: Vec<IpAddr>) -> Settings {
    Settings {
        enabled: true,
        interfaces: interfaces.map(String::from).into(),
        attach: AttachWish::Native,
        pin_dir,
        flow_hash_key: FlowHashKey([7; 16]),
        // The shipped default.
        capacities: Capacities {
            opening_flows: 131_072,
            established_flows: 524_288,
            services: 65_536,
            backends: 262_144,
            buckets: 4_194_304,
            ..Capacities::default()
        },
        new_flows_rate: 250_000,
        nat_addresses: sources,
        nat_ports: 1024..=65_535,
    }
}

/// Mounts a BPF file system at the place where the lab's own would be, and will be unmounted.
pub(crate) fn mount(place: &Place) -> Result<PathBuf> {
    let directory = place.path("bpf");
    std::fs::create_dir_all(&directory)?;
    let arguments = ["-t", "bpf", "-o", "mode=0700", "bpf"];
    let mounted = Command::new("mount").args(arguments).arg(&directory).status();
    ensure!(mounted.context("start mount")?.success(), "mounting a BPF file system");
    Ok(directory)
}

/// Runs the data path between two interfaces, from one VIP to one backend, until killed.
pub(crate) fn under_test(mut arguments: impl Iterator<Item = String>) -> Result<()> {
    let mut next = || arguments.next().context("an argument is missing");
    let vip: SocketAddr = next()?.parse()?;
    let backend: SocketAddr = next()?.parse()?;
    let pin_dir = next()?;
    let interfaces = [next()?, next()?];
    let sources: Vec<IpAddr> = arguments.map(|text| text.parse()).collect::<Result<_, _>>()?;
    let [first, second] = &interfaces;
    let settings = settings(Path::new(&pin_dir).into(), [first, second], sources);
    let served = service(vip, ForwardingMode::Nat, backends(&[backend], Protocol::Tcp));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async { Datapath::start(settings, snapshot(1, [served])).await?.stay().await })
}
