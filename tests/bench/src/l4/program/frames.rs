//! The frames that are handed to the program: Ethernet, IP without options, TCP or UDP.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context as _, Result, bail};
use etherparse::{IpHeaders, IpNumber, Ipv4Header, Ipv6Header, PacketBuilder, TcpHeader};
use haflinger_xdp::harness::FRAME_MIN;

const TTL: u8 = 64;
const PAYLOAD: [u8; 40] = [b'.'; 40];

/// What a frame carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Carries {
    Syn,
    /// Acknowledges so much.
    SynAck(u32),
    /// The end of the handshake, and whatever comes after it: acknowledges so much.
    Ack(u32),
    Datagram,
}

/// From one address and port to another, of one family.
pub(super) fn frame(from: SocketAddr, to: SocketAddr, carries: Carries) -> Result<Vec<u8>> {
    let builder = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
    // Lengths, protocols and checksums are filled in by the builder.
    let addresses = match (from.ip(), to.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let mut header = Ipv4Header::new(0, TTL, IpNumber::TCP, from.octets(), to.octets())?;
            header.dont_fragment = true;
            IpHeaders::Ipv4(header, etherparse::Ipv4Extensions::default())
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let header = Ipv6Header {
                hop_limit: TTL,
                source: from.octets(),
                destination: to.octets(),
                ..Ipv6Header::default()
            };
            IpHeaders::Ipv6(header, etherparse::Ipv6Extensions::default())
        }
        _ => bail!("{from} and {to} are of two families"),
    };
    let builder = builder.ip(addresses);
    let mut bytes = Vec::with_capacity(160);
    let mut tcp = TcpHeader::new(from.port(), to.port(), 1000, 64000);
    match carries {
        Carries::Datagram => {
            builder.udp(from.port(), to.port()).write(&mut bytes, &PAYLOAD)?;
        }
        Carries::Syn => {
            tcp.syn = true;
            builder.tcp_header(tcp).write(&mut bytes, &[])?;
        }
        Carries::SynAck(number) => {
            (tcp.syn, tcp.ack, tcp.acknowledgment_number) = (true, true, number);
            builder.tcp_header(tcp).write(&mut bytes, &[])?;
        }
        Carries::Ack(number) => {
            (tcp.sequence_number, tcp.ack, tcp.acknowledgment_number) = (1001, true, number);
            builder.tcp_header(tcp).write(&mut bytes, &PAYLOAD)?;
        }
    }
    // Short frames are padded on any Ethernet; here to what the harness lays out.
    bytes.resize(bytes.len().max(FRAME_MIN), 0);
    Ok(bytes)
}

/// Source and destination of such a frame, as the program left them.
pub(super) fn ends(frame: &[u8]) -> Result<(SocketAddr, SocketAddr)> {
    let v6 = match frame.get(12..14).context("a frame without a type")? {
        [0x08, 0x00] => false,
        [0x86, 0xdd] => true,
        other => bail!("a frame of type {other:?}"),
    };
    let (source, destination, ports) = if v6 { (22, 38, 54) } else { (26, 30, 34) };
    let address = |at: usize| -> Result<IpAddr> {
        let bytes = frame.get(at..).context("a frame without addresses")?;
        Ok(match v6 {
            false => IpAddr::from(*bytes.first_chunk::<4>().context("a cut address")?),
            true => IpAddr::from(*bytes.first_chunk::<16>().context("a cut address")?),
        })
    };
    let port = |at: usize| -> Result<u16> {
        let bytes = frame.get(at..).and_then(|bytes| bytes.first_chunk());
        Ok(u16::from_be_bytes(*bytes.context("a frame without ports")?))
    };
    let source = SocketAddr::new(address(source)?, port(ports)?);
    Ok((source, SocketAddr::new(address(destination)?, port(ports + 2)?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_has_the_ends_that_it_was_made_with_and_is_long_enough() {
        for (from, to) in
            [("10.0.0.1:1024", "192.0.2.1:80"), ("[2001:db8::1]:1024", "[2001:db8::2]:80")]
        {
            let (from, to) = (from.parse().unwrap(), to.parse().unwrap());
            let all = [Carries::Syn, Carries::SynAck(1), Carries::Ack(1), Carries::Datagram];
            for carries in all {
                let frame = frame(from, to, carries).unwrap();
                assert_eq!(ends(&frame).unwrap(), (from, to));
                assert!(frame.len() >= FRAME_MIN);
            }
        }
        let (v4, v6) = ("10.0.0.1:1".parse().unwrap(), "[2001:db8::1]:1".parse().unwrap());
        assert!(frame(v4, v6, Carries::Syn).is_err());
    }
}
