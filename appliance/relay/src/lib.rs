//! The user-space layer 4 path: TCP and UDP from VIP to pod, two sockets a flow.
//!
//! ```text
//!  snapshots ─> Relay::run ──┬─ picture of a service (ArcSwap) ─┐
//!   (one task: diff, grace   │                                  v
//!    periods, start, stop)   ├─ listener task per TCP service ─accept─> task per connection
//!  updates <─ sockets that   └─ listener task per UDP service ─first datagram─> task per flow
//!   cannot be opened
//! ```
//!
//! Served are the services whose mode is `proxy`. One that changes to another mode is another
//! data path's: here its socket closes, and its flows go on until they end.
//!
//! Invariants: a service that did not change keeps its socket and its flows; a change of
//! backends swaps one pointer and touches no socket; a flow, once begun, stays with its backend;
//! no new flow takes a service or a backend beyond its limit.
//! What this never does: wait for another room, or hold up one service for another.
//!
//! Every task runs on the tokio runtime that [`Relay::run`] is polled on, which must be
//! multi-threaded with I/O and time enabled; connections spread over its workers.
//!
//! PROXY protocol headers are sent for TCP only: the specification leaves open which datagrams
//! of a UDP flow would carry one.

mod affinity;
mod candidates;
mod connect;
mod error;
mod faults;
mod intake;
mod limit;
mod metrics;
mod pipes;
pub mod proxy_protocol;
mod pump;
mod relay;
mod selection;
mod service;
mod settings;
mod shared;
mod socket;
mod status;
mod tcp;
mod udp;

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

pub use error::Error;
pub use metrics::{BACKEND_SERIES_MAX, SERVICE_SERIES_MAX};
pub use relay::{Relay, RelayHandle};
pub use settings::Settings;
pub use status::{BackendStatus, RelayStatus, ServiceStatus};

use shared::Shared;
