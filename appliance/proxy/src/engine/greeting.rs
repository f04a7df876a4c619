//! TLS to backends as Pingora's peers are told of it.
//!
//! Pingora's own TLS by rustls verifies one name, which is the one that it sends, reads the
//! authorities anew for every connection and resumes nothing. So it is given connections that are
//! encrypted already: for Pingora they are plain, and what it pools them by tells apart who
//! greets differently.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use haflinger_core::UpstreamProtocol;
use pingora_core::connectors::L4Connect;
use pingora_core::protocols::l4::socket::SocketAddr;
use pingora_core::protocols::l4::stream::Stream;
use pingora_core::protocols::l4::virt::{VirtualSockOpt, VirtualSocket, VirtualSocketStream};
use pingora_core::upstreams::peer::HttpPeer;
use pingora_core::{Error, ErrorType, OrErr, Result};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use crate::tls::{BackendTls, BackendTlsError, TlsMetrics};

/// Makes `peer` be greeted by TLS. Connections with it are Pingora's to keep only while one
/// request lasts: it recognises idle ones by their descriptor, and sees none here. What a new one
/// costs is a resumed handshake.
pub(super) fn speak_tls(
    peer: &mut HttpPeer,
    tls: &Arc<BackendTls>,
    speaks: UpstreamProtocol,
    metrics: &TlsMetrics,
) {
    let (tls, metrics) = (tls.clone(), metrics.clone());
    peer.group_key = tls.id;
    peer.options.custom_l4 = Some(Arc::new(Greeting { tls, speaks, metrics }));
    peer.options.idle_timeout = Some(Duration::ZERO);
    peer.options.max_h2_streams = 1;
}

/// Connects and shakes hands.
#[derive(Debug)]
struct Greeting {
    tls: Arc<BackendTls>,
    speaks: UpstreamProtocol,
    metrics: TlsMetrics,
}

#[async_trait]
impl L4Connect for Greeting {
    async fn connect(&self, address: &SocketAddr) -> Result<Stream> {
        let address = address
            .as_inet()
            .ok_or_else(|| Error::explain(ErrorType::InternalError, "a backend without address"))?;
        let connected = TcpStream::connect(address).await;
        let stream = connected.or_err(ErrorType::ConnectError, "cannot connect to a backend")?;
        let greeted = self.tls.greet(stream, self.speaks).await;
        let stream = greeted.map_err(|error| {
            self.metrics.backend_failed(error.as_str());
            let kind = match &error {
                BackendTlsError::Certificate(_) | BackendTlsError::Unprepared(_) => {
                    ErrorType::InvalidCert
                }
                BackendTlsError::Handshake(_) | BackendTlsError::Protocol => {
                    ErrorType::TLSHandshakeFailure
                }
            };
            Error::because(kind, "cannot greet a backend", error)
        })?;
        Ok(VirtualSocketStream::new(Box::new(BackendStream(stream))).into())
    }
}

/// A connection to a backend, encrypted.
struct BackendStream(TlsStream<TcpStream>);

impl fmt::Debug for BackendStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TLS to {:?}", self.0.get_ref().0.peer_addr().ok())
    }
}

impl VirtualSocket for BackendStream {
    fn set_socket_option(&self, option: VirtualSockOpt) -> io::Result<()> {
        let socket = self.0.get_ref().0;
        match option {
            VirtualSockOpt::NoDelay => socket.set_nodelay(true),
            VirtualSockOpt::KeepAlive(wanted) => {
                let retries = u32::try_from(wanted.count).unwrap_or(u32::MAX);
                let keepalive = socket2::TcpKeepalive::new()
                    .with_time(wanted.idle)
                    .with_interval(wanted.interval)
                    .with_retries(retries);
                SockRef::from(socket).set_tcp_keepalive(&keepalive)
            }
            // None other is asked for here.
            _ => Ok(()),
        }
    }
}

impl AsyncRead for BackendStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for BackendStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }
}
