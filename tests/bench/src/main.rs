//! The benchmarks: each measures Haflinger and its peers in the same run, prints a table with
//! ratios, and `target/bench.json` keeps the numbers of the last run.
//!
//! ```text
//! cargo run --release -p haflinger-bench -- [ONLY]
//! ```

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "the terminal is where it reports")]

mod instructions;
mod l4;
mod l7;
mod process;
mod random;
mod relay;
mod report;
mod scale;
mod snapshot;
mod table;

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use report::Report;

/// The daemon's own allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A name and what measures it.
type Benchmark = (&'static str, fn(&mut Report) -> Result<()>);

/// All benchmarks, in the order in which they run.
const BENCHMARKS: &[Benchmark] = &[
    ("table", table::run),
    ("table-instructions", instructions::run),
    ("relay", relay::run),
    ("l7/keepalive", |report| l7::run(report, l7::KEEPALIVE)),
    ("l7/large", |report| l7::run(report, l7::LARGE)),
    ("l7/connections", |report| l7::run(report, l7::NEW_CONNECTIONS)),
    ("l7/tls", |report| l7::run(report, l7::TLS)),
    ("l7/handshakes", |report| l7::run(report, l7::HANDSHAKES)),
    ("l7/resumed", |report| l7::run(report, l7::RESUMED)),
    ("l7/h2", |report| l7::run(report, l7::H2)),
    ("l7/grpc", |report| l7::run(report, l7::GRPC)),
    ("l7/websocket", |report| l7::run(report, l7::WEBSOCKET)),
    ("l7/idle", l7::run_idle),
    ("l4/program", l4::program::run),
    ("l4/paths", l4::paths::run),
    ("scale/10", |report| scale::run(report, 10)),
    ("scale/1000", |report| scale::run(report, 1_000)),
    ("scale/50000", |report| scale::run(report, 50_000)),
];

fn main() -> Result<ExitCode> {
    let mut arguments = std::env::args().skip(1);
    let only = arguments.next().filter(|only| !only.is_empty());
    if only.as_deref() == Some(instructions::COUNTED) {
        return instructions::counted(arguments).map(|()| ExitCode::SUCCESS);
    }
    if only.as_deref() == Some(relay::UNDER_TEST) {
        return relay::under_test(arguments).map(|()| ExitCode::SUCCESS);
    }
    if only.as_deref() == Some(l4::datapath::UNDER_TEST) {
        return l4::datapath::under_test(arguments).map(|()| ExitCode::SUCCESS);
    }
    if only.as_deref() == Some(l7::UNDER_TEST) {
        return l7::under_test(arguments).map(|()| ExitCode::SUCCESS);
    }
    if only.as_deref() == Some(scale::UNDER_TEST) {
        return scale::under_test(arguments).map(|()| ExitCode::SUCCESS);
    }
    // `l4` stands for all that begin with `l4/`, `l7` likewise, `scale` for all sizes.
    let wanted = |name: &str| {
        let rest = only.as_deref().map_or(Some(""), |only| name.strip_prefix(only));
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/') || only.is_none())
    };
    let chosen: Vec<_> = BENCHMARKS.iter().filter(|(name, _)| wanted(name)).collect();
    if chosen.is_empty() {
        let names: Vec<_> = BENCHMARKS.iter().map(|(name, _)| *name).collect();
        bail!("no such benchmark, choose one of {}", names.join(", "));
    }
    let mut report = Report::default();
    // One that fails takes nothing from what the others have measured.
    let mut failed = Vec::new();
    for (name, run) in chosen {
        if let Err(error) = run(&mut report) {
            eprintln!("FAILED {name}: {error:#}");
            failed.push(*name);
        }
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/bench.json");
    report.write(&path).with_context(|| format!("writing {}", path.display()))?;
    if failed.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    eprintln!("FAILED: {}", failed.join(", "));
    Ok(ExitCode::FAILURE)
}
