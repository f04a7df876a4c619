//! BGP-4 messages as octets (RFC 4271, 4).
//!
//! The codec crate `netgauze-bgp-pkt` stays behind this module: it writes every message but
//! NOTIFICATION and reads every attribute and capability value. What it leaves open is closed
//! here: an attribute over 255 octets gets its extended length, and no message that leaves is
//! longer than [`MESSAGE_MAX`].
//!
//! Invariant: [`decode_message`] is total. Its error is the NOTIFICATION to answer with.
//! This module never reads a clock or a socket.

mod attributes;
mod encode;
mod frame;
pub mod notification;
mod open;
mod pack;
mod prefix;
mod update;

pub use encode::{EncodeError, encode_message};
pub use frame::{Framing, HEADER_LEN, MESSAGE_MAX, frame};
pub use notification::{Cease, Notification};
pub use open::{Capabilities, Open};
pub use pack::{Path, announcements, withdrawals};
pub use update::{Attributes, Origin, Segment, Update};

use crate::model::Family;

/// What the OPENs of a session decided about its other messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Context {
    /// AS numbers have four octets (RFC 6793): both sides offered it.
    pub four_octet_as: bool,
    /// The peer is in the same AS.
    pub internal: bool,
}

/// A BGP message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// The first message of each side.
    Open(Open),
    /// Routes announced and withdrawn.
    Update(Update),
    /// The peer has now sent all its routes of a family (RFC 4724, 2).
    EndOfRib(Family),
    /// The session ends, and why.
    Notification(Notification),
    /// The peer is alive.
    Keepalive,
    /// The peer asks for all routes of a family again (RFC 2918). `None` when the family is none
    /// of ours or the message is a marker of RFC 7313: then there is nothing to do.
    RouteRefresh(Option<Family>),
}

/// Decodes one whole message, header included.
///
/// # Errors
/// The NOTIFICATION that RFC 4271, 6 (as revised by RFC 7606) demands. Octets that are not
/// exactly one message are a message of bad length.
pub fn decode_message(octets: &[u8], context: &Context) -> Result<Message, Notification> {
    let bad_length =
        || Notification::new(notification::HEADER, 2, octets.get(16..18).unwrap_or(&[]));
    match frame(octets) {
        Framing::Frame(length) if length == octets.len() => {}
        Framing::Malformed(answer) => return Err(answer),
        Framing::Frame(_) | Framing::NeedMore => return Err(bad_length()),
    }
    let body = &octets[HEADER_LEN..];
    match octets[HEADER_LEN - 1] {
        frame::TYPE_OPEN => Open::decode(body).map(Message::Open),
        frame::TYPE_UPDATE => update::decode(body, context),
        frame::TYPE_NOTIFICATION => Ok(Message::Notification(Notification::decode(body))),
        frame::TYPE_ROUTE_REFRESH => Ok(Message::RouteRefresh(decode_route_refresh(body))),
        // The framing lets only five types pass.
        _ => Ok(Message::Keepalive),
    }
}

/// ROUTE-REFRESH (RFC 2918, 3): AFI, a subtype (RFC 7313, 3.2; once reserved), SAFI.
fn decode_route_refresh(body: &[u8]) -> Option<Family> {
    match *body {
        [high, low, 0, safi] => Family::from_afi_safi(u16::from_be_bytes([high, low]), safi),
        _ => None,
    }
}
