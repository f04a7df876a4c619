//! A connection through the tunnel as tokio sees it. Driven by whoever reads and writes: there is
//! no task behind it.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use prometheus::IntCounterVec;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

use super::TunnelError;
use super::claims::Claim;
use super::stack::{Found, Phase, Stack};
use super::wire::Wire;

/// A TCP connection to a VIP, inside of packets to a backend. Dropped, it ends by a reset.
pub(crate) struct Stream {
    stack: Stack,
    wire: Arc<Wire>,
    backend: std::net::IpAddr,
    claim: Claim,
    packets: IntCounterVec,
    began: Instant,
    timer: Pin<Box<Sleep>>,
}

impl Stream {
    /// Connects by a port that was claimed.
    pub(super) async fn open(
        wire: Arc<Wire>,
        backend: std::net::IpAddr,
        claim: Claim,
        packets: IntCounterVec,
    ) -> Result<Self, TunnelError> {
        wire.check(backend, claim.remote.ip())?;
        let stack = Stack::connect(claim.local, claim.remote, rand::random(), 0)
            .ok_or_else(|| TunnelError::Connect(io::ErrorKind::InvalidInput.into()))?;
        let timer = Box::pin(sleep(Duration::ZERO));
        let began = Instant::now();
        let mut stream = Self { stack, wire, backend, claim, packets, began, timer };
        poll_fn(|context| stream.poll_open(context)).await?;
        Ok(stream)
    }

    fn poll_open(&mut self, context: &mut Context<'_>) -> Poll<Result<(), TunnelError>> {
        self.poll_until(context, |stack| match stack.phase() {
            Phase::Opening => None,
            Phase::Open => Some(Ok(())),
            Phase::Gone => Some(Err(io::ErrorKind::ConnectionRefused.into())),
        })
        .map_err(TunnelError::sending)
    }

    /// Lets the stack go on until `done` has something to say.
    fn poll_until<T>(
        &mut self,
        context: &mut Context<'_>,
        mut done: impl FnMut(&mut Stack) -> Option<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        loop {
            while let Poll::Ready(Some(packet)) = self.claim.packets.poll_recv(context) {
                if !self.stack.receive(packet) {
                    self.packets.with_label_values(&["overflow"]).inc();
                }
            }
            self.turn()?;
            if let Some(outcome) = done(&mut self.stack) {
                // Reading opened the window, writing left something to be sent.
                self.turn()?;
                return Poll::Ready(outcome);
            }
            let Some(wait) = self.stack.next_turn_micros(self.now_micros()) else {
                return Poll::Pending;
            };
            self.timer.as_mut().reset(Instant::now() + Duration::from_micros(wait));
            if self.timer.as_mut().poll(context).is_pending() {
                return Poll::Pending;
            }
        }
    }

    fn turn(&mut self) -> io::Result<()> {
        let now = self.now_micros();
        self.stack.turn(now);
        while let Some(packet) = self.stack.outgoing() {
            let outcome = match self.wire.send(&packet, self.backend, self.claim.remote.ip()) {
                Ok(()) => "sent",
                // Full for the moment: as if lost on the way.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => "overflow",
                Err(error) => {
                    self.packets.with_label_values(&["send_failed"]).inc();
                    return Err(error);
                }
            };
            self.packets.with_label_values(&[outcome]).inc();
        }
        Ok(())
    }

    /// The stack's clock.
    fn now_micros(&self) -> i64 {
        i64::try_from(self.began.elapsed().as_micros()).unwrap_or(i64::MAX)
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if into.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        self.poll_until(context, |stack| match stack.read(into.initialize_unfilled()) {
            Found::Bytes(count) => {
                into.advance(count);
                Some(Ok(()))
            }
            Found::End => Some(Ok(())),
            Found::Nothing => None,
            Found::Broken => Some(Err(io::ErrorKind::ConnectionReset.into())),
        })
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        from: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_until(context, |stack| match stack.write(from) {
            Some(0) if !from.is_empty() => None,
            Some(count) => Some(Ok(count)),
            None => Some(Err(io::ErrorKind::BrokenPipe.into())),
        })
    }

    /// What is written goes out by itself, as with a socket.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stack.close();
        Poll::Ready(self.turn())
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // As the kernel's own probes end: no TIME_WAIT on either side.
        self.stack.abort();
        let _ = self.turn();
    }
}
