//! Round trips, and that no octets whatever break the decoder.

use haflinger_bgp::wire::{Framing, MESSAGE_MAX, Message, decode_message, encode_message, frame};
use proptest::prelude::*;

use crate::generate::{context, message};

/// A header in front of any body, so that bodies are reached.
fn framed(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut octets = vec![0xff; 16];
    octets.extend(u16::try_from(19 + body.len()).unwrap().to_be_bytes());
    octets.push(kind);
    octets.extend(body);
    octets
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn what_is_written_is_read_back((context, message) in message()) {
        let mut octets = vec![1, 2, 3];
        encode_message(&message, &context, &mut octets).unwrap();
        let octets = &octets[3..];
        prop_assert_eq!(frame(octets), Framing::Frame(octets.len()));
        prop_assert_eq!(decode_message(octets, &context), Ok(message));
    }

    #[test]
    fn any_octets_are_judged(octets in prop::collection::vec(any::<u8>(), 0..200), context in context()) {
        prop_assert!(decode_message(&octets, &context).is_err() || octets[0] == 0xff);
        if let Framing::Frame(length) = frame(&octets) {
            prop_assert!(length <= octets.len());
        }
    }

    #[test]
    fn any_body_is_judged(
        kind in 1u8..6,
        body in prop::collection::vec(any::<u8>(), 0..200),
        context in context(),
    ) {
        let octets = framed(kind, &body);
        if let Err(answer) = decode_message(&octets, &context) {
            prop_assert!((1..=3).contains(&answer.code), "{answer}");
            let mut reply = Vec::new();
            encode_message(&Message::Notification(answer), &context, &mut reply).unwrap();
            prop_assert!(reply.len() <= MESSAGE_MAX);
        }
    }

    #[test]
    fn good_messages_with_a_few_wrong_octets_are_judged(
        (context, message) in message(),
        wrong in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..5),
    ) {
        let mut octets = Vec::new();
        encode_message(&message, &context, &mut octets).unwrap();
        for (at, octet) in wrong {
            let at = at.index(octets.len());
            octets[at] = octet;
        }
        let _judged = decode_message(&octets, &context);
    }
}
