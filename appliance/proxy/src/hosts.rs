//! Which entry a host name leads to: the closest first.
//!
//! Looking up hashes the name and each of its suffixes, so the cost is bounded by the labels of
//! the name (127 at most, RFC 1035) and does not grow with the number of entries.

use std::collections::HashMap;
use std::sync::Arc;

use haflinger_core::HostMatch;

/// Entries by host. [`HostMatch::OneLabel`] and [`HostMatch::Suffix`] of one suffix are equally
/// close and share an entry, whose holder tells them apart.
#[derive(Debug)]
pub(crate) struct HostTable<V> {
    exact: HashMap<Arc<str>, V>,
    /// Keyed by what stands behind `*.`.
    suffixes: HashMap<Arc<str>, V>,
    any: Option<V>,
}

/// An entry that a host leads to.
pub(crate) struct Near<'a, V> {
    /// What is held.
    pub(crate) entry: &'a V,
    /// Whether entries for one label fit: of those found by a suffix, the first.
    pub(crate) one_label: bool,
}

impl<V> Default for HostTable<V> {
    fn default() -> Self {
        Self { exact: HashMap::new(), suffixes: HashMap::new(), any: None }
    }
}

impl<V: Default> HostTable<V> {
    /// The entry of a host, made when there is none.
    pub(crate) fn entry(&mut self, host: &HostMatch) -> &mut V {
        match host {
            HostMatch::Exact(host) => self.exact.entry(host.clone()).or_default(),
            HostMatch::OneLabel(suffix) | HostMatch::Suffix(suffix) => {
                self.suffixes.entry(suffix.clone()).or_default()
            }
            HostMatch::Any => self.any.get_or_insert_default(),
        }
    }
}

impl<V> HostTable<V> {
    /// The entries that fit `host`, which is in canonical form (lower case, no port) or absent:
    /// the exact one, suffixes from the longest to the shortest, the one for every host.
    pub(crate) fn near<'a>(&'a self, host: Option<&'a str>) -> impl Iterator<Item = Near<'a, V>> {
        let exact = host.and_then(|host| self.exact.get(host));
        let suffixes =
            host.filter(|_| !self.suffixes.is_empty()).into_iter().flat_map(move |host| {
                let dots = host.bytes().enumerate().filter(|(_, byte)| *byte == b'.');
                dots.enumerate().filter_map(move |(labels, (dot, _))| {
                    let entry = self.suffixes.get(&host[dot + 1..])?;
                    Some(Near { entry, one_label: labels == 0 })
                })
            });
        let plain = |entry| Near { entry, one_label: true };
        exact.map(plain).into_iter().chain(suffixes).chain(self.any.as_ref().map(plain))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closer_entries_come_first_and_one_label_is_told_from_more() {
        let mut table = HostTable::<&str>::default();
        for (host, word) in [
            (HostMatch::Any, "any"),
            (HostMatch::Suffix("example".into()), "short"),
            (HostMatch::Suffix("shop.example".into()), "long"),
            (HostMatch::Exact("a.shop.example".into()), "exact"),
        ] {
            *table.entry(&host) = word;
        }
        let near = |host: Option<&str>| -> Vec<(&str, bool)> {
            table.near(host).map(|near| (*near.entry, near.one_label)).collect()
        };
        assert_eq!(
            near(Some("a.shop.example")),
            [("exact", true), ("long", true), ("short", false), ("any", true)]
        );
        assert_eq!(near(Some("shop.example")), [("short", true), ("any", true)]);
        assert_eq!(near(Some("example")), [("any", true)], "a suffix is not its own host");
        assert_eq!(near(None), [("any", true)]);
    }
}
