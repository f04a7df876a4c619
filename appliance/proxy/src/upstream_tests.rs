use std::collections::BTreeMap;

use haflinger_core::forwarding::ForwardingTable;
use haflinger_core::{Backend, Family, ObjectRef, Protocol, SourceId, Target};
use proptest::prelude::*;

use super::*;

fn address(n: usize) -> SocketAddr {
    format!("192.0.2.{n}:8080").parse().unwrap()
}

/// A set whose backends are in the given states, with a table over the active ones.
fn set(states: &[BackendState]) -> BackendSet {
    let object = ObjectRef::service(&SourceId::inventory(), "default", "shop");
    let backends: Vec<Backend> = states
        .iter()
        .enumerate()
        .map(|(n, state)| Backend {
            address: address(n),
            name: format!("pod-{n}").into(),
            node: None,
            zone: None,
            weight: 100,
            backup: false,
            state: *state,
            reasons: Vec::new(),
        })
        .collect();
    let active = backends.iter().filter(|b| b.state == BackendState::Active);
    let table = ForwardingTable::new(active.map(|b| (b.address, b.weight))).view();
    let target = Target { object, port: 80, protocol: Protocol::Tcp, family: Family::V4 };
    BackendSet { target, backends, table }
}

#[test]
fn requests_of_one_connection_spread_over_all_backends() {
    let set = set(&[BackendState::Active; 4]);
    let mut counts = BTreeMap::new();
    for count in 0..4_000 {
        *counts.entry(choose(&set, request_hash(42, count), &[]).unwrap()).or_insert(0) += 1;
    }
    assert_eq!(counts.len(), 4);
    // Binomial with mean 1000 and deviation 27: far outside ten deviations nothing lands.
    assert!(counts.values().all(|n| (700..1_300).contains(n)), "{counts:?}");
}

#[test]
fn the_second_hop_is_the_first_to_be_tried_again() {
    let mut table = ForwardingTable::new([(address(0), 100), (address(1), 100)]);
    table.update([(address(0), 100), (address(1), 100), (address(2), 100)], 0);
    let set = BackendSet { table: table.view(), ..set(&[BackendState::Active; 3]) };
    let mut seen = 0;
    for count in 0..1_000 {
        let hash = request_hash(7, count);
        let hops = set.table.hops(hash).unwrap();
        if let Some(second) = hops.second {
            assert_eq!(choose(&set, hash, &[*hops.first]), Some(*second));
            seen += 1;
        }
    }
    assert!(seen > 0, "no bucket had moved");
}

#[test]
fn a_target_without_active_backends_has_no_choice() {
    assert_eq!(choose(&set(&[]), 1, &[]), None);
    assert_eq!(choose(&set(&[BackendState::Draining, BackendState::Down]), 1, &[]), None);
}

#[test]
fn retries_are_paid_from_the_reserve_and_then_by_requests() {
    let budget = RetryBudget::new(50);
    let granted = (0..1_000).filter(|_| budget.spend()).count();
    assert_eq!(granted as i64, RETRY_RESERVE);
    budget.earn();
    assert!(!budget.spend(), "one request earns half a retry");
    budget.earn();
    assert!(budget.spend());
    for _ in 0..10_000 {
        budget.earn();
    }
    let granted = (0..1_000).filter(|_| budget.spend()).count();
    assert_eq!(granted as i64, RETRY_RESERVE, "no more than the reserve is saved up");
}

proptest! {
    #[test]
    fn trying_on_reaches_every_active_backend_once_and_no_other(
        states in prop::collection::vec(
            prop::sample::select(vec![
                BackendState::Active, BackendState::Draining, BackendState::Down,
            ]),
            0..12,
        ),
        hash in any::<u64>(),
    ) {
        let set = set(&states);
        let mut tried = Vec::new();
        while let Some(next) = choose(&set, hash, &tried) {
            prop_assert!(!tried.contains(&next));
            prop_assert_eq!(set.get(&next).unwrap().state, BackendState::Active);
            tried.push(next);
        }
        prop_assert_eq!(tried.len(), set.active().count());
    }
}
