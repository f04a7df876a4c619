//! What requests and responses look like on both sides.

use bytes::Bytes;

use crate::support::backend::{Backend, field};
use crate::support::client::{RawClient, https};
use crate::support::{Lab, rule, self_signed, tls_entry};

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_learns_about_the_client_and_not_what_a_stranger_claims() {
    let shop = Backend::start("shop").await;
    let mut lab = Lab::start();
    lab.serve_all(&[shop.address]).await;
    let mut client = RawClient::connect(lab.address).await;
    client
        .send(
            "GET /echo HTTP/1.1\r\nHost: Shop.Example:1234\r\nX-Forwarded-For: 10.0.0.1\r\n\
             X_Forwarded_For: 10.0.0.1\r\nForwarded: for=10.0.0.1\r\nX-Kept: yes\r\n\
             Connection: keep-alive, X-Hop\r\nX-Hop: 1\r\nKeep-Alive: 5\r\nTE: trailers\r\n\r\n",
        )
        .await;
    let (_, answer) = client.answer().await.unwrap();
    let seen = answer.split_once("\r\n\r\n").unwrap().1;
    assert_eq!(field(seen, "x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(field(seen, "x-forwarded-proto"), Some("http"));
    assert_eq!(field(seen, "x-forwarded-host"), Some("Shop.Example:1234"));
    assert_eq!(field(seen, "x-forwarded-port"), Some("18080"));
    assert_eq!(field(seen, "host"), Some("Shop.Example:1234"));
    assert_eq!(field(seen, "x-kept"), Some("yes"));
    for gone in ["forwarded", "x_forwarded_for", "x-hop", "keep-alive", "te"] {
        assert_eq!(field(seen, gone), None, "{gone} in {seen}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn http_2_reaches_the_backend_as_http_1_with_its_host_and_scheme() {
    let shop = Backend::start("shop").await;
    let spec = self_signed(&["shop.example"]);
    let mut lab = Lab::start();
    lab.backends("shop", &[shop.address]);
    lab.certificate("shop", spec.clone());
    lab.listen_tls(
        vec![rule(Some("shop.example"), "/", Some("shop"))],
        vec![tls_entry("shop", &["shop.example"])],
    );
    lab.publish().await;
    let url = format!("https://shop.example:{}/echo", lab.address.port());
    let client = https(lab.address, &[&spec]).build().unwrap();
    let request = client.get(&url).header("x-real-ip", "10.0.0.1");
    let response = request.header("cookie", "a=1").header("cookie", "b=2").send().await.unwrap();
    assert_eq!(response.version(), reqwest::Version::HTTP_2);
    let seen = response.text().await.unwrap();
    assert!(seen.starts_with("GET /echo HTTP/1.1\r\n"), "{seen}");
    assert_eq!(field(&seen, "host"), Some("shop.example:18080"));
    assert_eq!(field(&seen, "x-forwarded-proto"), Some("https"));
    assert_eq!(field(&seen, "x-forwarded-host"), Some("shop.example:18080"));
    assert_eq!(field(&seen, "x-real-ip"), None);
    assert_eq!(field(&seen, "cookie"), Some("a=1; b=2"));

    let client = https(lab.address, &[&spec]).http1_only().build().unwrap();
    let response = client.get(&url).send().await.unwrap();
    assert_eq!(response.version(), reqwest::Version::HTTP_11);
    assert_eq!(response.status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_requests_run_at_once_on_one_http_2_connection() {
    let shop = Backend::start("shop").await;
    let spec = self_signed(&["shop.example"]);
    let mut lab = Lab::start();
    lab.backends("shop", &[shop.address]);
    lab.certificate("shop", spec.clone());
    lab.listen_tls(vec![rule(None, "/", Some("shop"))], vec![tls_entry("shop", &[])]);
    lab.publish().await;
    let url = format!("https://shop.example:{}/", lab.address.port());
    let client = https(lab.address, &[&spec]).build().unwrap();
    // The first one alone, so that the client knows that it has a connection to share.
    assert_eq!(client.get(&url).send().await.unwrap().status(), 200);
    let gate = format!("{url}gate");
    let requests: Vec<_> = (0..20).map(|_| tokio::spawn(client.get(&gate).send())).collect();
    crate::support::until("all requests wait at the backend", || shop.requests() == 21).await;
    shop.open_gate();
    for request in requests {
        assert_eq!(request.await.unwrap().unwrap().status(), 200);
    }
    assert_eq!(lab.metric("haflinger_proxy_connections_total", ""), 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn large_bodies_stream_both_ways_over_both_versions() {
    const BYTES: usize = 8 * 1024 * 1024;
    let shop = Backend::start("shop").await;
    let spec = self_signed(&["shop.example"]);
    let mut lab = Lab::start();
    lab.backends("shop", &[shop.address]);
    lab.certificate("shop", spec.clone());
    lab.listen_tls(vec![rule(None, "/", Some("shop"))], vec![tls_entry("shop", &[])]);
    lab.publish().await;
    let url = |path: &str| format!("https://shop.example:{}{path}", lab.address.port());
    for http2 in [false, true] {
        let builder = https(lab.address, &[&spec]);
        let builder = if http2 { builder } else { builder.http1_only() };
        let client = builder.build().unwrap();
        let response = client.get(url(&format!("/big/{BYTES}"))).send().await.unwrap();
        assert_eq!(response.bytes().await.unwrap().len(), BYTES);
        let body = Bytes::from(vec![b'u'; BYTES]);
        let response = client.post(url("/size")).body(body).send().await.unwrap();
        assert_eq!(response.text().await.unwrap(), BYTES.to_string(), "http2: {http2}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chunked_request_arrives_whole_and_the_connection_goes_on() {
    let shop = Backend::start("shop").await;
    let mut lab = Lab::start();
    lab.serve_all(&[shop.address]).await;
    let mut client = RawClient::connect(lab.address).await;
    for _ in 0..2 {
        client
            .send(
                "POST /size HTTP/1.1\r\nHost: shop.example\r\nTransfer-Encoding: chunked\r\n\r\n\
                 5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n",
            )
            .await;
        let (status, answer) = client.answer().await.unwrap();
        assert_eq!(status, 200);
        assert!(answer.ends_with("\r\n\r\n11"), "{answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_arrive_before_the_answer_are_answered_in_order() {
    let shop = Backend::start("shop").await;
    let mut lab = Lab::start();
    lab.serve_all(&[shop.address]).await;
    let mut client = RawClient::connect(lab.address).await;
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: shop.example\r\n\r\n");
    client.send(&(get("/big/1") + &get("/big/2") + &get("/big/3"))).await;
    for size in 1..=3 {
        let (status, answer) = client.answer().await.unwrap();
        assert_eq!(status, 200);
        assert!(answer.ends_with(&format!("\r\n\r\n{}", "x".repeat(size))), "{answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn http_1_0_is_answered_without_a_host_and_closed() {
    let shop = Backend::start("shop").await;
    let mut lab = Lab::start();
    lab.serve_all(&[shop.address]).await;
    let mut client = RawClient::connect(lab.address).await;
    client.send("GET /echo HTTP/1.0\r\n\r\n").await;
    let (status, answer) = client.answer().await.unwrap();
    assert_eq!(status, 200);
    let seen = answer.split_once("\r\n\r\n").unwrap().1;
    assert_eq!(field(seen, "x-forwarded-host"), None);
    assert!(client.is_closed().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_passes_in_both_directions() {
    let shop = Backend::start("shop").await;
    let mut lab = Lab::start();
    lab.serve_all(&[shop.address]).await;
    let mut client = RawClient::connect(lab.address).await;
    client
        .send(
            "GET /chat HTTP/1.1\r\nHost: shop.example\r\nConnection: Upgrade\r\n\
             Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        )
        .await;
    assert_eq!(client.answer().await.unwrap().0, 101);
    for word in ["hello", "world"] {
        client.send(word).await;
        assert_eq!(client.bytes(5).await, word.as_bytes());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn head_has_the_length_and_no_body_also_for_answers_of_the_proxy() {
    let shop = Backend::start("shop").await;
    let mut lab = Lab::start();
    lab.backends("shop", &[shop.address]);
    lab.listen(vec![rule(Some("shop.example"), "/", Some("shop"))]);
    lab.publish().await;
    let mut client = RawClient::connect(lab.address).await;
    for (host, status, length) in [("shop.example", 200, "7"), ("x.example", 404, "14")] {
        client.send(&format!("HEAD /big/7 HTTP/1.1\r\nHost: {host}\r\n\r\n")).await;
        let (got, header) = client.header().await.unwrap();
        assert_eq!((got, field(&header, "content-length")), (status, Some(length)));
    }
    // Had a body come, this answer would not be found behind it.
    assert_eq!(client.get("/big/1").await.unwrap().0, 200);
}
