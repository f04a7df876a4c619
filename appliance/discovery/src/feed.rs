//! One source's task: what is heard passes the ledger, then goes to the core and to disk.
//!
//! ```text
//! watches or inventory ──Heard──> feed ──Update──> core
//!      ^                           │└──Batch──> store (blocking pool, one write at a time)
//!      └── Relists: once more ─────┘<── Order: the operator accepts what is held
//! ```
//!
//! Both channels are bounded: a slow core slows the watches down, and nothing is lost. Dropping
//! the task between two messages loses at most what the disk was still to be told.

use std::path::PathBuf;
use std::time::Duration;

use haflinger_core::{SourceId, SourceUpdate, Update};
use haflinger_kubernetes::Pace;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::ledger::{Change, Key, Ledger, Watched, is_gone};
use crate::settings::ClusterSettings;
use crate::shared_texts::SharedTexts;
use crate::status::Board;
use crate::store::{Batch, Store};

/// Messages between the watches and the feed: one page of a list.
pub(crate) const HEARD_MAX: usize = 512;

/// The disk is written at most this often, and hears of a change at latest so much later.
const WRITE_EVERY: Duration = Duration::from_secs(5);

/// Changes of so many bytes are written at once: a first list would else wait as a whole, twice
/// the size of the world.
const WAITING_BYTES_MAX: usize = 8 << 20;

/// Longest wait between two attempts of a disk that refuses.
const WRITE_RETRY_MAX: Duration = Duration::from_secs(60);

/// What a source says.
#[derive(Debug)]
pub(crate) enum Heard {
    /// A list of a kind begins.
    ListBegan(Watched),
    /// An object, listed or changed; `None`: it says nothing (any more).
    Object(Key, Option<SourceUpdate>),
    /// An object was deleted.
    Gone(Key),
    /// The list is complete.
    ListEnded(Watched),
    /// The source refuses to list a kind that it can do without.
    Withheld(Watched),
}

/// How often each kind was to be listed once more, by its index: a watch that sees its number
/// rise lists anew.
pub(crate) type Relists = [u32; Watched::ALL.len()];

/// What the operator tells a feed.
#[derive(Debug)]
pub(crate) enum Order {
    /// What is held is meant; how many deletions were followed.
    Accept(oneshot::Sender<usize>),
}

/// Orders that wait for a feed: it is an operator who gives them.
pub(crate) const ORDERS_MAX: usize = 4;

/// What a feed is told, beside what its source says.
pub(crate) struct Reins {
    /// Limits of deletions; without it nothing is held.
    pub(crate) settings: Option<watch::Receiver<ClusterSettings>>,
    pub(crate) relists: watch::Sender<Relists>,
    pub(crate) orders: mpsc::Receiver<Order>,
    pub(crate) stop: CancellationToken,
}

/// The core is gone: the daemon stops.
#[derive(Debug)]
pub(crate) struct Closed;

enum Disk {
    /// Nothing is kept.
    Off,
    Idle(Box<Store>),
    Writing,
}

/// How a write ended.
struct Written {
    store: Box<Store>,
    batch: Batch,
    result: std::io::Result<()>,
}

/// See the module's documentation.
pub(crate) struct Feed {
    source: SourceId,
    ledger: Ledger,
    texts: SharedTexts,
    updates: mpsc::Sender<Update>,
    reins: Reins,
    board: Board,
    /// What times are counted from.
    started: Instant,
    /// What must have been listed before the source counts as synced.
    awaited: Vec<Watched>,
    disk: Disk,
    written: (mpsc::Sender<Written>, mpsc::Receiver<Written>),
    waiting: Batch,
    write_at: Option<Instant>,
    /// The last write failed.
    refused: bool,
    pace: Pace,
}

impl Feed {
    pub(crate) fn new(
        source: SourceId,
        awaited: &[Watched],
        updates: mpsc::Sender<Update>,
        board: Board,
        reins: Reins,
    ) -> Self {
        let mut feed = Self {
            ledger: Ledger::new(source.clone()),
            texts: SharedTexts::default(),
            source,
            updates,
            reins,
            board,
            started: Instant::now(),
            awaited: awaited.to_vec(),
            disk: Disk::Off,
            // One write at a time.
            written: mpsc::channel(1),
            waiting: Batch::default(),
            write_at: None,
            refused: false,
            pace: Pace::new(WRITE_EVERY, WRITE_RETRY_MAX),
        };
        feed.take_limits();
        feed
    }

    /// Settings that change begin every list anew, so a look at each of them is enough.
    fn take_limits(&mut self) {
        let settings = self.reins.settings.as_ref();
        self.ledger.limit(settings.map(|settings| settings.borrow().deletions));
    }

    /// Says what an earlier run knew, before anything is heard.
    ///
    /// # Errors
    /// [`Closed`] when the core is gone.
    pub(crate) async fn restore(&mut self, directory: PathBuf) -> Result<(), Closed> {
        let source = self.source.clone();
        let opened = tokio::task::spawn_blocking(move || Store::open(&directory, &source)).await;
        // The blocking pool refuses work only while the daemon is torn down.
        let Ok((store, restored, refusal)) = opened else { return Err(Closed) };
        if let Some(error) = refusal {
            let detail = std::error::Error::source(&error).map(ToString::to_string);
            tracing::warn!(
                source = %self.source, %error, detail,
                "state file refused and set aside; waiting for the first list",
            );
        }
        self.board.metrics.state_bytes.set(i64::try_from(store.bytes()).unwrap_or(i64::MAX));
        self.disk = Disk::Idle(Box::new(store));
        if restored.updates.is_empty() && !restored.whole {
            return Ok(());
        }
        tracing::info!(
            source = %self.source, objects = restored.updates.len(), whole = restored.whole,
            "state restored from disk",
        );
        for (mut update, written) in restored.updates {
            self.texts.share_in(&mut update);
            self.ledger.restore(&update, &written);
            self.tell(Update::Source(update)).await?;
        }
        for kind in Watched::ALL {
            self.board.counted(kind, self.ledger.count(kind));
        }
        if restored.whole {
            self.board.restored();
            self.tell(Update::Synced(self.source.clone())).await?;
        }
        Ok(())
    }

    /// Works until every sender of `heard` is gone, then writes what the disk is still to be
    /// told. Returns whether the core is still there.
    pub(crate) async fn run(mut self, mut heard: mpsc::Receiver<Heard>) {
        loop {
            let write_at = self.write_at.filter(|_| matches!(self.disk, Disk::Idle(_)));
            let confirm_at = self.ledger.holds().next_confirmation().map(|at| self.started + at);
            tokio::select! {
                message = heard.recv() => match message {
                    Some(message) => {
                        if self.hear(message).await.is_err() {
                            break;
                        }
                    }
                    None => break,
                },
                Some(written) = self.written.1.recv() => self.write_ended(written),
                () = until(write_at) => self.begin_write(),
                () = until(confirm_at) => self.ask_again(),
                Some(order) = self.reins.orders.recv() => {
                    if self.obey(order).await.is_err() {
                        break;
                    }
                }
            }
        }
        self.write_under_way().await;
        self.begin_write();
        self.write_under_way().await;
    }

    async fn write_under_way(&mut self) {
        if matches!(self.disk, Disk::Writing)
            && let Some(written) = self.written.1.recv().await
        {
            self.write_ended(written);
        }
    }

    async fn hear(&mut self, message: Heard) -> Result<(), Closed> {
        match message {
            Heard::ListBegan(kind) => {
                self.take_limits();
                self.ledger.list_began(kind, self.started.elapsed());
                Ok(())
            }
            Heard::Object(key, mut update) => {
                let kind = key.watched;
                if let Some(update) = &mut update {
                    self.texts.share_in(update);
                }
                self.board.kind(kind).events.inc();
                let changes = self.ledger.heard(key, update);
                self.pass_on(kind, changes).await
            }
            Heard::Gone(key) => {
                let kind = key.watched;
                self.board.kind(kind).events.inc();
                let change = self.ledger.gone(key, self.started.elapsed());
                self.pass_on(kind, change).await
            }
            Heard::ListEnded(kind) => {
                let changes = self.ledger.list_ended(kind, self.started.elapsed());
                self.pass_on(kind, changes).await?;
                self.board.listed(kind, self.ledger.count(kind));
                self.arrived(kind).await
            }
            Heard::Withheld(kind) => self.arrived(kind).await,
        }
    }

    async fn pass_on(
        &mut self,
        kind: Watched,
        changes: impl IntoIterator<Item = Change>,
    ) -> Result<(), Closed> {
        self.show_held(kind);
        let mut changes = changes.into_iter().peekable();
        if changes.peek().is_none() {
            return Ok(());
        }
        self.board.counted(kind, self.ledger.count(kind));
        for change in changes {
            self.board.kind(kind).updates.inc();
            if !matches!(self.disk, Disk::Off) {
                self.waiting.add(change.key, change.written, is_gone(&change.update));
                let write_at = self.write_at.get_or_insert_with(|| Instant::now() + WRITE_EVERY);
                // A disk that refuses has its own wait.
                if self.waiting.bytes() >= WAITING_BYTES_MAX && !self.refused {
                    *write_at = (*write_at).min(Instant::now());
                }
            }
            self.tell(Update::Source(change.update)).await?;
        }
        Ok(())
    }

    /// Tells the board, and the log when it begins and ends, what is held of a kind.
    fn show_held(&self, kind: Watched) {
        let held = self.ledger.holds().count(kind);
        let before = self.board.kind(kind).held.get();
        if before == i64::try_from(held).unwrap_or(i64::MAX) {
            return;
        }
        let next = self.ledger.holds().next_confirmation().map(|at| self.started + at);
        self.board.held(kind, held, next.map(Instant::into_std));
        let kind = kind.as_str();
        match (before, held) {
            (0, _) => tracing::warn!(
                source = %self.source, kind, held,
                "more was deleted than is believed at once: the last state stands until a second                  list confirms it, or the operator by `haflinger accept {}`", self.source,
            ),
            (_, 0) => tracing::info!(source = %self.source, kind, "no deletion is held any more"),
            _ => {}
        }
    }

    /// Has the kinds listed whose held deletions are to be confirmed.
    fn ask_again(&mut self) {
        for kind in self.ledger.due(self.started.elapsed()) {
            tracing::info!(
                source = %self.source, kind = kind.as_str(),
                "asking for a second list, because deletions are held",
            );
            self.reins.relists.send_modify(|relists| relists[kind.index()] += 1);
        }
    }

    async fn obey(&mut self, order: Order) -> Result<(), Closed> {
        let Order::Accept(accepted) = order;
        let changes = self.ledger.accept();
        tracing::info!(
            source = %self.source, deletions = changes.len(), "the operator accepts what was held",
        );
        // Whoever asked may have gone; what was asked is done.
        let _ = accepted.send(changes.len());
        for change in changes {
            self.pass_on(change.key.watched, [change]).await?;
        }
        for kind in Watched::ALL {
            self.show_held(kind);
        }
        Ok(())
    }

    async fn arrived(&mut self, kind: Watched) -> Result<(), Closed> {
        let Some(at) = self.awaited.iter().position(|awaited| *awaited == kind) else {
            return Ok(());
        };
        self.awaited.swap_remove(at);
        if !self.awaited.is_empty() {
            return Ok(());
        }
        tracing::info!(source = %self.source, "every kind has been listed");
        self.board.synced();
        if !matches!(self.disk, Disk::Off) {
            self.waiting.whole = true;
            self.write_at.get_or_insert_with(|| Instant::now() + WRITE_EVERY);
        }
        self.tell(Update::Synced(self.source.clone())).await
    }

    /// Once stopped, the core may no longer listen: what is left goes to disk alone.
    async fn tell(&self, update: Update) -> Result<(), Closed> {
        tokio::select! {
            sent = self.updates.send(update) => sent.map_err(|_| Closed),
            () = self.reins.stop.cancelled() => Ok(()),
        }
    }

    fn begin_write(&mut self) {
        self.write_at = None;
        if self.waiting.is_empty() {
            return;
        }
        match std::mem::replace(&mut self.disk, Disk::Off) {
            Disk::Idle(mut store) => {
                let batch = std::mem::take(&mut self.waiting);
                let done = self.written.0.clone();
                self.disk = Disk::Writing;
                tokio::task::spawn_blocking(move || {
                    let result = store.append(&batch);
                    // Fails only when the feed is gone, and with it the need to know.
                    let _ = done.blocking_send(Written { store, batch, result });
                });
            }
            other => self.disk = other,
        }
    }

    fn write_ended(&mut self, Written { store, batch, result }: Written) {
        self.board.metrics.state_bytes.set(i64::try_from(store.bytes()).unwrap_or(i64::MAX));
        self.disk = Disk::Idle(store);
        self.refused = result.is_err();
        match result {
            Ok(()) => self.pace.succeeded(),
            Err(error) => {
                self.board.metrics.state_failures.inc();
                let wait = self.pace.after_failure(rand::random());
                tracing::warn!(
                    source = %self.source, %error, retry_secs = wait.as_secs(),
                    "state file cannot be written; the changes wait",
                );
                self.waiting.put_back(batch);
                self.write_at = Some(Instant::now() + wait);
            }
        }
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
#[path = "replay_tests.rs"]
mod replay_tests;
