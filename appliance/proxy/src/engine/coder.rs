//! Compression of answers on their way to the client, where Pingora lets it be told of every end of
//! an answer: its body's last piece, its trailers, or neither. The place of Pingora's own, which
//! holds small pieces back until the end, and goes on with bytes as they are after a failure.

use std::any::Any;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use haflinger_core::{Coding, Effort};
use http::{HeaderMap, header};
use pingora_core::modules::http::{HttpModule, HttpModuleBuilder, Module};
use pingora_core::{Error, ErrorType, Result};
use pingora_http::ResponseHeader;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::coding::{Encoder, OF_THE_BYTES, weakened};
use crate::metrics::Metrics;

/// Answers that one worker compresses at once: windows and tables have to have an end.
/// Those beyond it go as they are.
pub(super) const CODERS_MAX: usize = 256;

/// Places for coders. One a worker.
pub(super) struct Coders {
    places: Arc<Semaphore>,
    metrics: Metrics,
}

/// The part of one request's answer.
pub(super) struct Coder {
    wish: Option<Wish>,
    work: Option<Work>,
}

/// What is to be done, until it is known whether there is a body.
struct Wish {
    coding: Coding,
    effort: Effort,
    place: OwnedSemaphorePermit,
    metrics: Metrics,
}

struct Work {
    encoder: Encoder,
    metrics: Metrics,
    coding: Coding,
    /// Held to the end.
    _place: OwnedSemaphorePermit,
}

/// Makes the part of each request.
pub(super) struct CoderBuilder;

impl Coders {
    pub(super) fn new(metrics: Metrics) -> Self {
        Self { places: Arc::new(Semaphore::new(CODERS_MAX)), metrics }
    }

    /// Has an answer compressed, if there is a place.
    pub(super) fn engage(&self, coder: &mut Coder, coding: Coding, effort: Effort) {
        let Ok(place) = self.places.clone().try_acquire_owned() else {
            self.metrics.codings.full();
            return;
        };
        coder.wish = Some(Wish { coding, effort, place, metrics: self.metrics.clone() });
    }
}

impl Coder {
    fn push(&mut self, piece: &[u8], end: bool) -> Result<Option<Bytes>> {
        let Some(work) = &mut self.work else { return Ok(None) };
        let out = work.encoder.push(piece, end).map_err(|error| {
            Error::because(ErrorType::InternalError, "cannot compress an answer", error)
        })?;
        work.metrics.codings.coded(work.coding, piece.len(), out.len());
        if end {
            self.work = None;
        }
        Ok(Some(out))
    }
}

#[async_trait]
impl HttpModule for Coder {
    async fn response_header_filter(
        &mut self,
        response: &mut ResponseHeader,
        end: bool,
    ) -> Result<()> {
        if response.status.is_informational() {
            return Ok(());
        }
        let Some(Wish { coding, effort, place, metrics }) = self.wish.take() else {
            return Ok(());
        };
        if end {
            return Ok(());
        }
        // Failing leaves the answer as it is.
        let Ok(encoder) = Encoder::new(coding, effort) else { return Ok(()) };
        for name in OF_THE_BYTES {
            response.remove_header(&name);
        }
        response.insert_header(header::CONTENT_ENCODING, coding.as_str())?;
        // Over HTTP/2 it is left out again.
        response.insert_header(header::TRANSFER_ENCODING, "chunked")?;
        if let Some(etag) = response.headers.get(header::ETAG).and_then(weakened) {
            response.insert_header(header::ETAG, etag)?;
        }
        self.work = Some(Work { encoder, metrics, coding, _place: place });
        Ok(())
    }

    fn response_body_filter(&mut self, body: &mut Option<Bytes>, end: bool) -> Result<()> {
        if let Some(out) = self.push(body.as_deref().unwrap_or_default(), end)? {
            // An empty piece would be the last chunk (RFC 9112, section 7.1).
            *body = (!out.is_empty()).then_some(out);
        }
        Ok(())
    }

    fn response_trailer_filter(
        &mut self,
        _trailers: &mut Option<Box<HeaderMap>>,
    ) -> Result<Option<Bytes>> {
        self.push(b"", true)
    }

    fn response_done_filter(&mut self) -> Result<Option<Bytes>> {
        self.push(b"", true)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }
}

impl HttpModuleBuilder for CoderBuilder {
    fn init(&self) -> Module {
        Box::new(Coder { wish: None, work: None })
    }
}
