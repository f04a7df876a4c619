//! Resets and ICMP errors that the program sends itself.

use std::net::IpAddr;

use etherparse::TcpHeader;
use haflinger_xdp::program::types::{mode as Mode, rate};
use libbpf_rs::{MapCore as _, MapFlags};
use rustix::thread::{CpuSet, sched_getcpu, sched_setaffinity};

use crate::network::{BACK_MTU, CLIENT_ROUTER, FRONT, Side, bytes_of};
use crate::packets::{self, Ends, Hop, TCP, UDP, frame, icmp, tcp};
use crate::world::{World, in_a_world};
use crate::{DROP, Flow, TX, segment};

/// What the program's own packets look like.
const OURS: Hop =
    Hop { ttl: 64, traffic_class: 0, dont_fragment: true, identification: 0, flow_label: 0 };
const HOP: Hop =
    Hop { ttl: 60, traffic_class: 4, dont_fragment: true, identification: 7, flow_label: 0 };

/// Quotes of at most so many bytes: 576 and 1280 less the headers.
const QUOTE_V4_MAX: usize = 548;
const QUOTE_V6_MAX: usize = 1232;

fn flags(ack: Option<u32>, sequence: u32) -> TcpHeader {
    let mut header = TcpHeader::new(0, 0, sequence, 1024);
    header.ack = ack.is_some();
    header.acknowledgment_number = ack.unwrap_or(0);
    header
}

fn reset(ends: Ends, sequence: u32, acknowledgment: Option<u32>) -> Vec<u8> {
    let mut header = TcpHeader::new(0, 0, sequence, 0);
    header.rst = true;
    header.ack = acknowledgment.is_some();
    header.acknowledgment_number = acknowledgment.unwrap_or(0);
    tcp(ends, OURS, &header, &[])
}

#[test]
fn a_segment_of_no_flow_is_reset_within_the_window_of_its_sender() {
    in_a_world(|world| {
        for flow in Flow::nat() {
            world.service(flow.client.destination, TCP, Mode::MODE_NAT);
            let mut finished = flags(None, 1000);
            finished.fin = true;
            let mut options = flags(Some(77), 5);
            options.set_options_raw(&[1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2]).unwrap();
            let cases = [
                ("data", flags(Some(0xffff_fff0), 5), 200, (0xffff_fff0, None)),
                ("acknowledgement", flags(Some(9), 5), 0, (9, None)),
                ("options", options, 33, (77, None)),
                ("no acknowledgement", flags(None, 1000), 30, (0, Some(1030))),
                ("end without acknowledgement", finished, 30, (0, Some(1031))),
                ("sequence that wraps", flags(None, u32::MAX), 3, (0, Some(2))),
            ];
            for tags in [&[][..], &[[0x81, 0, 0, 5]], &[[0x88, 0xa8, 0, 9], [0x81, 0, 0, 5]]] {
                for (what, header, payload, (sequence, acknowledgment)) in &cases {
                    let packet = tcp(flow.client, HOP, header, &vec![9; *payload]);
                    let outcome =
                        world.send(Side::Client, &frame(FRONT, CLIENT_ROUTER, tags, &packet));
                    let expected = reset(flow.client.reversed(), *sequence, *acknowledgment);
                    assert_eq!((outcome.verdict, outcome.reason), (TX, "RESET"), "{what}");
                    let expected = frame(CLIENT_ROUTER, FRONT, tags, &expected);
                    assert_eq!(outcome.frame, expected, "{what} {tags:?}");
                }
            }
        }
    });
}

#[test]
fn a_reset_of_no_flow_is_not_answered() {
    in_a_world(|world| {
        for flow in Flow::nat() {
            world.service(flow.client.destination, TCP, Mode::MODE_NAT);
            let mut header = flags(Some(1), 1);
            header.rst = true;
            let packet = tcp(flow.client, HOP, &header, &[]);
            let outcome = world.send(Side::Client, &Side::Client.entering(&packet));
            assert_eq!((outcome.verdict, outcome.reason), (DROP, "RESET_UNKNOWN"));
        }
    });
}

#[test]
fn nothing_is_answered_that_was_sent_to_or_by_more_than_one() {
    in_a_world(|world| {
        for (flow, group) in Flow::nat().into_iter().zip(["224.0.0.9", "ff02::9"]) {
            world.service(flow.client.destination, TCP, Mode::MODE_NAT);
            let packet = tcp(flow.client, HOP, &flags(Some(1), 1), &[]);
            let outcome = world.send(Side::Client, &frame([0xff; 6], CLIENT_ROUTER, &[], &packet));
            assert_ne!(outcome.verdict, TX);
            let mut from_group = flow.client;
            from_group.source.set_ip(group.parse().unwrap());
            let packet = tcp(from_group, HOP, &flags(Some(1), 1), &[]);
            let outcome = world.send(Side::Client, &Side::Client.entering(&packet));
            assert_ne!(outcome.verdict, TX);
        }
    });
}

/// Puts so many answers into the hand of every CPU, and lets it earn no more. This thread keeps to
/// one of them, since each spends its own.
fn allow(world: &World, tokens: u64) {
    let mut here = CpuSet::new();
    here.set(sched_getcpu());
    sched_setaffinity(None, &here).unwrap();
    let map = &world.maps().answer_rate;
    let tokens = rate { refilled: u64::MAX, tokens };
    let cpus = libbpf_rs::num_possible_cpus().unwrap();
    map.update_percpu(&[0; 4], &vec![bytes_of(&tokens).to_vec(); cpus], MapFlags::ANY).unwrap();
}

#[test]
fn a_cpu_that_has_answered_enough_drops() {
    in_a_world(|world| {
        let flow = Flow::nat()[0];
        world.service(flow.client.destination, TCP, Mode::MODE_NAT);
        let packet = tcp(flow.client, HOP, &flags(Some(1), 1), &[]);
        let frame = Side::Client.entering(&packet);
        allow(world, 2);
        let outcomes: Vec<_> = (0..3).map(|_| world.send(Side::Client, &frame).reason).collect();
        assert_eq!(outcomes, ["RESET", "RESET", "ANSWER_RATE"]);
        assert_eq!(world.send(Side::Client, &frame).verdict, DROP);
    });
}

/// The error that must answer `packet`, quoting what is allowed of it.
fn error(from: IpAddr, to: IpAddr, kind: (u8, u8, u32), packet: &[u8]) -> Vec<u8> {
    let most = if from.is_ipv4() { QUOTE_V4_MAX } else { QUOTE_V6_MAX };
    let quoted = packet.len().min(most) & !3;
    icmp(from, to, OURS, kind, &packet[..quoted])
}

#[test]
fn a_packet_whose_hops_are_used_up_is_answered_with_what_fits_of_it() {
    in_a_world(|world| {
        for flow in Flow::nat() {
            let v4 = flow.client.source.is_ipv4();
            let kind = if v4 { (11, 0, 0) } else { (3, 0, 0) };
            for protocol in [TCP, UDP] {
                world.flow(Mode::MODE_NAT, protocol, flow.client, flow.sent);
                for length in [0, 1, 2, 3, 64, 519, 520, 521, 1180, 1300] {
                    let hop = Hop { ttl: 1, ..HOP };
                    let packet = segment(protocol, flow.client, hop, &vec![0xc3; length]);
                    let frames = frame(FRONT, CLIENT_ROUTER, &[[0x81, 0, 0, 5]], &packet);
                    let outcome = world.send(Side::Client, &frames);
                    assert_eq!((outcome.verdict, outcome.reason), (TX, "TTL_EXCEEDED"), "{length}");
                    let (vip, client) = (flow.client.destination.ip(), flow.client.source.ip());
                    let expected = error(vip, client, kind, &packet);
                    let expected = frame(CLIENT_ROUTER, FRONT, &[[0x81, 0, 0, 5]], &expected);
                    assert_eq!(outcome.frame, expected, "{length}");
                }
            }
        }
    });
}

#[test]
fn padding_behind_a_short_packet_is_not_quoted() {
    in_a_world(|world| {
        let flow = Flow::nat()[0];
        world.flow(Mode::MODE_NAT, UDP, flow.client, flow.sent);
        let packet = segment(UDP, flow.client, Hop { ttl: 1, ..HOP }, &[]);
        let mut padded = Side::Client.entering(&packet);
        padded.resize(60, 0);
        let outcome = world.send(Side::Client, &padded);
        let (vip, client) = (flow.client.destination.ip(), flow.client.source.ip());
        let expected = error(vip, client, (11, 0, 0), &packet);
        assert_eq!(outcome.frame, Side::Client.leaving(&expected));
    });
}

#[test]
fn a_reply_whose_hops_are_used_up_is_answered_from_where_it_went() {
    in_a_world(|world| {
        let own = ["192.0.2.1".parse().unwrap(), "2001:db8:f::1".parse().unwrap()];
        for mode in [Mode::MODE_NAT, Mode::MODE_ROUTED] {
            for (flow, own) in Flow::for_mode(mode).into_iter().zip(own) {
                world.flow(mode, UDP, flow.client, flow.sent);
                let reply = flow.sent.reversed();
                let packet = segment(UDP, reply, Hop { ttl: 1, ..HOP }, b"answer");
                let outcome = world.send(Side::Backend, &Side::Backend.entering(&packet));
                // In mode routed the packet goes to the client, whose address is not ours.
                let from = if mode == Mode::MODE_NAT { flow.sent.source.ip() } else { own };
                let kind = if own.is_ipv4() { (11, 0, 0) } else { (3, 0, 0) };
                let expected = error(from, reply.source.ip(), kind, &packet);
                assert_eq!(outcome.frame, Side::Backend.leaving(&expected));
            }
        }
    });
}

#[test]
fn a_packet_too_big_for_the_way_to_its_backend_is_answered_with_the_mtu() {
    in_a_world(|world| {
        for flow in Flow::nat() {
            let v4 = flow.client.source.is_ipv4();
            world.flow(Mode::MODE_NAT, TCP, flow.client, flow.sent);
            let headers = if v4 { 40 } else { 60 };
            let most = usize::try_from(BACK_MTU).unwrap() - headers;
            let packet = segment(TCP, flow.client, HOP, &vec![1; most + 1]);
            let outcome = world.send(Side::Client, &Side::Client.entering(&packet));
            assert_eq!((outcome.verdict, outcome.reason), (TX, "TOO_BIG"));
            let kind = if v4 { (3, 4, BACK_MTU) } else { (2, 0, BACK_MTU) };
            let (vip, client) = (flow.client.destination.ip(), flow.client.source.ip());
            let expected = error(vip, client, kind, &packet);
            assert_eq!(outcome.frame, Side::Client.leaving(&expected));
            let packet = segment(TCP, flow.client, HOP, &vec![1; most]);
            let outcome = world.send(Side::Client, &Side::Client.entering(&packet));
            assert_eq!(outcome.reason, "FORWARDED");
        }
    });
}

#[test]
fn an_error_is_not_answered_with_an_error() {
    in_a_world(|world| {
        for flow in Flow::nat() {
            world.flow(Mode::MODE_NAT, UDP, flow.client, flow.sent);
            let kind = if flow.client.source.is_ipv4() { (3, 3, 0) } else { (1, 4, 0) };
            let quote = segment(UDP, flow.client.reversed(), HOP, b"x");
            let (client, vip) = (flow.client.source.ip(), flow.client.destination.ip());
            let packet = icmp(client, vip, Hop { ttl: 1, ..HOP }, kind, &quote);
            let outcome = world.send(Side::Client, &Side::Client.entering(&packet));
            assert_eq!(outcome.verdict, DROP, "{}", outcome.reason);
        }
    });
}

#[test]
fn segments_that_lie_about_their_headers_are_dropped() {
    in_a_world(|world| {
        for flow in Flow::nat() {
            world.service(flow.client.destination, TCP, Mode::MODE_NAT);
            let header = if flow.client.source.is_ipv4() { 20 } else { 40 };
            for offset in [0x00, 0x40, 0xf0] {
                let mut packet = packets::tcp(flow.client, HOP, &flags(Some(1), 1), &[]);
                packet[header + 12] = offset;
                let outcome = world.send(Side::Client, &Side::Client.entering(&packet));
                assert_eq!((outcome.verdict, outcome.reason), (DROP, "MALFORMED"), "{offset}");
            }
        }
    });
}
