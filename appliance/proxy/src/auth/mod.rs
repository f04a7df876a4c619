//! Who a client has to be before a backend hears of its request.
//!
//! ```text
//!  admission ──begin──> check ──> pass, or deny
//!                         └─ask──> the engine: compares a password, waits for keys, asks a server
//!                                    └──conclude──> check ──> pass, or deny
//! ```
//!
//! Judging is pure: what a check cannot know is a question, whose answer comes back as an
//! argument. A check that cannot be made lets nobody pass.
//!
//! What it never does: write a password, a token or a hash anywhere; compare a password on a
//! worker; let what a client says in a field stand that a check fills in.

mod authorizer;
mod comparisons;
mod fetched;
mod hashes;
mod keys;
mod metrics;
mod names;
mod places;
mod schedule;
mod shelf;
mod token;
mod tokens;
mod users;
mod users_check;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderName};
use http::{HeaderMap, HeaderValue, Method};

pub(crate) use self::authorizer::{
    AuthorizerCheck, AuthorizerFailure, BODY_BYTES_MAX as AUTHORIZER_ANSWER_MAX, Told, Whom,
};
pub(crate) use self::comparisons::Comparisons;
pub(crate) use self::fetched::{Fetched, KeySlot, keep_fetching};
pub(crate) use self::metrics::{AuthMetrics, Authorization};
pub(crate) use self::names::ServerNames;
pub(crate) use self::shelf::AuthShelf;
pub(crate) use self::tokens::TokensCheck;
pub(crate) use self::users::{Credentials, KnownUsers, UserSlot};
pub(crate) use self::users_check::UsersCheck;

/// What a check is given of a request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shown<'a> {
    /// Its method.
    pub(crate) method: &'a Method,
    /// `http` or `https`, as the client speaks it.
    pub(crate) scheme: &'a str,
    /// The host and port asked for, as sent.
    pub(crate) host: Option<&'a str>,
    /// Its path and query.
    pub(crate) target: &'a str,
    /// Its query.
    pub(crate) query: Option<&'a str>,
    /// Its fields.
    pub(crate) fields: &'a HeaderMap,
    /// Since 1970.
    pub(crate) now: Duration,
}

impl Shown<'_> {
    /// What the client has asked for, as a whole.
    fn url(&self) -> String {
        format!("{}://{}{}", self.scheme, self.host.unwrap_or_default(), self.target)
    }
}

/// What a check says.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// The request may go on.
    Pass(Grants),
    /// Something has to be found out first.
    Ask(Question),
    /// It may not.
    Deny(Box<Denied>),
}

/// What has to be found out.
#[derive(Clone, Debug)]
pub(crate) enum Question {
    /// Whether a password is right.
    Compare(Arc<KnownUsers>, Credentials),
    /// Whether there are other keys now.
    Keys(Arc<KeySlot>),
    /// What a server says.
    Authorize(Arc<AuthorizerCheck>),
}

/// What has been found out.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// Whose the credentials are, if they are right.
    User(Option<Arc<str>>),
    /// Too much is being compared.
    Busy,
    /// Keys have been looked for, with whatever success.
    KeysLookedFor,
    /// What the server has said.
    Told(Result<Told, AuthorizerFailure>),
}

/// What comes of having passed. `Debug` shows none of it.
#[derive(Clone, Default)]
pub(crate) struct Grants {
    /// The user's name.
    pub(crate) user: Option<Arc<str>>,
    /// Fields that go no further.
    pub(crate) remove: Vec<HeaderName>,
    /// Fields that the backend is told beside; a name may stand several times.
    pub(crate) add: Vec<(HeaderName, HeaderValue)>,
    /// Cookies that go no further.
    pub(crate) cookies: Vec<Arc<str>>,
    /// Parameters that go no further.
    pub(crate) parameters: Vec<Arc<str>>,
    /// Fields that the client is told.
    pub(crate) to_client: Vec<(HeaderName, HeaderValue)>,
}

/// Why a request may not go on, and what it is answered. `Debug` shows the reason alone.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Denied {
    /// What was asked for: `users`, `tokens`, `authorizer`.
    pub(crate) by: &'static str,
    /// Why, as a label.
    pub(crate) reason: &'static str,
    /// The status.
    pub(crate) status: u16,
    /// Fields of the answer.
    pub(crate) fields: Vec<(HeaderName, HeaderValue)>,
    /// The content, when it is another's.
    pub(crate) body: Option<Bytes>,
}

impl fmt::Debug for Grants {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Grants(withheld)")
    }
}

impl fmt::Debug for Denied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Denied({} {} {})", self.by, self.reason, self.status)
    }
}

impl PartialEq for Question {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Compare(one, a), Self::Compare(other, b)) => Arc::ptr_eq(one, other) && a == b,
            (Self::Keys(one), Self::Keys(other)) => Arc::ptr_eq(one, other),
            (Self::Authorize(one), Self::Authorize(other)) => Arc::ptr_eq(one, other),
            _ => false,
        }
    }
}

impl Eq for Question {}

impl Grants {
    /// Adds those of another check.
    pub(crate) fn extend(&mut self, other: Self) {
        self.user = other.user.or(self.user.take());
        // What one check has filled in, another may fill in anew.
        self.add.retain(|(name, _)| !other.remove.contains(name));
        self.remove.extend(other.remove);
        self.add.extend(other.add);
        self.cookies.extend(other.cookies);
        self.parameters.extend(other.parameters);
        self.to_client.extend(other.to_client);
    }

    /// The cookies that go on, of those in `fields`; `None`: as they are.
    pub(crate) fn cookies_of(&self, fields: &HeaderMap) -> Option<Option<HeaderValue>> {
        let touched = !self.cookies.is_empty() && fields.contains_key(header::COOKIE);
        touched.then(|| places::cookies_without(fields, &self.cookies))
    }

    /// The query that goes on; `None`: as it is.
    pub(crate) fn query_of(&self, query: Option<&str>) -> Option<Option<String>> {
        let query = query.filter(|_| !self.parameters.is_empty())?;
        Some(places::query_without(query, &self.parameters))
    }
}

impl Denied {
    /// A refusal with a challenge (RFC 9110, section 11.6.1).
    fn challenge(
        by: &'static str,
        reason: &'static str,
        status: u16,
        challenge: HeaderValue,
    ) -> Outcome {
        let fields = vec![(header::WWW_AUTHENTICATE, challenge)];
        Outcome::Deny(Box::new(Self { by, reason, status, fields, body: None }))
    }

    /// A failure of ours, or of whom we rely on.
    fn failure(by: &'static str, reason: &'static str) -> Outcome {
        Outcome::Deny(Box::new(Self { by, reason, status: 503, fields: Vec::new(), body: None }))
    }

    /// The status of a gRPC call (gRPC, "Status codes and their use in gRPC").
    pub(crate) fn grpc_status(&self) -> u16 {
        match self.status {
            403 => 7,
            413 => 8,
            503 => 14,
            _ => 16,
        }
    }
}

/// Whether two secrets are the same, in a time that does not tell where they differ.
fn same(one: &[u8], other: &[u8]) -> bool {
    one.len() == other.len() && one.iter().zip(other).fold(0, |all, (a, b)| all | (a ^ b)) == 0
}

/// `text` in quotes (RFC 9110, section 5.6.4), without what cannot stand in a field.
fn quoted(text: &str) -> String {
    let shown = text.chars().filter(|c| matches!(c, ' '..='~'));
    let mut quoted = String::from('"');
    for c in shown {
        if matches!(c, '"' | '\\') {
            quoted.push('\\');
        }
        quoted.push(c);
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
impl<'a> Shown<'a> {
    /// `GET https://shop.example/a?b=c` with these fields.
    pub(crate) fn example(fields: &'a HeaderMap) -> Self {
        Self {
            method: &Method::GET,
            scheme: "https",
            host: Some("shop.example"),
            target: "/a?b=c",
            query: Some("b=c"),
            fields,
            now: Duration::from_secs(1_000_000),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_quoted_stays_within_its_quotes() {
        assert_eq!(quoted("a \"b\" \\c\n\u{e9}"), r#""a \"b\" \\c""#);
    }

    #[test]
    fn secrets_are_the_same_by_every_byte() {
        assert!(same(b"abc", b"abc") && same(b"", b""));
        assert!(!same(b"abc", b"abd") && !same(b"abc", b"ab") && !same(b"", b"a"));
    }

    #[test]
    fn a_later_check_fills_in_anew_what_an_earlier_one_has() {
        let name = || HeaderName::from_static("x-user");
        let grant = |value| Grants {
            remove: vec![name()],
            add: vec![(name(), HeaderValue::from_static(value))],
            ..Grants::default()
        };
        let mut all = grant("one");
        all.extend(grant("two"));
        assert_eq!(all.add, [(name(), HeaderValue::from_static("two"))]);
    }
}
