use std::path::Path;

use haflinger_core::{
    HeaderChoice, PathRewrite, PathType, SecretRef, SourceId, UpstreamProtocol, UserListChoice,
};
use serde_json::{Value, json};

use super::*;
use crate::settings::LabelKeys;
use crate::translate::{Claims, ingress};

fn read(annotations: Value, paths: &[&str]) -> haflinger_core::IngressSpec {
    let paths: Vec<Value> = paths
        .iter()
        .map(|path| {
            json!({
                "path": path, "pathType": "ImplementationSpecific",
                "backend": { "service": { "name": "web", "port": { "number": 80 } } },
            })
        })
        .collect();
    let object = json!({
        "metadata": { "name": "shop", "namespace": "default", "annotations": annotations },
        "spec": {
            "ingressClassName": "haflinger",
            "rules": [{ "host": "shop.example.com", "http": { "paths": paths } }],
        },
    });
    let object: Object<IngressBody> = serde_json::from_value(object).unwrap();
    let claims = Claims {
        unclassed: false,
        ingress_class: "haflinger".into(),
        labels: LabelKeys::default(),
        readiness_gate: false,
    };
    ingress(&object, &SourceId::cluster("a"), &claims).unwrap()
}

#[test]
fn plain_requests_go_to_https_when_asked() {
    let spec = read(json!({ "nginx.ingress.kubernetes.io/ssl-redirect": "true" }), &["/"]);
    let to_https = spec.requests.to_https.unwrap();
    assert_eq!((to_https.status, to_https.always), (308, false));
    let forced = json!({ "nginx.ingress.kubernetes.io/force-ssl-redirect": "true" });
    assert!(read(forced, &["/"]).requests.to_https.unwrap().always);
    let code =
        json!({ "haproxy.org/ssl-redirect": "true", "haproxy.org/ssl-redirect-code": "301" });
    assert_eq!(read(code, &["/"]).requests.to_https.unwrap().status, 301);
    assert!(spec.faults.is_empty());
}

#[test]
fn what_captures_the_rest_of_a_path_exchanges_its_prefix() {
    for (path, target, prefix, base) in [
        ("/shop(/|$)(.*)", "/$2", "/shop", "/"),
        ("/shop/(.*)", "/store/$1", "/shop", "/store"),
        ("/(.*)", "/$1", "/", "/"),
    ] {
        let target = json!({ "nginx.ingress.kubernetes.io/rewrite-target": target });
        let spec = read(target, &[path]);
        assert!(spec.faults.is_empty(), "{:?}", spec.faults);
        let rule = &spec.rules[0];
        assert_eq!((rule.path_match, &*rule.path), (PathType::Prefix, prefix));
        assert_eq!(rule.rewrite, Some(PathRewrite::Prefix(base.into())));
    }
}

#[test]
fn another_use_of_captures_is_refused_and_changes_nothing() {
    let target = json!({ "nginx.ingress.kubernetes.io/rewrite-target": "/$1/$2" });
    let spec = read(target, &["/a/(.*)/b/(.*)"]);
    assert_eq!(spec.faults[0].reason, FaultReason::InvalidAnnotation);
    assert!(spec.faults[0].message.contains("rewrite-target"));
    assert_eq!(spec.rules[0].rewrite, None);
}

#[test]
fn a_path_of_haproxy_is_exchanged_where_the_rule_is_about_it() {
    let rewrite = json!({ "haproxy.org/path-rewrite": r"/shop/(.*) /\1" });
    let spec = read(rewrite, &["/shop", "/other"]);
    assert_eq!(spec.rules[0].rewrite, Some(PathRewrite::Prefix("/".into())));
    assert_eq!(spec.rules[1].rewrite, None);
    assert!(spec.faults.is_empty());
}

#[test]
fn expressions_match_from_the_start_whatever_the_case() {
    let spec = read(json!({ "nginx.ingress.kubernetes.io/use-regex": "true" }), &["/v[0-9]+/"]);
    assert_eq!(
        (spec.rules[0].path_match, &*spec.rules[0].path),
        (PathType::Regex, "(?i)/v[0-9]+/.*")
    );
}

#[test]
fn redirects_name_every_part_of_their_target() {
    let to = json!({ "nginx.ingress.kubernetes.io/permanent-redirect": "https://new.example.com:8443$request_uri" });
    let redirect = read(to, &["/"]).requests.redirect.unwrap();
    assert_eq!((redirect.status, redirect.port, redirect.path), (301, Some(8443), None));
    let to = json!({ "haproxy.org/request-redirect": "new.example.com" });
    let redirect = read(to, &["/"]).requests.redirect.unwrap();
    assert_eq!((redirect.status, redirect.host.as_deref()), (302, Some("new.example.com")));
}

#[test]
fn a_list_of_origins_that_cannot_be_read_lets_nobody_in() {
    let on = |origins: &str| {
        json!({
            "nginx.ingress.kubernetes.io/enable-cors": "true",
            "nginx.ingress.kubernetes.io/cors-allow-origin": origins,
        })
    };
    let spec = read(on("https://a.example, https://b.example"), &["/"]);
    assert_eq!(spec.requests.wishes.cors.unwrap().origins.len(), 2);
    let spec = read(on("https://a\u{7}.example"), &["/"]);
    assert_eq!(spec.requests.wishes.cors, None);
    assert_eq!(spec.faults.len(), 1);
}

#[test]
fn a_list_of_clients_that_cannot_be_read_lets_nobody_in_and_keeps_nobody_out() {
    let list = |name: &str, text: &str| {
        let spec = read(json!({ (format!("nginx.ingress.kubernetes.io/{name}")): text }), &["/"]);
        (spec.requests.wishes.clients.unwrap_or_default(), spec.faults.len())
    };
    let (clients, faults) = list("whitelist-source-range", "192.0.2.7/24, 2001:db8::1");
    let written: Vec<String> = clients.allow.unwrap().iter().map(ToString::to_string).collect();
    assert_eq!(
        (written, faults),
        (vec!["192.0.2.0/24".to_owned(), "2001:db8::1/128".to_owned()], 0)
    );
    let (clients, faults) = list("whitelist-source-range", "192.0.2.0/24, office");
    assert_eq!((clients.allow, faults), (Some(Vec::new()), 1));
    assert_eq!(list("whitelist-source-range", "").0.allow, Some(Vec::new()));
    let (clients, faults) = list("denylist-source-range", "office");
    assert_eq!((clients.allow, clients.deny.len(), faults), (None, 0, 1));
}

#[test]
fn rates_and_sizes_are_read_with_their_units() {
    let spec = read(
        json!({
            "nginx.ingress.kubernetes.io/limit-rpm": "30",
            "nginx.ingress.kubernetes.io/proxy-body-size": "8M",
            "haproxy.org/rate-limit-requests": "100",
            "haproxy.org/rate-limit-period": "1m",
        }),
        &["/"],
    );
    assert_eq!(spec.faults, []);
    let rates: Vec<_> = spec
        .requests
        .wishes
        .rates
        .iter()
        .flatten()
        .map(|rate| (rate.requests, rate.period_ms, rate.burst, rate.status))
        .collect();
    assert_eq!(rates, [(30, 60_000, 150, 503), (100, 60_000, 100, 403)]);
    assert_eq!(spec.requests.wishes.body_max, Some(8 << 20));
    let unlimited = read(json!({ "nginx.ingress.kubernetes.io/proxy-body-size": "0" }), &["/"]);
    assert_eq!(unlimited.requests.wishes.body_max, None);
}

#[test]
fn aliases_get_the_rules_of_the_names_that_they_stand_for() {
    let alias = json!({ "nginx.ingress.kubernetes.io/server-alias": "a.example, b.example" });
    let hosts: Vec<_> =
        read(alias, &["/"]).rules.into_iter().filter_map(|rule| rule.host).collect();
    assert_eq!(hosts, ["shop.example.com".into(), "a.example".into(), "b.example".into()]);
}

#[test]
fn grpc_backends_speak_http_2() {
    let grpc = json!({ "nginx.ingress.kubernetes.io/backend-protocol": "GRPC" });
    assert_eq!(read(grpc, &["/"]).requests.backends.speaks, Some(UpstreamProtocol::Http2));
    let tls = read(json!({ "nginx.ingress.kubernetes.io/backend-protocol": "HTTPS" }), &["/"]);
    assert!(tls.faults[0].message.contains("BackendTLSPolicy"));
}

#[test]
fn what_is_refused_or_not_known_is_said_and_what_is_off_or_needless_is_not() {
    let spec = read(
        json!({
            "nginx.ingress.kubernetes.io/canary": "true",
            "nginx.ingress.kubernetes.io/enable-modsecurity": "false",
            "nginx.ingress.kubernetes.io/proxy-buffering": "off",
            "nginx.ingress.kubernetes.io/surprise": "yes",
            "haproxy-ingress.github.io/balance-algorithm": "leastconn",
        }),
        &["/"],
    );
    let messages: Vec<_> = spec.faults.iter().map(|fault| fault.message.as_str()).collect();
    assert_eq!(messages.len(), 3, "{messages:?}");
    for name in ["/canary", "/surprise", "/balance-algorithm"] {
        assert!(messages.iter().any(|message| message.contains(name)), "{name}: {messages:?}");
    }
    assert!(spec.faults.iter().all(|fault| fault.reason == FaultReason::UnsupportedFeature));
}

#[test]
fn the_pages_list_every_known_annotation_with_what_becomes_of_it() {
    for (controller, page) in
        [(&nginx::CONTROLLER, "from-ingress-nginx.md"), (&haproxy::CONTROLLER, "from-haproxy.md")]
    {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs").join(page);
        let page = std::fs::read_to_string(path).unwrap();
        let rows: Vec<(&str, &str)> = page
            .lines()
            .filter_map(|line| {
                let mut cells = line.trim_matches('|').split('|').map(str::trim);
                let name = cells.next()?.strip_prefix('`')?.strip_suffix('`')?;
                Some((name, cells.next()?))
            })
            .filter(|(_, verdict)| ["honoured", "needless", "refused"].contains(verdict))
            .collect();
        for (name, verdict) in controller.known {
            let word = match verdict {
                Verdict::Honoured => "honoured",
                Verdict::Needless => "needless",
                Verdict::Refused(_) => "refused",
            };
            assert!(rows.contains(&(name, word)), "{name} should stand there as {word}");
        }
        assert_eq!(rows.len(), controller.known.len(), "names that are not in the code");
        assert!(controller.known.is_sorted_by_key(|(name, _)| *name));
    }
}

fn nginx(annotations: &[(&str, &str)]) -> haflinger_core::IngressSpec {
    let with = |(name, value): &(&str, &str)| {
        (format!("nginx.ingress.kubernetes.io/{name}"), Value::from(*value))
    };
    read(Value::Object(annotations.iter().map(with).collect()), &["/"])
}

fn list_of(spec: &haflinger_core::IngressSpec) -> &UserListChoice {
    &spec.requests.wishes.users.as_ref().unwrap().list
}

#[test]
fn users_are_those_of_a_secret_beside_the_ingress() {
    for secret in ["people", "default/people"] {
        let spec = nginx(&[("auth-type", "basic"), ("auth-secret", secret), ("auth-realm", "Us")]);
        assert_eq!(spec.faults, []);
        let named = SecretRef {
            source: SourceId::cluster("a"),
            namespace: "default".into(),
            name: "people".into(),
        };
        assert_eq!(list_of(&spec), &UserListChoice::Secret(named));
        assert_eq!(&*spec.requests.wishes.users.unwrap().realm, "Us");
    }
    let haproxy =
        json!({ "haproxy.org/auth-type": "basic-auth", "haproxy.org/auth-secret": "people" });
    assert!(matches!(list_of(&read(haproxy, &["/"])), UserListChoice::Secret(_)));
    assert_eq!(nginx(&[("auth-secret", "people")]).requests.wishes.users, None);
}

#[test]
fn what_is_asked_of_clients_and_cannot_be_read_lets_nobody_in() {
    for annotations in [
        &[("auth-type", "digest"), ("auth-secret", "people")][..],
        &[("auth-type", "basic")],
        &[("auth-type", "basic"), ("auth-secret", "other/people")],
        &[("auth-type", "basic"), ("auth-secret", "people"), ("auth-secret-type", "auth-map")],
        &[("auth-url", "https://$host/oauth2/auth")],
        &[("auth-url", "/auth")],
    ] {
        let spec = nginx(annotations);
        assert_eq!(spec.faults.len(), 1, "{annotations:?}: {:?}", spec.faults);
        let UserListChoice::Here(list) = list_of(&spec) else { panic!("{annotations:?}") };
        assert!(list.users.is_empty());
        assert_eq!(spec.requests.wishes.authorizer, None);
    }
}

#[test]
fn an_authorizer_is_asked_as_ingress_nginx_does() {
    let spec = nginx(&[
        ("auth-url", "http://auth.example:8080/check?a"),
        ("auth-signin", "https://id.example/in"),
        ("auth-response-headers", "X-User, X-Groups"),
    ]);
    assert_eq!(spec.faults, []);
    let asked = spec.requests.wishes.authorizer.unwrap();
    assert_eq!(
        (&*asked.url.host, asked.url.port, &*asked.url.path),
        ("auth.example", 8080, "/check?a")
    );
    assert_eq!(asked.to_backend, HeaderChoice::Only(vec!["x-user".into(), "x-groups".into()]));
    assert_eq!(asked.sign_in.unwrap().back.as_deref(), Some("rd"));
    assert!(!asked.fail_open);
    let told = nginx(&[
        ("auth-url", "http://auth.example/"),
        ("auth-signin", "https://id.example/in?rd=$escaped_request_uri"),
    ]);
    assert_eq!(told.requests.wishes.authorizer.unwrap().sign_in.unwrap().back, None);
}
