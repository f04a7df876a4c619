//! What a client is given to find its backend again, on any host of the fleet.
//!
//! ```text
//!  0   1        5        9                    25                              57
//! | 1 | began  | seen   | tag of the backend | HMAC-SHA256 over what is before  |   in base64url
//!       seconds since 1970, big endian         and the name of the session
//! ```
//!
//! Invariant: without the key nobody makes a token that is accepted, changes one, or learns from
//! one which backend it names: a tag is a keyed hash. Pure: the time is an argument.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use haflinger_core::flow::FlowHashKey;
use haflinger_core::{Backend, Persistence, Target};
use ring::hmac::{self, HMAC_SHA256};

/// The first byte of a token: another layout gets another number.
const LAYOUT: u8 = 1;

const TAG_BYTES: usize = 16;
const BODY_BYTES: usize = 9 + TAG_BYTES;
const TOKEN_BYTES: usize = BODY_BYTES + 32;

/// Of the idle time so much may pass before a client is given a younger token: an eighth.
const RENEWED_AFTER: u32 = 8;

/// The keys of tokens: the same on every host that has the same key of the flow hash.
pub(crate) struct SessionKey {
    tags: hmac::Key,
    tokens: hmac::Key,
}

/// Shows neither.
impl fmt::Debug for SessionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SessionKey(withheld)")
    }
}

/// Stands for a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Tag([u8; TAG_BYTES]);

/// What a token says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Token {
    /// When the session began, in seconds since 1970.
    pub(crate) began_secs: u32,
    /// When its client was given this token.
    pub(crate) seen_secs: u32,
    /// The backend.
    pub(crate) tag: Tag,
}

impl SessionKey {
    /// Derived from the key of the flow hash, of which it tells nothing.
    pub(crate) fn derive(from: &FlowHashKey) -> Self {
        let from = hmac::Key::new(HMAC_SHA256, &from.0);
        let derive =
            |purpose: &[u8]| hmac::Key::new(HMAC_SHA256, hmac::sign(&from, purpose).as_ref());
        Self { tags: derive(b"haflinger session tag 1"), tokens: derive(b"haflinger session 1") }
    }

    /// The tag of a backend: of its namespace, name and address, so that a pod that takes over the
    /// address of another is not taken for it.
    pub(crate) fn tag(&self, target: &Target, backend: &Backend) -> Tag {
        let mut context = hmac::Context::with_key(&self.tags);
        for part in [&*target.object.namespace, &*backend.name, &backend.address.to_string()] {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part.as_bytes());
        }
        let mut tag = [0; TAG_BYTES];
        tag.copy_from_slice(&context.sign().as_ref()[..TAG_BYTES]);
        Tag(tag)
    }
}

impl Token {
    /// As a client is given it, for a session of this name.
    pub(crate) fn encode(&self, name: &str, key: &SessionKey) -> String {
        let mut bytes = Vec::with_capacity(TOKEN_BYTES);
        bytes.push(LAYOUT);
        bytes.extend_from_slice(&self.began_secs.to_be_bytes());
        bytes.extend_from_slice(&self.seen_secs.to_be_bytes());
        bytes.extend_from_slice(&self.tag.0);
        let signed = hmac::sign(&key.tokens, &[&bytes, name.as_bytes()].concat());
        bytes.extend_from_slice(signed.as_ref());
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// What `text` says, if it was made here or on another host for a session of this name.
    pub(crate) fn decode(text: &[u8], name: &str, key: &SessionKey) -> Option<Self> {
        let mut bytes = [0; TOKEN_BYTES];
        // One byte more would not fit the buffer, one fewer not fill it.
        let length = URL_SAFE_NO_PAD.decode_slice(text, &mut bytes).ok()?;
        let (body, signature) = bytes.split_first_chunk::<BODY_BYTES>()?;
        if length != TOKEN_BYTES || body[0] != LAYOUT {
            return None;
        }
        hmac::verify(&key.tokens, &[body, name.as_bytes()].concat(), signature).ok()?;
        let secs = |at: usize| {
            let bytes = [body[at], body[at + 1], body[at + 2], body[at + 3]];
            u32::from_be_bytes(bytes)
        };
        let mut tag = [0; TAG_BYTES];
        tag.copy_from_slice(&body[9..]);
        Some(Self { began_secs: secs(1), seen_secs: secs(5), tag: Tag(tag) })
    }

    /// Whether the session still goes on at `now_secs`. A time to come, by the clock of another
    /// host, is now.
    pub(crate) fn is_alive(&self, limits: &Persistence, now_secs: u32) -> bool {
        let within = |since: u32, limit: Option<u32>| {
            limit.is_none_or(|limit| now_secs.saturating_sub(since) < limit)
        };
        within(self.began_secs, limits.absolute_secs) && within(self.seen_secs, limits.idle_secs)
    }

    /// Whether its client should be given a younger one.
    pub(crate) fn is_old(&self, limits: &Persistence, now_secs: u32) -> bool {
        limits.idle_secs.is_some_and(|idle| {
            now_secs.saturating_sub(self.seen_secs) >= (idle / RENEWED_AFTER).max(1)
        })
    }
}

#[cfg(test)]
mod tests {
    use haflinger_core::SessionCarrier;
    use proptest::prelude::*;

    use super::*;

    fn key() -> SessionKey {
        SessionKey::derive(&FlowHashKey(*b"sixteen byte key"))
    }

    fn token(began_secs: u32, seen_secs: u32) -> Token {
        Token { began_secs, seen_secs, tag: Tag([7; TAG_BYTES]) }
    }

    fn limits(absolute_secs: Option<u32>, idle_secs: Option<u32>) -> Persistence {
        let carrier = SessionCarrier::Header;
        Persistence { name: "s".into(), carrier, absolute_secs, idle_secs }
    }

    #[test]
    fn a_token_is_accepted_by_every_host_with_the_key_and_by_no_other() {
        let text = token(1, 2).encode("s", &key());
        assert_eq!(Token::decode(text.as_bytes(), "s", &key()), Some(token(1, 2)));
        let other = SessionKey::derive(&FlowHashKey(*b"another byte key"));
        assert_eq!(Token::decode(text.as_bytes(), "s", &other), None);
        assert_eq!(Token::decode(text.as_bytes(), "t", &key()), None, "of another session");
    }

    #[test]
    fn a_session_ends_after_its_time_and_after_a_pause() {
        let alive = |absolute, idle, now| token(100, 150).is_alive(&limits(absolute, idle), now);
        assert!(alive(None, None, u32::MAX));
        assert_eq!([199, 200].map(|now| alive(Some(100), None, now)), [true, false]);
        assert_eq!([159, 160].map(|now| alive(None, Some(10), now)), [true, false]);
        assert!(alive(Some(1), Some(1), 50), "the clock of another host is ahead");
    }

    #[test]
    fn only_tokens_with_an_idle_time_are_renewed_and_not_with_each_answer() {
        let old = |idle, now| token(100, 150).is_old(&limits(None, idle), now);
        assert!(!old(None, u32::MAX));
        assert_eq!([159, 160].map(|now| old(Some(80), now)), [false, true]);
        assert_eq!([150, 151].map(|now| old(Some(1), now)), [false, true]);
    }

    proptest! {
        #[test]
        fn no_other_bytes_are_taken_for_a_token(at in 0..76_usize, bit in 0..8_u32) {
            let mut text = token(1, 2).encode("s", &key()).into_bytes();
            prop_assert_eq!(text.len(), 76);
            text[at] ^= 1 << bit;
            prop_assert_eq!(Token::decode(&text, "s", &key()), None);
            prop_assert_eq!(Token::decode(&text[..at], "s", &key()), None);
        }

        #[test]
        fn any_bytes_are_read_without_harm(text in prop::collection::vec(any::<u8>(), 0..120)) {
            prop_assert_eq!(Token::decode(&text, "s", &key()), None);
        }
    }
}
