//! Framing (RFC 4271, 4.1): where one message ends, and whether there can be one at all.
//!
//! ```text
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |                 Marker: 16 octets, all ones                   |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |          Length               |      Type     |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! ```
//!
//! Invariant: a malformed header is reported as soon as the octets that prove it are there;
//! "need more" is never the answer to a message that could not become valid.

use super::notification::{HEADER, Notification};

/// Octets of marker, length and type.
pub const HEADER_LEN: usize = 19;
/// Longest message (RFC 4271, 4.1). Extended messages (RFC 8654) are not negotiated.
pub const MESSAGE_MAX: usize = 4096;

pub(super) const TYPE_OPEN: u8 = 1;
pub(super) const TYPE_UPDATE: u8 = 2;
pub(super) const TYPE_NOTIFICATION: u8 = 3;
pub(super) const TYPE_KEEPALIVE: u8 = 4;
pub(super) const TYPE_ROUTE_REFRESH: u8 = 5;

/// What the octets received so far begin with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Framing {
    /// The start of a message whose rest has not come yet.
    NeedMore,
    /// A whole message of this many octets.
    Frame(usize),
    /// Nothing that could become a message: the NOTIFICATION to answer with.
    Malformed(Notification),
}

/// Finds the first message in `octets`.
#[must_use]
pub fn frame(octets: &[u8]) -> Framing {
    let marker = &octets[..octets.len().min(16)];
    if marker.iter().any(|octet| *octet != 0xff) {
        return Framing::Malformed(Notification::new(HEADER, 1, &[]));
    }
    let Some(length_octets) = octets.get(16..18) else { return Framing::NeedMore };
    let length = usize::from(u16::from_be_bytes([length_octets[0], length_octets[1]]));
    if !(HEADER_LEN..=MESSAGE_MAX).contains(&length) {
        return Framing::Malformed(Notification::new(HEADER, 2, length_octets));
    }
    let Some(kind) = octets.get(18).copied() else { return Framing::NeedMore };
    // RFC 4271, 6.1: the shortest length of each type; a KEEPALIVE and a ROUTE-REFRESH
    // (RFC 2918, 3) have one length only.
    let fits = match kind {
        TYPE_OPEN => length >= 29,
        TYPE_UPDATE => length >= 23,
        TYPE_NOTIFICATION => length >= 21,
        TYPE_KEEPALIVE => length == 19,
        TYPE_ROUTE_REFRESH => length == 23,
        _ => return Framing::Malformed(Notification::new(HEADER, 3, &[kind])),
    };
    if !fits {
        return Framing::Malformed(Notification::new(HEADER, 2, length_octets));
    }
    if octets.len() < length { Framing::NeedMore } else { Framing::Frame(length) }
}
