//! Moving the bytes of one TCP connection, both ways.
//!
//! ```text
//!  client ──read──> 64 KiB of the thread ──write──> backend     small: two system calls
//!  client ─splice─> pipe ─────────────────splice──> backend     bulk: no copy
//! ```
//!
//! A direction begins by copying. Once a read brings [`BULK_BYTES`] it goes over to splice(2)
//! and stays there until bursts become small again. It holds a pipe only while data is on its
//! way, so that an idle connection costs two descriptors, and copies when there is none.
//!
//! Invariants: bytes are neither lost nor reordered while both sides live; the FIN of one side
//! reaches the other after the last byte before it, and the opposite direction goes on; a reset
//! of one side becomes a reset of the other. What this never does: hold a buffer per connection
//! (but for what one slow reader has not taken yet, at most [`COPY_BYTES`]).

use std::cell::RefCell;
use std::io;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use rustix::net::{RecvFlags, SendFlags};
use rustix::pipe::{SpliceFlags, splice};
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::task::coop::consume_budget;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::Shared;
use crate::connect::Counted;
use crate::metrics::Ending;
use crate::pipes::Pipe;
use crate::socket::finish_writing;

/// Read at once while copying; one buffer a thread.
const COPY_BYTES: usize = 64 * 1024;

/// A burst of this size is bulk: four pages, below which two splices and a pipe cost more than
/// the copy.
const BULK_BYTES: usize = 16 * 1024;

/// Asked of one splice; a default pipe holds sixteen pages or page fragments, so this is not
/// the limit.
const SPLICE_BYTES: usize = 1 << 20;

/// Bytes moved before the shared counters learn of them, when a direction never pauses.
const TALLY_BYTES: u64 = 1 << 20;

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; COPY_BYTES]);
}

/// A direction of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    In,
    Out,
}

/// How a direction ended, other than by a reset of the side that it reads from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum WayEnd {
    /// FIN received and sent on.
    Finished,
    /// The side that it writes to takes no more. What that side had sent before may still be
    /// read, so the other direction goes on to its own end.
    WriteFailed,
}

/// Whether the kernel holds back a small segment while another one is not acknowledged (RFC 896).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Delay {
    On,
    /// As `On`, and one write was made.
    Matters,
    Off,
}

impl Delay {
    /// The first write meets nothing unacknowledged, so the delay is switched off only before
    /// the second: a connection of one request saves the system call.
    fn before_write(&mut self, to: &TcpStream) {
        *self = match self {
            Self::On => Self::Matters,
            Self::Matters => {
                // An error means that the connection is dead, which the write will say.
                let _ = to.set_nodelay(true);
                Self::Off
            }
            Self::Off => Self::Off,
        };
    }
}

/// How a burst ended.
enum Burst {
    /// Nothing more to read for now; this many bytes were moved.
    Paused(usize),
    /// The side that is read from sent its FIN.
    Eof,
    /// Writing failed.
    WriteFailed,
}

/// A connection from a client to a backend.
pub(crate) struct Pump<'a> {
    pub(crate) shared: &'a Shared,
    pub(crate) counted: &'a Counted,
    pub(crate) client: &'a TcpStream,
    pub(crate) backend: &'a TcpStream,
    /// Milliseconds of the relay's uptime at which a byte last moved.
    last_moved: AtomicU64,
    /// One direction has finished: the other one's FIN follows when its socket is closed.
    half_closed: AtomicBool,
}

impl<'a> Pump<'a> {
    pub(crate) fn new(
        shared: &'a Shared,
        counted: &'a Counted,
        client: &'a TcpStream,
        backend: &'a TcpStream,
    ) -> Self {
        let last_moved = AtomicU64::new(shared.uptime_ms());
        let half_closed = AtomicBool::new(false);
        Self { shared, counted, client, backend, last_moved, half_closed }
    }

    /// Moves bytes until both sides are done or something ends the connection.
    pub(crate) async fn run(&self, ending: &CancellationToken) -> Ending {
        let mut inward = pin!(self.one_way(Way::In));
        let mut outward = pin!(self.one_way(Way::Out));
        let mut inward_end = None;
        let mut outward_end = None;
        let mut idle = pin!(sleep_until(self.idle_at()));
        loop {
            tokio::select! {
                biased;
                end = &mut inward, if inward_end.is_none() => match end {
                    Ok(end) => inward_end = Some(end),
                    Err(_) => return Ending::Reset,
                },
                end = &mut outward, if outward_end.is_none() => match end {
                    Ok(end) => outward_end = Some(end),
                    Err(_) => return Ending::Reset,
                },
                // Nobody reads from a side whose direction is over: watch for its reset.
                _ = self.client.ready(Interest::ERROR), if inward_end.is_some() => {
                    return Ending::Reset;
                }
                _ = self.backend.ready(Interest::ERROR), if outward_end.is_some() => {
                    return Ending::Reset;
                }
                () = ending.cancelled() => return Ending::Drained,
                () = &mut idle => {
                    let idle_at = self.idle_at();
                    if idle_at <= Instant::now() {
                        return Ending::Idle;
                    }
                    idle.as_mut().reset(idle_at);
                    continue;
                }
            }
            if let (Some(inward), Some(outward)) = (inward_end, outward_end) {
                let clean = inward == WayEnd::Finished && outward == WayEnd::Finished;
                return if clean { Ending::Finished } else { Ending::Reset };
            }
            // A direction is over: from here on the connection has less patience.
            idle.as_mut().reset(self.idle_at());
        }
    }

    fn idle_at(&self) -> Instant {
        let last_moved = Duration::from_millis(self.last_moved.load(Ordering::Relaxed));
        let timeouts = self.counted.service.picture.load().service.timeouts;
        let patience = match self.half_closed.load(Ordering::Relaxed) {
            true => timeouts.closing_secs.min(timeouts.established_secs),
            false => timeouts.established_secs,
        };
        self.shared.started + last_moved + Duration::from_secs(u64::from(patience))
    }

    /// Moves one direction to its end. An error is one of the side that is read from.
    async fn one_way(&self, way: Way) -> io::Result<WayEnd> {
        let (from, to, mut delay) = match way {
            Way::In => (self.client, self.backend, Delay::On),
            // Inherited from the listener.
            Way::Out => (self.backend, self.client, Delay::Off),
        };
        let mut tally = Tally { pump: self, way, bytes: 0 };
        let mut bulk = false;
        loop {
            tally.flush();
            from.readable().await?;
            let pipe = if bulk { self.pipe_for_bulk() } else { None };
            let burst = match pipe {
                Some(pipe) => {
                    delay.before_write(to);
                    self.splice_burst(from, to, pipe, &mut tally).await?
                }
                None => copy_burst(from, to, &mut delay, &mut tally).await?,
            };
            match burst {
                Burst::Paused(bytes) => bulk = bytes >= BULK_BYTES,
                Burst::WriteFailed => return Ok(WayEnd::WriteFailed),
                Burst::Eof => return Ok(self.finish(to)),
            }
            consume_budget().await;
        }
    }

    /// Sends the FIN on. For the second direction that is what closing the socket does, and by
    /// then nothing can be left to receive that would turn it into a reset.
    fn finish(&self, to: &TcpStream) -> WayEnd {
        let last = self.half_closed.swap(true, Ordering::Relaxed);
        if last || finish_writing(to).is_ok() { WayEnd::Finished } else { WayEnd::WriteFailed }
    }

    fn pipe_for_bulk(&self) -> Option<Pipe> {
        let pipe = self.shared.pipes.take(self.shared.settings.load().pipes_max as usize);
        let way = if pipe.is_some() { "splice" } else { "copy" };
        self.shared.metrics.bulk_rounds.with_label_values(&[way]).inc();
        pipe
    }

    /// Splices until nothing is left to read for now.
    async fn splice_burst(
        &self,
        from: &TcpStream,
        to: &TcpStream,
        pipe: Pipe,
        tally: &mut Tally<'_>,
    ) -> io::Result<Burst> {
        let mut moved = 0;
        // Cancelling drops the pipe with what is in it; the guard keeps the count right.
        let pipe = PipeGuard { shared: self.shared, pipe: Some(pipe) };
        loop {
            let filled = from.try_io(Interest::READABLE, || pipe.fill(from));
            let mut held = match filled {
                Ok(0) => {
                    pipe.put_back();
                    return Ok(Burst::Eof);
                }
                Ok(bytes) => bytes,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    pipe.put_back();
                    return Ok(Burst::Paused(moved));
                }
                Err(error) => return Err(error),
            };
            while held > 0 {
                match to.async_io(Interest::WRITABLE, || pipe.empty(to, held)).await {
                    Ok(0) | Err(_) => return Ok(Burst::WriteFailed),
                    Ok(bytes) => {
                        held -= bytes;
                        moved += bytes;
                        tally.add(bytes);
                    }
                }
            }
            consume_budget().await;
        }
    }
}

/// Reads once and writes what came.
async fn copy_burst(
    from: &TcpStream,
    to: &TcpStream,
    delay: &mut Delay,
    tally: &mut Tally<'_>,
) -> io::Result<Burst> {
    let copied = BUFFER.with_borrow_mut(|buffer| {
        let bytes = receive(from, buffer)?;
        if bytes == 0 {
            return Ok((0, Ok(Vec::new())));
        }
        delay.before_write(to);
        let written = send(to, &buffer[..bytes]);
        // Only a reader that is slower than the writer costs memory of its own.
        let rest = written.map(|written| buffer[written..bytes].to_vec());
        Ok::<_, io::Error>((bytes, rest))
    });
    let (bytes, rest) = match copied {
        Ok((0, _)) => return Ok(Burst::Eof),
        Ok(copied) => copied,
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Burst::Paused(0)),
        Err(error) => return Err(error),
    };
    let Ok(rest) = rest else { return Ok(Burst::WriteFailed) };
    tally.add(bytes - rest.len());
    if !rest.is_empty() {
        delay.before_write(to);
    }
    let mut unsent = rest.as_slice();
    while !unsent.is_empty() {
        match to.async_io(Interest::WRITABLE, || send_some(to, unsent)).await {
            Ok(0) | Err(_) => return Ok(Burst::WriteFailed),
            Ok(written) => {
                unsent = &unsent[written..];
                tally.add(written);
            }
        }
    }
    Ok(Burst::Paused(bytes))
}

/// Reads once. A read that leaves room in the buffer has emptied the socket: the runtime is told
/// so as it would be by a further read that finds nothing, which is saved. What comes later, a
/// FIN included, wakes it again.
fn receive(from: &TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
    let mut received = 0;
    let outcome = from.try_io(Interest::READABLE, || {
        received = rustix::net::recv(from, &mut *buffer, RecvFlags::DONTWAIT)?.1;
        let emptied = received > 0 && received < buffer.len();
        if emptied { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(received) }
    });
    match outcome {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock && received > 0 => Ok(received),
        outcome => outcome,
    }
}

/// Writes what the socket takes now, 0 when it takes nothing. Goes past the runtime's notion of
/// readiness, which a fresh socket does not have yet.
fn send(to: &TcpStream, bytes: &[u8]) -> io::Result<usize> {
    match send_some(to, bytes) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
        sent => sent,
    }
}

fn send_some(to: &TcpStream, bytes: &[u8]) -> io::Result<usize> {
    Ok(rustix::net::send(to, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL)?)
}

/// A pipe that is discarded unless it is known to be empty.
struct PipeGuard<'a> {
    shared: &'a Shared,
    pipe: Option<Pipe>,
}

impl PipeGuard<'_> {
    fn fill(&self, from: &TcpStream) -> io::Result<usize> {
        match &self.pipe {
            Some(pipe) => Ok(splice(from, None, &pipe.write, None, SPLICE_BYTES, FLAGS)?),
            None => Ok(0),
        }
    }

    fn empty(&self, to: &TcpStream, held: usize) -> io::Result<usize> {
        match &self.pipe {
            Some(pipe) => Ok(splice(&pipe.read, None, to, None, held, FLAGS)?),
            None => Ok(0),
        }
    }

    fn put_back(mut self) {
        if let Some(pipe) = self.pipe.take() {
            self.shared.pipes.put_back(pipe);
        }
    }
}

impl Drop for PipeGuard<'_> {
    fn drop(&mut self) {
        if let Some(pipe) = self.pipe.take() {
            self.shared.pipes.discard(pipe);
        }
    }
}

const FLAGS: SpliceFlags = SpliceFlags::MOVE.union(SpliceFlags::NONBLOCK);

/// Bytes that the shared counters have not been told of.
struct Tally<'a> {
    pump: &'a Pump<'a>,
    way: Way,
    bytes: u64,
}

impl Tally<'_> {
    fn add(&mut self, bytes: usize) {
        self.bytes += bytes as u64;
        self.pump.last_moved.store(self.pump.shared.uptime_ms(), Ordering::Relaxed);
        if self.bytes >= TALLY_BYTES {
            self.flush();
        }
    }

    fn flush(&mut self) {
        if self.bytes == 0 {
            return;
        }
        let bytes = std::mem::take(&mut self.bytes);
        let Pump { shared, counted, .. } = self.pump;
        let (total, service, backend) = match self.way {
            Way::In => (
                &shared.metrics.bytes_in,
                &counted.service.counters.bytes_in,
                &counted.backend.0.counters.bytes_in,
            ),
            Way::Out => (
                &shared.metrics.bytes_out,
                &counted.service.counters.bytes_out,
                &counted.backend.0.counters.bytes_out,
            ),
        };
        for counter in [total, service, backend] {
            counter.fetch_add(bytes, Ordering::Relaxed);
        }
    }
}

impl Drop for Tally<'_> {
    fn drop(&mut self) {
        self.flush();
    }
}
