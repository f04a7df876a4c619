//! What is counted about the access log.

use prometheus::{IntCounter, IntCounterVec, Opts, Registry};

/// Why a line was not written.
#[derive(Clone, Copy, Debug)]
pub(super) enum Lost {
    /// The queue was full.
    QueueFull,
    /// The destination did not take it.
    WriteFailed,
}

/// Counts of lines.
#[derive(Clone, Debug)]
pub(crate) struct AccessMetrics {
    written: IntCounter,
    queue_full: IntCounter,
    write_failed: IntCounter,
}

impl AccessMetrics {
    /// Registers everything.
    pub(crate) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let written = IntCounter::new(
            "haflinger_proxy_access_log_lines_total",
            "Lines of the access log that were written.",
        )?;
        let help = "Lines of the access log that were dropped: the queue was full (queue_full), or \
                    the destination did not take them (write_failed).";
        let lost = Opts::new("haflinger_proxy_access_log_dropped_total", help);
        let lost = IntCounterVec::new(lost, &["reason"])?;
        registry.register(Box::new(written.clone()))?;
        registry.register(Box::new(lost.clone()))?;
        let [queue_full, write_failed] =
            ["queue_full", "write_failed"].map(|reason| lost.with_label_values(&[reason]));
        Ok(Self { written, queue_full, write_failed })
    }

    pub(super) fn wrote(&self, lines: usize) {
        self.written.inc_by(lines as u64);
    }

    pub(super) fn lost(&self, why: Lost, lines: usize) {
        let counter = match why {
            Lost::QueueFull => &self.queue_full,
            Lost::WriteFailed => &self.write_failed,
        };
        counter.inc_by(lines as u64);
    }

    /// Lines written so far.
    pub(super) fn written_lines(&self) -> u64 {
        self.written.get()
    }

    /// Lines dropped so far.
    pub(super) fn lost_lines(&self) -> u64 {
        self.queue_full.get() + self.write_failed.get()
    }
}
