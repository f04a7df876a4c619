//! How often something happened lately, for everything that is counted on this host: one table of
//! fixed size. Time is an argument.
//!
//! The algorithm is GCRA (ITU-T I.371): of each key only the time is kept at which it would be
//! free of all that it has spent, so that an entry is two words, and a key that has been quiet
//! needs none. A key whose set is full takes the place of the one that is nearest to being free,
//! which thereby gets back what it had spent: at worst somebody asks once too often.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Locks: enough that workers seldom meet at one.
const SHARDS: usize = 256;

/// Sets in a shard.
const SETS: usize = 512;

/// Keys in a set.
const WAYS: usize = 8;

/// Keys that are counted at once: a million, in 16 MiB, which are taken as they are needed.
#[cfg(test)]
pub(crate) const KEYS_MAX: usize = SHARDS * SETS * WAYS;

/// Counts of many keys.
#[derive(Debug)]
pub(crate) struct Meters {
    shards: Box<[Mutex<Vec<Entry>>]>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Entry {
    key: u64,
    /// Nanoseconds since the start of the clock; 0: the place is free.
    free_at: u64,
}

/// How much there may be of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rate {
    /// Time in which one more is earned, nanoseconds. At least 1.
    interval: u64,
    /// How many at once.
    burst: u32,
}

/// Whether there may be one more, for the answer's fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Spent {
    /// There may: it has been counted.
    pub(crate) admitted: bool,
    /// How many more there may be at once.
    pub(crate) remaining: u32,
    /// Until when there may be one more: zero while there may be any.
    pub(crate) retry_after: Duration,
    /// Until all of the burst is there again.
    pub(crate) reset: Duration,
    /// Another key was forgotten although it still counted.
    pub(crate) displaced: bool,
}

impl Rate {
    /// `count` in `period`, `burst` of them at once. Zeroes count as ones.
    pub(crate) fn new(count: u32, period: Duration, burst: u32) -> Self {
        let period = u64::try_from(period.as_nanos()).unwrap_or(u64::MAX);
        Self { interval: (period / u64::from(count.max(1))).max(1), burst: burst.max(1) }
    }
}

impl Default for Meters {
    fn default() -> Self {
        let shards = (0..SHARDS).map(|_| Mutex::new(Vec::new())).collect();
        Self { shards }
    }
}

impl Meters {
    /// Counts one more of `key`, if there may be one. `key` is a keyed hash of whatever is
    /// counted; `now` a monotonic clock.
    pub(crate) fn spend(&self, key: u64, rate: Rate, now: Duration) -> Spent {
        let now = nanos(now);
        let (shard, set) = (place(key, SHARDS), place(key >> 8, SETS));
        // Whoever panicked with the lock has left an entry as it was, or as it should be.
        let mut entries = self.shards[shard].lock().unwrap_or_else(PoisonError::into_inner);
        if entries.is_empty() {
            entries.resize(SETS * WAYS, Entry::default());
        }
        let set = &mut entries[set * WAYS..(set + 1) * WAYS];
        let known = set.iter().find(|entry| entry.key == key).map_or(0, |entry| entry.free_at);
        let (free_at, mut spent) = spend(known, rate, now);
        spent.displaced = spent.admitted && note(set, Entry { key, free_at }, now);
        spent
    }

    /// What [`Self::spend`] would answer, without counting anything.
    pub(crate) fn look(&self, key: u64, rate: Rate, now: Duration) -> Spent {
        let (shard, set) = (place(key, SHARDS), place(key >> 8, SETS));
        let entries = self.shards[shard].lock().unwrap_or_else(PoisonError::into_inner);
        let set = entries.get(set * WAYS..(set + 1) * WAYS).unwrap_or_default();
        let known = set.iter().find(|entry| entry.key == key).map_or(0, |entry| entry.free_at);
        spend(known, rate, nanos(now)).1
    }
}

/// Whether another one had to be forgotten.
fn note(set: &mut [Entry], entry: Entry, now: u64) -> bool {
    let own = set.iter().position(|other| other.key == entry.key);
    let nearest = || (0..set.len()).min_by_key(|at| set[*at].free_at);
    let Some(at) = own.or_else(nearest) else { return false };
    let displaced = own.is_none() && set[at].free_at > now;
    set[at] = entry;
    displaced
}

/// One more of something that would be free of all it has spent at `free_at`.
fn spend(free_at: u64, rate: Rate, now: u64) -> (u64, Spent) {
    let Rate { interval, burst } = rate;
    let full = interval.saturating_mul(u64::from(burst));
    let owed = free_at.saturating_sub(now);
    let after = owed.saturating_add(interval);
    let admitted = after <= full;
    let owed = if admitted { after } else { owed };
    let remaining = full.saturating_sub(owed) / interval;
    let missing = owed.saturating_add(interval).saturating_sub(full);
    let spent = Spent {
        admitted,
        remaining: u32::try_from(remaining).unwrap_or(u32::MAX),
        retry_after: Duration::from_nanos(missing),
        reset: Duration::from_nanos(owed),
        displaced: false,
    };
    (now.saturating_add(owed), spent)
}

fn nanos(now: Duration) -> u64 {
    u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)
}

fn place(key: u64, count: usize) -> usize {
    usize::try_from(key % count as u64).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn at(ms: u64) -> Duration {
        Duration::from_millis(1_000 + ms)
    }

    #[test]
    fn a_burst_is_admitted_and_then_as_many_as_are_earned() {
        let (meters, rate) = (Meters::default(), Rate::new(10, SECOND, 3));
        let admitted = |ms| meters.spend(7, rate, at(ms)).admitted;
        assert_eq!([0, 0, 0, 0].map(admitted), [true, true, true, false]);
        assert_eq!([99, 100, 100, 200].map(admitted), [false, true, false, true]);
        assert_eq!([1_000; 4].map(admitted), [true, true, true, false]);
    }

    #[test]
    fn what_is_said_of_the_rest_is_true() {
        let (meters, rate) = (Meters::default(), Rate::new(10, SECOND, 2));
        let first = meters.spend(7, rate, at(0));
        assert_eq!((first.remaining, first.reset), (1, Duration::from_millis(100)));
        assert_eq!(first.retry_after, Duration::ZERO);
        meters.spend(7, rate, at(0));
        let refused = meters.spend(7, rate, at(30));
        assert!(!refused.admitted);
        assert_eq!((refused.remaining, refused.retry_after), (0, Duration::from_millis(70)));
        assert!(meters.spend(7, rate, at(100)).admitted, "after the time that was said");
    }

    #[test]
    fn to_look_counts_nothing_and_says_what_would_be_said() {
        let (meters, rate) = (Meters::default(), Rate::new(1, SECOND, 2));
        for _ in 0..9 {
            assert_eq!(meters.look(7, rate, at(0)).remaining, 1);
        }
        assert!(meters.spend(7, rate, at(0)).admitted && meters.spend(7, rate, at(0)).admitted);
        let looked = meters.look(7, rate, at(0));
        assert_eq!(looked, meters.spend(7, rate, at(0)));
        assert!(!looked.admitted);
    }

    #[test]
    fn the_table_has_room_for_a_million_keys() {
        assert_eq!(KEYS_MAX, 1 << 20);
    }

    #[test]
    fn keys_are_counted_apart() {
        let (meters, rate) = (Meters::default(), Rate::new(1, SECOND, 1));
        assert!(meters.spend(1, rate, at(0)).admitted);
        assert!(!meters.spend(1, rate, at(0)).admitted);
        assert!(meters.spend(2, rate, at(0)).admitted);
    }

    #[test]
    fn in_a_full_set_the_key_that_is_nearest_to_being_free_is_forgotten() {
        let (meters, rate) = (Meters::default(), Rate::new(1, SECOND, 1));
        let key = |n: u64| 7 + (n << 32);
        for n in 0..8 {
            let spent = meters.spend(key(n), rate, at(n));
            assert!(spent.admitted && !spent.displaced);
        }
        let spent = meters.spend(key(8), rate, at(8));
        assert!(spent.admitted && spent.displaced);
        assert!(meters.spend(key(0), rate, at(9)).admitted, "the first was forgotten");
        assert!(!meters.spend(key(7), rate, at(9)).admitted, "the others were not");
    }

    proptest! {
        #[test]
        fn never_more_than_the_burst_and_what_was_earned_are_admitted(
            count in 1u32..50, burst in 1u32..20,
            steps in prop::collection::vec(0u64..400, 1..200),
        ) {
            let (meters, rate) = (Meters::default(), Rate::new(count, SECOND, burst));
            let (mut now, mut admitted) = (0u64, 0u64);
            for step in steps {
                now += step;
                admitted += u64::from(meters.spend(7, rate, at(now)).admitted);
                let earned = now * u64::from(count) / 1_000 + u64::from(burst);
                prop_assert!(admitted <= earned + 1, "{} of {}", admitted, earned);
            }
        }
    }
}
