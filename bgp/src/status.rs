//! What `haflinger status` shows of the speaker.

use std::net::{IpAddr, SocketAddr};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

use crate::export::Unannounced;
use crate::fsm::State;
use crate::model::{Family, PerFamily, RouterId};
use crate::wire::{Capabilities, Notification};

/// The whole speaker.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SpeakerStatus {
    /// Our AS.
    pub local_as: u32,
    /// Our BGP identifier.
    pub router_id: RouterId,
    /// Where connections are accepted, if anywhere.
    pub listen: Option<SocketAddr>,
    /// Why they are not accepted although they should be.
    pub listen_error: Option<String>,
    /// Prefixes that should be announced.
    pub desired_prefixes: usize,
    /// Prefixes beyond [`crate::driver::DESIRED_MAX`], which are not announced.
    pub refused_prefixes: usize,
    /// Connections from addresses that are no peer's, since the start. They were closed.
    pub strangers: u64,
    /// The peers, by address.
    pub peers: Vec<PeerStatus>,
}

/// One peer.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PeerStatus {
    /// Its name.
    pub name: String,
    /// Its address.
    pub address: IpAddr,
    /// The TCP port on which it listens.
    pub port: u16,
    /// Its AS.
    pub remote_as: u32,
    /// The state of the session.
    pub state: State,
    /// Since when it is in that state, in seconds of Unix time.
    pub since_unix_secs: u64,
    /// The agreed hold time in seconds, while established; 0 is off.
    pub hold_time_secs: Option<u16>,
    /// Its BGP identifier, while established.
    pub router_id: Option<RouterId>,
    /// What it offered, while established.
    pub capabilities: Option<Capabilities>,
    /// Our address on the session, while established.
    pub local_address: Option<IpAddr>,
    /// Prefixes that it has been told.
    pub announced: PerFamily<usize>,
    /// Families that it is not told, and why, while established.
    pub unannounced: Vec<UnannouncedFamily>,
    /// Whether it knows all it should.
    pub settled: bool,
    /// How often a session to it has come up.
    pub established_count: u64,
    /// Prefixes in the announcements that it has sent on this session. None is kept.
    pub received_prefixes: u64,
    /// UPDATEs of it with broken attributes (RFC 7606), since the start.
    pub treated_as_withdraw: u64,
    /// Why the last connection ended or failed.
    pub last_error: Option<String>,
    /// The last NOTIFICATION sent to it.
    pub last_notification_sent: Option<NotificationStatus>,
    /// The last one received from it.
    pub last_notification_received: Option<NotificationStatus>,
}

/// A family that a peer is not told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct UnannouncedFamily {
    /// Which.
    pub family: Family,
    /// Why.
    pub reason: Unannounced,
}

/// A NOTIFICATION, for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NotificationStatus {
    /// When, in seconds of Unix time.
    pub at_unix_secs: u64,
    /// Error code.
    pub code: u8,
    /// Error subcode.
    pub subcode: u8,
    /// Its meaning, with the shutdown message (RFC 9003) if there is one.
    pub text: String,
}

impl NotificationStatus {
    pub(crate) fn new(notification: &Notification, at: SystemTime) -> NotificationStatus {
        NotificationStatus {
            at_unix_secs: unix_secs(at),
            code: notification.code,
            subcode: notification.subcode,
            text: notification.to_string(),
        }
    }
}

pub(crate) fn unix_secs(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
