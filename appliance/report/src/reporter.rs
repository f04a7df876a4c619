//! The room's task: one election and one writer for each configured cluster.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use haflinger_core::Snapshot;
use prometheus::Registry;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::cluster;
use crate::gate::Applied;
use crate::metrics::Metrics;
use crate::settings::{ClusterSettings, Settings};
use crate::status::{Board, ReportStatus};

/// Why report could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// A metric exists already: report was set up twice on one registry.
    #[error("metrics of report cannot be registered")]
    Metrics(#[from] prometheus::Error),
    /// The identity cannot be written into a Lease.
    #[error("identity {0:?} is not 1 to 128 characters long")]
    Identity(String),
    /// The times of an election contradict each other.
    #[error(
        "cluster {cluster}: lease duration ({duration} s) must exceed the renew deadline \
         ({deadline} s), and that the retry period ({retry} s); none may be 0 or above 3600"
    )]
    Timing {
        /// The cluster.
        cluster: String,
        /// `lease_duration_secs`.
        duration: u64,
        /// `renew_deadline_secs`.
        deadline: u64,
        /// `retry_period_secs`.
        retry: u64,
    },
}

/// Writes statuses and events, in each cluster on the elected host only.
#[derive(Debug)]
pub struct Reporter {
    handle: ReporterHandle,
    settings: watch::Receiver<Settings>,
    leader: watch::Sender<bool>,
    metrics: Metrics,
    applied: Option<Applied>,
}

/// Status and settings of a running [`Reporter`].
#[derive(Clone, Debug)]
pub struct ReporterHandle {
    settings: Arc<watch::Sender<Settings>>,
    boards: Arc<Mutex<BTreeMap<String, Board>>>,
}

impl ReporterHandle {
    /// How every election is, and what waits to be written.
    pub fn status(&self) -> ReportStatus {
        let settings = self.settings.borrow();
        let boards = self.boards.lock().unwrap_or_else(PoisonError::into_inner);
        let clusters = settings.clusters.iter().filter_map(|cluster| boards.get(&cluster.name));
        ReportStatus {
            identity: settings.identity.clone(),
            clusters: clusters.map(Board::status).collect(),
        }
    }

    /// Applies other settings: clusters come, go and change; the others are left alone.
    ///
    /// # Errors
    /// [`ReportError`] when they contradict themselves; the former ones then stay.
    pub fn reconfigure(&self, settings: Settings) -> Result<(), ReportError> {
        settings.check()?;
        self.settings.send_if_modified(|current| {
            let changed = *current != settings;
            *current = settings;
            changed
        });
        Ok(())
    }
}

struct Cluster {
    settings: ClusterSettings,
    identity: String,
    stop: CancellationToken,
    task: JoinHandle<()>,
    leader: watch::Receiver<bool>,
}

impl Reporter {
    /// Sets up everything that can fail.
    ///
    /// # Errors
    /// [`ReportError`]. Unreachable clusters are no errors: they show in the status.
    pub fn new(settings: Settings, registry: &Registry) -> Result<Self, ReportError> {
        settings.check()?;
        let metrics = Metrics::register(registry)?;
        let (leader, _) = watch::channel(settings.clusters.is_empty());
        let (sender, receiver) = watch::channel(settings);
        let handle = ReporterHandle { settings: Arc::new(sender), boards: Arc::default() };
        Ok(Self { handle, settings: receiver, leader, metrics, applied: None })
    }

    /// Where the rooms say which snapshot they have taken over. Without it this host never says that
    /// it is done with a pod, and no readiness gate waits for it.
    #[must_use]
    pub fn with_applied(self, applied: Applied) -> Self {
        Self { applied: Some(applied), ..self }
    }

    /// A handle that outlives the move into [`Self::run`].
    pub fn handle(&self) -> ReporterHandle {
        self.handle.clone()
    }

    /// Whether this host is the one that acts for the fleet where only one may (DNS): the
    /// leader of the first configured cluster. Of any cluster would not do: two hosts could
    /// each lead one. Without clusters there is nobody to agree with, and it is always true.
    pub fn leader(&self) -> watch::Receiver<bool> {
        self.leader.subscribe()
    }

    /// Stands for election everywhere and writes where elected, until `shutdown`; returns when
    /// the Leases are given back.
    pub async fn run(
        mut self,
        snapshots: watch::Receiver<Arc<Snapshot>>,
        shutdown: CancellationToken,
    ) {
        let mut clusters: BTreeMap<String, Cluster> = BTreeMap::new();
        loop {
            let wanted = self.settings.borrow_and_update().clone();
            self.end_unwanted(&mut clusters, &wanted).await;
            for settings in &wanted.clusters {
                if !clusters.contains_key(&settings.name) {
                    let cluster = self.start(settings, &wanted.identity, &snapshots, &shutdown);
                    clusters.insert(settings.name.clone(), cluster);
                }
            }
            let first = wanted.clusters.first().and_then(|first| clusters.get(&first.name));
            let mut first = first.map(|cluster| cluster.leader.clone());
            loop {
                let leads = first.as_mut().is_none_or(|leader| *leader.borrow_and_update());
                self.leader.send_if_modified(|now| std::mem::replace(now, leads) != leads);
                tokio::select! {
                    () = shutdown.cancelled() => {
                        self.leader.send_replace(false);
                        return end_all(clusters).await;
                    }
                    changed = self.settings.changed() => match changed {
                        Ok(()) => break,
                        // The last handle is gone; nothing will change any more.
                        Err(_) => shutdown.cancelled().await,
                    },
                    () = changes(&mut first) => {}
                }
            }
        }
    }

    fn start(
        &self,
        settings: &ClusterSettings,
        identity: &str,
        snapshots: &watch::Receiver<Arc<Snapshot>>,
        shutdown: &CancellationToken,
    ) -> Cluster {
        let board = Board::new(&settings.name, &self.metrics);
        let mut boards = self.handle.boards.lock().unwrap_or_else(PoisonError::into_inner);
        boards.insert(settings.name.clone(), board.clone());
        let (sender, leader) = watch::channel(false);
        let stop = shutdown.child_token();
        let task = tokio::spawn(cluster::run(
            settings.clone(),
            identity.to_owned(),
            snapshots.clone(),
            self.applied.clone(),
            sender,
            board,
            stop.clone(),
        ));
        Cluster { settings: settings.clone(), identity: identity.to_owned(), stop, task, leader }
    }

    async fn end_unwanted(&self, clusters: &mut BTreeMap<String, Cluster>, wanted: &Settings) {
        let stays = |cluster: &Cluster| {
            cluster.identity == wanted.identity && wanted.clusters.contains(&cluster.settings)
        };
        let ending: BTreeMap<String, Cluster> =
            clusters.extract_if(.., |_, cluster| !stays(cluster)).collect();
        let names: Vec<String> = ending.keys().cloned().collect();
        end_all(ending).await;
        let mut boards = self.handle.boards.lock().unwrap_or_else(PoisonError::into_inner);
        for name in names {
            boards.remove(&name);
            self.metrics.forget(&name);
        }
    }
}

async fn changes(leader: &mut Option<watch::Receiver<bool>>) {
    match leader {
        // An ended cluster task reports no more; its last word stands until reconfigured.
        Some(receiver) => {
            if receiver.changed().await.is_err() {
                std::future::pending().await
            }
        }
        None => std::future::pending().await,
    }
}

/// All at once: each has a Lease to give back.
async fn end_all(clusters: BTreeMap<String, Cluster>) {
    for cluster in clusters.values() {
        cluster.stop.cancel();
    }
    for (name, cluster) in clusters {
        if let Err(error) = cluster.task.await {
            tracing::error!(cluster = name, %error, "report task ended badly");
        }
    }
}
