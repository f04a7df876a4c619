use haflinger_core::{Family, HttpRule, ObjectRef, Protocol, SourceId};
use proptest::prelude::*;

use super::*;

fn target(name: &str) -> Target {
    let object = ObjectRef::service(&SourceId::inventory(), "default", name);
    Target { object, port: 80, protocol: Protocol::Tcp, family: Family::V4 }
}

fn rule(host: Option<&str>, path_match: PathMatch, path: &str, to: Option<&str>) -> HttpRule {
    HttpRule {
        host: host.map(Into::into),
        path_match,
        path: path.into(),
        target: to.map(target),
        object: ObjectRef::ingress(&SourceId::inventory(), "default", "site"),
    }
}

fn listener(rules: Vec<HttpRule>, default: Option<&str>) -> HttpListener {
    HttpListener {
        tls: false,
        rules,
        default_target: default.map(target),
        certificates: Vec::new(),
    }
}

fn router(rules: Vec<HttpRule>, default: Option<&str>) -> Router<String> {
    Router::compile(&listener(rules, default), |target| target.object.name.to_string())
}

fn to(name: &str) -> Option<Route<String>> {
    Some(Route::To(name.to_owned()))
}

#[test]
fn the_most_specific_host_wins() {
    let router = router(
        vec![
            rule(None, PathMatch::Prefix, "/", Some("any")),
            rule(Some("*.example"), PathMatch::Prefix, "/", Some("wildcard")),
            rule(Some("shop.example"), PathMatch::Prefix, "/", Some("exact")),
        ],
        None,
    );
    assert_eq!(router.find(Some("shop.example"), "/"), to("exact"));
    assert_eq!(router.find(Some("blog.example"), "/"), to("wildcard"));
    assert_eq!(router.find(Some("a.b.example"), "/"), to("any"), "a wildcard is one label");
    assert_eq!(router.find(Some("example"), "/"), to("any"));
    assert_eq!(router.find(None, "/"), to("any"));
}

#[test]
fn an_exact_path_wins_over_prefixes_and_a_long_prefix_over_a_short_one() {
    let router = router(
        vec![
            rule(None, PathMatch::Prefix, "/", Some("root")),
            rule(None, PathMatch::Prefix, "/a/b", Some("long")),
            rule(None, PathMatch::Prefix, "/a", Some("short")),
            rule(None, PathMatch::Exact, "/a/b", Some("exact")),
        ],
        None,
    );
    assert_eq!(router.find(None, "/a/b"), to("exact"));
    assert_eq!(router.find(None, "/a/b/"), to("long"));
    assert_eq!(router.find(None, "/a/b/c"), to("long"));
    assert_eq!(router.find(None, "/a/bc"), to("short"), "elements are compared whole");
    assert_eq!(router.find(None, "/ab"), to("root"));
    assert_eq!(router.find(None, "/A/b"), to("root"), "paths are case sensitive");
}

#[test]
fn a_final_slash_of_a_prefix_does_not_count() {
    let router = router(vec![rule(None, PathMatch::Prefix, "/a/", Some("a"))], None);
    for path in ["/a", "/a/", "/a/b"] {
        assert_eq!(router.find(None, path), to("a"), "{path}");
    }
    assert_eq!(router.find(None, "/ab"), None);
}

#[test]
fn a_path_that_the_host_lacks_falls_through_to_less_specific_hosts() {
    let router = router(
        vec![
            rule(Some("shop.example"), PathMatch::Prefix, "/api", Some("api")),
            rule(None, PathMatch::Prefix, "/files", Some("files")),
        ],
        Some("default"),
    );
    assert_eq!(router.find(Some("shop.example"), "/files/1"), to("files"));
    assert_eq!(router.find(Some("shop.example"), "/other"), to("default"));
}

#[test]
fn a_rule_without_target_answers_for_itself_and_the_first_of_equals_wins() {
    let router = router(
        vec![
            rule(None, PathMatch::Prefix, "/gone", None),
            rule(None, PathMatch::Prefix, "/gone", Some("younger")),
        ],
        Some("default"),
    );
    assert_eq!(router.find(None, "/gone"), Some(Route::Missing));
    assert_eq!(router.find(None, "/"), to("default"));
}

/// The rules read one by one, as the words of the Ingress documentation say.
fn slow(rules: &[HttpRule], host: &str, path: &str) -> Option<String> {
    fn parts(path: &str) -> Vec<&str> {
        let inner = path.strip_prefix('/').unwrap_or(path);
        let inner = inner.strip_suffix('/').unwrap_or(inner);
        if inner.is_empty() { Vec::new() } else { inner.split('/').collect() }
    }
    let mut best: Option<((u8, u8, usize), &HttpRule)> = None;
    for rule in rules {
        let host_rank = match rule.host.as_deref() {
            None => 0,
            Some(own) if own == host => 2,
            Some(own) => match own.strip_prefix("*.") {
                Some(suffix) if host.split_once('.').is_some_and(|(_, s)| s == suffix) => 1,
                _ => continue,
            },
        };
        let (kind, length) = match rule.path_match {
            PathMatch::Exact if path == &*rule.path => (1, 0),
            PathMatch::Prefix if parts(path).starts_with(&parts(&rule.path)) => {
                (0, parts(&rule.path).len())
            }
            _ => continue,
        };
        let rank = (host_rank, kind, length);
        if best.is_none_or(|(other, _)| rank > other) {
            best = Some((rank, rule));
        }
    }
    best.map(|(_, rule)| rule.target.as_ref().unwrap().object.name.to_string())
}

fn any_path() -> impl Strategy<Value = String> {
    (prop::collection::vec("[ab]{1,2}", 0..4), any::<bool>()).prop_map(|(elements, slash)| {
        let end = if slash && !elements.is_empty() { "/" } else { "" };
        format!("/{}{end}", elements.join("/"))
    })
}

fn any_host() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["a.x", "b.x", "x", "c.a.x", "y"])
}

fn any_rule() -> impl Strategy<Value = (Option<&'static str>, bool, String)> {
    let hosts = vec![None, Some("a.x"), Some("b.x"), Some("*.x"), Some("*.a.x"), Some("x")];
    (prop::sample::select(hosts), any::<bool>(), any_path())
}

proptest! {
    #[test]
    fn the_router_agrees_with_reading_the_rules_one_by_one(
        given in prop::collection::vec(any_rule(), 0..12),
        requests in prop::collection::vec((any_host(), any_path()), 1..20),
    ) {
        let rules: Vec<HttpRule> = given
            .iter()
            .enumerate()
            .map(|(n, (host, exact, path))| {
                let kind = if *exact { PathMatch::Exact } else { PathMatch::Prefix };
                rule(*host, kind, path, Some(&format!("t{n}")))
            })
            .collect();
        let router = router(rules.clone(), None);
        for (host, path) in requests {
            let found = router.find(Some(host), &path).map(|route| match route {
                Route::To(name) => name,
                Route::Missing => unreachable!("every rule has a target"),
            });
            prop_assert_eq!(found, slow(&rules, host, &path), "{} {}", host, path);
        }
    }
}
