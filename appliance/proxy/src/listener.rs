//! One listener: the routes and names that it serves now, and the switches that end it.
//!
//! Connections hold the listener by `Arc`. A change of routes or names is a pointer store that
//! the next request or handshake reads; a listener that is taken out of service lives on until
//! its last connection has ended.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::action::Action;
use crate::metrics::ListenerMetrics;
use crate::routes::Router;
use crate::tls::Sections;

/// Routes as the hot path reads them.
pub(crate) type Routes = Router<Action>;

/// One socket address and what is served on it.
pub(crate) struct Listener {
    /// VIP and port.
    pub(crate) address: SocketAddr,
    /// Present when clients speak TLS: how, of the newest snapshot.
    pub(crate) tls: Option<ArcSwap<Sections>>,
    /// Routes of the newest snapshot.
    pub(crate) routes: ArcSwap<Routes>,
    /// What is counted.
    pub(crate) metrics: ListenerMetrics,
    /// Its connections.
    pub(crate) connections: TaskTracker,
    /// Ends the accept loops.
    accepting: CancellationToken,
    /// True once no further request is wanted on open connections.
    draining: watch::Sender<bool>,
    /// Ends connections that wait for a request.
    idle_end: CancellationToken,
    /// Ends everything that is left.
    abort: CancellationToken,
}

impl Listener {
    pub(crate) fn new(
        address: SocketAddr,
        tls: Option<Sections>,
        routes: Routes,
        metrics: ListenerMetrics,
    ) -> Self {
        Self {
            address,
            tls: tls.map(ArcSwap::from_pointee),
            routes: ArcSwap::from_pointee(routes),
            metrics,
            connections: TaskTracker::new(),
            accepting: CancellationToken::new(),
            draining: watch::Sender::new(false),
            idle_end: CancellationToken::new(),
            abort: CancellationToken::new(),
        }
    }

    /// Resolves when no more connections are to be accepted.
    pub(crate) fn accepting(&self) -> &CancellationToken {
        &self.accepting
    }

    /// Cancelled when connections without a request in progress are to end.
    pub(crate) fn idle_end(&self) -> &CancellationToken {
        &self.idle_end
    }

    /// Cancelled when every connection is to end.
    pub(crate) fn abort(&self) -> &CancellationToken {
        &self.abort
    }

    /// Whether it is being taken out of service.
    pub(crate) fn is_draining(&self) -> bool {
        *self.draining.borrow()
    }

    /// Turns true when answers should be the last on their connections.
    pub(crate) fn draining(&self) -> watch::Receiver<bool> {
        self.draining.subscribe()
    }

    /// Stops accepting at once, lets requests in progress finish within `patience`, tells
    /// clients that each answer is the last (`Connection: close`, GOAWAY), then ends what is
    /// left. Resolves when no connection is left.
    pub(crate) async fn drain(self: Arc<Self>, patience: Duration) {
        self.accepting.cancel();
        self.draining.send_replace(true);
        self.idle_end.cancel();
        self.connections.close();
        if tokio::time::timeout(patience, self.connections.wait()).await.is_err() {
            let left = self.connections.len();
            tracing::warn!(listener = %self.address, left, "connections cut off after the drain");
            self.abort.cancel();
            self.connections.wait().await;
        }
    }
}
