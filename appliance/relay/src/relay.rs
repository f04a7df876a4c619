//! The task that follows snapshots: services come, change and go; grace periods end.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use haflinger_core::{ForwardingMode, Protocol, Service, ServiceKey, Snapshot};
use imbl::OrdMap;
use imbl::ordmap::DiffItem;
use prometheus::Registry;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use crate::metrics::{Metrics, ScrapeCollector};
use crate::service::{Leaving, ServiceRecord, ServiceState};
use crate::settings::Settings;
use crate::status::RelayStatus;
use crate::{Error, Shared, tcp, udp};

/// The relay before it runs.
pub struct Relay {
    shared: Arc<Shared>,
    /// Cancelled when every flow of every service must end.
    abort: CancellationToken,
    applied: OrdMap<ServiceKey, Arc<Service>>,
    records: HashMap<ServiceKey, ServiceRecord>,
    /// Grace periods by their end; the number tells apart those that end together.
    graces: BTreeMap<(Instant, u64), Grace>,
    graces_begun: u64,
}

/// Whose flows may go on until the grace period ends.
enum Grace {
    /// One backend of a service that is still there.
    Backend(ServiceKey, Leaving),
    /// A service that was removed.
    Service(Arc<ServiceState>),
}

/// Shows and adjusts a running relay.
#[derive(Clone)]
pub struct RelayHandle {
    shared: Arc<Shared>,
}

impl RelayHandle {
    /// Sockets, flows and bytes by service and backend. The cost is proportional to their
    /// number.
    pub fn status(&self) -> RelayStatus {
        RelayStatus::of(&self.shared)
    }

    /// Applies changed settings; they hold for what begins afterwards.
    ///
    /// # Errors
    ///
    /// A setting is 0 that must not be. The former settings stay.
    pub fn reconfigure(&self, settings: Settings) -> Result<(), Error> {
        settings.check()?;
        self.shared.settings.store(Arc::new(settings));
        Ok(())
    }
}

impl Relay {
    /// A relay that serves nothing yet.
    ///
    /// # Errors
    ///
    /// A setting is 0 that must not be, or a metric's name is taken in the registry.
    pub fn new(settings: Settings, registry: &Registry) -> Result<Self, Error> {
        settings.check()?;
        let shared = Arc::new(Shared::new(settings, Metrics::new(registry)?));
        registry.register(Box::new(ScrapeCollector::new(&shared)?))?;
        Ok(Self {
            shared,
            abort: CancellationToken::new(),
            applied: OrdMap::new(),
            records: HashMap::new(),
            graces: BTreeMap::new(),
            graces_begun: 0,
        })
    }

    /// Shows and adjusts this relay.
    pub fn handle(&self) -> RelayHandle {
        RelayHandle { shared: Arc::clone(&self.shared) }
    }

    /// Serves what the snapshots say until `shutdown`; then closes every listener, gives TCP
    /// connections `drain_secs` to end, resets the rest and returns. UDP flows end with their
    /// listeners. Withdraw the routes before that, so that no new client comes.
    ///
    /// When the sender of snapshots goes away the last one stays in force. Dropping the future
    /// ends every listener and flow at once.
    pub async fn run(
        mut self,
        mut snapshots: watch::Receiver<Arc<Snapshot>>,
        shutdown: CancellationToken,
    ) {
        let _abort = self.abort.clone().drop_guard();
        let first = Arc::clone(&snapshots.borrow_and_update());
        self.apply(&first);
        let mut sender_lives = true;
        loop {
            let next_grace = self.graces.first_key_value().map(|((at, _), _)| *at);
            let grace_end = async {
                match next_grace {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                changed = snapshots.changed(), if sender_lives => match changed {
                    Ok(()) => {
                        let snapshot = Arc::clone(&snapshots.borrow_and_update());
                        self.apply(&snapshot);
                    }
                    Err(_) => sender_lives = false,
                },
                () = grace_end => self.end_graces(Instant::now()),
            }
        }
        self.stop().await;
    }

    /// Applies the difference between what is served and what should be.
    fn apply(&mut self, snapshot: &Snapshot) {
        let applied = std::mem::replace(&mut self.applied, snapshot.services.clone());
        for item in applied.diff(&snapshot.services) {
            match item {
                DiffItem::Add(_, service) => {
                    if service.mode == ForwardingMode::Proxy {
                        self.add(service);
                    }
                }
                DiffItem::Update { old: (key, old), new: (_, service) } => {
                    match (old.mode, service.mode) {
                        (ForwardingMode::Proxy, ForwardingMode::Proxy) => self.update(key, service),
                        (ForwardingMode::Proxy, _) => self.remove(key),
                        (_, ForwardingMode::Proxy) => self.add(service),
                        _ => {}
                    }
                }
                DiffItem::Remove(key, service) => {
                    if service.mode == ForwardingMode::Proxy {
                        self.remove(key);
                    }
                }
            }
        }
    }

    fn add(&mut self, service: &Arc<Service>) {
        let has_series = self.shared.metrics.claim_series();
        let record = ServiceRecord::new(Arc::clone(service), &self.abort, has_series);
        let state = Arc::clone(&record.state);
        self.shared.insert_service(&state);
        self.records.insert(service.key, record);
        let shared = Arc::clone(&self.shared);
        match service.key.protocol {
            Protocol::Tcp => self.shared.tasks.spawn(tcp::serve(shared, state)),
            Protocol::Udp => self.shared.tasks.spawn(udp::serve(shared, state)),
        };
    }

    fn update(&mut self, key: &ServiceKey, service: &Arc<Service>) {
        let Some(record) = self.records.get_mut(key) else { return };
        for leaving in record.update(Arc::clone(service)) {
            self.begin_grace(Grace::Backend(*key, leaving));
        }
    }

    fn remove(&mut self, key: &ServiceKey) {
        let Some(record) = self.records.remove(key) else { return };
        self.shared.remove_service(key);
        self.shared.metrics.release_series(record.state.has_series);
        record.state.accepting.cancel();
        self.begin_grace(Grace::Service(record.state));
    }

    fn begin_grace(&mut self, grace: Grace) {
        let ends_at = Instant::now() + self.shared.settings.load().drain();
        self.graces_begun += 1;
        self.graces.insert((ends_at, self.graces_begun), grace);
    }

    fn end_graces(&mut self, now: Instant) {
        let later = self.graces.split_off(&(now, u64::MAX));
        for grace in std::mem::replace(&mut self.graces, later).into_values() {
            match grace {
                Grace::Service(state) => state.closing.cancel(),
                Grace::Backend(key, leaving) => {
                    if let Some(record) = self.records.get_mut(&key)
                        && record.grace_ended(leaving)
                    {
                        tracing::debug!(service = %key, backend = %leaving.backend, "drained");
                    }
                }
            }
        }
    }

    async fn stop(self) {
        for record in self.records.values() {
            record.state.accepting.cancel();
        }
        self.shared.tasks.close();
        let drain = self.shared.settings.load().drain();
        if timeout(drain, self.shared.tasks.wait()).await.is_err() {
            let connections = self.shared.connections.count();
            tracing::info!(connections, "drain time is over, resetting what is left");
        }
        self.abort.cancel();
        self.shared.tasks.wait().await;
    }
}
