//! Keys of those who sign tokens (RFC 7517, RFC 7518 section 6, RFC 8037). Pure.
//!
//! Keys that both sides know (`oct`) are no keys here, so that no public key can ever be taken for
//! one (RFC 8725, section 2.1).

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use haflinger_core::{JWKS_BYTES_MAX, TokenAlgorithm};
use ring::signature;
use ring::signature::{RsaPublicKeyComponents, UnparsedPublicKey};
use serde::Deserialize;

/// Keys of one set: an issuer has a handful, and a token without `kid` is tried with several.
const KEYS_MAX: usize = 100;

/// Keys that a token without `kid` is tried with.
const CANDIDATES_MAX: usize = 8;

/// Bits of an RSA key (RFC 7518, section 3.3), and what the signatures are verified by takes.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2_048..=8_192;

/// A set of keys. Public all, and yet not shown.
#[derive(PartialEq, Eq)]
pub(crate) struct KeySet {
    keys: Vec<Key>,
    /// Members of the set that are of no use here.
    pub(crate) skipped: usize,
}

#[derive(PartialEq, Eq)]
struct Key {
    id: Option<String>,
    algorithm: Option<TokenAlgorithm>,
    material: Material,
}

#[derive(PartialEq, Eq)]
enum Material {
    Rsa { n: Vec<u8>, e: Vec<u8> },
    P256(Vec<u8>),
    P384(Vec<u8>),
    Ed25519(Vec<u8>),
}

/// Why there is no set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum KeySetError {
    /// Too long.
    #[error("the key set has more than {JWKS_BYTES_MAX} bytes")]
    Size,
    /// No JSON, or not of this form.
    #[error("the key set is no JSON object with a list \"keys\"")]
    Form,
    /// More than the limit.
    #[error("the key set has more than {KEYS_MAX} keys")]
    Count,
    /// Nothing that could have signed.
    #[error("the key set has no RSA, P-256, P-384 or Ed25519 key for signatures")]
    Nothing,
}

#[derive(Deserialize)]
struct Written {
    keys: Vec<serde_json::Value>,
}

/// A JSON Web Key, as far as it is looked at. A wrong type of any makes it one of no use.
#[derive(Deserialize)]
struct WrittenKey {
    kty: String,
    kid: Option<String>,
    alg: Option<String>,
    #[serde(rename = "use")]
    purpose: Option<String>,
    key_ops: Option<Vec<String>>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
}

/// Why a key does not fit a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unfit {
    /// There is none by that name, or of that kind.
    Unknown,
    /// None has signed it.
    Signature,
}

impl fmt::Debug for KeySet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeySet({} keys, {} skipped)", self.keys.len(), self.skipped)
    }
}

impl KeySet {
    /// Reads a set.
    pub(crate) fn parse(text: &[u8]) -> Result<Self, KeySetError> {
        if text.len() > JWKS_BYTES_MAX {
            return Err(KeySetError::Size);
        }
        let written: Written = serde_json::from_slice(text).map_err(|_| KeySetError::Form)?;
        let count = written.keys.len();
        if count > KEYS_MAX {
            return Err(KeySetError::Count);
        }
        let keys: Vec<Key> = written.keys.into_iter().filter_map(Key::of).collect();
        if keys.is_empty() {
            return Err(KeySetError::Nothing);
        }
        let skipped = count - keys.len();
        Ok(Self { keys, skipped })
    }

    /// Whether one of its keys has signed `message`: the one named `id`, or else any of the kind.
    pub(crate) fn verify(
        &self,
        id: Option<&str>,
        algorithm: TokenAlgorithm,
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), Unfit> {
        let named = |key: &&Key| id.is_none_or(|id| key.id.as_deref() == Some(id));
        let fits = |key: &&Key| {
            key.material.fits(algorithm) && key.algorithm.is_none_or(|own| own == algorithm)
        };
        let mut found = Unfit::Unknown;
        for key in self.keys.iter().filter(named).filter(fits).take(CANDIDATES_MAX) {
            if key.material.verify(algorithm, message, signature) {
                return Ok(());
            }
            found = Unfit::Signature;
        }
        Err(found)
    }
}

impl Key {
    /// What of `value` can be used for signatures.
    fn of(value: serde_json::Value) -> Option<Self> {
        let written: WrittenKey = serde_json::from_value(value).ok()?;
        let signs = written.purpose.as_deref().is_none_or(|purpose| purpose == "sig")
            && written.key_ops.as_ref().is_none_or(|all| all.iter().any(|one| one == "verify"));
        if !signs {
            return None;
        }
        // A key for another algorithm than those here is of no use, whatever its kind.
        let algorithm = match written.alg.as_deref() {
            Some(name) => Some(TokenAlgorithm::named(name)?),
            None => None,
        };
        let material = Material::of(&written)?;
        if algorithm.is_some_and(|algorithm| !material.fits(algorithm)) {
            return None;
        }
        Some(Self { id: written.kid, algorithm, material })
    }
}

impl Material {
    fn of(written: &WrittenKey) -> Option<Self> {
        let bytes = |text: &Option<String>| URL_SAFE_NO_PAD.decode(text.as_deref()?).ok();
        let point = |size: usize| {
            let (x, y) = (bytes(&written.x)?, bytes(&written.y)?);
            // Uncompressed (SEC 1, section 2.3.3); leading zeros stand there (RFC 7518, 6.2.1.2).
            (x.len() == size && y.len() == size).then(|| [&[4], &x[..], &y].concat())
        };
        match (&*written.kty, written.crv.as_deref()) {
            ("RSA", _) => {
                let without_zeros = |bytes: Vec<u8>| {
                    let first = bytes.iter().position(|byte| *byte != 0).unwrap_or(bytes.len());
                    bytes[first..].to_vec()
                };
                let n = without_zeros(bytes(&written.n)?);
                let e = without_zeros(bytes(&written.e)?);
                let bits = n.len() * 8 - n.first()?.leading_zeros() as usize;
                RSA_BITS.contains(&bits).then_some(Self::Rsa { n, e })
            }
            ("EC", Some("P-256")) => point(32).map(Self::P256),
            ("EC", Some("P-384")) => point(48).map(Self::P384),
            ("OKP", Some("Ed25519")) => {
                bytes(&written.x).filter(|x| x.len() == 32).map(Self::Ed25519)
            }
            _ => None,
        }
    }

    fn fits(&self, algorithm: TokenAlgorithm) -> bool {
        use TokenAlgorithm::{EdDsa, Es256, Es384, Ps256, Ps384, Ps512, Rs256, Rs384, Rs512};
        match self {
            Self::Rsa { .. } => {
                matches!(algorithm, Rs256 | Rs384 | Rs512 | Ps256 | Ps384 | Ps512)
            }
            Self::P256(_) => algorithm == Es256,
            Self::P384(_) => algorithm == Es384,
            Self::Ed25519(_) => algorithm == EdDsa,
        }
    }

    fn verify(&self, algorithm: TokenAlgorithm, message: &[u8], signed: &[u8]) -> bool {
        use TokenAlgorithm::{EdDsa, Es256, Es384, Ps256, Ps384, Ps512, Rs256, Rs384, Rs512};
        let verified = match self {
            Self::Rsa { n, e } => {
                let padding = match algorithm {
                    Rs256 => &signature::RSA_PKCS1_2048_8192_SHA256,
                    Rs384 => &signature::RSA_PKCS1_2048_8192_SHA384,
                    Rs512 => &signature::RSA_PKCS1_2048_8192_SHA512,
                    Ps256 => &signature::RSA_PSS_2048_8192_SHA256,
                    Ps384 => &signature::RSA_PSS_2048_8192_SHA384,
                    Ps512 => &signature::RSA_PSS_2048_8192_SHA512,
                    Es256 | Es384 | EdDsa => return false,
                };
                RsaPublicKeyComponents { n, e }.verify(padding, message, signed)
            }
            Self::P256(point) => UnparsedPublicKey::new(&signature::ECDSA_P256_SHA256_FIXED, point)
                .verify(message, signed),
            Self::P384(point) => UnparsedPublicKey::new(&signature::ECDSA_P384_SHA384_FIXED, point)
                .verify(message, signed),
            Self::Ed25519(key) => {
                UnparsedPublicKey::new(&signature::ED25519, key).verify(message, signed)
            }
        };
        verified.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 7517, appendix A.1, beside keys that are of no use.
    const SET: &str = r#"{"keys": [
        {"kty":"EC","crv":"P-256","x":"MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4",
         "y":"4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM","use":"enc","kid":"1"},
        {"kty":"EC","crv":"P-256","x":"MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4",
         "y":"4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM","kid":"2"},
        {"kty":"oct","k":"AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75","kid":"3"},
        {"kty":"RSA","n":"3ZWrUY0Y6IKN1qI4BhxR2C7oHVFgGPYkd38uGq1jQNSqEvJFcN93CYm16_G78FAFKWqwsJb3Wx",
         "e":"AQAB","kid":"short"},
        {"kty":"OKP","crv":"X25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"},
        {"kty":7}, 7, {"kty":"EC","crv":"P-256","x":"AA","y":"AA"},
        {"kty":"OKP","crv":"Ed25519","alg":"ES256","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}
    ]}"#;

    #[test]
    fn of_a_set_only_keys_that_can_have_signed_are_taken() {
        let set = KeySet::parse(SET.as_bytes()).unwrap();
        assert_eq!((set.keys.len(), set.skipped), (1, 8));
        assert_eq!(set.keys[0].id.as_deref(), Some("2"));
    }

    #[test]
    fn what_is_no_set_is_refused() {
        let refused = |text: &[u8]| KeySet::parse(text).err();
        assert_eq!(refused(b"{}"), Some(KeySetError::Form));
        assert_eq!(refused(b"<html>"), Some(KeySetError::Form));
        assert_eq!(refused(br#"{"keys":[]}"#), Some(KeySetError::Nothing));
        let many = format!(r#"{{"keys":[{}0]}}"#, "0,".repeat(KEYS_MAX));
        assert_eq!(refused(many.as_bytes()), Some(KeySetError::Count));
        assert_eq!(refused(&vec![b' '; JWKS_BYTES_MAX + 1]), Some(KeySetError::Size));
    }

    /// RFC 8037, appendix A.
    #[test]
    fn a_signature_of_ed25519_is_verified_by_its_own_key_alone() {
        let set = br#"{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"a",
            "x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;
        let set = KeySet::parse(set).unwrap();
        let message = b"eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc";
        let signed = URL_SAFE_NO_PAD
            .decode(
                "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_\
                 MuM0KAg",
            )
            .unwrap();
        let verify = |id, algorithm, message| set.verify(id, algorithm, message, &signed);
        assert_eq!(verify(None, TokenAlgorithm::EdDsa, message), Ok(()));
        assert_eq!(verify(Some("a"), TokenAlgorithm::EdDsa, message), Ok(()));
        assert_eq!(verify(Some("b"), TokenAlgorithm::EdDsa, message), Err(Unfit::Unknown));
        assert_eq!(verify(None, TokenAlgorithm::Es256, message), Err(Unfit::Unknown));
        assert_eq!(verify(None, TokenAlgorithm::EdDsa, b"other"), Err(Unfit::Signature));
    }
}
