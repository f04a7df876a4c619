//! Whether what clients may send fits on the way to `dsr` backends, with its outer header.
//!
//! The program refuses what does not fit with the size that does, so nothing is lost for good
//! unless a firewall keeps that from the client. But the operator should hear of it before the
//! users do. Pure: routes and links are arguments.

use std::collections::BTreeMap;
use std::fmt;

use crate::netlink::{Link, Route};

/// Bytes of an outer header without options (RFC 791, RFC 8200).
const IPV4_HEADER: u32 = 20;
const IPV6_HEADER: u32 = 40;

/// Of Ethernet, and of Ethernet with large frames.
const USUAL_MTUS: [u32; 2] = [1500, 9000];

/// Exits that are looked at: four times as many as there may be interfaces with the program, in
/// each family. What leads by others is not audited.
const EXITS_MAX: usize = 512;

/// A way out to `dsr` backends: the interface, and whether the outer header is IPv4.
pub(crate) type Exit = (u32, bool);

/// The ways out, as far as routes to `dsr` backends name them.
#[derive(Debug, Default)]
pub(crate) struct Exits {
    /// By exit: the smallest MTU of a route, in this round and in the last.
    seen: BTreeMap<Exit, [Option<u32>; 2]>,
}

impl Exits {
    /// A route to a backend at an IPv4 or an IPv6 address.
    pub(crate) fn note(&mut self, route: &Route, is_v4: bool) {
        let exit = (route.interface, is_v4);
        if route.is_local || self.seen.len() >= EXITS_MAX && !self.seen.contains_key(&exit) {
            return;
        }
        // A route without an MTU of its own has that of its link.
        let mtu = route.mtu.unwrap_or(u32::MAX);
        let [this, _] = self.seen.entry(exit).or_default();
        *this = Some(this.map_or(mtu, |known| known.min(mtu)));
    }

    /// All routes are about to be looked at again: what none names any more goes with the next.
    pub(crate) fn begin_round(&mut self) {
        self.seen.retain(|_, [this, last]| {
            *last = this.take();
            last.is_some()
        });
    }

    /// Every exit with the smallest MTU of its routes.
    pub(crate) fn smallest(&self) -> BTreeMap<Exit, u32> {
        let least = |seen: &[Option<u32>; 2]| seen.iter().flatten().min().copied();
        self.seen.iter().filter_map(|(exit, seen)| Some((*exit, least(seen)?))).collect()
    }
}

/// An exit to `dsr` backends that carries less than may arrive. Sizes are of IP packets, in bytes.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct NarrowExit {
    /// The interface by which packets leave.
    pub interface: String,
    /// MTU of the way, as far as this host knows it.
    pub mtu: u32,
    /// Whether a route, and not the interface, is what limits it.
    pub by_route: bool,
    /// Length of the outer header: 20 (IPv4) or 40 (IPv6).
    pub header: u32,
    /// The interface by which the largest packets of clients may arrive.
    pub arrives_by: String,
    /// Their size.
    pub arrives: u32,
    /// The same in words, with the remedy.
    pub text: String,
}

impl fmt::Display for NarrowExit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { interface, mtu, header, arrives_by, arrives, .. } = self;
        let of = if self.by_route { "a route's MTU" } else { "MTU" };
        let family = if *header == IPV4_HEADER { "IPv4" } else { "IPv6" };
        let (room, wanted) = (mtu.saturating_sub(*header), arrives + header);
        write!(
            f,
            "mode dsr: packets of up to {arrives} bytes arrive by {arrives_by}, and {interface} has \
             room for {room} inside of an outer {family} header ({of} {mtu}, less {header}): raise \
             the MTU of the way from {interface} to the backends to {wanted}, or set advmss {} on \
             the backends' routes to clients; until then clients are told to send smaller packets, \
             and those whose firewall hides that stall",
            // What TCP carries in the smaller of the two: 40 bytes of headers in IPv4, 60 in IPv6,
            // and the option is one number for both.
            room.saturating_sub(60),
        )
    }
}

/// What may arrive by a link. One whose MTU is raised for an outer header, as this audit asks for,
/// gets no larger packets from clients: where they arrive by the link that leads to the backends too,
/// the audit could never be satisfied otherwise.
fn arriving(link: &Link) -> u32 {
    let raised = |usual: &u32| (*usual..=usual + IPV6_HEADER).contains(&link.mtu);
    USUAL_MTUS.into_iter().find(raised).unwrap_or(link.mtu)
}

/// The exits that carry less than may arrive by one of these links.
pub(crate) fn narrow_exits(
    exits: &BTreeMap<Exit, u32>,
    links: &[Link],
    arrivals: &[&Link],
) -> Vec<NarrowExit> {
    // Of several of the same size, the first.
    let Some(widest) = arrivals.iter().rev().max_by_key(|link| arriving(link)) else {
        return Vec::new();
    };
    let arrives = arriving(widest);
    let mut found = Vec::new();
    for ((interface, is_v4), route) in exits {
        let Some(link) = links.iter().find(|link| link.index == *interface) else { continue };
        let (mtu, by_route) = (link.mtu.min(*route), *route < link.mtu);
        let header = if *is_v4 { IPV4_HEADER } else { IPV6_HEADER };
        if mtu >= arrives.saturating_add(header) {
            continue;
        }
        let mut exit = NarrowExit {
            interface: link.name.clone(),
            mtu,
            by_route,
            header,
            arrives_by: widest.name.clone(),
            arrives,
            text: String::new(),
        };
        exit.text = exit.to_string();
        found.push(exit);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(index: u32, name: &str, mtu: u32) -> Link {
        Link {
            index,
            name: name.into(),
            mtu,
            up: true,
            kind: String::new(),
            parent: None,
            master: None,
            vlan: None,
            address: [0; 6],
        }
    }

    fn route(interface: u32, mtu: Option<u32>) -> Route {
        let next_hop = [10, 0, 0, 1].into();
        Route { source: None, next_hop, interface, is_local: false, mtu }
    }

    fn found(routes: &[(Route, bool)], links: &[Link]) -> Vec<NarrowExit> {
        let mut exits = Exits::default();
        routes.iter().for_each(|(route, is_v4)| exits.note(route, *is_v4));
        let arrivals: Vec<&Link> = links.iter().filter(|link| link.index < 10).collect();
        narrow_exits(&exits.smallest(), links, &arrivals)
    }

    #[test]
    fn an_exit_that_leaves_no_room_for_the_header_is_named_once_with_figures_and_remedy() {
        let links = [link(1, "eth0", 1500), link(2, "eth1", 9000), link(10, "eth2", 1500)];
        let small = [link(1, "eth0", 1500), link(10, "eth2", 1500)];
        let both = [(route(10, None), true), (route(10, None), true), (route(10, None), false)];
        let narrow = found(&both, &small);
        assert_eq!(narrow.iter().map(|exit| exit.header).collect::<Vec<_>>(), [40, 20]);
        let text = &narrow[1].text;
        assert!(text.contains("up to 1500 bytes arrive by eth0, and eth2 has room for 1480"));
        assert!(text.contains("(MTU 1500, less 20): raise") && text.contains("to 1520, or"));
        assert_eq!(found(&both, &links)[0].arrives_by, "eth1");
    }

    #[test]
    fn an_exit_with_room_is_not_named_unless_a_route_of_it_is_narrow() {
        let links = [link(1, "eth0", 1500), link(10, "eth2", 1540)];
        assert_eq!(found(&[(route(10, None), true), (route(10, None), false)], &links), []);
        let narrow = found(&[(route(10, None), true), (route(10, Some(1400)), true)], &links);
        assert!((narrow[0].mtu, narrow[0].by_route) == (1400, true) && narrow.len() == 1);
        assert!(narrow[0].text.contains("a route's MTU 1400, less 20"), "{}", narrow[0].text);
        // Nothing arrives anywhere.
        assert_eq!(found(&[(route(10, None), true)], &links[1..]), []);
    }

    #[test]
    fn one_link_for_both_is_wide_enough_once_it_is_raised_by_a_header() {
        let both = [(route(1, None), true), (route(1, None), false)];
        let headers = |mtu| {
            let narrow = found(&both, &[link(1, "eth0", mtu)]);
            narrow.iter().map(|exit| exit.header).collect::<Vec<_>>()
        };
        assert_eq!([headers(1500), headers(1520), headers(1540)], [vec![40, 20], vec![40], vec![]]);
        assert_eq!(
            [headers(9000), headers(9040), headers(2000)],
            [vec![40, 20], vec![], vec![40, 20]]
        );
    }

    #[test]
    fn what_no_route_names_any_more_is_forgotten_after_two_rounds() {
        let mut exits = Exits::default();
        exits.note(&route(10, Some(1400)), true);
        exits.begin_round();
        exits.note(&route(10, None), true);
        exits.note(&route(11, None), true);
        assert_eq!(exits.smallest(), [((10, true), 1400), ((11, true), u32::MAX)].into());
        exits.begin_round();
        assert_eq!(exits.smallest().get(&(10, true)), Some(&u32::MAX));
        exits.begin_round();
        assert!(exits.smallest().is_empty());
    }

    #[test]
    fn no_more_exits_are_kept_than_there_is_room_for() {
        let mut exits = Exits::default();
        for interface in 0..2000 {
            exits.note(&route(interface, None), true);
        }
        assert_eq!(exits.smallest().len(), EXITS_MAX);
    }
}
