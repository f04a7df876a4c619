//! What is counted and said about a request when it has ended.

use std::time::Instant;

use http::{HeaderValue, header};
use jiff::Timestamp;

use super::exchange::{Fault, Passing};
use super::{FastPath, Plan};
use crate::access::{Record, Sink};
use crate::connection::ConnectionContext;

impl FastPath {
    pub(super) fn note(
        &self,
        plan: &Plan,
        context: &ConnectionContext,
        passing: &Passing<'_>,
        fault: Option<Fault>,
        began: Instant,
    ) {
        context.end_request();
        let (took, status) = (began.elapsed(), passing.status);
        if let Some(sink) = &*self.shared.access.sink() {
            write_down(sink, plan, context, passing, (fault, began));
        }
        self.shared.metrics.served_fast();
        context.listener.metrics.request_ended(status);
        self.shared.metrics.request_took(took);
        let (bytes_in, bytes_out) = (plan.request.body_bytes as u64, passing.body_bytes);
        plan.action.tally().request_ended(status, took);
        plan.action.tally().bytes_passed(bytes_in, bytes_out);
        let slot = plan.upstream().map(|upstream| &upstream.slot);
        let tallies = &self.shared.metrics.tallies;
        if let Some(pod) = slot.and_then(|slot| slot.tally(plan.backend, tallies)) {
            pod.request_ended(status, took);
            pod.bytes_passed(bytes_in, bytes_out);
        }
        tracing::debug!(
            target: "haflinger_proxy::access",
            listener = %context.listener.address,
            client = %context.peer,
            method = %plan.request.parts.method,
            path = plan.request.parts.uri.path(),
            status,
            bytes = passing.body_bytes,
            took_ms = took.as_secs_f64() * 1e3,
            fault = fault.map(tracing::field::debug),
            "request"
        );
    }
}

/// Writes a request into the access log.
fn write_down(
    sink: &Sink,
    plan: &Plan,
    context: &ConnectionContext,
    passing: &Passing<'_>,
    (fault, began): (Option<Fault>, Instant),
) {
    let request = &plan.request.parts;
    let field = |name| request.headers.get(name).map(HeaderValue::as_bytes);
    let set = plan.upstream().and_then(|upstream| upstream.slot.load());
    let pod = set.as_ref().and_then(|set| Some(&*set.get(&plan.backend)?.name));
    let duration = began.elapsed();
    sink.put(&Record {
        began: Timestamp::now().checked_sub(duration).unwrap_or(Timestamp::MIN),
        client: context.peer,
        // Who has to say who it is, is served elsewhere.
        user: None,
        listener: context.listener.address,
        tls_version: context.tls.version,
        tls_cipher: context.tls.cipher,
        server_name: context.server_name.as_deref(),
        method: request.method.as_str(),
        host: field(header::HOST),
        path: request.uri.path(),
        query: request.uri.query().filter(|_| sink.queries()),
        protocol: "HTTP/1.1",
        status: passing.status,
        bytes_in: plan.request.body_bytes as u64,
        bytes_out: passing.body_bytes,
        duration,
        first_byte: passing.first_byte,
        end: how_it_ended(fault, passing),
        route: Some(plan.action.object()),
        rule: plan.action.rule_name(),
        service: set.as_ref().map(|set| &*set.target.object.name),
        pod,
        upstream: Some(plan.backend),
        attempts: 1,
        request_id: plan.correlation.request_id.as_ref().map(HeaderValue::as_bytes),
        trace_id: plan.correlation.trace.map(|trace| trace.id),
        user_agent: field(header::USER_AGENT),
        referer: field(header::REFERER),
    });
}

/// In a word, see docs/access-log.md.
fn how_it_ended(fault: Option<Fault>, passing: &Passing<'_>) -> &'static str {
    match (fault, passing.first_byte, passing.status) {
        (None, ..) => "answered",
        (Some(Fault::Client), ..) | (_, None, None) => "client_gone",
        (_, None, Some(_)) => "own",
        (_, Some(_), _) => "backend_failed",
    }
}
