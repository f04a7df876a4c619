//! Packing: many prefixes with one set of attributes into as few UPDATEs as hold them.
//!
//! Invariant: every UPDATE that leaves here encodes to at most [`MESSAGE_MAX`] octets and holds
//! prefixes of one family, and together they hold every prefix once, in the given order.

use std::net::IpAddr;

use ipnet::IpNet;

use super::encode::{UPDATE_BASE, attributes_len};
use super::update::{Attributes, Update};
use super::{Context, EncodeError, MESSAGE_MAX, prefix};
use crate::model::Family;

/// Octets of an MP_UNREACH without prefixes: extended header, AFI, SAFI.
const MP_UNREACH_BASE: usize = 4 + 3;
/// Octets of an MP_REACH for IPv6 without prefixes: extended header, AFI, SAFI, length, next
/// hop, reserved.
const MP_REACH_BASE: usize = 4 + 3 + 1 + 16 + 1;

/// Octets of the longest prefix, an IPv6 host.
const PREFIX_MAX: usize = 17;

/// What is said about announced prefixes of one family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Path {
    /// Their next hop, of their own family.
    pub next_hop: IpAddr,
    /// Everything else; the next hop in it is ignored.
    pub attributes: Attributes,
}

/// Packs prefixes to withdraw.
#[must_use]
pub fn withdrawals(prefixes: &[IpNet]) -> Vec<Update> {
    let mut updates = Vec::new();
    for family in Family::ALL {
        let base = match family {
            Family::Ipv4 => UPDATE_BASE,
            Family::Ipv6 => UPDATE_BASE + MP_UNREACH_BASE,
        };
        for batch in batches(prefixes, family, MESSAGE_MAX - base) {
            let mut update = Update::default();
            for prefix in batch {
                match prefix {
                    IpNet::V4(net) => update.withdrawn_v4.push(net),
                    IpNet::V6(net) => update.withdrawn_v6.push(net),
                }
            }
            updates.push(update);
        }
    }
    updates
}

/// Packs those of the prefixes that are of the family of the path's next hop.
///
/// # Errors
/// When the attributes alone leave no room for a prefix, or cannot be written at all.
pub fn announcements(
    prefixes: &[IpNet],
    path: &Path,
    context: &Context,
) -> Result<Vec<Update>, EncodeError> {
    let mut template = Update { attributes: path.attributes.clone(), ..Update::default() };
    let (family, base) = match path.next_hop {
        IpAddr::V4(hop) => {
            template.attributes.next_hop = Some(hop);
            (Family::Ipv4, UPDATE_BASE)
        }
        IpAddr::V6(hop) => {
            template.attributes.next_hop = None;
            template.next_hop_v6 = Some(hop);
            (Family::Ipv6, UPDATE_BASE + MP_REACH_BASE)
        }
    };
    let base = base + attributes_len(&template.attributes, family, context)?;
    // Room for one host prefix at least; otherwise a batch could never be filled.
    let room = MESSAGE_MAX.checked_sub(base).filter(|room| *room >= PREFIX_MAX);
    let room = room.ok_or(EncodeError::TooLong(base + PREFIX_MAX))?;
    let updates = batches(prefixes, family, room).map(|batch| {
        let mut update = template.clone();
        for prefix in batch {
            match prefix {
                IpNet::V4(net) => update.announced_v4.push(net),
                IpNet::V6(net) => update.announced_v6.push(net),
            }
        }
        update
    });
    Ok(updates.collect())
}

/// Cuts the prefixes of a family into runs of at most `room` octets.
fn batches(
    prefixes: &[IpNet],
    family: Family,
    room: usize,
) -> impl Iterator<Item = Vec<IpNet>> + '_ {
    let mut rest = prefixes.iter().filter(move |net| Family::of(net) == family).peekable();
    std::iter::from_fn(move || {
        let mut batch = Vec::new();
        let mut left = room;
        while let Some(net) = rest.peek() {
            let length = prefix::encoded_len(net.prefix_len());
            if length > left {
                break;
            }
            left -= length;
            batch.push(**net);
            rest.next();
        }
        (!batch.is_empty()).then_some(batch)
    })
}
