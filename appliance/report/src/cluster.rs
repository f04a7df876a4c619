//! One cluster: a client, its election and its writer, through every failure.

use std::sync::Arc;
use std::time::Duration;

use haflinger_core::Snapshot;
use haflinger_kubernetes::Pace;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::lease;
use crate::settings::ClusterSettings;
use crate::status::Board;
use crate::writer::Writer;

/// Waits between attempts to read a kubeconfig that cannot be used.
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(30);

/// How often a changed kubeconfig is looked for. Tokens rotate by the hour.
const ROTATION_CHECK: Duration = Duration::from_secs(10);

/// No answer for this long is a failure. Requests here are small.
const SILENCE_MAX: Duration = Duration::from_secs(15);

/// Stands for election and writes while leading, until `stop`.
pub(crate) async fn run(
    settings: ClusterSettings,
    identity: String,
    snapshots: watch::Receiver<Arc<Snapshot>>,
    leader: watch::Sender<bool>,
    board: Board,
    stop: CancellationToken,
) {
    let mut pace = Pace::new(RETRY_FIRST, RETRY_MAX);
    while !stop.is_cancelled() {
        let fingerprint = settings.access().fingerprint();
        match settings.access().connect(SILENCE_MAX).await {
            Ok(client) => {
                pace.succeeded();
                let turn = stop.child_token();
                let writer =
                    Writer::new(settings.source(), client.clone(), &identity, board.clone());
                let election = lease::stand(client, &settings, &identity, &leader, &board, &turn);
                let writing = writer.run(snapshots.clone(), leader.subscribe(), &turn);
                let rotation = async {
                    until_rotated(&settings, fingerprint, &turn).await;
                    turn.cancel();
                };
                tokio::join!(election, writing, rotation);
                board.pending(0);
            }
            Err(error) => {
                let detail = std::error::Error::source(&error).map(ToString::to_string);
                let text = format!("{error}: {}", detail.unwrap_or_default());
                let wait = pace.after_failure(rand::random());
                tracing::warn!(cluster = %board.cluster, error = text, "no client for the cluster");
                board.lease_error(Some(text));
                tokio::select! {
                    () = tokio::time::sleep(wait) => {}
                    () = stop.cancelled() => {}
                }
            }
        }
    }
}

/// Ready when the kubeconfig holds something else, or the turn is over.
async fn until_rotated(
    settings: &ClusterSettings,
    fingerprint: Option<u64>,
    turn: &CancellationToken,
) {
    loop {
        tokio::select! {
            () = turn.cancelled() => return,
            () = tokio::time::sleep(ROTATION_CHECK) => {}
        }
        let access = settings.access();
        let now = tokio::task::spawn_blocking(move || access.fingerprint()).await;
        if let Ok(Some(now)) = now
            && Some(now) != fingerprint
        {
            tracing::info!(cluster = settings.name, "kubeconfig changed; connecting anew");
            return;
        }
    }
}
