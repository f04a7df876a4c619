//! Shared places whose content changes while many hold them.
//!
//! Compiled routes and name tables hold slots, not contents: a change of one target or one
//! certificate is then one pointer store, however many listeners use it. A slot lives as long as
//! somebody holds it; this map only finds it again.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Weak};

/// Finds the slot of a key, while anybody holds it.
#[derive(Debug)]
pub(crate) struct Slots<K, S> {
    slots: HashMap<K, Weak<S>>,
    swept_at: usize,
}

impl<K, S> Default for Slots<K, S> {
    fn default() -> Self {
        Self { slots: HashMap::new(), swept_at: 0 }
    }
}

impl<K: Clone + Eq + Hash, S> Slots<K, S> {
    /// The slot of `key`, made by `fill` when nobody holds one.
    pub(crate) fn slot(&mut self, key: &K, fill: impl FnOnce() -> S) -> Arc<S> {
        if let Some(slot) = self.find(key) {
            return slot;
        }
        self.sweep();
        let slot = Arc::new(fill());
        self.slots.insert(key.clone(), Arc::downgrade(&slot));
        slot
    }

    /// The slot of `key`, if anybody holds it.
    pub(crate) fn find(&self, key: &K) -> Option<Arc<S>> {
        self.slots.get(key).and_then(Weak::upgrade)
    }

    /// Forgets dead entries once they may have become half of all, so that the cost of a sweep
    /// is paid by the insertions since the last one.
    fn sweep(&mut self) {
        if self.slots.len() >= 2 * self.swept_at + 16 {
            self.slots.retain(|_, slot| slot.strong_count() > 0);
            self.swept_at = self.slots.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_shared_while_it_is_held_and_forgotten_afterwards() {
        let mut slots = Slots::<u32, u32>::default();
        let held = slots.slot(&1, || 10);
        assert!(Arc::ptr_eq(&held, &slots.slot(&1, || 20)));
        drop(held);
        assert!(slots.find(&1).is_none());
        for key in 0..10_000 {
            slots.slot(&key, || key);
        }
        assert!(slots.slots.len() < 100, "{} entries for nobody", slots.slots.len());
    }
}
