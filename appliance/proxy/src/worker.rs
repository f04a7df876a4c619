//! The threads that carry traffic: one current-thread runtime each, with an engine and upstream
//! connections of its own, so that a request never crosses cores.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Instant;

use arc_swap::ArcSwap;
use tokio::runtime::{Builder, Handle};
use tokio_util::sync::CancellationToken;

use crate::access::AccessLog;
use crate::auth::Comparisons;
use crate::engine::{Engine, EngineError};
use crate::guards::Counts;
use crate::listen::ConnectionCount;
use crate::metrics::Metrics;
use crate::sessions::SessionKey;
use crate::settings::Settings;

/// What the hot path of every worker reads.
#[derive(Debug)]
pub(crate) struct Shared {
    /// The settings now.
    pub(crate) settings: ArcSwap<Settings>,
    /// What is counted.
    pub(crate) metrics: Metrics,
    /// Where requests are written down.
    pub(crate) access: AccessLog,
    /// Open client connections.
    pub(crate) connections: Arc<ConnectionCount>,
    /// Requests of clients, where those are limited.
    pub(crate) counts: Arc<Counts>,
    /// Comparisons of passwords.
    pub(crate) comparisons: Comparisons,
    /// What tokens of sessions are made with. Like the key of the flow hash, from the start.
    pub(crate) sessions: SessionKey,
    /// When the clock of the counts began.
    pub(crate) began: Instant,
}

/// One thread.
pub(crate) struct Worker {
    handle: Handle,
    engine: Arc<ArcSwap<Engine>>,
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

impl Worker {
    /// Starts thread number `number`.
    pub(crate) fn start(number: usize, shared: &Arc<Shared>) -> Result<Self, WorkerError> {
        let engine = Arc::new(ArcSwap::from_pointee(Engine::new(shared.clone())?));
        let runtime =
            Builder::new_current_thread().enable_all().build().map_err(WorkerError::Runtime)?;
        let handle = runtime.handle().clone();
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let thread = std::thread::Builder::new()
            .name(format!("proxy-{number}"))
            .spawn(move || runtime.block_on(stopped.cancelled()))
            .map_err(WorkerError::Thread)?;
        Ok(Self { handle, engine, stop, thread: Some(thread) })
    }

    /// Where its tasks are spawned.
    pub(crate) fn handle(&self) -> &Handle {
        &self.handle
    }

    /// What serves its connections.
    pub(crate) fn engine(&self) -> &Arc<ArcSwap<Engine>> {
        &self.engine
    }

    /// Serves new connections by an engine with the settings of now; open ones keep theirs.
    pub(crate) fn renew_engine(&self, shared: &Arc<Shared>) -> Result<(), WorkerError> {
        self.engine.store(Arc::new(Engine::new(shared.clone())?));
        Ok(())
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            // A panic of the thread has been reported by then, and there is nothing left to do.
            let _ = thread.join();
        }
    }
}

/// Why a worker cannot start.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// No runtime.
    #[error("cannot create a runtime")]
    Runtime(#[source] io::Error),
    /// No thread.
    #[error("cannot start a thread")]
    Thread(#[source] io::Error),
    /// No engine.
    #[error(transparent)]
    Engine(#[from] EngineError),
}
