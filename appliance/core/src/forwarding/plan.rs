//! Who gets the buckets that a change sets free.
//!
//! The members over their share and the number of buckets each gives up are settled before; here
//! each of the moved buckets, in ascending order, finds its receiver.

use crate::Weight;

use super::ages::Buckets;
use super::slots::{NO_SLOT, Slot};

/// Pairs members that leave with members that arrive, as (leaving, arriving) positions: a pod
/// that is replaced by another hands all its buckets to that one.
///
/// First those of equal weight, then the rest by weight; within a weight in the order of the
/// lists.
pub(super) fn pair(leaving: &[Weight], arriving: &[Weight]) -> Vec<(usize, usize)> {
    let by_weight = |weights: &[Weight]| {
        let mut order: Vec<usize> = (0..weights.len()).collect();
        order.sort_by_key(|at| weights[*at]);
        order
    };
    let (old, new) = (by_weight(leaving), by_weight(arriving));
    let (mut pairs, mut old_rest, mut new_rest) = (Vec::new(), Vec::new(), Vec::new());
    let (mut i, mut j) = (0, 0);
    while i < old.len() && j < new.len() {
        match leaving[old[i]].cmp(&arriving[new[j]]) {
            std::cmp::Ordering::Equal => {
                pairs.push((old[i], new[j]));
                (i, j) = (i + 1, j + 1);
            }
            std::cmp::Ordering::Less => {
                old_rest.push(old[i]);
                i += 1;
            }
            std::cmp::Ordering::Greater => {
                new_rest.push(new[j]);
                j += 1;
            }
        }
    }
    old_rest.extend(&old[i..]);
    new_rest.extend(&new[j..]);
    pairs.extend(old_rest.into_iter().zip(new_rest));
    pairs
}

/// What is known about a change when the moved buckets look for receivers.
pub(super) struct Demand<'a> {
    /// What each member still wants, in member order.
    pub(super) wanting: &'a mut [(Slot, u32)],
    /// Members that replace others.
    pub(super) heirs: &'a [Heir],
    /// The first hop that was found dead.
    pub(super) dead: Option<Slot>,
}

/// A member that replaces another.
pub(super) struct Heir {
    /// Its position in [`Demand::wanting`].
    pub(super) at: usize,
    /// The member that it replaces.
    pub(super) donor: Slot,
    /// Buckets that it takes from that one; never more than it wants.
    pub(super) count: u32,
}

/// Receivers of the moved buckets, which are ascending and as many as are wanted.
///
/// - A dead member's bucket goes to its second hop, as far as that one is under its share.
/// - An heir takes the lowest buckets of the member that it replaces.
/// - The rest is dealt like cards: one to each wanting member in member order, round by round.
pub(super) struct Receivers {
    /// Second hops that take over, by position of the moved bucket; empty unless one is dead.
    second_hops: std::vec::IntoIter<Slot>,
    /// Heir and what it still takes, by the slot of the member that it replaces.
    by_donor: Vec<(Slot, u32)>,
    dealt: std::vec::IntoIter<Slot>,
}

impl Receivers {
    pub(super) fn new(buckets: &Buckets, moved: &[u32], demand: Demand<'_>) -> Self {
        let Demand { wanting, heirs, dead } = demand;
        let second_hops = match dead {
            Some(dead) => second_hops(buckets, moved, dead, wanting),
            None => Vec::new(),
        };
        let slots = heirs.iter().map(|heir| usize::from(heir.donor) + 1).max().unwrap_or(0);
        let mut by_donor = vec![(NO_SLOT, 0); slots];
        for heir in heirs {
            let (slot, wanted) = &mut wanting[heir.at];
            *wanted -= heir.count;
            by_donor[usize::from(heir.donor)] = (*slot, heir.count);
        }
        let dealt = deal(wanting).into_iter();
        Self { second_hops: second_hops.into_iter(), by_donor, dealt }
    }

    /// The receiver of the next moved bucket, which `donor` gives up.
    pub(super) fn next(&mut self, donor: Slot) -> Slot {
        if let Some(second_hop) = self.second_hops.next()
            && second_hop != NO_SLOT
        {
            return second_hop;
        }
        if let Some((heir, left)) = self.by_donor.get_mut(usize::from(donor))
            && *left > 0
        {
            *left -= 1;
            return *heir;
        }
        self.dealt.next().unwrap_or(NO_SLOT)
    }
}

/// Who takes over which of the moved buckets as their second hop; `NO_SLOT` for the others.
fn second_hops(
    buckets: &Buckets,
    moved: &[u32],
    dead: Slot,
    wanting: &mut [(Slot, u32)],
) -> Vec<Slot> {
    let slots = wanting.iter().map(|(slot, _)| usize::from(*slot) + 1).max().unwrap_or(0);
    let mut position = vec![usize::MAX; slots];
    for (at, (slot, _)) in wanting.iter().enumerate() {
        position[usize::from(*slot)] = at;
    }
    let take_over = |bucket: &u32| {
        let hops = buckets.get(*bucket as usize).filter(|hops| hops.first == dead)?;
        let at = position.get(usize::from(hops.second))?;
        let (slot, wanted) = wanting.get_mut(*at)?;
        *wanted = wanted.checked_sub(1)?;
        Some(*slot)
    };
    moved.iter().map(take_over).map(|slot| slot.unwrap_or(NO_SLOT)).collect()
}

/// One to each that still wants one, round by round.
fn deal(wanting: &[(Slot, u32)]) -> Vec<Slot> {
    let mut hands: Vec<_> = wanting.iter().copied().filter(|(_, wanted)| *wanted > 0).collect();
    let mut dealt = Vec::with_capacity(hands.iter().map(|(_, wanted)| *wanted as usize).sum());
    while !hands.is_empty() {
        // As many full rounds as nobody drops out of.
        let rounds = hands.iter().map(|(_, wanted)| *wanted).min().unwrap_or(1);
        for _ in 0..rounds {
            dealt.extend(hands.iter().map(|(slot, _)| *slot));
        }
        hands.retain_mut(|(_, wanted)| {
            *wanted -= rounds;
            *wanted > 0
        });
    }
    dealt
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_weights_are_paired_before_others() {
        assert_eq!(pair(&[100, 50, 100], &[100, 100, 10]), [(0, 0), (2, 1), (1, 2)]);
        assert_eq!(pair(&[7], &[]), []);
        assert_eq!(pair(&[5, 6], &[9]), [(0, 0)]);
    }

    #[test]
    fn cards_are_dealt_until_every_hand_is_full() {
        assert_eq!(deal(&[(4, 1), (9, 3), (2, 0), (1, 2)]), [4, 9, 1, 9, 1, 9]);
        assert_eq!(deal(&[]), []);
    }
}
