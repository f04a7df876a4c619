//! The wait between two attempts.

use std::time::Duration;

/// Exponential backoff with jitter, bounded on both sides.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    first: Duration,
    longest: Duration,
    attempts: u32,
}

impl Pace {
    /// Waits about `first`, then twice as long after every further failure, never above
    /// `longest`.
    pub const fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest, attempts: 0 }
    }

    /// The wait after one more failure. `chance` (0.0 to 1.0) spreads it between half of its
    /// nominal length and the whole, so that hosts that lost a server together do not return
    /// together.
    pub fn after_failure(&mut self, chance: f64) -> Duration {
        let nominal = self.first.saturating_mul(1 << self.attempts.min(16)).min(self.longest);
        self.attempts = self.attempts.saturating_add(1);
        nominal.mul_f64(0.5 + chance.clamp(0.0, 1.0) / 2.0)
    }

    /// Failures since the last success.
    pub fn failures(&self) -> u32 {
        self.attempts
    }

    /// Starts again from the shortest wait.
    pub fn succeeded(&mut self) {
        self.attempts = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_doubles_up_to_its_limit_and_starts_again_after_a_success() {
        let mut pace = Pace::new(Duration::from_secs(1), Duration::from_secs(5));
        let waits: Vec<_> = (0..4).map(|_| pace.after_failure(1.0).as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 5]);
        pace.succeeded();
        assert_eq!(pace.after_failure(1.0).as_secs(), 1);
    }

    #[test]
    fn jitter_never_leaves_half_to_whole() {
        let mut pace = Pace::new(Duration::from_secs(8), Duration::from_secs(8));
        for chance in [-1.0, 0.0, 0.5, 1.0, 7.0] {
            let wait = pace.after_failure(chance);
            assert!(wait >= Duration::from_secs(4) && wait <= Duration::from_secs(8));
        }
        for _ in 0..100 {
            assert!(pace.after_failure(1.0) <= Duration::from_secs(8));
        }
    }
}
