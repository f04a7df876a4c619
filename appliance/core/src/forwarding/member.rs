//! What a table can lead to.

use std::fmt::Debug;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::sync::Arc;

/// Something that buckets lead to: a backend or an appliance.
///
/// The order of members decides ties, so it is part of the table's definition: changing the
/// `Ord` of a member type changes tables.
pub trait Member: Clone + Ord + Debug {
    /// Appends the serial form, one for each value.
    fn write(&self, out: &mut Vec<u8>);

    /// Reads what [`Member::write`] wrote, and nothing else; `None` for any other bytes.
    fn read(bytes: &[u8]) -> Option<Self>;
}

/// A backend: address, then port, both big-endian. An IPv6 address with flow information or a
/// scope is followed by these, 4 bytes each.
impl Member for SocketAddr {
    fn write(&self, out: &mut Vec<u8>) {
        match self {
            SocketAddr::V4(v4) => out.extend(v4.ip().octets()),
            SocketAddr::V6(v6) => out.extend(v6.ip().octets()),
        }
        out.extend(self.port().to_be_bytes());
        if let SocketAddr::V6(v6) = self
            && (v6.flowinfo(), v6.scope_id()) != (0, 0)
        {
            out.extend(v6.flowinfo().to_be_bytes());
            out.extend(v6.scope_id().to_be_bytes());
        }
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        if bytes.len() == 6 {
            let (ip, port) = bytes.split_first_chunk::<4>()?;
            let port = u16::from_be_bytes(port.try_into().ok()?);
            return Some((Ipv4Addr::from(*ip), port).into());
        }
        let (ip, rest) = bytes.split_first_chunk::<16>()?;
        let (port, rest) = rest.split_first_chunk::<2>()?;
        let (flow, scope) = match rest.split_first_chunk::<4>() {
            None if rest.is_empty() => (0, 0),
            None => return None,
            Some((flow, scope)) => {
                let both = (u32::from_be_bytes(*flow), u32::from_be_bytes(scope.try_into().ok()?));
                (both != (0, 0)).then_some(both)?
            }
        };
        let port = u16::from_be_bytes(*port);
        Some(SocketAddrV6::new(Ipv6Addr::from(*ip), port, flow, scope).into())
    }
}

/// An appliance by number, big-endian.
impl Member for u32 {
    fn write(&self, out: &mut Vec<u8>) {
        out.extend(self.to_be_bytes());
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        Some(Self::from_be_bytes(bytes.try_into().ok()?))
    }
}

/// An appliance by name, UTF-8.
impl Member for Arc<str> {
    fn write(&self, out: &mut Vec<u8>) {
        out.extend(self.as_bytes());
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        Some(std::str::from_utf8(bytes).ok()?.into())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn round_trip<M: Member>(member: &M) -> Option<M> {
        let mut bytes = Vec::new();
        member.write(&mut bytes);
        M::read(&bytes)
    }

    proptest! {
        #[test]
        fn backends_round_trip(address in any::<SocketAddr>(), scope in 0..2_u32) {
            let mut address = address;
            if let SocketAddr::V6(v6) = &mut address {
                v6.set_scope_id(scope);
            }
            prop_assert_eq!(round_trip(&address), Some(address));
        }

        #[test]
        fn whatever_reads_as_a_backend_is_its_only_form(
            bytes in prop::collection::vec(any::<u8>(), 0..30),
        ) {
            if let Some(address) = SocketAddr::read(&bytes) {
                let mut again = Vec::new();
                address.write(&mut again);
                prop_assert_eq!(again, bytes);
            }
        }

        #[test]
        fn appliances_round_trip(number in any::<u32>(), name in ".{0,40}") {
            let name: Arc<str> = name.into();
            prop_assert_eq!(round_trip(&number), Some(number));
            prop_assert_eq!(round_trip(&name), Some(name));
        }
    }
}
