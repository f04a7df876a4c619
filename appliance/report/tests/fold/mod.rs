//! What the daemon has between discovery and report: updates are folded into snapshots.

use std::sync::Arc;

use haflinger_core::index::Index;
use haflinger_core::{Policy, Snapshot, Update};
use tokio::sync::{mpsc, watch};

/// The fold of the daemon, without its metrics.
pub(crate) async fn fold(
    policy: Policy,
    mut updates: mpsc::Receiver<Update>,
    snapshots: watch::Sender<Arc<Snapshot>>,
) {
    let mut index = Index::new();
    index.apply(Update::Policy(Arc::new(policy)));
    let mut batch = Vec::new();
    while updates.recv_many(&mut batch, 512).await > 0 {
        batch.drain(..).for_each(|update| index.apply(update));
        if let Some(snapshot) = index.publish(0) {
            snapshots.send_replace(snapshot);
        }
    }
}
