//! Traces: one in so many packets that match, and a count of what found no room.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use haflinger_xdp::program::types::{mode as Mode, reason, stage, trace_counters, trace_event};
use libbpf_rs::{MapCore as _, MapFlags, RingBufferBuilder};

use crate::network::{Side, key, value_of};
use crate::packets::{Ends, Hop, UDP};
use crate::world::{World, in_a_world};
use crate::{Flow, REDIRECT, segment};

/// The events that wait in the ring buffer.
fn events(world: &World) -> Vec<trace_event> {
    let seen = Rc::new(RefCell::new(Vec::new()));
    let sink = Rc::clone(&seen);
    let mut builder = RingBufferBuilder::new();
    builder
        .add(&world.maps().trace, move |bytes| {
            sink.borrow_mut().push(value_of::<trace_event>(bytes));
            0
        })
        .unwrap();
    builder.build().unwrap().poll(Duration::ZERO).unwrap();
    seen.take()
}

fn counters(world: &World) -> (u64, u64) {
    let all = world.maps().trace_counters.lookup_percpu(&[0; 4], MapFlags::ANY).unwrap().unwrap();
    let all: Vec<trace_counters> = all.iter().map(|bytes| value_of(bytes)).collect();
    let sum = |of: fn(&trace_counters) -> u64| all.iter().map(of).sum();
    (sum(|cpu| cpu.matched), sum(|cpu| cpu.lost))
}

fn send(world: &World, side: Side, ends: Ends) {
    let packet = segment(UDP, ends, Hop::default(), b"traced");
    world.send(side, &side.entering(&packet));
}

#[test]
fn nothing_is_traced_unless_somebody_asks() {
    in_a_world(|world| {
        let flow = Flow::nat()[0];
        world.flow(Mode::MODE_NAT, UDP, flow.client, flow.sent);
        send(world, Side::Client, flow.client);
        assert!(events(world).is_empty());
        assert_eq!(counters(world), (0, 0));
    });
}

#[test]
fn an_event_says_what_became_of_the_packet() {
    in_a_world(|world| {
        let flow = Flow::nat()[1];
        world.flow(Mode::MODE_NAT, UDP, flow.client, flow.sent);
        world.settings(|settings| settings.trace_one_in = 1);
        send(world, Side::Client, flow.client);
        let seen = events(world);
        assert_eq!(seen.len(), 1);
        assert_eq!(seen[0].verdict, REDIRECT);
        assert_eq!(seen[0].reason, reason::REASON_FORWARDED.0);
        assert_eq!(seen[0].record, 1);
        assert_eq!(usize::from(seen[0].length), 40 + 8 + 6);
        assert_eq!(seen[0].packet.destination_port, 443_u16.to_be());
        let stages = stage::STAGE_PARSED.0
            | stage::STAGE_FLOW_FOUND.0
            | stage::STAGE_REWRITTEN.0
            | stage::STAGE_ROUTED.0;
        assert_eq!(seen[0].stages, stages);
        assert_ne!(seen[0].ingress, 0);
        assert_ne!(seen[0].egress, seen[0].ingress);
        assert_ne!(seen[0].nanoseconds, 0);
    });
}

#[test]
fn the_filter_selects_a_flow_in_both_directions_and_nothing_else() {
    in_a_world(|world| {
        for flow in Flow::nat() {
            let mut other = flow;
            other.client.source.set_port(40_001);
            other.sent.source.set_port(50_001);
            world.flow(Mode::MODE_NAT, UDP, flow.client, flow.sent);
            world.flow(Mode::MODE_NAT, UDP, other.client, other.sent);
            world.settings(|settings| {
                settings.trace_one_in = 1;
                settings.trace = key(flow.client, UDP);
                settings.trace.destination = Default::default();
            });
            for flow in [flow, other] {
                send(world, Side::Client, flow.client);
                send(world, Side::Backend, flow.sent.reversed());
            }
            let ports: Vec<_> = events(world)
                .iter()
                .map(|event| (event.packet.source_port, event.packet.destination_port))
                .collect();
            let expected = [(40_000, 443), (8443, 50_000)];
            assert_eq!(ports, expected.map(|(from, to): (u16, u16)| (from.to_be(), to.to_be())));
        }
    });
}

#[test]
fn one_in_so_many_is_shown() {
    in_a_world(|world| {
        let flow = Flow::nat()[0];
        world.flow(Mode::MODE_NAT, UDP, flow.client, flow.sent);
        world.settings(|settings| settings.trace_one_in = 1000);
        for _ in 0..50 {
            send(world, Side::Client, flow.client);
        }
        // Each CPU shows its first; the test may move from one to another.
        let shown = events(world).len();
        assert!((1..=libbpf_rs::num_possible_cpus().unwrap()).contains(&shown), "{shown}");
        assert_eq!(counters(world), (50, 0));
    });
}

#[test]
fn events_for_which_there_is_no_room_are_counted() {
    in_a_world(|world| {
        let flow = Flow::nat()[0];
        world.flow(Mode::MODE_NAT, UDP, flow.client, flow.sent);
        world.settings(|settings| settings.trace_one_in = 1);
        // The buffer of 256 KiB holds some 2,000 events.
        let sent = (1 << 18) / size_of::<trace_event>() + 10;
        for _ in 0..sent {
            send(world, Side::Client, flow.client);
        }
        let (matched, lost) = counters(world);
        assert_eq!(matched, u64::try_from(sent).unwrap());
        assert!(lost > 0);
        let shown = u64::try_from(events(world).len()).unwrap();
        assert_eq!(shown + lost, matched);
    });
}
