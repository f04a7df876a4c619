//! Connections that are passed on as they are, or decrypted, without a look inside.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use haflinger_core::{CertificateSpec, HostMatch, Section, SectionTls, Serves, StreamRule};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::support::backend::{Backend, dead_address};
use crate::support::client::{RawTls, credulous, greet, leaf, shown};
use crate::support::{Lab, origin, rule, section, self_signed, stream_rule, tls_entry, until};

/// Answers each piece with `name: ` before it, and the end with `name: end`.
async fn talk(name: String, stream: impl AsyncRead + AsyncWrite) {
    let (mut reading, mut writing) = tokio::io::split(stream);
    let mut piece = [0; 1024];
    while let Ok(count @ 1..) = reading.read(&mut piece).await {
        let said = String::from_utf8_lossy(&piece[..count]);
        if writing.write_all(format!("{name}: {said}").as_bytes()).await.is_err() {
            return;
        }
    }
    let _ = writing.write_all(format!("{name}: end").as_bytes()).await;
    let _ = writing.shutdown().await;
}

/// A server that talks; with a certificate, by TLS, and tells which name it was asked for.
async fn server(name: &'static str, tls: Option<&CertificateSpec>) -> SocketAddr {
    let acceptor = tls.map(|spec| {
        let chain = CertificateDer::pem_slice_iter(&spec.chain_pem).map(Result::unwrap).collect();
        let key = PrivateKeyDer::from_pem_slice(&spec.key_pem).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap();
        TlsAcceptor::from(Arc::new(config))
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Some(acceptor) = acceptor else { return talk(name.to_owned(), stream).await };
                if let Ok(stream) = acceptor.accept(stream).await {
                    let asked = stream.get_ref().1.server_name().unwrap_or("nobody").to_owned();
                    talk(format!("{name} as {asked}"), stream).await;
                }
            });
        }
    });
    address
}

fn streams(host: HostMatch, certificate: Option<&str>, rules: Vec<StreamRule>) -> Section {
    let certificates = certificate.map(|name| vec![tls_entry(name, &[])]);
    let tls = certificates.map(|certificates| SectionTls { certificates, client: None });
    Section { origin: Some(origin()), host, tls, serves: Serves::Streams(rules) }
}

fn exact(name: &str) -> HostMatch {
    HostMatch::Exact(name.into())
}

async fn exchange(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), word: &str) -> String {
    stream.write_all(word.as_bytes()).await.unwrap();
    stream.flush().await.unwrap();
    let mut piece = [0; 1024];
    let count = stream.read(&mut piece).await.unwrap();
    String::from_utf8_lossy(&piece[..count]).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn passthrough_termination_and_http_share_a_port_by_server_name() {
    let theirs = self_signed(&["pass.example"]);
    let inner = server("inner", Some(&theirs)).await;
    let plain = server("plain", None).await;
    let shop = Backend::start("shop").await;
    let mut lab = Lab::start();
    let ours = self_signed(&["term.example"]);
    lab.certificate("term", ours.clone());
    lab.certificate("shop", self_signed(&["shop.example"]));
    lab.backends("inner", &[inner]);
    lab.backends("plain", &[plain]);
    lab.backends("shop", &[shop.address]);
    let to = |host: &str, target| vec![stream_rule(exact(host), &[(1, Some(target))])];
    lab.listen_sections(vec![
        streams(exact("pass.example"), None, to("pass.example", "inner")),
        streams(exact("term.example"), Some("term"), to("term.example", "plain")),
        section(
            exact("shop.example"),
            vec![tls_entry("shop", &[])],
            vec![rule(None, "/", Some("shop"))],
        ),
    ]);
    lab.publish().await;

    let mut stream = greet(lab.address, "pass.example", credulous()).await.unwrap();
    let seen = stream.get_ref().1.peer_certificates().unwrap()[0].to_vec();
    assert_eq!(seen, leaf(&theirs).to_vec(), "the backend's own certificate");
    assert_eq!(exchange(&mut stream, "hello").await, "inner as pass.example: hello");
    assert_eq!(exchange(&mut stream, "again").await, "inner as pass.example: again");

    assert_eq!(shown(lab.address, "term.example").await.unwrap(), leaf(&ours).to_vec());
    let mut stream = greet(lab.address, "term.example", credulous()).await.unwrap();
    assert_eq!(exchange(&mut stream, "hello").await, "plain: hello");

    let mut client = RawTls::connect(lab.address, "shop.example", credulous()).await.unwrap();
    assert_eq!(client.get("shop.example").await, Some(200));
    let error = greet(lab.address, "other.example", credulous()).await.unwrap_err();
    assert!(error.contains("UnrecognisedName"), "{error}");
    for kind in ["passthrough", "terminated"] {
        until("streams are counted", || lab.metric("haflinger_proxy_streams_total", kind) >= 1.0)
            .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_end_that_has_no_more_to_say_still_hears_the_other() {
    let plain = server("plain", None).await;
    let inner = server("inner", Some(&self_signed(&["pass.example"]))).await;
    let mut lab = Lab::start();
    lab.certificate("term", self_signed(&["term.example"]));
    lab.backends("plain", &[plain]);
    lab.backends("inner", &[inner]);
    let to = |host: &str, target| vec![stream_rule(exact(host), &[(1, Some(target))])];
    lab.listen_sections(vec![
        streams(exact("pass.example"), None, to("pass.example", "inner")),
        streams(exact("term.example"), Some("term"), to("term.example", "plain")),
    ]);
    lab.publish().await;
    for (name, last) in
        [("term.example", "plain: end"), ("pass.example", "inner as pass.example: end")]
    {
        let mut stream = greet(lab.address, name, credulous()).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut rest = String::new();
        stream.read_to_string(&mut rest).await.unwrap();
        assert_eq!(rest, last);
        until("the stream has ended", || lab.metric("haflinger_proxy_streams", "") == 0.0).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_backend_is_not_noticed_and_without_any_the_connection_is_closed() {
    let inner = server("inner", Some(&self_signed(&["pass.example"]))).await;
    let mut lab = Lab::start();
    lab.backends("inner", &[inner, dead_address().await]);
    lab.backends("dead", &[dead_address().await]);
    lab.backends("empty", &[]);
    let rules = |host: &str, target| {
        streams(exact(host), None, vec![stream_rule(exact(host), &[(1, target)])])
    };
    lab.listen_sections(vec![
        rules("pass.example", Some("inner")),
        rules("dead.example", Some("dead")),
        rules("empty.example", Some("empty")),
        rules("lost.example", None),
    ]);
    lab.publish().await;
    for _ in 0..30 {
        let mut stream = greet(lab.address, "pass.example", credulous()).await.unwrap();
        assert_eq!(exchange(&mut stream, "x").await, "inner as pass.example: x");
    }
    assert!(lab.metric("haflinger_proxy_retries_total", "") > 0.0);
    for name in ["dead.example", "empty.example", "lost.example"] {
        greet(lab.address, name, credulous()).await.unwrap_err();
    }
    let error = greet(lab.address, "other.example", credulous()).await.unwrap_err();
    assert!(error.contains("eof"), "closed without a word, as nothing here speaks TLS: {error}");
    until("refusals are counted", || {
        let refused = |why| lab.metric("haflinger_proxy_connections_refused_total", why);
        refused("no_backend") == 3.0 && refused("unrecognized_name") == 1.0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn weights_divide_connections_and_hosts_of_rules_are_told_apart() {
    let spec = self_signed(&["a.example"]);
    let (one, two) = (server("one", Some(&spec)).await, server("two", Some(&spec)).await);
    let mut lab = Lab::start();
    lab.backends("one", &[one]);
    lab.backends("two", &[two]);
    let rules = vec![
        stream_rule(HostMatch::Suffix("example".into()), &[(1, Some("one")), (1, Some("two"))]),
        stream_rule(exact("one.example"), &[(1, Some("one")), (0, Some("two"))]),
    ];
    lab.listen_sections(vec![streams(HostMatch::Any, None, rules)]);
    lab.publish().await;
    let mut met = [0, 0];
    for _ in 0..60 {
        let mut stream = greet(lab.address, "a.example", credulous()).await.unwrap();
        met[usize::from(exchange(&mut stream, "x").await.starts_with("two"))] += 1;
        let mut stream = greet(lab.address, "one.example", credulous()).await.unwrap();
        assert_eq!(exchange(&mut stream, "x").await, "one as one.example: x");
    }
    assert!(met[0] > 10 && met[1] > 10, "{met:?}");
    greet(lab.address, "a.b.c", credulous()).await.unwrap_err();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_message_in_small_pieces_reaches_the_backend_whole() {
    let spec = self_signed(&["pass.example"]);
    let inner = server("inner", Some(&spec)).await;
    let mut lab = Lab::start();
    lab.backends("inner", &[inner]);
    let rules = vec![stream_rule(HostMatch::Any, &[(1, Some("inner"))])];
    lab.listen_sections(vec![streams(HostMatch::Any, None, rules)]);
    lab.publish().await;
    let mut config = credulous();
    config.alpn_protocols = (0..100).map(|n| format!("{n:0>200}").into_bytes()).collect();
    let name = "pass.example".to_owned().try_into().unwrap();
    let mut client = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).unwrap();
    assert!(bytes.len() > 20_000);
    let mut stream = TcpStream::connect(lab.address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    for piece in bytes.chunks(997) {
        stream.write_all(piece).await.unwrap();
        tokio::task::yield_now().await;
    }
    let mut answer = [0; 6];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!((answer[0], answer[5]), (22, 2), "a ServerHello");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_on_which_nothing_moves_ends() {
    let plain = server("plain", None).await;
    let mut lab = Lab::start_with(|settings| {
        settings.upgraded_idle_timeout = Duration::from_millis(300);
    });
    lab.certificate("term", self_signed(&["term.example"]));
    lab.backends("plain", &[plain]);
    let rules = vec![stream_rule(HostMatch::Any, &[(1, Some("plain"))])];
    lab.listen_sections(vec![streams(HostMatch::Any, Some("term"), rules)]);
    lab.publish().await;
    let mut stream = greet(lab.address, "term.example", credulous()).await.unwrap();
    assert_eq!(exchange(&mut stream, "x").await, "plain: x");
    let mut rest = Vec::new();
    // Cut off, or ended: either way no more comes.
    let _ = stream.read_to_end(&mut rest).await;
    assert!(rest.is_empty());
    until("the stream has ended", || lab.metric("haflinger_proxy_streams", "") == 0.0).await;
}
