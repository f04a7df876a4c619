//! What the program is told of the interfaces that routes lead to.
//!
//! A VLAN device cannot transmit redirected frames: they leave by its parent with the tag pushed.
//! A bond transmits by the member that it chooses. Pure, but for the question of abilities.

use std::collections::{BTreeMap, HashSet};

use crate::netlink::Link;
use crate::program::types;
use crate::sys::Hanging;

/// `NETDEV_XDP_ACT_NDO_XMIT` of linux/netdev.h.
const CAN_TRANSMIT: u64 = 0x4;

/// Whether a driver transmits frames that a program redirects to it.
pub(crate) fn transmits(hanging: Hanging, link: &Link, tells_abilities: bool) -> bool {
    if tells_abilities {
        return hanging.features & CAN_TRANSMIT != 0;
    }
    // Before kernel 6.3 nobody says. A driver that runs a program transmits, as far as is known; a
    // veth depends on its other end.
    link.kind == "bond" || hanging.native != 0 && link.kind != "veth"
}

/// An entry for each link. `able` holds those whose drivers transmit; with `generic` attachment
/// the network stack does, by any link.
pub(crate) fn entries(
    links: &[Link],
    able: &HashSet<u32>,
    generic: bool,
) -> BTreeMap<u32, types::interface> {
    let by_index: BTreeMap<u32, &Link> = links.iter().map(|link| (link.index, link)).collect();
    let mut entries = BTreeMap::new();
    for link in links {
        let parent = link.vlan.and(link.parent).and_then(|parent| by_index.get(&parent));
        let (carrier, tag) = match (link.vlan, parent) {
            // One tag is pushed; a VLAN in a VLAN takes two.
            (Some(tag), Some(parent)) if parent.vlan.is_none() => (*parent, Some(tag)),
            (Some(_), _) => (link, None),
            (None, _) => (link, None),
        };
        let reachable = link.vlan.is_none() || tag.is_some();
        let (vlan, protocol) = tag.unwrap_or_default();
        let transmits = reachable
            && link.up
            && carrier.up
            && (able.contains(&carrier.index) || generic && carrier.name != "lo");
        entries.insert(
            link.index,
            types::interface {
                redirect: carrier.index,
                mtu: link.mtu,
                vlan: vlan.to_be(),
                vlan_protocol: protocol.to_be(),
                transmits: u8::from(transmits),
                address: link.address,
                ..Default::default()
            },
        );
    }
    entries
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(index: u32, vlan: Option<(u16, u16)>, parent: Option<u32>) -> Link {
        Link {
            index,
            name: format!("eth{index}"),
            mtu: 1500,
            up: true,
            kind: String::new(),
            parent,
            master: None,
            vlan,
            address: [2, 0, 0, 0, 0, 1],
        }
    }

    fn told(links: &[Link], able: &[u32], generic: bool, index: u32) -> (u32, u16, u8) {
        let entries = entries(links, &able.iter().copied().collect(), generic);
        let entry = entries[&index];
        (entry.redirect, u16::from_be(entry.vlan), entry.transmits)
    }

    #[test]
    fn a_vlan_device_leads_to_its_parent_with_its_tag() {
        let tag = Some((100, 0x8100));
        let links = [link(2, None, None), link(3, tag, Some(2)), link(4, tag, Some(3))];
        assert_eq!(told(&links, &[2], false, 2), (2, 0, 1));
        assert_eq!(told(&links, &[2], false, 3), (2, 100, 1));
        assert_eq!(told(&links, &[2], false, 4), (4, 0, 0));
    }

    #[test]
    fn generic_attachment_transmits_by_whatever_is_up() {
        let mut down = link(3, None, None);
        down.up = false;
        let links = [link(2, None, None), down];
        assert_eq!(told(&links, &[], false, 2).2, 0);
        assert_eq!(told(&links, &[], true, 2).2, 1);
        assert_eq!(told(&links, &[], true, 3).2, 0);
    }
}
