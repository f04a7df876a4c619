//! Metrics. Label cardinality: at most zones times servers, both from the configuration.

use std::net::SocketAddr;

use prometheus::{
    IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, core::Collector,
};

use super::status::WorkerStatus;
use crate::name::RecordName;
use crate::plan::Action;

const SERVER: [&str; 2] = ["zone", "server"];

/// Metrics of the room.
#[derive(Clone)]
pub(crate) struct Metrics {
    owned: IntGaugeVec,
    conflicts: IntGaugeVec,
    held: IntGaugeVec,
    synced: IntGaugeVec,
    transfer_refused: IntGaugeVec,
    last_sync: IntGaugeVec,
    errors: IntCounterVec,
    changes: IntCounterVec,
    refused: IntCounterVec,
    pub(crate) outside: IntGauge,
}

impl Metrics {
    pub(crate) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let gauge = |name: &str, help: &str| {
            register(registry, IntGaugeVec::new(Opts::new(name, help), &SERVER)?)
        };
        let counter = |name: &str, help: &str, labels: &[&str]| {
            register(registry, IntCounterVec::new(Opts::new(name, help), labels)?)
        };
        Ok(Self {
            owned: gauge("haflinger_dns_owned_names", "Names that this owner holds.")?,
            conflicts: gauge(
                "haflinger_dns_conflicts",
                "Wanted names that are not written because something foreign stands there.",
            )?,
            held: gauge(
                "haflinger_dns_held_deletions",
                "Names whose deletion waits because it exceeds the deletion budget.",
            )?,
            synced: gauge(
                "haflinger_dns_synced",
                "1 while the last comparison with the server ended well.",
            )?,
            transfer_refused: gauge(
                "haflinger_dns_transfer_refused",
                "1 while the zone is read name by name because it cannot be transferred.",
            )?,
            last_sync: gauge(
                "haflinger_dns_last_sync_timestamp_seconds",
                "When the last comparison with the server ended well.",
            )?,
            errors: counter(
                "haflinger_dns_errors_total",
                "Comparisons with a server that failed.",
                &SERVER,
            )?,
            changes: counter(
                "haflinger_dns_changes_total",
                "Names changed on a server, by action.",
                &["zone", "server", "action"],
            )?,
            refused: counter(
                "haflinger_dns_refused_names_total",
                "Changes of single names that a server refused.",
                &SERVER,
            )?,
            outside: register(
                registry,
                IntGauge::new(
                    "haflinger_dns_names_outside_zones",
                    "Wanted names that lie in no configured zone.",
                )?,
            )?,
        })
    }

    pub(crate) fn worker(&self, zone: &RecordName, server: SocketAddr) -> WorkerMetrics {
        WorkerMetrics {
            metrics: self.clone(),
            zone: zone.as_str().to_owned(),
            server: server.to_string(),
        }
    }
}

fn register<C: Collector + Clone + 'static>(
    registry: &Registry,
    collector: C,
) -> Result<C, prometheus::Error> {
    registry.register(Box::new(collector.clone()))?;
    Ok(collector)
}

/// Metrics of one zone and server. They go with their worker.
pub(crate) struct WorkerMetrics {
    metrics: Metrics,
    zone: String,
    server: String,
}

impl WorkerMetrics {
    fn labels(&self) -> [&str; 2] {
        [&self.zone, &self.server]
    }

    pub(crate) fn show(&self, status: &WorkerStatus) {
        let set = |gauge: &IntGaugeVec, value: usize| {
            gauge.with_label_values(&self.labels()).set(i64::try_from(value).unwrap_or(i64::MAX));
        };
        let synced = status.server.state == super::status::ServerState::Synced;
        set(&self.metrics.owned, status.server.owned_names);
        set(&self.metrics.conflicts, status.server.conflicts);
        set(&self.metrics.held, status.server.held_deletions);
        set(&self.metrics.synced, usize::from(synced));
        let refused = status.server.transfer_refused.is_some();
        set(&self.metrics.transfer_refused, usize::from(refused));
        if let Some(at) = status.server.last_sync_secs {
            set(&self.metrics.last_sync, usize::try_from(at).unwrap_or(usize::MAX));
        }
    }

    pub(crate) fn failed(&self) {
        self.metrics.errors.with_label_values(&self.labels()).inc();
    }

    pub(crate) fn refused(&self) {
        self.metrics.refused.with_label_values(&self.labels()).inc();
    }

    pub(crate) fn changed(&self, action: Action) {
        self.counter(action).inc();
    }

    fn counter(&self, action: Action) -> IntCounter {
        let action = match action {
            Action::Create => "create",
            Action::Update => "update",
            Action::Delete => "delete",
        };
        self.metrics.changes.with_label_values(&[self.zone.as_str(), &self.server, action])
    }
}

impl Drop for WorkerMetrics {
    fn drop(&mut self) {
        // Absent labels are no fault: nothing may have been counted yet.
        for gauge in [
            &self.metrics.owned,
            &self.metrics.conflicts,
            &self.metrics.held,
            &self.metrics.synced,
            &self.metrics.transfer_refused,
            &self.metrics.last_sync,
        ] {
            let _ = gauge.remove_label_values(&self.labels());
        }
        for counter in [&self.metrics.errors, &self.metrics.refused] {
            let _ = counter.remove_label_values(&self.labels());
        }
        for action in ["create", "update", "delete"] {
            let labels = [self.zone.as_str(), &self.server, action];
            let _ = self.metrics.changes.remove_label_values(&labels);
        }
    }
}
