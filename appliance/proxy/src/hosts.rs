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
    /// The entry of this very host, where there is one.
    fn get(&self, host: &HostMatch) -> Option<&V> {
        match host {
            HostMatch::Exact(host) => self.exact.get(host),
            HostMatch::OneLabel(suffix) | HostMatch::Suffix(suffix) => self.suffixes.get(suffix),
            HostMatch::Any => self.any.as_ref(),
        }
    }

    /// The entries that fit `host`, which is in canonical form (lower case, no port) or absent:
    /// the exact one, suffixes from the longest to the shortest, the one for every host.
    pub(crate) fn near<'a, 'h>(
        &'a self,
        host: Option<&'h str>,
    ) -> impl Iterator<Item = Near<'a, V>> + use<'a, 'h, V> {
        let exact = host.and_then(|host| self.exact.get(host));
        let suffixes =
            host.filter(|_| !self.suffixes.is_empty()).into_iter().flat_map(move |host| {
                let dots = host.bytes().enumerate().filter(|(_, byte)| *byte == b'.');
                // What begins with a dot has no label there.
                let dots = dots.enumerate().filter(|(_, (dot, _))| *dot > 0);
                dots.filter_map(move |(labels, (dot, _))| {
                    let entry = self.suffixes.get(&host[dot + 1..])?;
                    Some(Near { entry, one_label: labels == 0 })
                })
            });
        let plain = |entry| Near { entry, one_label: true };
        exact.map(plain).into_iter().chain(suffixes).chain(self.any.as_ref().map(plain))
    }
}

/// One entry for each host, of which a name leads to the closest: an exact name wins, then the
/// longest suffix, of two equal ones that of a single label, then the entry for everything
/// (Gateway API `spec.listeners`).
#[derive(Debug)]
pub(crate) struct NameMap<T>(HostTable<Held<T>>);

/// What is held under one host or suffix.
#[derive(Debug)]
struct Held<T> {
    /// For a single label before the suffix.
    one_label: Option<T>,
    /// For the host itself, or for one label or more.
    every: Option<T>,
}

impl<T> Default for Held<T> {
    fn default() -> Self {
        Self { one_label: None, every: None }
    }
}

impl<T> Default for NameMap<T> {
    fn default() -> Self {
        Self(HostTable::default())
    }
}

impl<T> NameMap<T> {
    /// Adds an entry; of two for one host the first stays.
    pub(crate) fn add(&mut self, host: &HostMatch, entry: T) {
        let held = self.0.entry(host);
        let place = match host {
            HostMatch::OneLabel(_) => &mut held.one_label,
            HostMatch::Exact(_) | HostMatch::Suffix(_) | HostMatch::Any => &mut held.every,
        };
        place.get_or_insert(entry);
    }

    /// The entry of this very host.
    pub(crate) fn get(&self, host: &HostMatch) -> Option<&T> {
        let held = self.0.get(host)?;
        match host {
            HostMatch::OneLabel(_) => held.one_label.as_ref(),
            HostMatch::Exact(_) | HostMatch::Suffix(_) | HostMatch::Any => held.every.as_ref(),
        }
    }

    /// The closest entry for a name in lower case; without a name the one for everything.
    pub(crate) fn find(&self, name: Option<&str>) -> Option<&T> {
        self.0.near(name).find_map(|Near { entry, one_label }| {
            let single = entry.one_label.as_ref().filter(|_| one_label);
            single.or(entry.every.as_ref())
        })
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

    fn names(hosts: &[HostMatch]) -> NameMap<HostMatch> {
        let mut table = NameMap::default();
        for host in hosts {
            table.add(host, host.clone());
        }
        table
    }

    #[test]
    fn the_most_specific_entry_wins() {
        let (exact, one) = (HostMatch::Exact("a.b.c".into()), HostMatch::OneLabel("b.c".into()));
        let (near, far) = (HostMatch::Suffix("b.c".into()), HostMatch::Suffix("c".into()));
        let table = names(&[HostMatch::Any, far.clone(), near.clone(), one.clone(), exact.clone()]);
        for (name, expected) in [
            ("a.b.c", &exact),
            ("x.b.c", &one),
            ("x.y.b.c", &near),
            ("b.c", &far),
            ("x.c", &far),
            ("c", &HostMatch::Any),
            (".b.c", &far),
            ("", &HostMatch::Any),
        ] {
            assert_eq!(table.find(Some(name)), Some(expected), "{name}");
        }
        assert_eq!(table.find(None), Some(&HostMatch::Any));
    }

    #[test]
    fn without_an_entry_for_everything_the_rest_is_not_found() {
        let table = names(&[HostMatch::Suffix("b.c".into())]);
        assert!(table.find(None).is_none());
        assert!(table.find(Some("b.c")).is_none());
        assert!(table.find(Some("x.bb.c")).is_none());
        assert!(table.find(Some("x.b.c")).is_some());
    }
}
