//! Fragments: the later ones follow their first, under a fresh identification.

use haflinger_xdp::program::types::{fragment, mode as Mode};
use libbpf_rs::{MapCore as _, MapFlags};

use crate::network::{Outcome, Side, bytes_of, value_of};
use crate::packets::{Ends, Hop, TCP, UDP, fragments};
use crate::world::{World, in_a_world};
use crate::{DROP, Flow, PASS, REDIRECT, hop_on, segment};

const HOP: Hop =
    Hop { ttl: 60, traffic_class: 0, dont_fragment: false, identification: 0, flow_label: 3 };
/// What the sender of the fragments calls their datagram.
const THEIRS: u32 = 0xbeef;
/// The payload of a fragment.
const PART: usize = 1200;

/// A datagram in three fragments, as its sender cuts it.
fn cut(protocol: u8, ends: Ends, hop: Hop, identification: u32) -> Vec<Vec<u8>> {
    let payload: Vec<u8> = (0_u8..=255).cycle().take(2900).collect();
    fragments(&segment(protocol, ends, hop, &payload), identification, PART)
}

/// The identification of a fragment that has left.
fn identification_of(outcome: &Outcome) -> u32 {
    let packet = &outcome.frame[14..];
    if packet[0] >> 4 == 4 {
        u32::from(u16::from_be_bytes([packet[4], packet[5]]))
    } else {
        u32::from_be_bytes(packet[44..48].try_into().unwrap())
    }
}

/// Sends the fragments and compares them with those of the translated datagram.
fn passes_translated(world: &World, protocol: u8, flow: Flow, side: Side, theirs: u32) -> u32 {
    let (original, translated) = flow.direction(side == Side::Client);
    let mut ours = None;
    for (index, part) in cut(protocol, original, HOP, theirs).iter().enumerate() {
        let outcome = world.send(side, &side.entering(part));
        let reason = if index == 0 { "FORWARDED" } else { "FRAGMENT" };
        assert_eq!((outcome.verdict, outcome.reason), (REDIRECT, reason), "{flow:?} {side:?}");
        let ours = *ours.get_or_insert(identification_of(&outcome));
        let expected = &cut(protocol, translated, hop_on(HOP), ours)[index];
        assert_eq!(outcome.frame, side.other().leaving(expected), "{flow:?} {side:?} {index}");
    }
    ours.unwrap()
}

#[test]
fn the_fragments_of_a_datagram_are_translated_alike_in_both_directions() {
    in_a_world(|world| {
        for mode in [Mode::MODE_NAT, Mode::MODE_ROUTED] {
            for flow in Flow::for_mode(mode) {
                for protocol in [UDP, TCP] {
                    world.flow(mode, protocol, flow.client, flow.sent);
                    passes_translated(world, protocol, flow, Side::Client, THEIRS);
                    passes_translated(world, protocol, flow, Side::Backend, THEIRS);
                }
            }
        }
    });
}

#[test]
fn two_clients_that_use_the_same_identification_get_different_ones() {
    in_a_world(|world| {
        for flow in Flow::nat() {
            let mut other = flow;
            other.client.source.set_port(40_001);
            let neighbour =
                if flow.client.source.is_ipv4() { "198.51.100.8" } else { "2001:db8:c::8" };
            other.client.source.set_ip(neighbour.parse().unwrap());
            other.sent.source.set_port(50_001);
            world.flow(Mode::MODE_NAT, UDP, flow.client, flow.sent);
            world.flow(Mode::MODE_NAT, UDP, other.client, other.sent);
            let one = passes_translated(world, UDP, flow, Side::Client, THEIRS);
            let two = passes_translated(world, UDP, other, Side::Client, THEIRS);
            assert_ne!(one, two);
        }
    });
}

#[test]
fn a_repeated_first_fragment_keeps_the_identification_of_its_datagram() {
    in_a_world(|world| {
        for flow in Flow::nat() {
            world.flow(Mode::MODE_NAT, UDP, flow.client, flow.sent);
            let first = &cut(UDP, flow.client, HOP, THEIRS)[0];
            let once = world.send(Side::Client, &Side::Client.entering(first));
            let again = world.send(Side::Client, &Side::Client.entering(first));
            assert_eq!(once.frame, again.frame);
        }
    });
}

#[test]
fn a_fragment_that_comes_before_its_first_passes_untouched() {
    in_a_world(|world| {
        for flow in Flow::nat() {
            world.flow(Mode::MODE_NAT, UDP, flow.client, flow.sent);
            let parts = cut(UDP, flow.client, HOP, THEIRS);
            let early = Side::Client.entering(&parts[1]);
            let outcome = world.send(Side::Client, &early);
            assert_eq!((outcome.verdict, outcome.reason), (PASS, "FRAGMENT_UNKNOWN"));
            assert_eq!(outcome.frame, early);
            world.send(Side::Client, &Side::Client.entering(&parts[0]));
            let outcome = world.send(Side::Client, &early);
            assert_eq!((outcome.verdict, outcome.reason), (REDIRECT, "FRAGMENT"));
        }
    });
}

/// Changes what is remembered of every datagram.
fn remember_otherwise(world: &World, change: impl Fn(&mut fragment)) {
    let map = &world.maps().fragments;
    let keys: Vec<_> = map.keys().collect();
    assert!(!keys.is_empty());
    for key in keys {
        let mut known = value_of(&map.lookup(&key, MapFlags::ANY).unwrap().unwrap());
        change(&mut known);
        map.update(&key, bytes_of(&known), MapFlags::ANY).unwrap();
    }
}

#[test]
fn what_was_remembered_too_long_ago_is_of_another_datagram() {
    in_a_world(|world| {
        for flow in Flow::nat() {
            world.flow(Mode::MODE_NAT, UDP, flow.client, flow.sent);
            let parts = cut(UDP, flow.client, HOP, THEIRS);
            let first = world.send(Side::Client, &Side::Client.entering(&parts[0]));
            remember_otherwise(world, |known| known.seen = known.seen.wrapping_sub(30));
            let outcome = world.send(Side::Client, &Side::Client.entering(&parts[1]));
            assert_eq!((outcome.verdict, outcome.reason), (PASS, "FRAGMENT_UNKNOWN"));
            let fresh = world.send(Side::Client, &Side::Client.entering(&parts[0]));
            assert_ne!(identification_of(&first), identification_of(&fresh));
        }
    });
}

#[test]
fn the_fragments_of_a_flow_that_has_ended_pass_untouched() {
    in_a_world(|world| {
        let flow = Flow::nat()[0];
        world.flow(Mode::MODE_NAT, UDP, flow.client, flow.sent);
        let parts = cut(UDP, flow.client, HOP, THEIRS);
        world.send(Side::Client, &Side::Client.entering(&parts[0]));
        // The tuple of another flow, which does not exist: as after the end of the first.
        remember_otherwise(world, |known| known.source_port = 1);
        let late = Side::Client.entering(&parts[1]);
        let outcome = world.send(Side::Client, &late);
        assert_eq!((outcome.verdict, outcome.reason), (PASS, "FRAGMENT_UNKNOWN"));
        assert_eq!(outcome.frame, late);
    });
}

#[test]
fn a_first_fragment_without_the_whole_transport_header_is_dropped() {
    in_a_world(|world| {
        for flow in Flow::nat() {
            for (protocol, most) in [(TCP, 8), (TCP, 16)] {
                world.flow(Mode::MODE_NAT, protocol, flow.client, flow.sent);
                let whole = segment(protocol, flow.client, HOP, &[1; 64]);
                let tiny = &fragments(&whole, THEIRS, most)[0];
                let outcome = world.send(Side::Client, &Side::Client.entering(tiny));
                assert_eq!((outcome.verdict, outcome.reason), (DROP, "MALFORMED"), "{most}");
            }
        }
    });
}

#[test]
fn a_later_fragment_that_would_overwrite_the_tcp_header_is_dropped() {
    in_a_world(|world| {
        for flow in Flow::nat() {
            world.flow(Mode::MODE_NAT, TCP, flow.client, flow.sent);
            let whole = segment(TCP, flow.client, HOP, &[1; 64]);
            let first = &fragments(&whole, THEIRS, 40)[0];
            world.send(Side::Client, &Side::Client.entering(first));
            for (index, expected) in [(1, DROP), (2, DROP), (3, REDIRECT)] {
                let later = &fragments(&whole, THEIRS, 8)[index];
                let outcome = world.send(Side::Client, &Side::Client.entering(later));
                assert_eq!(outcome.verdict, expected, "{index}: {}", outcome.reason);
            }
        }
    });
}

#[test]
fn a_fragment_past_the_largest_datagram_is_dropped() {
    in_a_world(|world| {
        for flow in Flow::nat() {
            world.flow(Mode::MODE_NAT, UDP, flow.client, flow.sent);
            let parts = cut(UDP, flow.client, HOP, THEIRS);
            world.send(Side::Client, &Side::Client.entering(&parts[0]));
            let mut far = parts[2].clone();
            if flow.client.source.is_ipv4() {
                far[6..8].copy_from_slice(&0x1fff_u16.to_be_bytes());
                far[10..12].fill(0);
                let sum = crate::packets::checksum(&far[..20]);
                far[10..12].copy_from_slice(&sum.to_be_bytes());
            } else {
                far[42..44].copy_from_slice(&0xfff8_u16.to_be_bytes());
            }
            let outcome = world.send(Side::Client, &Side::Client.entering(&far));
            assert_eq!((outcome.verdict, outcome.reason), (DROP, "MALFORMED"));
        }
    });
}

#[test]
fn a_fragment_of_no_flow_passes_untouched() {
    in_a_world(|world| {
        for flow in Flow::nat() {
            for part in cut(UDP, flow.client, HOP, THEIRS) {
                let entered = Side::Client.entering(&part);
                let outcome = world.send(Side::Client, &entered);
                assert_eq!(outcome.verdict, PASS, "{}", outcome.reason);
                assert_eq!(outcome.frame, entered);
            }
        }
    });
}
