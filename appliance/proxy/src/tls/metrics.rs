//! What is counted about TLS.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use haflinger_core::CertificateRef;
use prometheus::{IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};
use rustls::{HandshakeKind, ProtocolVersion, ServerConnection};

/// Certificates with a time series of their own: those that end first. Ten thousand certificates are
/// ten thousand series otherwise, of which only the first ever matter.
pub const CERTIFICATE_SERIES_MAX: usize = 1_000;

/// When certificates end.
#[derive(Clone, Debug)]
pub(crate) struct CertificateEnds {
    series: IntGaugeVec,
    /// Certificates with an OCSP response that is not handed out.
    pub(crate) unstapled: IntGauge,
    /// What has a series.
    shown: Arc<Mutex<BTreeMap<CertificateRef, i64>>>,
}

impl CertificateEnds {
    /// Registers them.
    pub(crate) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let name = "haflinger_proxy_certificate_expire_timestamp_seconds";
        let help = "When a certificate in service expires, since 1970, of the thousand that expire \
                    first.";
        let series = IntGaugeVec::new(Opts::new(name, help), &["source", "namespace", "name"])?;
        registry.register(Box::new(series.clone()))?;
        let unstapled = IntGauge::new(
            "haflinger_proxy_staples_unusable",
            "Certificates with an OCSP response that is not handed to clients.",
        )?;
        registry.register(Box::new(unstapled.clone()))?;
        Ok(Self { series, unstapled, shown: Arc::default() })
    }

    /// Shows these, which are sorted by their end; only what differs is touched.
    pub(crate) fn follow(&self, ends: &[(i64, &CertificateRef)]) {
        let first = ends.iter().take(CERTIFICATE_SERIES_MAX);
        let wanted: BTreeMap<CertificateRef, i64> =
            first.map(|(end, key)| ((*key).clone(), *end)).collect();
        // Whole between any two statements, so a panic elsewhere does not spoil it.
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        for key in shown.keys().filter(|key| !wanted.contains_key(*key)) {
            // An error only says that there is no such series.
            let _ = self.series.remove_label_values(&labels(key));
        }
        for (key, end) in wanted.iter().filter(|(key, end)| shown.get(*key) != Some(*end)) {
            self.series.with_label_values(&labels(key)).set(*end);
        }
        *shown = wanted;
    }
}

fn labels(key: &CertificateRef) -> [&str; 3] {
    [key.source.as_str(), &key.namespace, &key.name]
}

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

#[cfg(test)]
mod tests {
    use haflinger_core::SourceId;

    use super::*;

    fn key(number: usize) -> CertificateRef {
        let name = format!("{number}").into();
        CertificateRef { source: SourceId::cluster("c"), namespace: "shop".into(), name }
    }

    #[test]
    fn the_certificates_that_end_first_have_a_series_each() {
        let registry = Registry::new();
        let ends = CertificateEnds::new(&registry).unwrap();
        let keys: Vec<CertificateRef> = (0..CERTIFICATE_SERIES_MAX + 10).map(key).collect();
        let all: Vec<(i64, &CertificateRef)> = (0..).zip(&keys).collect();
        let count = || {
            let families = registry.gather();
            let ends = families.iter().find(|family| family.name().contains("_expire_"));
            ends.map_or(0, |family| family.get_metric().len())
        };
        ends.follow(&all);
        assert_eq!(count(), CERTIFICATE_SERIES_MAX);
        ends.follow(&all[5..8]);
        assert_eq!(count(), 3);
        assert_eq!(ends.series.with_label_values(&labels(&keys[7])).get(), 7);
        ends.follow(&[]);
        assert_eq!(count(), 0);
    }
}
