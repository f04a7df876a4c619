//! How a flow is followed from its first packet to its last.

use std::net::{TcpListener, TcpStream};

use haflinger_xdp::program::types::{self, backend_state, mode, phase};
use libbpf_rs::MapCore as _;

use crate::network::{Side, run};
use crate::packets::{Ends, Hop, TCP, UDP};
use crate::world::{Size, World, in_a_world, now, small};
use crate::{FAMILIES, Flags, PASS, REDIRECT, handshake, segment_at, send, sent};

fn phase_of(world: &World, client: Ends, protocol: u8) -> phase {
    phase(world.flow_of(client, protocol).expect("the flow is known").phase.into())
}

fn in_opening_region(world: &World, client: Ends, protocol: u8) -> bool {
    world.record_of(client, protocol).unwrap() < Size::SMALL.opening
}

/// Makes a flow look as if its last packet had come so many seconds ago.
fn age(world: &World, client: Ends, protocol: u8, seconds: u32) {
    let record = world.record_of(client, protocol).unwrap();
    world.change(&world.maps().flows, record, |flow: &mut types::flow| {
        flow.touched = now().wrapping_sub(seconds);
    });
}

fn acknowledge(world: &World, client: Ends, acknowledgement: u32) {
    let packet = segment_at(TCP, client, Hop::default(), (Flags::Ack, 1001, acknowledgement), &[]);
    assert_eq!(world.send(Side::Client, &Side::Client.entering(&packet)).reason, "FORWARDED");
}

#[test]
fn a_handshake_takes_a_flow_out_of_the_opening_region() {
    in_a_world(Size::SMALL, |world| {
        for family in FAMILIES {
            family.serve(world, TCP, 1);
            let client = family.ends();
            send(world, Side::Client, TCP, client, Flags::Syn);
            assert_eq!(phase_of(world, client, TCP), phase::PHASE_OPENING);
            let backend = sent(world, client, TCP).reversed();
            let answer = segment_at(TCP, backend, Hop::default(), (Flags::SynAck, 7000, 1001), &[]);
            world.send(Side::Backend, &Side::Backend.entering(&answer));
            assert_eq!(phase_of(world, client, TCP), phase::PHASE_ANSWERED);
            assert!(in_opening_region(world, client, TCP));
            acknowledge(world, client, 7001);
            assert_eq!(phase_of(world, client, TCP), phase::PHASE_ESTABLISHED);
            assert!(!in_opening_region(world, client, TCP));
            assert_eq!(world.record_of(client, TCP), world.record_of(backend, TCP));
            assert_eq!(send(world, Side::Backend, TCP, backend, Flags::Ack).reason, "FORWARDED");
        }
        assert_eq!(world.flow_counters().promoted, 2);
    });
}

#[test]
fn only_the_acknowledgement_of_the_answer_completes_a_handshake() {
    in_a_world(Size::SMALL, |world| {
        let family = FAMILIES[0];
        family.serve(world, TCP, 1);
        let client = family.ends();
        send(world, Side::Client, TCP, client, Flags::Syn);
        acknowledge(world, client, 7001);
        assert_eq!(phase_of(world, client, TCP), phase::PHASE_OPENING, "before the answer");
        let backend = sent(world, client, TCP).reversed();
        let answer = segment_at(TCP, backend, Hop::default(), (Flags::SynAck, 7000, 1001), &[]);
        world.send(Side::Backend, &Side::Backend.entering(&answer));
        for wrong in [7000, 7001 + 65_536, 0, 7001 + 0x8000_0000] {
            acknowledge(world, client, wrong);
            assert_eq!(phase_of(world, client, TCP), phase::PHASE_ANSWERED, "{wrong}");
        }
        // Data that came with the answer is acknowledged, too.
        acknowledge(world, client, 7001 + 1400);
        assert_eq!(phase_of(world, client, TCP), phase::PHASE_ESTABLISHED);
    });
}

#[test]
fn a_flow_closes_after_both_ends_have_finished() {
    in_a_world(Size::SMALL, |world| {
        for (family, first) in FAMILIES.into_iter().zip([Side::Client, Side::Backend]) {
            family.serve(world, TCP, 1);
            let client = family.ends();
            let backend = handshake(world, client);
            let finish = |side| {
                let ends = if side == Side::Client { client } else { backend };
                assert_eq!(send(world, side, TCP, ends, Flags::Fin).verdict, REDIRECT);
            };
            finish(first);
            assert_eq!(phase_of(world, client, TCP), phase::PHASE_CLOSING);
            finish(first);
            assert_eq!(phase_of(world, client, TCP), phase::PHASE_CLOSING, "sent again");
            finish(if first == Side::Client { Side::Backend } else { Side::Client });
            assert_eq!(phase_of(world, client, TCP), phase::PHASE_CLOSED);
            assert_eq!(send(world, Side::Client, TCP, client, Flags::Ack).verdict, REDIRECT);
            assert_eq!(phase_of(world, client, TCP), phase::PHASE_CLOSED);
        }
    });
}

#[test]
fn a_reset_closes_a_flow_unless_its_sender_goes_on() {
    in_a_world(Size::SMALL, |world| {
        let family = FAMILIES[0];
        family.serve(world, TCP, 1);
        let client = family.ends();
        let backend = handshake(world, client);
        assert_eq!(send(world, Side::Client, TCP, client, Flags::Rst).verdict, REDIRECT);
        assert_eq!(phase_of(world, client, TCP), phase::PHASE_CLOSED);
        send(world, Side::Backend, TCP, backend, Flags::Ack);
        assert_eq!(phase_of(world, client, TCP), phase::PHASE_CLOSED, "the other end knows not");
        age(world, client, TCP, 2);
        send(world, Side::Client, TCP, client, Flags::Ack);
        assert_eq!(phase_of(world, client, TCP), phase::PHASE_ESTABLISHED);
    });
}

#[test]
fn every_phase_has_its_own_timeout() {
    in_a_world(Size::SMALL, |world| {
        let family = FAMILIES[0];
        let (service, _) = family.serve(world, TCP, 1);
        family.serve(world, UDP, 1);
        world.change_service(service, |service| {
            service.timeouts = types::timeouts {
                opening: 10,
                established: 1000,
                closing: 100,
                closed: 20,
                datagrams: 0,
            };
        });
        send(world, Side::Client, TCP, family.client(1), Flags::Syn);
        handshake(world, family.client(2));
        handshake(world, family.client(3));
        send(world, Side::Client, TCP, family.client(3), Flags::Fin);
        handshake(world, family.client(4));
        send(world, Side::Client, TCP, family.client(4), Flags::Rst);
        send(world, Side::Client, UDP, family.client(5), Flags::Ack);
        let datagrams = sent(world, family.client(5), UDP).reversed();
        send(world, Side::Backend, UDP, datagrams, Flags::Ack);
        let left = |world: &World| -> Vec<u16> {
            let known = |&port: &u16| {
                world.record_of(family.client(port), TCP).is_some()
                    || world.record_of(family.client(port), UDP).is_some()
            };
            (1..=5).filter(known).collect()
        };
        for (later, expected) in [
            (8, &[1, 2, 3, 4, 5][..]),
            (12, &[2, 3, 4, 5]),
            (22, &[2, 3, 5]),
            (62, &[2, 3]),
            (102, &[2]),
            (1002, &[]),
        ] {
            world.sweep(later);
            assert_eq!(left(world), expected, "after {later} s");
        }
        assert_eq!(world.maps().flow_index.keys().count(), 0, "no key is left over");
        assert_eq!(world.flow_counters().expired, 5);
        let load: types::service_load = world.element(&world.maps().service_loads, service);
        assert_eq!(load.connections, 0);
        let load: types::backend_load = world.element(&world.maps().backend_loads, 1);
        assert_eq!(load.connections, 0);
    });
}

#[test]
fn a_syn_opens_a_closed_flow_anew_and_no_other() {
    in_a_world(Size::SMALL, |world| {
        for family in FAMILIES {
            family.serve(world, TCP, 1);
            let client = family.ends();
            let backend = handshake(world, client);
            let record = world.record_of(client, TCP);
            assert_eq!(send(world, Side::Client, TCP, client, Flags::Syn).reason, "FORWARDED");
            send(world, Side::Client, TCP, client, Flags::Fin);
            assert_eq!(send(world, Side::Client, TCP, client, Flags::Syn).reason, "FORWARDED");
            assert_eq!(world.record_of(client, TCP), record);
            send(world, Side::Backend, TCP, backend, Flags::Fin);
            assert_eq!(send(world, Side::Client, TCP, client, Flags::Syn).reason, "FORWARDED_NEW");
            assert_eq!(phase_of(world, client, TCP), phase::PHASE_OPENING);
            assert_eq!(world.flow_of(client, TCP).unwrap().packets, [1, 0]);
        }
        assert_eq!(world.flow_counters().reopened, 2);
        let load: types::service_load = world.element(&world.maps().service_loads, 1);
        assert_eq!(load.connections, 1);
    });
}

#[test]
fn an_unanswered_syn_is_given_another_backend_when_its_own_takes_no_more() {
    in_a_world(Size::SMALL, |world| {
        let family = FAMILIES[0];
        let (_, backends) = family.serve(world, TCP, 2);
        let client = family.ends();
        send(world, Side::Client, TCP, client, Flags::Syn);
        let first = world.flow_of(client, TCP).unwrap().backend_id;
        assert_eq!(send(world, Side::Client, TCP, client, Flags::Syn).reason, "FORWARDED");
        world.change_backend(first, |backend| {
            backend.state = small(backend_state::BACKEND_DOWN.0);
        });
        assert_eq!(send(world, Side::Client, TCP, client, Flags::Syn).reason, "FORWARDED_NEW");
        let second = world.flow_of(client, TCP).unwrap().backend_id;
        assert!(second != first && backends.contains(&second));
    });
}

#[test]
fn a_connection_outlives_its_backend_and_its_service_and_datagrams_do_not() {
    in_a_world(Size::SMALL, |world| {
        for family in FAMILIES {
            let (service, backends) = family.serve(world, TCP, 1);
            let (_, other) = family.serve(world, UDP, 2);
            let client = family.ends();
            let backend = handshake(world, client);
            send(world, Side::Client, UDP, client, Flags::Ack);
            let before = world.flow_of(client, UDP).unwrap().backend_id;
            assert!(other.contains(&before));
            for state in [backend_state::BACKEND_DRAINING, backend_state::BACKEND_DOWN] {
                for id in [backends[0], before] {
                    world.change_backend(id, |backend| backend.state = small(state.0));
                }
                assert_eq!(send(world, Side::Client, TCP, client, Flags::Ack).reason, "FORWARDED");
                assert_eq!(
                    send(world, Side::Backend, TCP, backend, Flags::Ack).reason,
                    "FORWARDED"
                );
                let outcome = send(world, Side::Client, UDP, client, Flags::Ack);
                let after = world.flow_of(client, UDP).unwrap().backend_id;
                if state == backend_state::BACKEND_DRAINING {
                    assert_eq!((outcome.reason, after), ("FORWARDED", before));
                } else {
                    assert_eq!(outcome.reason, "FORWARDED_NEW");
                    assert_ne!(after, before);
                }
            }
            world.change_backend(backends[0], |backend| *backend = types::backend::default());
            world.change_service(service, |service| *service = types::service::default());
            assert_eq!(send(world, Side::Client, TCP, client, Flags::Ack).reason, "FORWARDED");
            assert_eq!(
                send(world, Side::Client, TCP, family.client(9), Flags::Syn).reason,
                "NOT_OURS"
            );
        }
        assert_eq!(world.flow_counters().forgotten, 2);
    });
}

#[test]
fn an_answer_makes_a_flow_of_datagrams_two_way() {
    in_a_world(Size::SMALL, |world| {
        for family in FAMILIES {
            family.serve(world, UDP, 1);
            let client = family.ends();
            for _ in 0..3 {
                send(world, Side::Client, UDP, client, Flags::Ack);
                assert_eq!(phase_of(world, client, UDP), phase::PHASE_OPENING);
                assert!(in_opening_region(world, client, UDP));
            }
            let backend = sent(world, client, UDP).reversed();
            send(world, Side::Backend, UDP, backend, Flags::Ack);
            assert_eq!(phase_of(world, client, UDP), phase::PHASE_DATAGRAMS);
            assert!(!in_opening_region(world, client, UDP));
            assert_eq!(sent(world, client, UDP).reversed(), backend);
        }
    });
}

#[test]
fn packets_and_bytes_are_counted_by_flow_and_by_backend() {
    in_a_world(Size::SMALL, |world| {
        let family = FAMILIES[0];
        let (_, backends) = family.serve(world, TCP, 1);
        let client = family.ends();
        let backend = handshake(world, client);
        for _ in 0..5 {
            send(world, Side::Client, TCP, client, Flags::Ack);
        }
        for _ in 0..3 {
            send(world, Side::Backend, TCP, backend, Flags::Ack);
        }
        let flow = world.flow_of(client, TCP).unwrap();
        assert_eq!(flow.packets, [7, 4]);
        // A header of 40 bytes each, and the payload of all but the last two of the handshake.
        assert_eq!(flow.bytes, [40 * 7 + 7 * 6, 40 * 4 + 7 * 3]);
        let counters = world.backend_counters(backends[0]);
        assert_eq!((counters.packets, counters.bytes), ([7, 4], flow.bytes));
        assert_eq!(counters.flows, 1);
    });
}

#[test]
fn a_connection_of_no_flow_is_sent_where_its_bucket_led_unless_in_mode_nat() {
    in_a_world(Size::SMALL, |world| {
        for family in FAMILIES {
            let mut wish = family.wish(TCP, 3);
            wish.service.mode = small(mode::MODE_ROUTED.0);
            let (service, backends) = world.serve(&wish, (0, 0));
            let hops: Vec<_> = (0..256).map(|_| (backends[0], backends[1])).collect();
            let table = world.table(&hops);
            world.change_service(service, |service| service.table = table);
            let outcome = send(world, Side::Client, TCP, family.client(1), Flags::Ack);
            assert_eq!((outcome.verdict, outcome.reason), (REDIRECT, "FORWARDED_ASTRAY"));
            let flow = world.flow_of(family.client(1), TCP).unwrap();
            assert_eq!(flow.backend_id, backends[1]);
            assert_eq!(phase(flow.phase.into()), phase::PHASE_OPENING, "it may be forged");
            let backend = sent(world, family.client(1), TCP).reversed();
            assert_eq!(send(world, Side::Backend, TCP, backend, Flags::Ack).reason, "FORWARDED");
            assert_eq!(phase_of(world, family.client(1), TCP), phase::PHASE_ESTABLISHED);
            // What the second hop cannot have, the first may.
            world.change_backend(backends[1], |backend| {
                backend.state = small(backend_state::BACKEND_FREE.0);
            });
            send(world, Side::Client, TCP, family.client(2), Flags::Fin);
            assert_eq!(world.flow_of(family.client(2), TCP).unwrap().backend_id, backends[0]);
            // A reset is of no use to anybody.
            let outcome = send(world, Side::Client, TCP, family.client(3), Flags::Rst);
            assert_eq!(outcome.reason, "RESET_UNKNOWN");
            assert_eq!(world.record_of(family.client(3), TCP), None);
        }
    });
}

#[test]
fn in_mode_dsr_the_client_alone_opens_and_ends_a_flow() {
    in_a_world(Size::SMALL, |world| {
        for family in FAMILIES {
            for protocol in [TCP, UDP] {
                let mut wish = family.wish(protocol, 1);
                wish.service.mode = small(mode::MODE_DSR.0);
                world.serve(&wish, (0, 0));
                let client = family.ends();
                let outcome = send(world, Side::Client, protocol, client, Flags::Syn);
                assert_eq!((outcome.verdict, outcome.reason), (REDIRECT, "FORWARDED_NEW"));
                assert_eq!(phase_of(world, client, protocol), phase::PHASE_OPENING);
                let keys = world.maps().flow_index.keys().count();
                // It began in another second.
                let record = world.record_of(client, protocol).unwrap();
                world.change(&world.maps().flows, record, |flow: &mut types::flow| {
                    flow.created = flow.created.wrapping_sub(1);
                });
                let outcome = send(world, Side::Client, protocol, client, Flags::Ack);
                assert_eq!((outcome.verdict, outcome.reason), (REDIRECT, "FORWARDED"));
                let open =
                    if protocol == TCP { phase::PHASE_ESTABLISHED } else { phase::PHASE_DATAGRAMS };
                assert_eq!(phase_of(world, client, protocol), open);
                assert!(!in_opening_region(world, client, protocol));
                assert_eq!(world.maps().flow_index.keys().count(), keys, "answers go elsewhere");
                send(world, Side::Client, protocol, client, Flags::Fin);
                let over = if protocol == TCP { phase::PHASE_CLOSING } else { open };
                assert_eq!(phase_of(world, client, protocol), over);
            }
        }
        assert_eq!(world.sweep(3600), 4);
        assert_eq!(world.maps().flow_index.keys().count(), 0);
    });
}

#[test]
fn a_connection_that_a_socket_of_this_host_holds_is_left_to_it() {
    in_a_world(Size::SMALL, |world| {
        for family in FAMILIES {
            family.serve(world, TCP, 1);
            let vip = family.ends().destination;
            // Without a search for duplicates, during which it could not be bound.
            let prefix = if vip.is_ipv4() { "32 dev lo" } else { "128 dev lo nodad" };
            run("ip", &format!("addr add {}/{prefix}", vip.ip()));
            let listener = TcpListener::bind(vip).unwrap();
            let stranger = send(world, Side::Client, TCP, family.ends(), Flags::Ack);
            assert_eq!(stranger.reason, "RESET", "it listens, and holds nothing");
            let stream = TcpStream::connect(vip).unwrap();
            let _accepted = listener.accept().unwrap();
            let held = Ends { source: stream.local_addr().unwrap(), destination: vip };
            for flags in [Flags::Ack, Flags::Fin, Flags::Rst] {
                let outcome = send(world, Side::Client, TCP, held, flags);
                assert_eq!((outcome.verdict, outcome.reason), (PASS, "LOCAL_SOCKET"));
            }
            // Only what would open a connection is ours: the socket has its own already.
            assert_eq!(send(world, Side::Client, TCP, family.ends(), Flags::Ack).reason, "RESET");
        }
    });
}
