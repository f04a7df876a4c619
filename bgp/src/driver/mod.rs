//! The driver: sockets, tasks and clocks around the pure speaker.
//!
//! ```text
//!   desired prefixes (watch)     settings (watch)      shutdown (token)
//!             │                        │                     │
//!             v                        v                     v
//!   ┌───────────────────────── supervisor ──────────────────────────┐     listener
//!   │ one task: diffs the set once, accepts connections,            │<─── (accept)
//!   │ starts and stops peers                                        │
//!   └──┬───────────────────────┬──────────────────────────┬─────────┘
//!      │ watch: set + delta    │ watch: export, stop      │ mpsc(4): connections offered
//!      v                       v                          v
//!   ┌──────────────────── peer task, one per peer ──────────────────┐
//!   │ Session (fsm) + AdjRibOut (rib), up to two streams, a connect │──> status, metrics
//!   └──────────────────────────────┬────────────────────────────────┘
//!                                  │ streams that are over
//!                                  v
//!                    closing tasks, two seconds each at most
//! ```
//!
//! A peer task waits, feeds the session, carries its outputs out, fills and flushes, and waits
//! again; every wait in it is cancel safe. Nothing here waits for a peer: a slow one has its
//! changes merged in its Adj-RIB-Out until it takes them. A task that ends in error ends alone.

mod metrics;
mod peer;
mod socket;
mod stream;
mod supervisor;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ipnet::IpNet;
use prometheus::Registry;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::settings::{Settings, SettingsError};
use crate::status::{PeerStatus, SpeakerStatus};
use metrics::Metrics;

pub use peer::MESSAGES_PER_WAKEUP_MAX;
pub use supervisor::{DESIRED_MAX, DRAIN_MAX};

/// Why a speaker cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum SpeakerError {
    /// The settings cannot be used.
    #[error("bgp settings")]
    Settings(#[from] SettingsError),
    /// A metric could not be registered.
    #[error("bgp metrics")]
    Metrics(#[from] prometheus::Error),
}

/// A speaker that has not been started.
#[derive(Debug)]
pub struct Speaker {
    shared: Arc<Shared>,
    settings: watch::Sender<Arc<Settings>>,
}

/// A way to see and to change a running speaker.
#[derive(Clone, Debug)]
pub struct SpeakerHandle {
    shared: Arc<Shared>,
    settings: watch::Sender<Arc<Settings>>,
}

/// What the tasks show of themselves.
#[derive(Debug)]
struct Shared {
    metrics: Metrics,
    board: Mutex<Board>,
}

/// The status, piece by piece.
#[derive(Debug, Default)]
struct Board {
    listen_error: Option<String>,
    desired: usize,
    refused: usize,
    strangers: u64,
    peers: BTreeMap<IpAddr, PeerStatus>,
}

impl Shared {
    /// The board. Its holders only copy values, so a poisoned one is whole all the same.
    fn board(&self) -> MutexGuard<'_, Board> {
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Speaker {
    /// A speaker with checked settings. Nothing happens before [`Speaker::run`].
    ///
    /// # Errors
    /// When the settings cannot be used, or a metric of the same name is registered already.
    pub fn new(settings: Settings, registry: &Registry) -> Result<Speaker, SpeakerError> {
        settings.check()?;
        let metrics = Metrics::new(registry)?;
        let shared = Arc::new(Shared { metrics, board: Mutex::default() });
        Ok(Speaker { shared, settings: watch::Sender::new(Arc::new(settings)) })
    }

    /// A handle on the speaker.
    #[must_use]
    pub fn handle(&self) -> SpeakerHandle {
        SpeakerHandle { shared: Arc::clone(&self.shared), settings: self.settings.clone() }
    }

    /// Announces what `desired` holds to all peers, until `shutdown`. Then everything is
    /// withdrawn, each session is ended with an administrative shutdown, and the call returns,
    /// within [`DRAIN_MAX`] and two seconds. A `desired` whose sender is gone stays as it is.
    pub async fn run(
        self,
        desired: watch::Receiver<Arc<BTreeSet<IpNet>>>,
        shutdown: CancellationToken,
    ) {
        supervisor::run(self.shared, self.settings.subscribe(), desired, shutdown).await;
    }
}

impl SpeakerHandle {
    /// How the speaker and its peers are.
    #[must_use]
    pub fn status(&self) -> SpeakerStatus {
        let settings = Arc::clone(&self.settings.borrow());
        let board = self.shared.board();
        SpeakerStatus {
            local_as: settings.local_as,
            router_id: settings.router_id,
            listen: settings.listen,
            listen_error: board.listen_error.clone(),
            desired_prefixes: board.desired,
            refused_prefixes: board.refused,
            strangers: board.strangers,
            peers: board.peers.values().cloned().collect(),
        }
    }

    /// Applies the difference to the running speaker: peers come and go; a change of communities
    /// or next hops is announced on the running session; any other change restarts the sessions
    /// that it concerns.
    ///
    /// # Errors
    /// When the settings cannot be used; the former ones stay.
    pub fn reconfigure(&self, settings: Settings) -> Result<(), SettingsError> {
        settings.check()?;
        self.settings.send_if_modified(|current| {
            let changed = **current != settings;
            if changed {
                *current = Arc::new(settings);
            }
            changed
        });
        Ok(())
    }
}
