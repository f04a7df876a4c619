//! Which slots of an array are taken.
//!
//! Slots are given out lowest first among those never used, then the one that has been free
//! longest: a number that something stale may still name comes back as late as possible. Pure.

use std::collections::VecDeque;

/// Slots of one array.
#[derive(Debug)]
pub(crate) struct Slots {
    /// Slots below are never given out.
    first: u32,
    /// Slots from here on are not in the array.
    end: u32,
    /// Slots from here on have never been taken.
    fresh: u32,
    /// Released, the one that has been free longest first.
    free: VecDeque<u32>,
}

impl Slots {
    /// All slots from `first` to before `end` are free.
    pub(crate) fn new(first: u32, end: u32) -> Self {
        Self { first, end: end.max(first), fresh: first, free: VecDeque::new() }
    }

    /// As [`Slots::new`], but those for which `taken` says so.
    pub(crate) fn restored(first: u32, end: u32, taken: impl Fn(u32) -> bool) -> Self {
        let mut slots = Self::new(first, end);
        slots.fresh = (first..slots.end).rev().find(|slot| taken(*slot)).map_or(first, |s| s + 1);
        slots.free = (first..slots.fresh).filter(|slot| !taken(*slot)).collect();
        slots
    }

    /// Takes a slot; `None` when all are taken.
    pub(crate) fn take(&mut self) -> Option<u32> {
        if self.fresh < self.end {
            self.fresh += 1;
            return Some(self.fresh - 1);
        }
        self.free.pop_front()
    }

    /// Gives a taken slot back.
    pub(crate) fn release(&mut self, slot: u32) {
        debug_assert!((self.first..self.fresh).contains(&slot), "the slot was taken");
        self.free.push_back(slot);
    }

    /// Slots that can be taken.
    pub(crate) fn available(&self) -> u32 {
        self.end - self.fresh + u32::try_from(self.free.len()).unwrap_or(u32::MAX)
    }

    /// Slots that are taken.
    pub(crate) fn taken(&self) -> u32 {
        self.capacity() - self.available()
    }

    /// Slots altogether.
    pub(crate) fn capacity(&self) -> u32 {
        self.end - self.first
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_was_freed_last_comes_back_last() {
        let mut slots = Slots::new(1, 4);
        assert_eq!([slots.take(), slots.take()], [Some(1), Some(2)]);
        slots.release(1);
        assert_eq!(slots.take(), Some(3));
        slots.release(2);
        assert_eq!([slots.take(), slots.take(), slots.take()], [Some(1), Some(2), None]);
    }

    #[test]
    fn restored_slots_stay_taken() {
        let mut slots = Slots::restored(1, 6, |slot| slot == 2 || slot == 4);
        assert_eq!((slots.taken(), slots.available()), (2, 3));
        let rest: Vec<u32> = std::iter::from_fn(|| slots.take()).collect();
        assert_eq!(rest, [5, 1, 3]);
    }

    proptest! {
        #[test]
        fn no_slot_is_ever_taken_twice(
            first in 0..3_u32,
            count in 0..40_u32,
            steps in prop::collection::vec(any::<Option<prop::sample::Index>>(), 0..200),
        ) {
            let mut slots = Slots::new(first, first + count);
            let mut held = BTreeSet::new();
            for step in steps {
                match step {
                    Some(index) if !held.is_empty() => {
                        let slot = *index.get(&held.iter().copied().collect::<Vec<u32>>());
                        held.remove(&slot);
                        slots.release(slot);
                    }
                    _ => match slots.take() {
                        Some(slot) => {
                            prop_assert!((first..first + count).contains(&slot));
                            prop_assert!(held.insert(slot));
                        }
                        None => prop_assert_eq!(held.len(), count as usize),
                    },
                }
                prop_assert_eq!(slots.taken() as usize, held.len());
            }
        }
    }
}
