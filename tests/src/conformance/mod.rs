//! The official Gateway API conformance suite, run unmodified against a lab.
//!
//! ```text
//!  client (the suite runs here) ── router ══ edge1, edge2 ── pods: echo-basic, CoreDNS
//!                                    └────── control (Kubernetes API with Gateway API)
//! ```
//!
//! Invariant: a test that was asked for and of which the suite tells nothing has failed.

mod output;
mod programs;
mod report;

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use toml::Value;

use crate::lab::{
    ControlPlane, GATEWAY_CLASS, Lab, Namespace, Place, Process, checkout, control_plane_binary,
    install_gateway_api,
};

pub use output::{Finished, Outcome, Output};
pub use programs::Programs;
pub use report::Report;

/// The test of tests/conformance that runs the suite; its subtests are the suite's tests.
pub const SUITE: &str = "TestConformance";
/// The one that says why a feature is not tried.
pub const REASONS: &str = "TestReasons";
/// How often the suite's output is looked at.
const POLL: Duration = Duration::from_millis(100);
/// Addresses for Gateways besides the lab's pool, which has fewer than the suite has Gateways.
const MORE_ADDRESSES: [&str; 2] = ["10.52.0.0/25", "fd00:52::/121"];
/// An address that a Gateway may ask for: of the pool `sites`, so nobody gets it by chance.
const USABLE: &str = "10.51.0.9";
/// One that no pool holds (RFC 5737).
const UNUSABLE: &str = "192.0.2.77";
/// What the suite waits for, by the names of its timeouts.
const WAITS: &[&str] = &[
    "DefaultTestTimeout",
    "GWCMustBeAccepted",
    "GatewayListenersMustHaveConditions",
    "GatewayMustHaveAddress",
    "GatewayMustHaveCondition",
    "GatewayStatusMustHaveListeners",
    "HTTPRouteMustHaveCondition",
    "HTTPRouteMustNotHaveParents",
    "LatestObservedGenerationSet",
    "ListenerSetListenersMustHaveConditions",
    "ListenerSetMustHaveCondition",
    "MaxTimeToConsistency",
    "NamespacesMustBeReady",
    "RouteMustHaveParents",
    "TCPRouteMustHaveCondition",
    "TLSRouteMustHaveCondition",
    "UDPRouteMustHaveCondition",
];

/// What is run, and how.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Names of the suite's tests; all, and those of tests/conformance itself, when empty.
    pub only: Vec<String>,
    /// Where the official report goes. It tells of what was run, so only a whole run is one.
    pub report: Option<PathBuf>,
    /// How long it may take altogether.
    pub limit: Duration,
    /// How long it waits for a condition, an address or an answer, in seconds; as long as the
    /// suite itself finds right when absent.
    pub patience_secs: Option<u32>,
}

/// Where results, logs and built programs go.
pub fn folder() -> PathBuf {
    checkout().join("target/conformance")
}

/// A lab with Gateway API, and programs for the suite's images, both hosts running.
pub async fn bring_up(id: &str, programs: &Programs) -> Result<Lab> {
    let control_plane = control_plane_binary()?;
    let mut lab = Lab::with_images(id, Some(control_plane), programs.images()).await?;
    install_gateway_api(&lab.cluster()?.api).await?;
    for edge in &mut lab.edges {
        let mut config = edge.read()?;
        widen(&mut config).context("the lab's configuration has no pool")?;
        edge.write(&config)?;
        edge.start().await?;
    }
    Ok(lab)
}

/// Gives the first pool more addresses.
fn widen(config: &mut toml::Table) -> Option<()> {
    let pool = config.get_mut("pool")?.as_array_mut()?.first_mut()?;
    let addresses = pool.get_mut("addresses")?.as_array_mut()?;
    addresses.extend(MORE_ADDRESSES.map(|network| Value::String(network.to_owned())));
    Some(())
}

/// Runs the suite in a lab's client namespace; `told` hears of each test as it ends.
pub async fn run(
    place: &Place,
    client: &Namespace,
    programs: &Programs,
    plan: &Plan,
    mut told: impl FnMut(&Finished),
) -> Result<Output> {
    let mut command = client.command(&programs.suite.display().to_string())?;
    command.env("KUBECONFIG", ControlPlane::admin_kubeconfig(place)).args(arguments(plan));
    // One log a run, where several are made in one lab.
    let name = format!("suite-{}", std::process::id());
    let _ = fs::remove_file(place.log(&name));
    let mut process = Process::spawn(place, &name, command)?;
    let mut log = BufReader::new(File::open(process.log())?);
    let end = Instant::now() + plan.limit;
    let mut output = Output::default();
    let mut line = Vec::new();
    loop {
        // Before the look at the log, so that nothing it printed is missed.
        let over = !process.is_running();
        while log.read_until(b'\n', &mut line)? > 0 {
            if line.last() != Some(&b'\n') && !over {
                // The rest of it comes later.
                break;
            }
            let text = String::from_utf8_lossy(&line);
            if let Some(finished) = output.take(text.trim_end_matches('\n')) {
                told(finished);
            }
            line.clear();
        }
        if over {
            break;
        }
        if Instant::now() > end {
            process.kill();
            break;
        }
        tokio::time::sleep(POLL).await;
    }
    fs::create_dir_all(folder())?;
    fs::copy(process.log(), folder().join("suite.log")).context("keep the suite's log")?;
    Ok(output)
}

fn arguments(plan: &Plan) -> Vec<String> {
    let mut arguments = vec![
        "-test.v=test2json".to_owned(),
        format!("-gateway-class={GATEWAY_CLASS}"),
        format!("-version=v{}", env!("CARGO_PKG_VERSION")),
        format!("-usable-address={USABLE}"),
        format!("-unusable-address={UNUSABLE}"),
        // The next run in the same lab finds them ready; a lab takes them along.
        "-cleanup-base-resources=false".to_owned(),
    ];
    if !plan.only.is_empty() {
        arguments.push(format!("-test.run=^{SUITE}$"));
        arguments.push(format!("-only={}", plan.only.join(",")));
    }
    if let Some(report) = &plan.report {
        arguments.push(format!("-report-output={}", report.display()));
    }
    if let Some(secs) = plan.patience_secs {
        let pairs: Vec<String> = WAITS.iter().map(|name| format!("{name}:{secs}")).collect();
        arguments.push(format!("-timeout-config-overrides={}", pairs.join(";")));
    }
    arguments
}

/// The tests of the core subset: one name a line of tests/conformance/subset.txt.
pub fn subset() -> Result<Vec<String>> {
    let path = checkout().join("tests/conformance/subset.txt");
    let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    let names: Vec<String> = named(&text);
    if names.is_empty() {
        bail!("{} names no test", path.display());
    }
    Ok(names)
}

fn named(text: &str) -> Vec<String> {
    let lines = text.lines().map(|line| line.split('#').next().unwrap_or_default().trim());
    lines.filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

/// Keeps what the lab's processes have logged, and what both hosts say of themselves.
pub fn keep_evidence(lab: &Lab) -> Result<PathBuf> {
    let kept = folder().join("logs");
    let _ = fs::remove_dir_all(&kept);
    fs::create_dir_all(&kept)?;
    for entry in fs::read_dir(lab.place.path("logs"))? {
        let path = entry?.path();
        copy(&path, &kept)?;
    }
    for edge in &lab.edges {
        let text = match edge.status() {
            Ok(status) => serde_json::to_string_pretty(&status)?,
            Err(error) => format!("{error:#}"),
        };
        fs::write(kept.join(format!("{}-status.json", edge.name())), text)?;
    }
    Ok(kept)
}

fn copy(path: &Path, folder: &Path) -> Result<()> {
    let name = path.file_name().context("a log without a name")?;
    fs::copy(path, folder.join(name)).with_context(|| format!("keep {}", path.display()))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_stands_on_each_line_that_is_no_comment() {
        assert_eq!(named("# core\nA\n\n  B # why\n"), ["A", "B"]);
    }

    #[test]
    fn the_subset_names_tests_once_each() {
        let mut names = subset().expect("a subset");
        let all = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), all);
    }

    #[test]
    fn the_first_pool_is_widened() {
        let mut config =
            "[[pool]]\nname = \"main\"\naddresses = [\"10.50.0.1\"]\n".parse().expect("TOML");
        widen(&mut config).expect("a pool");
        assert_eq!(config["pool"][0]["addresses"].as_array().map(Vec::len), Some(3));
    }
}
