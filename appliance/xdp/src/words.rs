//! The core's words in the program's layouts, and back.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use haflinger_core::{
    Algorithm, BackendState, FlowTimeouts, ForwardingMode, Protocol, Service, ServiceKey,
};
use ipnet::IpNet;

use crate::program::types;

/// An address as the program has it: IPv4 is IPv4-mapped (RFC 4291, section 2.5.5.2).
pub(crate) fn address(address: IpAddr) -> types::address {
    let octets = match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    };
    types::address { __anon_address_1: types::__anon_address_1 { octets } }
}

/// An address of the program's.
pub(crate) fn ip(address: &types::address) -> IpAddr {
    // SAFETY: every member of the union is a plain array of the same 16 bytes.
    let octets = unsafe { address.__anon_address_1.octets };
    Ipv6Addr::from(octets).to_canonical()
}

/// Address and port, which the program has in network order.
pub(crate) fn socket(address: &types::address, port: u16) -> SocketAddr {
    SocketAddr::new(ip(address), u16::from_be(port))
}

/// The key under which the program finds a service.
pub(crate) fn service_key(key: &ServiceKey) -> types::service_key {
    types::service_key {
        vip: address(key.vip),
        port: key.port.to_be(),
        protocol: key.protocol.number(),
        ..Default::default()
    }
}

/// The service of a key; `None` for a key that was never written.
pub(crate) fn service_of(key: &types::service_key) -> Option<ServiceKey> {
    let protocol = protocol_of(key.protocol)?;
    Some(ServiceKey { vip: ip(&key.vip), port: u16::from_be(key.port), protocol })
}

/// The protocol of a number.
pub(crate) fn protocol_of(number: u8) -> Option<Protocol> {
    [Protocol::Tcp, Protocol::Udp].into_iter().find(|known| known.number() == number)
}

/// The tuple of a packet from `client` to `vip`.
pub(crate) fn flow_key(client: SocketAddr, vip: SocketAddr, protocol: Protocol) -> types::flow_key {
    types::flow_key {
        source: address(client.ip()),
        destination: address(vip.ip()),
        source_port: client.port().to_be(),
        destination_port: vip.port().to_be(),
        protocol: protocol.number(),
        ..Default::default()
    }
}

/// The key of a source range of a service.
pub(crate) fn range_key(service: u32, range: IpNet) -> types::range_key {
    let mapped_bits = if range.addr().is_ipv4() { 96 } else { 0 };
    types::range_key {
        prefix_length: 32 + mapped_bits + u32::from(range.prefix_len()),
        service,
        client: address(range.network()),
    }
}

/// The range of a key; `None` for one that this crate has not written.
pub(crate) fn range_of(key: &types::range_key) -> Option<IpNet> {
    let client = ip(&key.client);
    let mapped_bits = if client.is_ipv4() { 96 } else { 0 };
    let bits = key.prefix_length.checked_sub(32 + mapped_bits)?;
    IpNet::new(client, u8::try_from(bits).ok()?).ok()
}

/// The program's number of a mode; `None` for the relay's.
pub(crate) fn mode(mode: ForwardingMode) -> Option<u8> {
    let known = match mode {
        ForwardingMode::Nat => types::mode::MODE_NAT,
        ForwardingMode::Routed => types::mode::MODE_ROUTED,
        ForwardingMode::Dsr => types::mode::MODE_DSR,
        ForwardingMode::Proxy => return None,
    };
    Some(octet(known.0))
}

/// The mode of a number.
pub(crate) fn mode_of(number: u8) -> Option<ForwardingMode> {
    ForwardingMode::ALL.into_iter().find(|known| mode(*known) == Some(number))
}

/// The program's number of a state.
pub(crate) fn state(state: BackendState) -> u8 {
    let known = match state {
        BackendState::Active => types::backend_state::BACKEND_ACTIVE,
        BackendState::Draining => types::backend_state::BACKEND_DRAINING,
        BackendState::Down => types::backend_state::BACKEND_DOWN,
    };
    octet(known.0)
}

/// What the program is told of a service, but for its table.
pub(crate) fn service(service: &Service) -> types::service {
    let (algorithm, affinity) = match service.algorithm {
        Algorithm::Hash => (types::algorithm::ALGORITHM_HASH, 0),
        Algorithm::Source { timeout_secs } => (types::algorithm::ALGORITHM_SOURCE, timeout_secs),
        Algorithm::RoundRobin => (types::algorithm::ALGORITHM_ROUND_ROBIN, 0),
        Algorithm::LeastConnections => (types::algorithm::ALGORITHM_LEAST_CONNECTIONS, 0),
    };
    let limit = |limit: Option<std::num::NonZeroU32>| limit.map_or(0, std::num::NonZeroU32::get);
    types::service {
        key: service_key(&service.key),
        mode: mode(service.mode).unwrap_or_default(),
        algorithm: octet(algorithm.0),
        ranged: u8::from(!service.source_ranges.is_empty()),
        timeouts: timeouts(&service.timeouts),
        affinity,
        connections_max: limit(service.limits.service),
        backend_connections_max: limit(service.limits.backend),
        ..Default::default()
    }
}

fn timeouts(timeouts: &FlowTimeouts) -> types::timeouts {
    types::timeouts {
        opening: timeouts.opening_secs,
        established: timeouts.established_secs,
        closing: timeouts.closing_secs,
        closed: timeouts.closed_secs,
        datagrams: timeouts.udp_secs,
    }
}

/// The numbers of the program's enums are below 256: they have a byte in its structs.
fn octet(number: u32) -> u8 {
    u8::try_from(number).unwrap_or(u8::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_and_its_service_are_the_same() {
        for vip in ["192.0.2.1:80", "[2001:db8::1]:443"] {
            let vip: SocketAddr = vip.parse().unwrap();
            let key = ServiceKey { vip: vip.ip(), port: vip.port(), protocol: Protocol::Udp };
            assert_eq!(service_of(&service_key(&key)), Some(key));
        }
        assert_eq!(service_of(&types::service_key::default()), None);
    }

    #[test]
    fn a_range_is_as_long_as_its_prefix_behind_the_service() {
        assert_eq!(range_key(7, "10.0.0.0/8".parse().unwrap()).prefix_length, 32 + 96 + 8);
        assert_eq!(range_key(7, "2001:db8::/32".parse().unwrap()).prefix_length, 32 + 32);
        for range in ["0.0.0.0/0", "10.1.0.0/16", "192.0.2.1/32", "::/0", "2001:db8::/33"] {
            let range: IpNet = range.parse().unwrap();
            assert_eq!(range_of(&range_key(7, range)), Some(range));
        }
    }
}
