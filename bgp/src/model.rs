//! The small types that every room of this crate speaks in.
//!
//! Invariant: none of them can hold a value that RFC 4271 forbids on the wire, so that no code
//! behind them checks again.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;
use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// The AS number that stands in a two-octet field for one that does not fit (RFC 6793, 9).
pub const AS_TRANS: u16 = 23_456;

/// Time since an arbitrary start that the driver chooses. Pure code never reads a clock.
pub type Moment = Duration;

/// An address family whose unicast prefixes are exchanged (RFC 4760).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Family {
    /// AFI 1, SAFI 1.
    Ipv4,
    /// AFI 2, SAFI 1.
    Ipv6,
}

impl Family {
    /// Both families, in the order in which they are announced.
    pub const ALL: [Family; 2] = [Family::Ipv4, Family::Ipv6];

    /// The family of a prefix.
    #[must_use]
    pub fn of(prefix: &IpNet) -> Family {
        match prefix {
            IpNet::V4(_) => Family::Ipv4,
            IpNet::V6(_) => Family::Ipv6,
        }
    }

    /// The family named by an AFI and SAFI pair, if it is one of ours.
    #[must_use]
    pub fn from_afi_safi(afi: u16, safi: u8) -> Option<Family> {
        match (afi, safi) {
            (1, 1) => Some(Family::Ipv4),
            (2, 1) => Some(Family::Ipv6),
            _ => None,
        }
    }

    /// A short lower-case name, for logs and metric labels.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Family::Ipv4 => "ipv4",
            Family::Ipv6 => "ipv6",
        }
    }
}

/// One value for each family.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PerFamily<T> {
    /// For IPv4 unicast.
    pub ipv4: T,
    /// For IPv6 unicast.
    pub ipv6: T,
}

impl<T> PerFamily<T> {
    /// The value of one family.
    pub fn of(&self, family: Family) -> &T {
        match family {
            Family::Ipv4 => &self.ipv4,
            Family::Ipv6 => &self.ipv6,
        }
    }

    /// The value of one family, to change it.
    pub fn of_mut(&mut self, family: Family) -> &mut T {
        match family {
            Family::Ipv4 => &mut self.ipv4,
            Family::Ipv6 => &mut self.ipv6,
        }
    }
}

/// Why a number of seconds is no hold time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("hold time of {0} s is not allowed: use 0 (off) or 3 to 65535 seconds")]
pub struct HoldTimeError(pub u16);

/// A hold time (RFC 4271, 4.2): off, or 3 to 65,535 seconds. It cannot hold 1 or 2.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct HoldTime(u16);

impl HoldTime {
    /// No keepalives, and a silent peer is never given up.
    pub const OFF: HoldTime = HoldTime(0);
    /// 9 s: a dead neighbour is noticed within ten seconds, at one small message in three.
    pub const DEFAULT: HoldTime = HoldTime(9);

    /// A hold time of so many seconds.
    ///
    /// # Errors
    /// For 1 and 2, which RFC 4271, 4.2 forbids.
    pub fn from_secs(secs: u16) -> Result<HoldTime, HoldTimeError> {
        match secs {
            1 | 2 => Err(HoldTimeError(secs)),
            _ => Ok(HoldTime(secs)),
        }
    }

    /// In seconds; 0 means off.
    #[must_use]
    pub fn secs(self) -> u16 {
        self.0
    }

    /// What two speakers use: the smaller of their offers (RFC 4271, 4.2).
    #[must_use]
    pub fn negotiate(self, offer: HoldTime) -> HoldTime {
        HoldTime(self.0.min(offer.0))
    }

    /// How long a silent peer is kept, if not for ever.
    #[must_use]
    pub fn limit(self) -> Option<Duration> {
        (self.0 != 0).then(|| Duration::from_secs(u64::from(self.0)))
    }

    /// The interval between keepalives: a third of the hold time (RFC 4271, 4.4).
    #[must_use]
    pub fn keepalive(self) -> Option<Duration> {
        self.limit().map(|limit| limit / 3)
    }
}

/// Why an address is no BGP identifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} is no BGP identifier: use a unicast IPv4 address of this host")]
pub struct RouterIdError(pub Ipv4Addr);

/// A BGP identifier: four octets that are not zero (RFC 6286, 2.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct RouterId(Ipv4Addr);

impl RouterId {
    /// An identifier from an address.
    ///
    /// # Errors
    /// When it is 0.0.0.0, a multicast address or the broadcast address (RFC 4271, 6.2).
    pub fn new(address: Ipv4Addr) -> Result<RouterId, RouterIdError> {
        if address.is_unspecified() || address.is_multicast() || address.is_broadcast() {
            return Err(RouterIdError(address));
        }
        Ok(RouterId(address))
    }

    /// As an address.
    #[must_use]
    pub fn address(self) -> Ipv4Addr {
        self.0
    }
}

impl fmt::Display for RouterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Why a text is no community.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no community: write two numbers up to 65535 as 64512:100, or a well-known name")]
pub struct CommunityError(pub String);

/// A standard community (RFC 1997).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Community(pub u32);

/// Names of the IANA registry of well-known communities that an operator may want to attach.
const WELL_KNOWN: [(&str, u32); 5] = [
    ("graceful-shutdown", 0xffff_0000),
    ("blackhole", 0xffff_029a),
    ("no-export", 0xffff_ff01),
    ("no-advertise", 0xffff_ff02),
    ("no-export-subconfed", 0xffff_ff03),
];

impl FromStr for Community {
    type Err = CommunityError;

    fn from_str(text: &str) -> Result<Community, CommunityError> {
        if let Some((_, value)) = WELL_KNOWN.iter().find(|(name, _)| *name == text) {
            return Ok(Community(*value));
        }
        let parts = text.split_once(':');
        let numbers = parts.and_then(|(high, low)| Some((high.parse().ok()?, low.parse().ok()?)));
        let (high, low): (u16, u16) = numbers.ok_or_else(|| CommunityError(text.to_owned()))?;
        Ok(Community(u32::from(high) << 16 | u32::from(low)))
    }
}

impl fmt::Display for Community {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match WELL_KNOWN.iter().find(|(_, value)| *value == self.0) {
            Some((name, _)) => f.write_str(name),
            None => write!(f, "{}:{}", self.0 >> 16, self.0 & 0xffff),
        }
    }
}

impl Serialize for Community {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Whether a prefix may be announced as unicast: neither multicast nor the broadcast address.
#[must_use]
pub fn is_unicast(prefix: &IpNet) -> bool {
    match prefix {
        IpNet::V4(net) => {
            let (first, last) = (net.network(), net.broadcast());
            !first.is_multicast() && !last.is_multicast() && !first.is_broadcast()
        }
        IpNet::V6(net) => !net.network().is_multicast(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hold_time_cannot_be_one_or_two_seconds() {
        assert_eq!(HoldTime::from_secs(1), Err(HoldTimeError(1)));
        assert_eq!(HoldTime::from_secs(2), Err(HoldTimeError(2)));
        assert_eq!(HoldTime::from_secs(3).map(HoldTime::secs), Ok(3));
        assert_eq!(HoldTime::from_secs(0), Ok(HoldTime::OFF));
    }

    #[test]
    fn zero_wins_the_negotiation_and_switches_keepalives_off() {
        let agreed = HoldTime::DEFAULT.negotiate(HoldTime::OFF);
        assert_eq!((agreed.limit(), agreed.keepalive()), (None, None));
    }

    #[test]
    fn communities_are_read_as_they_are_written() {
        for text in ["64512:100", "0:0", "65535:65535", "no-export", "graceful-shutdown"] {
            assert_eq!(text.parse::<Community>().unwrap().to_string(), text);
        }
        for text in ["", "1", "65536:1", "1:2:3", "a:b", "-1:2"] {
            assert!(text.parse::<Community>().is_err(), "{text}");
        }
    }

    #[test]
    fn identifiers_that_no_host_can_have_are_refused() {
        for address in ["0.0.0.0", "224.0.0.1", "255.255.255.255"] {
            assert!(RouterId::new(address.parse().unwrap()).is_err(), "{address}");
        }
    }

    #[test]
    fn multicast_and_broadcast_are_not_unicast() {
        for text in ["224.0.0.1/32", "255.255.255.255/32", "ff02::1/128"] {
            assert!(!is_unicast(&text.parse().unwrap()), "{text}");
        }
        for text in ["192.0.2.1/32", "2001:db8::1/128", "0.0.0.0/0", "::/0"] {
            assert!(is_unicast(&text.parse().unwrap()), "{text}");
        }
    }
}
