//! Browsers that ask on behalf of other origins.

use haflinger_core::{Cors, Filter};

use crate::support::backend::{Backend, field};
use crate::support::client::RawClient;
use crate::support::{Lab, action, route};

fn policy() -> Cors {
    let all = |all: &[&str]| all.iter().map(|one| (*one).into()).collect::<Vec<_>>();
    Cors {
        origins: all(&["https://www.foo.com", "https://*.bar.com"]),
        credentials: true,
        methods: all(&["GET", "OPTIONS"]),
        headers: all(&["x-header-1", "x-header-2"]),
        expose: all(&["x-header-3"]),
        max_age_secs: 3_600,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_preflight_request_is_answered_by_the_proxy_and_others_by_the_backend() {
    let shop = Backend::start("shop").await;
    let mut lab = Lab::start();
    lab.backends("shop", &[shop.address]);
    lab.listen(vec![route("/", action("shop", vec![Filter::Cors(policy())]))]);
    lab.publish().await;
    let mut client = RawClient::connect(lab.address).await;
    for (origin, allowed) in [
        ("https://www.foo.com", true),
        ("https://a.b.bar.com", true),
        ("https://foobar.com", false),
    ] {
        let expected = allowed.then_some(origin);
        let asked = [("Origin", origin), ("Access-Control-Request-Method", "GET")];
        let (status, answer) = client.ask("OPTIONS", "/", "a.example", &asked).await.unwrap();
        assert_eq!(status, 204);
        assert_eq!(field(&answer, "access-control-allow-origin"), expected);
        let methods = field(&answer, "access-control-allow-methods");
        assert_eq!(methods, allowed.then_some("GET, OPTIONS"));
        assert_eq!(field(&answer, "access-control-max-age"), allowed.then_some("3600"));
        assert_eq!(field(&answer, "content-length"), None, "204 has none (RFC 9110, 8.6)");

        let before = shop.requests();
        let (status, answer) = client.ask("GET", "/", "a.example", &asked[..1]).await.unwrap();
        assert_eq!((status, shop.requests() - before), (200, 1));
        assert_eq!(field(&answer, "access-control-allow-origin"), expected);
        let credentials = field(&answer, "access-control-allow-credentials");
        assert_eq!(credentials, allowed.then_some("true"));
        assert_eq!(field(&answer, "vary"), Some("Origin"));
    }
    let before = shop.requests();
    let (status, _) = client.ask("OPTIONS", "/", "a.example", &[]).await.unwrap();
    assert_eq!((status, shop.requests() - before), (200, 1), "no preflight request");
}
