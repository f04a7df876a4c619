//! One answer on its way from a backend to the client.

use std::future::poll_fn;
use std::io::IoSlice;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use http::Method;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::answer::{Read, read};
use super::framing::Framing;
use super::wait::Wait;
use crate::listener::Listener;

/// Why an answer did not arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// The backend cannot be connected to.
    Unreachable,
    /// Connecting to the backend took too long.
    FarAway,
    /// The backend closed a connection that had been kept just as it was taken: no byte of the
    /// request may have been seen (RFC 9112, section 9.3.1).
    Stale,
    /// The backend closed the connection without a word.
    Silent,
    /// The backend ended in the midst, or said what is no answer.
    Broken,
    /// The backend took too long.
    TimedOut,
    /// The client is gone, or does not read.
    Client,
}

/// How long either side may be silent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) read: Duration,
    pub(super) write: Duration,
}

/// An answer.
pub(super) struct Passing<'a> {
    began: Instant,
    /// The client's connection ends with it …
    last: bool,
    /// … or with that of the listener.
    listener: &'a Listener,
    /// Its header, as far as it has come.
    partial: Vec<u8>,
    /// For the client, and not sent.
    unsent: Vec<u8>,
    framing: Option<Framing>,
    done: bool,
    /// Its status.
    pub(super) status: Option<u16>,
    /// When its header came, counted from the request's.
    pub(super) first_byte: Option<Duration>,
    /// Bytes of its body.
    pub(super) body_bytes: u64,
    /// The backend takes another request on its connection.
    pub(super) reusable: bool,
    /// The client may send another request on its connection.
    pub(super) goes_on: bool,
}

impl<'a> Passing<'a> {
    /// Nothing yet; `last`: the client's connection ends with it, whatever becomes of the listener.
    pub(super) fn new(began: Instant, last: bool, listener: &'a Listener) -> Self {
        Self {
            began,
            last,
            listener,
            partial: Vec::new(),
            unsent: Vec::new(),
            framing: None,
            done: false,
            status: None,
            first_byte: None,
            body_bytes: 0,
            reusable: false,
            goes_on: false,
        }
    }

    /// Passes the answer on as it comes.
    pub(super) fn poll<S: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        scratch: &mut [u8],
        (client, backend): (&mut S, &mut TcpStream),
        method: &Method,
        (wait, limits): (&mut Wait, Limits),
    ) -> Poll<Result<(), Fault>> {
        loop {
            if !self.unsent.is_empty() {
                ready!(self.poll_send(cx, client, wait, limits.write))?;
            }
            if self.done {
                return match Pin::new(client).poll_flush(cx) {
                    Poll::Ready(flushed) => Poll::Ready(flushed.map_err(|_| Fault::Client)),
                    Poll::Pending => self.gave_up(cx, wait, limits.write, Fault::Client),
                };
            }
            let mut buffer = ReadBuf::new(scratch);
            match Pin::new(&mut *backend).poll_read(cx, &mut buffer) {
                Poll::Pending => {
                    // What is encrypted leaves when it is told to.
                    return match Pin::new(&mut *client).poll_flush(cx) {
                        Poll::Ready(Ok(())) => self.gave_up(cx, wait, limits.read, Fault::TimedOut),
                        Poll::Ready(Err(_)) => Poll::Ready(Err(Fault::Client)),
                        Poll::Pending => self.gave_up(cx, wait, limits.write, Fault::Client),
                    };
                }
                Poll::Ready(Err(_)) => return Poll::Ready(Err(self.ended())),
                Poll::Ready(Ok(())) if buffer.filled().is_empty() => {
                    if self.framing != Some(Framing::Close) {
                        return Poll::Ready(Err(self.ended()));
                    }
                    self.done = true;
                }
                Poll::Ready(Ok(())) => {
                    wait.over();
                    self.take(buffer.filled(), method, cx, client)?;
                }
            }
        }
    }

    /// Something is waited for.
    fn gave_up(
        &self,
        cx: &mut Context<'_>,
        wait: &mut Wait,
        limit: Duration,
        fault: Fault,
    ) -> Poll<Result<(), Fault>> {
        wait.poll(limit, cx).map(|()| Err(fault))
    }

    /// What it means that the backend has ended here.
    fn ended(&self) -> Fault {
        match self.status.is_none() && self.partial.is_empty() {
            true => Fault::Silent,
            false => Fault::Broken,
        }
    }

    fn poll_send<S: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        client: &mut S,
        wait: &mut Wait,
        limit: Duration,
    ) -> Poll<Result<(), Fault>> {
        while !self.unsent.is_empty() {
            match Pin::new(&mut *client).poll_write(cx, &self.unsent) {
                Poll::Ready(Ok(sent)) if sent > 0 => {
                    wait.over();
                    self.unsent.drain(..sent);
                }
                Poll::Ready(_) => return Poll::Ready(Err(Fault::Client)),
                Poll::Pending => return self.gave_up(cx, wait, limit, Fault::Client),
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Takes what a backend has said and sends what can be sent at once.
    fn take<S: AsyncWrite + Unpin>(
        &mut self,
        bytes: &[u8],
        method: &Method,
        cx: &mut Context<'_>,
        client: &mut S,
    ) -> Result<(), Fault> {
        if self.framing.is_some() {
            return self.body(bytes, cx, client);
        }
        let joined;
        let mut rest = match self.partial.is_empty() {
            true => bytes,
            false => {
                self.partial.extend_from_slice(bytes);
                joined = std::mem::take(&mut self.partial);
                &joined
            }
        };
        let last = self.last || self.listener.is_draining();
        loop {
            match read(rest, method, last, &mut self.unsent) {
                Read::Partial => {
                    self.partial = rest.to_vec();
                    return Ok(());
                }
                Read::Interim { bytes, passed_on } => {
                    if passed_on {
                        self.unsent.extend_from_slice(&rest[..bytes]);
                    }
                    rest = &rest[bytes..];
                }
                Read::Answer(head) => {
                    self.status = Some(head.status);
                    self.first_byte = Some(self.began.elapsed());
                    self.reusable = head.reusable;
                    self.goes_on = !last && head.framing != Framing::Close;
                    self.framing = Some(head.framing);
                    return self.body(&rest[head.bytes..], cx, client);
                }
                Read::Malformed => return Err(Fault::Broken),
            }
        }
    }

    /// Sends the header, as far as it is not sent, and a piece of the body.
    fn body<S: AsyncWrite + Unpin>(
        &mut self,
        bytes: &[u8],
        cx: &mut Context<'_>,
        client: &mut S,
    ) -> Result<(), Fault> {
        let Some(framing) = &mut self.framing else { return Err(Fault::Broken) };
        let length = framing.take(bytes).map_err(|_| Fault::Broken)?;
        self.done = framing.is_done();
        // What comes behind an answer answers nothing.
        self.reusable &= length == bytes.len();
        self.body_bytes += length as u64;
        let bytes = &bytes[..length];
        if self.unsent.is_empty() && bytes.is_empty() {
            return Ok(());
        }
        let pieces = [IoSlice::new(&self.unsent), IoSlice::new(bytes)];
        let sent = match Pin::new(client).poll_write_vectored(cx, &pieces) {
            Poll::Ready(Ok(sent)) if sent > 0 => sent,
            Poll::Ready(_) => return Err(Fault::Client),
            Poll::Pending => 0,
        };
        match sent.checked_sub(self.unsent.len()) {
            Some(of_body) => {
                self.unsent.clear();
                self.unsent.extend_from_slice(&bytes[of_body..]);
            }
            None => {
                self.unsent.drain(..sent);
                self.unsent.extend_from_slice(bytes);
            }
        }
        Ok(())
    }
}

/// Writes a request; the limit is that of each pause.
pub(super) async fn send(
    backend: &mut TcpStream,
    wire: &[u8],
    wait: &mut Wait,
    limit: Duration,
) -> Result<(), Fault> {
    let mut sent = 0;
    wait.over();
    poll_fn(|cx| {
        while sent < wire.len() {
            match Pin::new(&mut *backend).poll_write(cx, &wire[sent..]) {
                Poll::Ready(Ok(more)) if more > 0 => {
                    sent += more;
                    wait.over();
                }
                Poll::Ready(_) => return Poll::Ready(Err(Fault::Silent)),
                Poll::Pending => return wait.poll(limit, cx).map(|()| Err(Fault::TimedOut)),
            }
        }
        wait.over();
        Poll::Ready(Ok(()))
    })
    .await
}
