//! Hashes of passwords as htpasswd files have them. Pure; one comparison takes up to seconds of a
//! processor, so never on a worker.

use std::str::FromStr;

use argon2::Argon2;
use argon2::password_hash::phc::PasswordHash;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use md5::{Digest as _, Md5};
use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use sha_crypt::{PasswordVerifier as _, ShaCrypt};

use super::same;

/// Largest cost of bcrypt: 2^14 rounds are about a second. A list with more would let anybody keep
/// the verification busy.
const BCRYPT_COST_MAX: u32 = 14;

/// Most rounds of SHA-256 and SHA-512 `crypt(3)`: about a second.
const SHA_CRYPT_ROUNDS_MAX: u32 = 1_000_000;

/// Rounds of `crypt(3)` that a hash without a number means.
const SHA_CRYPT_ROUNDS_USUAL: u32 = 5_000;

/// Most memory of argon2, in KiB: that of all verifications at once is what it costs.
const ARGON2_KIB_MAX: u32 = 64 * 1024;

/// Most passes of argon2 over its memory: about a second.
const ARGON2_PASSES_MAX: u32 = 10;

/// Rounds of Apache's MD5.
const APR1_ROUNDS: usize = 1_000;

/// Characters of a salt of Apache's MD5 that count.
const APR1_SALT_BYTES: usize = 8;

/// A hash that passwords can be compared with.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Hash {
    Bcrypt(String),
    ShaCrypt(String),
    Argon2(String),
    Apr1 { salt: Vec<u8>, digest: Vec<u8> },
    Sha1(Vec<u8>),
}

/// Why a hash cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum HashError {
    /// Its beginning is that of no known one.
    #[error("a hash is of an unknown kind")]
    Unknown,
    /// It is not whole.
    #[error("a hash is malformed")]
    Malformed,
    /// A comparison would take too long, or too much memory.
    #[error("a hash costs too much to compare with; make it with a lower cost")]
    Cost,
}

impl FromStr for Hash {
    type Err = HashError;

    fn from_str(text: &str) -> Result<Self, HashError> {
        if let Some(encoded) = text.strip_prefix("{SHA}") {
            let digest = STANDARD.decode(encoded).map_err(|_| HashError::Malformed)?;
            return match digest.len() {
                20 => Ok(Self::Sha1(digest)),
                _ => Err(HashError::Malformed),
            };
        }
        let scheme = text.strip_prefix('$').and_then(|rest| rest.split('$').next());
        match scheme.ok_or(HashError::Unknown)? {
            "2y" | "2b" | "2a" => {
                let parts = bcrypt::HashParts::from_str(text).map_err(|_| HashError::Malformed)?;
                within(parts.get_cost(), BCRYPT_COST_MAX, Self::Bcrypt(text.to_owned()))
            }
            "5" | "6" => {
                let rounds = sha_crypt_rounds(text)?;
                within(rounds, SHA_CRYPT_ROUNDS_MAX, Self::ShaCrypt(text.to_owned()))
            }
            "argon2id" | "argon2i" => {
                let hash = PasswordHash::new(text).map_err(|_| HashError::Malformed)?;
                let cost = argon2::Params::try_from(&hash).map_err(|_| HashError::Malformed)?;
                if cost.t_cost() > ARGON2_PASSES_MAX || hash.hash.is_none() {
                    return Err(HashError::Cost);
                }
                within(cost.m_cost(), ARGON2_KIB_MAX, Self::Argon2(text.to_owned()))
            }
            "apr1" => {
                let rest = text.strip_prefix("$apr1$").ok_or(HashError::Malformed)?;
                let (salt, digest) = rest.split_once('$').ok_or(HashError::Malformed)?;
                let salt = &salt.as_bytes()[..salt.len().min(APR1_SALT_BYTES)];
                match digest.len() {
                    22 => Ok(Self::Apr1 { salt: salt.to_vec(), digest: digest.into() }),
                    _ => Err(HashError::Malformed),
                }
            }
            _ => Err(HashError::Unknown),
        }
    }
}

fn within(cost: u32, max: u32, hash: Hash) -> Result<Hash, HashError> {
    if cost > max { Err(HashError::Cost) } else { Ok(hash) }
}

/// `$5$[rounds=N$]salt$digest`.
fn sha_crypt_rounds(text: &str) -> Result<u32, HashError> {
    let fields: Vec<&str> = text.split('$').skip(2).collect();
    match fields[..] {
        [rounds, _, digest] if !digest.is_empty() => {
            let rounds = rounds.strip_prefix("rounds=").ok_or(HashError::Malformed)?;
            rounds.parse().map_err(|_| HashError::Malformed)
        }
        [_, digest] if !digest.is_empty() => Ok(SHA_CRYPT_ROUNDS_USUAL),
        _ => Err(HashError::Malformed),
    }
}

impl Hash {
    /// Whether it is that of `password`. Takes as long for a wrong one.
    pub(super) fn fits(&self, password: &[u8]) -> bool {
        match self {
            Self::Bcrypt(hash) => bcrypt::verify(password, hash).unwrap_or(false),
            Self::ShaCrypt(hash) => {
                ShaCrypt::default().verify_password(password, hash.as_str()).is_ok()
            }
            Self::Argon2(hash) => {
                Argon2::default().verify_password(password, hash.as_str()).is_ok()
            }
            Self::Apr1 { salt, digest } => same(&apr1(password, salt), digest),
            Self::Sha1(expected) => {
                same(digest(&SHA1_FOR_LEGACY_USE_ONLY, password).as_ref(), expected)
            }
        }
    }
}

/// MD5 as Apache's `htpasswd -m` uses it, encoded.
fn apr1(password: &[u8], salt: &[u8]) -> Vec<u8> {
    let inner = Md5::new().chain_update(password).chain_update(salt).chain_update(password);
    let inner = inner.finalize();
    let mut outer = Md5::new().chain_update(password).chain_update(b"$apr1$").chain_update(salt);
    for begin in (0..password.len()).step_by(inner.len()) {
        outer.update(&inner[..(password.len() - begin).min(inner.len())]);
    }
    let mut bits = password.len();
    while bits > 0 {
        match bits & 1 {
            1 => outer.update([0]),
            _ => outer.update(&password[..1]),
        }
        bits >>= 1;
    }
    let mut last = outer.finalize();
    for round in 0..APR1_ROUNDS {
        let mut next = Md5::new();
        let odd = round % 2 == 1;
        next.update(if odd { password } else { &last[..] });
        if round % 3 != 0 {
            next.update(salt);
        }
        if round % 7 != 0 {
            next.update(password);
        }
        next.update(if odd { &last[..] } else { password });
        last = next.finalize();
    }
    encoded(&last)
}

/// The alphabet and the order of bytes of `crypt(3)` for MD5.
fn encoded(digest: &[u8]) -> Vec<u8> {
    const ALPHABET: &[u8; 64] = b"./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    const GROUPS: [[usize; 3]; 5] = [[0, 6, 12], [1, 7, 13], [2, 8, 14], [3, 9, 15], [4, 10, 5]];
    let mut text = Vec::with_capacity(22);
    let mut put = |mut value: u32, count: usize| {
        for _ in 0..count {
            text.push(ALPHABET[(value & 63) as usize]);
            value >>= 6;
        }
    };
    for [a, b, c] in GROUPS {
        put(u32::from_be_bytes([0, digest[a], digest[b], digest[c]]), 4);
    }
    put(digest[11].into(), 2);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(text: &str) -> Hash {
        text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    /// Made by `openssl passwd` and by glibc's `crypt`.
    #[test]
    fn hashes_that_others_have_made_fit_their_password_alone() {
        for text in [
            "$apr1$abcdefgh$h9FWgUz3n9YxylKLlR5SQ/",
            "$5$abcdefgh$gruCpC7VkOTspMQTTSAR8mtlO9Upms.fwqE5y16JVM.",
            "$5$rounds=2000$abcdefgh$XBRXX9zoBDpGbKdvcfMAWt0YeAUBDNNlgztxJdk6Oy9",
            "$6$abcdefgh$ltjgWl6579NluT/Vi1nwEvcil.G5Nbc4NiXZaNGStk8PSwGfQv72N2CKPPrVACtLtip/cZ/1GM\
             /O6IND4WQhG.",
            "{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ=",
        ] {
            let hash = hash(text);
            assert!(hash.fits(b"secret"), "{text}");
            for wrong in [&b"Secret"[..], b"", b"secret\0", b"secretsecret"] {
                assert!(!hash.fits(wrong), "{text}");
            }
        }
    }

    #[test]
    fn hashes_of_bcrypt_fit_whatever_their_version() {
        let text = bcrypt::hash_with_salt(b"secret", 4, [7; 16]).unwrap();
        for version in [bcrypt::Version::TwoA, bcrypt::Version::TwoB, bcrypt::Version::TwoY] {
            let hash = hash(&text.format_for_version(version));
            assert!(hash.fits(b"secret") && !hash.fits(b"secreT"));
        }
    }

    /// From the reference implementation's test vectors.
    #[test]
    fn a_hash_of_argon2_fits() {
        let hash = hash(
            "$argon2id$v=19$m=256,t=2,p=1$c29tZXNhbHQ$nf65EOgLrQMR/uIPnA4rEsF5h7TKyQwu9U1bMCHGi/4",
        );
        assert!(hash.fits(b"password") && !hash.fits(b"Password"));
    }

    #[test]
    fn what_is_cut_off_or_would_take_too_long_is_refused() {
        let refused = |text: &str| text.parse::<Hash>().err();
        assert_eq!(refused("plain"), Some(HashError::Unknown));
        assert_eq!(refused("$1$abcdefgh$x"), Some(HashError::Unknown));
        for text in
            ["$2y$05$short", "{SHA}xx", "$6$salt", "$6$a$b$c$d", "$apr1$salt$x", "$argon2id$x"]
        {
            assert_eq!(refused(text), Some(HashError::Malformed), "{text}");
        }
        let costly = bcrypt::hash_with_salt(b"x", 4, [7; 16]).unwrap().to_string();
        assert_eq!(refused(&costly.replacen("$04$", "$15$", 1)), Some(HashError::Cost));
        assert_eq!(refused("$6$rounds=1000001$salt$x"), Some(HashError::Cost));
        let hash = "c29tZXNhbHQ$nf65EOgLrQMR/uIPnA4rEsF5h7TKyQwu9U1bMCHGi/4";
        assert_eq!(
            refused(&format!("$argon2id$v=19$m=65537,t=2,p=1${hash}")),
            Some(HashError::Cost)
        );
        assert_eq!(
            refused(&format!("$argon2id$v=19$m=256,t=11,p=1${hash}")),
            Some(HashError::Cost)
        );
    }
}
