//! `ONLY=relay`: what the user-space relay costs, against HAProxy in TCP mode with splicing.
//!
//! ```text
//!  core 0: the proxy under test, one worker        core 1: clients and backend
//!                    clients ──> proxy ──> backend, all on loopback
//! ```
//!
//! Both proxies do the same work in turns, several times over. Processor time is the proxy's
//! own, user and system, as the kernel accounts it; it is the steadier measure where machines
//! are shared. Elapsed time contains clients and backend, which are the same for both.

mod load;
mod proxies;

use std::time::Instant;

use anyhow::{Result, ensure};

use crate::report::{Better, Measure, Report, Stat};
use load::{Load, Work};
use proxies::Proxy;

pub(crate) use proxies::{UNDER_TEST, under_test};

/// Times that each proxy does each work: odd, so that the median is a measured one.
const ROUNDS: usize = 5;

struct Case {
    name: &'static str,
    work: Work,
    /// How many units of the work make one of the report's.
    scale: f64,
    unit: &'static str,
}

const CASES: [Case; 4] = [
    Case {
        name: "connections",
        work: Work::Connections { count: 3000, at_once: 16 },
        scale: 3000.0,
        unit: "µs/connection",
    },
    Case {
        name: "exchanges",
        work: Work::Exchanges { count: 40_000, connections: 64 },
        scale: 40_000.0,
        unit: "µs/exchange",
    },
    Case {
        name: "download",
        work: Work::Download { mebibytes: 1024, streams: 4 },
        scale: 1024.0,
        unit: "µs/MiB",
    },
    Case {
        name: "upload",
        work: Work::Upload { mebibytes: 1024, streams: 4 },
        scale: 1024.0,
        unit: "µs/MiB",
    },
];

/// Runs all cases.
pub(crate) fn run(report: &mut Report) -> Result<()> {
    let load = Load::start()?;
    let haflinger = Proxy::haflinger(load.backend())?;
    let haproxy = Proxy::haproxy(load.backend())?;
    report.heading("user-space relay, one core, loopback: against HAProxy in TCP mode");
    if haproxy.is_none() {
        eprintln!("SKIPPED the comparison of the relay: haproxy is not installed");
    }
    for case in CASES {
        let mut ours = Samples::default();
        let mut theirs = Samples::default();
        // The first round warms caches and pools, and is not counted.
        for round in 0..=ROUNDS {
            let counted = round > 0;
            ours.take(&load, &haflinger, &case, counted)?;
            if let Some(haproxy) = &haproxy {
                theirs.take(&load, haproxy, &case, counted)?;
            }
        }
        let mut add = |quantity: &str, ours: Vec<f64>, theirs: Vec<f64>| {
            let peers = match theirs.is_empty() {
                true => Vec::new(),
                false => vec![("haproxy", Stat::of(theirs))],
            };
            report.add(Measure {
                name: format!("relay/{}/{quantity}", case.name),
                unit: case.unit,
                better: Better::Lower,
                haflinger: Stat::of(ours),
                peers,
            });
        };
        add("cpu", ours.cpu, theirs.cpu);
        add("time", ours.elapsed, theirs.elapsed);
    }
    Ok(())
}

/// Microseconds for one unit of work, by round.
#[derive(Default)]
struct Samples {
    cpu: Vec<f64>,
    elapsed: Vec<f64>,
}

impl Samples {
    fn take(&mut self, load: &Load, proxy: &Proxy, case: &Case, counted: bool) -> Result<()> {
        let (cpu, start) = (proxy.cpu_time()?, Instant::now());
        let failures = load.carry_out(case.work, proxy.address())?;
        let (cpu, elapsed) = (proxy.cpu_time()? - cpu, start.elapsed());
        ensure!(failures == 0, "{failures} failures in case {} of {}", case.name, proxy.name());
        if counted {
            self.cpu.push(cpu.as_secs_f64() * 1e6 / case.scale);
            self.elapsed.push(elapsed.as_secs_f64() * 1e6 / case.scale);
        }
        Ok(())
    }
}
