//! Something for each host: the most specific entry for a name, found by hash and a short walk.
//!
//! An exact name wins, then the longest suffix, of two equal ones that of a single label, then
//! the entry for everything (Gateway API `spec.listeners`). Pure.

use std::collections::HashMap;
use std::sync::Arc;

use haflinger_core::HostMatch;

/// Entries by host.
#[derive(Debug)]
pub(crate) struct NameMap<T> {
    exact: HashMap<Arc<str>, T>,
    /// With exactly one label before the key.
    one_label: HashMap<Arc<str>, T>,
    /// With one label or more before the key.
    suffix: HashMap<Arc<str>, T>,
    any: Option<T>,
}

impl<T> Default for NameMap<T> {
    fn default() -> Self {
        let (exact, one_label, suffix) = (HashMap::new(), HashMap::new(), HashMap::new());
        Self { exact, one_label, suffix, any: None }
    }
}

impl<T> NameMap<T> {
    /// Adds an entry; of two for one host the first stays.
    pub(crate) fn add(&mut self, host: &HostMatch, entry: T) {
        let (table, key) = match host {
            HostMatch::Exact(name) => (&mut self.exact, name),
            HostMatch::OneLabel(suffix) => (&mut self.one_label, suffix),
            HostMatch::Suffix(suffix) => (&mut self.suffix, suffix),
            HostMatch::Any => {
                self.any.get_or_insert(entry);
                return;
            }
        };
        table.entry(key.clone()).or_insert(entry);
    }

    /// The entry of this very host.
    pub(crate) fn get(&self, host: &HostMatch) -> Option<&T> {
        match host {
            HostMatch::Exact(name) => self.exact.get(name),
            HostMatch::OneLabel(suffix) => self.one_label.get(suffix),
            HostMatch::Suffix(suffix) => self.suffix.get(suffix),
            HostMatch::Any => self.any.as_ref(),
        }
    }

    /// The most specific entry for a name in lower case; without a name the one for everything.
    pub(crate) fn find(&self, name: Option<&str>) -> Option<&T> {
        name.and_then(|name| self.find_named(name)).or(self.any.as_ref())
    }

    fn find_named(&self, name: &str) -> Option<&T> {
        if let Some(entry) = self.exact.get(name) {
            return Some(entry);
        }
        let dots = name.match_indices('.').map(|(at, _)| at).filter(|at| *at > 0);
        dots.enumerate().find_map(|(labels, at)| {
            let suffix = &name[at + 1..];
            let single = (labels == 0).then(|| self.one_label.get(suffix)).flatten();
            single.or_else(|| self.suffix.get(suffix))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(hosts: &[HostMatch]) -> NameMap<HostMatch> {
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
        let table = table(&[HostMatch::Any, far.clone(), near.clone(), one.clone(), exact.clone()]);
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
        let table = table(&[HostMatch::Suffix("b.c".into())]);
        assert!(table.find(None).is_none());
        assert!(table.find(Some("b.c")).is_none());
        assert!(table.find(Some("x.bb.c")).is_none());
        assert!(table.find(Some("x.b.c")).is_some());
    }
}
