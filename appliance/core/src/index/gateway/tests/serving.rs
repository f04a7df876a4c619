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
