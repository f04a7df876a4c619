//! Random packets against the second implementation, and random damage.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use haflinger_xdp::program::types::mode as Mode;
use proptest::collection::vec;
use proptest::prelude::{Just, Strategy, any, prop_oneof};
use proptest::test_runner::{Config, TestRunner};

use crate::network::Side;
use crate::packets::{Ends, Hop, TCP, UDP, fragments, icmp};
use crate::world::in_a_world;
use crate::{Flow, PASS, REDIRECT, hop_on, segment};

fn runner() -> TestRunner {
    let cases = crate::network::cases();
    TestRunner::new(Config { cases, failure_persistence: None, ..Config::default() })
}

/// A flow of mode nat whose addresses are routed.
fn flow() -> impl Strategy<Value = Flow> {
    (any::<bool>(), any::<[u8; 8]>(), 1..=u16::MAX, 1..=u16::MAX, 1..=u16::MAX).prop_map(
        |(v4, octets, client, vip, backend)| {
            let [a, b, c, d, ..] = octets;
            let [client_ip, vip_ip, source_ip, backend_ip]: [IpAddr; 4] = if v4 {
                [
                    Ipv4Addr::new(198, 51, 100, a).into(),
                    Ipv4Addr::new(192, 0, 2, b | 128).into(),
                    Ipv4Addr::new(10, 0, 0, 1).into(),
                    Ipv4Addr::new(10, 1, c, d).into(),
                ]
            } else {
                let tail = u16::from_be_bytes([c, d]);
                [
                    Ipv6Addr::new(0x2001, 0xdb8, 0xc, 0, a.into(), b.into(), 0, tail).into(),
                    Ipv6Addr::new(0x2001, 0xdb8, 0x80, b.into(), 0, 0, 0, a.into()).into(),
                    Ipv6Addr::new(0xfd00, 0xf, 0, 0, 0, 0, 0, 1).into(),
                    Ipv6Addr::new(0xfd00, 1, 0, tail, 0, 0, b.into(), a.into()).into(),
                ]
            };
            Flow {
                client: Ends {
                    source: SocketAddr::new(client_ip, client),
                    destination: SocketAddr::new(vip_ip, vip),
                },
                sent: Ends {
                    source: SocketAddr::new(source_ip, client ^ 0x5555),
                    destination: SocketAddr::new(backend_ip, backend),
                },
            }
        },
    )
}

fn hop() -> impl Strategy<Value = Hop> {
    (2..=255_u8, any::<u8>(), any::<bool>(), any::<u16>(), 0..1_u32 << 20).prop_map(
        |(ttl, traffic_class, dont_fragment, identification, flow_label)| Hop {
            ttl,
            traffic_class,
            dont_fragment,
            identification,
            flow_label,
        },
    )
}

fn side() -> impl Strategy<Value = Side> {
    prop_oneof![Just(Side::Client), Just(Side::Backend)]
}

fn protocol() -> impl Strategy<Value = u8> {
    prop_oneof![Just(TCP), Just(UDP)]
}

#[test]
fn any_error_about_any_packet_is_translated_as_if_the_other_side_had_made_it() {
    in_a_world(|world| {
        let world = std::cell::RefCell::new(world);
        let input =
            (flow(), protocol(), side(), hop(), hop(), vec(any::<u8>(), 0..200), 0..300_usize);
        let test = |(flow, protocol, side, outer, inner, payload, cut): (
            Flow,
            u8,
            Side,
            Hop,
            Hop,
            Vec<u8>,
            usize,
        )| {
            let mut world = world.borrow_mut();
            world.flow(Mode::MODE_NAT, protocol, flow.client, flow.sent);
            let v4 = flow.client.source.is_ipv4();
            let (translated, quoted) = flow.direction(side == Side::Backend);
            let quote = segment(protocol, quoted, inner, &payload);
            let transport = if v4 { 20 } else { 40 };
            let cut = quote.len().min(cut.max(transport + 8));
            // Half a checksum is not translated: nobody can check it.
            let length = if protocol == TCP && cut == transport + 17 { cut + 1 } else { cut };
            let kind = if v4 { (3, 4, 1234) } else { (2, 0, 1300) };
            let packet =
                icmp(quoted.destination.ip(), quoted.source.ip(), outer, kind, &quote[..length]);
            let outcome = world.send(side, &side.entering(&packet));
            let expected = icmp(
                translated.destination.ip(),
                translated.source.ip(),
                hop_on(outer),
                kind,
                &segment(protocol, translated, inner, &payload)[..length],
            );
            assert_eq!(outcome.verdict, REDIRECT, "{}", outcome.reason);
            assert_eq!(outcome.frame, side.other().leaving(&expected));
            Ok(())
        };
        runner().run(&input, test).unwrap();
    });
}

#[test]
fn any_datagram_in_any_fragments_is_put_together_as_if_it_had_been_translated_whole() {
    in_a_world(|world| {
        let world = std::cell::RefCell::new(world);
        let input = (
            flow(),
            protocol(),
            side(),
            hop(),
            any::<u16>(),
            vec(any::<u8>(), 200..4000),
            3..160_usize,
        );
        let test = |(flow, protocol, side, hop, theirs, payload, eighths): (
            Flow,
            u8,
            Side,
            Hop,
            u16,
            Vec<u8>,
            usize,
        )| {
            let mut world = world.borrow_mut();
            world.flow(Mode::MODE_NAT, protocol, flow.client, flow.sent);
            let (original, translated) = flow.direction(side == Side::Client);
            let whole = segment(protocol, original, hop, &payload);
            let expected = segment(protocol, translated, hop_on(hop), &payload);
            let mut ours = None;
            for (index, part) in fragments(&whole, theirs.into(), eighths * 8).iter().enumerate() {
                let outcome = world.send(side, &side.entering(part));
                assert_eq!(outcome.verdict, REDIRECT, "{}", outcome.reason);
                let packet = &outcome.frame[14..];
                let ours = *ours.get_or_insert(if packet[0] >> 4 == 4 {
                    u16::from_be_bytes([packet[4], packet[5]]).into()
                } else {
                    u32::from_be_bytes(packet[44..48].try_into().unwrap())
                });
                let expected = &fragments(&expected, ours, eighths * 8)[index];
                assert_eq!(outcome.frame, side.other().leaving(expected));
            }
            Ok(())
        };
        runner().run(&input, test).unwrap();
    });
}

/// Family, protocol, side and shape of a packet.
type Which = (bool, u8, Side, u8);
/// Bytes, and what they become.
type Damage = Vec<(usize, u8)>;

#[test]
fn damage_is_dropped_or_passed_untouched_or_forwarded_but_never_more() {
    in_a_world(|world| {
        for mode in [Mode::MODE_NAT, Mode::MODE_DSR] {
            for flow in Flow::nat() {
                world.flow(mode, TCP, flow.client, flow.sent);
                world.flow(mode, UDP, flow.client, flow.sent);
            }
        }
        let world = &*world;
        let which = (any::<bool>(), protocol(), side(), 0..3_u8);
        let damage = vec((0..120_usize, any::<u8>()), 1..5);
        let test = |((v4, protocol, side, shape), damage, length): (Which, Damage, usize)| {
            let flow = Flow::nat()[usize::from(!v4)];
            let (original, _) = flow.direction(side == Side::Client);
            let (_, quoted) = flow.direction(side == Side::Backend);
            let hop = Hop { dont_fragment: false, ..Hop::default() };
            let packet = match shape {
                0 => segment(protocol, original, hop, &[7; 90]),
                1 => fragments(&segment(protocol, original, hop, &[7; 90]), 5, 48).remove(0),
                _ => icmp(
                    quoted.destination.ip(),
                    quoted.source.ip(),
                    hop,
                    if v4 { (3, 4, 1300) } else { (2, 0, 1300) },
                    &segment(protocol, quoted, hop, &[7; 30]),
                ),
            };
            let mut damaged = side.entering(&packet);
            damaged.truncate(length.max(14));
            for (at, value) in damage {
                if let Some(byte) = damaged.get_mut(at) {
                    *byte = value;
                }
            }
            let outcome = world.send(side, &damaged);
            assert!((1..=4).contains(&outcome.verdict), "{}", outcome.verdict);
            if outcome.verdict == PASS {
                assert_eq!(outcome.frame, damaged, "{}", outcome.reason);
            }
            assert_ne!(outcome.reason, "INTERNAL");
            Ok(())
        };
        runner().run(&(which, damage, 14..200_usize), test).unwrap();
    });
}
