//! Runs scenarios one after another, those of a kind on one lab, and says what became of every
//! claim.
//!
//! Invariant: every claim of every selected scenario gets exactly one line, whatever happens:
//! one that was not reached has failed, one that cannot be tried here is skipped by name.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::pin::Pin;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::Parser;
use haflinger_tests::lab::{
    Edge, Lab, Place, binaries, checkout, haflinger_binary, sweep_orphans, tail,
};
use tokio::signal::unix::{SignalKind, signal};

/// A claim that takes longer has failed: everything inside it waits for less.
const CLAIM_MAX: Duration = Duration::from_secs(120);
/// How much of a failure's reason fits on its line, in characters.
const REASON_MAX: usize = 600;

/// A scenario as its file declares it, on a lab of the kind `G`.
pub(crate) struct Scenario<G: Ground = Lab> {
    /// Short name, unique.
    pub(crate) name: &'static str,
    /// What the lab must have.
    pub(crate) needs: G::Needs,
    /// The claims, numbered from 1.
    pub(crate) claims: &'static [&'static str],
    /// Tries the claims in order.
    pub(crate) run: for<'a> fn(&'a mut Run<G>) -> Claims<'a>,
}

/// A scenario trying its claims.
pub(crate) type Claims<'a> = Pin<Box<dyn Future<Output = Result<()>> + 'a>>;

/// A kind of lab.
pub(crate) trait Ground: Sized + 'static {
    /// What scenarios may ask of it; those that ask for the same share one lab.
    type Needs: Copy + Eq;

    /// Why it cannot be had on this machine.
    fn possible(needs: Self::Needs) -> Result<()>;
    /// Brings it up under the name `id`.
    async fn bring_up(id: &str, needs: Self::Needs) -> Result<Self>;
    /// Waits until it is as a scenario should find it.
    async fn settle(&mut self) -> Result<()>;
    /// Its directories.
    fn place(&self) -> &Place;
    /// What may explain a failure, besides the logs: titles and texts.
    fn evidence(&self) -> Vec<(String, Result<String>)>;
    /// Ends it in order.
    async fn down(self) -> Result<()>;
}

/// A scenario under way.
pub(crate) struct Run<G: Ground = Lab> {
    /// The lab.
    pub(crate) lab: G,
    scenario: &'static Scenario<G>,
    verdicts: BTreeMap<usize, Verdict>,
}

enum Verdict {
    Passed,
    Failed(String),
    Skipped(String),
}

#[derive(Default)]
pub(crate) struct Totals {
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

impl<G: Ground> Run<G> {
    /// Tries claim number `number`. Later claims are tried whatever becomes of it.
    pub(crate) async fn claim(
        &mut self,
        number: usize,
        check: impl AsyncFnOnce(&mut G) -> Result<()>,
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

/// What the command line asks for.
pub(crate) struct Wishes(Args);

impl Wishes {
    /// Reads the command line.
    pub(crate) fn read() -> Self {
        Self(Args::parse())
    }

    /// Runs what is asked for of `all`, or lists it, adding to `totals`. Answers whether to go on.
    pub(crate) async fn follow<G: Ground>(
        &self,
        all: &'static [Scenario<G>],
        totals: &mut Totals,
    ) -> bool {
        let names = &self.0.names;
        let asked = |name: &str| names.is_empty() || names.iter().any(|n| name.starts_with(n));
        let chosen: Vec<_> = all.iter().filter(|scenario| asked(scenario.name)).collect();
        if self.0.list {
            for scenario in chosen {
                for (index, claim) in scenario.claims.iter().enumerate() {
                    println!("{}", title(scenario, index + 1, claim));
                }
            }
            return true;
        }
        run_all(&chosen, totals).await
    }

    /// Says how it went.
    pub(crate) fn end(&self, totals: &Totals) -> ExitCode {
        if !self.0.list {
            let Totals { passed, failed, skipped } = totals;
            println!("{passed} passed, {failed} failed, {skipped} skipped");
        }
        if totals.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}

async fn run_all<G: Ground>(chosen: &[&'static Scenario<G>], totals: &mut Totals) -> bool {
    let mut rest = chosen.to_vec();
    while let Some(needs) = rest.first().map(|scenario| scenario.needs) {
        let (group, others): (Vec<_>, Vec<_>) = rest.iter().partition(|s| s.needs == needs);
        rest = others;
        if let Err(reason) = possible::<G>(needs) {
            for scenario in group {
                refuse(scenario, &Verdict::Skipped(format!("{reason:#}")), totals);
            }
            continue;
        }
        tokio::select! {
            () = run_group(&group, needs, totals) => {}
            // The lab is dropped with the group, and with it all that it started.
            () = interrupted() => {
                println!("FAIL scenarios: interrupted");
                totals.failed += 1;
                return false;
            }
        }
    }
    true
}

/// Why the group cannot be tried on this machine.
fn possible<G: Ground>(needs: G::Needs) -> Result<()> {
    anyhow::ensure!(rustix::process::geteuid().is_root(), "needs root, for network namespaces");
    G::possible(needs)
}

async fn run_group<G: Ground>(
    group: &[&'static Scenario<G>],
    needs: G::Needs,
    totals: &mut Totals,
) {
    let mut lab = match bring_up::<G>(needs).await {
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
        let outcome = match run.lab.settle().await {
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

async fn bring_up<G: Ground>(needs: G::Needs) -> Result<G> {
    haflinger_binary()?;
    for sibling in ["echo", "client", "decapsulate", "flood"] {
        let path = binaries()?.join(sibling);
        anyhow::ensure!(path.exists(), "{} is missing: cargo build --workspace", path.display());
    }
    sweep_orphans();
    G::bring_up(&format!("t{}", std::process::id()), needs).await
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
fn refuse<G: Ground>(scenario: &Scenario<G>, verdict: &Verdict, totals: &mut Totals) {
    for number in 1..=scenario.claims.len() {
        say(scenario, number, verdict);
        totals.count(verdict);
    }
}

fn say<G: Ground>(scenario: &Scenario<G>, number: usize, verdict: &Verdict) {
    let claim = number.checked_sub(1).and_then(|index| scenario.claims.get(index));
    let title = title(scenario, number, claim.copied().unwrap_or("a claim without words"));
    match verdict {
        Verdict::Passed => println!("PASS {title}"),
        Verdict::Failed(reason) => println!("FAIL {title}: {}", one_line(reason)),
        Verdict::Skipped(reason) => println!("SKIP {title}: {}", one_line(reason)),
    }
}

/// Says what was measured on the way.
pub(crate) fn note(text: &str) {
    println!("note: {text}");
}

fn title<G: Ground>(scenario: &Scenario<G>, number: usize, claim: &str) -> String {
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
pub(crate) fn keep_evidence(lab: &impl Ground, name: &str, reason: &str) -> Result<PathBuf> {
    let directory = checkout().join("target/lab-logs");
    fs::create_dir_all(&directory)?;
    let mut text = format!("{reason}\n");
    let mut add = |title: &str, body: &str| text += &format!("\n==== {title}\n{body}\n");
    for (title, body) in lab.evidence() {
        add(&title, &body.unwrap_or_else(|error| format!("{error:#}")));
    }
    let mut logs: Vec<PathBuf> =
        fs::read_dir(lab.place().path("logs"))?.flatten().map(|entry| entry.path()).collect();
    logs.sort();
    for log in logs {
        add(&log.display().to_string(), &tail(&log));
    }
    let file = directory.join(format!("{name}.txt"));
    fs::write(&file, text)?;
    Ok(file)
}

/// What one Haflinger host can tell about a failure.
pub(crate) fn edge_evidence(edge: &Edge) -> Vec<(String, Result<String>)> {
    let status = edge.status().and_then(|status| Ok(serde_json::to_string_pretty(&status)?));
    let mut all = vec![(format!("{} status", edge.name()), status)];
    let commands: [&[&str]; 4] =
        [&["addr", "show"], &["-4", "route", "show"], &["-6", "route", "show"], &["-s", "link"]];
    for args in commands {
        let shown = edge.namespace().output("ip", args);
        all.push((format!("{} ip {}", edge.name(), args.join(" ")), shown));
    }
    all
}
