//! The access log: one line for each request that has ended.
//!
//! A worker writes the line into memory and puts it into a queue; one thread writes to the
//! destination. While the log is off, a request pays for the look at one pointer.
//!
//! Invariant: no request waits for the log. What cannot be written is counted, never kept.
//!
//! What it never does: write down credentials (`Authorization`, `Cookie` and their like have no
//! field), or let a value begin another line or field.
//!
//! | module | holds |
//! |---|---|
//! | `record`, `field`, `format`, `line` | a request as a line, pure |
//! | `queue`, `writer`, `outlet` | its way out of the process |

mod field;
mod format;
mod line;
mod metrics;
mod outlet;
mod queue;
mod record;
mod writer;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::{ArcSwapOption, Guard};
use prometheus::Registry;
use serde::Serialize;

pub use self::format::{
    AccessFormat, FORMAT_BYTES_MAX, FORMAT_FIELDS_MAX, FormatError, LineFormat,
};
pub use self::queue::{QUEUE_BYTES_MAX, QUEUE_LINES_MAX};
pub(crate) use self::record::Record;

use self::metrics::AccessMetrics;
use self::queue::{Inlet, queue};
use self::writer::Desk;

/// How long a stop waits for the last lines.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);

/// What is written down, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessLogSettings {
    /// Where lines go.
    pub to: AccessDestination,
    /// How they look.
    pub format: AccessFormat,
    /// Whether the queries of requests are written. They may hold what is secret.
    pub queries: bool,
}

/// Where lines of the access log go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AccessDestination {
    /// Standard output.
    Stdout,
    /// A file, to which lines are appended. When its name leads to another file, or none, that one
    /// is opened, or made.
    File(PathBuf),
    /// A datagram socket that takes syslog messages (RFC 5424).
    Syslog(PathBuf),
}

impl AccessDestination {
    /// The host's own syslog.
    pub fn syslog() -> Self {
        Self::Syslog(outlet::host_syslog())
    }
}

/// What `haflinger status` shows about the access log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AccessLogStatus {
    /// Where lines go; `None` while it is off.
    pub to: Option<String>,
    /// Lines written since the start.
    pub written: u64,
    /// Lines dropped since the start.
    pub dropped: u64,
    /// Why lines are being lost.
    pub fault: Option<String>,
}

/// The log, on or off.
#[derive(Debug)]
pub(crate) struct AccessLog {
    sink: ArcSwapOption<Sink>,
    metrics: AccessMetrics,
}

/// The log while it is on.
#[derive(Debug)]
pub(crate) struct Sink {
    settings: AccessLogSettings,
    inlet: Inlet,
    desk: Arc<Desk>,
}

impl Sink {
    /// Whether queries are written.
    pub(crate) fn queries(&self) -> bool {
        self.settings.queries
    }

    /// Writes a request down.
    pub(crate) fn put(&self, record: &Record<'_>) {
        self.inlet.put(line::line(&self.settings.format, record));
    }
}

impl AccessLog {
    /// A log that is off.
    pub(crate) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        Ok(Self { sink: ArcSwapOption::empty(), metrics: AccessMetrics::new(registry)? })
    }

    /// Switches over to other settings. What is in the former queue is written where it was
    /// meant to go.
    pub(crate) fn switch(&self, settings: Option<&AccessLogSettings>) {
        let now = self.sink.load();
        if now.as_ref().map(|sink| &sink.settings) == settings {
            return;
        }
        let sink = settings.and_then(|settings| match self.open(settings) {
            Ok(sink) => Some(Arc::new(sink)),
            Err(error) => {
                tracing::error!(%error, "no thread for the access log: it stays off");
                None
            }
        });
        self.sink.store(sink);
    }

    fn open(&self, settings: &AccessLogSettings) -> std::io::Result<Sink> {
        let (inlet, waiting) = queue(QUEUE_LINES_MAX, QUEUE_BYTES_MAX, self.metrics.clone());
        let desk = writer::start(settings.to.clone(), waiting, self.metrics.clone())?;
        Ok(Sink { settings: settings.clone(), inlet, desk })
    }

    /// The log, if it is on.
    pub(crate) fn sink(&self) -> Guard<Option<Arc<Sink>>> {
        self.sink.load()
    }

    /// Looks at once whether the file has been moved away.
    pub(crate) fn reopen(&self) {
        if let Some(sink) = &*self.sink.load() {
            sink.desk.reopen();
        }
    }

    /// Switches it off; resolves when the last lines are written, or could not be for too long.
    pub(crate) async fn close(&self) {
        let Some(sink) = self.sink.swap(None) else { return };
        let desk = sink.desk.clone();
        // The queue ends with its last sender.
        drop(sink);
        if tokio::time::timeout(FLUSH_TIMEOUT, desk.ended()).await.is_err() {
            tracing::warn!("the end of the access log was not written in time");
        }
    }

    pub(crate) fn status(&self) -> AccessLogStatus {
        let sink = self.sink.load();
        AccessLogStatus {
            to: sink.as_ref().map(|sink| sink.settings.to.to_string()),
            written: self.metrics.written_lines(),
            dropped: self.metrics.lost_lines(),
            fault: sink.as_ref().and_then(|sink| sink.desk.fault()),
        }
    }
}
