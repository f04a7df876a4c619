//! The scenarios, in the order in which they run, and what runs them.

mod grounds;
mod runner;
mod sample;

mod bad_input;
mod contract;
mod deletions;
mod hosts;
mod ingress;
mod inventory;
mod last_pod;
mod options;
mod outages;
mod readiness;
mod record;
mod rollout;
mod service;
mod unreachable;
mod xdp;

use std::process::ExitCode;

use runner::{Scenario, Totals, Wishes};

const ALL: &[Scenario] = &[
    service::SCENARIO,
    options::SCENARIO,
    contract::SCENARIO,
    ingress::SCENARIO,
    rollout::SCENARIO,
    readiness::SCENARIO,
    last_pod::SCENARIO,
    unreachable::SCENARIO,
    record::SCENARIO,
    outages::SCENARIO,
    deletions::SCENARIO,
    hosts::SCENARIO,
    bad_input::SCENARIO,
    inventory::SCENARIO,
];

/// Runs what the command line selects.
pub(crate) fn main() -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            println!("FAIL scenarios: {error}");
            return ExitCode::FAILURE;
        }
    };
    let wishes = Wishes::read();
    let mut totals = Totals::default();
    runtime.block_on(async {
        wishes.follow(ALL, &mut totals).await && wishes.follow(xdp::ALL, &mut totals).await
    });
    wishes.end(&totals)
}
