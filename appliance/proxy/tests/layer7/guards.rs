//! What is asked of clients before a backend sees anything: lists, rates, sizes.

use haflinger_core::{ClientRanges, Filter, RateKey, RateLimit};

use crate::support::backend::Backend;
use crate::support::client::RawClient;
use crate::support::{Lab, action, route};

async fn lab(
    change: impl FnOnce(&mut haflinger_proxy::Settings),
    filters: Vec<Filter>,
) -> (Lab, Backend) {
    let shop = Backend::start("shop").await;
    let mut lab = Lab::start_with(change);
    lab.backends("shop", &[shop.address]);
    lab.listen(vec![route("/", action("shop", filters))]);
    lab.publish().await;
    (lab, shop)
}

fn only(network: &str) -> Filter {
    let allow = Some(vec![network.parse().unwrap()]);
    Filter::Clients(ClientRanges { allow, deny: Vec::new() })
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_not_on_the_list_gets_403_and_no_backend_hears_of_it() {
    let (lab, shop) = lab(|_| {}, vec![only("192.0.2.0/24")]).await;
    let mut client = RawClient::connect(lab.address).await;
    let claim = [("x-forwarded-for", "192.0.2.1")];
    for fields in [&[][..], &claim] {
        let (status, answer) = client.ask("GET", "/", "a.example", fields).await.unwrap();
        assert_eq!(status, 403);
        assert!(answer.ends_with("403 forbidden\n"), "{answer}");
    }
    assert_eq!(shop.requests(), 0);
    assert_eq!(lab.metric("haflinger_proxy_requests_refused_total", "client"), 2.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn behind_a_trusted_proxy_the_client_that_it_names_counts() {
    let trust = |settings: &mut haflinger_proxy::Settings| {
        settings.trusted_proxies = vec!["127.0.0.0/8".parse().unwrap()];
    };
    let (lab, _shop) = lab(trust, vec![only("192.0.2.0/24")]).await;
    let mut client = RawClient::connect(lab.address).await;
    for (named, expected) in
        [("192.0.2.1", 200), ("198.51.100.1", 403), ("192.0.2.1, 198.51.100.1", 403)]
    {
        let fields = [("x-forwarded-for", named)];
        let (status, _) = client.ask("GET", "/", "a.example", &fields).await.unwrap();
        assert_eq!(status, expected, "{named}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_request_too_many_is_told_when_to_come_back() {
    // A day, so that nothing is earned while the test runs.
    let limit = RateLimit {
        requests: 1,
        period_ms: 86_400_000,
        burst: 2,
        per: RateKey::Client,
        status: 429,
    };
    let (lab, shop) = lab(|_| {}, vec![Filter::Rate { limit, scope: "shop".into() }]).await;
    let mut client = RawClient::connect(lab.address).await;
    for remaining in [1, 0] {
        let (status, answer) = client.get("/").await.unwrap();
        assert_eq!(status, 200);
        let answer = answer.to_ascii_lowercase();
        assert!(answer.contains("ratelimit-limit: 2\r\n"), "{answer}");
        assert!(answer.contains(&format!("ratelimit-remaining: {remaining}\r\n")), "{answer}");
    }
    let (status, answer) = client.get("/").await.unwrap();
    let answer = answer.to_ascii_lowercase();
    assert_eq!(status, 429);
    let after = answer.split("retry-after: ").nth(1).and_then(|rest| rest.split('\r').next());
    let after: u32 = after.unwrap().parse().unwrap();
    assert!((1..=86_400).contains(&after), "{answer}");
    assert!(answer.contains("ratelimit-remaining: 0\r\n"), "{answer}");
    assert_eq!(shop.requests(), 2);
    assert_eq!(lab.metric("haflinger_proxy_requests_refused_total", "rate"), 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_too_long_gets_413_whether_announced_or_not() {
    let (lab, _shop) = lab(|_| {}, vec![Filter::BodyMax(10)]).await;
    let send = async |request: &str| {
        let mut client = RawClient::connect(lab.address).await;
        client.send(request).await;
        client.answer().await.unwrap().0
    };
    let head = "POST / HTTP/1.1\r\nhost: a.example\r\n";
    let announced = format!("{head}content-length: 11\r\n\r\n01234567890");
    assert_eq!(send(&announced).await, 413);
    let fits = format!("{head}content-length: 10\r\n\r\n0123456789");
    assert_eq!(send(&fits).await, 200);
    let chunked = format!("{head}transfer-encoding: chunked\r\n\r\nb\r\n01234567890\r\n0\r\n\r\n");
    assert_eq!(send(&chunked).await, 413);
    let chunked =
        format!("{head}transfer-encoding: chunked\r\n\r\n5\r\n01234\r\n5\r\n56789\r\n0\r\n\r\n");
    assert_eq!(send(&chunked).await, 200);
}
