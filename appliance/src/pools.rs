//! `haflinger pools`: how far the address pools are used, and who holds which address.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use haflinger_core::index::Effort;
use haflinger_core::{Family, LabelSelector, Pool, PoolUse, Snapshot};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use prometheus::{Gauge, GaugeVec, IntCounter, Opts, Registry};
use serde::Serialize;

use crate::status::columns::Columns;

/// Pools and, if asked for, their addresses. Field names are stable, as those of the status.
#[derive(Serialize)]
pub(crate) struct Pools {
    pools: Vec<PoolStatus>,
    #[serde(skip_serializing_if = "Option::is_none")]
    addresses: Option<Vec<AddressStatus>>,
}

/// One pool in one family. Counts are decimal text: a pool of IPv6 may have more addresses than
/// any number of JSON's can say.
#[derive(Serialize)]
struct PoolStatus {
    name: Arc<str>,
    family: Family,
    ranges: Vec<String>,
    size: String,
    used: String,
    free: String,
    /// Objects that would have an address of it, and have none, or one of a later pool.
    waiting: usize,
    auto_assign: bool,
    skip_0_and_255: bool,
    priority: u32,
    namespaces: Vec<Arc<str>>,
    namespace_labels: Vec<Arc<str>>,
    service_labels: Vec<Arc<str>>,
}

/// One object on one address.
#[derive(Serialize)]
struct AddressStatus {
    address: IpAddr,
    /// Absent where the address lies outside every pool.
    pool: Option<Arc<str>>,
    state: AddressState,
    object: String,
    /// Annotations of other products that were followed.
    followed: Vec<Arc<str>>,
}

/// How an object has an address.
#[derive(Clone, Copy, Serialize)]
#[serde(rename_all = "snake_case")]
enum AddressState {
    /// Its status records it: it is served.
    Recorded,
    /// It is held for the object until the status records it.
    Proposed,
}

impl Pools {
    /// All pools, or the one with this name; `None` where there is no such pool.
    pub(crate) fn of(snapshot: &Snapshot, name: Option<&str>, addresses: bool) -> Option<Self> {
        let named = |used: &&PoolUse| name.is_none_or(|name| *used.pool.name == *name);
        let pools: Vec<PoolStatus> = snapshot.pools.iter().filter(named).map(pool).collect();
        if name.is_some() && pools.is_empty() {
            return None;
        }
        let addresses = addresses.then(|| {
            let mut held = held(snapshot);
            held.retain(|held| name.is_none_or(|name| held.pool.as_deref() == Some(name)));
            held
        });
        Some(Self { pools, addresses })
    }
}

fn pool(used: &PoolUse) -> PoolStatus {
    let pool = &used.pool;
    let texts = |selectors: &[LabelSelector]| selectors.iter().map(|s| s.text.clone()).collect();
    let of_family = pool.ranges.iter().filter(|(first, _)| Family::of(*first) == used.family);
    PoolStatus {
        name: pool.name.clone(),
        family: used.family,
        ranges: of_family.map(|(first, last)| range(*first, *last)).collect(),
        size: used.size.to_string(),
        used: used.used.to_string(),
        free: used.free().to_string(),
        waiting: used.waiting,
        auto_assign: pool.auto_assign,
        skip_0_and_255: pool.skip_0_and_255,
        priority: pool.priority,
        namespaces: pool.selects.namespaces.iter().cloned().collect(),
        namespace_labels: texts(&pool.selects.namespace_labels),
        service_labels: texts(&pool.selects.service_labels),
    }
}

/// A range as a network where it is one, else with both ends.
fn range(first: IpAddr, last: IpAddr) -> String {
    let network = match (first, last) {
        (IpAddr::V4(a), IpAddr::V4(b)) => {
            let bits = (u32::from(a) ^ u32::from(b)).leading_zeros();
            let prefix = u8::try_from(bits).unwrap_or(32);
            Ipv4Net::new(a, prefix).ok().map(IpNet::V4)
        }
        (IpAddr::V6(a), IpAddr::V6(b)) => {
            let bits = (u128::from(a) ^ u128::from(b)).leading_zeros();
            let prefix = u8::try_from(bits).unwrap_or(128);
            Ipv6Net::new(a, prefix).ok().map(IpNet::V6)
        }
        _ => None,
    };
    match network.filter(|net| net.network() == first && net.broadcast() == last) {
        Some(network) if first != last => network.to_string(),
        _ if first == last => first.to_string(),
        _ => format!("{first}-{last}"),
    }
}

/// Every address that an object holds, by address and object.
fn held(snapshot: &Snapshot) -> Vec<AddressStatus> {
    let pools: Vec<&Arc<Pool>> = snapshot.pools.iter().map(|used| &used.pool).collect();
    let mut held = BTreeMap::new();
    for (object, report) in &snapshot.reports {
        let proposed = report.desired.iter().map(|status| (status.address, AddressState::Proposed));
        let recorded = report.served.iter().map(|address| (*address, AddressState::Recorded));
        for (address, state) in proposed.chain(recorded) {
            let pool = pools.iter().find(|pool| pool.contains(address));
            held.insert(
                (address, object),
                AddressStatus {
                    address,
                    pool: pool.map(|pool| pool.name.clone()),
                    state,
                    object: object.to_string(),
                    followed: report.followed.clone(),
                },
            );
        }
    }
    held.into_values().collect()
}

/// The pools for people: columns as `kubectl` writes them.
pub(crate) fn pools_text(pools: &Pools) -> String {
    let mut out = String::new();
    let mut columns = Columns::new("");
    let header = ["NAME", "RANGE", "FAMILY", "USED", "FREE", "AUTO", "PRIORITY", "SELECTOR"];
    columns.row(header.map(str::to_owned));
    for pool in &pools.pools {
        columns.row([
            pool.name.to_string(),
            pool.ranges.join(","),
            pool.family.to_string(),
            count(&pool.used),
            count(&pool.free),
            if pool.auto_assign { "yes" } else { "no" }.to_owned(),
            pool.priority.to_string(),
            selector(pool),
        ]);
    }
    columns.print_rows("", &mut out);
    for pool in pools.pools.iter().filter(|pool| pool.waiting > 0) {
        out.push_str(&format!(
            "{} objects wait for an {} address of pool {}\n",
            pool.waiting, pool.family, pool.name
        ));
    }
    if let Some(addresses) = &pools.addresses {
        out.push('\n');
        print_addresses(addresses, &mut out);
    }
    out
}

fn print_addresses(addresses: &[AddressStatus], out: &mut String) {
    let mut columns = Columns::new("");
    columns.row(["ADDRESS", "POOL", "STATE", "OBJECT", "FOLLOWED"].map(str::to_owned));
    for held in addresses {
        let state = match held.state {
            AddressState::Recorded => "recorded",
            AddressState::Proposed => "proposed",
        };
        columns.row([
            held.address.to_string(),
            held.pool.as_deref().unwrap_or("<none>").to_owned(),
            state.to_owned(),
            held.object.clone(),
            held.followed.join(","),
        ]);
    }
    columns.print_rows("", out);
}

/// A count that may have 39 digits: beyond what a person reads, its power of two.
fn count(digits: &str) -> String {
    match digits.parse::<u128>() {
        Ok(number) if number > 1 << 40 => format!("~2^{}", (number - 1).ilog2() + 1),
        _ => digits.to_owned(),
    }
}

fn selector(pool: &PoolStatus) -> String {
    let parts = [
        ("namespace", &pool.namespaces),
        ("namespace labels", &pool.namespace_labels),
        ("labels", &pool.service_labels),
    ];
    let parts = parts.into_iter().filter(|(_, list)| !list.is_empty());
    let parts: Vec<String> =
        parts.map(|(what, list)| format!("{what}: {}", list.join(" or "))).collect();
    if parts.is_empty() { "<all>".to_owned() } else { parts.join("; ") }
}

/// Gauges of the pools. Their number is bounded by the configuration.
pub(crate) struct PoolGauges {
    used: GaugeVec,
    free: GaugeVec,
    waiting: GaugeVec,
    claims: IntCounter,
    places: IntCounter,
    shown: Vec<(Arc<str>, Family)>,
    effort: Effort,
}

impl PoolGauges {
    pub(crate) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let gauge = |name: &str, help: &str| {
            let gauge = GaugeVec::new(Opts::new(name, help), &["pool", "family"])?;
            registry.register(Box::new(gauge.clone()))?;
            Ok::<_, prometheus::Error>(gauge)
        };
        let counter = |name: &str, help: &str| {
            let counter = IntCounter::new(name, help)?;
            registry.register(Box::new(counter.clone()))?;
            Ok::<_, prometheus::Error>(counter)
        };
        Ok(Self {
            used: gauge(
                "haflinger_core_pool_used_addresses",
                "Addresses of the pool that objects hold, proposals included, or that Ingresses \
                 share.",
            )?,
            free: gauge(
                "haflinger_core_pool_free_addresses",
                "Addresses of the pool that can be given away.",
            )?,
            waiting: gauge(
                "haflinger_core_pool_waiting_objects",
                "Objects that would have an address of the pool, which is full.",
            )?,
            claims: counter(
                "haflinger_core_claims_total",
                "Claims of objects on addresses that were looked at.",
            )?,
            places: counter(
                "haflinger_core_claim_places_total",
                "Places in pools that were looked at to choose addresses.",
            )?,
            shown: Vec::new(),
            effort: Effort::default(),
        })
    }

    /// Shows what a snapshot says.
    pub(crate) fn show(&mut self, pools: &[PoolUse], effort: Effort) {
        self.claims.inc_by(effort.turns - self.effort.turns);
        self.places.inc_by(effort.places - self.effort.places);
        self.effort = effort;
        let mut gone = std::mem::take(&mut self.shown);
        for used in pools {
            let key = (used.pool.name.clone(), used.family);
            let family = used.family.to_string();
            let labels = [&*used.pool.name, &family];
            let of = |gauges: &GaugeVec| -> Gauge { gauges.with_label_values(&labels) };
            of(&self.used).set(approximate(used.used));
            of(&self.free).set(approximate(used.free()));
            of(&self.waiting).set(approximate(used.waiting as u128));
            gone.retain(|other| *other != key);
            self.shown.push(key);
        }
        for (name, family) in gone {
            let family = family.to_string();
            for gauges in [&self.used, &self.free, &self.waiting] {
                // It is there: it was shown.
                let _ = gauges.remove_label_values(&[&*name, &family]);
            }
        }
    }
}

/// Exact up to 2^53, which is all that a sample can say.
fn approximate(count: u128) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use haflinger_core::{ObjectRef, ObjectReport, PoolSelector, SourceId};
    use prometheus::proto::MetricFamily;

    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn snapshot() -> Snapshot {
        let ranges = vec![
            (ip("192.0.2.0"), ip("192.0.2.255")),
            (ip("198.51.100.1"), ip("198.51.100.2")),
            (ip("2001:db8::"), ip("2001:db8::ffff:ffff:ffff:ffff")),
        ];
        let selects = PoolSelector {
            namespaces: ["shop".into()].into(),
            service_labels: vec![LabelSelector { text: "tier=edge".into(), requirements: vec![] }],
            ..PoolSelector::default()
        };
        let pool = Arc::new(Pool { selects, ..Pool::new("public", ranges) });
        let of = |family, size, used| PoolUse {
            pool: pool.clone(),
            family,
            size,
            used,
            waiting: usize::from(family == Family::V4),
        };
        let mut snapshot = Snapshot {
            pools: Arc::new(vec![of(Family::V4, 258, 2), of(Family::V6, 1 << 64, 1)]),
            ..Snapshot::default()
        };
        let report = ObjectReport {
            served: vec![ip("192.0.2.7"), ip("203.0.113.9")],
            followed: vec!["metallb.io/loadBalancerIPs".into()],
            ..ObjectReport::default()
        };
        let object = ObjectRef::service(&SourceId::cluster("prod"), "shop", "web");
        snapshot.reports.insert(object, Arc::new(report));
        snapshot
    }

    #[test]
    fn pools_are_shown_in_columns() {
        let pools = Pools::of(&snapshot(), None, true).unwrap();
        let text = pools_text(&pools);
        let lines: Vec<Vec<&str>> = text
            .lines()
            .map(|line| line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect())
            .collect();
        let selector = "namespace: shop; labels: tier=edge";
        let v4 = "192.0.2.0/24,198.51.100.1-198.51.100.2";
        assert_eq!(lines[1], ["public", v4, "ipv4", "2", "256", "yes", "100", selector]);
        let v6 = "2001:db8::/64";
        assert_eq!(lines[2], ["public", v6, "ipv6", "1", "~2^64", "yes", "100", selector]);
        assert_eq!(lines[3], ["1 objects wait for an ipv4 address of pool public"]);
        let object = "cluster/prod/service/shop/web";
        let followed = "metallb.io/loadBalancerIPs";
        assert_eq!(lines[6], ["192.0.2.7", "public", "recorded", object, followed]);
        assert_eq!(lines[7], ["203.0.113.9", "<none>", "recorded", object, followed]);
    }

    #[test]
    fn counts_are_exact_in_json() {
        let pools = Pools::of(&snapshot(), Some("public"), false).unwrap();
        let json = serde_json::to_value(&pools).unwrap();
        assert_eq!(json["pools"][1]["free"], "18446744073709551615");
        assert!(json.get("addresses").is_none());
        assert!(Pools::of(&snapshot(), Some("absent"), false).is_none());
    }

    #[test]
    fn a_pool_that_goes_takes_its_gauges_with_it() {
        let registry = Registry::new();
        let mut gauges = PoolGauges::register(&registry).unwrap();
        let series = || registry.gather().iter().map(|f: &MetricFamily| f.get_metric().len()).sum();
        gauges.show(&snapshot().pools, Effort { turns: 3, places: 5 });
        let shown: usize = series();
        assert_eq!(shown, 2 + 3 * 2);
        gauges.show(&[], Effort { turns: 4, places: 5 });
        let left: usize = series();
        assert_eq!(left, 2);
    }
}
