//! What stands against the addresses and ports that `nat` sends from.
//!
//! Replies go to these addresses, so this host must answer for them; and no socket of this host may
//! be given a port that a flow uses, or two conversations would share a tuple.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::ops::RangeInclusive;

use crate::control::sources::OWN_PORTS;
use crate::settings::Settings;

/// Ports that the kernel gives to sockets that ask for none.
const LOCAL_PORTS: &str = "/proc/sys/net/ipv4/ip_local_port_range";

/// Looks at this host as it is now.
pub(crate) fn of_sources(settings: &Settings) -> Vec<String> {
    let foreign = settings.nat_addresses.iter().filter(|address| !is_own(**address));
    let mut faults: Vec<String> = foreign.map(|address| foreign_address(*address)).collect();
    let local = std::fs::read_to_string(LOCAL_PORTS).unwrap_or_default();
    if let Some(local) = parse_range(&local) {
        faults.extend(overlap(settings, &local));
    }
    faults
}

fn foreign_address(address: IpAddr) -> String {
    let length = if address.is_ipv4() { 32 } else { 128 };
    format!(
        "xdp.nat_addresses: {address} is no address of this host, so that replies find nobody: let \
         it be bound (xdp.bind_nat_addresses, CAP_NET_ADMIN), or run `ip address add \
         {address}/{length} dev lo`; and route it here, or take it out"
    )
}

/// Whether a socket can have the address.
fn is_own(address: IpAddr) -> bool {
    UdpSocket::bind(SocketAddr::new(address, 0)).is_ok()
}

/// The host's own addresses are used by its own sockets too; configured ones are for `nat` alone.
fn overlap(settings: &Settings, local: &RangeInclusive<u16>) -> Option<String> {
    let uses_own =
        [true, false].iter().any(|v4| !settings.nat_addresses.iter().any(|a| a.is_ipv4() == *v4));
    let shared = local.start().max(OWN_PORTS.start())..=local.end().min(OWN_PORTS.end());
    (uses_own && shared.start() <= shared.end()).then(|| {
        format!(
            "the ports {}-{} are used by mode nat on this host's own addresses and given to its own \
             sockets too: end net.ipv4.ip_local_port_range below {}, or set xdp.nat_addresses",
            shared.start(),
            shared.end(),
            OWN_PORTS.start()
        )
    })
}

fn parse_range(text: &str) -> Option<RangeInclusive<u16>> {
    let mut numbers = text.split_whitespace().map(str::parse);
    Some(numbers.next()?.ok()?..=numbers.next()?.ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::{AttachWish, Capacities};

    fn settings(nat_addresses: &[&str]) -> Settings {
        Settings {
            enabled: true,
            interfaces: Vec::new(),
            attach: AttachWish::Auto,
            pin_dir: "/nowhere".into(),
            flow_hash_key: haflinger_core::flow::FlowHashKey([0; 16]),
            capacities: Capacities::default(),
            new_flows_rate: 0,
            nat_addresses: nat_addresses.iter().map(|address| address.parse().unwrap()).collect(),
            nat_ports: 1024..=65_535,
        }
    }

    #[test]
    fn ports_that_two_may_use_are_named() {
        let local = parse_range("32768\t65000\n").unwrap();
        let fault = overlap(&settings(&[]), &local).unwrap();
        assert!(fault.starts_with("the ports 61000-65000 are used"), "{fault}");
        assert_eq!(overlap(&settings(&[]), &(32_768..=60_999)), None);
        assert_eq!(overlap(&settings(&["192.0.2.1", "2001:db8::1"]), &local), None);
        assert!(overlap(&settings(&["192.0.2.1"]), &local).is_some());
    }

    #[test]
    fn an_address_that_is_not_ours_is_named_with_the_remedy() {
        let faults = of_sources(&settings(&["127.0.0.1", "192.0.2.1"]));
        let named: Vec<&String> = faults.iter().filter(|f| f.contains("nat_addresses:")).collect();
        assert_eq!(named.len(), 1);
        assert!(named[0].contains("ip address add 192.0.2.1/32 dev lo"), "{}", named[0]);
    }
}
