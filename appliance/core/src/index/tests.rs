use std::net::IpAddr;

use proptest::prelude::*;

use super::*;
use crate::{
    Algorithm, Announcement, BackendSlice, BackendState, ConnectionLimits, Exposure, Family,
    FlowTimeouts, ForwardingMode, HealthCheck, HealthCheckKind, HttpListener, IngressBackend,
    IngressPort, IngressRule, IngressSpec, NodeSpec, PathType, Pool, Protocol, ProxyProtocol,
    ServiceKey, ServicePort, ServiceSpec, SliceBackend, SlicePort, StateReason, TimeoutRequest,
};

mod contract;
mod forwarding;
mod reach;
mod shared;

/// The first address.
pub(super) const VIP: &str = "192.0.2.7";

const SHARED: &str = "198.51.100.80";

pub(super) fn cluster() -> SourceId {
    SourceId::cluster("c")
}

pub(super) fn policy() -> Arc<Policy> {
    Arc::new(Policy {
        sources: vec![cluster()],
        pools: vec![Pool::new(
            "main",
            vec![("192.0.2.1".parse().unwrap(), "192.0.2.250".parse().unwrap())],
        )],
        shared_http_addresses: vec![SHARED.parse().unwrap()],
        http_port: 80,
        https_port: 443,
        bind_vips: false,
        draining: false,
        default_mode: ForwardingMode::Nat,
        timeouts: FlowTimeouts::default(),
        xdp: true,
        zone: None,
        pod_routes: BTreeMap::new(),
        gated: BTreeSet::new(),
        fallback: true,
    })
}

pub(super) fn object(name: &str) -> ObjectRef {
    ObjectRef::service(&cluster(), "default", name)
}

fn port(name: &str, port: u16) -> ServicePort {
    ServicePort {
        name: name.into(),
        port,
        protocol: Protocol::Tcp,
        app_protocol: None,
        node_port: None,
    }
}

pub(super) fn service(recorded: &[&str]) -> ServiceSpec {
    ServiceSpec {
        ports: vec![port("web", 80)],
        refused_ports: vec![],
        exposure: Some(Exposure {
            families: vec![Family::V4],
            recorded: recorded.iter().map(|a| a.parse().unwrap()).collect(),
            hostnames: vec!["www.example.com".into()],
            ..Exposure::default()
        }),
        created_secs: 1,
        families: vec![Family::V4],
        algorithm: Algorithm::Hash,
        limits: ConnectionLimits::default(),
        timeouts: TimeoutRequest::default(),
        destination: None,
        local_traffic: false,
        publish_not_ready: false,
        distribution: crate::Distribution::Even,
        proxy_protocol: ProxyProtocol::Off,
        health_check: None,
        selector: Box::default(),
        faults: vec![],
    }
}

pub(super) fn slice(ready: &[(u8, bool)]) -> BackendSlice {
    let backends = ready.iter().map(|(last, ready)| SliceBackend {
        address: IpAddr::from([10, 0, 0, *last]),
        name: format!("pod-{last}").into(),
        node: None,
        zone: None,
        for_zones: Box::default(),
        weight: crate::DEFAULT_WEIGHT,
        ready: *ready,
        serving: *ready,
        terminating: false,
        backup: false,
    });
    BackendSlice {
        family: Family::V4,
        ports: vec![SlicePort { name: "web".into(), protocol: Protocol::Tcp, port: 8080 }],
        backends: backends.collect(),
        faults: vec![],
    }
}

pub(super) fn set_service(name: &str, spec: Option<ServiceSpec>) -> Update {
    Update::Source(SourceUpdate::Service { object: object(name), spec: spec.map(Box::new) })
}

pub(super) fn set_slice(name: &str, content: Option<BackendSlice>) -> Update {
    Update::Source(SourceUpdate::Slice {
        service: object(name),
        slice: format!("{name}-1").into(),
        content: content.map(Box::new),
    })
}

fn set_ingress(name: &str, spec: Option<IngressSpec>) -> Update {
    let object = ObjectRef::ingress(&cluster(), "default", name);
    Update::Source(SourceUpdate::Ingress { object, spec: spec.map(Box::new) })
}

pub(super) fn ingress(host: &str, service: &str) -> IngressSpec {
    IngressSpec {
        created_secs: 1,
        rules: vec![IngressRule {
            host: Some(host.into()),
            path_match: PathType::Prefix,
            path: "/".into(),
            backend: IngressBackend {
                service: object(service),
                port: IngressPort::Name("web".into()),
            },
            rewrite: None,
        }],
        default_backend: None,
        tls: vec![],
        requested: vec![],
        pool: None,
        wish: crate::AddressWish::default(),
        recorded: vec![],
        http_port: None,
        https_port: None,
        hostnames: vec![],
        ttl_secs: None,
        requests: crate::IngressRequests::default(),
        faults: vec![],
    }
}

/// Of a host whose XDP takes what comes on the first address.
fn index(updates: impl IntoIterator<Item = Update>) -> Index {
    index_of([Update::Policy(policy())].into_iter().chain(updates))
}

/// As [`index`], the policy being the first update.
pub(super) fn index_of(updates: impl IntoIterator<Item = Update>) -> Index {
    let mut index = Index::new();
    index.apply(Update::Held { service: key("192.0.2.7"), held: true });
    index.apply(Update::Synced(cluster()));
    updates.into_iter().for_each(|update| index.apply(update));
    index.publish(0);
    index
}

fn shared_listener(index: &Index) -> Arc<HttpListener> {
    let at = SocketAddr::new(SHARED.parse().unwrap(), 80);
    index.current().http.get(&at).unwrap().clone()
}

pub(super) fn key(vip: &str) -> ServiceKey {
    ServiceKey { vip: vip.parse().unwrap(), port: 80, protocol: Protocol::Tcp }
}

#[test]
fn a_recorded_service_is_served_announced_and_named() {
    let index = index([
        set_service("web", Some(service(&["192.0.2.7"]))),
        set_slice("web", Some(slice(&[(1, true), (2, false)]))),
    ]);
    let snapshot = index.current();
    let served = snapshot.services.get(&key("192.0.2.7")).unwrap();
    let active: Vec<_> = served.backends.active().map(|b| b.address.to_string()).collect();
    assert_eq!(active, ["10.0.0.1:8080"]);
    let hops = served.backends.table.hops(u64::MAX).unwrap();
    assert_eq!(hops.first.to_string(), "10.0.0.1:8080");
    let vip = snapshot.vips.get(&served.key.vip).unwrap();
    assert_eq!(vip.announcement, Announcement::Announced);
    assert_eq!(vip.pool.as_deref(), Some("main"));
    let intent = snapshot.hostnames.get("www.example.com").unwrap();
    assert_eq!(intent.addresses, [served.key.vip]);
}

#[test]
fn a_proposal_is_reported_and_nothing_is_served_before_the_status_records_it() {
    let mut index = index([
        set_service("web", Some(service(&[]))),
        set_slice("web", Some(slice(&[(1, true)]))),
    ]);
    let report = index.current().reports.get(&object("web")).unwrap().clone();
    let proposed = report.desired[0].address.to_string();
    assert!(index.current().services.is_empty() && index.current().vips.is_empty());
    index.apply(set_service("web", Some(service(&[&proposed]))));
    index.publish(1);
    assert!(index.current().services.contains_key(&key(&proposed)));
}

#[test]
fn the_last_backend_going_withdraws_the_vip_and_its_return_announces_it() {
    let mut index = index([
        set_service("web", Some(service(&["192.0.2.7"]))),
        set_slice("web", Some(slice(&[(1, true)]))),
    ]);
    let vip = "192.0.2.7".parse::<IpAddr>().unwrap();
    for (ready, announcement) in [(false, Announcement::NoBackend), (true, Announcement::Announced)]
    {
        index.apply(set_slice("web", Some(slice(&[(1, ready)]))));
        index.publish(1);
        assert_eq!(index.current().vips.get(&vip).unwrap().announcement, announcement);
    }
}

#[test]
fn a_deleted_service_leaves_nothing_behind() {
    let mut index = index([
        set_service("web", Some(service(&["192.0.2.7"]))),
        set_slice("web", Some(slice(&[(1, true)]))),
    ]);
    index.apply(set_service("web", None));
    index.apply(set_slice("web", None));
    index.publish(1);
    let snapshot = index.current();
    assert!(snapshot.services.is_empty() && snapshot.targets.is_empty());
    assert!(snapshot.vips.is_empty() && snapshot.hostnames.is_empty());
    assert!(snapshot.reports.is_empty() && index.services.is_empty() && index.tables.is_empty());
}

#[test]
fn a_repeated_update_publishes_nothing() {
    let updates = || {
        [
            set_service("web", Some(service(&["192.0.2.7"]))),
            set_slice("web", Some(slice(&[(1, true)]))),
        ]
    };
    let mut index = index(updates());
    updates().into_iter().for_each(|update| index.apply(update));
    assert!(index.publish(1).is_none());
}

#[test]
fn a_failed_check_takes_a_backend_out_and_is_forgotten_with_its_probe() {
    let check = HealthCheck {
        kind: HealthCheckKind::Tcp,
        port: None,
        proxy_protocol: ProxyProtocol::Off,
        interval_ms: 1000,
        timeout_ms: 500,
        rise: 1,
        fall: 1,
        ways: vec![],
    };
    let checked = ServiceSpec {
        health_check: Some(check),
        proxy_protocol: ProxyProtocol::V2,
        ..service(&["192.0.2.7"])
    };
    let mut index = index([
        set_service("web", Some(checked)),
        set_slice("web", Some(slice(&[(1, true), (2, true)]))),
    ]);
    let probe = ProbeKey { object: object("web"), backend: "10.0.0.1:8080".parse().unwrap() };
    let probed = index.current().probes.get(&probe).unwrap();
    assert_eq!(probed.proxy_protocol, ProxyProtocol::V2);
    index.apply(Update::Health { probe: probe.clone(), healthy: Some(false) });
    index.publish(1);
    let served = index.current().services.get(&key("192.0.2.7")).unwrap();
    let out = served.backends.get(&probe.backend).unwrap();
    assert_eq!((out.state, &*out.reasons), (BackendState::Down, &[StateReason::CheckFailed][..]));
    for hash in 0..64_u64 {
        let hops = served.backends.table.hops(hash << 58).unwrap();
        assert_eq!(hops.first.to_string(), "10.0.0.2:8080");
    }
    index.apply(set_slice("web", Some(slice(&[(2, true)]))));
    index.publish(2);
    assert!(index.health.is_empty() && !index.current().probes.contains_key(&probe));
}

#[test]
fn moved_buckets_are_counted_and_repeated_moves_are_at_risk() {
    let mut index = index([
        set_service("web", Some(service(&["192.0.2.7"]))),
        set_slice("web", Some(slice(&[(1, true)]))),
    ]);
    assert_eq!(index.movement(), Movement::default());
    index.apply(set_slice("web", Some(slice(&[(1, true), (2, true)]))));
    index.publish(10);
    let grown = index.movement();
    assert_eq!((grown.moved, grown.at_risk), (128, 0));
    index.apply(set_slice("web", Some(slice(&[(1, true)]))));
    index.publish(20);
    assert_eq!((index.movement().moved, index.movement().at_risk), (256, 128));
}

#[test]
fn an_ingress_is_served_on_the_shared_address_with_the_service_s_target() {
    let inner = ServiceSpec { exposure: None, ..service(&[]) };
    let index = index([
        set_ingress("site", Some(ingress("a.example.com", "web"))),
        set_service("web", Some(inner)),
        set_slice("web", Some(slice(&[(1, true)]))),
    ]);
    let snapshot = index.current();
    let listener = shared_listener(&index);
    let target = listener.targets().next().unwrap();
    assert!(snapshot.targets.get(target).unwrap().is_available());
    assert_eq!(
        snapshot.vips.get(&SHARED.parse::<IpAddr>().unwrap()).unwrap().announcement,
        Announcement::Announced
    );
    assert!(snapshot.hostnames.contains_key("a.example.com"));
    let report = snapshot.reports.get(&ObjectRef::ingress(&cluster(), "default", "site")).unwrap();
    assert_eq!(report.desired[0].address.to_string(), SHARED);
    assert!(report.faults.is_empty());
}

#[test]
fn an_ingress_with_a_missing_service_says_so_and_withdraws_nothing_else() {
    let index = index([
        set_ingress("broken", Some(ingress("b.example.com", "absent"))),
        set_ingress("site", Some(ingress("a.example.com", "web"))),
        set_service("web", Some(service(&["192.0.2.7"]))),
        set_slice("web", Some(slice(&[(1, true)]))),
    ]);
    let broken = ObjectRef::ingress(&cluster(), "default", "broken");
    let report = index.current().reports.get(&broken).unwrap();
    assert_eq!(report.faults[0].reason, crate::FaultReason::BackendMissing);
    let listener = shared_listener(&index);
    assert_eq!((listener.rules().count(), listener.targets().count()), (2, 1));
}

#[test]
fn of_two_ingresses_with_one_host_and_path_the_older_keeps_it() {
    let young = IngressSpec { created_secs: 9, ..ingress("a.example.com", "web") };
    let index = index([
        set_ingress("a-young", Some(young)),
        set_ingress("old", Some(ingress("a.example.com", "web"))),
        set_service("web", Some(service(&["192.0.2.7"]))),
        set_slice("web", Some(slice(&[(1, true)]))),
    ]);
    let listener = shared_listener(&index);
    assert_eq!(&*listener.rules().next().unwrap().object.name, "old");
    let young = ObjectRef::ingress(&cluster(), "default", "a-young");
    let faults = &index.current().reports.get(&young).unwrap().faults;
    assert_eq!(faults[0].reason, crate::FaultReason::RouteTaken);
}

#[test]
fn two_nodes_with_one_network_do_not_make_its_route_flap() {
    let node = |name: &str, address: &str, present: bool| {
        let spec = NodeSpec {
            pod_networks: vec!["10.1.0.0/24".parse().unwrap()],
            addresses: vec![address.parse().unwrap()],
            ..NodeSpec::default()
        };
        let spec = present.then(|| Box::new(spec));
        Update::Source(SourceUpdate::Node { source: cluster(), name: name.into(), spec })
    };
    let mut index = index([node("n2", "10.9.0.2", true), node("n1", "10.9.0.1", true)]);
    let via = |index: &Index| {
        let network: ipnet::IpNet = "10.1.0.0/24".parse().unwrap();
        index.current().pod_routes.get(&network).map(|route| route.via.to_string())
    };
    assert_eq!(via(&index).as_deref(), Some("10.9.0.1"));
    index.apply(node("n1", "10.9.0.1", false));
    index.publish(1);
    assert_eq!(via(&index).as_deref(), Some("10.9.0.2"));
}

#[test]
fn a_retired_source_leaves_nothing_behind() {
    let mut index = index([
        set_service("web", Some(service(&["192.0.2.7"]))),
        set_slice("web", Some(slice(&[(1, true)]))),
        set_ingress("site", Some(ingress("a.example.com", "web"))),
    ]);
    index.apply(Update::Retired(cluster()));
    index.publish(1);
    let snapshot = index.current();
    assert!(snapshot.services.is_empty() && snapshot.http.is_empty() && snapshot.vips.is_empty());
    assert!(snapshot.reports.is_empty() && snapshot.targets.is_empty());
}

#[test]
fn what_was_never_known_or_never_whole_leaves_no_entry() {
    let mut index = index([set_slice("orphan", Some(slice(&[(1, true)])))]);
    index.apply(set_service("unknown", None));
    index.apply(set_slice("unheard", None));
    index.publish(1);
    assert_eq!(index.services.keys().map(|o| &*o.name).collect::<Vec<_>>(), ["orphan"]);
    index.apply(Update::Retired(cluster()));
    index.publish(2);
    assert!(index.services.is_empty());
}

#[test]
fn draining_withdraws_every_vip_and_keeps_serving() {
    let mut index = index([
        set_service("web", Some(service(&["192.0.2.7"]))),
        set_slice("web", Some(slice(&[(1, true)]))),
    ]);
    index.apply(Update::Policy(Arc::new(Policy { draining: true, ..(*policy()).clone() })));
    index.publish(1);
    let vip = index.current().vips.get(&"192.0.2.7".parse::<IpAddr>().unwrap()).unwrap();
    assert_eq!(vip.announcement, Announcement::Draining);
    assert!(index.current().services.contains_key(&key("192.0.2.7")));
}

#[test]
fn two_services_can_swap_their_addresses_in_one_step() {
    let (one, two) = ("192.0.2.1", "192.0.2.2");
    let mut index =
        index([set_service("a", Some(service(&[one]))), set_service("b", Some(service(&[two])))]);
    index.apply(set_service("a", Some(service(&[two]))));
    index.apply(set_service("b", Some(service(&[one]))));
    index.publish(1);
    for (name, address) in [("a", two), ("b", one)] {
        assert_eq!(&*index.current().services.get(&key(address)).unwrap().object.name, name);
        assert!(index.current().reports.get(&object(name)).unwrap().faults.is_empty());
    }
}

#[test]
fn a_vip_is_announced_once_the_host_has_it_and_not_when_it_loses_it() {
    let mut index = index([
        set_service("web", Some(service(&["192.0.2.7"]))),
        set_slice("web", Some(slice(&[(1, true)]))),
        Update::Policy(Arc::new(Policy { bind_vips: true, ..(*policy()).clone() })),
    ]);
    let address = "192.0.2.7".parse::<IpAddr>().unwrap();
    let announcement = |index: &Index| index.current().vips.get(&address).unwrap().announcement;
    assert_eq!(announcement(&index), Announcement::NotBound);
    for (bound, expected) in [(true, Announcement::Announced), (false, Announcement::NotBound)] {
        index.apply(Update::Bound { address, bound });
        index.publish(1);
        assert_eq!(announcement(&index), expected);
    }
}

/// Everything of a snapshot that does not depend on history.
fn picture(index: &Index) -> String {
    let snapshot = index.current();
    let targets: Vec<_> =
        snapshot.targets.iter().map(|(target, set)| (target, &set.backends)).collect();
    let services: Vec<_> = snapshot
        .services
        .iter()
        .map(|(key, service)| (key, service.mode, &service.mode_reason))
        .collect();
    format!(
        "{services:?}\n{targets:?}\n{:?}\n{:?}\n{:?}\n{:?}\n{:?}\n{:?}",
        snapshot.http,
        snapshot.vips,
        snapshot.pod_routes,
        snapshot.hostnames,
        snapshot.reports,
        snapshot.probes,
    )
}

fn any_update() -> impl Strategy<Value = Update> {
    let name = prop_oneof![Just("a"), Just("b"), Just("c")];
    let recorded = prop_oneof![
        Just(vec![]),
        Just(vec!["192.0.2.1"]),
        Just(vec!["192.0.2.2"]),
        Just(vec!["203.0.113.1"]),
    ];
    let services = (name.clone(), prop::option::of((recorded, 0..3_i64, any::<bool>())));
    let services = services.prop_map(|(name, spec)| {
        let spec = spec.map(|(recorded, created_secs, exposed)| {
            let mut spec = ServiceSpec { created_secs, ..service(&recorded) };
            spec.exposure = spec.exposure.filter(|_| exposed);
            spec
        });
        set_service(name, spec)
    });
    let pods = prop::collection::vec((1..5_u8, any::<bool>()), 0..4);
    let slices = (name.clone(), prop::option::of(pods));
    let slices = slices.prop_map(|(name, pods)| set_slice(name, pods.map(|pods| slice(&pods))));
    let sites = (name.clone(), prop::option::of((name, 0..3_i64)));
    let sites = sites.prop_map(|(name, spec)| {
        let spec = spec.map(|(service, created_secs)| IngressSpec {
            created_secs,
            ..ingress("a.example.com", service)
        });
        set_ingress(name, spec)
    });
    let word = || prop::option::of(Just(Arc::from("no room")));
    let on = prop_oneof![Just("192.0.2.1"), Just("192.0.2.2"), Just(SHARED)];
    let refusals = (on.clone(), word())
        .prop_map(|(vip, refused)| Update::Forwarding { service: key(vip), refused });
    let held = (on.clone(), prop::bool::ANY)
        .prop_map(|(vip, held)| Update::Held { service: key(vip), held });
    let sockets =
        (on, word()).prop_map(|(vip, fault)| Update::Served { listener: key(vip), fault });
    let paths = word().prop_map(|fault| Update::Datapath { fault });
    prop_oneof![4 => services, 4 => slices, 2 => sites, 1 => refusals, 1 => held, 1 => sockets, 1 => paths]
}

/// The object that an update is about.
fn subject(update: &Update) -> String {
    match update {
        Update::Source(SourceUpdate::Service { object, .. }) => format!("{object}"),
        Update::Source(SourceUpdate::Slice { service, slice, .. }) => format!("{service} {slice}"),
        Update::Source(SourceUpdate::Ingress { object, .. }) => format!("{object}"),
        Update::Forwarding { service, .. } => format!("xdp {service}"),
        Update::Held { service, .. } => format!("held {service}"),
        Update::Served { listener, .. } => format!("socket {listener}"),
        Update::Datapath { .. } => "xdp".to_owned(),
        other => panic!("not generated: {other:?}"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    /// However events arrive, the end is that of a fresh list of the final facts.
    #[test]
    fn any_order_of_events_ends_as_a_fresh_list(
        updates in prop::collection::vec(any_update(), 1..40),
        publish_every in 1..6_usize,
    ) {
        let mut lived = index([]);
        for (at, update) in updates.iter().enumerate() {
            lived.apply(update.clone());
            if at % publish_every == 0 {
                lived.publish(at as u64);
            }
        }
        lived.publish(100);
        let last: BTreeMap<String, Update> =
            updates.into_iter().map(|update| (subject(&update), update)).collect();
        // Proposals may differ, because they are held from when they were first made: compare
        // with the facts listed in both orders when nothing is proposed.
        let settled = |index: &Index| index.current().reports.values().all(|report| {
            report.desired.iter().map(|a| a.address).eq(report.recorded.iter().copied())
                || report.desired.iter().all(|a| a.address.to_string() == SHARED)
        });
        let fresh = index(last.values().cloned());
        let reversed = index(last.values().rev().cloned());
        prop_assert_eq!(picture(&fresh), picture(&reversed));
        if settled(&fresh) && settled(&lived) {
            prop_assert_eq!(picture(&fresh), picture(&lived));
        }
    }
}
