//! What the proxy can be told, with the default of every limit and the reason for it.

use std::fmt;
use std::num::NonZeroUsize;
use std::time::Duration;

use haflinger_core::flow::FlowHashKey;
use http::HeaderName;
use ipnet::IpNet;

use crate::access::AccessLogSettings;
use crate::correlation::TraceContext;

/// Largest number of accept threads: more than any edge host has cores.
pub const WORKERS_MAX: usize = 256;

/// Largest number of backends that one request is tried on. It also stops the engine's own loop,
/// should a retry decision ever be wrong.
pub const ATTEMPTS_MAX: usize = 10;

/// Largest value of [`Settings::retry_percent`]: each request may then cost ten retries.
pub const RETRY_PERCENT_MAX: u32 = 1_000;

/// Requests after which a client's HTTP/1.1 connection is closed, so that memory held by a very
/// long-lived connection is returned and clients spread anew over the fleet.
pub const CONNECTION_REQUESTS_MAX: u32 = 1_000_000;

/// Which versions of TLS are spoken with clients, always with forward secrecy and AEAD ciphers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsPolicy {
    /// TLS 1.2 (RFC 5246) and 1.3 (RFC 8446).
    Intermediate,
    /// TLS 1.3 alone.
    Modern,
}

/// Smallest and largest rotation of session tickets' keys, in seconds: within a minute clients
/// would hardly come back, and RFC 8446, section 4.6.1, forbids more than seven days.
pub const TICKET_ROTATION_SECS: std::ops::RangeInclusive<u32> = 60..=604_800;

/// What the fleet's session tickets are made of. `Debug` shows no byte of it.
#[derive(Clone, PartialEq, Eq)]
pub struct TicketSecret {
    /// Random bytes, the same on every host of the fleet.
    pub bytes: [u8; 32],
    /// Seconds for which tickets are made with one key, and for which a ticket is taken
    /// ([`TICKET_ROTATION_SECS`]).
    pub rotation_secs: u32,
}

impl fmt::Debug for TicketSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TicketSecret(withheld, {} s)", self.rotation_secs)
    }
}

/// Everything about layer 7 that the configuration decides. Every timeout is a real one: none
/// can be switched off.
#[derive(Clone, PartialEq)]
pub struct Settings {
    /// Secret key of the flow hash, the same on every host of the fleet.
    pub flow_hash_key: FlowHashKey,
    /// Threads, each with its own runtime and its own pool of upstream connections (1 to
    /// [`WORKERS_MAX`]). Fixed when the proxy starts.
    pub workers: NonZeroUsize,
    /// Client connections open at once over all listeners. One more is accepted and closed at
    /// once, so that a client learns it without waiting.
    pub connections_max: usize,
    /// Which TLS is spoken with clients.
    pub tls_policy: TlsPolicy,
    /// What session tickets are made of that the whole fleet takes; `None`: this host takes its own
    /// alone, made with random keys.
    pub ticket_secret: Option<TicketSecret>,
    /// How long before its end a certificate is warned about.
    pub certificate_warning: Duration,
    /// Time for a TLS handshake from the first byte to the last.
    pub tls_handshake_timeout: Duration,
    /// Time for a request header, from its first byte (on a new connection: from the
    /// connection) to the empty line. A client that trickles is cut off by it.
    pub header_timeout: Duration,
    /// Bytes of a request's header. More is answered with 431 or, if it goes on, cut off.
    pub header_bytes_max: usize,
    /// How long a client's connection may wait for its next request. Over HTTP/1 whole seconds
    /// count, rounded up.
    pub client_idle_timeout: Duration,
    /// Time between two reads of a request body.
    pub client_read_timeout: Duration,
    /// Time that a client may take to make room for the next piece of a response.
    pub client_write_timeout: Duration,
    /// Concurrent requests on one HTTP/2 connection.
    pub h2_streams_max: u32,
    /// Time for a TCP connection to a backend.
    pub connect_timeout: Duration,
    /// Time between two reads of a response; also the longest wait for its header.
    pub upstream_read_timeout: Duration,
    /// Time that a backend may take to make room for the next piece of a request.
    pub upstream_write_timeout: Duration,
    /// How long an unused connection to a backend is kept. Below the keepalive of common
    /// servers, so that it is this side that closes.
    pub upstream_idle_timeout: Duration,
    /// Unused connections to backends kept by one worker; beyond it the least recently used
    /// one is closed.
    pub upstream_idle_max: usize,
    /// Time between two reads on an upgraded connection (WebSocket) or of a gRPC call, in either
    /// direction.
    pub upgraded_idle_timeout: Duration,
    /// Backends that one request is tried on (1 to [`ATTEMPTS_MAX`]), unless its rule says.
    pub attempts_max: usize,
    /// Retries granted per hundred requests, over all services of a worker (0 to
    /// [`RETRY_PERCENT_MAX`]), beside a reserve of [`crate::RETRY_RESERVE`]. It bounds
    /// what an outage of many backends adds to the load of the others.
    pub retry_percent: u32,
    /// Peers whose `X-Forwarded-*` fields are believed and extended. From all others they are
    /// dropped.
    pub trusted_proxies: Vec<IpNet>,
    /// The access log; `None`: off.
    pub access_log: Option<AccessLogSettings>,
    /// The field in which a request's id goes to the backend; `None`: requests have no id. What a
    /// client says in it is believed only of [`Self::trusted_proxies`].
    pub request_id_header: Option<HeaderName>,
    /// What is done with W3C trace contexts.
    pub trace_context: TraceContext,
    /// How long a graceful stop, or the removal of a listener, waits for requests in progress.
    pub drain_timeout: Duration,
}

/// A value of [`Settings`] that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field} is {value}, but must be {expected}")]
pub struct SettingsError {
    /// The field.
    pub field: &'static str,
    /// Its value.
    pub value: String,
    /// What would be accepted.
    pub expected: String,
}

impl Settings {
    /// The defaults with the given key, one worker a core.
    pub fn new(flow_hash_key: FlowHashKey) -> Self {
        let workers = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
        Self {
            flow_hash_key,
            workers,
            connections_max: 50_000,
            tls_policy: TlsPolicy::Intermediate,
            ticket_secret: None,
            certificate_warning: Duration::from_secs(14 * 86_400),
            tls_handshake_timeout: Duration::from_secs(10),
            header_timeout: Duration::from_secs(10),
            header_bytes_max: 32 * 1024,
            client_idle_timeout: Duration::from_secs(60),
            client_read_timeout: Duration::from_secs(60),
            client_write_timeout: Duration::from_secs(60),
            h2_streams_max: 128,
            connect_timeout: Duration::from_secs(3),
            upstream_read_timeout: Duration::from_secs(60),
            upstream_write_timeout: Duration::from_secs(60),
            upstream_idle_timeout: Duration::from_secs(30),
            upstream_idle_max: 1_024,
            upgraded_idle_timeout: Duration::from_secs(600),
            attempts_max: 3,
            retry_percent: 100,
            trusted_proxies: Vec::new(),
            access_log: None,
            request_id_header: Some(HeaderName::from_static("x-request-id")),
            trace_context: TraceContext::Pass,
            drain_timeout: Duration::from_secs(30),
        }
    }

    /// Refuses values outside the documented ranges.
    pub(crate) fn check(&self) -> Result<(), SettingsError> {
        fn within(
            field: &'static str,
            value: usize,
            least: usize,
            most: usize,
        ) -> Result<(), SettingsError> {
            if (least..=most).contains(&value) {
                return Ok(());
            }
            let expected = format!("from {least} to {most}");
            Err(SettingsError { field, value: value.to_string(), expected })
        }
        within("workers", self.workers.get(), 1, WORKERS_MAX)?;
        within("connections_max", self.connections_max, 1, 10_000_000)?;
        within("header_bytes_max", self.header_bytes_max, 1_024, 1024 * 1024)?;
        within("h2_streams_max", self.h2_streams_max as usize, 1, 10_000)?;
        within("upstream_idle_max", self.upstream_idle_max, 1, 1_000_000)?;
        within("attempts_max", self.attempts_max, 1, ATTEMPTS_MAX)?;
        within("retry_percent", self.retry_percent as usize, 0, RETRY_PERCENT_MAX as usize)?;
        if let Some(secret) = &self.ticket_secret {
            let (least, most) = TICKET_ROTATION_SECS.into_inner();
            let rotation = secret.rotation_secs as usize;
            within("ticket_secret.rotation_secs", rotation, least as usize, most as usize)?;
        }
        for (field, value) in self.timeouts() {
            // A day is far beyond any sensible wait; much larger values overflow timers.
            if value.is_zero() || value > Duration::from_secs(86_400) {
                let expected = "above 0 and at most 86400 seconds".to_owned();
                return Err(SettingsError { field, value: format!("{value:?}"), expected });
            }
        }
        Ok(())
    }

    /// Whether an engine made with `other` serves these settings too: all others are read for
    /// every connection or request.
    pub(crate) fn same_engine(&self, other: &Self) -> bool {
        let fixed = |s: &Self| {
            let limits = (s.header_bytes_max, s.h2_streams_max, s.upstream_idle_max);
            (limits, s.client_idle_timeout, s.retry_percent)
        };
        fixed(self) == fixed(other)
    }

    fn timeouts(&self) -> [(&'static str, Duration); 11] {
        [
            ("tls_handshake_timeout", self.tls_handshake_timeout),
            ("header_timeout", self.header_timeout),
            ("client_idle_timeout", self.client_idle_timeout),
            ("client_read_timeout", self.client_read_timeout),
            ("client_write_timeout", self.client_write_timeout),
            ("connect_timeout", self.connect_timeout),
            ("upstream_read_timeout", self.upstream_read_timeout),
            ("upstream_write_timeout", self.upstream_write_timeout),
            ("upstream_idle_timeout", self.upstream_idle_timeout),
            ("upgraded_idle_timeout", self.upgraded_idle_timeout),
            ("drain_timeout", self.drain_timeout),
        ]
    }
}

/// Shows everything but the key.
impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("Settings");
        out.field("workers", &self.workers)
            .field("connections_max", &self.connections_max)
            .field("header_bytes_max", &self.header_bytes_max)
            .field("h2_streams_max", &self.h2_streams_max)
            .field("upstream_idle_max", &self.upstream_idle_max)
            .field("attempts_max", &self.attempts_max)
            .field("retry_percent", &self.retry_percent)
            .field("tls_policy", &self.tls_policy)
            .field("ticket_secret", &self.ticket_secret)
            .field("certificate_warning", &self.certificate_warning)
            .field("trusted_proxies", &self.trusted_proxies)
            .field("access_log", &self.access_log)
            .field("request_id_header", &self.request_id_header)
            .field("trace_context", &self.trace_context);
        for (field, value) in self.timeouts() {
            out.field(field, &value);
        }
        out.finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> Settings {
        Settings::new(FlowHashKey(*b"sixteen byte key"))
    }

    #[test]
    fn the_defaults_are_accepted_and_the_key_is_not_shown() {
        assert_eq!(settings().check(), Ok(()));
        let shown = format!("{:?}", settings());
        assert!(shown.contains("header_timeout: 10s"), "{shown}");
        assert!(!shown.contains("flow_hash_key"), "{shown}");
    }

    #[test]
    fn values_outside_their_range_are_refused_by_name() {
        let (zero, forever) = (Duration::ZERO, Duration::MAX);
        for (field, changed) in [
            ("attempts_max", Settings { attempts_max: 0, ..settings() }),
            ("attempts_max", Settings { attempts_max: 11, ..settings() }),
            ("connections_max", Settings { connections_max: 0, ..settings() }),
            ("header_timeout", Settings { header_timeout: zero, ..settings() }),
            ("drain_timeout", Settings { drain_timeout: forever, ..settings() }),
        ] {
            assert_eq!(changed.check().unwrap_err().field, field);
        }
    }
}
