//! Comparisons of passwords, beside the workers and within bounds.

use std::sync::Arc;

use tokio::sync::Semaphore;

use super::metrics::Comparison;
use super::{AuthMetrics, Credentials, KnownUsers, Verdict};

/// Comparisons at once on this host: each takes a whole processor for up to a second, which the
/// workers need more.
const AT_ONCE_MAX: usize = 2;

/// Comparisons that wait. One more gets 503: what waits longer is given up by its client.
const WAITING_MAX: usize = 64;

/// Compares passwords.
#[derive(Debug)]
pub(crate) struct Comparisons {
    running: Semaphore,
    places: Semaphore,
    metrics: AuthMetrics,
}

impl Comparisons {
    /// None yet.
    pub(crate) fn new(metrics: AuthMetrics) -> Self {
        let (running, places) = (Semaphore::new(AT_ONCE_MAX), AT_ONCE_MAX + WAITING_MAX);
        Self { running, places: Semaphore::new(places), metrics }
    }

    /// Whose credentials these are.
    pub(crate) async fn compare(
        &self,
        known: Arc<KnownUsers>,
        credentials: Credentials,
    ) -> Verdict {
        let Ok(_place) = self.places.try_acquire() else {
            self.metrics.compared(Comparison::Busy);
            return Verdict::Busy;
        };
        // Never closed.
        let Ok(_turn) = self.running.acquire().await else { return Verdict::Busy };
        let work = tokio::task::spawn_blocking(move || known.compare(&credentials));
        match work.await {
            Ok(user) => {
                let right = user.is_some();
                self.metrics.compared(if right { Comparison::Right } else { Comparison::Wrong });
                Verdict::User(user)
            }
            // It panicked, or the host is going down.
            Err(_) => Verdict::Busy,
        }
    }
}
