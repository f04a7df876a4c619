//! The keyed flow hash: which bucket a flow falls into.

use std::hash::Hasher;
use std::net::{IpAddr, SocketAddr};

use siphasher::sip::SipHasher13;

use crate::Protocol;

/// 128-bit secret key of the hash, the same on every host that shares a table. Without it a
/// stranger could choose ports that all fall on one backend.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct FlowHashKey(pub [u8; 16]);

/// SipHash-1-3 of protocol, client and VIP. IPv4 addresses are hashed as IPv4-mapped IPv6
/// (RFC 4291, section 2.5.5.2), so that the input always has 37 bytes:
///
/// ```text
/// | client address 16 | vip address 16 | client port 2 BE | vip port 2 BE | protocol 1 |
/// ```
pub fn flow_hash(
    key: &FlowHashKey,
    protocol: Protocol,
    client: SocketAddr,
    vip: SocketAddr,
) -> u64 {
    hash(key, protocol, client.ip(), client.port(), vip)
}

/// The hash without the client's port: all flows of one client to one service fall into one
/// bucket (`sessionAffinity: ClientIP`).
pub fn client_hash(key: &FlowHashKey, protocol: Protocol, client: IpAddr, vip: SocketAddr) -> u64 {
    hash(key, protocol, client, 0, vip)
}

fn hash(
    key: &FlowHashKey,
    protocol: Protocol,
    client: IpAddr,
    client_port: u16,
    vip: SocketAddr,
) -> u64 {
    let mut input = [0_u8; 37];
    input[..16].copy_from_slice(&mapped(client));
    input[16..32].copy_from_slice(&mapped(vip.ip()));
    input[32..34].copy_from_slice(&client_port.to_be_bytes());
    input[34..36].copy_from_slice(&vip.port().to_be_bytes());
    input[36] = protocol.number();
    let mut hasher = SipHasher13::new_with_key(&key.0);
    hasher.write(&input);
    hasher.finish()
}

fn mapped(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: FlowHashKey = FlowHashKey(*b"0123456789abcdef");

    fn hash_of(client: &str, vip: &str) -> u64 {
        flow_hash(&KEY, Protocol::Tcp, client.parse().unwrap(), vip.parse().unwrap())
    }

    #[test]
    fn every_part_of_the_flow_and_the_key_counts() {
        let base = hash_of("192.0.2.1:1000", "198.51.100.1:80");
        assert_ne!(base, hash_of("192.0.2.1:1001", "198.51.100.1:80"));
        assert_ne!(base, hash_of("192.0.2.2:1000", "198.51.100.1:80"));
        assert_ne!(base, hash_of("192.0.2.1:1000", "198.51.100.1:81"));
        assert_ne!(base, hash_of("192.0.2.1:1000", "198.51.100.2:80"));
        let (client, vip) = ("192.0.2.1:1000".parse().unwrap(), "198.51.100.1:80".parse().unwrap());
        assert_ne!(base, flow_hash(&KEY, Protocol::Udp, client, vip));
        assert_ne!(base, flow_hash(&FlowHashKey([0; 16]), Protocol::Tcp, client, vip));
    }

    #[test]
    fn the_client_hash_ignores_the_port() {
        let vip = "198.51.100.1:80".parse().unwrap();
        let client = "192.0.2.1".parse().unwrap();
        assert_eq!(
            client_hash(&KEY, Protocol::Tcp, client, vip),
            flow_hash(&KEY, Protocol::Tcp, SocketAddr::new(client, 0), vip),
        );
    }
}
