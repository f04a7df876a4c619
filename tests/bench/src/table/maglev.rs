//! Maglev hashing (Eisenbud et al., NSDI 2016, section 3.4) with weights: members take turns in
//! filling the table along permutations of their own. A member of less than the largest weight
//! sits out turns in proportion, as in Katran's second version.

#![expect(clippy::cast_possible_truncation, reason = "bucket numbers are small")]

use std::hash::Hasher;
use std::net::SocketAddr;

use siphasher::sip::SipHasher13;

use super::Members;
use super::contenders::{Contender, NOBODY};

/// Prime, as the permutations need it.
const BUCKETS: u64 = 65_537;

/// A complete table.
pub(crate) struct Maglev {
    owners: Vec<SocketAddr>,
}

impl Contender for Maglev {
    const CHANGES_BEFORE: usize = 0;
    const IS_EXACT: bool = false;

    fn new(members: &Members) -> Self {
        Self { owners: fill(members) }
    }

    fn change(&mut self, members: &Members) {
        self.owners = fill(members);
    }

    fn owners(&self) -> Vec<SocketAddr> {
        self.owners.clone()
    }

    fn lookup(&self, hash: u64) -> SocketAddr {
        self.owners[(hash % BUCKETS) as usize]
    }
}

struct Turn {
    member: SocketAddr,
    next: u64,
    skip: u64,
    weight: u64,
    saved: u64,
}

fn fill(members: &Members) -> Vec<SocketAddr> {
    let largest = members.values().copied().max().map_or(1, u64::from);
    let mut turns: Vec<Turn> = members
        .iter()
        .map(|(member, weight)| Turn {
            member: *member,
            next: hash(member, 0) % BUCKETS,
            skip: hash(member, 1) % (BUCKETS - 1) + 1,
            weight: u64::from(*weight),
            saved: 0,
        })
        .collect();
    let mut owners = vec![NOBODY; BUCKETS as usize];
    let mut left = BUCKETS;
    while !turns.is_empty() {
        for turn in &mut turns {
            turn.saved += turn.weight;
            if turn.saved < largest {
                continue;
            }
            turn.saved -= largest;
            while owners[turn.next as usize] != NOBODY {
                turn.next = (turn.next + turn.skip) % BUCKETS;
            }
            owners[turn.next as usize] = turn.member;
            left -= 1;
            if left == 0 {
                return owners;
            }
        }
    }
    owners
}

fn hash(member: &SocketAddr, seed: u64) -> u64 {
    let mut hasher = SipHasher13::new_with_keys(seed, 0);
    if let SocketAddr::V4(v4) = member {
        hasher.write(&v4.ip().octets());
    }
    hasher.write(&member.port().to_be_bytes());
    hasher.finish()
}
