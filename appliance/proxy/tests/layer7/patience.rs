//! Timeouts and attempts that rules ask for.

use std::time::Duration;

use haflinger_core::{RetryPolicy, RuleAction, RuleTimeouts};

use crate::support::backend::{Backend, dead_address};
use crate::support::client::RawClient;
use crate::support::{Lab, action, route};

fn timeouts(request_ms: Option<u32>, backend_ms: Option<u32>) -> RuleAction {
    let timeouts = RuleTimeouts { request_ms, backend_ms };
    RuleAction { timeouts, ..action("shop", Vec::new()) }
}

fn retry(codes: &[u16], attempts: u32) -> RuleAction {
    let policy = RetryPolicy { codes: codes.into(), attempts: Some(attempts), backoff_ms: Some(1) };
    RuleAction { retry: Some(policy), ..action("shop", Vec::new()) }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_or_an_attempt_that_takes_too_long_is_answered_504() {
    let shop = Backend::start("shop").await;
    let mut lab = Lab::start();
    lab.backends("shop", &[shop.address]);
    for timeouts in [timeouts(Some(50), None), timeouts(None, Some(50))] {
        lab.listen(vec![route("/", timeouts)]);
        lab.publish().await;
        let mut client = RawClient::connect(lab.address).await;
        let (status, answer) = client.get("/gate").await.unwrap();
        assert_eq!((status, answer.ends_with("504 gateway timeout\n")), (504, true));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_may_wait_longer_than_the_configuration() {
    let shop = Backend::start("shop").await;
    let mut lab = Lab::start_with(|settings| {
        settings.upstream_read_timeout = Duration::from_millis(50);
    });
    lab.backends("shop", &[shop.address]);
    lab.listen(vec![
        route("/", action("shop", Vec::new())),
        route("/gate", timeouts(Some(0), None)),
    ]);
    lab.publish().await;
    let mut client = RawClient::connect(lab.address).await;
    client.send("GET /gate HTTP/1.1\r\nHost: shop.example\r\n\r\n").await;
    // Four times as long as the configuration waits.
    tokio::time::sleep(Duration::from_millis(200)).await;
    shop.open_gate();
    assert_eq!(client.answer().await.unwrap().0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_goes_on_for_too_long_is_cut_off() {
    let shop = Backend::start("shop").await;
    let mut lab = Lab::start();
    lab.backends("shop", &[shop.address]);
    lab.listen(vec![route("/", timeouts(Some(100), None))]);
    lab.publish().await;
    let mut client = RawClient::connect(lab.address).await;
    assert!(client.get("/trickle").await.is_none(), "the answer came to its end");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_status_is_tried_again_as_often_as_the_rule_says() {
    for (fails, codes, attempts, expected, requests) in [
        (2, &[500][..], 3, 200, 3),
        (9, &[500], 3, 500, 4),
        (1, &[502, 503], 3, 500, 1),
        (0, &[500], 3, 200, 1),
    ] {
        let shop = Backend::start("shop").await;
        let mut lab = Lab::start();
        lab.backends("shop", &[shop.address]);
        lab.listen(vec![route("/", retry(codes, attempts))]);
        lab.publish().await;
        let mut client = RawClient::connect(lab.address).await;
        let post = format!(
            "POST /fail/{fails}/500 HTTP/1.1\r\nHost: shop.example\r\nContent-Length: 5\r\n\r\nhello"
        );
        client.send(&post).await;
        assert_eq!(client.answer().await.unwrap().0, expected, "{fails} {codes:?}");
        assert_eq!(shop.requests(), requests, "{fails} {codes:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn attempts_of_a_rule_go_elsewhere_first_and_stay_within_the_budget() {
    let (shop, dead) = (Backend::start("shop").await, dead_address().await);
    let mut lab = Lab::start_with(|settings| {
        settings.retry_percent = 0;
        settings.workers = std::num::NonZeroUsize::MIN;
    });
    lab.backends("shop", &[shop.address, dead]);
    lab.listen(vec![route("/", retry(&[500], 1))]);
    lab.publish().await;
    let mut client = RawClient::connect(lab.address).await;
    for _ in 0..20 {
        assert_eq!(client.get("/").await.unwrap().0, 200);
    }
    let made = lab.metric("haflinger_proxy_retries_total", "");
    let left = haflinger_proxy::RETRY_RESERVE as f64 - made;
    lab.backends("shop", &[shop.address]);
    lab.publish().await;
    for _ in 0..200 {
        assert_eq!(client.get("/fail/10000/500").await.unwrap().0, 500);
    }
    assert_eq!(lab.metric("haflinger_proxy_retries_total", "") - made, left);
    assert_eq!(lab.metric("haflinger_proxy_retries_denied_total", ""), 200.0 - left);
}

#[tokio::test(flavor = "multi_thread")]
async fn where_a_rule_asks_for_attempts_a_broken_exchange_is_one_if_it_may_be_repeated() {
    let shop = Backend::start("shop").await;
    let mut lab = Lab::start();
    lab.backends("shop", &[shop.address]);
    lab.listen(vec![route("/", retry(&[], 2))]);
    lab.publish().await;
    for (method, reached) in [("GET", 3), ("POST", 1)] {
        let before = shop.requests();
        let mut client = RawClient::connect(lab.address).await;
        client.send(&format!("{method} /die HTTP/1.1\r\nHost: shop.example\r\n\r\n")).await;
        assert_eq!(client.answer().await.unwrap().0, 502, "{method}");
        assert_eq!(shop.requests() - before, reached, "{method}");
    }
}
