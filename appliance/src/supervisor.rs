//! What the service manager is told: readiness, reloads, stopping, and that the core lives.

use std::sync::Arc;
use std::time::Duration;

use haflinger_core::Snapshot;
use sd_notify::NotifyState;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error};

use crate::fold::Pulse;

/// Tells the service manager something; without one (no `NOTIFY_SOCKET`) nothing happens.
pub(crate) fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        debug!(%error, "the service manager could not be told");
    }
}

/// A source that has not listed by then is away, and the rest is served without it.
const LIST_WAIT: Duration = Duration::from_secs(20);

/// Tells that the daemon is ready: once every source has listed or was restored from disk, or has
/// had its time.
pub(crate) async fn tell_ready(
    mut snapshots: watch::Receiver<Arc<Snapshot>>,
    stop: CancellationToken,
) {
    let complete = snapshots.wait_for(|snapshot| snapshot.complete);
    let status = tokio::select! {
        () = stop.cancelled() => return,
        listed = tokio::time::timeout(LIST_WAIT, complete) => match listed {
            Ok(_) => "serving",
            Err(_) => "serving what is known; not every source has listed",
        },
    };
    notify(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// Feeds the watchdog while the core loop beats: a loop that hangs ends in a restart.
pub(crate) async fn feed_watchdog(pulse: Arc<Pulse>, shutdown: CancellationToken) {
    let Some(limit) = sd_notify::watchdog_enabled() else { return };
    // Half the limit, as sd_watchdog_enabled(3) recommends.
    let mut ticks = tokio::time::interval((limit / 2).max(Duration::from_millis(100)));
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            _ = ticks.tick() => {}
        }
        if pulse.is_beating() {
            notify(&[NotifyState::Watchdog]);
        } else {
            error!("the core does not answer, the watchdog is not fed");
        }
    }
}
