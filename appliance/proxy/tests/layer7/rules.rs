//! What rules of the Gateway API do: sections, matches, weights and changes of fields.

use std::sync::Arc;

use haflinger_core::{
    FieldEdits, FieldMatch, Filter, HostMatch, PathMatch, PathRewrite, Redirect, RequestMatch,
    Rewrite, RuleAction, RuleBackend, ValueMatch,
};

use crate::support::backend::{Backend, field};
use crate::support::client::{RawClient, https};
use crate::support::{
    Lab, action, plain_section, route, rule, section, self_signed, tls_entry, weighted,
};

fn pairs(all: &[(&str, &str)]) -> Vec<(Arc<str>, Arc<str>)> {
    all.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect()
}

fn edits(remove: &[&str], set: &[(&str, &str)], add: &[(&str, &str)]) -> FieldEdits {
    let remove = remove.iter().map(|name| (*name).into()).collect();
    FieldEdits { remove, set: pairs(set), add: pairs(add) }
}

fn exact(name: &str, value: &str) -> FieldMatch {
    FieldMatch { name: name.into(), value: ValueMatch::Exact(value.into()) }
}

#[tokio::test(flavor = "multi_thread")]
async fn methods_fields_parameters_and_expressions_decide_between_rules() {
    let names = ["plain", "post", "field", "query", "expression"];
    let mut lab = Lab::start();
    let mut backends = Vec::new();
    for name in names {
        let backend = Backend::start(name).await;
        lab.backends(name, &[backend.address]);
        backends.push(backend);
    }
    let mut rules: Vec<_> = names.map(|name| route("/", action(name, Vec::new()))).into();
    rules[1].matches.method = Some("POST".into());
    rules[2].matches.headers = vec![exact("version", "two")];
    rules[3].matches.query = vec![exact("animal", "whale")];
    rules[4].matches = RequestMatch::path(PathMatch::Regex("/v[0-9]+/.*".into()));
    lab.listen(rules);
    lab.publish().await;
    let mut client = RawClient::connect(lab.address).await;
    for (method, target, fields, expected) in [
        ("GET", "/", &[][..], "plain"),
        ("POST", "/?animal=whale", &[("version", "two")], "post"),
        ("GET", "/?animal=whale", &[("Version", "two")], "field"),
        ("GET", "/?animal=whale", &[("version", "one")], "query"),
        ("GET", "/?animal=whales", &[], "plain"),
        ("GET", "/v12/a", &[("version", "two")], "expression"),
        ("GET", "/v/a", &[], "plain"),
    ] {
        let (status, answer) = client.ask(method, target, "a.example", fields).await.unwrap();
        assert_eq!(status, 200);
        assert!(answer.ends_with(expected), "{method} {target} {fields:?}: {answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_whose_expression_is_broken_answers_500_for_itself_and_is_told() {
    let shop = Backend::start("shop").await;
    let mut lab = Lab::start();
    lab.backends("shop", &[shop.address]);
    let mut broken = route("/", action("shop", Vec::new()));
    let value = ValueMatch::Regex("[a-z]{1000}{1000}".into());
    broken.matches.headers = vec![FieldMatch { name: "x-a".into(), value }];
    lab.listen(vec![broken, route("/", action("shop", Vec::new()))]);
    lab.publish().await;
    let mut client = RawClient::connect(lab.address).await;
    let ask = client.ask("GET", "/", "a.example", &[("x-a", "1")]).await;
    assert_eq!(ask.unwrap().0, 500);
    assert_eq!(client.get("/").await.unwrap().0, 200, "on the same connection");
    assert_eq!(lab.metric("haflinger_proxy_rules_faulty", ""), 1.0);
    let told = &lab.handle.status().listeners[0].rule_faults;
    assert!(told[0].contains("takes more than"), "{told:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn sections_of_a_plain_listener_are_isolated_by_host() {
    let shop = Backend::start("shop").await;
    let mut lab = Lab::start();
    lab.backends("shop", &[shop.address]);
    let all = |path: &str| vec![rule(None, path, Some("shop"))];
    lab.listen_plain_sections(vec![
        plain_section(HostMatch::Any, all("/any")),
        plain_section(HostMatch::Suffix("example".into()), all("/wild")),
        plain_section(HostMatch::Exact("shop.example".into()), all("/exact")),
    ]);
    lab.publish().await;
    let mut client = RawClient::connect(lab.address).await;
    for (host, path, status) in [
        ("shop.example", "/exact", 200),
        ("shop.example", "/wild", 404),
        ("a.b.example", "/wild", 200),
        ("a.b.example", "/any", 404),
        ("example", "/any", 200),
    ] {
        let (got, _) = client.ask("GET", path, host, &[]).await.unwrap();
        assert_eq!(got, status, "{host}{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_for_another_section_than_its_tls_connection_is_answered_421() {
    let shop = Backend::start("shop").await;
    let spec = self_signed(&["shop.example", "blog.example"]);
    let mut lab = Lab::start();
    lab.backends("shop", &[shop.address]);
    lab.certificate("site", spec.clone());
    let one = |host: &str| {
        let rules = vec![rule(None, "/", Some("shop"))];
        section(HostMatch::Exact(host.into()), vec![tls_entry("site", &[])], rules)
    };
    lab.listen_sections(vec![one("shop.example"), one("blog.example")]);
    lab.publish().await;
    let url = format!("https://shop.example:{}/", lab.address.port());
    let client = https(lab.address, &[&spec]).http1_only().build().unwrap();
    for (host, status) in [("shop.example", 200), ("blog.example", 421), ("x.example", 404)] {
        let request = client.get(&url).header("host", host);
        assert_eq!(request.send().await.unwrap().status(), status, "{host}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn backends_have_shares_by_weight_and_missing_ones_keep_theirs() {
    let (old, new) = (Backend::start("old").await, Backend::start("new").await);
    let mut lab = Lab::start();
    lab.backends("old", &[old.address]);
    lab.backends("new", &[new.address]);
    lab.backends("idle", &[new.address]);
    let missing = RuleBackend { to: Err(500), ..weighted(10, "missing") };
    let backends = vec![weighted(60, "old"), missing, weighted(0, "idle"), weighted(30, "new")];
    lab.listen(vec![route("/", RuleAction { backends, ..RuleAction::default() })]);
    lab.publish().await;
    let mut client = RawClient::connect(lab.address).await;
    let (mut counts, sent) = ([0_usize; 3], 1_000);
    for _ in 0..sent {
        let (status, answer) = client.get("/").await.unwrap();
        counts[match status {
            200 if answer.ends_with("old") => 0,
            200 => 1,
            other => {
                assert_eq!(other, 500);
                2
            }
        }] += 1;
    }
    // Binomial with deviations below 16: ten deviations.
    for (count, share) in counts.into_iter().zip([600_usize, 300, 100]) {
        assert!(count.abs_diff(share) < 160 && count > 0, "{counts:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fields_of_requests_are_changed_by_the_rule_and_then_by_its_backend() {
    let shop = Backend::start("shop").await;
    let mut lab = Lab::start();
    lab.backends("shop", &[shop.address]);
    let of_rule = edits(
        &["X-Gone", "x-forwarded-port"],
        &[("X-Set", "rule"), ("content-length", "9"), ("X-Forwarded-Proto", "https")],
        &[("x-add", "rule")],
    );
    let of_backend = edits(&[], &[("x-set", "backend")], &[("X-Add", "backend")]);
    let filters = vec![Filter::RequestHeaders(of_backend)];
    let backend = RuleBackend { filters, ..weighted(1, "shop") };
    let filters = vec![Filter::RequestHeaders(of_rule)];
    lab.listen(vec![route(
        "/",
        RuleAction { backends: vec![backend], filters, ..RuleAction::default() },
    )]);
    lab.publish().await;
    let mut client = RawClient::connect(lab.address).await;
    let fields = [("x-gone", "1"), ("x-set", "client"), ("x-add", "client")];
    let (_, seen) = client.ask("GET", "/echo", "a.example", &fields).await.unwrap();
    let seen = seen.split_once("\r\n\r\n").unwrap().1;
    assert_eq!(field(seen, "x-set"), Some("backend"));
    assert_eq!(field(seen, "x-gone"), None);
    assert_eq!(field(seen, "content-length"), None);
    assert_eq!(field(seen, "x-forwarded-port"), None);
    assert_eq!(field(seen, "x-forwarded-proto"), Some("https"), "a rule has the last word");
    let added: Vec<_> = seen.lines().filter(|line| line.starts_with("x-add")).collect();
    assert_eq!(added, ["x-add: client", "x-add: rule", "x-add: backend"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn fields_of_answers_are_changed_also_of_the_proxys_own() {
    let shop = Backend::start("shop").await;
    let mut lab = Lab::start();
    lab.backends("shop", &[shop.address]);
    let change = Filter::ResponseHeaders(edits(
        &["x-fixed"],
        &[("cache-control", "private")],
        &[("X-Added", "yes"), ("content-length", "1")],
    ));
    let lost = action("lost", vec![change.clone()]);
    lab.listen(vec![route("/", action("shop", vec![change])), route("/lost", lost)]);
    lab.publish().await;
    let mut client = RawClient::connect(lab.address).await;
    for (path, expected) in [("/", 200), ("/lost", 503)] {
        let (status, answer) = client.get(path).await.unwrap();
        assert_eq!(status, expected);
        assert_eq!(field(&answer, "x-added"), Some("yes"));
        assert_eq!(field(&answer, "cache-control"), Some("private"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_is_sent_elsewhere_and_the_connection_goes_on() {
    let mut lab = Lab::start();
    let redirect = Redirect {
        scheme: Some("https".into()),
        host: Some("new.example".into()),
        path: Some(PathRewrite::Prefix("/b".into())),
        port: None,
        status: 308,
    };
    let bare = Redirect { scheme: None, host: None, path: None, port: None, status: 302 };
    let to = |redirect| RuleAction {
        filters: vec![Filter::Redirect(redirect)],
        ..RuleAction::default()
    };
    lab.listen(vec![route("/a", to(redirect)), route("/bare", to(bare))]);
    lab.publish().await;
    let mut client = RawClient::connect(lab.address).await;
    let (status, answer) = client.get("/a/c?d=e").await.unwrap();
    assert_eq!(status, 308);
    assert_eq!(field(&answer, "location"), Some("https://new.example/b/c?d=e"));
    let (status, answer) = client.get("/bare").await.unwrap();
    assert_eq!(status, 302);
    assert_eq!(field(&answer, "location"), Some("http://shop.example:18080/bare"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_sees_another_host_and_path() {
    let shop = Backend::start("shop").await;
    let spec = self_signed(&["shop.example"]);
    let mut lab = Lab::start();
    lab.backends("shop", &[shop.address]);
    lab.certificate("site", spec.clone());
    let rewrite = |host: Option<&str>, path| {
        Filter::Rewrite(Rewrite { host: host.map(Into::into), path: Some(path) })
    };
    let full = rewrite(Some("inner.example"), PathRewrite::Full("/echo".into()));
    let prefix = rewrite(None, PathRewrite::Prefix("/".into()));
    let rules = vec![
        route("/full", action("shop", vec![full])),
        route("/cut", action("shop", vec![prefix])),
    ];
    let section = section(HostMatch::Any, vec![tls_entry("site", &[])], rules);
    lab.listen_sections(vec![section]);
    lab.publish().await;
    for http2 in [false, true] {
        let builder = https(lab.address, &[&spec]);
        let builder = if http2 { builder } else { builder.http1_only() };
        let client = builder.build().unwrap();
        let get = async |path: &str| {
            let url = format!("https://shop.example:{}{path}", lab.address.port());
            client.get(url).send().await.unwrap().text().await.unwrap()
        };
        let seen = get("/full/any?a=b").await;
        assert!(seen.starts_with("GET /echo?a=b HTTP/1.1\r\n"), "{seen}");
        assert_eq!(field(&seen, "host"), Some("inner.example"));
        assert_eq!(field(&seen, "x-forwarded-host"), Some("shop.example:18080"));
        assert_eq!(get("/cut/big/3").await, "xxx");
    }
}
