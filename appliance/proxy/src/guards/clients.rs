//! Lists of clients as the hot path reads them. Pure.

use std::net::IpAddr;

use haflinger_core::ClientRanges;
use ipnet::IpNet;

/// [`ClientRanges`], to be looked up by binary search.
#[derive(Debug)]
pub(crate) struct Clients {
    allow: Option<Ranges>,
    deny: Ranges,
}

impl Clients {
    pub(crate) fn new(ranges: &ClientRanges) -> Self {
        Self { allow: ranges.allow.as_deref().map(Ranges::new), deny: Ranges::new(&ranges.deny) }
    }

    /// Whether a client may ask.
    pub(crate) fn admit(&self, client: IpAddr) -> bool {
        let client = client.to_canonical();
        self.allow.as_ref().is_none_or(|allow| allow.contain(client)) && !self.deny.contain(client)
    }
}

/// Disjoint ranges of addresses, sorted, first and last of each.
#[derive(Debug)]
struct Ranges(Vec<(IpAddr, IpAddr)>);

impl Ranges {
    fn new(networks: &[IpNet]) -> Self {
        let networks: Vec<IpNet> = networks.iter().map(|network| canonical(*network)).collect();
        let disjoint = IpNet::aggregate(&networks);
        let mut ranges: Vec<(IpAddr, IpAddr)> =
            disjoint.iter().map(|network| (network.network(), network.broadcast())).collect();
        ranges.sort_unstable();
        Self(ranges)
    }

    fn contain(&self, address: IpAddr) -> bool {
        let after = self.0.partition_point(|(first, _)| *first <= address);
        self.0[..after].last().is_some_and(|(_, last)| address <= *last)
    }
}

/// A network of IPv4 addresses that is written as one of IPv6 (`::ffff:192.0.2.0/120`).
fn canonical(network: IpNet) -> IpNet {
    const MAPPED_BITS: u8 = 96;
    match (network.addr().to_canonical(), network.prefix_len().checked_sub(MAPPED_BITS)) {
        (IpAddr::V4(v4), Some(bits)) if network.addr().is_ipv6() => {
            IpNet::new(v4.into(), bits).unwrap_or(network)
        }
        _ => network,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn clients(allow: Option<&[&str]>, deny: &[&str]) -> Clients {
        let read = |list: &[&str]| list.iter().map(|text| text.parse().unwrap()).collect();
        Clients::new(&ClientRanges { allow: allow.map(read), deny: read(deny) })
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn without_lists_everybody_may_ask_and_with_an_empty_one_nobody() {
        assert!(clients(None, &[]).admit(ip("192.0.2.1")));
        assert!(!clients(Some(&[]), &[]).admit(ip("192.0.2.1")));
    }

    #[test]
    fn who_is_denied_may_not_ask_although_allowed() {
        let clients = clients(Some(&["192.0.2.0/24", "2001:db8::/32"]), &["192.0.2.128/25"]);
        assert!(clients.admit(ip("192.0.2.1")) && clients.admit(ip("2001:db8::7")));
        assert!(!clients.admit(ip("192.0.2.200")) && !clients.admit(ip("198.51.100.1")));
    }

    #[test]
    fn an_ipv4_client_is_one_however_it_is_written() {
        assert!(clients(Some(&["192.0.2.0/24"]), &[]).admit(ip("::ffff:192.0.2.1")));
        assert!(clients(Some(&["::ffff:192.0.2.0/120"]), &[]).admit(ip("192.0.2.1")));
    }

    proptest! {
        #[test]
        fn the_search_agrees_with_asking_every_network(
            networks in prop::collection::vec((any::<[u8; 4]>(), 0u8..=32), 0..20),
            address in any::<[u8; 4]>(),
        ) {
            let networks: Vec<IpNet> = networks
                .into_iter()
                .map(|(octets, bits)| IpNet::new(octets.into(), bits).unwrap().trunc())
                .collect();
            let address = IpAddr::from(address);
            let slow = networks.iter().any(|network| network.contains(&address));
            prop_assert_eq!(Ranges::new(&networks).contain(address), slow);
        }
    }
}
