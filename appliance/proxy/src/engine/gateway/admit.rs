//! The first stage: limits of the client's side, and where the request leads.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::header;
use pingora_core::protocols::http::ServerSession;
use pingora_proxy::Session;

use super::answer::Reply;
use super::{Gateway, RequestState};
use crate::admission::{Admitted, Arrived, Next, admit, resume};
use crate::answers::{Answer, is_grpc};
use crate::connection::ConnectionContext;
use crate::correlation::Correlation;
use crate::guards::Asking;
use crate::headers::is_trusted;
use crate::sessions::Desk;
use crate::settings::Settings;
use crate::tally::InFlight;

/// How long the rest of a request body is read and thrown away, so that the connection can carry
/// another request.
const BODY_DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

impl Gateway {
    /// What reads and makes tokens of sessions now.
    pub(super) fn desk(&self) -> Desk<'_> {
        let now_secs = u32::try_from(wall().as_secs()).unwrap_or(u32::MAX);
        Desk { key: &self.shared.sessions, now_secs }
    }

    /// Finds the rule of a request; what it is answered, unless a backend is asked.
    pub(super) async fn admit(
        &self,
        session: &mut Session,
        state: &mut RequestState,
    ) -> Option<Reply> {
        let connection = state.connection.clone()?;
        if doubtful_framing(session) {
            return Some(Reply::Answer(Answer::BadRequest));
        }
        let mut next = self.with_arrived(state, &connection, |arrived, settings| {
            let limit = settings.header_bytes_max;
            admit(&connection.listener.routes.load(), session.req_header(), arrived, limit)
        });
        state.rule = next.rule.take();
        let begin = |rule: &Admitted| InFlight::begin(rule.action.tally());
        state.in_flight = state.rule.as_ref().map(begin);
        let mut next = next.next;
        while let Next::Ask(question) = next {
            let verdict = self.find_out(session, state, question).await;
            let mut rule = state.rule.take()?;
            next = self.with_arrived(state, &connection, |arrived, _| {
                resume(&mut rule, session.req_header(), arrived, verdict)
            });
            state.rule = Some(rule);
        }
        match next {
            Next::Forward => None,
            Next::Answer(answer) => Some(Reply::Answer(answer)),
            Next::Refuse(refused) => {
                self.shared.metrics.guards.refused(refused);
                Some(Reply::of_refusal(refused))
            }
            Next::Deny(denied) => {
                self.shared.metrics.auth.refused(&denied);
                Some(Reply::Denied(denied))
            }
            Next::Closed(notice) => Some(Reply::Closed(notice)),
            Next::Redirect { status, location } => Some(Reply::Redirect { status, location }),
            Next::Preflight(fields) => Some(Reply::Preflight(fields)),
            // The loop has ended with something else.
            Next::Ask(_) => Some(Reply::Answer(Answer::Internal)),
        }
    }

    /// What is known about a request beside its header, for as long as nothing is waited for.
    fn with_arrived<R>(
        &self,
        state: &RequestState,
        connection: &ConnectionContext,
        judge: impl FnOnce(&Arrived<'_>, &Settings) -> R,
    ) -> R {
        let settings = self.shared.settings.load();
        let asking = Asking {
            peer: connection.peer.ip(),
            trusted: &settings.trusted_proxies,
            counts: &self.shared.counts,
            now: state.began.saturating_duration_since(self.shared.began),
            earnest: true,
        };
        let arrived = Arrived {
            server_name: connection.server_name.as_deref(),
            tls: connection.listener.tls.is_some(),
            port: connection.listener.address.port(),
            hash: state.hash,
            asking,
            wall: wall(),
            desk: self.desk(),
        };
        judge(&arrived, &settings)
    }
}

/// Time since 1970; a clock before that has stopped tokens from ending, so it counts as the end of
/// all times.
pub(super) fn wall() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::MAX)
}

pub(super) fn connection_of(session: &Session) -> Option<Arc<ConnectionContext>> {
    let data = session.digest()?.proxy_digest.as_ref()?.user_data.as_ref()?;
    data.downcast_ref::<Arc<ConnectionContext>>().cloned()
}

/// What a request is known by, here and at the backend.
pub(super) fn correlate(
    session: &ServerSession,
    connection: &ConnectionContext,
    settings: &Settings,
) -> Correlation {
    let fields = &session.req_header().headers;
    let believed = is_trusted(connection.peer.ip(), &settings.trusted_proxies);
    let (name, context) = (settings.request_id_header.as_ref(), settings.trace_context);
    Correlation::of(fields, name, context, believed, rand::random)
}

/// Sets what Pingora leaves unlimited on the client's side.
pub(super) fn apply_client_limits(session: &mut ServerSession, settings: &Settings) {
    // Pingora has switched keepalive on without limit, or off because the client said so.
    if session.get_keepalive().is_some() {
        let idle = settings.client_idle_timeout;
        session.set_keepalive(Some(idle.as_secs() + u64::from(idle.subsec_nanos() > 0)));
    }
    // Calls of gRPC may be silent for as long as connections of another protocol.
    let streams = session.is_upgrade_req() || is_grpc(&session.req_header().headers);
    let read_timeout = match streams {
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
