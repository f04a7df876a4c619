//! Exact shares by largest remainder.
//!
//! Each member gets `buckets × weight / total weight` rounded down; the buckets left over go one
//! each to the members with the largest remainders. Pure arithmetic: no member's name, only the
//! order of the list, is known here.

use crate::Weight;

/// How much a member wants a spare bucket among those with the same remainder. Lower comes
/// first; within a rank the order of the list decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Claim {
    /// Holds it already: a move is saved.
    Holds = 0,
    /// Replaces a member that holds it: the buckets stay together.
    Inherits = 1,
    /// Has none.
    None = 2,
}

/// What one member brings to the division.
#[derive(Clone, Copy, Debug)]
pub(super) struct Claimant {
    /// From 1 to `MAX_WEIGHT`.
    pub(super) weight: Weight,
    /// Buckets that it holds.
    pub(super) held: u32,
    /// Buckets that it would inherit.
    pub(super) inherited: u32,
}

/// The share of each claimant, in the order of the list; the sum is `buckets`.
///
/// At most `MEMBERS_MAX` claimants, at least one.
pub(super) fn exact<C>(buckets: u32, claimants: C) -> Vec<u32>
where
    C: ExactSizeIterator<Item = Claimant> + Clone,
{
    let total: u64 = claimants.clone().map(|claimant| u64::from(claimant.weight)).sum();
    let mut quota = Quota::of(buckets, 0, total);
    let mut keys = Vec::with_capacity(claimants.len());
    let floor_and_key = |(at, claimant): (u64, Claimant)| {
        // Most members of most tables weigh the same: one division serves them all.
        if quota.weight != claimant.weight {
            quota = Quota::of(buckets, claimant.weight, total);
        }
        let claim = match claimant {
            _ if claimant.held > quota.floor => Claim::Holds,
            _ if claimant.inherited > quota.floor => Claim::Inherits,
            _ => Claim::None,
        };
        // 34 bits of remainder (MEMBERS_MAX × MAX_WEIGHT), 2 of claim, 16 of position: ascending
        // keys are the order in which spare buckets are given out.
        keys.push((total - quota.remainder) << 18 | (claim as u64) << 16 | at);
        quota.floor
    };
    let mut shares: Vec<u32> = (0..).zip(claimants).map(floor_and_key).collect();
    let left = buckets - shares.iter().sum::<u32>();
    if left > 0 {
        let (before, last, _) = keys.select_nth_unstable(left as usize - 1);
        for key in before.iter().chain([&*last]) {
            shares[(*key & 0xffff) as usize] += 1;
        }
    }
    shares
}

/// Whether `held` is one of the exact divisions (members with equal remainders may differ).
pub(super) fn is_exact(buckets: u32, members: &[(Weight, u32)]) -> bool {
    let total: u64 = members.iter().map(|(weight, _)| u64::from(*weight)).sum();
    let mut sum = 0_u64;
    let (mut smallest_served, mut largest_unserved) = (u64::MAX, 0);
    for (weight, held) in members {
        let quota = Quota::of(buckets, *weight, total);
        sum += u64::from(*held);
        match held.checked_sub(quota.floor) {
            Some(0) => largest_unserved = largest_unserved.max(quota.remainder),
            Some(1) => smallest_served = smallest_served.min(quota.remainder),
            _ => return false,
        }
    }
    sum == u64::from(buckets) && smallest_served >= largest_unserved && smallest_served > 0
}

/// `buckets × weight / total`, whole and remainder.
struct Quota {
    weight: Weight,
    floor: u32,
    remainder: u64,
}

impl Quota {
    fn of(buckets: u32, weight: Weight, total: u64) -> Self {
        let product = u64::from(buckets) * u64::from(weight);
        let floor = u32::try_from(product / total.max(1)).unwrap_or(buckets);
        Self { weight, floor, remainder: product % total.max(1) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fresh(weights: &[Weight]) -> Vec<Claimant> {
        weights.iter().map(|&weight| Claimant { weight, held: 0, inherited: 0 }).collect()
    }

    fn exact(buckets: u32, claimants: &[Claimant]) -> Vec<u32> {
        super::exact(buckets, claimants.iter().copied())
    }

    #[test]
    fn spare_buckets_go_to_the_largest_remainders() {
        // Quotas 76.8, 128 and 51.2.
        assert_eq!(exact(256, &fresh(&[3, 5, 2])), [77, 128, 51]);
    }

    #[test]
    fn equal_remainders_are_served_in_order() {
        assert_eq!(exact(256, &fresh(&[1, 1, 1])), [86, 85, 85]);
    }

    #[test]
    fn among_equal_remainders_the_holder_and_then_the_heir_keep_the_spare_bucket() {
        let mut claimants = fresh(&[1, 1, 1]);
        claimants[1].inherited = 86;
        assert_eq!(exact(256, &claimants), [85, 86, 85]);
        claimants[2].held = 86;
        assert_eq!(exact(256, &claimants), [85, 85, 86]);
    }

    #[test]
    fn more_members_than_buckets_leave_some_with_none() {
        let shares = exact(256, &fresh(&[7; 300]));
        assert_eq!(shares.iter().sum::<u32>(), 256);
        assert!(shares.iter().all(|share| *share <= 1));
    }

    #[test]
    fn the_largest_inputs_stay_within_64_bits() {
        let weights = vec![crate::MAX_WEIGHT; crate::forwarding::MEMBERS_MAX];
        let shares = exact(crate::forwarding::BUCKETS_MAX, &fresh(&weights));
        assert!(shares.iter().all(|share| *share == 64));
    }

    #[test]
    fn what_is_divided_exactly_is_recognised_and_nothing_else() {
        assert!(is_exact(256, &[(3, 77), (5, 128), (2, 51)]));
        assert!(!is_exact(256, &[(3, 76), (5, 128), (2, 52)]));
        assert!(!is_exact(256, &[(3, 77), (5, 129), (2, 50)]));
        assert!(is_exact(256, &[(1, 85), (1, 86), (1, 85)]));
        assert!(!is_exact(256, &[(1, 85), (1, 85), (1, 85)]));
        assert!(!is_exact(256, &[(1, 129), (1, 127)]));
    }
}
