//! Host names as records carry them: checked once, then trusted.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

use serde::Serialize;
use thiserror::Error;

/// Longest name in text form without the trailing dot (RFC 1035 section 3.1: 255 octets on the
/// wire, which is 253 characters of text).
pub const NAME_CHARACTERS_MAX: usize = 253;

/// Longest label (RFC 1035 section 3.1).
pub const LABEL_CHARACTERS_MAX: usize = 63;

/// A lower-case host name without a trailing dot. The first label may be `*`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct RecordName(Arc<str>);

/// Why a text is no host name.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum NameError {
    /// Nothing is left once the trailing dot is taken away.
    #[error("the name is empty")]
    Empty,
    /// Longer than [`NAME_CHARACTERS_MAX`].
    #[error("the name has {0} characters, {NAME_CHARACTERS_MAX} are allowed")]
    TooLong(usize),
    /// Two dots in a row, or a leading one.
    #[error("the name has an empty label")]
    EmptyLabel,
    /// Longer than [`LABEL_CHARACTERS_MAX`].
    #[error("label {0:?} is longer than {LABEL_CHARACTERS_MAX} characters")]
    LabelTooLong(String),
    /// Something else than letters, digits and inner hyphens (RFC 1123 section 2.1), or a `*`
    /// that is not the whole first label.
    #[error("label {0:?} may hold only letters, digits and inner hyphens")]
    Label(String),
}

impl RecordName {
    /// Checks a name and writes it in lower case; one trailing dot is taken away.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        let text = text.strip_suffix('.').unwrap_or(text);
        if text.is_empty() {
            return Err(NameError::Empty);
        }
        if text.len() > NAME_CHARACTERS_MAX {
            return Err(NameError::TooLong(text.len()));
        }
        for (at, label) in text.split('.').enumerate() {
            check_label(label, at == 0)?;
        }
        Ok(Self(text.to_ascii_lowercase().into()))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The first label and the rest after its dot (empty for a single label).
    pub fn split_first(&self) -> (&str, &str) {
        self.0.split_once('.').unwrap_or((&self.0, ""))
    }

    /// Whether the name is `zone` itself or below it.
    pub fn is_within(&self, zone: &RecordName) -> bool {
        is_within(&self.0, zone.as_str())
    }

    /// Number of labels: the longest of several matching zones has most.
    pub fn label_count(&self) -> usize {
        self.0.split('.').count()
    }
}

/// Whether `name` is `zone` itself or below it; both lower case without a trailing dot.
pub(crate) fn is_within(name: &str, zone: &str) -> bool {
    name.strip_suffix(zone).is_some_and(|front| front.is_empty() || front.ends_with('.'))
}

fn check_label(label: &str, first: bool) -> Result<(), NameError> {
    if label.is_empty() {
        return Err(NameError::EmptyLabel);
    }
    if label.len() > LABEL_CHARACTERS_MAX {
        return Err(NameError::LabelTooLong(label.to_owned()));
    }
    let plain = label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        && !label.starts_with('-')
        && !label.ends_with('-');
    if plain || (first && label == "*") { Ok(()) } else { Err(NameError::Label(label.to_owned())) }
}

impl fmt::Display for RecordName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for RecordName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Maps keyed by names can be searched by text.
impl Borrow<str> for RecordName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_lowered_and_lose_one_trailing_dot() {
        assert_eq!(RecordName::parse("WWW.Example.com.").unwrap().as_str(), "www.example.com");
        assert_eq!(RecordName::parse("*.example.com").unwrap().as_str(), "*.example.com");
    }

    #[test]
    fn what_is_no_host_name_is_refused_with_its_reason() {
        for (text, reason) in [
            ("", NameError::Empty),
            (".", NameError::Empty),
            ("a..b", NameError::EmptyLabel),
            ("-a.b", NameError::Label("-a".into())),
            ("a.*.b", NameError::Label("*".into())),
            ("a*.b", NameError::Label("a*".into())),
            ("a b.c", NameError::Label("a b".into())),
        ] {
            assert_eq!(RecordName::parse(text), Err(reason), "{text:?}");
        }
        assert!(matches!(
            RecordName::parse(&format!("{}.com", "a".repeat(64))),
            Err(NameError::LabelTooLong(_))
        ));
        assert_eq!(RecordName::parse(&"a.".repeat(130)), Err(NameError::TooLong(259)));
    }

    #[test]
    fn a_zone_holds_itself_and_whole_labels_below_it() {
        let zone = RecordName::parse("example.com").unwrap();
        for (name, within) in
            [("example.com", true), ("a.example.com", true), ("badexample.com", false)]
        {
            assert_eq!(RecordName::parse(name).unwrap().is_within(&zone), within, "{name}");
        }
    }
}
