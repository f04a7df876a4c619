//! Message header errors.

use haflinger_bgp::wire::{Framing, frame};

use crate::raw::{message, refusal};

#[test]
fn a_wrong_marker_is_not_synchronized_and_known_at_its_first_octet() {
    let mut octets = message(4, &[]);
    octets[0] = 0;
    assert_eq!(refusal(&octets), (1, 1));
    let Framing::Malformed(answer) = frame(&octets[..1]) else { panic!("not refused") };
    assert_eq!((answer.code, answer.subcode), (1, 1));
}

#[test]
fn an_impossible_length_is_refused_with_that_length_as_data() {
    for (kind, length) in [(4, 18u16), (4, 20), (2, 4097), (1, 28), (2, 22), (3, 20), (5, 22)] {
        let mut octets = message(kind, &[]);
        octets[16..18].copy_from_slice(&length.to_be_bytes());
        let Framing::Malformed(answer) = frame(&octets) else { panic!("{kind} {length}") };
        assert_eq!((answer.code, answer.subcode), (1, 2), "{kind} {length}");
        assert_eq!(answer.data, length.to_be_bytes());
    }
}

#[test]
fn an_unknown_type_is_refused_with_that_type_as_data() {
    for kind in [0, 6, 255] {
        let Framing::Malformed(answer) = frame(&message(kind, &[])) else { panic!("{kind}") };
        assert_eq!((answer.code, answer.subcode, answer.data), (1, 3, vec![kind]));
    }
}
