//! What is served, and where.

use super::*;
use crate::{Announcement, HostMatch};

#[test]
fn a_route_on_an_http_listener_is_served_and_everybody_is_told() {
    let index = index([
        set_gateway("g", Some(gateway(vec![http("web", Some("*.example.com"))]))),
        set_route("r", Some(route("g", &["www.example.com", "other.test"]))),
    ]);
    let rules = rules(&index, 80);
    let [rule] = &rules[..] else { panic!("{rules:?}") };
    assert_eq!(rule.host, HostMatch::Exact("www.example.com".into()));
    let upstream = rule.action.backends[0].to.as_ref().unwrap();
    assert!(index.current().targets.get(&upstream.target).unwrap().is_available());
    let vip = index.current().vips.get(&at(80).ip()).unwrap();
    assert_eq!(vip.announcement, Announcement::Announced);
    let names: Vec<&str> = index.current().hostnames.keys().map(|name| &**name).collect();
    assert_eq!(names, ["*.example.com", "www.example.com"]);
    let (conditions, listeners) = listeners_of(&index, &gateway_name("g"));
    assert_eq!(conditions, GATEWAY_GOOD);
    assert_eq!(said(&listeners[0].conditions), LISTENER_GOOD);
    assert_eq!(listeners[0].attached_routes, 1);
    let kinds: Vec<&str> = listeners[0].kinds.iter().map(|kind| &**kind).collect();
    assert_eq!(kinds, ["GRPCRoute", "HTTPRoute"]);
    assert!(listeners[0].conditions.iter().all(|condition| condition.generation == 3));
    assert_eq!(parents_of(&index, &route_name("r")), [ROUTE_GOOD]);
}

#[test]
fn nothing_is_served_before_the_status_records_the_address() {
    let spec = GatewaySpec { recorded: vec![], ..gateway(vec![http("web", None)]) };
    let mut index = index([set_gateway("g", Some(spec)), set_route("r", Some(route("g", &[])))]);
    let told = report(&index, &gateway_name("g"));
    assert_eq!(told.desired.len(), 1, "an address is proposed");
    assert!(index.current().http.is_empty());
    let (conditions, listeners) = listeners_of(&index, &gateway_name("g"));
    assert_eq!(conditions[1], "-Programmed AddressNotAssigned");
    assert_eq!(said(&listeners[0].conditions)[1], "-Programmed Pending");
    let recorded = vec![told.desired[0].address];
    let spec = GatewaySpec { recorded, ..gateway(vec![http("web", None)]) };
    index.apply(set_gateway("g", Some(spec)));
    index.publish(1).unwrap();
    assert_eq!(index.current().http.len(), 1);
    assert_eq!(listeners_of(&index, &gateway_name("g")).0, GATEWAY_GOOD);
}

#[test]
fn a_gateway_that_leads_to_nobody_is_announced_so_that_clients_hear_it() {
    let announced = |index: &Index| index.current().vips.get(&at(80).ip()).unwrap().announcement;
    let mut index = index([set_gateway("g", Some(gateway(vec![http("web", None)])))]);
    assert_eq!(announced(&index), Announcement::Announced, "everything is answered with 404");
    let missing = RouteSpec { rules: vec![rule("/", vec![backend("gone", 1)])], ..route("g", &[]) };
    index.apply(set_route("r", Some(missing)));
    index.publish(1).unwrap();
    assert_eq!(announced(&index), Announcement::Announced, "everything is answered with 500");
    index.apply(set_route("r", Some(route("g", &[]))));
    index.apply(set_slice("web", Some(slice(&[(1, false)]))));
    index.publish(2).unwrap();
    assert_eq!(announced(&index), Announcement::NoBackend, "another host may have one");
}

#[test]
fn a_gateway_of_a_foreign_class_is_left_alone_until_the_class_is_ours() {
    let spec = GatewaySpec { class: "other".into(), ..gateway(vec![http("web", None)]) };
    let mut index = index([set_gateway("g", Some(spec)), set_route("r", Some(route("g", &[])))]);
    assert!(index.current().http.is_empty());
    assert!(!index.current().reports.contains_key(&gateway_name("g")));
    assert!(!index.current().reports.contains_key(&route_name("r")));
    let object = name(ObjectKind::GatewayClass, "", "other");
    let ours = GatewayClassSpec { generation: 1, parameters: None, recorded_status: None };
    let spec = Some(Box::new(ours));
    index.apply(Update::Source(SourceUpdate::GatewayClass { object: object.clone(), spec }));
    index.publish(1).unwrap();
    assert_eq!(index.current().http.len(), 1);
    assert_eq!(parents_of(&index, &route_name("r")), [ROUTE_GOOD]);
    index.apply(Update::Source(SourceUpdate::GatewayClass { object, spec: None }));
    index.publish(2).unwrap();
    assert!(index.current().http.is_empty());
    assert!(!index.current().reports.contains_key(&route_name("r")));
}

#[test]
fn a_gateway_that_goes_leaves_nothing_behind() {
    let mut index = index([
        set_gateway("g", Some(gateway(vec![https("web", None, "cert")]))),
        set_certificate("default", "cert"),
        set_route("r", Some(route("g", &["www.example.com"]))),
    ]);
    assert_eq!(index.current().certificates.len(), 1);
    assert_eq!(index.current().targets.len(), 1);
    index.apply(set_gateway("g", None));
    index.publish(1).unwrap();
    let left = index.current();
    assert!(left.http.is_empty() && left.vips.is_empty() && left.hostnames.is_empty());
    assert!(left.certificates.is_empty() && left.targets.is_empty());
    assert!(!left.reports.contains_key(&gateway_name("g")));
    assert!(!left.reports.contains_key(&route_name("r")));
}

#[test]
fn each_listener_has_its_own_rules() {
    let mut only = route("g", &[]);
    only.parents = vec![parent(gateway_name("g"), Some("one"))];
    let index = index([
        set_gateway("g", Some(gateway(vec![http("one", Some("a.test")), http("two", None)]))),
        set_route("everywhere", Some(route("g", &[]))),
        set_route("only", Some(only)),
    ]);
    let listener = listening(&index, 80).unwrap();
    let counts: Vec<usize> = listener
        .sections
        .iter()
        .map(|section| match &section.serves {
            Serves::Requests(rules) => rules.len(),
            Serves::Streams(_) => 0,
        })
        .collect();
    assert_eq!(counts, [2, 1]);
    assert_eq!(listener.sections[0].host, HostMatch::Exact("a.test".into()));
    let (_, listeners) = listeners_of(&index, &gateway_name("g"));
    let attached: Vec<u32> = listeners.iter().map(|listener| listener.attached_routes).collect();
    assert_eq!(attached, [2, 1]);
}

#[test]
fn rules_come_by_precedence_then_age_then_name() {
    let old = RouteSpec { created_secs: 1, ..route("g", &[]) };
    let mut long = route("g", &[]);
    long.rules = vec![rule("/", vec![]), rule("/long", vec![])];
    let index = index([
        set_gateway("g", Some(gateway(vec![http("web", None)]))),
        set_route("z", Some(old)),
        set_route("b", Some(route("g", &[]))),
        set_route("a", Some(long)),
        set_route("host", Some(route("g", &["a.test"]))),
    ]);
    let rules = rules(&index, 80);
    let order: Vec<(&str, &str)> =
        rules.iter().map(|rule| (&*rule.object.name, rule.matches.path.as_str())).collect();
    assert_eq!(order, [("host", "/"), ("a", "/long"), ("z", "/"), ("a", "/"), ("b", "/")]);
}

#[test]
fn a_backend_that_cannot_be_had_keeps_its_share() {
    let mut spec = route("g", &[]);
    spec.rules = vec![rule("/", vec![backend("web", 3), backend("missing", 1)])];
    let mut index = index([
        set_gateway("g", Some(gateway(vec![http("web", None)]))),
        set_route("r", Some(spec)),
    ]);
    let shares = |index: &Index| {
        let rules = rules(index, 80);
        let backends = rules[0].action.backends.iter();
        backends.map(|b| (b.weight, b.to.as_ref().err().copied())).collect::<Vec<_>>()
    };
    assert_eq!(shares(&index), [(3, None), (1, Some(500))]);
    let told = parents_of(&index, &route_name("r"));
    assert_eq!(told, [["+Accepted Accepted", "-ResolvedRefs BackendNotFound"]]);
    let plain = crate::ServiceSpec { exposure: None, ..service(&[]) };
    index.apply(set_service("missing", Some(plain)));
    index.publish(1).unwrap();
    assert_eq!(shares(&index), [(3, None), (1, None)]);
    assert_eq!(parents_of(&index, &route_name("r")), [ROUTE_GOOD]);
}

#[test]
fn a_change_costs_the_gateways_that_it_concerns() {
    let second = GatewaySpec {
        recorded: vec!["192.0.2.10".parse().unwrap()],
        ..gateway(vec![http("web", None)])
    };
    let mut index = index([
        set_gateway("g", Some(gateway(vec![http("web", None)]))),
        set_gateway("h", Some(second)),
        set_route("r", Some(route("g", &[]))),
        set_route("s", Some(route("h", &[]))),
    ]);
    let mut cost = |update: Update| {
        let before = index.gateway_builds();
        index.apply(update);
        index.publish(1);
        index.gateway_builds() - before
    };
    assert_eq!(cost(set_route("r", Some(route("g", &["a.test"])))), 1);
    assert_eq!(cost(set_route("r", Some(route("g", &["a.test"])))), 0, "nothing is new");
    let recorded_status = Some(Box::new(ApiStatus::Route(vec![])));
    let told = RouteSpec { recorded_status, ..route("g", &["a.test"]) };
    assert_eq!(cost(set_route("r", Some(told))), 0, "a status was written");
    assert_eq!(cost(set_slice("web", Some(slice(&[(1, false), (2, true)])))), 0, "a pod came");
    assert_eq!(cost(set_certificate("default", "unused")), 0);
    assert_eq!(cost(set_service("web", None)), 2);
}

#[test]
fn a_listener_whose_socket_cannot_be_opened_is_told_why() {
    let mut index = index([set_gateway("g", Some(gateway(vec![http("web", None)])))]);
    let listener = crate::ServiceKey { vip: at(80).ip(), port: 80, protocol: crate::Protocol::Tcp };
    let fault = Some("address in use".into());
    index.apply(Update::Served { listener, fault });
    index.publish(1).unwrap();
    let (conditions, listeners) = listeners_of(&index, &gateway_name("g"));
    assert_eq!(conditions[..2], ["+Accepted Accepted", "-Programmed Invalid"]);
    let programmed = &listeners[0].conditions[1];
    assert_eq!(said(std::slice::from_ref(programmed)), ["-Programmed Invalid"]);
    assert!(programmed.message.contains("address in use"), "{programmed:?}");
}

#[test]
fn addresses_are_served_as_asked_for_or_told_why_not() {
    let with = |foreign: &[&str], requested: &[&str], recorded: &[&str]| GatewaySpec {
        foreign_addresses: foreign.iter().map(|text| (*text).into()).collect(),
        requested: requested.iter().map(|text| text.parse().unwrap()).collect(),
        recorded: recorded.iter().map(|text| text.parse().unwrap()).collect(),
        ..gateway(vec![http("web", None)])
    };
    let (inside, outside) = ("192.0.2.77", "203.0.113.7");
    let first = with(&["odd/type x"], &[outside, inside], &[]);
    let mut index = index([set_gateway("g", Some(first))]);
    let told = |index: &Index| {
        let desired = report(index, &gateway_name("g")).desired.clone();
        let desired: Vec<String> = desired.iter().map(|a| a.address.to_string()).collect();
        (listeners_of(index, &gateway_name("g")).0[..2].to_vec(), desired)
    };
    assert_eq!(told(&index).0, ["-Accepted UnsupportedAddress", "-Programmed Invalid"]);
    index.apply(set_gateway("g", Some(with(&[], &[outside, inside], &[inside]))));
    index.publish(1).unwrap();
    let (conditions, desired) = told(&index);
    assert_eq!(conditions, ["+Accepted Accepted", "-Programmed AddressNotUsable"]);
    assert_eq!(desired, [inside]);
    index.apply(set_gateway("g", Some(with(&[], &[inside], &[inside]))));
    index.publish(2).unwrap();
    let (conditions, desired) = told(&index);
    assert_eq!(conditions, GATEWAY_GOOD[..2]);
    assert_eq!(desired, [inside]);
}

#[test]
fn an_older_ingress_keeps_its_port_from_a_gateway_on_its_address() {
    use crate::{IngressSpec, Sharing, SharingNamespaces};
    let namespaces = SharingNamespaces::Any;
    let sharing = Arc::new(Sharing { key: "one".into(), namespaces, backends: None });
    let wish = AddressWish { sharing: Some(sharing), ..AddressWish::default() };
    let spec = IngressSpec {
        created_secs: 1,
        requested: vec![VIP.parse().unwrap()],
        recorded: vec![VIP.parse().unwrap()],
        wish: wish.clone(),
        ..super::super::super::tests::ingress("a.test", "web")
    };
    let ingress = SourceUpdate::Ingress {
        object: ObjectRef::ingress(&cluster(), "default", "i"),
        spec: Some(Box::new(spec)),
    };
    let listeners = vec![http("web", None), listener("more", 81, ListenerProtocol::Http)];
    let spec = GatewaySpec { wish, ..gateway(listeners) };
    let index = index([Update::Source(ingress), set_gateway("g", Some(spec))]);
    assert!(listening(&index, 80).unwrap().sections[0].origin.is_none());
    assert!(listening(&index, 81).unwrap().sections[0].origin.is_some());
    let (_, listeners) = listeners_of(&index, &gateway_name("g"));
    assert_eq!(said(&listeners[0].conditions)[0], "-Accepted PortUnavailable");
    assert_eq!(said(&listeners[1].conditions), LISTENER_GOOD);
}

#[test]
fn a_class_with_parameters_is_told_that_nobody_reads_them() {
    let object = name(ObjectKind::GatewayClass, "", "edge");
    let spec = GatewayClassSpec {
        generation: 7,
        parameters: Some("example/Kind x".into()),
        recorded_status: None,
    };
    let spec = Some(Box::new(spec));
    let mut index = index([]);
    let told = |index: &Index| {
        let report = report(index, &object);
        let Some(ApiStatus::Class { conditions, features }) = report.status.as_deref() else {
            panic!("{report:?}")
        };
        assert_eq!(features.len(), SUPPORTED_FEATURES.len());
        said(conditions)
    };
    assert_eq!(told(&index), ["+Accepted Accepted"]);
    let object = object.clone();
    index.apply(Update::Source(SourceUpdate::GatewayClass { object, spec }));
    index.publish(1).unwrap();
    assert_eq!(told(&index), ["-Accepted InvalidParameters"]);
}
