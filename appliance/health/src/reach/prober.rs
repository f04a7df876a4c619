//! The task that follows snapshots and keeps probes in flight.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use haflinger_core::{Snapshot, Update};
use imbl::OrdMap;
use imbl::ordmap::DiffItem;
use prometheus::Registry;
use serde::Serialize;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::connect::{Found, probe};
use super::metrics::{Metrics, label, result_label};
use super::schedule::{Pace, RATE_MAX, Schedule};
use crate::Error;
use crate::follow::{Probing, follow};

/// Probes in flight: as many as begin in the second that a silent one lasts. Each costs a
/// descriptor; further ones wait.
const IN_FLIGHT_MAX: usize = RATE_MAX as usize;

/// The prober of ways before it runs.
pub struct ReachProber {
    shared: Arc<Shared>,
    applied: OrdMap<SocketAddr, u64>,
    pace: Pace,
    in_flight: JoinSet<(SocketAddr, Found)>,
    /// What the receiver of updates has not taken yet: the last word on each address, so that it
    /// is bounded by the number of addresses however slow the receiver is.
    unsent: BTreeMap<SocketAddr, (u64, bool)>,
}

struct Shared {
    metrics: Metrics,
    schedule: Mutex<Schedule>,
    started: Instant,
}

/// Shows a running prober of ways.
#[derive(Clone)]
pub struct ReachHandle {
    shared: Arc<Shared>,
}

/// Which addresses of pods and nodes' ports packets of this host reach.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ReachStatus {
    /// How many are reached.
    pub reached: usize,
    /// Of how many nothing is known yet.
    pub unknown: usize,
    /// Those that are not reached, by address.
    pub unreached: Vec<UnreachedStatus>,
}

/// An address that is not reached.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct UnreachedStatus {
    /// The address.
    pub address: SocketAddr,
    /// For how long that has been known, in seconds.
    pub for_secs: u64,
}

impl ReachHandle {
    /// What is known. The cost is proportional to the number of addresses.
    pub fn status(&self) -> ReachStatus {
        let now = self.shared.now();
        let mut status = ReachStatus { reached: 0, unknown: 0, unreached: Vec::new() };
        for (address, way) in self.shared.schedule().ways() {
            match way.reached {
                Some(true) => status.reached += 1,
                None => status.unknown += 1,
                Some(false) => {
                    let for_secs = now.saturating_sub(way.since).as_secs();
                    status.unreached.push(UnreachedStatus { address: *address, for_secs });
                }
            }
        }
        status.unreached.sort();
        status
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

impl ReachProber {
    /// A prober that asks nothing yet.
    ///
    /// # Errors
    ///
    /// A metric's name is taken in the registry.
    pub fn new(registry: &Registry) -> Result<Self, Error> {
        let shared = Shared {
            metrics: Metrics::new(registry)?,
            schedule: Mutex::new(Schedule::default()),
            started: Instant::now(),
        };
        Ok(Self {
            shared: Arc::new(shared),
            applied: OrdMap::new(),
            pace: Pace::default(),
            in_flight: JoinSet::new(),
            unsent: BTreeMap::new(),
        })
    }

    /// Shows this prober.
    pub fn handle(&self) -> ReachHandle {
        ReachHandle { shared: Arc::clone(&self.shared) }
    }

    /// Asks what the snapshots ask and sends what it learns, until `shutdown`. When the sender of
    /// snapshots goes away the last one stays in force; when the receiver of updates goes away
    /// there is nobody to ask for, and this returns.
    pub async fn run(
        self,
        snapshots: watch::Receiver<Arc<Snapshot>>,
        updates: mpsc::Sender<Update>,
        shutdown: CancellationToken,
    ) {
        follow(self, snapshots, updates, shutdown).await;
    }
}

impl Probing for ReachProber {
    type Ended = (SocketAddr, Found);

    fn apply(&mut self, snapshot: &Snapshot) {
        let shared = Arc::clone(&self.shared);
        let mut schedule = shared.schedule();
        let applied = std::mem::replace(&mut self.applied, snapshot.reach.clone());
        for item in applied.diff(&snapshot.reach) {
            match item {
                DiffItem::Add(address, asked) => {
                    schedule.ask(*address, *asked, shared.now(), rand::random());
                    shared.metrics.addresses.with_label_values(&[label(None)]).inc();
                }
                DiffItem::Update { new: (address, asked), .. } => {
                    let known = schedule.ask(*address, *asked, shared.now(), rand::random());
                    if let Some(reached) = known {
                        self.unsent.insert(*address, (*asked, reached));
                    }
                }
                DiffItem::Remove(address, _) => {
                    self.unsent.remove(address);
                    if let Some(way) = schedule.cease(address) {
                        shared.metrics.addresses.with_label_values(&[label(way.reached)]).dec();
                    }
                }
            }
        }
    }

    fn begin_due(&mut self) {
        let shared = Arc::clone(&self.shared);
        let now = shared.now();
        let mut schedule = shared.schedule();
        while self.in_flight.len() < IN_FLIGHT_MAX
            && schedule.next_due().is_some_and(|due| due <= now)
            && self.pace.take(now)
        {
            let Some((address, late)) = schedule.begin(now) else { break };
            shared.metrics.delay.observe(late.as_secs_f64());
            self.in_flight.spawn(async move { (address, probe(address).await) });
        }
    }

    fn next_start(&self) -> Option<Instant> {
        let has_place = self.in_flight.len() < IN_FLIGHT_MAX;
        let due = self.shared.schedule().next_due().filter(|_| has_place)?;
        Some(self.shared.started + self.pace.at(due))
    }

    fn in_flight(&mut self) -> &mut JoinSet<Self::Ended> {
        &mut self.in_flight
    }

    fn end(&mut self, (address, found): Self::Ended) {
        let metrics = &self.shared.metrics;
        metrics.results.with_label_values(&[result_label(found)]).inc();
        let mut schedule = self.shared.schedule();
        let Some((way, before)) = schedule.end(address, found, self.shared.now()) else { return };
        let Some(reached) = way.reached else { return };
        tracing::debug!(%address, reached, "a way has changed");
        metrics.changes.with_label_values(&[label(Some(reached))]).inc();
        metrics.addresses.with_label_values(&[label(before)]).dec();
        metrics.addresses.with_label_values(&[label(Some(reached))]).inc();
        self.unsent.insert(address, (way.asked, reached));
    }

    fn has_unsent(&self) -> bool {
        !self.unsent.is_empty()
    }

    fn send_one(&mut self, place: mpsc::Permit<'_, Update>) {
        if let Some((address, (asked, reached))) = self.unsent.pop_first() {
            place.send(Update::Reach { address, asked, reached });
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;
    use tokio::time::timeout;

    use super::*;

    const GENEROUS: Duration = Duration::from_secs(30);

    fn asking(addresses: impl IntoIterator<Item = (SocketAddr, u64)>) -> Arc<Snapshot> {
        let reach = addresses.into_iter().collect();
        Arc::new(Snapshot { reach, ..Snapshot::default() })
    }

    #[tokio::test]
    async fn who_accepts_and_who_refuses_is_reached_and_what_is_asked_anew_is_answered_at_once() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let accepts = listener.local_addr().unwrap();
        let refuses = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let prober = ReachProber::new(&Registry::new()).unwrap();
        let handle = prober.handle();
        let (snapshots, receiver) = watch::channel(asking([(accepts, 1), (refuses, 2)]));
        // One place: the prober must cope with a receiver that does not keep up.
        let (sender, mut updates) = mpsc::channel(1);
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(prober.run(receiver, sender, shutdown.clone()));
        let mut next = async || match timeout(GENEROUS, updates.recv()).await.unwrap() {
            Some(Update::Reach { address, asked, reached }) => (asked, address, reached),
            other => panic!("{other:?}"),
        };
        let mut said = [next().await, next().await];
        said.sort();
        assert_eq!(said, [(1, accepts, true), (2, refuses, true)]);
        let status = ReachStatus { reached: 2, unknown: 0, unreached: vec![] };
        assert_eq!(handle.status(), status);
        snapshots.send_replace(asking([(refuses, 7)]));
        assert_eq!(next().await, (7, refuses, true));
        assert_eq!(handle.status().reached, 1);
        shutdown.cancel();
        timeout(GENEROUS, task).await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn where_there_is_no_way_is_not_reached() {
        // TCP knows no broadcast: the kernel says ENETUNREACH.
        let nowhere: SocketAddr = "255.255.255.255:9".parse().unwrap();
        assert_eq!(probe(nowhere).await, Found::Silence);
    }
}
