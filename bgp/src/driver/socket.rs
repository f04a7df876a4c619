//! Sockets: source address, hop limits (RFC 4271, 5.1.3; RFC 5082) and MD5 signatures (RFC 2385).

use std::io;
use std::mem;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, RawFd};

use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, Type};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use crate::settings::{Distance, PASSWORD_MAX, PeerSettings, Settings};

/// Connections that the kernel completes before they are accepted. More than all peers at once.
const BACKLOG: i32 = 128;
/// What the kernel holds for a peer that reads slowly, in octets (it doubles the number for its
/// own use). Routes that wait here are told even when they have changed since, so it is small.
const SEND_BUFFER: usize = 128 * 1024;
/// `IPV6_MINHOPCOUNT` of linux/in6.h, for which libc has no name on every target.
const IPV6_MINHOPCOUNT: libc::c_int = 73;

/// `struct tcp_md5sig` of linux/tcp.h.
#[repr(C)]
struct Md5Signature {
    address: libc::sockaddr_storage,
    flags: u8,
    prefix_len: u8,
    key_len: u16,
    interface: libc::c_int,
    key: [u8; PASSWORD_MAX],
}

/// Opens a connection to a peer.
pub(super) async fn connect(peer: PeerSettings, internal: bool) -> io::Result<TcpStream> {
    let target = SocketAddr::new(peer.address, peer.port);
    let socket = if target.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    if let Some(local) = peer.local_address {
        socket.bind(SocketAddr::new(local, 0))?;
    }
    if let Some(password) = &peer.md5_password {
        sign(socket.as_raw_fd(), peer.address, password.reveal().as_bytes())?;
    }
    let options = SockRef::from(&socket);
    limit_hops(&options, peer.address.is_ipv4(), peer.distance, internal)?;
    options.set_tcp_nodelay(true)?;
    options.set_send_buffer_size(SEND_BUFFER)?;
    let stream = socket.connect(target).await?;
    if stream.local_addr()? == stream.peer_addr()? {
        // TCP lets a socket connect to itself when the kernel picks the port it aims at.
        return Err(io::Error::from(io::ErrorKind::ConnectionRefused));
    }
    Ok(stream)
}

/// Prepares a connection that a peer opened.
pub(super) fn adopt(stream: &TcpStream, peer: &PeerSettings, internal: bool) -> io::Result<()> {
    let options = SockRef::from(stream);
    let ipv4 = stream.local_addr()?.is_ipv4();
    limit_hops(&options, ipv4, peer.distance, internal)?;
    options.set_tcp_nodelay(true)?;
    options.set_send_buffer_size(SEND_BUFFER)
}

/// Listens, with the signatures and hop limits that peers need before a connection is accepted.
pub(super) fn listen(address: SocketAddr, settings: &Settings) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        // An unspecified IPv6 address means every address of the host.
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&SockAddr::from(address))?;
    for peer in &settings.peers {
        sign_listener(socket.as_raw_fd(), address, peer)?;
    }
    let secured = |peer: &PeerSettings| matches!(peer.distance, Distance::Security(_));
    if settings.peers.iter().any(secured) {
        // The handshake's answer leaves from the listener, before `adopt`.
        if address.is_ipv4() {
            socket.set_ttl_v4(255)?;
        } else {
            socket.set_unicast_hops_v6(255)?;
        }
    }
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

fn sign_listener(socket: RawFd, listen: SocketAddr, peer: &PeerSettings) -> io::Result<()> {
    let Some(password) = &peer.md5_password else { return Ok(()) };
    let address = match (listen.ip(), peer.address) {
        (IpAddr::V4(_), IpAddr::V6(_)) => return Ok(()),
        // On a socket for both families the kernel compares mapped addresses.
        (IpAddr::V6(_), IpAddr::V4(v4)) => IpAddr::V6(v4.to_ipv6_mapped()),
        (_, address) => address,
    };
    sign(socket, address, password.reveal().as_bytes())
}

fn limit_hops(
    socket: &SockRef<'_>,
    ipv4: bool,
    distance: Distance,
    internal: bool,
) -> io::Result<()> {
    let (ttl, least) = match distance {
        Distance::Direct if internal => return Ok(()),
        Distance::Direct => (1, None),
        Distance::Multihop(hops) => (u32::from(hops), None),
        Distance::Security(hops) => (255, Some(256 - libc::c_int::from(hops))),
    };
    if ipv4 {
        socket.set_ttl_v4(ttl)?;
    } else {
        socket.set_unicast_hops_v6(ttl)?;
    }
    let Some(least) = least else { return Ok(()) };
    let (level, name) = if ipv4 {
        (libc::IPPROTO_IP, libc::IP_MINTTL)
    } else {
        (libc::IPPROTO_IPV6, IPV6_MINHOPCOUNT)
    };
    set_option(socket.as_raw_fd(), level, name, &least)
}

fn sign(socket: RawFd, peer: IpAddr, password: &[u8]) -> io::Result<()> {
    let address = SockAddr::from(SocketAddr::new(peer, 0));
    // SAFETY: `sockaddr_storage` is plain data for which all zeros is a value.
    let mut storage: libc::sockaddr_storage = unsafe { mem::zeroed() };
    let length = usize::try_from(address.len()).unwrap_or(0).min(size_of_val(&storage));
    // SAFETY: `address` is valid for its own length, `storage` for `length`, which is no more
    // than either; they do not overlap.
    unsafe {
        let from = address.as_ptr().cast::<u8>();
        std::ptr::copy_nonoverlapping(from, (&raw mut storage).cast::<u8>(), length);
    }
    let mut key = [0; PASSWORD_MAX];
    let password = &password[..password.len().min(PASSWORD_MAX)];
    key[..password.len()].copy_from_slice(password);
    let key_len = u16::try_from(password.len()).unwrap_or(0);
    let signature =
        Md5Signature { address: storage, flags: 0, prefix_len: 0, key_len, interface: 0, key };
    set_option(socket, libc::IPPROTO_TCP, libc::TCP_MD5SIG, &signature)
}

fn set_option<T>(
    socket: RawFd,
    level: libc::c_int,
    name: libc::c_int,
    value: &T,
) -> io::Result<()> {
    let length = libc::socklen_t::try_from(size_of::<T>()).map_err(io::Error::other)?;
    // SAFETY: `value` is valid for reads of `length` octets, its own size, during the call; the
    // kernel keeps no pointer to it.
    let answer =
        unsafe { libc::setsockopt(socket, level, name, std::ptr::from_ref(value).cast(), length) };
    if answer == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
