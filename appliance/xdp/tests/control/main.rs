//! The data path as a whole, with real connections through namespaces. Needs root.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod changes;
mod lifecycle;
mod seeing;
mod support;
