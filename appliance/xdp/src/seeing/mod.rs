//! What an operator asks of the data path: the flows that it holds, why a packet goes where it
//! goes, and the way of sampled packets through the program.
//!
//! Reads the mapped records and the maps only, and changes nothing but the filter of the trace. A
//! record is read while the program writes it, so it is copied and its state looked at before and
//! after. Work is bounded: one pass over the records, answers of a stated length.
//!
//! ```text
//!  flows ── records ───────────────────────────────────────────┐
//!  why ──── index ─ record; service ─ bucket ─ backend; refusal ├─ names from the snapshot
//!  trace ── filter in settings, events from the ring buffer ────┘
//! ```

mod ask;
mod choice;
mod flows;
mod reasons;
mod record;
mod select;
mod trace;
mod why;

use std::io;
use std::sync::Arc;

use thiserror::Error;

use crate::engine::{Engine, lock};
use crate::xdp::XdpHandle;

pub use ask::{AskError, Chosen, Endpoint, client, service_key};
pub use flows::{FLOWS_SHOWN_MAX, FlowQuery, Flows, Top};
pub use reasons::{REASONS, Reason, drops, reason};
pub use record::FlowView;
pub use trace::{
    EVENTS_PER_SEC_MAX, TRACE_COUNT_MAX, TRACE_ONE_IN_MAX, TRACE_SECS_MAX, TraceEnd, TraceQuery,
    Traced, TracedPacket,
};
pub use why::{Bucket, Clients, Hop, Limit, ModeView, NewFlow, Refusal, Table, Why};

/// Why a question has no answer.
#[derive(Debug, Error)]
pub enum SeeError {
    /// No program runs here.
    #[error("XDP forwards nothing on this host ({0}): the relay serves, see `haflinger status`")]
    NotRunning(Arc<str>),
    /// No such service.
    #[error("no service of {0} is served on this host: see `haflinger status` for those that are")]
    NoService(Chosen),
    /// A number lies outside of its bounds.
    #[error("{what}: {value} is not between 1 and {max}")]
    Bounds {
        /// Which.
        what: &'static str,
        /// What was asked for.
        value: u64,
        /// The largest that can be.
        max: u64,
    },
    /// One tracer at a time.
    #[error(
        "somebody traces already: one trace runs at a time, wait for its end ({} s at most)",
        TRACE_SECS_MAX
    )]
    Busy,
    /// The kernel did not answer.
    #[error("the kernel does not let the daemon read {what}: {source}")]
    Kernel {
        /// What.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
}

impl XdpHandle {
    fn engine(&self) -> Result<Arc<Engine>, SeeError> {
        let engine = lock(&self.shared.engine).clone();
        engine.ok_or_else(|| SeeError::NotRunning(self.absence()))
    }

    /// Why there is no program.
    fn absence(&self) -> Arc<str> {
        let fault = lock(&self.shared.fault).clone();
        fault.unwrap_or_else(|| match self.shared.settings.borrow().enabled {
            true => "it is being loaded".into(),
            false => "switched off".into(),
        })
    }

    /// Records of the opening region; the others are of the established one.
    fn opening_records(&self) -> u32 {
        self.shared.settings.borrow().capacities.opening_flows
    }
}
