//! Metrics of the room.

use prometheus::{IntCounterVec, IntGaugeVec, Opts, Registry, core::Collector};

use crate::status::{AddressState, Published, RouteState};

#[derive(Clone)]
pub(crate) struct Metrics {
    addresses: IntGaugeVec,
    routes: IntGaugeVec,
    operations: IntCounterVec,
    resyncs: IntCounterVec,
}

impl Metrics {
    pub(crate) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let gauge = |name: &str, help: &str| IntGaugeVec::new(Opts::new(name, help), &["state"]);
        let counter = |name: &str, help: &str, labels: &[&str]| {
            IntCounterVec::new(Opts::new(name, help), labels)
        };
        Ok(Self {
            addresses: register(
                registry,
                gauge("haflinger_netlink_addresses", "VIPs by how they stand on this host.")?,
            )?,
            routes: register(
                registry,
                gauge("haflinger_netlink_routes", "Routes to pods by how they stand.")?,
            )?,
            operations: register(
                registry,
                counter(
                    "haflinger_netlink_operations_total",
                    "Changes asked of the kernel, by kind and result.",
                    &["kind", "result"],
                )?,
            )?,
            resyncs: register(
                registry,
                counter(
                    "haflinger_netlink_resyncs_total",
                    "Comparisons with all that the kernel holds, by cause.",
                    &["cause"],
                )?,
            )?,
        })
    }

    pub(crate) fn operation(&self, kind: &str, ok: bool) {
        let result = if ok { "ok" } else { "refused" };
        self.operations.with_label_values(&[kind, result]).inc();
    }

    pub(crate) fn resync(&self, cause: &str) {
        self.resyncs.with_label_values(&[cause]).inc();
    }

    pub(crate) fn show(&self, published: &Published) {
        let addresses = |state: AddressState| {
            published.addresses.values().filter(|entry| entry.state == state).count()
        };
        for (label, state) in [
            ("bound", AddressState::Bound),
            ("foreign", AddressState::Foreign),
            ("skipped", AddressState::Skipped),
            ("failing", AddressState::Failing),
        ] {
            set(&self.addresses, label, addresses(state));
        }
        let routes = |state: RouteState| {
            published.routes.values().filter(|route| route.entry.state == state).count()
        };
        for (label, state) in [
            ("installed", RouteState::Installed),
            ("conflict", RouteState::Conflict),
            ("invalid", RouteState::Invalid),
            ("failing", RouteState::Failing),
        ] {
            set(&self.routes, label, routes(state));
        }
    }
}

fn set(gauge: &IntGaugeVec, label: &str, count: usize) {
    gauge.with_label_values(&[label]).set(i64::try_from(count).unwrap_or(i64::MAX));
}

fn register<C: Collector + Clone + 'static>(
    registry: &Registry,
    collector: C,
) -> Result<C, prometheus::Error> {
    registry.register(Box::new(collector.clone()))?;
    Ok(collector)
}
