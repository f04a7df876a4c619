//! What happens to the program, as the fuzzer's bytes say it: packets from either side, made by the
//! codec of the program's own tests and then spoilt a little, time, changes from outside.

use std::net::{IpAddr, SocketAddr};

use etherparse::TcpHeader;
use libfuzzer_sys::arbitrary::{self, Arbitrary};

use crate::host::FRAME_MAX;
use crate::packets::{self, Ends, Hop, TCP, UDP};
use crate::state::State;
use crate::world::{self, BACK, BACK_MAC, Change, FRONT, FRONT_MAC, Ground, World};

/// An input.
#[derive(Arbitrary, Debug)]
pub struct Plan {
    pub ground: Ground,
    pub steps: Vec<Step>,
}

/// Its parts.
#[derive(Arbitrary, Debug)]
pub enum Step {
    /// A client sends to a VIP.
    Client {
        client: u8,
        port: u8,
        service: u8,
        flags: u8,
        shape: Shape,
    },
    /// A client of a live flow goes on.
    Forth {
        flow: u8,
        flags: u8,
        shape: Shape,
    },
    /// Its backend answers.
    Back {
        flow: u8,
        flags: u8,
        shape: Shape,
    },
    /// Somebody sends an error about a packet of a live flow, as one of the ends received it.
    Error {
        flow: u8,
        to_client: bool,
        kind: u8,
        code: u8,
        mtu: u16,
        cut: u8,
        shape: Shape,
    },
    /// The same about a packet in its tunnel.
    TunnelError {
        flow: u8,
        mtu: u16,
        cut: u8,
        shape: Shape,
    },
    /// A packet of a live flow in fragments, of which the bits say which come.
    Fragments {
        flow: u8,
        forth: bool,
        bits: u8,
        number: u8,
        most: u8,
        shape: Shape,
    },
    Raw {
        to_front: bool,
        bytes: Vec<u8>,
    },
    Later {
        seconds: u16,
    },
    Sweep,
    Change(Change),
}

/// All of a packet but whose it is.
#[derive(Arbitrary, Debug)]
pub struct Shape {
    ttl: u8,
    class: u8,
    label: u16,
    /// Bits: fragmentable, two for the number of tags, without a UDP checksum, for somebody else.
    bits: u8,
    /// Options of IPv4 in words, extension headers of IPv6 in eight bytes each.
    options: u8,
    transport_options: u8,
    mss: u16,
    payload: u16,
    /// A byte to spoil, where the first says so, or to cut the frame at.
    spoil: (u8, u16, u8),
}

impl Shape {
    fn hop(&self) -> Hop {
        Hop {
            ttl: if self.ttl < 16 { self.ttl % 4 } else { 64 },
            traffic_class: self.class,
            dont_fragment: self.bits & 1 == 0,
            identification: self.label,
            flow_label: self.label.into(),
        }
    }

    fn payload(&self) -> Vec<u8> {
        // Few different bytes: sums that carry, or come out as zero, are likely.
        let bytes = self.label.to_be_bytes();
        bytes.into_iter().cycle().take(usize::from(self.payload % 1700)).collect()
    }

    /// The transport in its IP packet.
    fn packet(&self, ends: Ends, protocol: u8, flags: u8) -> Vec<u8> {
        let packet = if protocol == UDP {
            let mut packet = packets::udp(ends, self.hop(), &self.payload());
            if self.bits & 8 != 0 {
                let at = if ends.source.is_ipv4() { 20 } else { 40 } + 6;
                packet[at..at + 2].fill(0);
            }
            packet
        } else {
            packets::tcp(ends, self.hop(), &self.segment(flags), &self.payload())
        };
        self.with_options(packet, protocol)
    }

    fn segment(&self, flags: u8) -> TcpHeader {
        let mut header = TcpHeader::new(0, 0, 1000 + u32::from(flags), 8192);
        // What stacks send, and any other combination.
        let flags = match flags % 8 {
            0 => 0x02,
            1 => 0x12,
            2 | 3 => 0x10,
            4 => 0x11,
            5 => 0x04,
            6 => 0x14,
            _ => flags >> 2,
        };
        (header.fin, header.syn) = (flags & 1 != 0, flags & 2 != 0);
        (header.rst, header.psh) = (flags & 4 != 0, flags & 8 != 0);
        header.ack = flags & 0x10 != 0;
        header.acknowledgment_number = if header.ack { 1001 + u32::from(self.class) } else { 0 };
        let mut options = vec![1; usize::from(self.transport_options % 20)];
        options.extend([2, 4]);
        options.extend(self.mss.to_be_bytes());
        if self.transport_options < 128 {
            header.set_options_raw(&options).expect("they fit");
        }
        header
    }

    /// Puts options into an IPv4 packet, or destination options before the transport of IPv6.
    fn with_options(&self, mut packet: Vec<u8>, protocol: u8) -> Vec<u8> {
        let count = usize::from(self.options % 32);
        if count > 10 {
            return packet;
        }
        let (at, added) = if packet[0] >> 4 == 4 {
            (20, vec![1; 4 * count])
        } else {
            let header = |index| {
                let next = if index + 1 == count { protocol } else { 60 };
                [next, 0, 1, 4, 0, 0, 0, 0]
            };
            (40, (0..count).flat_map(header).collect())
        };
        let field = if at == 20 { 2..4 } else { 4..6 };
        let length = u16::from_be_bytes(packet[field.clone()].try_into().expect("two bytes"));
        packet[field].copy_from_slice(&(length + added.len() as u16).to_be_bytes());
        if at == 40 && count > 0 {
            packet[6] = 60;
        }
        packet.splice(at..at, added);
        if at == 20 {
            let end = 20 + 4 * count;
            packet[0] = 0x40 | (end / 4) as u8;
            packet[10..12].fill(0);
            let sum = packets::checksum(&packet[..end]);
            packet[10..12].copy_from_slice(&sum.to_be_bytes());
        }
        packet
    }

    /// The packet in a frame to an interface.
    fn frame(&self, to_front: bool, packet: &[u8]) -> (u32, Vec<u8>) {
        let tag = |number| [0x81, 0, 0, number];
        let tags: Vec<[u8; 4]> = (1..=self.bits >> 1 & 3).map(tag).collect();
        let mine = if to_front { FRONT_MAC } else { BACK_MAC };
        // Every MAC that is not 0xf0 and up is this host's.
        let to = if self.bits >= 0xf0 { [self.bits; 6] } else { mine };
        let from = if to_front { world::CLIENT_ROUTER } else { world::BACKEND_ROUTER };
        let mut frame = packets::frame(to, from, &tags, packet);
        let (spoils, at, byte) = self.spoil;
        let at = usize::from(at) % frame.len();
        match spoils {
            0..=15 => frame[at.min(127)] ^= byte,
            16..=19 => frame.truncate(at.max(14)),
            20..=23 => frame.resize(frame.len() + usize::from(byte), 0),
            _ => {}
        }
        frame.truncate(FRAME_MAX);
        (if to_front { FRONT } else { BACK }, frame)
    }
}

/// The tuple of a live flow as one side sends it; its protocol; its backend.
fn ends_of(state: &State, number: u8, forth: bool) -> Option<(Ends, u8, IpAddr)> {
    let count = state.live().count();
    let (_, flow) = state.live().nth(usize::from(number) % count.max(1))?;
    let end = |ip, port: u16| SocketAddr::new(world::ip_of(ip), u16::from_be(port));
    let client = Ends {
        source: end(&flow.client.source, flow.client.source_port),
        destination: end(&flow.client.destination, flow.client.destination_port),
    };
    let backend = Ends {
        source: end(&flow.backend, flow.backend_port),
        destination: end(&flow.source, flow.source_port),
    };
    let ends = if forth { client } else { backend };
    // A tunnel of another family: nobody answers through it.
    let same = ends.source.is_ipv4() == ends.destination.is_ipv4();
    same.then(|| (ends, flow.client.protocol, backend.source.ip()))
}

impl Step {
    /// The frames that it brings, and by which interface.
    pub fn frames(&self, world: &World, state: &State) -> Vec<(u32, Vec<u8>)> {
        self.try_frames(world, state).unwrap_or_default()
    }

    fn try_frames(&self, world: &World, state: &State) -> Option<Vec<(u32, Vec<u8>)>> {
        let one = |to_front: bool, shape: &Shape, packet: &[u8]| {
            Some(vec![shape.frame(to_front, packet)])
        };
        match self {
            Self::Client { client, port, service, flags, shape } => {
                let served =
                    world.services.get(usize::from(*service) % world.services.len().max(1))?;
                let source = world::client(*client, *port, served.vip.is_ipv6());
                let ends = Ends { source, destination: served.vip };
                one(true, shape, &shape.packet(ends, served.protocol, *flags))
            }
            Self::Forth { flow, flags, shape } => {
                let (ends, protocol, _) = ends_of(state, *flow, true)?;
                one(true, shape, &shape.packet(ends, protocol, *flags))
            }
            Self::Back { flow, flags, shape } => {
                let (ends, protocol, _) = ends_of(state, *flow, false)?;
                one(false, shape, &shape.packet(ends, protocol, *flags))
            }
            Self::Error { flow, to_client, kind, code, mtu, cut, shape } => {
                // To the client goes what is about a packet that the backend received.
                let (ends, protocol, _) = ends_of(state, *flow, !to_client)?;
                let quote = shape.packet(ends.reversed(), protocol, 2);
                let quote = &quote[..quote.len().min(usize::from(*cut) * 4)];
                let kinds = if ends.source.is_ipv4() { [3, 11, 12, 8] } else { [1, 2, 3, 4] };
                let kind = (kinds[usize::from(kind % 4)], *code % 8, u32::from(*mtu));
                let router = if kind.2 & 1 == 0 { ends.source.ip() } else { stranger(ends) };
                let packet = packets::icmp(router, ends.destination.ip(), shape.hop(), kind, quote);
                one(!to_client, shape, &packet)
            }
            Self::TunnelError { flow, mtu, cut, shape } => {
                let (ends, protocol, backend) = ends_of(state, *flow, true)?;
                let inner = shape.packet(ends, protocol, 2);
                let own: IpAddr = world::TUNNELS[usize::from(backend.is_ipv6())].parse().ok()?;
                let number = if ends.source.is_ipv4() { 4 } else { 41 };
                let outer = packets::ip(own, backend, number, Hop::default(), &inner);
                let quote = &outer[..outer.len().min(usize::from(*cut) * 8)];
                let (kind, code, rest) =
                    if own.is_ipv4() { (3, 4, u32::from(*mtu)) } else { (2, 0, u32::from(*mtu)) };
                let packet = packets::icmp(backend, own, shape.hop(), (kind, code, rest), quote);
                one(false, shape, &packet)
            }
            Self::Fragments { flow, forth, bits, number, most, shape } => {
                let (ends, protocol, _) = ends_of(state, *flow, *forth)?;
                let plain = if protocol == TCP {
                    packets::tcp(ends, shape.hop(), &shape.segment(2), &shape.payload())
                } else {
                    packets::udp(ends, shape.hop(), &shape.payload())
                };
                let most = 8 * (1 + usize::from(*most));
                let parts = packets::fragments(&plain, u32::from(*number % 4), most);
                let come = (0..8).zip(&parts).filter(|(bit, _)| bits >> bit & 1 == 0);
                Some(come.map(|(_, part)| shape.frame(*forth, part)).collect())
            }
            Self::Raw { to_front, bytes } => {
                let bytes = bytes[..bytes.len().min(FRAME_MAX)].to_vec();
                // The kernel gives no program less than a header of Ethernet.
                (bytes.len() >= 14).then(|| vec![(if *to_front { FRONT } else { BACK }, bytes)])
            }
            Self::Later { .. } | Self::Sweep | Self::Change(_) => None,
        }
    }
}

/// A router on the way.
fn stranger(ends: Ends) -> IpAddr {
    let text = if ends.source.is_ipv4() { "203.0.113.9" } else { "2001:db8:9::9" };
    text.parse().expect("an address")
}
