//! `make test`: runs every step, counts what passed and failed, and ends with exactly one last
//! line, `N passed, N failed`.
//!
//! Invariant: a step that could not run is a failure or a named skip, never silence. A skipped
//! test is neither passed nor failed. The output of each step goes to `target/suite/STEP.log`;
//! the terminal shows one line a step and, where something failed, the end of its log.
//!
//! It uses nothing but the standard library: it must build, and tell, when all else is broken.

mod fuzz;
mod setup;
mod step;
mod steps;
mod tally;

use std::io::Write;
use std::process::ExitCode;
use std::time::Instant;

use step::Suite;
use tally::Tally;

/// A step: its name and what runs it.
type Step = (&'static str, fn(&Suite) -> Tally);

/// In the order of their cost, so that a slip is told soon.
const STEPS: &[Step] = &[
    ("setup", setup::packages),
    ("format", steps::format),
    ("lints", steps::lints),
    ("licences", steps::licences),
    ("build", steps::build),
    ("tests", steps::tests),
    ("kernel", steps::kernel),
    ("scenarios", steps::scenarios),
    ("conformance", steps::conformance),
    ("lab", steps::lab),
    ("quickstart", steps::quickstart),
    ("packages", steps::packages),
    ("fuzz", fuzz::run),
];

fn main() -> ExitCode {
    let only: Vec<String> = std::env::args().skip(1).collect();
    let names: Vec<&str> = STEPS.iter().map(|(name, _)| *name).collect();
    if let Some(unknown) = only.iter().find(|name| !names.contains(&name.as_str())) {
        say(&format!("there is no step {unknown:?}; the steps are {}", names.join(" ")));
        return ExitCode::from(2);
    }
    let suite = match Suite::find() {
        Ok(suite) => suite,
        Err(error) => {
            say(&format!("the suite cannot run: {error}"));
            return ExitCode::from(2);
        }
    };
    let mut total = Tally::default();
    for (name, run) in STEPS {
        if !only.is_empty() && !only.iter().any(|wanted| wanted == name) {
            continue;
        }
        let start = Instant::now();
        let tally = run(&suite);
        say(&format!("{name:<12} {tally}, {} s", start.elapsed().as_secs()));
        for failure in &tally.failures {
            say(&format!("  FAILED {failure}"));
        }
        total.add(tally);
    }
    summary(&total)
}

/// Skips and failures once more, then the one line that counts.
fn summary(total: &Tally) -> ExitCode {
    say("");
    for skip in &total.skipped {
        say(&format!("SKIPPED {skip}"));
    }
    if !total.skipped.is_empty() {
        say(&format!("{} skipped, each for the reason above", total.skipped.len()));
    }
    for failure in &total.failures {
        say(&format!("FAILED {failure}"));
    }
    say(&format!("{} passed, {} failed", total.passed, total.failures.len()));
    match total.failures.is_empty() && total.passed > 0 {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}

/// Writes a line to the standard output; a reader that has gone away is no failure of a test.
fn say(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}
