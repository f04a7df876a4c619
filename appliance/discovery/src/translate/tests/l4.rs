//! Modes, algorithms, limits and timeouts of Services.

use super::*;

fn annotated(name: &str, value: &str) -> ServiceSpec {
    read_service(json!({}), json!({format!("haflinger.dev/{name}"): value}))
}

#[test]
fn every_mode_is_read_and_none_leaves_it_to_the_configuration() {
    for mode in ForwardingMode::ALL {
        let spec = annotated("mode", mode.as_str());
        assert_eq!((spec.exposure.unwrap().mode, &*spec.faults), (Some(mode), &[][..]));
    }
    assert_eq!(read_service(json!({}), json!({})).exposure.unwrap().mode, None);
}

#[test]
fn where_packets_go_is_read_and_left_to_the_configuration_otherwise() {
    for (text, destination) in
        [("auto", Destination::Auto), ("pods", Destination::Pods), ("nodes", Destination::Nodes)]
    {
        let spec = annotated("targets", text);
        assert_eq!((spec.destination, &*spec.faults), (Some(destination), &[][..]));
    }
    let spec = annotated("targets", "everywhere");
    assert_eq!((spec.destination, spec.faults.len()), (None, 1));
    assert_eq!(read_service(json!({}), json!({})).destination, None);
}

#[test]
fn the_recorded_ip_mode_is_that_of_every_entry() {
    let recorded = |entries: Value| {
        let object = object::<ServiceBody>(json!({
            "metadata": {"name": "web"},
            "spec": {"type": "LoadBalancer", "loadBalancerClass": "haflinger.dev/edge"},
            "status": {"loadBalancer": {"ingress": entries}},
        }));
        super::super::service(&object, &claims()).exposure.unwrap().recorded_ip_mode
    };
    let entry = |mode: &str| json!({"ip": "192.0.2.7", "ipMode": mode});
    assert_eq!(recorded(json!([entry("VIP"), entry("VIP")])), Some(IpMode::Vip));
    assert_eq!(recorded(json!([entry("Proxy")])), Some(IpMode::Proxy));
    assert_eq!(recorded(json!([entry("Proxy"), entry("VIP")])), None);
    assert_eq!(recorded(json!([{"ip": "192.0.2.7"}])), None);
    assert_eq!(recorded(json!([entry("Later"), 7])), None);
    assert_eq!(recorded(json!([])), None);
}

#[test]
fn every_algorithm_is_read() {
    for (text, algorithm) in [
        ("hash", Algorithm::Hash),
        ("source", Algorithm::Source { timeout_secs: 10_800 }),
        ("round-robin", Algorithm::RoundRobin),
        ("least-connections", Algorithm::LeastConnections),
    ] {
        let spec = annotated("algorithm", text);
        assert_eq!((spec.algorithm, &*spec.faults), (algorithm, &[][..]));
    }
}

#[test]
fn session_affinity_wins_over_another_algorithm_and_says_so() {
    let affine = |algorithm: &str| {
        let spec = json!({
            "sessionAffinity": "ClientIP",
            "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 60}},
        });
        read_service(spec, json!({"haflinger.dev/algorithm": algorithm}))
    };
    for (algorithm, faults) in [("round-robin", 1), ("hash", 1), ("source", 0)] {
        let spec = affine(algorithm);
        assert_eq!(spec.algorithm, Algorithm::Source { timeout_secs: 60 });
        assert_eq!(spec.faults.len(), faults, "{algorithm}");
    }
    let fault = &affine("round-robin").faults[0];
    assert_eq!(fault.reason, FaultReason::InvalidAnnotation);
    for word in ["haflinger.dev/algorithm", "round-robin", "sessionAffinity", "remove one"] {
        assert!(fault.message.contains(word), "{}", fault.message);
    }
}

#[test]
fn limits_and_timeouts_are_read() {
    let spec = read_service(
        json!({}),
        json!({
            "haflinger.dev/connections-max": "10000000",
            "haflinger.dev/backend-connections-max": " 1 ",
            "haflinger.dev/idle-timeout": "15m",
            "haflinger.dev/udp-timeout": "604800",
        }),
    );
    assert_eq!(spec.limits.service.map(u32::from), Some(10_000_000));
    assert_eq!(spec.limits.backend.map(u32::from), Some(1));
    let timeouts = TimeoutRequest { established_secs: Some(900), udp_secs: Some(604_800) };
    assert_eq!((spec.timeouts, &*spec.faults), (timeouts, &[][..]));
}

#[test]
fn what_cannot_be_used_is_refused_alone_with_value_and_remedy() {
    for (name, value, remedy) in [
        ("mode", "xdp", "\"routed\""),
        ("mode", "", "\"proxy\""),
        ("algorithm", "roundrobin", "\"round-robin\""),
        ("connections-max", "0", "1 to 10000000"),
        ("connections-max", "+5", "1 to 10000000"),
        ("connections-max", "10000001", "1 to 10000000"),
        ("backend-connections-max", "-1", "1 to 10000000"),
        ("backend-connections-max", "many", "1 to 10000000"),
        ("idle-timeout", "500ms", "1s to 168h"),
        ("idle-timeout", "169h", "1s to 168h"),
        ("udp-timeout", "0", "1s to 168h"),
        ("udp-timeout", "soon", "1s to 168h"),
    ] {
        let spec = annotated(name, value);
        assert_eq!(reasons(&spec.faults), [FaultReason::InvalidAnnotation], "{name}: {value}");
        let message = &spec.faults[0].message;
        for word in [&format!("haflinger.dev/{name}"), &format!("{value:?}"), remedy] {
            assert!(message.contains(word), "{message} lacks {word}");
        }
        assert_eq!(ServiceSpec { faults: vec![], ..spec }, read_service(json!({}), json!({})));
    }
}
