//! Copies of requests that go to another backend too, whose answers are thrown away.
//!
//! Sent once the request's body is known, beside the request and never before it: nothing waits
//! for them, and what goes wrong with them is counted and nothing else.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use pingora_core::connectors::ConnectorOptions;
use pingora_core::connectors::http::Connector;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_http::RequestHeader;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::exchange::{Keep, exchange};
use crate::metrics::{Metrics, MirrorOutcome};

/// Copies of one worker that are held or on their way. Of requests beyond it no copy is made.
pub(super) const MIRRORS_MAX: usize = 256;

/// Bytes of a body that are held for copies. A request with more is not copied: with
/// [`MIRRORS_MAX`] that is 16 MiB a worker.
pub(super) const BODY_BYTES_MAX: usize = 64 * 1024;

/// Time for a copy, from its connection to the end of its answer: the place is wanted.
pub(super) const MIRROR_TIMEOUT: Duration = Duration::from_secs(15);

/// Unused connections to mirrors that a worker keeps.
const IDLE_MAX: usize = 128;

/// Sends copies. One a worker.
pub(super) struct Mirrors {
    connector: Arc<Connector>,
    places: Arc<Semaphore>,
    metrics: Metrics,
}

/// The copies of one request, until its body is known.
pub(super) struct Copies {
    all: Vec<Copy>,
    body: BytesMut,
}

struct Copy {
    peer: HttpPeer,
    scheme: &'static str,
    request: RequestHeader,
    /// Held from here to the end.
    place: OwnedSemaphorePermit,
}

impl Mirrors {
    pub(super) fn new(metrics: Metrics) -> Self {
        let connector = Arc::new(Connector::new(Some(ConnectorOptions::new(IDLE_MAX))));
        Self { connector, places: Arc::new(Semaphore::new(MIRRORS_MAX)), metrics }
    }

    /// Notes that a copy of `request` is to go to `peer`.
    pub(super) fn note(
        &self,
        copies: &mut Option<Box<Copies>>,
        peer: HttpPeer,
        scheme: &'static str,
        request: &RequestHeader,
    ) {
        let Ok(place) = self.places.clone().try_acquire_owned() else {
            self.metrics.mirrored(MirrorOutcome::Full);
            return;
        };
        let copy = Copy { peer, scheme, request: request.clone(), place };
        let none = || Box::new(Copies { all: Vec::new(), body: BytesMut::new() });
        copies.get_or_insert_with(none).all.push(copy);
    }

    /// Takes up a piece of the body, and sends the copies once it is the last.
    pub(super) fn body(&self, copies: &mut Option<Box<Copies>>, piece: Option<&Bytes>, end: bool) {
        let Some(held) = copies else { return };
        if let Some(piece) = piece {
            if held.body.len() + piece.len() > BODY_BYTES_MAX {
                for _ in 0..held.all.len() {
                    self.metrics.mirrored(MirrorOutcome::Body);
                }
                *copies = None;
                return;
            }
            held.body.extend_from_slice(piece);
        }
        if end && let Some(held) = copies.take() {
            let body = held.body.freeze();
            for copy in held.all {
                self.send(copy, body.clone());
            }
        }
    }

    fn send(&self, copy: Copy, body: Bytes) {
        let (connector, metrics) = (self.connector.clone(), self.metrics.clone());
        tokio::spawn(async move {
            let Copy { peer, scheme, request, place } = copy;
            let peers = std::slice::from_ref(&peer);
            let exchange = exchange(&connector, peers, scheme, request, body, Keep::Nothing);
            let outcome = match tokio::time::timeout(MIRROR_TIMEOUT, exchange).await {
                Ok(Ok(_)) => MirrorOutcome::Answered,
                Ok(Err(error)) => {
                    tracing::debug!(backend = %peer, %error, "a copy of a request failed");
                    MirrorOutcome::Failed
                }
                Err(_) => MirrorOutcome::Timeout,
            };
            metrics.mirrored(outcome);
            drop(place);
        });
    }
}

impl Copies {
    /// The body will be read from its beginning.
    pub(super) fn restart(&mut self) {
        self.body.clear();
    }
}
