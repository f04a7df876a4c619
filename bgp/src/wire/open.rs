//! OPEN (RFC 4271, 4.2) and the capabilities in it (RFC 5492).
//!
//! ```text
//! +-+-+-+-+-+-+-+-+
//! |    Version    |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |     My Autonomous System      |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |           Hold Time           |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |                         BGP Identifier                        |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! | Opt Parm Len  |         Optional Parameters (variable)        |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! ```
//!
//! The lists of parameters and capabilities are walked here and only the value of each capability
//! is read by the codec crate: it refuses families it has no name for, and a peer that offers such
//! a family must still be able to connect (RFC 5492, 3).

use netgauze_bgp_pkt::BgpMessage;
use netgauze_bgp_pkt::capabilities::{
    BgpCapability, FourOctetAsCapability, MultiProtocolExtensionsCapability,
};
use netgauze_bgp_pkt::open::{BgpOpenMessage, BgpOpenMessageParameter};
use netgauze_iana::address_family::AddressType;
use netgauze_parse_utils::reader::SliceReader;
use netgauze_parse_utils::traits::ParseFrom as _;
use serde::Serialize;

use super::notification::{Notification, OPEN};
use crate::model::{AS_TRANS, Family, HoldTime, PerFamily, RouterId};

/// The only version that there is.
const VERSION: u8 = 4;
/// The parameter that carries capabilities (RFC 5492, 4).
const PARAMETER_CAPABILITIES: u8 = 2;
/// Marks parameters with two-octet lengths (RFC 9072, 2).
const PARAMETERS_EXTENDED: u8 = 255;

const CAPABILITY_MULTIPROTOCOL: u8 = 1;
const CAPABILITY_ROUTE_REFRESH: u8 = 2;
const CAPABILITY_FOUR_OCTET_AS: u8 = 65;

/// What a speaker can do, as far as this one cares.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Capabilities {
    /// AS numbers of four octets (RFC 6793).
    pub four_octet_as: bool,
    /// Route refresh (RFC 2918).
    pub route_refresh: bool,
    /// Families offered by multiprotocol capabilities (RFC 4760, 8).
    pub families: PerFamily<bool>,
    /// Whether any multiprotocol capability was there: without one, IPv4 is meant.
    pub multiprotocol: bool,
    /// Codes of the other capabilities, sorted, each once. They are ignored.
    pub other: Vec<u8>,
}

impl Capabilities {
    /// What this speaker offers.
    #[must_use]
    pub fn ours() -> Capabilities {
        Capabilities {
            four_octet_as: true,
            route_refresh: true,
            families: PerFamily { ipv4: true, ipv6: true },
            multiprotocol: true,
            other: Vec::new(),
        }
    }

    /// Whether prefixes of a family may be sent to the speaker that offers these.
    #[must_use]
    pub fn accepts(&self, family: Family) -> bool {
        *self.families.of(family) || (family == Family::Ipv4 && !self.multiprotocol)
    }
}

/// An OPEN.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Open {
    /// The speaker's AS, never 0 (RFC 7607).
    pub asn: u32,
    /// The hold time that it offers.
    pub hold_time: HoldTime,
    /// Its BGP identifier.
    pub router_id: RouterId,
    /// What it can do.
    pub capabilities: Capabilities,
}

fn unspecific() -> Notification {
    Notification::new(OPEN, 0, &[])
}

/// Splits `length` octets off, or says that the list is malformed (RFC 4271, 6.2: subcode 0).
fn split(octets: &[u8], length: usize) -> Result<(&[u8], &[u8]), Notification> {
    octets.split_at_checked(length).ok_or_else(unspecific)
}

impl Open {
    pub(super) fn decode(body: &[u8]) -> Result<Open, Notification> {
        let (fixed, parameters) = split(body, 10)?;
        if fixed[0] != VERSION {
            // The data is the version that would do (RFC 4271, 6.2).
            return Err(Notification::new(OPEN, 1, &u16::from(VERSION).to_be_bytes()));
        }
        let two_octet_as = u16::from_be_bytes([fixed[1], fixed[2]]);
        let hold_time = HoldTime::from_secs(u16::from_be_bytes([fixed[3], fixed[4]]))
            .map_err(|_| Notification::new(OPEN, 6, &fixed[3..5]))?;
        let identifier = <[u8; 4]>::try_from(&fixed[5..9]).map_err(|_| unspecific())?;
        let router_id =
            RouterId::new(identifier.into()).map_err(|_| Notification::new(OPEN, 3, &[]))?;
        let mut capabilities = Capabilities::default();
        let mut asn = u32::from(two_octet_as);
        walk_parameters(fixed[9], parameters, |capability, octets| {
            read_capability(capability, octets, &mut capabilities, &mut asn)
        })?;
        if asn == 0 {
            return Err(Notification::new(OPEN, 2, &[]));
        }
        capabilities.other.sort_unstable();
        capabilities.other.dedup();
        Ok(Open { asn, hold_time, router_id, capabilities })
    }

    pub(super) fn message(&self) -> BgpMessage {
        let mut list = Vec::new();
        for (family, kind) in
            [(Family::Ipv4, AddressType::Ipv4Unicast), (Family::Ipv6, AddressType::Ipv6Unicast)]
        {
            if *self.capabilities.families.of(family) {
                let capability = MultiProtocolExtensionsCapability::new(kind);
                list.push(BgpCapability::MultiProtocolExtensions(capability));
            }
        }
        if self.capabilities.route_refresh {
            list.push(BgpCapability::RouteRefresh);
        }
        if self.capabilities.four_octet_as {
            list.push(BgpCapability::FourOctetAs(FourOctetAsCapability::new(self.asn)));
        }
        let parameters = if list.is_empty() {
            Vec::new()
        } else {
            vec![BgpOpenMessageParameter::new_capabilities(list)]
        };
        let two_octet_as = u16::try_from(self.asn).unwrap_or(AS_TRANS);
        let hold_time = self.hold_time.secs();
        let identifier = self.router_id.address();
        BgpMessage::Open(BgpOpenMessage::new(two_octet_as, hold_time, identifier, parameters))
    }
}

/// Calls `take` with the code and the octets (code and length included) of each capability.
fn walk_parameters(
    length: u8,
    octets: &[u8],
    mut take: impl FnMut(u8, &[u8]) -> Result<(), Notification>,
) -> Result<(), Notification> {
    // RFC 9072, 2: the length is a fixed 255 and the first parameter's type is 255 too.
    let extended = length == PARAMETERS_EXTENDED && octets.first() == Some(&PARAMETERS_EXTENDED);
    let mut rest = if extended {
        let (head, rest) = split(octets, 3)?;
        let length = u16::from_be_bytes([head[1], head[2]]);
        exactly(rest, usize::from(length))?
    } else {
        exactly(octets, usize::from(length))?
    };
    while !rest.is_empty() {
        let (head, after) = split(rest, if extended { 3 } else { 2 })?;
        let size = match head {
            [_, high, low] => usize::from(u16::from_be_bytes([*high, *low])),
            _ => usize::from(head[1]),
        };
        let (value, after) = split(after, size)?;
        if head[0] != PARAMETER_CAPABILITIES {
            return Err(Notification::new(OPEN, 4, &[]));
        }
        let mut list = value;
        while !list.is_empty() {
            let (head, _) = split(list, 2)?;
            let (capability, after) = split(list, 2 + usize::from(head[1]))?;
            take(head[0], capability)?;
            list = after;
        }
        rest = after;
    }
    Ok(())
}

fn exactly(octets: &[u8], length: usize) -> Result<&[u8], Notification> {
    (octets.len() == length).then_some(octets).ok_or_else(unspecific)
}

fn read_capability(
    code: u8,
    octets: &[u8],
    capabilities: &mut Capabilities,
    asn: &mut u32,
) -> Result<(), Notification> {
    match (code, BgpCapability::parse(&mut SliceReader::new(octets))) {
        (CAPABILITY_MULTIPROTOCOL, Ok(BgpCapability::MultiProtocolExtensions(offer))) => {
            capabilities.multiprotocol = true;
            match offer.address_type() {
                AddressType::Ipv4Unicast => capabilities.families.ipv4 = true,
                AddressType::Ipv6Unicast => capabilities.families.ipv6 = true,
                _ => {}
            }
        }
        // A family that the codec crate does not know is still a multiprotocol offer.
        (CAPABILITY_MULTIPROTOCOL, Err(_)) if octets.len() == 6 => {
            capabilities.multiprotocol = true;
        }
        (CAPABILITY_ROUTE_REFRESH, Ok(BgpCapability::RouteRefresh)) => {
            capabilities.route_refresh = true;
        }
        (CAPABILITY_FOUR_OCTET_AS, Ok(BgpCapability::FourOctetAs(number))) => {
            capabilities.four_octet_as = true;
            *asn = number.asn4();
        }
        (CAPABILITY_MULTIPROTOCOL | CAPABILITY_ROUTE_REFRESH | CAPABILITY_FOUR_OCTET_AS, _) => {
            return Err(unspecific());
        }
        _ => capabilities.other.push(code),
    }
    Ok(())
}
