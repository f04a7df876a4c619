//! Services of several clusters that are one.

use super::*;
use crate::{
    ClusterShare, FamilyPolicy, FaultReason, Labels, NamespaceSpec, PoolSelector, StatusAddress,
};

const CLUSTERS: [&str; 3] = ["a", "b", "c"];

fn source(cluster: &str) -> SourceId {
    SourceId::cluster(cluster)
}

fn web(cluster: &str) -> ObjectRef {
    ObjectRef::service(&source(cluster), "default", "web")
}

fn whole() -> ObjectRef {
    ObjectRef::service(&SourceId::shared(), "default", "web")
}

/// A Service that shares, of this age.
fn sharing(created_secs: i64, recorded: &[&str]) -> ServiceSpec {
    let mut spec = ServiceSpec { created_secs, ..service(recorded) };
    exposure(&mut spec).share = Some(ClusterShare::default());
    spec
}

fn exposure(spec: &mut ServiceSpec) -> &mut Exposure {
    spec.exposure.as_mut().unwrap()
}

fn share(spec: &mut ServiceSpec) -> &mut ClusterShare {
    exposure(spec).share.as_mut().unwrap()
}

fn say(cluster: &str, spec: Option<ServiceSpec>) -> Update {
    let spec = spec.map(Box::new);
    Update::Source(SourceUpdate::Service { object: web(cluster), spec })
}

/// Pods of a cluster: the third byte of their addresses tells it.
fn pods(cluster: &str, pods: &[(u8, bool)]) -> Update {
    let mut content = slice(pods);
    let third = cluster.as_bytes()[0];
    for backend in &mut content.backends {
        let IpAddr::V4(address) = backend.address else { panic!("IPv4") };
        backend.address = IpAddr::from([10, 0, third, address.octets()[3]]);
    }
    Update::Source(SourceUpdate::Slice {
        service: web(cluster),
        // The same name everywhere, as controllers may well choose.
        slice: "web-1".into(),
        content: Some(Box::new(content)),
    })
}

fn shared(updates: impl IntoIterator<Item = Update>) -> Index {
    let mut index = Index::new();
    let sources = CLUSTERS.map(source).to_vec();
    index.apply(Update::Policy(Arc::new(Policy { sources, ..(*policy()).clone() })));
    CLUSTERS.iter().for_each(|cluster| index.apply(Update::Synced(source(cluster))));
    updates.into_iter().for_each(|update| index.apply(update));
    index.publish(0);
    index
}

/// The one service's backends: cluster and pod, weight, state.
fn backends(index: &Index) -> Vec<(char, u8, u32, BackendState)> {
    let served = index.current().services.get(&key("192.0.2.7")).expect("it is served");
    assert_eq!(served.object, whole());
    let backends = served.backends.backends.iter().map(|backend| {
        let IpAddr::V4(address) = backend.address.ip() else { panic!("IPv4") };
        let [.., third, last] = address.octets();
        (char::from(third), last, backend.weight, backend.state)
    });
    backends.collect()
}

fn report(index: &Index, cluster: &str) -> Arc<ObjectReport> {
    index.current().reports.get(&web(cluster)).unwrap().clone()
}

fn desired(index: &Index, cluster: &str) -> Vec<IpAddr> {
    report(index, cluster).desired.iter().map(|entry| entry.address).collect()
}

fn told(index: &Index, cluster: &str) -> Vec<String> {
    let faults = report(index, cluster).faults.clone();
    assert!(faults.iter().all(|fault| fault.reason == FaultReason::SharedDiffers), "{faults:?}");
    faults.into_iter().map(|fault| fault.message).collect()
}

use BackendState::{Active, Draining};

#[test]
fn objects_that_do_not_ask_for_it_stay_two_services() {
    let index = shared([
        say("a", Some(service(&["192.0.2.7"]))),
        say("b", Some(sharing(1, &["192.0.2.8"]))),
        pods("a", &[(1, true)]),
        pods("b", &[(1, true)]),
    ]);
    let services = &index.current().services;
    assert_eq!(services.get(&key("192.0.2.7")).unwrap().object, web("a"));
    assert_eq!(services.get(&key("192.0.2.8")).unwrap().object, whole());
    assert_eq!(services.len(), 2);
}

#[test]
fn one_address_is_written_everywhere_and_pods_of_all_clusters_serve_it() {
    let mut index = shared([
        say("b", Some(sharing(2, &[]))),
        say("a", Some(sharing(1, &[]))),
        pods("a", &[(1, true)]),
        pods("b", &[(1, true), (2, true)]),
    ]);
    assert!(index.current().services.is_empty(), "nothing is served before it is recorded");
    let proposed = desired(&index, "a");
    assert_eq!((proposed.len(), &proposed), (1, &desired(&index, "b")));
    assert!(!index.current().reports.contains_key(&whole()), "no object of this name exists");

    // One status is enough; the other one is still to be written.
    index.apply(say("b", Some(sharing(2, &["192.0.2.7"]))));
    index.publish(0);
    let all = [('a', 1, 100, Active), ('b', 1, 100, Active), ('b', 2, 100, Active)];
    assert_eq!(backends(&index), all);
    assert_eq!(report(&index, "a").recorded, Vec::<IpAddr>::new());
    assert_eq!(desired(&index, "a"), ["192.0.2.7".parse::<IpAddr>().unwrap()]);
    assert_eq!(told(&index, "a"), Vec::<String>::new());
    assert_eq!(told(&index, "b"), Vec::<String>::new());
    assert_eq!(index.current().vips.len(), 1);
}

#[test]
fn weights_are_multiplied_and_higher_priorities_stand_by() {
    let with = |created_secs, weight, priority| {
        let mut spec = sharing(created_secs, &["192.0.2.7"]);
        *share(&mut spec) = ClusterShare { weight, priority };
        Some(spec)
    };
    let mut index = shared([
        say("a", with(1, 50, 7)),
        say("b", with(2, 200, 7)),
        say("c", with(3, 100, 9)),
        pods("a", &[(1, true)]),
        pods("b", &[(1, true)]),
        pods("c", &[(1, true)]),
    ]);
    let first = [('a', 1, 50, Active), ('b', 1, 200, Active), ('c', 1, 100, Draining)];
    assert_eq!(backends(&index), first);
    let backup = |index: &Index| {
        let served = index.current().services.get(&key("192.0.2.7")).unwrap();
        served.backends.backends.iter().map(|backend| backend.backup).collect::<Vec<_>>()
    };
    assert_eq!(backup(&index), [false, false, true]);

    // No pod of the first two is left: the third takes over, and stands back afterwards.
    index.apply(pods("a", &[(1, false)]));
    index.apply(pods("b", &[]));
    index.publish(1);
    assert_eq!(backends(&index)[1], ('c', 1, 100, Active));
    index.apply(pods("a", &[(1, true)]));
    index.publish(2);
    assert_eq!(backends(&index), [('a', 1, 50, Active), ('c', 1, 100, Draining)]);

    // A cluster of weight 0 is drained.
    index.apply(say("a", with(1, 0, 7)));
    index.publish(3);
    assert_eq!(backends(&index), [('a', 1, 0, Draining), ('c', 1, 100, Active)]);
}

#[test]
fn the_leader_may_go_and_neither_address_nor_table_changes() {
    let mut index = shared([
        say("a", Some(sharing(1, &["192.0.2.7"]))),
        say("b", Some(sharing(2, &["192.0.2.7"]))),
        pods("a", &[(1, true)]),
        pods("b", &[(1, true)]),
    ]);
    let table = |index: &Index| {
        let served = index.current().services.get(&key("192.0.2.7")).unwrap().clone();
        (served.backends.table.generation(), served.backends.target.clone())
    };
    let before = table(&index);
    // Its Service is deleted while its slice is still there, and comes back younger.
    index.apply(say("a", None));
    index.publish(1);
    assert_eq!(backends(&index), [('b', 1, 100, Active)]);
    let (generation, target) = table(&index);
    assert_eq!(target, before.1);
    assert!(generation > before.0, "the table went on instead of beginning anew");
    index.apply(say("a", Some(sharing(9, &[]))));
    index.publish(2);
    assert_eq!(backends(&index).len(), 2);
    assert_eq!(desired(&index, "a"), desired(&index, "b"));
    // All of it goes with the last.
    index.apply(say("a", None));
    index.apply(say("b", None));
    index.apply(Update::Retired(source("a")));
    index.apply(Update::Retired(source("b")));
    index.publish(3);
    let left = index.current();
    assert!(left.services.is_empty() && left.targets.is_empty() && left.vips.is_empty());
    assert!(left.reports.is_empty() && index.services.is_empty());
}

#[test]
fn what_members_say_differently_is_led_by_the_oldest_and_told_at_the_other() {
    let mut other = sharing(2, &["192.0.2.7"]);
    other.algorithm = Algorithm::RoundRobin;
    exposure(&mut other).mode = Some(ForwardingMode::Proxy);
    exposure(&mut other).hostnames = vec!["other.example.com".into()];
    other.ports = vec![port("main", 80), port("extra", 8080)];
    let mut slice = slice(&[(1, true)]);
    slice.ports[0].name = "main".into();
    let mut index = shared([
        say("b", Some(other)),
        say("a", Some(sharing(1, &["192.0.2.7"]))),
        pods("a", &[(9, true)]),
    ]);
    index.apply(Update::Source(SourceUpdate::Slice {
        service: web("b"),
        slice: "web-1".into(),
        content: Some(Box::new(slice)),
    }));
    index.publish(0);
    let served = index.current().services.get(&key("192.0.2.7")).unwrap();
    assert_eq!((served.algorithm, served.asked_mode), (Algorithm::Hash, ForwardingMode::Nat));
    assert_eq!(served.backends.backends.len(), 2, "its port has another name and the same number");
    assert_eq!(index.current().services.len(), 1, "port 8080 is not the leader's");
    let names: Vec<&str> = index.current().hostnames.keys().map(|name| &**name).collect();
    assert_eq!(names, ["other.example.com", "www.example.com"]);
    assert!(told(&index, "a").is_empty());
    let faults = told(&index, "b");
    assert!(faults[0].contains("haflinger.dev/algorithm, haflinger.dev/mode"), "{faults:?}");
    assert!(faults[1].starts_with("port 8080/tcp is not one of cluster/a/"), "{faults:?}");
    let StatusAddress { ports, .. } = &report(&index, "b").desired[0];
    let errors: Vec<(u16, bool)> = ports.iter().map(|p| (p.port, p.error.is_some())).collect();
    assert_eq!(errors, [(80, false), (8080, true)]);
    assert!(report(&index, "a").desired[0].ports.is_empty());
}

#[test]
fn pods_whose_cluster_would_not_let_the_client_in_get_no_connection() {
    let ranges = |spec: &mut ServiceSpec| {
        exposure(spec).source_ranges = vec!["198.51.100.0/24".parse().unwrap()];
    };
    let header = |spec: &mut ServiceSpec| spec.proxy_protocol = ProxyProtocol::V2;
    for (change, field) in [
        (&ranges as &dyn Fn(&mut ServiceSpec), "spec.loadBalancerSourceRanges"),
        (&header, "haflinger.dev/proxy-protocol"),
    ] {
        let mut other = sharing(2, &["192.0.2.7"]);
        change(&mut other);
        let index = shared([
            say("a", Some(sharing(1, &["192.0.2.7"]))),
            say("b", Some(other)),
            pods("a", &[(1, true)]),
            pods("b", &[(1, true)]),
        ]);
        assert_eq!(backends(&index), [('a', 1, 100, Active)], "{field}");
        let faults = told(&index, "b");
        assert!(faults[0].starts_with(field) && faults[0].contains("no connection"), "{faults:?}");
        // Its address stays; its port is not served for it.
        let StatusAddress { ports, .. } = &report(&index, "b").desired[0];
        assert!(ports[0].error.is_some());
    }
}

#[test]
fn a_cluster_that_goes_its_own_way_gets_its_own_address() {
    let mut index = shared([
        say("a", Some(sharing(1, &["192.0.2.7"]))),
        say("b", Some(sharing(2, &["192.0.2.7"]))),
        pods("a", &[(1, true)]),
        pods("b", &[(1, true)]),
    ]);
    index.apply(say("b", Some(ServiceSpec { created_secs: 2, ..service(&["192.0.2.7"]) })));
    index.publish(1);
    assert_eq!(backends(&index), [('a', 1, 100, Active)]);
    let own = desired(&index, "b");
    assert!(own.len() == 1 && own != desired(&index, "a"), "{own:?}");
    assert_eq!(report(&index, "b").faults[0].reason, FaultReason::AddressTaken);
}

#[test]
fn pools_that_choose_by_namespaces_look_at_the_leaders() {
    let mut policy = (*policy()).clone();
    let test = crate::LabelTest::In(["x".into()].into());
    let requirements = vec![crate::LabelRequirement { key: "team".into(), test }];
    policy.pools[0].selects = PoolSelector {
        namespace_labels: vec![crate::LabelSelector { text: "team=x".into(), requirements }],
        ..PoolSelector::default()
    };
    policy.sources = CLUSTERS.map(source).to_vec();
    let mut index = shared([]);
    index.apply(Update::Policy(Arc::new(policy)));
    let labelled = |cluster: &str, team: &str| {
        Update::Source(SourceUpdate::Namespace {
            source: source(cluster),
            name: "default".into(),
            spec: Some(Box::new(NamespaceSpec {
                labels: Labels([("team".into(), Some(team.into()))].into()),
                ..NamespaceSpec::default()
            })),
        })
    };
    for update in [
        say("a", Some(sharing(1, &[]))),
        say("b", Some(sharing(2, &[]))),
        labelled("a", "y"),
        labelled("b", "x"),
    ] {
        index.apply(update);
        index.publish(0);
    }
    assert!(desired(&index, "a").is_empty() && desired(&index, "b").is_empty());
    index.apply(labelled("a", "x"));
    index.publish(0);
    assert_eq!(desired(&index, "b").len(), 1);
    index.apply(labelled("a", "y"));
    index.apply(say("a", None));
    index.publish(0);
    assert_eq!(desired(&index, "b").len(), 1, "b leads, and its namespace is labelled");
}

/// What a cluster says of its Service and, in a slice, of its pods; `None`: nothing.
type Facts = BTreeMap<usize, (Option<ServiceSpec>, Option<Vec<(u8, bool)>>)>;

/// A snapshot without what is history.
fn content(index: &Index) -> String {
    let snapshot = index.current();
    let services = snapshot.services.values().map(|service| {
        let members: Vec<_> = service.backends.table.shares().into_keys().collect();
        let (key, object) = (service.key, &service.object);
        let ranges = &service.source_ranges;
        let (mode, algorithm) = (service.asked_mode, service.algorithm);
        let backends = &service.backends.backends;
        format!("{key} {object} {mode} {algorithm:?} {ranges:?} {backends:?} {members:?}")
    });
    let targets: Vec<_> = snapshot.targets.keys().collect();
    format!(
        "{:#?} {targets:?} {:?} {:?} {:?} {:?}",
        services.collect::<Vec<_>>(),
        snapshot.vips,
        snapshot.hostnames,
        snapshot.reports,
        snapshot.probes.keys().collect::<Vec<_>>(),
    )
}

fn any_spec() -> impl Strategy<Value = ServiceSpec> {
    let recorded = prop_oneof![
        Just(vec![]),
        Just(vec!["192.0.2.7"]),
        Just(vec!["192.0.2.8"]),
        Just(vec!["192.0.2.7", "192.0.2.8"]),
    ];
    let ports = prop_oneof![
        Just(vec![port("web", 80)]),
        Just(vec![port("other", 80)]),
        Just(vec![port("web", 80), port("tls", 443)]),
    ];
    let shares = (prop_oneof![Just(0u16), Just(50), Just(100)], 0u16..3);
    (1i64..4, recorded, ports, prop::option::weighted(0.8, shares), any::<bool>(), 0u8..3).prop_map(
        |(created_secs, recorded, ports, shares, other, ranges)| {
            let mut spec = ServiceSpec { created_secs, ports, ..service(&recorded) };
            let exposure = exposure(&mut spec);
            exposure.share = shares.map(|(weight, priority)| ClusterShare { weight, priority });
            if other {
                exposure.hostnames = vec!["other.example.com".into()];
                exposure.family_policy = FamilyPolicy::Possible;
            }
            if ranges == 0 {
                exposure.source_ranges = vec!["198.51.100.0/24".parse().unwrap()];
            }
            spec
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn any_order_of_events_ends_in_what_the_clusters_say_at_last(
        events in prop::collection::vec(
            (0usize..3, prop_oneof![
                3 => prop::option::weighted(0.8, any_spec()).prop_map(Ok),
                2 => prop::collection::vec((1u8..4, any::<bool>()), 0..3).prop_map(Err),
            ], any::<bool>()),
            0..40,
        ),
    ) {
        let mut index = shared([]);
        let mut facts = Facts::new();
        for (at, event, publish) in events {
            let known = facts.entry(at).or_default();
            match event {
                Ok(spec) => {
                    known.0.clone_from(&spec);
                    index.apply(say(CLUSTERS[at], spec));
                }
                Err(ready) => {
                    known.1 = Some(ready.clone());
                    index.apply(pods(CLUSTERS[at], &ready));
                }
            }
            if publish {
                index.publish(0);
            }
        }
        index.publish(0);
        // The last cluster first, and the pods before their Services.
        let fresh = shared(facts.iter().rev().flat_map(|(at, (spec, ready))| {
            let pods = ready.as_ref().map(|ready| pods(CLUSTERS[*at], ready));
            pods.into_iter().chain([say(CLUSTERS[*at], spec.clone())])
        }));
        prop_assert_eq!(content(&index), content(&fresh));
    }
}
