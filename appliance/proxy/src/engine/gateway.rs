//! The stages of a request, as Pingora calls them: admit, choose a backend, forward, and answer
//! when that failed.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use http::{Method, header};
use pingora_core::protocols::TcpKeepalive;
use pingora_core::protocols::http::ServerSession;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_core::{Error, ErrorSource, ErrorType, Result};
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::{FailToProxy, ProxyHttp, ProxyWarnLogContext, Session};

use crate::answers::{Answer, admit};
use crate::connection::ConnectionContext;
use crate::headers::{Arrival, forwarding, joined_cookies};
use crate::settings::Settings;
use crate::upstream::{RetryBudget, TargetSlot, choose};
use crate::worker::Shared;

/// Probes on a silent connection to a backend: it is given up after about 45 seconds.
const UPSTREAM_KEEPALIVE: (Duration, Duration, usize) =
    (Duration::from_secs(15), Duration::from_secs(10), 3);

/// How long the rest of a request body is read and thrown away, so that the connection can carry
/// another request.
const BODY_DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// What Pingora asks about requests.
pub(super) struct Gateway {
    shared: Arc<Shared>,
    retries: RetryBudget,
}

/// What is remembered about one request.
pub(super) struct RequestState {
    began: Instant,
    connection: Option<Arc<ConnectionContext>>,
    target: Option<Arc<TargetSlot>>,
    hash: u64,
    failed_on: Vec<SocketAddr>,
    attempts: usize,
}

impl Gateway {
    pub(super) fn new(shared: Arc<Shared>, retry_percent: u32) -> Self {
        Self { shared, retries: RetryBudget::new(retry_percent) }
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

impl RequestState {
    /// The next backend; of a target whose backends have all failed, none.
    fn next_backend(&self) -> Option<SocketAddr> {
        let backends = self.target.as_ref()?.load()?;
        choose(&backends, self.hash, &self.failed_on)
    }
}

#[async_trait]
impl ProxyHttp for Gateway {
    type CTX = RequestState;

    fn new_ctx(&self) -> RequestState {
        RequestState {
            began: Instant::now(),
            connection: None,
            target: None,
            hash: 0,
            failed_on: Vec::new(),
            attempts: 0,
        }
    }

    async fn early_request_filter(
        &self,
        session: &mut Session,
        state: &mut RequestState,
    ) -> Result<()> {
        let connection = connection_of(session)
            .ok_or_else(|| Error::explain(ErrorType::InternalError, "connection unknown"))?;
        state.hash = connection.begin_request();
        state.connection = Some(connection);
        self.retries.earn();
        apply_client_limits(session, &self.shared.settings.load());
        Ok(())
    }

    async fn request_filter(
        &self,
        session: &mut Session,
        state: &mut RequestState,
    ) -> Result<bool> {
        let Some(connection) = &state.connection else { return Ok(false) };
        let settings = self.shared.settings.load_full();
        let admitted = match doubtful_framing(session) {
            true => Err(Answer::BadRequest),
            false => {
                let routes = connection.listener.routes.load();
                admit(&routes, session.req_header(), settings.header_bytes_max)
            }
        };
        match admitted {
            Ok(target) => {
                state.target = Some(target);
                Ok(false)
            }
            Err(answer) => {
                if !answer.keeps_connection() || connection.listener.is_draining() {
                    session.set_keepalive(None);
                }
                respond(session, answer).await?;
                Ok(true)
            }
        }
    }

    async fn upstream_peer(
        &self,
        session: &mut Session,
        state: &mut RequestState,
    ) -> Result<Box<HttpPeer>> {
        state.attempts += 1;
        // No backend is left when the last one went between admission and here.
        let backend = state.next_backend().ok_or_else(|| {
            Error::explain(ErrorType::HTTPStatus(Answer::Unavailable.status()), "no backend")
        })?;
        let settings = self.shared.settings.load();
        Ok(Box::new(peer(backend, &settings, session.is_upgrade_req())))
    }

    async fn upstream_request_filter(
        &self,
        session: &mut Session,
        request: &mut RequestHeader,
        state: &mut RequestState,
    ) -> Result<()> {
        let Some(connection) = &state.connection else { return Ok(()) };
        let settings = self.shared.settings.load();
        // Over HTTP/2 the host stands in `:authority`; Pingora has made a field of it by now.
        let arrival = Arrival {
            peer: connection.peer,
            local: connection.listener.address,
            tls: connection.listener.tls.is_some(),
            host: request.headers.get(header::HOST),
        };
        let original = &session.req_header().headers;
        let (remove, set) = forwarding(arrival, original, &settings.trusted_proxies);
        for name in remove {
            request.remove_header(&name);
        }
        for (name, value) in set {
            request.insert_header(name, value)?;
        }
        if let Some(cookies) = joined_cookies(original) {
            request.insert_header(header::COOKIE, cookies)?;
        }
        Ok(())
    }

    /// While the listener is being taken out of service each answer is the last one.
    async fn response_filter(
        &self,
        session: &mut Session,
        _response: &mut ResponseHeader,
        state: &mut RequestState,
    ) -> Result<()> {
        if state.connection.as_ref().is_some_and(|c| c.listener.is_draining()) {
            session.set_keepalive(None);
        }
        Ok(())
    }

    async fn connected_to_upstream(
        &self,
        _session: &mut Session,
        reused: bool,
        _peer: &HttpPeer,
        _descriptor: std::os::unix::io::RawFd,
        _digest: Option<&pingora_core::protocols::Digest>,
        _state: &mut RequestState,
    ) -> Result<()> {
        self.shared.metrics.connected(reused);
        Ok(())
    }

    /// No byte has been sent: any request may be tried elsewhere.
    fn fail_to_connect(
        &self,
        _session: &mut Session,
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
    fn error_while_proxy(
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

    async fn fail_to_proxy(
        &self,
        session: &mut Session,
        error: &Error,
        _state: &mut RequestState,
    ) -> FailToProxy {
        let Some(answer) = answer_to(error) else {
            return FailToProxy { error_code: 0, can_reuse_downstream: false };
        };
        // The connection ends with this answer, because how much of the exchange happened is
        // not known.
        session.set_keepalive(None);
        if session.response_written().is_none_or(|r| r.status.is_informational())
            && let Err(error) = respond(session, answer).await
        {
            tracing::debug!(%error, "cannot send an answer");
        }
        FailToProxy { error_code: answer.status(), can_reuse_downstream: false }
    }

    async fn logging(
        &self,
        session: &mut Session,
        error: Option<&Error>,
        state: &mut RequestState,
    ) {
        let Some(connection) = &state.connection else { return };
        connection.end_request();
        let took = state.began.elapsed();
        let status = session.response_written().map(|response| response.status.as_u16());
        connection.listener.metrics.request_ended(status);
        self.shared.metrics.request_took(took);
        let request = session.req_header();
        tracing::debug!(
            target: "haflinger_proxy::access",
            listener = %connection.listener.address,
            client = %connection.peer,
            method = %request.method,
            host = ?request.uri.authority().map(|a| a.as_str().as_bytes())
                .or_else(|| request.headers.get(header::HOST).map(|h| h.as_bytes()))
                .map(String::from_utf8_lossy),
            path = request.uri.path(),
            status,
            attempts = state.attempts,
            bytes = session.body_bytes_sent(),
            took_ms = took.as_secs_f64() * 1e3,
            error = error.map(tracing::field::display),
            "request"
        );
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

fn connection_of(session: &Session) -> Option<Arc<ConnectionContext>> {
    let data = session.digest()?.proxy_digest.as_ref()?.user_data.as_ref()?;
    data.downcast_ref::<Arc<ConnectionContext>>().cloned()
}

/// Sets what Pingora leaves unlimited on the client's side.
fn apply_client_limits(session: &mut ServerSession, settings: &Settings) {
    // Pingora has switched keepalive on without limit, or off because the client said so.
    if session.get_keepalive().is_some() {
        let idle = settings.client_idle_timeout;
        session.set_keepalive(Some(idle.as_secs() + u64::from(idle.subsec_nanos() > 0)));
    }
    let read_timeout = match session.is_upgrade_req() {
        true => settings.upgraded_idle_timeout,
        false => settings.client_read_timeout,
    };
    session.set_read_timeout(Some(read_timeout));
    session.set_write_timeout(Some(settings.client_write_timeout));
    session.set_total_drain_timeout(Some(BODY_DRAIN_TIMEOUT));
    // Without it Pingora fails a request when the next one arrives early (RFC 9112, section
    // 9.3.2, allows that).
    session.set_pipelining_enabled(true);
}

/// Whether a request has both `Transfer-Encoding` and `Content-Length`, on which proxies have
/// disagreed (RFC 9112, section 6.1). Pingora drops the length and goes on; here it is refused.
fn doubtful_framing(session: &ServerSession) -> bool {
    if session.is_http2() || !session.req_header().headers.contains_key(header::TRANSFER_ENCODING) {
        return false;
    }
    let name = header::CONTENT_LENGTH.as_str().as_bytes();
    session.to_h1_raw().split(|byte| *byte == b'\n').any(|line| {
        let field = line.split(|byte| *byte == b':').next().unwrap_or_default();
        field.trim_ascii().eq_ignore_ascii_case(name)
    })
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

/// What a failed request is answered; nothing when the client is gone.
fn answer_to(error: &Error) -> Option<Answer> {
    use ErrorType::{
        ConnectTimedout, ConnectionClosed, HTTPStatus, ReadError, ReadTimedout, WriteError,
        WriteTimedout,
    };
    match (error.esource(), error.etype()) {
        (_, HTTPStatus(503)) => Some(Answer::Unavailable),
        (ErrorSource::Upstream, ConnectTimedout | ReadTimedout | WriteTimedout) => {
            Some(Answer::GatewayTimeout)
        }
        (ErrorSource::Upstream, _) => Some(Answer::BadGateway),
        (ErrorSource::Downstream, ReadTimedout) => Some(Answer::RequestTimeout),
        (ErrorSource::Downstream, ReadError | WriteError | ConnectionClosed | WriteTimedout) => {
            None
        }
        (ErrorSource::Downstream, _) => Some(Answer::BadRequest),
        (ErrorSource::Internal | ErrorSource::Unset, _) => Some(Answer::Internal),
    }
}

/// Sends an answer of our own.
async fn respond(session: &mut Session, answer: Answer) -> Result<()> {
    let body = answer.body();
    let mut response = ResponseHeader::build(answer.status(), Some(4))?;
    response.insert_header(header::CONTENT_TYPE, "text/plain; charset=utf-8")?;
    response.insert_header(header::CONTENT_LENGTH, body.len())?;
    response.insert_header(header::CACHE_CONTROL, "no-store")?;
    let bodiless = session.req_header().method == Method::HEAD;
    session.write_response_header(Box::new(response), bodiless).await?;
    if !bodiless {
        session.write_response_body(Some(Bytes::from_static(body.as_bytes())), true).await?;
    }
    Ok(())
}
