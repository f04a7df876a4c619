//! A second, slower reading of a frame that the program has forwarded or answered.

use crate::packets::{ICMP, ICMPV6, TCP, UDP};

/// Where things are in an IP packet.
#[derive(Clone, Copy, Debug)]
pub struct View {
    pub v4: bool,
    /// As its header says.
    pub length: usize,
    pub protocol: u8,
    pub transport: usize,
    pub is_fragment: bool,
    /// It has no transport header.
    pub is_later: bool,
    /// Of IPv6's fragment header.
    fragment_header: Option<usize>,
}

pub fn half(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

pub fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

/// The network layer of a frame, and its tags.
pub fn network(frame: &[u8]) -> (&[u8], &[u8]) {
    let mut at = 12;
    while at < 20 && matches!(half(frame, at), 0x8100 | 0x88a8) {
        at += 4;
    }
    (&frame[at + 2..], &frame[12..at])
}

impl View {
    /// Of a packet that was found good.
    pub fn of(packet: &[u8]) -> Self {
        if packet[0] >> 4 == 4 {
            let fragment = half(packet, 6);
            return Self {
                v4: true,
                length: half(packet, 2).into(),
                protocol: packet[9],
                transport: usize::from(packet[0] & 15) * 4,
                is_fragment: fragment & 0x3fff != 0,
                is_later: fragment & 0x1fff != 0,
                fragment_header: None,
            };
        }
        let mut view = Self {
            v4: false,
            length: 40 + usize::from(half(packet, 4)),
            protocol: packet[6],
            transport: 40,
            is_fragment: false,
            is_later: false,
            fragment_header: None,
        };
        while !view.is_later && matches!(view.protocol, 0 | 43 | 44 | 60) {
            let header = &packet[view.transport..];
            if view.protocol == 44 {
                let offset = half(header, 2);
                view.fragment_header = Some(view.transport);
                view.is_fragment |= offset & 0xfff9 != 0;
                view.is_later = offset & 0xfff8 != 0;
                view.transport += 8;
            } else {
                view.transport += usize::from(header[1]) * 8 + 8;
            }
            view.protocol = header[0];
        }
        view
    }

    pub fn source<'a>(&self, packet: &'a [u8]) -> &'a [u8] {
        if self.v4 { &packet[12..16] } else { &packet[8..24] }
    }

    pub fn destination<'a>(&self, packet: &'a [u8]) -> &'a [u8] {
        if self.v4 { &packet[16..20] } else { &packet[24..40] }
    }

    pub fn set_addresses(&self, packet: &mut [u8], source: &[u8], destination: &[u8]) {
        let (from, to) = if self.v4 { (12..16, 16..20) } else { (8..24, 24..40) };
        packet[from].copy_from_slice(source);
        packet[to].copy_from_slice(destination);
    }

    pub fn hops(&self) -> usize {
        if self.v4 { 8 } else { 7 }
    }

    /// Where the identification of a fragment is.
    pub fn identification(&self) -> Option<std::ops::Range<usize>> {
        if self.v4 { Some(4..6) } else { self.fragment_header.map(|at| at + 4..at + 8) }
    }

    /// Where the checksum of the transport is.
    pub fn check(&self) -> Option<usize> {
        let within = match self.protocol {
            TCP => 16,
            UDP => 6,
            ICMP | ICMPV6 => 2,
            _ => return None,
        };
        (!self.is_later).then_some(self.transport + within)
    }

    /// Both sums, in which nothing changes when a packet is changed and its checksums with it: that
    /// of the header of IPv4, and that of what the transport's checksum covers, as far as it is
    /// there. One's complement: modulo 65,535.
    pub fn sums(&self, packet: &[u8]) -> (u64, u64) {
        let header = if self.v4 { sum(&packet[..self.transport]) } else { 0 };
        let mut covered = sum(&packet[self.transport..self.length.min(packet.len())]);
        if self.protocol != ICMP {
            covered += sum(self.source(packet)) + sum(self.destination(packet));
        }
        (header % 65_535, covered % 65_535)
    }

    /// What `sums` is of a packet whose checksums are right.
    pub fn is_right(&self, packet: &[u8]) -> bool {
        let (header, covered) = self.sums(packet);
        let pseudo = u64::from(self.protocol) + (self.length - self.transport) as u64;
        let pseudo = if self.protocol == ICMP { 0 } else { pseudo };
        header == 0 && (covered + pseudo).is_multiple_of(65_535)
    }
}

/// The sum of 16-bit words, an odd byte being the upper half of the last.
pub fn sum(bytes: &[u8]) -> u64 {
    let word = |pair: &[u8]| u64::from(pair[0]) << 8 | u64::from(pair.get(1).copied().unwrap_or(0));
    bytes.chunks(2).map(word).sum()
}
