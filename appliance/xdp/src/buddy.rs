//! Regions of an array whose lengths are powers of two: the tables of buckets.
//!
//! A buddy allocator: a region of `2^bits` begins at a multiple of its length, is cut from the
//! smallest free one that is large enough (the lowest of them), and joins its other half again
//! when that is free too. Pure.

use std::collections::BTreeSet;

/// Regions of up to `2^BITS_MAX` elements: what the largest array can hold.
const BITS_MAX: u32 = 31;

/// A region: its first element, and how many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Region {
    /// Its first element.
    pub(crate) first: u32,
    /// It has `2^bits` elements.
    pub(crate) bits: u32,
}

impl Region {
    /// Elements.
    pub(crate) fn len(self) -> u32 {
        1 << self.bits
    }
}

/// The free regions of one array.
#[derive(Debug)]
pub(crate) struct Buddies {
    /// First elements of free regions, by the logarithm of their length.
    free: [BTreeSet<u32>; BITS_MAX as usize + 1],
    available: u32,
    capacity: u32,
}

impl Buddies {
    /// All elements from `first` to before `end` are free.
    pub(crate) fn new(first: u32, end: u32) -> Self {
        let capacity = end.saturating_sub(first);
        let mut buddies =
            Self { free: std::array::from_fn(|_| BTreeSet::new()), available: 0, capacity };
        let mut at = first;
        while at < end {
            // The longest region that may begin here and does not reach beyond the end.
            let bits = at.trailing_zeros().min((end - at).ilog2()).min(BITS_MAX);
            buddies.free[bits as usize].insert(at);
            buddies.available += 1 << bits;
            at += 1 << bits;
        }
        buddies
    }

    /// Takes a region of `2^bits`; `None` when none is left whole.
    pub(crate) fn take(&mut self, bits: u32) -> Option<Region> {
        let (from, first) = self.smallest(bits)?;
        self.free[from as usize].remove(&first);
        for half in bits..from {
            self.free[half as usize].insert(first + (1 << half));
        }
        self.available -= 1 << bits;
        Some(Region { first, bits })
    }

    /// Takes one particular region, of a table that outlived the daemon. False when a part of it
    /// is taken.
    pub(crate) fn claim(&mut self, region: Region) -> bool {
        let holder = (region.bits..=BITS_MAX).find_map(|bits| {
            let first = region.first >> bits << bits;
            self.free[bits as usize].contains(&first).then_some((bits, first))
        });
        let aligned = region.bits <= BITS_MAX && region.first.is_multiple_of(1 << region.bits);
        let Some((from, mut first)) = holder.filter(|_| aligned) else { return false };
        self.free[from as usize].remove(&first);
        for half in (region.bits..from).rev() {
            let upper = first + (1 << half);
            let other =
                if region.first >= upper { std::mem::replace(&mut first, upper) } else { upper };
            self.free[half as usize].insert(other);
        }
        self.available -= region.len();
        true
    }

    /// Gives a taken region back.
    pub(crate) fn release(&mut self, region: Region) {
        let Region { mut first, mut bits } = region;
        self.available += region.len();
        while bits < BITS_MAX && self.free[bits as usize].remove(&(first ^ (1 << bits))) {
            first &= !(1 << bits);
            bits += 1;
        }
        self.free[bits as usize].insert(first);
    }

    /// Whether [`Buddies::take`] would give a region.
    pub(crate) fn has(&self, bits: u32) -> bool {
        self.smallest(bits).is_some()
    }

    /// Elements that are in no region. They may lie apart.
    pub(crate) fn available(&self) -> u32 {
        self.available
    }

    /// Elements altogether.
    pub(crate) fn capacity(&self) -> u32 {
        self.capacity
    }

    fn smallest(&self, bits: u32) -> Option<(u32, u32)> {
        (bits..=BITS_MAX).find_map(|at| Some((at, *self.free[at as usize].first()?)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn halves_join_again() {
        let mut buddies = Buddies::new(0, 1024);
        let regions: Vec<Region> = (0..4).filter_map(|_| buddies.take(8)).collect();
        assert_eq!(
            regions.iter().map(|region| region.first).collect::<Vec<_>>(),
            [0, 256, 512, 768]
        );
        assert!(!buddies.has(8));
        for region in regions {
            buddies.release(region);
        }
        assert_eq!(buddies.take(10), Some(Region { first: 0, bits: 10 }));
    }

    #[test]
    fn a_length_that_is_no_power_of_two_is_used_whole() {
        let mut buddies = Buddies::new(0, 1024 + 256);
        assert_eq!(buddies.available(), 1280);
        assert_eq!(buddies.take(8).map(|region| region.first), Some(1024));
        assert!(buddies.has(10) && !buddies.has(11));
    }

    #[test]
    fn what_is_taken_or_crooked_is_not_claimed() {
        let mut buddies = Buddies::new(0, 1024);
        assert!(buddies.claim(Region { first: 256, bits: 8 }));
        assert!(!buddies.claim(Region { first: 256, bits: 8 }));
        assert!(!buddies.claim(Region { first: 0, bits: 9 }));
        assert!(!buddies.claim(Region { first: 128, bits: 8 }));
        assert!(!buddies.claim(Region { first: 1024, bits: 8 }));
        assert!(buddies.claim(Region { first: 512, bits: 9 }));
        assert_eq!(buddies.available(), 256);
    }

    proptest! {
        #[test]
        fn regions_never_overlap_and_everything_comes_back(
            end in 1..5_000_u32,
            steps in prop::collection::vec((0..8_u32, any::<Option<prop::sample::Index>>()), 0..120),
        ) {
            let mut buddies = Buddies::new(0, end);
            let (mut held, mut used) = (Vec::<Region>::new(), vec![false; end as usize]);
            for (bits, step) in steps {
                match step {
                    Some(index) if !held.is_empty() => {
                        let region = held.swap_remove(index.index(held.len()));
                        used[region.first as usize..][..region.len() as usize].fill(false);
                        buddies.release(region);
                    }
                    _ => if let Some(region) = buddies.take(bits) {
                        let elements = &mut used[region.first as usize..][..region.len() as usize];
                        prop_assert!(elements.iter().all(|used| !used));
                        prop_assert_eq!(region.first % region.len(), 0);
                        elements.fill(true);
                        held.push(region);
                    },
                }
                let free = used.iter().filter(|used| !**used).count();
                prop_assert_eq!(buddies.available() as usize, free);
            }
            // Whoever starts anew and claims what is held has the same room.
            let mut again = Buddies::new(0, end);
            for region in &held {
                prop_assert!(again.claim(*region));
            }
            prop_assert_eq!(&again.free, &buddies.free);
            held.into_iter().for_each(|region| buddies.release(region));
            prop_assert_eq!(&buddies.free, &Buddies::new(0, end).free);
        }
    }
}
