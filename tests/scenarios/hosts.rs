//! One of the two hosts stops, or dies.
//!
//! ```text
//!  client: new connections every few ms, ┐
//!          connections kept open         ┴─ router ══ edge1 (stops, dies), edge2 ── pods
//! ```
//!
//! 1. Stopping a host gracefully loses no new connection; its routes are withdrawn.
//! 2. Its return loses none either, and both are next hops again.
//! 3. Killing a host loses only what went through it: connections by the other go on.
//! 4. New connections fail at most until the router's hold time is over, then none does.
//! 5. When it is back both are next hops again.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, ensure};
use haflinger_tests::lab::topology::EDGES;
use haflinger_tests::lab::{Client, HOLD_TIME_SECS, Lab, Plan, Report};

use super::runner::{Needs, Run, Scenario};
use super::sample::{Sample, established};

pub(crate) const SCENARIO: Scenario = Scenario {
    name: "hosts",
    needs: Needs::Cluster,
    claims: &[
        "stopping a host gracefully loses no new connection",
        "its return loses no new connection",
        "killing a host leaves connections by the other alone",
        "new connections fail no longer than the hold time",
        "a host that is back is a next hop again",
    ],
    run: |run| Box::pin(claims(run)),
};

/// Connections kept open: some go by each host.
const HELD: u64 = 24;
/// What a busy machine may add to the hold time, in milliseconds: the router notices a little
/// after it, and connections that began before fail by the client's own time limit.
const SLACK_MS: u64 = 3000;

async fn claims(run: &mut Run) -> Result<()> {
    let sample = Sample::deploy(&run.lab, "hosts", 3).await?;
    sample.settled(&run.lab).await?;
    let plan = Plan::connect(sample.targets(), 4);

    run.claim(1, async |lab| {
        let load = lab.clients.start("hosts-stop", &plan)?;
        lab.edges[0].stop().await?;
        sample.routed(lab, 1).await?;
        sample.settled(lab).await?;
        load.stop().await?.ensure_flawless()
    })
    .await;
    run.claim(2, async |lab| {
        let load = lab.clients.start("hosts-start", &plan)?;
        lab.edges[0].start().await?;
        sample.routed(lab, 2).await?;
        sample.settled(lab).await?;
        load.stop().await?.ensure_flawless()
    })
    .await;

    let short = Plan { timeout_ms: 2000, ..plan.clone() };
    let load = run.lab.clients.start("hosts-kill", &short)?;
    let held = run.lab.clients.start("hosts-held", &Plan::hold(sample.targets(), HELD))?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let killed_ms = now_ms();
    run.lab.edges[0].kill_host()?;
    sample.routed(&run.lab, 1).await?;
    // What began before the router knew ends by the client's time limit; then all must be well.
    tokio::time::sleep(Duration::from_millis(short.timeout_ms + 1000)).await;
    let after = tried_after(&run.lab, &sample).await;
    let (load, held) = (load.stop().await?, finish(held).await?);
    run.claim(3, async |_| only_its_own(&held)).await;
    run.claim(4, async |_| {
        after?;
        within_hold_time(&load, killed_ms, short.timeout_ms)
    })
    .await;
    run.claim(5, async |lab| {
        lab.edges[0].restore_host()?;
        lab.edges[0].start().await?;
        established(lab).await?;
        sample.routed(lab, 2).await?;
        sample.settled(lab).await
    })
    .await;
    sample.remove(&run.lab).await
}

async fn finish(held: Client) -> Result<Report> {
    // Connections through the dead host are noticed by the client's own time limit.
    tokio::time::sleep(Duration::from_secs(2)).await;
    held.stop().await
}

fn only_its_own(report: &Report) -> Result<()> {
    let dead = EDGES[0].addresses().map(|address| address.to_string());
    let (lost, kept): (Vec<_>, Vec<_>) =
        report.held.iter().partition(|held| dead.contains(&held.peer));
    ensure!(!lost.is_empty(), "no connection went through the host that died");
    ensure!(!kept.is_empty(), "no connection went through the other host");
    for connection in kept {
        ensure!(connection.failure.is_none(), "one through the other host: {connection:?}");
    }
    for connection in lost {
        ensure!(connection.failure.is_some(), "one through the dead host goes on: {connection:?}");
    }
    Ok(())
}

async fn tried_after(lab: &Lab, sample: &Sample) -> Result<()> {
    for vip in sample.vips {
        let report = lab.clients.tcp(vip, haflinger_tests::lab::echo_ports::LINE, 200).await?;
        report.ensure_flawless().context("after the hold time")?;
    }
    Ok(())
}

fn within_hold_time(report: &Report, killed_ms: u64, timeout_ms: u64) -> Result<()> {
    let hold_ms = u64::from(HOLD_TIME_SECS) * 1000;
    let (first, last) = report
        .failed_between_ms
        .context("no connection failed, so the host that died carried none")?;
    ensure!(first >= killed_ms, "one failed before the host died: {:?}", report.failures);
    let took = last.saturating_sub(killed_ms);
    let allowed = hold_ms + timeout_ms + SLACK_MS;
    ensure!(took <= allowed, "failures went on for {took} ms, allowed are {allowed}");
    Ok(())
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
