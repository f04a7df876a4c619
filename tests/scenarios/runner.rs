//! Runs scenarios one after another on one lab, and says what became of every claim.
//!
//! Invariant: every claim of every selected scenario gets exactly one line, whatever happens:
//! one that was not reached has failed, one that cannot be tried here is skipped by name.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::pin::Pin;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::Parser;
use haflinger_tests::lab::{
    Lab, binaries, checkout, control_plane_binary, demo, haflinger_binary, sweep_orphans, tail,
    tools_are_installed,
};
use tokio::signal::unix::{SignalKind, signal};

/// A claim that takes longer has failed: everything inside it waits for less.
const CLAIM_MAX: Duration = Duration::from_secs(120);
/// How much of a failure's reason fits on its line, in characters.
const REASON_MAX: usize = 600;

/// A scenario as its file declares it.
pub(crate) struct Scenario {
    /// Short name, unique.
    pub(crate) name: &'static str,
    /// What the lab must have.
    pub(crate) needs: Needs,
    /// The claims, numbered from 1.
    pub(crate) claims: &'static [&'static str],
    /// Tries the claims in order.
    pub(crate) run: for<'a> fn(&'a mut Run) -> Claims<'a>,
}

/// A scenario trying its claims.
pub(crate) type Claims<'a> = Pin<Box<dyn Future<Output = Result<()>> + 'a>>;

/// What a scenario needs of the lab.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Needs {
    /// A control plane.
    Cluster,
    /// None, but an inventory file.
    Inventory,
}

/// A scenario under way.
pub(crate) struct Run {
    /// The lab.
    pub(crate) lab: Lab,
    scenario: &'static Scenario,
    verdicts: BTreeMap<usize, Verdict>,
}

enum Verdict {
    Passed,
    Failed(String),
    Skipped(String),
}

#[derive(Default)]
struct Totals {
    passed: usize,
    failed: usize,
    skipped: usize,
}

#[derive(Parser)]
struct Args {
    /// Scenarios to run, by the beginning of their names; all when absent.
    names: Vec<String>,
    /// Only lists scenarios and claims.
    #[arg(long)]
    list: bool,
}

impl Run {
    /// Tries claim number `number`. Later claims are tried whatever becomes of it.
    pub(crate) async fn claim(
        &mut self,
        number: usize,
        check: impl AsyncFnOnce(&mut Lab) -> Result<()>,
    ) {
        let outcome = tokio::time::timeout(CLAIM_MAX, check(&mut self.lab)).await;
        let verdict = match outcome {
            Ok(Ok(())) => Verdict::Passed,
            Ok(Err(error)) => self.failure(number, &format!("{error:#}")),
            Err(_) => self.failure(number, &format!("not decided within {CLAIM_MAX:?}")),
        };
        say(self.scenario, number, &verdict);
        self.verdicts.insert(number, verdict);
    }

    fn failure(&self, number: usize, reason: &str) -> Verdict {
        let name = format!("{}-{number}", self.scenario.name);
        match keep_evidence(&self.lab, &name, reason) {
            Ok(file) => Verdict::Failed(format!("{reason} (logs: {})", file.display())),
            Err(error) => Verdict::Failed(format!("{reason} (logs not kept: {error:#})")),
        }
    }

    /// Claims that were not tried have failed.
    fn settle(&mut self, why: &str) {
        for number in 1..=self.scenario.claims.len() {
            if !self.verdicts.contains_key(&number) {
                let verdict = self.failure(number, &format!("not reached: {why}"));
                say(self.scenario, number, &verdict);
                self.verdicts.insert(number, verdict);
            }
        }
    }
}

/// The program: selects, runs, counts.
pub(crate) fn main(all: &'static [Scenario]) -> ExitCode {
    let args = Args::parse();
    let chosen: Vec<&'static Scenario> = all
        .iter()
        .filter(|scenario| {
            args.names.is_empty() || args.names.iter().any(|name| scenario.name.starts_with(name))
        })
        .collect();
    if args.list {
        for scenario in chosen {
            for (index, claim) in scenario.claims.iter().enumerate() {
                println!("{}", title(scenario, index + 1, claim));
            }
        }
        return ExitCode::SUCCESS;
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            println!("FAIL scenarios: {error}");
            return ExitCode::FAILURE;
        }
    };
    let totals = runtime.block_on(run_all(&chosen));
    println!("{} passed, {} failed, {} skipped", totals.passed, totals.failed, totals.skipped);
    if totals.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

async fn run_all(chosen: &[&'static Scenario]) -> Totals {
    let mut totals = Totals::default();
    for needs in [Needs::Cluster, Needs::Inventory] {
        let group: Vec<_> = chosen.iter().copied().filter(|s| s.needs == needs).collect();
        if group.is_empty() {
            continue;
        }
        if let Err(reason) = possible(needs) {
            for scenario in group {
                refuse(scenario, &Verdict::Skipped(format!("{reason:#}")), &mut totals);
            }
            continue;
        }
        tokio::select! {
            () = run_group(&group, needs, &mut totals) => {}
            // The lab is dropped with the group, and with it all that it started.
            () = interrupted() => {
                println!("FAIL scenarios: interrupted");
                totals.failed += 1;
                return totals;
            }
        }
    }
    totals
}

/// Why the group cannot be tried on this machine.
fn possible(needs: Needs) -> Result<()> {
    anyhow::ensure!(rustix::process::geteuid().is_root(), "needs root, for network namespaces");
    tools_are_installed()?;
    if needs == Needs::Cluster {
        control_plane_binary()?;
    }
    Ok(())
}

async fn run_group(group: &[&'static Scenario], needs: Needs, totals: &mut Totals) {
    let mut lab = match bring_up(needs).await {
        Ok(lab) => lab,
        Err(error) => {
            for scenario in group {
                let verdict = Verdict::Failed(one_line(&format!("no lab: {error:#}")));
                refuse(scenario, &verdict, totals);
            }
            return;
        }
    };
    for scenario in group {
        let mut run = Run { lab, scenario, verdicts: BTreeMap::new() };
        let outcome = match run.baseline().await {
            Ok(()) => (scenario.run)(&mut run).await,
            Err(error) => Err(error.context("the lab is not as a scenario should find it")),
        };
        run.settle(&match outcome {
            Ok(()) => "the scenario does not try it".to_owned(),
            Err(error) => format!("{error:#}"),
        });
        for verdict in run.verdicts.values() {
            totals.count(verdict);
        }
        lab = run.lab;
    }
    if let Err(error) = lab.down().await {
        println!("FAIL scenarios: the lab did not go down: {error:#}");
        totals.failed += 1;
    }
}

async fn bring_up(needs: Needs) -> Result<Lab> {
    haflinger_binary()?;
    for sibling in ["echo", "client"] {
        let path = binaries()?.join(sibling);
        anyhow::ensure!(path.exists(), "{} is missing: cargo build --workspace", path.display());
    }
    sweep_orphans();
    let control_plane = match needs {
        Needs::Cluster => Some(control_plane_binary()?),
        Needs::Inventory => None,
    };
    let mut lab = Lab::up(&format!("t{}", std::process::id()), control_plane).await?;
    if needs == Needs::Inventory {
        demo::take_stock(&mut lab)?;
    }
    for edge in &mut lab.edges {
        if let Err(error) = edge.start().await {
            let kept = keep_evidence(&lab, "start", &format!("{error:#}"))?;
            return Err(error).with_context(|| format!("logs: {}", kept.display()));
        }
    }
    Ok(lab)
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

impl Totals {
    fn count(&mut self, verdict: &Verdict) {
        match verdict {
            Verdict::Passed => self.passed += 1,
            Verdict::Failed(_) => self.failed += 1,
            Verdict::Skipped(_) => self.skipped += 1,
        }
    }
}

/// Gives every claim of a scenario the same verdict.
fn refuse(scenario: &Scenario, verdict: &Verdict, totals: &mut Totals) {
    for number in 1..=scenario.claims.len() {
        say(scenario, number, verdict);
        totals.count(verdict);
    }
}

fn say(scenario: &Scenario, number: usize, verdict: &Verdict) {
    let claim = number.checked_sub(1).and_then(|index| scenario.claims.get(index));
    let title = title(scenario, number, claim.copied().unwrap_or("a claim without words"));
    match verdict {
        Verdict::Passed => println!("PASS {title}"),
        Verdict::Failed(reason) => println!("FAIL {title}: {}", one_line(reason)),
        Verdict::Skipped(reason) => println!("SKIP {title}: {}", one_line(reason)),
    }
}

fn title(scenario: &Scenario, number: usize, claim: &str) -> String {
    format!("{}/{number} {claim}", scenario.name)
}

fn one_line(reason: &str) -> String {
    let line = reason.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(REASON_MAX) {
        Some((cut, _)) => {
            // The end names the file with the rest.
            let end = line.rfind(" (logs: ").filter(|end| *end > cut);
            format!("{} …{}", &line[..cut], end.map_or("", |end| &line[end..]))
        }
        None => line,
    }
}

/// Writes what may explain a failure to target/lab-logs and answers where.
fn keep_evidence(lab: &Lab, name: &str, reason: &str) -> Result<PathBuf> {
    let directory = checkout().join("target/lab-logs");
    fs::create_dir_all(&directory)?;
    let mut text = format!("{reason}\n");
    let mut add = |title: &str, body: String| text += &format!("\n==== {title}\n{body}\n");
    let or_error = |result: Result<String>| result.unwrap_or_else(|error| format!("{error:#}"));
    for edge in &lab.edges {
        let status = edge.status().and_then(|status| Ok(serde_json::to_string_pretty(&status)?));
        add(&format!("{} status", edge.name()), or_error(status));
        for args in [["addr", "show", "lo"], ["-4", "route", "show"], ["-6", "route", "show"]] {
            let shown = edge.namespace().output("ip", &args);
            add(&format!("{} ip {}", edge.name(), args.join(" ")), or_error(shown));
        }
    }
    add("birdc show protocols", or_error(lab.router.query("show protocols all")));
    add("birdc show route", or_error(lab.router.query("show route all")));
    let mut logs: Vec<PathBuf> =
        fs::read_dir(lab.place.path("logs"))?.flatten().map(|entry| entry.path()).collect();
    logs.sort();
    for log in logs {
        add(&log.display().to_string(), tail(&log));
    }
    let file = directory.join(format!("{name}.txt"));
    fs::write(&file, text)?;
    Ok(file)
}
