//! The deletion budget: a source that suddenly lists nothing must not empty a zone.

use std::collections::VecDeque;
use std::num::NonZeroU8;

/// Time in milliseconds over which deletions add up: a mass deletion that arrives in small
/// pieces is still one.
pub const DELETION_WINDOW_MS: u64 = 600_000;

/// Deletions up to this number are always small, whatever share of a little zone they are.
pub const SHARE_APPLIES_ABOVE: usize = 5;

/// How much may be deleted within [`DELETION_WINDOW_MS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeletionBudget {
    /// Names.
    pub names_max: usize,
    /// Percent of the names that we own in the zone (1 to 100); looked at only above
    /// [`SHARE_APPLIES_ABOVE`] names.
    pub percent_max: NonZeroU8,
}

/// What was deleted lately. Bounded: one entry a plan, and plans are made at most twice a second,
/// so 1,200 entries in a window.
#[derive(Clone, Debug, Default)]
pub struct Deletions {
    recent: VecDeque<(u64, usize)>,
}

impl Deletions {
    /// Whether `wanted` further deletions fit, of `owned` names before them.
    pub fn allow(
        &mut self,
        budget: &DeletionBudget,
        wanted: usize,
        owned: usize,
        now_ms: u64,
    ) -> bool {
        let recent = self.recent(now_ms);
        let total = wanted + recent;
        let before = owned + recent;
        let share_fits = total <= SHARE_APPLIES_ABOVE
            || total.saturating_mul(100)
                <= before.saturating_mul(usize::from(budget.percent_max.get()));
        wanted == 0 || (total <= budget.names_max && share_fits)
    }

    /// Notes deletions that were made.
    pub fn record(&mut self, names: usize, now_ms: u64) {
        if names > 0 {
            self.recent.push_back((now_ms, names));
        }
    }

    fn recent(&mut self, now_ms: u64) -> usize {
        while self.recent.front().is_some_and(|(at, _)| now_ms - at >= DELETION_WINDOW_MS) {
            self.recent.pop_front();
        }
        self.recent.iter().map(|(_, names)| names).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budget(names_max: usize, percent_max: u8) -> DeletionBudget {
        DeletionBudget { names_max, percent_max: NonZeroU8::new(percent_max).unwrap() }
    }

    #[test]
    fn a_mass_deletion_is_held_and_a_small_one_goes_through() {
        let mut deletions = Deletions::default();
        assert!(deletions.allow(&budget(20, 50), 20, 1000, 0));
        assert!(!deletions.allow(&budget(20, 50), 21, 1000, 0));
        assert!(!deletions.allow(&budget(20, 50), 6, 10, 0), "more than half of ten");
        assert!(deletions.allow(&budget(20, 50), 5, 5, 0), "few are never a share");
    }

    #[test]
    fn deletions_in_small_pieces_add_up_until_the_window_has_passed() {
        let mut deletions = Deletions::default();
        for at in 0..4 {
            assert!(deletions.allow(&budget(20, 50), 5, 1000, at));
            deletions.record(5, at);
        }
        assert!(!deletions.allow(&budget(20, 50), 1, 980, 4));
        assert!(deletions.allow(&budget(20, 50), 1, 980, DELETION_WINDOW_MS));
    }

    #[test]
    fn nothing_to_delete_is_never_held() {
        assert!(Deletions::default().allow(&budget(0, 1), 0, 0, 0));
        assert!(!Deletions::default().allow(&budget(0, 1), 1, 100, 0));
    }
}
