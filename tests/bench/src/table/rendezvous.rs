//! Weighted rendezvous hashing: each bucket goes to the member with the highest score,
//! `-weight / ln(hash)`. Best scores are kept, so that a change looks only at the members that
//! changed and at the buckets that they lose.

#![expect(clippy::cast_possible_truncation, reason = "bucket numbers are small")]

use std::net::SocketAddr;

use haflinger_core::Weight;

use super::Members;
use super::contenders::{Contender, NOBODY};
use crate::random::Random;

const BUCKETS: u64 = 65_536;

/// A complete table with its scores.
pub(crate) struct Rendezvous {
    members: Members,
    best: Vec<(f64, SocketAddr)>,
}

impl Contender for Rendezvous {
    const CHANGES_BEFORE: usize = 0;
    const IS_EXACT: bool = false;

    fn new(members: &Members) -> Self {
        let best = vec![(0.0, NOBODY); BUCKETS as usize];
        let mut new = Self { members: Members::new(), best };
        new.change(members);
        new
    }

    fn change(&mut self, members: &Members) {
        let weight_of =
            |members: &Members, who: &SocketAddr| members.get(who).copied().unwrap_or(0);
        let shrunk = |who: &SocketAddr| weight_of(members, who) < weight_of(&self.members, who);
        let grown: Vec<_> = members
            .iter()
            .filter(|(who, weight)| **weight > weight_of(&self.members, who))
            .collect();
        let less: Vec<_> = self.members.keys().copied().filter(shrunk).collect();
        for (bucket, best) in (0_u64..).zip(&mut self.best) {
            let contested = less.contains(&best.1);
            if contested {
                *best = (0.0, NOBODY);
                members.iter().for_each(|(who, weight)| challenge(best, bucket, who, *weight));
            } else {
                grown.iter().for_each(|(who, weight)| challenge(best, bucket, who, **weight));
            }
        }
        self.members.clone_from(members);
    }

    fn owners(&self) -> Vec<SocketAddr> {
        self.best.iter().map(|(_, owner)| *owner).collect()
    }

    fn lookup(&self, hash: u64) -> SocketAddr {
        self.best[(hash >> (u64::BITS - BUCKETS.ilog2())) as usize].1
    }
}

fn challenge(best: &mut (f64, SocketAddr), bucket: u64, member: &SocketAddr, weight: Weight) {
    let SocketAddr::V4(v4) = member else { return };
    let mixed = Random(u64::from(v4.ip().to_bits()) << 32 | bucket << 16).next();
    // Uniform in (0, 1).
    let uniform = ((mixed >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
    let score = -f64::from(weight) / uniform.ln();
    if score > best.0 {
        *best = (score, *member);
    }
}
