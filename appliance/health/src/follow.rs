//! The loop that every kind of prober runs in: snapshots in, probes in flight, updates out.

use std::sync::Arc;

use haflinger_core::{Snapshot, Update};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

/// What a prober does; [`follow`] says when.
pub(crate) trait Probing {
    /// What the task of a probe hands back.
    type Ended: 'static;

    /// Applies the difference between what is probed and what should be.
    fn apply(&mut self, snapshot: &Snapshot);

    /// Begins probes that are due, as far as there are places.
    fn begin_due(&mut self);

    /// When to begin the next probe: `None` while nothing is due ever, or every place is taken.
    fn next_start(&self) -> Option<Instant>;

    /// Probes in flight. One that was aborted has been forgotten already.
    fn in_flight(&mut self) -> &mut JoinSet<Self::Ended>;

    /// Takes note of what a probe has found.
    fn end(&mut self, ended: Self::Ended);

    /// Whether there is something that the receiver of updates has not taken yet.
    fn has_unsent(&self) -> bool;

    /// Sends one word of that.
    fn send_one(&mut self, place: mpsc::Permit<'_, Update>);
}

/// Probes what the snapshots say and sends what it learns, until `shutdown`. When the sender of
/// snapshots goes away the last one stays in force; when the receiver of updates goes away there is
/// nobody to probe for, and this returns.
pub(crate) async fn follow(
    mut probing: impl Probing,
    mut snapshots: watch::Receiver<Arc<Snapshot>>,
    updates: mpsc::Sender<Update>,
    shutdown: CancellationToken,
) {
    let first = Arc::clone(&snapshots.borrow_and_update());
    probing.apply(&first);
    let mut sender_lives = true;
    loop {
        probing.begin_due();
        let next_start = probing.next_start();
        tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            changed = snapshots.changed(), if sender_lives => match changed {
                Ok(()) => {
                    let snapshot = Arc::clone(&snapshots.borrow_and_update());
                    probing.apply(&snapshot);
                }
                Err(_) => sender_lives = false,
            },
            place = updates.reserve(), if probing.has_unsent() => match place {
                Ok(place) => probing.send_one(place),
                Err(_) => return,
            },
            Some(ended) = probing.in_flight().join_next() => {
                if let Ok(ended) = ended {
                    probing.end(ended);
                }
            }
            () = start(next_start) => {}
        }
    }
}

async fn start(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}
