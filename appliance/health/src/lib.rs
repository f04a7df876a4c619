//! Probes: sockets that feed the core's rise and fall machine.
//!
//! ```text
//!  snapshots ─> Prober::run ──due──> task per probe in flight (bounded) ──> backend's address
//!                (one task) <─result─┘                                  └─> VIP, by tunnel (dsr)
//!                    └─> updates: Health
//! ```
//!
//! Invariants: one probe per backend and check is in flight at most; what was decided last for
//! a probe is what the updates say last; a slow receiver of updates never delays a probe. What
//! this never does: decide by itself ([`haflinger_core::health`] does), or blame a backend for
//! what this host lacks (descriptors, memory, ports).
//!
//! Beside them, in a loop of the same make, the probes of [`ReachProber`] ask whether packets of this host
//! reach pods at all.

mod check;
mod follow;
mod metrics;
mod prober;
mod reach;
mod schedule;
mod settings;
mod status;
mod tunnel;

#[cfg(test)]
mod tests;

pub use prober::{Prober, ProberHandle};
pub use reach::{ReachHandle, ReachProber, ReachStatus, UnreachedStatus};
pub use settings::{Error, Settings};
pub use status::{HealthStatus, ProbeStatus};
