//! Metrics of report. Labels are bounded: configured clusters and a few results.

use std::time::Duration;

use prometheus::{
    GaugeVec, HistogramOpts, HistogramVec, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
};

use crate::status::GateReport;

/// All families; cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    leader: IntGaugeVec,
    pending: IntGaugeVec,
    writes: IntCounterVec,
    events: IntCounterVec,
    lease_failures: IntCounterVec,
    credentials_loaded: GaugeVec,
    credentials_failures: IntCounterVec,
    gate_waiting: IntGaugeVec,
    gate_done: IntGaugeVec,
    gate_unlisted: IntGaugeVec,
    gate_hosts: IntGaugeVec,
    gate_sets: IntCounterVec,
    gate_failures: IntCounterVec,
    gate_wait: HistogramVec,
}

impl Metrics {
    pub(crate) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let gauge = |name: &str, text: &str| {
            let metric = IntGaugeVec::new(Opts::new(name, text), &["cluster"])?;
            registry.register(Box::new(metric.clone()))?;
            Ok::<_, prometheus::Error>(metric)
        };
        let counter = |name: &str, text: &str, labels: &[&str]| {
            let metric = IntCounterVec::new(Opts::new(name, text), labels)?;
            registry.register(Box::new(metric.clone()))?;
            Ok::<_, prometheus::Error>(metric)
        };
        let credentials_loaded = GaugeVec::new(
            Opts::new(
                "haflinger_report_credentials_loaded_timestamp_seconds",
                "When the credentials in use were read (Unix time)",
            ),
            &["cluster"],
        )?;
        registry.register(Box::new(credentials_loaded.clone()))?;
        let buckets = vec![0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 60.0, 300.0];
        let gate_wait = HistogramVec::new(
            HistogramOpts::new(
                "haflinger_report_gate_wait_seconds",
                "Time from this host's first word of a pod that lacks the readiness gate alone to \
                 the gate that it set",
            )
            .buckets(buckets),
            &["cluster"],
        )?;
        registry.register(Box::new(gate_wait.clone()))?;
        Ok(Self {
            leader: gauge("haflinger_report_leader", "1 while this host is the elected one")?,
            pending: gauge(
                "haflinger_report_pending_objects",
                "Objects that wait to be written to the API, or are being written",
            )?,
            writes: counter(
                "haflinger_report_status_writes_total",
                "Attempts to write an object's status, by result: written, stale, failed",
                &["cluster", "result"],
            )?,
            events: counter(
                "haflinger_report_events_total",
                "Events, by result: told, postponed (rate limit), failed",
                &["cluster", "result"],
            )?,
            lease_failures: counter(
                "haflinger_report_lease_failures_total",
                "Requests of the election that failed",
                &["cluster"],
            )?,
            credentials_loaded,
            credentials_failures: counter(
                "haflinger_report_credentials_failures_total",
                "States of the credentials that could not be used; the former ones went on",
                &["cluster"],
            )?,
            gate_waiting: gauge(
                "haflinger_report_gate_waiting_pods",
                "Pods that lack nothing but the readiness gate",
            )?,
            gate_done: gauge(
                "haflinger_report_gate_done_pods",
                "Pods that lack nothing but the readiness gate, and that this host uses",
            )?,
            gate_unlisted: gauge(
                "haflinger_report_gate_unlisted_pods",
                "Pods that this host uses and cannot say so: its Lease lists 2,048 at most",
            )?,
            gate_hosts: gauge(
                "haflinger_report_gate_hosts",
                "Hosts that readiness gates wait for, as this host sees them",
            )?,
            gate_sets: counter(
                "haflinger_report_gate_sets_total",
                "Attempts to set a readiness gate, by result: set, gone (the pod), failed",
                &["cluster", "result"],
            )?,
            gate_failures: counter(
                "haflinger_report_gate_failures_total",
                "Turns of the readiness gate that failed: pods wait longer",
                &["cluster"],
            )?,
            gate_wait,
        })
    }

    pub(crate) fn leader(&self, cluster: &str) -> IntGauge {
        self.leader.with_label_values(&[cluster])
    }

    pub(crate) fn pending(&self, cluster: &str) -> IntGauge {
        self.pending.with_label_values(&[cluster])
    }

    pub(crate) fn write(&self, cluster: &str, result: &str) {
        self.writes.with_label_values(&[cluster, result]).inc();
    }

    pub(crate) fn events(&self, cluster: &str, result: &str, count: usize) {
        self.events.with_label_values(&[cluster, result]).inc_by(count as u64);
    }

    pub(crate) fn lease_failed(&self, cluster: &str) {
        self.lease_failures.with_label_values(&[cluster]).inc();
    }

    pub(crate) fn credentials_loaded(&self, cluster: &str, unix_secs: f64) {
        self.credentials_loaded.with_label_values(&[cluster]).set(unix_secs);
    }

    pub(crate) fn credentials_failed(&self, cluster: &str) {
        self.credentials_failures.with_label_values(&[cluster]).inc();
    }

    pub(crate) fn gate(&self, cluster: &str, gate: Option<&GateReport>) {
        let numbers =
            gate.map_or([0; 4], |gate| [gate.waiting, gate.done, gate.unlisted, gate.hosts.len()]);
        for (gauge, number) in self.gate_gauges().into_iter().zip(numbers) {
            gauge.with_label_values(&[cluster]).set(i64::try_from(number).unwrap_or(i64::MAX));
        }
    }

    fn gate_gauges(&self) -> [&IntGaugeVec; 4] {
        [&self.gate_waiting, &self.gate_done, &self.gate_unlisted, &self.gate_hosts]
    }

    pub(crate) fn gate_set(&self, cluster: &str, result: &str) {
        self.gate_sets.with_label_values(&[cluster, result]).inc();
    }

    pub(crate) fn gate_failed(&self, cluster: &str) {
        self.gate_failures.with_label_values(&[cluster]).inc();
    }

    pub(crate) fn gate_waited(&self, cluster: &str, time: Duration) {
        self.gate_wait.with_label_values(&[cluster]).observe(time.as_secs_f64());
    }

    /// A cluster is no longer configured. Removing a series that was never touched is an
    /// error of no interest.
    pub(crate) fn forget(&self, cluster: &str) {
        for gauge in [&self.leader, &self.pending].into_iter().chain(self.gate_gauges()) {
            let _ = gauge.remove_label_values(&[cluster]);
        }
        for result in ["set", "gone", "failed"] {
            let _ = self.gate_sets.remove_label_values(&[cluster, result]);
        }
        let _ = self.gate_failures.remove_label_values(&[cluster]);
        let _ = self.gate_wait.remove_label_values(&[cluster]);
        for result in ["written", "stale", "failed"] {
            let _ = self.writes.remove_label_values(&[cluster, result]);
        }
        for result in ["told", "postponed", "failed"] {
            let _ = self.events.remove_label_values(&[cluster, result]);
        }
        for counter in [&self.lease_failures, &self.credentials_failures] {
            let _ = counter.remove_label_values(&[cluster]);
        }
        let _ = self.credentials_loaded.remove_label_values(&[cluster]);
    }
}
