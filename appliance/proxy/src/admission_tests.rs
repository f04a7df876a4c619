use haflinger_core::flow::FlowHashKey;
use haflinger_core::forwarding::ForwardingTable;
use haflinger_core::{
    Backend, BackendSet, BackendState, Family, Filter, HostMatch, HttpListener, HttpRule,
    ObjectRef, PathMatch, PathRewrite, Protocol, Redirect, RuleAction, RuleBackend, SourceId,
    Target, Upstream,
};
use http::Request;

use super::*;
use crate::action::ActionUpstream;
use crate::auth::AuthShelf;
use crate::guards::Counts;
use crate::routes::Shelf;
use crate::sessions::SessionKey;
use crate::tally::Tallies;
use crate::upstream::TargetSlot;

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

fn to(name: &str) -> RuleBackend {
    RuleBackend { weight: 1, to: Ok(Upstream::plain(target(name))), filters: Vec::new() }
}

/// `/` has a backend, `/down` has none that is active, `/lost` has no target in the snapshot,
/// `/missing` names no service, `/wrong` may not name one, `/none` has no backends, `/half` has
/// one and one that may not be named, `/moved` redirects.
fn routes() -> Routes {
    let filter = Filter::Redirect(Redirect {
        scheme: Some("https".into()),
        host: None,
        path: Some(PathRewrite::Prefix("/new".into())),
        port: None,
        status: 301,
    });
    let missing = |status| RuleBackend { weight: 1, to: Err(status), filters: Vec::new() };
    let rule = |path: &str, backends: Vec<RuleBackend>, filters: Vec<Filter>| {
        let action = RuleAction { backends, filters, ..RuleAction::default() };
        HttpRule {
            host: HostMatch::Exact("shop.example".into()),
            matches: haflinger_core::RequestMatch::path(PathMatch::Prefix(path.into())),
            action: Arc::new(action),
            object: ObjectRef::ingress(&SourceId::inventory(), "default", "site"),
        }
    };
    let rules = vec![
        rule("/", vec![to("shop")], Vec::new()),
        rule("/down", vec![to("down")], Vec::new()),
        rule("/lost", vec![to("lost")], Vec::new()),
        rule("/missing", vec![missing(503)], Vec::new()),
        rule("/wrong", vec![missing(500)], Vec::new()),
        rule("/none", Vec::new(), Vec::new()),
        rule("/half", vec![to("shop"), missing(500)], Vec::new()),
        rule("/moved", Vec::new(), vec![filter]),
    ];
    let listener = HttpListener::simple(None, rules);
    let slot = |target: &Target| {
        let set = match &*target.object.name {
            "shop" => Some(backends(BackendState::Active)),
            "down" => Some(backends(BackendState::Draining)),
            _ => None,
        };
        Arc::new(TargetSlot::new(set))
    };
    let upstream =
        |to: &Upstream| ActionUpstream { slot: slot(&to.target), speaks: to.speaks, tls: None };
    let tallies = Tallies::new(&prometheus::Registry::new()).unwrap();
    let mut auth = AuthShelf::default();
    let make = |rule: &HttpRule| {
        Action::compile(rule, tallies.route(&rule.object), &mut auth, upstream, |_| {})
    };
    Routes::compile(&listener, None, &mut Shelf::default(), make)
}

fn next_of(request: http::request::Builder, hash: u64) -> Next {
    let (parts, ()) = request.body(()).unwrap().into_parts();
    let counts = Counts::new(prometheus::IntCounter::new("displaced", "in a test").unwrap());
    let asking = Asking {
        peer: "192.0.2.1".parse().unwrap(),
        trusted: &[],
        counts: &counts,
        now: std::time::Duration::from_secs(1),
        earnest: true,
    };
    let wall = Duration::from_secs(1_000_000);
    let key = SessionKey::derive(&FlowHashKey(*b"sixteen byte key"));
    let desk = Desk { key: &key, now_secs: 1 };
    let arrived = Arrived { server_name: None, tls: false, port: 80, hash, asking, wall, desk };
    admit(&routes(), &parts, &arrived, LIMIT).next
}

fn outcome(request: http::request::Builder) -> Result<(), Answer> {
    match next_of(request, 1) {
        Next::Forward => Ok(()),
        Next::Answer(answer) => Err(answer),
        other => panic!("{other:?}"),
    }
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
    assert_eq!(ask("/wrong", "shop.example"), Err(Answer::Unresolved));
    assert_eq!(ask("/none", "shop.example"), Err(Answer::Unresolved));
}

#[test]
fn a_backend_that_cannot_be_resolved_keeps_its_share() {
    let outcomes = (0..1_000_u64).map(|n| {
        let request = Request::get("/half").header("host", "shop.example");
        next_of(request, crate::upstream::request_hash(7, n))
    });
    let (forwarded, answered): (Vec<_>, Vec<_>) = outcomes.partition(|next| *next == Next::Forward);
    assert!(answered.iter().all(|next| *next == Next::Answer(Answer::Unresolved)));
    // Binomial with deviation 16: ten deviations.
    assert!((340..660).contains(&forwarded.len()), "{}", forwarded.len());
}

#[test]
fn a_redirect_is_answered_without_a_backend() {
    let request = Request::get("/moved/a?b=c").header("host", "Shop.Example:8080");
    let location = "https://shop.example/new/a?b=c".to_owned();
    assert_eq!(next_of(request, 1), Next::Redirect { status: 301, location });
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
