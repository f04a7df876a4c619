//! What the prober counts. No label names a backend: `haflinger status` does.

use haflinger_core::HealthCheckKind;
use haflinger_core::health::Health;
use prometheus::core::Collector;
use prometheus::{Histogram, HistogramOpts, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

/// Bounds of the delay histogram in seconds: from a timer's own error to a prober that cannot
/// keep up at all.
const DELAY_BUCKETS: [f64; 8] = [0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0];

pub(crate) struct Metrics {
    pub(crate) probes: IntGaugeVec,
    pub(crate) in_flight: IntGauge,
    pub(crate) results: IntCounterVec,
    pub(crate) transitions: IntCounterVec,
    pub(crate) delay: Histogram,
    pub(crate) tunnel_packets: IntCounterVec,
}

impl Metrics {
    pub(crate) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let metrics = Self {
            probes: IntGaugeVec::new(
                Opts::new("haflinger_health_probes", "Probes by what their results say."),
                &["health"],
            )?,
            in_flight: IntGauge::new(
                "haflinger_health_probes_in_flight",
                "Probes in flight; the limit is probes_in_flight_max.",
            )?,
            results: IntCounterVec::new(
                Opts::new(
                    "haflinger_health_results_total",
                    "Ended probes by kind of check and result; inconclusive ones failed for want \
                     of something on this host and count for nothing.",
                ),
                &["kind", "result"],
            )?,
            transitions: IntCounterVec::new(
                Opts::new(
                    "haflinger_health_transitions_total",
                    "Changes of a backend's health, by the new one.",
                ),
                &["health"],
            )?,
            delay: Histogram::with_opts(
                HistogramOpts::new(
                    "haflinger_health_probe_delay_seconds",
                    "How much later than due probes begin; grows when probes_in_flight_max is \
                     too small.",
                )
                .buckets(DELAY_BUCKETS.to_vec()),
            )?,
            tunnel_packets: IntCounterVec::new(
                Opts::new(
                    "haflinger_health_tunnel_packets_total",
                    "Packets of probes through VIPs (dsr): sent and received; send_failed; \
                     unclaimed (for no probe, or one that is over); overflow (a queue was full).",
                ),
                &["outcome"],
            )?,
        };
        let collectors: [Box<dyn Collector>; 6] = [
            Box::new(metrics.probes.clone()),
            Box::new(metrics.in_flight.clone()),
            Box::new(metrics.results.clone()),
            Box::new(metrics.transitions.clone()),
            Box::new(metrics.delay.clone()),
            Box::new(metrics.tunnel_packets.clone()),
        ];
        for collector in collectors {
            registry.register(collector)?;
        }
        Ok(metrics)
    }
}

/// The label of a health.
pub(crate) fn health_label(health: Health) -> &'static str {
    match health {
        Health::Unknown => "unknown",
        Health::Healthy => "healthy",
        Health::Unhealthy => "unhealthy",
    }
}

/// The label of a kind of check.
pub(crate) fn kind_label(kind: &HealthCheckKind) -> &'static str {
    match kind {
        HealthCheckKind::Tcp => "tcp",
        HealthCheckKind::Http { .. } => "http",
    }
}
