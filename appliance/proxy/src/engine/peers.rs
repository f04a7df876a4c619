//! Whom Pingora connects to, and how it speaks.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use haflinger_core::UpstreamProtocol;
use pingora_core::protocols::TcpKeepalive;
use pingora_core::upstreams::peer::HttpPeer;

use super::greeting::speak_tls;
use crate::patience::AttemptLimits;
use crate::settings::Settings;
use crate::tls::{BackendTls, TlsMetrics};

/// Probes on a silent connection to a backend: it is given up after about 45 seconds.
const UPSTREAM_KEEPALIVE: (Duration, Duration, usize) =
    (Duration::from_secs(15), Duration::from_secs(10), 3);

/// Requests at once on one HTTP/2 connection to a backend; beyond it another connection is made.
/// As many as servers usually allow (RFC 9113, section 6.5.2).
const UPSTREAM_STREAMS_MAX: usize = 100;

/// Bytes that a backend may send ahead on one HTTP/2 stream, and on all streams of a connection
/// together, before the clients have read: what a connection can cost.
const UPSTREAM_STREAM_WINDOW_BYTES: u32 = 256 * 1024;
const UPSTREAM_CONNECTION_WINDOW_BYTES: u32 = 4 * 1024 * 1024;

/// A backend in plain HTTP/1.1.
pub(super) fn peer(backend: SocketAddr, settings: &Settings, limits: &AttemptLimits) -> HttpPeer {
    let mut peer = HttpPeer::new(backend, false, String::new());
    let options = &mut peer.options;
    options.connection_timeout = Some(limits.connect);
    options.total_connection_timeout = Some(limits.connect);
    options.read_timeout = Some(limits.read);
    options.write_timeout = Some(settings.upstream_write_timeout);
    options.idle_timeout = Some(settings.upstream_idle_timeout);
    let (idle, interval, count) = UPSTREAM_KEEPALIVE;
    options.tcp_keepalive =
        Some(TcpKeepalive { idle, interval, count, user_timeout: Duration::ZERO });
    peer
}

/// HTTP/2 without asking: over TLS the handshake has to agree.
fn speak_http2(peer: &mut HttpPeer) {
    let options = &mut peer.options;
    options.set_http_version(2, 2);
    options.max_h2_streams = UPSTREAM_STREAMS_MAX;
    options.h2_stream_window_size = Some(UPSTREAM_STREAM_WINDOW_BYTES);
    options.h2_connection_window_size = Some(UPSTREAM_CONNECTION_WINDOW_BYTES);
}

/// Sets what a backend speaks.
pub(super) fn speak(
    peer: &mut HttpPeer,
    speaks: UpstreamProtocol,
    tls: Option<&Arc<BackendTls>>,
    metrics: &TlsMetrics,
) {
    if speaks == UpstreamProtocol::Http2 {
        speak_http2(peer);
    }
    if let Some(tls) = tls {
        speak_tls(peer, tls, speaks, metrics);
    }
}
