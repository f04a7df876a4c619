//! UPDATE (RFC 4271, 4.3; RFC 4760): routes announced and withdrawn.
//!
//! ```text
//! +-----------------------------------------------------+
//! |   Withdrawn Routes Length (2 octets)                |
//! +-----------------------------------------------------+
//! |   Withdrawn Routes (variable)                       |
//! +-----------------------------------------------------+
//! |   Total Path Attribute Length (2 octets)            |
//! +-----------------------------------------------------+
//! |   Path Attributes (variable)                        |
//! +-----------------------------------------------------+
//! |   Network Layer Reachability Information (variable) |
//! +-----------------------------------------------------+
//! ```

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::attributes::{self, Read};
use super::notification::{Notification, UPDATE};
use super::{Context, Message, prefix};
use crate::model::{Community, Family, is_unicast};

/// How the route came into BGP (RFC 4271, 5.1.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Interior to the originating AS.
    Igp,
    /// Learned by EGP.
    Egp,
    /// By other means.
    Incomplete,
}

/// A segment of an AS_PATH (RFC 4271, 4.3 b).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Segment {
    /// The ASes passed, last one first.
    Sequence(Vec<u32>),
    /// ASes in no order.
    Set(Vec<u32>),
}

/// The attributes that this speaker writes or looks at. Others are checked and dropped.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attributes {
    /// ORIGIN.
    pub origin: Option<Origin>,
    /// AS_PATH; an empty path is `Some` of no segments.
    pub as_path: Option<Vec<Segment>>,
    /// NEXT_HOP of the IPv4 prefixes.
    pub next_hop: Option<Ipv4Addr>,
    /// MULTI_EXIT_DISC.
    pub med: Option<u32>,
    /// LOCAL_PREF, within an AS only.
    pub local_pref: Option<u32>,
    /// COMMUNITIES (RFC 1997).
    pub communities: Vec<Community>,
}

/// An UPDATE that says something. (One that says nothing is [`Message::EndOfRib`].)
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Update {
    /// IPv4 prefixes withdrawn.
    pub withdrawn_v4: Vec<Ipv4Net>,
    /// IPv6 prefixes withdrawn.
    pub withdrawn_v6: Vec<Ipv6Net>,
    /// IPv4 prefixes announced, with [`Attributes::next_hop`].
    pub announced_v4: Vec<Ipv4Net>,
    /// IPv6 prefixes announced.
    pub announced_v6: Vec<Ipv6Net>,
    /// The next hop of the IPv6 prefixes (RFC 2545, 3: the global one).
    pub next_hop_v6: Option<Ipv6Addr>,
    /// Attributes of everything announced.
    pub attributes: Attributes,
    /// Set when the prefixes were announced with broken attributes and therefore stand in the
    /// withdrawn lists (RFC 7606, 2: treat-as-withdraw). It names the fault.
    pub treated_as_withdraw: Option<Notification>,
}

impl Update {
    /// How many prefixes it announces.
    #[must_use]
    pub fn announced(&self) -> usize {
        self.announced_v4.len() + self.announced_v6.len()
    }
}

fn malformed_list() -> Notification {
    Notification::new(UPDATE, 1, &[])
}

fn invalid_network() -> Notification {
    Notification::new(UPDATE, 10, &[])
}

/// Splits off a field that is preceded by its length in two octets.
fn split_field(octets: &[u8]) -> Result<(&[u8], &[u8]), Notification> {
    let (length, rest) = octets.split_at_checked(2).ok_or_else(malformed_list)?;
    let length = usize::from(u16::from_be_bytes([length[0], length[1]]));
    rest.split_at_checked(length).ok_or_else(malformed_list)
}

pub(super) fn decode(body: &[u8], context: &Context) -> Result<Message, Notification> {
    let (withdrawn, rest) = split_field(body)?;
    let (attribute_octets, nlri) = split_field(rest)?;
    let mut update = Update {
        withdrawn_v4: prefix::ipv4(withdrawn).map_err(|_| invalid_network())?,
        announced_v4: prefix::ipv4(nlri).map_err(|_| invalid_network())?,
        ..Update::default()
    };
    let read = attributes::read(attribute_octets, context)?;
    if withdrawn.is_empty() && nlri.is_empty() && read.fault.is_none() {
        if attribute_octets.is_empty() {
            return Ok(Message::EndOfRib(Family::Ipv4));
        }
        if let Some(family) = read.end_of_rib() {
            return Ok(Message::EndOfRib(family));
        }
    }
    let fault = read.fault.clone().or_else(|| missing(&read, !update.announced_v4.is_empty()));
    let reaches = !update.announced_v4.is_empty() || read.reach.is_some();
    if let Some(fault) = &fault
        && !reaches
    {
        // RFC 7606, 5.2: what cannot be told apart from lost prefixes resets the session.
        return Err(fault.clone());
    }
    merge(&mut update, read);
    keep_unicast(&mut update);
    if fault.is_some() {
        let Update { withdrawn_v4, withdrawn_v6, announced_v4, announced_v6, .. } = &mut update;
        withdrawn_v4.append(announced_v4);
        withdrawn_v6.append(announced_v6);
        update.attributes = Attributes::default();
        update.next_hop_v6 = None;
        update.treated_as_withdraw = fault;
    }
    Ok(Message::Update(update))
}

/// RFC 7606, 3 d: prefixes without their mandatory attributes are treated as withdrawn.
fn missing(read: &Read, has_nlri: bool) -> Option<Notification> {
    let attribute = if !has_nlri && read.reach.is_none() {
        return None;
    } else if read.attributes.origin.is_none() {
        attributes::ORIGIN
    } else if read.attributes.as_path.is_none() {
        attributes::AS_PATH
    } else if has_nlri && read.attributes.next_hop.is_none() {
        attributes::NEXT_HOP
    } else {
        return None;
    };
    Some(Notification::new(UPDATE, 3, &[attribute]))
}

fn merge(update: &mut Update, read: Read) {
    update.attributes = read.attributes;
    if let Some(reach) = read.reach {
        update.announced_v4.extend(reach.prefixes_v4);
        update.announced_v6 = reach.prefixes_v6;
        update.next_hop_v6 = reach.next_hop_v6;
        update.attributes.next_hop = update.attributes.next_hop.or(reach.next_hop_v4);
    }
    if let Some(unreach) = read.unreach {
        update.withdrawn_v4.extend(unreach.prefixes_v4);
        update.withdrawn_v6 = unreach.prefixes_v6;
    }
}

/// RFC 4271, 6.3: a prefix that is semantically wrong, such as a multicast one, is ignored.
fn keep_unicast(update: &mut Update) {
    for list in [&mut update.withdrawn_v4, &mut update.announced_v4] {
        list.retain(|net| is_unicast(&IpNet::V4(*net)));
    }
    for list in [&mut update.withdrawn_v6, &mut update.announced_v6] {
        list.retain(|net| is_unicast(&IpNet::V6(*net)));
    }
}
