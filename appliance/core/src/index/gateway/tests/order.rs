//! The order of events makes no difference.

use proptest::prelude::*;

use super::own_policies::{
    asks, body_max, named_filter, set_backend_policy, set_request_policy, target,
};
use super::*;
use crate::{GrantFrom, GrantTo, UpstreamProtocol};

fn any_listeners() -> impl Strategy<Value = Vec<ListenerSpec>> {
    let host = prop::option::of(prop::sample::select(vec!["a.test", "*.test", "b.test"]));
    let secret = prop::sample::select(vec!["one", "two"]);
    let listener = (0..4_u8, host, secret).prop_map(|(kind, host, secret)| match kind {
        0 => http("http", host),
        1 => https("https", host, secret),
        2 => listener("tcp", 80, ListenerProtocol::Tcp),
        _ => listener("other", 9000, ListenerProtocol::Tcp),
    });
    prop::collection::vec(listener, 1..3)
}

fn any_gateway() -> impl Strategy<Value = Update> {
    let spec = (any_listeners(), any::<bool>()).prop_map(|(listeners, open)| GatewaySpec {
        allowed_sets: if open { NamespaceChoice::All } else { NamespaceChoice::None },
        ..gateway(listeners)
    });
    (0..2_u8, prop::option::of(spec)).prop_map(|(at, spec)| {
        let recorded = vec![format!("192.0.2.{}", 9 + at).parse().unwrap()];
        let spec = spec.map(|spec| GatewaySpec { recorded, ..spec });
        set_gateway(&format!("g{at}"), spec)
    })
}

fn any_set() -> impl Strategy<Value = Update> {
    let spec = (any_listeners(), 0..2_u8, 0..3_i64).prop_map(|(listeners, parent, created)| {
        let set = listener_set(&format!("g{parent}"), listeners);
        ListenerSetSpec { created_secs: created, ..set }
    });
    (0..2_u8, prop::option::of(spec)).prop_map(|(at, spec)| set_set(&format!("s{at}"), spec))
}

fn any_route() -> impl Strategy<Value = Update> {
    let parent = prop_oneof![
        (0..2_u8).prop_map(|at| gateway_name(&format!("g{at}"))),
        (0..2_u8).prop_map(|at| name(ObjectKind::ListenerSet, "default", &format!("s{at}"))),
    ];
    let backend = prop_oneof![
        Just(backend("web", 1)),
        Just(backend("other", 2)),
        Just(BackendRefSpec {
            backend: BackendRef::Service {
                object: ObjectRef::service(&cluster(), "there", "web"),
                port: Some(80),
            },
            weight: 1,
            filters: vec![],
        }),
    ];
    let filter = prop::option::of(prop::sample::select(vec!["p0", "p1"]).prop_map(named_filter));
    let spec = (parent, backend, 0..3_i64, any::<bool>(), filter).prop_map(
        |(to, backend, created_secs, named, filter)| RouteSpec {
            parents: vec![super::parent(to, None)],
            created_secs,
            rules: vec![RouteRuleSpec {
                name: named.then(|| "rule".into()),
                filters: filter.into_iter().collect(),
                ..rule("/", vec![backend])
            }],
            ..route("g0", if named { &["a.test"] } else { &[] })
        },
    );
    (0..3_u8, any::<bool>(), prop::option::of(spec)).prop_map(|(at, tcp, spec)| {
        let kind = if tcp { ObjectKind::TcpRoute } else { ObjectKind::HttpRoute };
        let object = name(kind, "default", &format!("r{at}"));
        Update::Source(SourceUpdate::Route { object, spec: spec.map(Box::new) })
    })
}

fn any_other() -> impl Strategy<Value = Update> {
    let grant = |there: bool| {
        let kind = "HTTPRoute".into();
        let group = "gateway.networking.k8s.io".into();
        let from = vec![GrantFrom { group, kind, namespace: "default".into() }];
        let to = vec![GrantTo { group: "".into(), kind: "Service".into(), name: None }];
        let object = name(ObjectKind::ReferenceGrant, "there", "grant");
        let spec = there.then(|| Box::new(ReferenceGrantSpec { from, to }));
        Update::Source(SourceUpdate::ReferenceGrant { object, spec })
    };
    let plain = || crate::ServiceSpec { exposure: None, ..service(&[]) };
    prop_oneof![
        any::<bool>().prop_map(grant),
        prop::sample::select(vec!["one", "two"]).prop_map(|at| set_certificate("default", at)),
        any::<bool>().prop_map(move |there| set_service("other", there.then(plain))),
        (0..3_u8).prop_map(|pods| {
            let ready: Vec<(u8, bool)> = (0..pods).map(|pod| (pod + 10, true)).collect();
            set_slice("other", Some(slice(&ready)))
        }),
        any::<bool>().prop_map(move |there| {
            let object = ObjectRef::service(&cluster(), "there", "web");
            let spec = there.then(|| Box::new(plain()));
            Update::Source(SourceUpdate::Service { object, spec })
        }),
    ]
}

fn any_policy() -> impl Strategy<Value = Update> {
    let place = prop_oneof![
        Just(target(gateway_name("g0"), None)),
        Just(target(gateway_name("g0"), Some("http"))),
        Just(target(name(ObjectKind::ListenerSet, "default", "s0"), None)),
        Just(target(route_name("r0"), None)),
        Just(target(route_name("r0"), Some("rule"))),
    ];
    let places = prop::collection::vec(place, 0..3);
    let spec = (places, 0..2_i64, 0..9_u64).prop_map(|(places, created, size)| {
        let mut spec = asks(created, places, body_max(size));
        if size == 0 {
            let message = "spec.bodyMax: is no size";
            spec.faults = vec![crate::SourceFault::new(crate::FaultReason::InvalidField, message)];
        }
        spec
    });
    let of_requests = (0..3_u8, prop::option::of(spec))
        .prop_map(|(at, spec)| set_request_policy(&format!("p{at}"), spec));
    let section = prop::option::of(Just("web"));
    let spec = (section, 0..2_i64, any::<bool>()).prop_map(|(section, created, second)| {
        let speaks = if second { UpstreamProtocol::Http2 } else { UpstreamProtocol::Http1 };
        let wishes = BackendWishes { speaks: Some(speaks), ..BackendWishes::default() };
        asks(created, vec![target(object("other"), section)], wishes)
    });
    let of_backends = (0..2_u8, prop::option::of(spec))
        .prop_map(|(at, spec)| set_backend_policy(&format!("b{at}"), spec));
    prop_oneof![2 => of_requests, 1 => of_backends]
}

fn any_update() -> impl Strategy<Value = Update> {
    prop_oneof![
        3 => any_gateway(),
        2 => any_set(),
        3 => any_route(),
        2 => any_other(),
        2 => any_policy(),
    ]
}

/// What an update is about.
fn subject(update: &Update) -> String {
    let Update::Source(update) = update else { panic!("{update:?}") };
    match update {
        SourceUpdate::Slice { slice, .. } => format!("slice {slice}"),
        SourceUpdate::Certificate { certificate, .. } => certificate.to_string(),
        SourceUpdate::Service { object, .. }
        | SourceUpdate::Gateway { object, .. }
        | SourceUpdate::ListenerSet { object, .. }
        | SourceUpdate::Route { object, .. }
        | SourceUpdate::RequestPolicy { object, .. }
        | SourceUpdate::BackendPolicy { object, .. }
        | SourceUpdate::ReferenceGrant { object, .. } => object.to_string(),
        other => panic!("{other:?}"),
    }
}

/// Everything that is published, but for tables, which have a history.
fn picture(index: &Index) -> String {
    let now = index.current();
    let services = now.services.values().map(|service| {
        (service.key, service.object.clone(), service.mode, service.backends.backends.clone())
    });
    let services: Vec<_> = services.collect();
    let targets: Vec<_> = now.targets.values().map(|set| (&set.target, &set.backends)).collect();
    let certificates: Vec<_> = now.certificates.keys().collect();
    format!(
        "{services:#?} {targets:#?} {certificates:#?} {:#?} {:#?} {:#?} {:#?}",
        now.http, now.vips, now.hostnames, now.reports
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    #[test]
    fn any_order_of_events_ends_as_a_fresh_list(
        updates in prop::collection::vec(any_update(), 1..30),
        publish_every in 1..5_usize,
    ) {
        let mut lived = index([]);
        for (at, update) in updates.iter().enumerate() {
            lived.apply(update.clone());
            if at % publish_every == 0 {
                lived.publish(at as u64);
            }
        }
        lived.publish(100);
        prop_assert!(lived.publish(101).is_none(), "nothing is left to be done");
        let last: BTreeMap<String, Update> =
            updates.into_iter().map(|update| (subject(&update), update)).collect();
        let fresh = index(last.values().cloned());
        let reversed = index(last.values().rev().cloned());
        prop_assert_eq!(picture(&fresh), picture(&reversed));
        prop_assert_eq!(picture(&fresh), picture(&lived));
    }
}
