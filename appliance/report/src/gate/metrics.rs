//! Metrics of the readiness gate.

use std::time::Duration;

use prometheus::{HistogramOpts, HistogramVec, IntCounterVec, IntGaugeVec};

use crate::metrics::Families;
use crate::status::GateReport;

/// Bounds of the time that a pod waits, in seconds: a rollout's step takes some of them.
const WAITS: [f64; 9] = [0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 60.0, 300.0];

/// How setting a gate can end.
const RESULTS: [&str; 3] = ["set", "gone", "failed"];

/// All families; cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct GateMetrics {
    waiting: IntGaugeVec,
    done: IntGaugeVec,
    unlisted: IntGaugeVec,
    hosts: IntGaugeVec,
    sets: IntCounterVec,
    failures: IntCounterVec,
    wait: HistogramVec,
}

impl GateMetrics {
    pub(crate) fn register(families: &Families<'_>) -> Result<Self, prometheus::Error> {
        let gauge = |name, text| families.gauge(name, text);
        let counter = |name, text, labels: &[&str]| families.counter(name, text, labels);
        let wait = HistogramVec::new(
            HistogramOpts::new(
                "haflinger_report_gate_wait_seconds",
                "Time from this host's first word of a pod that lacks the readiness gate alone to \
                 the gate that it set",
            )
            .buckets(WAITS.to_vec()),
            &["cluster"],
        )?;
        families.0.register(Box::new(wait.clone()))?;
        Ok(Self {
            waiting: gauge(
                "haflinger_report_gate_waiting_pods",
                "Pods that lack nothing but the readiness gate",
            )?,
            done: gauge(
                "haflinger_report_gate_done_pods",
                "Pods that lack nothing but the readiness gate, and that this host uses",
            )?,
            unlisted: gauge(
                "haflinger_report_gate_unlisted_pods",
                "Pods that this host uses and cannot say so: its Lease lists 2,048 at most",
            )?,
            hosts: gauge(
                "haflinger_report_gate_hosts",
                "Hosts that readiness gates wait for, as this host sees them",
            )?,
            sets: counter(
                "haflinger_report_gate_sets_total",
                "Attempts to set a readiness gate, by result: set, gone (the pod), failed",
                &["cluster", "result"],
            )?,
            failures: counter(
                "haflinger_report_gate_failures_total",
                "Turns of the readiness gate that failed: pods wait longer",
                &["cluster"],
            )?,
            wait,
        })
    }

    fn gauges(&self) -> [&IntGaugeVec; 4] {
        [&self.waiting, &self.done, &self.unlisted, &self.hosts]
    }

    pub(crate) fn show(&self, cluster: &str, gate: Option<&GateReport>) {
        let numbers =
            gate.map_or([0; 4], |gate| [gate.waiting, gate.done, gate.unlisted, gate.hosts.len()]);
        for (gauge, number) in self.gauges().into_iter().zip(numbers) {
            gauge.with_label_values(&[cluster]).set(i64::try_from(number).unwrap_or(i64::MAX));
        }
    }

    pub(super) fn set(&self, cluster: &str, result: &str) {
        self.sets.with_label_values(&[cluster, result]).inc();
    }

    pub(super) fn failed(&self, cluster: &str) {
        self.failures.with_label_values(&[cluster]).inc();
    }

    pub(super) fn waited(&self, cluster: &str, time: Duration) {
        self.wait.with_label_values(&[cluster]).observe(time.as_secs_f64());
    }

    /// A cluster is no longer configured. Removing a series that was never touched is an error of
    /// no interest.
    pub(crate) fn forget(&self, cluster: &str) {
        for gauge in self.gauges() {
            let _ = gauge.remove_label_values(&[cluster]);
        }
        for result in RESULTS {
            let _ = self.sets.remove_label_values(&[cluster, result]);
        }
        let _ = self.failures.remove_label_values(&[cluster]);
        let _ = self.wait.remove_label_values(&[cluster]);
    }
}
