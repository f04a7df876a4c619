//! The laboratory, the scenarios and the benchmarks.

pub mod lab;
