//! The room's task: one feed and one reader for each configured source.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use haflinger_core::{SourceId, Update};
use prometheus::Registry;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::feed::{Feed, HEARD_MAX, Heard, ORDERS_MAX, Order, Reins, Relists};
use crate::ledger::Watched;
use crate::metrics::Metrics;
use crate::settings::{ClusterSettings, Settings};
use crate::status::{Board, DiscoveryStatus};
use crate::store::Store;
use crate::{cluster, inventory};

/// Why discovery could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum DiscoveryError {
    /// A metric exists already: discovery was set up twice on one registry.
    #[error("metrics of discovery cannot be registered")]
    Metrics(#[from] prometheus::Error),
    /// The directory for state files cannot be made.
    #[error("state directory {} cannot be made", path.display())]
    StateDirectory {
        /// The directory.
        path: PathBuf,
        /// What the file system said.
        source: std::io::Error,
    },
}

/// Reads every configured source and tells the core what they say.
#[derive(Debug)]
pub struct Discovery {
    handle: DiscoveryHandle,
    settings: watch::Receiver<Settings>,
    metrics: Metrics,
}

/// Status and settings of a running [`Discovery`].
#[derive(Clone, Debug)]
pub struct DiscoveryHandle {
    settings: Arc<watch::Sender<Settings>>,
    boards: Arc<Mutex<Boards>>,
}

/// The operator accepts what nobody holds.
#[derive(Debug, thiserror::Error)]
#[error("there is no source {0:?}: write one of those that `haflinger status` shows")]
pub struct UnknownSource(String);

/// What is known of a source from outside.
#[derive(Debug)]
struct Shown {
    board: Board,
    /// Which kinds it consists of.
    kinds: Vec<Watched>,
    orders: mpsc::Sender<Order>,
}

type Boards = BTreeMap<SourceId, Shown>;

impl DiscoveryHandle {
    /// How every source is.
    pub fn status(&self) -> DiscoveryStatus {
        let now = Instant::now();
        let boards = self.boards.lock().unwrap_or_else(PoisonError::into_inner);
        let shown = boards.values().map(|shown| shown.board.status(now, &shown.kinds));
        DiscoveryStatus { sources: shown.collect() }
    }

    /// Follows the deletions of a source that are held; how many there were.
    ///
    /// # Errors
    /// No source is called so.
    pub async fn accept(&self, source: &str) -> Result<usize, UnknownSource> {
        let orders = {
            let boards = self.boards.lock().unwrap_or_else(PoisonError::into_inner);
            let shown = boards.iter().find(|(id, _)| id.as_str() == source);
            shown.map(|(_, shown)| shown.orders.clone())
        };
        let unknown = || UnknownSource(source.to_owned());
        let orders = orders.ok_or_else(unknown)?;
        let (sender, accepted) = oneshot::channel();
        // A feed that has ended meanwhile has taken its source with it.
        orders.send(Order::Accept(sender)).await.map_err(|_| unknown())?;
        accepted.await.map_err(|_| unknown())
    }

    /// Applies other settings: sources come, go and change; the others are left alone.
    pub fn reconfigure(&self, settings: Settings) {
        self.settings.send_if_modified(|current| {
            let changed = *current != settings;
            *current = settings;
            changed
        });
    }
}

struct Source {
    stop: CancellationToken,
    reader: JoinHandle<()>,
    feed: JoinHandle<()>,
    settings: SourceSettings,
}

enum SourceSettings {
    Cluster(watch::Sender<ClusterSettings>),
    Inventory(PathBuf),
}

/// What every source needs.
struct Place<'a> {
    state_dir: Option<&'a PathBuf>,
    updates: &'a mpsc::Sender<Update>,
    shutdown: &'a CancellationToken,
}

/// A source whose feed runs.
struct Opened {
    board: Board,
    stop: CancellationToken,
    heard: mpsc::Sender<Heard>,
    relists: watch::Receiver<Relists>,
    feed: JoinHandle<()>,
}

impl Discovery {
    /// Sets up everything that can fail.
    ///
    /// # Errors
    /// [`DiscoveryError`]. Unreachable clusters and bad inventory files are no errors: they
    /// show in the status, and are tried again.
    pub fn new(settings: Settings, registry: &Registry) -> Result<Self, DiscoveryError> {
        if let Some(path) = &settings.state_dir {
            std::fs::create_dir_all(path)
                .map_err(|source| DiscoveryError::StateDirectory { path: path.clone(), source })?;
        }
        let metrics = Metrics::register(registry)?;
        let (sender, receiver) = watch::channel(settings);
        let handle = DiscoveryHandle { settings: Arc::new(sender), boards: Arc::default() };
        Ok(Self { handle, settings: receiver, metrics })
    }

    /// A handle that outlives the move into [`Self::run`].
    pub fn handle(&self) -> DiscoveryHandle {
        self.handle.clone()
    }

    /// Reads all sources until `shutdown`; returns when state is on disk.
    pub async fn run(mut self, updates: mpsc::Sender<Update>, shutdown: CancellationToken) {
        let mut sources: BTreeMap<SourceId, Source> = BTreeMap::new();
        let state_dir = self.settings.borrow().state_dir.clone();
        loop {
            let wanted = self.settings.borrow_and_update().clone();
            for (id, source) in unwanted(&mut sources, &wanted) {
                self.retire(&id, source, state_dir.as_ref()).await;
                tokio::select! {
                    // Fails only when the core is gone, which ends the daemon.
                    _ = updates.send(Update::Retired(id)) => {}
                    () = shutdown.cancelled() => {}
                }
            }
            let place =
                Place { state_dir: state_dir.as_ref(), updates: &updates, shutdown: &shutdown };
            for cluster in &wanted.clusters {
                let id = cluster.source();
                match sources.get(&id) {
                    Some(Source { settings: SourceSettings::Cluster(current), .. }) => {
                        current.send_if_modified(|current| {
                            let changed = current != cluster;
                            current.clone_from(cluster);
                            changed
                        });
                    }
                    _ => {
                        sources.insert(id, self.start_cluster(cluster, &place));
                    }
                }
            }
            if let Some(path) = &wanted.inventory {
                sources
                    .entry(SourceId::inventory())
                    .or_insert_with(|| self.start_inventory(path, &place));
            }
            tokio::select! {
                () = shutdown.cancelled() => break,
                changed = self.settings.changed() => if changed.is_err() { break },
            }
        }
        for source in sources.into_values() {
            end(source).await;
        }
    }

    /// Starts the feed of a source, and shows how it is from now on.
    fn open(
        &self,
        id: &SourceId,
        kinds: &[Watched],
        settings: Option<watch::Receiver<ClusterSettings>>,
        place: &Place<'_>,
    ) -> Opened {
        let board = Board::new(id, &self.metrics);
        let (orders, ordered) = mpsc::channel(ORDERS_MAX);
        let (relists, asked) = watch::channel(Relists::default());
        let stop = place.shutdown.child_token();
        let shown = Shown { board: board.clone(), kinds: kinds.to_vec(), orders };
        self.handle.boards.lock().unwrap_or_else(PoisonError::into_inner).insert(id.clone(), shown);
        let reins = Reins { settings, relists, orders: ordered, stop: stop.clone() };
        let (heard, receiver) = mpsc::channel(HEARD_MAX);
        let mut feed = Feed::new(id.clone(), kinds, place.updates.clone(), board.clone(), reins);
        let state_dir = place.state_dir.cloned();
        let task = tokio::spawn(async move {
            if let Some(directory) = state_dir
                && feed.restore(directory).await.is_err()
            {
                return;
            }
            feed.run(receiver).await;
        });
        Opened { board, stop, heard, relists: asked, feed: task }
    }

    fn start_cluster(&self, settings: &ClusterSettings, place: &Place<'_>) -> Source {
        let (sender, receiver) = watch::channel(settings.clone());
        let limits = Some(receiver.clone());
        let Opened { board, stop, heard, relists, feed } =
            self.open(&settings.source(), &Watched::ALL, limits, place);
        let reader = tokio::spawn(cluster::run(receiver, heard, relists, board, stop.clone()));
        Source { stop, reader, feed, settings: SourceSettings::Cluster(sender) }
    }

    /// What the operator has written is meant: nothing of it is held.
    fn start_inventory(&self, path: &Path, place: &Place<'_>) -> Source {
        let Opened { board, stop, heard, feed, .. } =
            self.open(&SourceId::inventory(), &inventory::KINDS, None, place);
        let reader = inventory::Reader::new(path.to_owned(), heard, board, self.metrics.clone());
        let reader = tokio::spawn(reader.run(stop.clone()));
        Source { stop, reader, feed, settings: SourceSettings::Inventory(path.to_owned()) }
    }

    /// Ends a source and takes away what shows that it was there.
    async fn retire(&self, id: &SourceId, source: Source, state_dir: Option<&PathBuf>) {
        tracing::info!(source = %id, "source is no longer configured; what it said is withdrawn");
        end(source).await;
        if let Some(directory) = state_dir
            && let Err(error) = std::fs::remove_file(Store::path(directory, id))
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(source = %id, %error, "state file cannot be removed");
        }
        self.handle.boards.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
        self.metrics.forget(id);
    }
}

/// Takes out the sources that are not wanted, or no longer in this form.
fn unwanted(
    sources: &mut BTreeMap<SourceId, Source>,
    wanted: &Settings,
) -> Vec<(SourceId, Source)> {
    let gone = |id: &SourceId, source: &Source| match &source.settings {
        SourceSettings::Cluster(_) => !wanted.clusters.iter().any(|c| c.source() == *id),
        SourceSettings::Inventory(path) => wanted.inventory.as_ref() != Some(path),
    };
    let ids: Vec<SourceId> =
        sources.iter().filter(|(id, source)| gone(id, source)).map(|(id, _)| id.clone()).collect();
    ids.into_iter().filter_map(|id| sources.remove_entry(&id)).collect()
}

/// Stops the reader first: the feed then drains, writes and ends by itself.
async fn end(source: Source) {
    source.stop.cancel();
    for task in [source.reader, source.feed] {
        if let Err(error) = task.await {
            tracing::error!(%error, "discovery task ended badly");
        }
    }
}
