//! The laboratory, the scenarios and the benchmarks.
