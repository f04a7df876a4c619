//! Sockets on VIPs, and the end of connections.

use std::io;
use std::net::{SocketAddr, TcpListener as StdTcpListener, UdpSocket as StdUdpSocket};
use std::sync::Arc;
use std::time::Duration;

use rand::Rng as _;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use socket2::{Domain, SockRef, Socket, Type};
use tokio::io::Interest;
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::watch;
use tokio::time::sleep;

use crate::Shared;
use crate::intake::{Intake, shut};
use crate::pipes::lock;
use crate::service::{Listening, ServiceState};

/// Connections that the kernel completes ahead of us. What it holds in practice is the lesser of
/// this and `net.core.somaxconn`, whose default is the same.
const LISTEN_BACKLOG: i32 = 4096;

/// Asked for on UDP sockets of VIPs, which many clients share: about a thousand full-size
/// datagrams of slack while the task is not scheduled. The kernel cuts it to its own limits.
const UDP_BUFFER_BYTES: usize = 1 << 20;

/// Wait before the second attempt to open a socket: the former listener of a service that went
/// and came back has closed by then.
const BIND_BACKOFF_MIN: Duration = Duration::from_millis(10);

/// Longest wait between attempts: an address that another program held is taken up within half
/// a minute after it was let go.
const BIND_BACKOFF_MAX: Duration = Duration::from_secs(30);

/// Opens a service's socket, as often as it takes. `None` when it is no longer wanted. From the
/// second failure on the core is told, so that a VIP is not announced that nobody serves.
pub(crate) async fn open<S>(
    shared: &Arc<Shared>,
    service: &ServiceState,
    intake: &mut watch::Receiver<Intake>,
    bind: impl Fn(SocketAddr) -> io::Result<S>,
) -> Option<S> {
    let mut backoff = BIND_BACKOFF_MIN;
    for attempt in 1_u64.. {
        match bind(service.key.socket_addr()) {
            Ok(socket) => {
                *lock(&service.listening) = Listening::Yes;
                shared.faults.withdraw(service.key);
                tracing::info!(service = %service.key, "listening");
                return Some(socket);
            }
            Err(error) => {
                shared.metrics.bind_failures.inc();
                // The first may just have met the former listener; the rest of them would only
                // repeat the second.
                if attempt == 2 {
                    tracing::warn!(service = %service.key, %error, "cannot bind, trying again");
                }
                if attempt > 1 {
                    shared.faults.raise(service.key, &error.to_string());
                }
                *lock(&service.listening) = Listening::Failed(format!("cannot bind: {error}"));
            }
        }
        // Half of it is random, so that many services do not try in step.
        let wait = backoff.mul_f64(rand::rng().random_range(0.5..1.0));
        tokio::select! {
            () = shut(intake) => return None,
            () = sleep(wait) => {}
        }
        backoff = (backoff * 2).min(BIND_BACKOFF_MAX);
    }
    None
}

/// Notes that a service has no socket, and wants none.
pub(crate) fn closed(shared: &Shared, service: &ServiceState) {
    *lock(&service.listening) = Listening::No;
    shared.faults.withdraw(service.key);
}

/// A listening socket, also on an address that is not (yet) this host's.
pub(crate) fn bind_tcp(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = unbound(address, Type::STREAM)?;
    // Connections of a former listener that linger in TIME_WAIT must not keep the new one out.
    socket.set_reuse_address(true)?;
    // Half of what is relayed is small and waited for. Connections inherit it (tcp(7)), which
    // saves a system call for each.
    socket.set_tcp_nodelay(true)?;
    socket.bind(&address.into())?;
    socket.listen(LISTEN_BACKLOG)?;
    TcpListener::from_std(StdTcpListener::from(socket))
}

/// Begins to connect; [`established`] tells how it went.
pub(crate) fn connect_tcp(backend: SocketAddr) -> io::Result<TcpStream> {
    let family = if backend.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(family, SocketType::STREAM, flags, None)?;
    match rustix::net::connect(&socket, &backend) {
        Ok(()) | Err(Errno::INPROGRESS) => TcpStream::from_std(socket.into()),
        Err(error) => Err(error.into()),
    }
}

/// Waits until a connection is established. The readiness says whether it failed; only then is
/// the kernel asked why.
pub(crate) async fn established(stream: &TcpStream) -> io::Result<()> {
    let ready = stream.ready(Interest::WRITABLE | Interest::ERROR).await?;
    if ready.is_error() || ready.is_write_closed() {
        let error = stream.take_error()?;
        return Err(error.unwrap_or_else(|| io::ErrorKind::ConnectionReset.into()));
    }
    Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn accepted_connections_inherit_that_nothing_is_delayed() {
        let listener = bind_tcp("127.0.0.1:0".parse().unwrap()).unwrap();
        let client = connect_tcp(listener.local_addr().unwrap()).unwrap();
        let (accepted, _) = listener.accept().await.unwrap();
        established(&client).await.unwrap();
        assert!(accepted.nodelay().unwrap());
    }

    #[tokio::test]
    async fn a_refused_connection_is_told_apart_from_one_that_is_established() {
        let unheard = StdTcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let failed = match connect_tcp(unheard) {
            Ok(stream) => established(&stream).await.unwrap_err(),
            Err(error) => error,
        };
        assert_eq!(failed.kind(), io::ErrorKind::ConnectionRefused);
    }
}
