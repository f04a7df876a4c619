//! How the requests of one client keep going to one backend (GEP-1619).

use std::hash::Hasher as _;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use siphasher::sip::SipHasher13;

use super::ObjectRef;

/// Longest [`Persistence::name`] in bytes (`sessionPersistence.sessionName`).
pub const SESSION_NAME_BYTES_MAX: usize = 128;

/// Longest [`Persistence::absolute_secs`] and [`Persistence::idle_secs`]: 400 days, beyond which
/// browsers forget a cookie anyway (RFC 6265bis, section 5.5).
pub const SESSION_SECS_MAX: u32 = 400 * 86_400;

/// A token that a client is given with an answer and shows with its next requests names the
/// backend that they go to, for as long as that is active.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Persistence {
    /// The name of the cookie or header field: a token (RFC 9110, section 5.6.2).
    pub name: Arc<str>,
    /// Where the token stands.
    pub carrier: SessionCarrier,
    /// Seconds from its first request after which a session ends, 1 to [`SESSION_SECS_MAX`];
    /// `None`: never.
    pub absolute_secs: Option<u32>,
    /// Seconds without a request after which a session ends, 1 to [`SESSION_SECS_MAX`]; `None`:
    /// never.
    pub idle_secs: Option<u32>,
}

impl Persistence {
    /// The name of sessions of rule number `rule` of `object`, where it has none: the same on every
    /// host, another one for every rule, and saying nothing of either.
    pub fn default_name(object: &ObjectRef, rule: usize) -> Arc<str> {
        let mut hasher = SipHasher13::new();
        for part in [object.kind.as_str(), &object.namespace, &object.name] {
            hasher.write_u64(part.len() as u64);
            hasher.write(part.as_bytes());
        }
        hasher.write_u64(rule as u64);
        format!("session-{:012x}", hasher.finish() >> 16).into()
    }

    /// Whether `name` can be that of a cookie and that of a header field: more narrow than a token,
    /// whose other characters trip parsers of cookies.
    pub fn is_name(name: &str) -> bool {
        let fits = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
        (1..=SESSION_NAME_BYTES_MAX).contains(&name.len()) && name.bytes().all(fits)
    }
}

/// Where the token of a session stands.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SessionCarrier {
    /// In a cookie (RFC 6265).
    Cookie(SessionCookie),
    /// In a header field, of the answer and of the next requests.
    Header,
}

/// The attributes of the cookie. It is `HttpOnly` always, and `Secure` where the client speaks TLS.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SessionCookie {
    /// `cookieConfig.lifetimeType: Permanent`: it outlives the browser, until the session ends.
    /// Needs [`Persistence::absolute_secs`].
    pub permanent: bool,
    /// `Path`, beginning with `/`.
    pub path: Arc<str>,
    /// `Domain`; `None`: the host of the request alone.
    pub domain: Option<Arc<str>>,
    /// `SameSite`; `None`: as the browser does without it.
    pub same_site: Option<SameSite>,
}

/// `SameSite` of a cookie (RFC 6265bis, section 4.1.2.7).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SameSite {
    /// `Strict`.
    Strict,
    /// `Lax`.
    Lax,
    /// `None`. Browsers want `Secure` with it.
    None,
}

impl Default for SessionCookie {
    /// For the time that the browser is open, on every path.
    fn default() -> Self {
        Self { permanent: false, path: "/".into(), domain: None, same_site: None }
    }
}

impl SameSite {
    /// As it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Strict => "Strict",
            Self::Lax => "Lax",
            Self::None => "None",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ObjectKind, SourceId};

    #[test]
    fn every_rule_has_a_name_of_its_own_that_each_host_finds() {
        let route = |cluster, name| {
            ObjectRef::of_kind(&SourceId::cluster(cluster), ObjectKind::HttpRoute, "shop", name)
        };
        let name = Persistence::default_name(&route("a", "web"), 0);
        assert!(Persistence::is_name(&name));
        assert_eq!(name, Persistence::default_name(&route("b", "web"), 0));
        assert_ne!(name, Persistence::default_name(&route("a", "web"), 1));
        assert_ne!(name, Persistence::default_name(&route("a", "we"), 0));
        // Frozen: another one would end every session with an upgrade.
        assert_eq!(&*name, "session-0a0281d2c1f6");
    }

    #[test]
    fn names_are_those_of_cookies_and_fields_alike() {
        let longest = "x".repeat(SESSION_NAME_BYTES_MAX);
        let longer = format!("{longest}x");
        for name in ["a", "X-Session_1.b", &longest] {
            assert!(Persistence::is_name(name), "{name}");
        }
        for name in ["", "a b", "a=b", "a;b", "a\nb", "ä", &longer] {
            assert!(!Persistence::is_name(name), "{name}");
        }
    }
}
