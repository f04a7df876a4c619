use super::*;

#[test]
fn a_grant_tells_who_may_name_what() {
    let update = told(
        Watched::ReferenceGrants,
        json!({"spec": {
            "from": [{"group": "gateway.networking.k8s.io", "kind": "HTTPRoute",
                      "namespace": "shop"},
                     {"group": "gateway.networking.k8s.io", "kind": "Gateway"}, 7],
            "to": [{"group": "", "kind": "Service"}, {"kind": "Secret", "name": "tls"},
                   {"kind": "Secret", "name": 7}],
        }}),
    );
    let expected = ReferenceGrantSpec {
        from: vec![GrantFrom {
            group: "gateway.networking.k8s.io".into(),
            kind: "HTTPRoute".into(),
            namespace: "shop".into(),
        }],
        to: vec![
            GrantTo { group: "".into(), kind: "Service".into(), name: None },
            GrantTo { group: "".into(), kind: "Secret".into(), name: Some("tls".into()) },
        ],
    };
    assert_eq!(
        update,
        Some(SourceUpdate::ReferenceGrant {
            object: object(ObjectKind::ReferenceGrant, "shop", "web"),
            spec: Some(Box::new(expected)),
        })
    );
}

fn policy(spec: Value, status: Value) -> BackendTlsPolicySpec {
    match told(Watched::BackendTlsPolicies, json!({"spec": spec, "status": status})) {
        Some(SourceUpdate::BackendTlsPolicy { spec: Some(spec), .. }) => *spec,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_policy_tells_whom_to_trust() {
    let spec = policy(
        json!({
            "targetRefs": [{"group": "", "kind": "Service", "name": "a"},
                           {"group": "", "kind": "Service", "name": "a", "sectionName": "https"}],
            "validation": {
                "caCertificateRefs": [{"group": "", "kind": "ConfigMap", "name": "ca"},
                                      {"group": "example.org", "kind": "Vault", "name": "v"}],
                "wellKnownCACertificates": "System",
                "hostname": "A.example",
                "subjectAltNames": [{"type": "Hostname", "hostname": "b.example"},
                                    {"type": "URI", "uri": "spiffe://c/d"}],
            },
        }),
        json!({"ancestors": [
            {"controllerName": "haflinger.dev/gateway", "ancestorRef": {"name": "edge"},
             "conditions": [written_condition("Accepted", "True", 1)]},
            {"controllerName": "example.org/other", "ancestorRef": {"name": "edge"}}]}),
    );
    let target = ObjectRef::service(&source(), "shop", "a");
    assert_eq!(spec.targets, [(target.clone(), None), (target, Some("https".into()))]);
    let authority = AuthorityRef {
        source: source(),
        kind: AuthorityKind::ConfigMap,
        namespace: "shop".into(),
        name: "ca".into(),
    };
    assert_eq!(
        spec.authorities,
        [AuthorityChoice::Object(authority), AuthorityChoice::Other("example.org/Vault v".into())]
    );
    assert!(spec.system_authorities);
    assert_eq!(&*spec.hostname, "a.example");
    assert_eq!(
        spec.subject_names,
        [SubjectName::Dns("b.example".into()), SubjectName::Uri("spiffe://c/d".into())]
    );
    assert_eq!(spec.faults, []);
    let Some(ApiStatus::Policy(ancestors)) = spec.recorded_status.as_deref() else {
        panic!("{:?}", spec.recorded_status)
    };
    assert_eq!(ancestors.len(), 1);
    assert_eq!(ancestors[0].parent.object, object(ObjectKind::Gateway, "shop", "edge"));
}

#[test]
fn a_policy_that_makes_no_sense_says_so() {
    let spec = policy(
        json!({
            "targetRefs": [{"group": "example.org", "kind": "Bucket", "name": "a"}],
            "validation": {"hostname": "*.example", "wellKnownCACertificates": "Everybody",
                           "subjectAltNames": [{"type": "URI", "hostname": "a"}]},
        }),
        Value::Null,
    );
    let messages: Vec<&str> = spec.faults.iter().map(|fault| &*fault.message).collect();
    assert_eq!(
        messages,
        [
            "spec.targetRefs[0]: \"example.org/Bucket a\" cannot be a target; name a Service",
            "spec.validation.wellKnownCACertificates: \"Everybody\" is unknown; write System",
            "spec.validation.hostname: \"*.example\" is no host name; write one without \"*\"",
            "spec.validation.subjectAltNames[0]: names nothing; write type Hostname with hostname, \
             or URI with uri",
        ]
    );
    assert!(!spec.system_authorities && spec.targets.is_empty());
}
