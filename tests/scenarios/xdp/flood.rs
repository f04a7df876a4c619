//! A flood of opening packets beside live connections.
//!
//! ```text
//!  client: 1,000 connections, a line on each every second ┐
//!          new connections every 20 ms                    ├─ router ── edge1 (XDP) ── b0 to b3
//!          SYNs from 131,072 addresses, as fast as it can ┘
//! ```
//!
//! 1. None of the live connections breaks.
//! 2. The flood was one: it was carried by XDP as far as the host's bounds allow, and counted.
//! 3. When it is over, every new connection succeeds.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use haflinger_tests::lab::echo_ports::LINE;
use haflinger_tests::lab::{Line, Offer, Plan, VipBlock, binaries, eventually};
use serde_json::Value;

use super::{offer, reason};
use crate::scenarios::grounds::BACKENDS;
use crate::scenarios::runner::{Run, Scenario, note};
use crate::scenarios::sample::SOON;

pub(super) const SCENARIO: Scenario<Line> = Scenario {
    name: "xdp-flood",
    needs: (),
    claims: &[
        "no live connection breaks",
        "the flood met the bounds of the host",
        "every new connection succeeds afterwards",
    ],
    run: |run| Box::pin(claims(run)),
};

/// Connections that are held.
const HELD: u64 = 1000;
/// How long the flood goes on, in seconds.
const SECONDS: u64 = 5;
/// Its bound, whatever the machine can do.
const PACKETS_MAX: u64 = 5_000_000;
/// Fewer are no flood: more than twice as many as there is room for half-open flows.
const PACKETS_MIN: u64 = 10_000;
/// How long live connections go on being watched, so that what is evicted would be missed.
const AFTERWARDS: Duration = Duration::from_secs(4);

async fn claims(run: &mut Run<Line>) -> Result<()> {
    let nat = Offer::new("nat", VipBlock::Plain, 1, "nat").to(BACKENDS);
    let routed = Offer::new("routed", VipBlock::Plain, 2, "routed").to(BACKENDS);
    let services = [nat, routed];
    offer(&run.lab, &services).await?;
    let targets: Vec<SocketAddr> = services.iter().flat_map(|s| s.targets(LINE)).collect();

    let plan = Plan { interval_ms: 1000, timeout_ms: 30_000, ..Plan::hold(targets.clone(), HELD) };
    let held = run.lab.clients.start("flood-held", &plan)?;
    eventually(SOON, "the connections to be open", async || {
        let progress = held.progress()?;
        ensure!(progress.open == HELD, "{progress:?}");
        Ok(())
    })
    .await?;
    let plan = Plan { timeout_ms: 3000, ..Plan::connect(targets.clone(), 20) };
    let trickle = run.lab.clients.start("flood-trickle", &plan)?;
    let counted = Counted::now(&run.lab);
    let flood = flood(&run.lab, &targets).await;
    let trickle = trickle.stop().await?;
    tokio::time::sleep(AFTERWARDS).await;

    run.claim(1, async |_| {
        let report = held.stop().await?;
        report.ensure_flawless()?;
        let silent = report.held.iter().find(|held| held.lines < 3);
        ensure!(silent.is_none(), "a connection hardly spoke: {silent:?}");
        Ok(())
    })
    .await;
    run.claim(2, async |line| {
        let sent = flood?;
        ensure!(sent >= PACKETS_MIN, "only {sent} packets were sent");
        let now = Counted::now(line);
        let (opened, evicted) = (now.opened - counted.opened, now.evicted - counted.evicted);
        let refused = now.refused - counted.refused;
        let (good, bad) = (trickle.successes(), trickle.failed());
        note(&format!(
            "xdp-flood: {} SYNs a second; XDP opened {opened} flows, evicted {evicted} half-open \
             ones and refused {refused} packets; {good} of {} new connections succeeded meanwhile",
            sent / SECONDS,
            good + bad
        ));
        ensure!(evicted + refused > 0.0, "{opened} flows were opened without bound");
        ensure!(now.lost == counted.lost, "established flows were evicted: {}", now.lost);
        Ok(())
    })
    .await;
    run.claim(3, async |line| {
        eventually(SOON, "the half-open flows to be forgotten", async || {
            let plan = Plan::connect(targets.clone(), 2).times(200);
            line.clients.complete(&plan).await?.ensure_flawless()
        })
        .await
    })
    .await;
    Ok(())
}

/// What the host did with opening packets.
struct Counted {
    opened: f64,
    refused: f64,
    /// Half-open flows that made room.
    evicted: f64,
    /// Established ones that did.
    lost: f64,
}

impl Counted {
    fn now(line: &Line) -> Self {
        let count = |name| reason(line, name).unwrap_or(0.0);
        let event = |name: &str| {
            let labels = [&*format!("event=\"{name}\"")];
            line.edge.metric("haflinger_xdp_flow_events_total", &labels).unwrap_or(0.0)
        };
        let refused = ["flow_rate", "flows_full", "sources_exhausted"];
        Self {
            opened: count("forwarded_new"),
            refused: refused.into_iter().map(count).sum(),
            evicted: event("evicted_opening"),
            lost: event("evicted_established"),
        }
    }
}

/// Floods the first target; answers how many packets were sent.
async fn flood(line: &Line, targets: &[SocketAddr]) -> Result<u64> {
    let target = targets.first().context("no target")?;
    let mut command =
        line.network.client.command(&binaries()?.join("flood").display().to_string())?;
    command.args(["--target", &target.to_string(), "--seconds", &SECONDS.to_string()]);
    command.args(["--packets-max", &PACKETS_MAX.to_string()]);
    let output = tokio::process::Command::from(command).kill_on_drop(true).output().await?;
    if !output.status.success() {
        bail!("the flood failed: {}", String::from_utf8_lossy(&output.stderr));
    }
    let report: Value = serde_json::from_slice(&output.stdout)?;
    report["sent"].as_u64().with_context(|| format!("the flood says {report}"))
}
