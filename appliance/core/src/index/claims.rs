//! Who holds which virtual address.
//!
//! The record (an object's status) decides: an address that a status names stays with that
//! object over restarts and changes of the elected host. Everything else is a proposal, which
//! holds its address against later comers but is served only once the status records it.
//!
//! Of two objects that want one address, the stronger claim wins: recorded before requested
//! before chosen, then the older object, then the smaller name. The outcome therefore does not
//! depend on the order of updates.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use crate::{Family, FaultReason, ObjectRef, Policy, Pool, SourceFault};

/// What an object wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Want {
    /// One address in each of these families.
    pub(super) families: Vec<Family>,
    /// Addresses asked for.
    pub(super) requested: Vec<IpAddr>,
    /// The pool asked for.
    pub(super) pool: Option<Arc<str>>,
    /// Addresses that the status records.
    pub(super) recorded: Vec<IpAddr>,
    /// Age of the object, seconds since 1970.
    pub(super) created_secs: i64,
    /// Written by the operator (inventory): needs no pool, and several such objects may share
    /// an address as long as their ports differ.
    pub(super) fixed: bool,
}

/// What an object gets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Outcome {
    /// Recorded and served, sorted.
    pub(super) served: Vec<IpAddr>,
    /// What the status should record, sorted.
    pub(super) desired: Vec<IpAddr>,
    /// Why something could not be had.
    pub(super) faults: Vec<SourceFault>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Strength {
    Recorded,
    Requested,
    Chosen,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Claim {
    strength: Strength,
    created_secs: i64,
    object: ObjectRef,
    fixed: bool,
}

#[derive(Debug, Default)]
pub(super) struct Claims {
    wants: BTreeMap<ObjectRef, Want>,
    outcomes: BTreeMap<ObjectRef, Outcome>,
    /// Holders of each address; more than one only among fixed claims.
    holders: BTreeMap<IpAddr, Vec<Claim>>,
    /// Objects that did not get all that they want: looked at again when an address is freed.
    waiting: BTreeSet<ObjectRef>,
    /// Lowest address of each range that may be free, by pool and range.
    first_free: BTreeMap<(usize, usize), IpAddr>,
    /// Objects to look at.
    queue: BTreeSet<ObjectRef>,
}

impl Claims {
    /// Notes what an object wants now.
    pub(super) fn want(&mut self, object: &ObjectRef, want: Option<Want>) {
        if self.wants.get(object) == want.as_ref() {
            return;
        }
        match want {
            Some(want) => self.wants.insert(object.clone(), want),
            None => self.wants.remove(object),
        };
        self.queue.insert(object.clone());
    }

    /// Looks at every object again: pools have changed, or proposals are now allowed.
    pub(super) fn reconsider_all(&mut self) {
        self.first_free.clear();
        self.queue.extend(self.wants.keys().cloned());
    }

    pub(super) fn outcome(&self, object: &ObjectRef) -> Option<&Outcome> {
        self.outcomes.get(object)
    }

    /// Objects that hold the address.
    pub(super) fn holders(&self, address: IpAddr) -> Vec<ObjectRef> {
        let claims = self.holders.get(&address);
        claims.into_iter().flatten().map(|claim| claim.object.clone()).collect()
    }

    /// Settles all claims; returns the objects whose outcome changed.
    pub(super) fn settle(&mut self, policy: &Policy, may_propose: bool) -> BTreeSet<ObjectRef> {
        let mut changed = BTreeSet::new();
        while let Some(object) = self.queue.pop_first() {
            let held = self.release(&object, policy);
            let outcome = self.wants.get(&object).cloned().map(|want| {
                let mut round = Round { policy, may_propose, outcome: Outcome::default() };
                self.evaluate(&object, &want, &mut round)
            });
            let freed = held.iter().any(|address| !self.holders.contains_key(address));
            if freed {
                self.queue.append(&mut self.waiting);
            }
            match outcome {
                Some((outcome, satisfied)) => {
                    if !satisfied {
                        self.waiting.insert(object.clone());
                        self.queue.remove(&object);
                    }
                    if self.outcomes.get(&object) != Some(&outcome) {
                        self.outcomes.insert(object.clone(), outcome);
                        changed.insert(object);
                    }
                }
                None => {
                    self.waiting.remove(&object);
                    if self.outcomes.remove(&object).is_some() {
                        changed.insert(object);
                    }
                }
            }
        }
        changed
    }

    /// Gives up what the object holds; returns those addresses.
    fn release(&mut self, object: &ObjectRef, policy: &Policy) -> Vec<IpAddr> {
        let outcome = self.outcomes.get(object);
        let held: BTreeSet<IpAddr> = outcome
            .iter()
            .flat_map(|outcome| outcome.served.iter().chain(&outcome.desired))
            .copied()
            .collect();
        for address in &held {
            let Some(claims) = self.holders.get_mut(address) else { continue };
            claims.retain(|claim| claim.object != *object);
            if claims.is_empty() {
                self.holders.remove(address);
                self.note_free(*address, policy);
            }
        }
        held.into_iter().collect()
    }

    fn note_free(&mut self, address: IpAddr, policy: &Policy) {
        for (p, pool) in policy.pools.iter().enumerate() {
            for (r, (first, last)) in pool.ranges.iter().enumerate() {
                if *first <= address && address <= *last {
                    let hint = self.first_free.entry((p, r)).or_insert(address);
                    *hint = address.min(*hint);
                }
            }
        }
    }

    /// Claims what the object wants. Returns the outcome, and whether nothing is left to wait
    /// for.
    fn evaluate(
        &mut self,
        object: &ObjectRef,
        want: &Want,
        round: &mut Round<'_>,
    ) -> (Outcome, bool) {
        let mut satisfied = true;
        for family in &want.families {
            satisfied &= self.evaluate_family(object, want, *family, round);
        }
        let outcome = &mut round.outcome;
        outcome.served.sort_unstable();
        outcome.served.dedup();
        outcome.desired.sort_unstable();
        outcome.desired.dedup();
        (std::mem::take(outcome), satisfied)
    }

    fn evaluate_family(
        &mut self,
        object: &ObjectRef,
        want: &Want,
        family: Family,
        round: &mut Round<'_>,
    ) -> bool {
        let of_family = |addresses: &[IpAddr]| -> Vec<IpAddr> {
            addresses.iter().copied().filter(|a| Family::of(*a) == family).collect()
        };
        let (requested, recorded) = (of_family(&want.requested), of_family(&want.recorded));
        let mut kept = Vec::new();
        for address in recorded {
            match self.claim(object, want, address, Strength::Recorded, round.policy) {
                Ok(()) => kept.push(address),
                Err(fault) => round.outcome.faults.push(fault),
            }
        }
        round.outcome.served.extend(&kept);
        if want.fixed {
            round.outcome.desired.extend(&kept);
            return round.outcome.faults.is_empty();
        }
        let moved = !requested.is_empty() && requested.iter().any(|a| !kept.contains(a));
        if !kept.is_empty() && !moved {
            let wanted = |a: &IpAddr| requested.is_empty() || requested.contains(a);
            round.outcome.desired.extend(kept.into_iter().filter(wanted));
            return true;
        }
        if !round.may_propose {
            // Another source may hold an address that we would give away: wait for its list.
            round.outcome.desired.extend(kept);
            return false;
        }
        let proposals = if moved {
            self.propose_requested(object, want, &requested, round)
        } else {
            self.propose_from_pools(object, want, family, round)
        };
        let satisfied = !proposals.is_empty();
        // What cannot be had does not take away what works.
        round.outcome.desired.extend(if satisfied { proposals } else { kept });
        satisfied
    }

    fn propose_requested(
        &mut self,
        object: &ObjectRef,
        want: &Want,
        requested: &[IpAddr],
        round: &mut Round<'_>,
    ) -> Vec<IpAddr> {
        let mut proposals = Vec::new();
        for address in requested {
            match self.claim(object, want, *address, Strength::Requested, round.policy) {
                Ok(()) => proposals.push(*address),
                Err(fault) => round.outcome.faults.push(fault),
            }
        }
        proposals
    }

    fn propose_from_pools(
        &mut self,
        object: &ObjectRef,
        want: &Want,
        family: Family,
        round: &mut Round<'_>,
    ) -> Vec<IpAddr> {
        let mut eligible = 0;
        for (p, pool) in round.policy.pools.iter().enumerate() {
            let named = want.pool.as_ref().is_some_and(|name| *name == pool.name);
            if !(named || want.pool.is_none() && pool.auto_assign) {
                continue;
            }
            for (r, (first, last)) in pool.ranges.iter().enumerate() {
                if Family::of(*first) != family {
                    continue;
                }
                eligible += 1;
                if let Some(address) = self.lowest_free((p, r), *first, *last, round.policy) {
                    let claimed = self.claim(object, want, address, Strength::Chosen, round.policy);
                    if claimed.is_ok() {
                        return vec![address];
                    }
                }
            }
        }
        round.outcome.faults.push(pool_fault(want, family, eligible));
        Vec::new()
    }

    /// The lowest address of a range that nobody holds.
    fn lowest_free(
        &mut self,
        range: (usize, usize),
        first: IpAddr,
        last: IpAddr,
        policy: &Policy,
    ) -> Option<IpAddr> {
        let mut candidate = *self.first_free.get(&range).unwrap_or(&first);
        loop {
            if candidate < first || candidate > last {
                return None;
            }
            let taken = self.holders.contains_key(&candidate)
                || policy.shared_http_addresses.contains(&candidate);
            if !taken {
                self.first_free.insert(range, candidate);
                return Some(candidate);
            }
            candidate = next_address(candidate)?;
        }
    }

    /// Takes an address, if nobody with a stronger claim holds it. A weaker holder loses it and
    /// is looked at again.
    fn claim(
        &mut self,
        object: &ObjectRef,
        want: &Want,
        address: IpAddr,
        strength: Strength,
        policy: &Policy,
    ) -> Result<(), SourceFault> {
        if !want.fixed {
            permitted(address, policy)?;
        }
        let claim = Claim {
            strength,
            created_secs: want.created_secs,
            object: object.clone(),
            fixed: want.fixed,
        };
        let holders = self.holders.entry(address).or_default();
        let stronger = holders
            .iter()
            .find(|held| held.object != *object && !(held.fixed && want.fixed) && **held < claim);
        if let Some(held) = stronger {
            return Err(SourceFault::new(
                FaultReason::AddressTaken,
                format!("address {address} belongs to {}: ask for another one", held.object),
            ));
        }
        let evicted = |held: &Claim| held.object != *object && !(held.fixed && want.fixed);
        self.queue.extend(holders.iter().filter(|h| evicted(h)).map(|h| h.object.clone()));
        holders.retain(|held| !evicted(held) && held.object != *object);
        holders.push(claim);
        Ok(())
    }
}

/// One look at one object.
struct Round<'a> {
    policy: &'a Policy,
    may_propose: bool,
    outcome: Outcome,
}

fn permitted(address: IpAddr, policy: &Policy) -> Result<(), SourceFault> {
    if policy.shared_http_addresses.contains(&address) {
        return Err(SourceFault::new(
            FaultReason::AddressTaken,
            format!("address {address} is kept for Ingresses (proxy.addresses)"),
        ));
    }
    if !policy.pools.iter().any(|pool| pool.contains(address)) {
        let names: Vec<&str> = policy.pools.iter().map(|pool: &Pool| &*pool.name).collect();
        return Err(SourceFault::new(
            FaultReason::AddressOutsidePools,
            format!(
                "address {address} lies outside every pool ({}): ask for one inside, or add it \
                 to a pool",
                if names.is_empty() { "none configured".to_owned() } else { names.join(", ") },
            ),
        ));
    }
    Ok(())
}

fn pool_fault(want: &Want, family: Family, eligible: usize) -> SourceFault {
    match (eligible, &want.pool) {
        (0, Some(name)) => SourceFault::new(
            FaultReason::NoPool,
            format!("no pool {name:?} with {family} addresses: name another one, or configure it"),
        ),
        (0, None) => SourceFault::new(
            FaultReason::NoPool,
            format!("no pool assigns {family} addresses automatically: name a pool"),
        ),
        (_, Some(name)) => SourceFault::new(
            FaultReason::PoolFull,
            format!("every {family} address of pool {name:?} is taken: enlarge it"),
        ),
        (_, None) => SourceFault::new(
            FaultReason::PoolFull,
            format!("every {family} address of the automatic pools is taken: enlarge one"),
        ),
    }
}

fn next_address(address: IpAddr) -> Option<IpAddr> {
    match address {
        IpAddr::V4(v4) => u32::from(v4).checked_add(1).map(|next| IpAddr::V4(next.into())),
        IpAddr::V6(v6) => u128::from(v6).checked_add(1).map(|next| IpAddr::V6(next.into())),
    }
}

#[cfg(test)]
mod tests;
