use std::net::IpAddr;
use std::sync::Arc;

use haflinger_core::*;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::annotations::duration_ms;
use super::update::translate_object;
use super::*;
use crate::ledger::Watched;
use crate::objects::{
    AffinityBody, CiliumNodeBody, Kind, Name, NodeBody, Object, SecretBody, ServiceBody,
};

mod addresses;
mod l4;
mod networks;
mod pods;
mod shared;

pub(super) fn cluster() -> ClusterSettings {
    ClusterSettings {
        name: "c".into(),
        kubeconfig: "kubeconfig".into(),
        context: None,
        claim_unclassed: false,
        ingress_class: "haflinger".into(),
        deletions: crate::DeletionLimits::default(),
        labels: LabelKeys::default(),
        pod_routes: RouteOrigin::ALL.to_vec(),
        readiness_gate: true,
    }
}

fn claims() -> Claims {
    Claims::of(&cluster())
}

pub(super) fn source() -> SourceId {
    SourceId::cluster("c")
}

fn object<B: Kind>(json: Value) -> Object<B> {
    serde_json::from_value(json).unwrap()
}

pub(super) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub(super) fn reasons(faults: &[SourceFault]) -> Vec<FaultReason> {
    faults.iter().map(|fault| fault.reason).collect()
}

fn read_service(mut spec: Value, annotations: Value) -> ServiceSpec {
    let fields = spec.as_object_mut().unwrap();
    for (field, value) in [
        ("type", json!("LoadBalancer")),
        ("loadBalancerClass", json!("haflinger.dev/edge")),
        ("ports", json!([{"port": 80}])),
    ] {
        fields.entry(field).or_insert(value);
    }
    let metadata = json!({"name": "web", "namespace": "shop", "annotations": annotations});
    super::service(&object(json!({"metadata": metadata, "spec": spec})), &claims())
}

mod services {
    use super::*;

    #[test]
    fn a_service_of_our_class_is_exposed_with_everything_that_it_says() {
        let object = object::<ServiceBody>(json!({
            "metadata": {
                "name": "web", "namespace": "shop", "resourceVersion": "7",
                "creationTimestamp": "2026-01-02T03:04:05Z",
                "managedFields": [{"manager": "kubectl", "fieldsV1": {"f:spec": {}}}],
            },
            "spec": {
                "type": "LoadBalancer", "loadBalancerClass": "haflinger.dev/edge",
                "loadBalancerIP": "192.0.2.7",
                "ports": [{"name": "http", "port": 80, "protocol": "TCP", "nodePort": 30000,
                           "appProtocol": "kubernetes.io/h2c"},
                          {"name": "dns", "port": 53, "protocol": "UDP"}],
                "ipFamilies": ["IPv6", "IPv4"], "ipFamilyPolicy": "PreferDualStack",
                "sessionAffinity": "ClientIP",
                "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 600}},
                "publishNotReadyAddresses": true, "trafficDistribution": "PreferClose",
                "externalTrafficPolicy": "Local",
                "loadBalancerSourceRanges": ["198.51.100.7/24", "2001:db8::/32"],
            },
            "status": {"loadBalancer": {"ingress": [
                {"ip": "192.0.2.7", "ipMode": "Proxy", "ports": [
                    {"port": 81, "protocol": "SCTP", "error": "haflinger.dev/UnsupportedProtocol"},
                    {"port": 80, "protocol": "TCP"}]},
                {"hostname": "elsewhere"}]}},
        }));
        let spec = super::super::service(&object, &claims());
        assert_eq!(spec.created_secs, 1_767_323_045);
        assert_eq!(spec.families, [Family::V6, Family::V4]);
        assert_eq!(spec.algorithm, Algorithm::Source { timeout_secs: 600 });
        assert!(spec.publish_not_ready && spec.faults.is_empty());
        assert_eq!(spec.distribution, Distribution::SameZone);
        assert_eq!(spec.ports[0].app_protocol.as_deref(), Some("kubernetes.io/h2c"));
        let ports: Vec<_> = spec.ports.iter().map(|p| (&*p.name, p.port, p.protocol)).collect();
        assert_eq!(ports, [("http", 80, Protocol::Tcp), ("dns", 53, Protocol::Udp)]);
        let node_ports: Vec<_> = spec.ports.iter().map(|port| port.node_port).collect();
        assert_eq!((node_ports, spec.local_traffic), (vec![Some(30000), None], true));
        let exposure = spec.exposure.unwrap();
        assert_eq!(exposure.families, [Family::V6, Family::V4]);
        assert_eq!(exposure.requested, [ip("192.0.2.7")]);
        assert_eq!(exposure.recorded, [ip("192.0.2.7")]);
        assert_eq!(exposure.family_policy, FamilyPolicy::Possible);
        assert!(exposure.wants_client_address);
        let [(address, ports)] = &exposure.recorded_ports[..] else { panic!("one entry") };
        assert_eq!((*address, ports.len(), ports[0].port), (ip("192.0.2.7"), 2, 80));
        assert_eq!(ports[1].error.as_deref(), Some("haflinger.dev/UnsupportedProtocol"));
        let ranges: Vec<_> = exposure.source_ranges.iter().map(ToString::to_string).collect();
        assert_eq!(ranges, ["198.51.100.0/24", "2001:db8::/32"]);
    }

    #[test]
    fn only_our_class_is_claimed_and_no_class_if_configured() {
        let exposed = |spec: Value, unclassed| {
            let object = object(json!({"metadata": {"name": "a"}, "spec": spec}));
            let claims = Claims { unclassed, ..claims() };
            super::super::service(&object, &claims).exposure.is_some()
        };
        let ours = json!({"type": "LoadBalancer", "loadBalancerClass": "haflinger.dev/edge"});
        let other = json!({"type": "LoadBalancer", "loadBalancerClass": "example.com/lb"});
        let none = json!({"type": "LoadBalancer"});
        let internal = json!({"type": "ClusterIP", "loadBalancerClass": "haflinger.dev/edge"});
        let external = json!({"type": "ExternalName", "externalName": "example.com"});
        for unclassed in [false, true] {
            assert!(exposed(ours.clone(), unclassed));
            assert!(!exposed(other.clone(), unclassed));
            assert_eq!(exposed(none.clone(), unclassed), unclassed);
            assert!(!exposed(internal.clone(), unclassed));
            assert!(!exposed(external.clone(), unclassed));
        }
    }

    #[test]
    fn a_service_that_is_being_deleted_asks_for_nothing() {
        let object = object(json!({
            "metadata": {"name": "a", "deletionTimestamp": "2026-01-02T03:04:05Z"},
            "spec": {"type": "LoadBalancer", "loadBalancerClass": "haflinger.dev/edge"},
        }));
        assert!(super::super::service(&object, &claims()).exposure.is_none());
    }

    #[test]
    fn sctp_is_refused_and_the_other_ports_are_served() {
        let spec = read_service(
            json!({"ports": [{"port": 80}, {"port": 38412, "protocol": "SCTP"}]}),
            json!({}),
        );
        assert_eq!(spec.ports.len(), 1);
        assert_eq!(reasons(&spec.faults), [FaultReason::UnsupportedProtocol]);
        assert!(spec.faults[0].message.contains("ports[1]"), "{}", spec.faults[0].message);
        let refused = (38412, &*spec.refused_ports[0].protocol, spec.refused_ports[0].reason);
        assert_eq!(refused, (spec.refused_ports[0].port, "SCTP", FaultReason::UnsupportedProtocol));
    }

    #[test]
    fn each_word_that_a_field_may_hold_is_known_and_another_is_refused() {
        for (field, words) in [
            ("trafficDistribution", &["PreferClose", "PreferSameZone", "PreferSameNode"][..]),
            ("externalTrafficPolicy", &["Cluster", "Local"]),
            ("ipFamilyPolicy", &["SingleStack", "PreferDualStack", "RequireDualStack"]),
        ] {
            for word in words {
                let spec = read_service(json!({field: word}), json!({}));
                assert_eq!(spec.faults, [], "{field}: {word}");
            }
            let spec = read_service(json!({field: "Sideways"}), json!({}));
            assert_eq!(reasons(&spec.faults), [FaultReason::InvalidField], "{field}");
            let message = &spec.faults[0].message;
            assert!(message.contains(field) && message.contains("Sideways"), "{message}");
        }
        let plain = read_service(json!({}), json!({}));
        assert_eq!(plain.distribution, Distribution::Even);
        let exposure = plain.exposure.unwrap();
        assert!(!exposure.wants_client_address);
        assert_eq!(exposure.family_policy, FamilyPolicy::Every);
    }

    #[test]
    fn of_thousands_of_ports_the_first_are_served_and_one_reason_says_so() {
        let written: Vec<Value> =
            (1..=5000).map(|port| json!({"name": format!("p{port}"), "port": port})).collect();
        let spec = read_service(json!({"ports": written}), json!({}));
        assert_eq!((spec.ports.len(), spec.refused_ports.len()), (1024, 1024));
        assert_eq!(spec.ports.last().unwrap().port, 1024);
        assert_eq!(reasons(&spec.faults), [FaultReason::TooManyPorts]);
        assert!(spec.faults[0].message.contains("5000"), "{}", spec.faults[0].message);
    }

    #[test]
    fn an_unreadable_source_range_admits_nobody() {
        let some = read_service(
            json!({"loadBalancerSourceRanges": ["10.0.0.0/8", "10.0.0.0/99"]}),
            json!({}),
        );
        let ranges = some.exposure.unwrap().source_ranges;
        assert_eq!(ranges, ["10.0.0.0/8".parse().unwrap()]);
        assert_eq!(reasons(&some.faults), [FaultReason::InvalidField]);

        for bad in [json!(["everybody"]), json!("10.0.0.0/8"), json!([7])] {
            let spec = read_service(json!({"loadBalancerSourceRanges": bad}), json!({}));
            let ranges = spec.exposure.unwrap().source_ranges;
            assert!(!ranges.is_empty(), "an empty list would admit everybody");
            for client in ["10.1.2.3", "192.0.2.1", "2001:db8::1", "127.0.0.1"] {
                assert!(!ranges.iter().any(|range| range.contains(&ip(client))), "{client}");
            }
            assert!(!spec.faults.is_empty());
        }
    }

    #[test]
    fn the_legacy_annotation_restricts_clients_where_the_field_does_not() {
        let name = "service.beta.kubernetes.io/load-balancer-source-ranges";
        let spec = read_service(json!({}), json!({name: "10.0.0.0/8, 192.0.2.0/24"}));
        assert_eq!(spec.exposure.unwrap().source_ranges.len(), 2);
        let ranges = json!({"loadBalancerSourceRanges": ["198.51.100.0/24"]});
        let spec = read_service(ranges, json!({name: "10.0.0.0/8"}));
        let ranges = spec.exposure.unwrap().source_ranges;
        assert_eq!(ranges, ["198.51.100.0/24".parse().unwrap()]);
    }
}

mod annotations {
    use super::*;

    #[test]
    fn every_annotation_is_understood() {
        let spec = read_service(
            json!({}),
            json!({
                "haflinger.dev/address": "192.0.2.1, 2001:db8::1",
                "haflinger.dev/pool": "public",
                "haflinger.dev/mode": "proxy",
                "haflinger.dev/proxy-protocol": "v2",
                "haflinger.dev/health-check": "http:/healthz?full=1",
                "haflinger.dev/health-check-host": "Example.com",
                "haflinger.dev/health-check-port": "8081",
                "haflinger.dev/health-check-interval": "10s",
                "haflinger.dev/health-check-timeout": "1500ms",
                "haflinger.dev/health-check-rise": "1",
                "haflinger.dev/health-check-fall": "5",
                "external-dns.alpha.kubernetes.io/hostname": "WWW.example.com., *.example.com",
                "external-dns.kubernetes.io/ttl": "1m30s",
            }),
        );
        assert_eq!(spec.faults, []);
        assert_eq!(spec.proxy_protocol, ProxyProtocol::V2);
        let check = spec.health_check.unwrap();
        assert_eq!((check.interval_ms, check.timeout_ms), (10_000, 1_500));
        assert_eq!((check.port, check.rise, check.fall), (Some(8081), 1, 5));
        let kind = HealthCheckKind::Http {
            path: "/healthz?full=1".into(),
            host: Some("example.com".into()),
        };
        assert_eq!(check.kind, kind);
        let exposure = spec.exposure.unwrap();
        assert_eq!(exposure.requested, [ip("192.0.2.1"), ip("2001:db8::1")]);
        assert_eq!(exposure.pool.as_deref(), Some("public"));
        let hostnames: Vec<_> = exposure.hostnames.iter().map(|name| &**name).collect();
        assert_eq!(hostnames, ["www.example.com", "*.example.com"]);
        assert_eq!(exposure.ttl_secs, Some(90));
    }

    #[test]
    fn an_annotation_of_256_kib_is_not_looked_at_and_says_so_in_a_line() {
        let of_others = ["kubernetes.io/ingress.class", "cilium", "k8s.ovn.org"];
        let of_services = |name: &&Name| !of_others.iter().any(|of| name.as_str().contains(of));
        for name in Name::ALL.iter().filter(of_services) {
            let long = "x,".repeat(128 * 1024);
            // Some are looked at beside another only.
            let mut annotations = json!({"haflinger.dev/health-check": "http:/"});
            if name.as_str().contains("namespace") {
                annotations["haflinger.dev/sharing-key"] = "key".into();
            }
            annotations[name.as_str()] = long.into();
            let spec = read_service(json!({}), annotations);
            let size: usize = spec.faults.iter().map(|fault| fault.message.len()).sum();
            assert!(!spec.faults.is_empty() && size < 2048, "{name}: {:?}", spec.faults);
            assert!(spec.exposure.is_some(), "{name}");
        }
        let ports = json!([{"port": 80}]);
        let spec = read_service(
            json!({"ports": ports}),
            json!({"haflinger.dev/address": "192.0.2.1,".repeat(26_000)}),
        );
        assert_eq!(reasons(&spec.faults), [FaultReason::InvalidAnnotation]);
        assert!(spec.exposure.unwrap().requested.is_empty());
    }

    #[test]
    fn nonsense_names_annotation_value_and_remedy_and_leaves_the_rest() {
        for (name, value) in [
            ("haflinger.dev/address", "192.0.2.300"),
            ("haflinger.dev/address", "127.0.0.1"),
            ("haflinger.dev/address", "0.0.0.0"),
            ("haflinger.dev/address", "224.0.0.1"),
            ("haflinger.dev/proxy-protocol", "v3"),
            ("haflinger.dev/mode", "magic"),
            ("haflinger.dev/health-check", "icmp"),
            ("haflinger.dev/health-check", "http:healthz"),
            ("haflinger.dev/health-check", "http:/a b"),
            ("external-dns.kubernetes.io/hostname", "not a name"),
            ("external-dns.kubernetes.io/hostname", "a..b"),
            ("external-dns.alpha.kubernetes.io/ttl", "soon"),
            ("external-dns.alpha.kubernetes.io/ttl", "0"),
        ] {
            let spec = read_service(
                json!({"ports": [{"port": 443}]}),
                json!({name: value, "haflinger.dev/pool": "kept"}),
            );
            assert_eq!(reasons(&spec.faults), [FaultReason::InvalidAnnotation], "{name}={value}");
            let message = &spec.faults[0].message;
            assert!(message.contains(name) && message.contains(value), "{message}");
            assert!(message.contains("; write "), "{message}");
            assert_eq!(spec.ports.len(), 1);
            assert_eq!(spec.exposure.unwrap().pool.as_deref(), Some("kept"));
        }
    }

    #[test]
    fn a_bad_detail_of_a_health_check_falls_back_and_the_check_stands() {
        for (name, value) in [
            ("health-check-port", "0"),
            ("health-check-interval", "1ms"),
            ("health-check-timeout", "6s"),
            ("health-check-rise", "0"),
            ("health-check-fall", "many"),
        ] {
            let spec = read_service(
                json!({}),
                json!({"haflinger.dev/health-check": "tcp", format!("haflinger.dev/{name}"): value}),
            );
            assert_eq!(reasons(&spec.faults), [FaultReason::InvalidAnnotation], "{name}");
            let check = spec.health_check.unwrap();
            assert_eq!((check.interval_ms, check.timeout_ms), (5_000, 2_000));
            assert_eq!((check.port, check.rise, check.fall), (None, 2, 3));
        }
    }

    #[test]
    fn the_newer_prefix_of_external_dns_wins() {
        let spec = read_service(
            json!({}),
            json!({
                "external-dns.alpha.kubernetes.io/hostname": "old.example.com",
                "external-dns.kubernetes.io/hostname": "new.example.com",
            }),
        );
        assert_eq!(&*spec.exposure.unwrap().hostnames[0], "new.example.com");
    }

    #[test]
    fn faults_of_one_object_are_bounded() {
        let list: Vec<String> = (0..40).map(|n| format!("bad{n}!")).collect();
        let spec = read_service(json!({}), json!({"haflinger.dev/address": list.join(",")}));
        assert_eq!(spec.faults.len(), FAULTS_MAX + 1);
        assert!(spec.faults[FAULTS_MAX].message.contains("32 more"));
    }

    #[test]
    fn durations_are_gos_or_plain_seconds() {
        for (text, ms) in [
            ("5", Some(5_000)),
            ("1h2m3s", Some(3_723_000)),
            ("1.5s", Some(1_500)),
            (".5s", Some(500)),
            ("300ms", Some(300)),
            ("1500us", Some(1)),
            ("", None),
            ("5x", None),
            ("s", None),
            ("-5s", None),
            ("1.5", None),
            ("99999999999999999999h", None),
        ] {
            assert_eq!(duration_ms(text), ms, "{text}");
        }
    }
}

mod slices {
    use super::*;

    fn read(mut body: Value) -> BackendSlice {
        let fields = body.as_object_mut().unwrap();
        fields.entry("metadata").or_insert(json!({"name": "web-x", "namespace": "shop"}));
        fields.entry("addressType").or_insert(json!("IPv4"));
        fields.entry("ports").or_insert(json!([{"name": "http", "port": 8080}]));
        super::super::slice(&object(body))
    }

    #[test]
    fn conditions_that_are_not_set_have_their_documented_meaning() {
        let endpoint = |address: &str, conditions: Value| json!({"addresses": [address], "conditions": conditions});
        let slice = read(json!({"endpoints": [
            {"addresses": ["10.0.0.1"]},
            endpoint("10.0.0.2", json!({"ready": null})),
            endpoint("10.0.0.3", json!({"ready": false})),
            endpoint("10.0.0.4", json!({"ready": false, "serving": true, "terminating": true})),
        ]}));
        let states: Vec<_> =
            slice.backends.iter().map(|b| (b.ready, b.serving, b.terminating)).collect();
        assert_eq!(
            states,
            [(true, true, false), (true, true, false), (false, true, false), (false, true, true),]
        );
        assert!(slice.faults.is_empty());
    }

    #[test]
    fn a_backend_carries_pod_node_and_zone() {
        let slice = read(json!({"addressType": "IPv6", "endpoints": [
            {"addresses": ["2001:db8::5", "2001:db8::6"], "nodeName": "n1", "zone": "z1",
             "hints": {"forZones": [{"name": "z1"}, {"name": "z2"}, 7], "forNodes": [{"name": "n1"}]},
             "targetRef": {"kind": "Pod", "name": "web-1"}},
            {"addresses": ["2001:db8::7"], "hostname": "static"},
            {"addresses": ["2001:db8::8"]},
        ]}));
        assert_eq!(slice.family, Family::V6);
        let first = &slice.backends[0];
        assert_eq!((first.address, &*first.name), (ip("2001:db8::5"), "web-1"));
        assert_eq!((first.node.as_deref(), first.zone.as_deref()), (Some("n1"), Some("z1")));
        assert_eq!(first.for_zones.iter().map(|zone| &**zone).collect::<Vec<_>>(), ["z1", "z2"]);
        assert!(Arc::ptr_eq(&first.for_zones[0], first.zone.as_ref().unwrap()), "kept once");
        assert_eq!(&*slice.backends[1].name, "static");
        assert_eq!(&*slice.backends[2].name, "2001:db8::8");
        assert_eq!(slice.backends.len(), 3);
    }

    #[test]
    fn addresses_that_no_pod_can_have_are_refused_one_by_one() {
        for bad in ["127.0.0.1", "0.0.0.0", "169.254.1.1", "224.0.0.1", "10.0.0.300", "::1", ""] {
            let slice = read(json!({"endpoints": [
                {"addresses": [bad]}, {"addresses": ["10.0.0.9"]}]}));
            assert_eq!(slice.backends.len(), 1, "{bad}");
            assert_eq!(reasons(&slice.faults), [FaultReason::InvalidEndpointSlice], "{bad}");
            let message = &slice.faults[0].message;
            assert!(message.contains("web-x") && message.contains("endpoints[0]"), "{message}");
        }
        let odd = read(json!({"endpoints": [7, {"addresses": "x"}, {"addresses": ["10.0.0.1"]}]}));
        assert_eq!((odd.backends.len(), odd.faults.len()), (1, 2));
    }

    #[test]
    fn a_slice_of_names_is_refused_as_a_whole() {
        let slice = read(json!({"addressType": "FQDN", "endpoints": [{"addresses": ["a.b"]}]}));
        assert!(slice.backends.is_empty());
        assert_eq!(reasons(&slice.faults), [FaultReason::InvalidEndpointSlice]);
        assert!(slice.faults[0].message.contains("FQDN"));
    }

    #[test]
    fn ports_without_a_number_are_refused_and_sctp_is_left_to_the_service() {
        let slice = read(json!({"endpoints": [], "ports": [
            {"name": "a", "port": 0}, {"name": "b"}, {"name": "c", "port": 70000},
            {"name": "d", "port": 9000, "protocol": "SCTP"},
            {"name": "", "port": 53, "protocol": "UDP"},
        ]}));
        assert_eq!(slice.faults.len(), 3);
        let port = SlicePort { name: "".into(), protocol: Protocol::Udp, port: 53 };
        assert_eq!(slice.ports, [port]);
    }
}

mod ingresses {
    use super::*;

    fn read(mut spec: Value, annotations: Value) -> Option<IngressSpec> {
        spec.as_object_mut().unwrap().entry("ingressClassName").or_insert(json!("haflinger"));
        let metadata = json!({"name": "site", "namespace": "shop", "annotations": annotations});
        ingress(&object(json!({"metadata": metadata, "spec": spec})), &source(), &claims())
    }

    fn backend(name: &str, port: u16) -> Value {
        json!({"service": {"name": name, "port": {"number": port}}})
    }

    #[test]
    fn rules_paths_and_certificates_are_read() {
        let spec = read(
            json!({
                "defaultBackend": {"service": {"name": "rest", "port": {"name": "http"}}},
                "tls": [{"hosts": ["WWW.example.com"], "secretName": "cert"}],
                "rules": [
                    {"host": "www.example.com", "http": {"paths": [
                        {"path": "/exact", "pathType": "Exact", "backend": backend("a", 80)},
                        {"path": "/", "pathType": "Prefix", "backend": backend("b", 81)},
                        {"pathType": "ImplementationSpecific", "backend": backend("c", 82)},
                    ]}},
                    {"host": "*.example.com"},
                ],
            }),
            json!({"haflinger.dev/address": "192.0.2.5"}),
        )
        .unwrap();
        assert_eq!(spec.faults, []);
        let rules: Vec<_> = spec
            .rules
            .iter()
            .map(|r| (r.host.as_deref(), r.path_match, &*r.path, &*r.backend.service.name))
            .collect();
        assert_eq!(
            rules,
            [
                (Some("www.example.com"), PathType::Exact, "/exact", "a"),
                (Some("www.example.com"), PathType::Prefix, "/", "b"),
                (Some("www.example.com"), PathType::Prefix, "/", "c"),
                (Some("*.example.com"), PathType::Prefix, "/", "rest"),
            ]
        );
        assert_eq!(spec.rules[0].backend.port, IngressPort::Number(80));
        assert_eq!(spec.default_backend.unwrap().port, IngressPort::Name("http".into()));
        assert_eq!(&*spec.tls[0].hosts[0], "www.example.com");
        assert_eq!(spec.tls[0].certificate.to_string(), "cluster/c/secret/shop/cert");
        assert_eq!(spec.requested, [ip("192.0.2.5")]);
    }

    #[test]
    fn another_class_or_none_is_not_ours_and_the_field_wins_over_the_annotation() {
        let legacy = |class: &str| json!({"kubernetes.io/ingress.class": class});
        assert!(read(json!({"ingressClassName": "nginx"}), json!({})).is_none());
        assert!(read(json!({"ingressClassName": null}), json!({})).is_none());
        assert!(read(json!({"ingressClassName": null}), legacy("haflinger")).is_some());
        assert!(read(json!({"ingressClassName": "nginx"}), legacy("haflinger")).is_none());
    }

    #[test]
    fn what_cannot_be_served_is_refused_rule_by_rule() {
        let resource = json!({"resource": {"kind": "Bucket", "name": "b"}});
        let spec = read(
            json!({"rules": [
                {"host": "not a host", "http": {"paths": [{"path": "/", "backend": backend("a", 1)}]}},
                {"http": {"paths": [
                    {"path": "/r", "pathType": "Prefix", "backend": resource},
                    {"path": "no-slash", "pathType": "Prefix", "backend": backend("a", 1)},
                    {"path": "/t", "pathType": "Regex", "backend": backend("a", 1)},
                    {"path": "/p", "pathType": "Prefix", "backend": {"service": {"name": "a"}}},
                    {"path": "/ok", "pathType": "Prefix", "backend": backend("a", 1)},
                ]}},
            ], "tls": [{"hosts": ["a.example.com"]}, {"hosts": ["!"], "secretName": "s"}]}),
            json!({}),
        )
        .unwrap();
        assert_eq!(spec.rules.len(), 1);
        assert_eq!(&*spec.rules[0].path, "/ok");
        assert!(spec.tls.is_empty(), "hosts that are all wrong must not mean every host");
        let unsupported = FaultReason::UnsupportedFeature;
        assert_eq!(reasons(&spec.faults).iter().filter(|r| **r == unsupported).count(), 1);
        assert_eq!(spec.faults.len(), 7);
    }
}

mod secrets {
    use super::*;

    fn read(data: Value) -> CertificateSpec {
        certificate(&object::<SecretBody>(json!({"metadata": {"name": "s"}, "data": data})))
    }

    #[test]
    fn chain_and_key_are_decoded() {
        let spec = read(json!({"tls.crt": "Y2hhaW4=", "tls.key": "a2V5"}));
        assert_eq!((spec.chain_pem, spec.key_pem), (b"chain".to_vec(), b"key".to_vec()));
        assert!(spec.ocsp_der.is_empty());
        let data = json!({"tls.crt": "Y2hhaW4=", "tls.key": "a2V5", "tls.ocsp": "b2NzcA=="});
        assert_eq!(read(data).ocsp_der, b"ocsp");
    }

    #[test]
    fn what_is_missing_malformed_or_oversized_is_left_empty_for_the_proxy_to_refuse() {
        let huge = "A".repeat(400_000);
        for data in [
            json!({}),
            json!(null),
            json!({"tls.crt": 7, "tls.key": "not base64!"}),
            json!({"tls.crt": huge, "tls.key": null}),
        ] {
            let spec = read(data);
            assert!(spec.chain_pem.is_empty() && spec.key_pem.is_empty());
        }
    }

    #[test]
    fn no_debug_output_shows_a_key() {
        let object = object::<SecretBody>(json!({"data": {"tls.key": "c2VjcmV0"}}));
        assert!(!format!("{object:?}").contains("c2VjcmV0"));
    }
}

#[expect(clippy::too_many_lines, reason = "a list of the words that are read")]
pub(super) fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "[ -~]{0,12}".prop_map(Value::from),
        prop::sample::select(vec![
            "TCP",
            "IPv4",
            "IPv6",
            "10.0.0.1",
            "fe80::1",
            "haflinger",
            "LoadBalancer",
            "/",
            "",
            "haflinger.dev/edge",
            "ClientIP",
            "PreferClose",
            "Local",
            "SCTP",
            "a.example.com",
        ])
        .prop_map(Value::from),
    ];
    let keys = prop::sample::select(vec![
        "metadata",
        "spec",
        "status",
        "name",
        "namespace",
        "annotations",
        "labels",
        "ports",
        "port",
        "number",
        "protocol",
        "endpoints",
        "addresses",
        "conditions",
        "ready",
        "rules",
        "host",
        "http",
        "paths",
        "path",
        "pathType",
        "backend",
        "service",
        "tls",
        "hosts",
        "secretName",
        "data",
        "tls.crt",
        "tls.key",
        "addressType",
        "type",
        "loadBalancerClass",
        "loadBalancerSourceRanges",
        "sessionAffinity",
        "ingressClassName",
        "trafficDistribution",
        "ipFamilyPolicy",
        "externalTrafficPolicy",
        "appProtocol",
        "error",
        "zone",
        "hints",
        "forZones",
        "loadBalancer",
        "ingress",
        "ip",
        "podCIDRs",
        "haflinger.dev/address",
        "haflinger.dev/health-check",
        "haflinger.dev/health-check-interval",
        "haflinger.dev/algorithm",
        "haflinger.dev/connections-max",
        "haflinger.dev/idle-timeout",
        "external-dns.kubernetes.io/ttl",
        "defaultBackend",
    ]);
    leaf.prop_recursive(6, 60, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::hash_map(keys.clone(), inner, 0..8).prop_map(|entries| {
                entries.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
            }),
        ]
    })
}

#[test]
fn an_object_tells_what_it_is_about_or_nothing() {
    let told = |watched, json: Value| {
        translate_object(watched, json.to_string().as_bytes(), &cluster()).unwrap()
    };
    let named = |labels: Value| json!({"name": "web", "namespace": "shop", "labels": labels});
    let slice = json!({"metadata": named(json!({SERVICE_NAME_LABEL: "store"}))});
    let Some(SourceUpdate::Slice { service, slice, .. }) = told(Watched::Slices, slice) else {
        panic!("no slice");
    };
    assert_eq!((service, &*slice), (ObjectRef::service(&source(), "shop", "store"), "web"));
    let unlabelled = json!({"metadata": named(json!({}))});
    assert_eq!(told(Watched::Slices, unlabelled.clone()), None);
    assert_eq!(told(Watched::Ingresses, unlabelled.clone()), None, "of no class");
    assert_eq!(told(Watched::Services, json!({"metadata": {"name": ""}})), None);
    for watched in [Watched::Services, Watched::Nodes, Watched::Certificates] {
        assert!(told(watched, unlabelled.clone()).is_some(), "{watched:?}");
    }
    assert!(translate_object(Watched::Nodes, b"{", &cluster()).is_err());
}

proptest! {
    #[test]
    fn no_json_stops_a_list_or_panics(json in any_json()) {
        for watched in Watched::ALL {
            translate_object(watched, json.to_string().as_bytes(), &cluster()).unwrap();
        }
    }

    #[test]
    fn no_duration_panics(text in "[0-9.hmsuµ]{0,20}") {
        duration_ms(&text);
    }
}
