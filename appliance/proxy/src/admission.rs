//! Whether a request is let through, where to, and what it is answered otherwise. Pure.

use std::sync::Arc;

use http::header::{self, HeaderName};
use http::{HeaderValue, Version, request};

use crate::action::{Action, Step};
use crate::answers::Answer;
use crate::authority::host_of;
use crate::conditions::RequestView;
use crate::cors::is_preflight;
use crate::guards::{Asking, Guard, Quota, Refused};
use crate::listener::Routes;
use crate::rewrite::{Asked, location};
use crate::routes::Found;

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
    /// The proxy: the client is sent elsewhere.
    Redirect {
        /// The status code.
        status: u16,
        /// `Location`.
        location: String,
    },
    /// The proxy: what other origins may do, in these fields.
    Preflight(Vec<(HeaderName, HeaderValue)>),
}

/// What becomes of a request.
pub(crate) fn admit(
    routes: &Routes,
    request: &request::Parts,
    arrived: &Arrived<'_>,
    header_bytes_max: usize,
) -> Admission {
    let alone = |answer| Admission { rule: None, next: Next::Answer(answer) };
    let fields: usize = request.headers.iter().map(|(n, v)| n.as_str().len() + v.len() + 4).sum();
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
            let backend = action.choose(arrived.hash);
            let mut rule = Admitted { action, backend, prefix_bytes, quota: None, body_max: None };
            let next = next(&mut rule, &view, arrived);
            Admission { rule: Some(rule), next }
        }
    }
}

fn next(rule: &mut Admitted, view: &RequestView<'_>, arrived: &Arrived<'_>) -> Next {
    let Admitted { action, backend, prefix_bytes, quota, body_max } = rule;
    for step in action.steps(*backend) {
        match step {
            Step::Guard(guard) => {
                match guard.check(view.fields, arrived.asking) {
                    Ok(Some(left)) => *quota = Some(left.tighter(*quota)),
                    Ok(None) => {}
                    Err(refused) => return Next::Refuse(refused),
                }
                if let Guard::BodyMax(max) = guard {
                    *body_max = Some(*max);
                }
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
            Step::Cors(policy) if is_preflight(view.method, view.fields) => {
                return Next::Preflight(policy.preflight(view.fields));
            }
            Step::Request(_)
            | Step::Response(_)
            | Step::Rewrite(_)
            | Step::Cors(_)
            | Step::Mirror(_) => {}
        }
    }
    let backend = backend.and_then(|at| action.backend(at));
    match backend.map(|backend| &backend.to) {
        Some(Ok(to)) if to.slot.load().is_some_and(|set| set.is_available()) => Next::Forward,
        Some(Ok(_) | Err(503)) => Next::Answer(Answer::Unavailable),
        Some(Err(_)) | None => Next::Answer(Answer::Unresolved),
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
