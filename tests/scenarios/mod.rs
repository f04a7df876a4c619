//! The scenarios, in the order in which they run, and what runs them.

mod runner;
mod sample;

mod bad_input;
mod hosts;
mod ingress;
mod inventory;
mod last_pod;
mod options;
mod outages;
mod record;
mod rollout;
mod service;

use std::process::ExitCode;

use runner::Scenario;

const ALL: &[Scenario] = &[
    service::SCENARIO,
    options::SCENARIO,
    ingress::SCENARIO,
    rollout::SCENARIO,
    last_pod::SCENARIO,
    record::SCENARIO,
    outages::SCENARIO,
    hosts::SCENARIO,
    bad_input::SCENARIO,
    inventory::SCENARIO,
];

/// Runs what the command line selects.
pub(crate) fn main() -> ExitCode {
    runner::main(ALL)
}
