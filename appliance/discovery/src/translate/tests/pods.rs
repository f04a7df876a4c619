//! Pods with the readiness gate, and the selectors by which services lead to them.

use super::*;
use crate::objects::PodBody;

const GATE: &str = "haflinger.dev/edge-ready";

/// These conditions, after what a kubelet says of a pod that waits for its gates.
fn conditions(conditions: &[(&str, &str)]) -> Value {
    let ready = json!({"type": "Ready", "status": "False", "reason": "ReadinessGatesNotReady"});
    let others = conditions.iter().map(|(name, status)| json!({"type": name, "status": status}));
    [ready].into_iter().chain(others).collect()
}

/// A pod that lacks nothing but our gate, with these parts in the place of its own.
fn with(parts: &[(&str, Value)]) -> Option<GatedPod> {
    let mut pod = json!({
        "metadata": {
            "name": "web-1", "namespace": "shop", "uid": "u-1",
            "labels": {"app": "web", GATE: "enabled"},
        },
        "spec": {"readinessGates": [{"conditionType": GATE}]},
        "status": {
            "conditions": conditions(&[("ContainersReady", "True")]),
            "podIP": "10.0.0.1",
            "podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}],
        },
    });
    for (pointer, value) in parts {
        *pod.pointer_mut(pointer).unwrap() = value.clone();
    }
    super::super::pod(&object::<PodBody>(pod))
}

#[test]
fn a_pod_is_told_while_it_lacks_our_gate_alone_and_after() {
    let waiting = with(&[]).unwrap();
    assert_eq!(&*waiting.uid, "u-1");
    assert_eq!(*waiting.addresses, [ip("10.0.0.1"), ip("fd00::1")]);
    let labels: Vec<(&str, &str)> = waiting.labels.iter().map(|(k, v)| (&**k, &**v)).collect();
    assert!(!waiting.set && labels == [("app", "web"), (GATE, "enabled")]);

    let done = conditions(&[("ContainersReady", "True"), (GATE, "True")]);
    let set = with(&[("/status/conditions", done)]).unwrap();
    assert!(set.set && set.labels.is_empty(), "nobody asks for its services any more");
    let unset = conditions(&[("ContainersReady", "True"), (GATE, "False")]);
    assert!(!with(&[("/status/conditions", unset)]).unwrap().set);
}

#[test]
fn a_pod_that_lacks_more_or_has_no_such_gate_is_not_told() {
    let other = "example.com/other";
    let both = json!([{"conditionType": GATE}, {"conditionType": other}]);
    assert_eq!(with(&[("/spec/readinessGates", both.clone())]), None);
    let given = conditions(&[("ContainersReady", "True"), (other, "True")]);
    let told = with(&[("/spec/readinessGates", both), ("/status/conditions", given)]);
    assert!(told.is_some());
    let others_alone = json!([{"conditionType": other}]);
    for (at, value) in [
        ("/spec/readinessGates", others_alone),
        ("/spec/readinessGates", Value::Null),
        ("/status/conditions", conditions(&[])),
        ("/status/conditions", conditions(&[("ContainersReady", "False")])),
        ("/status/conditions", json!("nonsense")),
        ("/metadata/uid", Value::Null),
        ("/status", Value::Null),
    ] {
        assert_eq!(with(&[(at, value.clone())]), None, "{at} {value}");
    }
    let none = [("/status/podIPs", json!([])), ("/status/podIP", json!("nonsense"))];
    assert_eq!(with(&none), None);
    let single = with(&[("/status/podIPs", Value::Null)]).unwrap();
    assert_eq!(*single.addresses, [ip("10.0.0.1")]);
    let leaving = json!({
        "name": "web-1", "namespace": "shop", "uid": "u-1",
        "deletionTimestamp": "2026-01-01T00:00:00Z",
    });
    assert_eq!(with(&[("/metadata", leaving)]), None);
}

#[test]
fn a_pod_on_a_node_that_is_lost_is_not_told() {
    let lost = |ready: Value| {
        let mut said = conditions(&[("ContainersReady", "True"), (GATE, "True")]);
        said[0] = ready;
        with(&[("/status/conditions", said)])
    };
    assert!(lost(json!({"type": "Ready", "status": "True"})).unwrap().set);
    // What the node's controller makes of it.
    assert_eq!(lost(json!({"type": "Ready", "status": "False"})), None);
    assert_eq!(lost(Value::Null), None);
}

#[test]
fn a_selector_is_kept_where_pods_may_wait() {
    let service = || {
        object::<ServiceBody>(json!({
            "metadata": {"name": "web"},
            "spec": {"selector": {"tier": "front", "app": "web"}, "ports": [{"port": 80}]},
        }))
    };
    let kept = super::super::service(&service(), &claims()).selector;
    let kept: Vec<(&str, &str)> = kept.iter().map(|(k, v)| (&**k, &**v)).collect();
    assert_eq!(kept, [("app", "web"), ("tier", "front")]);
    let without = Claims { readiness_gate: false, ..claims() };
    assert!(super::super::service(&service(), &without).selector.is_empty());
}
