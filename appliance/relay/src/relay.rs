//! The task that follows snapshots: services come, change, leave and go; grace periods end.
//!
//! ```text
//!              mode proxy                    another mode
//!   (unknown) ───────────> served (Open) ────────────────> left (Open, HANDOVER later Kept)
//!                             ^   │                            │  │ no flow is left
//!                             │   └── gone from the snapshot ──┼──┴──> (unknown)
//!                             └──────── mode proxy ────────────┘
//! ```

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use haflinger_core::{ForwardingMode, Protocol, Service, ServiceKey, Snapshot, Update};
use imbl::OrdMap;
use imbl::ordmap::DiffItem;
use prometheus::Registry;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use crate::intake::Intake;
use crate::metrics::{Metrics, ScrapeCollector};
use crate::pipes::lock;
use crate::service::{Leaving, Listening, ServiceRecord, ServiceState};
use crate::settings::Settings;
use crate::status::RelayStatus;
use crate::{Error, Shared, tcp, udp};

/// How long the socket of a service that left is still open for new flows. The other data path
/// sees the same snapshot, but may be busy with tens of thousands of services; once it has this
/// one no new flow comes here, and until then nobody is refused.
const HANDOVER: Duration = Duration::from_secs(10);

/// Between looks at which services that left have no flow any more. That something is due so
/// soon also spares new connections a system call each: the runtime wakes its driver for a timer
/// that is due before all others, which the timeouts of connections then never are.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// The relay before it runs.
pub struct Relay {
    shared: Arc<Shared>,
    /// Cancelled when every flow of every service must end.
    abort: CancellationToken,
    applied: OrdMap<ServiceKey, Arc<Service>>,
    records: HashMap<ServiceKey, ServiceRecord>,
    /// Those of the records that another data path serves.
    left: BTreeSet<ServiceKey>,
    leaves: u64,
    pub(crate) handover: Duration,
    /// Grace periods by their end; the number tells apart those that end together.
    graces: BTreeMap<(Instant, u64), Grace>,
    graces_begun: u64,
}

/// What may go on until the grace period ends.
enum Grace {
    /// The flows of one backend of a service that is still there.
    Backend(ServiceKey, Leaving),
    /// The flows of a service that was removed.
    Service(Arc<ServiceState>),
    /// The intake of a service that left, by the number of the leave.
    Handover(ServiceKey, u64),
}

/// Shows and adjusts a running relay.
#[derive(Clone)]
pub struct RelayHandle {
    shared: Arc<Shared>,
}

impl RelayHandle {
    /// Sockets, flows and bytes by service and backend. The cost is proportional to their
    /// number.
    pub fn status(&self) -> RelayStatus {
        RelayStatus::of(&self.shared)
    }

    /// Generation of the snapshot that is served; 0 before the first.
    pub fn applied(&self) -> watch::Receiver<u64> {
        self.shared.applied.subscribe()
    }

    /// Applies changed settings; they hold for what begins afterwards.
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

impl Relay {
    /// A relay that serves nothing yet.
    ///
    /// # Errors
    ///
    /// A setting is 0 that must not be, or a metric's name is taken in the registry.
    pub fn new(settings: Settings, registry: &Registry) -> Result<Self, Error> {
        settings.check()?;
        let shared = Arc::new(Shared::new(settings, Metrics::new(registry)?));
        registry.register(Box::new(ScrapeCollector::new(&shared)?))?;
        Ok(Self {
            shared,
            abort: CancellationToken::new(),
            applied: OrdMap::new(),
            records: HashMap::new(),
            left: BTreeSet::new(),
            leaves: 0,
            handover: HANDOVER,
            graces: BTreeMap::new(),
            graces_begun: 0,
        })
    }

    /// Shows and adjusts this relay.
    pub fn handle(&self) -> RelayHandle {
        RelayHandle { shared: Arc::clone(&self.shared) }
    }

    /// Serves what the snapshots lead through the relay (mode `proxy`) until `shutdown`; then
    /// closes every listener, gives TCP connections `drain_secs` to end, resets the rest and
    /// returns. UDP flows end with their listeners. Withdraw the routes before that, so that no
    /// new client comes. What sockets cannot be opened goes to `updates`.
    ///
    /// When the sender of snapshots goes away the last one stays in force. Dropping the future
    /// ends every listener and flow at once.
    pub async fn run(
        mut self,
        mut snapshots: watch::Receiver<Arc<Snapshot>>,
        updates: mpsc::Sender<Update>,
        shutdown: CancellationToken,
    ) {
        let _abort = self.abort.clone().drop_guard();
        let _closing = ClosesListeners(Arc::clone(&self.shared));
        let shared = Arc::clone(&self.shared);
        let mut sweep = interval(SWEEP_INTERVAL);
        sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut sender_lives = true;
        snapshots.mark_changed();
        loop {
            let grace_end = next(self.graces.first_key_value().map(|((at, _), _)| *at));
            let tells = !updates.is_closed() && shared.faults.is_pending();
            tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                changed = snapshots.changed(), if sender_lives => match changed {
                    Ok(()) => {
                        let snapshot = Arc::clone(&snapshots.borrow_and_update());
                        self.apply(&snapshot);
                        self.shared.applied.send_replace(snapshot.generation);
                    }
                    Err(_) => sender_lives = false,
                },
                () = grace_end => self.end_graces(Instant::now()),
                Ok(permit) = updates.reserve(), if tells => {
                    if let Some(update) = shared.faults.next() {
                        permit.send(update);
                    }
                }
                () = shared.faults.noted() => {}
                _ = sweep.tick() => self.forget_the_idle(),
            }
        }
        self.stop().await;
    }

    /// Applies the difference between what is served and what should be.
    fn apply(&mut self, snapshot: &Snapshot) {
        let applied = std::mem::replace(&mut self.applied, snapshot.services.clone());
        for item in applied.diff(&snapshot.services) {
            match item {
                DiffItem::Add(key, service) | DiffItem::Update { new: (key, service), .. } => {
                    self.follow(key, service);
                }
                DiffItem::Remove(key, _) => self.remove(key),
            }
        }
    }

    /// A service came or changed. One that left still learns which of its backends go.
    fn follow(&mut self, key: &ServiceKey, service: &Arc<Service>) {
        let relayed = service.mode == ForwardingMode::Proxy;
        let Some(record) = self.records.get_mut(key) else {
            if relayed {
                self.add(service);
            }
            return;
        };
        let leaving = record.update(Arc::clone(service));
        match (relayed, record.left) {
            (true, Some(_)) => {
                record.left = None;
                self.left.remove(key);
                record.state.intake.send_replace(Intake::Open);
                tracing::debug!(service = %key, "came back to the relay");
            }
            (false, None) => self.leave(key),
            (true, None) | (false, Some(_)) => {}
        }
        for leaving in leaving {
            self.begin_grace(Grace::Backend(*key, leaving));
        }
    }

    fn add(&mut self, service: &Arc<Service>) {
        let has_series = self.shared.metrics.claim_series();
        let record = ServiceRecord::new(Arc::clone(service), &self.abort, has_series);
        let state = Arc::clone(&record.state);
        self.shared.insert_service(&state);
        self.records.insert(service.key, record);
        let shared = Arc::clone(&self.shared);
        match service.key.protocol {
            Protocol::Tcp => self.shared.tasks.spawn(tcp::serve(shared, state)),
            Protocol::Udp => self.shared.tasks.spawn(udp::serve(shared, state)),
        };
    }

    /// Another data path serves it from now on.
    fn leave(&mut self, key: &ServiceKey) {
        let Some(record) = self.records.get_mut(key) else { return };
        self.leaves += 1;
        record.left = Some(self.leaves);
        self.left.insert(*key);
        if *lock(&record.state.listening) == Listening::Yes {
            let handover = Grace::Handover(*key, self.leaves);
            self.begin_timed(self.handover, handover);
        } else {
            // Nobody is served here yet.
            record.state.intake.send_replace(Intake::Kept);
        }
        tracing::debug!(service = %key, "left the relay, its flows go on");
    }

    fn remove(&mut self, key: &ServiceKey) {
        if let Some(state) = self.forget(key) {
            self.begin_grace(Grace::Service(state));
        }
    }

    /// Closes a service's socket and knows it no longer. Its TCP connections go on.
    fn forget(&mut self, key: &ServiceKey) -> Option<Arc<ServiceState>> {
        let record = self.records.remove(key)?;
        self.left.remove(key);
        self.shared.remove_service(key);
        self.shared.metrics.release_series(record.state.has_series);
        record.state.intake.send_replace(Intake::Closed);
        Some(record.state)
    }

    /// Forgets the services that left and have no flow any more.
    fn forget_the_idle(&mut self) {
        let is_idle = |key: &ServiceKey| {
            let record = self.records.get(key)?;
            let idle = *record.state.intake.borrow() == Intake::Kept
                && *lock(&record.state.listening) == Listening::No
                && record.state.held.count() == 0;
            idle.then_some(*key)
        };
        let idle: Vec<_> = self.left.iter().filter_map(is_idle).collect();
        for key in idle {
            self.forget(&key);
        }
    }

    fn begin_grace(&mut self, grace: Grace) {
        let drain = self.shared.settings.load().drain();
        self.begin_timed(drain, grace);
    }

    fn begin_timed(&mut self, length: Duration, grace: Grace) {
        self.graces_begun += 1;
        self.graces.insert((Instant::now() + length, self.graces_begun), grace);
    }

    fn end_graces(&mut self, now: Instant) {
        let later = self.graces.split_off(&(now, u64::MAX));
        for grace in std::mem::replace(&mut self.graces, later).into_values() {
            match grace {
                Grace::Service(state) => state.closing.cancel(),
                Grace::Backend(key, leaving) => {
                    if let Some(record) = self.records.get_mut(&key)
                        && record.grace_ended(leaving)
                    {
                        tracing::debug!(service = %key, backend = %leaving.backend, "drained");
                    }
                }
                Grace::Handover(key, leave) => {
                    if let Some(record) = self.records.get(&key)
                        && record.left == Some(leave)
                    {
                        record.state.intake.send_replace(Intake::Kept);
                    }
                }
            }
        }
    }

    async fn stop(self) {
        self.shared.close_listeners();
        self.shared.tasks.close();
        let drain = self.shared.settings.load().drain();
        if timeout(drain, self.shared.tasks.wait()).await.is_err() {
            let connections = self.shared.connections.count();
            tracing::info!(connections, "drain time is over, resetting what is left");
        }
        self.abort.cancel();
        self.shared.tasks.wait().await;
    }
}

/// Closes every listener when the relay stops running, however that comes.
struct ClosesListeners(Arc<Shared>);

impl Drop for ClosesListeners {
    fn drop(&mut self) {
        self.0.close_listeners();
    }
}

async fn next(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}
