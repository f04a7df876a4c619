//! Watches the inventory file and says what it holds.
//!
//! The kernel tells of changes in the directories of the file and its certificates; editors
//! write in several steps, so the file is read once they have paused. It is also read at a
//! slow pace, because network file systems tell nothing. Reading twice says nothing twice:
//! the ledger sees to that.

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

use super::{INVENTORY_BYTES_MAX, Inventory, InventoryError, KINDS, load, read};
use crate::feed::Heard;
use crate::ledger::Key;
use crate::metrics::Metrics;
use crate::status::Board;

/// How long a changed file must be left alone before it is read.
const SETTLE: Duration = Duration::from_millis(200);

/// The longest time for which a change can go unnoticed.
const READ_EVERY: Duration = Duration::from_secs(10);

/// See the module's documentation.
pub(crate) struct Reader {
    path: PathBuf,
    heard: mpsc::Sender<Heard>,
    board: Board,
    metrics: Metrics,
    changed: Arc<Notify>,
    watcher: Option<RecommendedWatcher>,
    watched: BTreeSet<PathBuf>,
    /// The last refusal, so that it is logged once.
    refused: Option<String>,
    /// Certificate and key files of the content in use.
    files: Vec<PathBuf>,
    /// What the content in use looks like: the same bytes are not checked again.
    used: Option<u64>,
}

impl Reader {
    pub(crate) fn new(
        path: PathBuf,
        heard: mpsc::Sender<Heard>,
        board: Board,
        metrics: Metrics,
    ) -> Self {
        let changed = Arc::new(Notify::new());
        let signal = changed.clone();
        // Without the kernel's help the slow pace has to do.
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            // Our own reading is an access, too.
            if event.map_or(true, |event| !event.kind.is_access()) {
                signal.notify_one();
            }
        });
        let watcher = watcher
            .inspect_err(|error| tracing::warn!(%error, "inventory is only read periodically"))
            .ok();
        Self {
            path,
            heard,
            board,
            metrics,
            changed,
            watcher,
            watched: BTreeSet::new(),
            refused: None,
            files: Vec::new(),
            used: None,
        }
    }

    /// Reads until `shutdown`, or until the feed ends.
    pub(crate) async fn run(mut self, shutdown: CancellationToken) {
        loop {
            // Before reading, so that a change while reading is not missed.
            self.watch_directories(&[]);
            if self.read().await.is_err() {
                return;
            }
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(READ_EVERY) => {}
                () = self.settled() => {}
            }
        }
    }

    /// Reads the files, and says what they hold if that is new.
    async fn read(&mut self) -> Result<(), mpsc::error::SendError<Heard>> {
        let (path, files, used) = (self.path.clone(), self.files.clone(), self.used);
        let task = tokio::task::spawn_blocking(move || {
            // Taken first: a change while loading is then found the next time.
            let now = fingerprint(&path, &files);
            (used != Some(now)).then(|| (load(&path), now))
        });
        // Cancelled only while the daemon is torn down.
        let Ok(Some((loaded, now))) = task.await else { return Ok(()) };
        match loaded {
            Ok(inventory) => {
                // With other files the fingerprint is of other things: once more, to be sure.
                self.used = (inventory.files == self.files).then_some(now);
                self.files.clone_from(&inventory.files);
                self.watch_directories(&inventory.files);
                self.say(inventory).await
            }
            Err(error) => {
                // What it lacks may be a file that is not known yet: always looked at again.
                self.used = None;
                self.refuse(&error);
                Ok(())
            }
        }
    }

    /// Ready when the files were changed and have been left alone since.
    async fn settled(&self) {
        self.changed.notified().await;
        while tokio::time::timeout(SETTLE, self.changed.notified()).await.is_ok() {}
    }

    async fn say(&mut self, inventory: Inventory) -> Result<(), mpsc::error::SendError<Heard>> {
        for kind in KINDS {
            self.heard.send(Heard::ListBegan(kind)).await?;
        }
        for update in inventory.updates {
            self.heard.send(Heard::Object(Key::of(&update), Some(update))).await?;
        }
        for kind in KINDS {
            self.heard.send(Heard::ListEnded(kind)).await?;
            self.board.connected(kind);
            self.board.heard(kind);
        }
        if self.refused.take().is_some() {
            tracing::info!(path = %self.path.display(), "inventory file is in use again");
        }
        self.metrics.inventory_valid.set(1);
        self.board.error(None);
        Ok(())
    }

    fn refuse(&mut self, error: &InventoryError) {
        let text = match std::error::Error::source(error) {
            Some(cause) => format!("{error}: {cause}"),
            None => error.to_string(),
        };
        self.metrics.inventory_valid.set(0);
        if self.refused.as_ref() == Some(&text) {
            return;
        }
        tracing::error!(error = text, "inventory file refused; the former content stays in use");
        self.metrics.inventory_refusals.inc();
        for kind in KINDS {
            self.board.failed(kind, text.clone());
        }
        self.board.error(Some(text.clone()));
        self.refused = Some(text);
    }

    /// Directories, because editors replace files. A symbolic link's target counts as well:
    /// certificates are often rotated behind one.
    fn watch_directories(&mut self, files: &[PathBuf]) {
        let Some(watcher) = &mut self.watcher else { return };
        let mut wanted: BTreeSet<PathBuf> = BTreeSet::new();
        for file in std::iter::once(&self.path).chain(files) {
            wanted.extend(directory(file));
            wanted.extend(file.canonicalize().ok().as_deref().and_then(directory));
        }
        if files.is_empty() {
            // Certificates become known by reading; theirs are kept until then.
            wanted.extend(self.watched.iter().cloned());
        }
        for gone in self.watched.difference(&wanted) {
            // It may have been deleted, which ended the watch already.
            let _ = watcher.unwatch(gone);
        }
        let mut now = BTreeSet::new();
        for path in wanted {
            if self.watched.contains(&path)
                || watcher.watch(&path, RecursiveMode::NonRecursive).is_ok()
            {
                now.insert(path);
            }
        }
        self.watched = now;
    }
}

/// One number for the bytes of all files; a file that cannot be read counts as one, too.
fn fingerprint(path: &Path, files: &[PathBuf]) -> u64 {
    let mut hasher = DefaultHasher::new();
    for file in std::iter::once(path).chain(files.iter().map(PathBuf::as_path)) {
        read(file, INVENTORY_BYTES_MAX).ok().hash(&mut hasher);
    }
    hasher.finish()
}

fn directory(file: &Path) -> Option<PathBuf> {
    match file.parent()? {
        parent if parent.as_os_str().is_empty() => Some(PathBuf::from(".")),
        parent => Some(parent.to_owned()),
    }
}
