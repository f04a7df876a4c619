//! Every room with its settings, wired together.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use haflinger_bgp::driver::{Speaker, SpeakerHandle};
use haflinger_config::{Config, FileSource, Sources};
use haflinger_core::flow::FlowHashKey;
use haflinger_core::{Snapshot, Update};
use haflinger_discovery::{Discovery, DiscoveryHandle};
use haflinger_dns::{DesiredRecords, Writer, WriterHandle};
use haflinger_health::{Prober, ProberHandle, ReachHandle, ReachProber};
use haflinger_netlink::{Reconciler, ReconcilerHandle};
use haflinger_proxy::{Proxy, ProxyHandle};
use haflinger_relay::{Relay, RelayHandle};
use haflinger_report::{Applied, Reporter, ReporterHandle};
use haflinger_xdp::{Xdp, XdpHandle};
use prometheus::{IntGaugeVec, Opts, Registry};
use rand::RngCore as _;
use tokio::sync::{mpsc, watch};
use tracing::warn;

use super::stages::{Stage, Stages};
use crate::admin::Admin;
use crate::announce::Announcer;
use crate::fold::Fold;
use crate::settings;
use crate::status::{ConfigStatus, Exhibition};
use crate::supervisor;

/// A handle on every room.
pub(crate) struct Handles {
    pub(crate) discovery: DiscoveryHandle,
    pub(crate) reporter: ReporterHandle,
    pub(crate) bgp: SpeakerHandle,
    pub(crate) dns: WriterHandle,
    pub(crate) netlink: ReconcilerHandle,
    pub(crate) relay: RelayHandle,
    pub(crate) xdp: XdpHandle,
    pub(crate) proxy: ProxyHandle,
    pub(crate) prober: ProberHandle,
    pub(crate) reach: ReachHandle,
}

/// A configuration in the words of each room.
pub(super) struct Converted {
    discovery: haflinger_discovery::Settings,
    reporter: haflinger_report::Settings,
    bgp: haflinger_bgp::settings::Settings,
    dns: haflinger_dns::Settings,
    netlink: haflinger_netlink::Settings,
    relay: haflinger_relay::Settings,
    xdp: haflinger_xdp::Settings,
    proxy: haflinger_proxy::Settings,
    prober: haflinger_health::Settings,
}

impl Converted {
    /// Converts, and lets each room check what it will be told.
    pub(super) fn of(config: &Config, key: FlowHashKey) -> anyhow::Result<Self> {
        let converted = Self {
            discovery: settings::discovery(config),
            reporter: settings::reporter(config),
            bgp: settings::bgp(config)?,
            dns: settings::dns(config)?,
            netlink: settings::netlink(config),
            relay: settings::relay(config, key),
            xdp: settings::xdp(config, key),
            proxy: settings::proxy(config, key)?,
            prober: settings::prober(config),
        };
        converted.bgp.check().context("[bgp]")?;
        converted.dns.check().context("[dns]")?;
        converted.netlink.check().context("[vips] and [routes]")?;
        converted.xdp.check().context("[xdp]")?;
        Ok(converted)
    }
}

impl Converted {
    /// Tells every room its new settings.
    pub(super) fn apply(self, handles: &Handles) -> anyhow::Result<()> {
        // The data path first: it refuses most, and the others depend on nothing of it.
        handles.relay.reconfigure(self.relay).context("[relay]")?;
        handles.xdp.reconfigure(self.xdp).context("[xdp]")?;
        handles.proxy.reconfigure(self.proxy).context("[proxy]")?;
        handles.prober.reconfigure(self.prober).context("[health]")?;
        handles.netlink.reconfigure(self.netlink).context("[vips] and [routes]")?;
        handles.bgp.reconfigure(self.bgp).context("[bgp]")?;
        handles.dns.reconfigure(self.dns).context("[dns]")?;
        handles.reporter.reconfigure(self.reporter).context("[[cluster]]")?;
        handles.discovery.reconfigure(self.discovery);
        Ok(())
    }
}

/// Everything running.
pub(super) struct Assembly {
    pub(super) stages: Stages,
    pub(super) exhibition: Arc<Exhibition>,
    pub(super) updates: mpsc::Sender<Update>,
    pub(super) gather: watch::Sender<Duration>,
    pub(super) flow_key: FlowHashKey,
}

/// Builds every room, opens the administrative interface and starts the tasks.
pub(super) async fn assemble(config: &Config, sources: &Sources) -> anyhow::Result<Assembly> {
    let registry = Registry::new();
    describe_build(&registry)?;
    let flow_key = flow_key(config);
    let converted = Converted::of(config, flow_key)?;
    let rooms = Rooms::build(converted, &registry)?;
    let fold = Fold::new(&registry)?;
    let admin = Admin::open(config.admin.listen, &config.admin.socket).await?;

    let (updates, queue) = mpsc::channel(config.limits.updates_max);
    let (publisher, snapshots) = watch::channel(Arc::new(Snapshot::default()));
    let policy = Arc::new(settings::policy(config, false));
    // The queue is empty, so this does not wait.
    updates.send(Update::Policy(policy)).await.context("telling the core its policy")?;

    let exhibition = Arc::new(Exhibition {
        host: config.host.name.clone(),
        zone: Mutex::new(config.host.zone.clone()),
        started: Instant::now(),
        registry,
        pulse: fold.pulse(),
        snapshots: snapshots.clone(),
        handles: rooms.handles(),
        config: Mutex::new(ConfigStatus {
            source: source_name(sources),
            applied: 1,
            refused: None,
            restart_needed: Vec::new(),
        }),
        draining: AtomicBool::new(false),
    });

    let mut stages = Stages::default();
    let (gather, gathering) = watch::channel(config.limits.publish_delay);
    stages.core.spawn("core", |stop| fold.run(queue, gathering, publisher, stop));
    rooms.start(&mut stages, &snapshots, &updates);
    let exhibit = exhibition.clone();
    stages.admin.spawn("admin", |stop| admin.run(exhibit, stop));
    let pulse = exhibition.pulse.clone();
    stages.admin.spawn("watchdog", |stop| async move {
        supervisor::feed_watchdog(pulse, stop.clone()).await;
        // Without a watchdog there is nothing to do until the end.
        stop.cancelled().await;
    });
    Ok(Assembly { stages, exhibition, updates, gather, flow_key })
}

struct Rooms {
    discovery: Discovery,
    reporter: Reporter,
    bgp: Speaker,
    dns: Writer,
    netlink: Reconciler,
    relay: Relay,
    xdp: Xdp,
    proxy: Proxy,
    prober: Prober,
    reach: ReachProber,
}

impl Rooms {
    fn build(settings: Converted, registry: &Registry) -> anyhow::Result<Self> {
        Ok(Self {
            discovery: Discovery::new(settings.discovery, registry).context("discovery")?,
            reporter: Reporter::new(settings.reporter, registry).context("report")?,
            bgp: Speaker::new(settings.bgp, registry).context("[bgp]")?,
            dns: Writer::new(settings.dns, registry).context("[dns]")?,
            netlink: Reconciler::new(settings.netlink, registry).context("netlink")?,
            relay: Relay::new(settings.relay, registry).context("[relay]")?,
            xdp: Xdp::new(settings.xdp, registry).context("[xdp]")?,
            proxy: Proxy::new(settings.proxy, registry).context("[proxy]")?,
            prober: Prober::new(settings.prober, registry).context("[health]")?,
            reach: ReachProber::new(registry).context("[health] fallback")?,
        })
    }

    fn handles(&self) -> Handles {
        Handles {
            discovery: self.discovery.handle(),
            reporter: self.reporter.handle(),
            bgp: self.bgp.handle(),
            dns: self.dns.handle(),
            netlink: self.netlink.handle(),
            relay: self.relay.handle(),
            xdp: self.xdp.handle(),
            proxy: self.proxy.handle(),
            prober: self.prober.handle(),
            reach: self.reach.handle(),
        }
    }

    fn start(
        self,
        stages: &mut Stages,
        snapshots: &watch::Receiver<Arc<Snapshot>>,
        updates: &mpsc::Sender<Update>,
    ) {
        let (prefixes, announced) = watch::channel(Arc::new(BTreeSet::new()));
        let (records, named) = watch::channel(Arc::new(DesiredRecords::default()));
        let announcer = Announcer::new(prefixes, records);
        let settled = announcer.settled();
        let elected = self.reporter.leader();
        let leader = dns_writer(elected, settled.clone(), &mut stages.writers);

        let applied = Applied {
            xdp: self.xdp.handle().applied(),
            relay: self.relay.handle().applied(),
            proxy: self.proxy.handle().applied(),
        };
        let reporter = self.reporter.with_applied(applied);
        let (seen, told) = (snapshots.clone(), updates.clone());
        stages.data_path.spawn("proxy", |stop| self.proxy.run(seen, told, stop));
        let (seen, told) = (snapshots.clone(), updates.clone());
        stages.data_path.spawn("relay", |stop| self.relay.run(seen, told, stop));
        let (seen, told) = (snapshots.clone(), updates.clone());
        stages.data_path.spawn("xdp", |stop| self.xdp.run(seen, told, stop));
        let (seen, told) = (snapshots.clone(), updates.clone());
        stages.data_path.spawn("health", |stop| self.prober.run(seen, told, stop));
        let (seen, told) = (snapshots.clone(), updates.clone());
        stages.data_path.spawn("reach", |stop| self.reach.run(seen, told, stop));
        let seen = snapshots.clone();
        stages.outward.spawn("announcer", |stop| announcer.run(seen, stop));
        stages.outward.spawn("bgp", |stop| self.bgp.run(announced, stop));
        let (seen, told) = (snapshots.clone(), updates.clone());
        stages.outward.spawn("netlink", |stop| self.netlink.run(seen, settled, told, stop));
        let seen = snapshots.clone();
        stages.writers.spawn("report", |stop| reporter.run(seen, stop));
        stages.writers.spawn("dns", |stop| self.dns.run(named, leader, stop));
        let told = updates.clone();
        stages.core.spawn("discovery", |stop| self.discovery.run(told, stop));
    }
}

/// A receiver that is true while this host writes DNS: while it is elected (or there is nobody to
/// agree with), and never before it knows what should be there, or it would delete what it has
/// not heard of yet.
fn dns_writer(
    mut elected: watch::Receiver<bool>,
    mut settled: watch::Receiver<bool>,
    stage: &mut Stage,
) -> watch::Receiver<bool> {
    let (sender, receiver) = watch::channel(false);
    stage.spawn("dns-writer", |stop| async move {
        loop {
            let (chosen, knows) = (*elected.borrow_and_update(), *settled.borrow_and_update());
            let writes = chosen && knows;
            sender.send_if_modified(|known| std::mem::replace(known, writes) != writes);
            tokio::select! {
                () = stop.cancelled() => return,
                Ok(()) = elected.changed() => {}
                Ok(()) = settled.changed() => {}
                else => stop.cancelled().await,
            }
        }
    });
    receiver
}

fn source_name(sources: &Sources) -> String {
    match &sources.file {
        FileSource::Path(path) => path.display().to_string(),
        FileSource::Embedded => "the shipped default".to_owned(),
        FileSource::Text { name, .. } => name.clone(),
    }
}

fn describe_build(registry: &Registry) -> anyhow::Result<()> {
    let opts = Opts::new("haflinger_build_info", "Always 1; the label carries the version.");
    let info = IntGaugeVec::new(opts, &["version"])?;
    info.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
    registry.register(Box::new(info))?;
    let process = prometheus::process_collector::ProcessCollector::for_self();
    registry.register(Box::new(process))?;
    Ok(())
}

/// The configured key, or this host's own, which outlives restarts so that flows find their
/// buckets again.
fn flow_key(config: &Config) -> FlowHashKey {
    if let Some(key) = &config.relay.flow_hash_key {
        return FlowHashKey(key.expose());
    }
    let path = config.host.state_dir.join("flow-hash.key");
    match own_key(&path) {
        Ok(key) => key,
        Err(error) => {
            warn!(path = %path.display(), %error, "the key of the flow hash is not kept: flows move when the daemon restarts");
            fresh_key()
        }
    }
}

fn own_key(path: &Path) -> std::io::Result<FlowHashKey> {
    match std::fs::read(path) {
        Ok(bytes) => match <[u8; 16]>::try_from(bytes.as_slice()) {
            Ok(key) => return Ok(FlowHashKey(key)),
            Err(_) => warn!(path = %path.display(), "the key file is damaged, a new key is made"),
        },
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory)?;
    }
    let key = fresh_key();
    let fresh = path.with_extension("new");
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let mut file = options.open(&fresh)?;
    file.write_all(&key.0)?;
    file.sync_all()?;
    std::fs::rename(&fresh, path)?;
    Ok(key)
}

fn fresh_key() -> FlowHashKey {
    let mut key = [0; 16];
    rand::rng().fill_bytes(&mut key);
    FlowHashKey(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_s_own_key_is_made_once_and_for_the_owner_alone() {
        use std::os::unix::fs::PermissionsExt as _;
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("state/flow-hash.key");
        let first = own_key(&path).expect("a key");
        let again = own_key(&path).expect("the same key");
        assert!(first == again);
        let mode = std::fs::metadata(&path).expect("the file").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_damaged_key_file_is_replaced() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("flow-hash.key");
        std::fs::write(&path, b"short").expect("a file");
        let key = own_key(&path).expect("a key");
        assert_eq!(std::fs::read(&path).expect("the file"), key.0);
    }
}
