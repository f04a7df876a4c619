//! What the program does beside forwarding packets of known flows: fragments, ICMP errors, answers,
//! tunnels, the maximum segment size and traces. Named packets with the bytes that must come out,
//! built by a codec of its own (`packets`), and random ones.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod answers;
mod encapsulation;
mod errors;
mod fragments;
mod mss;
#[path = "../network/mod.rs"]
mod network;
mod packets;
mod random;
mod trace;
mod world;

use etherparse::TcpHeader;
use haflinger_xdp::program::types::mode as Mode;

use packets::{Ends, Hop, TCP};

/// Verdicts (enum xdp_action).
const DROP: u32 = 1;
const PASS: u32 = 2;
const TX: u32 = 3;
const REDIRECT: u32 = 4;

/// A flow of either family: what its client sends, and what its backend gets.
#[derive(Clone, Copy, Debug)]
struct Flow {
    client: Ends,
    sent: Ends,
}

impl Flow {
    const NAT: [(&str, &str, &str, &str); 2] = [
        ("198.51.100.7:40000", "192.0.2.80:443", "10.0.0.1:50000", "10.1.2.3:8443"),
        ("[2001:db8:c::7]:40000", "[2001:db8:80::80]:443", "[fd00:f::1]:50000", "[fd00:1::3]:8443"),
    ];

    /// Of IPv4 and of IPv6.
    fn nat() -> [Self; 2] {
        Self::NAT.map(|(client, vip, source, backend)| Self {
            client: Ends::new(client, vip),
            sent: Ends::new(source, backend),
        })
    }

    /// The same, but that the backend sees the client.
    fn routed() -> [Self; 2] {
        Self::nat()
            .map(|flow| Self { sent: Ends { source: flow.client.source, ..flow.sent }, ..flow })
    }

    /// What is forwarded in a direction, and what becomes of it.
    fn direction(self, to_backend: bool) -> (Ends, Ends) {
        if to_backend {
            (self.client, self.sent)
        } else {
            (self.sent.reversed(), self.client.reversed())
        }
    }

    fn for_mode(mode: Mode) -> [Self; 2] {
        if mode == Mode::MODE_ROUTED { Self::routed() } else { Self::nat() }
    }
}

/// A packet of some length in the middle of a connection.
fn segment(protocol: u8, ends: Ends, hop: Hop, payload: &[u8]) -> Vec<u8> {
    if protocol == TCP {
        let mut header = TcpHeader::new(0, 0, 0x0102_0304, 8192);
        header.ack = true;
        header.acknowledgment_number = 0x0506_0708;
        packets::tcp(ends, hop, &header, payload)
    } else {
        packets::udp(ends, hop, payload)
    }
}

/// The same packet one hop on.
fn hop_on(hop: Hop) -> Hop {
    Hop { ttl: hop.ttl - 1, ..hop }
}
