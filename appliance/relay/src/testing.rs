//! What the unit tests build on.

use std::net::SocketAddr;
use std::sync::Arc;

use haflinger_core::flow::FlowHashKey;
use haflinger_core::forwarding::ForwardingTable;
use haflinger_core::{
    Algorithm, Backend, BackendSet, BackendState, ConnectionLimits, DEFAULT_WEIGHT, Family,
    FlowTimeouts, ForwardingMode, ObjectRef, Protocol, ProxyProtocol, Service, ServiceKey,
    SourceId, Target,
};

use crate::Settings;

/// Limits that no test meets by accident.
pub(crate) fn settings() -> Settings {
    Settings {
        connections_max: 1000,
        connections_per_service_max: 1000,
        udp_flows_max: 1000,
        connect_timeout_ms: 2000,
        connect_attempts_max: 3,
        connect_total_timeout_ms: 5000,
        drain_secs: 60,
        affinity_entries_max: 1000,
        pipes_max: 64,
        flow_hash_key: FlowHashKey(*b"a key for tests!"),
    }
}

/// An active backend by number.
pub(crate) fn member(id: u16) -> (SocketAddr, BackendState) {
    (SocketAddr::from(([10, 0, 0, 1], id)), BackendState::Active)
}

/// A service on 127.0.0.1 with these backends.
pub(crate) fn tcp_service(port: u16, members: &[(SocketAddr, BackendState)]) -> Arc<Service> {
    let backends = Arc::new(backend_set(members));
    Arc::new(Service {
        key: ServiceKey { vip: [127, 0, 0, 1].into(), port, protocol: Protocol::Tcp },
        object: backends.target.object.clone(),
        mode: ForwardingMode::Proxy,
        asked_mode: ForwardingMode::Proxy,
        mode_reason: None,
        algorithm: Algorithm::Hash,
        limits: ConnectionLimits::default(),
        timeouts: FlowTimeouts::default(),
        source_ranges: Vec::new(),
        proxy_protocol: ProxyProtocol::Off,
        backends,
    })
}

/// Backends with a table over the active ones.
pub(crate) fn backend_set(members: &[(SocketAddr, BackendState)]) -> BackendSet {
    let mut backends: Vec<Backend> = members
        .iter()
        .map(|(address, state)| Backend {
            address: *address,
            name: address.to_string().into(),
            node: None,
            zone: None,
            weight: DEFAULT_WEIGHT,
            backup: false,
            state: *state,
            reasons: Vec::new(),
        })
        .collect();
    backends.sort_by_key(|backend| backend.address);
    let active = backends
        .iter()
        .filter(|backend| backend.state == BackendState::Active)
        .map(|backend| (backend.address, backend.weight));
    let table = ForwardingTable::new(active).view();
    let target = Target {
        object: ObjectRef::service(&SourceId::inventory(), "default", "web"),
        port: 80,
        protocol: Protocol::Tcp,
        family: Family::V4,
    };
    BackendSet { target, backends, table }
}
