//! The stages of a request, as Pingora calls them:
//!
//! ```text
//!  admit ──> choose a backend ──> forward ──> log
//!    └─────────────┴──────────────────┴──> answer ourselves
//! ```

mod admit;
mod answer;
mod ask;
mod choose;
mod finish;
mod forward;
mod log;

use std::net::SocketAddr;
use std::os::unix::io::RawFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use pingora_core::modules::http::HttpModules;
use pingora_core::protocols::Digest;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_core::{Error, ErrorType, Result};
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::{FailToProxy, ProxyHttp, ProxyWarnLogContext, Session};

use super::asking::Asker;
use super::coder::{CoderBuilder, Coders};
use super::mirror::{Copies, Mirrors};
use crate::action::ActionUpstream;
use crate::admission::Admitted;
use crate::connection::ConnectionContext;
use crate::correlation::Correlation;
use crate::pages::Sheet;
use crate::tally::InFlight;
use crate::upstream::RetryBudget;
use crate::worker::Shared;

/// What Pingora asks about requests.
pub(super) struct Gateway {
    shared: Arc<Shared>,
    retries: Arc<RetryBudget>,
    mirrors: Mirrors,
    asker: Asker,
    coders: Coders,
}

/// What is remembered about one request.
pub(super) struct RequestState {
    began: Instant,
    connection: Option<Arc<ConnectionContext>>,
    rule: Option<Admitted>,
    /// Counted as in flight for as long as this lives.
    in_flight: Option<InFlight>,
    hash: u64,
    /// Where the attempt in progress goes.
    asking: Option<SocketAddr>,
    failed_on: Vec<SocketAddr>,
    attempts: usize,
    /// When the answer to the attempt in progress has to be complete.
    deadline: Option<Instant>,
    /// Another attempt has been decided on, and paid for.
    retry_granted: bool,
    /// Copies that wait for the end of the body.
    copies: Option<Box<Copies>>,
    /// Of the body, in this attempt.
    body_bytes: u64,
    /// What it is known by.
    correlation: Correlation,
    /// Of the answer's body, as the backend sends it.
    answer_bytes: u64,
    /// Its status, and the page in the place of the backend's answer.
    intercepted: Option<(u16, Sheet)>,
    /// Time to the header of a backend's answer; that of our own does not count.
    first_byte: Option<Duration>,
}

impl Gateway {
    pub(super) fn new(shared: Arc<Shared>, retries: Arc<RetryBudget>) -> Self {
        let mirrors = Mirrors::new(shared.metrics.clone());
        let asker = Asker::new(shared.clone());
        let coders = Coders::new(shared.metrics.clone());
        Self { shared, retries, mirrors, asker, coders }
    }
}

impl RequestState {
    /// Where the request goes.
    fn upstream(&self) -> Option<&ActionUpstream> {
        let rule = self.rule.as_ref()?;
        rule.action.backend(rule.backend?)?.to.as_ref().ok()
    }
}

#[async_trait]
impl ProxyHttp for Gateway {
    type CTX = RequestState;

    // In the place of Pingora's own compression.
    fn init_downstream_modules(&self, modules: &mut HttpModules) {
        modules.add_module(Box::new(CoderBuilder));
    }

    fn new_ctx(&self) -> RequestState {
        RequestState {
            began: Instant::now(),
            connection: None,
            rule: None,
            in_flight: None,
            hash: 0,
            asking: None,
            failed_on: Vec::new(),
            attempts: 0,
            deadline: None,
            retry_granted: false,
            copies: None,
            body_bytes: 0,
            correlation: Correlation::default(),
            answer_bytes: 0,
            intercepted: None,
            first_byte: None,
        }
    }

    async fn early_request_filter(
        &self,
        session: &mut Session,
        state: &mut RequestState,
    ) -> Result<()> {
        let connection = admit::connection_of(session)
            .ok_or_else(|| Error::explain(ErrorType::InternalError, "connection unknown"))?;
        state.hash = connection.begin_request();
        if let Some(attempted) = connection.take_over() {
            state.attempts = 1;
            state.failed_on.extend(attempted.failed);
        }
        self.retries.earn();
        let settings = self.shared.settings.load();
        admit::apply_client_limits(session, &settings);
        state.correlation = admit::correlate(session, &connection, &settings);
        state.connection = Some(connection);
        Ok(())
    }

    async fn request_filter(
        &self,
        session: &mut Session,
        state: &mut RequestState,
    ) -> Result<bool> {
        match self.admit(session, state).await {
            None => Ok(false),
            Some(reply) => {
                self.reply(session, state, &reply).await?;
                Ok(true)
            }
        }
    }

    async fn upstream_peer(
        &self,
        session: &mut Session,
        state: &mut RequestState,
    ) -> Result<Box<HttpPeer>> {
        state.body_bytes = 0;
        self.choose_peer(session, state).await.map(Box::new)
    }

    async fn upstream_request_filter(
        &self,
        session: &mut Session,
        request: &mut RequestHeader,
        state: &mut RequestState,
    ) -> Result<()> {
        self.prepare_request(session, request, state)
    }

    async fn request_body_filter(
        &self,
        _session: &mut Session,
        body: &mut Option<Bytes>,
        end: bool,
        state: &mut RequestState,
    ) -> Result<()> {
        forward::meter_body(state, body.as_ref())?;
        self.mirrors.body(&mut state.copies, body.as_ref(), end);
        Ok(())
    }

    async fn upstream_response_filter(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        state: &mut RequestState,
    ) -> Result<()> {
        self.check_status(session, response, state)
    }

    fn response_body_filter(
        &self,
        _session: &mut Session,
        body: &mut Option<Bytes>,
        _end: bool,
        state: &mut RequestState,
    ) -> Result<Option<Duration>> {
        self.meter_answer(state, body.as_ref())?;
        forward::check_deadline(state)
    }

    async fn response_filter(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        state: &mut RequestState,
    ) -> Result<()> {
        state.first_byte = Some(state.began.elapsed());
        self.check_answer(session, response, state)?;
        forward::prepare_response(session, response, state);
        self.keep_session(response, state)?;
        self.compress(session, response, state)
    }

    async fn connected_to_upstream(
        &self,
        _session: &mut Session,
        reused: bool,
        _peer: &HttpPeer,
        _descriptor: RawFd,
        _digest: Option<&Digest>,
        _state: &mut RequestState,
    ) -> Result<()> {
        self.shared.metrics.connected(reused);
        Ok(())
    }

    fn fail_to_connect(
        &self,
        _session: &mut Session,
        peer: &HttpPeer,
        state: &mut RequestState,
        error: Box<Error>,
    ) -> Box<Error> {
        self.after_failed_connect(peer, state, error)
    }

    fn error_while_proxy(
        &self,
        peer: &HttpPeer,
        session: &mut Session,
        error: Box<Error>,
        state: &mut RequestState,
        client_reused: bool,
    ) -> Box<Error> {
        self.after_failed_exchange(peer, session, error, state, client_reused)
    }

    async fn fail_to_proxy(
        &self,
        session: &mut Session,
        error: &Error,
        state: &mut RequestState,
    ) -> FailToProxy {
        self.reply_to_failure(session, error, state).await
    }

    async fn logging(
        &self,
        session: &mut Session,
        error: Option<&Error>,
        state: &mut RequestState,
    ) {
        self.log(session, error, state);
    }

    // Failures are counted, answered and logged above, at debug level as everything about one
    // request.
    fn suppress_error_log(&self, _: &Session, _: &RequestState, _: &Error) -> bool {
        true
    }

    fn suppress_proxy_warn_log(
        &self,
        _: &Session,
        _: &RequestState,
        _: &Error,
        _: ProxyWarnLogContext,
    ) -> bool {
        true
    }
}
