use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use proptest::collection::{btree_map, btree_set, vec};
use proptest::option;
use proptest::prelude::*;

use super::*;

const ZONE: &str = "example.com";
const OWNER: &str = "blue";

fn name(text: &str) -> RecordName {
    RecordName::parse(text).unwrap()
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn desired(addresses: &[&str]) -> DesiredName {
    DesiredName {
        addresses: addresses.iter().map(|a| address(a)).collect(),
        ttl_secs: None,
        resource: "service/default/web".into(),
    }
}

fn rules(zone: &RecordName) -> Rules<'_> {
    Rules { zone, owner: OWNER, ttl_secs: 60, policy: Policy::Sync, wildcard: None }
}

fn settled(host: &str, wanted: &DesiredName, rules: &Rules<'_>) -> Actual {
    let mut actual = Actual::default();
    match decide(&name(host), Some(wanted), &actual, rules) {
        Decision::Change(change) => apply(&change, &mut actual),
        other => panic!("{other:?}"),
    }
    actual
}

#[test]
fn a_new_name_gets_its_records_and_an_ownership_record_for_each_kind() {
    let zone = name(ZONE);
    let wanted = desired(&["192.0.2.1", "2001:db8::1"]);
    let actual = settled("www.example.com", &wanted, &rules(&zone));
    assert_eq!(actual.at("www.example.com").unwrap().a.as_ref().unwrap().ttl_secs, 60);
    assert!(actual.at("www.example.com").unwrap().aaaa.is_some());
    assert_eq!(actual.at("a-www.example.com").unwrap().txt.len(), 1);
    assert_eq!(actual.at("aaaa-www.example.com").unwrap().txt.len(), 1);
    assert_eq!(owned_names(&actual, &rules(&zone)), BTreeSet::from([name("www.example.com")]));
}

#[test]
fn a_name_that_is_as_it_should_be_is_left_alone() {
    let zone = name(ZONE);
    let wanted = desired(&["192.0.2.1"]);
    let actual = settled("www.example.com", &wanted, &rules(&zone));
    let again = decide(&name("www.example.com"), Some(&wanted), &actual, &rules(&zone));
    assert_eq!(again, Decision::Settled { owned: true });
}

#[test]
fn an_owned_name_that_nobody_wants_is_deleted_with_its_ownership_records() {
    let zone = name(ZONE);
    let mut actual = settled("www.example.com", &desired(&["192.0.2.1"]), &rules(&zone));
    let Decision::Change(change) = decide(&name("www.example.com"), None, &actual, &rules(&zone))
    else {
        panic!("no change");
    };
    assert_eq!(change.action, Action::Delete);
    apply(&change, &mut actual);
    assert!(actual.is_empty());
}

#[test]
fn upsert_only_neither_deletes_a_name_nor_takes_a_family_away() {
    let zone = name(ZONE);
    let rules = Rules { policy: Policy::UpsertOnly, ..rules(&zone) };
    let both = desired(&["192.0.2.1", "2001:db8::1"]);
    let actual = settled("www.example.com", &both, &rules);
    let host = name("www.example.com");
    assert_eq!(decide(&host, None, &actual, &rules), Decision::Settled { owned: true });
    assert_eq!(
        decide(&host, Some(&desired(&["192.0.2.1"])), &actual, &rules),
        Decision::Settled { owned: true }
    );
}

#[test]
fn each_kind_of_foreign_record_is_a_conflict_with_its_reason() {
    let zone = name(ZONE);
    let host = "www.example.com";
    let conflict = |prepare: &dyn Fn(&mut Actual)| {
        let mut actual = Actual::default();
        prepare(&mut actual);
        match decide(&name(host), Some(&desired(&["192.0.2.1"])), &actual, &rules(&zone)) {
            Decision::Conflict(conflict) => conflict,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(
        conflict(&|actual| actual.add_address(host, address("192.0.2.9"), 60)),
        Conflict::Unowned(RecordKind::A)
    );
    assert_eq!(
        conflict(&|actual| actual.add_address(host, address("2001:db8::9"), 60)),
        Conflict::Unowned(RecordKind::Aaaa),
        "the other family counts too"
    );
    assert_eq!(
        conflict(&|actual| actual.add_exclusive(host, ExclusiveType::Cname)),
        Conflict::Exclusive(ExclusiveType::Cname)
    );
    let red = || heritage_record("red", "service/other/web");
    assert_eq!(
        conflict(&|actual| actual.add_txt("a-www.example.com", red())),
        Conflict::OwnedBy("red".into())
    );
    assert_eq!(
        conflict(&|actual| actual.add_exclusive("a-www.example.com", ExclusiveType::Cname)),
        Conflict::OwnershipNameTaken("a-www.example.com".into())
    );
}

#[test]
fn name_servers_at_the_apex_are_no_conflict() {
    let zone = name(ZONE);
    let mut actual = Actual::default();
    actual.add_exclusive(ZONE, ExclusiveType::Ns);
    let decision = decide(&zone, Some(&desired(&["192.0.2.1"])), &actual, &rules(&zone));
    assert!(matches!(decision, Decision::Change(_)), "{decision:?}");
}

#[test]
fn a_name_below_a_delegation_is_a_conflict_because_nobody_would_see_it() {
    let zone = name(ZONE);
    let mut actual = Actual::default();
    actual.add_exclusive(ZONE, ExclusiveType::Ns);
    actual.add_exclusive("sub.example.com", ExclusiveType::Ns);
    let wanted = desired(&["192.0.2.1"]);
    let decision = decide(&name("a.b.sub.example.com"), Some(&wanted), &actual, &rules(&zone));
    let below = Conflict::Below { name: "sub.example.com".into(), kind: ExclusiveType::Ns };
    assert_eq!(decision, Decision::Conflict(below));
    let beside = decide(&name("a.b.example.com"), Some(&wanted), &actual, &rules(&zone));
    assert!(matches!(beside, Decision::Change(_)), "{beside:?}");
}

#[test]
fn text_beside_an_ownership_record_is_kept() {
    let zone = name(ZONE);
    let mut actual = settled("www.example.com", &desired(&["192.0.2.1"]), &rules(&zone));
    let foreign = TxtRecord::from_text("v=spf1 -all");
    actual.add_txt("a-www.example.com", foreign.clone());
    let decision = decide(&name("www.example.com"), None, &actual, &rules(&zone));
    let Decision::Change(change) = decision else { panic!("{decision:?}") };
    apply(&change, &mut actual);
    assert_eq!(actual.at("a-www.example.com").unwrap().txt, BTreeSet::from([foreign]));
}

#[test]
fn a_claim_that_another_owner_disputes_is_given_up_and_the_addresses_stay() {
    let zone = name(ZONE);
    let mut actual = settled("www.example.com", &desired(&["192.0.2.1"]), &rules(&zone));
    actual.add_txt("a-www.example.com", heritage_record("red", "service/other/web"));
    let decision = decide(&name("www.example.com"), None, &actual, &rules(&zone));
    let Decision::Change(change) = decision else { panic!("{decision:?}") };
    apply(&change, &mut actual);
    assert!(actual.at("www.example.com").unwrap().a.is_some());
    assert_eq!(actual.at("a-www.example.com").unwrap().txt.len(), 1);
}

#[test]
fn an_ownership_record_without_addresses_is_taken_up_or_cleared_away() {
    let zone = name(ZONE);
    let host = name("www.example.com");
    let mut actual = Actual::default();
    actual.add_txt("a-www.example.com", heritage_record(OWNER, "service/default/web"));
    let wanted = desired(&["192.0.2.1"]);
    let decision = decide(&host, Some(&wanted), &actual, &rules(&zone));
    let Decision::Change(change) = decision else { panic!("{decision:?}") };
    assert_eq!(change.action, Action::Create);
    assert_eq!(change.kinds[0].txt_added, None, "the claim already stands");
    let decision = decide(&host, None, &actual, &rules(&zone));
    let Decision::Change(change) = decision else { panic!("{decision:?}") };
    apply(&change, &mut actual);
    assert!(actual.is_empty());
}

/// Few names, so that wishes and foreign records meet.
fn any_host() -> impl Strategy<Value = String> {
    prop::sample::select(vec![
        "example.com",
        "a.example.com",
        "a-a.example.com",
        "*.example.com",
        "any.example.com",
        "b.c.example.com",
    ])
    .prop_map(str::to_owned)
}

fn any_address() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        (0_u8..4).prop_map(|last| IpAddr::from([192, 0, 2, last])),
        (0_u16..4).prop_map(|last| IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, last])),
    ]
}

fn any_desired() -> impl Strategy<Value = DesiredName> {
    let resource = prop::sample::select(vec!["service/default/web", "ingress/default/site"]);
    (btree_set(any_address(), 0..4), option::of(30_u32..33), resource).prop_map(
        |(addresses, ttl_secs, resource)| DesiredName {
            addresses,
            ttl_secs,
            resource: Arc::from(resource),
        },
    )
}

fn any_ownership_name() -> impl Strategy<Value = String> {
    (any_host(), prop::sample::select(vec!["a-", "aaaa-"]))
        .prop_map(|(host, kind)| kind.to_owned() + &host)
}

fn any_txt() -> impl Strategy<Value = TxtRecord> {
    prop::sample::select(vec![
        heritage_record(OWNER, "service/default/web"),
        heritage_record(OWNER, "service/default/old"),
        heritage_record("red", "service/default/web"),
        TxtRecord::from_text("v=spf1 -all"),
    ])
}

fn any_exclusive() -> impl Strategy<Value = ExclusiveType> {
    prop::sample::select(vec![ExclusiveType::Cname, ExclusiveType::Dname, ExclusiveType::Ns])
}

fn any_actual() -> impl Strategy<Value = Actual> {
    let addresses = vec((any_host(), any_address(), 59_u32..61), 0..8);
    let text = vec((prop_oneof![any_ownership_name(), any_host()], any_txt()), 0..8);
    let exclusive = vec((prop_oneof![any_ownership_name(), any_host()], any_exclusive()), 0..2);
    (addresses, text, exclusive).prop_map(|(addresses, text, exclusive)| {
        let mut actual = Actual::default();
        for (at, address, ttl_secs) in addresses {
            actual.add_address(&at, address, ttl_secs);
        }
        for (at, record) in text {
            actual.add_txt(&at, record);
        }
        for (at, kind) in exclusive {
            actual.add_exclusive(&at, kind);
        }
        actual
    })
}

/// An address set is ours when an ownership record of ours, and none of another, claims it.
fn claimed(actual: &Actual, host: &RecordName, kind: RecordKind, rules: &Rules<'_>) -> bool {
    let Ok(ownership) = ownership_name(host, kind, rules.wildcard) else { return false };
    let owners: Vec<_> = actual
        .at(&ownership)
        .into_iter()
        .flat_map(|held| &held.txt)
        .filter_map(|record| Some(read_heritage(record)?.owner))
        .collect();
    owners.iter().any(|owner| owner == OWNER) && owners.iter().all(|owner| owner == OWNER)
}

/// Everything in a zone that is not ours: it must read the same before and after.
fn foreign(actual: &Actual, rules: &Rules<'_>) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for (at, held) in actual.iter() {
        let host = RecordName::parse(at).ok();
        for kind in RecordKind::ALL {
            let ours = host.as_ref().is_some_and(|host| claimed(actual, host, kind, rules));
            if let Some(set) = held.set(kind).filter(|_| !ours) {
                found.push((at.to_owned(), format!("{set:?}")));
            }
        }
        for record in &held.txt {
            if read_heritage(record).is_none_or(|heritage| heritage.owner != OWNER) {
                found.push((at.to_owned(), format!("{record:?}")));
            }
        }
        found.extend(held.exclusive.iter().map(|kind| (at.to_owned(), kind.to_string())));
    }
    found
}

proptest! {
    #[test]
    fn applying_the_plan_settles_every_name_and_touches_nothing_foreign(
        wanted in btree_map(any_host(), any_desired(), 0..6),
        mut actual in any_actual(),
        upsert_only: bool,
        wildcard in option::of(Just("any")),
    ) {
        let zone = name(ZONE);
        let policy = if upsert_only { Policy::UpsertOnly } else { Policy::Sync };
        let rules = Rules { policy, wildcard, ..rules(&zone) };
        let before = foreign(&actual, &rules);
        let mut scope = owned_names(&actual, &rules);
        scope.extend(wanted.keys().map(|host| name(host)));

        let decisions: Vec<_> = scope
            .iter()
            .map(|host| (host, decide(host, wanted.get(host.as_str()), &actual, &rules)))
            .collect();
        for (host, decision) in &decisions {
            if let Decision::Change(change) = decision {
                for kind in &change.kinds {
                    prop_assert!(
                        kind.before.is_none()
                            || kind.before == kind.after
                            || claimed(&actual, host, kind.kind, &rules),
                        "{host} {kind:?} is not ours"
                    );
                }
            }
        }
        for (_, decision) in &decisions {
            if let Decision::Change(change) = decision {
                apply(change, &mut actual);
            }
        }

        prop_assert_eq!(foreign(&actual, &rules), before);
        for (host, decision) in &decisions {
            let wish = wanted.get(host.as_str());
            let again = decide(host, wish, &actual, &rules);
            prop_assert!(!matches!(again, Decision::Change(_)), "{} again: {:?}", host, again);
            let Some(wish) = wish.filter(|w| !w.addresses.is_empty()) else { continue };
            if matches!(decision, Decision::Conflict(_)) {
                continue;
            }
            let held = actual.at(host.as_str()).expect("a written name is held");
            let mut found = BTreeSet::new();
            for kind in RecordKind::ALL {
                let set = held.set(kind).filter(|_| claimed(&actual, host, kind, &rules));
                found.extend(set.into_iter().flat_map(|set| set.addresses.clone()));
            }
            if policy == Policy::Sync {
                prop_assert_eq!(&found, &wish.addresses);
            } else {
                prop_assert!(found.is_superset(&wish.addresses));
            }
        }
    }
}
