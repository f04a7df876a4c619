//! The buckets with which tables begin.
//!
//! They hold slots, which count from 0, and no members: two tables that begin with the same shares
//! begin with the same buckets. So 50,000 small services keep a picture for each number of backends,
//! and what a table changes it copies.

use std::collections::BTreeMap;

use super::ages::{BucketHops, Buckets, CHUNK};
use super::slots::{NO_SLOT, Slot};

/// Pictures that are kept; the numbers of backends and the weights of small services are few. More
/// are forgotten, all at once: they only cost their making again.
const STARTS_MAX: usize = 256;

/// Tables with more buckets are seldom alike.
const SHARED_BUCKETS_MAX: usize = 1 << 12;

/// Buckets of new tables by the shares of their members. Forgetting them costs memory alone.
#[derive(Debug, Default)]
pub struct Starts(BTreeMap<Vec<u32>, Buckets>);

impl Starts {
    /// The first picture: members in order take consecutive runs of buckets. The sum of the shares
    /// is a multiple of a chunk.
    pub(super) fn buckets(&mut self, shares: Vec<u32>) -> Buckets {
        if let Some(known) = self.0.get(&shares) {
            return known.clone();
        }
        let buckets = shares.iter().map(|share| *share as usize).sum::<usize>();
        let runs = (0 as Slot..).zip(&shares);
        let mut firsts = runs.flat_map(|(slot, share)| std::iter::repeat_n(slot, *share as usize));
        let made = Buckets::from_fn(buckets / CHUNK, |_| BucketHops {
            first: firsts.next().unwrap_or(NO_SLOT),
            second: NO_SLOT,
        });
        if buckets <= SHARED_BUCKETS_MAX {
            if self.0.len() >= STARTS_MAX {
                self.0.clear();
            }
            self.0.insert(shares, made.clone());
        }
        made
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::forwarding::ForwardingTable;

    #[test]
    fn equal_shares_have_one_picture_and_a_change_copies_it() {
        let mut starts = Starts::default();
        let members = |from: u32| (from..from + 5).map(|member| (member, 100));
        let mut table = |from| {
            let mut table = ForwardingTable::with_settings(Default::default());
            table.update_sharing(&mut starts, members(from), 0);
            table
        };
        let (mut one, other) = (table(0), table(100));
        assert!(one.buckets.is_same(&other.buckets));
        assert_eq!(one.view(), ForwardingTable::new(members(0)).view(), "sharing is not seen");
        one.update(members(1), 1);
        assert_eq!(other.view(), ForwardingTable::new(members(100)).view());
    }

    #[test]
    fn pictures_are_bounded() {
        let mut starts = Starts::default();
        for share in 0..1000 {
            starts.buckets(vec![share % 500, 512 - share % 500]);
            assert!(starts.0.len() <= STARTS_MAX);
        }
        starts.buckets(vec![1 << 13]);
        assert!(!starts.0.contains_key(&vec![1 << 13]));
    }
}
