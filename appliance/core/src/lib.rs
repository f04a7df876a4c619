//! The pure core: plain updates are folded into an [`index::Index`], which publishes immutable
//! [`Snapshot`]s with a generation number.
//!
//! Nothing in this crate reads a clock, opens a socket or a file, or draws a random number:
//! time and randomness are arguments. No Kubernetes type, no Pingora type and no BPF type is
//! named here.

pub mod flow;
pub mod forwarding;
pub mod health;
pub mod index;
pub mod model;

pub use model::*;
