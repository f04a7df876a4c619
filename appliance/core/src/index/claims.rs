//! Who holds which virtual address.
//!
//! The record (an object's status) decides: an address that a status names stays with that
//! object over restarts, changes of the elected host and changes of the pools. Everything else
//! is a proposal, which holds its address against weaker ones but is served only once the status
//! records it.
//!
//! Of two objects that want one address, the stronger claim wins: recorded before requested
//! before chosen, then the older object, then the smaller name. Objects with one sharing key may
//! be on one address together. Where nothing is asked for, an object takes the first free address
//! of its pool from a place on that its name decides. So what each gets follows from the stronger
//! ones alone, and the outcome depends neither on the order of events nor on the host: one that
//! was deleted and comes back finds its former address, unless somebody has it.
//!
//! ```text
//!  want ─┐                             evicted, or a place became free:
//!  pools ├─> queue of turns ─> claim ──────────── the weaker whom it concerns ─┐
//!  record┘   strongest first <─────────────────────────────────────────────────┘
//! ```
//!
//! A turn wakes only weaker ones, so each is taken once. Who waits is found by what it waits for:
//! an address, a place in a pool, or those with whom it shares; never by looking at all.

mod grounds;
mod rules;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use self::grounds::{Grounds, SpaceId};
pub(super) use self::rules::WantedPort;
use self::rules::{Claim, Clash, Group, SHARERS_MAX, Strength, Terms, Tried, Turn};
use crate::{Family, FaultReason, Labels, ObjectKind, ObjectRef, Policy, Pool, PoolUse, Sharing};
use crate::{SourceFault, SourceId};

/// Addresses of a sharing group that a newcomer tries, lowest first, before it takes one that
/// nobody has. Bounds the work where hundreds of objects of one key have a port in common.
const SHARED_PLACES_MAX: usize = 64;

/// Of those who ask for one address in vain, so many are looked at whenever its holder changes.
/// One would do, but each is told who has it; of more, the others are told when their turn comes.
const CONTENDERS_WOKEN_MAX: usize = 32;

/// What an object wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Want {
    /// One address in each of these families.
    pub(super) families: Vec<Family>,
    /// It need not be all of them, where pools have no addresses of one.
    pub(super) any_family: bool,
    /// Addresses asked for.
    pub(super) requested: Vec<IpAddr>,
    /// The pool asked for.
    pub(super) pool: Option<Arc<str>>,
    /// Addresses that the status records.
    pub(super) recorded: Vec<IpAddr>,
    /// Age of the object, seconds since 1970.
    pub(super) created_secs: i64,
    /// With whom it shares.
    pub(super) sharing: Option<Arc<Sharing>>,
    /// On which ports it wants to be served.
    pub(super) ports: Vec<WantedPort>,
    /// Its labels.
    pub(super) labels: Labels,
    /// Written by the operator (inventory): needs no pool, and several such objects may share
    /// an address as long as their ports differ.
    pub(super) fixed: bool,
}

impl Want {
    /// Whether claims made for `self` are as good as those made for `other`.
    fn has_terms_of(&self, other: &Self) -> bool {
        self.created_secs == other.created_secs
            && self.fixed == other.fixed
            && self.sharing == other.sharing
            && self.ports == other.ports
    }

    fn requested_in(&self, family: Family) -> impl Iterator<Item = IpAddr> {
        self.requested.iter().copied().filter(move |address| Family::of(*address) == family)
    }
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

/// What settling has cost since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Effort {
    /// Claims of an object that were looked at.
    pub turns: u64,
    /// Places in pools that were looked at for them.
    pub places: u64,
}

/// A want with what follows from it alone.
#[derive(Debug)]
struct Wanting {
    want: Want,
    terms: Arc<Terms>,
}

/// What an object holds and waits for.
#[derive(Debug, Default)]
struct Standing {
    /// By strength. Nearly every object has something in one way alone, and there are tens of
    /// thousands of them.
    ways: [Option<Box<Way>>; 3],
    /// Where it found no place.
    waits: Box<[SpaceId]>,
}

/// What an object holds and is refused by claims of one strength.
#[derive(Debug, Default, PartialEq, Eq)]
struct Way {
    held: Vec<IpAddr>,
    /// Addresses that a stronger claim keeps from it.
    refused: Vec<IpAddr>,
    faults: Vec<SourceFault>,
}

/// How one turn ends.
#[derive(Debug, Default)]
struct Found {
    held: Vec<IpAddr>,
    refused: Vec<IpAddr>,
    faults: Vec<SourceFault>,
    waits: Vec<SpaceId>,
}

/// Those who share under one key.
#[derive(Debug, Default)]
struct Sharers {
    /// Their addresses, with the number of claims.
    places: BTreeMap<IpAddr, usize>,
    /// Those who have or wait for a chosen address.
    pending: BTreeSet<Turn>,
}

#[derive(Debug, Default)]
pub(super) struct Claims {
    wants: BTreeMap<ObjectRef, Arc<Wanting>>,
    namespaces: BTreeMap<(SourceId, Arc<str>), Labels>,
    /// Whose namespaces count for objects of several sources.
    homes: BTreeMap<ObjectRef, SourceId>,
    grounds: Grounds,
    standings: BTreeMap<ObjectRef, Standing>,
    outcomes: BTreeMap<ObjectRef, Outcome>,
    /// Claims on each address, the strongest first.
    holders: BTreeMap<IpAddr, Vec<Claim>>,
    /// Who asks for an address that a stronger one has.
    contenders: BTreeMap<IpAddr, BTreeSet<Turn>>,
    groups: BTreeMap<Group, Sharers>,
    may_propose: bool,
    queue: BTreeSet<Turn>,
    /// Objects whose outcome may have changed.
    touched: BTreeSet<ObjectRef>,
    effort: Effort,
}

impl Claims {
    /// Notes what an object wants now.
    pub(super) fn want(&mut self, object: &ObjectRef, want: Option<Want>) {
        let known = self.wants.get(object).map(|known| &known.want);
        if known == want.as_ref() {
            return;
        }
        let lasting =
            known.zip(want.as_ref()).is_some_and(|(known, want)| known.has_terms_of(want));
        if !lasting {
            self.withdraw(object);
        }
        self.touched.insert(object.clone());
        match want {
            Some(want) => {
                let (sharing, ports) = (want.sharing.clone(), want.ports.clone());
                let terms = Arc::new(Terms::new(object, sharing, ports, want.fixed));
                self.queue.insert(first_turn(object, &want));
                self.wants.insert(object.clone(), Arc::new(Wanting { want, terms }));
            }
            None => drop(self.wants.remove(object)),
        }
    }

    /// Notes the labels of a namespace; `None`: it is gone.
    pub(super) fn note_namespace(
        &mut self,
        source: &SourceId,
        name: &Arc<str>,
        labels: Option<Labels>,
    ) {
        let key = (source.clone(), name.clone());
        let before = match labels.clone() {
            Some(labels) => self.namespaces.insert(key, labels),
            None => self.namespaces.remove(&key),
        };
        let selects = |pool: &Arc<Pool>| !pool.selects.namespace_labels.is_empty();
        if before == labels || !self.grounds.pools().iter().any(selects) {
            return;
        }
        for kind in [ObjectKind::Service, ObjectKind::Ingress, ObjectKind::Gateway] {
            let first = ObjectRef::first_of(source, kind, name);
            let there = self.wants.range(&first..).take_while(|(object, _)| {
                (&object.source, object.kind, &object.namespace) == (source, kind, name)
            });
            self.queue.extend(there.map(|(object, wanting)| first_turn(object, &wanting.want)));
        }
        let housed =
            self.homes.iter().filter(|(object, home)| *home == source && object.namespace == *name);
        let housed = housed.filter_map(|(object, _)| Some((object, self.wants.get(object)?)));
        self.queue.extend(housed.map(|(object, wanting)| first_turn(object, &wanting.want)));
    }

    /// Notes whose namespaces count for an object that is of several sources.
    pub(super) fn house(&mut self, object: &ObjectRef, source: Option<&SourceId>) {
        let before = match source {
            Some(source) => self.homes.insert(object.clone(), source.clone()),
            None => self.homes.remove(object),
        };
        if before.as_ref() != source
            && let Some(wanting) = self.wants.get(object)
        {
            self.queue.insert(first_turn(object, &wanting.want));
        }
    }

    /// Forgets the namespaces of a source.
    pub(super) fn forget_source(&mut self, source: &SourceId) {
        self.namespaces.retain(|(of, _), _| of != source);
    }

    /// Takes over the pools. Where they have changed, everything is settled anew: what is
    /// recorded stays.
    pub(super) fn configure(&mut self, before: &Policy, policy: &Policy) {
        let same = before.pools == policy.pools
            && before.shared_http_addresses == policy.shared_http_addresses;
        if same {
            return;
        }
        self.grounds = Grounds::new(&policy.pools, &policy.shared_http_addresses);
        self.standings.clear();
        self.holders.clear();
        self.contenders.clear();
        self.groups.clear();
        self.queue_all();
    }

    fn queue_all(&mut self) {
        self.queue = self.wants.iter().map(|(object, w)| first_turn(object, &w.want)).collect();
    }

    pub(super) fn outcome(&self, object: &ObjectRef) -> Option<&Outcome> {
        self.outcomes.get(object)
    }

    /// Objects that hold the address.
    pub(super) fn holders(&self, address: IpAddr) -> BTreeSet<ObjectRef> {
        let claims = self.holders.get(&address);
        claims.into_iter().flatten().map(|claim| claim.turn.object.clone()).collect()
    }

    /// The pool whose ranges hold the address.
    pub(super) fn pool_of(&self, address: IpAddr) -> Option<&Arc<Pool>> {
        self.grounds.pool_of(address)
    }

    /// How far the pools are used.
    pub(super) fn uses(&self) -> Vec<PoolUse> {
        self.grounds.uses()
    }

    pub(super) fn effort(&self) -> Effort {
        self.effort
    }

    /// Settles all claims; returns the objects whose outcome changed. While `may_propose` does
    /// not hold, another source may hold an address that would be given away: nobody gets one.
    pub(super) fn settle(&mut self, may_propose: bool) -> BTreeSet<ObjectRef> {
        if self.may_propose != may_propose {
            self.may_propose = may_propose;
            self.queue_all();
        }
        while let Some(turn) = self.queue.pop_first() {
            self.take_turn(&turn);
        }
        let mut changed = std::mem::take(&mut self.touched);
        changed.retain(|object| {
            let outcome = self.wants.get(object).map(|wanting| self.sum_up(object, &wanting.want));
            let before = match outcome.clone() {
                Some(outcome) => self.outcomes.insert(object.clone(), outcome),
                None => self.outcomes.remove(object),
            };
            before != outcome
        });
        changed
    }

    fn take_turn(&mut self, turn: &Turn) {
        let Some(wanting) = self.wants.get(&turn.object).cloned() else { return };
        if wanting.want.created_secs != turn.created_secs {
            // Of an object of the same name that is no more.
            return;
        }
        self.effort.turns += 1;
        self.touched.insert(turn.object.clone());
        let found = match turn.strength {
            Strength::Recorded => self.keep_recorded(turn, &wanting),
            Strength::Requested => self.claim_requested(turn, &wanting),
            Strength::Chosen => self.claim_chosen(turn, &wanting),
        };
        self.conclude(turn, &wanting, found);
        if turn.strength == Strength::Recorded {
            for strength in [Strength::Requested, Strength::Chosen] {
                self.queue.insert(Turn { strength, ..turn.clone() });
            }
        }
    }

    /// What is recorded stays, whatever the pools are by now.
    fn keep_recorded(&mut self, turn: &Turn, wanting: &Wanting) -> Found {
        let mut found = Found::default();
        let of_family = |a: &&IpAddr| wanting.want.families.contains(&Family::of(**a));
        for address in wanting.want.recorded.iter().filter(of_family).copied() {
            if found.held.contains(&address) {
                continue;
            }
            if !wanting.want.fixed {
                if self.grounds.is_reserved(address) {
                    found.faults.push(rules::reserved(address));
                    continue;
                }
                if !rules::is_routable(address) {
                    found.faults.push(rules::unroutable(address));
                    continue;
                }
            }
            self.claim(turn, wanting, address, &mut found);
            if found.held.contains(&address) && !wanting.want.fixed {
                found.faults.extend(self.misplaced(turn, wanting, address));
            }
        }
        found
    }

    /// What stands against an address that is kept all the same.
    fn misplaced(&self, turn: &Turn, wanting: &Wanting, address: IpAddr) -> Option<SourceFault> {
        let Some(pool) = self.grounds.pool_of(address) else { return Some(rules::stale(address)) };
        if pool.skips(address) {
            return Some(rules::skipped(address, pool, true));
        }
        let barred = self.admits(pool, &turn.object, &wanting.want) == Some(false);
        barred.then(|| rules::forbidden(&turn.object, pool, Some(address)))
    }

    fn claim_requested(&mut self, turn: &Turn, wanting: &Wanting) -> Found {
        let mut found = Found::default();
        if wanting.want.fixed {
            return found;
        }
        for address in &wanting.want.requested {
            let kept = self.held(&turn.object, Strength::Recorded).contains(address);
            if kept || found.held.contains(address) {
                continue;
            }
            if !wanting.want.families.contains(&Family::of(*address)) {
                found.faults.push(rules::other_family(*address));
            } else if self.may_propose {
                match self.permitted(turn, wanting, *address) {
                    Ok(()) => self.claim(turn, wanting, *address, &mut found),
                    Err(fault) => found.faults.push(fault),
                }
            }
        }
        found
    }

    /// Whether the pools let the object have an address that it asks for.
    fn permitted(
        &self,
        turn: &Turn,
        wanting: &Wanting,
        address: IpAddr,
    ) -> Result<(), SourceFault> {
        if self.grounds.is_reserved(address) {
            return Err(rules::reserved(address));
        }
        let Some(pool) = self.grounds.pool_of(address) else {
            return Err(rules::outside(address, self.grounds.pools()));
        };
        if pool.skips(address) {
            return Err(rules::skipped(address, pool, false));
        }
        if let Some(asked) = wanting.want.pool.as_ref().filter(|asked| **asked != pool.name) {
            return Err(rules::other_pool(address, pool, asked));
        }
        match self.admits(pool, &turn.object, &wanting.want) {
            Some(true) => Ok(()),
            Some(false) => Err(rules::forbidden(&turn.object, pool, None)),
            None => Err(rules::labels_unknown(&turn.object, pool)),
        }
    }

    fn admits(&self, pool: &Pool, object: &ObjectRef, want: &Want) -> Option<bool> {
        if pool.selects.is_open() {
            return Some(true);
        }
        let source = self.homes.get(object).unwrap_or(&object.source);
        let namespace = (source.clone(), object.namespace.clone());
        let of_namespace = self.namespaces.get(&namespace);
        pool.selects.admits(&object.namespace, of_namespace, &want.labels)
    }

    /// Claims one address by name.
    fn claim(&mut self, turn: &Turn, wanting: &Wanting, address: IpAddr, found: &mut Found) {
        let claim = Claim { turn: turn.clone(), terms: wanting.terms.clone() };
        match self.obstacle(&claim, address) {
            None => {
                self.place(claim, address);
                found.held.push(address);
            }
            Some((holder, clash)) => {
                found.faults.push(clash.fault(address, &holder));
                found.refused.push(address);
            }
        }
    }

    /// A stronger claim that keeps this one off the address.
    fn obstacle(&self, claim: &Claim, address: IpAddr) -> Option<(ObjectRef, Clash)> {
        let holders = self.holders.get(&address)?;
        let stronger = || holders.iter().take_while(|held| held.turn < claim.turn);
        let clash = stronger().find_map(|held| Some((held, claim.clash(held)?)));
        if let Some((held, clash)) = clash {
            return Some((held.turn.object.clone(), clash));
        }
        let last = stronger().nth(SHARERS_MAX - 1).filter(|_| !claim.terms.fixed);
        last.map(|last| (last.turn.object.clone(), Clash::Crowded))
    }

    fn claim_chosen(&mut self, turn: &Turn, wanting: &Wanting) -> Found {
        let (mut found, mut missing) = (Found::default(), Vec::new());
        let mut supplied = false;
        for family in &wanting.want.families {
            if !self.needs_choice(turn, &wanting.want, *family) {
                supplied |= !self.held_in(&turn.object, Strength::Recorded, *family).is_empty();
                continue;
            }
            match self.choose(turn, wanting, *family, &mut found) {
                Ok(address) => {
                    found.held.push(address);
                    supplied = true;
                }
                Err(fault) => missing.push(fault),
            }
        }
        if wanting.want.any_family {
            let no_pool = |fault: &SourceFault| fault.reason == FaultReason::NoPool;
            supplied |= !missing.iter().all(no_pool);
            let mut kept = usize::from(!supplied);
            // One family that has no pool is no fault; of two, one is told.
            missing.retain(|fault| !no_pool(fault) || std::mem::take(&mut kept) > 0);
        }
        found.faults.extend(missing);
        found
    }

    /// Whether an address of this family has to come out of a pool.
    fn needs_choice(&self, turn: &Turn, want: &Want, family: Family) -> bool {
        if want.fixed || !self.may_propose || want.requested_in(family).next().is_some() {
            return false;
        }
        let kept = self.held_in(&turn.object, Strength::Recorded, family);
        kept.is_empty() || want.pool.is_some() && self.of_pool(&kept, want.pool.as_ref()).is_empty()
    }

    fn of_pool(&self, addresses: &[IpAddr], name: Option<&Arc<str>>) -> Vec<IpAddr> {
        let inside = |address: &&IpAddr| {
            let pool = self.grounds.pool_of(**address);
            pool.map(|pool| &pool.name) == name
        };
        addresses.iter().filter(inside).copied().collect()
    }

    fn choose(
        &mut self,
        turn: &Turn,
        wanting: &Wanting,
        family: Family,
        found: &mut Found,
    ) -> Result<IpAddr, SourceFault> {
        let asked = wanting.want.pool.as_ref();
        let mut eligible = 0;
        let mut forbidding = None;
        for index in 0..self.grounds.pools().len() {
            let pool = self.grounds.pools()[index].clone();
            let meant = asked.map_or(pool.auto_assign, |name| *name == pool.name);
            let Some(space) = self.grounds.space_of(index, family).filter(|_| meant) else {
                continue;
            };
            match self.admits(&pool, &turn.object, &wanting.want) {
                Some(true) => eligible += 1,
                Some(false) => {
                    forbidding = Some(pool);
                    continue;
                }
                // A later pool must not be used up because this one is not understood yet.
                None => return Err(rules::labels_unknown(&turn.object, &pool)),
            }
            let claim = Claim { turn: turn.clone(), terms: wanting.terms.clone() };
            if let Some(address) = self.vacancy(&claim, space, index) {
                self.place(claim, address);
                return Ok(address);
            }
            found.waits.push(space);
        }
        let tried = Tried { family, asked, eligible, forbidding: forbidding.as_deref() };
        Err(tried.fault(&turn.object))
    }

    /// The place that a claim takes in a pool: beside those with whom it shares, or else the
    /// first that no stronger one has.
    fn vacancy(&mut self, claim: &Claim, space: SpaceId, pool: usize) -> Option<IpAddr> {
        let sharers = claim.group().and_then(|group| self.groups.get(&group));
        let places = sharers.into_iter().flat_map(|sharers| sharers.places.keys());
        let here = |address: &&IpAddr| {
            let strongest = self.holders.get(*address).and_then(|claims| claims.first());
            self.grounds.index_of(**address) == Some(pool)
                && self.grounds.place_of(**address).is_some_and(|(of, _)| of == space)
                && strongest.is_some_and(|held| held.turn < claim.turn)
        };
        for address in places.filter(here).take(SHARED_PLACES_MAX) {
            self.effort.places += 1;
            if self.obstacle(claim, *address).is_none() {
                return Some(*address);
            }
        }
        let space = self.grounds.space(space);
        let (position, looked_at) = space.find(space.start(claim.terms.hash), &claim.turn);
        self.effort.places += looked_at;
        position.map(|position| space.address(position))
    }

    /// Puts a claim on an address. Weaker ones that cannot be there with it are evicted.
    fn place(&mut self, claim: Claim, address: IpAddr) {
        // Nearly always it stays the only one.
        let holders = self.holders.entry(address).or_insert_with(|| Vec::with_capacity(1));
        if holders.iter().any(|held| held.turn == claim.turn) {
            return;
        }
        let mut evicted = Vec::new();
        holders.retain(|held| {
            let stays = held.turn < claim.turn || held.clash(&claim).is_none();
            if !stays {
                evicted.push(held.clone());
            }
            stays
        });
        let at = holders.partition_point(|held| held.turn < claim.turn);
        holders.insert(at, claim.clone());
        self.grounds.set(address, holders.first().map(|held| &held.turn));
        for held in evicted {
            if let Some(standing) = self.standings.get_mut(&held.turn.object) {
                let way = standing.ways[held.turn.strength as usize].as_mut();
                way.into_iter().for_each(|way| way.held.retain(|other| *other != address));
            }
            self.leave_group_place(&held, address, false);
            self.queue.insert(held.turn);
        }
        self.wake_contenders(address);
        let Some(group) = claim.group() else { return };
        let sharers = self.groups.entry(group).or_default();
        let claims = sharers.places.entry(address).or_default();
        *claims += 1;
        if *claims == 1 {
            let weaker = sharers.pending.iter().filter(|pending| **pending > claim.turn);
            self.queue.extend(weaker.cloned());
        }
    }

    /// Counts a claim of a group out. Where the object has left, others may fit in.
    fn leave_group_place(&mut self, claim: &Claim, address: IpAddr, still_there: bool) {
        let Some(group) = claim.group() else { return };
        let Some(sharers) = self.groups.get_mut(&group) else { return };
        if let Some(claims) = sharers.places.get_mut(&address) {
            *claims -= 1;
            if *claims == 0 {
                sharers.places.remove(&address);
            }
        }
        if !still_there {
            let weaker = sharers.pending.iter().filter(|pending| **pending > claim.turn);
            self.queue.extend(weaker.cloned());
        }
        if sharers.places.is_empty() && sharers.pending.is_empty() {
            self.groups.remove(&group);
        }
    }

    /// Takes a claim off an address and wakes the weaker ones that may have it now.
    fn release(&mut self, turn: &Turn, address: IpAddr) {
        let Some(holders) = self.holders.get_mut(&address) else { return };
        let Some(at) = holders.iter().position(|held| held.turn == *turn) else { return };
        let claim = holders.remove(at);
        self.grounds.set(address, holders.first().map(|held| &held.turn));
        let still_there = holders.iter().any(|held| held.turn.object == turn.object);
        // Whoever could not stand up to this claim may be a match for those that remain.
        let weakened = holders.first().is_none_or(|held| held.turn > *turn);
        if holders.is_empty() {
            self.holders.remove(&address);
        }
        self.leave_group_place(&claim, address, still_there);
        self.wake_contenders(address);
        if weakened {
            self.wake_for_place(turn, address);
        }
    }

    /// Wakes the strongest who ask for the address, and those who could share it.
    fn wake_contenders(&mut self, address: IpAddr) {
        let Some(contenders) = self.contenders.get(&address) else { return };
        self.queue.extend(contenders.iter().take(CONTENDERS_WOKEN_MAX).cloned());
        if contenders.len() <= CONTENDERS_WOKEN_MAX {
            return;
        }
        let group_of = |turn: &Turn| {
            let wanting = self.wants.get(&turn.object)?;
            Group::of(&turn.object, &wanting.terms)
        };
        let holder = self.holders.get(&address).and_then(|claims| claims.first());
        let next = contenders.first().and_then(group_of);
        for group in [next, holder.and_then(Claim::group)].into_iter().flatten() {
            let sharing = contenders.iter().filter(|turn| group_of(turn).as_ref() == Some(&group));
            self.queue.extend(sharing.cloned());
        }
    }

    /// Wakes the strongest who waits for a place in the pool, and those who passed this one by.
    fn wake_for_place(&mut self, released: &Turn, address: IpAddr) {
        let Some((id, freed)) = self.grounds.place_of(address) else { return };
        let space = self.grounds.space(id);
        self.queue.extend(space.waiting.first().cloned());
        for position in space.chosen_after(freed) {
            self.effort.places += 1;
            let claims = self.holders.get(&space.address(position));
            for claim in claims.into_iter().flatten() {
                let start = space.start(claim.terms.hash);
                if claim.turn > *released && space.passes(start, freed, position) {
                    self.queue.insert(claim.turn.clone());
                }
            }
        }
    }

    /// Notes how a turn ended, and lets go of what it held before.
    fn conclude(&mut self, turn: &Turn, wanting: &Wanting, found: Found) {
        let Found { held, refused, faults, waits } = found;
        let standing = self.standings.entry(turn.object.clone()).or_default();
        let way = Way { held: held.clone(), refused: refused.clone(), faults };
        let way = (way != Way::default()).then(|| Box::new(way));
        let before = std::mem::replace(&mut standing.ways[turn.strength as usize], way);
        let Way { held: held_before, refused: refused_before, .. } =
            before.map_or_else(Way::default, |before| *before);
        for address in &refused {
            self.contenders.entry(*address).or_default().insert(turn.clone());
        }
        for address in refused_before.iter().filter(|address| !refused.contains(address)) {
            self.give_up(turn, *address);
        }
        if turn.strength == Strength::Chosen {
            self.wait(turn, wanting, &held, waits);
        }
        for address in held_before.iter().filter(|address| !held.contains(address)) {
            self.release(turn, *address);
        }
    }

    /// No longer asks for an address. Whoever asks for it too may be next.
    fn give_up(&mut self, turn: &Turn, address: IpAddr) {
        if let Some(contenders) = self.contenders.get_mut(&address) {
            contenders.remove(turn);
            if contenders.is_empty() {
                self.contenders.remove(&address);
            }
        }
        self.wake_contenders(address);
    }

    /// Waits for a place in these pools alone.
    fn wait(&mut self, turn: &Turn, wanting: &Wanting, held: &[IpAddr], waits: Vec<SpaceId>) {
        let standing = self.standings.entry(turn.object.clone()).or_default();
        let before = std::mem::replace(&mut standing.waits, waits.as_slice().into());
        if let Some(group) = Group::of(&turn.object, &wanting.terms) {
            let is_pending = !held.is_empty() || !waits.is_empty();
            let sharers = self.groups.entry(group.clone()).or_default();
            match is_pending {
                true => sharers.pending.insert(turn.clone()),
                false => sharers.pending.remove(turn),
            };
            if sharers.places.is_empty() && sharers.pending.is_empty() {
                self.groups.remove(&group);
            }
        }
        for id in &waits {
            self.grounds.space_mut(*id).waiting.insert(turn.clone());
        }
        for id in before.iter().copied().filter(|id| !waits.contains(id)) {
            self.grounds.space_mut(id).waiting.remove(turn);
            self.wake_next(id);
        }
    }

    /// A place that the one just woken did not take is the next one's, be it free or a weaker one's.
    fn wake_next(&mut self, id: SpaceId) {
        let space = self.grounds.space(id);
        let next = space.waiting.first().filter(|next| space.may_place(next));
        self.queue.extend(next.cloned());
    }

    /// Takes an object out of everything.
    fn withdraw(&mut self, object: &ObjectRef) {
        let Some(wanting) = self.wants.get(object).cloned() else { return };
        for strength in Strength::ALL {
            let turn = Turn { strength, ..first_turn(object, &wanting.want) };
            self.queue.remove(&turn);
            self.conclude(&turn, &wanting, Found::default());
        }
        self.standings.remove(object);
    }

    fn held(&self, object: &ObjectRef, strength: Strength) -> &[IpAddr] {
        let way = self.standings.get(object).and_then(|of| of.ways[strength as usize].as_ref());
        way.map_or(&[], |way| &way.held)
    }

    fn held_in(&self, object: &ObjectRef, strength: Strength, family: Family) -> Vec<IpAddr> {
        let held = self.held(object, strength).iter();
        held.copied().filter(|address| Family::of(*address) == family).collect()
    }

    fn sum_up(&self, object: &ObjectRef, want: &Want) -> Outcome {
        let mut outcome = Outcome::default();
        for family in &want.families {
            outcome.served.extend(self.held_in(object, Strength::Recorded, *family));
            outcome.desired.extend(self.desired_in(object, want, *family));
        }
        if let Some(standing) = self.standings.get(object) {
            let ways = standing.ways.iter().flatten();
            outcome.faults.extend(ways.flat_map(|way| way.faults.iter().cloned()));
        }
        outcome.served.sort_unstable();
        outcome.desired.sort_unstable();
        outcome.desired.dedup();
        outcome
    }

    /// What cannot be had does not take away what works.
    fn desired_in(&self, object: &ObjectRef, want: &Want, family: Family) -> Vec<IpAddr> {
        let kept = self.held_in(object, Strength::Recorded, family);
        if want.fixed || !self.may_propose {
            return kept;
        }
        let wanted: Vec<IpAddr> = if want.requested_in(family).next().is_some() {
            let requested = self.held_in(object, Strength::Requested, family);
            let asked = kept.iter().copied().filter(|address| want.requested.contains(address));
            asked.chain(requested).collect()
        } else if want.pool.is_some() {
            let chosen = self.held_in(object, Strength::Chosen, family);
            let there = self.of_pool(&kept, want.pool.as_ref());
            if chosen.is_empty() { there } else { chosen }
        } else {
            self.held_in(object, Strength::Chosen, family)
        };
        if wanted.is_empty() { kept } else { wanted }
    }
}

/// The turn with which everything about an object begins.
fn first_turn(object: &ObjectRef, want: &Want) -> Turn {
    let object = object.clone();
    Turn { strength: Strength::Recorded, created_secs: want.created_secs, object }
}

#[cfg(test)]
mod tests;
