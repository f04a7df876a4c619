//! Listeners that cannot be told apart, and ListenerSets.

use super::*;

fn refused(listeners: &[ListenerStatus]) -> Vec<String> {
    listeners.iter().map(|listener| said(&listener.conditions)[0].clone()).collect()
}

fn open_to_sets(listeners: Vec<ListenerSpec>) -> GatewaySpec {
    GatewaySpec { allowed_sets: NamespaceChoice::Same, ..gateway(listeners) }
}

#[test]
fn listeners_of_one_object_that_conflict_all_lose() {
    let listeners = vec![
        http("a", Some("a.test")),
        http("b", Some("b.test")),
        http("b2", Some("b.test")),
        listener("tcp", 81, ListenerProtocol::Tcp),
        listener("http", 81, ListenerProtocol::Http),
        listener("udp", 81, ListenerProtocol::Udp),
        listener("odd", 82, ListenerProtocol::Other("SCTP".into())),
    ];
    let index = index([set_gateway("g", Some(gateway(listeners)))]);
    let (conditions, listeners) = listeners_of(&index, &gateway_name("g"));
    assert_eq!(
        refused(&listeners),
        [
            "+Accepted Accepted",
            "-Accepted HostnameConflict",
            "-Accepted HostnameConflict",
            "-Accepted ProtocolConflict",
            "-Accepted ProtocolConflict",
            "+Accepted Accepted",
            "-Accepted UnsupportedProtocol",
        ]
    );
    let told = said(&listeners[1].conditions);
    assert_eq!(told[1], "-Programmed HostnameConflict");
    assert_eq!(told[3], "+Conflicted HostnameConflict");
    assert_eq!(conditions[0], "+Accepted ListenersNotValid");
    assert_eq!(conditions[1], "+Programmed Programmed");
    assert_eq!(listening(&index, 80).unwrap().sections.len(), 1);
    assert!(listening(&index, 81).is_none());
}

#[test]
fn a_gateway_without_a_valid_listener_is_not_accepted() {
    let odd = listener("odd", 82, ListenerProtocol::Other("SCTP".into()));
    let index = index([set_gateway("g", Some(gateway(vec![odd])))]);
    let (conditions, listeners) = listeners_of(&index, &gateway_name("g"));
    assert_eq!(conditions[..2], ["-Accepted ListenersNotValid", "-Programmed Invalid"]);
    assert_eq!(listeners[0].kinds, Vec::<Arc<str>>::new());
}

#[test]
fn the_gateway_comes_before_its_sets_and_older_sets_before_younger() {
    let shared = |at: &str| vec![http(at, Some("shared.test"))];
    let young = ListenerSetSpec { created_secs: 30, ..listener_set("g", shared("young")) };
    let mut old = listener_set("g", shared("old"));
    old.listeners.push(http("own", Some("gateway.test")));
    let index = index([
        set_gateway("g", Some(open_to_sets(vec![http("gateway", Some("gateway.test"))]))),
        set_set("a-young", Some(young)),
        set_set("z-old", Some(old)),
    ]);
    let set = |at: &str| listeners_of(&index, &name(ObjectKind::ListenerSet, "default", at));
    let (conditions, listeners) = set("z-old");
    assert_eq!(conditions, ["+Accepted ListenersNotValid", "+Programmed Programmed"]);
    assert_eq!(refused(&listeners), ["+Accepted Accepted", "-Accepted HostnameConflict"]);
    let (conditions, listeners) = set("a-young");
    assert_eq!(conditions, ["-Accepted ListenersNotValid", "-Programmed ListenersNotValid"]);
    assert_eq!(refused(&listeners), ["-Accepted HostnameConflict"]);
    let report = report(&index, &gateway_name("g"));
    let Some(ApiStatus::Listeners { attached_sets, listeners, .. }) = report.status.as_deref()
    else {
        panic!("{report:?}")
    };
    assert_eq!((*attached_sets, listeners.len()), (Some(1), 1));
    assert_eq!(listening(&index, 80).unwrap().sections.len(), 2);
}

#[test]
fn a_listener_that_lost_to_an_earlier_object_harms_no_other_of_its_own() {
    let mut set = listener_set("g", vec![http("own", Some("own.test"))]);
    set.listeners.push(listener("tcp", 80, ListenerProtocol::Tcp));
    let index = index([
        set_gateway("g", Some(open_to_sets(vec![http("gateway", None)]))),
        set_set("set", Some(set)),
    ]);
    let set = name(ObjectKind::ListenerSet, "default", "set");
    let (conditions, listeners) = listeners_of(&index, &set);
    assert_eq!(refused(&listeners), ["+Accepted Accepted", "-Accepted ProtocolConflict"]);
    assert_eq!(conditions, ["+Accepted ListenersNotValid", "+Programmed Programmed"]);
}

#[test]
fn a_set_without_any_certificate_that_it_may_have_is_refused() {
    let index = index([
        set_gateway("g", Some(open_to_sets(vec![http("gateway", None)]))),
        set_set("set", Some(listener_set("g", vec![https("own", Some("own.test"), "gone")]))),
    ]);
    let set = name(ObjectKind::ListenerSet, "default", "set");
    let (conditions, listeners) = listeners_of(&index, &set);
    assert_eq!(conditions, ["-Accepted ListenersNotValid", "-Programmed ListenersNotValid"]);
    assert_eq!(refused(&listeners), ["+Accepted Accepted"], "the listener itself is");
}

#[test]
fn a_set_that_is_not_let_in_has_no_listeners() {
    let mut to_set = route("g", &[]);
    to_set.parents = vec![parent(name(ObjectKind::ListenerSet, "default", "s"), None)];
    let index = index([
        set_gateway("g", Some(gateway(vec![http("gateway", None)]))),
        set_set("s", Some(listener_set("g", vec![http("s", Some("s.test"))]))),
        set_route("r", Some(to_set)),
    ]);
    let (conditions, listeners) =
        listeners_of(&index, &name(ObjectKind::ListenerSet, "default", "s"));
    assert_eq!(conditions, ["-Accepted NotAllowed", "-Programmed NotAllowed"]);
    assert!(listeners.is_empty());
    assert_eq!(parents_of(&index, &route_name("r"))[0][0], "-Accepted NoMatchingParent");
    assert!(rules(&index, 80).is_empty());
}

#[test]
fn overlapping_names_behind_tls_are_told_on_both_sides() {
    let listeners = vec![
        https("exact", Some("a.example.test"), "cert"),
        https("other", Some("a.example.org"), "cert"),
        https("wide", Some("*.test"), "cert"),
    ];
    let index =
        index([set_gateway("g", Some(gateway(listeners))), set_certificate("default", "cert")]);
    let (_, listeners) = listeners_of(&index, &gateway_name("g"));
    let overlapping: Vec<bool> = listeners
        .iter()
        .map(|at| {
            said(&at.conditions).contains(&"+OverlappingTLSConfig OverlappingHostnames".into())
        })
        .collect();
    assert_eq!(overlapping, [true, false, true]);
}

#[test]
fn a_port_that_an_older_gateway_has_is_unavailable() {
    use crate::{Sharing, SharingNamespaces};
    let sharing = Some(Arc::new(Sharing {
        key: "one".into(),
        namespaces: SharingNamespaces::Any,
        backends: None,
    }));
    let shared = |listeners: Vec<ListenerSpec>, created_secs: i64| {
        let wish = AddressWish { sharing: sharing.clone(), ..AddressWish::default() };
        GatewaySpec { wish, created_secs, ..gateway(listeners) }
    };
    let young = vec![http("web", None), listener("more", 81, ListenerProtocol::Http)];
    let mut index = index([
        set_gateway("young", Some(shared(young, 20))),
        set_gateway("old", Some(shared(vec![http("web", None)], 10))),
    ]);
    let (conditions, listeners) = listeners_of(&index, &gateway_name("young"));
    assert_eq!(conditions[..2], ["+Accepted ListenersNotValid", "+Programmed Programmed"]);
    assert_eq!(said(&listeners[0].conditions)[0], "-Accepted PortUnavailable");
    let origin = |index: &Index, port| {
        let listener = listening(index, port).unwrap();
        listener.sections[0].origin.clone().unwrap().object
    };
    assert_eq!(origin(&index, 80), gateway_name("old"));
    assert_eq!(origin(&index, 81), gateway_name("young"));
    index.apply(set_gateway("old", None));
    index.publish(1).unwrap();
    assert_eq!(origin(&index, 80), gateway_name("young"));
    assert_eq!(listeners_of(&index, &gateway_name("young")).0, GATEWAY_GOOD);
}
