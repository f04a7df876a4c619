//! Listeners and routes that come and go, and the end.

use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use haflinger_core::{ServiceKey, Update};
use haflinger_proxy::ListenerState;
use tokio::net::TcpStream;

use crate::support::backend::{Backend, field};
use crate::support::client::{RawClient, https};
use crate::support::{Lab, PATIENCE, free_address, rule, self_signed, tls_entry, until};

#[tokio::test(flavor = "multi_thread")]
async fn listeners_come_and_go_without_disturbing_others() {
    let shop = Backend::start("shop").await;
    let mut lab = Lab::start();
    lab.serve_all(&[shop.address]).await;
    let first = lab.address;
    let mut client = RawClient::connect(first).await;
    assert_eq!(client.get("/").await.unwrap().0, 200);

    lab.address = free_address();
    lab.listen(vec![rule(None, "/", Some("shop"))]);
    lab.publish().await;
    let mut other = RawClient::connect(lab.address).await;
    assert_eq!(other.get("/").await.unwrap().0, 200);

    lab.snapshot.http.remove(&lab.address);
    lab.publish().await;
    assert!(other.is_closed().await, "an idle connection of the removed listener ends");
    until_refused(lab.address).await;
    assert_eq!(client.get("/").await.unwrap().0, 200, "the first connection goes on");
    let status = lab.handle.status();
    assert_eq!(status.listeners.len(), 1);
    assert_eq!((status.listeners[0].address, status.listeners[0].connections), (first, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_in_progress_survives_the_removal_of_its_listener() {
    let shop = Backend::start("shop").await;
    let mut lab = Lab::start();
    lab.serve_all(&[shop.address]).await;
    let mut busy = RawClient::connect(lab.address).await;
    busy.send("GET /gate HTTP/1.1\r\nHost: shop.example\r\n\r\n").await;
    until("the request waits at the backend", || shop.requests() == 1).await;
    lab.snapshot.http.remove(&lab.address);
    lab.snapshot.targets.clear();
    lab.publish().await;
    until_refused(lab.address).await;
    shop.open_gate();
    let (status, answer) = busy.answer().await.unwrap();
    assert_eq!((status, field(&answer, "connection")), (200, Some("close")));
    let series = || lab.metric("haflinger_proxy_requests_total", &lab.address.to_string());
    until("the listener's series are gone", || series() == 0.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_listener_can_come_back_at_once() {
    let shop = Backend::start("shop").await;
    let mut lab = Lab::start();
    for _ in 0..5 {
        lab.serve_all(&[shop.address]).await;
        let mut client = RawClient::connect(lab.address).await;
        assert_eq!(client.get("/").await.unwrap().0, 200);
        lab.snapshot.http.remove(&lab.address);
        lab.publish_unbound().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_that_changes_holds_for_the_next_request_on_an_open_connection() {
    let (old, new) = (Backend::start("old").await, Backend::start("new").await);
    let mut lab = Lab::start();
    lab.backends("old", &[old.address]);
    lab.backends("new", &[new.address]);
    lab.listen(vec![rule(None, "/", Some("old"))]);
    lab.publish().await;
    let mut client = RawClient::connect(lab.address).await;
    assert!(client.get("/").await.unwrap().1.ends_with("old"));
    lab.listen(vec![rule(None, "/", Some("new"))]);
    lab.publish().await;
    assert!(client.get("/").await.unwrap().1.ends_with("new"));
    lab.listen(Vec::new());
    lab.publish().await;
    assert_eq!(client.get("/").await.unwrap().0, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_changes_from_plain_to_tls() {
    let shop = Backend::start("shop").await;
    let spec = self_signed(&["shop.example"]);
    let mut lab = Lab::start();
    lab.certificate("shop", spec.clone());
    lab.serve_all(&[shop.address]).await;
    lab.listen_tls(vec![rule(None, "/", Some("shop"))], vec![tls_entry("shop", &[])]);
    lab.publish().await;
    let client = https(lab.address, &[&spec]).build().unwrap();
    let url = format!("https://shop.example:{}/", lab.address.port());
    assert_eq!(client.get(url).send().await.unwrap().status(), 200);
}

async fn socket_report(lab: &mut Lab) -> (ServiceKey, Option<Arc<str>>) {
    match tokio::time::timeout(PATIENCE, lab.updates.recv()).await {
        Ok(Some(Update::Served { listener, fault })) => (listener, fault),
        other => panic!("no report about a socket: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_is_taken_is_shown_and_bound_once_it_is_free() {
    let shop = Backend::start("shop").await;
    let mut lab = Lab::start();
    let squatter = TcpListener::bind(lab.address).unwrap();
    lab.backends("shop", &[shop.address]);
    lab.listen(vec![rule(None, "/", Some("shop"))]);
    lab.publish_unbound().await;
    until("the failure is shown", || {
        let listener = lab.handle.status().listeners.remove(0);
        listener.state == ListenerState::Retrying
            && listener.reason.is_some_and(|reason| reason.contains("in use"))
    })
    .await;
    assert!(lab.metric("haflinger_proxy_bind_failures_total", "") > 0.0);
    assert_eq!(lab.metric("haflinger_proxy_listeners_bound", ""), 0.0);
    let (listener, fault) = socket_report(&mut lab).await;
    assert_eq!(listener.socket_addr(), lab.address);
    assert!(fault.unwrap().contains("in use"));
    drop(squatter);
    assert_eq!(socket_report(&mut lab).await, (listener, None));
    until("the address is bound", || {
        lab.handle.status().listeners[0].state == ListenerState::Bound
    })
    .await;
    let mut client = RawClient::connect(lab.address).await;
    assert_eq!(client.get("/").await.unwrap().0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_graceful_stop_finishes_requests_and_says_that_they_are_the_last() {
    let shop = Backend::start("shop").await;
    let mut lab = Lab::start();
    lab.serve_all(&[shop.address]).await;
    let mut idle = RawClient::connect(lab.address).await;
    assert_eq!(idle.get("/").await.unwrap().0, 200);
    let mut busy = RawClient::connect(lab.address).await;
    busy.send("GET /gate HTTP/1.1\r\nHost: shop.example\r\n\r\n").await;
    until("the request waits at the backend", || shop.requests() == 2).await;

    lab.shutdown.cancel();
    until_refused(lab.address).await;
    assert!(idle.is_closed().await);
    shop.open_gate();
    let (status, answer) = busy.answer().await.unwrap();
    assert_eq!((status, field(&answer, "connection")), (200, Some("close")));
    assert!(busy.is_closed().await);
    lab.stopped().await;
    assert_eq!(lab.handle.status().connections, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_graceful_stop_lets_http_2_requests_finish() {
    let shop = Backend::start("shop").await;
    let spec = self_signed(&["shop.example"]);
    let mut lab = Lab::start();
    lab.backends("shop", &[shop.address]);
    lab.certificate("shop", spec.clone());
    lab.listen_tls(vec![rule(None, "/", Some("shop"))], vec![tls_entry("shop", &[])]);
    lab.publish().await;
    let client = https(lab.address, &[&spec]).build().unwrap();
    let url = format!("https://shop.example:{}/gate", lab.address.port());
    let request = tokio::spawn(client.get(url).send());
    until("the request waits at the backend", || shop.requests() == 1).await;
    lab.shutdown.cancel();
    until_refused(lab.address).await;
    shop.open_gate();
    assert_eq!(request.await.unwrap().unwrap().status(), 200);
    lab.stopped().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_finish_within_the_drain_timeout_is_cut_off() {
    let shop = Backend::start("shop").await;
    let mut lab = Lab::start_with(|settings| settings.drain_timeout = Duration::from_millis(50));
    lab.serve_all(&[shop.address]).await;
    let mut busy = RawClient::connect(lab.address).await;
    busy.send("GET /gate HTTP/1.1\r\nHost: shop.example\r\n\r\n").await;
    until("the request waits at the backend", || shop.requests() == 1).await;
    lab.shutdown.cancel();
    lab.stopped().await;
    assert!(busy.is_closed().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_change_while_serving() {
    let shop = Backend::start("shop").await;
    let mut kept = None;
    let mut lab = Lab::start_with(|settings| kept = Some(settings.clone()));
    lab.serve_all(&[shop.address]).await;
    let mut settings = kept.unwrap();
    settings.header_bytes_max = 1_024;
    settings.workers = std::num::NonZeroUsize::new(3).unwrap();
    lab.handle.reconfigure(settings.clone()).unwrap();
    let mut client = RawClient::connect(lab.address).await;
    let cookie = "c".repeat(2_000);
    client.send(&format!("GET / HTTP/1.1\r\nHost: shop.example\r\nCookie: {cookie}\r\n\r\n")).await;
    assert_eq!(client.answer().await.unwrap().0, 431);
    let status = lab.handle.status();
    assert_eq!((status.workers, status.restart_needed), (2, true));
    let shown = serde_json::to_value(status).unwrap();
    assert_eq!(shown["listeners"][0]["state"], "bound");
    assert_eq!(shown["listeners"][0]["address"], lab.address.to_string());
    settings.attempts_max = 0;
    assert_eq!(lab.handle.reconfigure(settings).unwrap_err().field, "attempts_max");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ipv6_address_is_served() {
    let shop = Backend::start("shop").await;
    let mut lab = Lab::start();
    lab.address = TcpListener::bind("[::1]:0").unwrap().local_addr().unwrap();
    lab.serve_all(&[shop.address]).await;
    let mut client = RawClient::connect(lab.address).await;
    let (_, answer) = client.get("/echo").await.unwrap();
    let seen = answer.split_once("\r\n\r\n").unwrap().1;
    assert_eq!(field(seen, "x-forwarded-for"), Some("::1"));
}

async fn until_refused(address: std::net::SocketAddr) {
    let waiting = async {
        while TcpStream::connect(address).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let waited = tokio::time::timeout(crate::support::PATIENCE, waiting).await;
    waited.expect("the listener still accepts");
}
