//! What is known about a client's connection, whatever engine serves it.

use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use crate::listener::Listener;

/// The version of HTTP that a client speaks on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// HTTP/1.0 or HTTP/1.1.
    Http1,
    /// HTTP/2, negotiated by ALPN or, without TLS, known beforehand.
    Http2,
}

/// The bytes of a client, decrypted where needed.
pub(crate) enum ClientIo {
    /// Plain TCP.
    Tcp(TcpStream),
    /// TLS over TCP.
    Tls(Box<TlsStream<TcpStream>>),
}

/// A connection, ready to be served by an engine.
pub(crate) struct ClientConnection {
    /// Where its bytes come from.
    pub(crate) io: ClientIo,
    /// What is spoken.
    pub(crate) protocol: Protocol,
    /// What is known about it.
    pub(crate) context: Arc<ConnectionContext>,
}

/// What was agreed on in a TLS handshake.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct TlsAgreed {
    /// The version.
    pub(crate) version: Option<&'static str>,
    /// The cipher suite.
    pub(crate) cipher: Option<&'static str>,
}

impl TlsAgreed {
    /// Of a handshake that is over.
    pub(crate) fn of(tls: &rustls::ServerConnection) -> Self {
        Self {
            version: tls.protocol_version().and_then(|version| version.as_str()),
            cipher: tls.negotiated_cipher_suite().and_then(|suite| suite.suite().as_str()),
        }
    }
}

/// What the parts of one connection share.
pub(crate) struct ConnectionContext {
    /// The listener that accepted it. It lives on in here when it is taken out of service.
    pub(crate) listener: Arc<Listener>,
    /// The client's address.
    pub(crate) peer: SocketAddr,
    /// The name that the client asked for in its TLS handshake, in lower case: it has chosen the
    /// section of the listener. `None` without TLS, or when the client named nothing.
    pub(crate) server_name: Option<Arc<str>>,
    /// What was agreed on in the TLS handshake, if there was one.
    pub(crate) tls: TlsAgreed,
    /// Keyed hash of client and VIP.
    flow: u64,
    requests: AtomicU64,
    /// Even while a request header is awaited, odd while a request is in progress. Counts up, so
    /// that the reading side notices every change. HTTP/1 only.
    phase: AtomicU32,
    /// What was tried in vain for the request that is read next.
    attempted: Mutex<Option<Attempted>>,
}

/// A first attempt that failed, of a request that another engine goes on with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attempted {
    /// The backend, unless it may well take another attempt.
    pub(crate) failed: Option<SocketAddr>,
}

impl ConnectionContext {
    pub(crate) fn new(
        listener: Arc<Listener>,
        peer: SocketAddr,
        server_name: Option<Arc<str>>,
        tls: TlsAgreed,
        flow: u64,
    ) -> Self {
        let (requests, phase) = (AtomicU64::new(0), AtomicU32::new(0));
        let attempted = Mutex::default();
        Self { listener, peer, server_name, tls, flow, requests, phase, attempted }
    }

    /// Says what was tried in vain for the request that is read next.
    pub(crate) fn hand_over(&self, attempted: Attempted) {
        *self.attempted.lock().unwrap_or_else(PoisonError::into_inner) = Some(attempted);
    }

    /// What was tried in vain for the request that has just been read.
    pub(crate) fn take_over(&self) -> Option<Attempted> {
        self.attempted.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// A request was understood; its hash.
    pub(crate) fn begin_request(&self) -> u64 {
        self.phase.fetch_or(1, Ordering::Relaxed);
        let count = self.requests.fetch_add(1, Ordering::Relaxed);
        crate::upstream::request_hash(self.flow, count)
    }

    /// A request has been answered; the next bytes are another header.
    pub(crate) fn end_request(&self) {
        let even = |phase: u32| (phase % 2 == 1).then(|| phase.wrapping_add(1));
        // An error only says that the phase was even already.
        let _ = self.phase.fetch_update(Ordering::Relaxed, Ordering::Relaxed, even);
    }

    /// The phase now; see the field.
    pub(crate) fn phase(&self) -> u32 {
        self.phase.load(Ordering::Relaxed)
    }
}

impl fmt::Debug for ConnectionContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} to {}", self.peer, self.listener.address)?;
        self.server_name.as_ref().map_or(Ok(()), |name| write!(f, " as {name}"))
    }
}
