//! What is counted about TLS.

use prometheus::{IntCounterVec, IntGauge, Opts, Registry};
use rustls::{HandshakeKind, ProtocolVersion, ServerConnection};

/// Metrics of TLS and of what is passed on without a look inside.
#[derive(Clone, Debug)]
pub(crate) struct TlsMetrics {
    handshakes: IntCounterVec,
    streams: IntCounterVec,
    streams_open: IntGauge,
    backend_failures: IntCounterVec,
}

/// A stream that is open for as long as this lives.
pub(super) struct OpenStream(IntGauge);

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl TlsMetrics {
    /// Registers everything.
    pub(crate) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let counters = |name: &str, help: &str, labels: &[&str]| {
            let counters = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(counters.clone()))?;
            Ok::<_, prometheus::Error>(counters)
        };
        let streams_open = IntGauge::new(
            "haflinger_proxy_streams",
            "Connections that are being passed on without a look inside.",
        )?;
        registry.register(Box::new(streams_open.clone()))?;
        Ok(Self {
            handshakes: counters(
                "haflinger_proxy_tls_handshakes_total",
                "TLS handshakes with clients that succeeded, by version and by kind: full, resumed.",
                &["version", "kind"],
            )?,
            streams: counters(
                "haflinger_proxy_streams_total",
                "Connections passed on without a look inside, by kind: passthrough, terminated.",
                &["kind"],
            )?,
            streams_open,
            backend_failures: counters(
                "haflinger_proxy_upstream_tls_failures_total",
                "TLS handshakes with backends that failed, by reason: certificate (not accepted), \
                 handshake, protocol (no HTTP/2), unprepared (nothing to verify by).",
                &["reason"],
            )?,
        })
    }

    /// A handshake with a client succeeded.
    pub(super) fn handshake(&self, session: &ServerConnection) {
        let version = match session.protocol_version() {
            Some(ProtocolVersion::TLSv1_2) => "1.2",
            Some(ProtocolVersion::TLSv1_3) => "1.3",
            _ => "other",
        };
        let resumed = session.handshake_kind() == Some(HandshakeKind::Resumed);
        let kind = if resumed { "resumed" } else { "full" };
        self.handshakes.with_label_values(&[version, kind]).inc();
    }

    /// A handshake with a backend failed.
    pub(crate) fn backend_failed(&self, reason: &str) {
        self.backend_failures.with_label_values(&[reason]).inc();
    }

    /// Counts a stream, as open until the answer is dropped.
    pub(super) fn stream(&self, kind: &str) -> OpenStream {
        self.streams.with_label_values(&[kind]).inc();
        self.streams_open.inc();
        OpenStream(self.streams_open.clone())
    }
}
