//! NOTIFICATION (RFC 4271, 4.5 and 6): what went wrong, as the peer is told.
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |  Error code   | Error subcode |        Data (variable)        |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! ```
//!
//! Codes of which nobody here has heard are kept as they came: a NOTIFICATION ends the session
//! whatever it says (RFC 4271, 6.4), so reading one never fails.

use std::fmt;

use super::frame::{HEADER_LEN, MESSAGE_MAX};

/// Longest shutdown message in octets (RFC 9003, 2).
pub const SHUTDOWN_MESSAGE_MAX: usize = 255;

/// Longest data that fits into one message.
pub const DATA_MAX: usize = MESSAGE_MAX - HEADER_LEN - 2;

/// Message Header Error (RFC 4271, 6.1).
pub const HEADER: u8 = 1;
/// OPEN Message Error (RFC 4271, 6.2).
pub const OPEN: u8 = 2;
/// UPDATE Message Error (RFC 4271, 6.3).
pub const UPDATE: u8 = 3;
/// Hold Timer Expired (RFC 4271, 6.5).
pub const HOLD_TIMER: u8 = 4;
/// Finite State Machine Error (RFC 4271, 6.6; subcodes in RFC 6608).
pub const STATE_MACHINE: u8 = 5;
/// Cease (RFC 4271, 6.7; subcodes in RFC 4486).
pub const CEASE: u8 = 6;

/// Why a session is ended without a fault (RFC 4486, 3; RFC 9384).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cease {
    /// The speaker is stopping.
    AdministrativeShutdown,
    /// The peer was taken out of the configuration.
    PeerDeconfigured,
    /// The session is being restarted on request.
    AdministrativeReset,
    /// This connection is not wanted now.
    ConnectionRejected,
    /// Something about the peer's configuration changed.
    OtherConfigurationChange,
    /// Of two connections this one had to go (RFC 4271, 6.8).
    ConnectionCollision,
    /// A bound was reached.
    OutOfResources,
    /// A BFD session to the peer went down (RFC 9384).
    BfdDown,
}

impl Cease {
    fn subcode(self) -> u8 {
        match self {
            Cease::AdministrativeShutdown => 2,
            Cease::PeerDeconfigured => 3,
            Cease::AdministrativeReset => 4,
            Cease::ConnectionRejected => 5,
            Cease::OtherConfigurationChange => 6,
            Cease::ConnectionCollision => 7,
            Cease::OutOfResources => 8,
            Cease::BfdDown => 10,
        }
    }
}

/// A NOTIFICATION, to send or received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notification {
    /// The error code.
    pub code: u8,
    /// The error subcode; 0 is unspecific.
    pub subcode: u8,
    /// Diagnostic data, at most [`DATA_MAX`] octets.
    pub data: Vec<u8>,
}

impl Notification {
    /// A NOTIFICATION with data that is cut to what a message holds.
    #[must_use]
    pub fn new(code: u8, subcode: u8, data: &[u8]) -> Notification {
        let data = data[..data.len().min(DATA_MAX)].to_vec();
        Notification { code, subcode, data }
    }

    /// The end of a session without a fault.
    #[must_use]
    pub fn cease(reason: Cease) -> Notification {
        Notification::new(CEASE, reason.subcode(), &[])
    }

    /// A shutdown with a reason that people can read (RFC 9003, 2). It is cut to 255 octets,
    /// never inside a character.
    #[must_use]
    pub fn shutdown(message: &str) -> Notification {
        let mut end = message.len().min(SHUTDOWN_MESSAGE_MAX);
        while !message.is_char_boundary(end) {
            end -= 1;
        }
        let length = u8::try_from(end).unwrap_or(u8::MAX);
        let mut data = vec![length];
        data.extend_from_slice(&message.as_bytes()[..end]);
        Notification::new(CEASE, Cease::AdministrativeShutdown.subcode(), &data)
    }

    /// Whether the session ended without a fault of either side.
    #[must_use]
    pub fn is_cease(&self) -> bool {
        self.code == CEASE
    }

    /// Whether this is a lost collision (RFC 4486, subcode 7).
    #[must_use]
    pub fn is_collision(&self) -> bool {
        self.is_cease() && self.subcode == Cease::ConnectionCollision.subcode()
    }

    /// The text that a peer gave with a shutdown or a reset (RFC 9003), if it is readable.
    #[must_use]
    pub fn shutdown_message(&self) -> Option<&str> {
        if !self.is_cease() || !matches!(self.subcode, 2 | 4) {
            return None;
        }
        let (length, text) = self.data.split_first()?;
        let text = text.get(..usize::from(*length))?;
        std::str::from_utf8(text).ok().filter(|text| !text.is_empty())
    }

    pub(super) fn decode(body: &[u8]) -> Notification {
        let octet = |index: usize| body.get(index).copied().unwrap_or(0);
        Notification::new(octet(0), octet(1), body.get(2..).unwrap_or(&[]))
    }

    /// Appends the whole message. The codec crate is not asked: its type cannot hold a subcode
    /// that it does not know, and the layout is two octets.
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        let data = &self.data[..self.data.len().min(DATA_MAX)];
        let length = u16::try_from(HEADER_LEN + 2 + data.len()).unwrap_or(u16::MAX);
        out.extend_from_slice(&[0xff; 16]);
        out.extend_from_slice(&length.to_be_bytes());
        out.extend_from_slice(&[super::frame::TYPE_NOTIFICATION, self.code, self.subcode]);
        out.extend_from_slice(data);
    }

    /// What the code and subcode mean, after the IANA registry.
    #[must_use]
    pub fn meaning(&self) -> &'static str {
        match (self.code, self.subcode) {
            (HEADER, 1) => "connection not synchronized",
            (HEADER, 2) => "bad message length",
            (HEADER, 3) => "bad message type",
            (HEADER, _) => "message header error",
            (OPEN, 1) => "unsupported version number",
            (OPEN, 2) => "bad peer AS",
            (OPEN, 3) => "bad BGP identifier",
            (OPEN, 4) => "unsupported optional parameter",
            (OPEN, 6) => "unacceptable hold time",
            (OPEN, 7) => "unsupported capability",
            (OPEN, _) => "OPEN message error",
            (UPDATE, 1) => "malformed attribute list",
            (UPDATE, 2) => "unrecognized well-known attribute",
            (UPDATE, 3) => "missing well-known attribute",
            (UPDATE, 4) => "attribute flags error",
            (UPDATE, 5) => "attribute length error",
            (UPDATE, 6) => "invalid ORIGIN attribute",
            (UPDATE, 8) => "invalid NEXT_HOP attribute",
            (UPDATE, 9) => "optional attribute error",
            (UPDATE, 10) => "invalid network field",
            (UPDATE, 11) => "malformed AS_PATH",
            (UPDATE, _) => "UPDATE message error",
            (HOLD_TIMER, _) => "hold timer expired",
            (STATE_MACHINE, 1) => "unexpected message in OpenSent",
            (STATE_MACHINE, 2) => "unexpected message in OpenConfirm",
            (STATE_MACHINE, 3) => "unexpected message in Established",
            (STATE_MACHINE, _) => "finite state machine error",
            (CEASE, 1) => "maximum number of prefixes reached",
            (CEASE, 2) => "administrative shutdown",
            (CEASE, 3) => "peer de-configured",
            (CEASE, 4) => "administrative reset",
            (CEASE, 5) => "connection rejected",
            (CEASE, 6) => "other configuration change",
            (CEASE, 7) => "connection collision resolution",
            (CEASE, 8) => "out of resources",
            (CEASE, 9) => "hard reset",
            (CEASE, 10) => "BFD down",
            (CEASE, _) => "cease",
            (7, _) => "ROUTE-REFRESH message error",
            (8, _) => "send hold timer expired",
            _ => "unknown error",
        }
    }
}

impl fmt::Display for Notification {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}/{})", self.meaning(), self.code, self.subcode)?;
        match self.shutdown_message() {
            Some(text) => write!(f, ": {text:?}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Notification {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shutdown_message_is_cut_between_characters() {
        let long = "ä".repeat(200);
        let notification = Notification::shutdown(&long);
        assert_eq!(notification.shutdown_message().map(str::len), Some(254));
        assert_eq!(notification.data.len(), 255);
    }

    #[test]
    fn a_shutdown_message_is_read_back_and_a_broken_one_is_ignored() {
        let notification = Notification::shutdown("back in 5 minutes");
        assert_eq!(notification.shutdown_message(), Some("back in 5 minutes"));
        let broken = Notification::new(CEASE, 2, &[200, b'a']);
        assert_eq!(broken.shutdown_message(), None);
        assert_eq!(Notification::decode(&[6, 2, 1, 0xff]).shutdown_message(), None);
    }
}
