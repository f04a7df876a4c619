//! A client's connection as Pingora reads and writes it.
//!
//! Adds what Pingora lacks on connections that it did not accept itself: a write buffer, so that
//! a header and a small body leave in one segment; a deadline and a size for request headers,
//! over all their pieces; and an end for connections that wait for a request while the listener
//! is being taken out of service. It never looks into the bytes.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use pingora_core::protocols::raw_connect::ProxyDigest;
use pingora_core::protocols::{
    ALPN, GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl,
    TimingDigest, UniqueID, UniqueIDType,
};
use pingora_http::ResponseHeader;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, BufWriter, ReadBuf};
use tokio::time::{Instant, Sleep};
use tokio_util::sync::WaitForCancellationFutureOwned;

use crate::connection::{ConnectionContext, Protocol};
use crate::metrics::{Metrics, Refusal};

/// Room for a response header and a small body. Larger writes go past it.
const WRITE_BUFFER_BYTES: usize = 4 * 1024;

/// Bytes that may be read beyond the header limit, because one read can take in body bytes too.
const READ_AHEAD_BYTES: usize = 64 * 1024;

/// Length of the client's preface (RFC 9113, section 3.4), which a connection owes at once.
const H2_PREFACE_BYTES: usize = 24;

/// How long closing a TLS connection may take to send its last alert.
pub(super) const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// The limits of a connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct HeaderLimits {
    /// When the connection began to owe its first header.
    pub(super) since: Instant,
    /// Time for a header.
    pub(super) timeout: Duration,
    /// Bytes of a header.
    pub(super) bytes_max: usize,
}

/// The connection; see the module.
pub(super) struct ClientStream<S> {
    io: BufWriter<S>,
    /// Read already by whoever had the connection before.
    unread: Bytes,
    descriptor: i32,
    protocol: Protocol,
    context: Arc<ConnectionContext>,
    digest: Arc<ProxyDigest>,
    metrics: Metrics,
    limits: HeaderLimits,
    idle_end: Pin<Box<WaitForCancellationFutureOwned>>,
    phase: u32,
    header_bytes: usize,
    header_since: Option<Instant>,
    deadline: Option<Pin<Box<Sleep>>>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> ClientStream<S> {
    pub(super) fn new(
        (io, unread): (S, Bytes),
        descriptor: i32,
        protocol: Protocol,
        context: Arc<ConnectionContext>,
        metrics: Metrics,
        limits: HeaderLimits,
    ) -> io::Result<Self> {
        // Pingora passes this digest to every request of the connection, over HTTP/2 as well:
        // the one way to give requests what is known about their connection.
        let response = ResponseHeader::build(200, Some(0)).map_err(io::Error::other)?;
        let digest = ProxyDigest::new(Box::new(response), Some(Box::new(context.clone())));
        let idle_end = context.listener.idle_end().clone().cancelled_owned();
        Ok(Self {
            io: BufWriter::with_capacity(WRITE_BUFFER_BYTES, io),
            unread,
            descriptor,
            protocol,
            digest: Arc::new(digest),
            metrics,
            limits,
            idle_end: Box::pin(idle_end),
            phase: context.phase(),
            header_bytes: 0,
            header_since: Some(limits.since),
            deadline: None,
            context,
        })
    }

    /// Whether the bytes that come now belong to a header (HTTP/1) or preface (HTTP/2).
    fn awaits_header(&mut self) -> bool {
        match self.protocol {
            Protocol::Http2 => self.header_bytes < H2_PREFACE_BYTES,
            Protocol::Http1 => {
                let phase = self.context.phase();
                if phase != self.phase {
                    self.phase = phase;
                    self.header_bytes = 0;
                    self.header_since = None;
                    self.deadline = None;
                }
                phase.is_multiple_of(2)
            }
        }
    }

    /// Called when no byte is there: ends the connection if it has waited too long.
    fn poll_patience(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let idle = self.protocol == Protocol::Http1 && self.header_bytes == 0;
        if idle && self.idle_end.as_mut().poll(cx).is_ready() {
            // Read as the end of the stream: Pingora closes without a word.
            return Poll::Ready(Ok(()));
        }
        if let Some(since) = self.header_since {
            let limit = since + self.limits.timeout;
            let deadline =
                self.deadline.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(limit)));
            if deadline.as_mut().poll(cx).is_ready() {
                self.metrics.refused(Refusal::HeaderTimeout);
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
        }
        Poll::Pending
    }

    /// Reads what has been read already, then what comes.
    fn poll_bytes(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.unread.is_empty() {
            return Pin::new(&mut self.io).poll_read(cx, buf);
        }
        let length = self.unread.len().min(buf.remaining());
        buf.put_slice(&self.unread.split_to(length));
        Poll::Ready(Ok(()))
    }

    fn count_header(&mut self, bytes: usize) -> io::Result<()> {
        self.header_bytes += bytes;
        self.header_since.get_or_insert_with(Instant::now);
        if self.protocol == Protocol::Http2 && self.header_bytes >= H2_PREFACE_BYTES {
            // From here on the idle timeout of HTTP/2 holds.
            self.header_since = None;
            self.deadline = None;
        }
        if self.header_bytes > self.limits.bytes_max + READ_AHEAD_BYTES {
            self.metrics.refused(Refusal::HeaderSize);
            return Err(io::Error::new(io::ErrorKind::InvalidData, "request header too large"));
        }
        Ok(())
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for ClientStream<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.awaits_header() {
            return this.poll_bytes(cx, buf);
        }
        let before = buf.filled().len();
        match this.poll_bytes(cx, buf) {
            Poll::Pending => this.poll_patience(cx),
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Ready(Ok(())) => {
                let bytes = buf.filled().len() - before;
                Poll::Ready(if bytes == 0 { Ok(()) } else { this.count_header(bytes) })
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for ClientStream<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}

impl<S> fmt::Debug for ClientStream<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {:?}", self.protocol, self.context)
    }
}

#[async_trait]
impl<S: AsyncRead + AsyncWrite + Unpin + Send + Sync> Shutdown for ClientStream<S> {
    async fn shutdown(&mut self) {
        // Whether the client takes the last bytes is its own affair.
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, AsyncWriteExt::shutdown(self)).await;
    }
}

impl<S> UniqueID for ClientStream<S> {
    fn id(&self) -> UniqueIDType {
        self.descriptor
    }
}

impl<S> Ssl for ClientStream<S> {
    fn selected_alpn_proto(&self) -> Option<ALPN> {
        match self.protocol {
            Protocol::Http1 => None,
            Protocol::Http2 => Some(ALPN::H2),
        }
    }
}

impl<S> GetTimingDigest for ClientStream<S> {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        Vec::new()
    }
}

impl<S> GetProxyDigest for ClientStream<S> {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        Some(self.digest.clone())
    }
}

impl<S> GetSocketDigest for ClientStream<S> {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        None
    }
}

// Which protocol is spoken is known before, so nothing is peeked at.
impl<S> Peek for ClientStream<S> {}
