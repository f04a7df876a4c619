//! Mode dsr: IP in IP to the backend, and the errors of that way.

use std::net::{IpAddr, SocketAddr};

use haflinger_xdp::program::types::mode as Mode;

use crate::network::{BACK_MTU, CLIENT_ROUTER, FRONT, Outcome, Side};
use crate::packets::{Ends, Hop, TCP, UDP, fragments, frame, icmp, ip};
use crate::world::{World, in_a_world};
use crate::{DROP, Flow, PASS, REDIRECT, TX, hop_on, segment};

const HOP: Hop = Hop {
    ttl: 60,
    traffic_class: 0xb9,
    dont_fragment: true,
    identification: 7,
    flow_label: 0x12345,
};
const BACKENDS: [&str; 2] = ["10.1.2.3", "fd00:1::3"];
const SOURCES: [&str; 2] = ["192.0.2.1", "2001:db8:f::1"];

fn outer_source(backend: IpAddr) -> IpAddr {
    SOURCES[usize::from(backend.is_ipv6())].parse().unwrap()
}

/// Bytes of the header that leads to the backend.
fn overhead(backend: IpAddr) -> usize {
    if backend.is_ipv4() { 20 } else { 40 }
}

fn within(packet: &[u8]) -> u8 {
    if packet[0] >> 4 == 4 { 4 } else { 41 }
}

/// `packet` as it leaves to the backend; the flow label of the outer header is the program's choice.
fn tunneled(backend: IpAddr, packet: &[u8], flow_label: u32) -> Vec<u8> {
    let hop = Hop {
        ttl: 64,
        traffic_class: HOP.traffic_class,
        dont_fragment: true,
        identification: 0,
        flow_label,
    };
    ip(outer_source(backend), backend, within(packet), hop, packet)
}

fn label_of(outcome: &Outcome) -> u32 {
    let packet = &outcome.frame[14..];
    if packet[0] >> 4 == 4 {
        return 0;
    }
    u32::from_be_bytes(packet[..4].try_into().unwrap()) & 0xf_ffff
}

/// Every flow of mode dsr: the client's family, the backend's.
fn flows() -> Vec<(Flow, IpAddr)> {
    let mut flows = Vec::new();
    for flow in Flow::nat() {
        for backend in BACKENDS {
            let backend: IpAddr = backend.parse().unwrap();
            let destination = SocketAddr::new(backend, flow.client.destination.port());
            let sent = Ends { source: flow.client.source, destination };
            flows.push((Flow { sent, ..flow }, backend));
        }
    }
    flows
}

#[test]
fn the_clients_packet_goes_whole_to_the_backend_in_one_of_either_family() {
    in_a_world(|world| {
        for (flow, backend) in flows() {
            for protocol in [TCP, UDP] {
                world.flow(Mode::MODE_DSR, protocol, flow.client, flow.sent);
                for length in [0, 1, 100, 1331] {
                    let payload = vec![5; length];
                    let packet = segment(protocol, flow.client, HOP, &payload);
                    let outcome = world.send(Side::Client, &Side::Client.entering(&packet));
                    assert_eq!((outcome.verdict, outcome.reason), (REDIRECT, "FORWARDED"));
                    let inner = segment(protocol, flow.client, hop_on(HOP), &payload);
                    let expected = tunneled(backend, &inner, label_of(&outcome));
                    assert_eq!(
                        outcome.frame,
                        Side::Backend.leaving(&expected),
                        "{flow:?} {length}"
                    );
                }
            }
        }
    });
}

#[test]
fn every_fragment_goes_to_the_backend_under_its_own_identification() {
    in_a_world(|world| {
        let hop = Hop { dont_fragment: false, ..HOP };
        for (flow, backend) in flows() {
            world.flow(Mode::MODE_DSR, UDP, flow.client, flow.sent);
            let parts = fragments(&segment(UDP, flow.client, hop, &[3; 2000]), 0xabc, 1200);
            let sent = fragments(&segment(UDP, flow.client, hop_on(hop), &[3; 2000]), 0xabc, 1200);
            let mut labels = Vec::new();
            for (part, sent) in parts.iter().zip(sent) {
                let outcome = world.send(Side::Client, &Side::Client.entering(part));
                labels.push(label_of(&outcome));
                let expected = Side::Backend.leaving(&tunneled(backend, &sent, label_of(&outcome)));
                assert_eq!(outcome.frame, expected, "{flow:?} {}", outcome.reason);
            }
            assert_eq!(labels[0], labels[1]);
        }
    });
}

#[test]
fn what_the_outer_header_makes_too_big_is_answered_with_what_remains_of_the_mtu() {
    in_a_world(|world| {
        for (flow, backend) in flows() {
            let v4 = flow.client.source.is_ipv4();
            world.flow(Mode::MODE_DSR, TCP, flow.client, flow.sent);
            let most = usize::try_from(BACK_MTU).unwrap() - overhead(backend);
            let headers = if v4 { 40 } else { 60 };
            let fits = segment(TCP, flow.client, HOP, &vec![1; most - headers]);
            assert_eq!(world.send(Side::Client, &Side::Client.entering(&fits)).verdict, REDIRECT);
            let packet = segment(TCP, flow.client, HOP, &vec![1; most - headers + 1]);
            let outcome = world.send(Side::Client, &Side::Client.entering(&packet));
            assert_eq!((outcome.verdict, outcome.reason), (TX, "TOO_BIG"), "{flow:?}");
            let mtu = u32::try_from(most).unwrap();
            let kind = if v4 { (3, 4, mtu) } else { (2, 0, mtu) };
            let quote = &packet[..if v4 { 548 } else { 1232 }];
            let (vip, client) = (flow.client.destination.ip(), flow.client.source.ip());
            let expected = icmp(vip, client, Hop::default(), kind, quote);
            assert_eq!(outcome.frame, Side::Client.leaving(&expected));
        }
    });
}

#[test]
fn what_may_be_cut_is_handed_over_in_an_outer_packet_that_may_be_cut() {
    in_a_world(|world| {
        let (flow, backend) = flows()[0];
        let hop = Hop { dont_fragment: false, ..HOP };
        world.flow(Mode::MODE_DSR, UDP, flow.client, flow.sent);
        let packet = segment(UDP, flow.client, hop, &[1; 1420]);
        let packets = world.deferred(|world| {
            let outcome = world.send(Side::Client, &Side::Client.entering(&packet));
            assert_eq!((outcome.verdict, outcome.reason), (DROP, "DEFERRED"));
        });
        let inner = segment(UDP, flow.client, hop_on(hop), &[1; 1420]);
        let outer = Hop {
            ttl: 64,
            traffic_class: hop.traffic_class,
            dont_fragment: false,
            identification: u16::from_be_bytes([packets[0][4], packets[0][5]]),
            flow_label: 0,
        };
        assert_eq!(packets, [ip(outer_source(backend), backend, 4, outer, &inner)]);
    });
}

#[test]
fn tags_of_the_clients_side_stay_there() {
    in_a_world(|world| {
        for (flow, backend) in flows() {
            world.flow(Mode::MODE_DSR, TCP, flow.client, flow.sent);
            let packet = segment(TCP, flow.client, HOP, &[1; 77]);
            let inner = segment(TCP, flow.client, hop_on(HOP), &[1; 77]);
            for tags in [&[[0x81, 0, 0, 5]][..], &[[0x88, 0xa8, 0, 9], [0x81, 0, 0, 5]]] {
                let tagged = frame(FRONT, CLIENT_ROUTER, tags, &packet);
                let outcome = world.send(Side::Client, &tagged);
                let expected = tunneled(backend, &inner, label_of(&outcome));
                assert_eq!(outcome.frame, Side::Backend.leaving(&expected), "{tags:?}");
            }
        }
    });
}

#[test]
fn an_error_from_the_clients_side_goes_to_the_backend_as_it_is() {
    in_a_world(|world| {
        for (flow, backend) in flows() {
            world.flow(Mode::MODE_DSR, TCP, flow.client, flow.sent);
            let kind = if flow.client.source.is_ipv4() { (3, 4, 1300) } else { (2, 0, 1300) };
            let quote = segment(TCP, flow.client.reversed(), HOP, &[4; 44]);
            let (vip, client) = (flow.client.destination.ip(), flow.client.source.ip());
            let outcome = world
                .send(Side::Client, &Side::Client.entering(&icmp(client, vip, HOP, kind, &quote)));
            assert_eq!((outcome.verdict, outcome.reason), (REDIRECT, "ICMP_TO_BACKEND"));
            let inner = icmp(client, vip, hop_on(HOP), kind, &quote);
            let expected = Side::Backend.leaving(&tunneled(backend, &inner, label_of(&outcome)));
            assert_eq!(outcome.frame, expected);
        }
    });
}

/// A router behind the back interface says of a packet in the tunnel that it was too big.
fn too_big(backend: IpAddr, mtu: u32, quoted: &[u8]) -> Vec<u8> {
    let (router, kind) =
        if backend.is_ipv4() { ("10.1.255.254", (3, 4, mtu)) } else { ("fd00:1::fe", (2, 0, mtu)) };
    let packet = icmp(router.parse().unwrap(), outer_source(backend), HOP, kind, quoted);
    Side::Backend.entering(&packet)
}

#[test]
fn the_client_is_told_what_the_way_to_its_backend_carries() {
    in_a_world(|world| {
        for (flow, backend) in flows() {
            let v4 = flow.client.source.is_ipv4();
            world.flow(Mode::MODE_DSR, TCP, flow.client, flow.sent);
            let inner = segment(TCP, flow.client, HOP, &[1; 1330]);
            let outer = tunneled(backend, &inner, 9);
            let headers = overhead(backend) + if v4 { 20 } else { 40 };
            for quoted in [headers + 8, headers + 9, 500, 548] {
                let outcome = world.send(Side::Backend, &too_big(backend, 1340, &outer[..quoted]));
                let what = format!("{flow:?} {quoted}");
                assert_eq!(
                    (outcome.verdict, outcome.reason),
                    (REDIRECT, "ICMP_TO_CLIENT"),
                    "{what}"
                );
                let mtu = 1340 - u32::try_from(overhead(backend)).unwrap();
                let kind = if v4 { (3, 4, mtu) } else { (2, 0, mtu) };
                let quote = &inner[..(quoted - overhead(backend)) & !3];
                let (vip, client) = (flow.client.destination.ip(), flow.client.source.ip());
                let expected = Side::Client.leaving(&icmp(
                    vip,
                    client,
                    Hop { ttl: 64, ..Hop::default() },
                    kind,
                    quote,
                ));
                assert_eq!(outcome.frame, expected, "{what}");
            }
        }
    });
}

/// Whether the frame goes to the kernel as it is.
fn passes(world: &World, frame: &[u8], what: &str) {
    let outcome = world.send(Side::Backend, frame);
    assert_eq!((outcome.verdict, outcome.reason), (PASS, "ICMP_UNKNOWN"), "{what}");
    assert_eq!(outcome.frame, frame, "{what}");
}

#[test]
fn errors_of_the_tunnel_that_prove_nothing_go_to_the_kernel() {
    in_a_world(|world| {
        for (flow, backend) in flows() {
            world.flow(Mode::MODE_DSR, TCP, flow.client, flow.sent);
            let header = if flow.client.source.is_ipv4() { 20 } else { 40 };
            let inner = segment(TCP, flow.client, HOP, &[1; 1330]);
            let outer = tunneled(backend, &inner, 9);
            let short = &outer[..overhead(backend) + header + 7];
            passes(world, &too_big(backend, 1340, short), "quotes too little");
            passes(world, &too_big(backend, 1440, &outer[..200]), "it was not too big");
            passes(world, &too_big(backend, 60, &outer[..200]), "an impossible MTU");
            let mut other = flow.client;
            other.source.set_port(1);
            let outer = tunneled(backend, &segment(TCP, other, HOP, &[1; 1330]), 9);
            passes(world, &too_big(backend, 1340, &outer[..200]), "no flow");
            let elsewhere: IpAddr =
                if backend.is_ipv4() { "10.1.9.9" } else { "fd00:1::9" }.parse().unwrap();
            let outer = tunneled(elsewhere, &inner, 9);
            passes(world, &too_big(elsewhere, 1340, &outer[..200]), "another backend");
        }
    });
}

/// A backend is probed inside of the same encapsulation, from this host's own address.
#[test]
fn what_a_backend_answers_to_a_probe_through_the_vip_goes_to_the_kernel() {
    in_a_world(|world| {
        for (flow, backend) in flows() {
            world.flow(Mode::MODE_DSR, TCP, flow.client, flow.sent);
            let vip = flow.client.destination;
            let own = SOURCES[usize::from(vip.is_ipv6())].parse().unwrap();
            let answer = Ends { source: vip, destination: SocketAddr::new(own, 25_000) };
            let frame = Side::Backend.entering(&segment(TCP, answer, HOP, b"HTTP/1.1 200 OK"));
            let outcome = world.send(Side::Backend, &frame);
            assert_eq!((outcome.verdict, outcome.reason), (PASS, "NOT_OURS"), "{backend}");
            assert_eq!(outcome.frame, frame);
        }
    });
}
