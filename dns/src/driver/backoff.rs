//! How long to wait before another attempt.

use std::time::Duration;

/// First wait after a failure; doubles with each further one.
const FIRST: Duration = Duration::from_secs(1);

/// Time to wait after `failures` in a row, `longest` at most. `jitter` lies between 0.5 and 1.
pub(crate) fn backoff(failures: u32, longest: Duration, jitter: f64) -> Duration {
    let doubled = FIRST.saturating_mul(1 << failures.saturating_sub(1).min(20));
    doubled.min(longest).mul_f64(jitter)
}

/// A jitter for [`backoff`]: hosts that failed together do not come back together.
pub(crate) fn jitter() -> f64 {
    rand::random_range(0.5..=1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest() {
        let longest = Duration::from_secs(60);
        let wait = |failures| backoff(failures, longest, 1.0).as_secs();
        assert_eq!([1, 2, 3, 6, 7, u32::MAX].map(wait), [1, 2, 4, 32, 60, 60]);
        assert_eq!(backoff(1, longest, 0.5), Duration::from_millis(500));
    }
}
