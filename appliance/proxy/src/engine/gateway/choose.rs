//! The second stage: which backend is asked, and what happens when it fails.

use std::net::SocketAddr;
use std::time::Instant;

use haflinger_core::BackendState;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_core::{Error, ErrorSource, ErrorType, Result};
use pingora_http::ResponseHeader;
use pingora_proxy::Session;

use super::super::mirror::MIRROR_TIMEOUT;
use super::super::peers::{peer, speak};
use super::{Gateway, RequestState};
use crate::action::{Action, ActionUpstream};
use crate::answers::{Answer, is_grpc};
use crate::patience::{AttemptLimits, attempt_limits, attempts, pause};
use crate::upstream::choose;

impl RequestState {
    /// The next backend; of a target whose backends have all failed, none.
    fn next_backend(&self) -> Option<SocketAddr> {
        let backends = self.upstream()?.slot.load()?;
        let kept = self.rule.as_ref().and_then(|rule| rule.session);
        if let Some((_, kept)) = kept
            && !self.failed_on.contains(&kept)
            && backends.get(&kept).is_some_and(|backend| backend.state == BackendState::Active)
        {
            return Some(kept);
        }
        choose(&backends, self.hash, &self.failed_on)
    }
}

impl Gateway {
    pub(super) async fn choose_peer(
        &self,
        session: &Session,
        state: &mut RequestState,
    ) -> Result<HttpPeer> {
        let action = state.rule.as_ref().map(|rule| &*rule.action);
        if state.attempts > 0 {
            let pause =
                pause(action.and_then(Action::retry), state.attempts, rand::random_range(0.0..1.0));
            if !pause.is_zero() {
                tokio::time::sleep(pause).await;
            }
        }
        let settings = self.shared.settings.load();
        let grpc = is_grpc(&session.req_header().headers);
        let upgrade = session.is_upgrade_req();
        let idle = match upgrade || grpc {
            true => settings.upgraded_idle_timeout,
            false => settings.upstream_read_timeout,
        };
        // A connection that becomes another protocol has no last byte of an answer.
        let timeouts = action.map(Action::timeouts).filter(|_| !upgrade).unwrap_or_default();
        let limits = attempt_limits(timeouts, state.began, Instant::now(), idle, &settings);
        let limits = limits.ok_or_else(|| {
            Error::explain(ErrorType::ReadTimedout, "no time is left for an attempt").into_up()
        })?;
        state.attempts += 1;
        state.deadline = limits.deadline;
        // No backend is left when the last one went between admission and here.
        let backend = state.next_backend().ok_or_else(|| {
            Error::explain(ErrorType::HTTPStatus(Answer::Unavailable.status()), "no backend")
        })?;
        state.asking = Some(backend);
        let mut peer = peer(backend, &settings, &limits);
        if let Some(upstream) = state.upstream() {
            speak(&mut peer, upstream.speaks, upstream.tls.as_ref(), &self.shared.metrics.tls);
        }
        Ok(peer)
    }

    /// How the backend of a copy is spoken to.
    pub(super) fn peer_of_copy(&self, to: &ActionUpstream, backend: SocketAddr) -> HttpPeer {
        let settings = self.shared.settings.load();
        let connect = settings.connect_timeout.min(MIRROR_TIMEOUT);
        let limits = AttemptLimits { read: MIRROR_TIMEOUT, connect, deadline: None };
        let mut peer = peer(backend, &settings, &limits);
        speak(&mut peer, to.speaks, to.tls.as_ref(), &self.shared.metrics.tls);
        peer
    }

    /// A status that the rule asks not to pass on while an attempt is left, is not.
    pub(super) fn check_status(
        &self,
        session: &Session,
        response: &ResponseHeader,
        state: &mut RequestState,
    ) -> Result<()> {
        let retry = state.rule.as_ref().and_then(|rule| rule.action.retry());
        let asked = retry.is_some_and(|retry| retry.codes.contains(&response.status.as_u16()));
        if !asked || session.as_ref().retry_buffer_truncated() {
            return Ok(());
        }
        let failed = state.asking;
        if self.may_retry_anywhere(state, failed) {
            state.retry_granted = true;
            let error = Error::explain(ErrorType::InvalidHTTPHeader, "a status to try again on");
            return Err(error.into_up());
        }
        Ok(())
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

    /// Bytes may have been sent. Only an idempotent request (RFC 9110, section 9.2.2) whose body
    /// can be sent again is tried elsewhere, and only on a connection that had been idle, which the
    /// backend closed just as it was taken from the pool; where the rule asks for attempts, on any.
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
        if std::mem::take(&mut state.retry_granted) {
            error.set_retry(true);
            return error;
        }
        let repeatable = session.req_header().method.is_idempotent()
            && !session.as_ref().retry_buffer_truncated()
            && session.response_written().is_none();
        error.retry.decide_reuse(client_reused);
        let asked = state.rule.as_ref().is_some_and(|rule| rule.action.retry().is_some());
        let worth = error.retry() || (asked && *error.esource() == ErrorSource::Upstream);
        let retry = repeatable && worth && self.may_retry_anywhere(state, backend_of(peer));
        tracing::debug!(backend = %peer, %error, retry, "a backend failed");
        error.set_retry(retry);
        error
    }

    /// The same, also on `failed` itself when there is no other: it may be well.
    fn may_retry_anywhere(&self, state: &mut RequestState, failed: Option<SocketAddr>) -> bool {
        self.may_retry(state, failed)
            || (state.next_backend().is_none() && {
                state.failed_on.clear();
                self.may_retry(state, None)
            })
    }

    /// Whether a request that failed on `failed` may be tried again, and where is settled later.
    fn may_retry(&self, state: &mut RequestState, failed: Option<SocketAddr>) -> bool {
        state.failed_on.extend(failed);
        let settings = self.shared.settings.load();
        let retry = state.rule.as_ref().and_then(|rule| rule.action.retry());
        if state.attempts >= attempts(retry, &settings) || state.next_backend().is_none() {
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

fn backend_of(peer: &HttpPeer) -> Option<SocketAddr> {
    peer._address.as_inet().copied()
}
