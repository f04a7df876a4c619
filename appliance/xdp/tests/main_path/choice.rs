//! Which backend a new flow is given.

use std::collections::BTreeMap;

use haflinger_core::Protocol;
use haflinger_core::flow::{FlowHashKey, client_hash, flow_hash};
use haflinger_xdp::program::types::{self, algorithm, backend_state};

use crate::network::Side;
use crate::packets::{Ends, TCP, UDP};
use crate::world::{Size, TABLE_BITS, World, in_a_world, now, small};
use crate::{DROP, FAMILIES, Family, Flags, REDIRECT, TX, send};

const KEY: FlowHashKey = FlowHashKey(*b"0123456789abcdef");
const ROOMY: Size = Size { opening: 4096, established: 64 };

/// Opens a flow and says to which backend.
fn chosen(world: &World, protocol: u8, client: Ends) -> u32 {
    let outcome = send(world, Side::Client, protocol, client, Flags::Syn);
    assert_eq!((outcome.verdict, outcome.reason), (REDIRECT, "FORWARDED_NEW"), "{client:?}");
    world.flow_of(client, protocol).unwrap().backend_id
}

/// The first hop of the bucket that the top bits of a hash name.
fn first_hop(world: &World, service: u32, hash: u64) -> u32 {
    let table = world.element::<types::service>(&world.maps().services, service).table;
    let position = table.first + u32::try_from(hash >> (64 - table.bits)).unwrap();
    world.element::<types::bucket>(&world.maps().buckets, position).first
}

fn protocol_of(number: u8) -> Protocol {
    if number == TCP { Protocol::Tcp } else { Protocol::Udp }
}

/// A service with backends of these weights and that algorithm.
fn weighted(world: &mut World, family: Family, by: algorithm, weights: &[u32]) -> (u32, Vec<u32>) {
    let mut wish = family.wish(TCP, weights.len());
    wish.service.algorithm = small(by.0);
    for (backend, &weight) in wish.backends.iter_mut().zip(weights) {
        backend.1 = weight;
    }
    let sources = world.sources(&[(family.source.parse().unwrap(), 20_000, 59_999)]);
    world.serve(&wish, sources)
}

/// How many of `flows` new flows each backend gets.
fn shares(world: &World, clients: impl Iterator<Item = Ends>) -> BTreeMap<u32, u32> {
    let mut shares = BTreeMap::new();
    for client in clients {
        *shares.entry(chosen(world, TCP, client)).or_default() += 1;
    }
    shares
}

#[test]
fn program_and_core_agree_on_the_bucket_of_every_flow() {
    in_a_world(ROOMY, |world| {
        for family in FAMILIES {
            for protocol in [TCP, UDP] {
                let (service, _) = family.serve(world, protocol, 4);
                let vip = family.ends().destination;
                for port in 1..200 {
                    let client = family.client(port);
                    let hash = flow_hash(&KEY, protocol_of(protocol), client.source, vip);
                    let expected = first_hop(world, service, hash);
                    assert_eq!(chosen(world, protocol, client), expected, "{client:?}");
                }
            }
        }
    });
}

#[test]
fn by_source_all_flows_of_a_client_go_where_core_says() {
    in_a_world(ROOMY, |world| {
        for family in FAMILIES {
            let (service, _) = weighted(world, family, algorithm::ALGORITHM_SOURCE, &[1, 1, 1, 1]);
            let vip = family.ends().destination;
            let hash = client_hash(&KEY, Protocol::Tcp, family.ends().source.ip(), vip);
            let expected = first_hop(world, service, hash);
            let shares = shares(world, (1..50).map(|port| family.client(port)));
            assert_eq!(shares, BTreeMap::from([(expected, 49)]));
        }
    });
}

#[test]
fn a_client_keeps_its_backend_for_the_time_of_its_affinity() {
    in_a_world(ROOMY, |world| {
        for family in FAMILIES {
            let (service, backends) =
                weighted(world, family, algorithm::ALGORITHM_SOURCE, &[1, 1, 1]);
            world.change_service(service, |service| service.affinity = 100);
            let first = chosen(world, TCP, family.client(1));
            let other = *backends.iter().find(|&&id| id != first).unwrap();
            let table = world.table(&vec![(other, first); 1 << TABLE_BITS]);
            world.change_service(service, |service| service.table = table);
            assert_eq!(chosen(world, TCP, family.client(2)), first, "though the table moved");
            let key = types::affinity_key {
                service,
                client: crate::network::address(family.ends().source.ip()),
                ..Default::default()
            };
            let forget = types::affinity { backend: first, touched: now().wrapping_sub(100) };
            world.put(&world.maps().affinities, &key, &forget);
            assert_eq!(chosen(world, TCP, family.client(3)), other, "its time is over");
            world.change_backend(other, |backend| {
                backend.state = small(backend_state::BACKEND_DRAINING.0);
            });
            assert_eq!(chosen(world, TCP, family.client(4)), first, "it takes no new flows");
        }
    });
}

#[test]
fn flows_are_spread_by_weight() {
    in_a_world(ROOMY, |world| {
        let family = FAMILIES[0];
        let (_, backends) = weighted(world, family, algorithm::ALGORITHM_HASH, &[1, 2, 5]);
        let shares = shares(world, (1..=4000).map(|port| family.client(port)));
        for (id, expected) in backends.iter().zip([500, 1000, 2500]) {
            let share = shares[id];
            // Five standard deviations of the widest share are 160 flows.
            assert!(share.abs_diff(expected) < 160, "{shares:?}");
        }
    });
}

#[test]
fn round_robin_gives_exact_shares() {
    in_a_world(ROOMY, |world| {
        let family = FAMILIES[1];
        let (_, backends) = weighted(world, family, algorithm::ALGORITHM_ROUND_ROBIN, &[1, 3]);
        let turns = 4 << TABLE_BITS;
        let shares = shares(world, (1..=turns).map(|port| family.client(port)));
        let turns = u32::from(turns);
        assert_eq!(
            shares,
            BTreeMap::from([(backends[0], turns / 4), (backends[1], turns * 3 / 4)])
        );
    });
}

#[test]
fn least_connections_evens_out_what_was_uneven() {
    in_a_world(ROOMY, |world| {
        let family = FAMILIES[0];
        let (_, backends) =
            weighted(world, family, algorithm::ALGORITHM_LEAST_CONNECTIONS, &[1, 1, 2]);
        world.change(&world.maps().backend_loads, backends[0], |load: &mut types::backend_load| {
            load.connections = 300;
        });
        let shares = shares(world, (1..=900).map(|port| family.client(port)));
        let load = |id| world.element::<types::backend_load>(&world.maps().backend_loads, id);
        let loads: Vec<u32> = backends.iter().map(|&id| load(id).connections).collect();
        assert_eq!(loads.iter().sum::<u32>(), 1200);
        for (load, expected) in loads.iter().zip([300, 300, 600]) {
            assert!(load.abs_diff(expected) <= 30, "{loads:?}, of these new: {shares:?}");
        }
    });
}

#[test]
fn a_hop_that_takes_no_new_flow_is_passed_over() {
    in_a_world(ROOMY, |world| {
        let family = FAMILIES[0];
        let (service, backends) = family.serve(world, TCP, 3);
        let table = world.table(&vec![(backends[0], backends[1]); 1 << TABLE_BITS]);
        world.change_service(service, |service| service.table = table);
        assert_eq!(chosen(world, TCP, family.client(1)), backends[0]);
        for state in [
            backend_state::BACKEND_DRAINING,
            backend_state::BACKEND_DOWN,
            backend_state::BACKEND_FREE,
        ] {
            world.change_backend(backends[0], |backend| backend.state = small(state.0));
            let port = 10 + u16::try_from(state.0).unwrap();
            assert_eq!(chosen(world, TCP, family.client(port)), backends[1], "{state:?}");
        }
        // A slot that belongs to another service by now is none of this one's.
        world.change_backend(backends[0], |backend| {
            backend.state = small(backend_state::BACKEND_ACTIVE.0);
            backend.service = 63;
        });
        assert_eq!(chosen(world, TCP, family.client(20)), backends[1]);
        // In other buckets there is another backend.
        let mut hops = vec![(backends[0], 0); 1 << TABLE_BITS];
        for hop in hops.iter_mut().step_by(2) {
            hop.0 = backends[2];
        }
        let table = world.table(&hops);
        world.change_service(service, |service| service.table = table);
        for port in 30..60 {
            assert_eq!(chosen(world, TCP, family.client(port)), backends[2]);
        }
    });
}

#[test]
fn without_a_backend_a_connection_is_reset_and_a_datagram_dropped() {
    in_a_world(ROOMY, |world| {
        for family in FAMILIES {
            for (protocol, verdict, reason) in
                [(TCP, TX, "NO_BACKEND_RESET"), (UDP, DROP, "NO_BACKEND")]
            {
                let (service, backends) = family.serve(world, protocol, 1);
                let before = world.state();
                world.change_backend(backends[0], |backend| {
                    backend.state = small(backend_state::BACKEND_DRAINING.0);
                });
                let outcome = send(world, Side::Client, protocol, family.ends(), Flags::Syn);
                assert_eq!((outcome.verdict, outcome.reason), (verdict, reason));
                world.change_service(service, |service| service.table = types::table::default());
                let outcome = send(world, Side::Client, protocol, family.client(2), Flags::Syn);
                assert_eq!((outcome.verdict, outcome.reason), (verdict, reason));
                assert_eq!(world.state(), before);
            }
        }
    });
}

#[test]
fn the_limit_of_a_backend_sends_flows_to_another_and_then_refuses_them() {
    in_a_world(ROOMY, |world| {
        for family in FAMILIES {
            for (protocol, verdict, reason) in
                [(TCP, TX, "LIMIT_RESET"), (UDP, DROP, "BACKEND_LIMIT")]
            {
                let (service, backends) = family.serve(world, protocol, 2);
                world.change_service(service, |service| service.backend_connections_max = 10);
                let mut shares = BTreeMap::<u32, u32>::new();
                for port in 1..=20 {
                    *shares.entry(chosen(world, protocol, family.client(port))).or_default() += 1;
                }
                assert_eq!(shares, BTreeMap::from([(backends[0], 10), (backends[1], 10)]));
                let outcome = send(world, Side::Client, protocol, family.client(21), Flags::Syn);
                assert_eq!((outcome.verdict, outcome.reason), (verdict, reason));
                assert_eq!(
                    send(world, Side::Client, protocol, family.client(1), Flags::Syn).verdict,
                    REDIRECT
                );
            }
        }
    });
}

#[test]
fn the_limit_of_a_service_refuses_new_flows_until_one_has_ended() {
    in_a_world(ROOMY, |world| {
        for family in FAMILIES {
            for (protocol, verdict, reason) in
                [(TCP, TX, "LIMIT_RESET"), (UDP, DROP, "SERVICE_LIMIT")]
            {
                let (service, _) = family.serve(world, protocol, 2);
                world.change_service(service, |service| service.connections_max = 3);
                for port in 1..=3 {
                    chosen(world, protocol, family.client(port));
                }
                let outcome = send(world, Side::Client, protocol, family.client(4), Flags::Syn);
                assert_eq!((outcome.verdict, outcome.reason), (verdict, reason));
                assert!(world.sweep(3600) >= 3);
                chosen(world, protocol, family.client(4));
            }
        }
    });
}

#[test]
fn only_clients_within_the_ranges_are_served() {
    in_a_world(ROOMY, |world| {
        for (family, prefix) in FAMILIES.into_iter().zip([96 + 24, 48]) {
            let (service, _) = family.serve(world, TCP, 1);
            world.change_service(service, |service| service.ranged = 1);
            let outcome = send(world, Side::Client, TCP, family.client(1), Flags::Syn);
            assert_eq!((outcome.verdict, outcome.reason), (DROP, "SOURCE_RANGE"));
            let client = crate::network::address(family.ends().source.ip());
            let elsewhere =
                types::range_key { prefix_length: 32 + prefix, service: service + 1, client };
            world.put(&world.maps().source_ranges, &elsewhere, &0_u8);
            let outcome = send(world, Side::Client, TCP, family.client(1), Flags::Syn);
            assert_eq!(outcome.reason, "SOURCE_RANGE", "the range of another service");
            let range = types::range_key { service, ..elsewhere };
            world.put(&world.maps().source_ranges, &range, &0_u8);
            chosen(world, TCP, family.client(1));
        }
    });
}
