//! What `haflinger status` shows of the relay.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use haflinger_core::{Algorithm, BackendState, ConnectionLimits, ServiceKey};
use serde::Serialize;

use crate::Shared;
use crate::pipes::lock;
use crate::service::{Counters, Listening, ServiceState};

/// The relay as a whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RelayStatus {
    /// TCP connections now, those of removed services included.
    pub connections: u64,
    /// UDP flows now.
    pub udp_flows: u64,
    /// Services, by VIP and port: those that are relayed, and those that left the relay for
    /// another data path as long as a flow of theirs goes on here.
    pub services: Vec<ServiceStatus>,
}

/// One service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ServiceStatus {
    /// VIP, port and protocol.
    pub service: ServiceKey,
    /// Whether its socket is open.
    pub listening: bool,
    /// Why not, while it is tried again.
    pub error: Option<String>,
    /// Another data path serves it: here only what had begun goes on.
    pub left: bool,
    /// How the backend of a new flow is chosen.
    pub algorithm: Algorithm,
    /// How many flows it may have here, and each of its backends.
    pub limits: ConnectionLimits,
    /// Flows that count for the limit: TCP connections from their acceptance on, UDP flows.
    pub held: u64,
    /// Flows now that have reached a backend.
    pub active: u64,
    /// Flows since the service came.
    pub total: u64,
    /// Clients turned away.
    pub rejected: u64,
    /// Bytes from clients.
    pub bytes_in: u64,
    /// Bytes to clients.
    pub bytes_out: u64,
    /// Its backends, by address. One that was removed is gone from here, although its flows
    /// may still have their grace period.
    pub backends: Vec<BackendStatus>,
}

/// One backend of a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BackendStatus {
    /// Address and port.
    pub address: SocketAddr,
    /// Whether it takes new flows.
    pub state: BackendState,
    /// Flows now, connection attempts included: what counts for the limit.
    pub active: u64,
    /// Flows since the backend came.
    pub total: u64,
    /// Connection attempts (UDP: flows) that it did not take.
    pub failed: u64,
    /// Bytes from clients.
    pub bytes_in: u64,
    /// Bytes to clients.
    pub bytes_out: u64,
}

impl RelayStatus {
    pub(crate) fn of(shared: &Shared) -> Self {
        Self {
            connections: shared.connections.count(),
            udp_flows: shared.udp_flows.count(),
            services: shared.services().values().map(|one| ServiceStatus::of(one)).collect(),
        }
    }
}

impl ServiceStatus {
    fn of(service: &ServiceState) -> Self {
        let listening = lock(&service.listening).clone();
        let Counters { active, total, rejected, bytes_in, bytes_out, .. } = &service.counters;
        let picture = service.picture.load();
        let backends = picture.backends().map(|(backend, slot)| {
            let Counters { active, total, failed, bytes_in, bytes_out, .. } = &slot.counters;
            BackendStatus {
                address: backend.address,
                state: backend.state,
                active: load(active),
                total: load(total),
                failed: load(failed),
                bytes_in: load(bytes_in),
                bytes_out: load(bytes_out),
            }
        });
        Self {
            service: service.key,
            listening: listening == Listening::Yes,
            error: match listening {
                Listening::Failed(reason) => Some(reason),
                Listening::Starting | Listening::Yes | Listening::No => None,
            },
            left: service.has_left(),
            algorithm: picture.service.algorithm,
            limits: picture.service.limits,
            held: service.held.count(),
            active: load(active),
            total: load(total),
            rejected: load(rejected),
            bytes_in: load(bytes_in),
            bytes_out: load(bytes_out),
            backends: backends.collect(),
        }
    }
}

fn load(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}
