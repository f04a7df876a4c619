//! Metrics of the room.

use std::net::IpAddr;

use imbl::OrdMap;
use prometheus::{IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, core::Collector};

use crate::status::{AddressState, Entry, Published, RouteState};

#[derive(Clone)]
pub(crate) struct Metrics {
    addresses: IntGaugeVec,
    sources: IntGaugeVec,
    routes: IntGaugeVec,
    disputed: IntGauge,
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
            sources: register(
                registry,
                gauge(
                    "haflinger_netlink_sources",
                    "Source addresses of mode nat by how they stand on this host.",
                )?,
            )?,
            routes: register(
                registry,
                gauge("haflinger_netlink_routes", "Routes to pods by how they stand.")?,
            )?,
            disputed: register(
                registry,
                IntGauge::new(
                    "haflinger_netlink_routes_disputed",
                    "Networks that a second node claims too, which is not believed.",
                )?,
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
        let addresses = by_state(&published.addresses);
        let sources = by_state(&published.sources);
        let mut routes = [("installed", 0), ("conflict", 0), ("invalid", 0), ("failing", 0)];
        for route in published.routes.values() {
            let at = match route.entry.state {
                RouteState::Installed => 0,
                RouteState::Conflict => 1,
                RouteState::Invalid => 2,
                RouteState::Failing => 3,
            };
            routes[at].1 += 1;
        }
        let disputed = published.routes.values().filter(|route| route.rival.is_some()).count();
        self.disputed.set(i64::try_from(disputed).unwrap_or(i64::MAX));
        let shown: [(_, &[(&str, i64)]); 3] = [
            (&self.addresses, &addresses[..4]),
            (&self.sources, &sources),
            (&self.routes, &routes),
        ];
        for (gauge, counts) in shown {
            for (state, count) in counts.iter().copied() {
                gauge.with_label_values(&[state]).set(count);
            }
        }
    }
}

/// How many stand how. No VIP lingers.
fn by_state(addresses: &OrdMap<IpAddr, Entry<AddressState>>) -> [(&'static str, i64); 5] {
    let mut counts =
        [("bound", 0), ("foreign", 0), ("skipped", 0), ("failing", 0), ("lingering", 0)];
    for entry in addresses.values() {
        let at = match entry.state {
            AddressState::Bound => 0,
            AddressState::Foreign => 1,
            AddressState::Skipped => 2,
            AddressState::Failing => 3,
            AddressState::Lingering => 4,
        };
        counts[at].1 += 1;
    }
    counts
}

fn register<C: Collector + Clone + 'static>(
    registry: &Registry,
    collector: C,
) -> Result<C, prometheus::Error> {
    registry.register(Box::new(collector.clone()))?;
    Ok(collector)
}
