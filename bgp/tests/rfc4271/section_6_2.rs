//! OPEN message errors.

use crate::pair::{Pair, config};
use crate::raw::{decode, message, open_body, refusal};
use std::time::Duration;

fn with(at: usize, octets: &[u8]) -> Vec<u8> {
    let mut body = open_body(&[]);
    body[at..at + octets.len()].copy_from_slice(octets);
    message(1, &body)
}

#[test]
fn another_version_is_answered_with_ours() {
    let answer = decode(&with(0, &[3])).unwrap_err();
    assert_eq!((answer.code, answer.subcode, answer.data), (2, 1, vec![0, 4]));
}

#[test]
fn as_zero_is_a_bad_peer_as() {
    assert_eq!(refusal(&with(1, &[0, 0])), (2, 2));
    let capability = [2, 6, 65, 4, 0, 0, 0, 0];
    assert_eq!(refusal(&message(1, &open_body(&capability))), (2, 2));
}

#[test]
fn an_identifier_that_no_host_has_is_bad() {
    for identifier in [[0, 0, 0, 0], [224, 0, 0, 5], [255, 255, 255, 255]] {
        assert_eq!(refusal(&with(5, &identifier)), (2, 3));
    }
}

#[test]
fn a_hold_time_of_one_or_two_seconds_is_unacceptable() {
    assert_eq!(refusal(&with(3, &[0, 1])), (2, 6));
    assert_eq!(refusal(&with(3, &[0, 2])), (2, 6));
    assert!(decode(&with(3, &[0, 3])).is_ok());
    assert!(decode(&with(3, &[0, 0])).is_ok());
}

#[test]
fn a_parameter_that_is_no_capability_is_unsupported() {
    assert_eq!(refusal(&message(1, &open_body(&[1, 1, 0]))), (2, 4));
}

#[test]
fn malformed_parameters_are_unspecific() {
    let cases: [&[u8]; 5] =
        [&[2], &[2, 9, 0], &[2, 1, 65], &[2, 3, 65, 9, 0], &[2, 5, 65, 3, 0, 0, 1]];
    for parameters in cases {
        assert_eq!(refusal(&message(1, &open_body(parameters))), (2, 0), "{parameters:?}");
    }
    let mut short = open_body(&[]);
    *short.last_mut().unwrap() = 7;
    assert_eq!(refusal(&message(1, &short)), (2, 0));
}

#[test]
fn a_peer_of_another_as_than_configured_is_refused_and_kept_out_for_a_while() {
    let mut stranger = config(2);
    stranger.local_as = 64_999;
    let mut pair = Pair::new(config(1), stranger);
    pair.start();
    pair.run(Duration::from_secs(3600));
    assert_eq!(pair.ever_established(), 0);
    assert!(pair.heard(1).iter().any(|said| (said.code, said.subcode) == (2, 2)));
    // Waits double up to two minutes, so an hour holds some forty attempts of each side.
    assert!(pair.connects() < 200, "{} connections in an hour", pair.connects());
}

#[test]
fn within_an_as_a_peer_with_our_identifier_is_refused() {
    let (mut one, mut two) = (config(1), config(1));
    for side in [&mut one, &mut two] {
        (side.local_as, side.remote_as) = (64_512, 64_512);
    }
    let mut pair = Pair::new(one, two);
    pair.start();
    pair.run(Duration::from_secs(60));
    assert_eq!(pair.ever_established(), 0);
    // Each side refuses the other's OPEN, and has closed before it could hear that.
    for side in 0..2 {
        assert!(pair.said(side).iter().any(|said| (said.code, said.subcode) == (2, 3)));
    }
}
