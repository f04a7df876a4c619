//! The plan: desired minus actual, name by name.
//!
//! Invariant: a change touches only address sets that an ownership record of ours claims, and
//! creates only where nothing stands. A name at which anything foreign stands is reported and
//! left alone as a whole. Nothing here talks to a server.

use std::collections::BTreeSet;
use std::fmt;

use serde::Serialize;

use crate::name::{RecordName, is_within};
use crate::owner::{
    OwnershipNameError, heritage_record, owned_by_name, ownership_name, read_heritage,
};
use crate::record::{Actual, DesiredName, ExclusiveType, RecordKind, RecordSet, TxtRecord};
use crate::settings::Policy;

/// What a plan for one zone is made by.
#[derive(Clone, Copy, Debug)]
pub struct Rules<'a> {
    /// The zone.
    pub zone: &'a RecordName,
    /// Our identity in ownership records.
    pub owner: &'a str,
    /// Time to live in seconds of names that ask for none.
    pub ttl_secs: u32,
    /// Whether anything is deleted.
    pub policy: Policy,
    /// What stands for `*` in ownership names.
    pub wildcard: Option<&'a str>,
}

/// What happens to a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// It had no address of ours.
    Create,
    /// Its addresses, time to live or ownership text change.
    Update,
    /// It is no longer wanted.
    Delete,
}

/// The change of one name: all of it, or nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The name.
    pub name: RecordName,
    /// What happens to it.
    pub action: Action,
    /// The kinds that change.
    pub kinds: Vec<KindChange>,
    /// The kinds that do not change and are absent: they must still be absent when the change
    /// is made.
    pub absent: Vec<RecordKind>,
}

/// The change of one address set and its ownership record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KindChange {
    /// Which set.
    pub kind: RecordKind,
    /// The set before; all of it ours.
    pub before: Option<RecordSet>,
    /// The set afterwards.
    pub after: Option<RecordSet>,
    /// Where the ownership record stands.
    pub ownership: String,
    /// Every TXT record at that name before: foreign ones are kept.
    pub txt_before: BTreeSet<TxtRecord>,
    /// Ownership records of ours that go.
    pub txt_removed: BTreeSet<TxtRecord>,
    /// The ownership record that comes.
    pub txt_added: Option<TxtRecord>,
}

/// Why a wanted name is not written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Conflict {
    /// Addresses stand there that no ownership record claims.
    Unowned(RecordKind),
    /// Another owner claims the name.
    OwnedBy(String),
    /// A record of a type that excludes addresses stands there.
    Exclusive(ExclusiveType),
    /// The name lies below a delegation or an alias, where this zone's records are not seen.
    Below {
        /// Where that stands.
        name: String,
        /// What it is.
        kind: ExclusiveType,
    },
    /// The ownership name is taken by a record that excludes TXT.
    OwnershipNameTaken(String),
    /// No ownership record can be written for it.
    Unownable(OwnershipNameError),
}

impl fmt::Display for Conflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unowned(kind) => write!(f, "{kind} records that nobody claims stand there"),
            Self::OwnedBy(owner) => write!(f, "owner {owner:?} claims the name"),
            Self::Exclusive(kind) => write!(f, "a {kind} record stands there"),
            Self::Below { name, kind } => {
                write!(f, "it lies below the {kind} record at {name} and would not be seen")
            }
            Self::OwnershipNameTaken(name) => {
                write!(f, "the ownership name {name} is taken by an alias or a delegation")
            }
            Self::Unownable(error) => error.fmt(f),
        }
    }
}

/// What is to be done about one name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Nothing: it is as it should be.
    Settled {
        /// Whether addresses of ours stand there.
        owned: bool,
    },
    /// A change.
    Change(Change),
    /// It is wanted, and something foreign is in the way.
    Conflict(Conflict),
}

/// One kind at one name, as the server holds it.
struct Standing<'a> {
    kind: RecordKind,
    set: Option<&'a RecordSet>,
    ownership: String,
    txt: BTreeSet<TxtRecord>,
    ours: BTreeSet<TxtRecord>,
    other_owner: Option<String>,
}

/// Decides about one name, wanted or not.
pub fn decide(
    name: &RecordName,
    desired: Option<&DesiredName>,
    actual: &Actual,
    rules: &Rules<'_>,
) -> Decision {
    let mut standings = Vec::with_capacity(2);
    for kind in RecordKind::ALL {
        match standing(name, kind, actual, rules) {
            Ok(standing) => standings.push(standing),
            Err(_) if desired.is_none() => return Decision::Settled { owned: false },
            Err(error) => return Decision::Conflict(Conflict::Unownable(error)),
        }
    }
    match desired.filter(|desired| !desired.addresses.is_empty()) {
        Some(desired) => match conflict(name, &standings, actual, rules) {
            Some(conflict) => Decision::Conflict(conflict),
            None => decide_wanted(name, desired, standings, rules),
        },
        None => decide_unwanted(name, standings, rules),
    }
}

fn standing<'a>(
    name: &RecordName,
    kind: RecordKind,
    actual: &'a Actual,
    rules: &Rules<'_>,
) -> Result<Standing<'a>, OwnershipNameError> {
    let ownership = ownership_name(name, kind, rules.wildcard)?;
    let txt = actual.at(&ownership).map(|held| held.txt.clone()).unwrap_or_default();
    let mut ours = BTreeSet::new();
    let mut other_owner = None;
    for record in &txt {
        match read_heritage(record) {
            Some(heritage) if heritage.owner == rules.owner => {
                ours.insert(record.clone());
            }
            Some(heritage) => other_owner = Some(heritage.owner),
            None => {}
        }
    }
    let set = actual.at(name.as_str()).and_then(|held| held.set(kind));
    Ok(Standing { kind, set, ownership, txt, ours, other_owner })
}

fn conflict(
    name: &RecordName,
    standings: &[Standing<'_>],
    actual: &Actual,
    rules: &Rules<'_>,
) -> Option<Conflict> {
    let exclusive = |at: &str| {
        let held = actual.at(at)?;
        // The apex always has NS records, and addresses beside them.
        held.exclusive
            .iter()
            .copied()
            .find(|kind| *kind != ExclusiveType::Ns || at != rules.zone.as_str())
    };
    if let Some(kind) = exclusive(name.as_str()) {
        return Some(Conflict::Exclusive(kind));
    }
    if let Some((above, kind)) = cut_above(name, actual, rules) {
        return Some(Conflict::Below { name: above.to_owned(), kind });
    }
    for standing in standings {
        if let Some(owner) = &standing.other_owner {
            return Some(Conflict::OwnedBy(owner.clone()));
        }
        if standing.set.is_some() && standing.ours.is_empty() {
            return Some(Conflict::Unowned(standing.kind));
        }
        if exclusive(&standing.ownership).is_some() {
            return Some(Conflict::OwnershipNameTaken(standing.ownership.clone()));
        }
    }
    None
}

/// The nearest delegation or DNAME between the zone's apex and the name.
fn cut_above<'a>(
    name: &'a RecordName,
    actual: &Actual,
    rules: &Rules<'_>,
) -> Option<(&'a str, ExclusiveType)> {
    let parent = |name: &'a str| name.split_once('.').map(|(_, parent)| parent);
    std::iter::successors(parent(name.as_str()), |above| parent(above))
        .take_while(|above| is_within(above, rules.zone.as_str()))
        .find_map(|above| {
            let held = actual.at(above)?;
            let hides = |kind: &ExclusiveType| match kind {
                ExclusiveType::Ns => above != rules.zone.as_str(),
                ExclusiveType::Dname => true,
                ExclusiveType::Cname => false,
            };
            Some((above, held.exclusive.iter().copied().find(hides)?))
        })
}

fn decide_wanted(
    name: &RecordName,
    desired: &DesiredName,
    standings: Vec<Standing<'_>>,
    rules: &Rules<'_>,
) -> Decision {
    let heritage = heritage_record(rules.owner, &desired.resource);
    let existed = standings.iter().any(|standing| standing.set.is_some());
    let mut kinds = Vec::new();
    let mut absent = Vec::new();
    for standing in standings {
        let kind = standing.kind;
        let addresses: BTreeSet<_> =
            desired.addresses.iter().copied().filter(|a| RecordKind::of(*a) == kind).collect();
        let wanted = (!addresses.is_empty())
            .then(|| RecordSet { ttl_secs: desired.ttl_secs.unwrap_or(rules.ttl_secs), addresses });
        let was_absent = standing.set.is_none();
        let change = match wanted {
            Some(after) => write_kind(standing, after, &heritage),
            None => remove_kind(standing, rules),
        };
        match change {
            Some(change) => kinds.push(change),
            None if was_absent => absent.push(kind),
            None => {}
        }
    }
    if kinds.is_empty() {
        return Decision::Settled { owned: true };
    }
    let action = if existed { Action::Update } else { Action::Create };
    Decision::Change(Change { name: name.clone(), action, kinds, absent })
}

fn write_kind(
    standing: Standing<'_>,
    after: RecordSet,
    heritage: &TxtRecord,
) -> Option<KindChange> {
    let txt_removed: BTreeSet<_> =
        standing.ours.iter().filter(|record| *record != heritage).cloned().collect();
    let txt_added = (!standing.ours.contains(heritage)).then(|| heritage.clone());
    if standing.set == Some(&after) && txt_removed.is_empty() && txt_added.is_none() {
        return None;
    }
    Some(KindChange {
        kind: standing.kind,
        before: standing.set.cloned(),
        after: Some(after),
        ownership: standing.ownership,
        txt_before: standing.txt,
        txt_removed,
        txt_added,
    })
}

fn remove_kind(standing: Standing<'_>, rules: &Rules<'_>) -> Option<KindChange> {
    let disputed = standing.other_owner.is_some();
    if standing.ours.is_empty() || rules.policy == Policy::UpsertOnly {
        return None;
    }
    Some(KindChange {
        kind: standing.kind,
        // Two owners claim it: ours takes back its claim and leaves the addresses to the other.
        before: standing.set.cloned(),
        after: standing.set.filter(|_| disputed).cloned(),
        ownership: standing.ownership,
        txt_before: standing.txt,
        txt_removed: standing.ours,
        txt_added: None,
    })
}

fn decide_unwanted(name: &RecordName, standings: Vec<Standing<'_>>, rules: &Rules<'_>) -> Decision {
    let owned = standings.iter().any(|standing| !standing.ours.is_empty());
    let kinds: Vec<_> =
        standings.into_iter().filter_map(|standing| remove_kind(standing, rules)).collect();
    if kinds.is_empty() {
        return Decision::Settled { owned };
    }
    Decision::Change(Change {
        name: name.clone(),
        action: Action::Delete,
        kinds,
        absent: Vec::new(),
    })
}

/// Every name that an ownership record of ours claims in the zone.
pub fn owned_names(actual: &Actual, rules: &Rules<'_>) -> BTreeSet<RecordName> {
    actual
        .iter()
        .filter(|(name, held)| {
            is_within(name, rules.zone.as_str())
                && held.txt.iter().any(|record| {
                    read_heritage(record).is_some_and(|heritage| heritage.owner == rules.owner)
                })
        })
        .filter_map(|(name, _)| Some(owned_by_name(name, rules.wildcard)?.0))
        .collect()
}

/// Whether an ownership record of ours claims the name.
pub fn is_owned(name: &RecordName, actual: &Actual, rules: &Rules<'_>) -> bool {
    RecordKind::ALL.into_iter().any(|kind| {
        standing(name, kind, actual, rules).is_ok_and(|standing| !standing.ours.is_empty())
    })
}

/// Makes a change in a picture of a zone, as a server makes it.
pub fn apply(change: &Change, actual: &mut Actual) {
    for kind in &change.kinds {
        actual.edit(change.name.as_str(), |held| *held.set_mut(kind.kind) = kind.after.clone());
        actual.edit(&kind.ownership, |held| {
            for record in &kind.txt_removed {
                held.txt.remove(record);
            }
            held.txt.extend(kind.txt_added.clone());
        });
    }
}

#[cfg(test)]
mod tests;
