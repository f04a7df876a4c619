//! The client's side of a connection: requests as they come.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::request::{Read, Understood, may_end, read};
use super::wait::Wait;
use crate::listener::Listener;
use crate::settings::Settings;

/// A client, and what it has sent that nobody has dealt with.
pub(super) struct Client<S> {
    pub(super) io: S,
    /// Sent and not dealt with.
    pub(super) unread: Bytes,
    pub(super) wait: Wait,
    /// When the first byte of what is unread came; at first, when the connection began.
    pub(super) since: Instant,
    /// Bytes that have been looked at in vain.
    known: usize,
    /// Requests that have been answered.
    answered: u32,
}

/// What a client wants.
#[derive(Debug)]
pub(super) enum Next {
    /// An answer.
    Request(Box<Understood>),
    /// Something for the full engine.
    Other,
    /// Nothing more.
    Ended,
    /// Nothing in time.
    TimedOut,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Client<S> {
    pub(super) fn new(io: S) -> Self {
        Self {
            io,
            unread: Bytes::new(),
            wait: Wait::default(),
            since: Instant::now(),
            known: 0,
            answered: 0,
        }
    }

    /// Requests that have been answered.
    pub(super) fn answered(&self) -> u32 {
        self.answered
    }

    /// Waits for the next request. `ending` is ready once none is wanted any more.
    pub(super) fn poll_next(
        &mut self,
        cx: &mut Context<'_>,
        scratch: &mut [u8],
        settings: &Settings,
        ending: impl FnOnce(&mut Context<'_>) -> bool,
    ) -> Poll<Next> {
        loop {
            if self.unread.len() > self.known
                && let Some(next) = self.examine(settings)
            {
                return Poll::Ready(next);
            }
            let mut buffer = ReadBuf::new(scratch);
            match Pin::new(&mut self.io).poll_read(cx, &mut buffer) {
                Poll::Pending => return self.poll_patience(cx, settings, ending),
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => self.add(buffer.filled()),
                // In the midst of a request the full engine knows what to say.
                Poll::Ready(_) if !self.unread.is_empty() => return Poll::Ready(Next::Other),
                Poll::Ready(_) => return Poll::Ready(Next::Ended),
            }
        }
    }

    fn add(&mut self, bytes: &[u8]) {
        if self.unread.is_empty() {
            self.unread = Bytes::copy_from_slice(bytes);
            self.since = Instant::now();
            self.wait.over();
        } else {
            self.unread = [&*self.unread, bytes].concat().into();
        }
    }

    /// Looks at what has come; nothing, if more is needed.
    fn examine(&mut self, settings: &Settings) -> Option<Next> {
        let (length, known) = (self.unread.len(), self.known);
        self.known = length;
        if !may_end(&self.unread, known) {
            return (length > settings.header_bytes_max).then_some(Next::Other);
        }
        match read(&self.unread) {
            Read::Partial => None,
            Read::Request(request) => Some(Next::Request(request)),
            Read::Other => Some(Next::Other),
        }
    }

    /// Called when no byte is there.
    fn poll_patience(
        &mut self,
        cx: &mut Context<'_>,
        settings: &Settings,
        ending: impl FnOnce(&mut Context<'_>) -> bool,
    ) -> Poll<Next> {
        if self.unread.is_empty() && ending(cx) {
            return Poll::Ready(Next::Ended);
        }
        let (limit, then) = match (self.unread.is_empty(), self.answered) {
            (true, 1..) => (settings.client_idle_timeout, Next::Ended),
            _ => (settings.header_timeout, Next::TimedOut),
        };
        self.wait.poll(limit, cx).map(|()| then)
    }

    /// Waits until so many bytes are there, without a pause of more than `limit`; whether they are.
    pub(super) fn poll_whole(
        &mut self,
        cx: &mut Context<'_>,
        scratch: &mut [u8],
        needed: usize,
        limit: Duration,
    ) -> Poll<bool> {
        while self.unread.len() < needed {
            let mut buffer = ReadBuf::new(scratch);
            match Pin::new(&mut self.io).poll_read(cx, &mut buffer) {
                Poll::Pending => return self.wait.poll(limit, cx).map(|()| false),
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {
                    self.wait.over();
                    self.add(buffer.filled());
                }
                Poll::Ready(_) => return Poll::Ready(false),
            }
        }
        Poll::Ready(true)
    }

    /// The request has been dealt with.
    pub(super) fn done_with(&mut self, request: &Understood) {
        let _ = self.unread.split_to(request.head_bytes + request.body_bytes);
        if self.unread.is_empty() {
            // What is left of it would keep the whole of the request in memory.
            self.unread = Bytes::new();
        }
        self.since = Instant::now();
        self.known = 0;
        self.answered = self.answered.saturating_add(1);
        self.wait.over();
    }
}

/// Ready once the listener wants no further request of a connection that is idle.
pub(super) struct Ending<'a, F> {
    pub(super) listener: &'a Listener,
    pub(super) ended: Pin<&'a mut F>,
    pub(super) asked: bool,
}

impl<F: Future<Output = ()>> Ending<'_, F> {
    /// Asked once, the future wakes this task; from then on a flag says whether it has.
    pub(super) fn is_now(&mut self, cx: &mut Context<'_>) -> bool {
        match std::mem::replace(&mut self.asked, true) {
            true => self.listener.is_draining(),
            false => self.ended.as_mut().poll(cx).is_ready(),
        }
    }
}
