use haflinger_core::{
    Family, FieldMatch, ObjectRef, PathType, Protocol, RequestMatch, SourceId, Target, Upstream,
    ValueMatch,
};
use http::{HeaderMap, Method};
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

/// What the action of a rule is compiled to here: the name of its first backend.
fn name(rule: &HttpRule) -> String {
    let to = rule.action.backends.first().map(|backend| &backend.to);
    match to {
        Some(Ok(Upstream { target, .. })) => target.object.name.to_string(),
        Some(Err(status)) => status.to_string(),
        None => String::new(),
    }
}

fn compile(listener: &HttpListener) -> Router<String> {
    Router::compile(listener, None, &mut Shelf::default(), name)
}

fn router(mut rules: Vec<HttpRule>, default: Option<&str>) -> Router<String> {
    rules.extend(default.map(|name| rule(None, PathType::Prefix, "/", Some(name))));
    compile(&HttpListener::simple(None, rules))
}

fn find(router: &Router<String>, host: Option<&str>, path: &str) -> Option<String> {
    let (method, fields) = (Method::GET, HeaderMap::new());
    let view = RequestView { host, path, query: None, method: &method, fields: &fields };
    match router.find(None, &view) {
        Found::Rule { action, .. } => Some((*action).clone()),
        Found::Nothing => None,
        Found::Misdirected => panic!("misdirected without TLS"),
    }
}

fn to(name: &str) -> Option<String> {
    Some(name.to_owned())
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
    assert_eq!(find(&router, Some("shop.example"), "/"), to("exact"));
    assert_eq!(find(&router, Some("blog.example"), "/"), to("wildcard"));
    assert_eq!(find(&router, Some("a.b.example"), "/"), to("any"), "a wildcard is one label");
    assert_eq!(find(&router, Some("example"), "/"), to("any"));
    assert_eq!(find(&router, None, "/"), to("any"));
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
    assert_eq!(find(&router, None, "/a/b"), to("exact"));
    assert_eq!(find(&router, None, "/a/b/"), to("long"));
    assert_eq!(find(&router, None, "/a/b/c"), to("long"));
    assert_eq!(find(&router, None, "/a/bc"), to("short"), "elements are compared whole");
    assert_eq!(find(&router, None, "/ab"), to("root"));
    assert_eq!(find(&router, None, "/A/b"), to("root"), "paths are case sensitive");
}

#[test]
fn a_final_slash_of_a_prefix_does_not_count() {
    let router = router(vec![rule(None, PathType::Prefix, "/a/", Some("a"))], None);
    for path in ["/a", "/a/", "/a/b"] {
        assert_eq!(find(&router, None, path), to("a"), "{path}");
    }
    assert_eq!(find(&router, None, "/ab"), None);
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
    assert_eq!(find(&router, Some("shop.example"), "/files/1"), to("files"));
    assert_eq!(find(&router, Some("shop.example"), "/other"), to("default"));
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
    assert_eq!(find(&router, None, "/gone"), to("503"));
    assert_eq!(find(&router, None, "/"), to("default"));
}

fn section(host: HostMatch, to: &str) -> Section {
    let rules = vec![rule(None, PathType::Prefix, "/", Some(to))];
    Section { origin: None, host, tls: None, serves: Serves::Requests(rules) }
}

/// The listeners of the conformance suite's Gateway for misdirected requests.
fn sections(tls: bool) -> HttpListener {
    let sections = vec![
        section(HostMatch::Exact("second-example.org".into()), "second"),
        section(HostMatch::Suffix("wildcard.org".into()), "wildcard"),
        section(HostMatch::Exact("fourth-example.wildcard.org".into()), "fourth"),
        section(HostMatch::Exact("example.org".into()), "first"),
    ];
    HttpListener { tls, sections }
}

fn answer(router: &Router<String>, server_name: Option<&str>, host: &str) -> String {
    let (method, fields) = (Method::GET, HeaderMap::new());
    let view =
        RequestView { host: Some(host), path: "/", query: None, method: &method, fields: &fields };
    match router.find(server_name, &view) {
        Found::Rule { action, .. } => (*action).clone(),
        Found::Nothing => "404".to_owned(),
        Found::Misdirected => "421".to_owned(),
    }
}

#[test]
fn a_request_for_a_host_of_another_section_than_its_connection_is_misdirected() {
    let router = compile(&sections(true));
    for (server_name, host, expected) in [
        ("example.org", "example.org", "first"),
        ("example.org", "second-example.org", "421"),
        ("example.org", "unknown-example.org", "404"),
        ("second-example.org", "second-example.org", "second"),
        ("second-example.org", "example.org", "421"),
        ("third.wildcard.org", "third.wildcard.org", "wildcard"),
        ("third.wildcard.org", "fifth.wildcard.org", "wildcard"),
        ("third.wildcard.org", "a.b.wildcard.org", "wildcard"),
        ("third.wildcard.org", "fourth-example.wildcard.org", "421"),
        ("fourth-example.wildcard.org", "fourth-example.wildcard.org", "fourth"),
        ("fourth-example.wildcard.org", "fifth.wildcard.org", "421"),
    ] {
        assert_eq!(answer(&router, Some(server_name), host), expected, "{server_name} {host}");
    }
    assert_eq!(answer(&router, None, "example.org"), "421");
}

#[test]
fn a_section_is_isolated_from_less_specific_ones_also_where_it_has_no_rule() {
    let mut listener = sections(false);
    listener.sections.push(section(HostMatch::Any, "any"));
    listener.sections[0].serves = Serves::Requests(Vec::new());
    let router = compile(&listener);
    assert_eq!(answer(&router, None, "unknown.org"), "any");
    assert_eq!(answer(&router, None, "a.wildcard.org"), "wildcard");
    assert_eq!(answer(&router, None, "second-example.org"), "404");
}

#[test]
fn what_is_broken_in_a_rule_is_told_and_never_makes_it_fit_more() {
    let regex = |text: &str| PathMatch::Regex(text.into());
    let mut field = rule(None, PathType::Prefix, "/", Some("field"));
    let value = ValueMatch::Regex("(".into());
    field.matches.headers = vec![FieldMatch { name: "x-a".into(), value }];
    let mut nameless = rule(None, PathType::Prefix, "/", Some("nameless"));
    let value = ValueMatch::Exact("".into());
    nameless.matches.headers = vec![FieldMatch { name: "a b".into(), value }];
    let mut path = rule(None, PathType::Prefix, "/", Some("path"));
    path.matches.path = regex(".*(");
    let router = router(vec![path, field, nameless], Some("default"));
    assert_eq!(router.faults.count, 3);
    assert!(router.faults.told.iter().any(|fault| fault.contains("unclosed group")));
    assert_eq!(find(&router, None, "/"), to("default"));
    let (method, mut fields) = (Method::GET, HeaderMap::new());
    fields.insert("x-a", "1".parse().unwrap());
    let view = RequestView { host: None, path: "/", query: None, method: &method, fields: &fields };
    assert!(matches!(router.find(None, &view), Found::Rule { broken: true, .. }));
}

#[test]
fn what_has_not_changed_is_shared_with_the_former_router() {
    let mut shelf = Shelf::default();
    let mut listener = sections(false);
    let Serves::Requests(rules) = &mut listener.sections[1].serves else { unreachable!() };
    rules.push(rule(None, PathType::Prefix, "/kept", Some("kept")));
    let old = Router::compile(&listener, None, &mut shelf, name);
    let mut changed = listener.clone();
    let Serves::Requests(rules) = &mut changed.sections[1].serves else { unreachable!() };
    rules[0] = rule(None, PathType::Prefix, "/", Some("changed"));
    let mut made = Vec::new();
    let new = Router::compile(&changed, Some((&listener, &old)), &mut shelf, |rule| {
        made.push(name(rule));
        name(rule)
    });
    let same = |at: usize| Arc::ptr_eq(&old.sections[at], &new.sections[at]);
    assert_eq!([same(0), same(1), same(2), same(3)], [true, false, true, true]);
    assert_eq!(made, ["changed"], "the other rule of the section kept its action");
    assert_eq!(answer(&new, None, "a.wildcard.org"), "changed");
}

/// The rules read one by one, as the words of the specification say (Gateway API `Listener`
/// `hostname`, HTTPRoute `hostnames` and `matches`; Ingress v1). Answers the action's name.
mod slow {
    use super::*;

    pub(super) struct Asked<'a> {
        pub(super) server_name: Option<&'a str>,
        pub(super) host: &'a str,
        pub(super) path: &'a str,
        pub(super) query: &'a [(&'a str, &'a str)],
        pub(super) method: &'a str,
        pub(super) headers: &'a [(&'a str, &'a str)],
    }

    fn host_fits(own: &HostMatch, host: &str) -> bool {
        match own {
            HostMatch::Exact(own) => host == &**own,
            HostMatch::OneLabel(own) => host
                .strip_suffix(&**own)
                .and_then(|rest| rest.strip_suffix('.'))
                .is_some_and(|label| !label.is_empty() && !label.contains('.')),
            HostMatch::Suffix(own) => {
                host.strip_suffix(&**own).is_some_and(|rest| rest.len() > 1 && rest.ends_with('.'))
            }
            HostMatch::Any => true,
        }
    }

    /// Characters of a matching host without a wildcard, then of a matching one.
    fn host_rank(own: &HostMatch) -> (usize, usize) {
        match own {
            HostMatch::Exact(own) => (own.len(), 0),
            HostMatch::OneLabel(own) | HostMatch::Suffix(own) => (0, own.len()),
            HostMatch::Any => (0, 0),
        }
    }

    fn parts(path: &str) -> Vec<&str> {
        path.split('/').filter(|part| !part.is_empty()).collect()
    }

    fn whole(expression: &str, text: &str) -> bool {
        regex::Regex::new(&format!("^({expression})$")).unwrap().is_match(text)
    }

    fn value_fits(own: &ValueMatch, value: &str) -> bool {
        match own {
            ValueMatch::Exact(own) => value == &**own,
            ValueMatch::Regex(own) => whole(own, value),
        }
    }

    fn fits(rule: &HttpRule, asked: &Asked<'_>) -> bool {
        let path = match &rule.matches.path {
            PathMatch::Exact(own) => asked.path == &**own,
            PathMatch::Prefix(own) => parts(asked.path).starts_with(&parts(own)),
            PathMatch::Regex(own) => whole(own, asked.path),
        };
        let method = rule.matches.method.as_deref().is_none_or(|own| own == asked.method);
        let headers = rule.matches.headers.iter().all(|own| {
            let values: Vec<_> = asked.headers.iter().filter(|(n, _)| *n == &*own.name).collect();
            let joined = values.iter().map(|(_, value)| *value).collect::<Vec<_>>().join(", ");
            !values.is_empty() && value_fits(&own.value, &joined)
        });
        let query = rule.matches.query.iter().all(|own| {
            let mut values = asked.query.iter().filter(|(name, _)| *name == &*own.name);
            values.next().is_some_and(|(_, value)| value_fits(&own.value, value))
        });
        host_fits(&rule.host, asked.host) && path && method && headers && query
    }

    fn rank(rule: &HttpRule) -> impl Ord + use<> {
        let is_grpc = rule.object.kind == ObjectKind::GrpcRoute;
        let (kind, length) = match &rule.matches.path {
            PathMatch::Exact(_) => (3, 0),
            PathMatch::Prefix(own) if is_grpc && &**own != "/" => (2, own.len()),
            PathMatch::Regex(own) => (1, own.len()),
            PathMatch::Prefix(own) => (0, parts(own).join("/").len()),
        };
        let matches = &rule.matches;
        let conditions = (matches.method.is_some(), matches.headers.len(), matches.query.len());
        (host_rank(&rule.host), kind, length, conditions)
    }

    fn section<'a>(sections: &'a [Section], name: &str) -> Option<&'a Section> {
        let fitting = sections.iter().filter(|section| host_fits(&section.host, name));
        fitting.max_by_key(|section| host_rank(&section.host))
    }

    pub(super) fn find(listener: &HttpListener, asked: &Asked<'_>) -> String {
        let mut own = section(&listener.sections, asked.host);
        if listener.tls {
            let of_name = match asked.server_name {
                Some(name) => section(&listener.sections, name),
                None => listener.sections.iter().find(|s| s.host == HostMatch::Any),
            };
            let same = of_name.map(std::ptr::from_ref) == own.map(std::ptr::from_ref);
            if !same && own.is_some() {
                return "421".to_owned();
            }
            own = of_name.filter(|_| same);
        }
        let Some(Section { serves: Serves::Requests(rules), .. }) = own else {
            return "404".to_owned();
        };
        let mut best: Option<&HttpRule> = None;
        for rule in rules.iter().filter(|rule| fits(rule, asked)) {
            if best.is_none_or(|best| rank(rule) > rank(best)) {
                best = Some(rule);
            }
        }
        best.map_or("404".to_owned(), name)
    }
}

fn any_path() -> impl Strategy<Value = String> {
    (prop::collection::vec("[ab]{1,2}", 0..4), any::<bool>()).prop_map(|(elements, slash)| {
        let end = if slash && !elements.is_empty() { "/" } else { "" };
        format!("/{}{end}", elements.join("/"))
    })
}

fn any_path_match() -> impl Strategy<Value = PathMatch> {
    prop_oneof![
        any_path().prop_map(|path| PathMatch::Exact(path.into())),
        any_path().prop_map(|path| PathMatch::Prefix(path.into())),
        prop::sample::select(vec!["/a.*", "/(a|b)/.", "/[ab]+/?", ".*b", "/a|/b"])
            .prop_map(|text| PathMatch::Regex(text.into())),
    ]
}

fn any_host() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["a.x", "b.x", "x", "c.a.x", "d.c.a.x", "y"])
}

fn any_host_match(one_label: bool) -> impl Strategy<Value = HostMatch> {
    let exact = ["a.x", "b.x", "x"].map(|host| HostMatch::Exact(host.into()));
    let suffix = ["x", "a.x", "c.a.x"].map(|suffix| match one_label {
        true => HostMatch::OneLabel(suffix.into()),
        false => HostMatch::Suffix(suffix.into()),
    });
    let mut all = [exact.to_vec(), suffix.to_vec()].concat();
    all.push(HostMatch::Any);
    prop::sample::select(all)
}

fn any_fields() -> impl Strategy<Value = Vec<FieldMatch>> {
    let value = prop_oneof![
        prop::sample::select(vec!["1", "2"]).prop_map(|value| ValueMatch::Exact(value.into())),
        prop::sample::select(vec!["1|2", "1, .*"]).prop_map(|text| ValueMatch::Regex(text.into())),
    ];
    let names = prop::sample::subsequence(vec!["k", "l"], 0..=2);
    (names, value).prop_map(|(names, value)| {
        let field = |name: &str| FieldMatch { name: name.into(), value: value.clone() };
        names.into_iter().map(field).collect()
    })
}

fn any_match() -> impl Strategy<Value = RequestMatch> {
    let method = prop::sample::select(vec![None, None, Some("GET"), Some("POST")]);
    (any_path_match(), method, any_fields(), any_fields()).prop_map(
        |(path, method, headers, query)| {
            let method = method.map(Into::into);
            RequestMatch { path, method, headers, query }
        },
    )
}

/// A listener whose rules are named by section and place.
fn any_listener() -> impl Strategy<Value = HttpListener> {
    let rules = any::<bool>().prop_flat_map(|one_label| {
        prop::collection::vec((any_host_match(one_label), any_match(), any::<bool>()), 0..12)
    });
    let hosts = prop::sample::subsequence(
        vec![
            HostMatch::Any,
            HostMatch::Suffix("x".into()),
            HostMatch::Suffix("a.x".into()),
            HostMatch::Exact("a.x".into()),
            HostMatch::Exact("y".into()),
        ],
        1..=5,
    );
    (any::<bool>(), hosts, prop::collection::vec(rules, 5)).prop_map(|(tls, hosts, all)| {
        let section = |(at, (host, given)): (usize, (HostMatch, Vec<_>))| {
            let named =
                |(n, (host, matches, is_grpc)): (usize, (HostMatch, RequestMatch, bool))| {
                    let mut named = rule(None, PathType::Prefix, "/", Some(&format!("{at}-{n}")));
                    // Names of gRPC services have no slash at the end.
                    let slash = matches.path.as_str().ends_with('/');
                    if is_grpc && !slash {
                        let (source, kind) = (SourceId::inventory(), ObjectKind::GrpcRoute);
                        named.object = ObjectRef::of_kind(&source, kind, "default", "grpc");
                    }
                    HttpRule { host, matches, ..named }
                };
            let rules = given.into_iter().enumerate().map(named).collect();
            Section { origin: None, host, tls: None, serves: Serves::Requests(rules) }
        };
        let sections = hosts.into_iter().zip(all).enumerate().map(section).collect();
        HttpListener { tls, sections }
    })
}

type Pairs = Vec<(&'static str, &'static str)>;

fn any_pairs() -> impl Strategy<Value = Pairs> {
    let (names, values) = (vec!["k", "l", "m"], vec!["1", "2", "3"]);
    prop::collection::vec((prop::sample::select(names), prop::sample::select(values)), 0..4)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn the_router_agrees_with_reading_the_rules_one_by_one(
        listener in any_listener(),
        requests in prop::collection::vec(
            (
                prop::option::of(any_host()),
                any_host(),
                any_path(),
                any_pairs(),
                prop::sample::select(vec![Method::GET, Method::POST]),
                any_pairs(),
            ),
            1..20,
        ),
    ) {
        let router = compile(&listener);
        for (server_name, host, path, query, method, headers) in &requests {
            let mut fields = HeaderMap::new();
            for (name, value) in headers {
                fields.append(*name, value.parse().unwrap());
            }
            let pairs: Vec<_> = query.iter().map(|(name, value)| format!("{name}={value}")).collect();
            let written = pairs.join("&");
            let view = RequestView {
                host: Some(host),
                path,
                query: Some(&written),
                method,
                fields: &fields,
            };
            let found = match router.find(*server_name, &view) {
                Found::Rule { action, .. } => (*action).clone(),
                Found::Nothing => "404".to_owned(),
                Found::Misdirected => "421".to_owned(),
            };
            let asked = slow::Asked {
                server_name: *server_name,
                host,
                path,
                query,
                method: method.as_str(),
                headers,
            };
            let section = router.section(*server_name, Some(host)).ok().flatten();
            let explained = section.and_then(|at| match &listener.sections[at].serves {
                Serves::Requests(rules) => crate::why::rules::first(rules, &view).map(name),
                Serves::Streams(_) => None,
            });
            let followed = Some(&found).filter(|found| !["404", "421"].contains(&found.as_str()));
            prop_assert_eq!(explained.as_ref(), followed, "as it is explained");
            prop_assert_eq!(found, slow::find(&listener, &asked), "{:?} {} {}", server_name, host, path);
        }
    }
}
