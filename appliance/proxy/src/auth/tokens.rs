//! The check by token. Pure.

use std::sync::Arc;

use haflinger_core::{TokenKeys, TokenPlace, Tokens};
use http::HeaderValue;
use http::header::{self, HeaderName};

use super::keys::KeySet;
use super::token::{TokenFault, told, verify};
use super::{Denied, Grants, KeySlot, Outcome, Question, Shown, Verdict, places, quoted};

/// A token is asked for.
#[derive(Debug)]
pub(crate) struct TokensCheck {
    asked: Arc<Tokens>,
    keys: Keys,
    to_headers: Vec<(HeaderName, Arc<str>)>,
    /// What is taken out of every request that passes.
    removed: Grants,
    /// Without an error (RFC 6750, section 3).
    challenge: HeaderValue,
}

#[derive(Debug)]
enum Keys {
    Fixed(KeySet),
    Fetched(Arc<KeySlot>),
}

impl TokensCheck {
    /// Checks `from`; `None` when it cannot be followed. `slot` finds fetched keys.
    pub(crate) fn compile(
        from: &Arc<Tokens>,
        slot: impl FnOnce(&haflinger_core::KeySource) -> Arc<KeySlot>,
    ) -> Option<Self> {
        let keys = match &from.keys {
            TokenKeys::Inline(text) => Keys::Fixed(KeySet::parse(text.as_bytes()).ok()?),
            TokenKeys::Fetched(source) => Keys::Fetched(slot(source)),
        };
        if from.algorithms.is_empty() || from.places.is_empty() {
            return None;
        }
        let mut removed = Grants::default();
        let mut to_headers = Vec::with_capacity(from.to_headers.len());
        for told in &from.to_headers {
            let name: HeaderName = told.header.parse().ok()?;
            removed.remove.push(name.clone());
            to_headers.push((name, told.claim.clone()));
        }
        for place in from.places.iter().filter(|_| !from.pass_on) {
            match place {
                TokenPlace::Bearer => removed.remove.push(header::AUTHORIZATION),
                TokenPlace::Header { name, .. } => removed.remove.push(name.parse().ok()?),
                TokenPlace::Cookie(name) => removed.cookies.push(name.clone()),
                TokenPlace::Query(name) => removed.parameters.push(name.clone()),
            }
        }
        let challenge = format!("Bearer realm={}", quoted(&from.realm));
        let challenge = HeaderValue::from_str(&challenge).ok()?;
        Some(Self { asked: from.clone(), keys, to_headers, removed, challenge })
    }

    /// What can be said at once.
    pub(crate) fn begin(&self, shown: Shown<'_>) -> Outcome {
        self.judge(shown, true)
    }

    /// What can be said once keys have been looked for.
    pub(crate) fn conclude(&self, shown: Shown<'_>, _: Verdict) -> Outcome {
        self.judge(shown, false)
    }

    fn judge(&self, shown: Shown<'_>, may_ask: bool) -> Outcome {
        let Some(token) = places::find(&self.asked.places, shown.fields, shown.query) else {
            return Denied::challenge("tokens", "missing", 401, self.challenge.clone());
        };
        let now_secs = shown.now.as_secs();
        let verified = match &self.keys {
            Keys::Fixed(keys) => verify(token, &self.asked, keys, now_secs),
            Keys::Fetched(slot) => match (slot.keys(), may_ask) {
                (None, true) => return Outcome::Ask(Question::Keys(slot.clone())),
                (None, false) => return Denied::failure("tokens", "no_keys"),
                (Some(keys), _) => match verify(token, &self.asked, &keys, now_secs) {
                    Err(TokenFault::UnknownKey) if may_ask && slot.may_fetch() => {
                        return Outcome::Ask(Question::Keys(slot.clone()));
                    }
                    verified => verified,
                },
            },
        };
        match verified {
            Err(fault) => self.refuse(fault),
            Ok(claims) => {
                let mut grants = self.removed.clone();
                grants.user = told(&claims, &self.asked.user_claim).map(Into::into);
                let told = self.to_headers.iter().filter_map(|(name, claim)| {
                    let value = HeaderValue::try_from(told(&claims, claim)?).ok()?;
                    Some((name.clone(), value))
                });
                grants.add = told.collect();
                Outcome::Pass(grants)
            }
        }
    }

    /// RFC 6750, section 3.1.
    fn refuse(&self, fault: TokenFault) -> Outcome {
        let (status, error) = match fault {
            TokenFault::Claims => (403, "insufficient_scope"),
            _ => (401, "invalid_token"),
        };
        let challenge = format!(
            "Bearer realm={}, error=\"{error}\", error_description=\"{}\"",
            quoted(&self.asked.realm),
            fault.as_str()
        );
        let challenge =
            HeaderValue::from_str(&challenge).unwrap_or_else(|_| self.challenge.clone());
        Denied::challenge("tokens", fault.as_str(), status, challenge)
    }
}
