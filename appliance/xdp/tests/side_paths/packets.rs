//! Packets, built by a codec that knows nothing of the program; every checksum is computed whole.

use std::net::{IpAddr, SocketAddr};

use etherparse::{
    IpDscp, IpEcn, IpFragOffset, IpNumber, Ipv4Header, Ipv6FlowLabel, Ipv6FragmentHeader,
    Ipv6Header, TcpHeader, UdpHeader,
};

/// Protocol numbers.
pub(crate) const ICMP: u8 = 1;
pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
pub(crate) const ICMPV6: u8 = 58;

/// One direction of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ends {
    pub(crate) source: SocketAddr,
    pub(crate) destination: SocketAddr,
}

impl Ends {
    pub(crate) fn new(source: &str, destination: &str) -> Self {
        Self { source: source.parse().unwrap(), destination: destination.parse().unwrap() }
    }

    pub(crate) fn reversed(self) -> Self {
        Self { source: self.destination, destination: self.source }
    }
}

/// What an IP header says beside its addresses, the same for both families.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Hop {
    pub(crate) ttl: u8,
    pub(crate) traffic_class: u8,
    pub(crate) dont_fragment: bool,
    pub(crate) identification: u16,
    pub(crate) flow_label: u32,
}

impl Default for Hop {
    fn default() -> Self {
        Self { ttl: 64, traffic_class: 0, dont_fragment: true, identification: 0, flow_label: 0 }
    }
}

/// The internet checksum of RFC 1071.
pub(crate) fn checksum(bytes: &[u8]) -> u16 {
    let mut sum = 0_u32;
    for pair in bytes.chunks(2) {
        sum += u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap()
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

/// What the checksums of transports cover beside the segment.
pub(crate) fn pseudo_header(
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    length: usize,
) -> Vec<u8> {
    let mut bytes = octets(source);
    bytes.extend(octets(destination));
    bytes.extend([0, protocol]);
    bytes.extend(u16::try_from(length).unwrap().to_be_bytes());
    bytes
}

/// An IP packet.
pub(crate) fn ip(
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    hop: Hop,
    payload: &[u8],
) -> Vec<u8> {
    let length = u16::try_from(payload.len()).unwrap();
    let mut bytes = match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let number = IpNumber(protocol);
            let (source, destination) = (source.octets(), destination.octets());
            let mut header = Ipv4Header::new(length, hop.ttl, number, source, destination).unwrap();
            header.dscp = IpDscp::try_new(hop.traffic_class >> 2).unwrap();
            header.ecn = IpEcn::try_new(hop.traffic_class & 3).unwrap();
            header.dont_fragment = hop.dont_fragment;
            header.identification = hop.identification;
            header.header_checksum = header.calc_header_checksum();
            header.to_bytes().to_vec()
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => Ipv6Header {
            traffic_class: hop.traffic_class,
            flow_label: Ipv6FlowLabel::try_new(hop.flow_label).unwrap(),
            payload_length: length,
            next_header: IpNumber(protocol),
            hop_limit: hop.ttl,
            source: source.octets(),
            destination: destination.octets(),
        }
        .to_bytes()
        .to_vec(),
        _ => panic!("addresses of two families"),
    };
    bytes.extend(payload);
    bytes
}

/// A TCP segment of the flow, in its IP packet.
pub(crate) fn tcp(ends: Ends, hop: Hop, header: &TcpHeader, payload: &[u8]) -> Vec<u8> {
    let mut header = header.clone();
    header.source_port = ends.source.port();
    header.destination_port = ends.destination.port();
    header.checksum = 0;
    let mut segment = header.to_bytes().to_vec();
    segment.extend(payload);
    let (source, destination) = (ends.source.ip(), ends.destination.ip());
    let mut summed = pseudo_header(source, destination, TCP, segment.len());
    summed.extend(&segment);
    segment[16..18].copy_from_slice(&checksum(&summed).to_be_bytes());
    ip(source, destination, TCP, hop, &segment)
}

/// A datagram of the flow, in its IP packet.
pub(crate) fn udp(ends: Ends, hop: Hop, payload: &[u8]) -> Vec<u8> {
    let (source, destination) = (ends.source.ip(), ends.destination.ip());
    let header = UdpHeader {
        source_port: ends.source.port(),
        destination_port: ends.destination.port(),
        length: u16::try_from(8 + payload.len()).unwrap(),
        checksum: 0,
    };
    let mut segment = header.to_bytes().to_vec();
    segment.extend(payload);
    let mut summed = pseudo_header(source, destination, UDP, segment.len());
    summed.extend(&segment);
    let sum = checksum(&summed);
    segment[6..8].copy_from_slice(&(if sum == 0 { 0xffff } else { sum }).to_be_bytes());
    ip(source, destination, UDP, hop, &segment)
}

/// An ICMP error of the family of `source`, in its IP packet.
pub(crate) fn icmp(
    source: IpAddr,
    destination: IpAddr,
    hop: Hop,
    (kind, code, rest): (u8, u8, u32),
    quote: &[u8],
) -> Vec<u8> {
    let protocol = if source.is_ipv4() { ICMP } else { ICMPV6 };
    let mut message = vec![kind, code, 0, 0];
    message.extend(rest.to_be_bytes());
    message.extend(quote);
    let mut summed = match source {
        IpAddr::V4(_) => Vec::new(),
        IpAddr::V6(_) => pseudo_header(source, destination, protocol, message.len()),
    };
    summed.extend(&message);
    message[2..4].copy_from_slice(&checksum(&summed).to_be_bytes());
    ip(source, destination, protocol, hop, &message)
}

/// Cuts a packet without options or extension headers so that no fragment's payload is longer
/// than `most`, a multiple of 8.
pub(crate) fn fragments(packet: &[u8], identification: u32, most: usize) -> Vec<Vec<u8>> {
    let v4 = packet[0] >> 4 == 4;
    let payload = &packet[if v4 { 20 } else { 40 }..];
    let cut = |(index, part): (usize, &[u8])| {
        let offset = IpFragOffset::try_new(u16::try_from(index * most / 8).unwrap()).unwrap();
        let more = (index + 1) * most < payload.len();
        let mut fragment = if v4 {
            let mut header = Ipv4Header::from_slice(packet).unwrap().0;
            header.set_payload_len(part.len()).unwrap();
            header.identification = u16::try_from(identification).unwrap();
            header.dont_fragment = false;
            header.more_fragments = more;
            header.fragment_offset = offset;
            header.header_checksum = header.calc_header_checksum();
            header.to_bytes().to_vec()
        } else {
            let mut header = Ipv6Header::from_slice(packet).unwrap().0;
            let next =
                std::mem::replace(&mut header.next_header, IpNumber::IPV6_FRAGMENTATION_HEADER);
            header.set_payload_length(8 + part.len()).unwrap();
            let extension = Ipv6FragmentHeader::new(next, offset, more, identification);
            [header.to_bytes().as_slice(), extension.to_bytes().as_slice()].concat()
        };
        fragment.extend(part);
        fragment
    };
    payload.chunks(most).enumerate().map(cut).collect()
}

/// A frame: who it is for and from, its tags, an IP packet.
pub(crate) fn frame(to: [u8; 6], from: [u8; 6], tags: &[[u8; 4]], packet: &[u8]) -> Vec<u8> {
    let kind = if packet[0] >> 4 == 4 { [0x08, 0x00] } else { [0x86, 0xdd] };
    [&to[..], &from[..], &tags.concat(), &kind, packet].concat()
}
