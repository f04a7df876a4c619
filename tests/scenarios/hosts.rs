//! One of the two hosts stops, or dies.
//!
//! ```text
//!  client: new connections every few ms, ┐
//!          connections kept open         ┴─ router ══ edge1 (stops, dies), edge2 ── pods
//! ```
//!
//! 1. Stopping a host gracefully loses no new connection; its routes are withdrawn first.
//! 2. Its return loses none either, and both are next hops again.
//! 3. Killing a host loses only what went through it: connections by the other go on.
//! 4. New connections fail at most until the router's hold time is over, then none does.
//! 5. When it is back both are next hops again.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use haflinger_tests::lab::topology::EDGES;
use haflinger_tests::lab::{Client, HOLD_TIME_SECS, Lab, Plan, Report, Router, eventually, now_ms};

use super::grounds::Needs;
use super::runner::{Run, Scenario};
use super::sample::{SOON, Sample, established};

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

/// Exchanges that can be under way when next hops change: a few milliseconds' worth in each
/// family.
const UNDER_WAY_MAX: usize = 6;
/// What an exchange may take on a busy machine, in milliseconds.
const UNDER_WAY_MS_MAX: u64 = 1000;

async fn claims(run: &mut Run) -> Result<()> {
    let sample = Sample::deploy(&run.lab, "hosts", 3).await?;
    sample.settled(&run.lab).await?;
    let plan = Plan::connect(sample.targets(), 4);

    run.claim(1, async |lab| {
        let load = lab.clients.start("hosts-stop", &plan)?;
        let (stopped, switched_ms) =
            tokio::join!(lab.edges[0].stop(), left_alone(&lab.router, &sample));
        stopped?;
        sample.settled(lab).await?;
        no_new_one_lost(&load.stop().await?, switched_ms?)
    })
    .await;
    run.claim(2, async |lab| {
        let load = lab.clients.start("hosts-start", &plan)?;
        let (started, switched_ms) =
            tokio::join!(lab.edges[0].start(), joined(&lab.router, &sample));
        started?;
        sample.settled(lab).await?;
        tokio::time::sleep(Duration::from_secs(1)).await;
        no_new_one_lost(&load.stop().await?, switched_ms?)
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

/// When the router was seen to send to one host only.
async fn left_alone(router: &Router, sample: &Sample) -> Result<u64> {
    next_hops(router, sample, 1).await
}

/// When the router was seen to send to both hosts.
async fn joined(router: &Router, sample: &Sample) -> Result<u64> {
    next_hops(router, sample, 2).await
}

async fn next_hops(router: &Router, sample: &Sample, wanted: usize) -> Result<u64> {
    eventually(SOON, "the router's next hops to change", async || {
        for vip in sample.vips {
            let hops = router.kernel_next_hops(vip)?.len();
            ensure!(hops == wanted, "{vip} has {hops} next hops");
        }
        Ok(now_ms())
    })
    .await
}

/// When next hops change, the router sends some flows to the other host from one packet to the
/// next, and that host resets what it has never seen. So a connection that was under way at
/// that moment may be reset; none may be refused, run into the void, or be lost later.
fn no_new_one_lost(report: &Report, switched_ms: u64) -> Result<()> {
    ensure!(report.successes() > 100, "too little happened to mean anything: {report:?}");
    for failure in &report.failed_exchanges {
        let reset = failure.reason.contains("reset by peer");
        ensure!(reset && failure.began_ms <= switched_ms, "lost: {failure:?}, {switched_ms}");
        let took = failure.ended_ms.saturating_sub(failure.began_ms);
        ensure!(took <= UNDER_WAY_MS_MAX, "reset long after it began: {failure:?}");
    }
    ensure!(
        report.failed_exchanges.len() <= UNDER_WAY_MAX,
        "more were reset than can have been under way: {:?}",
        report.failed_exchanges
    );
    Ok(())
}

async fn finish(held: Client) -> Result<Report> {
    // Connections through the dead host are noticed by the client's own time limit.
    tokio::time::sleep(Duration::from_secs(2)).await;
    held.stop().await
}

fn only_its_own(report: &Report) -> Result<()> {
    let dead = EDGES[0].nat_addresses().map(|address| address.to_string());
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
    let ended = report.failed_exchanges.iter().map(|failure| failure.ended_ms);
    let first = ended.clone().min();
    let first = first.with_context(|| {
        format!("no connection failed, so the host that died carried none: {:?}", report.peers)
    })?;
    let last = ended.max().unwrap_or(first);
    ensure!(first >= killed_ms, "one failed before the host died: {:?}", report.failures);
    let took = last.saturating_sub(killed_ms);
    let allowed = hold_ms + timeout_ms + SLACK_MS;
    ensure!(took <= allowed, "failures went on for {took} ms, allowed are {allowed}");
    Ok(())
}
