//! The scenarios, in the order in which they run, and what runs them.

mod runner;
mod sample;

mod service;

use std::process::ExitCode;

use runner::Scenario;

const ALL: &[Scenario] = &[service::SCENARIO];

/// Runs what the command line selects.
pub(crate) fn main() -> ExitCode {
    runner::main(ALL)
}
