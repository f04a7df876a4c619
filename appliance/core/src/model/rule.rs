//! What a request has to be like, and what is done to it on its way: the parts of rules that
//! objects state as they are served.

use std::cmp::Reverse;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{
    Authorizer, ClientRanges, Compression, ErrorPages, HostMatch, HttpRule, Maintenance,
    ObjectKind, RateLimit, Tokens, Upstream, Users,
};

/// Bytes that a regular expression may take up when it is compiled, as `regex` counts them: room
/// for what people write, an end for `(.{1000}){1000}`. What needs more is refused at the route.
pub const EXPRESSION_BYTES_MAX: usize = 512 * 1024;

/// Which paths.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PathMatch {
    /// This one, case sensitive, without the query.
    Exact(Arc<str>),
    /// Element by element, split by `/`: `/a` and `/a/` fit `/a`, `/a/` and `/a/b`.
    Prefix(Arc<str>),
    /// The whole path fits a regular expression (syntax of Rust's `regex`, linear in time).
    Regex(Arc<str>),
}

impl PathMatch {
    /// Every path.
    pub fn every() -> Self {
        Self::Prefix("/".into())
    }

    /// Path or expression as written.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Exact(text) | Self::Prefix(text) | Self::Regex(text) => text,
        }
    }
}

/// What a request has to be like: all of it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RequestMatch {
    /// Its path.
    pub path: PathMatch,
    /// Its method, case sensitive.
    pub method: Option<Arc<str>>,
    /// Its header fields; names lower case, each once. Of a field that stands several times the
    /// values joined with `, ` are compared (RFC 9110, section 5.3).
    pub headers: Vec<FieldMatch>,
    /// Parameters of its query; names as written, each once. Of a parameter that stands several
    /// times the first counts.
    pub query: Vec<FieldMatch>,
}

impl RequestMatch {
    /// By path alone.
    pub fn path(path: PathMatch) -> Self {
        Self { path, method: None, headers: Vec::new(), query: Vec::new() }
    }
}

impl Default for RequestMatch {
    /// Every request.
    fn default() -> Self {
        Self::path(PathMatch::every())
    }
}

/// A header field or a query parameter.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct FieldMatch {
    /// Its name.
    pub name: Arc<str>,
    /// Its value.
    pub value: ValueMatch,
}

/// Which values.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ValueMatch {
    /// This one, case sensitive.
    Exact(Arc<str>),
    /// Fits a regular expression as a whole.
    Regex(Arc<str>),
}

impl HttpRule {
    /// Rules are tried by this, lowest first, and among equals those of the older object, then of
    /// the one whose `namespace/name` comes first, then in the order of the object (HTTPRoute
    /// `spec.rules.matches`): the closest host, an exact path, then a regular expression, then a
    /// prefix, the longest first; with a method; with the most fields, then parameters. Of gRPC
    /// the longest service comes before the longest method (GRPCRoute `spec.rules.matches`), and
    /// a prefix is a service there, an expression a method of any.
    pub fn precedence(&self) -> impl Ord + use<> {
        let host = self.host.closeness();
        let is_grpc = self.object.kind == ObjectKind::GrpcRoute;
        let path = match &self.matches.path {
            PathMatch::Exact(path) => (0, Reverse(path.len())),
            PathMatch::Prefix(path) if is_grpc && &**path != "/" => (1, Reverse(path.len())),
            PathMatch::Regex(expression) => (2, Reverse(expression.len())),
            PathMatch::Prefix(path) => (3, Reverse(path.trim_end_matches('/').len())),
        };
        let RequestMatch { method, headers, query, .. } = &self.matches;
        (host, path, method.is_none(), Reverse(headers.len()), Reverse(query.len()))
    }
}

impl HostMatch {
    /// The closest is the lowest.
    pub fn closeness(&self) -> (u8, Reverse<usize>) {
        match self {
            Self::Exact(host) => (0, Reverse(host.len())),
            Self::OneLabel(suffix) | Self::Suffix(suffix) => (1, Reverse(suffix.len())),
            Self::Any => (2, Reverse(0)),
        }
    }
}

/// Something that is done with a request or its answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Filter {
    /// Who may ask.
    Clients(ClientRanges),
    /// How often may be asked.
    Rate {
        /// How often.
        limit: RateLimit,
        /// The object whose limit it is: limits of one object count together.
        scope: Arc<str>,
    },
    /// Bytes of a request's body at most; more gets 413.
    BodyMax(u64),
    /// Fields of the request (`RequestHeaderModifier`).
    RequestHeaders(FieldEdits),
    /// Fields of the answer (`ResponseHeaderModifier`).
    ResponseHeaders(FieldEdits),
    /// The client is sent elsewhere (`RequestRedirect`).
    Redirect(Redirect),
    /// Host or path as the backend sees them (`URLRewrite`).
    Rewrite(Rewrite),
    /// A copy of the request goes there too, and its answer is thrown away (`RequestMirror`).
    Mirror(Mirror),
    /// Answers to browsers that ask on behalf of other origins (`CORS`).
    Cors(Cors),
    /// Who the client is, by name and password.
    Users(Arc<Users>),
    /// Who the client is, by a signed token.
    Tokens(Arc<Tokens>),
    /// Whether the request may pass, by the word of a server (`ExternalAuth`).
    Authorizer(Arc<Authorizer>),
    /// Bytes of a request's header at most, beside the configured limit; more gets 431.
    HeaderMax(u32),
    /// Bytes of an answer's body at most, as the backend sends it. One that says that it is longer
    /// becomes 502; one that does not say is cut off.
    AnswerMax(u64),
    /// Answers are compressed.
    Compress(Compression),
    /// Pages in the place of errors.
    ErrorPages(ErrorPages),
    /// Nothing is passed on for now.
    Maintenance(Maintenance),
}

/// Changes of fields, in this order: remove, set, add.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct FieldEdits {
    /// Names, lower case.
    pub remove: Vec<Arc<str>>,
    /// Take the place of whatever was there.
    pub set: Vec<(Arc<str>, Arc<str>)>,
    /// Come after what was there.
    pub add: Vec<(Arc<str>, Arc<str>)>,
}

/// Where a client is sent. What is absent stays as it was.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Redirect {
    /// `http` or `https`.
    pub scheme: Option<Arc<str>>,
    /// The host.
    pub host: Option<Arc<str>>,
    /// The path.
    pub path: Option<PathRewrite>,
    /// The port. Absent: with a scheme, its usual one; otherwise that of the listener, which is
    /// left out where it is the scheme's usual one.
    pub port: Option<u16>,
    /// 301, 302, 303, 307 or 308.
    pub status: u16,
}

/// What a backend sees. What is absent stays as it was.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Rewrite {
    /// The host.
    pub host: Option<Arc<str>>,
    /// The path.
    pub path: Option<PathRewrite>,
}

/// Another path. The query stays.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum PathRewrite {
    /// This one (`ReplaceFullPath`).
    Full(Arc<str>),
    /// This in the place of the prefix that matched (`ReplacePrefixMatch`).
    Prefix(Arc<str>),
}

/// Where a copy goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mirror {
    /// The backends.
    pub to: Upstream,
    /// Of so many requests …
    pub numerator: u32,
    /// … out of so many. At least 1.
    pub denominator: u32,
}

/// What other origins may do (Fetch, "CORS protocol"; GEP-1767).
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Cors {
    /// `allowOrigins`: `scheme://host[:port]`, the host may begin with `*.`; `*` is every one.
    pub origins: Vec<Arc<str>>,
    /// `allowCredentials`.
    pub credentials: bool,
    /// `allowMethods`; `*` is every one.
    pub methods: Vec<Arc<str>>,
    /// `allowHeaders`; `*` is every one.
    pub headers: Vec<Arc<str>>,
    /// `exposeHeaders`; `*` is every one.
    pub expose: Vec<Arc<str>>,
    /// `maxAge` in seconds.
    pub max_age_secs: u32,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ObjectRef, SourceId};

    fn sorted(kind: ObjectKind, paths: &[PathMatch]) -> Vec<String> {
        let object = ObjectRef::of_kind(&SourceId::cluster("c"), kind, "shop", "web");
        let rule =
            |path: &PathMatch| HttpRule::simple(HostMatch::Any, path.clone(), None, object.clone());
        let mut rules: Vec<HttpRule> = paths.iter().map(rule).collect();
        rules.sort_by_key(HttpRule::precedence);
        rules.iter().map(|rule| rule.matches.path.as_str().to_owned()).collect()
    }

    #[test]
    fn an_expression_comes_before_a_prefix_but_for_a_service_of_grpc() {
        let paths = [
            PathMatch::every(),
            PathMatch::Regex("/[^/]+/method".into()),
            PathMatch::Prefix("/service".into()),
            PathMatch::Exact("/service/method".into()),
        ];
        assert_eq!(
            sorted(ObjectKind::HttpRoute, &paths),
            ["/service/method", "/[^/]+/method", "/service", "/"]
        );
        assert_eq!(
            sorted(ObjectKind::GrpcRoute, &paths),
            ["/service/method", "/service", "/[^/]+/method", "/"]
        );
    }
}
