//! What is counted. Label values are listener addresses, of which there are at most
//! [`crate::LISTENERS_MAX`], and small enumerations.

use std::net::SocketAddr;
use std::time::Duration;

use prometheus::{
    Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
};

use crate::auth::AuthMetrics;
use crate::coding::CodingMetrics;
use crate::guards::GuardMetrics;
use crate::sessions::SessionMetrics;
use crate::tally::Tallies;
use crate::tls::{CertificateEnds, TlsMetrics};

/// Classes of status codes, in the order of [`ListenerMetrics`]; requests that got no answer
/// (the client went away) are `none`.
pub(crate) const CLASSES: [&str; 6] = ["none", "1xx", "2xx", "3xx", "4xx", "5xx"];

/// Upper bounds in seconds: from a cache hit nearby to the default read timeout.
pub(crate) const DURATION_BUCKETS: [f64; 14] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0];

/// Why a client's connection ended before a request was understood.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Refusal {
    /// More connections than the limit.
    ConnectionsMax,
    /// The TLS handshake took too long.
    TlsTimeout,
    /// What came first is no ClientHello, or too large a one.
    TlsHello,
    /// The TLS handshake failed.
    TlsFailed,
    /// Nothing is served for the server name asked for.
    UnrecognizedName,
    /// What is served for the server name has no usable certificate.
    NoCertificate,
    /// The client showed no certificate, or none that is accepted.
    ClientCertificate,
    /// There is no backend for what would be passed on, or none can be connected to.
    NoBackend,
    /// The request header took too long.
    HeaderTimeout,
    /// The request header was too large.
    HeaderSize,
}

impl Refusal {
    fn as_str(self) -> &'static str {
        match self {
            Self::ConnectionsMax => "connections_max",
            Self::TlsTimeout => "tls_timeout",
            Self::TlsHello => "tls_hello",
            Self::TlsFailed => "tls_failed",
            Self::UnrecognizedName => "unrecognized_name",
            Self::NoCertificate => "no_certificate",
            Self::ClientCertificate => "client_certificate",
            Self::NoBackend => "no_backend",
            Self::HeaderTimeout => "header_timeout",
            Self::HeaderSize => "header_size",
        }
    }
}

/// What became of a copy of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MirrorOutcome {
    /// It was answered, whatever with.
    Answered,
    /// It could not be sent, or was not answered.
    Failed,
    /// It took too long.
    Timeout,
    /// It was not made: too many were on their way.
    Full,
    /// It was not made: the request's body was too large.
    Body,
}

impl MirrorOutcome {
    const ALL: [Self; 5] = [Self::Answered, Self::Failed, Self::Timeout, Self::Full, Self::Body];

    fn as_str(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Failed => "failed",
            Self::Timeout => "timeout",
            Self::Full => "full",
            Self::Body => "body",
        }
    }
}

/// All metrics of the room.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    requests: IntCounterVec,
    duration: Histogram,
    connections: IntGaugeVec,
    accepted: IntCounterVec,
    refused: IntCounterVec,
    accept_failures: IntCounter,
    bind_failures: IntCounter,
    /// Listeners whose socket is bound.
    pub(crate) listeners_bound: IntGauge,
    /// Listeners that should be served.
    pub(crate) listeners_wanted: IntGauge,
    /// Rules that answer with an error or are left out.
    pub(crate) rules_faulty: IntGauge,
    upstream_new: IntCounter,
    upstream_reused: IntCounter,
    connect_failures: IntCounter,
    exchange_failures: IntCounter,
    mirrors: [IntCounter; MirrorOutcome::ALL.len()],
    retries: IntCounter,
    retries_denied: IntCounter,
    fast: IntCounter,
    handovers: IntCounter,
    /// About what is asked of clients.
    pub(crate) guards: GuardMetrics,
    /// About who clients are.
    pub(crate) auth: AuthMetrics,
    /// About what clients get in the place of what a backend says.
    pub(crate) codings: CodingMetrics,
    /// About sessions.
    pub(crate) sessions: SessionMetrics,
    /// About TLS.
    pub(crate) tls: TlsMetrics,
    /// About each route and each pod.
    pub(crate) tallies: Tallies,
    /// When the first certificate in service expires.
    pub(crate) certificates_expire: IntGauge,
    /// When each of the first ones does.
    pub(crate) certificate_ends: CertificateEnds,
    /// Certificates whose newest material cannot be used.
    pub(crate) certificates_faulty: IntGauge,
    /// Generation of the snapshot that is being served.
    pub(crate) generation: IntGauge,
}

/// Makes metrics and registers them.
struct Registrar<'a>(&'a Registry);

impl Registrar<'_> {
    fn counters(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
    ) -> Result<IntCounterVec, prometheus::Error> {
        let vec = IntCounterVec::new(Opts::new(name, help), labels)?;
        self.0.register(Box::new(vec.clone()))?;
        Ok(vec)
    }

    fn gauges(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
    ) -> Result<IntGaugeVec, prometheus::Error> {
        let vec = IntGaugeVec::new(Opts::new(name, help), labels)?;
        self.0.register(Box::new(vec.clone()))?;
        Ok(vec)
    }

    fn counter(&self, name: &str, help: &str) -> Result<IntCounter, prometheus::Error> {
        let counter = IntCounter::new(name, help)?;
        self.0.register(Box::new(counter.clone()))?;
        Ok(counter)
    }

    fn durations(&self, name: &str, help: &str) -> Result<Histogram, prometheus::Error> {
        let options = HistogramOpts::new(name, help).buckets(DURATION_BUCKETS.to_vec());
        let histogram = Histogram::with_opts(options)?;
        self.0.register(Box::new(histogram.clone()))?;
        Ok(histogram)
    }

    fn gauge(&self, name: &str, help: &str) -> Result<IntGauge, prometheus::Error> {
        let gauge = IntGauge::new(name, help)?;
        self.0.register(Box::new(gauge.clone()))?;
        Ok(gauge)
    }
}

/// Copies of requests, looked up once.
fn mirrors(
    make: &Registrar<'_>,
) -> Result<[IntCounter; MirrorOutcome::ALL.len()], prometheus::Error> {
    let mirrors = make.counters(
        "haflinger_proxy_mirrors_total",
        "Copies of requests by what became of them: answered, failed, timeout; not made because \
         too many were on their way (full) or the body was too large (body).",
        &["outcome"],
    )?;
    Ok(MirrorOutcome::ALL.map(|one| mirrors.with_label_values(&[one.as_str()])))
}

/// Connections to backends, new and reused, and attempts that failed, to connect and later. Looked up
/// once: these are counted for every request.
fn upstream(make: &Registrar<'_>) -> Result<[IntCounter; 4], prometheus::Error> {
    let used = make.counters(
        "haflinger_proxy_upstream_connections_total",
        "Connections to backends used by requests, by whether they were reused.",
        &["reused"],
    )?;
    let failures = make.counters(
        "haflinger_proxy_upstream_failures_total",
        "Attempts on a backend that failed, by stage: connect, exchange.",
        &["stage"],
    )?;
    Ok([
        used.with_label_values(&["false"]),
        used.with_label_values(&["true"]),
        failures.with_label_values(&["connect"]),
        failures.with_label_values(&["exchange"]),
    ])
}

/// Retries, and those that were not made.
fn retries(make: &Registrar<'_>) -> Result<[IntCounter; 2], prometheus::Error> {
    let made =
        make.counter("haflinger_proxy_retries_total", "Requests tried on another backend.")?;
    let denied = make.counter(
        "haflinger_proxy_retries_denied_total",
        "Retries that were not made because the retry budget was spent.",
    )?;
    Ok([made, denied])
}

/// Requests of the fast path, and connections that left it.
fn fast_path(make: &Registrar<'_>) -> Result<[IntCounter; 2], prometheus::Error> {
    let requests = make.counter(
        "haflinger_proxy_fast_requests_total",
        "Requests served by the fast path: plain HTTP/1.1 on both sides, by rules that ask nothing \
         else. They count in haflinger_proxy_requests_total as well.",
    )?;
    let handovers = make.counter(
        "haflinger_proxy_fast_handovers_total",
        "Client connections that left the fast path for good, because of a request or a rule that \
         is not plain, or a backend that failed.",
    )?;
    Ok([requests, handovers])
}

impl Metrics {
    /// Registers everything.
    pub(crate) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let make = Registrar(registry);
        let [fast, handovers] = fast_path(&make)?;
        let [retries, retries_denied] = retries(&make)?;
        let [upstream_new, upstream_reused, connect_failures, exchange_failures] = upstream(&make)?;
        Ok(Self {
            duration: make.durations(
                "haflinger_proxy_request_duration_seconds",
                "Time from a request's header to the end of its response.",
            )?,
            connections: make.gauges(
                "haflinger_proxy_connections",
                "Client connections open now.",
                &["listener"],
            )?,
            requests: make.counters(
                "haflinger_proxy_requests_total",
                "Requests answered, by class of status; none: the client went away before.",
                &["listener", "class"],
            )?,
            accepted: make.counters(
                "haflinger_proxy_connections_total",
                "Client connections accepted.",
                &["listener"],
            )?,
            refused: make.counters(
                "haflinger_proxy_connections_refused_total",
                "Client connections ended before a request was understood, by reason.",
                &["reason"],
            )?,
            accept_failures: make.counter(
                "haflinger_proxy_accept_failures_total",
                "Failures of accept(2), such as no free descriptor.",
            )?,
            bind_failures: make.counter(
                "haflinger_proxy_bind_failures_total",
                "Attempts to bind a listener that failed; they are retried.",
            )?,
            listeners_bound: make
                .gauge("haflinger_proxy_listeners_bound", "Listeners whose socket is bound.")?,
            listeners_wanted: make.gauge(
                "haflinger_proxy_listeners_wanted",
                "Listeners that the snapshot asks for.",
            )?,
            rules_faulty: make
                .gauge("haflinger_proxy_rules_faulty", "Rules in which something is broken.")?,
            upstream_new,
            upstream_reused,
            connect_failures,
            exchange_failures,
            mirrors: mirrors(&make)?,
            retries,
            retries_denied,
            fast,
            handovers,
            guards: GuardMetrics::new(registry)?,
            auth: AuthMetrics::new(registry)?,
            codings: CodingMetrics::new(registry)?,
            sessions: SessionMetrics::new(registry)?,
            tls: TlsMetrics::new(registry)?,
            tallies: Tallies::new(registry)?,
            certificates_expire: make.gauge(
                "haflinger_proxy_certificates_expire_timestamp_seconds",
                "When the first certificate in service expires, since 1970; 0 without any.",
            )?,
            certificate_ends: CertificateEnds::new(registry)?,
            certificates_faulty: make.gauge(
                "haflinger_proxy_certificates_faulty",
                "Certificates whose newest material cannot be used.",
            )?,
            generation: make.gauge(
                "haflinger_proxy_snapshot_generation",
                "Generation of the snapshot that is being served.",
            )?,
        })
    }

    /// The children of one listener, looked up once.
    pub(crate) fn listener(&self, address: SocketAddr) -> ListenerMetrics {
        let address = address.to_string();
        ListenerMetrics {
            requests: CLASSES.map(|class| self.requests.with_label_values(&[&*address, class])),
            connections: self.connections.with_label_values(&[&*address]),
            accepted: self.accepted.with_label_values(&[&*address]),
        }
    }

    /// Forgets the children of a listener that is gone for good.
    pub(crate) fn forget_listener(&self, address: SocketAddr) {
        let address = address.to_string();
        // An error only says that there was no such child.
        for class in CLASSES {
            let _ = self.requests.remove_label_values(&[&*address, class]);
        }
        let _ = self.connections.remove_label_values(&[&*address]);
        let _ = self.accepted.remove_label_values(&[&*address]);
    }

    pub(crate) fn refused(&self, reason: Refusal) {
        self.refused.with_label_values(&[reason.as_str()]).inc();
    }

    pub(crate) fn accept_failed(&self) {
        self.accept_failures.inc();
    }

    pub(crate) fn bind_failed(&self) {
        self.bind_failures.inc();
    }

    pub(crate) fn request_took(&self, duration: Duration) {
        self.duration.observe(duration.as_secs_f64());
    }

    pub(crate) fn connected(&self, reused: bool) {
        if reused { self.upstream_reused.inc() } else { self.upstream_new.inc() }
    }

    pub(crate) fn connect_failed(&self) {
        self.connect_failures.inc();
    }

    pub(crate) fn exchange_failed(&self) {
        self.exchange_failures.inc();
    }

    pub(crate) fn mirrored(&self, outcome: MirrorOutcome) {
        self.mirrors[outcome as usize].inc();
    }

    pub(crate) fn served_fast(&self) {
        self.fast.inc();
    }

    pub(crate) fn handed_over(&self) {
        self.handovers.inc();
    }

    pub(crate) fn retried(&self) {
        self.retries.inc();
    }

    pub(crate) fn retry_denied(&self) {
        self.retries_denied.inc();
    }
}

/// The class of a status, as a place in [`CLASSES`].
pub(crate) fn class_of(status: Option<u16>) -> usize {
    status.map_or(0, |status| usize::from(status / 100).min(5))
}

/// What one listener counts.
#[derive(Debug)]
pub(crate) struct ListenerMetrics {
    requests: [IntCounter; 6],
    /// Connections open now.
    pub(crate) connections: IntGauge,
    /// Connections accepted so far.
    pub(crate) accepted: IntCounter,
}

impl ListenerMetrics {
    /// A request ended with `status`, or without any answer.
    pub(crate) fn request_ended(&self, status: Option<u16>) {
        self.requests[class_of(status)].inc();
    }

    /// Requests ended so far.
    pub(crate) fn requests(&self) -> u64 {
        self.requests.iter().map(IntCounter::get).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_that_is_gone_leaves_no_series() {
        let registry = Registry::new();
        let metrics = Metrics::new(&registry).unwrap();
        let address = "192.0.2.1:80".parse().unwrap();
        let listener = metrics.listener(address);
        listener.request_ended(Some(200));
        listener.request_ended(None);
        assert_eq!(listener.requests(), 2);
        let series = || format!("{:?}", registry.gather()).matches("192.0.2.1:80").count();
        assert!(series() > 0);
        metrics.forget_listener(address);
        assert_eq!(series(), 0);
    }
}
