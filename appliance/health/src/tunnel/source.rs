//! The address that a probe inside of a tunnel comes from: an address of this host to which the
//! backend can answer. Reads the kernel, changes nothing.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

/// An address of an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Own {
    interface: String,
    address: IpAddr,
}

/// The address of `vip`'s family to ask from; `None` when this host has none but VIPs. An error
/// says that there is no route to the backend.
pub(super) fn towards(backend: IpAddr, vip: IpAddr, vips: &[IpAddr]) -> io::Result<Option<IpAddr>> {
    let routed = preferred(backend)?;
    let may = |address: &IpAddr| *address != vip && vips.binary_search(address).is_err();
    if routed.is_ipv4() == vip.is_ipv4() && may(&routed) {
        return Ok(Some(routed));
    }
    let all = addresses()?;
    let candidates: Vec<Own> = all.iter().filter(|own| may(&own.address)).cloned().collect();
    let exit = all.iter().find(|own| own.address == routed).map(|own| own.interface.clone());
    Ok(choose(&candidates, vip.is_ipv4(), exit.as_deref()))
}

/// The source that the kernel's route towards the backend prefers.
fn preferred(backend: IpAddr) -> io::Result<IpAddr> {
    let any: IpAddr = match backend {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind(SocketAddr::new(any, 0))?;
    // Sends nothing. The port (discard, RFC 863) is without meaning.
    socket.connect(SocketAddr::new(backend, 9))?;
    Ok(socket.local_addr()?.ip())
}

/// One of the wanted family: of the interface that leads to the backend, or else of any other.
fn choose(candidates: &[Own], wants_v4: bool, exit: Option<&str>) -> Option<IpAddr> {
    let usable = |own: &&Own| own.address.is_ipv4() == wants_v4 && is_global(own.address);
    let on_exit = candidates.iter().filter(usable).find(|own| Some(&*own.interface) == exit);
    on_exit.or_else(|| candidates.iter().find(usable)).map(|own| own.address)
}

/// Whether others can answer to it.
fn is_global(address: IpAddr) -> bool {
    let local = match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    !local && !address.is_loopback() && !address.is_unspecified() && !address.is_multicast()
}

/// Every address of this host, in the kernel's order.
fn addresses() -> io::Result<Vec<Own>> {
    let mut list: *mut libc::ifaddrs = std::ptr::null_mut();
    // SAFETY: on success, `list` is a list that is ours until it is freed below.
    if unsafe { libc::getifaddrs(&raw mut list) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let mut found = Vec::new();
    let mut next = list;
    // SAFETY: every entry of the list is whole, and its end is null.
    while let Some(entry) = unsafe { next.as_ref() } {
        next = entry.ifa_next;
        // SAFETY: a name that ends in a zero.
        let name = unsafe { std::ffi::CStr::from_ptr(entry.ifa_name) };
        if let Some(address) = address_of(entry) {
            found.push(Own { interface: name.to_string_lossy().into_owned(), address });
        }
    }
    // SAFETY: the list from above, freed once; nothing points into it any more.
    unsafe { libc::freeifaddrs(list) };
    Ok(found)
}

fn address_of(entry: &libc::ifaddrs) -> Option<IpAddr> {
    // SAFETY: null, or an address whose family says how long it is.
    let family = i32::from(unsafe { entry.ifa_addr.as_ref() }?.sa_family);
    match family {
        libc::AF_INET => {
            // SAFETY: of this family it is a `sockaddr_in`; it may not be aligned as one.
            let address = unsafe { entry.ifa_addr.cast::<libc::sockaddr_in>().read_unaligned() };
            Some(Ipv4Addr::from(u32::from_be(address.sin_addr.s_addr)).into())
        }
        libc::AF_INET6 => {
            // SAFETY: of this family it is a `sockaddr_in6`; it may not be aligned as one.
            let address = unsafe { entry.ifa_addr.cast::<libc::sockaddr_in6>().read_unaligned() };
            Some(Ipv6Addr::from(address.sin6_addr.s6_addr).into())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own(interface: &str, address: &str) -> Own {
        Own { interface: interface.into(), address: address.parse().unwrap() }
    }

    #[test]
    fn the_exit_s_address_goes_first_and_what_nobody_can_answer_to_never() {
        let all = [
            own("lo", "127.0.0.1"),
            own("lo", "::1"),
            own("eth1", "198.51.100.9"),
            own("eth0", "fe80::1"),
            own("eth0", "198.51.100.2"),
            own("eth1", "2001:db8::9"),
        ];
        let chosen = |v4, exit| choose(&all, v4, exit).map(|address| address.to_string());
        assert_eq!(chosen(true, Some("eth0")).as_deref(), Some("198.51.100.2"));
        assert_eq!(chosen(true, None).as_deref(), Some("198.51.100.9"));
        assert_eq!(chosen(false, Some("eth0")).as_deref(), Some("2001:db8::9"));
        assert_eq!(choose(&all[..4], false, Some("eth0")), None);
    }

    #[test]
    fn the_kernel_names_our_addresses_and_the_one_towards_a_backend() {
        let loopback: IpAddr = [127, 0, 0, 1].into();
        assert!(addresses().unwrap().contains(&own("lo", "127.0.0.1")));
        assert_eq!(preferred(loopback).unwrap(), loopback);
        let vip = [192, 0, 2, 1].into();
        assert_eq!(towards(loopback, vip, &[]).unwrap(), Some(loopback));
        // Where the route prefers a VIP, another address is taken, or none.
        assert_ne!(towards(loopback, vip, &[loopback]).unwrap(), Some(loopback));
    }
}
