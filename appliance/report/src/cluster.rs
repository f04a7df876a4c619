//! One cluster: a client, its election and its writer, through every failure.

use std::sync::Arc;
use std::time::Duration;

use haflinger_core::Snapshot;
use haflinger_kubernetes::{Inspection, Moved, Pace, Said, explain};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::gate::{Applied, Gate};
use crate::lease;
use crate::rights::rights_for;
use crate::settings::ClusterSettings;
use crate::status::Board;
use crate::writer::Writer;

/// Waits between attempts to read a kubeconfig that cannot be used.
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(30);

/// No answer for this long is a failure. Requests here are small.
const SILENCE_MAX: Duration = Duration::from_secs(15);

/// Stands for election and writes while leading, until `stop`.
pub(crate) async fn run(
    settings: ClusterSettings,
    identity: String,
    snapshots: watch::Receiver<Arc<Snapshot>>,
    applied: Option<Applied>,
    leader: watch::Sender<bool>,
    board: Board,
    stop: CancellationToken,
) {
    let mut pace = Pace::new(RETRY_FIRST, RETRY_MAX);
    while !stop.is_cancelled() {
        match settings.access().open(SILENCE_MAX).await {
            Ok((client, mut keeper)) => {
                pace.succeeded();
                board.credentials(Said::Taken);
                board.lease_error(None);
                let turn = stop.child_token();
                let writer =
                    Writer::new(settings.source(), client.clone(), &identity, board.clone());
                let gate = applied.clone().filter(|_| settings.readiness_gate).map(|applied| {
                    Gate::new(&settings, client.clone(), &identity, applied, board.clone())
                });
                let forbidden = keeper.forbidden();
                let election =
                    lease::stand(client.clone(), &settings, &identity, &leader, &board, &turn);
                let writing = writer.run(snapshots.clone(), leader.subscribe(), &turn);
                let gating = async {
                    if let Some(gate) = gate {
                        gate.run(snapshots.clone(), leader.subscribe(), &turn, &stop).await;
                    }
                };
                let credentials = async {
                    tokio::select! {
                        Moved = keeper.follow(|said| board.credentials(said)) => turn.cancel(),
                        () = turn.cancelled() => {}
                    }
                };
                let inspection = Inspection {
                    client,
                    forbidden,
                    object: (settings.lease_namespace.clone(), settings.lease_name.clone()),
                };
                let rights = async {
                    tokio::select! {
                        () = inspection.run(
                            || rights_for(&settings),
                            |missing| board.missing_rights(missing),
                        ) => {}
                        () = turn.cancelled() => {}
                    }
                };
                tokio::join!(election, writing, gating, credentials, rights);
                board.pending(0);
            }
            Err(error) => {
                let text = explain(&error);
                board.credentials(Said::Refused(text.clone()));
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
