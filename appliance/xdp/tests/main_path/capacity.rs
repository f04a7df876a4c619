//! What happens at the limits: of ports, of records, of new flows a second.

use std::collections::HashSet;

use haflinger_xdp::program::types::{self, rate};
use libbpf_rs::MapCore as _;

use crate::network::Side;
use crate::packets::{Ends, Hop, TCP, UDP};
use crate::world::{Size, World, in_a_world, now};
use crate::{
    DROP, FAMILIES, Family, Flags, REDIRECT, handshake, handshake_rest, segment, send, sent,
};

/// The tuple of another client, of many.
pub(crate) fn numbered(family: Family, number: u32) -> Ends {
    let mut ends = family.client(1024 + u16::try_from(number % 50_000).unwrap());
    let host = u8::try_from(10 + number / 50_000).unwrap();
    let client = if family.source.contains(':') {
        format!("2001:db8:c::{host:x}")
    } else {
        format!("198.51.100.{host}")
    };
    ends.source.set_ip(client.parse().unwrap());
    ends
}

/// Every key leads to the record that leads to it, and connections are counted as they are. Returns
/// the live flows.
pub(crate) fn is_consistent(world: &World) -> Vec<types::flow> {
    let maps = world.maps();
    let records = maps.flows.keys();
    let live: Vec<types::flow> = records
        .map(|record| {
            let record = u32::from_ne_bytes(record.try_into().unwrap());
            world.element::<types::flow>(&maps.flows, record)
        })
        .filter(|flow| flow.state != types::record_state::RECORD_FREE.0)
        .collect();
    assert_eq!(maps.flow_index.keys().count(), 2 * live.len());
    for flow in &live {
        assert_eq!(flow.state, types::record_state::RECORD_LIVE.0);
        let reversed = types::flow_key {
            source: flow.backend,
            destination: flow.source,
            source_port: flow.backend_port,
            destination_port: flow.source_port,
            ..flow.client
        };
        for key in [flow.client, reversed] {
            let found = world.record_at(&key).expect("each of its keys leads to it");
            let found: types::flow = world.element(&maps.flows, found);
            assert_eq!(
                crate::network::bytes_of(&found.client),
                crate::network::bytes_of(&flow.client)
            );
        }
    }
    let load: types::service_load = world.element(&maps.service_loads, 1);
    assert_eq!(load.connections, u32::try_from(live.len()).unwrap());
    live
}

#[test]
fn no_two_of_thousands_of_flows_share_a_source() {
    const FLOWS: u32 = 3000;
    in_a_world(Size { opening: 8192, established: 16 }, |world| {
        let family = FAMILIES[0];
        let address = |host| format!("10.0.0.{host}").parse().unwrap();
        let sources = world.sources(&[(address(1), 20_000, 22_499), (address(2), 50_000, 52_499)]);
        let (service, _) = world.serve(&family.wish(UDP, 1), sources);
        world.change_service(service, |service| service.timeouts.opening = 3600);
        let mut seen = HashSet::new();
        for number in 0..FLOWS {
            let packet = segment(UDP, numbered(family, number), Hop::default(), Flags::Ack, b"x");
            let frame = Side::Client.entering(&packet);
            let (_, out) = (0..10)
                .map(|_| world.send_quickly(Side::Client, &frame))
                .find(|&(verdict, _)| verdict == REDIRECT)
                .expect("of so many free ports one is found at a later attempt");
            // Behind Ethernet: the source address, and the source port.
            assert!(seen.insert((out[26..30].to_vec(), out[34..36].to_vec())), "{number}");
        }
        assert_eq!(world.flow_counters().evicted, [0, 0]);
        is_consistent(world);
    });
}

#[test]
fn without_a_free_port_a_flow_is_refused_until_one_is_given_back() {
    in_a_world(Size::SMALL, |world| {
        for family in FAMILIES {
            let sources = world.sources(&[(family.source.parse().unwrap(), 30_000, 30_007)]);
            world.serve(&family.wish(TCP, 1), sources);
            let mut opened = HashSet::new();
            // Ports are drawn at random, so the last ones take a few attempts.
            for number in 0..200 {
                let client = numbered(family, number);
                let outcome = send(world, Side::Client, TCP, client, Flags::Syn);
                if outcome.verdict == REDIRECT {
                    let source = sent(world, client, TCP).source;
                    assert!((30_000..=30_007).contains(&source.port()));
                    assert!(opened.insert(source));
                } else {
                    assert_eq!((outcome.verdict, outcome.reason), (DROP, "SOURCES_EXHAUSTED"));
                }
            }
            assert_eq!(opened.len(), 8);
            world.sweep(3600);
            let outcome = send(world, Side::Client, TCP, numbered(family, 500), Flags::Syn);
            assert_eq!(outcome.reason, "FORWARDED_NEW");
            world.sweep(3600);
        }
    });
}

#[test]
fn two_backends_may_see_the_same_source() {
    in_a_world(Size::SMALL, |world| {
        let family = FAMILIES[0];
        let sources = world.sources(&[(family.source.parse().unwrap(), 30_000, 30_000)]);
        world.serve(&family.wish(TCP, 2), sources);
        let opened = (0..50)
            .filter(|&number| {
                let client = numbered(family, number);
                send(world, Side::Client, TCP, client, Flags::Syn).verdict == REDIRECT
            })
            .count();
        assert_eq!(opened, 2);
    });
}

#[test]
fn a_flood_of_syns_evicts_no_established_flow() {
    in_a_world(Size::SMALL, |world| {
        let family = FAMILIES[0];
        family.serve(world, TCP, 2);
        let kept: Vec<Ends> = (0..40).map(|number| numbered(family, number)).collect();
        let backends: Vec<Ends> = kept.iter().map(|&client| handshake(world, client)).collect();
        for number in 1000..2000 {
            let packet = segment(TCP, numbered(family, number), Hop::default(), Flags::Syn, &[]);
            let (verdict, _) = world.send_quickly(Side::Client, &Side::Client.entering(&packet));
            assert_eq!(verdict, REDIRECT);
        }
        for (&client, &backend) in kept.iter().zip(&backends) {
            assert_eq!(sent(world, client, TCP).reversed(), backend);
            assert_eq!(send(world, Side::Client, TCP, client, Flags::Ack).reason, "FORWARDED");
            assert_eq!(send(world, Side::Backend, TCP, backend, Flags::Ack).reason, "FORWARDED");
        }
        let counters = world.flow_counters();
        // A free record is not always found before another is evicted.
        let surplus = 1000 - u64::from(Size::SMALL.opening);
        assert!(counters.evicted[0] >= surplus && counters.evicted[0] < 1000, "{counters:?}");
        assert_eq!(counters.evicted[1], 0);
        is_consistent(world);
    });
}

/// Room for 16 flows in either region.
const TIGHT: Size = Size { opening: 16, established: 16 };

/// Sets back the clock of a flow.
fn touch(world: &World, client: Ends, ago: u32) {
    let record = world.record_of(client, TCP).unwrap();
    world.change(&world.maps().flows, record, |flow: &mut types::flow| {
        flow.touched = now().wrapping_sub(ago);
    });
}

/// Where a flow's record is.
fn is_promoted(world: &World, client: Ends) -> bool {
    world.record_of(client, TCP).unwrap() >= TIGHT.opening
}

/// Lets a flow try to leave the opening region as often as it takes.
fn until_promoted(world: &World, client: Ends) {
    for _ in 0..1000 {
        if is_promoted(world, client) {
            return;
        }
        touch(world, client, 1);
        assert_eq!(send(world, Side::Client, TCP, client, Flags::Ack).reason, "FORWARDED");
    }
    panic!("{client:?} finds no room");
}

/// Fills the established region. Records are looked for at random, so it takes some attempts.
fn filled(world: &World, family: Family) -> Vec<Ends> {
    let clients: Vec<Ends> =
        (0..TIGHT.established).map(|number| numbered(family, number)).collect();
    for &client in &clients {
        handshake(world, client);
        until_promoted(world, client);
    }
    clients
}

#[test]
fn a_flow_that_finds_no_room_among_the_established_stays_and_is_safe_where_it_is() {
    in_a_world(TIGHT, |world| {
        let family = FAMILIES[0];
        family.serve(world, TCP, 2);
        let established = filled(world, family);
        let mut staying = Vec::new();
        // One more than there is room for finds none; how many are found at random is no matter.
        for number in 100.. {
            let client = numbered(family, number);
            let outcome = send(world, Side::Client, TCP, client, Flags::Syn);
            if outcome.verdict == REDIRECT {
                handshake_rest(world, client);
                assert!(!is_promoted(world, client));
                staying.push(client);
            } else {
                assert_eq!((outcome.verdict, outcome.reason), (DROP, "FLOWS_FULL"));
            }
            if staying.len() == TIGHT.opening as usize {
                break;
            }
        }
        let outcome = send(world, Side::Client, TCP, numbered(family, 99), Flags::Syn);
        assert_eq!((outcome.verdict, outcome.reason), (DROP, "FLOWS_FULL"));
        assert_eq!(world.flow_counters().evicted, [0, 0]);
        assert!(world.flow_counters().stayed >= u64::from(TIGHT.opening));
        for &client in established.iter().chain(&staying) {
            let backend = sent(world, client, TCP).reversed();
            assert_eq!(send(world, Side::Client, TCP, client, Flags::Ack).reason, "FORWARDED");
            assert_eq!(send(world, Side::Backend, TCP, backend, Flags::Ack).reason, "FORWARDED");
        }
        is_consistent(world);
    });
}

#[test]
fn only_flows_that_have_been_idle_for_a_minute_make_room_among_the_established() {
    in_a_world(TIGHT, |world| {
        let family = FAMILIES[0];
        family.serve(world, TCP, 2);
        let clients = filled(world, family);
        touch(world, clients[3], 3000);
        touch(world, clients[5], 61);
        touch(world, clients[7], 50);
        for (number, promoted) in [(50, true), (51, true), (52, false)] {
            let client = numbered(family, number);
            handshake(world, client);
            if promoted {
                until_promoted(world, client);
            }
            assert_eq!(is_promoted(world, client), promoted);
        }
        assert_eq!(world.flow_counters().evicted, [0, 2]);
        for (index, &client) in clients.iter().enumerate() {
            let expected = if [3, 5].contains(&index) { "RESET" } else { "FORWARDED" };
            assert_eq!(send(world, Side::Client, TCP, client, Flags::Ack).reason, expected);
        }
        is_consistent(world);
    });
}

#[test]
fn a_flow_that_had_to_stay_is_promoted_when_there_is_room_again() {
    in_a_world(TIGHT, |world| {
        let family = FAMILIES[0];
        family.serve(world, TCP, 2);
        let clients = filled(world, family);
        let waiting = numbered(family, 70);
        handshake(world, waiting);
        assert!(!is_promoted(world, waiting));
        send(world, Side::Client, TCP, clients[0], Flags::Rst);
        until_promoted(world, waiting);
        is_consistent(world);
    });
}

#[test]
fn a_cpu_that_has_opened_enough_flows_refuses_more_and_forwards_the_rest() {
    in_a_world(Size::SMALL, |world| {
        let family = FAMILIES[0];
        family.serve(world, TCP, 1);
        let client = family.client(9);
        handshake(world, client);
        world.settings(|settings| settings.new_flows_rate = 3);
        let cpus = libbpf_rs::num_possible_cpus().unwrap();
        // Refilled in a time to come: no more is earned.
        world.put_per_cpu(&world.maps().rate, 0, &rate { refilled: u64::MAX, tokens: 2 });
        let outcomes: Vec<_> = (100..)
            .map(|port| send(world, Side::Client, TCP, family.client(port), Flags::Syn).reason)
            .take(2 * cpus + 1)
            .collect();
        assert!(outcomes[..2].iter().all(|&reason| reason == "FORWARDED_NEW"), "{outcomes:?}");
        assert!(outcomes.contains(&"FLOW_RATE"), "{outcomes:?}");
        assert_eq!(send(world, Side::Client, TCP, client, Flags::Ack).reason, "FORWARDED");
        world.put_per_cpu(&world.maps().rate, 0, &rate { refilled: 0, tokens: 0 });
        let outcome = send(world, Side::Client, TCP, family.client(99), Flags::Syn);
        assert_eq!(outcome.reason, "FORWARDED_NEW", "a second has filled it");
    });
}
