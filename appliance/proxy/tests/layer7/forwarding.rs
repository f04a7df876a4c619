//! Where requests go, and what happens when a backend fails.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::support::backend::{Backend, dead_address};
use crate::support::client::RawClient;
use crate::support::{Lab, PATIENCE, rule, until};

#[tokio::test(flavor = "multi_thread")]
async fn requests_follow_the_rules_to_the_backends() {
    let (shop, api) = (Backend::start("shop").await, Backend::start("api").await);
    let mut lab = Lab::start();
    lab.backends("shop", &[shop.address]);
    lab.backends("api", &[api.address]);
    lab.listen(vec![
        rule(Some("shop.example"), "/api", Some("api")),
        rule(Some("shop.example"), "/", Some("shop")),
    ]);
    lab.publish().await;
    let mut client = RawClient::connect(lab.address).await;
    assert!(client.get("/cart?x=/api").await.unwrap().1.ends_with("shop"));
    assert!(client.get("/api/v1").await.unwrap().1.ends_with("api"));
    assert!(client.get("/apiary").await.unwrap().1.ends_with("shop"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_leads_nowhere_is_answered_without_ending_the_connection() {
    let shop = Backend::start("shop").await;
    let mut lab = Lab::start();
    lab.backends("shop", &[shop.address]);
    lab.backends("empty", &[]);
    lab.listen(vec![
        rule(Some("shop.example"), "/ok", Some("shop")),
        rule(Some("shop.example"), "/empty", Some("empty")),
        rule(Some("shop.example"), "/lost", Some("lost")),
        rule(Some("shop.example"), "/missing", None),
    ]);
    lab.publish().await;
    let mut client = RawClient::connect(lab.address).await;
    for (path, status) in
        [("/nothing", 404), ("/empty", 503), ("/lost", 503), ("/missing", 503), ("/ok", 200)]
    {
        let (got, answer) = client.get(path).await.expect(path);
        assert_eq!(got, status, "{path}");
        assert!(!answer.contains("127.0.0.1") && !answer.to_lowercase().contains("server:"));
    }
    until("requests are counted", || {
        let count = |class| lab.metric("haflinger_proxy_requests_total", class);
        count("4xx") == 1.0 && count("5xx") == 3.0 && count("2xx") == 1.0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_backend_is_not_noticed_while_another_lives() {
    let alive = Backend::start("alive").await;
    let mut lab = Lab::start();
    lab.serve_all(&[alive.address, dead_address().await]).await;
    let client = reqwest::Client::builder().no_proxy().timeout(PATIENCE).build().unwrap();
    for n in 0..100 {
        // A request that must not be repeated may still be tried where no connection was had.
        let request = client.post(lab.url("/")).body("order");
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), 200, "request {n}");
    }
    assert_eq!(alive.requests(), 100);
    let failed = lab.metric("haflinger_proxy_upstream_failures_total", "connect");
    assert!(failed > 10.0, "{failed} of 100 requests met the dead backend first");
    assert!(lab.metric("haflinger_proxy_retries_total", "") == failed);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_living_backend_the_answer_is_502() {
    let mut lab = Lab::start();
    lab.serve_all(&[dead_address().await, dead_address().await]).await;
    let mut client = RawClient::connect(lab.address).await;
    let (status, answer) = client.get("/").await.unwrap();
    assert_eq!(status, 502);
    assert!(answer.ends_with("502 bad gateway\n"), "{answer}");
    assert!(!answer.contains("127.0.0.1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn retries_end_when_the_budget_is_spent() {
    let mut lab = Lab::start_with(|settings| {
        settings.retry_percent = 0;
        settings.workers = std::num::NonZeroUsize::MIN;
    });
    lab.serve_all(&[dead_address().await, dead_address().await]).await;
    for _ in 0..haflinger_proxy::RETRY_RESERVE + 20 {
        let mut client = RawClient::connect(lab.address).await;
        assert_eq!(client.get("/").await.unwrap().0, 502);
    }
    let made = lab.metric("haflinger_proxy_retries_total", "");
    assert_eq!(made, haflinger_proxy::RETRY_RESERVE as f64);
    assert_eq!(lab.metric("haflinger_proxy_retries_denied_total", ""), 20.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_that_does_not_answer_in_time_is_504() {
    let slow = Backend::start("slow").await;
    let mut lab = Lab::start_with(|settings| {
        settings.upstream_read_timeout = std::time::Duration::from_millis(100);
    });
    lab.serve_all(&[slow.address]).await;
    let mut client = RawClient::connect(lab.address).await;
    let (status, answer) = client.get("/gate").await.unwrap();
    assert_eq!((status, answer.ends_with("504 gateway timeout\n")), (504, true));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_a_backend_has_seen_is_not_repeated() {
    let (one, two) = (Backend::start("one").await, Backend::start("two").await);
    let mut lab = Lab::start();
    lab.serve_all(&[one.address, two.address]).await;
    let mut client = RawClient::connect(lab.address).await;
    client.send("POST /die HTTP/1.1\r\nHost: shop.example\r\nContent-Length: 1\r\n\r\nx").await;
    assert_eq!(client.answer().await.unwrap().0, 502);
    assert_eq!(one.requests() + two.requests(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_kept_connection_that_breaks_only_idempotent_requests_are_repeated() {
    let shop = Backend::start("shop").await;
    let mut lab = Lab::start_with(|settings| settings.workers = std::num::NonZeroUsize::MIN);
    lab.serve_all(&[shop.address]).await;
    for (method, reached) in [("GET", 2), ("POST", 1)] {
        let before = shop.requests();
        let mut client = RawClient::connect(lab.address).await;
        assert_eq!(client.get("/").await.unwrap().0, 200);
        // Closed without an answer: on the kept connection, and on the new one behind it.
        client.send(&format!("{method} /die HTTP/1.1\r\nHost: shop.example\r\n\r\n")).await;
        assert_eq!(client.answer().await.unwrap().0, 502, "{method}");
        assert_eq!(shop.requests() - before, 1 + reached, "{method}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_of_one_connection_spread_and_connections_to_backends_are_kept() {
    let (one, two) = (Backend::start("one").await, Backend::start("two").await);
    let mut lab = Lab::start();
    lab.serve_all(&[one.address, two.address]).await;
    let mut client = RawClient::connect(lab.address).await;
    for _ in 0..60 {
        assert_eq!(client.get("/").await.unwrap().0, 200);
    }
    assert!(one.requests() > 5 && two.requests() > 5, "{} {}", one.requests(), two.requests());
    assert_eq!((one.connections(), two.connections()), (1, 1));
    assert_eq!(lab.metric("haflinger_proxy_upstream_connections_total", "true"), 58.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn replacing_every_backend_loses_no_request_on_kept_or_new_connections() {
    let mut backends = [Backend::start("a").await, Backend::start("b").await];
    let mut lab = Lab::start();
    let addresses = |backends: &[Backend; 2]| backends.each_ref().map(|b| b.address);
    lab.serve_all(&addresses(&backends)).await;
    let (address, stop) = (lab.address, AtomicBool::new(false));
    let done = [const { AtomicUsize::new(0) }; 4];
    let client = async |number: usize, keep: bool| {
        let mut client = RawClient::connect(address).await;
        while !stop.load(Ordering::Relaxed) {
            let answer = client.get("/").await;
            assert_eq!(answer.map(|(status, _)| status), Some(200), "kept: {keep}");
            done[number].fetch_add(1, Ordering::Relaxed);
            if !keep {
                client = RawClient::connect(address).await;
            }
        }
    };
    let replace = async {
        for round in 0..10 {
            let new = Backend::start(&format!("round {round}")).await;
            let old = std::mem::replace(&mut backends[round % 2], new);
            lab.backends("shop", &addresses(&backends));
            lab.publish().await;
            // The old one goes once every request that may have reached it has been answered:
            // each client has ended the one that it was at, and another.
            let now = || done.each_ref().map(|count| count.load(Ordering::Relaxed));
            let before = now();
            until("every client goes on", || {
                now().iter().zip(before).all(|(count, before)| *count >= before + 2)
            })
            .await;
            drop(old);
        }
        stop.store(true, Ordering::Relaxed);
    };
    let clients = (client(0, true), client(1, true), client(2, false), client(3, false));
    tokio::join!(clients.0, clients.1, clients.2, clients.3, replace);
    assert!(backends.iter().all(|backend| backend.requests() > 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kept_connection_that_its_backend_has_closed_costs_no_request() {
    let old = Backend::start("old").await;
    let mut lab = Lab::start();
    lab.serve_all(&[old.address]).await;
    let mut client = RawClient::connect(lab.address).await;
    assert!(client.get("/").await.unwrap().1.ends_with("old"));
    let new = Backend::start("new").await;
    lab.backends("shop", &[new.address]);
    lab.publish().await;
    drop(old);
    assert!(client.get("/").await.unwrap().1.ends_with("new"), "on the same connection");
}
