//! The task that follows snapshots and keeps probes in flight.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use haflinger_core::health::Health;
use haflinger_core::{HealthCheck, ProbeKey, ProbeWay, Snapshot, Update};
use imbl::OrdMap;
use imbl::ordmap::DiffItem;
use prometheus::Registry;
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::check::{CheckError, probe};
use crate::follow::{Probing, follow};
use crate::metrics::{Metrics, health_label, kind_label};
use crate::schedule::{Found, ProbeId, Schedule};
use crate::status::{HealthStatus, ProbeStatus};
use crate::tunnel::Tunnel;
use crate::{Error, Settings};

/// The prober before it runs.
pub struct Prober {
    shared: Arc<Shared>,
    applied: OrdMap<ProbeKey, Arc<HealthCheck>>,
    tunnel: Arc<Tunnel>,
    /// VIPs that probes go through, with the number of these probes.
    vips: BTreeMap<IpAddr, usize>,
    in_flight: JoinSet<Ended>,
    aborts: HashMap<ProbeId, AbortHandle>,
    /// What the receiver of updates has not taken yet: the last word on each probe, so that it
    /// is bounded by the number of probes however slow the receiver is.
    unsent: BTreeMap<ProbeKey, Option<bool>>,
}

struct Shared {
    settings: ArcSwap<Settings>,
    metrics: Metrics,
    schedule: Mutex<Schedule>,
    started: Instant,
}

/// What a probe's task hands back.
pub(crate) struct Ended {
    id: ProbeId,
    asked: Arc<HealthCheck>,
    found: Result<(), CheckError>,
}

/// Shows and adjusts a running prober.
#[derive(Clone)]
pub struct ProberHandle {
    shared: Arc<Shared>,
}

impl ProberHandle {
    /// Every probe with its state. The cost is proportional to their number.
    pub fn status(&self) -> HealthStatus {
        let now = self.shared.now();
        let mut probes: Vec<_> =
            self.shared.schedule().probes().map(|probe| ProbeStatus::of(probe, now)).collect();
        probes.sort_by(|one, other| one.key.cmp(&other.key));
        HealthStatus { probes }
    }

    /// Applies changed settings; what is in flight goes on.
    ///
    /// # Errors
    ///
    /// A setting is 0 that must not be. The former settings stay.
    pub fn reconfigure(&self, settings: Settings) -> Result<(), Error> {
        settings.check()?;
        self.shared.settings.store(Arc::new(settings));
        Ok(())
    }
}

impl Shared {
    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    fn schedule(&self) -> MutexGuard<'_, Schedule> {
        // A thread that panicked while reading the schedule left it whole.
        self.schedule.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Prober {
    /// A prober that probes nothing yet.
    ///
    /// # Errors
    ///
    /// A setting is 0 that must not be, or a metric's name is taken in the registry.
    pub fn new(settings: Settings, registry: &Registry) -> Result<Self, Error> {
        settings.check()?;
        let shared = Shared {
            settings: ArcSwap::from_pointee(settings),
            metrics: Metrics::new(registry)?,
            schedule: Mutex::new(Schedule::default()),
            started: Instant::now(),
        };
        let tunnel = Arc::new(Tunnel::new(shared.metrics.tunnel_packets.clone()));
        Ok(Self {
            shared: Arc::new(shared),
            applied: OrdMap::new(),
            tunnel,
            vips: BTreeMap::new(),
            in_flight: JoinSet::new(),
            aborts: HashMap::new(),
            unsent: BTreeMap::new(),
        })
    }

    /// Shows and adjusts this prober.
    pub fn handle(&self) -> ProberHandle {
        ProberHandle { shared: Arc::clone(&self.shared) }
    }

    /// Probes what the snapshots say and sends what it learns, until `shutdown`. When the sender
    /// of snapshots goes away the last one stays in force; when the receiver of updates goes
    /// away there is nobody to probe for, and this returns.
    pub async fn run(
        self,
        snapshots: watch::Receiver<Arc<Snapshot>>,
        updates: mpsc::Sender<Update>,
        shutdown: CancellationToken,
    ) {
        follow(self, snapshots, updates, shutdown).await;
    }

    fn has_place(&self) -> bool {
        self.in_flight.len() < self.shared.settings.load().probes_in_flight_max as usize
    }

    fn count_in_flight(&self) {
        let count = i64::try_from(self.in_flight.len()).unwrap_or(i64::MAX);
        self.shared.metrics.in_flight.set(count);
    }
}

impl Probing for Prober {
    type Ended = Ended;

    fn apply(&mut self, snapshot: &Snapshot) {
        let shared = Arc::clone(&self.shared);
        let mut schedule = shared.schedule();
        let applied = std::mem::replace(&mut self.applied, snapshot.probes.clone());
        let mut vips_changed = false;
        for item in applied.diff(&snapshot.probes) {
            let (old, new) = match item {
                DiffItem::Add(_, new) => (None, Some(new)),
                DiffItem::Update { old: (_, old), new: (_, new) } => (Some(old), Some(new)),
                DiffItem::Remove(_, old) => (Some(old), None),
            };
            vips_changed |= count_vips(&mut self.vips, old, new);
            match item {
                DiffItem::Add(key, check) => {
                    shared.metrics.probes.with_label_values(&["unknown"]).inc();
                    schedule.insert(key, check, shared.now(), rand::random());
                }
                DiffItem::Update { new: (key, check), .. } => {
                    schedule.insert(key, check, shared.now(), rand::random());
                }
                DiffItem::Remove(key, _) => {
                    let Some((id, health)) = schedule.remove(key) else { continue };
                    shared.metrics.probes.with_label_values(&[health_label(health)]).dec();
                    if let Some(task) = self.aborts.remove(&id) {
                        task.abort();
                    }
                    self.unsent.insert(key.clone(), None);
                }
            }
        }
        if vips_changed {
            self.tunnel.listen_to(self.vips.keys().copied().collect());
        }
    }

    fn begin_due(&mut self) {
        let shared = Arc::clone(&self.shared);
        let now = shared.now();
        let mut schedule = shared.schedule();
        while self.has_place() {
            let Some((id, due, late)) = schedule.begin(now) else { break };
            shared.metrics.delay.observe(late.as_secs_f64());
            let (backend, asked) = (due.key.backend, Arc::clone(&due.check));
            let tunnel = Arc::clone(&self.tunnel);
            let task = async move {
                let found = probe(backend, &asked, &tunnel).await;
                Ended { id, asked, found }
            };
            self.aborts.insert(id, self.in_flight.spawn(task));
        }
        drop(schedule);
        self.count_in_flight();
    }

    fn next_start(&self) -> Option<Instant> {
        let due = self.shared.schedule().next_due().filter(|_| self.has_place())?;
        Some(self.shared.started + due)
    }

    fn in_flight(&mut self) -> &mut JoinSet<Ended> {
        &mut self.in_flight
    }

    fn end(&mut self, Ended { id, asked, found }: Ended) {
        self.aborts.remove(&id);
        let metrics = &self.shared.metrics;
        let (result, found) = match found {
            Ok(()) => ("success", Found::Success),
            Err(error) if error.is_ours() => {
                ("inconclusive", Found::Inconclusive(error.to_string()))
            }
            Err(error) => ("failure", Found::Failure(error.to_string())),
        };
        metrics.results.with_label_values(&[kind_label(&asked.kind), result]).inc();
        let mut schedule = self.shared.schedule();
        let now = self.shared.now();
        let before = schedule.health_of(id);
        let Some((probe, changed)) = schedule.end(id, &asked, found, now) else { return };
        if let Some(health) = changed {
            let (object, backend) = (&probe.key.object, probe.key.backend);
            let reason = probe.failure.as_deref();
            tracing::info!(%object, %backend, ?health, reason, "health changed");
            metrics.transitions.with_label_values(&[health_label(health)]).inc();
            metrics.probes.with_label_values(&[health_label(before)]).dec();
            metrics.probes.with_label_values(&[health_label(health)]).inc();
        }
        // The index forgets a probe's health with the probe. Where a probe went and came back
        // between two snapshots that were seen here, repeating the bad news puts that right;
        // repeated good news would change nothing.
        let health = probe.machine.health();
        if changed.is_some() || health == Health::Unhealthy {
            self.unsent.insert(probe.key.clone(), health.is_healthy());
        }
    }

    fn has_unsent(&self) -> bool {
        !self.unsent.is_empty()
    }

    fn send_one(&mut self, place: mpsc::Permit<'_, Update>) {
        if let Some((probe, healthy)) = self.unsent.pop_first() {
            place.send(Update::Health { probe, healthy });
        }
    }
}

/// Counts the VIPs of a changed check; answers whether one came or went.
fn count_vips(
    vips: &mut BTreeMap<IpAddr, usize>,
    old: Option<&Arc<HealthCheck>>,
    new: Option<&Arc<HealthCheck>>,
) -> bool {
    let of = |check: Option<&Arc<HealthCheck>>| -> Vec<IpAddr> {
        let ways = check.map(|check| check.ways()).unwrap_or_default();
        let through = ways.iter().filter_map(|way| match way {
            ProbeWay::Through(vip) => Some(*vip),
            ProbeWay::Direct => None,
        });
        through.collect()
    };
    let (old, new) = (of(old), of(new));
    let mut changed = false;
    for vip in &new {
        let count = vips.entry(*vip).or_default();
        changed |= *count == 0;
        *count += 1;
    }
    for vip in old {
        let Some(count) = vips.get_mut(&vip) else { continue };
        *count -= 1;
        if *count == 0 {
            vips.remove(&vip);
            changed = true;
        }
    }
    changed
}
