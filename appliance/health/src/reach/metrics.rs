//! What the prober of ways counts. No label names an address: `haflinger status` does.

use prometheus::core::Collector;
use prometheus::{Histogram, HistogramOpts, IntCounterVec, IntGaugeVec, Opts, Registry};

use super::connect::Found;

/// Bounds of the delay histogram in seconds: up to the time that the bound on addresses takes at
/// the bound on probes.
const DELAY_BUCKETS: [f64; 7] = [0.01, 0.1, 1.0, 5.0, 10.0, 30.0, 60.0];

pub(crate) struct Metrics {
    pub(crate) addresses: IntGaugeVec,
    pub(crate) results: IntCounterVec,
    pub(crate) changes: IntCounterVec,
    pub(crate) delay: Histogram,
}

impl Metrics {
    pub(crate) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let metrics = Self {
            addresses: IntGaugeVec::new(
                Opts::new(
                    "haflinger_health_reach_addresses",
                    "Addresses of pods and of nodes' ports that are probed, by whether packets of \
                     this host reach them: yes, no, unknown.",
                ),
                &["reached"],
            )?,
            results: IntCounterVec::new(
                Opts::new(
                    "haflinger_health_reach_probes_total",
                    "Probes of such addresses by result: answer (a refusal is one), silence, \
                     nothing (this host could not ask).",
                ),
                &["result"],
            )?,
            changes: IntCounterVec::new(
                Opts::new(
                    "haflinger_health_reach_changes_total",
                    "Addresses found to be reached, or to be so no more.",
                ),
                &["reached"],
            )?,
            delay: Histogram::with_opts(
                HistogramOpts::new(
                    "haflinger_health_reach_delay_seconds",
                    "How much later than due such probes begin; grows with more addresses than \
                     the bound on their rate allows for.",
                )
                .buckets(DELAY_BUCKETS.to_vec()),
            )?,
        };
        for reached in [None, Some(false), Some(true)] {
            metrics.addresses.with_label_values(&[label(reached)]).set(0);
        }
        let collectors: [Box<dyn Collector>; 4] = [
            Box::new(metrics.addresses.clone()),
            Box::new(metrics.results.clone()),
            Box::new(metrics.changes.clone()),
            Box::new(metrics.delay.clone()),
        ];
        for collector in collectors {
            registry.register(collector)?;
        }
        Ok(metrics)
    }
}

/// The label of what is known.
pub(crate) fn label(reached: Option<bool>) -> &'static str {
    match reached {
        None => "unknown",
        Some(true) => "yes",
        Some(false) => "no",
    }
}

/// The label of a result.
pub(crate) fn result_label(found: Found) -> &'static str {
    match found {
        Found::Answer => "answer",
        Found::Silence => "silence",
        Found::Nothing => "nothing",
    }
}
