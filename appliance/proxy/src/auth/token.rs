//! JSON Web Tokens with a signature (RFC 7515, RFC 7519), read and judged. Pure: the time is an
//! argument.
//!
//! The rules of RFC 8725: the algorithm has to be among those asked for and be that of the key;
//! issuer and audience are compared; there is no token without signature, and none that is signed
//! by a secret that both sides know.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use haflinger_core::{ClaimMatch, TokenAlgorithm, Tokens};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::keys::{KeySet, Unfit};

/// Bytes of a token: what fits into a header of 32 KiB beside everything else.
pub(crate) const TOKEN_BYTES_MAX: usize = 16 * 1024;

/// Bytes of a claim that the backend is told.
const TOLD_BYTES_MAX: usize = 4 * 1024;

/// What a token says.
pub(crate) type Claims = Map<String, Value>;

/// Why a token is not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TokenFault {
    /// It is none.
    Malformed,
    /// It is signed in a way that is not asked for.
    Algorithm,
    /// It is signed by nobody who is known.
    UnknownKey,
    /// Its signature is wrong.
    Signature,
    /// Its time is over, or it has none.
    Expired,
    /// Its time has not begun.
    NotYet,
    /// It is from somebody else.
    Issuer,
    /// It is for somebody else.
    Audience,
    /// A claim is missing, or another.
    Claims,
}

impl TokenFault {
    /// As a label, and in `error_description`.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Algorithm => "algorithm",
            Self::UnknownKey => "unknown_key",
            Self::Signature => "signature",
            Self::Expired => "expired",
            Self::NotYet => "not_yet",
            Self::Issuer => "issuer",
            Self::Audience => "audience",
            Self::Claims => "claims",
        }
    }
}

/// A JOSE header, as far as it is looked at.
#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    /// What has to be understood (RFC 7515, section 4.1.11): nothing of it is.
    crit: Option<Value>,
}

/// What a token says, if it is accepted now: at so many seconds since 1970.
pub(crate) fn verify(
    token: &[u8],
    asked: &Tokens,
    keys: &KeySet,
    now_secs: u64,
) -> Result<Claims, TokenFault> {
    if token.len() > TOKEN_BYTES_MAX {
        return Err(TokenFault::Malformed);
    }
    let last = token.iter().rposition(|byte| *byte == b'.').ok_or(TokenFault::Malformed)?;
    let (message, signature) = (&token[..last], &token[last + 1..]);
    let middle = message.iter().position(|byte| *byte == b'.').ok_or(TokenFault::Malformed)?;
    let (header, payload) = (&message[..middle], &message[middle + 1..]);
    let decode = |part: &[u8]| URL_SAFE_NO_PAD.decode(part).map_err(|_| TokenFault::Malformed);
    let header: Header =
        serde_json::from_slice(&decode(header)?).map_err(|_| TokenFault::Malformed)?;
    if header.crit.is_some() {
        return Err(TokenFault::Malformed);
    }
    let algorithm = TokenAlgorithm::named(&header.alg)
        .filter(|algorithm| asked.algorithms.contains(algorithm))
        .ok_or(TokenFault::Algorithm)?;
    // Nothing of the payload is looked at before somebody known has signed it.
    let signature = decode(signature)?;
    keys.verify(header.kid.as_deref(), algorithm, message, &signature).map_err(
        |unfit| match unfit {
            Unfit::Unknown => TokenFault::UnknownKey,
            Unfit::Signature => TokenFault::Signature,
        },
    )?;
    let claims: Claims =
        serde_json::from_slice(&decode(payload)?).map_err(|_| TokenFault::Malformed)?;
    judge(&claims, asked, now_secs)?;
    Ok(claims)
}

fn judge(claims: &Claims, asked: &Tokens, now_secs: u64) -> Result<(), TokenFault> {
    let (now, leeway) = (now_secs as f64, f64::from(asked.leeway_secs));
    // A number of any form (section 2, "NumericDate"); anything else is no time at all.
    let time = |name: &str| match claims.get(name) {
        None => Ok(None),
        Some(value) => value.as_f64().map(Some).ok_or(TokenFault::Malformed),
    };
    // A token that never ends could never be taken back.
    if time("exp")?.is_none_or(|end| now >= end + leeway) {
        return Err(TokenFault::Expired);
    }
    if time("nbf")?.is_some_and(|begin| now + leeway < begin) {
        return Err(TokenFault::NotYet);
    }
    let text = |name: &str| claims.get(name).and_then(Value::as_str);
    if asked.issuer.as_deref().is_some_and(|issuer| text("iss") != Some(issuer)) {
        return Err(TokenFault::Issuer);
    }
    if !asked.audiences.is_empty() {
        let wanted = |value: &Value| {
            value.as_str().is_some_and(|value| asked.audiences.iter().any(|one| **one == *value))
        };
        let fits = match claims.get("aud") {
            Some(Value::Array(all)) => all.iter().any(wanted),
            Some(one) => wanted(one),
            None => false,
        };
        if !fits {
            return Err(TokenFault::Audience);
        }
    }
    match asked.claims.iter().all(|wanted| has(claims, wanted)) {
        true => Ok(()),
        false => Err(TokenFault::Claims),
    }
}

fn has(claims: &Claims, wanted: &ClaimMatch) -> bool {
    let Some(value) = find(claims, &wanted.claim) else { return false };
    let one_of = |text: &str| wanted.values.iter().any(|own| **own == *text);
    match value {
        _ if wanted.values.is_empty() => !value.is_null(),
        Value::Array(all) => all.iter().filter_map(plain).any(|text| one_of(&text)),
        // RFC 8693, section 4.2.
        Value::String(text) if &*wanted.claim == "scope" => text.split(' ').any(one_of),
        value => plain(value).is_some_and(|text| one_of(&text)),
    }
}

/// A claim by its name or else, split at dots, from object to object.
pub(crate) fn find<'a>(claims: &'a Claims, name: &str) -> Option<&'a Value> {
    if let Some(value) = claims.get(name) {
        return Some(value);
    }
    let (first, rest) = name.split_once('.')?;
    rest.split('.').try_fold(claims.get(first)?, |value, name| value.get(name))
}

/// Text, a number or a truth value, as text.
fn plain(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(truth) => Some(truth.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

/// What the backend is told of a claim.
pub(crate) fn told(claims: &Claims, name: &str) -> Option<String> {
    let text = match find(claims, name)? {
        Value::Array(all) => all.iter().map(plain).collect::<Option<Vec<_>>>()?.join(","),
        value => plain(value)?,
    };
    (text.len() <= TOLD_BYTES_MAX).then_some(text)
}

#[cfg(test)]
#[path = "token_tests.rs"]
mod tests;
