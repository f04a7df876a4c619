//! What the service manager is told: readiness, reloads, stopping, and that the core lives.

use std::sync::Arc;
use std::time::Duration;

use sd_notify::NotifyState;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error};

use crate::fold::Pulse;

/// Tells the service manager something; without one (no `NOTIFY_SOCKET`) nothing happens.
pub(crate) fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        debug!(%error, "the service manager could not be told");
    }
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
