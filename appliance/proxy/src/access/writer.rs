//! The thread that writes lines.
//!
//! ```text
//!  workers ──> queue ──> writer ──> file, standard output or syslog
//!  SIGHUP ───────────────┘ (the file's name is looked at)
//! ```

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use tokio_util::sync::CancellationToken;

use super::AccessDestination;
use super::metrics::{AccessMetrics, Lost};
use super::outlet::{LOOK_INTERVAL, Outlet, Written};
use super::queue::{Next, Waiting};

/// What the thread and the others share.
#[derive(Debug, Default)]
pub(super) struct Desk {
    reopen: AtomicBool,
    fault: Mutex<Option<String>>,
    ended: CancellationToken,
}

impl Desk {
    /// Asks for a look at the file's name.
    pub(super) fn reopen(&self) {
        self.reopen.store(true, Ordering::Relaxed);
    }

    /// Why lines are being lost.
    pub(super) fn fault(&self) -> Option<String> {
        // One assignment under the lock: nothing to spoil.
        self.fault.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_fault(&self, fault: Option<String>) {
        *self.fault.lock().unwrap_or_else(PoisonError::into_inner) = fault;
    }

    /// Resolves when everything has been written.
    pub(super) async fn ended(&self) {
        self.ended.cancelled().await;
    }
}

/// Starts a thread that writes until the other end of the queue is gone and the queue empty.
pub(super) fn start(
    to: AccessDestination,
    waiting: Waiting,
    metrics: AccessMetrics,
) -> io::Result<Arc<Desk>> {
    let desk = Arc::new(Desk::default());
    let shared = desk.clone();
    std::thread::Builder::new().name("access-log".into()).spawn(move || {
        let _ended = shared.ended.clone().drop_guard();
        let mut writer = Writer { outlet: Outlet::new(to), desk: shared, metrics };
        writer.run(&waiting);
    })?;
    Ok(desk)
}

struct Writer {
    outlet: Outlet,
    desk: Arc<Desk>,
    metrics: AccessMetrics,
}

impl Writer {
    fn run(&mut self, waiting: &Waiting) {
        let mut batch = Vec::new();
        loop {
            let next = waiting.take(LOOK_INTERVAL, &mut batch);
            let now = Instant::now();
            let asked = self.desk.reopen.swap(false, Ordering::Relaxed);
            self.outlet.follow(now, asked);
            match next {
                Next::Lines => self.write(&batch, now),
                Next::Nothing => {}
                Next::End => return,
            }
        }
    }

    fn write(&mut self, batch: &[Vec<u8>], now: Instant) {
        let Written { lines, fault } = self.outlet.write(batch, now);
        self.metrics.wrote(lines);
        self.metrics.lost(Lost::WriteFailed, batch.len() - lines);
        let before = self.desk.fault();
        match fault {
            None if before.is_some() => {
                tracing::info!("the access log is written again");
                self.desk.set_fault(None);
            }
            Some(fault) if before.is_none() => {
                tracing::warn!(error = %fault, "the access log cannot be written, lines are lost");
                self.desk.set_fault(Some(fault.to_string()));
            }
            // Said once.
            None | Some(_) => {}
        }
    }
}
