//! Whether a request is let through, where to, and what it is answered otherwise. Pure.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::header::{self, HeaderName};
use http::{HeaderMap, HeaderValue, Version, request};

use crate::action::{Action, Step};
use crate::answers::Answer;
use crate::auth::{Denied, Grants, Outcome, Question, Shown, Verdict};
use crate::authority::host_of;
use crate::conditions::RequestView;
use crate::cors::is_preflight;
use crate::guards::{Asking, Guard, Quota, Refused, header_bytes};
use crate::listener::Routes;
use crate::pages::Notice;
use crate::rewrite::{Asked, location};
use crate::routes::Found;
use crate::sessions::{Desk, Token};

/// What is known about a request beside its header.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arrived<'a> {
    /// The server name of its connection's handshake, lower case.
    pub(crate) server_name: Option<&'a str>,
    /// Whether the client speaks TLS.
    pub(crate) tls: bool,
    /// The port of the listener.
    pub(crate) port: u16,
    /// The request's hash.
    pub(crate) hash: u64,
    /// Who asks, and when.
    pub(crate) asking: Asking<'a>,
    /// When, since 1970.
    pub(crate) wall: Duration,
    /// What reads tokens of sessions.
    pub(crate) desk: Desk<'a>,
}

/// What becomes of a request.
#[derive(Debug)]
pub(crate) struct Admission {
    /// The rule that it leads to, whoever answers.
    pub(crate) rule: Option<Admitted>,
    /// Who answers.
    pub(crate) next: Next,
}

/// A rule that a request leads to.
#[derive(Clone, Debug)]
pub(crate) struct Admitted {
    /// What is done.
    pub(crate) action: Arc<Action>,
    /// The backend chosen, by its place in the action.
    pub(crate) backend: Option<usize>,
    /// Length of what matched of the path.
    pub(crate) prefix_bytes: usize,
    /// What the client may still ask, where that is limited.
    pub(crate) quota: Option<Quota>,
    /// Bytes of the body at most.
    pub(crate) body_max: Option<u64>,
    /// What checks of the client have come to.
    pub(crate) grants: Grants,
    /// The step that is being asked about.
    at: usize,
    /// Bytes of the answer's body at most.
    pub(crate) answer_max: Option<u64>,
    /// The session that it goes on with, and the backend that keeps it.
    pub(crate) session: Option<(Token, SocketAddr)>,
}

impl Admitted {
    /// A client that comes back to its backend comes back to that backend's part of the rule too,
    /// whatever the weights are by now (GEP-1619, "Traffic Splitting").
    fn new(
        action: Arc<Action>,
        prefix_bytes: usize,
        fields: &HeaderMap,
        arrived: &Arrived<'_>,
    ) -> Self {
        let Arrived { hash, desk, .. } = *arrived;
        let resumed = action
            .sessions()
            .and_then(|sessions| sessions.resume(fields, desk, |tag| action.find(tag, desk.key)));
        let session = resumed.map(|(token, (_, address))| (token, address));
        let backend = resumed.map_or_else(|| action.choose(hash), |(_, (at, _))| Some(at));
        Self {
            action,
            backend,
            prefix_bytes,
            quota: None,
            body_max: None,
            answer_max: None,
            grants: Grants::default(),
            at: 0,
            session,
        }
    }
}

impl Admitted {
    /// The place of the step that was followed last.
    pub(crate) fn place(&self) -> usize {
        self.at
    }
}

/// Who answers.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// A backend.
    Forward,
    /// The proxy.
    Answer(Answer),
    /// The proxy: something was asked of the client that it does not fulfil.
    Refuse(Refused),
    /// The proxy: the service is being maintained.
    Closed(Arc<Notice>),
    /// The proxy: the client is sent elsewhere.
    Redirect {
        /// The status code.
        status: u16,
        /// `Location`.
        location: String,
    },
    /// The proxy: what other origins may do, in these fields.
    Preflight(Vec<(HeaderName, HeaderValue)>),
    /// The proxy: the client is not who it has to be.
    Deny(Box<Denied>),
    /// Nobody yet: see [`resume`].
    Ask(Question),
}

/// What becomes of a request.
pub(crate) fn admit(
    routes: &Routes,
    request: &request::Parts,
    arrived: &Arrived<'_>,
    header_bytes_max: usize,
) -> Admission {
    let alone = |answer| Admission { rule: None, next: Next::Answer(answer) };
    let fields = header_bytes(&request.headers);
    let target = request.uri.path_and_query().map_or(0, |target| target.as_str().len());
    if fields + target > header_bytes_max {
        return alone(Answer::HeaderTooLarge);
    }
    let host = match authority(request).map(|authority| authority.map(host_of).transpose()) {
        Ok(Ok(host)) => host,
        _ => return alone(Answer::BadRequest),
    };
    let view = RequestView {
        host: host.as_deref(),
        path: request.uri.path(),
        query: request.uri.query(),
        method: &request.method,
        fields: &request.headers,
    };
    match routes.find(arrived.server_name, &view) {
        Found::Nothing => alone(Answer::NotFound),
        Found::Misdirected => alone(Answer::Misdirected),
        Found::Rule { broken: true, .. } => alone(Answer::Unresolved),
        Found::Rule { action, prefix_bytes, broken: false } => {
            let mut rule = Admitted::new(action, prefix_bytes, &request.headers, arrived);
            let next = next(&mut rule, request, &view, arrived, None);
            Admission { rule: Some(rule), next }
        }
    }
}

/// What becomes of a request whose question ([`Next::Ask`]) has been answered.
pub(crate) fn resume(
    rule: &mut Admitted,
    request: &request::Parts,
    arrived: &Arrived<'_>,
    verdict: Verdict,
) -> Next {
    // It was read before, or there would have been no question.
    let host = authority(request).ok().flatten().and_then(|authority| host_of(authority).ok());
    let view = RequestView {
        host: host.as_deref(),
        path: request.uri.path(),
        query: request.uri.query(),
        method: &request.method,
        fields: &request.headers,
    };
    next(rule, request, &view, arrived, Some(verdict))
}

/// Follows the steps from where it stopped, with the answer to what it stopped for.
fn next(
    rule: &mut Admitted,
    request: &request::Parts,
    view: &RequestView<'_>,
    arrived: &Arrived<'_>,
    mut verdict: Option<Verdict>,
) -> Next {
    let Admitted { action, backend, prefix_bytes, quota, body_max, answer_max, grants, at, .. } =
        rule;
    let shown = shown(request, arrived.tls, arrived.wall);
    // Browsers send no credentials with what they ask beforehand (Fetch, "CORS-preflight request").
    let preflight = is_preflight(view.method, view.fields)
        && action.steps(*backend).any(|step| matches!(step, Step::Cors(_)));
    let from = *at;
    for (place, step) in action.steps(*backend).enumerate().skip(from) {
        *at = place;
        let outcome = match step {
            Step::Guard(guard) => {
                match guard.check(view.fields, arrived.asking) {
                    Ok(Some(left)) => *quota = Some(left.tighter(*quota)),
                    Ok(None) => {}
                    Err(refused) => return Next::Refuse(refused),
                }
                if let Guard::BodyMax(max) = guard {
                    *body_max = Some(*max);
                }
                continue;
            }
            Step::Redirect(redirect) => {
                let asked = Asked {
                    tls: arrived.tls,
                    host: view.host,
                    port: arrived.port,
                    path: view.path,
                    query: view.query,
                    prefix_bytes: *prefix_bytes,
                };
                let location = location(redirect, &asked);
                return Next::Redirect { status: redirect.status, location };
            }
            Step::Cors(policy) if preflight => {
                return Next::Preflight(policy.preflight(view.fields));
            }
            Step::Unfollowed => return Next::Answer(Answer::Unresolved),
            Step::Users(_) | Step::Tokens(_) | Step::Authorizer(_) if preflight => continue,
            Step::Users(check) => match verdict.take() {
                None => check.begin(shown),
                Some(verdict) => check.conclude(verdict),
            },
            Step::Tokens(check) => match verdict.take() {
                None => check.begin(shown),
                Some(verdict) => check.conclude(shown, verdict),
            },
            Step::Authorizer(check) => match verdict.take() {
                None => check.begin(),
                Some(verdict) => check.conclude(shown, verdict),
            },
            Step::Closed(closed) if closed.holds_for(arrived.asking.client(view.fields)) => {
                return Next::Closed(closed.notice.clone());
            }
            Step::AnswerMax(max) => {
                *answer_max = Some((*max).min(answer_max.unwrap_or(u64::MAX)));
                continue;
            }
            Step::Compress(_)
            | Step::Pages(_)
            | Step::Closed(_)
            | Step::Request(_)
            | Step::Response(_)
            | Step::Rewrite(_)
            | Step::Cors(_)
            | Step::Mirror(_) => continue,
        };
        match outcome {
            Outcome::Pass(granted) => grants.extend(granted),
            Outcome::Deny(denied) => return Next::Deny(denied),
            Outcome::Ask(question) => return Next::Ask(question),
        }
    }
    let backend = backend.and_then(|at| action.backend(at));
    match backend.map(|backend| &backend.to) {
        Some(Ok(to)) if to.slot.load().is_some_and(|set| set.is_available()) => Next::Forward,
        Some(Ok(_) | Err(503)) => Next::Answer(Answer::Unavailable),
        Some(Err(_)) | None => Next::Answer(Answer::Unresolved),
    }
}

/// What checks of the client are given.
pub(crate) fn shown(request: &request::Parts, tls: bool, now: Duration) -> Shown<'_> {
    Shown {
        method: &request.method,
        scheme: if tls { "https" } else { "http" },
        host: authority(request).ok().flatten(),
        target: request.uri.path_and_query().map_or("/", |target| target.as_str()),
        query: request.uri.query(),
        fields: &request.headers,
        now,
    }
}

/// `:authority` or the target's authority, else the one `Host` field (RFC 9112, section 3.2;
/// RFC 9113, section 8.3.1). HTTP/1.1 without a host is refused; HTTP/1.0 may lack it.
fn authority(request: &request::Parts) -> Result<Option<&str>, Answer> {
    let mut hosts = request.headers.get_all(header::HOST).iter();
    let (host, second) = (hosts.next(), hosts.next());
    if second.is_some() {
        return Err(Answer::BadRequest);
    }
    let host = host.map(|host| host.to_str().map_err(|_| Answer::BadRequest)).transpose()?;
    let target = request.uri.authority().map(http::uri::Authority::as_str);
    match (target, host) {
        (Some(target), Some(host)) if target != host => Err(Answer::BadRequest),
        (Some(target), _) => Ok(Some(target)),
        (None, Some(host)) => Ok(Some(host)),
        (None, None) if request.version <= Version::HTTP_10 => Ok(None),
        (None, None) => Err(Answer::BadRequest),
    }
}

#[cfg(test)]
#[path = "admission_tests.rs"]
mod tests;
