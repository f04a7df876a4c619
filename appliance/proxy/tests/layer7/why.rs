//! What is said to become of a request is what becomes of it, and nothing is counted for the saying.

use std::net::SocketAddr;
use std::sync::Arc;

use haflinger_core::{
    ClientRanges, FieldEdits, FieldMatch, Filter, HostMatch, HttpRule, PathMatch, PathRewrite,
    RateKey, RateLimit, Redirect, RequestMatch, Rewrite, RuleAction, RuleBackend, UserList, Users,
    ValueMatch,
};
use haflinger_proxy::{Outcome, Question, UrlWhy};

use crate::support::backend::Backend;
use crate::support::client::RawClient;
use crate::support::{
    Lab, action, certificate_ref, plain_section, route, rule, section, self_signed, tls_entry,
    weighted,
};

fn ask(lab: &Lab, url: &str, method: &str, fields: &[&str]) -> UrlWhy {
    let fields: Vec<String> = fields.iter().map(|field| (*field).to_owned()).collect();
    let to = lab.address.to_string();
    let question = Question::new(url, method, &fields, Some("127.0.0.1"), Some(&to)).unwrap();
    lab.handle.why(&question)
}

fn get(lab: &Lab, path: &str) -> UrlWhy {
    ask(lab, &format!("http://shop.example{path}"), "GET", &[])
}

/// The status that is said, where the proxy itself answers.
fn status(why: &UrlWhy) -> Option<u16> {
    match &why.outcome {
        Outcome::Answer { status, .. } | Outcome::Redirect { status, .. } => Some(*status),
        Outcome::Preflight { .. } => Some(204),
        Outcome::Forwarded => Some(200),
        _ => None,
    }
}

fn redirect() -> Filter {
    Filter::Redirect(Redirect {
        scheme: Some("https".into()),
        host: None,
        path: Some(PathRewrite::Prefix("/new".into())),
        port: None,
        status: 301,
    })
}

fn with_header(value: &str) -> HttpRule {
    let field = FieldMatch { name: "x-version".into(), value: ValueMatch::Exact(value.into()) };
    let matches = RequestMatch {
        headers: vec![field],
        ..RequestMatch::path(PathMatch::Prefix("/api".into()))
    };
    HttpRule {
        matches,
        ..route("/api", RuleAction { name: Some("canary".into()), ..action("shop", vec![]) })
    }
}

fn users() -> Filter {
    let list = UserList::parse(b"joe:{SHA}PLzZCtxLGSqHpiWFC38jHK3fDrM=");
    let (realm, list) = ("shop".into(), Arc::new(list));
    Filter::Users(Arc::new(Users {
        realm,
        list: haflinger_core::UserListChoice::Here(list),
        user_header: None,
        pass_on: false,
    }))
}

async fn lab() -> (Lab, Backend) {
    let shop = Backend::start("shop").await;
    let mut lab = Lab::start();
    lab.backends("shop", &[shop.address]);
    lab.backends("empty", &[]);
    let only = ClientRanges { allow: Some(vec!["192.0.2.0/24".parse().unwrap()]), deny: vec![] };
    let limit = RateLimit {
        requests: 1,
        period_ms: 86_400_000,
        burst: 2,
        per: RateKey::Client,
        status: 429,
    };
    let missing = RuleBackend { weight: 1, to: Err(500), filters: Vec::new() };
    let mut broken = with_header("1");
    broken.matches.path = PathMatch::Exact("/broken".into());
    broken.matches.headers[0].value = ValueMatch::Regex("(".into());
    let rules = vec![
        route("/api", action("shop", vec![])),
        with_header("2"),
        broken,
        route("/old", action("shop", vec![redirect()])),
        route("/closed", action("shop", vec![Filter::Clients(only)])),
        route("/slow", action("shop", vec![Filter::Rate { limit, scope: "shop".into() }])),
        route("/small", action("shop", vec![Filter::BodyMax(10)])),
        route("/empty", action("empty", vec![])),
        route("/lost", RuleAction { backends: vec![missing], ..RuleAction::default() }),
        route("/none", RuleAction::default()),
        route("/private", action("shop", vec![users()])),
    ];
    lab.snapshot.http.insert(
        lab.address,
        Arc::new(haflinger_core::HttpListener {
            tls: false,
            sections: vec![
                plain_section(HostMatch::Exact("shop.example".into()), rules),
                plain_section(HostMatch::Suffix("apps.example".into()), vec![]),
            ],
        }),
    );
    lab.publish().await;
    (lab, shop)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_said_is_what_happens() {
    let (lab, shop) = lab().await;
    for (path, fields) in [
        ("/api/x", &[][..]),
        ("/api/x", &[("x-version", "2")]),
        ("/broken", &[("x-version", "2")]),
        ("/old/a?b=c", &[]),
        ("/closed", &[]),
        ("/empty", &[]),
        ("/lost", &[]),
        ("/none", &[]),
        ("/nowhere", &[]),
        ("/private", &[]),
        ("/small", &[("content-length", "11")]),
    ] {
        let mut client = RawClient::connect(lab.address).await;
        let written: Vec<String> = fields.iter().map(|(n, v)| format!("{n}: {v}")).collect();
        let written: Vec<&str> = written.iter().map(String::as_str).collect();
        let before = shop.requests();
        let said = ask(&lab, &format!("http://shop.example{path}"), "GET", &written);
        assert_eq!(shop.requests(), before, "nobody is asked");
        let (real, answer) = client.ask("GET", path, "shop.example", fields).await.unwrap();
        assert_eq!(status(&said), Some(real), "{path} {fields:?} {said:?}");
        if let Outcome::Redirect { location, .. } = &said.outcome {
            assert!(answer.contains(&format!("{location}\r\n")), "{answer}");
        }
        let forwarded = shop.requests() > before;
        assert_eq!(said.onward.is_some(), forwarded, "{path} {said:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_rule_is_named_with_those_that_were_closer_and_why_they_do_not_fit() {
    let (lab, shop) = lab().await;
    let why = get(&lab, "/api/x");
    let rule = why.rule.unwrap();
    assert_eq!((rule.asks.as_str(), rule.name), ("any host, paths below /api", None));
    assert_eq!(why.rejected[0].because, "there is no field x-version");
    assert_eq!(why.rejected[0].name.as_deref(), Some("canary"));
    let listener = why.listener.unwrap();
    assert_eq!(listener.address, lab.address);
    assert_eq!(listener.section.unwrap().name.as_ref(), "listener");
    assert_eq!(why.onward.unwrap().backend.address, shop.address);
    let canary = ask(&lab, "http://shop.example/api/x", "GET", &["x-version: 2"]);
    assert_eq!(canary.rule.unwrap().name.as_deref(), Some("canary"));
    assert!(canary.rejected.iter().all(|rule| rule.because == "another path"));
    let broken = ask(&lab, "http://shop.example/broken", "GET", &["x-version: 2"]);
    assert_eq!(broken.rule.unwrap().fault.as_deref(), Some("unclosed group"));
}

#[tokio::test(flavor = "multi_thread")]
async fn no_rate_is_charged_for_asking_and_what_is_left_is_said() {
    let (lab, _shop) = lab().await;
    for _ in 0..5 {
        let why = get(&lab, "/slow");
        assert_eq!(why.filters[0].does, "lets it through: 1 more at once, of 2");
    }
    let mut client = RawClient::connect(lab.address).await;
    for expected in [200, 200, 429] {
        let (real, _) = client.get("/slow").await.unwrap();
        assert_eq!(real, expected);
    }
    let why = get(&lab, "/slow");
    assert_eq!(status(&why), Some(429));
    assert!(why.filters[0].ends && why.filters[0].does.starts_with("refuses: too often"));
    assert_eq!(lab.metric("haflinger_proxy_requests_refused_total", "rate"), 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_backend_is_asked_is_said_as_it_arrives() {
    let shop = Backend::start("shop").await;
    let mut lab = Lab::start();
    lab.backends("shop", &[shop.address]);
    let edits = FieldEdits {
        set: vec![("x-shop".into(), "1".into())],
        remove: vec!["x-secret".into()],
        add: Vec::new(),
    };
    let to = Rewrite {
        host: Some("inner.example".into()),
        path: Some(PathRewrite::Prefix("/v2".into())),
    };
    let filters = vec![Filter::RequestHeaders(edits), Filter::Rewrite(to)];
    let mut both = action("shop", filters);
    both.backends.push(weighted(0, "other"));
    lab.listen(vec![route("/api", both)]);
    lab.publish().await;
    let why = ask(&lab, "http://shop.example/api/x?y=1", "POST", &["x-secret: word"]);
    let onward = why.onward.unwrap();
    assert_eq!(onward.request, "POST /v2/x?y=1");
    assert_eq!(onward.host.as_deref(), Some("inner.example"));
    assert_eq!((onward.protocol, onward.tls, onward.next), ("HTTP/1.1", None, None));
    for field in ["x-shop: 1", "x-forwarded-for: 127.0.0.1", "x-forwarded-proto: http"] {
        assert!(onward.fields.iter().any(|own| own == field), "{field} {:?}", onward.fields);
    }
    assert!(!onward.fields.iter().any(|field| field.contains("word")));
    assert_eq!(why.filters[1].does, "the backend sees host inner.example, path /v2/x");
    let shares: Vec<_> = why.shares.iter().map(|s| (s.weight, s.active, s.chosen)).collect();
    assert_eq!(shares, [(1, 1, true), (0, 0, false)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_is_not_served_is_told_those_that_are_near() {
    let (lab, _shop) = lab().await;
    let why = ask(&lab, "http://shpo.example/", "GET", &[]);
    assert_eq!(status(&why), Some(404));
    assert_eq!(why.hints, ["hosts that are near: shop.example"]);
    assert!(!why.listener.unwrap().has_section);
    let nowhere = Question::new("http://shop.example:1/", "GET", &[], None, None).unwrap();
    let why = lab.handle.why(&nowhere);
    assert!(matches!(why.outcome, Outcome::NoConnection { .. }) && why.listener.is_none());
    assert_eq!(why.hints, [format!("there are listeners at {}", lab.address)]);
    let tls = ask(&lab, "https://shop.example/", "GET", &[]);
    assert!(matches!(tls.outcome, Outcome::NoConnection { .. }), "{:?}", tls.outcome);
    let twice = ask(&lab, "http://shop.example/api", "GET", &["host: a", "host: b"]);
    assert_eq!(status(&twice), Some(400));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_address_the_listener_is_found_by_port_and_host() {
    let (mut lab, _shop) = lab().await;
    let SocketAddr::V4(own) = lab.address else { panic!("an IPv4 address") };
    let mut octets = own.ip().octets();
    octets[1] = octets[1].wrapping_add(1).max(1);
    let other = SocketAddr::from((octets, own.port()));
    let rules = vec![rule(Some("blog.example"), "/", Some("shop"))];
    let listener = haflinger_core::HttpListener::simple(None, rules);
    lab.snapshot.http.insert(other, Arc::new(listener));
    lab.publish().await;
    for (host, expected) in [("shop.example", lab.address), ("blog.example", other)] {
        let url = format!("http://{host}:{}/api", own.port());
        let question = Question::new(&url, "GET", &[], None, None).unwrap();
        let why = lab.handle.why(&question);
        assert_eq!(why.listener.map(|listener| listener.address), Some(expected), "{host}");
        assert!(why.client_assumed && why.port_assumed);
    }
    let why = ask(&lab, "http://blog.example/", "GET", &[]);
    assert!(why.hints.contains(&format!("the host is served at {other}")), "{:?}", why.hints);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_certificate_is_the_one_that_is_shown_and_another_section_s_host_is_misdirected() {
    let mut lab = Lab::start();
    let cart = |host: &str, secret: &str| {
        let entry = tls_entry(secret, &[]);
        section(HostMatch::Exact(host.into()), vec![entry], vec![route("/", RuleAction::default())])
    };
    lab.listen_sections(vec![cart("shop.example", "shop"), cart("blog.example", "blog")]);
    lab.certificate("shop", self_signed(&["shop.example"]));
    lab.certificate("blog", self_signed(&["*.example"]));
    lab.publish().await;
    for (host, secret, names) in
        [("shop.example", "shop", "shop.example"), ("blog.example", "blog", "*.example")]
    {
        let tls = ask(&lab, &format!("https://{host}/"), "GET", &[]).tls.unwrap();
        let shown = tls.certificate.unwrap();
        assert_eq!(shown.name, Some(certificate_ref(secret).to_string()));
        assert_eq!((&*shown.names[0], shown.covers, shown.expired), (names, true, false));
    }
    let why = ask(&lab, "https://shop.example/", "GET", &["host: blog.example"]);
    assert_eq!(status(&why), Some(421));
    let why = ask(&lab, "https://lost.example/", "GET", &[]);
    assert!(matches!(why.outcome, Outcome::NoConnection { .. }));
    assert!(why.tls.unwrap().certificate.is_none());
    assert!(matches!(get(&lab, "/").outcome, Outcome::NoConnection { .. }));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_is_compared_only_when_a_request_comes() {
    let (lab, shop) = lab().await;
    // joe:word
    let why =
        ask(&lab, "http://shop.example/private", "GET", &["authorization: Basic am9lOndvcmQ="]);
    assert_eq!(why.outcome, Outcome::Depends);
    assert_eq!(why.filters[0].does, "settles it when the request comes");
    assert!(why.onward.is_some_and(|onward| onward.backend.address == shop.address));
}
