use super::*;
use crate::{ObjectRef, Pool, SourceId};

fn policy(ranges: &[(&str, &str, &str, bool)]) -> Policy {
    let pools = ranges
        .iter()
        .map(|(name, first, last, auto_assign)| Pool {
            name: (*name).into(),
            ranges: vec![(first.parse().unwrap(), last.parse().unwrap())],
            auto_assign: *auto_assign,
        })
        .collect();
    Policy { pools, ..Policy::default() }
}

fn small() -> Policy {
    policy(&[("main", "192.0.2.1", "192.0.2.2", true)])
}

fn object(name: &str) -> ObjectRef {
    ObjectRef::service(&SourceId::cluster("c"), "default", name)
}

fn want(created_secs: i64) -> Want {
    Want {
        families: vec![Family::V4],
        requested: vec![],
        pool: None,
        recorded: vec![],
        created_secs,
        fixed: false,
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn desired(claims: &Claims, name: &str) -> Vec<IpAddr> {
    claims.outcome(&object(name)).map(|outcome| outcome.desired.clone()).unwrap_or_default()
}

fn reasons(claims: &Claims, name: &str) -> Vec<FaultReason> {
    let outcome = claims.outcome(&object(name)).unwrap();
    outcome.faults.iter().map(|fault| fault.reason).collect()
}

#[test]
fn the_lowest_free_address_is_proposed_and_not_served() {
    let mut claims = Claims::default();
    claims.want(&object("a"), Some(want(1)));
    claims.settle(&small(), true);
    assert_eq!(desired(&claims, "a"), [ip("192.0.2.1")]);
    assert!(claims.outcome(&object("a")).unwrap().served.is_empty());
}

#[test]
fn a_recorded_address_is_served_and_never_moves() {
    let mut claims = Claims::default();
    claims.want(&object("a"), Some(Want { recorded: vec![ip("192.0.2.2")], ..want(5) }));
    claims.want(&object("b"), Some(want(1)));
    claims.settle(&small(), true);
    assert_eq!(claims.outcome(&object("a")).unwrap().served, [ip("192.0.2.2")]);
    assert_eq!(desired(&claims, "a"), [ip("192.0.2.2")]);
    assert_eq!(desired(&claims, "b"), [ip("192.0.2.1")]);
}

#[test]
fn nothing_is_proposed_before_every_source_has_listed() {
    let mut claims = Claims::default();
    claims.want(&object("a"), Some(want(1)));
    claims.settle(&small(), false);
    assert!(desired(&claims, "a").is_empty() && reasons(&claims, "a").is_empty());
    claims.reconsider_all();
    claims.settle(&small(), true);
    assert_eq!(desired(&claims, "a"), [ip("192.0.2.1")]);
}

#[test]
fn a_full_pool_is_a_reason_that_ends_when_an_address_is_freed() {
    let mut claims = Claims::default();
    for (name, created) in [("a", 1), ("b", 2), ("c", 3)] {
        claims.want(&object(name), Some(want(created)));
    }
    claims.settle(&small(), true);
    assert_eq!(reasons(&claims, "c"), [FaultReason::PoolFull]);
    claims.want(&object("a"), None);
    claims.settle(&small(), true);
    assert_eq!(desired(&claims, "c"), [ip("192.0.2.1")]);
    assert!(reasons(&claims, "c").is_empty());
}

#[test]
fn of_two_that_ask_for_one_address_the_older_gets_it_in_any_order() {
    let asks = |created| Want { requested: vec![ip("192.0.2.2")], ..want(created) };
    for order in [["old", "new"], ["new", "old"]] {
        let mut claims = Claims::default();
        for name in order {
            claims.want(&object(name), Some(asks(if name == "old" { 1 } else { 2 })));
            claims.settle(&small(), true);
        }
        assert_eq!(desired(&claims, "old"), [ip("192.0.2.2")]);
        assert_eq!(reasons(&claims, "new"), [FaultReason::AddressTaken]);
    }
}

#[test]
fn an_address_outside_every_pool_is_refused() {
    let mut claims = Claims::default();
    claims.want(&object("a"), Some(Want { requested: vec![ip("203.0.113.9")], ..want(1) }));
    claims.settle(&small(), true);
    assert_eq!(reasons(&claims, "a"), [FaultReason::AddressOutsidePools]);
}

#[test]
fn a_new_request_that_cannot_be_had_leaves_the_recorded_address_in_service() {
    let mut claims = Claims::default();
    let holds = Want { recorded: vec![ip("192.0.2.1")], ..want(1) };
    claims.want(&object("a"), Some(Want { requested: vec![ip("203.0.113.9")], ..holds }));
    claims.settle(&small(), true);
    let outcome = claims.outcome(&object("a")).unwrap();
    assert_eq!(outcome.served, [ip("192.0.2.1")]);
    assert_eq!(outcome.desired, [ip("192.0.2.1")]);
    assert_eq!(reasons(&claims, "a"), [FaultReason::AddressOutsidePools]);
}

#[test]
fn a_request_moves_the_desired_address_while_the_old_one_is_served() {
    let mut claims = Claims::default();
    let holds = Want { recorded: vec![ip("192.0.2.1")], ..want(1) };
    claims.want(&object("a"), Some(Want { requested: vec![ip("192.0.2.2")], ..holds }));
    claims.settle(&small(), true);
    let outcome = claims.outcome(&object("a")).unwrap();
    assert_eq!(outcome.served, [ip("192.0.2.1")]);
    assert_eq!(outcome.desired, [ip("192.0.2.2")]);
}

#[test]
fn two_statuses_with_one_address_leave_it_with_the_older_object() {
    let mut claims = Claims::default();
    let holds = |created| Want { recorded: vec![ip("192.0.2.1")], ..want(created) };
    claims.want(&object("young"), Some(holds(9)));
    claims.settle(&small(), true);
    claims.want(&object("old"), Some(holds(1)));
    claims.settle(&small(), true);
    assert_eq!(claims.outcome(&object("old")).unwrap().served, [ip("192.0.2.1")]);
    assert!(claims.outcome(&object("young")).unwrap().served.is_empty());
    assert_eq!(desired(&claims, "young"), [ip("192.0.2.2")]);
}

#[test]
fn a_pool_is_used_by_name_and_only_automatic_pools_without_one() {
    let policy = policy(&[
        ("named", "192.0.2.1", "192.0.2.1", false),
        ("auto", "198.51.100.1", "198.51.100.1", true),
    ]);
    let mut claims = Claims::default();
    claims.want(&object("a"), Some(want(1)));
    claims.want(&object("b"), Some(Want { pool: Some("named".into()), ..want(2) }));
    claims.want(&object("c"), Some(Want { pool: Some("absent".into()), ..want(3) }));
    claims.settle(&policy, true);
    assert_eq!(desired(&claims, "a"), [ip("198.51.100.1")]);
    assert_eq!(desired(&claims, "b"), [ip("192.0.2.1")]);
    assert_eq!(reasons(&claims, "c"), [FaultReason::NoPool]);
}

#[test]
fn fixed_objects_share_an_address_and_need_no_pool() {
    let mut claims = Claims::default();
    let fixed = Want { recorded: vec![ip("127.0.0.1")], fixed: true, ..want(0) };
    claims.want(&object("a"), Some(fixed.clone()));
    claims.want(&object("b"), Some(fixed));
    claims.settle(&Policy::default(), true);
    for name in ["a", "b"] {
        assert_eq!(claims.outcome(&object(name)).unwrap().served, [ip("127.0.0.1")]);
    }
}
