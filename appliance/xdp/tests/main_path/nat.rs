//! Mode nat, and mode routed: what leaves is what came, with other ends, to the byte.

use haflinger_xdp::program::types::mode;

use crate::network::Side;
use crate::packets::{Hop, TCP, UDP};
use crate::world::{Size, in_a_world, small};
use crate::{FAMILIES, Flags, PASS, REDIRECT, handshake, hop_on, segment, send, sent};

const HOP: Hop = Hop {
    ttl: 60,
    traffic_class: 0x28,
    dont_fragment: true,
    identification: 7,
    flow_label: 0x12345,
};

#[test]
fn a_connection_is_opened_and_translated_in_both_directions() {
    in_a_world(Size::SMALL, |world| {
        for family in FAMILIES {
            family.serve(world, TCP, 1);
            let client = family.ends();
            for (flags, reason) in [(Flags::Syn, "FORWARDED_NEW"), (Flags::Ack, "FORWARDED")] {
                let packet = segment(TCP, client, HOP, flags, b"question");
                let outcome = world.send(Side::Client, &Side::Client.entering(&packet));
                assert_eq!((outcome.verdict, outcome.reason), (REDIRECT, reason), "{family:?}");
                let expected =
                    segment(TCP, sent(world, client, TCP), hop_on(HOP), flags, b"question");
                assert_eq!(outcome.frame, Side::Backend.leaving(&expected));
            }
            let backend = sent(world, client, TCP).reversed();
            assert_eq!(backend.source, family.backends[0].parse().unwrap());
            assert_eq!(
                backend.destination.ip(),
                family.source.parse::<std::net::IpAddr>().unwrap()
            );
            for flags in [Flags::SynAck, Flags::Ack, Flags::Fin] {
                let packet = segment(TCP, backend, HOP, flags, b"a longer answer");
                let outcome = world.send(Side::Backend, &Side::Backend.entering(&packet));
                assert_eq!((outcome.verdict, outcome.reason), (REDIRECT, "FORWARDED"));
                let expected =
                    segment(TCP, client.reversed(), hop_on(HOP), flags, b"a longer answer");
                assert_eq!(outcome.frame, Side::Client.leaving(&expected));
            }
        }
    });
}

#[test]
fn datagrams_are_translated_in_both_directions() {
    in_a_world(Size::SMALL, |world| {
        for family in FAMILIES {
            family.serve(world, UDP, 1);
            let client = family.ends();
            for reason in ["FORWARDED_NEW", "FORWARDED"] {
                let packet = segment(UDP, client, HOP, Flags::Ack, b"question");
                let outcome = world.send(Side::Client, &Side::Client.entering(&packet));
                assert_eq!((outcome.verdict, outcome.reason), (REDIRECT, reason), "{family:?}");
                let expected =
                    segment(UDP, sent(world, client, UDP), hop_on(HOP), Flags::Ack, b"question");
                assert_eq!(outcome.frame, Side::Backend.leaving(&expected));
            }
            let backend = sent(world, client, UDP).reversed();
            let packet = segment(UDP, backend, HOP, Flags::Ack, b"odd");
            let outcome = world.send(Side::Backend, &Side::Backend.entering(&packet));
            let expected = segment(UDP, client.reversed(), hop_on(HOP), Flags::Ack, b"odd");
            assert_eq!(outcome.frame, Side::Client.leaving(&expected));
        }
    });
}

#[test]
fn in_mode_routed_the_backend_sees_the_client() {
    in_a_world(Size::SMALL, |world| {
        for family in FAMILIES {
            let mut wish = family.wish(TCP, 1);
            wish.service.mode = small(mode::MODE_ROUTED.0);
            world.serve(&wish, (0, 0));
            let client = family.ends();
            let backend = handshake(world, client);
            assert_eq!(backend.destination, client.source);
            let packet = segment(TCP, backend, HOP, Flags::Ack, b"answer");
            let outcome = world.send(Side::Backend, &Side::Backend.entering(&packet));
            let expected = segment(TCP, client.reversed(), hop_on(HOP), Flags::Ack, b"answer");
            assert_eq!(outcome.frame, Side::Client.leaving(&expected));
        }
    });
}

#[test]
fn what_is_for_no_service_and_of_no_flow_passes_untouched() {
    in_a_world(Size::SMALL, |world| {
        for family in FAMILIES {
            family.serve(world, TCP, 1);
            let mut elsewhere = family.ends();
            elsewhere.destination.set_port(444);
            for protocol in [TCP, UDP] {
                for flags in [Flags::Syn, Flags::Ack, Flags::Rst] {
                    let frame = Side::Client.entering(&segment(
                        protocol,
                        elsewhere,
                        Hop { ttl: 1, ..HOP },
                        flags,
                        b"x",
                    ));
                    let outcome = world.send(Side::Client, &frame);
                    assert_eq!((outcome.verdict, outcome.reason), (PASS, "NOT_OURS"));
                    assert_eq!(outcome.frame, frame);
                }
            }
            assert_eq!(send(world, Side::Client, UDP, family.ends(), Flags::Ack).verdict, PASS);
        }
    });
}
