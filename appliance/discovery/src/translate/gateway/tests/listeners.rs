use super::*;

#[test]
fn a_class_is_told_when_its_controller_is_ours() {
    let class = |controller: &str| {
        told(
            Watched::GatewayClasses,
            json!({
                "metadata": {"name": "edge", "namespace": "", "generation": 3},
                "spec": {"controllerName": controller, "description": "the edge",
                         "parametersRef": {"group": "example.org", "kind": "Config", "name": "a"}},
                "status": {
                    "conditions": [written_condition("Accepted", "True", 3)],
                    "supportedFeatures": [{"name": "HTTPRoute"}, {"name": "Gateway"}, 7],
                },
            }),
        )
    };
    assert_eq!(class("example.org/other"), None);
    let expected = GatewayClassSpec {
        generation: 3,
        parameters: Some("example.org/Config a".into()),
        recorded_status: Some(Box::new(ApiStatus::Class {
            conditions: vec![condition("Accepted", Holds::True, 3)],
            features: vec!["Gateway".into(), "HTTPRoute".into()],
        })),
    };
    assert_eq!(
        class("haflinger.dev/gateway"),
        Some(SourceUpdate::GatewayClass {
            object: object(ObjectKind::GatewayClass, "", "edge"),
            spec: Some(Box::new(expected)),
        })
    );
}

/// A Gateway that says everything.
fn full() -> Value {
    json!({
        "metadata": {
            "generation": 7, "creationTimestamp": "2026-01-02T03:04:05Z",
            "annotations": {"haflinger.dev/pool": "public", "haflinger.dev/ttl": "5m"},
        },
        "spec": {
            "gatewayClassName": "edge",
            "addresses": [{"type": "IPAddress", "value": "192.0.2.7"},
                          {"value": "2001:db8::7"}, {"type": "IPAddress"},
                          {"type": "Hostname", "value": "a.example"},
                          {"type": "IPAddress", "value": "nonsense"}],
            "allowedListeners": {"namespaces": {"from": "All"}},
            "listeners": [
                {"name": "web", "port": 80, "protocol": "HTTP",
                 "allowedRoutes": {"namespaces": {"from": "All"},
                                   "kinds": [{"kind": "HTTPRoute"},
                                             {"group": "example.org", "kind": "HTTPRoute"},
                                             {"kind": "Gateway"}]}},
                {"name": "tls", "port": 443, "protocol": "HTTPS", "hostname": "*.Example.org",
                 "tls": {"mode": "Terminate", "options": {"example.org/a": "b"},
                         "certificateRefs": [
                             {"name": "own"},
                             {"group": "", "kind": "Secret", "name": "far", "namespace": "x"},
                             {"group": "example.org", "kind": "Vault", "name": "v"}]}},
                {"name": "pass", "port": 8443, "protocol": "example.org/QUIC",
                 "tls": {"mode": "Passthrough"}},
            ],
            "tls": {
                "backend": {"clientCertificateRef": {"name": "client"}},
                "frontend": {
                    "default": {"validation": {"caCertificateRefs": [
                        {"group": "", "kind": "ConfigMap", "name": "ca"}]}},
                    "perPort": [
                        {"port": 8443, "tls": {"validation": {
                            "mode": "AllowInsecureFallback",
                            "caCertificateRefs": [
                                {"group": "", "kind": "Secret", "name": "s", "namespace": "x"},
                                {"group": "", "kind": "Service", "name": "odd"}]}}},
                        {"port": 9443, "tls": {}}],
                },
            },
        },
        "status": {
            "addresses": [{"type": "IPAddress", "value": "192.0.2.7"},
                          {"type": "Hostname", "value": "a.example"}],
            "attachedListenerSets": 2,
            "conditions": [written_condition("Programmed", "Unknown", 6)],
            "listeners": [{"name": "web", "attachedRoutes": 4,
                           "supportedKinds": [
                               {"group": "gateway.networking.k8s.io", "kind": "HTTPRoute"},
                               {"group": "example.org", "kind": "Other"},
                               {"kind": "GRPCRoute"}],
                           "conditions": [written_condition("Accepted", "False", 6)]}],
        },
    })
}

fn full_spec() -> GatewaySpec {
    match told(Watched::Gateways, full()) {
        Some(SourceUpdate::Gateway { object: named, spec: Some(spec) }) => {
            assert_eq!(named, object(ObjectKind::Gateway, "shop", "web"));
            *spec
        }
        other => panic!("{other:?}"),
    }
}

fn secret(namespace: &str, name: &str) -> CertificateRef {
    CertificateRef { source: source(), namespace: namespace.into(), name: name.into() }
}

#[test]
fn a_gateway_tells_its_class_and_addresses() {
    let spec = full_spec();
    assert_eq!((spec.generation, spec.created_secs, &*spec.class), (7, 1_767_323_045, "edge"));
    assert_eq!(spec.requested, [ip("192.0.2.7"), ip("2001:db8::7")]);
    assert_eq!(
        spec.foreign_addresses,
        ["Hostname \"a.example\"".into(), "IPAddress \"nonsense\"".into()]
    );
    assert_eq!((spec.pool.as_deref(), spec.ttl_secs), (Some("public"), Some(300)));
    assert_eq!(spec.allowed_sets, NamespaceChoice::All);
    assert_eq!(spec.recorded, [ip("192.0.2.7")]);
    assert_eq!(spec.faults, []);
}

#[test]
fn a_gateway_tells_its_listeners() {
    let spec = full_spec();
    let listener = |name: &str, port, protocol| ListenerSpec {
        name: name.into(),
        hostname: None,
        port,
        protocol,
        tls: None,
        allowed_namespaces: NamespaceChoice::Same,
        allowed_kinds: vec![],
    };
    let expected = [
        ListenerSpec {
            allowed_namespaces: NamespaceChoice::All,
            allowed_kinds: vec![
                Ok(ObjectKind::HttpRoute),
                Err("example.org/HTTPRoute".into()),
                Err("gateway.networking.k8s.io/Gateway".into()),
            ],
            ..listener("web", 80, ListenerProtocol::Http)
        },
        ListenerSpec {
            hostname: Some("*.example.org".into()),
            tls: Some(ListenerTlsSpec {
                passthrough: false,
                certificates: vec![
                    CertificateChoice::Secret(secret("shop", "own")),
                    CertificateChoice::Secret(secret("x", "far")),
                    CertificateChoice::Other("example.org/Vault v".into()),
                ],
                options: vec![("example.org/a".into(), "b".into())],
            }),
            ..listener("tls", 443, ListenerProtocol::Https)
        },
        ListenerSpec {
            tls: Some(ListenerTlsSpec { passthrough: true, certificates: vec![], options: vec![] }),
            ..listener("pass", 8443, ListenerProtocol::Other("example.org/QUIC".into()))
        },
    ];
    assert_eq!(spec.listeners, expected);
}

#[test]
fn a_gateway_tells_whom_it_trusts_and_what_it_shows() {
    let spec = full_spec();
    assert_eq!(spec.backend_certificate, Some(CertificateChoice::Secret(secret("shop", "client"))));
    let authority = |kind, namespace: &str, name: &str| {
        AuthorityChoice::Object(AuthorityRef {
            source: source(),
            kind,
            namespace: namespace.into(),
            name: name.into(),
        })
    };
    let expected = [
        PortClientValidation {
            port: Some(8443),
            authorities: vec![
                authority(AuthorityKind::Secret, "x", "s"),
                AuthorityChoice::Other("Service odd".into()),
            ],
            insecure_fallback: true,
        },
        PortClientValidation { port: Some(9443), authorities: vec![], insecure_fallback: false },
        PortClientValidation {
            port: None,
            authorities: vec![authority(AuthorityKind::ConfigMap, "shop", "ca")],
            insecure_fallback: false,
        },
    ];
    assert_eq!(spec.client_validation, expected);
}

#[test]
fn a_gateway_tells_what_its_status_says() {
    let spec = full_spec();
    let expected = ApiStatus::Listeners {
        conditions: vec![condition("Programmed", Holds::Unknown, 6)],
        listeners: vec![ListenerStatus {
            name: "web".into(),
            kinds: vec!["GRPCRoute".into(), "HTTPRoute".into()],
            attached_routes: 4,
            conditions: vec![condition("Accepted", Holds::False, 6)],
        }],
        attached_sets: Some(2),
    };
    assert_eq!(spec.recorded_status.as_deref(), Some(&expected));
}

#[test]
fn annotations_ask_for_addresses_where_the_field_does_not() {
    let read = |addresses: Value| {
        let metadata = json!({"annotations": {"metallb.io/loadBalancerIPs": "192.0.2.9"}});
        let spec = json!({"gatewayClassName": "edge", "addresses": addresses});
        match told(Watched::Gateways, json!({"metadata": metadata, "spec": spec})) {
            Some(SourceUpdate::Gateway { spec: Some(spec), .. }) => spec.requested,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(read(json!([])), [ip("192.0.2.9")]);
    assert_eq!(read(json!([{"value": "192.0.2.7"}])), [ip("192.0.2.7")]);
}

#[test]
fn namespaces_are_chosen_as_they_are_written_and_nobody_where_that_makes_no_sense() {
    let choice = |namespaces: Value| {
        let listener = json!({"name": "a", "port": 80, "protocol": "HTTP",
                              "allowedRoutes": {"namespaces": namespaces}});
        let mut spec = gateway(json!({"listeners": [listener]}));
        (spec.listeners.remove(0).allowed_namespaces, reasons(&spec.faults))
    };
    assert_eq!(choice(Value::Null), (NamespaceChoice::Same, vec![]));
    assert_eq!(choice(json!({"from": "None"})), (NamespaceChoice::None, vec![]));
    assert_eq!(choice(json!({"from": "Selector"})), (NamespaceChoice::None, vec![]));
    let (chosen, faults) = choice(json!({"from": "Selector", "selector": {
        "matchLabels": {"team": "web"},
        "matchExpressions": [
            {"key": "tier", "operator": "In", "values": ["a", "b"]},
            {"key": "tier", "operator": "NotIn", "values": ["c"]},
            {"key": "open", "operator": "Exists"},
            {"key": "shut", "operator": "DoesNotExist"}],
    }}));
    let NamespaceChoice::Labels(selector) = chosen else { panic!("{chosen:?}") };
    assert_eq!(&*selector.text, "team=web,tier in (a,b),tier notin (c),open,!shut");
    assert_eq!(faults, []);
    let labels = |pairs: &[(&str, &str)]| {
        let keys = ["team", "tier", "open", "shut"];
        let of = |key: &&str| pairs.iter().find(|pair| pair.0 == *key).map(|pair| pair.1.into());
        Labels(keys.iter().map(|key| ((*key).into(), of(key))).collect())
    };
    let fitting = [("team", "web"), ("tier", "b"), ("open", "")];
    assert_eq!(selector.fits(&labels(&fitting)), Some(true));
    assert_eq!(selector.fits(&labels(&[("team", "web"), ("tier", "b")])), Some(false));
    let everything = choice(json!({"from": "Selector", "selector": {}})).0;
    let NamespaceChoice::Labels(selector) = everything else { panic!("{everything:?}") };
    assert_eq!(selector.fits(&Labels::default()), Some(true), "an empty one selects everything");
    for odd in [
        json!({"from": "Sometimes"}),
        json!({"from": "Selector", "selector": {"matchExpressions": ["a"]}}),
        json!({"from": "Selector", "selector": {
            "matchExpressions": [{"key": "a", "operator": "Near"}]}}),
    ] {
        let expected = (NamespaceChoice::None, vec![FaultReason::InvalidField]);
        assert_eq!(choice(odd.clone()), expected, "{odd}");
    }
}

#[test]
fn listeners_that_cannot_be_read_are_left_out_and_named() {
    let spec = gateway(json!({
        "gatewayClassName": "edge",
        "infrastructure": {"parametersRef": {"group": "a", "kind": "B", "name": "c"}},
        "defaultScope": "All",
        "listeners": [
            {"name": "host", "port": 80, "protocol": "HTTP", "hostname": "not a host"},
            {"name": "port", "port": 70000, "protocol": "HTTP"},
            {"port": 80, "protocol": "HTTP"},
            "nonsense",
            {"name": "fine", "port": 80, "protocol": "HTTP"},
        ],
    }));
    let names: Vec<&str> = spec.listeners.iter().map(|listener| &*listener.name).collect();
    assert_eq!(names, ["fine"]);
    let messages: Vec<&str> = spec.faults.iter().map(|fault| &*fault.message).collect();
    assert_eq!(
        messages,
        [
            "spec.listeners[3]: is of another type; write it anew",
            "spec.listeners[0].hostname: \"not a host\" is no host name; write one, or *.suffix",
            "spec.listeners[1].port: is no port; write one from 1 to 65535",
            "spec.listeners[2].name: is missing; name the listener",
            "spec.infrastructure.parametersRef: \"a/B c\" is read by nothing; leave it out",
            "spec.defaultScope: \"All\" is not supported; name the Gateway in the parentRefs of \
             its routes",
        ]
    );
}

#[test]
fn a_listener_set_belongs_to_a_gateway() {
    let set = |parent: Value| {
        told(
            Watched::ListenerSets,
            json!({"spec": {"parentRef": parent,
                            "listeners": [{"name": "a", "port": 80, "protocol": "HTTP"}]},
                   "status": {"conditions": [written_condition("Accepted", "True", 1)]}}),
        )
    };
    let Some(SourceUpdate::ListenerSet { object: named, spec: Some(spec) }) =
        set(json!({"name": "edge", "namespace": "infra"}))
    else {
        panic!("not told")
    };
    assert_eq!(named, object(ObjectKind::ListenerSet, "shop", "web"));
    assert_eq!(spec.parent, object(ObjectKind::Gateway, "infra", "edge"));
    assert_eq!(spec.listeners.len(), 1);
    assert!(matches!(spec.recorded_status.as_deref(), Some(ApiStatus::Listeners { .. })));
    assert_eq!(set(json!({"group": "example.org", "kind": "Gateway", "name": "a"})), None);
}

#[test]
fn what_is_being_deleted_says_nothing_any_more() {
    let kinds = Watched::ALL.into_iter().filter(|watched| *watched >= Watched::GatewayClasses);
    for watched in kinds {
        let object = |deletion: Value| {
            json!({
                "metadata": {"deletionTimestamp": deletion},
                "type": "Opaque", "data": {"ca.crt": "QQ==", "auth": "YTpi"},
                "spec": {"controllerName": "haflinger.dev/gateway", "parentRef": {"name": "a"}},
            })
        };
        assert!(told(watched, object(Value::Null)).is_some(), "{watched:?}");
        assert_eq!(told(watched, object(json!("2026-01-02T03:04:05Z"))), None, "{watched:?}");
    }
}
