//! RequestPolicies and BackendPolicies.

use super::*;

fn requests(spec: Value) -> RequestPolicySpec {
    let update = told(Watched::RequestPolicies, json!({"spec": spec}));
    let Some(SourceUpdate::RequestPolicy { spec: Some(spec), .. }) = update else {
        panic!("{update:?}")
    };
    *spec
}

fn backends(spec: Value) -> BackendPolicySpec {
    let update = told(Watched::BackendPolicies, json!({"spec": spec}));
    let Some(SourceUpdate::BackendPolicy { spec: Some(spec), .. }) = update else {
        panic!("{update:?}")
    };
    *spec
}

fn faults<W>(policy: &PolicySpec<W>) -> Vec<&str> {
    policy.faults.iter().map(|fault| &*fault.message).collect()
}

const GROUP: &str = "gateway.networking.k8s.io";

#[test]
fn a_policy_is_read_with_its_targets_units_and_defaults() {
    let policy = requests(json!({
        "targetRefs": [
            {"group": GROUP, "kind": "HTTPRoute", "name": "shop", "sectionName": "api"},
            {"group": "networking.k8s.io", "kind": "Ingress", "name": "old"},
        ],
        "clients": {"allow": ["192.0.2.7", "2001:db8::1/32"], "deny": []},
        "rates": [
            {"requests": 5},
            {"requests": 9, "period": "1m", "burst": 2, "per": "All", "status": 503},
            {"requests": 1, "per": "Header", "header": "X-Key"},
        ],
        "bodyMax": "8Mi",
        "timeouts": {"request": "1m30s"},
    }));
    assert_eq!(faults(&policy), [""; 0]);
    let targets: Vec<_> = policy
        .targets
        .iter()
        .map(|target| (target.object.to_string(), target.section.as_deref()))
        .collect();
    assert_eq!(
        targets,
        [
            ("cluster/c/httproute/shop/shop".to_owned(), Some("api")),
            ("cluster/c/ingress/shop/old".to_owned(), None),
        ]
    );
    let asked = &policy.wishes;
    let allow = ["192.0.2.7/32", "2001:db8::/32"].map(|text| text.parse().unwrap());
    let clients = ClientRanges { allow: Some(allow.to_vec()), deny: vec![] };
    assert_eq!(asked.clients, Some(clients));
    let rate = |requests, period_ms, burst, per, status| RateLimit {
        requests,
        period_ms,
        burst,
        per,
        status,
    };
    let rates = [
        rate(5, 1_000, 5, RateKey::Client, 429),
        rate(9, 60_000, 2, RateKey::All, 503),
        rate(1, 1_000, 1, RateKey::Header("x-key".into()), 429),
    ];
    assert_eq!(asked.rates.as_deref(), Some(&rates[..]));
    assert_eq!(asked.body_max, Some(8 << 20));
    let timeouts = RuleTimeouts { request_ms: Some(90_000), backend_ms: None };
    assert_eq!((asked.timeouts, &asked.retry, &asked.cors), (timeouts, &None, &None));
}

#[test]
fn what_a_policy_asks_in_vain_is_a_fault_of_its_field() {
    for (spec, said) in [
        (
            json!({"bodyMax": "8M"}),
            "spec.bodyMax: \"8M\" is no size; write bytes, or as in \"8Mi\"",
        ),
        (json!({"rates": [{}]}), "spec.rates[0].requests: is missing; write how many requests"),
        (json!({"rates": [{"requests": 0}]}), "spec.rates[0].requests: \"0\" is not from 1"),
        (
            json!({"rates": [{"requests": 1, "period": "25h"}]}),
            "spec.rates[0].period: is not within",
        ),
        (json!({"rates": [{"requests": 1, "per": "Header"}]}), "spec.rates[0].header: is missing"),
        (
            json!({"rates": [{"requests": 1, "per": "User"}]}),
            "spec.rates[0].per: \"User\" is unknown",
        ),
        (json!({"rates": vec![json!({"requests": 1}); 9]}), "spec.rates: are more than 8"),
        (json!({"rates": {}}), "spec.rates: is of another type"),
        (
            json!({"clients": {"allow": ["office"]}}),
            "spec.clients.allow[0]: \"office\" is no network",
        ),
        (json!({"timeouts": {"request": "1d"}}), "spec.timeouts.request: \"1d\" is no duration"),
        (json!({"retry": {"codes": [200]}}), "spec.retry.codes[0]: 200 is none"),
        (
            json!({"targetRefs": [{"group": "", "kind": "Service", "name": "web"}]}),
            "spec.targetRefs[0]: \"Service web\" cannot be a target; name one of Gateway,",
        ),
        (
            json!({"targetRefs": [
                {"group": "networking.k8s.io", "kind": "Ingress", "name": "a", "sectionName": "b"},
            ]}),
            "spec.targetRefs[0].sectionName: \"b\" is no part of an Ingress",
        ),
    ] {
        let policy = requests(spec.clone());
        assert!(faults(&policy).iter().any(|fault| fault.starts_with(said)), "{spec}: {policy:?}");
    }
}

#[test]
fn a_backend_policy_targets_services_alone() {
    let policy = backends(json!({
        "targetRefs": [{"group": "", "kind": "Service", "name": "web", "sectionName": "http"}],
        "protocol": "HTTP2",
    }));
    assert_eq!(faults(&policy), [""; 0]);
    assert_eq!(policy.wishes.speaks, Some(UpstreamProtocol::Http2));
    assert_eq!(policy.targets[0].section.as_deref(), Some("http"));
    let odd = backends(json!({
        "targetRefs": [{"group": GROUP, "kind": "HTTPRoute", "name": "web"}], "protocol": "HTTP3",
    }));
    assert_eq!(faults(&odd).len(), 2, "{odd:?}");
}
