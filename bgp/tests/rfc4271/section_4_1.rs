//! Message header format: where a message ends.

use haflinger_bgp::wire::{Framing, MESSAGE_MAX, frame};

use crate::raw::message;

#[test]
fn a_message_is_found_once_its_last_octet_is_there() {
    let octets = message(4, &[]);
    for length in 0..octets.len() {
        assert_eq!(frame(&octets[..length]), Framing::NeedMore, "{length}");
    }
    assert_eq!(frame(&octets), Framing::Frame(19));
}

#[test]
fn what_follows_a_message_is_left_alone() {
    let mut octets = message(2, &[0, 0, 0, 0]);
    octets.extend([0; 7]);
    assert_eq!(frame(&octets), Framing::Frame(23));
}

#[test]
fn the_longest_message_is_4096_octets() {
    let longest = message(2, &vec![0; MESSAGE_MAX - 19]);
    assert_eq!(frame(&longest), Framing::Frame(4096));
    let longer = message(2, &vec![0; MESSAGE_MAX - 18]);
    assert!(matches!(frame(&longer[..18]), Framing::Malformed(_)));
}
