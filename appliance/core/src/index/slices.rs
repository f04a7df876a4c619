//! The slices of one service object.

use std::sync::Arc;

use crate::BackendSlice;

/// By name. Nearly every service has one slice or two, and there are tens of thousands of
/// services: a tree's node, which has room for eleven, would be the greater part of an entry.
#[derive(Default)]
pub(super) struct Slices(Vec<(Arc<str>, Arc<BackendSlice>)>);

impl Slices {
    /// Notes what a slice says now; whether that differs from what was known.
    pub(super) fn note(&mut self, name: Arc<str>, content: Option<Box<BackendSlice>>) -> bool {
        match (self.0.binary_search_by(|(known, _)| known.cmp(&name)), content) {
            (Ok(at), Some(content)) => {
                let differs = *self.0[at].1 != *content;
                if differs {
                    self.0[at].1 = Arc::new(*content);
                }
                differs
            }
            (Err(at), Some(content)) => {
                // Room for four would be the first choice.
                self.0.reserve_exact(1.max(self.0.len() / 4));
                self.0.insert(at, (name, Arc::new(*content)));
                true
            }
            (Ok(at), None) => {
                self.0.remove(at);
                true
            }
            (Err(_), None) => false,
        }
    }

    pub(super) fn values(&self) -> impl Iterator<Item = &Arc<BackendSlice>> {
        self.0.iter().map(|(_, slice)| slice)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&Arc<str>, &Arc<BackendSlice>)> {
        self.0.iter().map(|(name, slice)| (name, slice))
    }

    /// Takes these for all, sorted by name.
    pub(super) fn replace(&mut self, slices: Vec<(Arc<str>, Arc<BackendSlice>)>) {
        self.0 = slices;
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn clear(&mut self) {
        self.0 = Vec::new();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Family;

    fn slice(family: Family) -> Option<Box<BackendSlice>> {
        let (ports, backends, faults) = (vec![], vec![], vec![]);
        Some(Box::new(BackendSlice { family, ports, backends, faults }))
    }

    #[test]
    fn each_name_is_known_once_and_in_order() {
        let mut slices = Slices::default();
        assert!(slices.note("b".into(), slice(Family::V4)));
        assert!(slices.note("a".into(), slice(Family::V6)));
        assert!(!slices.note("b".into(), slice(Family::V4)), "nothing is new");
        let families: Vec<Family> = slices.values().map(|slice| slice.family).collect();
        assert_eq!(families, [Family::V6, Family::V4]);
        assert!(slices.note("b".into(), slice(Family::V6)));
        assert!(slices.note("a".into(), None) && !slices.note("a".into(), None));
        assert_eq!(slices.values().count(), 1);
    }
}
