//! Counted limits that can change while they are held.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// How many of something there are.
#[derive(Default)]
pub(crate) struct Count(AtomicU64);

impl Count {
    /// One more, unless that would exceed `most`. Given back when the answer is dropped.
    pub(crate) fn hold(self: &Arc<Self>, most: u32) -> Option<Held> {
        hold(&self.0, most).then(|| Held(Arc::clone(self)))
    }

    /// How many are held now.
    pub(crate) fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// One of a [`Count`].
pub(crate) struct Held(Arc<Count>);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Adds one to a counter unless it stands at `most`.
pub(crate) fn hold(counter: &AtomicU64, most: u32) -> bool {
    let below = |count| (count < u64::from(most)).then_some(count + 1);
    counter.fetch_update(Ordering::Relaxed, Ordering::Relaxed, below).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_held_one_is_given_back_and_a_lowered_limit_ends_nothing() {
        let count = Arc::new(Count::default());
        let (first, second) = (count.hold(2), count.hold(2));
        assert!(first.is_some() && second.is_some() && count.hold(2).is_none());
        assert!(count.hold(1).is_none());
        drop(first);
        assert_eq!(count.count(), 1);
        assert!(count.hold(1).is_none() && count.hold(2).is_some());
    }
}
