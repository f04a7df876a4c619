//! Copies of requests.

use haflinger_core::{FieldEdits, Filter, Mirror, Upstream, UpstreamProtocol};

use crate::support::backend::{Backend, dead_address, field};
use crate::support::client::RawClient;
use crate::support::grpc::EchoServer;
use crate::support::{Lab, action, route, target, until};

fn mirror(to: &str, numerator: u32, denominator: u32) -> Filter {
    Filter::Mirror(Mirror { to: Upstream::plain(target(to)), numerator, denominator })
}

fn mirrored(lab: &Lab, outcome: &str) -> f64 {
    lab.metric("haflinger_proxy_mirrors_total", outcome)
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_have_the_fields_of_the_filters_before_them_and_the_whole_body() {
    let [shop, one, two] =
        [Backend::start("shop").await, Backend::start("one").await, Backend::start("two").await];
    let mut lab = Lab::start();
    lab.backends("shop", &[shop.address]);
    lab.backends("one", &[one.address]);
    lab.backends("two", &[two.address]);
    let set = |value: &str| {
        let set = vec![("x-step".into(), value.into())];
        Filter::RequestHeaders(FieldEdits { set, ..FieldEdits::default() })
    };
    let filters = vec![set("1"), mirror("one", 1, 1), set("2"), mirror("two", 100, 100)];
    lab.listen(vec![route("/", action("shop", filters))]);
    lab.publish().await;
    let mut client = RawClient::connect(lab.address).await;
    assert!(client.get("/get?a=b").await.unwrap().1.ends_with("shop"));
    let chunked = "POST /post HTTP/1.1\r\nHost: shop.example\r\nTransfer-Encoding: chunked\r\n\r\n\
                   5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n";
    client.send(chunked).await;
    assert!(client.answer().await.unwrap().1.ends_with("shop"));
    until("four copies are answered", || mirrored(&lab, "answered") == 4.0).await;
    for (backend, step) in [(&one, "1"), (&two, "2")] {
        let mut seen = backend.seen();
        seen.sort();
        assert!(seen[0].0.starts_with("GET /get?a=b HTTP/1.1\r\n"), "{seen:?}");
        assert!(seen[1].0.starts_with("POST /post HTTP/1.1\r\n"), "{seen:?}");
        assert_eq!([seen[0].1, seen[1].1], [0, 11]);
        for (header, _) in &seen {
            assert_eq!(field(header, "x-step"), Some(step));
            assert_eq!(field(header, "host"), Some("shop.example"));
            assert_eq!(field(header, "x-forwarded-for"), Some("127.0.0.1"));
        }
    }
    assert_eq!(shop.requests(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_gets_its_share_and_the_client_never_notices_it() {
    let (shop, copy) = (Backend::start("shop").await, Backend::start("copy").await);
    let mut lab = Lab::start();
    lab.backends("shop", &[shop.address]);
    lab.backends("copy", &[copy.address]);
    lab.backends("dead", &[dead_address().await]);
    let filters = vec![mirror("copy", 20, 100), mirror("dead", 1, 1), mirror("lost", 1, 1)];
    lab.listen(vec![route("/", action("shop", filters))]);
    lab.publish().await;
    let mut client = RawClient::connect(lab.address).await;
    for _ in 0..500 {
        assert_eq!(client.get("/").await.unwrap().0, 200);
    }
    until("every copy has come to an end", || {
        mirrored(&lab, "failed") == 1_000.0 && mirrored(&lab, "answered") == copy.requests() as f64
    })
    .await;
    // Binomial with mean 100 and deviation 9: more than ten deviations.
    assert!((1..200).contains(&copy.requests()), "{}", copy.requests());
}

#[tokio::test(flavor = "multi_thread")]
async fn beyond_the_bound_and_with_a_large_body_no_copy_is_made() {
    const BOUND: usize = 256;
    let (shop, slow) = (Backend::start("shop").await, Backend::start("slow").await);
    let mut lab = Lab::start_with(|settings| settings.workers = std::num::NonZeroUsize::MIN);
    lab.backends("shop", &[shop.address]);
    lab.backends("slow", &[slow.address]);
    shop.open_gate();
    lab.listen(vec![route("/", action("shop", vec![mirror("slow", 1, 1)]))]);
    lab.publish().await;
    let mut client = RawClient::connect(lab.address).await;
    let body = "x".repeat(64 * 1024 + 1);
    let large = format!(
        "POST /size HTTP/1.1\r\nHost: shop.example\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    client.send(&large).await;
    assert!(client.answer().await.unwrap().1.ends_with("65537"));
    assert_eq!((mirrored(&lab, "body"), slow.requests()), (1.0, 0));
    for _ in 0..BOUND + 10 {
        assert_eq!(client.get("/gate").await.unwrap().0, 200);
    }
    assert_eq!(mirrored(&lab, "full"), 10.0);
    slow.open_gate();
    until("the copies are answered", || mirrored(&lab, "answered") == BOUND as f64).await;
    assert_eq!(client.get("/gate").await.unwrap().0, 200);
    until("there is room again", || mirrored(&lab, "answered") == BOUND as f64 + 1.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_goes_by_http_2_where_its_backend_speaks_that() {
    let (shop, echo) = (Backend::start("shop").await, EchoServer::start().await);
    let mut lab = Lab::start();
    lab.backends("shop", &[shop.address]);
    lab.backends("echo", &[echo.address]);
    let to = Upstream { speaks: UpstreamProtocol::Http2, ..Upstream::plain(target("echo")) };
    let filter = Filter::Mirror(Mirror { to, numerator: 1, denominator: 1 });
    lab.listen(vec![route("/", action("shop", vec![filter]))]);
    lab.publish().await;
    let mut client = RawClient::connect(lab.address).await;
    client.send("POST / HTTP/1.1\r\nHost: shop.example\r\nContent-Length: 5\r\n\r\nhello").await;
    assert_eq!(client.answer().await.unwrap().0, 200);
    assert_eq!(client.get("/").await.unwrap().0, 200);
    until("both copies are answered", || mirrored(&lab, "answered") == 2.0).await;
}
