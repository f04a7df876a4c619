//! One TCP connection to a peer: octets in, octets out, both bounded.

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::wire::{Framing, frame};

/// Octets read at once. A message has 4096 at most, so the inbox holds less than twice this.
const READ_MAX: usize = 16 * 1024;
/// While more than this is unsent no further routes are encoded. With the last batch the outbox
/// stays below three times this; KEEPALIVEs are the only thing added beyond.
pub(super) const OUTBOX_MAX: usize = 64 * 1024;
/// How long a peer may take nothing of what is sent to it (RFC 9687, 6: 8 minutes).
pub(super) const SEND_HOLD: Duration = Duration::from_secs(8 * 60);
/// How long a connection that is over may take to send its NOTIFICATION.
const LINGER_MAX: Duration = Duration::from_secs(2);

/// A connection and what is on its way.
#[derive(Debug)]
pub(super) struct Stream {
    tcp: TcpStream,
    /// Our address on it, in canonical form.
    pub(super) local: IpAddr,
    inbox: Vec<u8>,
    pub(super) outbox: Vec<u8>,
    /// Since when the peer takes nothing.
    stalled_since: Option<Instant>,
}

impl Stream {
    pub(super) fn new(tcp: TcpStream) -> io::Result<Stream> {
        let local = tcp.local_addr()?.ip().to_canonical();
        let (inbox, outbox) = (Vec::new(), Vec::new());
        Ok(Stream { tcp, local, inbox, outbox, stalled_since: None })
    }

    /// Waits until there is something to read, or room for what is to be sent. Cancel safe.
    pub(super) async fn ready(&self) -> io::Result<()> {
        if self.has_frame() {
            // Others get a turn between two portions of a flood.
            tokio::task::yield_now().await;
            return Ok(());
        }
        let writable = if self.outbox.is_empty() { None } else { Some(Interest::WRITABLE) };
        let interest = writable.map_or(Interest::READABLE, |both| both | Interest::READABLE);
        self.tcp.ready(interest).await.map(|_| ())
    }

    /// Whether the inbox begins with something that can be judged.
    pub(super) fn has_frame(&self) -> bool {
        !self.inbox.is_empty() && frame(&self.inbox) != Framing::NeedMore
    }

    /// Reads once. `Ok(false)` when the peer has closed its side.
    pub(super) fn read(&mut self) -> io::Result<bool> {
        let filled = self.inbox.len();
        self.inbox.resize(filled + READ_MAX, 0);
        let read = self.tcp.try_read(&mut self.inbox[filled..]);
        self.inbox.truncate(filled + read.as_ref().ok().copied().unwrap_or(0));
        match read {
            Ok(octets) => Ok(octets > 0),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// The octets received and not yet taken.
    pub(super) fn inbox(&self) -> &[u8] {
        &self.inbox
    }

    /// Takes octets off the inbox's front.
    pub(super) fn consume(&mut self, octets: usize) {
        self.inbox.drain(..octets.min(self.inbox.len()));
    }

    /// Sends what the kernel takes now.
    pub(super) fn flush(&mut self, now: Instant) -> io::Result<()> {
        let mut sent = 0;
        let outcome = loop {
            if sent == self.outbox.len() {
                break Ok(());
            }
            match self.tcp.try_write(&self.outbox[sent..]) {
                Ok(octets) => sent += octets,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        self.outbox.drain(..sent);
        if self.outbox.is_empty() {
            self.stalled_since = None;
        } else if sent > 0 || self.stalled_since.is_none() {
            self.stalled_since = Some(now);
        }
        outcome
    }

    /// When the peer has taken nothing for too long, if it goes on.
    pub(super) fn send_deadline(&self) -> Option<Instant> {
        self.stalled_since.map(|since| since + SEND_HOLD)
    }

    /// Sends the rest and closes so that the peer can still read it: a socket closed with unread
    /// input resets the connection and takes the NOTIFICATION along.
    pub(super) async fn close(mut self) {
        let farewell = async {
            while !self.outbox.is_empty() {
                self.tcp.writable().await?;
                self.flush(Instant::now())?;
            }
            socket2::SockRef::from(&self.tcp).shutdown(std::net::Shutdown::Write)?;
            loop {
                self.tcp.readable().await?;
                self.inbox.clear();
                if !self.read()? {
                    return io::Result::Ok(());
                }
            }
        };
        if let Ok(Err(error)) = tokio::time::timeout(LINGER_MAX, farewell).await {
            tracing::debug!(%error, "connection broke while closing");
        }
    }
}
