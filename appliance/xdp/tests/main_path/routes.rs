//! Which way a packet leaves is the kernel's to say.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use haflinger_xdp::program::types;
use libbpf_rs::PerfBufferBuilder;

use crate::network::{
    BACK, BACK_MTU, BACKEND_ROUTER, CLIENT_ROUTER, FRONT, Side, index_of, run, value_of,
};
use crate::packets::{Ends, Hop, TCP, UDP, frame};
use crate::world::{Size, World, in_a_world};
use crate::{
    DROP, FAMILIES, Family, Flags, PASS, REDIRECT, TX, handshake, hop_on, segment, send, sent,
};

/// What was handed to the daemon while `act` ran: headers, and frames.
fn deferred(world: &World, act: impl FnOnce()) -> Vec<(types::deferred, Vec<u8>)> {
    let seen = Rc::new(RefCell::new(Vec::new()));
    let heard = Rc::clone(&seen);
    let buffer = PerfBufferBuilder::new(&world.maps().deferrals)
        .sample_cb(move |_, bytes: &[u8]| {
            let header: types::deferred = value_of(bytes);
            let start = size_of::<types::deferred>();
            let end = start + usize::try_from(header.length).unwrap();
            heard.borrow_mut().push((header, bytes[start..end].to_vec()));
        })
        .pages(8)
        .build()
        .unwrap();
    act();
    buffer.consume().unwrap();
    let _ = buffer.poll(Duration::ZERO);
    drop(buffer);
    seen.take()
}

/// Deletes what the network knows of the way to the family's backends.
fn without_route(family: Family, instead: &str) {
    let (ip, prefix) =
        if family.source.contains(':') { ("-6", "fd00:1::/48") } else { ("-4", "10.1.0.0/16") };
    run("ip", &format!("{ip} route del {prefix}"));
    if !instead.is_empty() {
        run("ip", &format!("{ip} route add {} {prefix}{}", first(instead), rest(instead)));
    }
}

fn first(words: &str) -> &str {
    words.split_once('|').map_or(words, |(first, _)| first)
}

fn rest(words: &str) -> &str {
    words.split_once('|').map_or("", |(_, rest)| rest)
}

fn restore(family: Family) {
    let (ip, prefix, router) = if family.source.contains(':') {
        ("-6", "fd00:1::/48", "fd00:f::fe")
    } else {
        ("-4", "10.1.0.0/16", "10.0.0.254")
    };
    run("ip", &format!("{ip} route replace {prefix} via {router}"));
}

#[test]
fn a_route_that_refuses_drops_the_packet_and_a_new_one_takes_effect_at_once() {
    in_a_world(Size::SMALL, |world| {
        for family in FAMILIES {
            family.serve(world, TCP, 1);
            let client = family.ends();
            handshake(world, client);
            for kind in ["blackhole", "unreachable", "prohibit"] {
                without_route(family, kind);
                let outcome = send(world, Side::Client, TCP, client, Flags::Ack);
                assert_eq!((outcome.verdict, outcome.reason), (DROP, "NO_ROUTE"), "{kind}");
                run(
                    "ip",
                    &format!(
                        "{} route del {kind} {}",
                        if family.source.contains(':') { "-6" } else { "-4" },
                        if family.source.contains(':') { "fd00:1::/48" } else { "10.1.0.0/16" }
                    ),
                );
                restore(family);
                assert_eq!(send(world, Side::Client, TCP, client, Flags::Ack).verdict, REDIRECT);
            }
        }
    });
}

#[test]
fn a_packet_without_a_neighbour_is_handed_to_the_daemon_as_it_would_have_left() {
    in_a_world(Size::SMALL, |world| {
        for family in FAMILIES {
            family.serve(world, TCP, 1);
            let client = family.ends();
            handshake(world, client);
            let router = if family.source.contains(':') { "fd00:f::fe" } else { "10.0.0.254" };
            run("ip", &format!("neigh del {router} dev back"));
            let packet = segment(TCP, client, Hop::default(), Flags::Ack, b"payload");
            let frame = Side::Client.entering(&packet);
            assert_eq!(world.send(Side::Client, &frame).reason, "DEFER_FAILED", "nobody listens");
            let seen = deferred(world, || {
                let outcome = world.send(Side::Client, &frame);
                assert_eq!((outcome.verdict, outcome.reason), (DROP, "DEFERRED"));
            });
            assert_eq!(seen.len(), 1);
            let (header, bytes) = &seen[0];
            let expected = segment(
                TCP,
                sent(world, client, TCP),
                hop_on(Hop::default()),
                Flags::Ack,
                b"payload",
            );
            assert_eq!(&bytes[usize::from(header.offset)..], expected);
            let protocol = if family.source.contains(':') { 0x86dd } else { 0x0800 };
            assert_eq!((header.protocol, header.offset), (protocol, 14));
        }
    });
}

#[test]
fn what_a_program_cannot_follow_is_handed_to_the_daemon() {
    in_a_world(Size::SMALL, |world| {
        for family in FAMILIES {
            family.serve(world, TCP, 1);
            let client = family.ends();
            handshake(world, client);
            without_route(family, "");
            let seen = deferred(world, || {
                let outcome = send(world, Side::Client, TCP, client, Flags::Ack);
                assert_eq!((outcome.verdict, outcome.reason), (DROP, "NOT_ROUTED"));
            });
            assert_eq!(seen.len(), 1, "no route");
            restore(family);
        }
        run("sysctl", "-qw net.ipv4.ip_forward=0");
        let seen = deferred(world, || {
            let outcome = send(world, Side::Client, TCP, FAMILIES[0].ends(), Flags::Ack);
            assert_eq!((outcome.verdict, outcome.reason), (DROP, "NOT_ROUTED"));
        });
        assert_eq!(seen.len(), 1, "forwarding is off");
    });
}

#[test]
fn a_packet_too_big_for_the_way_is_answered_or_left_to_be_cut() {
    in_a_world(Size::SMALL, |world| {
        for family in FAMILIES {
            family.serve(world, UDP, 1);
            let client = family.ends();
            send(world, Side::Client, UDP, client, Flags::Ack);
            let headers = if family.source.contains(':') { 48 } else { 28 };
            let most = usize::try_from(BACK_MTU).unwrap() - headers;
            for (length, fits) in [(most, true), (most + 1, false), (1472, false)] {
                let payload = vec![0x5a; length];
                let packet = segment(UDP, client, Hop::default(), Flags::Ack, &payload);
                let outcome = world.send(Side::Client, &Side::Client.entering(&packet));
                let expected = if fits { (REDIRECT, "FORWARDED") } else { (TX, "TOO_BIG") };
                assert_eq!((outcome.verdict, outcome.reason), expected, "{length}");
            }
        }
        let client = FAMILIES[0].ends();
        let hop = Hop { dont_fragment: false, ..Hop::default() };
        let packet = segment(UDP, client, hop, Flags::Ack, &[0x5a; 1472]);
        let seen = deferred(world, || {
            let outcome = world.send(Side::Client, &Side::Client.entering(&packet));
            assert_eq!((outcome.verdict, outcome.reason), (DROP, "DEFERRED"));
        });
        let expected =
            segment(UDP, sent(world, client, UDP), hop_on(hop), Flags::Ack, &[0x5a; 1472]);
        assert_eq!(&seen[0].1[14..], expected);
    });
}

#[test]
fn an_interface_that_cannot_transmit_is_not_redirected_to() {
    in_a_world(Size::SMALL, |world| {
        let family = FAMILIES[0];
        family.serve(world, TCP, 1);
        handshake(world, family.ends());
        let back = index_of("back");
        let mut silent: types::interface = world.element(&world.maps().interfaces, back);
        silent.transmits = 0;
        world.put(&world.maps().interfaces, &back, &silent);
        let outcome = send(world, Side::Client, TCP, family.ends(), Flags::Ack);
        assert_eq!((outcome.verdict, outcome.reason), (DROP, "UNTRANSMITTABLE"));
    });
}

#[test]
fn a_frame_to_another_host_is_left_alone() {
    in_a_world(Size::SMALL, |world| {
        let family = FAMILIES[0];
        family.serve(world, TCP, 1);
        handshake(world, family.ends());
        let front = index_of("front");
        let known: types::interface = world.element(&world.maps().interfaces, front);
        let packet = segment(TCP, family.ends(), Hop::default(), Flags::Ack, &[]);
        let frame = Side::Client.entering(&packet);
        let own: [u8; 6] = frame[..6].try_into().unwrap();
        for byte in 0..6 {
            let mut address = own;
            address[byte] ^= 1;
            let other = types::interface { address, ..known };
            world.put(&world.maps().interfaces, &front, &other);
            let outcome = world.send(Side::Client, &frame);
            assert_eq!((outcome.verdict, outcome.reason), (PASS, "NOT_OURS"), "{byte}");
            assert_eq!(outcome.frame, frame);
        }
        world.put(&world.maps().interfaces, &front, &types::interface { address: own, ..known });
        let outcome = world.send(Side::Client, &frame);
        assert_eq!((outcome.verdict, outcome.reason), (REDIRECT, "FORWARDED"));
    });
}

#[test]
fn tags_are_taken_off_and_put_on_as_the_way_out_has_them() {
    in_a_world(Size::SMALL, |world| {
        let (front, back) = (index_of("front"), index_of("back"));
        for family in FAMILIES {
            family.serve(world, TCP, 1);
            let client = family.ends();
            handshake(world, client);
            let packet = segment(TCP, client, Hop::default(), Flags::Ack, b"tagged");
            let expected = segment(
                TCP,
                sent(world, client, TCP),
                hop_on(Hop::default()),
                Flags::Ack,
                b"tagged",
            );
            let inner = [0x81, 0x00, 0x00, 0x07];
            let outer = [0x88, 0xa8, 0x00, 0x09];
            for came in [&[][..], &[inner], &[outer, inner]] {
                for (vlan, leaves) in [
                    (None, &[][..]),
                    (Some((0x8100, 0x007)), &[inner]),
                    (Some((0x88a8, 9)), &[outer]),
                ] {
                    world.interface(back, front, BACK_MTU, vlan);
                    let outcome =
                        world.send(Side::Client, &frame(FRONT, CLIENT_ROUTER, came, &packet));
                    assert_eq!(outcome.verdict, REDIRECT);
                    let expected = frame(BACKEND_ROUTER, BACK, leaves, &expected);
                    assert_eq!(outcome.frame, expected, "{came:?} {leaves:?}");
                }
            }
            world.interface(back, back, BACK_MTU, None);
        }
    });
}

#[test]
fn a_packet_at_its_last_hop_is_answered_and_changes_nothing() {
    in_a_world(Size::SMALL, |world| {
        for family in FAMILIES {
            family.serve(world, TCP, 1);
            let client = family.ends();
            for flags in [Flags::Syn, Flags::Fin] {
                let before = world.state();
                for ttl in [0, 1] {
                    let hop = Hop { ttl, ..Hop::default() };
                    let packet = segment(TCP, client, hop, flags, b"");
                    let outcome = world.send(Side::Client, &Side::Client.entering(&packet));
                    assert_eq!((outcome.verdict, outcome.reason), (TX, "TTL_EXCEEDED"));
                }
                assert_eq!(world.state(), before);
                if flags == Flags::Syn {
                    handshake(world, client);
                }
            }
            let hop = Hop { ttl: 2, ..Hop::default() };
            let packet = segment(TCP, client, hop, Flags::Ack, b"");
            let outcome = world.send(Side::Client, &Side::Client.entering(&packet));
            let expected = segment(TCP, sent(world, client, TCP), hop_on(hop), Flags::Ack, b"");
            assert_eq!(outcome.frame, Side::Backend.leaving(&expected));
        }
    });
}

#[test]
fn flows_are_spread_over_the_paths_of_a_route_and_each_keeps_its_own() {
    const OTHER: [u8; 6] = [2, 0, 0, 0, 0, 0xb2];
    in_a_world(Size::SMALL, |world| {
        run(
            "sysctl",
            "-qw net.ipv4.fib_multipath_hash_policy=1 net.ipv6.fib_multipath_hash_policy=1",
        );
        run("ip", "neigh add 10.0.0.253 lladdr 02:00:00:00:00:b2 dev back");
        run("ip", "neigh add fd00:f::fd lladdr 02:00:00:00:00:b2 dev back");
        run("ip", "route replace 10.1.0.0/16 nexthop via 10.0.0.254 nexthop via 10.0.0.253");
        run("ip", "-6 route del fd00:1::/48");
        run("ip", "-6 route add fd00:1::/48 nexthop via fd00:f::fe nexthop via fd00:f::fd");
        for family in FAMILIES {
            family.serve(world, TCP, 1);
            let mut used = BTreeSet::new();
            for port in 1..=20 {
                let client: Ends = family.client(port);
                handshake(world, client);
                let routers: BTreeSet<Vec<u8>> = (0..3)
                    .map(|_| send(world, Side::Client, TCP, client, Flags::Ack).frame[..6].to_vec())
                    .collect();
                assert_eq!(routers.len(), 1, "{client:?}");
                used.extend(routers);
            }
            assert_eq!(used, BTreeSet::from([BACKEND_ROUTER.to_vec(), OTHER.to_vec()]));
        }
    });
}
