//! Changes of header fields that rules ask for, checked once and applied to every request.
//!
//! Never touched are the fields that frame a message or belong to one connection (RFC 9110,
//! section 7.6.1): an edit of these is left out, since it could make two readers see different
//! messages. `Host` can be set, and neither be added a second time nor removed.

use haflinger_core::FieldEdits;
use http::header::{self, HeaderName};
use http::{HeaderMap, HeaderValue};

/// Fields that no rule changes.
const UNTOUCHED: [HeaderName; 6] = [
    header::CONNECTION,
    header::CONTENT_LENGTH,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// The same, without a name in crate `http`.
const UNTOUCHED_OLD: [&str; 2] = ["keep-alive", "proxy-connection"];

/// A header that can be edited, whatever engine it is of.
pub(crate) trait Fields {
    /// Removes every field of the name.
    fn remove(&mut self, name: &HeaderName);
    /// Puts one field in the place of those of the name.
    fn set(&mut self, name: &HeaderName, value: &HeaderValue);
    /// Puts one more field behind those of the name.
    fn add(&mut self, name: &HeaderName, value: &HeaderValue);
}

impl Fields for HeaderMap {
    fn remove(&mut self, name: &HeaderName) {
        HeaderMap::remove(self, name);
    }

    fn set(&mut self, name: &HeaderName, value: &HeaderValue) {
        self.insert(name, value.clone());
    }

    fn add(&mut self, name: &HeaderName, value: &HeaderValue) {
        self.append(name, value.clone());
    }
}

/// Checked changes.
#[derive(Debug, Default)]
pub(crate) struct Edits {
    remove: Vec<HeaderName>,
    set: Vec<(HeaderName, HeaderValue)>,
    add: Vec<(HeaderName, HeaderValue)>,
}

impl Edits {
    /// Checks `from`; what cannot be done is named to `refuse` and left out.
    pub(crate) fn compile(from: &FieldEdits, mut refuse: impl FnMut(&str)) -> Self {
        let mut name = |name: &str| match name.parse::<HeaderName>() {
            Ok(name) if !is_untouched(&name) => Some(name),
            _ => {
                refuse(name);
                None
            }
        };
        let remove: Vec<_> = from.remove.iter().filter_map(|field| name(field)).collect();
        let mut pairs = |from: &[(std::sync::Arc<str>, std::sync::Arc<str>)]| {
            let pair = |(field, value): &(std::sync::Arc<str>, std::sync::Arc<str>)| {
                Some((name(field)?, HeaderValue::from_str(value).ok()?))
            };
            from.iter().filter_map(pair).collect::<Vec<_>>()
        };
        let (mut set, add) = (pairs(&from.set), pairs(&from.add));
        let (hosts, add): (Vec<_>, Vec<_>) =
            add.into_iter().partition(|(name, _)| *name == header::HOST);
        set.extend(hosts);
        Self { remove: remove.into_iter().filter(|name| *name != header::HOST).collect(), set, add }
    }

    /// Removes, sets and adds, in this order.
    pub(crate) fn apply(&self, fields: &mut impl Fields) {
        for name in &self.remove {
            fields.remove(name);
        }
        for (name, value) in &self.set {
            fields.set(name, value);
        }
        for (name, value) in &self.add {
            fields.add(name, value);
        }
    }
}

fn is_untouched(name: &HeaderName) -> bool {
    UNTOUCHED.contains(name) || UNTOUCHED_OLD.contains(&name.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edited(from: &FieldEdits) -> (Vec<String>, Vec<String>) {
        let mut fields = HeaderMap::new();
        for (name, value) in [("host", "a"), ("x-a", "1"), ("x-a", "2"), ("x-b", "1")] {
            fields.append(name, HeaderValue::from_static(value));
        }
        let mut refused = Vec::new();
        Edits::compile(from, |name| refused.push(name.to_owned())).apply(&mut fields);
        let pair = |(n, v): (&HeaderName, &HeaderValue)| format!("{n}: {}", v.to_str().unwrap());
        let mut all: Vec<_> = fields.iter().map(pair).collect();
        all.sort();
        (all, refused)
    }

    fn pairs(all: &[(&str, &str)]) -> Vec<(std::sync::Arc<str>, std::sync::Arc<str>)> {
        all.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect()
    }

    #[test]
    fn fields_are_removed_set_and_added_whatever_their_case() {
        let from = FieldEdits {
            remove: vec!["X-B".into(), "x-none".into()],
            set: pairs(&[("X-A", "3")]),
            add: pairs(&[("x-A", "4"), ("x-c", "5")]),
        };
        let expected = ["host: a", "x-a: 3", "x-a: 4", "x-c: 5"].map(str::to_owned).to_vec();
        assert_eq!(edited(&from), (expected, Vec::new()));
    }

    #[test]
    fn framing_and_connection_are_never_touched_and_there_is_always_one_host() {
        let from = FieldEdits {
            remove: vec!["host".into(), "Connection".into()],
            set: pairs(&[("content-length", "0"), ("Transfer-Encoding", "chunked"), ("a b", "1")]),
            add: pairs(&[("keep-alive", "1"), ("Host", "b")]),
        };
        let (all, refused) = edited(&from);
        assert_eq!(all, ["host: b", "x-a: 1", "x-a: 2", "x-b: 1"]);
        let refusals = ["Connection", "content-length", "Transfer-Encoding", "a b", "keep-alive"];
        assert_eq!(refused, refusals);
    }
}
