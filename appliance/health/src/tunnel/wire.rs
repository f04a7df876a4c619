//! The sockets of the tunnel: raw ones out, packet ones in.

use std::io::{self, Read as _};
use std::mem::size_of;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd as _;
use std::sync::Arc;
use std::time::Duration;

use haflinger_core::Family;
use prometheus::IntCounterVec;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use tokio::io::unix::AsyncFd;
use tokio::task::JoinSet;

use super::claims::{Claims, Handed, instructions};
use super::{TunnelError, filter};

/// IANA protocol numbers of IPv4 and IPv6 inside of another packet (RFC 2003, RFC 2473).
const INNER_V4: i32 = 4;
const INNER_V6: i32 = 41;

/// EtherTypes.
const ETHERTYPE_V4: u16 = 0x0800;
const ETHERTYPE_V6: u16 = 0x86dd;

/// What answers may wait for this process, in bytes, for each family: several packets for each of
/// a thousand probes. What comes beyond is dropped and counted; TCP repeats it.
const RECEIVE_BYTES: usize = 2 * 1024 * 1024;

/// Packets that are looked at before other tasks have their turn.
const BATCH: usize = 64;

/// Wait after a socket gave an error, so that a lasting one costs little.
const PAUSE: Duration = Duration::from_secs(1);

type PacketSocket = Arc<AsyncFd<Socket>>;

/// Sends packets to backends, and hands what comes back to the claims.
pub(super) struct Wire {
    raw: [RawSocket; 4],
    packet: [(Family, PacketSocket); 2],
    _listeners: JoinSet<()>,
}

/// Encapsulates one family in one family.
struct RawSocket {
    outer: Family,
    inner: Family,
    /// A kernel without IPv6 has no such sockets.
    socket: io::Result<Socket>,
}

impl Wire {
    /// Opens everything; only answers from `vips` are heard.
    pub(super) fn open(
        vips: &[IpAddr],
        claims: &Arc<Claims>,
        packets: &IntCounterVec,
    ) -> Result<Self, TunnelError> {
        let open = |family| {
            let socket =
                open_packet(family, vips).map_err(|e| TunnelError::opening("packet", e))?;
            Ok((family, Arc::new(socket)))
        };
        let packet = [open(Family::V4)?, open(Family::V6)?];
        let raw = |outer, inner| RawSocket { outer, inner, socket: open_raw(outer, inner) };
        let mut listeners = JoinSet::new();
        for (_, socket) in &packet {
            let (socket, claims) = (Arc::clone(socket), Arc::clone(claims));
            listeners.spawn(listen(socket, claims, packets.clone()));
        }
        Ok(Self {
            raw: [
                raw(Family::V4, Family::V4),
                raw(Family::V4, Family::V6),
                raw(Family::V6, Family::V4),
                raw(Family::V6, Family::V6),
            ],
            packet,
            _listeners: listeners,
        })
    }

    /// From now on answers from these VIPs are heard.
    pub(super) fn hear(&self, vips: &[IpAddr]) -> io::Result<()> {
        self.packet.iter().try_for_each(|(family, socket)| attach(socket.get_ref(), *family, vips))
    }

    /// Whether packets of the one family can be sent inside of the other.
    pub(super) fn check(&self, outer: IpAddr, inner: IpAddr) -> Result<(), TunnelError> {
        let socket = self.raw(outer, inner);
        match socket.as_ref() {
            Ok(_) => Ok(()),
            Err(error) => Err(TunnelError::opening("raw", again(error))),
        }
    }

    /// Sends one packet to a backend; `inner` is the address inside.
    pub(super) fn send(&self, packet: &[u8], backend: IpAddr, inner: IpAddr) -> io::Result<()> {
        let socket = self.raw(backend, inner).as_ref().map_err(again)?;
        // A raw socket has no port.
        let to = SockAddr::from(SocketAddr::new(backend, 0));
        socket.send_to(packet, &to).map(drop)
    }

    fn raw(&self, outer: IpAddr, inner: IpAddr) -> &io::Result<Socket> {
        let (outer, inner) = (Family::of(outer), Family::of(inner));
        let fits = |raw: &&RawSocket| raw.outer == outer && raw.inner == inner;
        // The four are every pair there is.
        let raw = self.raw.iter().find(fits).unwrap_or(&self.raw[0]);
        &raw.socket
    }
}

fn again(error: &io::Error) -> io::Error {
    error.raw_os_error().map_or_else(|| error.kind().into(), io::Error::from_raw_os_error)
}

/// The kernel writes the outer header, and routes by it.
fn open_raw(outer: Family, inner: Family) -> io::Result<Socket> {
    let (domain, protocol) = (
        if outer == Family::V4 { Domain::IPV4 } else { Domain::IPV6 },
        if inner == Family::V4 { INNER_V4 } else { INNER_V6 },
    );
    let socket = Socket::new(domain, Type::RAW, Some(Protocol::from(protocol)))?;
    // It would hear what others encapsulate to this host.
    socket.attach_filter(&instructions(&filter::DROP_ALL))?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

fn open_packet(family: Family, vips: &[IpAddr]) -> io::Result<AsyncFd<Socket>> {
    let ethertype = if family == Family::V4 { ETHERTYPE_V4 } else { ETHERTYPE_V6 };
    let protocol = Protocol::from(i32::from(ethertype.to_be()));
    // Without the header of the link: all begin with that of the network.
    let socket = Socket::new(Domain::PACKET, Type::DGRAM, Some(protocol))?;
    // What comes before the filter is there finds no claim.
    attach(&socket, family, vips)?;
    socket.set_recv_buffer_size(RECEIVE_BYTES)?;
    socket.set_nonblocking(true)?;
    // SAFETY: the socket owns its descriptor, always names the same one, and is closed when it is
    // dropped with the registration.
    Ok(unsafe { AsyncFd::register(socket) }?)
}

fn attach(socket: &Socket, family: Family, vips: &[IpAddr]) -> io::Result<()> {
    let program = match family {
        Family::V4 => filter::of_ipv4(vips),
        Family::V6 => filter::of_ipv6(vips),
    };
    socket.attach_filter(&instructions(&program))
}

/// Hands over what comes, until this is aborted.
async fn listen(socket: PacketSocket, claims: Arc<Claims>, packets: IntCounterVec) {
    let mut buffer = vec![0; filter::PACKET_BYTES_MAX as usize];
    loop {
        let Ok(mut ready) = socket.readable().await else { return };
        for _ in 0..BATCH {
            match ready.try_io(|socket| socket.get_ref().read(&mut buffer)) {
                Ok(Ok(length)) => {
                    let outcome = match claims.hand_over(&buffer[..length]) {
                        Handed::Over => "received",
                        Handed::Unclaimed => "unclaimed",
                        Handed::Full => "overflow",
                    };
                    packets.with_label_values(&[outcome]).inc();
                }
                Ok(Err(error)) => {
                    tracing::debug!(%error, "packet socket");
                    tokio::time::sleep(PAUSE).await;
                }
                Err(_would_block) => break,
            }
        }
        packets.with_label_values(&["overflow"]).inc_by(dropped(socket.get_ref()));
        drop(ready);
        tokio::task::yield_now().await;
    }
}

/// Packets that the kernel had no room for since this was last asked (`packet(7)`).
fn dropped(socket: &Socket) -> u64 {
    let mut counts = libc::tpacket_stats { tp_packets: 0, tp_drops: 0 };
    let Ok(mut length) = libc::socklen_t::try_from(size_of::<libc::tpacket_stats>()) else {
        return 0;
    };
    // SAFETY: the kernel writes at most `length` bytes to `counts`, which is as long.
    let answer = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_STATISTICS,
            (&raw mut counts).cast(),
            &raw mut length,
        )
    };
    if answer == 0 { u64::from(counts.tp_drops) } else { 0 }
}
