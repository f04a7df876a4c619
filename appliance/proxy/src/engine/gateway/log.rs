//! The last stage: what is counted and said about a request.

use std::time::Duration;

use http::{Version, header};
use jiff::Timestamp;
use pingora_core::{Error, ErrorSource};
use pingora_http::RequestHeader;
use pingora_proxy::Session;

use super::{Gateway, RequestState};
use crate::access::{Record, Sink};
use crate::connection::ConnectionContext;

impl Gateway {
    pub(super) fn log(&self, session: &Session, error: Option<&Error>, state: &RequestState) {
        let Some(connection) = &state.connection else { return };
        connection.end_request();
        let took = state.began.elapsed();
        let status = session.response_written().map(|response| response.status.as_u16());
        if let Some(sink) = &*self.shared.access.sink() {
            write_down(sink, session, connection, how_it_ended(error, status, state), took, state);
        }
        let (bytes_in, bytes_out) =
            (session.body_bytes_read() as u64, session.body_bytes_sent() as u64);
        connection.listener.metrics.request_ended(status);
        self.shared.metrics.request_took(took);
        if let Some(rule) = &state.rule {
            rule.action.tally().request_ended(status, took);
            rule.action.tally().bytes_passed(bytes_in, bytes_out);
        }
        let asked = state.upstream().zip(state.asking);
        let tallies = &self.shared.metrics.tallies;
        if let Some(pod) = asked.and_then(|(upstream, at)| upstream.slot.tally(at, tallies)) {
            pod.request_ended(status, took);
            pod.bytes_passed(bytes_in, bytes_out);
        }
        let request = session.req_header();
        tracing::debug!(
            target: "haflinger_proxy::access",
            listener = %connection.listener.address,
            client = %connection.peer,
            method = %request.method,
            host = ?host_of(request).map(String::from_utf8_lossy),
            path = request.uri.path(),
            status,
            attempts = state.attempts,
            bytes = session.body_bytes_sent(),
            took_ms = took.as_secs_f64() * 1e3,
            error = error.map(tracing::field::display),
            "request"
        );
    }
}

/// Writes a request into the access log.
fn write_down(
    sink: &Sink,
    session: &Session,
    connection: &ConnectionContext,
    end: &str,
    took: Duration,
    state: &RequestState,
) {
    let request = session.req_header();
    let field = |name| request.headers.get(name).map(http::HeaderValue::as_bytes);
    let action = state.rule.as_ref().map(|rule| &rule.action);
    let set = state.upstream().and_then(|upstream| upstream.slot.load());
    let pod = set.as_ref().zip(state.asking).and_then(|(set, at)| Some(&*set.get(&at)?.name));
    sink.put(&Record {
        began: Timestamp::now().checked_sub(took).unwrap_or(Timestamp::MIN),
        client: connection.peer,
        user: state.rule.as_ref().and_then(|rule| rule.grants.user.as_deref()),
        listener: connection.listener.address,
        tls_version: connection.tls.version,
        tls_cipher: connection.tls.cipher,
        server_name: connection.server_name.as_deref(),
        method: request.method.as_str(),
        host: host_of(request),
        path: request.uri.path(),
        query: request.uri.query().filter(|_| sink.queries()),
        protocol: protocol_name(request.version),
        status: session.response_written().map(|response| response.status.as_u16()),
        bytes_in: session.body_bytes_read() as u64,
        bytes_out: session.body_bytes_sent() as u64,
        duration: took,
        first_byte: state.first_byte,
        end,
        route: action.map(|action| action.object()),
        rule: action.and_then(|action| action.rule_name()),
        service: set.as_ref().map(|set| &*set.target.object.name),
        pod,
        upstream: state.asking,
        attempts: state.attempts,
        request_id: state.correlation.request_id.as_ref().map(http::HeaderValue::as_bytes),
        trace_id: state.correlation.trace.map(|trace| trace.id),
        user_agent: field(header::USER_AGENT),
        referer: field(header::REFERER),
    });
}

/// In a word, see docs/access-log.md.
fn how_it_ended(error: Option<&Error>, status: Option<u16>, state: &RequestState) -> &'static str {
    match (state.first_byte, status, error) {
        (None, Some(_), _) => "own",
        (Some(_), Some(_), None) => "answered",
        (_, _, Some(error)) if *error.esource() == ErrorSource::Upstream => "backend_failed",
        (_, _, Some(error)) if *error.esource() == ErrorSource::Downstream => "client_gone",
        (_, None, None) => "client_gone",
        _ => "failed",
    }
}

/// The host asked for, as sent.
fn host_of(request: &RequestHeader) -> Option<&[u8]> {
    let target = request.uri.authority().map(|authority| authority.as_str().as_bytes());
    target.or_else(|| request.headers.get(header::HOST).map(http::HeaderValue::as_bytes))
}

fn protocol_name(version: Version) -> &'static str {
    match version {
        Version::HTTP_2 => "HTTP/2",
        Version::HTTP_10 => "HTTP/1.0",
        _ => "HTTP/1.1",
    }
}
