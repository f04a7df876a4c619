//! The room: workers, tables and the loop between them.
//!
//! ```text
//!  snapshots ──> run (any runtime) ──> Tables ──> ArcSwaps ──> workers (a thread each)
//!                  │   ▲ bind retries                            accept → TLS → engine
//!                  └──> updates: faults of certificates and sockets
//! ```

use std::net::TcpListener;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;
use haflinger_core::{Snapshot, Update};
use prometheus::Registry;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::access::AccessLog;
use crate::auth::{Comparisons, KeySlot, keep_fetching};
use crate::engine::KeyFetcher;
use crate::guards::Counts;
use crate::listen::{ConnectionCount, accept_loop, bind};
use crate::listener::Listener;
use crate::metrics::Metrics;
use crate::reports::Reports;
use crate::sessions::SessionKey;
use crate::settings::{Settings, SettingsError};
use crate::status::ProxyStatus;
use crate::tables::{Effects, LISTENERS_MAX, Tables};
use crate::tally::TallyViews;
use crate::tls::TlsBase;
use crate::why::{self, Circumstances, Question, UrlWhy};
use crate::worker::{Shared, Worker, WorkerError};

/// How often certificates are looked at for what the time makes of them. Ends and warnings are a
/// matter of days, and a look at ten thousand takes a millisecond.
const REVIEW_PERIOD: Duration = Duration::from_secs(60);

/// Why the proxy cannot start.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// A setting is out of range.
    #[error("settings of the proxy")]
    Settings(#[from] SettingsError),
    /// The registry has metrics of these names already.
    #[error("cannot register metrics of the proxy")]
    Metrics(#[from] prometheus::Error),
    /// The host's random source failed.
    #[error("cannot make keys for TLS session tickets")]
    Tickets(#[from] rustls::Error),
    /// A thread could not be started.
    #[error("cannot start a worker of the proxy")]
    Worker(#[from] WorkerError),
}

/// Layer 7, started but serving nothing yet.
pub struct Proxy {
    state: Arc<State>,
    workers: Vec<Worker>,
}

/// Shows the room and changes its settings. Cheap to clone.
#[derive(Clone)]
pub struct ProxyHandle {
    state: Arc<State>,
}

struct State {
    shared: Arc<Shared>,
    /// Locked for the length of a comparison or a report, never across a wait and never by a
    /// worker.
    tables: Mutex<Tables>,
    workers_started: usize,
    renew_engines: Notify,
    /// Generation of the snapshot that the tables hold.
    applied: watch::Sender<u64>,
}

impl State {
    fn tables(&self) -> MutexGuard<'_, Tables> {
        // Tables are whole between any two statements, so a panic elsewhere does not spoil them.
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Proxy {
    /// Checks the settings, registers metrics and starts the workers.
    pub fn new(settings: Settings, registry: &Registry) -> Result<Self, ProxyError> {
        settings.check()?;
        let metrics = Metrics::new(registry)?;
        let access = AccessLog::new(registry)?;
        access.switch(settings.access_log.as_ref());
        let workers_started = settings.workers.get();
        let mut tls = TlsBase::new()?;
        tls.configure(settings.tls_policy, settings.ticket_secret.as_ref());
        let sessions = SessionKey::derive(&settings.flow_hash_key);
        let shared = Arc::new(Shared {
            sessions,
            settings: ArcSwap::from_pointee(settings),
            metrics: metrics.clone(),
            access,
            connections: Arc::new(ConnectionCount::default()),
            counts: Arc::new(Counts::new(metrics.guards.keys_displaced.clone())),
            comparisons: Comparisons::new(metrics.auth.clone()),
            began: Instant::now(),
        });
        let workers = (0..workers_started)
            .map(|number| Worker::start(number, &shared))
            .collect::<Result<Vec<_>, _>>()?;
        let tables = Mutex::new(Tables::new(metrics, tls, LISTENERS_MAX));
        let renew_engines = Notify::new();
        let state = Arc::new(State {
            shared,
            tables,
            workers_started,
            renew_engines,
            applied: watch::channel(0).0,
        });
        Ok(Self { state, workers })
    }

    /// A handle that outlives [`Self::run`].
    pub fn handle(&self) -> ProxyHandle {
        ProxyHandle { state: self.state.clone() }
    }

    /// Serves every snapshot until `shutdown`, then drains: no new connections, each answer the
    /// last on its connection, what is left after the drain timeout cut off.
    pub async fn run(
        self,
        mut snapshots: watch::Receiver<Arc<Snapshot>>,
        updates: mpsc::Sender<Update>,
        shutdown: CancellationToken,
    ) {
        let drains = TaskTracker::new();
        let fetcher = Arc::new(KeyFetcher::new(self.state.shared.clone()));
        let mut reports = Reports::default();
        let mut snapshots_end = false;
        snapshots.mark_changed();
        let mut reviews = tokio::time::interval(REVIEW_PERIOD);
        reviews.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let next_bind = self.state.tables().next_bind();
            tokio::select! {
                () = shutdown.cancelled() => break,
                changed = snapshots.changed(), if !snapshots_end => {
                    // Without a publisher the last snapshot stands.
                    snapshots_end = changed.is_err();
                    let snapshot = snapshots.borrow_and_update().clone();
                    let generation = snapshot.generation;
                    let mut effects = self.state.tables().apply(snapshot, Instant::now());
                    self.state.applied.send_replace(generation);
                    for slot in std::mem::take(&mut effects.keys) {
                        let (fetcher, metrics) = (fetcher.clone(), &self.state.shared.metrics);
                        let fetch = move |slot: Arc<KeySlot>| {
                            let fetcher = fetcher.clone();
                            async move { fetcher.fetch(&slot).await }
                        };
                        // Ends by itself too, once nobody holds the place.
                        let fetching = keep_fetching(slot, metrics.auth.clone(), fetch);
                        let stop = shutdown.clone();
                        tokio::spawn(async move { stop.run_until_cancelled(fetching).await });
                    }
                    if effects.certificates_changed {
                        reviews.reset_immediately();
                    }
                    self.carry_out(effects, &drains, &mut reports);
                    self.bind_due(&mut reports);
                }
                () = sleep_until(next_bind) => self.bind_due(&mut reports),
                _ = reviews.tick() => self.review(&mut reports),
                () = self.state.renew_engines.notified() => self.renew_engines(),
                permit = updates.reserve(), if !reports.is_empty() => match permit {
                    Ok(permit) => {
                        if let Some(update) = reports.next() {
                            permit.send(update);
                        }
                    }
                    // Nobody listens any more.
                    Err(_) => reports = Reports::default(),
                },
            }
        }
        for listener in self.state.tables().retire_all() {
            self.drain(listener, &drains);
        }
        drains.close();
        drains.wait().await;
        self.state.shared.access.close().await;
    }

    fn carry_out(&self, effects: Effects, drains: &TaskTracker, reports: &mut Reports) {
        reports.certificates(effects.reports);
        reports.notices(effects.notices);
        reports.sockets(effects.sockets);
        for listener in effects.retired {
            tracing::info!(listener = %listener.address, "no longer listening");
            self.drain(listener, drains);
        }
    }

    fn review(&self, reports: &mut Reports) {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let now_secs = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        let warning = self.state.shared.settings.load().certificate_warning;
        reports.notices(self.state.tables().review(warning, now_secs));
    }

    fn drain(&self, listener: Arc<Listener>, drains: &TaskTracker) {
        let state = self.state.clone();
        drains.spawn(async move {
            let address = listener.address;
            let patience = state.shared.settings.load().drain_timeout;
            listener.drain(patience).await;
            let tables = state.tables();
            if !tables.has(address) {
                state.shared.metrics.forget_listener(address);
            }
        });
    }

    fn bind_due(&self, reports: &mut Reports) {
        let start = |socket: TcpListener, listener: &Arc<Listener>| {
            let handles = self.workers.iter().map(|_| socket.try_clone());
            let handles = handles.collect::<Result<Vec<_>, _>>()?;
            for (worker, socket) in self.workers.iter().zip(handles) {
                let (listener, shared) = (listener.clone(), self.state.shared.clone());
                let accepting = accept_loop(socket, listener, shared, worker.engine().clone());
                worker.handle().spawn(accepting);
            }
            Ok(())
        };
        let jitter = || rand::random_range(0.5..=1.0);
        reports.sockets(self.state.tables().bind_due(Instant::now(), jitter, bind, start));
    }

    fn renew_engines(&self) {
        for worker in &self.workers {
            if let Err(error) = worker.renew_engine(&self.state.shared) {
                tracing::error!(%error, "a worker keeps its former settings");
            }
        }
    }
}

impl ProxyHandle {
    /// The room now. Takes the lock of the tables, so not for a hot path.
    pub fn status(&self) -> ProxyStatus {
        let settings = self.state.shared.settings.load();
        let tables = self.state.tables();
        ProxyStatus {
            generation: tables.generation(),
            listeners: tables.listener_status(),
            certificates: tables.certificate_status(),
            connections: self.state.shared.connections.now(),
            connections_max: settings.connections_max,
            access_log: self.state.shared.access.status(),
            workers: self.state.workers_started,
            restart_needed: settings.workers.get() != self.state.workers_started,
        }
    }

    /// What would become of a request now, and why. Nothing is counted and nobody is asked. Takes the
    /// lock of the tables and reads the rules of a listener one by one: neither for a hot path nor
    /// for a thread that may not block.
    pub fn why(&self, question: &Question) -> UrlWhy {
        let shared = &self.state.shared;
        let settings = shared.settings.load();
        let with = Circumstances {
            sessions: &self.state.shared.sessions,
            settings: &settings,
            counts: &shared.counts,
            now: shared.began.elapsed(),
            today_secs: jiff::Timestamp::now().as_second(),
        };
        why::explain(&self.state.tables(), question, &with)
    }

    /// What routes and pods have been asked so far.
    pub fn tallies(&self) -> TallyViews {
        let shared = &self.state.shared;
        let at_ms = u64::try_from(shared.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        shared.metrics.tallies.views(at_ms)
    }

    /// Looks at once whether the access log's file has been moved away, and opens it anew then.
    pub fn reopen_access_log(&self) {
        self.state.shared.access.reopen();
    }

    /// Generation of the snapshot that new requests are led by; 0 before the first.
    pub fn applied(&self) -> watch::Receiver<u64> {
        self.state.applied.subscribe()
    }

    /// Applies other settings to everything that begins from now on; requests in progress and,
    /// for what Pingora fixes per connection, open HTTP/2 connections keep theirs. Only the
    /// number of workers waits for the next start. Settings out of range change nothing.
    pub fn reconfigure(&self, settings: Settings) -> Result<(), SettingsError> {
        settings.check()?;
        self.state.shared.access.switch(settings.access_log.as_ref());
        let old = self.state.shared.settings.swap(Arc::new(settings.clone()));
        self.state.tables().set_tls(settings.tls_policy, settings.ticket_secret.as_ref());
        if !settings.same_engine(&old) {
            self.state.renew_engines.notify_one();
        }
        Ok(())
    }
}

async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due.into()).await,
        None => std::future::pending().await,
    }
}
