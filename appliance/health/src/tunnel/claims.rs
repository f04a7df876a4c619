//! Which probe a packet is for.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rand::Rng as _;
use socket2::{Domain, SockFilter, Socket, Type};
use tokio::sync::mpsc;

use super::stack::QUEUE_MAX;
use super::{PORTS, TunnelError, filter};

/// Ports that are tried for one probe. Up to half of them may be taken, and one probe in 65,536
/// finds none.
const TRIES_MAX: u32 = 16;

/// Ends of probes in flight, by the address and port that they send from.
#[derive(Default)]
pub(super) struct Claims {
    open: Mutex<HashMap<SocketAddr, Open>>,
}

struct Open {
    remote: SocketAddr,
    packets: mpsc::Sender<Vec<u8>>,
}

/// One probe's end. The port is free again when this is dropped.
pub(super) struct Claim {
    pub(super) local: SocketAddr,
    pub(super) remote: SocketAddr,
    pub(super) packets: mpsc::Receiver<Vec<u8>>,
    claims: Arc<Claims>,
    /// Keeps the port: nobody else on this host is given it, and the kernel answers nothing that
    /// comes to it.
    _keeper: Socket,
}

/// What became of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Handed {
    /// To its probe.
    Over,
    /// It is no probe's, or no more.
    Unclaimed,
    /// Its probe has too many already.
    Full,
}

impl Claims {
    /// A port of `from` to ask `remote` by.
    pub(super) fn claim(
        claims: &Arc<Self>,
        from: IpAddr,
        remote: SocketAddr,
    ) -> Result<Claim, TunnelError> {
        for _ in 0..TRIES_MAX {
            let local = SocketAddr::new(from, rand::rng().random_range(PORTS));
            let keeper = match keep(local) {
                Ok(keeper) => keeper,
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => continue,
                Err(error) => return Err(TunnelError::opening("TCP", error)),
            };
            let (sender, packets) = mpsc::channel(QUEUE_MAX);
            // The keeper's port is nobody else's, so that nothing is replaced here.
            claims.open().insert(local, Open { remote, packets: sender });
            let claims = Arc::clone(claims);
            return Ok(Claim { local, remote, packets, claims, _keeper: keeper });
        }
        Err(TunnelError::NoPort { address: from })
    }

    /// Hands a packet to the probe that it answers.
    pub(super) fn hand_over(&self, packet: &[u8]) -> Handed {
        let Some((source, destination)) = ends(packet) else { return Handed::Unclaimed };
        match self.open().get(&destination) {
            Some(open) if open.remote == source => match open.packets.try_send(packet.into()) {
                Ok(()) => Handed::Over,
                Err(mpsc::error::TrySendError::Full(_)) => Handed::Full,
                Err(mpsc::error::TrySendError::Closed(_)) => Handed::Unclaimed,
            },
            _ => Handed::Unclaimed,
        }
    }

    fn open(&self) -> MutexGuard<'_, HashMap<SocketAddr, Open>> {
        // Each change of the map is one call of its own.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.claims.open().remove(&self.local);
    }
}

/// A listening socket that hears nothing: it has the port, and what comes to it is dropped without
/// an answer (a bound socket that does not listen would have it reset).
fn keep(local: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(local), Type::STREAM, None)?;
    socket.attach_filter(&instructions(&filter::DROP_ALL))?;
    if local.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&local.into())?;
    socket.listen(1)?;
    Ok(socket)
}

/// As the kernel takes them.
pub(super) fn instructions(program: &[filter::Instruction]) -> Vec<SockFilter> {
    program
        .iter()
        .map(|(code, yes, no, operand)| SockFilter::new(*code, *yes, *no, *operand))
        .collect()
}

/// Source and destination of a TCP packet, IPv4 or IPv6 without extension headers.
fn ends(packet: &[u8]) -> Option<(SocketAddr, SocketAddr)> {
    let first = *packet.first()?;
    let (source, destination, header): (IpAddr, IpAddr, usize) = match first >> 4 {
        4 => {
            let at = |place: usize| octets::<4>(packet, place).map(Ipv4Addr::from);
            (at(12)?.into(), at(16)?.into(), usize::from(first & 0xf) * 4)
        }
        6 => {
            let at = |place: usize| octets::<16>(packet, place).map(Ipv6Addr::from);
            (at(8)?.into(), at(24)?.into(), 40)
        }
        _ => return None,
    };
    let port = |place: usize| octets::<2>(packet, place).map(u16::from_be_bytes);
    let (from, to) = (port(header)?, port(header + 2)?);
    Some((SocketAddr::new(source, from), SocketAddr::new(destination, to)))
}

fn octets<const N: usize>(packet: &[u8], place: usize) -> Option<[u8; N]> {
    packet.get(place..place + N)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::tunnel::stack::Stack;

    /// What `from` would send to `to` first.
    fn syn(from: SocketAddr, to: SocketAddr) -> Vec<u8> {
        let mut stack = Stack::connect(from, to, 3, 0).unwrap();
        stack.turn(0);
        stack.outgoing().unwrap()
    }

    #[test]
    fn only_what_comes_from_where_was_asked_is_handed_over() {
        let claims = Arc::new(Claims::default());
        for (own, vip, other) in [
            ("127.0.0.1", "192.0.2.1:80", "192.0.2.1:81"),
            ("::1", "[2001:db8::1]:80", "[2001:db8::2]:80"),
        ] {
            let (vip, other) = (vip.parse().unwrap(), other.parse().unwrap());
            let mut claim = Claims::claim(&claims, own.parse().unwrap(), vip).unwrap();
            let local = claim.local;
            assert!(PORTS.contains(&local.port()));
            assert_eq!(claims.hand_over(&syn(other, local)), Handed::Unclaimed);
            for _ in 0..QUEUE_MAX {
                assert_eq!(claims.hand_over(&syn(vip, local)), Handed::Over);
            }
            assert_eq!(claims.hand_over(&syn(vip, local)), Handed::Full);
            assert!(claim.packets.try_recv().is_ok());
            drop(claim);
            assert_eq!(claims.hand_over(&syn(vip, local)), Handed::Unclaimed);
        }
        assert!(claims.open().is_empty());
    }

    #[test]
    fn a_kept_port_is_nobody_elses() {
        let claims = Arc::new(Claims::default());
        let vip = "192.0.2.1:80".parse().unwrap();
        let claim = Claims::claim(&claims, [127, 0, 0, 1].into(), vip).unwrap();
        assert!(std::net::TcpListener::bind(claim.local).is_err());
        assert!(keep(claim.local).is_err());
    }

    proptest! {
        #[test]
        fn no_packet_makes_it_panic(packet in prop::collection::vec(any::<u8>(), 0..80)) {
            assert_eq!(Claims::default().hand_over(&packet), Handed::Unclaimed);
        }
    }
}
