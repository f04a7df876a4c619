//! Lines on their way from the workers to the writer.
//!
//! A worker never waits: what finds the queue full is dropped and counted.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::time::Duration;

use super::metrics::{AccessMetrics, Lost};

/// Lines that wait at most: a third of a second of 50,000 requests a second, so that a disk may
/// falter for a moment.
pub const QUEUE_LINES_MAX: usize = 16_384;

/// Bytes that wait at most: lines four times as long as usual. It bounds what many requests with
/// long fields can take.
pub const QUEUE_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Bytes that are written at once, and lines: enough to make the cost of a write(2) small.
const BATCH_BYTES: usize = 64 * 1024;
const BATCH_LINES: usize = 512;

/// The end at which lines are put in.
#[derive(Debug)]
pub(super) struct Inlet {
    lines: SyncSender<Vec<u8>>,
    waiting_bytes: Arc<AtomicUsize>,
    bytes_max: usize,
    metrics: AccessMetrics,
}

/// The end at which they come out.
#[derive(Debug)]
pub(super) struct Waiting {
    lines: Receiver<Vec<u8>>,
    waiting_bytes: Arc<AtomicUsize>,
}

/// What came out.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Lines, at least one.
    Lines,
    /// Nothing within the patience.
    Nothing,
    /// Nothing, and nothing will come.
    End,
}

/// A queue with both ends.
pub(super) fn queue(
    lines_max: usize,
    bytes_max: usize,
    metrics: AccessMetrics,
) -> (Inlet, Waiting) {
    let (sender, receiver) = sync_channel(lines_max);
    let waiting_bytes = Arc::new(AtomicUsize::new(0));
    let inlet = Inlet { lines: sender, waiting_bytes: waiting_bytes.clone(), bytes_max, metrics };
    (inlet, Waiting { lines: receiver, waiting_bytes })
}

impl Inlet {
    /// Puts a line in, or counts it as lost.
    pub(super) fn put(&self, line: Vec<u8>) {
        let bytes = line.len();
        let before = self.waiting_bytes.fetch_add(bytes, Ordering::Relaxed);
        let sent = match before.saturating_add(bytes) <= self.bytes_max {
            true => self.lines.try_send(line),
            false => Err(TrySendError::Full(line)),
        };
        if let Err(refused) = sent {
            self.waiting_bytes.fetch_sub(bytes, Ordering::Relaxed);
            // Without a receiver the writer's thread is gone, which is a failed write.
            let why = match refused {
                TrySendError::Full(_) => Lost::QueueFull,
                TrySendError::Disconnected(_) => Lost::WriteFailed,
            };
            self.metrics.lost(why, 1);
        }
    }
}

impl Waiting {
    /// Takes out what is there, up to a batch; waits for the first line only.
    pub(super) fn take(&self, patience: Duration, batch: &mut Vec<Vec<u8>>) -> Next {
        batch.clear();
        let mut bytes = 0;
        let mut line = match self.lines.recv_timeout(patience) {
            Ok(line) => Some(line),
            Err(RecvTimeoutError::Timeout) => return Next::Nothing,
            Err(RecvTimeoutError::Disconnected) => return Next::End,
        };
        while let Some(taken) = line {
            bytes += taken.len();
            batch.push(taken);
            let full = bytes >= BATCH_BYTES || batch.len() >= BATCH_LINES;
            line = if full { None } else { self.lines.try_recv().ok() };
        }
        self.waiting_bytes.fetch_sub(bytes, Ordering::Relaxed);
        Next::Lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue_of(lines: usize, bytes: usize) -> (Inlet, Waiting, AccessMetrics) {
        let metrics = AccessMetrics::new(&prometheus::Registry::new()).unwrap();
        let (inlet, waiting) = queue(lines, bytes, metrics.clone());
        (inlet, waiting, metrics)
    }

    #[test]
    fn lines_come_out_in_order_and_then_the_end() {
        let (inlet, waiting, metrics) = queue_of(3, 100);
        let mut batch = Vec::new();
        assert_eq!(waiting.take(Duration::ZERO, &mut batch), Next::Nothing);
        inlet.put(b"one".to_vec());
        inlet.put(b"two".to_vec());
        assert_eq!(waiting.take(Duration::ZERO, &mut batch), Next::Lines);
        assert_eq!(batch, [b"one", b"two"]);
        inlet.put(b"three".to_vec());
        drop(inlet);
        assert_eq!(waiting.take(Duration::ZERO, &mut batch), Next::Lines);
        assert_eq!(batch, [b"three"]);
        assert_eq!(waiting.take(Duration::ZERO, &mut batch), Next::End);
        assert_eq!(metrics.lost_lines(), 0);
    }

    #[test]
    fn a_line_too_many_is_dropped_and_counted_and_there_is_room_again_afterwards() {
        let (inlet, waiting, metrics) = queue_of(2, 100);
        for _ in 0..5 {
            inlet.put(b"x".to_vec());
        }
        assert_eq!(metrics.lost_lines(), 3);
        waiting.take(Duration::ZERO, &mut Vec::new());
        inlet.put(b"x".to_vec());
        assert_eq!(metrics.lost_lines(), 3);
    }

    #[test]
    fn bytes_are_bounded_like_lines() {
        let (inlet, waiting, metrics) = queue_of(100, 10);
        for _ in 0..3 {
            inlet.put(vec![b'x'; 4]);
        }
        assert_eq!(metrics.lost_lines(), 1);
        inlet.put(vec![b'x'; 2]);
        assert_eq!(metrics.lost_lines(), 1, "what fits is let in");
        let mut batch = Vec::new();
        waiting.take(Duration::ZERO, &mut batch);
        assert_eq!(batch.len(), 3);
        inlet.put(vec![b'x'; 10]);
        assert_eq!(metrics.lost_lines(), 1);
    }
}
