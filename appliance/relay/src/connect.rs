//! Finding a backend that takes a new TCP connection.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use haflinger_core::flow::{client_hash, flow_hash};
use haflinger_core::{Algorithm, Service};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use crate::Shared;
use crate::candidates::Candidates;
use crate::limit::hold;
use crate::metrics::{Rejection, protocol_label};
use crate::selection::{by_hash, in_turn, least_loaded};
use crate::service::{BackendSlot, Picture, ServiceState};
use crate::socket::{connect_tcp, established};

/// Backends at their limit that are passed over for one flow. Each costs the read of a counter,
/// so that a flow that finds no room is turned away within microseconds; in services of up to
/// so many backends, room is always found.
pub(crate) const FULL_MAX: u32 = 64;

/// A backend in use, counted there for as long as this lives: its slot is kept meanwhile, so
/// that the end of a grace period finds the flow.
pub(crate) struct InUse(pub(crate) Arc<BackendSlot>);

impl InUse {
    /// `None` when the backend has `most` already.
    pub(crate) fn below(slot: &Arc<BackendSlot>, most: u32) -> Option<Self> {
        hold(&slot.counters.active, most).then(|| Self(Arc::clone(slot)))
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        self.0.counters.active.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A flow that has its backend, counted at both ends for as long as this lives.
pub(crate) struct Counted {
    pub(crate) service: Arc<ServiceState>,
    pub(crate) backend: InUse,
}

impl Counted {
    pub(crate) fn new(shared: &Shared, service: &Arc<ServiceState>, backend: InUse) -> Self {
        service.counters.active.fetch_add(1, Ordering::Relaxed);
        service.counters.total.fetch_add(1, Ordering::Relaxed);
        backend.0.counters.total.fetch_add(1, Ordering::Relaxed);
        let protocol = protocol_label(service.key.protocol);
        shared.metrics.flows.with_label_values(&[protocol]).inc();
        Self { service: Arc::clone(service), backend }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.service.counters.active.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A connection to a backend.
pub(crate) struct Connected {
    pub(crate) stream: TcpStream,
    pub(crate) counted: Counted,
    /// Cancelled when the flow must end.
    pub(crate) ending: CancellationToken,
}

/// Which part of the flow picks the bucket.
pub(crate) fn hash_of(shared: &Shared, service: &Service, client: SocketAddr) -> u64 {
    let settings = shared.settings.load();
    let (key, vip) = (&settings.flow_hash_key, service.key.socket_addr());
    let protocol = service.key.protocol;
    match service.algorithm {
        Algorithm::Source { .. } => client_hash(key, protocol, client.ip(), vip),
        Algorithm::Hash | Algorithm::RoundRobin | Algorithm::LeastConnections => {
            flow_hash(key, protocol, client, vip)
        }
    }
}

/// The backends for a new flow in the order in which the service's algorithm has them tried.
pub(crate) fn candidates<'a>(
    shared: &Shared,
    state: &ServiceState,
    picture: &'a Picture,
    client: IpAddr,
    hash: u64,
) -> Candidates<'a> {
    let service = &picture.service;
    let set = &service.backends;
    let preferred = match service.algorithm {
        Algorithm::Hash => by_hash(&set.table, hash, None),
        Algorithm::Source { .. } => {
            by_hash(&set.table, hash, remembered(shared, service, client, hash))
        }
        Algorithm::RoundRobin => in_turn(&set.table, state.turns.fetch_add(1, Ordering::Relaxed)),
        Algorithm::LeastConnections => {
            least_loaded(set, hash, |at| picture.slot(at).counters.active.load(Ordering::Relaxed))
        }
    };
    Candidates::new(set, preferred, hash)
}

/// The backend that an affine client was last sent to.
fn remembered(shared: &Shared, service: &Service, client: IpAddr, hash: u64) -> Option<SocketAddr> {
    let Algorithm::Source { timeout_secs } = service.algorithm else { return None };
    let timeout = Duration::from_secs(u64::from(timeout_secs));
    let now = shared.uptime();
    shared.affinity_shard(hash).recall(&(service.key, client), timeout, now)
}

/// Notes the backend of an affine client.
pub(crate) fn remember(
    shared: &Shared,
    service: &Service,
    client: IpAddr,
    hash: u64,
    backend: SocketAddr,
) {
    if matches!(service.algorithm, Algorithm::Source { .. }) {
        let most = shared.affinity_entries_per_shard();
        let client = (service.key, client);
        let evicted = shared.affinity_shard(hash).note(client, backend, shared.uptime(), most);
        shared.metrics.affinity_evictions.inc_by(evicted as u64);
    }
}

/// Connects to the first candidate that has room and takes the connection, within the budget of
/// attempts and time. Dropping the future gives up without a trace.
pub(crate) async fn connect(
    shared: &Shared,
    service: &Arc<ServiceState>,
    client: SocketAddr,
) -> Result<Connected, Rejection> {
    let settings = shared.settings.load_full();
    let picture = service.picture.load_full();
    let hash = hash_of(shared, &picture.service, client);
    let give_up_at = Instant::now() + settings.connect_total_timeout();

    let mut rejection = Rejection::NoBackend;
    let (mut attempts, mut full) = (0, 0);
    for at in candidates(shared, service, &picture, client.ip(), hash) {
        let left = give_up_at.saturating_duration_since(Instant::now());
        if left.is_zero() || attempts == settings.connect_attempts_max || full == FULL_MAX {
            break;
        }
        let Some(backend) = InUse::below(picture.slot(at), picture.backend_limit()) else {
            full += 1;
            if attempts == 0 {
                rejection = Rejection::BackendsFull;
            }
            continue;
        };
        if !service.still_offers(&picture, &backend.0) {
            continue;
        }
        attempts += 1;
        let ending = backend.0.flow_token(service);
        let address = backend.0.address;
        match attempt(address, left.min(settings.connect_timeout())).await {
            Ok(stream) => {
                remember(shared, &picture.service, client.ip(), hash, address);
                let counted = Counted::new(shared, service, backend);
                return Ok(Connected { stream, counted, ending });
            }
            Err(reason) => {
                rejection = Rejection::ConnectFailed;
                shared.count_connect_failure(service, &backend.0, reason);
                tracing::debug!(service = %service.key, backend = %address, reason, "not connected");
            }
        }
    }
    Err(rejection)
}

async fn attempt(address: SocketAddr, within: Duration) -> Result<TcpStream, &'static str> {
    let stream = connect_tcp(address).map_err(|error| reason_of(&error))?;
    match timeout(within, established(&stream)).await {
        Ok(Ok(())) => Ok(stream),
        Ok(Err(error)) => Err(reason_of(&error)),
        Err(_) => Err("timeout"),
    }
}

/// The metric label of a failure to connect.
pub(crate) fn reason_of(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "refused",
        io::ErrorKind::TimedOut => "timeout",
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => "unreachable",
        io::ErrorKind::ConnectionReset => "reset",
        // Ports or descriptors ran out on this host.
        _ => "local",
    }
}
