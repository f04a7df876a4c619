//! When to try again what the kernel refused: pure.

use std::collections::BTreeMap;

/// First wait in milliseconds; doubles with each further refusal.
const WAIT_MS_MIN: u64 = 1_000;

/// Longest wait in milliseconds: a next hop that comes back is used within half a minute even
/// if the kernel's notification was missed.
const WAIT_MS_MAX: u64 = 30_000;

/// What was refused, why, and when it is tried again. Bounded by what is wanted: an entry goes
/// when its key succeeds or is no longer wanted.
#[derive(Clone, Debug)]
pub(crate) struct Retries<K> {
    entries: BTreeMap<K, Refusal>,
}

/// One refusal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) reason: String,
    failures: u32,
    due_ms: u64,
}

impl<K> Default for Retries<K> {
    fn default() -> Self {
        Self { entries: BTreeMap::new() }
    }
}

impl<K: Ord + Copy> Retries<K> {
    /// Notes a refusal. `jitter` lies between 0.5 and 1.
    pub(crate) fn refused(&mut self, key: K, reason: String, now_ms: u64, jitter: f64) {
        let failures = self.entries.get(&key).map_or(0, |entry| entry.failures);
        let doubled = WAIT_MS_MIN << failures.min(16);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "at most WAIT_MS_MAX, scaled down"
        )]
        let wait_ms = (doubled.min(WAIT_MS_MAX) as f64 * jitter) as u64;
        let entry = Refusal { reason, failures: failures + 1, due_ms: now_ms + wait_ms };
        self.entries.insert(key, entry);
    }

    /// The key succeeded, or nobody wants it any more.
    pub(crate) fn settled(&mut self, key: &K) {
        self.entries.remove(key);
    }

    /// Keys whose time has come.
    pub(crate) fn due(&self, now_ms: u64) -> impl Iterator<Item = K> {
        self.entries.iter().filter(move |(_, entry)| entry.due_ms <= now_ms).map(|(key, _)| *key)
    }

    /// Something changed that may help: everything is due now. The count of failures stays.
    pub(crate) fn hurry(&mut self, now_ms: u64) {
        for entry in self.entries.values_mut() {
            entry.due_ms = entry.due_ms.min(now_ms);
        }
    }

    pub(crate) fn is_due(&self, key: &K, now_ms: u64) -> bool {
        self.entries.get(key).is_none_or(|entry| entry.due_ms <= now_ms)
    }

    pub(crate) fn next_due_ms(&self) -> Option<u64> {
        self.entries.values().map(|entry| entry.due_ms).min()
    }

    pub(crate) fn get(&self, key: &K) -> Option<&Refusal> {
        self.entries.get(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_to_a_limit_and_end_with_success() {
        let mut retries = Retries::default();
        for (now_ms, due_ms) in [(0, 1_000), (1_000, 3_000), (3_000, 7_000)] {
            retries.refused(1, "no route".into(), now_ms, 1.0);
            assert_eq!(retries.next_due_ms(), Some(due_ms));
            assert!(!retries.is_due(&1, due_ms - 1) && retries.is_due(&1, due_ms));
        }
        for _ in 0..100 {
            retries.refused(1, "no route".into(), 0, 1.0);
        }
        assert_eq!(retries.next_due_ms(), Some(WAIT_MS_MAX));
        retries.hurry(5);
        assert!(retries.is_due(&1, 5));
        retries.settled(&1);
        assert_eq!(retries.next_due_ms(), None);
    }
}
