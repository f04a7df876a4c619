//! The sample backend: one small server that says who answered, over HTTP and UDP.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context as _;
use axum::Router;
use axum::extract::{ConnectInfo, State};
use axum::http::{HeaderMap, Uri};
use tokio::net::{TcpListener, UdpSocket};
use tokio_util::sync::CancellationToken;

/// Largest datagram that is answered (RFC 768: 65,535 minus both headers).
const DATAGRAM_BYTES_MAX: usize = 65_507;

/// Both sockets of a sample backend, open.
pub(crate) struct Backend {
    name: Arc<str>,
    tcp: TcpListener,
    udp: UdpSocket,
}

impl Backend {
    /// Opens TCP and UDP on one address.
    pub(crate) async fn open(name: &str, listen: SocketAddr) -> anyhow::Result<Self> {
        let place = || format!("backend {name} on {listen}");
        let tcp = TcpListener::bind(listen).await.with_context(place)?;
        let udp = UdpSocket::bind(tcp.local_addr()?).await.with_context(place)?;
        Ok(Self { name: name.into(), tcp, udp })
    }

    /// Answers until `shutdown`.
    pub(crate) async fn run(self, shutdown: CancellationToken) {
        let routes = Router::new().fallback(answer).with_state(self.name.clone());
        let service = routes.into_make_service_with_connect_info::<SocketAddr>();
        let served = axum::serve(self.tcp, service)
            .with_graceful_shutdown(shutdown.clone().cancelled_owned());
        let datagrams = async {
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = echo(self.udp, &self.name) => {}
            }
        };
        // The accept loop only ends with the signal.
        let (_, ()) = tokio::join!(async { served.await }, datagrams);
    }
}

async fn answer(
    State(name): State<Arc<str>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    uri: Uri,
    headers: HeaderMap,
) -> String {
    let client = headers.get("x-forwarded-for").and_then(|value| value.to_str().ok());
    match client {
        Some(client) => format!("{name} answers {client} (through {peer}) for {uri}\n"),
        None => format!("{name} answers {peer} for {uri}\n"),
    }
}

async fn echo(socket: UdpSocket, name: &str) {
    let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
    loop {
        let Ok((length, peer)) = socket.recv_from(&mut buffer).await else { continue };
        let text = String::from_utf8_lossy(&buffer[..length]);
        let reply = format!("{name} answers {peer}: {}\n", text.trim_end());
        // A peer that went away is its own affair.
        let _ = socket.send_to(reply.as_bytes(), peer).await;
    }
}
