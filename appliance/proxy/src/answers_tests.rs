use haflinger_core::forwarding::ForwardingTable;
use haflinger_core::{
    Backend, BackendSet, BackendState, Family, HostMatch, HttpListener, HttpRule, ObjectRef,
    PathMatch, Protocol, SourceId, Target,
};
use http::Request;

use super::*;

const LIMIT: usize = 1_000;

fn target(name: &str) -> Target {
    let object = ObjectRef::service(&SourceId::inventory(), "default", name);
    Target { object, port: 80, protocol: Protocol::Tcp, family: Family::V4 }
}

fn backends(state: BackendState) -> Arc<BackendSet> {
    let address = "192.0.2.10:8080".parse().unwrap();
    let backend = Backend {
        address,
        name: "pod".into(),
        node: None,
        zone: None,
        weight: 100,
        backup: false,
        state,
        reasons: Vec::new(),
    };
    let active = (state == BackendState::Active).then_some((address, 100));
    Arc::new(BackendSet {
        target: target("shop"),
        backends: vec![backend],
        table: ForwardingTable::new(active).view(),
    })
}

/// `/` has a backend, `/down` has none that is active, `/lost` has no target in the snapshot,
/// `/missing` names no service.
fn router() -> Router<Arc<TargetSlot>> {
    let rule = |path: &str, to: Option<&str>| {
        let host = HostMatch::Exact("shop.example".into());
        let object = ObjectRef::ingress(&SourceId::inventory(), "default", "site");
        HttpRule::simple(host, PathMatch::Prefix(path.into()), to.map(target), object)
    };
    let rules = vec![
        rule("/", Some("shop")),
        rule("/down", Some("down")),
        rule("/lost", Some("lost")),
        rule("/missing", None),
    ];
    let listener = HttpListener::simple(None, rules);
    Router::compile(&listener, |target| {
        let set = match &*target.object.name {
            "shop" => Some(backends(BackendState::Active)),
            "down" => Some(backends(BackendState::Draining)),
            _ => None,
        };
        Arc::new(TargetSlot::new(set))
    })
}

fn outcome(request: http::request::Builder) -> Result<(), Answer> {
    let (parts, ()) = request.body(()).unwrap().into_parts();
    admit(&router(), &parts, LIMIT).map(|_| ())
}

#[test]
fn a_request_for_a_rule_with_an_active_backend_is_let_through() {
    assert_eq!(outcome(Request::get("/cart").header("host", "Shop.Example:80")), Ok(()));
    assert_eq!(outcome(Request::get("http://shop.example/cart")), Ok(()));
}

#[test]
fn what_leads_nowhere_is_answered_by_its_own_status() {
    let ask = |path: &str, host: &str| outcome(Request::get(path).header("host", host));
    assert_eq!(ask("/", "blog.example"), Err(Answer::NotFound));
    assert_eq!(ask("/down", "shop.example"), Err(Answer::Unavailable));
    assert_eq!(ask("/lost", "shop.example"), Err(Answer::Unavailable));
    assert_eq!(ask("/missing", "shop.example"), Err(Answer::Unavailable));
}

#[test]
fn a_host_that_is_absent_double_malformed_or_contradicted_is_refused() {
    let bad = Err(Answer::BadRequest);
    assert_eq!(outcome(Request::get("/")), bad);
    assert_eq!(outcome(Request::get("/").header("host", "")), bad);
    assert_eq!(outcome(Request::get("/").header("host", "shop.example/x")), bad);
    let twice = Request::get("/").header("host", "shop.example").header("host", "shop.example");
    assert_eq!(outcome(twice), bad);
    let other = Request::get("http://shop.example/").header("host", "blog.example");
    assert_eq!(outcome(other), bad);
}

#[test]
fn http_1_0_may_lack_a_host_and_then_matches_rules_for_every_host_only() {
    let request = Request::get("/").version(Version::HTTP_10);
    assert_eq!(outcome(request), Err(Answer::NotFound));
}

#[test]
fn a_header_beyond_the_limit_is_refused() {
    let request =
        |n: usize| Request::get("/").header("host", "shop.example").header("cookie", "x".repeat(n));
    assert_eq!(outcome(request(900)), Ok(()));
    assert_eq!(outcome(request(1_000)), Err(Answer::HeaderTooLarge));
}

#[test]
fn every_answer_says_its_status_and_nothing_else() {
    for answer in [
        Answer::BadRequest,
        Answer::NotFound,
        Answer::RequestTimeout,
        Answer::HeaderTooLarge,
        Answer::Internal,
        Answer::BadGateway,
        Answer::Unavailable,
        Answer::GatewayTimeout,
    ] {
        let (number, words) = answer.body().split_once(' ').unwrap();
        assert_eq!(number, answer.status().to_string());
        assert!(words.trim_end().bytes().all(|b| b.is_ascii_lowercase() || b == b' '));
    }
}
