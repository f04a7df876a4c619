//! When buckets changed last: which of a member's buckets moves first, and which moves put
//! flows at risk.
//!
//! A bucket's age is the generation in which its first hop changed last. Generations order all
//! changes; a short list of stamps says when those within the hold time were.

use std::collections::VecDeque;

use super::BUCKETS_MIN;
use super::cow::CowArray;
use super::slots::{NO_SLOT, Slot};

/// First and second hop of one bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BucketHops {
    pub(super) first: Slot,
    pub(super) second: Slot,
}

impl BucketHops {
    pub(super) const NONE: Self = Self { first: NO_SLOT, second: NO_SLOT };
}

/// Buckets of one chunk: 1 KiB is the balance between copying few bytes for a small change and few
/// chunks for a large one. No table has fewer.
pub(super) const CHUNK: usize = BUCKETS_MIN as usize;

/// All buckets of a table.
pub(super) type Buckets = CowArray<BucketHops, CHUNK>;

/// Ages of all buckets: the generation of the last change of each, 0 for never. Generations beyond
/// 32 bits count as the last one, which costs order among the newest and nothing else.
#[derive(Clone, Debug)]
pub(super) enum Ages {
    /// No bucket has changed, which is how most services of a large cluster stay.
    Untouched,
    /// By bucket, while every generation fits.
    Short(Vec<u16>),
    /// By bucket.
    Long(Vec<u32>),
}

impl Ages {
    /// Ages as they were written down.
    pub(super) fn from_list(generations: Vec<u32>) -> Self {
        match generations.iter().max() {
            None | Some(0) => Self::Untouched,
            Some(newest) if *newest <= u16::MAX.into() => {
                Self::Short(generations.into_iter().map(short).collect())
            }
            Some(_) => Self::Long(generations),
        }
    }

    /// The bucket's age.
    pub(super) fn of(&self, bucket: u32) -> u32 {
        let at = bucket as usize;
        match self {
            Self::Untouched => 0,
            Self::Short(ages) => ages.get(at).copied().unwrap_or(0).into(),
            Self::Long(ages) => ages.get(at).copied().unwrap_or(0),
        }
    }

    /// Has room for the ages of all `buckets` buckets up to `newest`.
    pub(super) fn prepare(&mut self, buckets: usize, newest: u32) {
        let fits = newest <= u16::MAX.into();
        match self {
            Self::Untouched if fits => *self = Self::Short(vec![0; buckets]),
            Self::Untouched => *self = Self::Long(vec![0; buckets]),
            Self::Short(ages) if !fits => {
                *self = Self::Long(ages.iter().copied().map(u32::from).collect());
            }
            Self::Short(_) | Self::Long(_) => {}
        }
    }

    /// Sets the age of a bucket, for which there is room, to one that was prepared for; the age
    /// before.
    pub(super) fn replace(&mut self, bucket: u32, age: u32) -> u32 {
        let at = bucket as usize;
        match self {
            Self::Untouched => 0,
            Self::Short(ages) => std::mem::replace(&mut ages[at], short(age)).into(),
            Self::Long(ages) => std::mem::replace(&mut ages[at], age),
        }
    }

    /// Every bucket becomes `copies` of the same age.
    pub(super) fn multiply(&mut self, copies: usize) {
        fn multiplied<T: Copy>(ages: &[T], copies: usize) -> Vec<T> {
            ages.iter().flat_map(|age| std::iter::repeat_n(*age, copies)).collect()
        }
        match self {
            Self::Untouched => {}
            Self::Short(ages) => *ages = multiplied(ages, copies),
            Self::Long(ages) => *ages = multiplied(ages, copies),
        }
    }
}

/// An age that was prepared for.
fn short(age: u32) -> u16 {
    u16::try_from(age).unwrap_or(u16::MAX)
}

/// Each member's buckets by slot, the one that changed longest ago first; among those of one
/// generation the lowest bucket.
#[derive(Clone, Debug)]
pub(super) struct Queues {
    by_slot: Vec<VecDeque<u32>>,
}

impl Queues {
    /// Sorts all buckets: the cost of having thrown the queues away.
    pub(super) fn build(buckets: &Buckets, ages: &Ages, slots: usize) -> Self {
        let mut order: Vec<u32> = (0_u32..).take(buckets.len()).collect();
        if !matches!(ages, Ages::Untouched) {
            order.sort_by_key(|bucket| ages.of(*bucket));
        }
        let mut queues = Self { by_slot: vec![VecDeque::new(); slots] };
        for bucket in order {
            if let Some(hops) = buckets.get(bucket as usize) {
                queues.push(hops.first, bucket);
            }
        }
        queues
    }

    /// Makes room for slots below `slots`.
    pub(super) fn reserve_slots(&mut self, slots: usize) {
        if self.by_slot.len() < slots {
            self.by_slot.resize_with(slots, VecDeque::new);
        }
    }

    /// Appends the bucket that has just changed.
    pub(super) fn push(&mut self, slot: Slot, bucket: u32) {
        self.by_slot[usize::from(slot)].push_back(bucket);
    }

    /// Moves the slot's `count` oldest buckets to `out`.
    pub(super) fn pop_oldest(&mut self, slot: Slot, count: u32, out: &mut Vec<u32>) {
        let queue = &mut self.by_slot[usize::from(slot)];
        if count as usize >= queue.len() {
            out.extend(std::mem::take(queue));
        } else {
            out.extend(queue.drain(..count as usize));
        }
    }
}

/// When the generations within the hold time were.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Stamps {
    /// The last generation that is known to lie outside the hold time.
    pub(super) settled: u32,
    /// Second and last generation in it, both rising: at most one for each second of the hold
    /// time.
    pub(super) recent: VecDeque<(u64, u32)>,
}

impl Stamps {
    /// The time of a change asked for at `now_secs`: a clock that goes back stands still.
    pub(super) fn advance(&mut self, now_secs: u64, hold_secs: u32) -> u64 {
        let now = now_secs.max(self.recent.back().map_or(0, |stamp| stamp.0));
        while let Some((secs, generation)) = self.recent.front()
            && secs.saturating_add(hold_secs.into()) <= now
        {
            self.settled = *generation;
            self.recent.pop_front();
        }
        now
    }

    /// Buckets moved in `generation`, at the time that [`Stamps::advance`] gave.
    pub(super) fn stamp(&mut self, now: u64, generation: u32) {
        match self.recent.back_mut() {
            Some((secs, last)) if *secs == now => *last = generation,
            _ => self.recent.push_back((now, generation)),
        }
    }

    /// Whether a change in that generation lies within the hold time.
    pub(super) fn is_held(&self, generation: u32) -> bool {
        generation > self.settled
    }
}

/// Puts distinct buckets below `buckets` into ascending order. For many, marking them in a
/// bitmap is several times as fast as comparing.
pub(super) fn sort_ascending(moved: &mut [u32], buckets: usize) {
    if moved.len() * 128 < buckets {
        moved.sort_unstable();
        return;
    }
    let mut marks = vec![0_u64; buckets.div_ceil(64)];
    for bucket in moved.iter() {
        marks[*bucket as usize / 64] |= 1 << (bucket % 64);
    }
    let mut places = moved.iter_mut();
    for (base, mut word) in (0_u32..).step_by(64).zip(marks) {
        while word != 0
            && let Some(place) = places.next()
        {
            *place = base + word.trailing_zeros();
            word &= word - 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ages_are_the_same_however_they_are_kept() {
        let mut ages = Ages::from_list(vec![0, 0, 0, 0]);
        assert!(matches!(ages, Ages::Untouched));
        ages.prepare(4, 7);
        assert_eq!((ages.replace(1, 7), ages.of(1), ages.of(2)), (0, 7, 0));
        ages.multiply(2);
        assert!(matches!(ages, Ages::Short(_)));
        ages.prepare(8, 65_536);
        assert_eq!((ages.replace(3, 65_536), ages.of(2), ages.of(3)), (7, 7, 65_536));
        assert!(matches!(Ages::from_list(vec![65_536, 1]), Ages::Long(_)));
    }

    #[test]
    fn a_generation_is_held_until_the_hold_time_is_over() {
        let mut stamps = Stamps::default();
        for (generation, secs) in [(1, 100), (2, 100), (3, 130)] {
            let now = stamps.advance(secs, 60);
            stamps.stamp(now, generation);
        }
        assert_eq!(stamps.advance(159, 60), 159);
        assert!(stamps.is_held(1));
        stamps.advance(160, 60);
        assert!(!stamps.is_held(2) && stamps.is_held(3));
        stamps.advance(190, 60);
        assert!(!stamps.is_held(3) && stamps.recent.is_empty());
    }

    #[test]
    fn a_clock_that_goes_back_stands_still() {
        let mut stamps = Stamps::default();
        stamps.stamp(100, 1);
        assert_eq!(stamps.advance(40, 60), 100);
        stamps.stamp(100, 2);
        assert_eq!(stamps.recent, [(100, 2)]);
    }

    proptest! {
        #[test]
        fn both_ways_of_sorting_agree(set in prop::collection::hash_set(0..4096_u32, 0..400)) {
            let mut moved: Vec<u32> = set.into_iter().collect();
            let mut expected = moved.clone();
            expected.sort_unstable();
            sort_ascending(&mut moved, 4096);
            prop_assert_eq!(moved, expected);
        }
    }
}
