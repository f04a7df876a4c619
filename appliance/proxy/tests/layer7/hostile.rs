//! Clients that break the rules.

use std::time::Duration;

use tokio::io::AsyncReadExt;

use crate::support::backend::Backend;
use crate::support::client::{RawClient, connect, https};
use crate::support::{Lab, PATIENCE, rule, self_signed, tls_entry, until};

/// A timeout that each of these tests waits out, and that a client who does as it should meets also
/// where the machine stalls.
const SOON: Duration = Duration::from_secs(3);

/// Sends `request` and a second, complete request behind it; the answer to the first, and
/// whether the connection then ended without answering the second.
async fn answered_then_closed(lab: &Lab, request: &str) -> (Option<u16>, bool) {
    let mut client = RawClient::connect(lab.address).await;
    client.send(request).await;
    client.send("GET /smuggled HTTP/1.1\r\nHost: shop.example\r\n\r\n").await;
    let first = client.answer().await.map(|(status, _)| status);
    (first, first.is_none() || client.answer().await.is_none())
}

#[tokio::test(flavor = "multi_thread")]
async fn framing_that_can_be_read_in_two_ways_is_refused_and_the_connection_ended() {
    let shop = Backend::start("shop").await;
    let mut lab = Lab::start();
    lab.serve_all(&[shop.address]).await;
    let head = "POST / HTTP/1.1\r\nHost: shop.example\r\n";
    for (name, request) in [
        (
            "both length and chunks",
            "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        ),
        (
            "both, the other way round and in odd case",
            "TRANSFER-encoding: chunked\r\ncontent-LENGTH: 4\r\n\r\n0\r\n\r\n",
        ),
        ("two lengths", "Content-Length: 4\r\nContent-Length: 5\r\n\r\nabcd"),
        ("two lengths in one field", "Content-Length: 4, 5\r\n\r\nabcd"),
        ("a signed length", "Content-Length: +4\r\n\r\nabcd"),
        ("a negative length", "Content-Length: -1\r\n\r\n"),
        ("chunked not last", "Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n"),
        ("an unknown coding", "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n"),
        ("a space before the colon", "Content-Length : 4\r\n\r\nabcd"),
        ("a folded field", "X-Field: a\r\n Content-Length: 4\r\n\r\nabcd"),
        ("a null byte", "X-Field: a\0b\r\n\r\n"),
        ("two hosts", "Host: other.example\r\n\r\n"),
    ] {
        let (status, closed) = answered_then_closed(&lab, &format!("{head}{request}")).await;
        assert!(status.is_none_or(|status| status == 400), "{name}: {status:?}");
        assert!(closed, "{name}: the second request was answered");
    }
    let old =
        "POST / HTTP/1.0\r\nHost: shop.example\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
    let (status, closed) = answered_then_closed(&lab, old).await;
    assert!(status.is_none_or(|status| status == 400) && closed, "chunks in HTTP/1.0");
    let refused = shop.requests();
    assert_eq!(refused, 0, "{refused} of them reached a backend");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_chunk_ends_the_connection_and_nothing_behind_it_is_a_request() {
    let shop = Backend::start("shop").await;
    let mut lab = Lab::start();
    lab.serve_all(&[shop.address]).await;
    let head = "POST /size HTTP/1.1\r\nHost: shop.example\r\nTransfer-Encoding: chunked\r\n\r\n";
    for chunk in [
        "zz\r\nab\r\n0\r\n\r\n",
        "-1\r\nab\r\n0\r\n\r\n",
        "2\r\nabc\r\n0\r\n\r\n",
        "fffffffffffffffff\r\nab\r\n0\r\n\r\n",
    ] {
        let (status, closed) = answered_then_closed(&lab, &format!("{head}{chunk}")).await;
        assert!(status.is_none_or(|status| status == 400), "{chunk:?}: {status:?}");
        assert!(closed, "{chunk:?}: the second request was answered");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_is_absent_or_malformed_is_refused() {
    let shop = Backend::start("shop").await;
    let mut lab = Lab::start();
    lab.serve_all(&[shop.address]).await;
    for request in [
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost:\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a@b\r\n\r\n",
        "GET http://other.example/ HTTP/1.1\r\nHost: shop.example\r\n\r\n",
    ] {
        let mut client = RawClient::connect(lab.address).await;
        client.send(request).await;
        assert_eq!(client.answer().await.map(|(status, _)| status), Some(400), "{request:?}");
    }
    assert_eq!(shop.requests(), 0);
    let mut client = RawClient::connect(lab.address).await;
    client.send("CONNECT shop.example:443 HTTP/1.1\r\nHost: shop.example:443\r\n\r\n").await;
    assert_eq!(client.answer().await.map(|(status, _)| status), Some(405));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_trickles_its_header_is_cut_off() {
    let shop = Backend::start("shop").await;
    let mut lab = Lab::start_with(|settings| {
        settings.header_timeout = SOON;
    });
    lab.serve_all(&[shop.address]).await;
    let refused = || lab.metric("haflinger_proxy_connections_refused_total", "header_timeout");

    let mut silent = RawClient::connect(lab.address).await;
    assert!(silent.is_closed().await, "a new connection that says nothing");
    until("the silent client is counted", || refused() == 1.0).await;

    let mut client = RawClient::connect(lab.address).await;
    assert_eq!(client.get("/").await.unwrap().0, 200);
    client.send("GET / HTTP/1.1\r\nX-A: ").await;
    until("the trickling client is cut off", || {
        // Each piece comes well before the timeout, which must not start anew with it.
        futures_now(client.send("b"));
        refused() == 2.0
    })
    .await;
    assert!(client.is_closed().await);
}

/// Polls a future that is ready at once.
fn futures_now(future: impl Future<Output = ()>) {
    let mut future = std::pin::pin!(future);
    let waker = std::task::Waker::noop();
    let _ = future.as_mut().poll(&mut std::task::Context::from_waker(waker));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_says_nothing_in_or_after_a_tls_handshake_is_cut_off() {
    let spec = self_signed(&["shop.example"]);
    let mut lab = Lab::start_with(|settings| {
        settings.tls_handshake_timeout = SOON;
        settings.header_timeout = SOON;
    });
    lab.certificate("shop", spec.clone());
    lab.listen_tls(Vec::new(), vec![tls_entry("shop", &[])]);
    lab.publish().await;
    let refused = |why| lab.metric("haflinger_proxy_connections_refused_total", why);
    let mut silent = RawClient::connect(lab.address).await;
    assert!(silent.is_closed().await);
    until("the first is counted", || refused("tls_timeout") == 1.0).await;

    let mut stream = connect(lab.address, "shop.example", &[&spec], &[b"h2"]).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let mut sent = Vec::new();
    // What it is told before the end, if anything, does not matter.
    let _ = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut sent)).await.unwrap();
    until("the second is counted", || refused("header_timeout") == 1.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_wait_too_long_for_a_request_are_closed() {
    let shop = Backend::start("shop").await;
    let spec = self_signed(&["shop.example"]);
    let mut lab = Lab::start_with(|settings| {
        settings.client_idle_timeout = SOON;
    });
    lab.serve_all(&[shop.address]).await;
    let mut client = RawClient::connect(lab.address).await;
    assert_eq!(client.get("/").await.unwrap().0, 200);
    assert!(client.is_closed().await);

    lab.certificate("shop", spec.clone());
    lab.address = crate::support::free_address();
    lab.listen_tls(vec![rule(None, "/", Some("shop"))], vec![tls_entry("shop", &[])]);
    lab.publish().await;
    let client = https(lab.address, &[&spec]).build().unwrap();
    let url = format!("https://shop.example:{}/", lab.address.port());
    let response = client.get(url).send().await.unwrap();
    assert_eq!(response.version(), reqwest::Version::HTTP_2);
    until("the HTTP/2 connection is closed", || lab.handle.status().connections == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_read_its_response_is_cut_off() {
    let shop = Backend::start("shop").await;
    let mut lab = Lab::start_with(|settings| {
        settings.client_write_timeout = SOON;
    });
    lab.serve_all(&[shop.address]).await;
    let mut client = RawClient::connect(lab.address).await;
    client.send("GET /big/50000000 HTTP/1.1\r\nHost: shop.example\r\n\r\n").await;
    until("the request has reached the backend", || shop.requests() == 1).await;
    until("the connection is cut off", || lab.handle.status().connections == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_stops_in_the_middle_of_its_body_is_told_and_cut_off() {
    let shop = Backend::start("shop").await;
    let mut lab = Lab::start_with(|settings| {
        settings.client_read_timeout = SOON;
    });
    lab.serve_all(&[shop.address]).await;
    let mut client = RawClient::connect(lab.address).await;
    client.send("POST /size HTTP/1.1\r\nHost: shop.example\r\nContent-Length: 9\r\n\r\nabc").await;
    assert_eq!(client.answer().await.unwrap().0, 408);
    assert!(client.is_closed().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_header_without_end_is_cut_off_by_its_size() {
    let shop = Backend::start("shop").await;
    let mut lab = Lab::start_with(|settings| settings.header_bytes_max = 1_024);
    lab.serve_all(&[shop.address]).await;
    let mut client = RawClient::connect(lab.address).await;
    client.send("GET / HTTP/1.1\r\nHost: shop.example\r\n").await;
    for n in 0..200 {
        client.send(&format!("X-{n}: {}\r\n", "x".repeat(1_000))).await;
    }
    assert!(client.is_closed().await);
    let refused = || lab.metric("haflinger_proxy_connections_refused_total", "header_size");
    until("it is counted", || refused() == 1.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_beyond_the_limit_is_closed_at_once() {
    let shop = Backend::start("shop").await;
    let mut lab = Lab::start_with(|settings| settings.connections_max = 1);
    lab.serve_all(&[shop.address]).await;
    let mut first = RawClient::connect(lab.address).await;
    assert_eq!(first.get("/").await.unwrap().0, 200);
    let mut second = RawClient::connect(lab.address).await;
    assert!(second.is_closed().await);
    let refused = || lab.metric("haflinger_proxy_connections_refused_total", "connections_max");
    until("it is counted", || refused() == 1.0).await;
    drop(first);
    until("the first connection is gone", || lab.handle.status().connections == 0).await;
    let mut third = RawClient::connect(lab.address).await;
    assert_eq!(third.get("/").await.unwrap().0, 200);
}
