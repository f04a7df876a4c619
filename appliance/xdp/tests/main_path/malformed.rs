//! Truncated, lying and looping packets: never forwarded, never of any effect.

use crate::network::{CLIENT_ROUTER, FRONT, Side};
use crate::packets::{Hop, TCP, UDP, frame};
use crate::world::{Size, World, in_a_world};
use crate::{DROP, FAMILIES, Family, Flags, PASS, REDIRECT, segment};

const TAGS: [&[[u8; 4]]; 3] =
    [&[], &[[0x81, 0x00, 0x00, 0x05]], &[[0x88, 0xa8, 0x00, 0x09], [0x81, 0x00, 0x00, 0x05]]];

/// Nothing of it may leave, and it may change nothing.
fn has_no_effect(world: &World, frame: &[u8], reasons: &[&str], what: &str) {
    let before = world.state();
    let outcome = world.send(Side::Client, frame);
    assert!(reasons.contains(&outcome.reason), "{what}: {}", outcome.reason);
    assert!(outcome.verdict == PASS || outcome.verdict == DROP, "{what}: {}", outcome.verdict);
    assert_eq!(outcome.frame, frame, "{what}");
    assert_eq!(world.state(), before, "{what}");
}

fn syn(family: Family, protocol: u8) -> Vec<u8> {
    segment(protocol, family.ends(), Hop::default(), Flags::Syn, b"payload")
}

#[test]
fn a_frame_cut_anywhere_has_no_effect() {
    in_a_world(Size::SMALL, |world| {
        for family in FAMILIES {
            for protocol in [TCP, UDP] {
                family.serve(world, protocol, 1);
                for tags in TAGS {
                    let whole = frame(FRONT, CLIENT_ROUTER, tags, &syn(family, protocol));
                    for length in 14..whole.len() {
                        let what = format!("{family:?} {protocol} {tags:?} {length}");
                        has_no_effect(world, &whole[..length], &["MALFORMED"], &what);
                    }
                }
            }
        }
    });
}

/// A change of bytes behind the Ethernet header, and why the packet is not forwarded then.
type Lie = (&'static str, &'static str, &'static [(usize, u8)]);

const LIES_V4: [Lie; 6] = [
    ("version", "MALFORMED", &[(0, 0x65)]),
    ("header of four words", "MALFORMED", &[(0, 0x44)]),
    ("header past the end", "MALFORMED", &[(0, 0x4f)]),
    ("length past the frame", "MALFORMED", &[(2, 0x05)]),
    ("length within the header", "MALFORMED", &[(2, 0), (3, 19)]),
    ("protocol of no transport", "NOT_UNDERSTOOD", &[(9, 50)]),
];

const LIES_V6: [Lie; 5] = [
    ("version", "MALFORMED", &[(0, 0x45)]),
    ("length past the frame", "MALFORMED", &[(4, 0x05)]),
    ("nothing inside", "NOT_UNDERSTOOD", &[(4, 0), (5, 0)]),
    ("within the transport", "MALFORMED", &[(4, 0), (5, 7)]),
    ("authenticated", "NOT_UNDERSTOOD", &[(6, 51)]),
];

#[test]
fn a_header_that_lies_about_lengths_has_no_effect() {
    in_a_world(Size::SMALL, |world| {
        for (family, lies) in FAMILIES.into_iter().zip([&LIES_V4[..], &LIES_V6]) {
            for protocol in [TCP, UDP] {
                family.serve(world, protocol, 1);
                for (what, reason, changes) in lies {
                    let mut frame = Side::Client.entering(&syn(family, protocol));
                    for &(offset, byte) in *changes {
                        frame[14 + offset] = byte;
                    }
                    has_no_effect(world, &frame, &[reason], what);
                }
            }
        }
    });
}

#[test]
fn a_transport_that_lies_about_its_length_has_no_effect() {
    in_a_world(Size::SMALL, |world| {
        for family in FAMILIES {
            let transport = if family.source.contains(':') { 40 } else { 20 };
            family.serve(world, TCP, 1);
            family.serve(world, UDP, 1);
            for words in [0, 4, 7, 15] {
                let mut packet = syn(family, TCP);
                packet[transport + 12] = words << 4;
                let what = format!("a TCP header of {words} words");
                has_no_effect(world, &Side::Client.entering(&packet), &["MALFORMED"], &what);
            }
            for length in [0, 7, 16, 0xffff] {
                let mut packet = syn(family, UDP);
                packet[transport + 4..transport + 6].copy_from_slice(&u16::to_be_bytes(length));
                let what = format!("a datagram of {length} bytes");
                has_no_effect(world, &Side::Client.entering(&packet), &["MALFORMED"], &what);
            }
        }
    });
}

/// A packet with a chain of extension headers, each of eight bytes, before its transport.
fn chained(family: Family, kinds: &[u8]) -> Vec<u8> {
    let plain = syn(family, TCP);
    let mut packet = plain[..40].to_vec();
    let mut next = 6;
    let mut chain = Vec::new();
    for &kind in kinds.iter().rev() {
        chain.splice(0..0, [next, 0, 0, 0, 0, 0, 0, 0]);
        next = kind;
    }
    packet[6] = next;
    let length = u16::try_from(plain.len() - 40 + chain.len()).unwrap();
    packet[4..6].copy_from_slice(&length.to_be_bytes());
    packet.extend(chain);
    packet.extend(&plain[40..]);
    packet
}

#[test]
fn a_chain_of_extension_headers_is_followed_within_its_bound() {
    in_a_world(Size::SMALL, |world| {
        let family = FAMILIES[1];
        family.serve(world, TCP, 1);
        for kind in [0, 43, 60] {
            for count in 1..=6 {
                let packet = chained(family, &vec![kind; count]);
                let outcome = world.send(Side::Client, &Side::Client.entering(&packet));
                assert_eq!(outcome.verdict, REDIRECT, "{count} of {kind}");
            }
            let packet = chained(family, &[kind; 7]);
            has_no_effect(world, &Side::Client.entering(&packet), &["NOT_UNDERSTOOD"], "seven");
        }
        // A chain that ends nowhere, one longer than the frame, one that is not at its destination.
        let mut packet = chained(family, &[0]);
        packet[40] = 59;
        has_no_effect(world, &Side::Client.entering(&packet), &["NOT_UNDERSTOOD"], "no next");
        let mut packet = chained(family, &[60]);
        packet[41] = 200;
        has_no_effect(world, &Side::Client.entering(&packet), &["MALFORMED"], "too long");
        let mut packet = chained(family, &[43]);
        packet[43] = 1;
        has_no_effect(world, &Side::Client.entering(&packet), &["NOT_UNDERSTOOD"], "on its way");
    });
}

#[test]
fn a_packet_with_an_impossible_set_of_flags_opens_nothing() {
    in_a_world(Size::SMALL, |world| {
        for family in FAMILIES {
            family.serve(world, TCP, 1);
            let transport = if family.source.contains(':') { 40 } else { 20 };
            for flags in [0x00, 0x03, 0x06, 0x07, 0x29, 0x3f, 0x12, 0x10] {
                let mut packet = syn(family, TCP);
                packet[transport + 13] = flags;
                let before = world.state();
                let outcome = world.send(Side::Client, &Side::Client.entering(&packet));
                assert!(["RESET", "RESET_UNKNOWN"].contains(&outcome.reason), "{}", outcome.reason);
                assert_eq!(world.state(), before, "{flags:#x}");
            }
        }
    });
}

#[test]
fn frames_of_other_protocols_pass_untouched() {
    in_a_world(Size::SMALL, |world| {
        for kind in [[0x08, 0x06], [0x88, 0xcc], [0x86, 0xdc], [0x00, 0x40]] {
            let mut frame = vec![0xa5; 64];
            frame[12..14].copy_from_slice(&kind);
            let outcome = world.send(Side::Client, &frame);
            assert_eq!((outcome.verdict, outcome.reason), (PASS, "NOT_IP"));
            assert_eq!(outcome.frame, frame);
        }
    });
}
