use haflinger_core::{Family, HttpRule, ObjectRef, PathType, Protocol, SourceId};
use proptest::prelude::*;

use super::*;

fn target(name: &str) -> Target {
    let object = ObjectRef::service(&SourceId::inventory(), "default", name);
    Target { object, port: 80, protocol: Protocol::Tcp, family: Family::V4 }
}

fn rule(host: Option<&str>, path_type: PathType, path: &str, to: Option<&str>) -> HttpRule {
    let host = HostMatch::of_ingress(host.map(Into::into).as_ref());
    let object = ObjectRef::ingress(&SourceId::inventory(), "default", "site");
    HttpRule::simple(host, path_type.with(path.into()), to.map(target), object)
}

fn router(mut rules: Vec<HttpRule>, default: Option<&str>) -> Router<String> {
    rules.extend(default.map(|name| rule(None, PathType::Prefix, "/", Some(name))));
    let listener = HttpListener::simple(None, rules);
    Router::compile(&listener, |target| target.object.name.to_string())
}

fn to(name: &str) -> Option<Route<String>> {
    Some(Route::To(name.to_owned()))
}

#[test]
fn the_most_specific_host_wins() {
    let router = router(
        vec![
            rule(None, PathType::Prefix, "/", Some("any")),
            rule(Some("*.example"), PathType::Prefix, "/", Some("wildcard")),
            rule(Some("shop.example"), PathType::Prefix, "/", Some("exact")),
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
            rule(None, PathType::Prefix, "/", Some("root")),
            rule(None, PathType::Prefix, "/a/b", Some("long")),
            rule(None, PathType::Prefix, "/a", Some("short")),
            rule(None, PathType::Exact, "/a/b", Some("exact")),
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
    let router = router(vec![rule(None, PathType::Prefix, "/a/", Some("a"))], None);
    for path in ["/a", "/a/", "/a/b"] {
        assert_eq!(router.find(None, path), to("a"), "{path}");
    }
    assert_eq!(router.find(None, "/ab"), None);
}

#[test]
fn a_path_that_the_host_lacks_falls_through_to_less_specific_hosts() {
    let router = router(
        vec![
            rule(Some("shop.example"), PathType::Prefix, "/api", Some("api")),
            rule(None, PathType::Prefix, "/files", Some("files")),
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
            rule(None, PathType::Prefix, "/gone", None),
            rule(None, PathType::Prefix, "/gone", Some("younger")),
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
        let host_rank = match &rule.host {
            HostMatch::Any => 0,
            HostMatch::Exact(own) if &**own == host => 2,
            HostMatch::OneLabel(own)
                if host.split_once('.').is_some_and(|(_, suffix)| suffix == &**own) =>
            {
                1
            }
            _ => continue,
        };
        let (kind, length) = match &rule.matches.path {
            PathMatch::Exact(own) if path == &**own => (1, 0),
            PathMatch::Prefix(own) if parts(path).starts_with(&parts(own)) => (0, parts(own).len()),
            _ => continue,
        };
        let rank = (host_rank, kind, length);
        if best.is_none_or(|(other, _)| rank > other) {
            best = Some((rank, rule));
        }
    }
    let to = |rule: &HttpRule| rule.action.backends[0].to.clone().unwrap().target;
    best.map(|(_, rule)| to(rule).object.name.to_string())
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
                let kind = if *exact { PathType::Exact } else { PathType::Prefix };
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
