//! What the relay counts.
//!
//! Per-service series are read from the services' own counters when a scrape comes; the hot
//! path never touches a label. Their number is bounded by [`SERVICE_SERIES_MAX`].

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use haflinger_core::Protocol;
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

use crate::Shared;
use crate::service::ServiceState;

/// Services with metric series of their own, the first ones to come. Eight series each: a scrape
/// stays below a megabyte. Services beyond are in the totals and in `haflinger status`.
pub const SERVICE_SERIES_MAX: usize = 1000;

/// Backends with a metric series of their own: the first ones by service and address, of those
/// services that have series. About 100 bytes each in a scrape. How many are left out is shown.
pub const BACKEND_SERIES_MAX: usize = 4000;

/// Why a client was turned away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rejection {
    SourceDenied,
    ConnectionsMax,
    ServiceConnectionsMax,
    ServiceFull,
    BackendsFull,
    FlowsMax,
    ServiceLeft,
    NoBackend,
    ConnectFailed,
}

impl Rejection {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::SourceDenied => "source_denied",
            Self::ConnectionsMax => "connections_max",
            Self::ServiceConnectionsMax => "connections_per_service_max",
            Self::ServiceFull => "service_full",
            Self::BackendsFull => "backends_full",
            Self::FlowsMax => "udp_flows_max",
            Self::ServiceLeft => "service_left",
            Self::NoBackend => "no_backend",
            Self::ConnectFailed => "connect_failed",
        }
    }
}

/// Why a flow ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    Finished,
    Reset,
    Idle,
    Drained,
}

impl Ending {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Finished => "finished",
            Self::Reset => "reset",
            Self::Idle => "idle",
            Self::Drained => "drained",
        }
    }
}

/// Counters that are not of one service.
pub(crate) struct Metrics {
    pub(crate) flows: IntCounterVec,
    pub(crate) ended: IntCounterVec,
    pub(crate) rejected: IntCounterVec,
    pub(crate) connect_failures: IntCounterVec,
    pub(crate) bytes_in: AtomicU64,
    pub(crate) bytes_out: AtomicU64,
    pub(crate) accept_errors: IntCounter,
    pub(crate) bind_failures: IntCounter,
    pub(crate) bulk_rounds: IntCounterVec,
    pub(crate) datagrams_dropped: IntCounterVec,
    pub(crate) affinity_evictions: IntCounter,
    pub(crate) series_in_use: AtomicUsize,
}

impl Metrics {
    pub(crate) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let counters = |name: &str, help: &str, label: &str| {
            let counters = IntCounterVec::new(Opts::new(name, help), &[label])?;
            registry.register(Box::new(counters.clone()))?;
            Ok::<_, prometheus::Error>(counters)
        };
        let counter = |name: &str, help: &str| {
            let counter = IntCounter::new(name, help)?;
            registry.register(Box::new(counter.clone()))?;
            Ok::<_, prometheus::Error>(counter)
        };
        Ok(Self {
            flows: counters(
                "haflinger_relay_flows_total",
                "TCP connections and UDP flows that reached a backend.",
                "protocol",
            )?,
            ended: counters(
                "haflinger_relay_flows_ended_total",
                "Flows by how they ended: finished by both sides (UDP: idle), reset by one \
                 side, idle for too long, or drained when a grace period ended.",
                "ending",
            )?,
            rejected: counters(
                "haflinger_relay_rejected_total",
                "Connections reset, and datagrams of new UDP flows dropped, by reason.",
                "reason",
            )?,
            connect_failures: counters(
                "haflinger_relay_connect_failures_total",
                "Connection attempts that a backend did not take, by reason; the client was \
                 sent to another backend while the budget lasted.",
                "reason",
            )?,
            bytes_in: AtomicU64::new(0),
            bytes_out: AtomicU64::new(0),
            accept_errors: counter(
                "haflinger_relay_accept_errors_total",
                "Failures to accept a connection; lasting ones mean that descriptors ran out.",
            )?,
            bind_failures: counter(
                "haflinger_relay_bind_failures_total",
                "Failures to open the socket of a service; each is tried again.",
            )?,
            bulk_rounds: counters(
                "haflinger_relay_bulk_rounds_total",
                "Times that a direction found data in bulk and moved it by splice, or by copy \
                 because no pipe was to be had (pipes_max or descriptors reached).",
                "way",
            )?,
            datagrams_dropped: counters(
                "haflinger_relay_datagrams_dropped_total",
                "Datagrams of known UDP flows that could not be sent on, by direction.",
                "direction",
            )?,
            affinity_evictions: counter(
                "haflinger_relay_affinity_evictions_total",
                "Affine clients forgotten because affinity_entries_max was reached.",
            )?,
            series_in_use: AtomicUsize::new(0),
        })
    }

    /// Whether a new service gets series of its own.
    pub(crate) fn claim_series(&self) -> bool {
        let below = |used| (used < SERVICE_SERIES_MAX).then_some(used + 1);
        self.series_in_use.fetch_update(Ordering::Relaxed, Ordering::Relaxed, below).is_ok()
    }

    /// The series of a service that had some are free again.
    pub(crate) fn release_series(&self, had: bool) {
        if had {
            self.series_in_use.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// Reads the services' counters at scrape time.
pub(crate) struct ScrapeCollector {
    shared: Weak<Shared>,
    descriptions: Vec<Desc>,
}

impl ScrapeCollector {
    pub(crate) fn new(shared: &Arc<Shared>) -> Result<Self, prometheus::Error> {
        let families = Families::new()?;
        Ok(Self { shared: Arc::downgrade(shared), descriptions: families.descriptions() })
    }
}

impl Collector for ScrapeCollector {
    fn desc(&self) -> Vec<&Desc> {
        self.descriptions.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let (Some(shared), Ok(families)) = (self.shared.upgrade(), Families::new()) else {
            return Vec::new();
        };
        families.fill(&shared);
        families.collect()
    }
}

struct Families {
    gauges: IntGaugeVec,
    bytes: IntCounterVec,
    listeners: IntGaugeVec,
    service_flows: IntGaugeVec,
    service_flows_total: IntCounterVec,
    service_rejected: IntCounterVec,
    service_failed: IntCounterVec,
    service_bytes: IntCounterVec,
    left_flows: IntGauge,
    limits: IntGaugeVec,
    backend_flows: IntGaugeVec,
    backends_omitted: IntGauge,
}

impl Families {
    fn new() -> Result<Self, prometheus::Error> {
        let gauges =
            |name: &str, help: &str, label| IntGaugeVec::new(Opts::new(name, help), &[label]);
        let counters = |name: &str, help: &str, labels: &[&str]| {
            IntCounterVec::new(Opts::new(name, help), labels)
        };
        Ok(Self {
            gauges: gauges(
                "haflinger_relay_held",
                "What is held now: tcp_connections, udp_flows, pipes, affinities. Each has a \
                 limit in the configuration.",
                "what",
            )?,
            bytes: counters(
                "haflinger_relay_bytes_total",
                "Bytes relayed from clients (in) and to clients (out).",
                &["direction"],
            )?,
            listeners: gauges(
                "haflinger_relay_services",
                "Services by the state of their socket: listening, starting or failed; or left: \
                 another data path serves it, and flows of it still go on here.",
                "state",
            )?,
            service_flows: gauges(
                "haflinger_relay_service_flows",
                "Flows of a service now.",
                "service",
            )?,
            service_flows_total: counters(
                "haflinger_relay_service_flows_total",
                "Flows of a service.",
                &["service"],
            )?,
            service_rejected: counters(
                "haflinger_relay_service_rejected_total",
                "Clients of a service that were turned away.",
                &["service"],
            )?,
            service_failed: counters(
                "haflinger_relay_service_connect_failures_total",
                "Connection attempts that backends of a service did not take.",
                &["service"],
            )?,
            service_bytes: counters(
                "haflinger_relay_service_bytes_total",
                "Bytes relayed from clients (in) and to clients (out) of a service.",
                &["service", "direction"],
            )?,
            left_flows: IntGauge::new(
                "haflinger_relay_left_flows",
                "Flows now of services that left the relay: they go on until they end.",
            )?,
            limits: IntGaugeVec::new(
                Opts::new(
                    "haflinger_relay_service_flows_limit",
                    "Flows that a service may have at once, or each of its backends; absent \
                     where there is no limit.",
                ),
                &["service", "of"],
            )?,
            backend_flows: IntGaugeVec::new(
                Opts::new(
                    "haflinger_relay_backend_flows",
                    "Flows of a backend of a service now, connection attempts included.",
                ),
                &["service", "backend"],
            )?,
            backends_omitted: IntGauge::new(
                "haflinger_relay_backend_series_omitted",
                "Backends that have no series of their own, because there are too many.",
            )?,
        })
    }

    fn collectors(&self) -> [&dyn Collector; 12] {
        [
            &self.gauges,
            &self.bytes,
            &self.listeners,
            &self.service_flows,
            &self.service_flows_total,
            &self.service_rejected,
            &self.service_failed,
            &self.service_bytes,
            &self.left_flows,
            &self.limits,
            &self.backend_flows,
            &self.backends_omitted,
        ]
    }

    fn descriptions(&self) -> Vec<Desc> {
        self.collectors().iter().flat_map(|one| one.desc()).cloned().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.collectors().iter().flat_map(|one| one.collect()).collect()
    }

    fn fill(&self, shared: &Shared) {
        let held = [
            ("tcp_connections", shared.connections.count()),
            ("udp_flows", shared.udp_flows.count()),
            ("pipes", shared.pipes.existing() as u64),
            ("affinities", shared.affinities() as u64),
        ];
        for (what, count) in held {
            self.gauges.with_label_values(&[what]).set(gauge(count));
        }
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        self.bytes.with_label_values(&["in"]).inc_by(load(&shared.metrics.bytes_in));
        self.bytes.with_label_values(&["out"]).inc_by(load(&shared.metrics.bytes_out));
        let mut backends_left = BACKEND_SERIES_MAX;
        for service in shared.services().values() {
            self.listeners.with_label_values(&[service.state_word()]).inc();
            if service.has_left() {
                self.left_flows.add(gauge(service.held.count()));
            }
            let name = service.has_series.then(|| service.key.to_string());
            if let Some(name) = &name {
                self.fill_service(name, service);
            }
            self.fill_backends(name.as_deref(), service, &mut backends_left);
        }
    }

    fn fill_service(&self, name: &str, service: &ServiceState) {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let counters = &service.counters;
        self.service_flows.with_label_values(&[name]).set(gauge(load(&counters.active)));
        self.service_flows_total.with_label_values(&[name]).inc_by(load(&counters.total));
        self.service_rejected.with_label_values(&[name]).inc_by(load(&counters.rejected));
        self.service_failed.with_label_values(&[name]).inc_by(load(&counters.failed));
        let bytes = &self.service_bytes;
        bytes.with_label_values(&[name, "in"]).inc_by(load(&counters.bytes_in));
        bytes.with_label_values(&[name, "out"]).inc_by(load(&counters.bytes_out));
        let limits = service.picture.load().service.limits;
        for (of, limit) in [("service", limits.service), ("backend", limits.backend)] {
            if let Some(limit) = limit {
                self.limits.with_label_values(&[name, of]).set(i64::from(limit.get()));
            }
        }
    }

    fn fill_backends(&self, name: Option<&str>, service: &ServiceState, left: &mut usize) {
        let picture = service.picture.load();
        let Some(name) = name else {
            return self.backends_omitted.add(gauge(picture.backends().count() as u64));
        };
        for (backend, slot) in picture.backends() {
            let Some(fewer) = left.checked_sub(1) else {
                self.backends_omitted.inc();
                continue;
            };
            *left = fewer;
            let address = backend.address.to_string();
            let flows = slot.counters.active.load(Ordering::Relaxed);
            self.backend_flows.with_label_values(&[name, &address]).set(gauge(flows));
        }
    }
}

/// The label of a protocol.
pub(crate) fn protocol_label(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
    }
}

fn gauge(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_beyond_the_limit_get_no_series_until_one_is_released() {
        let metrics = Metrics::new(&Registry::new()).unwrap();
        let claimed = (0..SERVICE_SERIES_MAX + 5).filter(|_| metrics.claim_series()).count();
        assert_eq!(claimed, SERVICE_SERIES_MAX);
        metrics.release_series(false);
        assert!(!metrics.claim_series());
        metrics.release_series(true);
        assert!(metrics.claim_series());
    }
}
