//! The check by the word of a server (nginx's `auth_request`, GEP-1494). Pure: who is asked and
//! what it says are arguments.

use std::sync::Arc;

use bytes::Bytes;
use haflinger_core::{Authorizer, AuthorizerPath, HeaderChoice, SignIn};
use http::header::{self, HeaderName};
use http::{HeaderMap, HeaderValue, Method, StatusCode};

use super::{Denied, Grants, Outcome, Question, ServerNames, Shown, Verdict};
use crate::action::ActionUpstream;
use crate::tls::BackendTls;

/// Bytes of an authorizer's answer that are passed on. What is longer is left out.
pub(crate) const BODY_BYTES_MAX: usize = 64 * 1024;

/// Fields that mean something on one connection alone, or are set anew (RFC 9110, section 7.6.1).
const OWN: [&str; 13] = [
    "connection",
    "content-length",
    "expect",
    "host",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "date",
];

/// Fields that tell an authorizer about the request: nobody else fills them in. Those of nginx's
/// Ingress controller, of Traefik and of Envoy.
const TELLING: [&str; 6] = [
    "x-original-method",
    "x-original-url",
    "x-original-uri",
    "x-forwarded-method",
    "x-forwarded-uri",
    "x-auth-request-redirect",
];

/// A server is asked.
#[derive(Debug)]
pub(crate) struct AuthorizerCheck {
    asked: Arc<Authorizer>,
    /// Who is asked.
    pub(crate) whom: Whom,
    method: Option<Method>,
    request: Choice,
    to_backend: Choice,
    to_client: Choice,
}

/// Who is asked.
#[derive(Debug)]
pub(crate) enum Whom {
    /// Backends of a service.
    Backends(ActionUpstream),
    /// Another server.
    Server {
        /// Where it is.
        names: Arc<ServerNames>,
        /// How it is greeted.
        tls: Option<Arc<BackendTls>>,
    },
    /// Nobody: requests get this status.
    Nowhere(u16),
}

#[derive(Debug)]
enum Choice {
    All,
    Only(Vec<HeaderName>),
}

/// What an authorizer has said.
#[derive(Debug)]
pub(crate) struct Told {
    /// The status.
    pub(crate) status: StatusCode,
    /// The fields.
    pub(crate) fields: HeaderMap,
    /// The content, unless it is too long.
    pub(crate) body: Option<Bytes>,
}

/// Why it has said nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AuthorizerFailure {
    /// It could not be asked, or its answer not be read.
    Failed,
    /// It took too long.
    Timeout,
    /// Too many are being asked.
    Busy,
}

impl Choice {
    fn compile(from: &HeaderChoice) -> Option<Self> {
        match from {
            HeaderChoice::All => Some(Self::All),
            HeaderChoice::Only(names) => {
                names.iter().map(|name| name.parse().ok()).collect::<Option<_>>().map(Self::Only)
            }
        }
    }

    fn has(&self, name: &HeaderName) -> bool {
        match self {
            Self::All => !OWN.contains(&name.as_str()),
            Self::Only(names) => names.contains(name) && !OWN.contains(&name.as_str()),
        }
    }
}

impl AuthorizerCheck {
    /// Checks `from`; `None` when it cannot be followed.
    pub(crate) fn compile(from: &Arc<Authorizer>, whom: Whom) -> Option<Self> {
        let method = match &from.method {
            Some(method) => Some(method.parse().ok()?),
            None => None,
        };
        Some(Self {
            whom,
            method,
            request: Choice::compile(&from.request_headers)?,
            to_backend: Choice::compile(&from.to_backend)?,
            to_client: Choice::compile(&from.to_client)?,
            asked: from.clone(),
        })
    }

    /// How long an answer may take, in milliseconds.
    pub(crate) fn timeout_ms(&self) -> u32 {
        self.asked.timeout_ms
    }

    /// What can be said at once.
    pub(crate) fn begin(self: &Arc<Self>) -> Outcome {
        match self.whom {
            Whom::Nowhere(status) => {
                let fields = Vec::new();
                let (by, reason) = ("authorizer", "unresolved");
                Outcome::Deny(Box::new(Denied { by, reason, status, fields, body: None }))
            }
            _ => Outcome::Ask(Question::Authorize(self.clone())),
        }
    }

    /// What it is asked: method, path and query, fields. `forwarding` are the fields that tell of
    /// the client, as a backend gets them: those to remove and those to set.
    pub(crate) fn request(
        &self,
        shown: Shown<'_>,
        forwarding: (Vec<HeaderName>, Vec<(HeaderName, HeaderValue)>),
    ) -> (Method, String, HeaderMap) {
        let mut fields = HeaderMap::with_capacity(shown.fields.len() + 8);
        for (name, value) in shown.fields {
            let telling = TELLING.contains(&name.as_str());
            let always = *name == header::AUTHORIZATION;
            if !telling && (always || self.request.has(name)) && !OWN.contains(&name.as_str()) {
                fields.append(name.clone(), value.clone());
            }
        }
        let (remove, set) = forwarding;
        for name in remove {
            fields.remove(name);
        }
        for (name, value) in set {
            fields.insert(name, value);
        }
        let url = shown.url();
        let method = shown.method.as_str();
        for (name, text) in [
            ("x-original-method", method),
            ("x-forwarded-method", method),
            ("x-original-url", &url),
            ("x-original-uri", shown.target),
            ("x-forwarded-uri", shown.target),
            ("x-auth-request-redirect", shown.target),
        ] {
            // A target has no character that a value cannot have.
            if let Ok(value) = HeaderValue::from_str(text) {
                fields.insert(HeaderName::from_static(name), value);
            }
        }
        if let Some(host) = self.host(shown) {
            fields.insert(header::HOST, host);
        }
        let path = match &self.asked.path {
            AuthorizerPath::Fixed(path) => path.to_string(),
            AuthorizerPath::Before(prefix) => {
                format!("{}{}", prefix.trim_end_matches('/'), shown.target)
            }
        };
        (self.method.clone().unwrap_or_else(|| shown.method.clone()), path, fields)
    }

    /// A service is asked for the host of the request, a server that is known by its name for it.
    fn host(&self, shown: Shown<'_>) -> Option<HeaderValue> {
        match &self.whom {
            Whom::Server { names, .. } => HeaderValue::try_from(names.server().authority()).ok(),
            _ => HeaderValue::from_str(shown.host?).ok(),
        }
    }

    /// What can be said now.
    pub(crate) fn conclude(&self, shown: Shown<'_>, verdict: Verdict) -> Outcome {
        let told = match verdict {
            Verdict::Told(Ok(told)) => told,
            Verdict::Told(Err(AuthorizerFailure::Timeout)) => return self.failed("timeout"),
            Verdict::Told(Err(AuthorizerFailure::Busy)) => return self.failed("busy"),
            _ => return self.failed("failed"),
        };
        let passes = match self.asked.only_200 {
            true => told.status == StatusCode::OK,
            false => told.status.is_success(),
        };
        let refuses = told.status.is_redirection() || told.status.is_client_error();
        match (passes, refuses) {
            (true, _) => Outcome::Pass(self.grants(&told.fields)),
            (_, true) => Outcome::Deny(Box::new(self.refusal(shown, told))),
            _ => self.failed("failed"),
        }
    }

    fn failed(&self, reason: &'static str) -> Outcome {
        match self.asked.fail_open {
            true => Outcome::Pass(self.grants(&HeaderMap::new())),
            false => Denied::failure("authorizer", reason),
        }
    }

    /// Fields named are those that nobody but the authorizer fills in, also when it does not.
    fn grants(&self, told: &HeaderMap) -> Grants {
        let mut grants = Grants::default();
        if let Choice::Only(names) = &self.to_backend {
            grants.remove.clone_from(names);
        }
        for (name, value) in told {
            let content = name.as_str().starts_with("content-") || *name == header::SERVER;
            if *name == header::SET_COOKIE {
                if self.asked.cookies {
                    grants.to_client.push((name.clone(), value.clone()));
                }
            } else if self.to_backend.has(name)
                && (matches!(self.to_backend, Choice::Only(_)) || !content)
            {
                if !grants.remove.contains(name) {
                    grants.remove.push(name.clone());
                }
                grants.add.push((name.clone(), value.clone()));
            }
        }
        grants
    }

    fn refusal(&self, shown: Shown<'_>, told: Told) -> Denied {
        let (by, reason) = ("authorizer", "refused");
        let cookies = |name: &HeaderName| *name == header::SET_COOKIE && self.asked.cookies;
        let pair = |(name, value): (&HeaderName, &HeaderValue)| (name.clone(), value.clone());
        if let Some(sign_in) = &self.asked.sign_in
            && told.status == StatusCode::UNAUTHORIZED
            && let Ok(location) = HeaderValue::try_from(location(sign_in, shown))
        {
            let cookies = told.fields.iter().filter(|(name, _)| cookies(name)).map(pair);
            let mut fields: Vec<_> = cookies.collect();
            fields.push((header::LOCATION, location));
            return Denied { by, reason, status: 302, fields, body: None };
        }
        let body = told.body;
        let always = [header::WWW_AUTHENTICATE, header::LOCATION];
        let of_content = [header::CONTENT_TYPE, header::CONTENT_LANGUAGE];
        let passed_on = |name: &HeaderName| match name {
            _ if *name == header::SET_COOKIE => cookies(name),
            _ if of_content.contains(name) => body.is_some(),
            _ => {
                always.contains(name)
                    || self.to_client.has(name) && !name.as_str().starts_with("content-")
            }
        };
        let fields = told.fields.iter().filter(|(name, _)| passed_on(name)).map(pair).collect();
        Denied { by, reason, status: told.status.as_u16(), fields, body }
    }
}

/// Where to sign in, with what nginx's Ingress controller puts into such an address.
fn location(sign_in: &SignIn, shown: Shown<'_>) -> String {
    let host = shown.host.unwrap_or_default();
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    let url = sign_in
        .url
        .replace("$escaped_request_uri", &escaped(shown.target))
        .replace("$request_uri", shown.target)
        .replace("$pass_access_scheme", shown.scheme)
        .replace("$scheme", shown.scheme)
        .replace("$http_host", host)
        .replace("$best_http_host", host)
        .replace("$host", name);
    match &sign_in.back {
        None => url,
        Some(back) => {
            let joint = if url.contains('?') { '&' } else { '?' };
            format!("{url}{joint}{back}={}", escaped(&shown.url()))
        }
    }
}

/// Percent-encoded but for the unreserved characters (RFC 3986, section 2.3).
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                escaped.push(char::from(byte));
            }
            _ => escaped.push_str(&format!("%{byte:02X}")),
        }
    }
    escaped
}

#[cfg(test)]
#[path = "authorizer_tests.rs"]
mod tests;
