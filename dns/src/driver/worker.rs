//! One worker per zone and server: a slow or refusing server holds up nobody else.
//!
//! ```text
//! standby ──leader──> round ──ok──> wait for a change, the refresh, new settings
//!    ^                  │ └─error─> wait (backoff)
//!    └──leadership lost─┘ at once, in the middle of a round too
//! ```

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::watch;
use tokio::time::{sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::backoff::{backoff, jitter};
use super::memory::Memory;
use super::metrics::WorkerMetrics;
use super::round::{Round, WorkerConfig};
use super::status::{EXAMPLES_MAX, RecordState, ServerState, WorkerStatus};
use crate::record::DesiredRecords;

/// Longest wait after failures: a repaired server is noticed within a minute.
const BACKOFF_MAX: Duration = Duration::from_secs(60);

/// Wait after a change before planning, so that a burst becomes one plan.
const SETTLE: Duration = Duration::from_millis(500);

/// A worker and its channels.
pub(crate) struct Worker {
    pub(crate) server: SocketAddr,
    pub(crate) config: watch::Receiver<Arc<WorkerConfig>>,
    pub(crate) desired: watch::Receiver<Arc<DesiredRecords>>,
    pub(crate) status: watch::Sender<WorkerStatus>,
    pub(crate) metrics: WorkerMetrics,
    pub(crate) memory: Memory,
    pub(crate) failures: u32,
    pub(crate) started: Instant,
}

impl Worker {
    pub(crate) async fn run(
        mut self,
        mut leader: watch::Receiver<bool>,
        shutdown: CancellationToken,
    ) {
        loop {
            let leading = *leader.borrow_and_update();
            let work = async {
                if leading {
                    self.round().await;
                    self.wait().await
                } else {
                    self.stand_by();
                    std::future::pending().await
                }
            };
            let alive = tokio::select! {
                biased;
                () = shutdown.cancelled() => false,
                changed = leader.changed() => {
                    // Whatever was under way is dropped; another host may write from now on.
                    self.memory.distrust();
                    self.memory.forget_refusals();
                    self.failures = 0;
                    changed.is_ok()
                }
                alive = work => alive,
            };
            if !alive {
                return;
            }
        }
    }

    fn stand_by(&mut self) {
        self.status.send_modify(|status| status.server.state = ServerState::Standby);
        self.metrics.show(&self.status.borrow());
    }

    async fn round(&mut self) {
        let config = Arc::clone(&self.config.borrow_and_update());
        let desired = Arc::clone(&self.desired.borrow_and_update());
        let round = Round {
            server: self.server,
            config: &config,
            desired: &desired,
            metrics: &self.metrics,
            memory: &mut self.memory,
            now_ms: u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX),
        };
        let failure = round.run().await.err().map(|error| error.chain());
        self.publish(failure.as_deref(), &config);
        match failure {
            None => self.failures = 0,
            Some(reason) => {
                self.failures = self.failures.saturating_add(1);
                self.memory.distrust();
                self.metrics.failed();
                warn!(
                    zone = %config.zone.name, server = %self.server, reason,
                    attempts = self.failures, "zone not brought up to date"
                );
            }
        }
    }

    fn publish(&self, failure: Option<&str>, config: &WorkerConfig) {
        let memory = &self.memory;
        self.status.send_modify(|status| {
            let server = &mut status.server;
            let was = server.state;
            server.state =
                if failure.is_some() { ServerState::Failing } else { ServerState::Synced };
            if was != ServerState::Synced && failure.is_none() {
                info!(zone = %config.zone.name, server = %self.server, "zone is up to date");
            }
            server.last_error = failure.map(str::to_owned);
            if failure.is_none() {
                server.last_sync_secs =
                    SystemTime::now().duration_since(UNIX_EPOCH).ok().map(|at| at.as_secs());
            }
            server.serial = memory.serial;
            server.reading = memory.reading;
            server.transfer_refused.clone_from(&memory.transfer_refused);
            server.owned_names = memory.owned.len();
            let conflicts =
                memory.entries.values().filter(|entry| entry.state == RecordState::Conflict);
            server.conflicts = conflicts.count();
            server.held_deletions = memory.held.len();
            server.held_examples = memory.held.iter().take(EXAMPLES_MAX).cloned().collect();
            status.entries = memory.entries.clone();
        });
        self.metrics.show(&self.status.borrow());
    }

    /// Waits until another round is due. False when nobody is left to ask for one.
    async fn wait(&mut self) -> bool {
        if self.failures > 0 {
            sleep(backoff(self.failures, BACKOFF_MAX, jitter())).await;
            return true;
        }
        let refresh = self.config.borrow().refresh;
        let refresh_at = Instant::now() + refresh;
        let next = self.memory.transfer_again_at.map_or(refresh_at, |at| at.min(refresh_at));
        tokio::select! {
            () = sleep_until(next.into()) => true,
            changed = self.config.changed() => {
                self.memory.distrust();
                self.memory.forget_refusals();
                changed.is_ok()
            }
            changed = self.desired.changed() => {
                sleep(SETTLE).await;
                changed.is_ok()
            }
        }
    }
}
