//! Whether packets of this host reach pods and nodes' ports.
//!
//! ```text
//!  Snapshot::reach ─> ReachProber::run ──due──> task per probe (bounded, paced) ──> TCP connect
//!                         (one task) <─result──┘
//!                             └─> updates: Reach
//! ```
//!
//! A probe asks the network, not the program: that a connection is refused says as much as that it
//! is accepted. Every address is asked by itself. The pods of a node share a way, but not the
//! policies that may close it, and an address is asked only where something can stand in for it:
//! the ports of nodes bound their number.
//!
//! UDP has no answer of its own. Its address is asked over TCP at the same port number, where any
//! host says that it is closed; a policy that lets nothing but UDP through makes it look closed.
//!
//! Invariants: one probe of an address is in flight at most; what was decided last is what the
//! updates say last; a slow receiver delays no probe. What this never does: say anything for want
//! of descriptors, ports or memory on this host, or decide what stands in (the index does).

mod connect;
mod metrics;
mod prober;
mod schedule;

pub use prober::{ReachHandle, ReachProber, ReachStatus, UnreachedStatus};
