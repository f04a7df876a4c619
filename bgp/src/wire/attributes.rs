//! Path attributes of a received UPDATE, read by the rules of RFC 7606.
//!
//! The list is walked here; the value of each attribute is read by the codec crate, alone, so
//! that a fault in one cannot displace the next. Each fault has one of three outcomes:
//!
//! | outcome | which attributes |
//! |---|---|
//! | session reset (`Err`) | MP_REACH, MP_UNREACH, either of them twice, an unknown well-known one |
//! | treat as withdraw ([`Read::fault`]) | those that route selection uses; a list that runs over |
//! | attribute discard | the rest |

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};
use netgauze_bgp_pkt::path_attribute::{
    self as codec, AsPathSegmentType, PathAttribute, PathAttributeValue,
};
use netgauze_bgp_pkt::wire::deserializer::BgpParsingContext;
use netgauze_parse_utils::reader::SliceReader;
use netgauze_parse_utils::traits::ParseFromWithOneInput as _;

use super::notification::{Notification, UPDATE};
use super::update::{Attributes, Origin, Segment};
use super::{Context, prefix};
use crate::model::{Community, Family};

pub(super) const ORIGIN: u8 = 1;
pub(super) const AS_PATH: u8 = 2;
pub(super) const NEXT_HOP: u8 = 3;
const MED: u8 = 4;
const LOCAL_PREF: u8 = 5;
const ATOMIC_AGGREGATE: u8 = 6;
const AGGREGATOR: u8 = 7;
const COMMUNITIES: u8 = 8;
const ORIGINATOR_ID: u8 = 9;
const CLUSTER_LIST: u8 = 10;
const MP_REACH: u8 = 14;
const MP_UNREACH: u8 = 15;
const EXTENDED_COMMUNITIES: u8 = 16;
const LARGE_COMMUNITIES: u8 = 32;

const FLAG_OPTIONAL: u8 = 0x80;
const FLAG_PARTIAL: u8 = 0x20;
const FLAG_EXTENDED: u8 = 0x10;

/// The prefixes of one MP_REACH or MP_UNREACH.
#[derive(Debug, Default)]
pub(super) struct Multiprotocol {
    /// `None` when the family is none of ours: then the lists are empty.
    family: Option<Family>,
    pub(super) next_hop_v4: Option<Ipv4Addr>,
    pub(super) next_hop_v6: Option<Ipv6Addr>,
    pub(super) prefixes_v4: Vec<Ipv4Net>,
    pub(super) prefixes_v6: Vec<Ipv6Net>,
}

/// What the attributes of an UPDATE say.
#[derive(Debug, Default)]
pub(super) struct Read {
    pub(super) attributes: Attributes,
    pub(super) reach: Option<Multiprotocol>,
    pub(super) unreach: Option<Multiprotocol>,
    /// The first fault for which the prefixes are to be treated as withdrawn.
    pub(super) fault: Option<Notification>,
    /// Which attributes have been seen, by code.
    seen: Vec<u8>,
}

impl Read {
    /// RFC 4724, 2: the marker is an MP_UNREACH without prefixes and nothing else.
    pub(super) fn end_of_rib(&self) -> Option<Family> {
        let unreach = self.unreach.as_ref().filter(|_| self.seen == [MP_UNREACH])?;
        let empty = unreach.prefixes_v4.is_empty() && unreach.prefixes_v6.is_empty();
        unreach.family.filter(|_| empty)
    }

    fn blame(&mut self, subcode: u8, attribute: &[u8]) {
        self.fault.get_or_insert_with(|| Notification::new(UPDATE, subcode, attribute));
    }
}

/// Reads the whole attribute field.
pub(super) fn read(mut octets: &[u8], context: &Context) -> Result<Read, Notification> {
    let mut read = Read::default();
    while !octets.is_empty() {
        let Some((header, value, rest)) = split(octets) else {
            // RFC 7606, 4: the total length is still good, so the prefixes behind are known.
            read.blame(1, &[]);
            break;
        };
        let attribute = &octets[..octets.len() - rest.len()];
        octets = rest;
        if read.seen.contains(&header.code) {
            if matches!(header.code, MP_REACH | MP_UNREACH) {
                return Err(Notification::new(UPDATE, 1, &[]));
            }
            // RFC 7606, 3 g: of other attributes the first counts.
            continue;
        }
        read.seen.push(header.code);
        match header.code {
            MP_REACH => read.reach = Some(reach(value).ok_or_else(|| optional_error(attribute))?),
            MP_UNREACH => {
                read.unreach = Some(unreach(value).ok_or_else(|| optional_error(attribute))?);
            }
            _ => read_one(&mut read, &header, attribute, context)?,
        }
    }
    Ok(read)
}

fn optional_error(attribute: &[u8]) -> Notification {
    Notification::new(UPDATE, 9, attribute)
}

#[derive(Clone, Copy, Debug)]
struct Header {
    flags: u8,
    code: u8,
}

/// Splits the first attribute off: its header, its value, and what follows.
fn split(octets: &[u8]) -> Option<(Header, &[u8], &[u8])> {
    let (head, rest) = octets.split_at_checked(2)?;
    let header = Header { flags: head[0], code: head[1] };
    let (length, rest) = if header.flags & FLAG_EXTENDED != 0 {
        let (length, rest) = rest.split_at_checked(2)?;
        (usize::from(u16::from_be_bytes([length[0], length[1]])), rest)
    } else {
        let (length, rest) = rest.split_first()?;
        (usize::from(*length), rest)
    };
    let (value, rest) = rest.split_at_checked(length)?;
    Some((header, value, rest))
}

/// Reads an attribute that is neither MP_REACH nor MP_UNREACH.
fn read_one(
    read: &mut Read,
    header: &Header,
    attribute: &[u8],
    context: &Context,
) -> Result<(), Notification> {
    match header.code {
        // RFC 7606, 7.5, 7.9 and 7.10: from a neighbouring AS these mean nothing.
        LOCAL_PREF | ORIGINATOR_ID | CLUSTER_LIST if !context.internal => return Ok(()),
        ORIGIN | AS_PATH | NEXT_HOP | MED | LOCAL_PREF | COMMUNITIES | ORIGINATOR_ID
        | CLUSTER_LIST | EXTENDED_COMMUNITIES | LARGE_COMMUNITIES => {}
        // RFC 7606, 7.6 and 7.7: discarded when malformed, and not used otherwise.
        ATOMIC_AGGREGATE | AGGREGATOR => return Ok(()),
        _ if header.flags & FLAG_OPTIONAL == 0 => {
            return Err(Notification::new(UPDATE, 2, attribute));
        }
        _ => return Ok(()),
    }
    // RFC 7606, 3 c judges the optional and the transitive bit, not the partial one.
    let mut octets = attribute.to_vec();
    octets[0] &= !FLAG_PARTIAL;
    let mut parsing = BgpParsingContext::default();
    parsing.set_asn4(context.four_octet_as);
    match PathAttribute::parse(&mut SliceReader::new(&octets), &mut parsing) {
        Ok(parsed) => keep(&mut read.attributes, parsed.value()),
        Err(_) => read.blame(fault_subcode(header.code), attribute),
    }
    Ok(())
}

/// The subcode that tells best what is wrong with an attribute's value (RFC 4271, 6.3).
fn fault_subcode(code: u8) -> u8 {
    match code {
        ORIGIN => 6,
        AS_PATH => 11,
        NEXT_HOP => 8,
        LOCAL_PREF => 5,
        _ => 9,
    }
}

fn keep(attributes: &mut Attributes, value: &PathAttributeValue) {
    match value {
        PathAttributeValue::Origin(origin) => {
            attributes.origin = Some(match origin {
                codec::Origin::IGP => Origin::Igp,
                codec::Origin::EGP => Origin::Egp,
                codec::Origin::Incomplete => Origin::Incomplete,
            });
        }
        PathAttributeValue::AsPath(path) => attributes.as_path = Some(segments(path)),
        PathAttributeValue::NextHop(hop) => attributes.next_hop = Some(hop.next_hop()),
        PathAttributeValue::MultiExitDiscriminator(med) => attributes.med = Some(med.metric()),
        PathAttributeValue::LocalPreference(value) => attributes.local_pref = Some(value.metric()),
        PathAttributeValue::Communities(list) => {
            let values = list.communities().iter();
            attributes.communities = values.map(|entry| Community(entry.value())).collect();
        }
        _ => {}
    }
}

fn segments(path: &codec::AsPath) -> Vec<Segment> {
    let segment = |kind: AsPathSegmentType, numbers: Vec<u32>| match kind {
        AsPathSegmentType::AsSet => Segment::Set(numbers),
        _ => Segment::Sequence(numbers),
    };
    match path {
        codec::AsPath::As2PathSegments(list) => list
            .iter()
            .map(|part| {
                let numbers = part.as_numbers().iter().map(|number| u32::from(*number));
                segment(part.segment_type(), numbers.collect())
            })
            .collect(),
        codec::AsPath::As4PathSegments(list) => list
            .iter()
            .map(|part| segment(part.segment_type(), part.as_numbers().to_vec()))
            .collect(),
    }
}

fn family(value: &[u8]) -> Option<(Option<Family>, &[u8])> {
    let (head, rest) = value.split_at_checked(3)?;
    Some((Family::from_afi_safi(u16::from_be_bytes([head[0], head[1]]), head[2]), rest))
}

/// MP_REACH_NLRI (RFC 4760, 3): AFI, SAFI, next hop with its length, a reserved octet, prefixes.
fn reach(value: &[u8]) -> Option<Multiprotocol> {
    let (family, rest) = family(value)?;
    let (length, rest) = rest.split_first()?;
    let (hop, rest) = rest.split_at_checked(usize::from(*length))?;
    let (_reserved, octets) = rest.split_first()?;
    let mut reach = prefixes(family, octets)?;
    match (family, hop.len()) {
        (None, _) => {}
        (Some(Family::Ipv4), 4) => {
            reach.next_hop_v4 = <[u8; 4]>::try_from(hop).ok().map(Ipv4Addr::from);
        }
        // RFC 2545, 3: a global address, and perhaps a link-local one behind it.
        (Some(Family::Ipv6), 16 | 32) => {
            reach.next_hop_v6 = <[u8; 16]>::try_from(&hop[..16]).ok().map(Ipv6Addr::from);
        }
        (Some(_), _) => return None,
    }
    Some(reach)
}

/// MP_UNREACH_NLRI (RFC 4760, 4): AFI, SAFI, prefixes.
fn unreach(value: &[u8]) -> Option<Multiprotocol> {
    let (family, octets) = family(value)?;
    prefixes(family, octets)
}

fn prefixes(family: Option<Family>, octets: &[u8]) -> Option<Multiprotocol> {
    let mut found = Multiprotocol { family, ..Multiprotocol::default() };
    match family {
        Some(Family::Ipv4) => found.prefixes_v4 = prefix::ipv4(octets).ok()?,
        Some(Family::Ipv6) => found.prefixes_v6 = prefix::ipv6(octets).ok()?,
        // A family that was not negotiated is ignored (RFC 4760, 7 allows a reset instead).
        None => {}
    }
    Some(found)
}
