//! Connections that nobody looks into: TCP and UDP listeners, and TLS by server name.

use super::*;
use crate::{HostMatch, Protocol, ServiceKey};

fn tcp(at: &str, port: u16) -> ListenerSpec {
    listener(at, port, ListenerProtocol::Tcp)
}

fn tls(at: &str, host: &str, passthrough: bool) -> ListenerSpec {
    let certificates = vec![CertificateChoice::Secret(certificate("default", "cert"))];
    let certificates = if passthrough { vec![] } else { certificates };
    let tls = Some(ListenerTlsSpec { passthrough, certificates, options: vec![] });
    let hostname = Some(host.into());
    ListenerSpec { hostname, tls, ..listener(at, 443, ListenerProtocol::Tls) }
}

fn set_stream(kind: ObjectKind, at: &str, spec: RouteSpec) -> Update {
    let object = name(kind, "default", at);
    Update::Source(SourceUpdate::Route { object, spec: Some(Box::new(spec)) })
}

fn stream(backends: Vec<BackendRefSpec>) -> RouteSpec {
    RouteSpec { rules: vec![rule("/", backends)], ..route("g", &[]) }
}

fn key(port: u16) -> ServiceKey {
    ServiceKey { vip: VIP.parse().unwrap(), port, protocol: Protocol::Tcp }
}

/// Backends of a port with their weights.
fn weights(index: &Index, port: u16) -> Vec<(String, u32)> {
    let Some(service) = index.current().services.get(&key(port)) else { return vec![] };
    let backends = service.backends.backends.iter();
    backends.map(|backend| (backend.address.to_string(), backend.weight)).collect()
}

fn pods(service: &str, last: &[u8]) -> [Update; 2] {
    let plain = crate::ServiceSpec { exposure: None, ..super::service(&[]) };
    let ready: Vec<(u8, bool)> = last.iter().map(|last| (*last, true)).collect();
    [set_service(service, Some(plain)), set_slice(service, Some(slice(&ready)))]
}

#[test]
fn a_tcp_route_becomes_a_service_with_the_shares_of_its_backends() {
    let route = stream(vec![backend("web", 70), backend("more", 35), backend("none", 0)]);
    let mut index = index(
        [
            set_gateway("g", Some(gateway(vec![tcp("tcp", 9000)]))),
            set_stream(ObjectKind::TcpRoute, "r", route),
        ]
        .into_iter()
        .chain(pods("more", &[2, 3]))
        .chain(pods("none", &[4])),
    );
    let expected = |pod: u8, weight: u32| (format!("10.0.0.{pod}:8080"), weight);
    assert_eq!(
        weights(&index, 9000),
        [expected(1, 1_000_000), expected(2, 250_000), expected(3, 250_000), expected(4, 0)]
    );
    let service = index.current().services.get(&key(9000)).unwrap();
    assert_eq!(service.object, gateway_name("g"));
    assert!(service.mode.is_xdp());
    assert_eq!(index.current().targets.len(), 1, "the Services themselves need no tables");
    index.apply(set_slice("more", Some(slice(&[(2, true), (3, false)]))));
    index.publish(1).unwrap();
    let now = weights(&index, 9000);
    assert_eq!(now[..2], [expected(1, 1_000_000), expected(2, 500_000)]);
    let told = parents_of(&index, &name(ObjectKind::TcpRoute, "default", "r"));
    assert_eq!(told, [ROUTE_GOOD]);
    assert_eq!(listeners_of(&index, &gateway_name("g")).0, GATEWAY_GOOD);
    index.apply(set_gateway("g", None));
    index.publish(2).unwrap();
    let left = index.current();
    assert!(left.services.is_empty() && left.targets.is_empty() && left.vips.is_empty());
    assert!(!index.services.contains_key(&gateway_name("g")));
}

#[test]
fn of_two_routes_on_a_tcp_listener_the_older_has_it_and_both_are_counted() {
    let old = RouteSpec { created_secs: 1, ..stream(vec![backend("web", 1)]) };
    let mut index = index(
        [
            set_gateway("g", Some(gateway(vec![tcp("tcp", 9000)]))),
            set_stream(ObjectKind::TcpRoute, "young", stream(vec![backend("more", 1)])),
            set_stream(ObjectKind::TcpRoute, "old", old),
        ]
        .into_iter()
        .chain(pods("more", &[2])),
    );
    assert_eq!(weights(&index, 9000), [("10.0.0.1:8080".to_owned(), 1_000_000)]);
    let (_, listeners) = listeners_of(&index, &gateway_name("g"));
    assert_eq!(listeners[0].attached_routes, 2);
    for at in ["old", "young"] {
        let object = name(ObjectKind::TcpRoute, "default", at);
        assert_eq!(parents_of(&index, &object), [ROUTE_GOOD]);
    }
    let object = name(ObjectKind::TcpRoute, "default", "old");
    index.apply(Update::Source(SourceUpdate::Route { object, spec: None }));
    index.publish(1).unwrap();
    assert_eq!(weights(&index, 9000), [("10.0.0.2:8080".to_owned(), 1_000_000)]);
}

#[test]
fn a_service_that_comes_later_is_found() {
    let index = &mut index([
        set_gateway("g", Some(gateway(vec![tcp("tcp", 9000)]))),
        set_stream(ObjectKind::TcpRoute, "r", stream(vec![backend("late", 1)])),
    ]);
    let object = name(ObjectKind::TcpRoute, "default", "r");
    assert_eq!(parents_of(index, &object)[0][1], "-ResolvedRefs BackendNotFound");
    assert!(weights(index, 9000).is_empty());
    pods("late", &[7]).into_iter().for_each(|update| index.apply(update));
    index.publish(1).unwrap();
    assert_eq!(parents_of(index, &object), [ROUTE_GOOD]);
    assert_eq!(weights(index, 9000), [("10.0.0.7:8080".to_owned(), 1_000_000)]);
}

#[test]
fn tls_is_ended_for_some_names_of_a_port_and_passed_on_for_others() {
    let mut ended = stream(vec![backend("web", 1)]);
    (ended.hostnames, ended.parents[0].section) = (vec!["a.test".into()], Some("ends".into()));
    let mut passed = stream(vec![backend("web", 1), backend("missing", 1)]);
    (passed.hostnames, passed.parents[0].section) =
        (vec!["*.b.test".into(), "x.b.test".into()], Some("passes".into()));
    let listeners = vec![tls("ends", "a.test", false), tls("passes", "*.b.test", true)];
    let index = index([
        set_gateway("g", Some(gateway(listeners))),
        set_certificate("default", "cert"),
        set_stream(ObjectKind::TlsRoute, "ended", ended),
        set_stream(ObjectKind::TlsRoute, "passed", passed),
    ]);
    let listener = listening(&index, 443).unwrap();
    assert!(listener.tls);
    let [ends, passes] = &listener.sections[..] else { panic!("{listener:?}") };
    assert!(ends.tls.is_some() && passes.tls.is_none());
    let Serves::Streams(rules) = &passes.serves else { panic!("{passes:?}") };
    let hosts: Vec<&HostMatch> = rules.iter().map(|rule| &rule.host).collect();
    let suffix = HostMatch::Suffix("b.test".into());
    assert_eq!(hosts, [&HostMatch::Exact("x.b.test".into()), &suffix]);
    let found: Vec<(u32, bool)> =
        rules[0].backends.iter().map(|(weight, target)| (*weight, target.is_some())).collect();
    assert_eq!(found, [(1, true), (1, false)]);
    let (_, listeners) = listeners_of(&index, &gateway_name("g"));
    assert!(listeners.iter().all(|at| said(&at.conditions)[..] == LISTENER_GOOD));
    assert!(listeners.iter().all(|at| at.kinds == ["TLSRoute".into()]));
}

#[test]
fn a_route_of_another_kind_than_the_listener_carries_is_not_allowed() {
    let index = index([
        set_gateway("g", Some(gateway(vec![tcp("tcp", 9000)]))),
        set_route("r", Some(route("g", &[]))),
    ]);
    assert_eq!(parents_of(&index, &route_name("r"))[0][0], "-Accepted NotAllowedByListeners");
}
