//! TLS towards backends: who is spoken to, and what they are shown.

use std::sync::Arc;

use haflinger_core::{
    AuthoritySpec, RuleAction, RuleBackend, SubjectName, Upstream, UpstreamAuthorities,
    UpstreamProtocol, UpstreamTls,
};

use crate::support::backend::Backend;
use crate::support::client::{RawClient, leaf};
use crate::support::grpc::{Caller, EchoServer};
use crate::support::guarded::Guarded;
use crate::support::issuer::Issuer;
use crate::support::{Lab, certificate_ref, route, target, until};

const URI: &str = "spiffe://example/shop";

fn greeting(authorities: UpstreamAuthorities) -> UpstreamTls {
    let server_name = "shop.internal".into();
    UpstreamTls { server_name, subject_names: vec![], authorities, client_certificate: None }
}

fn these(authority: Arc<AuthoritySpec>) -> UpstreamAuthorities {
    UpstreamAuthorities::These(vec![authority])
}

/// Sends `/…` to backends called as the first element of the path, greeted in these ways.
fn listen(lab: &mut Lab, ways: &[(&str, &str, UpstreamProtocol, UpstreamTls)]) {
    let rules = ways.iter().map(|(path, to, speaks, tls)| {
        let tls = Some(Arc::new(tls.clone()));
        let upstream = Upstream { speaks: *speaks, tls, ..Upstream::plain(target(to)) };
        let backend = RuleBackend { weight: 1, to: Ok(upstream), filters: vec![] };
        route(path, RuleAction { backends: vec![backend], ..RuleAction::default() })
    });
    lab.listen(rules.collect());
}

async fn status(lab: &Lab, path: &str) -> u16 {
    RawClient::connect(lab.address).await.get(path).await.unwrap().0
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_is_spoken_to_only_when_it_is_who_it_has_to_be() {
    use UpstreamProtocol::Http1;
    let (ours, theirs) = (Issuer::new("ours"), Issuer::new("theirs"));
    let spec = ours.issue(&["shop.internal", "other.internal", URI], 1);
    let plain = Backend::start("shop").await;
    let shop = Guarded::before(plain.address, &spec, None, &[b"h2", b"http/1.1"]).await;
    let mut lab = Lab::start();
    lab.backends("shop", &[shop.address]);
    let (good, bad) = (these(ours.authority()), these(theirs.authority()));
    let named = |name: &str, subject_names: &[SubjectName]| UpstreamTls {
        server_name: name.into(),
        subject_names: subject_names.to_vec(),
        ..greeting(good.clone())
    };
    let dns = |name: &str| SubjectName::Dns(name.into());
    let uri = |uri: &str| SubjectName::Uri(uri.into());
    let broken = Arc::new(AuthoritySpec { pem: b"broken".to_vec(), ..AuthoritySpec::default() });
    let cases = [
        ("/good", greeting(good.clone()), 200),
        ("/authority", greeting(bad), 502),
        ("/system", greeting(UpstreamAuthorities::System), 502),
        ("/name", named("blog.internal", &[]), 502),
        ("/broken", greeting(these(broken)), 502),
        ("/none", greeting(UpstreamAuthorities::These(vec![])), 502),
        // What is sent is one thing, what is verified another.
        ("/dns", named("blog.internal", &[dns("other.internal")]), 200),
        ("/dns-other", named("shop.internal", &[dns("blog.internal")]), 502),
        ("/uri", named("blog.internal", &[uri(URI)]), 200),
        ("/uri-other", named("shop.internal", &[uri("spiffe://example/blog")]), 502),
        ("/uri-part", named("shop.internal", &[uri("spiffe://example")]), 502),
        ("/one-of", named("blog.internal", &[dns("blog.internal"), uri(URI)]), 200),
        ("/none-of", named("shop.internal", &[dns("a.b"), uri("spiffe://a/b")]), 502),
    ];
    let ways: Vec<_> =
        cases.iter().map(|(path, tls, _)| (*path, "shop", Http1, tls.clone())).collect();
    listen(&mut lab, &ways);
    lab.publish().await;
    for (path, _, expected) in &cases {
        assert_eq!(status(&lab, path).await, *expected, "{path}");
    }
    let seen = shop.seen();
    assert!(seen.iter().any(|h| h.server_name.as_deref() == Some("shop.internal")));
    assert!(seen.iter().all(|h| h.protocol.as_deref() == Some("http/1.1")), "{seen:?}");
    let failed = |reason| lab.metric("haflinger_proxy_upstream_tls_failures_total", reason);
    assert_eq!((failed("certificate"), failed("unprepared")), (7.0, 2.0));
    assert_eq!(plain.requests(), 4, "none of the others was asked");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_that_the_authority_has_revoked_is_not_spoken_to() {
    let ours = Issuer::new("ours");
    let spec = ours.issue(&["shop.internal"], 7);
    let plain = Backend::start("shop").await;
    let shop = Guarded::before(plain.address, &spec, None, &[]).await;
    let mut lab = Lab::start();
    lab.backends("shop", &[shop.address]);
    for (authority, expected) in
        [(ours.authority(), 200), (ours.revoking(&[7]), 502), (ours.revoking(&[8]), 200)]
    {
        listen(&mut lab, &[("/", "shop", UpstreamProtocol::Http1, greeting(these(authority)))]);
        lab.publish().await;
        assert_eq!(status(&lab, "/").await, expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_certificate_of_the_gateway_is_shown_and_a_new_one_at_the_next_handshake() {
    let (ours, clients) = (Issuer::new("ours"), Issuer::new("clients"));
    let spec = ours.issue(&["shop.internal"], 1);
    let plain = Backend::start("shop").await;
    let shop = Guarded::before(plain.address, &spec, Some(&clients.authority()), &[]).await;
    let mut lab = Lab::start();
    lab.backends("shop", &[shop.address]);
    let mine = UpstreamTls {
        client_certificate: Some(certificate_ref("mine")),
        ..greeting(these(ours.authority()))
    };
    let anonymous = greeting(these(ours.authority()));
    listen(
        &mut lab,
        &[
            ("/mine", "shop", UpstreamProtocol::Http1, mine),
            ("/anonymous", "shop", UpstreamProtocol::Http1, anonymous),
        ],
    );
    lab.publish().await;
    assert_eq!(status(&lab, "/mine").await, 502, "before the certificate is there");
    for number in [1, 2] {
        let certificate = clients.issue(&["edge.example"], number);
        lab.certificate("mine", certificate.clone());
        lab.publish().await;
        assert_eq!(status(&lab, "/mine").await, 200);
        let shown = shop.seen().last().unwrap().shown.clone().unwrap();
        assert_eq!(shown, leaf(&certificate).to_vec(), "not that of an earlier session");
        assert_eq!(status(&lab, "/anonymous").await, 502, "it is shown where it is meant to be");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_with_a_backend_are_resumed_by_those_who_greet_alike() {
    let ours = Issuer::new("ours");
    let plain = Backend::start("shop").await;
    let shop = Guarded::before(plain.address, &ours.issue(&["shop.internal"], 1), None, &[]).await;
    let mut lab = Lab::start();
    lab.backends("shop", &[shop.address]);
    let tls = greeting(these(ours.authority()));
    let alike = |path| (path, "shop", UpstreamProtocol::Http1, tls.clone());
    listen(&mut lab, &[alike("/a"), alike("/b")]);
    lab.publish().await;
    for path in ["/a", "/b", "/a"] {
        assert_eq!(status(&lab, path).await, 200);
    }
    let resumed = || shop.seen().iter().filter(|handshake| handshake.resumed).count();
    assert_eq!(resumed(), shop.seen().len() - 1, "all but the first");
    // Who verifies otherwise does not profit from what others have verified.
    let names = vec![SubjectName::Dns("shop.internal".into())];
    let other = UpstreamTls { subject_names: names, ..tls.clone() };
    let (before, count) = (resumed(), shop.seen().len());
    listen(&mut lab, &[("/", "shop", UpstreamProtocol::Http1, other)]);
    lab.publish().await;
    assert_eq!(status(&lab, "/c").await, 200);
    assert_eq!((resumed(), shop.seen().len()), (before, count + 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_reach_a_backend_by_http_2_over_tls_with_their_trailers() {
    let ours = Issuer::new("ours");
    let echo = EchoServer::start().await;
    let spec = ours.issue(&["shop.internal"], 1);
    let guarded = Guarded::before(echo.address, &spec, None, &[b"h2", b"http/1.1"]).await;
    let mut lab = Lab::start();
    lab.backends("echo", &[guarded.address]);
    let tls = greeting(these(ours.authority()));
    listen(&mut lab, &[("/", "echo", UpstreamProtocol::Http2, tls)]);
    lab.publish().await;
    let mut caller = Caller::connect(lab.address).await;
    let (mut one, mut two) =
        (caller.call("shop.example", "/a").await, caller.call("shop.example", "/b").await);
    for word in ["hello", "world"] {
        assert_eq!((one.echo(word).await, two.echo(word).await), (word.into(), word.into()));
    }
    assert_eq!(one.end().await.as_deref(), Some("0"));
    assert_eq!(two.end().await.as_deref(), Some("0"));
    assert!(guarded.seen().iter().all(|h| h.protocol.as_deref() == Some("h2")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_that_does_not_agree_to_http_2_is_not_sent_any() {
    let ours = Issuer::new("ours");
    let spec = ours.issue(&["shop.internal"], 1);
    let plain = Backend::start("shop").await;
    let shop = Guarded::before(plain.address, &spec, None, &[]).await;
    let mut lab = Lab::start();
    lab.backends("shop", &[shop.address]);
    let tls = greeting(these(ours.authority()));
    listen(&mut lab, &[("/", "shop", UpstreamProtocol::Http2, tls)]);
    lab.publish().await;
    assert_eq!(status(&lab, "/").await, 502);
    until("the refusal is counted", || {
        lab.metric("haflinger_proxy_upstream_tls_failures_total", "protocol") == 1.0
    })
    .await;
    assert_eq!(plain.requests(), 0);
}
