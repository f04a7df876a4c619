//! The daemon and its command line, which [`main`] runs.
//!
//! A library beside the binary for one reason: the benchmarks run the daemon as it is, in a
//! process of their own, and look on ([`observed`]). Nobody else calls it.

mod admin;
mod announce;
mod cli;
mod daemon;
mod demo;
mod fold;
mod logging;
mod manual;
pub mod observed;
mod pools;
mod problems;
mod reload;
mod seeing;
mod settings;
mod status;
mod supervisor;

/// The command line: what the binary does.
pub fn main() -> std::process::ExitCode {
    cli::run()
}
