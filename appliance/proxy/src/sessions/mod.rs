//! Sessions: the requests of one client keep going to one backend (GEP-1619).
//!
//! The client carries a token that names the backend; nothing is remembered here, so that a
//! restart, another worker or another host of the fleet goes on with it. A token whose backend is
//! no longer active, whose time is over or that was not made with the fleet's key counts as none:
//! a backend is chosen as for a first request, and its token goes to the client with the answer.
//!
//! Pure: the time is an argument.

mod metrics;
mod token;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use haflinger_core::{BackendSet, BackendState, Persistence, SessionCarrier, SessionCookie};
use http::header::{self, HeaderName};
use http::{HeaderMap, HeaderValue};

pub(crate) use self::metrics::SessionMetrics;
pub(crate) use self::token::{SessionKey, Tag, Token};

/// Tokens that are looked at in one request. A client that carries more, from cookies of several
/// paths or domains, has one of the first accepted or none.
const TOKENS_MAX: usize = 4;

/// What keeps the clients of a rule at their backends.
#[derive(Debug)]
pub(crate) struct Sessions {
    limits: Persistence,
    /// The field of the token; of cookies the one in answers.
    field: HeaderName,
}

/// What tokens are read and made by: of the host, and now.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Desk<'a> {
    /// The keys.
    pub(crate) key: &'a SessionKey,
    /// Seconds since 1970.
    pub(crate) now_secs: u32,
}

/// The tags of a target's backends. Made when the first token asks for them, and made anew when the
/// backends have changed.
#[derive(Debug, Default)]
pub(crate) struct Tags {
    now: ArcSwapOption<TagsOf>,
}

#[derive(Debug)]
struct TagsOf {
    set: Arc<BackendSet>,
    addresses: HashMap<Tag, SocketAddr>,
}

impl Sessions {
    /// `None` when the name is none: then nothing can be kept.
    pub(crate) fn compile(from: &Persistence) -> Option<Self> {
        let name: HeaderName = from.name.parse().ok()?;
        let field = match &from.carrier {
            SessionCarrier::Cookie(_) => header::SET_COOKIE,
            SessionCarrier::Header => name,
        };
        Some(Self { limits: from.clone(), field })
    }

    /// The session that a request goes on with, and what `find` finds by its tag.
    pub(crate) fn resume<T>(
        &self,
        fields: &HeaderMap,
        desk: Desk<'_>,
        find: impl Fn(&Tag) -> Option<T>,
    ) -> Option<(Token, T)> {
        let name = &*self.limits.name;
        let resume = |text: &[u8]| {
            let token = Token::decode(text, name, desk.key)?;
            let found = token.is_alive(&self.limits, desk.now_secs).then(|| find(&token.tag))??;
            Some((token, found))
        };
        match self.limits.carrier {
            SessionCarrier::Cookie(_) => cookies(fields, name).take(TOKENS_MAX).find_map(resume),
            SessionCarrier::Header => {
                let values = fields.get_all(&self.field).iter().take(TOKENS_MAX);
                values.map(HeaderValue::as_bytes).find_map(resume)
            }
        }
    }

    /// The field of the answer of the backend with `tag`, to a request of the session `shown`;
    /// `None` when the client has what it needs.
    pub(crate) fn token(
        &self,
        shown: Option<Token>,
        tag: Tag,
        desk: Desk<'_>,
        tls: bool,
    ) -> Option<(HeaderName, HeaderValue)> {
        let Desk { key, now_secs } = desk;
        let kept = shown.filter(|token| token.tag == tag);
        let is_header = self.limits.carrier == SessionCarrier::Header;
        if kept.is_some_and(|token| !is_header && !token.is_old(&self.limits, now_secs)) {
            return None;
        }
        let began_secs = kept.map_or(now_secs, |token| token.began_secs);
        let token = Token { began_secs, seen_secs: now_secs, tag };
        let text = token.encode(&self.limits.name, key);
        let value = match &self.limits.carrier {
            SessionCarrier::Header => text,
            SessionCarrier::Cookie(cookie) => {
                let left = self
                    .limits
                    .absolute_secs
                    .map(|absolute| absolute.saturating_sub(now_secs.saturating_sub(began_secs)));
                set_cookie(&self.limits.name, &text, cookie, left, tls)
            }
        };
        // Attributes have been checked where they were written; one that is none is no reason to
        // lose the answer.
        Some((self.field.clone(), HeaderValue::from_str(&value).ok()?))
    }
}

impl Tags {
    /// The active backend with this tag.
    pub(crate) fn find(
        &self,
        set: &Arc<BackendSet>,
        tag: &Tag,
        key: &SessionKey,
    ) -> Option<SocketAddr> {
        let now = self.now.load();
        let now = match &*now {
            Some(now) if Arc::ptr_eq(&now.set, set) => now.clone(),
            _ => {
                let tags = set.backends.iter();
                let tags = tags.map(|backend| (key.tag(&set.target, backend), backend.address));
                let now = Arc::new(TagsOf { addresses: tags.collect(), set: set.clone() });
                self.now.store(Some(now.clone()));
                now
            }
        };
        let address = now.addresses.get(tag)?;
        let active = |address: &SocketAddr| {
            set.get(address).is_some_and(|backend| backend.state == BackendState::Active)
        };
        Some(*address).filter(active)
    }
}

/// The values of the cookies of this name (RFC 6265, section 4.2.1).
fn cookies<'a>(fields: &'a HeaderMap, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
    let pairs = fields.get_all(header::COOKIE).iter();
    let pairs = pairs.flat_map(|value| value.as_bytes().split(|byte| *byte == b';'));
    pairs.filter_map(move |pair| {
        let rest = pair.trim_ascii().strip_prefix(name.as_bytes())?.strip_prefix(b"=")?;
        Some(rest.strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\"")).unwrap_or(rest))
    })
}

/// `Set-Cookie` (RFC 6265, section 4.1.1).
fn set_cookie(
    name: &str,
    token: &str,
    cookie: &SessionCookie,
    left_secs: Option<u32>,
    tls: bool,
) -> String {
    let SessionCookie { permanent, path, domain, same_site } = cookie;
    let mut text = format!("{name}={token}; Path={path}");
    if let Some(domain) = domain {
        text.push_str("; Domain=");
        text.push_str(domain);
    }
    if let Some(left) = left_secs.filter(|_| *permanent) {
        text.push_str("; Max-Age=");
        text.push_str(&left.to_string());
    }
    text.push_str("; HttpOnly");
    if tls {
        text.push_str("; Secure");
    }
    if let Some(same_site) = same_site {
        text.push_str("; SameSite=");
        text.push_str(same_site.as_str());
    }
    text
}

#[cfg(test)]
mod tests;
