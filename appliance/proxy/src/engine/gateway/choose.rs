//! The second stage: which backend is asked, and what happens when it fails.

use std::net::SocketAddr;
use std::time::Duration;

use haflinger_core::UpstreamProtocol;
use pingora_core::protocols::TcpKeepalive;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_core::{Error, ErrorSource, ErrorType, Result};
use pingora_proxy::Session;

use super::{Gateway, RequestState};
use crate::answers::Answer;
use crate::settings::Settings;
use crate::upstream::choose;

/// Probes on a silent connection to a backend: it is given up after about 45 seconds.
const UPSTREAM_KEEPALIVE: (Duration, Duration, usize) =
    (Duration::from_secs(15), Duration::from_secs(10), 3);

/// Requests at once on one HTTP/2 connection to a backend; beyond it another connection is made.
/// As many as servers usually allow (RFC 9113, section 6.5.2).
const UPSTREAM_STREAMS_MAX: usize = 100;

impl RequestState {
    /// The next backend; of a target whose backends have all failed, none.
    fn next_backend(&self) -> Option<SocketAddr> {
        let backends = self.upstream()?.slot.load()?;
        choose(&backends, self.hash, &self.failed_on)
    }
}

impl Gateway {
    pub(super) fn choose_peer(
        &self,
        session: &Session,
        state: &mut RequestState,
    ) -> Result<HttpPeer> {
        state.attempts += 1;
        // No backend is left when the last one went between admission and here.
        let backend = state.next_backend().ok_or_else(|| {
            Error::explain(ErrorType::HTTPStatus(Answer::Unavailable.status()), "no backend")
        })?;
        let mut peer = peer(backend, &self.shared.settings.load(), session.is_upgrade_req());
        let Some(upstream) = state.upstream() else { return Ok(peer) };
        if upstream.tls.is_some() {
            let error = Error::explain(ErrorType::TLSHandshakeFailure, "no TLS to backends");
            return Err(error.into_up());
        }
        if upstream.speaks == UpstreamProtocol::Http2 {
            peer.options.set_http_version(2, 2);
            peer.options.max_h2_streams = UPSTREAM_STREAMS_MAX;
        }
        Ok(peer)
    }

    /// No byte has been sent: any request may be tried elsewhere.
    pub(super) fn after_failed_connect(
        &self,
        peer: &HttpPeer,
        state: &mut RequestState,
        mut error: Box<Error>,
    ) -> Box<Error> {
        self.shared.metrics.connect_failed();
        let retry = self.may_retry(state, backend_of(peer));
        tracing::debug!(backend = %peer, %error, retry, "cannot connect to a backend");
        error.set_retry(retry);
        error
    }

    /// Bytes may have been sent. Only an idempotent request (RFC 9110, section 9.2.2), on a
    /// connection that had been idle, whose body can be sent again, is tried elsewhere: the
    /// backend closed the connection just as it was taken from the pool.
    pub(super) fn after_failed_exchange(
        &self,
        peer: &HttpPeer,
        session: &mut Session,
        mut error: Box<Error>,
        state: &mut RequestState,
        client_reused: bool,
    ) -> Box<Error> {
        if *error.esource() == ErrorSource::Upstream {
            self.shared.metrics.exchange_failed();
        }
        let repeatable = session.req_header().method.is_idempotent()
            && !session.as_ref().retry_buffer_truncated()
            && session.response_written().is_none();
        error.retry.decide_reuse(client_reused);
        let retry = repeatable && error.retry() && {
            let backend = backend_of(peer);
            // The backend itself may be well: when there is no other it is asked once more.
            self.may_retry(state, backend)
                || (state.next_backend().is_none() && {
                    state.failed_on.clear();
                    self.may_retry(state, None)
                })
        };
        tracing::debug!(backend = %peer, %error, retry, "a backend failed");
        error.set_retry(retry);
        error
    }

    /// Whether a request that failed on `failed` may be tried again, and where is settled later.
    fn may_retry(&self, state: &mut RequestState, failed: Option<SocketAddr>) -> bool {
        state.failed_on.extend(failed);
        let settings = self.shared.settings.load();
        if state.attempts >= settings.attempts_max || state.next_backend().is_none() {
            return false;
        }
        if !self.retries.spend() {
            self.shared.metrics.retry_denied();
            return false;
        }
        self.shared.metrics.retried();
        true
    }
}

fn peer(backend: SocketAddr, settings: &Settings, upgrade: bool) -> HttpPeer {
    let mut peer = HttpPeer::new(backend, false, String::new());
    let options = &mut peer.options;
    options.connection_timeout = Some(settings.connect_timeout);
    options.total_connection_timeout = Some(settings.connect_timeout);
    options.read_timeout = Some(match upgrade {
        true => settings.upgraded_idle_timeout,
        false => settings.upstream_read_timeout,
    });
    options.write_timeout = Some(settings.upstream_write_timeout);
    options.idle_timeout = Some(settings.upstream_idle_timeout);
    let (idle, interval, count) = UPSTREAM_KEEPALIVE;
    options.tcp_keepalive =
        Some(TcpKeepalive { idle, interval, count, user_timeout: Duration::ZERO });
    peer
}

fn backend_of(peer: &HttpPeer) -> Option<SocketAddr> {
    peer._address.as_inet().copied()
}
