//! Runs the official Gateway API conformance suite on a lab: `make conformance`.
//!
//! `conformance` runs all of it, prints a table and writes the official report;
//! `conformance NAME…` runs those tests; `--subset` the ones of tests/conformance/subset.txt, with
//! nothing but a verdict for each. `--hold` brings a lab up and keeps it until it is interrupted,
//! `--held` runs in that lab, for looking into a failure.
#![expect(clippy::print_stdout, reason = "the verdicts are its output")]

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, ensure};
use clap::Parser;
use haflinger_tests::conformance::{
    Finished, Outcome, Output, Plan, Programs, REASONS, Report, SUITE, bring_up, folder,
    keep_evidence, run, subset,
};
use haflinger_tests::lab::{
    Lab, Namespace, Place, control_plane_binary, haflinger_binary, sweep, sweep_orphans,
    tools_are_installed,
};
use tokio::signal::unix::{SignalKind, signal};

/// The lab that `--hold` keeps.
const HELD: &str = "gateway";
/// A whole run in which most tests wait for what never comes.
const WHOLE_MAX: Duration = Duration::from_secs(3 * 3600);
/// The subset is a step of `make test`, and takes a minute or two.
const SUBSET_MAX: Duration = Duration::from_secs(300);
/// So long it waits for what takes a second, in seconds, so that a failure is told in time.
const SUBSET_PATIENCE_SECS: u32 = 30;
/// Lines of a failed test's output that are shown.
const SHOWN_LINES_MAX: usize = 12;

#[derive(Parser)]
struct Args {
    /// Names of the suite's tests, also several separated by commas; all of them when absent.
    names: Vec<String>,
    /// The core subset that `make test` runs.
    #[arg(long, conflicts_with = "names")]
    subset: bool,
    /// Keep a lab up until interrupted, and run nothing.
    #[arg(long)]
    hold: bool,
    /// Run in the lab that is held.
    #[arg(long)]
    held: bool,
    /// Seconds to wait for anything, where the suite would wait longer: for looking into failures.
    #[arg(long)]
    patience: Option<u32>,
}

#[tokio::main]
async fn main() -> ExitCode {
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(false).init();
    let args = Args::parse();
    let outcome = match args.subset {
        true => try_subset().await,
        false => try_chosen(&args).await,
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            println!("FAIL conformance: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Why it cannot be tried on this machine.
fn possible() -> Result<Programs> {
    ensure!(rustix::process::geteuid().is_root(), "needs root, for network namespaces");
    tools_are_installed()?;
    haflinger_binary()?;
    control_plane_binary()?;
    Programs::build()
}

async fn try_subset() -> Result<bool> {
    let names = subset()?;
    let programs = match possible() {
        Ok(programs) => programs,
        Err(error) => {
            let reason = one_line(&format!("{error:#}"));
            for name in names {
                println!("SKIP conformance/{name}: {reason}");
            }
            return Ok(true);
        }
    };
    let plan = Plan {
        only: names,
        report: None,
        limit: SUBSET_MAX,
        patience_secs: Some(SUBSET_PATIENCE_SECS),
    };
    let output = in_new_lab(&programs, &plan, |_| {}).await?;
    Ok(verdicts(&plan.only, &output) == 0)
}

async fn try_chosen(args: &Args) -> Result<bool> {
    let programs = possible()?;
    if args.hold {
        return hold(&programs).await;
    }
    let only: Vec<String> =
        args.names.iter().flat_map(|names| names.split(',')).map(str::to_owned).collect();
    let whole = only.is_empty();
    let report = folder().join("report.yaml");
    std::fs::create_dir_all(folder())?;
    let written = whole.then(|| report.clone());
    let plan = Plan { only, report: written, limit: WHOLE_MAX, patience_secs: args.patience };
    let output = match args.held {
        true => {
            let place = Place::of(HELD);
            let client = Namespace::existing(&place, "client");
            run(&place, &client, &programs, &plan, tell).await?
        }
        false => in_new_lab(&programs, &plan, tell).await?,
    };
    println!();
    let failed = failures(&output);
    if !whole {
        return Ok(verdicts(&plan.only, &output) == 0);
    }
    println!("{}", Report::read(&report)?.table());
    for line in output.printed(REASONS) {
        // Go says before it where it stands.
        println!("{}", line.split_once(": ").map_or(line.as_str(), |(_, said)| said));
    }
    println!("{failed} tests failed. The official report: {}", report.display());
    let ended = output.finished().iter().any(|test| test.name == SUITE);
    ensure!(ended, "the suite did not end; its log: {}", folder().join("suite.log").display());
    Ok(failed == 0)
}

async fn in_new_lab(
    programs: &Programs,
    plan: &Plan,
    told: impl FnMut(&Finished),
) -> Result<Output> {
    sweep_orphans();
    let id = format!("g{}", std::process::id());
    let lab = tokio::select! {
        lab = bring_up(&id, programs) => lab?,
        () = interrupted() => anyhow::bail!("interrupted"),
    };
    let output = tokio::select! {
        output = run(&lab.place, &lab.network.client, programs, plan, told) => output,
        () = interrupted() => Err(anyhow::anyhow!("interrupted")),
    };
    finish(lab).await?;
    output
}

async fn finish(lab: Lab) -> Result<()> {
    let kept = keep_evidence(&lab)?;
    println!("logs: {}", kept.display());
    lab.down().await
}

async fn hold(programs: &Programs) -> Result<bool> {
    sweep(&Place::of(HELD));
    let lab = tokio::select! {
        lab = bring_up(HELD, programs) => lab?,
        () = interrupted() => anyhow::bail!("interrupted"),
    };
    println!("The lab {HELD} is up: {}", lab.place.path("").display());
    interrupted().await;
    finish(lab).await?;
    Ok(true)
}

/// Says how a test of the suite ended, as it ends; nothing of those that were not asked for.
fn tell(finished: &Finished) {
    let Some(name) = suite_test(&finished.name) else { return };
    match finished.outcome {
        Outcome::Passed => println!("PASS {name} ({})", finished.took),
        Outcome::Failed => println!("FAIL {name} ({})", finished.took),
        Outcome::Skipped => {}
    }
}

/// The name of a test of the suite, and of tests/conformance's own; not of their parts.
fn suite_test(name: &str) -> Option<&str> {
    match name.strip_prefix(SUITE) {
        Some("") => None,
        Some(rest) => rest.strip_prefix('/').filter(|name| !name.contains('/')),
        None => Some(name).filter(|name| !name.contains('/')),
    }
}

/// Shows why each failed test failed, and answers how many there were. A set-up that failed is
/// one too.
fn failures(output: &Output) -> usize {
    let failed = |test: &&Finished| test.outcome == Outcome::Failed;
    let mut count = 0;
    for test in output.finished().iter().filter(failed) {
        let causes = output.causes(&test.name);
        let own = causes.iter().any(|(name, _)| *name == test.name);
        if suite_test(&test.name).is_none() && !(test.name == SUITE && own) {
            continue;
        }
        count += 1;
        println!("FAILED {}", test.name);
        for (name, lines) in causes {
            println!("  {name}");
            for line in &lines[lines.len().saturating_sub(SHOWN_LINES_MAX)..] {
                println!("  | {}", line.trim());
            }
        }
    }
    count
}

/// A line for each of the wanted tests; answers how many did not pass.
fn verdicts(wanted: &[String], output: &Output) -> usize {
    let ends: BTreeMap<&str, Outcome> = output
        .finished()
        .iter()
        .filter_map(|test| Some((suite_test(&test.name)?, test.outcome)))
        .collect();
    let mut bad = 0;
    for name in wanted {
        let reason = match ends.get(name.as_str()) {
            Some(Outcome::Passed) => {
                println!("PASS conformance/{name}");
                continue;
            }
            Some(Outcome::Failed) => reason(output, &format!("{SUITE}/{name}")),
            Some(Outcome::Skipped) => "the suite skipped it".to_owned(),
            None => format!("the suite did not come to it; {}", reason(output, SUITE)),
        };
        println!("FAIL conformance/{name}: {reason}");
        bad += 1;
    }
    bad
}

/// The first cause and what it says is wrong, in a line.
fn reason(output: &Output, test: &str) -> String {
    let causes = output.causes(test);
    let Some((name, lines)) = causes.first() else { return "it told no reason".to_owned() };
    let errors = lines.iter().position(|line| line.trim_start().starts_with("Error:"));
    let from = errors.unwrap_or(lines.len().saturating_sub(2));
    let until = lines.len().min(from + 3);
    one_line(&format!("{name}: {}", lines[from..until].join(" ")))
}

fn one_line(reason: &str) -> String {
    reason.split_whitespace().collect::<Vec<_>>().join(" ")
}

async fn interrupted() {
    let (Ok(mut terminations), Ok(mut interrupts)) =
        (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminations.recv() => {}
        _ = interrupts.recv() => {}
    }
}
