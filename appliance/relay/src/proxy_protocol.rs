//! The PROXY protocol header, versions 1 and 2 (`proxy-protocol.txt` of the HAProxy project).
//!
//! Invariant: what [`encode`] writes, [`decode`] reads back, with the exact length. The decoder
//! is total: any bytes give a header, a request for more, or a typed error, and it never looks
//! further than [`V1_LENGTH_MAX`] or [`V2_LENGTH_MAX`]. Nothing here touches a socket.
//!
//! Version 1 is one line:
//!
//! ```text
//! PROXY TCP4 192.0.2.1 198.51.100.1 56324 443\r\n        PROXY UNKNOWN\r\n
//! ```
//!
//! Version 2 is binary:
//!
//! ```text
//!  0                            12  13  14      16
//! | 0D 0A 0D 0A 00 0D 0A 51 55 49 54 0A | ver/cmd | fam/proto | length BE | addresses, TLVs |
//!                                          2x  x=0 LOCAL, 1 PROXY
//!                                                    11 TCP4  12 UDP4  21 TCP6  22 UDP6
//! ```

use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use haflinger_core::Protocol;

/// Longest version 1 header, CRLF included (section 2.1).
pub const V1_LENGTH_MAX: usize = 107;

/// Longest version 2 header that is accepted. The format could carry 65,551 bytes; senders in
/// the field stay below 1 KiB even with a client certificate's names in TLVs, and a stranger
/// should not make us hold more.
pub const V2_LENGTH_MAX: usize = 4096;

const V2_SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
const V2_PREAMBLE: usize = 16;
const V1_PREFIX: &[u8] = b"PROXY ";

/// Which form of the header is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// Text.
    V1,
    /// Binary.
    V2,
}

/// What a header says about the connection that it precedes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Header {
    /// The connection is the sender's own, such as a health check, or of a kind that the
    /// format does not describe: `UNKNOWN` in version 1, `LOCAL` or `AF_UNSPEC` in version 2.
    Local,
    /// Relayed for a client. Both addresses are of one family.
    Relayed {
        /// TCP, or UDP in version 2.
        protocol: Protocol,
        /// The client.
        source: SocketAddr,
        /// Where the client connected to.
        destination: SocketAddr,
    },
}

/// What the first bytes of a connection hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decoded {
    /// A whole header.
    Header {
        /// What it says.
        header: Header,
        /// Its length: payload begins here.
        length: usize,
    },
    /// A proper beginning: read more and decode again from the start.
    Incomplete,
}

/// Why the first bytes of a connection are no PROXY protocol header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Neither version's signature.
    #[error("no proxy protocol signature")]
    Signature,
    /// Version 1: no CRLF within the permitted length, or version 2: longer than accepted.
    #[error("proxy protocol header is longer than permitted")]
    TooLong,
    /// Version 1: a line that is not made as section 2.1 says.
    #[error("malformed proxy protocol version 1 line")]
    Line,
    /// Version 2: a version other than 2.
    #[error("unknown proxy protocol version")]
    Version,
    /// Version 2: a command other than LOCAL and PROXY.
    #[error("unknown proxy protocol command")]
    Command,
    /// Version 2: an address family or protocol that section 2.2 does not name.
    #[error("unknown proxy protocol address family or transport")]
    Family,
    /// Version 2: the length does not cover the addresses of the family.
    #[error("proxy protocol header is shorter than its addresses")]
    TooShort,
}

/// Appends the header to `out`. Version 1 cannot describe UDP and two addresses of different
/// families fit neither version: both are written as [`Header::Local`].
pub fn encode(version: Version, header: Header, out: &mut Vec<u8>) {
    match version {
        Version::V1 => encode_v1(header, out),
        Version::V2 => encode_v2(header, out),
    }
}

fn encode_v1(header: Header, out: &mut Vec<u8>) {
    if let Header::Relayed { protocol: Protocol::Tcp, source, destination } = header
        && source.is_ipv4() == destination.is_ipv4()
    {
        let family = if source.is_ipv4() { "TCP4" } else { "TCP6" };
        let (from, to) = (source.ip(), destination.ip());
        let (from_port, to_port) = (source.port(), destination.port());
        write!(out, "PROXY {family} {from} {to} {from_port} {to_port}\r\n")
            .expect("writing to a vector cannot fail");
    } else {
        out.extend_from_slice(b"PROXY UNKNOWN\r\n");
    }
}

fn encode_v2(header: Header, out: &mut Vec<u8>) {
    out.extend_from_slice(&V2_SIGNATURE);
    let Header::Relayed { protocol, source, destination } = header else {
        out.extend_from_slice(&[0x20, 0x00, 0, 0]);
        return;
    };
    let transport = match protocol {
        Protocol::Tcp => 1,
        Protocol::Udp => 2,
    };
    match (source.ip(), destination.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            out.extend_from_slice(&[0x21, 0x10 | transport, 0, 12]);
            out.extend_from_slice(&from.octets());
            out.extend_from_slice(&to.octets());
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            out.extend_from_slice(&[0x21, 0x20 | transport, 0, 36]);
            out.extend_from_slice(&from.octets());
            out.extend_from_slice(&to.octets());
        }
        _ => {
            out.extend_from_slice(&[0x20, 0x00, 0, 0]);
            return;
        }
    }
    out.extend_from_slice(&source.port().to_be_bytes());
    out.extend_from_slice(&destination.port().to_be_bytes());
}

/// Reads a header of either version from the beginning of `bytes`.
///
/// # Errors
///
/// When no continuation of `bytes` could be a header that is accepted here.
pub fn decode(bytes: &[u8]) -> Result<Decoded, DecodeError> {
    if begins_alike(bytes, &V2_SIGNATURE) {
        decode_v2(bytes)
    } else if begins_alike(bytes, V1_PREFIX) {
        decode_v1(bytes)
    } else {
        Err(DecodeError::Signature)
    }
}

/// Whether the shorter of both is a prefix of the longer.
fn begins_alike(bytes: &[u8], signature: &[u8]) -> bool {
    bytes.iter().zip(signature).all(|(byte, expected)| byte == expected)
}

fn decode_v1(bytes: &[u8]) -> Result<Decoded, DecodeError> {
    let window = &bytes[..bytes.len().min(V1_LENGTH_MAX)];
    let Some(end) = window.windows(2).position(|pair| pair == b"\r\n") else {
        let full = window.len() == V1_LENGTH_MAX;
        return if full { Err(DecodeError::TooLong) } else { Ok(Decoded::Incomplete) };
    };
    let length = end + 2;
    let line = std::str::from_utf8(&window[V1_PREFIX.len().min(end)..end])
        .map_err(|_| DecodeError::Line)?;
    // "the receiver must ignore anything presented before the CRLF" after UNKNOWN.
    if line == "UNKNOWN" || line.starts_with("UNKNOWN ") {
        return Ok(Decoded::Header { header: Header::Local, length });
    }
    let mut words = line.split(' ');
    let mut word = || words.next().ok_or(DecodeError::Line);
    let (family, from, to, from_port, to_port) = (word()?, word()?, word()?, word()?, word()?);
    if words.next().is_some() {
        return Err(DecodeError::Line);
    }
    let (source, destination) = (v1_address(family, from)?, v1_address(family, to)?);
    let header = Header::Relayed {
        protocol: Protocol::Tcp,
        source: SocketAddr::new(source, v1_port(from_port)?),
        destination: SocketAddr::new(destination, v1_port(to_port)?),
    };
    Ok(Decoded::Header { header, length })
}

fn v1_address(family: &str, text: &str) -> Result<IpAddr, DecodeError> {
    let address = match family {
        "TCP4" => text.parse::<Ipv4Addr>().map(IpAddr::V4),
        "TCP6" => text.parse::<Ipv6Addr>().map(IpAddr::V6),
        _ => return Err(DecodeError::Line),
    };
    address.map_err(|_| DecodeError::Line)
}

/// Decimal without sign and without leading zeros (section 2.1).
fn v1_port(text: &str) -> Result<u16, DecodeError> {
    let canonical = text == "0" || !text.starts_with(['0', '+']);
    if !canonical {
        return Err(DecodeError::Line);
    }
    text.parse().map_err(|_| DecodeError::Line)
}

fn decode_v2(bytes: &[u8]) -> Result<Decoded, DecodeError> {
    let Some((preamble, rest)) = bytes.split_first_chunk::<V2_PREAMBLE>() else {
        return Ok(Decoded::Incomplete);
    };
    let [.., version_command, family, high, low] = *preamble;
    if version_command >> 4 != 2 {
        return Err(DecodeError::Version);
    }
    let body_length = usize::from(u16::from_be_bytes([high, low]));
    let length = V2_PREAMBLE + body_length;
    if length > V2_LENGTH_MAX {
        return Err(DecodeError::TooLong);
    }
    let relayed = match version_command & 0x0f {
        0 => false,
        1 => true,
        _ => return Err(DecodeError::Command),
    };
    let Some(body) = rest.get(..body_length) else {
        return Ok(Decoded::Incomplete);
    };
    // "the receiver must … ignore the protocol block including the family" of LOCAL.
    let header = if relayed { v2_addresses(family, body)? } else { Header::Local };
    Ok(Decoded::Header { header, length })
}

fn v2_addresses(family: u8, body: &[u8]) -> Result<Header, DecodeError> {
    let protocol = match family & 0x0f {
        0 => None,
        1 => Some(Protocol::Tcp),
        2 => Some(Protocol::Udp),
        _ => return Err(DecodeError::Family),
    };
    let (source, destination) = match family >> 4 {
        0 => return Ok(Header::Local),
        1 => v2_pair::<4, 12>(body)?,
        2 => v2_pair::<16, 36>(body)?,
        // AF_UNIX: valid, and nothing that an address could be made of.
        3 if body.len() >= 216 => return Ok(Header::Local),
        3 => return Err(DecodeError::TooShort),
        _ => return Err(DecodeError::Family),
    };
    Ok(match protocol {
        Some(protocol) => Header::Relayed { protocol, source, destination },
        None => Header::Local,
    })
}

/// Two addresses of `WIDTH` bytes and two ports, `TOTAL` bytes in all. TLVs behind them are
/// skipped by the header's length.
fn v2_pair<const WIDTH: usize, const TOTAL: usize>(
    body: &[u8],
) -> Result<(SocketAddr, SocketAddr), DecodeError>
where
    IpAddr: From<[u8; WIDTH]>,
{
    let fixed = body.first_chunk::<TOTAL>().ok_or(DecodeError::TooShort)?;
    let address = |at: usize| -> Result<IpAddr, DecodeError> {
        let octets: [u8; WIDTH] =
            fixed[at..at + WIDTH].try_into().map_err(|_| DecodeError::TooShort)?;
        Ok(IpAddr::from(octets))
    };
    let port = |at: usize| u16::from_be_bytes([fixed[at], fixed[at + 1]]);
    let ports_at = 2 * WIDTH;
    Ok((
        SocketAddr::new(address(0)?, port(ports_at)),
        SocketAddr::new(address(WIDTH)?, port(ports_at + 2)),
    ))
}

#[cfg(test)]
mod tests;
