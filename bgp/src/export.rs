//! What is said to a peer about our prefixes: next hop and attributes of each family.
//!
//! Pure: a function of the settings and the session.

use std::net::IpAddr;

use serde::Serialize;

use crate::fsm::Negotiated;
use crate::model::{Community, Family};
use crate::settings::{PeerSettings, Settings};
use crate::wire::{Attributes, Origin, Path, Segment};

/// LOCAL_PREF of our routes within the AS: the usual default, so that we neither win nor lose
/// against the routers' own.
pub const LOCAL_PREF: u32 = 100;

/// Why the prefixes of a family are not announced to an established peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Unannounced {
    /// The peer did not offer the family.
    NotNegotiated,
    /// Our address on the session is of the other family, or link-local, and none is configured.
    NoNextHop,
}

/// What is said about our routes to one peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Export {
    attributes: Attributes,
    next_hop_v4: Option<IpAddr>,
    next_hop_v6: Option<IpAddr>,
}

impl Export {
    /// From checked settings.
    #[must_use]
    pub fn new(speaker: &Settings, peer: &PeerSettings) -> Export {
        let internal = speaker.local_as == peer.remote_as;
        let path = if internal {
            // RFC 4271, 5.1.2 b 2: within the AS the path is empty.
            Vec::new()
        } else {
            vec![Segment::Sequence(vec![speaker.local_as])]
        };
        let mut communities: Vec<Community> =
            speaker.communities.iter().chain(&peer.communities).copied().collect();
        communities.sort_unstable();
        communities.dedup();
        Export {
            attributes: Attributes {
                origin: Some(Origin::Igp),
                as_path: Some(path),
                local_pref: internal.then_some(LOCAL_PREF),
                communities,
                ..Attributes::default()
            },
            next_hop_v4: peer.next_hop_v4.map(IpAddr::V4),
            next_hop_v6: peer.next_hop_v6.map(IpAddr::V6),
        }
    }

    /// What is said about a family on a session whose local address is `local`.
    ///
    /// # Errors
    /// Says why nothing can be.
    pub fn path(
        &self,
        family: Family,
        session: &Negotiated,
        local: IpAddr,
    ) -> Result<Path, Unannounced> {
        if !*session.families.of(family) {
            return Err(Unannounced::NotNegotiated);
        }
        let hop = match (family, local) {
            (Family::Ipv4, IpAddr::V4(_)) => self.next_hop_v4.or(Some(local)),
            (Family::Ipv4, IpAddr::V6(_)) => self.next_hop_v4,
            (Family::Ipv6, IpAddr::V6(v6)) if !v6.is_unicast_link_local() => {
                self.next_hop_v6.or(Some(local))
            }
            (Family::Ipv6, _) => self.next_hop_v6,
        };
        let next_hop = hop.ok_or(Unannounced::NoNextHop)?;
        Ok(Path { next_hop, attributes: self.attributes.clone() })
    }
}
