//! How discovery and report reach a Kubernetes API server.
//!
//! Purpose: one place that turns a kubeconfig into a client with finite timeouts, keeps its
//! credentials up to date, words its errors for an operator, and paces retries. Invariant: no
//! request of a client built here can wait for ever. It never reads or writes an object, and
//! nothing outside discovery and report may depend on it (ARCHITECTURE.md, "Fences").

mod access;
mod connection;
mod credentials;
mod gate;
mod pace;
mod plugin;
mod rights;

pub use access::{Access, ConnectError, RIGHTS_REMEDY, describe, explain};
pub use connection::{CredentialsBoard, CredentialsStatus, Forbidden, Keeper, Moved, Said};
pub use gate::{EDGE_READY, EDGE_READY_SELECTOR};
pub use pace::Pace;
pub use plugin::PluginError;
pub use rights::{Inspection, MissingRight, Place, Right};
