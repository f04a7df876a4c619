//! Names and passwords (RFC 7617). Pure, but for the memory of passwords that were right.
//!
//! A password is compared with its hash off the workers and once: what was right is remembered by
//! a keyed hash, with the list that it was right for, so that another list begins anew.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwapOption;
use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use haflinger_core::UserList;
use http::{HeaderMap, header};
use ring::hmac;

use super::hashes::Hash;

/// Passwords that are remembered of one list: each takes about 100 bytes. Beyond it all are
/// forgotten, and compared anew when they come again.
const REMEMBERED_MAX: usize = 10_000;

/// Bytes of `Authorization` that are looked at: a name, a password and their encoding.
const CREDENTIALS_BYTES_MAX: usize = 2_048;

/// Bytes of a password that is compared: the time for some hashes grows with it.
const PASSWORD_BYTES_MAX: usize = 512;

/// Padding is wanted by RFC 4648, and left out by some clients.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// A name and a password. `Debug` shows neither.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Credentials {
    name: String,
    password: Vec<u8>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials(withheld)")
    }
}

impl Credentials {
    /// Those of a request; `None` without any, and for what is none.
    pub(crate) fn of(fields: &HeaderMap) -> Option<Self> {
        let mut values = fields.get_all(header::AUTHORIZATION).iter();
        let (Some(value), None) = (values.next(), values.next()) else { return None };
        Self::parse(value.as_bytes())
    }

    /// The value of `Authorization` (RFC 7617, section 2).
    pub(crate) fn parse(value: &[u8]) -> Option<Self> {
        if value.len() > CREDENTIALS_BYTES_MAX {
            return None;
        }
        let (scheme, encoded) = value.split_at_checked(6)?;
        if !scheme.eq_ignore_ascii_case(b"basic ") {
            return None;
        }
        let decoded = BASE64.decode(encoded.trim_ascii()).ok()?;
        let colon = decoded.iter().position(|byte| *byte == b':')?;
        let name = String::from_utf8(decoded[..colon].to_vec()).ok()?;
        let password = decoded[colon + 1..].to_vec();
        // Neither may have control characters (section 2).
        let control = |bytes: &[u8]| bytes.iter().any(u8::is_ascii_control);
        if password.len() > PASSWORD_BYTES_MAX || control(&password) || control(name.as_bytes()) {
            return None;
        }
        Some(Self { name, password })
    }
}

/// What is known about credentials without comparing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Known {
    /// They were right: whose they are.
    Right(Arc<str>),
    /// They have to be compared.
    Unknown,
}

/// The place of a list that may change, or be missing.
#[derive(Debug)]
pub(crate) struct UserSlot(ArcSwapOption<KnownUsers>);

impl UserSlot {
    /// With this list.
    pub(crate) fn new(list: Option<&Arc<UserList>>) -> Self {
        let slot = Self(ArcSwapOption::empty());
        slot.store(list);
        slot
    }

    /// The users now; `None`: there is no list.
    pub(crate) fn load(&self) -> Option<Arc<KnownUsers>> {
        self.0.load_full()
    }

    /// Puts another list in service, and forgets whose passwords were right.
    pub(crate) fn store(&self, list: Option<&Arc<UserList>>) {
        let known = list.map(|list| Arc::new(KnownUsers::new(list)));
        if let (Some(list), Some(known)) = (list, &known)
            && (known.unusable > 0 || list.fault.is_some())
        {
            let (unusable, fault) = (known.unusable, list.fault.as_deref());
            tracing::warn!(unusable, fault, "a list of users cannot be used as a whole");
        }
        self.0.store(known);
    }
}

/// The users of one list, ready to be compared with.
pub(crate) struct KnownUsers {
    users: HashMap<Arc<str>, Hash>,
    /// What an unknown name is compared with, so that it takes as long as a wrong password.
    stand_in: Option<Hash>,
    /// Users whose hashes cannot be used.
    pub(crate) unusable: usize,
    key: hmac::Key,
    right: Mutex<HashMap<[u8; 32], Arc<str>>>,
}

impl fmt::Debug for KnownUsers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KnownUsers({})", self.users.len())
    }
}

impl KnownUsers {
    /// Those of `list`.
    pub(crate) fn new(list: &UserList) -> Self {
        let parse =
            |user: &haflinger_core::User| Some((user.name.clone(), user.hash.parse().ok()?));
        let users: HashMap<Arc<str>, Hash> = list.users.iter().filter_map(parse).collect();
        let stand_in = list.users.iter().find_map(|user| user.hash.parse().ok());
        let unusable = list.users.len() - users.len();
        let secret: [u8; 32] = rand::random();
        let key = hmac::Key::new(hmac::HMAC_SHA256, &secret);
        Self { users, stand_in, unusable, key, right: Mutex::default() }
    }

    /// What is known without comparing.
    pub(crate) fn recall(&self, credentials: &Credentials) -> Known {
        let right = self.right.lock().unwrap_or_else(PoisonError::into_inner);
        match right.get(&self.tag(credentials)) {
            Some(name) => Known::Right(name.clone()),
            None => Known::Unknown,
        }
    }

    /// Compares: takes up to a second of a processor. Whose credentials they are, if they are right.
    pub(crate) fn compare(&self, credentials: &Credentials) -> Option<Arc<str>> {
        let Some((name, hash)) = self.users.get_key_value(&*credentials.name) else {
            if let Some(stand_in) = &self.stand_in {
                std::hint::black_box(stand_in.fits(&credentials.password));
            }
            return None;
        };
        if !hash.fits(&credentials.password) {
            return None;
        }
        let mut right = self.right.lock().unwrap_or_else(PoisonError::into_inner);
        if right.len() >= REMEMBERED_MAX {
            right.clear();
        }
        right.insert(self.tag(credentials), name.clone());
        Some(name.clone())
    }

    /// Neither name nor password can be had from it, nor found with the same.
    fn tag(&self, credentials: &Credentials) -> [u8; 32] {
        let mut context = hmac::Context::with_key(&self.key);
        // No name has a colon.
        for part in [credentials.name.as_bytes(), b":", &credentials.password] {
            context.update(part);
        }
        let mut tag = [0; 32];
        tag.copy_from_slice(context.sign().as_ref());
        tag
    }
}

#[cfg(test)]
mod tests {
    use base64::engine::general_purpose::STANDARD;

    use super::*;

    fn parse(text: &str) -> Option<(String, Vec<u8>)> {
        let value = format!("Basic {}", STANDARD.encode(text));
        Credentials::parse(value.as_bytes()).map(|found| (found.name, found.password))
    }

    #[test]
    fn credentials_are_read_as_rfc_7617_has_them() {
        let found = Credentials::parse(b"bASIC  QWxhZGRpbjpvcGVuIHNlc2FtZQ==").unwrap();
        assert_eq!((&*found.name, &*found.password), ("Aladdin", &b"open sesame"[..]));
        let found = Credentials::parse("Basic dGVzdDoxMjPCow==".as_bytes()).unwrap();
        assert_eq!((&*found.name, &*found.password), ("test", "123£".as_bytes()));
        assert_eq!(parse("a:b:c"), Some(("a".into(), b"b:c".to_vec())), "a password may have one");
        assert_eq!(parse(":"), Some((String::new(), Vec::new())));
        assert!(!format!("{found:?}").contains("test"));
    }

    #[test]
    fn what_is_none_is_not_read() {
        assert_eq!(parse("no colon"), None);
        assert_eq!(parse("a\n:b"), None);
        assert_eq!(parse("a:b\0"), None);
        assert_eq!(parse(&format!("a:{}", "b".repeat(PASSWORD_BYTES_MAX + 1))), None);
        for value in ["", "Basic", "Basic ", "Bearer YTpi", "Basic %%%", "Basic YTpi YTpi"] {
            assert_eq!(Credentials::parse(value.as_bytes()), None, "{value}");
        }
        let mut twice = HeaderMap::new();
        twice.append(header::AUTHORIZATION, "Basic YTpi".parse().unwrap());
        assert!(Credentials::of(&twice).is_some());
        twice.append(header::AUTHORIZATION, "Basic YTpi".parse().unwrap());
        assert_eq!(Credentials::of(&twice), None, "two readers could choose differently");
    }

    fn known() -> KnownUsers {
        KnownUsers::new(&UserList::parse(
            b"ann:{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ=\nbob:$apr1$abcdefgh$h9FWgUz3n9YxylKLlR5SQ/\n\
              eve:$2y$31$abc\n",
        ))
    }

    fn credentials(name: &str, password: &str) -> Credentials {
        Credentials { name: name.into(), password: password.into() }
    }

    #[test]
    fn what_was_right_is_remembered_and_nothing_else() {
        let known = known();
        let (right, wrong) = (credentials("ann", "secret"), credentials("ann", "Secret"));
        assert_eq!(known.recall(&right), Known::Unknown);
        assert_eq!(known.compare(&right).as_deref(), Some("ann"));
        assert_eq!(known.recall(&right), Known::Right("ann".into()));
        assert_eq!(known.compare(&wrong), None);
        assert_eq!(known.recall(&wrong), Known::Unknown);
        assert_eq!(known.recall(&credentials("bob", "secret")), Known::Unknown, "not his yet");
        assert_eq!(known.compare(&credentials("nobody", "secret")), None);
    }

    #[test]
    fn a_user_whose_hash_cannot_be_used_is_not_let_in() {
        let known = known();
        assert_eq!(known.unusable, 1);
        assert_eq!(known.compare(&credentials("eve", "")), None);
        assert_eq!(KnownUsers::new(&UserList::default()).compare(&credentials("", "")), None);
    }

    #[test]
    fn more_than_the_limit_are_forgotten_together() {
        let known = known();
        let fill = |n: usize| {
            let mut tag = [0; 32];
            tag[..8].copy_from_slice(&n.to_be_bytes());
            known.right.lock().unwrap().insert(tag, "x".into());
        };
        (0..REMEMBERED_MAX).for_each(fill);
        known.compare(&credentials("ann", "secret"));
        assert_eq!(known.right.lock().unwrap().len(), 1);
    }
}
