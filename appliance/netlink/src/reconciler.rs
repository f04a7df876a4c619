//! The driver's loop: wait, notice, reconcile, publish.
//!
//! ```text
//! snapshots ─┐
//! settings  ─┼─> Work (pictures, plans) ─> kernel
//! events    ─┤        │
//! timers    ─┘        └─> status, metrics, which VIPs this host has
//! ```

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use haflinger_core::{Snapshot, Update};
use imbl::OrdMap;
use imbl::ordmap::DiffItem;
use prometheus::Registry;
use thiserror::Error;
use tokio::sync::{mpsc, watch};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::kernel::{Event, Events};
use crate::metrics::Metrics;
use crate::settings::{Settings, SettingsError};
use crate::status::{AddressState, AddressStatus, Entry, Published, RouteStatus, Status};
use crate::work::Work;

/// Least time between two rounds, so that a storm of changes becomes few of them.
const PAUSE: Duration = Duration::from_millis(50);

/// Wait before notifications are subscribed to again after they failed.
const REOPEN: Duration = Duration::from_secs(5);

/// Why the room cannot start.
#[derive(Debug, Error)]
pub enum ReconcilerError {
    /// The settings are refused.
    #[error("the settings of netlink are refused")]
    Settings(#[from] SettingsError),
    /// The metrics are already registered.
    #[error("the metrics of netlink cannot be registered")]
    Metrics(#[from] prometheus::Error),
}

/// Keeps VIP addresses and pod routes in the kernel as the snapshot wants them.
pub struct Reconciler {
    shared: Arc<Shared>,
    settings: watch::Receiver<Arc<Settings>>,
    metrics: Metrics,
}

/// Asks a [`Reconciler`] and tells it new settings.
#[derive(Clone)]
pub struct ReconcilerHandle {
    shared: Arc<Shared>,
}

struct Shared {
    settings: watch::Sender<Arc<Settings>>,
    published: Mutex<Published>,
}

impl Reconciler {
    /// Checks the settings and registers the metrics. Nothing is changed before
    /// [`run`](Self::run).
    pub fn new(settings: Settings, registry: &Registry) -> Result<Self, ReconcilerError> {
        settings.check()?;
        let metrics = Metrics::new(registry)?;
        let (sender, receiver) = watch::channel(Arc::new(settings));
        let shared = Arc::new(Shared { settings: sender, published: Mutex::default() });
        Ok(Self { shared, settings: receiver, metrics })
    }

    /// A handle that stays valid while the reconciler runs.
    pub fn handle(&self) -> ReconcilerHandle {
        ReconcilerHandle { shared: Arc::clone(&self.shared) }
    }

    /// Reconciles until `shutdown`; the kernel then keeps what it has, so that a restart is not
    /// noticed. [`cleanup`](crate::cleanup) takes it back where that is wanted.
    ///
    /// While `settled` is false, or the snapshot is the empty one before the first, things are
    /// added and nothing is removed: a daemon that has not heard from its sources yet must not
    /// take away what an earlier one left for it.
    pub async fn run(
        mut self,
        mut snapshots: watch::Receiver<Arc<Snapshot>>,
        mut settled: watch::Receiver<bool>,
        updates: mpsc::Sender<Update>,
        shutdown: CancellationToken,
    ) {
        let started = Instant::now();
        let now_ms = || u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        let settings = Arc::clone(&self.settings.borrow_and_update());
        let mut work = Work::new(settings, self.metrics.clone()).await;
        let mut events = open_events();
        let mut resynced = Instant::now();
        let mut told = OrdMap::new();
        loop {
            let snapshot = Arc::clone(&snapshots.borrow_and_update());
            work.observe(&snapshot, *settled.borrow_and_update());
            drop(snapshot);
            let round = work.reconcile(now_ms());
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = round => {}
            }
            self.shared.publish(&work.published);
            let telling = tell(&mut told, &work.published.addresses, &updates);
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = telling => {}
            }
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = sleep(PAUSE) => {}
            }
            let resync = Duration::from_secs(work.settings.resync_secs.into());
            let wait = wait(&work, resync.saturating_sub(resynced.elapsed()), now_ms());
            tokio::select! {
                () = shutdown.cancelled() => return,
                changed = snapshots.changed() => if changed.is_err() { return },
                changed = settled.changed() => if changed.is_err() { return },
                changed = self.settings.changed() => {
                    if changed.is_err() { return }
                    work.settings = Arc::clone(&self.settings.borrow_and_update());
                    work.resync("settings");
                }
                event = next_event(&mut events) => match event {
                    Some(event) => notice_all(&mut work, event, &mut events, now_ms()),
                    None => {
                        // Reopened a little later; until then the timer alone finds changes.
                        sleep(REOPEN).await;
                        events = open_events();
                        work.resync("notifications");
                    }
                },
                () = sleep(wait) => {}
            }
            if resynced.elapsed() >= resync {
                resynced = Instant::now();
                work.resync("timer");
            }
        }
    }
}

/// Tells the core which VIPs this host has got or lost. The core takes updates as long as it
/// lives; without it there is nobody to tell.
async fn tell(
    told: &mut OrdMap<IpAddr, Entry<AddressState>>,
    now: &OrdMap<IpAddr, Entry<AddressState>>,
    updates: &mpsc::Sender<Update>,
) {
    let has = |entry: &Entry<AddressState>| entry.state != AddressState::Failing;
    let mut news = Vec::new();
    for change in told.diff(now) {
        let (address, before, after) = match change {
            DiffItem::Add(address, new) => (address, false, has(new)),
            DiffItem::Remove(address, old) => (address, has(old), false),
            DiffItem::Update { old: (_, old), new: (address, new) } => {
                (address, has(old), has(new))
            }
        };
        if before != after {
            news.push(Update::Bound { address: *address, bound: after });
        }
    }
    *told = now.clone();
    for update in news {
        if updates.send(update).await.is_err() {
            return;
        }
    }
}

/// How long nothing need be done.
fn wait(work: &Work, until_resync: Duration, now_ms: u64) -> Duration {
    if !work.is_idle() {
        // A round left something for the next, such as a dump after a surprise.
        return PAUSE;
    }
    let retry = work.next_due_ms().map(|due| Duration::from_millis(due.saturating_sub(now_ms)));
    retry.map_or(until_resync, |retry| retry.min(until_resync))
}

fn open_events() -> Option<Events> {
    Events::open()
        .inspect_err(|error| warn!(%error, "the kernel's notifications cannot be had"))
        .ok()
}

async fn next_event(events: &mut Option<Events>) -> Option<Event> {
    match events {
        Some(events) => events.next().await,
        None => std::future::pending().await,
    }
}

/// Notices an event and those that came with it.
fn notice_all(work: &mut Work, first: Event, events: &mut Option<Events>, now_ms: u64) {
    work.notice(&first, now_ms);
    let Some(events) = events else { return };
    while let Some(event) = events.try_next() {
        work.notice(&event, now_ms);
    }
    if events.take_overflow() {
        work.resync("overflow");
    }
}

impl Shared {
    fn publish(&self, published: &Published) {
        *self.published.lock().unwrap_or_else(PoisonError::into_inner) = published.clone();
    }
}

impl ReconcilerHandle {
    /// How every VIP and route stands. Costs in proportion to their number.
    pub fn status(&self) -> Status {
        let settings = Arc::clone(&self.shared.settings.borrow());
        let published =
            self.shared.published.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let text = |reason: &Option<Arc<str>>| reason.as_deref().map(str::to_owned);
        let address = |(address, entry): (&IpAddr, &Entry<AddressState>)| AddressStatus {
            address: *address,
            state: entry.state,
            reason: text(&entry.reason),
        };
        let routes = published.routes.iter().map(|(prefix, route)| RouteStatus {
            prefix: *prefix,
            via: route.via,
            node: Arc::clone(&route.node),
            source: route.source.clone(),
            origin: route.origin,
            rival: route.rival.clone(),
            state: route.entry.state,
            reason: text(&route.entry.reason),
        });
        Status {
            error: published.error,
            vip_interface: settings.vip_interface.clone(),
            addresses: published.addresses.iter().map(address).collect(),
            sources: published.sources.iter().map(address).collect(),
            pod_route_table: settings.pod_route_table,
            routes: routes.collect(),
        }
    }

    /// Applies new settings to the running reconciler; refused settings change nothing. The path
    /// of remembered addresses is read at the start only.
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
