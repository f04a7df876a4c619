//! `ONLY=l7`: what the layer-7 proxy costs, against HAProxy and nginx.
//!
//! ```text
//!  core 0: the proxy under test, one worker        core 1: clients and backend
//!                    clients ──> proxy ──> backend, all on loopback
//! ```
//!
//! All proxies do the same work in turns, several times over (rounds). How the rows are read stands
//! in tests/bench/README.md.

mod backend;
mod certificate;
mod idle;
mod load;
mod proxies;
mod routes;
mod websocket;

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::process::Bound;
use crate::report::{Better, Measure, Report, Stat};
use backend::Backend;
use load::{Load, Outcome};
use proxies::{Kind, Proxy, Setup};
use routes::Answer;

pub(crate) use idle::run as run_idle;
pub(crate) use proxies::{UNDER_TEST, under_test};

/// Times that each proxy does each work: odd, so that the median is a measured one.
const ROUNDS: usize = 5;

/// Routes of the large table.
const MANY_ROUTES: usize = 10_000;

/// Connections of small requests.
const CONNECTIONS: usize = 64;

/// Connections of large answers: enough to keep a proxy busy, few enough for its buffers.
const LARGE_CONNECTIONS: usize = 16;

/// Environment variable with the seconds of every round, for slow builds and noisy machines.
const ROUND_SECS: &str = "ROUND_SECS";

/// A proxy that uses less of its core than this was not what bounded the rate.
const SATURATED: f64 = 90.0;

/// One kind of work, each with its own proxies.
#[derive(Clone, Copy)]
pub(crate) struct Case {
    /// As in `l7/NAME`.
    name: &'static str,
    /// Sizes of the route table.
    routes: &'static [usize],
    load: Load,
    /// Of one round, unless `ROUND_SECS` says otherwise: as long as what begins and ends a round is
    /// short against it.
    round: Duration,
}

/// Requests on connections that stay.
pub(crate) const KEEPALIVE: Case = Case {
    name: "keepalive",
    routes: &[1, MANY_ROUTES],
    load: Load::Requests { tls: false, answer: Answer::Small, connections: CONNECTIONS },
    round: Duration::from_secs(2),
};

/// Answers of 256 KiB.
pub(crate) const LARGE: Case = Case {
    name: "large",
    routes: &[1],
    load: Load::Requests { tls: false, answer: Answer::Large, connections: LARGE_CONNECTIONS },
    round: Duration::from_secs(1),
};

/// A connection for each request.
pub(crate) const NEW_CONNECTIONS: Case = Case {
    name: "connections",
    routes: &[1, MANY_ROUTES],
    load: Load::Connections,
    round: Duration::from_secs(1),
};

/// As `KEEPALIVE`, with TLS: 64 handshakes at the beginning are part of a round.
pub(crate) const TLS: Case = Case {
    name: "tls",
    routes: &[1, MANY_ROUTES],
    load: Load::Requests { tls: true, answer: Answer::Small, connections: CONNECTIONS },
    round: Duration::from_secs(2),
};

/// Full handshakes.
pub(crate) const HANDSHAKES: Case = Case {
    name: "handshakes",
    routes: &[1],
    load: Load::Handshakes { resumed: false },
    round: Duration::from_secs(1),
};

/// Resumed handshakes.
pub(crate) const RESUMED: Case = Case {
    name: "resumed",
    routes: &[1],
    load: Load::Handshakes { resumed: true },
    round: Duration::from_secs(1),
};

/// HTTP/2 with 16 streams on each of 16 connections.
pub(crate) const H2: Case = Case {
    name: "h2",
    routes: &[1, MANY_ROUTES],
    load: Load::Streams,
    round: Duration::from_secs(1),
};

/// gRPC: HTTP/2 on both sides.
pub(crate) const GRPC: Case =
    Case { name: "grpc", routes: &[1], load: Load::Calls, round: Duration::from_secs(1) };

/// WebSockets.
pub(crate) const WEBSOCKET: Case =
    Case { name: "websocket", routes: &[1], load: Load::Messages, round: Duration::from_secs(1) };

/// Measures one case.
pub(crate) fn run(report: &mut Report, mut case: Case) -> Result<()> {
    case.round = asked_round()?.unwrap_or(case.round);
    if let Some(program) = case.load.program().filter(|program| !is_there(program)) {
        eprintln!("SKIPPED l7/{}: {program} is not installed", case.name);
        return Ok(());
    }
    let backend = Backend::start()?;
    let kinds = proxies::kinds()?;
    head(report, case.name, &kinds);
    let _bound = Bound::to_load()?;
    for &routes in case.routes {
        let grpc = matches!(case.load, Load::Calls);
        let setup = Setup {
            routes,
            resumption: !matches!(case.load, Load::Handshakes { resumed: false }),
            grpc,
            backend: if grpc { backend.grpc } else { backend.http },
        };
        let name = format!("l7/{}/{routes}", case.name);
        rounds(report, &name, case, start(&kinds, &setup, &name)?)?;
    }
    Ok(())
}

/// What the environment says of the length of rounds.
fn asked_round() -> Result<Option<Duration>> {
    let Ok(text) = std::env::var(ROUND_SECS) else { return Ok(None) };
    let secs = text.parse().with_context(|| format!("{ROUND_SECS} is {text:?}, not seconds"))?;
    Ok(Some(Duration::from_secs(secs)))
}

/// Who is compared.
fn head(report: &Report, name: &str, kinds: &[Kind]) {
    let versions: Vec<_> = kinds.iter().map(|kind| kind.version.as_str()).collect();
    report.heading(&format!("layer 7, {name}, one core, loopback: {}", versions.join("; ")));
}

/// Starts all of them; a peer that does not start is named and left out.
fn start(kinds: &[Kind], setup: &Setup, name: &str) -> Result<Vec<Proxy>> {
    let mut proxies = Vec::new();
    for kind in kinds {
        match kind.start(setup) {
            Ok(proxy) => proxies.push(proxy),
            Err(error) if proxies.is_empty() => return Err(error).with_context(|| name.to_owned()),
            Err(error) => eprintln!("SKIPPED a peer of {name}: {error:#}"),
        }
    }
    Ok(proxies)
}

/// All rounds of all proxies, and their rows.
fn rounds(report: &mut Report, name: &str, case: Case, proxies: Vec<Proxy>) -> Result<()> {
    let mut tested: Vec<_> = proxies.into_iter().map(|proxy| (proxy, Samples::default())).collect();
    // The first round warms caches and pools, and is not counted.
    for round in 0..=ROUNDS {
        let mut failed = Vec::new();
        for (at, (proxy, samples)) in tested.iter_mut().enumerate() {
            match samples.take(proxy, case.load, case.round, round > 0) {
                Ok(()) => {}
                Err(error) if at == 0 => return Err(error).with_context(|| name.to_owned()),
                Err(error) => {
                    eprintln!("SKIPPED a peer of {name}: {}: {error:#}", proxy.name());
                    failed.push(at);
                }
            }
        }
        for at in failed.into_iter().rev() {
            tested.remove(at);
        }
    }
    let seen = tested.into_iter().map(|(proxy, samples)| (proxy.name(), samples)).collect();
    add(report, name, case.load.unit(), seen)
}

/// What was seen of one proxy, by round.
#[derive(Default)]
struct Samples {
    rate: Vec<f64>,
    cpu: Vec<f64>,
    busy: Vec<f64>,
    p50: Vec<f64>,
    p99: Vec<f64>,
    p999: Vec<f64>,
}

impl Samples {
    fn take(&mut self, proxy: &Proxy, load: Load, duration: Duration, counted: bool) -> Result<()> {
        let (cpu, start) = (proxy.process().cpu_time()?, Instant::now());
        let Outcome { count, elapsed, latency } =
            load.carry_out(proxy, duration).with_context(|| format!("loading {}", proxy.name()))?;
        let whole = start.elapsed();
        let cpu = proxy.process().cpu_time()?.saturating_sub(cpu).as_secs_f64();
        if counted {
            self.rate.push(count as f64 / elapsed.as_secs_f64());
            self.cpu.push(cpu * 1e6 / count as f64);
            self.busy.push(cpu * 100.0 / whole.as_secs_f64());
            self.p50.push(latency.p50);
            self.p99.push(latency.p99);
            self.p999.push(latency.p999);
        }
        Ok(())
    }
}

/// Adds the rows of one case: Haflinger is the first.
fn add(
    report: &mut Report,
    name: &str,
    unit: &'static str,
    seen: Vec<(&'static str, Samples)>,
) -> Result<()> {
    let (rate, each) = units(unit);
    type Quantity = fn(&Samples) -> &Vec<f64>;
    let quantities: [(&str, &'static str, Better, Quantity); 6] = [
        ("rate", rate, Better::Higher, |samples| &samples.rate),
        ("cpu", each, Better::Lower, |samples| &samples.cpu),
        ("p50", "ms", Better::Lower, |samples| &samples.p50),
        ("p99", "ms", Better::Lower, |samples| &samples.p99),
        ("p999", "ms", Better::Lower, |samples| &samples.p999),
        ("busy", "% of a core", Better::Neither, |samples| &samples.busy),
    ];
    for (quantity, unit, better, of) in quantities {
        let mut stats = seen.iter().map(|(name, samples)| (*name, Stat::of(of(samples).clone())));
        let Some((_, haflinger)) = stats.next() else { bail!("nothing was measured") };
        let name = format!("{name}/{quantity}");
        report.add(Measure { name, unit, better, haflinger, peers: stats.collect() });
    }
    let busy = |samples: &Samples| Stat::of(samples.busy.clone()).median;
    let below: Vec<_> = seen
        .iter()
        .filter(|(_, samples)| busy(samples) < SATURATED)
        .map(|(proxy, samples)| format!("{proxy} ({:.0}%)", busy(samples)))
        .collect();
    if !below.is_empty() {
        let below = below.join(", ");
        println!(
            "  {below} did not fill its core: rate and latencies there are not the proxy's doing"
        );
    }
    Ok(())
}

fn units(unit: &str) -> (&'static str, &'static str) {
    match unit {
        "connection" => ("connections/s", "µs/connection"),
        "call" => ("calls/s", "µs/call"),
        "message" => ("messages/s", "µs/message"),
        _ => ("requests/s", "µs/request"),
    }
}

fn is_there(program: &str) -> bool {
    // What it answers says nothing: wrk ends with 1 when it tells its version.
    let mut command = Command::new(program);
    command.arg("--version").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok()
}
