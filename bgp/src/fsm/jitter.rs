//! Jitter from a seed (RFC 4271, 10: timers are multiplied by 0.75 to 1.0).

use std::time::Duration;

/// A small generator of well-spread numbers (splitmix64). Not for secrets.
#[derive(Debug)]
pub(super) struct Jitter(u64);

impl Jitter {
    pub(super) fn new(seed: u64) -> Jitter {
        Jitter(seed)
    }

    /// A time between three quarters of `time` and all of it.
    pub(super) fn spread(&mut self, time: Duration) -> Duration {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let share = u32::from(((mixed >> 48) & 0xff) as u8);
        time * 3 / 4 + time / 4 * share / 255
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jitter_stays_between_three_quarters_and_the_whole() {
        let whole = Duration::from_secs(8);
        let mut jitter = Jitter::new(7);
        let drawn: Vec<Duration> = (0..1000).map(|_| jitter.spread(whole)).collect();
        assert!(drawn.iter().all(|time| (whole * 3 / 4..=whole).contains(time)));
        assert!(drawn.iter().any(|time| *time < whole * 4 / 5));
        assert!(drawn.iter().any(|time| *time > whole * 19 / 20));
    }
}
