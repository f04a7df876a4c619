//! The finite state machine: starting, stopping, retrying, and that no order of events breaks it.

use std::time::Duration;

use haflinger_bgp::fsm::collision::Way;
use haflinger_bgp::fsm::{Input, Output, RETRY_MAX, Session, State};
use haflinger_bgp::model::Family;
use haflinger_bgp::wire::{Cease, Message, Notification, Update};
use proptest::prelude::*;

use crate::pair::{Pair, config, open_of};

#[test]
fn a_session_comes_up_and_a_stop_tells_the_peer_why() {
    let mut pair = Pair::new(config(1), config(2));
    pair.start();
    pair.run(Duration::from_secs(200));
    assert!(pair.both_established());
    pair.feed(0, Input::Stop(Notification::shutdown("bye")));
    pair.run(Duration::from_secs(1));
    let said = pair.heard(1).last().unwrap();
    assert_eq!(said.shutdown_message(), Some("bye"));
    assert!(!pair.established(0) && !pair.established(1));
    assert_eq!(pair.open_connections(), 0);
}

#[test]
fn one_side_may_be_passive() {
    let mut passive = config(1);
    passive.passive = true;
    let mut pair = Pair::new(passive, config(2));
    pair.start();
    pair.run(Duration::from_secs(60));
    assert!(pair.both_established());
    assert_eq!(pair.opener(), Some(1));
}

#[test]
fn attempts_become_rarer_up_to_a_bound() {
    let mut session = Session::new(config(1), 3);
    let mut now = Duration::ZERO;
    let mut waits = Vec::new();
    session.handle(Input::Start, now);
    for _ in 0..12 {
        session.handle(Input::ConnectFailed, now);
        assert_eq!(session.state(), State::Active);
        let next = session.deadline().unwrap();
        waits.push(next - now);
        now = next;
        assert_eq!(session.handle(Input::Tick, now), [Output::Connect]);
    }
    assert!(waits[0] <= Duration::from_secs(5) && waits[0] >= Duration::from_millis(3750));
    assert!(waits.iter().all(|wait| *wait <= RETRY_MAX));
    assert!(waits.last().unwrap() >= &(RETRY_MAX * 3 / 4));
}

#[test]
fn a_stable_session_forgets_earlier_failures() {
    let mut session = Session::new(config(1), 3);
    let mut now = Duration::ZERO;
    session.handle(Input::Start, now);
    for _ in 0..8 {
        session.handle(Input::ConnectFailed, now);
        now = session.deadline().unwrap();
        session.handle(Input::Tick, now);
    }
    session.handle(Input::Connected, now);
    let open = Message::Open(open_of(&config(2)));
    session.handle(Input::Received(Way::Outgoing, open), now);
    session.handle(Input::Received(Way::Outgoing, Message::Keepalive), now);
    now += Duration::from_secs(60);
    session.handle(Input::Closed(Way::Outgoing), now);
    assert!(session.deadline().unwrap() - now <= Duration::from_secs(5));
}

#[test]
fn after_a_fault_of_the_peer_its_connections_are_refused_for_a_while() {
    let mut session = Session::new(config(1), 3);
    let mut now = Duration::ZERO;
    session.handle(Input::Start, now);
    session.handle(Input::Connected, now);
    let garbage = Notification::new(1, 1, &[]);
    session.handle(Input::Malformed(Way::Outgoing, garbage), now);
    assert_eq!(session.state(), State::Idle);
    let refused = session.handle(Input::Offered, now);
    assert_eq!(refused, [Output::Refuse(Notification::cease(Cease::ConnectionRejected))]);
    now = session.deadline().unwrap();
    assert_eq!(session.handle(Input::Tick, now), [Output::Connect]);
    assert_eq!(session.handle(Input::Offered, now)[0], Output::Accept);
}

#[test]
fn a_refresh_of_a_family_is_passed_on_and_others_are_ignored() {
    let now = Duration::ZERO;
    let mut session = Session::new(config(1), 3);
    session.handle(Input::Start, now);
    session.handle(Input::Connected, now);
    let open = Message::Open(open_of(&config(2)));
    session.handle(Input::Received(Way::Outgoing, open), now);
    session.handle(Input::Received(Way::Outgoing, Message::Keepalive), now);
    let mut ask =
        |family| session.handle(Input::Received(Way::Outgoing, Message::RouteRefresh(family)), now);
    assert_eq!(ask(Some(Family::Ipv6)), [Output::Refresh(Family::Ipv6)]);
    assert_eq!(ask(None), []);
}

fn way() -> impl Strategy<Value = Way> {
    prop_oneof![Just(Way::Outgoing), Just(Way::Incoming)]
}

fn message() -> impl Strategy<Value = Message> {
    prop_oneof![
        3 => (1u8..4).prop_map(|last| Message::Open(open_of(&config(last)))),
        3 => Just(Message::Keepalive),
        1 => Just(Message::Update(Update::default())),
        1 => Just(Message::EndOfRib(Family::Ipv4)),
        1 => Just(Message::RouteRefresh(Some(Family::Ipv4))),
        1 => (1u8..8, 0u8..9)
            .prop_map(|(code, subcode)| Message::Notification(Notification::new(code, subcode, &[]))),
    ]
}

fn input() -> impl Strategy<Value = Input> {
    prop_oneof![
        3 => Just(Input::Start),
        1 => Just(Input::Stop(Notification::cease(Cease::AdministrativeShutdown))),
        1 => Just(Input::Reset(Notification::cease(Cease::BfdDown))),
        4 => Just(Input::Connected),
        2 => Just(Input::ConnectFailed),
        4 => Just(Input::Offered),
        12 => (way(), message()).prop_map(|(way, message)| Input::Received(way, message)),
        1 => way().prop_map(|way| Input::Malformed(way, Notification::new(1, 1, &[]))),
        2 => way().prop_map(Input::Closed),
        5 => Just(Input::Tick),
    ]
}

/// What a driver would hold after carrying the outputs out, to check them against.
#[derive(Default)]
struct Held {
    attempt: bool,
    outgoing: bool,
    incoming: bool,
    up: Option<Way>,
}

impl Held {
    fn slot(&mut self, way: Way) -> &mut bool {
        match way {
            Way::Outgoing => &mut self.outgoing,
            Way::Incoming => &mut self.incoming,
        }
    }

    fn carry_out(&mut self, output: &Output, offered: &mut bool) {
        match output {
            Output::Connect => {
                assert!(!self.attempt && !self.outgoing, "a second attempt");
                self.attempt = true;
            }
            Output::CancelConnect | Output::ConnectTimedOut => {
                assert!(std::mem::take(&mut self.attempt), "no attempt to give up");
            }
            Output::Accept => {
                assert!(std::mem::take(offered) && !self.incoming, "nothing to accept");
                self.incoming = true;
            }
            Output::Refuse(_) => assert!(std::mem::take(offered), "nothing to refuse"),
            Output::Send(way, _) | Output::Ended(way, _) => {
                assert!(*self.slot(*way), "{output:?} without a connection");
            }
            Output::Close(way) => assert!(std::mem::take(self.slot(*way)), "closed twice"),
            Output::Up(way, _) => {
                assert!(*self.slot(*way) && self.up.is_none(), "up without a connection");
                self.up = Some(*way);
            }
            Output::Down => {
                let way = self.up.take().unwrap();
                assert!(!*self.slot(way), "down with the connection still open");
            }
            Output::Learned(_) | Output::Refresh(_) => assert!(self.up.is_some()),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn no_sequence_of_inputs_breaks_the_invariants(
        inputs in prop::collection::vec((input(), 0u64..20_000), 1..60),
        passive: bool,
        seed: u64,
    ) {
        let mut config = config(1);
        config.passive = passive;
        let mut session = Session::new(config, seed);
        let mut held = Held::default();
        let mut now = Duration::ZERO;
        for (input, wait) in inputs {
            now += Duration::from_millis(wait);
            // A driver reports only what it has.
            let possible = match &input {
                Input::Connected | Input::ConnectFailed => std::mem::take(&mut held.attempt),
                Input::Received(way, _) | Input::Malformed(way, _) | Input::Closed(way) => {
                    *held.slot(*way)
                }
                _ => true,
            };
            if !possible {
                continue;
            }
            held.outgoing |= input == Input::Connected;
            let stopped = matches!(input, Input::Stop(_));
            let mut offered = input == Input::Offered;
            for output in session.handle(input, now) {
                held.carry_out(&output, &mut offered);
            }
            prop_assert!(!offered, "an offered connection was forgotten");
            prop_assert_eq!(session.state() == State::Established, held.up.is_some());
            if stopped {
                prop_assert_eq!(session.deadline(), None);
                prop_assert!(!held.attempt && !held.outgoing && !held.incoming);
            }
        }
    }

    #[test]
    fn the_machine_settles_after_each_tick(seed: u64, ticks in 1usize..50) {
        let mut session = Session::new(config(1), seed);
        session.handle(Input::Start, Duration::ZERO);
        for _ in 0..ticks {
            let at = session.deadline().unwrap();
            session.handle(Input::Tick, at);
            prop_assert!(session.deadline().unwrap() > at, "a deadline that never passes");
        }
    }

}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn two_sides_find_together_after_any_outages(
        outages in prop::collection::vec((1u64..40_000, 1u64..40_000), 0..5),
        delays in prop::collection::vec(1u64..400, 1..20),
        seed: u64,
    ) {
        let mut pair = Pair::with(config(1), config(2), delays, seed);
        pair.start();
        for (up, down) in outages {
            pair.run(Duration::from_millis(up));
            pair.network_down();
            pair.run(Duration::from_millis(down));
            pair.network_up();
        }
        pair.run(Duration::from_secs(900));
        prop_assert!(pair.both_established());
        prop_assert_eq!(pair.open_connections(), 1);
    }
}
