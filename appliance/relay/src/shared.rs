//! What every task of the relay sees.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use arc_swap::ArcSwap;
use haflinger_core::ServiceKey;
use imbl::OrdMap;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use crate::affinity::AffinityTable;
use crate::candidates::below;
use crate::faults::Faults;
use crate::intake::Intake;
use crate::limit::Count;
use crate::metrics::{Metrics, Rejection};
use crate::pipes::{PipePool, lock};
use crate::service::{BackendSlot, Listening, ServiceState};
use crate::settings::Settings;

/// Parts of the affinity table, each with a lock of its own, so that cores seldom meet.
const AFFINITY_SHARDS: usize = 16;

/// Settings, counters and bounded tables.
pub(crate) struct Shared {
    pub(crate) settings: ArcSwap<Settings>,
    pub(crate) metrics: Metrics,
    pub(crate) pipes: PipePool,
    pub(crate) connections: Arc<Count>,
    pub(crate) udp_flows: Arc<Count>,
    /// What the core is to be told about sockets.
    pub(crate) faults: Faults,
    /// Listeners and flows.
    pub(crate) tasks: TaskTracker,
    pub(crate) started: Instant,
    /// Generation of the snapshot that is served.
    pub(crate) applied: watch::Sender<u64>,
    affinity: [Mutex<AffinityTable>; AFFINITY_SHARDS],
    services: Mutex<OrdMap<ServiceKey, Arc<ServiceState>>>,
}

impl Shared {
    pub(crate) fn new(settings: Settings, metrics: Metrics) -> Self {
        Self {
            settings: ArcSwap::from_pointee(settings),
            metrics,
            pipes: PipePool::new(),
            connections: Arc::new(Count::default()),
            udp_flows: Arc::new(Count::default()),
            faults: Faults::default(),
            tasks: TaskTracker::new(),
            started: Instant::now(),
            applied: watch::channel(0).0,
            affinity: std::array::from_fn(|_| Mutex::new(AffinityTable::new())),
            services: Mutex::new(OrdMap::new()),
        }
    }

    pub(crate) fn uptime(&self) -> Duration {
        self.started.elapsed()
    }

    pub(crate) fn uptime_ms(&self) -> u64 {
        // Half a billion years fit.
        u64::try_from(self.uptime().as_millis()).unwrap_or(u64::MAX)
    }

    /// The services that are served, as of now.
    pub(crate) fn services(&self) -> OrdMap<ServiceKey, Arc<ServiceState>> {
        lock(&self.services).clone()
    }

    pub(crate) fn insert_service(&self, service: &Arc<ServiceState>) {
        lock(&self.services).insert(service.key, Arc::clone(service));
    }

    pub(crate) fn close_listeners(&self) {
        for service in self.services().values() {
            service.intake.send_replace(Intake::Closed);
        }
    }

    pub(crate) fn remove_service(&self, key: &ServiceKey) {
        lock(&self.services).remove(key);
    }

    /// The part of the affinity table that a client's hash falls into.
    pub(crate) fn affinity_shard(&self, hash: u64) -> MutexGuard<'_, AffinityTable> {
        lock(&self.affinity[below(AFFINITY_SHARDS, hash)])
    }

    /// The limit of one part; rounded up, so that a small limit is not none at all.
    pub(crate) fn affinity_entries_per_shard(&self) -> usize {
        (self.settings.load().affinity_entries_max as usize).div_ceil(AFFINITY_SHARDS)
    }

    /// Affine clients that are remembered.
    pub(crate) fn affinities(&self) -> usize {
        self.affinity.iter().map(|shard| lock(shard).len()).sum()
    }

    pub(crate) fn count_rejection(&self, service: &ServiceState, rejection: Rejection) {
        service.counters.rejected.fetch_add(1, Ordering::Relaxed);
        self.metrics.rejected.with_label_values(&[rejection.as_str()]).inc();
    }

    pub(crate) fn count_connect_failure(
        &self,
        service: &ServiceState,
        backend: &BackendSlot,
        reason: &str,
    ) {
        service.counters.failed.fetch_add(1, Ordering::Relaxed);
        backend.counters.failed.fetch_add(1, Ordering::Relaxed);
        self.metrics.connect_failures.with_label_values(&[reason]).inc();
    }
}

impl ServiceState {
    /// Whether another data path serves it.
    pub(crate) fn has_left(&self) -> bool {
        self.picture.load().service.mode.is_xdp()
    }

    /// The metric label of its state.
    pub(crate) fn state_word(&self) -> &'static str {
        if self.has_left() {
            return "left";
        }
        match *lock(&self.listening) {
            Listening::Starting | Listening::No => "starting",
            Listening::Yes => "listening",
            Listening::Failed(_) => "failed",
        }
    }
}
