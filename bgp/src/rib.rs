//! Adj-RIB-Out (RFC 4271, 3.2): what one peer has been told, and what it still has to be told.
//!
//! Invariant: `told` with `to_withdraw` taken out and `to_announce` put in is exactly the desired
//! set, as far as its families can be sent. A change costs time in proportion to itself. Nothing
//! here knows of messages or sockets.

use std::cmp::Ordering;
use std::collections::BTreeSet;

use ipnet::IpNet;

use crate::model::{Family, PerFamily, is_unicast};

/// The difference between two sets of prefixes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Delta {
    /// In the new set only.
    pub announce: Vec<IpNet>,
    /// In the old set only.
    pub withdraw: Vec<IpNet>,
}

impl Delta {
    /// Whether nothing changed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.announce.is_empty() && self.withdraw.is_empty()
    }

    /// What leads from `old` to `new`, by one walk over both.
    #[must_use]
    pub fn between(old: &BTreeSet<IpNet>, new: &BTreeSet<IpNet>) -> Delta {
        let mut delta = Delta::default();
        let (mut olds, mut news) = (old.iter().peekable(), new.iter().peekable());
        loop {
            let order = match (olds.peek(), news.peek()) {
                (None, None) => return delta,
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some(old), Some(new)) => old.cmp(new),
            };
            if order != Ordering::Greater {
                let gone = olds.next();
                delta.withdraw.extend(gone.filter(|_| order == Ordering::Less));
            }
            if order != Ordering::Less {
                let come = news.next();
                delta.announce.extend(come.filter(|_| order == Ordering::Greater));
            }
        }
    }
}

/// Work to send, taken from an [`AdjRibOut`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// Prefixes to withdraw, in order.
    pub withdraw: Vec<IpNet>,
    /// Prefixes to announce, in order.
    pub announce: Vec<IpNet>,
    /// Families of which the peer now knows everything (RFC 4724, 2).
    pub end_of_rib: Vec<Family>,
}

/// What one established peer has been told.
#[derive(Debug)]
pub struct AdjRibOut {
    sendable: PerFamily<bool>,
    told: BTreeSet<IpNet>,
    counts: PerFamily<usize>,
    to_announce: BTreeSet<IpNet>,
    to_withdraw: BTreeSet<IpNet>,
    /// Families whose End-of-RIB is owed. It is sent without a graceful-restart capability too:
    /// RFC 4724, 2 calls that useful, and to others it is an UPDATE that changes nothing.
    owed: Vec<Family>,
}

impl AdjRibOut {
    /// For a session that has just come up: nothing is told, everything desired is to be.
    pub fn new<'a>(
        desired: impl IntoIterator<Item = &'a IpNet>,
        sendable: PerFamily<bool>,
    ) -> AdjRibOut {
        let can = |prefix: &IpNet| *sendable.of(Family::of(prefix)) && is_unicast(prefix);
        AdjRibOut {
            sendable,
            told: BTreeSet::new(),
            counts: PerFamily::default(),
            to_announce: desired.into_iter().filter(|prefix| can(prefix)).copied().collect(),
            to_withdraw: BTreeSet::new(),
            owed: Family::ALL.into_iter().filter(|family| *sendable.of(*family)).collect(),
        }
    }

    /// Takes a change of the desired set.
    pub fn apply(&mut self, delta: &Delta) {
        for prefix in &delta.withdraw {
            self.withdraw(*prefix);
        }
        for prefix in &delta.announce {
            self.announce(*prefix);
        }
    }

    /// A prefix is desired from now on.
    pub fn announce(&mut self, prefix: IpNet) {
        if !*self.sendable.of(Family::of(&prefix)) || !is_unicast(&prefix) {
            return;
        }
        // A withdrawal that has not left yet is forgotten: the peer still has the route.
        if !self.to_withdraw.remove(&prefix) && !self.told.contains(&prefix) {
            self.to_announce.insert(prefix);
        }
    }

    /// A prefix is no longer desired.
    pub fn withdraw(&mut self, prefix: IpNet) {
        self.to_announce.remove(&prefix);
        if self.told.contains(&prefix) {
            self.to_withdraw.insert(prefix);
        }
    }

    /// Everything of a family that stays is to be told again (RFC 2918, 4), or because its
    /// attributes changed.
    pub fn refresh(&mut self, family: Family) {
        let again = self.told.iter().filter(|prefix| Family::of(prefix) == family);
        let again = again.filter(|prefix| !self.to_withdraw.contains(prefix));
        self.to_announce.extend(again);
    }

    /// A family can be sent from now on, or no longer: then what was told of it is withdrawn.
    pub fn set_sendable(&mut self, family: Family, sendable: bool, desired: &BTreeSet<IpNet>) {
        *self.sendable.of_mut(family) = sendable;
        let (told, of) = (&self.told, |prefix: &&IpNet| Family::of(prefix) == family);
        let prefixes: Vec<IpNet> = if sendable {
            desired.iter().filter(of).copied().collect()
        } else {
            told.iter().chain(&self.to_announce).filter(of).copied().collect()
        };
        for prefix in prefixes {
            if sendable {
                self.announce(prefix);
            } else {
                self.withdraw(prefix);
            }
        }
    }

    /// Takes up to `most` prefixes to send, withdrawals first, and counts them as told.
    pub fn take(&mut self, most: usize) -> Batch {
        let mut batch = Batch::default();
        while batch.withdraw.len() < most
            && let Some(prefix) = self.to_withdraw.pop_first()
        {
            if self.told.remove(&prefix) {
                *self.counts.of_mut(Family::of(&prefix)) -= 1;
            }
            batch.withdraw.push(prefix);
        }
        while batch.withdraw.len() + batch.announce.len() < most
            && let Some(prefix) = self.to_announce.pop_first()
        {
            if self.told.insert(prefix) {
                *self.counts.of_mut(Family::of(&prefix)) += 1;
            }
            batch.announce.push(prefix);
        }
        if self.to_announce.is_empty() && self.to_withdraw.is_empty() {
            batch.end_of_rib = std::mem::take(&mut self.owed);
        }
        batch
    }

    /// Whether the peer knows all it should.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.to_announce.is_empty() && self.to_withdraw.is_empty() && self.owed.is_empty()
    }

    /// How many prefixes the peer has been told, by family.
    #[must_use]
    pub fn told(&self) -> PerFamily<usize> {
        self.counts
    }
}

#[cfg(test)]
#[path = "rib_tests.rs"]
mod tests;
