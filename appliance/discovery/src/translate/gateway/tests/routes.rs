use super::*;

fn exact(name: &str, value: &str) -> FieldMatch {
    FieldMatch { name: name.into(), value: ValueMatch::Exact(value.into()) }
}

fn expression(name: &str, value: &str) -> FieldMatch {
    FieldMatch { name: name.into(), value: ValueMatch::Regex(value.into()) }
}

fn service(namespace: &str, name: &str, port: Option<u16>) -> BackendRef {
    BackendRef::Service { object: ObjectRef::service(&source(), namespace, name), port }
}

fn messages(faults: &[SourceFault]) -> Vec<&str> {
    faults.iter().map(|fault| &*fault.message).collect()
}

#[test]
fn a_route_tells_its_parents_hosts_and_what_is_recorded_of_ours() {
    let update = told(
        Watched::HttpRoutes,
        json!({
            "metadata": {"generation": 5, "creationTimestamp": "2026-01-02T03:04:05Z"},
            "spec": {
                "hostnames": ["A.example", "*.b.example", "a.example"],
                "parentRefs": [
                    {"name": "edge"},
                    {"group": "gateway.networking.k8s.io", "kind": "ListenerSet", "name": "more",
                     "namespace": "infra", "sectionName": "web", "port": 8080},
                    {"group": "", "kind": "Service", "name": "mesh"},
                ],
            },
            "status": {"parents": [
                {"controllerName": "example.org/other", "parentRef": {"name": "edge"},
                 "conditions": [written_condition("Accepted", "False", 5)]},
                {"controllerName": "haflinger.dev/gateway",
                 "parentRef": {"name": "edge", "namespace": "shop"},
                 "conditions": [written_condition("Accepted", "True", 4)]},
            ]},
        }),
    );
    let Some(SourceUpdate::Route { object: named, spec: Some(spec) }) = update else {
        panic!("{update:?}")
    };
    assert_eq!(named, object(ObjectKind::HttpRoute, "shop", "web"));
    assert_eq!((spec.generation, spec.created_secs), (5, 1_767_323_045));
    assert_eq!(spec.hostnames, ["a.example".into(), "*.b.example".into()]);
    let edge = ParentSpec {
        object: object(ObjectKind::Gateway, "shop", "edge"),
        written: ParentFields { namespace: false },
        section: None,
        port: None,
    };
    let more = ParentSpec {
        object: object(ObjectKind::ListenerSet, "infra", "more"),
        written: ParentFields { namespace: true },
        section: Some("web".into()),
        port: Some(8080),
    };
    assert_eq!(spec.parents, [edge.clone(), more]);
    let recorded = ParentStatus {
        parent: ParentSpec { written: ParentFields { namespace: true }, ..edge },
        conditions: vec![condition("Accepted", Holds::True, 4)],
    };
    assert_eq!(spec.recorded_status.as_deref(), Some(&ApiStatus::Route(vec![recorded])));
    assert_eq!(spec.faults, []);
}

#[test]
fn matches_are_read_as_they_are_compared() {
    let (rule, faults) = http_rule(json!({"name": "first", "matches": [
        {},
        {"path": {"type": "Exact", "value": "/a"}, "method": "GET"},
        {"path": {"value": "/b/"},
         "headers": [{"name": "X-Version", "value": "1"}, {"name": "x-version", "value": "2"},
                     {"name": "agent", "value": "a|b", "type": "RegularExpression"}]},
        {"path": {"type": "RegularExpression", "value": "/[a-z]+"},
         "queryParams": [{"name": "Q", "value": "1"}, {"name": "q", "value": "2"},
                         {"name": "Q", "value": "3"}]},
    ]}));
    assert_eq!(rule.name.as_deref(), Some("first"));
    let expected = [
        RequestMatch::default(),
        RequestMatch {
            method: Some("GET".into()),
            ..RequestMatch::path(PathMatch::Exact("/a".into()))
        },
        RequestMatch {
            headers: vec![exact("x-version", "1"), expression("agent", "a|b")],
            ..RequestMatch::path(PathMatch::Prefix("/b/".into()))
        },
        RequestMatch {
            query: vec![exact("Q", "1"), exact("q", "2")],
            ..RequestMatch::path(PathMatch::Regex("/[a-z]+".into()))
        },
    ];
    assert_eq!(rule.matches, expected);
    assert_eq!(faults, []);
    assert_eq!(http_rule(json!({})).0.matches, [RequestMatch::default()]);
}

#[test]
fn calls_of_grpc_are_paths() {
    let read = |method: Value| {
        let matches = json!([{"method": method}]);
        let mut route = route(Watched::GrpcRoutes, json!({"rules": [{"matches": matches}]}));
        assert_eq!(route.faults, [], "{method}");
        let found = route.rules.remove(0).matches.remove(0);
        assert_eq!(found.method.as_deref(), Some("POST"));
        found.path
    };
    let regular = |expression: &str| PathMatch::Regex(expression.into());
    for (method, expected) in [
        (json!({"service": "a.B", "method": "C"}), PathMatch::Exact("/a.B/C".into())),
        (json!({"service": "a.B", "type": "Exact"}), PathMatch::Prefix("/a.B".into())),
        (json!({"method": "C.d"}), regular(r"/[^/]+/C\.d")),
        (Value::Null, PathMatch::every()),
        (
            json!({"type": "RegularExpression", "service": "a|b", "method": "C.*"}),
            regular("/(?:a|b)/(?:C.*)"),
        ),
        (json!({"type": "RegularExpression", "service": "a|b"}), regular("/(?:a|b)/[^/]+")),
        (json!({"type": "RegularExpression", "method": "C"}), regular("/[^/]+/(?:C)")),
    ] {
        assert_eq!(read(method.clone()), expected, "{method}");
    }
    let spec = route(Watched::GrpcRoutes, json!({"rules": [{}]}));
    assert_eq!(spec.rules[0].matches[0].path, PathMatch::every());
    for odd in [
        json!({"service": "a/b"}),
        json!({"type": "RegularExpression", "service": "a)", "method": "(b"}),
        json!({"type": "Near", "service": "a"}),
    ] {
        let matches = json!([{"method": odd}]);
        let spec = route(Watched::GrpcRoutes, json!({"rules": [{"matches": matches}]}));
        assert_eq!(spec.faults.len(), 1, "{odd}: {:?}", spec.faults);
    }
}

#[test]
fn filters_are_read_in_their_order() {
    let (rule, faults) = http_rule(json!({"filters": [
        {"type": "RequestHeaderModifier", "requestHeaderModifier": {
            "set": [{"name": "X-A", "value": "1"}], "add": [{"name": "X-B", "value": "2"}],
            "remove": ["X-C"]}},
        {"type": "ResponseHeaderModifier", "responseHeaderModifier": {"remove": ["server"]}},
        {"type": "RequestRedirect", "requestRedirect": {
            "scheme": "https", "hostname": "B.example", "port": 8443, "statusCode": 301,
            "path": {"type": "ReplaceFullPath", "replaceFullPath": "/new"}}},
        {"type": "RequestRedirect", "requestRedirect": {}},
        {"type": "URLRewrite", "urlRewrite": {
            "hostname": "c.example",
            "path": {"type": "ReplacePrefixMatch", "replacePrefixMatch": ""}}},
        {"type": "RequestMirror", "requestMirror": {
            "backendRef": {"name": "copy", "port": 80, "namespace": "x"}}},
        {"type": "RequestMirror", "requestMirror": {
            "backendRef": {"name": "copy", "port": 80}, "percent": 42}},
        {"type": "RequestMirror", "requestMirror": {
            "backendRef": {"name": "copy"}, "fraction": {"numerator": 1, "denominator": 1000}}},
        {"type": "CORS", "cors": {"allowOrigins": ["https://a.example"], "allowMethods": ["*"],
                                  "allowCredentials": true, "allowHeaders": ["X-A"],
                                  "exposeHeaders": ["X-B"], "maxAge": 60}},
        {"type": "CORS", "cors": {}},
        {"type": "ExtensionRef", "extensionRef": {
            "group": "haflinger.dev", "kind": "RateLimit", "name": "ten"}},
    ]}));
    assert_eq!(faults, []);
    let mirror =
        |backend, numerator, denominator| FilterSpec::Mirror { backend, numerator, denominator };
    let expected = [
        FilterSpec::RequestHeaders(FieldEdits {
            remove: vec!["x-c".into()],
            set: vec![("x-a".into(), "1".into())],
            add: vec![("x-b".into(), "2".into())],
        }),
        FilterSpec::ResponseHeaders(FieldEdits {
            remove: vec!["server".into()],
            ..FieldEdits::default()
        }),
        FilterSpec::Redirect(Redirect {
            scheme: Some("https".into()),
            host: Some("b.example".into()),
            path: Some(PathRewrite::Full("/new".into())),
            port: Some(8443),
            status: 301,
        }),
        FilterSpec::Redirect(Redirect {
            scheme: None,
            host: None,
            path: None,
            port: None,
            status: 302,
        }),
        FilterSpec::Rewrite(Rewrite {
            host: Some("c.example".into()),
            path: Some(PathRewrite::Prefix("/".into())),
        }),
        mirror(service("x", "copy", Some(80)), 1, 1),
        mirror(service("shop", "copy", Some(80)), 42, 100),
        mirror(service("shop", "copy", None), 1, 1000),
        FilterSpec::Cors(Cors {
            origins: vec!["https://a.example".into()],
            credentials: true,
            methods: vec!["*".into()],
            headers: vec!["X-A".into()],
            expose: vec!["X-B".into()],
            max_age_secs: 60,
        }),
        FilterSpec::Cors(Cors { max_age_secs: 5, ..Cors::default() }),
        FilterSpec::Extension(ExtensionRef {
            kind: "haflinger.dev/RateLimit".into(),
            name: "ten".into(),
        }),
    ];
    assert_eq!(rule.filters, expected);
}

#[test]
fn backends_timeouts_and_retries_are_read() {
    let (rule, faults) = http_rule(json!({
        "backendRefs": [
            {"name": "a", "port": 80},
            {"group": "", "kind": "Service", "name": "b", "namespace": "x", "port": 8080,
             "weight": 0, "filters": [{"type": "ResponseHeaderModifier",
                                       "responseHeaderModifier": {"remove": ["x"]}}]},
            {"group": "example.org", "kind": "Bucket", "name": "c", "weight": 1000000},
            {"name": "d"},
        ],
        "timeouts": {"request": "10s", "backendRequest": "0s"},
        "retry": {"codes": [500, 503], "attempts": 3, "backoff": "100ms"},
    }));
    assert_eq!(faults, []);
    let plain = |backend, weight| BackendRefSpec { backend, weight, filters: vec![] };
    let edits = FieldEdits { remove: vec!["x".into()], ..FieldEdits::default() };
    let expected = [
        plain(service("shop", "a", Some(80)), 1),
        BackendRefSpec {
            filters: vec![FilterSpec::ResponseHeaders(edits)],
            ..plain(service("x", "b", Some(8080)), 0)
        },
        plain(BackendRef::Other("example.org/Bucket c".into()), 1_000_000),
        plain(service("shop", "d", None), 1),
    ];
    assert_eq!(rule.backends, expected);
    let timeouts = RuleTimeouts { request_ms: Some(10_000), backend_ms: Some(0) };
    assert_eq!(rule.timeouts, timeouts);
    let retry = RetryPolicy { codes: vec![500, 503], attempts: Some(3), backoff_ms: Some(100) };
    assert_eq!(rule.retry, Some(retry));
}

#[test]
fn sessions_are_kept_by_cookie_or_header_for_their_time() {
    for kind in [Watched::HttpRoutes, Watched::GrpcRoutes] {
        let session = json!({"sessionName": "cart", "type": "Cookie", "absoluteTimeout": "1h",
                             "idleTimeout": "90s", "cookieConfig": {"lifetimeType": "Permanent"}});
        let rules = json!([{"sessionPersistence": session},
                           {"sessionPersistence": {"type": "Header"}}, {}]);
        let update = told(kind, json!({"spec": {"rules": rules}}));
        let Some(SourceUpdate::Route { object, spec: Some(spec) }) = update else {
            panic!("{update:?}")
        };
        let cookie = SessionCookie { permanent: true, ..SessionCookie::default() };
        let expected = Persistence {
            name: "cart".into(),
            carrier: SessionCarrier::Cookie(cookie),
            absolute_secs: Some(3_600),
            idle_secs: Some(90),
        };
        assert_eq!(spec.faults, []);
        assert_eq!(spec.rules[0].persistence, Some(expected));
        let expected = Persistence {
            name: Persistence::default_name(&object, 1),
            carrier: SessionCarrier::Header,
            absolute_secs: None,
            idle_secs: None,
        };
        assert_eq!(spec.rules[1].persistence, Some(expected));
        assert_eq!(spec.rules[2].persistence, None);
    }
}

#[test]
fn routes_of_streams_have_backends_alone() {
    let rules =
        json!([{"name": "all", "backendRefs": [{"name": "db", "port": 5432, "weight": 2}]}]);
    for (watched, kind) in [
        (Watched::TlsRoutes, ObjectKind::TlsRoute),
        (Watched::TcpRoutes, ObjectKind::TcpRoute),
        (Watched::UdpRoutes, ObjectKind::UdpRoute),
    ] {
        let update = told(
            watched,
            json!({"spec": {"parentRefs": [{"name": "edge", "sectionName": "db"}],
                            "hostnames": ["db.example"], "rules": rules}}),
        );
        let Some(SourceUpdate::Route { object: named, spec: Some(spec) }) = update else {
            panic!("{update:?}")
        };
        assert_eq!(named, object(kind, "shop", "web"));
        assert_eq!(spec.hostnames.len(), usize::from(kind == ObjectKind::TlsRoute));
        assert_eq!(spec.parents[0].section.as_deref(), Some("db"));
        let rule = &spec.rules[0];
        assert_eq!((rule.name.as_deref(), rule.backends[0].weight), (Some("all"), 2));
        assert_eq!(rule.backends[0].backend, service("shop", "db", Some(5432)));
    }
}

#[test]
fn what_cannot_be_honoured_is_named_with_field_value_and_remedy() {
    for (rule, expected) in [
        (
            json!({"sessionPersistence": {"cookieConfig": {"lifetimeType": "Permanent"}}}),
            "spec.rules[0].sessionPersistence.absoluteTimeout: is missing; a cookie with \
             lifetimeType Permanent needs one",
        ),
        (
            json!({"sessionPersistence": {"sessionName": "a b"}}),
            "spec.rules[0].sessionPersistence.sessionName: \"a b\" is no name of a cookie or header \
             field; write up to 128 letters, digits and \"-_.\"",
        ),
        (
            json!({"sessionPersistence": {"absoluteTimeout": "0s"}}),
            "spec.rules[0].sessionPersistence.absoluteTimeout: \"0s\" is no time; write one above \
             0s, as in 1h or 30m",
        ),
        (
            json!({"sessionPersistence": {"type": "Odd"}}),
            "spec.rules[0].sessionPersistence.type: \"Odd\" is none; write Cookie or Header",
        ),
        (
            json!({"filters": [{"type": "ExternalAuth", "externalAuth": {"protocol": "GRPC"}}]}),
            "spec.rules[0].filters[0].type: \"ExternalAuth\" is not supported; leave the filter out",
        ),
        (
            json!({"backendRefs": [{"name": "a", "filters": [{"type": "Odd"}]}]}),
            "spec.rules[0].backendRefs[0].filters[0].type: \"Odd\" is not supported; leave the \
             filter out",
        ),
        (
            json!({"filters": [{"type": "URLRewrite"}]}),
            "spec.rules[0].filters[0].urlRewrite: is missing; the type of the filter asks for it",
        ),
        (
            json!({"matches": [{"path": {"type": "RegularExpression", "value": "("}}]}),
            "spec.rules[0].matches[0].path.value: \"(\" is no regular expression of Rust's syntax; \
             write a simpler expression",
        ),
        (
            json!({"matches": [{"path": {"value": "a b"}}]}),
            "spec.rules[0].matches[0].path.value: \"a b\" is no path; begin it with \"/\"",
        ),
        (
            json!({"matches": [{"headers": [{"name": "a:", "value": "b"}]}]}),
            "spec.rules[0].matches[0].headers[0].name: \"a:\" is no name; write one, as x-version",
        ),
        (
            json!({"filters": [{"type": "RequestHeaderModifier", "requestHeaderModifier": {
                "set": [{"name": "a", "value": "b\r\nc: d"}]}}]}),
            "spec.rules[0].filters[0].requestHeaderModifier.set[0].value: \"b  c: d\" has control \
             characters; leave them out",
        ),
        (
            json!({"filters": [{"type": "RequestRedirect", "requestRedirect": {"scheme": "ftp"}}]}),
            "spec.rules[0].filters[0].requestRedirect.scheme: \"ftp\" is not served; write http or \
             https",
        ),
        (
            json!({"filters": [{"type": "RequestMirror", "requestMirror": {
                "backendRef": {"name": "a"}, "percent": 101}}]}),
            "spec.rules[0].filters[0].requestMirror: its fraction or percent is no share of all; \
             write percent from 0 to 100",
        ),
        (
            json!({"timeouts": {"request": "1.5s"}}),
            "spec.rules[0].timeouts.request: \"1.5s\" is no duration; write one, as in 1m30s or \
             500ms",
        ),
        (
            json!({"retry": {"codes": [200]}}),
            "spec.rules[0].retry.codes[0]: 200 is none; write one from 400 to 599",
        ),
    ] {
        let (_, faults) = http_rule(rule.clone());
        assert_eq!(messages(&faults), [expected], "{rule}");
    }
}

#[test]
fn a_route_of_many_costly_expressions_is_refused_before_they_are_all_compiled() {
    let matches: Vec<Value> = (0..10_000)
        .map(|_| json!({"path": {"type": "RegularExpression", "value": r"/\w{1,90}"}}))
        .collect();
    let (rule, faults) = http_rule(json!({"matches": matches}));
    assert_eq!(rule.matches, []);
    assert!(!faults.is_empty());
}
