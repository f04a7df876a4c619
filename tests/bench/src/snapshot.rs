//! Snapshots as the index would publish them, with as much as a benchmark needs.

use std::net::SocketAddr;
use std::sync::Arc;

use haflinger_core::forwarding::ForwardingTable;
use haflinger_core::{
    Algorithm, Backend, BackendSet, BackendState, ConnectionLimits, DEFAULT_WEIGHT, Family,
    FlowTimeouts, ForwardingMode, ObjectRef, Protocol, ProxyProtocol, Service, ServiceKey,
    Snapshot, SourceId, Target,
};

/// A complete snapshot of these services.
pub(crate) fn snapshot(
    generation: u64,
    services: impl IntoIterator<Item = Service>,
) -> Arc<Snapshot> {
    let services = services.into_iter().map(|service| (service.key, Arc::new(service))).collect();
    Arc::new(Snapshot { generation, complete: true, services, ..Snapshot::default() })
}

/// Backends of equal weight.
pub(crate) fn backends(addresses: &[SocketAddr], protocol: Protocol) -> Arc<BackendSet> {
    let backend = |address: &SocketAddr| Backend {
        address: *address,
        name: address.to_string().into(),
        node: None,
        zone: None,
        weight: DEFAULT_WEIGHT,
        backup: false,
        state: BackendState::Active,
        reasons: Vec::new(),
    };
    let first = addresses.first().copied().unwrap_or_else(|| ([0, 0, 0, 0], 0).into());
    let target =
        Target { object: object(), port: first.port(), protocol, family: Family::of(first.ip()) };
    let members = addresses.iter().map(|address| (*address, DEFAULT_WEIGHT));
    let table = ForwardingTable::new(members).view();
    Arc::new(BackendSet { target, backends: addresses.iter().map(backend).collect(), table })
}

/// A service in front of backends.
pub(crate) fn service(
    address: SocketAddr,
    mode: ForwardingMode,
    backends: Arc<BackendSet>,
) -> Service {
    let protocol = backends.target.protocol;
    Service {
        key: ServiceKey { vip: address.ip(), port: address.port(), protocol },
        object: object(),
        mode,
        asked_mode: mode,
        mode_reason: None,
        algorithm: Algorithm::Hash,
        limits: ConnectionLimits::default(),
        timeouts: FlowTimeouts::default(),
        source_ranges: Vec::new(),
        proxy_protocol: ProxyProtocol::Off,
        backends,
    }
}

fn object() -> ObjectRef {
    ObjectRef::service(&SourceId::inventory(), "default", "bench")
}
