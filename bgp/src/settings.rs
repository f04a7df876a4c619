//! What the speaker is told by its user, checked.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use serde::{Serialize, Serializer};

use crate::model::{AS_TRANS, Community, HoldTime, RouterId};

/// Most peers of one speaker. Each costs a task and two sockets at most; an edge host has two to
/// four.
pub const PEERS_MAX: usize = 64;
/// Most communities on one route. With them an UPDATE still has room for 180 IPv6 prefixes.
pub const COMMUNITIES_MAX: usize = 128;
/// Longest TCP MD5 password in octets: what the kernel takes (`TCP_MD5SIG_MAXKEYLEN`).
pub const PASSWORD_MAX: usize = 80;
/// Longest peer name in octets. It is a metric label.
pub const NAME_MAX: usize = 64;
/// Longest first wait after a failed attempt, in seconds.
pub const CONNECT_RETRY_SECS_MAX: u16 = 3600;

/// A text that neither `Debug` nor serde shows.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Hides a text.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Secret {
        Secret(text.into())
    }

    /// The text, for the one place that needs it.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(***)")
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str("***")
    }
}

/// How far away a peer may be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Distance {
    /// A peer in another AS is on the same link (TTL 1); one in our AS may be anywhere (TTL 64).
    #[default]
    Direct,
    /// Packets are sent with this TTL, 1 to 255.
    Multihop(u8),
    /// Generalized TTL security (RFC 5082): packets are sent with TTL 255, and received ones
    /// that passed this many routers or more are dropped by the kernel. 1 means the same link.
    Security(u8),
}

/// One peer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PeerSettings {
    /// Its name in logs, status and metrics; unique, up to [`NAME_MAX`] octets.
    pub name: String,
    /// Its address; unique, since incoming connections are told apart by it.
    pub address: IpAddr,
    /// The TCP port on which it listens; 179 by convention.
    pub port: u16,
    /// Its AS. The same as ours makes an internal session.
    pub remote_as: u32,
    /// The address from which to connect to it; by default the kernel's choice.
    pub local_address: Option<IpAddr>,
    /// The password of TCP MD5 signatures (RFC 2385), up to [`PASSWORD_MAX`] octets.
    pub md5_password: Option<Secret>,
    /// Standard communities on every route to it, besides the speaker's own.
    pub communities: Vec<Community>,
    /// Next hop of IPv4 routes; by default our address on the session when that is IPv4.
    pub next_hop_v4: Option<Ipv4Addr>,
    /// Next hop of IPv6 routes; by default our address on the session when that is global IPv6.
    pub next_hop_v6: Option<Ipv6Addr>,
    /// Only wait for it to connect.
    pub passive: bool,
    /// How far away it may be.
    pub distance: Distance,
}

/// The speaker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Settings {
    /// Our AS: 1 to 4294967294, but neither 23456 nor 65535 (RFC 6793, RFC 7300).
    pub local_as: u32,
    /// Our BGP identifier.
    pub router_id: RouterId,
    /// The hold time that we offer; keepalives are sent at a third of what is agreed.
    pub hold_time: HoldTime,
    /// The first wait after a failed attempt, in seconds, 1 to [`CONNECT_RETRY_SECS_MAX`].
    pub connect_retry_secs: u16,
    /// Where to accept connections of configured peers; nowhere if `None`.
    pub listen: Option<SocketAddr>,
    /// Standard communities on every route to every peer.
    pub communities: Vec<Community>,
    /// The peers, up to [`PEERS_MAX`].
    pub peers: Vec<PeerSettings>,
}

/// Why settings cannot be used. The messages name field and remedy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    /// An AS that nobody may use.
    #[error("{field}: AS {asn} is reserved: use a number of your own or a private one, as 64512")]
    ReservedAs {
        /// The field.
        field: String,
        /// Its value.
        asn: u32,
    },
    /// A number outside its range.
    #[error("{field}: {value} is outside {range}")]
    OutOfRange {
        /// The field.
        field: String,
        /// Its value.
        value: usize,
        /// What is allowed.
        range: String,
    },
    /// Two peers share what must be unique.
    #[error("peers: {what} {value} is used twice: each peer needs its own")]
    Duplicate {
        /// What they share.
        what: &'static str,
        /// The shared value.
        value: String,
    },
    /// An address that cannot serve.
    #[error("{field}: {address} {why}")]
    Address {
        /// The field.
        field: String,
        /// Its value.
        address: IpAddr,
        /// What is wrong, and what to write instead.
        why: &'static str,
    },
    /// A peer that could never connect.
    #[error("peer {0}: passive needs a listen address: set one, or passive to false")]
    PassiveWithoutListener(String),
}

impl Settings {
    /// Checks what the types cannot.
    ///
    /// # Errors
    /// Names the first field that cannot be used.
    pub fn check(&self) -> Result<(), SettingsError> {
        check_as("local_as", self.local_as)?;
        let retry = usize::from(self.connect_retry_secs);
        check_range("connect_retry_secs", retry, 1, usize::from(CONNECT_RETRY_SECS_MAX))?;
        check_range("peers", self.peers.len(), 0, PEERS_MAX)?;
        let (mut names, mut addresses) = (BTreeSet::new(), BTreeSet::new());
        for peer in &self.peers {
            peer.check(self)?;
            if !names.insert(&peer.name) {
                return Err(SettingsError::Duplicate { what: "name", value: peer.name.clone() });
            }
            if !addresses.insert(peer.address.to_canonical()) {
                let value = peer.address.to_string();
                return Err(SettingsError::Duplicate { what: "address", value });
            }
        }
        Ok(())
    }
}

impl PeerSettings {
    /// A peer of which only the necessary is said.
    #[must_use]
    pub fn new(name: impl Into<String>, address: IpAddr, remote_as: u32) -> PeerSettings {
        PeerSettings {
            name: name.into(),
            address,
            port: 179,
            remote_as,
            local_address: None,
            md5_password: None,
            communities: Vec::new(),
            next_hop_v4: None,
            next_hop_v6: None,
            passive: false,
            distance: Distance::Direct,
        }
    }

    fn check(&self, speaker: &Settings) -> Result<(), SettingsError> {
        let field = |name: &str| format!("peer {}: {name}", self.name);
        check_range(&field("length of name"), self.name.len(), 1, NAME_MAX)?;
        check_as(&field("remote_as"), self.remote_as)?;
        check_range(&field("port"), usize::from(self.port), 1, 65_535)?;
        check_peer_address(&field("address"), self.address)?;
        if let Some(address) = self.local_address
            && address.is_ipv4() != self.address.is_ipv4()
        {
            let why = "is of another family than the peer's address: write one of the same";
            return Err(SettingsError::Address { field: field("local_address"), address, why });
        }
        let communities = self.communities.len() + speaker.communities.len();
        check_range(&field("number of communities"), communities, 0, COMMUNITIES_MAX)?;
        if let Some(password) = &self.md5_password {
            let length = password.reveal().len();
            check_range(&field("length of md5_password"), length, 1, PASSWORD_MAX)?;
        }
        if let Distance::Multihop(hops) | Distance::Security(hops) = self.distance {
            check_range(&field("distance"), usize::from(hops), 1, 255)?;
        }
        self.check_next_hops(&field)?;
        if self.passive && speaker.listen.is_none() {
            return Err(SettingsError::PassiveWithoutListener(self.name.clone()));
        }
        Ok(())
    }

    fn check_next_hops(&self, field: &dyn Fn(&str) -> String) -> Result<(), SettingsError> {
        let hops = [
            ("next_hop_v4", self.next_hop_v4.map(IpAddr::V4)),
            ("next_hop_v6", self.next_hop_v6.map(IpAddr::V6)),
        ];
        for (name, hop) in hops {
            if let Some(address) = hop
                && (address.is_unspecified() || address.is_multicast())
            {
                let why = "is no address of a host: write one of this host's";
                return Err(SettingsError::Address { field: field(name), address, why });
            }
        }
        Ok(())
    }
}

fn check_as(field: &str, asn: u32) -> Result<(), SettingsError> {
    // RFC 7607 (0), RFC 6793 (23456), RFC 7300 (the last of each size).
    if asn == 0 || asn == u32::from(AS_TRANS) || asn == 65_535 || asn == u32::MAX {
        return Err(SettingsError::ReservedAs { field: field.to_owned(), asn });
    }
    Ok(())
}

fn check_range(field: &str, value: usize, least: usize, most: usize) -> Result<(), SettingsError> {
    if (least..=most).contains(&value) {
        return Ok(());
    }
    let range = format!("{least} to {most}");
    Err(SettingsError::OutOfRange { field: field.to_owned(), value, range })
}

fn check_peer_address(field: &str, address: IpAddr) -> Result<(), SettingsError> {
    let link_local = matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local());
    let why = if address.is_unspecified() || address.is_multicast() {
        "is no address of a host: write the router's"
    } else if link_local {
        "is link-local, which needs an interface: write the router's global or unique local address"
    } else {
        return Ok(());
    };
    Err(SettingsError::Address { field: field.to_owned(), address, why })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> Settings {
        Settings {
            local_as: 64_512,
            router_id: RouterId::new(Ipv4Addr::new(192, 0, 2, 1)).unwrap(),
            hold_time: HoldTime::DEFAULT,
            connect_retry_secs: 5,
            listen: None,
            communities: Vec::new(),
            peers: vec![PeerSettings::new("a", "192.0.2.2".parse().unwrap(), 64_513)],
        }
    }

    /// The message that a change of good settings leads to.
    fn refusal(change: impl FnOnce(&mut Settings)) -> String {
        let mut changed = settings();
        assert_eq!(changed.check(), Ok(()));
        change(&mut changed);
        changed.check().unwrap_err().to_string()
    }

    #[test]
    fn each_refusal_names_the_field_and_a_remedy() {
        let cases = [
            (refusal(|s| s.local_as = 0), "local_as: AS 0 is reserved"),
            (refusal(|s| s.peers[0].remote_as = 23_456), "peer a: remote_as"),
            (refusal(|s| s.connect_retry_secs = 0), "connect_retry_secs: 0 is outside 1 to 3600"),
            (refusal(|s| s.peers[0].port = 0), "peer a: port"),
            (refusal(|s| s.peers[0].passive = true), "set one, or passive to false"),
            (refusal(|s| s.peers[0].address = "fe80::1".parse().unwrap()), "is link-local"),
            (refusal(|s| s.peers[0].local_address = "::1".parse().ok()), "another family"),
            (refusal(|s| s.peers[0].distance = Distance::Security(0)), "peer a: distance"),
            (refusal(|s| s.peers[0].md5_password = Some(Secret::new(""))), "md5_password"),
            (refusal(|s| s.peers[0].next_hop_v6 = "::".parse().ok()), "next_hop_v6"),
            (refusal(|s| s.communities = vec![Community(1); 129]), "number of communities"),
            (refusal(|s| s.peers.push(s.peers[0].clone())), "used twice"),
        ];
        for (message, part) in cases {
            assert!(message.contains(part), "{message:?} does not say {part:?}");
        }
    }

    #[test]
    fn two_peers_on_one_address_are_refused_in_mapped_form_too() {
        let message = refusal(|s| {
            let twin = PeerSettings::new("b", "::ffff:192.0.2.2".parse().unwrap(), 64_513);
            s.peers.push(twin);
        });
        assert!(message.contains("address ::ffff:192.0.2.2 is used twice"), "{message}");
    }

    #[test]
    fn a_password_is_shown_nowhere() {
        let mut settings = settings();
        settings.peers[0].md5_password = Some(Secret::new("hunter2"));
        let shown = format!("{settings:?} {}", serde_json::to_string(&settings).unwrap());
        assert!(!shown.contains("hunter2"), "{shown}");
    }
}
