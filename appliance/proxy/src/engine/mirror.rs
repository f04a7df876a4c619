//! Copies of requests that go to another backend too, whose answers are thrown away.
//!
//! Sent once the request's body is known, beside the request and never before it: nothing waits
//! for them, and what goes wrong with them is counted and nothing else.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header;
use pingora_core::connectors::ConnectorOptions;
use pingora_core::connectors::http::Connector;
use pingora_core::protocols::http::client::HttpSession;
use pingora_core::upstreams::peer::{HttpPeer, Peer};
use pingora_core::{ErrorType, OrErr, Result};
use pingora_http::RequestHeader;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

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
            let exchange = exchange(&connector, &peer, scheme, request, body);
            let outcome = match tokio::time::timeout(MIRROR_TIMEOUT, exchange).await {
                Ok(Ok(())) => MirrorOutcome::Answered,
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

async fn exchange(
    connector: &Connector,
    peer: &HttpPeer,
    scheme: &str,
    mut request: RequestHeader,
    body: Bytes,
) -> Result<()> {
    let (mut session, _) = connector.get_http_session(peer).await?;
    frame(&mut request, scheme, &session, body.len())?;
    session.set_read_timeout(Some(MIRROR_TIMEOUT));
    session.set_write_timeout(Some(MIRROR_TIMEOUT));
    session.write_request_header(Box::new(request)).await?;
    match &session {
        HttpSession::H1(_) if body.is_empty() => {}
        HttpSession::H1(_) => session.write_request_body(body, true).await?,
        HttpSession::H2(_) | HttpSession::Custom(()) => {
            session.write_request_body(body, true).await?;
        }
    }
    if matches!(session, HttpSession::H1(_)) {
        session.finish_request_body().await?;
    }
    session.read_response_header().await?;
    while session.response_header().is_some_and(|header| header.status.is_informational()) {
        session.read_response_header().await?;
    }
    while session.read_response_body().await?.is_some() {}
    connector.release_http_session(session, peer, peer.idle_timeout()).await;
    Ok(())
}

/// Says where the body ends, and the host as the version wants it.
fn frame<S>(
    request: &mut RequestHeader,
    scheme: &str,
    session: &HttpSession<S>,
    body_bytes: usize,
) -> Result<()> {
    let had_body = request.headers.contains_key(header::CONTENT_LENGTH)
        || request.headers.contains_key(header::TRANSFER_ENCODING);
    request.remove_header(&header::TRANSFER_ENCODING);
    if had_body || body_bytes > 0 {
        request.insert_header(header::CONTENT_LENGTH, body_bytes)?;
    }
    let host = request.headers.get(header::HOST).map(|host| host.as_bytes().to_vec());
    let authority = request.uri.authority().map(|authority| authority.as_str().as_bytes().to_vec());
    let Some(host) = host.or(authority) else { return Ok(()) };
    let path = request.uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
    let uri = match session {
        HttpSession::H1(_) => {
            request.set_version(http::Version::HTTP_11);
            request.insert_header(header::HOST, &host[..])?;
            path.parse().or_err(ErrorType::InternalError, "target of a copy")?
        }
        HttpSession::H2(_) | HttpSession::Custom(_) => {
            request.set_version(http::Version::HTTP_2);
            request.remove_header(&header::HOST);
            http::Uri::builder()
                .scheme(scheme)
                .authority(&host[..])
                .path_and_query(path)
                .build()
                .or_err(ErrorType::InternalError, "target of a copy")?
        }
    };
    request.set_uri(uri);
    Ok(())
}
