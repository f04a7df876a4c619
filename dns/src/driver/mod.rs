//! The driver: one worker per zone and server, started and ended as the settings say.
//!
//! ```text
//! desired ─┬─> worker zone 1, server a ──> status
//! leader  ─┤─> worker zone 1, server b ──> status
//! settings ┴─> worker zone 2, server c ──> status
//! ```
//!
//! Fail static: a zone taken out of the settings keeps its records, a stopped appliance leaves
//! every record in place, and a host that does not lead writes nothing.

mod backoff;
mod connection;
mod error;
mod memory;
mod metrics;
mod read;
mod round;
mod signing;
mod status;
mod transfer;
mod worker;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use imbl::ordmap::DiffItem;
use prometheus::Registry;
use thiserror::Error;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::error;

use self::memory::Memory;
use self::metrics::Metrics;
pub use self::read::Reading;
use self::round::{WorkerConfig, zone_of};
use self::status::{EXAMPLES_MAX, WorkerStatus, record_rows};
pub use self::status::{
    OutsideStatus, RecordState, RecordStatus, ServerState, ServerStatus, Status, ZoneStatus,
};
pub use self::transfer::{TransferError, read_transfer};
use self::worker::Worker;
use crate::name::RecordName;
use crate::record::DesiredRecords;
use crate::settings::{Settings, SettingsError, ZoneSettings};

/// Why the room cannot start.
#[derive(Debug, Error)]
pub enum WriterError {
    /// The settings are refused.
    #[error("the settings of dns are refused")]
    Settings(#[from] SettingsError),
    /// The metrics are already registered.
    #[error("the metrics of dns cannot be registered")]
    Metrics(#[from] prometheus::Error),
}

/// Writes desired records to the servers of the configured zones.
pub struct Writer {
    shared: Arc<Shared>,
    settings: watch::Receiver<Arc<Settings>>,
    metrics: Metrics,
}

/// Asks a [`Writer`] and tells it new settings.
#[derive(Clone)]
pub struct WriterHandle {
    shared: Arc<Shared>,
}

struct Shared {
    settings: watch::Sender<Arc<Settings>>,
    seen: Mutex<Seen>,
}

/// What a status is made of.
#[derive(Default)]
struct Seen {
    leader: bool,
    desired: Arc<DesiredRecords>,
    outside: OutsideStatus,
    workers: BTreeMap<(RecordName, SocketAddr), watch::Receiver<WorkerStatus>>,
}

/// A worker as the driver holds it; dropped, the worker ends.
struct Running {
    config: watch::Sender<Arc<WorkerConfig>>,
    _stop: DropGuard,
}

/// Wanted names that lie in no zone, kept in proportion to what changes.
#[derive(Default)]
struct Outside {
    zones: Vec<RecordName>,
    desired: Arc<DesiredRecords>,
    names: BTreeSet<RecordName>,
}

impl Outside {
    fn update(&mut self, desired: &Arc<DesiredRecords>, settings: &Settings) {
        let same_zones = self.zones.iter().eq(settings.zones.iter().map(|zone| &zone.name));
        if !same_zones {
            self.zones = settings.zones.iter().map(|zone| zone.name.clone()).collect();
            self.desired = Arc::default();
            self.names.clear();
        }
        for item in self.desired.names.diff(&desired.names) {
            match item {
                DiffItem::Add(name, _) if zone_of(name, &self.zones).is_none() => {
                    self.names.insert(name.clone());
                }
                DiffItem::Remove(name, _) => {
                    self.names.remove(name);
                }
                DiffItem::Add(..) | DiffItem::Update { .. } => {}
            }
        }
        self.desired = Arc::clone(desired);
    }

    fn status(&self) -> OutsideStatus {
        let examples = self.names.iter().take(EXAMPLES_MAX).cloned().collect();
        OutsideStatus { count: self.names.len(), examples }
    }
}

impl Writer {
    /// Checks the settings and registers the metrics. Nothing is written before
    /// [`run`](Self::run).
    pub fn new(settings: Settings, registry: &Registry) -> Result<Self, WriterError> {
        settings.check()?;
        let metrics = Metrics::new(registry)?;
        let (sender, receiver) = watch::channel(Arc::new(settings));
        let shared = Arc::new(Shared { settings: sender, seen: Mutex::default() });
        Ok(Self { shared, settings: receiver, metrics })
    }

    /// A handle that stays valid while the writer runs.
    pub fn handle(&self) -> WriterHandle {
        WriterHandle { shared: Arc::clone(&self.shared) }
    }

    /// Writes until `shutdown`, and only while `leader` says so. On the loss of leadership an
    /// exchange under way is dropped at once. Records stay as they are when this returns.
    pub async fn run(
        mut self,
        mut desired: watch::Receiver<Arc<DesiredRecords>>,
        mut leader: watch::Receiver<bool>,
        shutdown: CancellationToken,
    ) {
        let mut running: BTreeMap<_, Running> = BTreeMap::new();
        let mut tasks = JoinSet::new();
        let mut outside = Outside::default();
        // Workers see every change at once; this copy is for the status alone.
        let (for_workers, leader_for_workers) = (desired.clone(), leader.clone());
        loop {
            let settings = Arc::clone(&self.settings.borrow_and_update());
            let wanted = Arc::clone(&desired.borrow_and_update());
            outside.update(&wanted, &settings);
            self.metrics.outside.set(i64::try_from(outside.names.len()).unwrap_or(i64::MAX));
            self.shared.with_seen(|seen| {
                seen.leader = *leader.borrow_and_update();
                seen.desired = wanted;
                seen.outside = outside.status();
            });
            self.adjust(&settings, &mut running, |worker, stop| {
                let worker = Worker { desired: for_workers.clone(), ..worker };
                tasks.spawn(worker.run(leader_for_workers.clone(), stop));
            });
            tokio::select! {
                () = shutdown.cancelled() => break,
                changed = self.settings.changed() => if changed.is_err() { break },
                changed = desired.changed() => if changed.is_err() { break },
                changed = leader.changed() => if changed.is_err() { break },
                Some(ended) = tasks.join_next() => if let Err(error) = ended {
                    // A broken invariant in one worker: all begin anew, from what servers hold.
                    error!(%error, "a worker failed");
                    running.clear();
                }
            }
        }
        running.clear();
        while tasks.join_next().await.is_some() {}
    }

    /// Starts, tells and stops workers so that they are those of the settings.
    fn adjust(
        &self,
        settings: &Settings,
        running: &mut BTreeMap<(RecordName, SocketAddr), Running>,
        mut start: impl FnMut(Worker, CancellationToken),
    ) {
        let zones: Arc<[RecordName]> = settings.zones.iter().map(|z| z.name.clone()).collect();
        let mut wanted = BTreeSet::new();
        for zone in &settings.zones {
            let config = Arc::new(WorkerConfig {
                zone: zone.clone(),
                zones: Arc::clone(&zones),
                dry_run: settings.dry_run,
                refresh: Duration::from_secs(settings.refresh_secs.into()),
            });
            for server in &zone.servers {
                let key = (zone.name.clone(), *server);
                wanted.insert(key.clone());
                if let Some(worker) = running.get(&key) {
                    worker.config.send_if_modified(|old| {
                        let differs = *old != config;
                        if differs {
                            *old = Arc::clone(&config);
                        }
                        differs
                    });
                } else {
                    running.insert(key, self.start(zone, *server, &config, &mut start));
                }
            }
        }
        running.retain(|key, _| {
            let keep = wanted.contains(key);
            if !keep {
                self.shared.with_seen(|seen| seen.workers.remove(key));
            }
            keep
        });
    }

    fn start(
        &self,
        zone: &ZoneSettings,
        server: SocketAddr,
        config: &Arc<WorkerConfig>,
        start: &mut impl FnMut(Worker, CancellationToken),
    ) -> Running {
        let (config_sender, config_receiver) = watch::channel(Arc::clone(config));
        let (status, status_receiver) = watch::channel(WorkerStatus::new(server));
        let stop = CancellationToken::new();
        let worker = Worker {
            server,
            config: config_receiver,
            desired: watch::channel(Arc::default()).1,
            status,
            metrics: self.metrics.worker(&zone.name, server),
            memory: Memory::default(),
            failures: 0,
            started: Instant::now(),
        };
        let key = (zone.name.clone(), server);
        self.shared.with_seen(|seen| seen.workers.insert(key, status_receiver));
        start(worker, stop.clone());
        Running { config: config_sender, _stop: stop.drop_guard() }
    }
}

impl Shared {
    fn with_seen<T>(&self, work: impl FnOnce(&mut Seen) -> T) -> T {
        work(&mut self.seen.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl WriterHandle {
    /// How every zone and record stands. Costs in proportion to the records.
    pub fn status(&self) -> Status {
        let settings = Arc::clone(&self.shared.settings.borrow());
        let (leader, desired, outside, workers) = self.shared.with_seen(|seen| {
            let worker = |zone: &ZoneSettings, server: &SocketAddr| {
                let known = seen.workers.get(&(zone.name.clone(), *server));
                known.map_or_else(|| WorkerStatus::new(*server), |known| known.borrow().clone())
            };
            let workers: BTreeMap<_, Vec<_>> = settings
                .zones
                .iter()
                .map(|zone| (&zone.name, zone.servers.iter().map(|s| worker(zone, s)).collect()))
                .collect();
            (seen.leader, Arc::clone(&seen.desired), seen.outside.clone(), workers)
        });
        let of_zone = |zone: &RecordName| workers.get(zone).map(Vec::as_slice).unwrap_or_default();
        let names: Vec<_> = settings.zones.iter().map(|zone| zone.name.clone()).collect();
        let mut records = Vec::new();
        for (name, wanted) in &desired.names {
            if let Some(zone) = zone_of(name, &names) {
                records.extend(record_rows(zone, name, Some(wanted), of_zone(zone)));
            }
        }
        for zone in &names {
            let servers = of_zone(zone);
            let unwanted: BTreeSet<_> = servers
                .iter()
                .flat_map(|worker| worker.entries.keys())
                .filter(|name| !desired.names.contains_key(*name))
                .collect();
            for name in unwanted {
                records.extend(record_rows(zone, name, None, servers));
            }
        }
        let zones = settings.zones.iter().map(|zone| ZoneStatus {
            zone: zone.name.clone(),
            owner_id: zone.owner_id.clone(),
            policy: zone.policy,
            servers: of_zone(&zone.name).iter().map(|w| w.server.clone()).collect(),
        });
        Status { leader, dry_run: settings.dry_run, zones: zones.collect(), records, outside }
    }

    /// Applies new settings to the running workers; refused settings change nothing.
    pub fn reconfigure(&self, settings: Settings) -> Result<(), SettingsError> {
        settings.check()?;
        self.shared.settings.send_if_modified(|old| {
            let differs = **old != settings;
            if differs {
                *old = Arc::new(settings);
            }
            differs
        });
        Ok(())
    }
}
