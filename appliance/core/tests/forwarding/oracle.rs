//! The forwarding table once more, slowly: plain maps and full scans, no queue, no slot, no
//! chunk, nothing kept that can be counted anew. It shares no code with the table that it
//! checks; where the two differ, one of them does not do what design says.

use std::collections::{BTreeMap, BTreeSet};

use haflinger_core::forwarding::Change;

/// One bucket: its hops, and when its first hop changed last (generation, seconds).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bucket {
    pub(crate) first: u32,
    pub(crate) second: Option<u32>,
    pub(crate) changed: Option<(u64, u64)>,
}

/// The slow table.
#[derive(Clone, Debug)]
pub(crate) struct Oracle {
    pub(crate) buckets: Vec<Bucket>,
    pub(crate) weights: BTreeMap<u32, u32>,
    pub(crate) generation: u64,
    clock: u64,
    hold_secs: u64,
}

impl Oracle {
    pub(crate) fn new(hold_secs: u64) -> Self {
        let (buckets, weights) = (Vec::new(), BTreeMap::new());
        Self { buckets, weights, generation: 0, clock: 0, hold_secs }
    }

    pub(crate) fn update(&mut self, members: &[(u32, u32)], now: u64) -> Change {
        let mut wanted = BTreeMap::new();
        for (member, weight) in members.iter().filter(|(_, weight)| *weight > 0) {
            let most = wanted.entry(*member).or_insert(0);
            *most = (*weight).max(*most);
        }
        if wanted == self.weights {
            return self.nothing();
        }
        self.change_to(wanted, None, now)
    }

    pub(crate) fn fail(&mut self, member: u32, now: u64) -> Change {
        let is_member = self.weights.contains_key(&member);
        let named = self.buckets.iter().filter(|bucket| bucket.second == Some(member)).count();
        if !is_member && named == 0 {
            return self.nothing();
        }
        let mut change = if is_member {
            let mut wanted = self.weights.clone();
            wanted.remove(&member);
            self.change_to(wanted, Some(member), now)
        } else {
            self.generation += 1;
            self.nothing()
        };
        for bucket in self.buckets.iter_mut().filter(|bucket| bucket.second == Some(member)) {
            bucket.second = None;
            change.cleared += 1;
        }
        change
    }

    /// How many buckets each member holds.
    pub(crate) fn holdings(&self) -> BTreeMap<u32, usize> {
        let mut holdings = BTreeMap::new();
        for bucket in &self.buckets {
            *holdings.entry(bucket.first).or_insert(0) += 1;
        }
        holdings
    }

    fn nothing(&self) -> Change {
        Change {
            generation: self.generation,
            buckets: u32::try_from(self.buckets.len()).unwrap(),
            ..Change::default()
        }
    }

    fn change_to(&mut self, wanted: BTreeMap<u32, u32>, dead: Option<u32>, now: u64) -> Change {
        self.generation += 1;
        let old = std::mem::replace(&mut self.weights, wanted);
        if self.weights.is_empty() {
            self.buckets.clear();
            self.clock = 0;
            return self.nothing();
        }
        if old.is_empty() {
            for (member, share) in apportion(needed(self.weights.len()), &self.weights, |_, _| 0) {
                let bucket = Bucket { first: member, second: None, changed: None };
                self.buckets.extend(std::iter::repeat_n(bucket, share));
            }
            return self.nothing();
        }
        let now = now.max(self.clock);
        let mut doubled = 0;
        while dead.is_none() && self.buckets.len() < needed(self.weights.len()) {
            self.buckets = self.buckets.iter().flat_map(|bucket| [*bucket; 2]).collect();
            doubled += 1;
        }
        let heirs = heirs(&old, &self.weights);
        let holdings = self.holdings();
        let held = |member: u32| holdings.get(&member).copied().unwrap_or(0);
        let donor_of = |heir: u32| heirs.iter().find(|(_, new)| **new == heir).map(|(old, _)| *old);
        let shares = apportion(self.buckets.len(), &self.weights, |member, floor| {
            let inherits = donor_of(member).is_some_and(|donor| held(donor) > floor);
            if held(member) > floor { 2 } else { i32::from(inherits) }
        });

        let moved = self.surplus(&shares);
        let receivers = self.receivers(&moved, &shares, &heirs, dead);
        let at_risk = moved.iter().filter(|at| {
            self.buckets[**at].changed.is_some_and(|(_, secs)| secs + self.hold_secs > now)
        });
        let (at_risk, moves) = (at_risk.count(), moved.len());
        for at in moved {
            let bucket = &mut self.buckets[at];
            let before = *bucket;
            bucket.first = receivers[&at];
            bucket.second = if Some(before.first) == dead {
                before.second.filter(|second| *second != bucket.first)
            } else {
                Some(before.first)
            };
            bucket.changed = Some((self.generation, now));
            self.clock = now;
        }
        let [moved, at_risk] = [moves, at_risk].map(|count| u32::try_from(count).unwrap());
        Change { moved, at_risk, doubled, ..self.nothing() }
    }

    /// The buckets that move: of everyone over its share the oldest. Ascending.
    fn surplus(&self, shares: &BTreeMap<u32, usize>) -> BTreeSet<usize> {
        let mut moved = BTreeSet::new();
        for (member, held) in self.holdings() {
            let mut own: Vec<usize> =
                (0..self.buckets.len()).filter(|at| self.buckets[*at].first == member).collect();
            own.sort_by_key(|at| (self.buckets[*at].changed, *at));
            let surplus = held.saturating_sub(shares.get(&member).copied().unwrap_or(0));
            moved.extend(&own[..surplus]);
        }
        moved
    }

    /// Who gets each moved bucket.
    fn receivers(
        &self,
        moved: &BTreeSet<usize>,
        shares: &BTreeMap<u32, usize>,
        heirs: &BTreeMap<u32, u32>,
        dead: Option<u32>,
    ) -> BTreeMap<usize, u32> {
        let holdings = self.holdings();
        let held = |member: &u32| holdings.get(member).copied().unwrap_or(0);
        let mut lacks: BTreeMap<u32, usize> = shares
            .iter()
            .map(|(member, share)| (*member, share.saturating_sub(held(member))))
            .collect();
        let mut receivers = BTreeMap::new();
        // First what belongs together: second hops of the dead, and heirs.
        for at in moved {
            let Bucket { first, second, .. } = self.buckets[*at];
            let natural = if Some(first) == dead { second } else { heirs.get(&first).copied() };
            if let Some(natural) = natural
                && let Some(lack) = lacks.get_mut(&natural).filter(|lack| **lack > 0)
            {
                *lack -= 1;
                receivers.insert(*at, natural);
            }
        }
        // Then one for each in turn.
        let mut turn = Vec::new();
        for at in moved {
            if receivers.contains_key(at) {
                continue;
            }
            if turn.is_empty() {
                turn = lacks.iter().filter(|(_, lack)| **lack > 0).map(|(who, _)| *who).collect();
                turn.reverse();
            }
            let next = turn.pop().expect("as many are wanted as are moved");
            *lacks.get_mut(&next).unwrap() -= 1;
            receivers.insert(*at, next);
        }
        receivers
    }
}

/// The power of two nearest to 128 buckets a member (√2 to either side), from 256 to 2^20.
pub(crate) fn needed(members: usize) -> usize {
    (8..20).map(|bits| 1 << bits).find(|buckets| *buckets >= members * 90).unwrap_or(1 << 20)
}

/// Largest remainder, one spare bucket at a time: to the largest remainder left, then to the
/// best claim, then to the first member.
pub(crate) fn apportion(
    buckets: usize,
    weights: &BTreeMap<u32, u32>,
    claim: impl Fn(u32, usize) -> i32,
) -> BTreeMap<u32, usize> {
    let total: u128 = weights.values().map(|weight| u128::from(*weight)).sum();
    let product = |weight: &u32| buckets as u128 * u128::from(*weight);
    let mut shares: BTreeMap<u32, usize> = weights
        .iter()
        .map(|(member, weight)| (*member, usize::try_from(product(weight) / total).unwrap()))
        .collect();
    let floors = shares.clone();
    let mut waiting: Vec<u32> = weights.keys().copied().collect();
    while shares.values().sum::<usize>() < buckets {
        let rank =
            |member: &u32| (product(&weights[member]) % total, claim(*member, floors[member]));
        let best = waiting.iter().map(rank).max().unwrap();
        let next = waiting.iter().position(|member| rank(member) == best).unwrap();
        *shares.get_mut(&waiting.remove(next)).unwrap() += 1;
    }
    shares
}

/// Who replaces whom, by the member that leaves.
fn heirs(old: &BTreeMap<u32, u32>, new: &BTreeMap<u32, u32>) -> BTreeMap<u32, u32> {
    let only_in = |a: &BTreeMap<u32, u32>, b: &BTreeMap<u32, u32>| -> BTreeSet<(u32, u32)> {
        a.iter().filter(|(who, _)| !b.contains_key(who)).map(|(who, w)| (*w, *who)).collect()
    };
    let (mut leaving, mut arriving) = (only_in(old, new), only_in(new, old));
    let mut heirs = BTreeMap::new();
    for same_weight in [true, false] {
        for (weight, donor) in leaving.clone() {
            let fits = |heir: &&(u32, u32)| !same_weight || heir.0 == weight;
            if let Some(heir) = arriving.iter().find(fits).copied() {
                arriving.remove(&heir);
                leaving.remove(&(weight, donor));
                heirs.insert(donor, heir.1);
            }
        }
    }
    heirs
}
