//! Pingora as a library: one `HttpProxy` with its own pool of upstream connections, fed with
//! connections that our own loops accepted. Its `Server`, its listeners and its upgrade socket
//! are not used.

use std::os::fd::AsRawFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use bytes::Bytes;
use pingora_core::apps::{HttpServerOptions, ServerApp};
use pingora_core::protocols::Stream;
use pingora_core::protocols::http::v2::server::H2Options;
use pingora_core::server::configuration::ServerConf;
use pingora_proxy::{HttpProxy, http_proxy};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use super::HttpEngine;
use super::fast::{FastPath, Left};
use super::gateway::Gateway;
use super::stream::{ClientStream, HeaderLimits};
use crate::connection::{ClientConnection, ClientIo, ConnectionContext, Protocol};
use crate::settings::{ATTEMPTS_MAX, CONNECTION_REQUESTS_MAX, Settings};
use crate::upstream::RetryBudget;
use crate::worker::Shared;

/// Bytes that a client may send ahead on one HTTP/2 stream, and on all streams of a connection
/// together, before it has to wait for the backend to read: what a connection can cost.
const H2_STREAM_WINDOW_BYTES: u32 = 256 * 1024;
const H2_CONNECTION_WINDOW_BYTES: u32 = 1024 * 1024;

/// Bytes of responses buffered for one HTTP/2 stream whose client does not read.
const H2_SEND_BUFFER_BYTES: usize = 128 * 1024;

/// Largest HTTP/2 frame (RFC 9113, section 4.2): the protocol's initial value.
const H2_FRAME_BYTES_MAX: u32 = 16 * 1024;

/// Streams that a client has reset but that are still in the accept queue, after which the
/// connection ends (CVE-2023-44487), and reset streams that are remembered.
const H2_RESETS_MAX: usize = 20;

/// Begin of the client's preface (RFC 9113, section 3.4). No request of HTTP/1 begins so.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n";

/// Why an engine cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// Pingora reads the host's trust store when it starts and gives up if it is broken.
    #[error("cannot read the host's trusted certificates; check SSL_CERT_FILE and SSL_CERT_DIR")]
    TrustStore,
}

/// Serves HTTP by Pingora.
pub(crate) struct PingoraEngine {
    fast: FastPath,
    proxy: Arc<HttpProxy<Gateway>>,
    shared: Arc<Shared>,
}

impl PingoraEngine {
    /// An engine with the settings of now.
    pub(crate) fn new(shared: Arc<Shared>) -> Result<Self, EngineError> {
        let settings = shared.settings.load_full();
        let conf = Arc::new(ServerConf {
            threads: 1,
            work_stealing: false,
            upstream_keepalive_pool_size: settings.upstream_idle_max,
            max_retries: ATTEMPTS_MAX,
            ..ServerConf::default()
        });
        let retries = Arc::new(RetryBudget::new(settings.retry_percent));
        let gateway = Gateway::new(shared.clone(), retries.clone());
        // Pingora panics when it cannot read the trust store, although no backend is spoken to
        // by TLS; that must be an error with a remedy, not the end of the daemon.
        let mut proxy = catch_unwind(AssertUnwindSafe(|| http_proxy(&conf, gateway)))
            .map_err(|_| EngineError::TrustStore)?;
        let mut options = HttpServerOptions::default();
        // Plain connections are looked at before Pingora has them.
        options.h2c = false;
        options.keepalive_request_limit = Some(CONNECTION_REQUESTS_MAX);
        options.h2_idle_timeout = Some(settings.client_idle_timeout);
        proxy.server_options = Some(options);
        proxy.h2_options = Some(h2_options(&settings));
        Ok(Self { fast: FastPath::new(shared.clone(), retries), proxy: Arc::new(proxy), shared })
    }
}

fn h2_options(settings: &Settings) -> H2Options {
    let mut options = H2Options::default();
    let header_bytes_max = u32::try_from(settings.header_bytes_max).unwrap_or(u32::MAX);
    options
        .max_concurrent_streams(settings.h2_streams_max)
        .max_header_list_size(header_bytes_max)
        .max_frame_size(H2_FRAME_BYTES_MAX)
        .initial_window_size(H2_STREAM_WINDOW_BYTES)
        .initial_connection_window_size(H2_CONNECTION_WINDOW_BYTES)
        .max_send_buffer_size(H2_SEND_BUFFER_BYTES)
        .max_concurrent_reset_streams(H2_RESETS_MAX)
        .max_pending_accept_reset_streams(H2_RESETS_MAX);
    options
}

impl HttpEngine for PingoraEngine {
    async fn serve(&self, connection: ClientConnection) {
        let ClientConnection { io, protocol, context } = connection;
        match io {
            ClientIo::Tcp(tcp) => {
                let descriptor = tcp.as_raw_fd();
                self.serve_bytes(tcp, descriptor, protocol, context).await;
            }
            ClientIo::Tls(tls) => {
                let descriptor = tls.get_ref().0.as_raw_fd();
                self.serve_bytes(*tls, descriptor, protocol, context).await;
            }
        }
    }
}

impl PingoraEngine {
    /// Serves a connection by the fast path for as long as that can, and then by Pingora.
    async fn serve_bytes<S>(
        &self,
        io: S,
        descriptor: i32,
        protocol: Protocol,
        context: Arc<ConnectionContext>,
    ) where
        S: AsyncRead + AsyncWrite + Unpin + Send + Sync + 'static,
    {
        let left = match protocol {
            Protocol::Http2 => Left { io, unread: Bytes::new(), since: Instant::now() },
            Protocol::Http1 => match self.fast.serve(io, &context).await {
                Some(left) => left,
                None => return,
            },
        };
        // Who speaks HTTP/2 without having agreed on it in a handshake says so first.
        let protocol = match context.listener.tls.is_none() && left.unread.starts_with(PREFACE) {
            true => Protocol::Http2,
            false => protocol,
        };
        // Apart, so that connections that never come here are smaller.
        Box::pin(self.serve_in_full(left, descriptor, protocol, context)).await;
    }

    async fn serve_in_full<S>(
        &self,
        left: Left<S>,
        descriptor: i32,
        protocol: Protocol,
        context: Arc<ConnectionContext>,
    ) where
        S: AsyncRead + AsyncWrite + Unpin + Send + Sync + 'static,
    {
        let Left { io, unread, since } = left;
        let settings = self.shared.settings.load();
        let limits = HeaderLimits {
            since,
            timeout: settings.header_timeout,
            bytes_max: settings.header_bytes_max,
        };
        drop(settings);
        let draining = context.listener.draining();
        let metrics = self.shared.metrics.clone();
        match ClientStream::new((io, unread), descriptor, protocol, context, metrics, limits) {
            Ok(stream) => {
                self.proxy.process_new(Box::new(stream) as Stream, &draining).await;
            }
            Err(error) => tracing::debug!(%error, "cannot prepare a connection"),
        }
    }
}
