//! The addresses of a server that is known by its name.
//!
//! Looked up where nobody's worker waits, and kept a while; when no answer comes, the former
//! addresses stand.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use haflinger_core::WebServer;
use tokio::sync::Mutex;

/// How long addresses are used before they are looked up again: the resolver of the system tells
/// no time to live.
const KEPT: Duration = Duration::from_secs(30);

/// Addresses of one name that are used.
const ADDRESSES_MAX: usize = 16;

/// A server's addresses.
#[derive(Debug)]
pub(crate) struct ServerNames {
    server: WebServer,
    /// Held while they are looked up, so that one look-up serves all who wait.
    known: Mutex<Option<(Instant, Arc<[SocketAddr]>)>>,
}

impl ServerNames {
    /// Nothing is known yet.
    pub(crate) fn new(server: WebServer) -> Self {
        Self { server, known: Mutex::default() }
    }

    /// The server.
    pub(crate) fn server(&self) -> &WebServer {
        &self.server
    }

    /// The addresses now: never empty.
    pub(crate) async fn addresses(&self) -> io::Result<Arc<[SocketAddr]>> {
        if let Ok(address) = self.server.host.parse::<IpAddr>() {
            return Ok(Arc::new([SocketAddr::new(address, self.server.port)]));
        }
        let mut known = self.known.lock().await;
        if let Some((since, addresses)) = &*known
            && since.elapsed() < KEPT
        {
            return Ok(addresses.clone());
        }
        let found = tokio::net::lookup_host((&*self.server.host, self.server.port)).await;
        let found = found.map(|all| all.take(ADDRESSES_MAX).collect::<Vec<_>>());
        let addresses: Arc<[SocketAddr]> = match (found, &*known) {
            (Ok(found), _) if !found.is_empty() => found.into(),
            (_, Some((_, former))) => former.clone(),
            (Ok(_), None) => return Err(io::Error::other("the name has no address")),
            (Err(error), None) => return Err(error),
        };
        *known = Some((Instant::now(), addresses.clone()));
        Ok(addresses)
    }
}
