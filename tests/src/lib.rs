//! The laboratory, the scenarios, the conformance suite and the benchmarks.

pub mod conformance;
pub mod lab;
