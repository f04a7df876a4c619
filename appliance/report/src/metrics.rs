//! Metrics of report. Labels are bounded: configured clusters and a few results.

use prometheus::{GaugeVec, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

use crate::gate::GateMetrics;

/// Makes families of metrics and registers them.
pub(crate) struct Families<'a>(pub(crate) &'a Registry);

impl Families<'_> {
    /// By cluster.
    pub(crate) fn gauge(&self, name: &str, text: &str) -> Result<IntGaugeVec, prometheus::Error> {
        let metric = IntGaugeVec::new(Opts::new(name, text), &["cluster"])?;
        self.0.register(Box::new(metric.clone()))?;
        Ok(metric)
    }

    pub(crate) fn counter(
        &self,
        name: &str,
        text: &str,
        labels: &[&str],
    ) -> Result<IntCounterVec, prometheus::Error> {
        let metric = IntCounterVec::new(Opts::new(name, text), labels)?;
        self.0.register(Box::new(metric.clone()))?;
        Ok(metric)
    }
}

/// All families; cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    leader: IntGaugeVec,
    pending: IntGaugeVec,
    writes: IntCounterVec,
    cut: IntCounterVec,
    events: IntCounterVec,
    lease_failures: IntCounterVec,
    credentials_loaded: GaugeVec,
    credentials_failures: IntCounterVec,
    pub(crate) gate: GateMetrics,
    missing_rights: IntGaugeVec,
}

impl Metrics {
    pub(crate) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let families = Families(registry);
        let gauge = |name, text| families.gauge(name, text);
        let counter = |name, text, labels: &[&str]| families.counter(name, text, labels);
        let credentials_loaded = GaugeVec::new(
            Opts::new(
                "haflinger_report_credentials_loaded_timestamp_seconds",
                "When the credentials in use were read (Unix time)",
            ),
            &["cluster"],
        )?;
        registry.register(Box::new(credentials_loaded.clone()))?;
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
            cut: counter(
                "haflinger_report_status_cut_total",
                "Statuses written without all that they should say: a limit of the API",
                &["cluster"],
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
            missing_rights: gauge(
                "haflinger_report_missing_rights",
                "Rights that the cluster does not give report: the status says what is lost",
            )?,
            credentials_loaded,
            credentials_failures: counter(
                "haflinger_report_credentials_failures_total",
                "States of the credentials that could not be used; the former ones went on",
                &["cluster"],
            )?,
            gate: GateMetrics::register(&families)?,
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

    pub(crate) fn cut(&self, cluster: &str) {
        self.cut.with_label_values(&[cluster]).inc();
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

    pub(crate) fn missing_rights(&self, cluster: &str, missing: usize) {
        let missing = i64::try_from(missing).unwrap_or(i64::MAX);
        self.missing_rights.with_label_values(&[cluster]).set(missing);
    }

    pub(crate) fn credentials_failed(&self, cluster: &str) {
        self.credentials_failures.with_label_values(&[cluster]).inc();
    }

    /// A cluster is no longer configured. Removing a series that was never touched is an
    /// error of no interest.
    pub(crate) fn forget(&self, cluster: &str) {
        for gauge in [&self.leader, &self.pending, &self.missing_rights] {
            let _ = gauge.remove_label_values(&[cluster]);
        }
        self.gate.forget(cluster);
        for result in ["written", "stale", "failed"] {
            let _ = self.writes.remove_label_values(&[cluster, result]);
        }
        for result in ["told", "postponed", "failed"] {
            let _ = self.events.remove_label_values(&[cluster, result]);
        }
        for counter in [&self.cut, &self.lease_failures, &self.credentials_failures] {
            let _ = counter.remove_label_values(&[cluster]);
        }
        let _ = self.credentials_loaded.remove_label_values(&[cluster]);
    }
}
