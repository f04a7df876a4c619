//! The main path of the program in test runs: parse, flow, choice, rewrite, route. What packets
//! have to look like is said by a codec that knows nothing of the program.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod capacity;
mod choice;
mod cpus;
mod flows;
mod malformed;
mod nat;
#[expect(dead_code, reason = "the tests of the side paths need more of it")]
#[path = "../network/mod.rs"]
mod network;
#[expect(dead_code, reason = "the tests of the side paths need more of it")]
#[path = "../side_paths/packets.rs"]
mod packets;
mod random;
mod routes;
mod ways;
mod world;

use etherparse::TcpHeader;
use haflinger_xdp::program::types;

use network::{Outcome, Side};
use packets::{Ends, Hop, TCP, UDP};
use world::{Wish, World};

/// Verdicts (enum xdp_action).
const DROP: u32 = 1;
const PASS: u32 = 2;
const TX: u32 = 3;
const REDIRECT: u32 = 4;

/// What a family's tests talk about.
#[derive(Clone, Copy, Debug)]
struct Family {
    client: &'static str,
    vip: &'static str,
    backends: [&'static str; 4],
    source: &'static str,
}

const FAMILIES: [Family; 2] = [
    Family {
        client: "198.51.100.7:40000",
        vip: "192.0.2.80:443",
        backends: ["10.1.0.1:8443", "10.1.0.2:8443", "10.1.0.3:8443", "10.1.0.4:8443"],
        source: "10.0.0.1",
    },
    Family {
        client: "[2001:db8:c::7]:40000",
        vip: "[2001:db8:80::80]:443",
        backends: ["[fd00:1::1]:8443", "[fd00:1::2]:8443", "[fd00:1::3]:8443", "[fd00:1::4]:8443"],
        source: "fd00:f::1",
    },
];

impl Family {
    fn ends(&self) -> Ends {
        Ends::new(self.client, self.vip)
    }

    /// The tuple of another client.
    fn client(&self, number: u16) -> Ends {
        let mut ends = self.ends();
        ends.source.set_port(number);
        ends
    }

    /// A service with the first `count` backends, each of weight 1, hashed, in mode nat.
    fn wish(&self, protocol: u8, count: usize) -> Wish {
        Wish {
            vip: self.vip.parse().unwrap(),
            protocol,
            service: types::service {
                timeouts: types::timeouts {
                    opening: 30,
                    established: 3600,
                    closing: 120,
                    closed: 10,
                    datagrams: 60,
                },
                ..Default::default()
            },
            backends: self.backends[..count]
                .iter()
                .map(|backend| (backend.parse().unwrap(), 1))
                .collect(),
        }
    }

    /// Puts such a service into the maps, with plenty of ports.
    fn serve(&self, world: &mut World, protocol: u8, count: usize) -> (u32, Vec<u32>) {
        let sources = world.sources(&[(self.source.parse().unwrap(), 20_000, 59_999)]);
        world.serve(&self.wish(protocol, count), sources)
    }
}

/// The flags of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flags {
    Syn,
    SynAck,
    Ack,
    Fin,
    Rst,
}

/// A segment of some flow, or a datagram.
fn segment(protocol: u8, ends: Ends, hop: Hop, flags: Flags, payload: &[u8]) -> Vec<u8> {
    segment_at(protocol, ends, hop, (flags, 1000, 5000), payload)
}

/// The same with a sequence number and an acknowledgement.
fn segment_at(
    protocol: u8,
    ends: Ends,
    hop: Hop,
    (flags, sequence, acknowledgement): (Flags, u32, u32),
    payload: &[u8],
) -> Vec<u8> {
    if protocol == UDP {
        return packets::udp(ends, hop, payload);
    }
    let mut header = TcpHeader::new(0, 0, sequence, 8192);
    header.syn = matches!(flags, Flags::Syn | Flags::SynAck);
    header.ack = flags != Flags::Syn;
    header.fin = flags == Flags::Fin;
    header.rst = flags == Flags::Rst;
    header.acknowledgment_number = if header.ack { acknowledgement } else { 0 };
    packets::tcp(ends, hop, &header, payload)
}

/// Sends a segment or a datagram.
fn send(world: &World, side: Side, protocol: u8, ends: Ends, flags: Flags) -> Outcome {
    world.send(side, &side.entering(&segment(protocol, ends, Hop::default(), flags, b"payload")))
}

/// The tuple with which the backend sees a flow.
fn sent(world: &World, client: Ends, protocol: u8) -> Ends {
    let flow = world.flow_of(client, protocol).expect("the flow is known");
    let ip = |address: types::address| {
        // SAFETY: every view of an address is valid.
        let octets = unsafe { address.__anon_address_1.octets };
        let ip = std::net::Ipv6Addr::from(octets);
        ip.to_ipv4_mapped().map_or(std::net::IpAddr::V6(ip), std::net::IpAddr::V4)
    };
    Ends {
        source: (ip(flow.source), u16::from_be(flow.source_port)).into(),
        destination: (ip(flow.backend), u16::from_be(flow.backend_port)).into(),
    }
}

/// Opens a TCP connection, the backend's sequence number being 7000. Returns the backend's tuple.
fn handshake(world: &World, client: Ends) -> Ends {
    let outcome = send(world, Side::Client, TCP, client, Flags::Syn);
    assert_eq!((outcome.verdict, outcome.reason), (REDIRECT, "FORWARDED_NEW"));
    handshake_rest(world, client)
}

/// What follows the SYN.
fn handshake_rest(world: &World, client: Ends) -> Ends {
    let backend = sent(world, client, TCP).reversed();
    let answer = segment_at(TCP, backend, Hop::default(), (Flags::SynAck, 7000, 1001), &[]);
    assert_eq!(world.send(Side::Backend, &Side::Backend.entering(&answer)).reason, "FORWARDED");
    let third = segment_at(TCP, client, Hop::default(), (Flags::Ack, 1001, 7001), &[]);
    assert_eq!(world.send(Side::Client, &Side::Client.entering(&third)).reason, "FORWARDED");
    backend
}

/// One hop on.
fn hop_on(hop: Hop) -> Hop {
    Hop { ttl: hop.ttl - 1, ..hop }
}
