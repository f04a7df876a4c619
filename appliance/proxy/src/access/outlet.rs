//! Where lines end up: a file, standard output or the host's syslog.
//!
//! Only the writer's thread comes here. Time is an argument.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::AccessDestination;

/// How often the file's name is looked at, and a destination that failed is tried again.
pub(super) const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// How long syslog may take for one line. Beyond it the line is lost.
const SYSLOG_TIMEOUT: Duration = Duration::from_secs(1);

/// Facility local0, severity info (RFC 5424, section 6.2.1): where HAProxy's examples log to.
const SYSLOG_PRIORITY: u8 = 16 * 8 + 6;

/// A destination, open or not.
#[derive(Debug)]
pub(super) struct Outlet {
    to: AccessDestination,
    open: Option<Open>,
    /// When the file's name was last looked at, or opening was last tried.
    looked: Option<Instant>,
    /// Lines of a batch, put together.
    joined: Vec<u8>,
    /// Where in it each line ends.
    ends: Vec<usize>,
}

#[derive(Debug)]
enum Open {
    Stream(Stream),
    Syslog { socket: UnixDatagram, host: String },
}

/// Something that takes bytes, one line after another.
#[derive(Debug)]
struct Stream {
    sink: Sink,
    /// Whether what was written last is a line without its end.
    torn: bool,
}

#[derive(Debug)]
enum Sink {
    File { file: File, identity: (u64, u64) },
    Stdout,
}

/// What became of a batch.
#[derive(Debug)]
pub(super) struct Written {
    /// Lines that are wholly written.
    pub(super) lines: usize,
    /// Why the others are not.
    pub(super) fault: Option<io::Error>,
}

impl Outlet {
    pub(super) fn new(to: AccessDestination) -> Self {
        Self { to, open: None, looked: None, joined: Vec::new(), ends: Vec::new() }
    }

    /// Opens the file anew if its name leads elsewhere by now. `asked`: without waiting for the
    /// next look.
    pub(super) fn follow(&mut self, now: Instant, asked: bool) {
        let AccessDestination::File(path) = &self.to else { return };
        let Some(Open::Stream(Stream { sink: Sink::File { identity, .. }, .. })) = &self.open
        else {
            return;
        };
        if !asked && !self.is_due(now) {
            return;
        }
        self.looked = Some(now);
        if identity_of(path) != Some(*identity) {
            // Opened with the next line.
            self.open = None;
            self.looked = None;
        }
    }

    fn is_due(&self, now: Instant) -> bool {
        self.looked.is_none_or(|looked| now.saturating_duration_since(looked) >= LOOK_INTERVAL)
    }

    /// Writes lines. Those that cannot be written are lost.
    pub(super) fn write(&mut self, lines: &[Vec<u8>], now: Instant) -> Written {
        if self.open.is_none() {
            if !self.is_due(now) {
                let fault = io::Error::new(io::ErrorKind::NotConnected, "waiting to try again");
                return Written { lines: 0, fault: Some(fault) };
            }
            self.looked = Some(now);
            match open(&self.to) {
                Ok(open) => self.open = Some(open),
                Err(fault) => return Written { lines: 0, fault: Some(fault) },
            }
        }
        let written = match &mut self.open {
            Some(Open::Stream(stream)) => stream.write(lines, &mut self.joined, &mut self.ends),
            Some(Open::Syslog { socket, host }) => {
                let at = jiff::Timestamp::now();
                send_all(socket, host, at, lines, &mut self.joined)
            }
            None => Written { lines: 0, fault: None },
        };
        if written.fault.is_some() {
            self.give_up_on_syslog();
        }
        written
    }

    /// The daemon behind the socket may have been started anew, with another socket. A file stays:
    /// a full disk does not change by opening it again.
    fn give_up_on_syslog(&mut self) {
        if matches!(self.open, Some(Open::Syslog { .. })) {
            self.open = None;
        }
    }
}

fn open(to: &AccessDestination) -> io::Result<Open> {
    let sink = match to {
        AccessDestination::Stdout => Sink::Stdout,
        AccessDestination::File(path) => {
            let mut options = OpenOptions::new();
            // Appending leaves room for a log rotation that copies and truncates. Not blocking
            // changes nothing for files, and keeps a pipe without a reader from holding us up.
            options.append(true).create(true).mode(0o640).custom_flags(nonblocking());
            let file = options.open(path)?;
            let metadata = file.metadata()?;
            Sink::File { file, identity: (metadata.dev(), metadata.ino()) }
        }
        AccessDestination::Syslog(path) => {
            let socket = UnixDatagram::unbound()?;
            socket.connect(path)?;
            socket.set_write_timeout(Some(SYSLOG_TIMEOUT))?;
            let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
            let host = syslog_name(host.trim());
            return Ok(Open::Syslog { socket, host });
        }
    };
    Ok(Open::Stream(Stream { sink, torn: false }))
}

fn nonblocking() -> i32 {
    rustix::fs::OFlags::NONBLOCK.bits().cast_signed()
}

fn identity_of(path: &Path) -> Option<(u64, u64)> {
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.dev(), metadata.ino()))
}

impl Stream {
    fn write(&mut self, lines: &[Vec<u8>], joined: &mut Vec<u8>, ends: &mut Vec<usize>) -> Written {
        joined.clear();
        ends.clear();
        if self.torn {
            joined.push(b'\n');
        }
        for line in lines {
            joined.extend_from_slice(line);
            joined.push(b'\n');
            ends.push(joined.len());
        }
        let mut done = 0;
        let fault = loop {
            if done == joined.len() {
                break None;
            }
            match self.sink.write(&joined[done..]) {
                Ok(0) => break Some(io::ErrorKind::WriteZero.into()),
                Ok(bytes) => done += bytes,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => break Some(error),
            }
        };
        if done > 0 {
            self.torn = joined[done - 1] != b'\n';
        }
        Written { lines: ends.partition_point(|end| *end <= done), fault }
    }
}

impl Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::File { file, .. } => file.write(bytes),
            // The buffer of Rust's own would hold back the end of a batch.
            Self::Stdout => rustix::io::write(io::stdout(), bytes).map_err(Into::into),
        }
    }
}

/// One datagram a line (RFC 5424, section 6), without structured data.
fn send_all(
    socket: &UnixDatagram,
    host: &str,
    at: jiff::Timestamp,
    lines: &[Vec<u8>],
    message: &mut Vec<u8>,
) -> Written {
    let process = std::process::id();
    for (sent, line) in lines.iter().enumerate() {
        message.clear();
        // Writing into memory does not fail.
        let _ =
            write!(message, "<{SYSLOG_PRIORITY}>1 {at:.3} {host} haflinger {process} access - ");
        message.extend_from_slice(line);
        if let Err(fault) = socket.send(message) {
            return Written { lines: sent, fault: Some(fault) };
        }
    }
    Written { lines: lines.len(), fault: None }
}

/// A host name as syslog has it: printable, at most 255 characters (RFC 5424, section 6.2.4).
fn syslog_name(name: &str) -> String {
    let name: String = name.chars().filter(char::is_ascii_graphic).take(255).collect();
    if name.is_empty() { "-".into() } else { name }
}

/// Names the destination.
impl std::fmt::Display for AccessDestination {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Stdout => f.write_str("stdout"),
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Syslog(path) => write!(f, "syslog at {}", path.display()),
        }
    }
}

/// Where syslog is spoken to on this host.
pub(super) fn host_syslog() -> PathBuf {
    "/dev/log".into()
}

#[cfg(test)]
#[path = "outlet_tests.rs"]
mod tests;
