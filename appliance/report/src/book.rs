//! Which events have been told, and how many may be told now. Pure.

use std::collections::{BTreeSet, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::{Duration, Instant};

use haflinger_core::ObjectRef;

/// The same thing about the same object is told again after this time at the earliest, as one
/// more in the event's series. Below the hour after which the API server forgets events, so
/// that `kubectl describe` goes on showing a fault that persists.
pub(crate) const REPEAT_AFTER: Duration = Duration::from_secs(30 * 60);

/// Remembered events. Beyond that the oldest are forgotten, and may be told again early.
const REMEMBERED_MAX: usize = 20_000;

/// Events of one host in a burst, and after it per second: a cluster of thousands of broken
/// Services must not be made worse by its load balancer. The rest waits its turn.
const BURST: f64 = 50.0;
const PER_SECOND: f64 = 2.0;

/// What an event says, as one number.
pub(crate) fn digest(object: &ObjectRef, reason: &str, note: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    (object, reason, note).hash(&mut hasher);
    hasher.finish()
}

/// Remembers what was told.
#[derive(Debug, Default)]
pub(crate) struct Book {
    told: HashMap<u64, Instant>,
    order: BTreeSet<(Instant, u64)>,
}

impl Book {
    /// Whether this has to be told.
    pub(crate) fn is_news(&self, digest: u64, now: Instant) -> bool {
        let told = self.told.get(&digest);
        told.is_none_or(|at| now.saturating_duration_since(*at) >= REPEAT_AFTER)
    }

    /// It has been told.
    pub(crate) fn told(&mut self, digest: u64, now: Instant) {
        if let Some(former) = self.told.insert(digest, now) {
            self.order.remove(&(former, digest));
        }
        self.order.insert((now, digest));
        while self.order.len() > REMEMBERED_MAX {
            if let Some((_, oldest)) = self.order.pop_first() {
                self.told.remove(&oldest);
            }
        }
    }
}

/// A token bucket.
#[derive(Debug)]
pub(crate) struct Allowance {
    tokens: f64,
    at: Instant,
}

impl Allowance {
    /// Full.
    pub(crate) fn new(now: Instant) -> Self {
        Self { tokens: BURST, at: now }
    }

    /// Takes `count` tokens, or says from when on there will be as many.
    pub(crate) fn take(&mut self, count: usize, now: Instant) -> Result<(), Instant> {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.tokens = (self.tokens + passed * PER_SECOND).min(BURST);
        self.at = self.at.max(now);
        // More than a burst at once would never be granted.
        let wanted = f64::from(u32::try_from(count).unwrap_or(u32::MAX)).min(BURST);
        if self.tokens >= wanted {
            self.tokens -= wanted;
            return Ok(());
        }
        Err(now + Duration::from_secs_f64((wanted - self.tokens) / PER_SECOND))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_thing_is_told_once_and_again_after_a_while() {
        let (mut book, now) = (Book::default(), Instant::now());
        assert!(book.is_news(1, now));
        book.told(1, now);
        assert!(!book.is_news(1, now + REPEAT_AFTER - Duration::from_secs(1)));
        assert!(book.is_news(1, now + REPEAT_AFTER));
        assert!(book.is_news(2, now));
    }

    #[test]
    fn memory_is_bounded_and_the_oldest_goes_first() {
        let (mut book, now) = (Book::default(), Instant::now());
        for digest in 0..=REMEMBERED_MAX as u64 {
            book.told(digest, now + Duration::from_millis(digest));
        }
        assert_eq!((book.told.len(), book.order.len()), (REMEMBERED_MAX, REMEMBERED_MAX));
        assert!(book.is_news(0, now) && !book.is_news(1, now));
    }

    #[test]
    fn a_burst_is_granted_and_then_a_steady_rate() {
        let now = Instant::now();
        let mut allowance = Allowance::new(now);
        for _ in 0..50 {
            assert!(allowance.take(1, now).is_ok());
        }
        let from = allowance.take(1, now).unwrap_err();
        assert_eq!(from, now + Duration::from_millis(500));
        assert!(allowance.take(1, from).is_ok());
        let hours = now + Duration::from_secs(7200);
        assert!(allowance.take(50, hours).is_ok());
        assert!(allowance.take(1, hours).is_err(), "an idle hour saves up one burst");
    }
}
