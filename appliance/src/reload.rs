//! When to read the configuration again: SIGHUP, or the file has changed, or a secret that the whole
//! fleet shares has.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tracing::warn;

/// An editor writes a file in several steps: wait until it has been quiet this long.
const SETTLE: Duration = Duration::from_millis(300);

/// What asked for a reload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trigger {
    Signal,
    File,
}

/// Tells when to reload.
pub(crate) struct Triggers {
    hangup: Signal,
    changes: mpsc::Receiver<()>,
    sender: mpsc::Sender<()>,
    /// Keeps the watch alive; absent where the file cannot be watched.
    _watcher: Option<RecommendedWatcher>,
    /// The secret's file, and what watches it.
    secret: Option<(PathBuf, RecommendedWatcher)>,
}

impl Triggers {
    /// Watches the file, if there is one, and the signal.
    pub(crate) fn open(file: Option<&Path>) -> anyhow::Result<Self> {
        let hangup = signal(SignalKind::hangup()).context("listening for SIGHUP")?;
        let (sender, changes) = mpsc::channel(1);
        let watcher = file.and_then(|file| watched(file, &sender));
        Ok(Self { hangup, changes, sender, _watcher: watcher, secret: None })
    }

    /// Watches the file of this secret too, in the place of the one before.
    pub(crate) fn follow(&mut self, secret: Option<&Path>) {
        if self.secret.as_ref().map(|(path, _)| path.as_path()) == secret {
            return;
        }
        let sender = &self.sender;
        self.secret = secret.and_then(|file| Some((file.to_owned(), watched(file, sender)?)));
    }

    /// Waits for the next reason to reload.
    pub(crate) async fn next(&mut self) -> Trigger {
        loop {
            tokio::select! {
                // Without a signal driver there is nothing left to wait for but the file.
                Some(()) = self.hangup.recv() => return Trigger::Signal,
                Some(()) = self.changes.recv() => {
                    tokio::time::sleep(SETTLE).await;
                    while self.changes.try_recv().is_ok() {
                        tokio::time::sleep(SETTLE).await;
                    }
                    return Trigger::File;
                }
                else => std::future::pending::<()>().await,
            }
        }
    }
}

fn watched(file: &Path, sender: &mpsc::Sender<()>) -> Option<RecommendedWatcher> {
    match watch(file, sender.clone()) {
        Ok(watcher) => Some(watcher),
        Err(error) => {
            warn!(%error, file = %file.display(), "the file is not watched: use SIGHUP");
            None
        }
    }
}

/// Watches the directory, because editors and configuration tools replace the file.
fn watch(file: &Path, sender: mpsc::Sender<()>) -> notify::Result<RecommendedWatcher> {
    let file = std::path::absolute(file)?;
    let name = file.file_name().map(ToOwned::to_owned);
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        let Ok(event) = event else { return };
        let touched = event.paths.iter().any(|path| path.file_name() == name.as_deref());
        if touched && !event.kind.is_access() {
            // One pending change is as good as many.
            let _ = sender.try_send(());
        }
    })?;
    let directory = file.parent().unwrap_or(Path::new("/"));
    watcher.watch(directory, RecursiveMode::NonRecursive)?;
    Ok(watcher)
}
