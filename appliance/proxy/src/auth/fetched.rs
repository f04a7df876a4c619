//! Key sets that are fetched and kept.
//!
//! A task for each set in use, on the room's own runtime; requests read the keys of now and, where
//! those lack one, wait a moment for the next fetch. While the server is away the former keys stand.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use haflinger_core::KeySource;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use super::keys::KeySet;
use super::schedule::{Schedule, max_age};
use super::{AuthMetrics, ServerNames};
use crate::tls::BackendTls;

/// How long a request waits for keys that are being fetched.
const WAIT_MAX: Duration = Duration::from_secs(3);

/// The place of one key set.
pub(crate) struct KeySlot {
    source: KeySource,
    /// Where it is fetched.
    pub(crate) names: Arc<ServerNames>,
    /// How the server is greeted.
    pub(crate) tls: Option<Arc<BackendTls>>,
    keys: ArcSwapOption<KeySet>,
    schedule: Mutex<Schedule>,
    began: Instant,
    wanted: Arc<Notify>,
    progress: watch::Sender<Progress>,
    /// Cancelled when nobody holds the place any more.
    stop: CancellationToken,
}

/// How far fetching has come.
#[derive(Clone, Copy, Debug)]
struct Progress {
    fetching: bool,
    ended: u64,
}

impl fmt::Debug for KeySlot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeySlot({}:{})", self.source.server.host, self.source.server.port)
    }
}

impl Drop for KeySlot {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl KeySlot {
    /// Without keys yet; the first fetch is awaited.
    pub(crate) fn new(
        source: KeySource,
        names: Arc<ServerNames>,
        tls: Option<Arc<BackendTls>>,
    ) -> Self {
        let usual = Duration::from_secs(source.refresh_secs.into());
        Self {
            source,
            names,
            tls,
            keys: ArcSwapOption::empty(),
            schedule: Mutex::new(Schedule::new(usual)),
            began: Instant::now(),
            wanted: Arc::default(),
            progress: watch::Sender::new(Progress { fetching: true, ended: 0 }),
            stop: CancellationToken::new(),
        }
    }

    /// What is fetched.
    pub(crate) fn source(&self) -> &KeySource {
        &self.source
    }

    /// The keys now.
    pub(crate) fn keys(&self) -> Option<Arc<KeySet>> {
        self.keys.load_full()
    }

    /// Whether looking for other keys may bring any.
    pub(crate) fn may_fetch(&self) -> bool {
        self.progress.borrow().fetching || self.schedule().may_fetch(self.began.elapsed())
    }

    /// Waits until keys have been fetched once more, if they may be, but not for long.
    pub(crate) async fn look_for_keys(&self) {
        let mut progress = self.progress.subscribe();
        let before = *progress.borrow_and_update();
        {
            let mut schedule = self.schedule();
            let now = self.began.elapsed();
            if !before.fetching {
                if !schedule.may_fetch(now) {
                    return;
                }
                schedule.wanted(now);
                self.wanted.notify_one();
            }
        }
        let ended = progress.wait_for(|progress| progress.ended > before.ended);
        // Too late, or nobody fetches any more: the keys of now count.
        let _ = tokio::time::timeout(WAIT_MAX, ended).await;
    }

    fn schedule(&self) -> MutexGuard<'_, Schedule> {
        // Whole between any two statements.
        self.schedule.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in what a fetch has brought; whether that were keys.
    fn take_in(&self, fetched: Result<Fetched, String>, jitter: f64) -> bool {
        let server = &self.source.server.host;
        let parsed = fetched.and_then(|fetched| {
            let keys = KeySet::parse(&fetched.body).map_err(|error| error.to_string())?;
            Ok((keys, fetched.cache_control))
        });
        let now = self.began.elapsed();
        let succeeded = parsed.is_ok();
        match parsed {
            Ok((keys, cache_control)) => {
                let kept = cache_control.as_deref().and_then(max_age);
                self.schedule().succeeded(now, kept);
                tracing::debug!(%server, ?keys, "keys fetched");
                self.keys.store(Some(Arc::new(keys)));
            }
            Err(error) => {
                self.schedule().failed(now, jitter);
                let kept = self.keys.load().is_some();
                tracing::warn!(%server, error, kept, "keys for tokens cannot be fetched");
            }
        }
        self.progress.send_modify(|progress| {
            progress.fetching = false;
            progress.ended += 1;
        });
        succeeded
    }
}

/// What a server has answered, with status 200.
#[derive(Debug)]
pub(crate) struct Fetched {
    /// The content.
    pub(crate) body: Bytes,
    /// `Cache-Control`.
    pub(crate) cache_control: Option<String>,
}

/// Counts a set while its fetches fail.
struct Failing(AuthMetrics, bool);

impl Failing {
    fn set(&mut self, failing: bool) {
        if failing != self.1 {
            self.0.key_sets_failing.add(if failing { 1 } else { -1 });
            self.1 = failing;
        }
    }
}

impl Drop for Failing {
    fn drop(&mut self) {
        self.set(false);
    }
}

/// Fetches the keys of a place for as long as anybody holds it.
pub(crate) async fn keep_fetching<F, R>(slot: Weak<KeySlot>, metrics: AuthMetrics, fetch: F)
where
    F: Fn(Arc<KeySlot>) -> R,
    R: Future<Output = Result<Fetched, String>>,
{
    let mut failing = Failing(metrics.clone(), false);
    loop {
        let Some(held) = slot.upgrade() else { return };
        let due = held.began + held.schedule().due();
        let (stop, wanted) = (held.stop.clone(), held.wanted.clone());
        drop(held);
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep_until(due.into()) => {}
            () = wanted.notified() => continue,
        }
        let Some(held) = slot.upgrade() else { return };
        held.schedule().begin(held.began.elapsed());
        held.progress.send_modify(|progress| progress.fetching = true);
        let fetched = fetch(held.clone()).await;
        let succeeded = held.take_in(fetched, rand::random_range(0.5..=1.0));
        metrics.fetched(succeeded);
        failing.set(!succeeded);
    }
}
