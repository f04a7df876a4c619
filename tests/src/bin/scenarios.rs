//! Runs the end-to-end scenarios on a lab and says `PASS`, `FAIL` or `SKIP` for every claim.
//!
//! `scenarios` runs all; `scenarios NAME…` those whose name begins so; `--list` names them.
#![expect(clippy::print_stdout, reason = "the verdicts are its output")]

#[path = "../../scenarios/mod.rs"]
mod scenarios;

use std::process::ExitCode;

fn main() -> ExitCode {
    scenarios::main()
}
