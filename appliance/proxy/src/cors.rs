//! What browsers are told that ask on behalf of other origins (Fetch, "CORS protocol"; GEP-1767).
//!
//! The rule decides alone: what a backend says about origins is taken out of its answers. An
//! origin that is not allowed is told nothing, and the browser keeps the answer to itself.

use haflinger_core::Cors;
use http::header::{self, HeaderName};
use http::{HeaderMap, HeaderValue, Method, Uri};

use crate::edits::Fields;

/// Fields that scripts may read of every answer (Fetch, "CORS-safelisted response-header name").
const SAFE: [&str; 7] = [
    "cache-control",
    "content-language",
    "content-length",
    "content-type",
    "expires",
    "last-modified",
    "pragma",
];

/// What a backend may have said about origins.
const OWN: [HeaderName; 6] = [
    header::ACCESS_CONTROL_ALLOW_ORIGIN,
    header::ACCESS_CONTROL_ALLOW_CREDENTIALS,
    header::ACCESS_CONTROL_ALLOW_METHODS,
    header::ACCESS_CONTROL_ALLOW_HEADERS,
    header::ACCESS_CONTROL_EXPOSE_HEADERS,
    header::ACCESS_CONTROL_MAX_AGE,
];

/// What other origins may do, checked.
#[derive(Debug)]
pub(crate) struct CorsPolicy {
    origins: Vec<OriginMatch>,
    credentials: bool,
    methods: Listed,
    headers: Listed,
    expose: Listed,
    max_age: HeaderValue,
}

/// Names that are allowed.
#[derive(Debug)]
enum Listed {
    None,
    Names(HeaderValue),
    Every,
}

#[derive(Debug)]
enum OriginMatch {
    Every,
    One { scheme: String, host: HostPart, port: Option<u16> },
}

#[derive(Debug)]
enum HostPart {
    Every,
    Exact(String),
    /// Any number of labels before this, which begins with a dot.
    Behind(String),
}

impl Listed {
    fn new(names: &[std::sync::Arc<str>]) -> Self {
        if names.iter().any(|name| &**name == "*") {
            return Self::Every;
        }
        match HeaderValue::from_str(&names.join(", ")) {
            Ok(all) if !all.is_empty() => Self::Names(all),
            _ => Self::None,
        }
    }
}

impl OriginMatch {
    /// An origin of a rule; `None` when it is none, and then it fits nothing.
    fn new(text: &str) -> Option<Self> {
        if text == "*" {
            return Some(Self::Every);
        }
        let (scheme, authority) = text.split_once("://")?;
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) => (host, Some(port.parse().ok()?)),
            None => (authority, None),
        };
        let host = host.to_ascii_lowercase();
        let host = match host.strip_prefix('*') {
            Some("") => HostPart::Every,
            Some(rest) => HostPart::Behind(rest.to_owned()),
            None => HostPart::Exact(host),
        };
        let scheme = scheme.to_ascii_lowercase();
        let port = port.or_else(|| usual_port(&scheme));
        Some(Self::One { scheme, host, port })
    }

    fn fits(&self, origin: &str) -> bool {
        let Self::One { scheme, host, port } = self else { return true };
        let Ok(uri) = origin.parse::<Uri>() else { return false };
        let (Some(own_scheme), Some(own_host)) = (uri.scheme_str(), uri.host()) else {
            return false;
        };
        let own_host = own_host.to_ascii_lowercase();
        let host = match host {
            HostPart::Every => true,
            HostPart::Exact(host) => *host == own_host,
            HostPart::Behind(rest) => own_host.len() > rest.len() && own_host.ends_with(&**rest),
        };
        host && own_scheme.eq_ignore_ascii_case(scheme)
            && uri.port_u16().or_else(|| usual_port(scheme)) == *port
    }
}

fn usual_port(scheme: &str) -> Option<u16> {
    match scheme {
        "http" => Some(80),
        "https" => Some(443),
        _ => None,
    }
}

/// Whether a request asks what another one may do ("CORS-preflight request").
pub(crate) fn is_preflight(method: &Method, fields: &HeaderMap) -> bool {
    *method == Method::OPTIONS
        && fields.contains_key(header::ORIGIN)
        && fields.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD)
}

impl CorsPolicy {
    /// Checks `from`.
    pub(crate) fn compile(from: &Cors) -> Self {
        Self {
            origins: from.origins.iter().filter_map(|text| OriginMatch::new(text)).collect(),
            credentials: from.credentials,
            methods: Listed::new(&from.methods),
            headers: Listed::new(&from.headers),
            expose: Listed::new(&from.expose),
            max_age: HeaderValue::from(from.max_age_secs),
        }
    }

    /// The fields of the answer to a preflight request; none for an origin that is not allowed.
    pub(crate) fn preflight(&self, asked: &HeaderMap) -> Vec<(HeaderName, HeaderValue)> {
        let mut fields = vec![(header::VARY, HeaderValue::from_static("Origin"))];
        let Some(origin) = self.allowed(asked) else { return fields };
        self.name_origin(origin, &mut fields);
        for (listed, own, requested) in [
            (
                &self.methods,
                header::ACCESS_CONTROL_ALLOW_METHODS,
                header::ACCESS_CONTROL_REQUEST_METHOD,
            ),
            (
                &self.headers,
                header::ACCESS_CONTROL_ALLOW_HEADERS,
                header::ACCESS_CONTROL_REQUEST_HEADERS,
            ),
        ] {
            // Of every one, those that are asked for: `*` is none where credentials are allowed.
            let value = match listed {
                Listed::None => None,
                Listed::Names(names) => Some(names),
                Listed::Every => asked.get(requested),
            };
            fields.extend(value.map(|value| (own, value.clone())));
        }
        match &self.expose {
            Listed::Names(names) => {
                fields.push((header::ACCESS_CONTROL_EXPOSE_HEADERS, names.clone()));
            }
            Listed::None | Listed::Every => {}
        }
        fields.push((header::ACCESS_CONTROL_MAX_AGE, self.max_age.clone()));
        fields
    }

    /// Changes the answer to any other request. `names` tells the fields that it has.
    pub(crate) fn decorate<F: Fields>(
        &self,
        asked: &HeaderMap,
        answer: &mut F,
        names: impl FnOnce(&F) -> Vec<HeaderName>,
    ) {
        let every = match &self.expose {
            Listed::Every if self.credentials => every_name(&names(answer)),
            Listed::Every => Some(HeaderValue::from_static("*")),
            Listed::Names(names) => Some(names.clone()),
            Listed::None => None,
        };
        for name in &OWN {
            answer.remove(name);
        }
        answer.add(&header::VARY, &HeaderValue::from_static("Origin"));
        let Some(origin) = self.allowed(asked) else { return };
        let mut fields = Vec::with_capacity(3);
        self.name_origin(origin, &mut fields);
        fields.extend(every.map(|names| (header::ACCESS_CONTROL_EXPOSE_HEADERS, names)));
        for (name, value) in &fields {
            answer.set(name, value);
        }
    }

    /// The origin of a request, if it is allowed.
    fn allowed<'a>(&self, asked: &'a HeaderMap) -> Option<&'a HeaderValue> {
        let origin = asked.get(header::ORIGIN)?;
        let text = origin.to_str().ok()?;
        self.origins.iter().any(|own| own.fits(text)).then_some(origin)
    }

    fn name_origin(&self, origin: &HeaderValue, fields: &mut Vec<(HeaderName, HeaderValue)>) {
        fields.push((header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone()));
        if self.credentials {
            let yes = HeaderValue::from_static("true");
            fields.push((header::ACCESS_CONTROL_ALLOW_CREDENTIALS, yes));
        }
    }
}

/// All names by name, since `*` is none where credentials are allowed.
fn every_name(names: &[HeaderName]) -> Option<HeaderValue> {
    let shown = |name: &&HeaderName| !SAFE.contains(&name.as_str()) && !OWN.contains(name);
    let all: Vec<&str> = names.iter().filter(shown).map(HeaderName::as_str).collect();
    HeaderValue::from_str(&all.join(", ")).ok().filter(|all| !all.is_empty())
}

#[cfg(test)]
#[path = "cors_tests.rs"]
mod tests;
