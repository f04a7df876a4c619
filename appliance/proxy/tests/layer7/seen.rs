//! What can be seen of requests: the access log, request ids and trace contexts.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use haflinger_core::flow::FlowHashKey;
use haflinger_proxy::{AccessDestination, AccessFormat, AccessLogSettings, Settings, TraceContext};

use crate::support::backend::{Backend, dead_address, field};
use crate::support::client::RawClient;
use crate::support::{Lab, PATIENCE, rule, self_signed, tls_entry, until};

/// A log in this file.
fn log(path: &Path, format: &str) -> AccessLogSettings {
    AccessLogSettings {
        to: AccessDestination::File(path.to_owned()),
        format: AccessFormat::parse(format).unwrap(),
        queries: false,
    }
}

fn lines(path: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    assert!(text.is_empty() || text.ends_with('\n'), "no line is torn: {text:?}");
    text.lines().map(ToOwned::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_request_is_a_line_that_says_who_asked_what_of_whom() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    let shop = Backend::start("shop").await;
    let mut lab = Lab::start_with(|settings| settings.access_log = Some(log(&path, "json")));
    lab.backends("shop", &[shop.address]);
    lab.backends("dead", &[dead_address().await]);
    lab.listen(vec![
        rule(Some("shop.example"), "/shop", Some("shop")),
        rule(Some("shop.example"), "/dead", Some("dead")),
    ]);
    lab.publish().await;
    let mut client = RawClient::connect(lab.address).await;
    let secrets = [("Authorization", "Basic c2VjcmV0"), ("Cookie", "session=secret")];
    let agent = ("User-Agent", "odd\" \\ agent");
    client.ask("GET", "/shop?token=secret", "shop.example", &[secrets[0], secrets[1], agent]).await;
    client.get("/nothing").await.unwrap();
    client.ask("GET", "/shop", "other.example:80", &[]).await.unwrap();
    // On one connection, whose requests one worker answers, so that lines come in this order.
    client.get("/dead").await.unwrap();
    until("the lines are written", || lines(&path).len() == 4).await;

    let text = std::fs::read_to_string(&path).unwrap();
    assert!(!text.contains("secret") && !text.contains("c2VjcmV0"), "{text}");
    let said: Vec<serde_json::Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let first = &said[0];
    for (name, value) in [
        ("client", "127.0.0.1"),
        ("listener", &lab.address.to_string()),
        ("method", "GET"),
        ("host", "shop.example"),
        ("path", "/shop"),
        ("protocol", "HTTP/1.1"),
        ("end", "answered"),
        ("kind", "ingress"),
        ("namespace", "default"),
        ("route", "site"),
        ("service", "shop"),
        ("pod", &shop.address.to_string()),
        ("upstream", &shop.address.to_string()),
        ("user_agent", "odd\" \\ agent"),
    ] {
        assert_eq!(first[name], value, "{name}: {first}");
    }
    assert_eq!((&first["status"], &first["attempts"]), (&200.into(), &1.into()));
    assert_eq!(first["bytes_out"], "shop".len());
    assert!(first["first_byte_ms"].as_f64().unwrap() <= first["duration_ms"].as_f64().unwrap());
    assert_eq!(first["request_id"].as_str().unwrap().len(), 32);
    let ends: Vec<_> = said.iter().map(|line| (&line["status"], &line["end"])).collect();
    let own = "own".into();
    assert_eq!(ends[1..], [(&404.into(), &own), (&404.into(), &own), (&502.into(), &own)]);
    assert_eq!(said[3]["service"], "dead");
    assert_eq!(said[1].get("service"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn behind_tls_the_line_says_how_the_client_was_greeted() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    let shop = Backend::start("shop").await;
    let mut lab = Lab::start_with(|settings| {
        let format = "{tls_version} {tls_cipher} {server_name} {protocol} {host}";
        settings.access_log = Some(log(&path, format));
    });
    lab.certificate("shop", self_signed(&["shop.example"]));
    lab.backends("shop", &[shop.address]);
    let entries = vec![tls_entry("shop", &["shop.example"])];
    lab.listen_tls(vec![rule(None, "/", Some("shop"))], entries);
    lab.publish().await;
    let client = reqwest::Client::builder()
        .no_proxy()
        .timeout(PATIENCE)
        .danger_accept_invalid_certs(true)
        .resolve("shop.example", lab.address)
        .build()
        .unwrap();
    let url = format!("https://shop.example:{}/", lab.address.port());
    assert_eq!(client.get(&url).send().await.unwrap().status(), 200);
    until("the line is written", || lines(&path).len() == 1).await;
    let line = lines(&path).remove(0);
    let parts: Vec<&str> = line.split(' ').collect();
    assert_eq!((parts[0], parts[2], parts[3]), ("TLSv1_3", "shop.example", "HTTP/2"), "{line}");
    assert!(parts[1].starts_with("TLS13_"), "{line}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_rotated_under_load_loses_no_line() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    let shop = Backend::start("shop").await;
    let mut lab = Lab::start_with(|settings| settings.access_log = Some(log(&path, "{path}")));
    lab.serve_all(&[shop.address]).await;
    let (address, stop, sent) = (lab.address, AtomicBool::new(false), AtomicUsize::new(0));
    let client = async || {
        let mut client = RawClient::connect(address).await;
        while !stop.load(Ordering::Relaxed) {
            let number = sent.fetch_add(1, Ordering::Relaxed);
            assert_eq!(client.get(&format!("/{number}")).await.unwrap().0, 200);
        }
    };
    let rotate = async {
        for round in 0..10 {
            until("something is written", || !lines_so_far(&path).is_empty()).await;
            std::fs::rename(&path, folder.path().join(format!("log.{round}"))).unwrap();
            lab.handle.reopen_access_log();
        }
        stop.store(true, Ordering::Relaxed);
    };
    tokio::join!(client(), client(), client(), rotate);
    lab.shutdown.cancel();
    lab.stopped().await;
    let mut found: Vec<usize> = std::fs::read_dir(folder.path())
        .unwrap()
        .flat_map(|entry| lines(&entry.unwrap().path()))
        .map(|line| line[1..].parse().unwrap())
        .collect();
    found.sort_unstable();
    let lost = lab.metric("haflinger_proxy_access_log_dropped_total", "");
    assert_eq!(lost, 0.0);
    assert_eq!(found, (0..sent.into_inner()).collect::<Vec<_>>());
}

/// What a file holds, though its last line may not be whole yet.
fn lines_so_far(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_do_not_wait_for_a_log_that_cannot_be_written_and_what_is_lost_is_counted() {
    let shop = Backend::start("shop").await;
    let mut lab =
        Lab::start_with(|settings| settings.access_log = Some(log("/dev/full".as_ref(), "json")));
    lab.serve_all(&[shop.address]).await;
    let mut client = RawClient::connect(lab.address).await;
    for _ in 0..50 {
        assert_eq!(client.get("/").await.unwrap().0, 200);
    }
    until("every line is counted as lost", || {
        lab.metric("haflinger_proxy_access_log_dropped_total", "write_failed") == 50.0
    })
    .await;
    let status = lab.handle.status().access_log;
    assert_eq!((status.written, status.dropped), (0, 50));
    assert!(status.fault.unwrap().contains("No space left"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_is_switched_on_and_off_while_requests_come() {
    let folder = tempfile::tempdir().unwrap();
    let (one, two) = (folder.path().join("one"), folder.path().join("two"));
    let shop = Backend::start("shop").await;
    let mut lab = Lab::start();
    lab.serve_all(&[shop.address]).await;
    let mut client = RawClient::connect(lab.address).await;
    for (number, to) in [None, Some(&one), Some(&two), None].into_iter().enumerate() {
        let mut settings = Settings::new(FlowHashKey(*b"0123456789abcdef"));
        settings.workers = std::num::NonZeroUsize::new(2).unwrap();
        settings.access_log = to.map(|path| log(path, "{path}"));
        lab.handle.reconfigure(settings).unwrap();
        assert_eq!(lab.handle.status().access_log.to, to.map(|path| path.display().to_string()));
        assert_eq!(client.get(&format!("/{number}")).await.unwrap().0, 200);
        // The client has the answer before the request has ended.
        let ended = || lab.metric("haflinger_proxy_requests_total", "2xx");
        until("the request has ended", || ended() == number as f64 + 1.0).await;
        if let Some(path) = to {
            until("the line is written", || lines(path) == [format!("/{number}")]).await;
        }
    }
    assert_eq!((lines(&one), lines(&two)), (vec!["/1".to_owned()], vec!["/2".to_owned()]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_is_told_an_id_that_strangers_cannot_choose() {
    const ID: &str = "x-request-id";
    let shop = Backend::start("shop").await;
    for (trusted, kept) in [("192.0.2.0/24", false), ("127.0.0.0/8", true)] {
        let mut lab = Lab::start_with(|settings| {
            settings.trusted_proxies = vec![trusted.parse().unwrap()];
        });
        lab.serve_all(&[shop.address]).await;
        let mut client = RawClient::connect(lab.address).await;
        let sent = [("X-Request-ID", "order-7")];
        let (_, seen) = client.ask("GET", "/echo", "shop.example", &sent).await.unwrap();
        let id = field(&seen, ID).unwrap();
        assert_eq!(id == "order-7", kept, "{id}");
        let (_, seen) = client.ask("GET", "/echo", "shop.example", &[]).await.unwrap();
        let made = field(&seen, ID).unwrap();
        assert!(made.len() == 32 && made != id, "{made}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trace_goes_on_at_the_backend() {
    let sent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let shop = Backend::start("shop").await;
    let mut lab = Lab::start_with(|settings| settings.trace_context = TraceContext::Make);
    lab.serve_all(&[shop.address]).await;
    let mut client = RawClient::connect(lab.address).await;
    let fields = [("traceparent", sent), ("tracestate", "a=1")];
    let (_, seen) = client.ask("GET", "/echo", "shop.example", &fields).await.unwrap();
    let told = field(&seen, "traceparent").unwrap();
    assert_eq!((&told[..36], &told[52..]), (&sent[..36], &sent[52..]));
    assert_ne!(told, sent);
    assert_eq!(field(&seen, "tracestate"), Some("a=1"));
    let (_, seen) = client.ask("GET", "/echo", "shop.example", &fields[1..]).await.unwrap();
    assert_eq!(field(&seen, "traceparent").unwrap().len(), 55);
    assert_eq!(field(&seen, "tracestate"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn routes_and_pods_are_counted_by_name_until_they_are_gone() {
    let (one, two) = (Backend::start("one").await, Backend::start("two").await);
    let mut lab = Lab::start();
    lab.serve_all(&[one.address, two.address]).await;
    let mut client = RawClient::connect(lab.address).await;
    for _ in 0..20 {
        assert_eq!(client.get("/").await.unwrap().0, 200);
    }
    let route = |lab: &Lab| lab.metric("haflinger_proxy_route_requests_total", "site");
    let pod = |lab: &Lab, backend: &Backend| {
        lab.metric("haflinger_proxy_pod_requests_total", &backend.address.to_string())
    };
    until("every request is counted", || route(&lab) == 20.0).await;
    let counts = [pod(&lab, &one), pod(&lab, &two)];
    assert_eq!(counts, [one.requests() as f64, two.requests() as f64]);
    lab.backends("shop", &[two.address]);
    lab.publish().await;
    until("the series go with their pods", || pod(&lab, &one) == 0.0).await;
    assert_eq!(pod(&lab, &two), counts[1]);
    lab.listen(Vec::new());
    lab.publish().await;
    until("the series go with the route", || route(&lab) == 0.0).await;
    assert_eq!(lab.metric("haflinger_proxy_route_duration_seconds", "site"), 0.0);
}
