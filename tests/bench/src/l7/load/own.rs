//! Clients of our own: TLS handshakes that are known to be full or resumed, and WebSockets.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::ring;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, HandshakeKind, SignatureScheme};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::runtime::Builder;
use tokio::task::{JoinSet, LocalSet};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::{Latency, Outcome};
use crate::l7::routes::{self, Answer, SMALL};
use crate::l7::websocket::{self, TO_CLIENT};

/// Clients that shake hands at once.
const SHAKING: usize = 16;

/// WebSockets at once.
const SOCKETS: usize = 64;

/// Sessions that a client keeps: it never has more than the last ones.
const SESSIONS: usize = 8;

/// A head of an answer is not longer.
const HEAD_BYTES_MAX: usize = 4 * 1024;

/// TLS connections with one request each, all of them full handshakes or all of them resumed.
pub(super) fn shake_hands(proxy: SocketAddr, resumed: bool, duration: Duration) -> Result<Outcome> {
    together(SHAKING, duration, || shake_hands_often(proxy, resumed, duration))
}

/// Messages there and back over WebSockets.
pub(super) fn exchange_messages(proxy: SocketAddr, duration: Duration) -> Result<Outcome> {
    together(SOCKETS, duration, || exchange_often(proxy, duration))
}

/// So many clients at once; each answers with its latencies in microseconds.
fn together<F>(clients: usize, duration: Duration, client: impl Fn() -> F) -> Result<Outcome>
where
    F: Future<Output = Result<Vec<u32>>> + 'static,
{
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let samples = LocalSet::new().block_on(&runtime, async {
        let mut running = JoinSet::new();
        for _ in 0..clients {
            running.spawn_local(client());
        }
        let mut samples = Vec::new();
        while let Some(ended) = running.join_next().await {
            samples.extend(ended??);
        }
        anyhow::Ok(samples)
    })?;
    let count = samples.len() as u64;
    Ok(Outcome { count, elapsed: duration, latency: Latency::of(samples)? })
}

async fn shake_hands_often(
    proxy: SocketAddr,
    resumed: bool,
    duration: Duration,
) -> Result<Vec<u32>> {
    let connector = TlsConnector::from(Arc::new(client_config(resumed)?));
    if resumed {
        // The first one brings a ticket.
        connect(&connector, proxy, HandshakeKind::Full).await?;
    }
    let kind = if resumed { HandshakeKind::Resumed } else { HandshakeKind::Full };
    until(duration, async || connect(&connector, proxy, kind).await).await
}

/// One connection with one request.
async fn connect(connector: &TlsConnector, proxy: SocketAddr, kind: HandshakeKind) -> Result<()> {
    let tcp = TcpStream::connect(proxy).await?;
    tcp.set_nodelay(true)?;
    ask(&mut greet(connector, tcp, kind).await?).await
}

/// A handshake, which has to be of a kind.
pub(super) async fn greet(
    connector: &TlsConnector,
    tcp: TcpStream,
    kind: HandshakeKind,
) -> Result<TlsStream<TcpStream>> {
    let name = ServerName::try_from(routes::steady_host())?;
    let stream = connector.connect(name, tcp).await?;
    let found = stream.get_ref().1.handshake_kind();
    ensure!(found == Some(kind), "a handshake was {found:?}, wanted is {kind:?}");
    Ok(stream)
}

/// Asks for a small answer and reads it whole. Tickets come before it, so that they are here when
/// it is.
pub(super) async fn ask(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> Result<()> {
    let (host, path) = routes::steady(Answer::Small).swap_remove(0);
    let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let (head, rest) = head_of(stream).await?;
    ensure!(head.starts_with("HTTP/1.1 200"), "an answer is {head}");
    let mut body = [0; SMALL];
    stream.read_exact(body.get_mut(rest.len()..).context("a long answer")?).await?;
    Ok(())
}

/// TLS that takes any certificate: who is at the other end is known, and checking it would cost
/// more than some servers' part of the handshake.
pub(super) fn client_config(resumption: bool) -> Result<ClientConfig> {
    let mut provider = ring::default_provider();
    provider.cipher_suites = vec![ring::cipher_suite::TLS13_AES_256_GCM_SHA384];
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Any))
        .with_no_client_auth();
    config.resumption = match resumption {
        true => Resumption::in_memory_sessions(SESSIONS),
        false => Resumption::disabled(),
    };
    Ok(config)
}

#[derive(Debug)]
struct Any;

impl ServerCertVerifier for Any {
    fn verify_server_cert(
        &self,
        _leaf: &CertificateDer<'_>,
        _chain: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _stapled: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}

async fn exchange_often(proxy: SocketAddr, duration: Duration) -> Result<Vec<u32>> {
    let (host, path) = routes::steady(Answer::WebSocket).swap_remove(0);
    let mut stream = TcpStream::connect(proxy).await?;
    stream.set_nodelay(true)?;
    stream.write_all(websocket::request(&host, &path).as_bytes()).await?;
    let (head, rest) = head_of(&mut stream).await?;
    ensure!(head.starts_with("HTTP/1.1 101") && rest.is_empty(), "an answer is {head}");
    let mut number = 0;
    until(duration, async || {
        number += 1;
        let frame = websocket::frame(number);
        stream.write_all(&frame).await?;
        let mut answer = [0; TO_CLIENT];
        stream.read_exact(&mut answer).await?;
        ensure!(answer == websocket::answer(frame), "another message came back");
        Ok(())
    })
    .await
}

/// Repeats something for so long: how long each time took, in microseconds.
async fn until(
    duration: Duration,
    mut something: impl AsyncFnMut() -> Result<()>,
) -> Result<Vec<u32>> {
    let end = Instant::now() + duration;
    let mut samples = Vec::new();
    loop {
        let began = Instant::now();
        if began >= end {
            return Ok(samples);
        }
        something().await?;
        samples.push(u32::try_from(began.elapsed().as_micros()).unwrap_or(u32::MAX));
    }
}

/// The head of an answer as text, and what came after it.
async fn head_of(stream: &mut (impl AsyncRead + Unpin)) -> Result<(String, Vec<u8>)> {
    const END: &[u8] = b"\r\n\r\n";
    let mut bytes = Vec::with_capacity(HEAD_BYTES_MAX);
    loop {
        ensure!(stream.read_buf(&mut bytes).await? > 0, "a connection was closed");
        if let Some(at) = bytes.windows(END.len()).position(|window| window == END) {
            let rest = bytes.split_off(at + END.len());
            return Ok((String::from_utf8(bytes)?, rest));
        }
        ensure!(bytes.len() < HEAD_BYTES_MAX, "an answer has a long head");
    }
}
