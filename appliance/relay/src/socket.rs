//! Sockets on VIPs, and the end of connections.

use std::io;
use std::net::{SocketAddr, TcpListener as StdTcpListener, UdpSocket as StdUdpSocket};
use std::sync::Arc;
use std::time::Duration;

use rand::Rng as _;
use socket2::{Domain, SockRef, Socket, Type};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::time::sleep;

use crate::Shared;
use crate::pipes::lock;
use crate::service::{Listening, ServiceState};

/// Connections that the kernel completes ahead of us. What it holds in practice is the lesser of
/// this and `net.core.somaxconn`, whose default is the same.
const LISTEN_BACKLOG: i32 = 4096;

/// Asked for on UDP sockets of VIPs, which many clients share: about a thousand full-size
/// datagrams of slack while the task is not scheduled. The kernel cuts it to its own limits.
const UDP_BUFFER_BYTES: usize = 1 << 20;

/// Wait before the second attempt to open a socket.
const BIND_BACKOFF_MIN: Duration = Duration::from_millis(100);

/// Longest wait between attempts: an address that another program held is taken up within half
/// a minute after it was let go.
const BIND_BACKOFF_MAX: Duration = Duration::from_secs(30);

/// Opens a service's socket, as often as it takes. `None` when the service went meanwhile.
pub(crate) async fn open<S>(
    shared: &Arc<Shared>,
    service: &ServiceState,
    bind: impl Fn(SocketAddr) -> io::Result<S>,
) -> Option<S> {
    let mut backoff = BIND_BACKOFF_MIN;
    for attempt in 1_u64.. {
        match bind(service.key.socket_addr()) {
            Ok(socket) => {
                *lock(&service.listening) = Listening::Yes;
                tracing::info!(service = %service.key, "listening");
                return Some(socket);
            }
            Err(error) => {
                shared.metrics.bind_failures.inc();
                // The first may just have met the former listener of a service that went and
                // came back; the rest of them would only repeat the second.
                if attempt == 2 {
                    tracing::warn!(service = %service.key, %error, "cannot bind, trying again");
                }
                *lock(&service.listening) = Listening::Failed(format!("cannot bind: {error}"));
            }
        }
        // Half of it is random, so that many services do not try in step.
        let wait = backoff.mul_f64(rand::rng().random_range(0.5..1.0));
        tokio::select! {
            () = service.accepting.cancelled() => return None,
            () = sleep(wait) => {}
        }
        backoff = (backoff * 2).min(BIND_BACKOFF_MAX);
    }
    None
}

/// A listening socket, also on an address that is not (yet) this host's.
pub(crate) fn bind_tcp(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = unbound(address, Type::STREAM)?;
    // Connections of a former listener that linger in TIME_WAIT must not keep the new one out.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(LISTEN_BACKLOG)?;
    TcpListener::from_std(StdTcpListener::from(socket))
}

/// A UDP socket, also on an address that is not (yet) this host's. SO_REUSEADDR stays off: UDP
/// has no TIME_WAIT, and with it two programs could take one address without noticing.
pub(crate) fn bind_udp(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = unbound(address, Type::DGRAM)?;
    socket.set_recv_buffer_size(UDP_BUFFER_BYTES)?;
    socket.set_send_buffer_size(UDP_BUFFER_BYTES)?;
    socket.bind(&address.into())?;
    UdpSocket::from_std(StdUdpSocket::from(socket))
}

/// A UDP socket that talks to one backend and nobody else.
pub(crate) fn connect_udp(backend: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(backend), Type::DGRAM, None)?;
    socket.set_nonblocking(true)?;
    socket.connect(&backend.into())?;
    UdpSocket::from_std(StdUdpSocket::from(socket))
}

fn unbound(address: SocketAddr, kind: Type) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), kind, None)?;
    socket.set_nonblocking(true)?;
    if address.is_ipv4() {
        socket.set_freebind_v4(true)?;
    } else {
        socket.set_freebind_v6(true)?;
        socket.set_only_v6(true)?;
    }
    Ok(socket)
}

/// Closes with a reset: the peer learns that the connection broke, and neither side keeps a
/// TIME_WAIT for it.
pub(crate) fn reset(stream: TcpStream) {
    // Where the option fails the connection is gone already, and closing is all there is to do.
    let _ = stream.set_zero_linger();
    drop(stream);
}

/// Sends the FIN of one direction.
pub(crate) fn finish_writing(stream: &TcpStream) -> io::Result<()> {
    SockRef::from(stream).shutdown(std::net::Shutdown::Write)
}
