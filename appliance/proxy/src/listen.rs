//! Sockets and accept loops: from a bound address to a connection that an engine serves.
//!
//! A listener has one listening socket. Every worker accepts from its own handle of it, so a
//! worker that is busy leaves connections to the others, and closing loses nothing that another
//! worker's queue would have held (with one socket a worker and `SO_REUSEPORT` it would).

use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use haflinger_core::Protocol as Transport;
use haflinger_core::flow::flow_hash;
use prometheus::IntGauge;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};

use crate::connection::{
    ClientConnection, ClientIo, ConnectionContext, Protocol as Spoken, TlsAgreed,
};
use crate::engine::HttpEngine;
use crate::listener::Listener;
use crate::metrics::Refusal;
use crate::settings::Settings;
use crate::tls::{Greeted, greet, relay};
use crate::worker::Shared;

/// Connections that the kernel completes ahead of accept(2); it lowers this to `somaxconn`.
const BACKLOG: i32 = 4_096;

/// Pause after accept(2) fails for want of descriptors or memory: trying at once would spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Binds and listens. `IP_FREEBIND` lets it happen before the VIP is on the host.
pub(crate) fn bind(address: SocketAddr) -> io::Result<StdListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    match address {
        SocketAddr::V4(_) => socket.set_freebind_v4(true)?,
        SocketAddr::V6(_) => {
            socket.set_only_v6(true)?;
            socket.set_freebind_v6(true)?;
        }
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Open client connections over all listeners, against the limit.
#[derive(Debug, Default)]
pub(crate) struct ConnectionCount(AtomicUsize);

impl ConnectionCount {
    /// Open connections now.
    pub(crate) fn now(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    fn admit(self: &Arc<Self>, limit: usize, open: &IntGauge) -> Option<CountedConnection> {
        let one_more = |open: usize| (open < limit).then_some(open + 1);
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).ok()?;
        open.inc();
        Some(CountedConnection { all: self.clone(), open: open.clone() })
    }
}

/// Counts a connection for as long as it lives.
struct CountedConnection {
    all: Arc<ConnectionCount>,
    open: IntGauge,
}

impl Drop for CountedConnection {
    fn drop(&mut self) {
        self.all.0.fetch_sub(1, Ordering::Relaxed);
        self.open.dec();
    }
}

/// Accepts connections until the listener is taken out of service. Runs on a worker, and each
/// connection stays on that worker.
pub(crate) async fn accept_loop<E: HttpEngine>(
    socket: StdListener,
    listener: Arc<Listener>,
    shared: Arc<Shared>,
    engine: Arc<arc_swap::ArcSwap<E>>,
) {
    let socket = match TcpListener::from_std(socket) {
        Ok(socket) => socket,
        Err(error) => {
            tracing::error!(listener = %listener.address, %error, "cannot watch the socket");
            return;
        }
    };
    loop {
        let accepted = tokio::select! {
            biased;
            () = listener.accepting().cancelled() => return,
            accepted = socket.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                admit(stream, peer, &listener, &shared, &engine);
            }
            Err(error) if is_about_one_connection(&error) => {}
            Err(error) => {
                shared.metrics.accept_failed();
                tracing::debug!(listener = %listener.address, %error, "accept failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Whether accept(2) only says that the client was gone before it was accepted.
fn is_about_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted)
}

fn admit<E: HttpEngine>(
    stream: TcpStream,
    peer: SocketAddr,
    listener: &Arc<Listener>,
    shared: &Arc<Shared>,
    engine: &arc_swap::ArcSwap<E>,
) {
    let settings = shared.settings.load_full();
    listener.metrics.accepted.inc();
    let open = &listener.metrics.connections;
    let Some(counted) = shared.connections.admit(settings.connections_max, open) else {
        shared.metrics.refused(Refusal::ConnectionsMax);
        return;
    };
    // An error means that the connection is dead, which the first read will say.
    let _ = stream.set_nodelay(true);
    let flow = flow_hash(&settings.flow_hash_key, Transport::Tcp, peer, listener.address);
    let client = Client { stream, peer, flow };
    let (listener, shared, engine) = (listener.clone(), shared.clone(), engine.load_full());
    let tracked = listener.connections.clone();
    tracked.spawn(async move {
        let _counted = counted;
        let abort = listener.abort().clone();
        tokio::select! {
            () = abort.cancelled() => {}
            () = serve(client, listener, &shared, &settings, &*engine) => {}
        }
    });
}

/// A connection that was accepted.
struct Client {
    stream: TcpStream,
    peer: SocketAddr,
    /// Keyed hash of client and VIP.
    flow: u64,
}

async fn serve<E: HttpEngine>(
    client: Client,
    listener: Arc<Listener>,
    shared: &Shared,
    settings: &Settings,
    engine: &E,
) {
    let Client { stream, peer, flow } = client;
    let context =
        |name, tls| Arc::new(ConnectionContext::new(listener.clone(), peer, name, tls, flow));
    let Some(tls) = &listener.tls else {
        let (io, protocol) = (ClientIo::Tcp(stream), Spoken::Http1);
        let context = context(None, TlsAgreed::default());
        return engine.serve(ClientConnection { io, protocol, context }).await;
    };
    let sections = tls.load_full();
    let greeted = tokio::time::timeout(
        settings.tls_handshake_timeout,
        greet(stream, &sections, flow, &shared.metrics.tls),
    )
    .await;
    drop(sections);
    let refusal = match greeted.unwrap_or(Err(Refusal::TlsTimeout)) {
        Ok(Greeted::Requests { stream, server_name }) => {
            let h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
            let protocol = if h2 { Spoken::Http2 } else { Spoken::Http1 };
            let context = context(server_name, TlsAgreed::of(stream.get_ref().1));
            let io = ClientIo::Tls(stream);
            return engine.serve(ClientConnection { io, protocol, context }).await;
        }
        Ok(Greeted::Stream { client, target }) => {
            relay(client, &target, flow, settings, &shared.metrics).await.err()
        }
        Err(refusal) => Some(refusal),
    };
    if let Some(refusal) = refusal {
        shared.metrics.refused(refusal);
        tracing::debug!(client = %peer, listener = %listener.address, reason = ?refusal, "refused");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_beyond_the_limit_is_not_admitted_until_another_ends() {
        let count = Arc::new(ConnectionCount::default());
        let open = IntGauge::new("open", "open").unwrap();
        let first = count.admit(1, &open).unwrap();
        assert!(count.admit(1, &open).is_none());
        assert_eq!((count.now(), open.get()), (1, 1));
        drop(first);
        assert!(count.admit(1, &open).is_some());
    }

    #[test]
    fn an_address_that_the_host_does_not_have_can_be_bound() {
        // From the blocks for documentation (RFC 5737, RFC 3849).
        for address in ["192.0.2.77:18080", "[2001:db8::77]:18080"] {
            let socket = bind(address.parse().unwrap()).unwrap();
            assert_eq!(socket.local_addr().unwrap(), address.parse().unwrap());
        }
    }
}
