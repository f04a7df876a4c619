//! The last stage: what is counted and said about a request.

use http::header;
use pingora_core::Error;
use pingora_proxy::Session;

use super::{Gateway, RequestState};

impl Gateway {
    pub(super) fn log(&self, session: &Session, error: Option<&Error>, state: &RequestState) {
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
}
