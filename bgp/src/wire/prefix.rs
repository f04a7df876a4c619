//! Prefixes as RFC 4271, 4.3 writes them: a length in bits, then as few octets as hold them.
//!
//! They are walked here and not by the codec crate, because RFC 7606, 5.3 wants a prefix that is
//! no unicast network to be passed over, not to end the session.

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};

/// A run of prefixes that cannot be read to its end (RFC 7606, 5.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BadPrefixes;

/// Calls `take` with the length in bits and the address octets, padded to `N`, of each prefix.
fn walk<const N: usize>(
    mut octets: &[u8],
    mut take: impl FnMut(u8, [u8; N]),
) -> Result<(), BadPrefixes> {
    while let Some((bits, rest)) = octets.split_first() {
        let length = usize::from(*bits).div_ceil(8);
        if length > N || rest.len() < length {
            return Err(BadPrefixes);
        }
        let (address, rest) = rest.split_at(length);
        let mut padded = [0; N];
        padded[..length].copy_from_slice(address);
        take(*bits, padded);
        octets = rest;
    }
    Ok(())
}

/// IPv4 prefixes; bits beyond the length are cleared (RFC 4271, 4.3: their value is irrelevant).
pub(super) fn ipv4(octets: &[u8]) -> Result<Vec<Ipv4Net>, BadPrefixes> {
    let mut prefixes = Vec::with_capacity(octets.len() / 5);
    walk::<4>(octets, |bits, address| {
        prefixes.extend(Ipv4Net::new(Ipv4Addr::from(address), bits).map(|net| net.trunc()).ok());
    })?;
    Ok(prefixes)
}

/// IPv6 prefixes, likewise.
pub(super) fn ipv6(octets: &[u8]) -> Result<Vec<Ipv6Net>, BadPrefixes> {
    let mut prefixes = Vec::with_capacity(octets.len() / 17);
    walk::<16>(octets, |bits, address| {
        prefixes.extend(Ipv6Net::new(Ipv6Addr::from(address), bits).map(|net| net.trunc()).ok());
    })?;
    Ok(prefixes)
}

/// Octets that a prefix of so many bits takes.
pub(super) fn encoded_len(bits: u8) -> usize {
    1 + usize::from(bits).div_ceil(8)
}
