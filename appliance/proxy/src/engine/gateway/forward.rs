//! The third stage: what the backend is told, and what the client is told of its answer.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{self, HeaderName};
use http::{HeaderValue, StatusCode, Uri, Version};
use pingora_core::{Error, ErrorType, OrErr, Result};
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::Session;

use super::super::mirror::Copies;
use super::ask::apply_grants;
use super::{Gateway, RequestState};
use crate::action::{ActionUpstream, Step};
use crate::answers::{Answer, is_grpc};
use crate::edits::Fields;
use crate::guards::Quota;
use crate::headers::{Arrival, forwarding, joined_cookies};
use crate::metrics::MirrorOutcome;
use crate::rewrite;
use crate::upstream::choose;

impl Gateway {
    pub(super) fn prepare_request(
        &self,
        session: &Session,
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
        let (name, context) = (settings.request_id_header.as_ref(), settings.trace_context);
        let (remove, set) = state.correlation.onward(original, name, context);
        for name in remove {
            request.remove_header(&name);
        }
        for (name, value) in set {
            request.insert_header(name, value)?;
        }
        if let Some(cookies) = joined_cookies(original) {
            request.insert_header(header::COOKIE, cookies)?;
        }
        // Hop by hop and therefore gone, but some servers of gRPC refuse calls without it.
        if request.version == Version::HTTP_2 && is_grpc(original) {
            request.insert_header(header::TE, "trailers")?;
        }
        let Some(rule) = &state.rule else { return Ok(()) };
        if let Some(copies) = &mut state.copies {
            copies.restart();
        }
        apply_grants(&rule.grants, request)?;
        // The first attempt alone is copied, and connections that become another protocol never.
        let copied = state.attempts == 1 && !session.is_upgrade_req();
        let mut place = 0;
        for step in rule.action.steps(rule.backend) {
            match step {
                Step::Mirror(mirror) => {
                    if copied && mirror.wants(state.hash, place) {
                        self.copy(&mirror.to, request, state.hash, &mut state.copies);
                    }
                    place += 1;
                }
                Step::Request(edits) => edits.apply(&mut Request(request)),
                Step::Rewrite(to) => rewrite_request(to, request, rule.prefix_bytes)?,
                Step::Guard(_)
                | Step::Response(_)
                | Step::Redirect(_)
                | Step::Cors(_)
                | Step::Users(_)
                | Step::Tokens(_)
                | Step::Authorizer(_)
                | Step::AnswerMax(_)
                | Step::Compress(_)
                | Step::Pages(_)
                | Step::Closed(_)
                | Step::Unfollowed => {}
            }
        }
        Ok(())
    }

    /// Notes a copy of a request as it is after the filters so far.
    fn copy(
        &self,
        to: &ActionUpstream,
        request: &RequestHeader,
        hash: u64,
        copies: &mut Option<Box<Copies>>,
    ) {
        let backend = to.slot.load().and_then(|set| choose(&set, hash, &[]));
        match backend.map(|backend| self.peer_of_copy(to, backend)) {
            Some(peer) => {
                let scheme = if to.tls.is_some() { "https" } else { "http" };
                self.mirrors.note(copies, peer, scheme, request);
            }
            None => self.shared.metrics.mirrored(MirrorOutcome::Failed),
        }
    }
}

/// Applies the rule's edits to an answer, a backend's or our own. While the listener is being
/// taken out of service each answer is the last one.
pub(super) fn prepare_response(
    session: &mut Session,
    response: &mut ResponseHeader,
    state: &RequestState,
) {
    if state.connection.as_ref().is_some_and(|c| c.listener.is_draining()) {
        session.set_keepalive(None);
    }
    let Some(rule) = &state.rule else { return };
    // A backend's answer comes in pieces of which only the last one is the answer.
    if response.status.is_informational() && response.status != StatusCode::SWITCHING_PROTOCOLS {
        return;
    }
    if let Some(quota) = &rule.quota {
        // Numbers are values, so this cannot fail.
        let _ = insert_quota(response, quota);
    }
    for (name, value) in &rule.grants.to_client {
        // Checked already.
        let _ = response.append_header(name.clone(), value.clone());
    }
    for step in rule.action.steps(rule.backend) {
        match step {
            Step::Response(edits) => edits.apply(&mut Response(response)),
            Step::Cors(policy) => {
                let names = |answer: &Response<'_>| answer.0.headers.keys().cloned().collect();
                let asked = &session.req_header().headers;
                policy.decorate(asked, &mut Response(response), names);
            }
            Step::Guard(_)
            | Step::Request(_)
            | Step::Redirect(_)
            | Step::Rewrite(_)
            | Step::Mirror(_)
            | Step::Users(_)
            | Step::Tokens(_)
            | Step::Authorizer(_)
            | Step::AnswerMax(_)
            | Step::Compress(_)
            | Step::Pages(_)
            | Step::Closed(_)
            | Step::Unfollowed => {}
        }
    }
}

/// Ends an answer whose time is over. Between two pieces the read timeout holds, so that a silent
/// backend is cut off after twice the rule's time at the latest.
pub(super) fn check_deadline(state: &RequestState) -> Result<Option<Duration>> {
    match state.deadline {
        Some(deadline) if deadline <= Instant::now() => {
            let error = Error::explain(ErrorType::ReadTimedout, "the answer takes too long");
            Err(error.into_up())
        }
        _ => Ok(None),
    }
}

/// What a client may still ask (draft-ietf-httpapi-ratelimit-headers, version 5, which is what
/// clients know).
pub(super) fn insert_quota(response: &mut ResponseHeader, quota: &Quota) -> Result<()> {
    response.insert_header("ratelimit-limit", quota.limit)?;
    response.insert_header("ratelimit-remaining", quota.remaining)?;
    response.insert_header("ratelimit-reset", quota.reset_secs)
}

/// Counts a body as it comes; one that is longer than it may be ends with 413.
pub(super) fn meter_body(state: &mut RequestState, piece: Option<&Bytes>) -> Result<()> {
    let Some(max) = state.rule.as_ref().and_then(|rule| rule.body_max) else { return Ok(()) };
    state.body_bytes += piece.map_or(0, |piece| piece.len() as u64);
    if state.body_bytes > max {
        let status = ErrorType::HTTPStatus(Answer::BodyTooLarge.status());
        return Err(Error::explain(status, "the body is longer than the rule lets it be"));
    }
    Ok(())
}

/// Gives a request another path and query.
pub(super) fn retarget(request: &mut RequestHeader, path: &str, query: Option<&str>) -> Result<()> {
    let target = rewrite::with_query(path, query);
    let mut parts = request.uri.clone().into_parts();
    parts.path_and_query = Some(target.parse().or_err(ErrorType::InternalError, "path")?);
    request.set_uri(Uri::from_parts(parts).or_err(ErrorType::InternalError, "target")?);
    Ok(())
}

fn rewrite_request(
    to: &haflinger_core::Rewrite,
    request: &mut RequestHeader,
    prefix_bytes: usize,
) -> Result<()> {
    if let Some(path) = &to.path {
        let path = rewrite::path(path, request.uri.path(), prefix_bytes);
        let query = request.uri.query().map(str::to_owned);
        retarget(request, &path, query.as_deref())?;
    }
    if let Some(host) = &to.host {
        let host = HeaderValue::from_str(host)
            .map_err(|error| Error::because(ErrorType::InternalError, "host", error))?;
        request.insert_header(header::HOST, host)?;
    }
    Ok(())
}

/// Edits of what goes to a backend.
struct Request<'a>(&'a mut RequestHeader);

/// Edits of what goes to the client.
struct Response<'a>(&'a mut ResponseHeader);

/// Both kinds of header have the same methods, and no trait for them. Pingora refuses no name and
/// no value that has been checked already.
macro_rules! fields_of {
    ($edited:ident) => {
        impl Fields for $edited<'_> {
            fn remove(&mut self, name: &HeaderName) {
                self.0.remove_header(name);
            }

            fn set(&mut self, name: &HeaderName, value: &HeaderValue) {
                let _ = self.0.insert_header(name.clone(), value.clone());
            }

            fn add(&mut self, name: &HeaderName, value: &HeaderValue) {
                let _ = self.0.append_header(name.clone(), value.clone());
            }
        }
    };
}

fields_of!(Request);
fields_of!(Response);
