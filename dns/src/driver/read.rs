//! What a server holds: by transfer, or name by name where transfers are refused.

use std::collections::BTreeSet;

use hickory_proto::op::Message;
use hickory_proto::rr::RecordType;
use serde::Serialize;

use super::connection::Connection;
use super::error::{ExchangeError, KeyFault};
use super::transfer::Transfer;
use crate::name::{RecordName, is_within};
use crate::owner::{ownership_name, read_heritage};
use crate::plan::Rules;
use crate::record::{Actual, ExclusiveType, RecordKind};
use crate::wire;

/// How a zone was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Reading {
    /// The whole zone: everything of ours is known.
    Transfer,
    /// Wanted and remembered names only: names of ours from before the start stay unseen.
    Queries,
}

/// A picture of a zone.
pub(crate) struct Picture {
    pub(crate) actual: Actual,
    pub(crate) serial: u32,
    pub(crate) reading: Reading,
}

/// Why a zone could not be transferred.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) reason: String,
    /// Whether another attempt may end better by itself: the server was loading the zone, or
    /// its configuration is being changed. A zone that is too large stays so for a while, and
    /// each attempt costs a whole transfer.
    pub(crate) may_pass: bool,
}

/// Reads the whole zone, unless transfers of it are refused.
pub(crate) async fn transfer(
    connection: &mut Connection,
    zone: &RecordName,
) -> Result<Result<Picture, Refusal>, ExchangeError> {
    match connection.transfer(zone).await {
        Ok(Transfer { actual, serial }) => {
            Ok(Ok(Picture { actual, serial, reading: Reading::Transfer }))
        }
        Err(error) if is_about_transfers(&error) => Ok(Err(Refusal {
            reason: error.chain(),
            may_pass: !matches!(error, ExchangeError::ZoneTooLarge(_)),
        })),
        Err(error) => Err(error),
    }
}

/// Reads the names of a zone that cannot be transferred, on a connection of its own: some
/// servers close the former after refusing, others still send the rest of a zone.
pub(crate) async fn query(
    connection: &mut Connection,
    names: &BTreeSet<RecordName>,
    rules: &Rules<'_>,
) -> Result<Picture, ExchangeError> {
    let serial = connection.serial(rules.zone).await?;
    let actual = query_all(connection, names, rules).await?;
    Ok(Picture { actual, serial, reading: Reading::Queries })
}

/// Whether updates may well work although the transfer did not. A key that the server rejects
/// is not such a case: it fails updates too, and the operator should read why.
fn is_about_transfers(error: &ExchangeError) -> bool {
    match error {
        ExchangeError::Refused(_)
        | ExchangeError::ZoneTooLarge(_)
        | ExchangeError::Closed
        | ExchangeError::Malformed(_) => true,
        ExchangeError::Key { fault, .. } => *fault == KeyFault::Unsigned,
        _ => false,
    }
}

async fn query_all(
    connection: &mut Connection,
    names: &BTreeSet<RecordName>,
    rules: &Rules<'_>,
) -> Result<Actual, ExchangeError> {
    let asked = names_to_ask(names, rules);
    let questions: Vec<_> = asked
        .iter()
        .flat_map(|name| {
            [RecordType::A, RecordType::AAAA, RecordType::TXT].map(|kind| (name.clone(), kind))
        })
        .collect();
    let answers = connection.ask(&questions).await?;
    let mut actual = Actual::default();
    for ((name, _), answer) in questions.iter().zip(&answers) {
        note_answer(name, answer, rules, &mut actual);
    }
    discount_wildcards(names, &asked, rules, &mut actual);
    Ok(actual)
}

/// The names, their ownership names, and every wildcard that could answer for them.
fn names_to_ask(names: &BTreeSet<RecordName>, rules: &Rules<'_>) -> BTreeSet<String> {
    let mut asked = BTreeSet::new();
    for name in names {
        asked.insert(name.as_str().to_owned());
        for kind in RecordKind::ALL {
            asked.extend(ownership_name(name, kind, rules.wildcard));
        }
        asked.extend(wildcards_above(name.as_str(), rules.zone.as_str()));
    }
    asked
}

/// `*.parent` for each parent within the zone, nearest first.
fn wildcards_above<'a>(name: &'a str, zone: &'a str) -> impl Iterator<Item = String> + 'a {
    std::iter::successors(name.split_once('.').map(|(_, parent)| parent), |parent| {
        parent.split_once('.').map(|(_, parent)| parent)
    })
    .take_while(move |parent| is_within(parent, zone))
    .map(|parent| format!("*.{parent}"))
    .filter(move |wildcard| wildcard != name)
}

fn note_answer(name: &str, answer: &Message, rules: &Rules<'_>, actual: &mut Actual) {
    let at_name = |record: &&hickory_proto::rr::Record| {
        wire::from_wire(&record.name).is_some_and(|owner| owner == name)
    };
    answer.answers.iter().filter(at_name).for_each(|record| wire::note(record, actual));
    let delegated = answer.authorities.iter().any(|record| {
        record.record_type() == RecordType::NS
            && wire::from_wire(&record.name).is_some_and(|owner| {
                owner != rules.zone.as_str() && is_within(&owner, rules.zone.as_str())
            })
    });
    if delegated && !answer.metadata.authoritative {
        actual.add_exclusive(name, ExclusiveType::Ns);
    }
}

/// A server answers for a name that does not exist with the records of a wildcard above it.
/// Such records are taken out of the picture, unless our own ownership record says that the
/// name exists. Should it exist after all, the update's prerequisites refuse the change.
fn discount_wildcards(
    names: &BTreeSet<RecordName>,
    asked: &BTreeSet<String>,
    rules: &Rules<'_>,
    actual: &mut Actual,
) {
    let owned: BTreeSet<(String, RecordKind)> = names
        .iter()
        .flat_map(|name| RecordKind::ALL.map(|kind| (name, kind)))
        .filter(|(name, kind)| {
            let ownership = ownership_name(name, *kind, rules.wildcard).unwrap_or_default();
            actual.at(&ownership).is_some_and(|held| {
                held.txt
                    .iter()
                    .any(|txt| read_heritage(txt).is_some_and(|h| h.owner == rules.owner))
            })
        })
        .map(|(name, kind)| (name.as_str().to_owned(), kind))
        .collect();
    for name in asked.iter().filter(|name| !name.starts_with("*.")) {
        let nearest = wildcards_above(name, rules.zone.as_str())
            .find_map(|wildcard| actual.at(&wildcard).cloned());
        let Some(wildcard) = nearest else { continue };
        actual.edit(name, |held| {
            for kind in RecordKind::ALL {
                let same = held.set(kind) == wildcard.set(kind);
                if same && !owned.contains(&(name.clone(), kind)) {
                    *held.set_mut(kind) = None;
                }
            }
            if held.txt == wildcard.txt {
                held.txt.clear();
            }
            if held.exclusive == wildcard.exclusive {
                held.exclusive.clear();
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::owner::heritage_record;
    use crate::settings::Policy;

    fn name(text: &str) -> RecordName {
        RecordName::parse(text).unwrap()
    }

    fn rules(zone: &RecordName) -> Rules<'_> {
        Rules { zone, owner: "blue", ttl_secs: 60, policy: Policy::Sync, wildcard: None }
    }

    #[test]
    fn wildcards_are_looked_for_up_to_the_zone() {
        let found: Vec<_> = wildcards_above("a.b.example.com", "example.com").collect();
        assert_eq!(found, ["*.b.example.com", "*.example.com"]);
    }

    #[test]
    fn what_a_wildcard_answers_is_not_taken_for_the_name_itself() {
        let zone = name("example.com");
        let names = BTreeSet::from([name("new.example.com"), name("ours.example.com")]);
        let address = "192.0.2.1".parse().unwrap();
        let mut actual = Actual::default();
        for at in ["*.example.com", "new.example.com", "ours.example.com"] {
            actual.add_address(at, address, 60);
        }
        actual.add_txt("a-ours.example.com", heritage_record("blue", "service/default/web"));
        let asked = names_to_ask(&names, &rules(&zone));
        discount_wildcards(&names, &asked, &rules(&zone), &mut actual);
        assert!(actual.at("new.example.com").is_none());
        assert!(actual.at("ours.example.com").unwrap().a.is_some());
        assert!(actual.at("*.example.com").unwrap().a.is_some());
    }
}
