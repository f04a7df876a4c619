//! `l7/idle`: what a connection costs that says nothing, and what many of them cost those that do.
//!
//! Every round starts every proxy anew, so that memory is that of a process which has held nothing
//! before.

use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::backend::Backend;
use super::load::{Idle, Load};
use super::proxies::{self, Kind, Setup};
use super::routes::Answer;
use super::{Samples, add, asked_round, head, is_there};
use crate::process::Bound;
use crate::report::{Better, Measure, Report, Stat};

/// Odd, so that the median is a measured one.
const ROUNDS: usize = 3;

/// Idle connections.
const IDLE: usize = 10_000;

/// Connections that go on asking beside them.
const BUSY: usize = 100;

/// Of the busy ones, in each round.
const BUSY_FOR: Duration = Duration::from_secs(2);

/// Until buffers are given back.
const SETTLING: Duration = Duration::from_millis(500);

/// Measures memory without TLS and with it, and the busy connections beside idle ones without it.
pub(crate) fn run(report: &mut Report) -> Result<()> {
    if let Err(error) = Idle::allow(IDLE) {
        eprintln!("SKIPPED l7/idle: {error:#}");
        return Ok(());
    }
    let backend = Backend::start()?;
    let kinds = proxies::kinds()?;
    head(report, "idle", &kinds);
    let _bound = Bound::to_load()?;
    let setup = Setup { routes: 1, resumption: true, grpc: false, backend: backend.http };
    let mut seen: Vec<_> = kinds.into_iter().map(|kind| (kind, Seen::default())).collect();
    let busy_for = asked_round()?.unwrap_or(BUSY_FOR);
    let busy = Some(busy_for).filter(|_| is_there("wrk"));
    if busy.is_none() {
        eprintln!("SKIPPED l7/idle/busy: wrk is not installed");
    }
    for _ in 0..ROUNDS {
        let mut left = Vec::new();
        for (at, (kind, mut of)) in seen.into_iter().enumerate() {
            match of.take(&kind, &setup, busy) {
                Ok(()) => left.push((kind, of)),
                Err(error) if at == 0 => return Err(error),
                Err(error) => eprintln!("SKIPPED a peer of l7/idle: {}: {error:#}", kind.name()),
            }
        }
        seen = left;
    }
    for (what, of) in
        [("plain", (|seen| &seen.plain) as fn(&Seen) -> &Vec<f64>), ("tls", |s| &s.tls)]
    {
        let mut stats = seen.iter().map(|(kind, seen)| (kind.name(), Stat::of(of(seen).clone())));
        let (_, haflinger) = stats.next().context("nothing was measured")?;
        report.add(Measure {
            name: format!("l7/idle/{what}/memory"),
            unit: "KiB/connection",
            better: Better::Lower,
            haflinger,
            peers: stats.collect(),
        });
    }
    if busy.is_some() {
        let seen = seen.into_iter().map(|(kind, seen)| (kind.name(), seen.busy)).collect();
        add(report, "l7/idle/busy", "request", seen)?;
    }
    Ok(())
}

/// What was seen of one proxy.
#[derive(Default)]
struct Seen {
    /// KiB for each connection, by round.
    plain: Vec<f64>,
    tls: Vec<f64>,
    busy: Samples,
}

impl Seen {
    /// One round, with busy connections for so long.
    fn take(&mut self, kind: &Kind, setup: &Setup, busy: Option<Duration>) -> Result<()> {
        for tls in [false, true] {
            let proxy = kind.start(setup)?;
            let before = proxy.process().own_memory()?;
            let idle = Idle::open(&proxy, tls, IDLE)
                .with_context(|| format!("opening {IDLE} connections to {}", proxy.name()))?;
            sleep(SETTLING);
            let more = proxy.process().own_memory()?.saturating_sub(before);
            let each = more as f64 / 1024.0 / IDLE as f64;
            if tls {
                self.tls.push(each)
            } else {
                self.plain.push(each)
            }
            if let Some(busy_for) = busy.filter(|_| !tls) {
                let answer = Answer::Small;
                let load = Load::Requests { tls, answer, connections: BUSY };
                self.busy.take(&proxy, load, busy_for, true)?;
            }
            let open = idle.still_open();
            ensure!(open == IDLE, "{} has closed {} idle connections", proxy.name(), IDLE - open);
        }
        Ok(())
    }
}
