//! The prober on real loopback sockets. Nothing is timed: a condition is awaited with a
//! generous bound.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use haflinger_core::health::Health;
use haflinger_core::{
    HealthCheck, HealthCheckKind, ObjectRef, ProbeKey, ProxyProtocol, Snapshot, SourceId, Update,
};
use prometheus::Registry;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::{Prober, ProberHandle, Settings};

const GENEROUS: Duration = Duration::from_secs(30);

struct Running {
    handle: ProberHandle,
    registry: Registry,
    snapshots: watch::Sender<Arc<Snapshot>>,
    updates: mpsc::Receiver<Update>,
    shutdown: CancellationToken,
    task: JoinHandle<()>,
}

impl Running {
    fn start(probes_in_flight_max: u32) -> Self {
        let registry = Registry::new();
        let prober = Prober::new(Settings { probes_in_flight_max }, &registry).unwrap();
        let handle = prober.handle();
        let (snapshots, receiver) = watch::channel(Arc::new(Snapshot::default()));
        // One place: the prober must cope with a receiver that does not keep up.
        let (sender, updates) = mpsc::channel(1);
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(prober.run(receiver, sender, shutdown.clone()));
        Self { handle, registry, snapshots, updates, shutdown, task }
    }

    fn publish(&self, probes: impl IntoIterator<Item = (ProbeKey, HealthCheck)>) {
        let probes = probes.into_iter().map(|(key, check)| (key, Arc::new(check))).collect();
        self.snapshots.send_replace(Arc::new(Snapshot { probes, ..Snapshot::default() }));
    }

    /// The next update that says something else about the backend than `but`.
    async fn update(&mut self, backend: SocketAddr, but: Option<Option<bool>>) -> Option<bool> {
        let next = async {
            loop {
                match self.updates.recv().await {
                    Some(Update::Health { probe, healthy })
                        if probe.backend == backend && Some(healthy) != but =>
                    {
                        return healthy;
                    }
                    Some(_) => {}
                    None => panic!("the prober is gone"),
                }
            }
        };
        timeout(GENEROUS, next).await.expect("no update came")
    }

    fn failure(&self, backend: SocketAddr) -> Option<String> {
        let status = self.handle.status();
        status.probes.into_iter().find(|one| one.backend == backend)?.last_failure
    }

    fn metric(&self, name: &str, label: &str) -> f64 {
        let families = self.registry.gather();
        let family = families.iter().find(|family| family.name() == name);
        let metrics = family.map(|family| family.get_metric()).unwrap_or_default();
        let matching = metrics.iter().filter(|metric| {
            label.is_empty() || metric.get_label().iter().any(|pair| pair.value() == label)
        });
        matching.map(|one| one.get_counter().get_value() + one.get_gauge().get_value()).sum()
    }

    async fn stop(self) {
        self.shutdown.cancel();
        timeout(GENEROUS, self.task).await.unwrap().unwrap();
    }
}

async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let wait = async {
        while !condition() {
            sleep(Duration::from_millis(2)).await;
        }
    };
    assert!(timeout(GENEROUS, wait).await.is_ok(), "never: {what}");
}

fn key(backend: SocketAddr) -> ProbeKey {
    let object = ObjectRef::service(&SourceId::inventory(), "default", "web");
    ProbeKey { object, backend }
}

fn tcp() -> HealthCheck {
    HealthCheck {
        kind: HealthCheckKind::Tcp,
        port: None,
        proxy_protocol: ProxyProtocol::Off,
        interval_ms: 20,
        timeout_ms: 20_000,
        rise: 2,
        fall: 3,
        ways: vec![],
    }
}

fn http() -> HealthCheck {
    let kind = HealthCheckKind::Http { path: "/healthz".into(), host: Some("web".into()) };
    HealthCheck { kind, ..tcp() }
}

/// A backend that answers each connection as `answer` says for the request.
async fn backend(
    address: &str,
    answer: impl Fn(&str) -> String + Send + Sync + 'static,
) -> (SocketAddr, JoinHandle<()>) {
    let listener = TcpListener::bind(address).await.unwrap();
    let local = listener.local_addr().unwrap();
    let answer = Arc::new(answer);
    let task = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(converse(stream, Arc::clone(&answer)));
        }
    });
    (local, task)
}

async fn converse(mut stream: TcpStream, answer: Arc<impl Fn(&str) -> String>) {
    let mut request = Vec::new();
    let mut chunk = [0; 256];
    while !request.ends_with(b"\r\n\r\n") {
        match stream.read(&mut chunk).await {
            Ok(length) if length > 0 => request.extend(&chunk[..length]),
            _ => return,
        }
    }
    let text = answer(&String::from_utf8_lossy(&request));
    let _ = stream.write_all(text.as_bytes()).await;
    // Kept open: the prober must not wait for the end.
    let _ = stream.read(&mut chunk).await;
}

#[tokio::test]
async fn a_backend_rises_and_falls_with_its_listener() {
    let mut prober = Running::start(8);
    let (address, listener) = backend("127.0.0.1:0", |_| String::new()).await;
    prober.publish([(key(address), tcp())]);
    assert_eq!(prober.update(address, None).await, Some(true));
    listener.abort();
    assert_eq!(prober.update(address, Some(Some(true))).await, Some(false));
    assert!(prober.failure(address).unwrap().contains("refused"));
    let (_, _again) = backend(&address.to_string(), |_| String::new()).await;
    assert_eq!(prober.update(address, Some(Some(false))).await, Some(true));
    assert_eq!(prober.metric("haflinger_health_transitions_total", "healthy"), 2.0);
    assert_eq!(prober.metric("haflinger_health_probes", "healthy"), 1.0);
    prober.stop().await;
}

#[tokio::test]
async fn http_checks_ask_the_path_and_judge_the_status() {
    let mut prober = Running::start(8);
    let (address, _task) = backend("127.0.0.1:0", |request| {
        let proper = request.starts_with("GET /healthz HTTP/1.1\r\nHost: web\r\n");
        if proper { "HTTP/1.1 204 No Content\r\n\r\n" } else { "HTTP/1.1 400 Bad\r\n\r\n" }.into()
    })
    .await;
    let elsewhere =
        HealthCheck { kind: HealthCheckKind::Http { path: "/other".into(), host: None }, ..tcp() };
    prober.publish([(key(address), http())]);
    assert_eq!(prober.update(address, None).await, Some(true));
    prober.publish([(key(address), elsewhere)]);
    assert_eq!(prober.update(address, Some(Some(true))).await, Some(false));
    assert_eq!(prober.failure(address).as_deref(), Some("status 400"));
    assert!(prober.metric("haflinger_health_results_total", "failure") >= 3.0);
    prober.stop().await;
}

#[tokio::test]
async fn answers_that_are_no_http_fail_and_say_why() {
    let mut prober = Running::start(8);
    let cases = [
        ("SSH-2.0-OpenSSH_9.2\r\n", "answer is not HTTP/1"),
        ("HTTP/1.1 99", "no answer within 200 ms"),
        ("HTTP/1.1 302 Found\nLocation: /\n\n", ""),
    ];
    for (answer, reason) in cases {
        let (address, _task) = backend("127.0.0.1:0", move |_| answer.into()).await;
        prober.publish([(key(address), HealthCheck { timeout_ms: 200, ..http() })]);
        let healthy = prober.update(address, None).await;
        assert_eq!(healthy, Some(reason.is_empty()), "{answer:?}");
        if !reason.is_empty() {
            assert_eq!(prober.failure(address).as_deref(), Some(reason));
        }
    }
    let (endless, _task) = backend("127.0.0.1:0", |_| "x".repeat(100_000)).await;
    prober.publish([(key(endless), http())]);
    assert_eq!(prober.update(endless, None).await, Some(false));
    assert_eq!(prober.failure(endless).as_deref(), Some("answer is not HTTP/1"));
    prober.stop().await;
}

#[tokio::test]
async fn a_check_can_have_a_port_of_its_own_and_ipv6_works() {
    let mut prober = Running::start(8);
    let (listening, _task) = backend("[::1]:0", |_| String::new()).await;
    let nobody: SocketAddr = "[::1]:1".parse().unwrap();
    let check = HealthCheck { port: Some(listening.port()), ..tcp() };
    prober.publish([(key(nobody), check)]);
    assert_eq!(prober.update(nobody, None).await, Some(true));
    prober.stop().await;
}

#[tokio::test]
async fn a_backend_that_expects_a_proxy_header_gets_one_without_a_client() {
    let mut prober = Running::start(8);
    let cases = [
        (ProxyProtocol::V1, "PROXY UNKNOWN\r\nGET "),
        (ProxyProtocol::V2, "\r\n\r\n\0\r\nQUIT\n \0\0\0GET "),
    ];
    for (proxy_protocol, beginning) in cases {
        let strict = move |request: &str| match request.starts_with(beginning) {
            true => "HTTP/1.1 200 OK\r\n\r\n".into(),
            false => "HTTP/1.1 400 Bad Request\r\n\r\n".into(),
        };
        let (address, _task) = backend("127.0.0.1:0", strict).await;
        prober.publish([(key(address), HealthCheck { proxy_protocol, ..http() })]);
        assert_eq!(prober.update(address, None).await, Some(true), "{proxy_protocol:?}");
    }
    prober.stop().await;
}

#[tokio::test]
async fn the_end_of_a_probe_is_told() {
    let mut prober = Running::start(8);
    let (address, _task) = backend("127.0.0.1:0", |_| String::new()).await;
    prober.publish([(key(address), tcp())]);
    assert_eq!(prober.update(address, None).await, Some(true));
    prober.publish([]);
    assert_eq!(prober.update(address, Some(Some(true))).await, None);
    assert!(prober.handle.status().probes.is_empty());
    assert_eq!(prober.metric("haflinger_health_probes", ""), 0.0);
    prober.stop().await;
}

#[tokio::test]
async fn bad_news_is_repeated() {
    let mut prober = Running::start(8);
    let nobody: SocketAddr = "127.0.0.1:1".parse().unwrap();
    prober.publish([(key(nobody), tcp())]);
    for _ in 0..3 {
        assert_eq!(prober.update(nobody, None).await, Some(false));
    }
    assert_eq!(prober.metric("haflinger_health_transitions_total", "unhealthy"), 1.0);
    prober.stop().await;
}

#[tokio::test]
async fn no_more_probes_are_in_flight_than_permitted_and_all_get_their_turn() {
    let open = Arc::new(AtomicUsize::new(0));
    let most = Arc::new(AtomicUsize::new(0));
    let mut prober = Running::start(2);
    let mut probes = Vec::new();
    for _ in 0..6 {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        probes.push((key(listener.local_addr().unwrap()), http()));
        let (open, most) = (Arc::clone(&open), Arc::clone(&most));
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let now = open.fetch_add(1, Ordering::SeqCst) + 1;
                most.fetch_max(now, Ordering::SeqCst);
                let mut request = [0; 512];
                let _ = stream.read(&mut request).await;
                sleep(Duration::from_millis(5)).await;
                open.fetch_sub(1, Ordering::SeqCst);
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await;
            }
        });
    }
    prober.publish(probes.clone());
    let mut healthy = 0;
    while healthy < probes.len() {
        match timeout(GENEROUS, prober.updates.recv()).await.unwrap().unwrap() {
            Update::Health { healthy: Some(true), .. } => healthy += 1,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(most.load(Ordering::SeqCst), 2);
    prober.stop().await;
}

#[tokio::test]
async fn a_receiver_that_takes_nothing_does_not_stop_the_probes() {
    let mut prober = Running::start(8);
    let mut probes = Vec::new();
    for _ in 0..5 {
        let (address, task) = backend("127.0.0.1:0", |_| String::new()).await;
        probes.push((address, task));
    }
    prober.publish(probes.iter().map(|(address, _)| (key(*address), tcp())));
    let all = |health| {
        let handle = prober.handle.clone();
        move || handle.status().probes.iter().filter(|one| one.health == health).count() == 5
    };
    eventually("all are healthy", all(Health::Healthy)).await;
    for (_, task) in &probes {
        task.abort();
    }
    eventually("all are unhealthy", all(Health::Unhealthy)).await;
    // The last word is what is sent, but for the one update that the channel held already.
    let (last, _) = probes[4];
    assert_eq!(prober.update(last, Some(Some(true))).await, Some(false));
    prober.stop().await;
}

#[tokio::test]
async fn settings_are_checked_and_applied() {
    assert!(Prober::new(Settings { probes_in_flight_max: 0 }, &Registry::new()).is_err());
    let mut prober = Running::start(1);
    assert!(prober.handle.reconfigure(Settings { probes_in_flight_max: 0 }).is_err());
    prober.handle.reconfigure(Settings { probes_in_flight_max: 4 }).unwrap();
    let (address, _task) = backend("127.0.0.1:0", |_| String::new()).await;
    prober.publish([(key(address), tcp())]);
    assert_eq!(prober.update(address, None).await, Some(true));
    let status = serde_json::to_value(prober.handle.status()).unwrap();
    assert_eq!(status["probes"][0]["health"], "healthy");
    assert_eq!(status["probes"][0]["object"], "inventory/service/default/web");
    prober.stop().await;
}
