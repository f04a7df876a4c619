//! Connection collision: of two connections one survives, and both sides keep the same.

use std::time::Duration;

use haflinger_bgp::fsm::State;
use haflinger_bgp::fsm::collision::{Way, loser};
use haflinger_bgp::model::RouterId;
use proptest::prelude::*;

use crate::pair::{Pair, config};

fn id(last: u8) -> RouterId {
    RouterId::new([192, 0, 2, last].into()).unwrap()
}

#[test]
fn the_connection_of_the_higher_identifier_survives() {
    let (low, high) = ((id(1), 64_512), (id(2), 64_513));
    for way in Way::BOTH {
        assert_eq!(loser(way, State::OpenConfirm, low, high), Some(Way::Outgoing));
        assert_eq!(loser(way, State::OpenConfirm, high, low), Some(Way::Incoming));
    }
}

#[test]
fn equal_identifiers_are_settled_by_the_higher_as() {
    let (low, high) = ((id(1), 64_512), (id(1), 64_513));
    assert_eq!(loser(Way::Incoming, State::OpenConfirm, low, high), Some(Way::Outgoing));
    assert_eq!(loser(Way::Incoming, State::OpenConfirm, high, low), Some(Way::Incoming));
}

#[test]
fn an_established_connection_always_survives() {
    let (low, high) = ((id(1), 64_512), (id(2), 64_513));
    assert_eq!(loser(Way::Outgoing, State::Established, high, low), Some(Way::Outgoing));
    assert_eq!(loser(Way::Incoming, State::Established, low, high), Some(Way::Incoming));
}

#[test]
fn two_sides_that_connect_at_once_end_with_one_connection() {
    for (one, two) in [(1, 2), (2, 1)] {
        let mut pair = Pair::new(config(one), config(two));
        pair.start();
        pair.run(Duration::from_secs(200));
        assert!(pair.both_established());
        assert_eq!(pair.open_connections(), 1);
        let higher = usize::from(two > one);
        assert_eq!(pair.opener(), Some(higher), "identifiers {one} and {two}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn any_delays_end_with_one_connection_that_both_sides_hold(
        delays in prop::collection::vec(1u64..400, 1..50),
        lead in 0u64..400,
        seed: u64,
    ) {
        let mut pair = Pair::with(config(1), config(2), delays, seed);
        pair.start_one(0);
        pair.run(Duration::from_millis(lead));
        pair.start_one(1);
        pair.run(Duration::from_secs(900));
        prop_assert!(pair.both_established());
        prop_assert_eq!(pair.open_connections(), 1);
    }
}
