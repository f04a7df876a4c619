//! Messages to octets.
//!
//! Invariant: what is appended is exactly one message of at most [`MESSAGE_MAX`] octets whose
//! length field is right, or nothing.

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use netgauze_bgp_pkt::BgpMessage;
use netgauze_bgp_pkt::community::Community as CodecCommunity;
use netgauze_bgp_pkt::iana::RouteRefreshSubcode;
use netgauze_bgp_pkt::nlri::{Ipv4Unicast, Ipv4UnicastAddress, Ipv6Unicast, Ipv6UnicastAddress};
use netgauze_bgp_pkt::path_attribute::{
    self as codec, As2PathSegment, As4Path, As4PathSegment, AsPathSegmentType, Communities,
    LocalPreference, MpReach, MpUnreach, MultiExitDiscriminator, NextHop, PathAttribute,
    PathAttributeValue,
};
use netgauze_bgp_pkt::route_refresh::BgpRouteRefreshMessage;
use netgauze_bgp_pkt::update::BgpUpdateMessage;
use netgauze_iana::address_family::AddressType;
use netgauze_parse_utils::WritablePdu as _;

use super::update::{Attributes, Origin, Segment, Update};
use super::{Context, HEADER_LEN, MESSAGE_MAX, Message};
use crate::model::{AS_TRANS, Family};

/// Most ASes in one segment: its count is one octet (RFC 4271, 4.3).
const SEGMENT_MAX: usize = 255;

/// Why a message cannot be written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// It would be longer than RFC 4271, 4.1 allows.
    #[error("message of {0} octets is longer than {MESSAGE_MAX}")]
    TooLong(usize),
    /// Only unicast prefixes can be written.
    #[error("{0} is no unicast prefix")]
    NotUnicast(IpNet),
    /// A prefix is announced without the next hop of its family.
    #[error("{} prefixes without a next hop", .0.name())]
    NoNextHop(Family),
    /// A segment of the AS path holds none or too many.
    #[error("AS path segment of {0} numbers: 1 to {SEGMENT_MAX} fit")]
    Segment(usize),
    /// A ROUTE-REFRESH needs a family.
    #[error("route refresh without a family")]
    NoFamily,
    /// The codec crate refused.
    #[error("codec: {0}")]
    Codec(String),
}

/// Appends one message to `out`.
///
/// # Errors
/// When the message holds something that has no form on the wire; then `out` is as before.
pub fn encode_message(
    message: &Message,
    context: &Context,
    out: &mut Vec<u8>,
) -> Result<(), EncodeError> {
    let message = match message {
        Message::Notification(notification) => {
            notification.encode(out);
            return Ok(());
        }
        Message::Open(open) => open.message(),
        Message::Keepalive => BgpMessage::KeepAlive,
        Message::RouteRefresh(family) => {
            let kind = address_type(family.ok_or(EncodeError::NoFamily)?);
            let subtype = RouteRefreshSubcode::NormalRequest;
            BgpMessage::RouteRefresh(BgpRouteRefreshMessage::new(kind, subtype))
        }
        Message::EndOfRib(Family::Ipv4) => BgpMessage::Update(BgpUpdateMessage::new([], [], [])),
        Message::EndOfRib(Family::Ipv6) => {
            let marker = MpUnreach::Ipv6Unicast { nlri: Box::new([]) };
            let attribute = optional(PathAttributeValue::MpUnreach(marker), false, false)?;
            BgpMessage::Update(BgpUpdateMessage::new([], [attribute], []))
        }
        Message::Update(update) => BgpMessage::Update(update_message(update, context)?),
    };
    // The codec writes the low 16 bits of any length, so the length is checked before.
    let length = message.len();
    if length > MESSAGE_MAX {
        return Err(EncodeError::TooLong(length));
    }
    let start = out.len();
    let written = message.write(out);
    if let Err(error) = written {
        out.truncate(start);
        return Err(EncodeError::Codec(error.to_string()));
    }
    if out.len() - start != length {
        let written = out.len() - start;
        out.truncate(start);
        return Err(EncodeError::Codec(format!("wrote {written} octets for {length}")));
    }
    Ok(())
}

fn address_type(family: Family) -> AddressType {
    match family {
        Family::Ipv4 => AddressType::Ipv4Unicast,
        Family::Ipv6 => AddressType::Ipv6Unicast,
    }
}

fn update_message(update: &Update, context: &Context) -> Result<BgpUpdateMessage, EncodeError> {
    let mut attributes = Vec::new();
    // RFC 7606, 5.1: the multiprotocol attributes come first.
    if !update.withdrawn_v6.is_empty() {
        let unreach = MpUnreach::Ipv6Unicast { nlri: ipv6_list(&update.withdrawn_v6)? };
        attributes.push(optional(PathAttributeValue::MpUnreach(unreach), false, true)?);
    }
    if !update.announced_v6.is_empty() {
        let reach = MpReach::Ipv6Unicast {
            next_hop_global: update.next_hop_v6.ok_or(EncodeError::NoNextHop(Family::Ipv6))?,
            next_hop_local: None,
            nlri: ipv6_list(&update.announced_v6)?,
        };
        attributes.push(optional(PathAttributeValue::MpReach(reach), false, true)?);
    }
    if !update.announced_v4.is_empty() && update.attributes.next_hop.is_none() {
        return Err(EncodeError::NoNextHop(Family::Ipv4));
    }
    if update.announced() > 0 {
        let with_next_hop = !update.announced_v4.is_empty();
        attributes.extend(path_attributes(&update.attributes, with_next_hop, context)?);
    }
    let withdrawn = ipv4_list(&update.withdrawn_v4)?;
    Ok(BgpUpdateMessage::new(withdrawn, attributes, ipv4_list(&update.announced_v4)?))
}

/// The attributes that describe a path, in the order of their codes (RFC 4271, 5).
fn path_attributes(
    attributes: &Attributes,
    with_next_hop: bool,
    context: &Context,
) -> Result<Vec<PathAttribute>, EncodeError> {
    let mut list = Vec::new();
    if let Some(origin) = attributes.origin {
        let origin = match origin {
            Origin::Igp => codec::Origin::IGP,
            Origin::Egp => codec::Origin::EGP,
            Origin::Incomplete => codec::Origin::Incomplete,
        };
        list.push(well_known(PathAttributeValue::Origin(origin), false)?);
    }
    let path = attributes.as_path.as_deref();
    if let Some(path) = path {
        list.push(as_path(path, context.four_octet_as)?);
    }
    if let Some(hop) = attributes.next_hop.filter(|_| with_next_hop) {
        list.push(well_known(PathAttributeValue::NextHop(NextHop::new(hop)), false)?);
    }
    if let Some(med) = attributes.med {
        let med = MultiExitDiscriminator::new(med);
        list.push(optional(PathAttributeValue::MultiExitDiscriminator(med), false, false)?);
    }
    if let Some(value) = attributes.local_pref {
        let value = PathAttributeValue::LocalPreference(LocalPreference::new(value));
        list.push(well_known(value, false)?);
    }
    if !attributes.communities.is_empty() {
        let values = attributes.communities.iter().map(|entry| CodecCommunity::new(entry.0));
        let values: Vec<CodecCommunity> = values.collect();
        let extended = values.len() * 4 > usize::from(u8::MAX);
        let value = PathAttributeValue::Communities(Communities::new(values));
        list.push(optional(value, true, extended)?);
    }
    if let Some(path) = path.filter(|path| !context.four_octet_as && !fits_two_octets(path)) {
        // RFC 6793, 4.2.2: a speaker of two octets carries the true numbers on unread.
        let value = PathAttributeValue::As4Path(As4Path::new(four_octet_segments(path)?));
        list.push(optional(value, true, segments_len(path, 4) > usize::from(u8::MAX))?);
    }
    Ok(list)
}

/// Octets that the path attributes of an announcement take, MP_REACH apart.
pub(super) fn attributes_len(
    attributes: &Attributes,
    family: Family,
    context: &Context,
) -> Result<usize, EncodeError> {
    let list = path_attributes(attributes, family == Family::Ipv4, context)?;
    Ok(list.iter().map(PathAttribute::len).sum())
}

/// Octets of a message around its prefixes and attributes: header and two length fields.
pub(super) const UPDATE_BASE: usize = HEADER_LEN + 4;

fn well_known(value: PathAttributeValue, extended: bool) -> Result<PathAttribute, EncodeError> {
    attribute(false, true, extended, value)
}

fn optional(
    value: PathAttributeValue,
    transitive: bool,
    extended: bool,
) -> Result<PathAttribute, EncodeError> {
    attribute(true, transitive, extended, value)
}

fn attribute(
    optional: bool,
    transitive: bool,
    extended: bool,
    value: PathAttributeValue,
) -> Result<PathAttribute, EncodeError> {
    PathAttribute::from(optional, transitive, false, extended, value)
        .map_err(|(_, error)| EncodeError::Codec(error.to_string()))
}

fn as_path(path: &[Segment], four_octet: bool) -> Result<PathAttribute, EncodeError> {
    if four_octet {
        let value = codec::AsPath::As4PathSegments(four_octet_segments(path)?.into());
        let extended = segments_len(path, 4) > usize::from(u8::MAX);
        return well_known(PathAttributeValue::AsPath(value), extended);
    }
    let segments = path.iter().map(|segment| {
        let (kind, numbers) = parts(segment)?;
        let short = numbers.iter().map(|number| u16::try_from(*number).unwrap_or(AS_TRANS));
        Ok(As2PathSegment::new(kind, short.collect::<Vec<u16>>()))
    });
    let segments = segments.collect::<Result<Vec<_>, EncodeError>>()?;
    let value = codec::AsPath::As2PathSegments(segments.into());
    let extended = segments_len(path, 2) > usize::from(u8::MAX);
    well_known(PathAttributeValue::AsPath(value), extended)
}

fn four_octet_segments(path: &[Segment]) -> Result<Vec<As4PathSegment>, EncodeError> {
    let segments = path.iter().map(|segment| {
        let (kind, numbers) = parts(segment)?;
        Ok(As4PathSegment::new(kind, numbers.to_vec()))
    });
    segments.collect()
}

fn parts(segment: &Segment) -> Result<(AsPathSegmentType, &[u32]), EncodeError> {
    let (kind, numbers) = match segment {
        Segment::Sequence(numbers) => (AsPathSegmentType::AsSequence, numbers),
        Segment::Set(numbers) => (AsPathSegmentType::AsSet, numbers),
    };
    match numbers.len() {
        1..=SEGMENT_MAX => Ok((kind, numbers)),
        length => Err(EncodeError::Segment(length)),
    }
}

fn fits_two_octets(path: &[Segment]) -> bool {
    path.iter().all(|segment| {
        let (Segment::Sequence(numbers) | Segment::Set(numbers)) = segment;
        numbers.iter().all(|number| u16::try_from(*number).is_ok())
    })
}

fn segments_len(path: &[Segment], octets: usize) -> usize {
    let lengths = path.iter().map(|segment| {
        let (Segment::Sequence(numbers) | Segment::Set(numbers)) = segment;
        2 + numbers.len() * octets
    });
    lengths.sum()
}

fn ipv4_list(prefixes: &[Ipv4Net]) -> Result<Box<[Ipv4UnicastAddress]>, EncodeError> {
    let list = prefixes.iter().map(|net| match Ipv4Unicast::from_net(*net) {
        Ok(unicast) => Ok(Ipv4UnicastAddress::new_no_path_id(unicast)),
        Err(_) => Err(EncodeError::NotUnicast(IpNet::V4(*net))),
    });
    list.collect()
}

fn ipv6_list(prefixes: &[Ipv6Net]) -> Result<Box<[Ipv6UnicastAddress]>, EncodeError> {
    let list = prefixes.iter().map(|net| match Ipv6Unicast::from_net(*net) {
        Ok(unicast) => Ok(Ipv6UnicastAddress::new(None, unicast)),
        Err(_) => Err(EncodeError::NotUnicast(IpNet::V6(*net))),
    });
    list.collect()
}
