//! Metrics of discovery. Labels are bounded: configured sources times seven kinds.

use haflinger_core::SourceId;
use prometheus::{
    Gauge, GaugeVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
};

use crate::ledger::Watched;

/// All families; cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    connected: IntGaugeVec,
    objects: IntGaugeVec,
    events: IntCounterVec,
    updates: IntCounterVec,
    failures: IntCounterVec,
    lists: IntCounterVec,
    held: IntGaugeVec,
    last_event: GaugeVec,
    synced: IntGaugeVec,
    state_bytes: IntGaugeVec,
    state_failures: IntCounterVec,
    credentials_loaded: GaugeVec,
    credentials_failures: IntCounterVec,
    missing_rights: IntGaugeVec,
    pub(crate) inventory_valid: IntGauge,
    pub(crate) inventory_refusals: IntCounter,
}

/// The series of one kind of one source.
#[derive(Clone, Debug)]
pub(crate) struct KindMetrics {
    pub(crate) connected: IntGauge,
    pub(crate) objects: IntGauge,
    pub(crate) events: IntCounter,
    pub(crate) updates: IntCounter,
    pub(crate) failures: IntCounter,
    pub(crate) lists: IntCounter,
    pub(crate) held: IntGauge,
    pub(crate) last_event: Gauge,
}

/// The series of one source.
#[derive(Clone, Debug)]
pub(crate) struct SourceMetrics {
    pub(crate) synced: IntGauge,
    pub(crate) state_bytes: IntGauge,
    pub(crate) state_failures: IntCounter,
    pub(crate) credentials_loaded: Gauge,
    pub(crate) credentials_failures: IntCounter,
    pub(crate) missing_rights: IntGauge,
}

const BY_KIND: [&str; 2] = ["source", "kind"];
const BY_SOURCE: [&str; 1] = ["source"];

impl Metrics {
    pub(crate) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let gauge = |name: &str, text: &str, labels: &[&str]| {
            let metric = IntGaugeVec::new(Opts::new(name, text), labels)?;
            registry.register(Box::new(metric.clone()))?;
            Ok::<_, prometheus::Error>(metric)
        };
        let counter = |name: &str, text: &str, labels: &[&str]| {
            let metric = IntCounterVec::new(Opts::new(name, text), labels)?;
            registry.register(Box::new(metric.clone()))?;
            Ok::<_, prometheus::Error>(metric)
        };
        let time = |name: &str, text: &str, labels: &[&str]| times(registry, name, text, labels);
        let (inventory_valid, inventory_refusals) = of_inventory(registry)?;
        Ok(Self {
            connected: gauge(
                "haflinger_discovery_connected",
                "1 while the watch of a kind stands, 0 while the last state is used",
                &BY_KIND,
            )?,
            objects: gauge("haflinger_discovery_objects", "Objects known of a kind", &BY_KIND)?,
            events: counter(
                "haflinger_discovery_events_total",
                "Objects that were listed or watched, changed or not",
                &BY_KIND,
            )?,
            updates: counter(
                "haflinger_discovery_updates_total",
                "Differences that were handed to the core",
                &BY_KIND,
            )?,
            failures: counter(
                "haflinger_discovery_watch_failures_total",
                "Lists and watches that failed and were started again",
                &BY_KIND,
            )?,
            lists: counter(
                "haflinger_discovery_lists_total",
                "Complete lists, the first and those after a 410 or a lost position",
                &BY_KIND,
            )?,
            held: gauge(
                "haflinger_discovery_held_deletions",
                "Objects whose deletion is held because too many went at once: above 0 somebody \
                 should look whether the cluster has lost its memory",
                &BY_KIND,
            )?,
            last_event: time(
                "haflinger_discovery_last_event_timestamp_seconds",
                "When the source last said anything about a kind, bookmarks included (Unix time)",
                &BY_KIND,
            )?,
            synced: gauge(
                "haflinger_discovery_synced",
                "1 once every kind of a source has been listed in this run",
                &BY_SOURCE,
            )?,
            state_bytes: gauge(
                "haflinger_discovery_state_bytes",
                "Size of the source's state file",
                &BY_SOURCE,
            )?,
            state_failures: counter(
                "haflinger_discovery_state_write_failures_total",
                "Writes of the state file that failed and are tried again",
                &BY_SOURCE,
            )?,
            credentials_loaded: time(
                "haflinger_discovery_credentials_loaded_timestamp_seconds",
                "When the credentials in use were read (Unix time)",
                &BY_SOURCE,
            )?,
            credentials_failures: counter(
                "haflinger_discovery_credentials_failures_total",
                "States of the credentials that could not be used; the former ones went on",
                &BY_SOURCE,
            )?,
            missing_rights: missing_rights(registry)?,
            inventory_valid,
            inventory_refusals,
        })
    }

    pub(crate) fn of_kind(&self, source: &SourceId, kind: Watched) -> KindMetrics {
        let labels = [source.as_str(), kind.as_str()];
        KindMetrics {
            connected: self.connected.with_label_values(&labels),
            objects: self.objects.with_label_values(&labels),
            events: self.events.with_label_values(&labels),
            updates: self.updates.with_label_values(&labels),
            failures: self.failures.with_label_values(&labels),
            lists: self.lists.with_label_values(&labels),
            held: self.held.with_label_values(&labels),
            last_event: self.last_event.with_label_values(&labels),
        }
    }

    pub(crate) fn of_source(&self, source: &SourceId) -> SourceMetrics {
        let labels = [source.as_str()];
        SourceMetrics {
            synced: self.synced.with_label_values(&labels),
            state_bytes: self.state_bytes.with_label_values(&labels),
            state_failures: self.state_failures.with_label_values(&labels),
            credentials_loaded: self.credentials_loaded.with_label_values(&labels),
            credentials_failures: self.credentials_failures.with_label_values(&labels),
            missing_rights: self.missing_rights.with_label_values(&labels),
        }
    }

    /// A source is no longer configured: its series go. Removing a series that was never
    /// touched is an error of no interest.
    pub(crate) fn forget(&self, source: &SourceId) {
        for kind in Watched::ALL {
            let labels = [source.as_str(), kind.as_str()];
            for gauge in [&self.connected, &self.objects, &self.held] {
                let _ = gauge.remove_label_values(&labels);
            }
            for counter in [&self.events, &self.updates, &self.failures, &self.lists] {
                let _ = counter.remove_label_values(&labels);
            }
            let _ = self.last_event.remove_label_values(&labels);
        }
        let labels = [source.as_str()];
        let _ = self.synced.remove_label_values(&labels);
        let _ = self.state_bytes.remove_label_values(&labels);
        let _ = self.state_failures.remove_label_values(&labels);
        let _ = self.credentials_loaded.remove_label_values(&labels);
        let _ = self.credentials_failures.remove_label_values(&labels);
        let _ = self.missing_rights.remove_label_values(&labels);
    }
}

fn missing_rights(registry: &Registry) -> Result<IntGaugeVec, prometheus::Error> {
    let metric = IntGaugeVec::new(
        Opts::new(
            "haflinger_discovery_missing_rights",
            "Rights that the cluster does not give discovery: the status says what is lost",
        ),
        &BY_SOURCE,
    )?;
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
}

/// A family of times.
fn times(
    registry: &Registry,
    name: &str,
    text: &str,
    labels: &[&str],
) -> Result<GaugeVec, prometheus::Error> {
    let metric = GaugeVec::new(Opts::new(name, text), labels)?;
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
}

fn of_inventory(registry: &Registry) -> Result<(IntGauge, IntCounter), prometheus::Error> {
    let valid = IntGauge::new(
        "haflinger_discovery_inventory_valid",
        "1 while the inventory file as it stands is in use, 0 while a former content is",
    )?;
    registry.register(Box::new(valid.clone()))?;
    let refusals = IntCounter::new(
        "haflinger_discovery_inventory_refusals_total",
        "Contents of the inventory file that were refused",
    )?;
    registry.register(Box::new(refusals.clone()))?;
    Ok((valid, refusals))
}
