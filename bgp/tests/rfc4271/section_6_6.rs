//! Finite state machine errors: messages that have no place in a state (subcodes of RFC 6608).

use std::time::Duration;

use haflinger_bgp::fsm::collision::Way;
use haflinger_bgp::fsm::{Input, Output, Reason, Session, State};
use haflinger_bgp::wire::{Message, Update};

use crate::pair::{config, open_of};

const NOW: Duration = Duration::from_secs(1);

/// A machine that has come so far on its outgoing connection.
fn session(state: State) -> Session {
    let mut session = Session::new(config(1), 7);
    session.handle(Input::Start, NOW);
    session.handle(Input::Connected, NOW);
    if state >= State::OpenConfirm {
        let open = Message::Open(open_of(&config(2)));
        session.handle(Input::Received(Way::Outgoing, open), NOW);
    }
    if state == State::Established {
        session.handle(Input::Received(Way::Outgoing, Message::Keepalive), NOW);
    }
    assert_eq!(session.state(), state);
    session
}

#[test]
fn each_state_names_itself_when_a_message_has_no_place_in_it() {
    let open = || Message::Open(open_of(&config(2)));
    let update = || Message::Update(Update::default());
    let cases = [
        (State::OpenSent, 1, vec![Message::Keepalive, update(), Message::RouteRefresh(None)]),
        (State::OpenConfirm, 2, vec![open(), update()]),
        (State::Established, 3, vec![open()]),
    ];
    for (state, subcode, messages) in cases {
        for message in messages {
            let mut session = session(state);
            let outputs = session.handle(Input::Received(Way::Outgoing, message), NOW);
            let ended = outputs.iter().find_map(|output| match output {
                Output::Ended(_, Reason::Sent(said)) => Some((said.code, said.subcode)),
                _ => None,
            });
            assert_eq!(ended, Some((5, subcode)), "{state:?}");
            assert!(outputs.contains(&Output::Close(Way::Outgoing)));
            assert_eq!(outputs.contains(&Output::Down), state == State::Established);
            assert_eq!(session.state(), State::Idle);
        }
    }
}
