//! The way of a flow's packets is remembered until it changes, and not a packet longer.

use std::thread::sleep;
use std::time::{Duration, Instant};

use haflinger_xdp::program::types;

use crate::network::{BACK, BACKEND_ROUTER, Outcome, Side, run};
use crate::packets::{Ends, Hop, TCP, UDP};
use crate::world::{Size, WAYS_ARE_REMEMBERED, World, in_a_world};
use crate::{DROP, FAMILIES, Family, Flags, REDIRECT, TX, handshake, segment, send};

/// A second router towards the backends, on the same link.
const OTHER: [u8; 6] = [2, 0, 0, 0, 0, 0xb2];

/// The way to a family's backends, in the words of `ip`.
#[derive(Clone, Copy)]
struct Words {
    family: &'static str,
    prefix: &'static str,
    longer: &'static str,
    router: &'static str,
    other: &'static str,
}

impl Words {
    fn of(family: Family) -> Self {
        if family.source.contains(':') {
            Self {
                family: "-6",
                prefix: "fd00:1::/48",
                longer: "fd00:1::/64",
                router: "fd00:f::fe",
                other: "fd00:f::fd",
            }
        } else {
            Self {
                family: "-4",
                prefix: "10.1.0.0/16",
                longer: "10.1.0.0/24",
                router: "10.0.0.254",
                other: "10.0.0.253",
            }
        }
    }

    /// Runs `ip` with the placeholders of a line filled in, for each of its lines.
    fn ip(self, lines: &str) {
        for line in lines.split(';') {
            let line = line
                .trim()
                .replace("PREFIX", self.prefix)
                .replace("LONGER", self.longer)
                .replace("ROUTER", self.router)
                .replace("OTHER", self.other);
            // A group of next hops is of no family, and each of them says its own.
            let family = if line.starts_with("nexthop") { "" } else { self.family };
            run("ip", &format!("{family} {line}"));
        }
    }
}

/// Sends packets of a flow until one of them is not asked for. Other tests change neighbours too,
/// and a second may end.
fn until_remembered(world: &World, client: Ends) {
    for _ in 0..if *WAYS_ARE_REMEMBERED { 1000 } else { 2 } {
        let before = world.routes_asked();
        send(world, Side::Client, TCP, client, Flags::Ack);
        if world.routes_asked() == before {
            return;
        }
    }
    assert!(!*WAYS_ARE_REMEMBERED, "every packet is asked for");
}

/// A flow whose way to the backends is remembered, with a second router beside its own.
fn remembered(world: &mut World, family: Family) -> (Words, Ends) {
    let words = Words::of(family);
    words.ip("neigh replace OTHER lladdr 02:00:00:00:00:b2 dev back");
    family.serve(world, TCP, 1);
    handshake(world, family.ends());
    until_remembered(world, family.ends());
    (words, family.ends())
}

/// The router that the next packet is sent to, and whether it is sent.
fn next(world: &World, client: Ends) -> (u32, Vec<u8>) {
    let Outcome { verdict, frame, .. } = send(world, Side::Client, TCP, client, Flags::Ack);
    (verdict, frame[..6].to_vec())
}

#[test]
fn the_kernel_is_not_asked_for_every_packet() {
    in_a_world(Size::SMALL, |world| {
        for family in FAMILIES {
            family.serve(world, TCP, 1);
            let client = family.ends();
            handshake(world, client);
            let before = world.routes_asked();
            let mut frames: Vec<_> =
                (0..64).map(|_| send(world, Side::Client, TCP, client, Flags::Ack).frame).collect();
            let asked = world.routes_asked() - before;
            if *WAYS_ARE_REMEMBERED {
                assert!(asked < 64, "{asked}");
            } else {
                assert_eq!(asked, 64);
            }
            frames.dedup();
            assert_eq!(frames.len(), 1, "asked for or not, packets leave alike");
        }
    });
}

#[test]
fn the_way_of_the_outer_packet_is_remembered_and_followed_alike() {
    in_a_world(Size::SMALL, |world| {
        for family in FAMILIES {
            let words = Words::of(family);
            words.ip("neigh replace OTHER lladdr 02:00:00:00:00:b2 dev back");
            let mut wish = family.wish(TCP, 1);
            wish.service.mode = u8::try_from(types::mode::MODE_DSR.0).unwrap();
            world.serve(&wish, (0, 0));
            let client = family.ends();
            assert_eq!(send(world, Side::Client, TCP, client, Flags::Syn).verdict, REDIRECT);
            until_remembered(world, client);
            assert_eq!(next(world, client), (REDIRECT, BACKEND_ROUTER.to_vec()));
            words.ip("route replace PREFIX via OTHER");
            assert_eq!(next(world, client), (REDIRECT, OTHER.to_vec()));
        }
    });
}

#[test]
fn where_nobody_counts_changes_every_packet_is_asked_for() {
    in_a_world(Size::SMALL, |world| {
        world.look_away();
        for family in FAMILIES {
            family.serve(world, TCP, 1);
            handshake(world, family.ends());
            let before = world.routes_asked();
            for _ in 0..64 {
                send(world, Side::Client, TCP, family.ends(), Flags::Ack);
            }
            assert_eq!(world.routes_asked() - before, 64);
        }
    });
}

/// Lines of `ip` after each of which the next packet goes to the router that is named.
fn changes_take_effect(cases: &'static [(&'static str, [u8; 6])]) {
    in_a_world(Size::SMALL, move |world| {
        for family in FAMILIES {
            let (words, client) = remembered(world, family);
            for (line, router) in cases {
                words.ip(line);
                let expected = (REDIRECT, router.to_vec());
                assert_eq!(next(world, client), expected, "{} {line}", words.family);
                until_remembered(world, client);
                assert_eq!(next(world, client), expected, "{} {line}", words.family);
            }
        }
    });
}

#[test]
fn the_packet_after_a_changed_route_goes_by_the_new_one() {
    changes_take_effect(&[
        ("route replace PREFIX via OTHER", OTHER),
        ("route replace PREFIX via ROUTER", BACKEND_ROUTER),
        ("route add LONGER via OTHER", OTHER),
        ("route del LONGER", BACKEND_ROUTER),
    ]);
}

#[test]
fn the_packet_after_a_changed_rule_follows_it() {
    changes_take_effect(&[
        ("route add PREFIX via OTHER table 100;rule add to PREFIX lookup 100", OTHER),
        ("rule del to PREFIX lookup 100", BACKEND_ROUTER),
        ("rule add iif front lookup 100", OTHER),
        ("route flush table 100", BACKEND_ROUTER),
    ]);
}

#[test]
fn the_packet_after_a_changed_next_hop_goes_to_the_new_one() {
    changes_take_effect(&[
        ("nexthop add id 7 via ROUTER dev back;route replace PREFIX nhid 7", BACKEND_ROUTER),
        ("nexthop replace id 7 via OTHER dev back", OTHER),
        (
            "nexthop add id 8 via ROUTER dev back;nexthop add id 9 group 7;route replace PREFIX nhid 9",
            OTHER,
        ),
        ("nexthop replace id 9 group 8", BACKEND_ROUTER),
        ("nexthop replace id 8 via OTHER dev back", OTHER),
        ("route replace PREFIX via ROUTER;nexthop flush", BACKEND_ROUTER),
    ]);
}

#[test]
fn the_packet_after_a_next_hop_left_its_group_goes_to_another_member() {
    in_a_world(Size::SMALL, |world| {
        for family in FAMILIES {
            let (words, client) = remembered(world, family);
            words.ip("nexthop add id 7 via ROUTER dev back;nexthop add id 8 via OTHER dev back;\
                 nexthop add id 9 group 7/8;route replace PREFIX nhid 9");
            until_remembered(world, client);
            let used = next(world, client).1;
            let (id, left) = if used == OTHER { (8, BACKEND_ROUTER) } else { (7, OTHER) };
            words.ip(&format!("nexthop del id {id}"));
            assert_eq!(next(world, client), (REDIRECT, left.to_vec()));
            words.ip("route replace PREFIX via ROUTER;nexthop flush");
        }
    });
}

#[test]
fn the_packet_after_a_changed_neighbour_goes_to_its_new_address() {
    changes_take_effect(&[
        ("neigh replace ROUTER lladdr 02:00:00:00:00:b2 dev back", OTHER),
        ("neigh replace ROUTER lladdr 02:00:00:00:00:b1 dev back nud stale", BACKEND_ROUTER),
        ("neigh replace ROUTER lladdr 02:00:00:00:00:b2 dev back nud reachable", OTHER),
        ("neigh replace ROUTER lladdr 02:00:00:00:00:b1 dev back", BACKEND_ROUTER),
    ]);
}

#[test]
fn a_neighbour_that_is_confirmed_or_doubted_is_the_same_neighbour() {
    in_a_world(Size::SMALL, |world| {
        for family in FAMILIES {
            let (words, client) = remembered(world, family);
            // Twice, since the first that is heard of a neighbour counts.
            let known = "neigh replace ROUTER lladdr 02:00:00:00:00:b1 dev back nud";
            words.ip(&format!("{known} stale;{known} reachable"));
            // Others may change neighbours, but not every time.
            let kept = (0..if *WAYS_ARE_REMEMBERED { 200 } else { 2 }).any(|_| {
                until_remembered(world, client);
                let before = world.routes_asked();
                words.ip(&format!("{known} stale;{known} reachable"));
                next(world, client);
                world.routes_asked() == before
            });
            assert_eq!(kept, *WAYS_ARE_REMEMBERED);
        }
    });
}

#[test]
fn the_packet_after_a_neighbour_was_lost_is_handed_to_the_daemon() {
    in_a_world(Size::SMALL, |world| {
        for family in FAMILIES {
            let (words, client) = remembered(world, family);
            for lost in [
                "neigh del ROUTER dev back",
                "neigh replace ROUTER dev back nud failed",
                "neigh flush dev back nud permanent",
            ] {
                until_remembered(world, client);
                words.ip(lost);
                let outcome = send(world, Side::Client, TCP, client, Flags::Ack);
                assert_eq!((outcome.verdict, outcome.reason), (DROP, "DEFER_FAILED"), "{lost}");
                words.ip("neigh replace ROUTER lladdr 02:00:00:00:00:b1 dev back nud permanent");
                assert_eq!(next(world, client), (REDIRECT, BACKEND_ROUTER.to_vec()), "{lost}");
            }
        }
    });
}

#[test]
fn the_packet_after_a_link_went_down_does_not_leave_by_it() {
    for family in FAMILIES {
        in_a_world(Size::SMALL, move |world| {
            let (words, client) = remembered(world, family);
            words.ip("link set back down");
            let outcome = send(world, Side::Client, TCP, client, Flags::Ack);
            assert_eq!((outcome.verdict, outcome.reason), (DROP, "DEFER_FAILED"));
            words.ip("link set back up");
            if words.family == "-6" {
                words.ip("addr replace fd00:f::1/64 dev back nodad");
            }
            words.ip("route replace PREFIX via ROUTER;\
                 neigh replace ROUTER lladdr 02:00:00:00:00:b1 dev back nud permanent");
            assert_eq!(next(world, client), (REDIRECT, BACKEND_ROUTER.to_vec()));
        });
    }
}

#[test]
fn the_packet_after_an_interface_changed_its_address_has_the_new_one() {
    for family in FAMILIES {
        in_a_world(Size::SMALL, move |world| {
            let (words, client) = remembered(world, family);
            for address in [[2, 0, 0, 0, 0, 0x0d], BACK] {
                let text: Vec<_> = address.iter().map(|byte| format!("{byte:02x}")).collect();
                words.ip(&format!("link set back address {}", text.join(":")));
                // With its address the kernel forgets whom it knew there.
                assert_eq!(next(world, client).0, DROP);
                words.ip("neigh replace ROUTER lladdr 02:00:00:00:00:b1 dev back nud permanent");
                let outcome = send(world, Side::Client, TCP, client, Flags::Ack);
                assert_eq!(outcome.frame[6..12], address);
                until_remembered(world, client);
            }
        });
    }
}

#[test]
fn a_packet_that_the_remembered_way_is_too_small_for_is_asked_for() {
    in_a_world(Size::SMALL, |world| {
        for family in FAMILIES {
            let (_, client) = remembered(world, family);
            let packet = segment(TCP, client, Hop::default(), Flags::Ack, &[0x5a; 1420]);
            let before = world.routes_asked();
            let outcome = world.send(Side::Client, &Side::Client.entering(&packet));
            assert_eq!((outcome.verdict, outcome.reason), (TX, "TOO_BIG"));
            assert_eq!(world.routes_asked(), before + 1);
        }
    });
}

#[test]
fn a_smaller_interface_is_seen_with_the_next_packet_of_ipv4() {
    in_a_world(Size::SMALL, |world| {
        let (words, client) = remembered(world, FAMILIES[0]);
        let packet = segment(TCP, client, Hop::default(), Flags::Ack, &[0x5a; 1300]);
        let frame = Side::Client.entering(&packet);
        assert_eq!(world.send(Side::Client, &frame).verdict, REDIRECT);
        words.ip("link set back mtu 1280");
        let outcome = world.send(Side::Client, &frame);
        assert_eq!((outcome.verdict, outcome.reason), (TX, "TOO_BIG"));
    });
}

#[test]
fn what_no_number_tells_of_is_seen_with_the_next_second() {
    in_a_world(Size::SMALL, |world| {
        let (_, client) = remembered(world, FAMILIES[1]);
        run("sysctl", "-qw net.ipv6.conf.all.forwarding=0");
        let give_up = Instant::now() + Duration::from_secs(60);
        while send(world, Side::Client, TCP, client, Flags::Ack).verdict == REDIRECT {
            assert!(Instant::now() < give_up, "it is never asked for again");
            sleep(Duration::from_millis(20));
        }
    });
}

#[test]
fn packets_that_routes_tell_apart_are_asked_for_each() {
    in_a_world(Size::SMALL, |world| {
        let (words, client) = remembered(world, FAMILIES[0]);
        words.ip("route add PREFIX via OTHER table 100;rule add tos 0x10 lookup 100");
        let marked = Hop { traffic_class: 0x10, ..Hop::default() };
        for _ in 0..16 {
            for (hop, router) in [(Hop::default(), BACKEND_ROUTER), (marked, OTHER)] {
                let packet = segment(TCP, client, hop, Flags::Ack, b"payload");
                let outcome = world.send(Side::Client, &Side::Client.entering(&packet));
                assert_eq!(outcome.frame[..6], router);
            }
        }
    });
}

#[test]
fn a_record_that_another_flow_takes_over_keeps_nothing_of_the_first() {
    let size = Size { opening: 4, established: 1 };
    in_a_world(size, |world| {
        let family = FAMILIES[0];
        let words = Words::of(family);
        words.ip("neigh replace OTHER lladdr 02:00:00:00:00:b2 dev back");
        let (_, backends) = family.serve(world, UDP, 1);
        let first = family.client(1);
        for side in [Side::Client, Side::Backend] {
            let ends = if side == Side::Client {
                first
            } else {
                crate::sent(world, first, UDP).reversed()
            };
            assert_eq!(send(world, side, UDP, ends, Flags::Ack).verdict, REDIRECT);
        }
        for _ in 0..8 {
            let frame = send(world, Side::Client, UDP, first, Flags::Ack).frame;
            assert_eq!(frame[..6], BACKEND_ROUTER);
        }
        // The next flow has another backend, by another router, in the only record there is.
        world.sweep(7200);
        words.ip("route add 10.1.0.77/32 via OTHER");
        world.change_backend(backends[0], |backend| {
            backend.address = crate::network::address("10.1.0.77".parse().unwrap());
        });
        let second = family.client(2);
        for side in [Side::Client, Side::Backend] {
            let ends = if side == Side::Client {
                second
            } else {
                crate::sent(world, second, UDP).reversed()
            };
            assert_eq!(send(world, side, UDP, ends, Flags::Ack).verdict, REDIRECT);
        }
        for _ in 0..8 {
            let frame = send(world, Side::Client, UDP, second, Flags::Ack).frame;
            assert_eq!(frame[..6], OTHER);
        }
    });
}
