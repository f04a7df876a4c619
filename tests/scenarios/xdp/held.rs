//! Ten thousand live connections, and all that may happen to the daemon and its services.
//!
//! ```text
//!  client: 10,000 connections, a line on each every three seconds ┐
//!          new connections every few ms                           ┴─ router ── edge1 ── b0 to b3,
//!          nat, routed and dsr over both families                                      then b4, b5
//! ```
//!
//! 1. Ten thousand connections are open at once, by XDP alone.
//! 2. Restarting the daemon breaks none, and no new one fails.
//! 3. Nor does killing it, and the time without a daemon.
//! 4. Nor does a change of weights; new connections follow the weights.
//! 5. Nor does the replacement of backends: connections to those that stay, and to those that are
//!    drained, live on; new ones reach the new backends alone.
//! 6. Nor does it when services move from XDP to the relay: only new connections go by the relay.
//! 7. Nor when they move back: connections by the relay live on beside those by XDP.
//! 8. When a drained backend ends, its own connections end, and no others.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use haflinger_tests::lab::echo_ports::LINE;
use haflinger_tests::lab::{Client, Line, Offer, Plan, Report, VipBlock, eventually};

use super::{Carried, Path, offer};
use crate::scenarios::grounds::BACKENDS;
use crate::scenarios::runner::{Run, Scenario};
use crate::scenarios::sample::SOON;

pub(super) const SCENARIO: Scenario<Line> = Scenario {
    name: "xdp-held",
    needs: (),
    claims: &[
        "ten thousand connections are open at once",
        "restarting the daemon breaks none of them",
        "killing the daemon breaks none of them",
        "a change of weights breaks none of them",
        "replacing backends breaks none of them",
        "moving services to the relay breaks none of them",
        "moving services back to XDP breaks none of them",
        "a backend that ends takes its own connections along and no others",
    ],
    run: |run| Box::pin(claims(run)),
};

/// Connections that are held.
const HELD: u64 = 10_000;
/// Time between two lines on a connection, in milliseconds.
const PAUSE_MS: u64 = 3000;
/// A line that takes longer has failed, in milliseconds: a busy machine is slow, but not that slow.
const LINE_MS_MAX: u64 = 20_000;
/// How long traffic goes on without a daemon: longer than the pause, so that every connection
/// speaks.
const WITHOUT_DAEMON: Duration = Duration::from_secs(5);
/// Connections by the relay that are held while services move back to XDP.
const RELAYED: u64 = 200;
/// Backends that take the place of the first two.
const REPLACEMENTS: [&str; 2] = ["b4", "b5"];

async fn claims(run: &mut Run<Line>) -> Result<()> {
    let mut services = Services::new();
    offer(&run.lab, &services.0).await?;
    let plan = Plan {
        interval_ms: PAUSE_MS,
        timeout_ms: LINE_MS_MAX,
        ..Plan::hold(services.targets(), HELD)
    };
    let before = Carried::now(&run.lab)?;
    let held = run.lab.clients.start("held", &plan)?;

    run.claim(1, async |line| {
        all_open(&held, HELD).await?;
        before.since(line, Path::Xdp, HELD).await
    })
    .await;
    run.claim(2, async |line| {
        let fresh = start_fresh(line, &services, "held-restart")?;
        line.edge.stop().await?;
        line.edge.start().await?;
        offered_again(line, &services).await?;
        fresh.stop().await?.ensure_flawless()?;
        all_live(&held, HELD).await
    })
    .await;
    run.claim(3, async |line| {
        let fresh = start_fresh(line, &services, "held-kill")?;
        line.edge.kill();
        tokio::time::sleep(WITHOUT_DAEMON).await;
        line.edge.start().await?;
        offered_again(line, &services).await?;
        fresh.stop().await?.ensure_flawless()?;
        all_live(&held, HELD).await
    })
    .await;
    run.claim(4, async |line| {
        change_weights(line, &mut services).await?;
        all_live(&held, HELD).await
    })
    .await;
    run.claim(5, async |line| {
        for (index, name) in REPLACEMENTS.iter().enumerate() {
            line.start_backend(name, index).await?;
        }
        replace_backends(line, &mut services).await?;
        all_live(&held, HELD).await
    })
    .await;
    run.claim(6, async |line| {
        services.each(|service| service.mode = "proxy");
        offer(line, &services.0).await?;
        only_by(line, &services, Path::Relay).await?;
        all_live(&held, HELD).await
    })
    .await;
    run.claim(7, async |line| {
        let plan = Plan { interval_ms: 500, ..Plan::hold(services.targets(), RELAYED) };
        let relayed = line.clients.start("held-relayed", &plan)?;
        all_open(&relayed, RELAYED).await?;
        services = services.clone().in_own_modes();
        offer(line, &services.0).await?;
        only_by(line, &services, Path::Xdp).await?;
        all_live(&relayed, RELAYED).await?;
        relayed.stop().await?.ensure_flawless()?;
        all_live(&held, HELD).await
    })
    .await;
    run.claim(8, async |line| {
        line.end_backend("b0")?;
        ends_with(held, "b0").await
    })
    .await;
    // Others find the backends that they expect.
    run.lab.start_backend("b0", 0).await?;
    Ok(())
}

/// The services, one for each mode.
#[derive(Clone)]
struct Services([Offer; 3]);

impl Services {
    fn new() -> Self {
        Self([
            Offer::new("nat", VipBlock::Plain, 1, "nat").to(BACKENDS),
            Offer::new("routed", VipBlock::Plain, 2, "routed").to(BACKENDS),
            Offer::new("dsr", VipBlock::Dsr, 1, "dsr").to(BACKENDS),
        ])
    }

    fn targets(&self) -> Vec<SocketAddr> {
        self.0.iter().flat_map(|service| service.targets(LINE)).collect()
    }

    fn each(&mut self, change: impl FnMut(&mut Offer)) {
        self.0.iter_mut().for_each(change);
    }

    fn in_own_modes(mut self) -> Self {
        for (service, mode) in self.0.iter_mut().zip(["nat", "routed", "dsr"]) {
            service.mode = mode;
        }
        self
    }
}

/// Waits until as many connections are open, of which none has failed.
async fn all_open(client: &Client, count: u64) -> Result<()> {
    eventually(SOON, "every connection to be open", async || {
        let progress = client.progress()?;
        ensure!(progress.open == count, "{progress:?}");
        Ok(())
    })
    .await
}

/// Waits until every connection has had time for a line, and fails when one has ended.
async fn all_live(client: &Client, count: u64) -> Result<()> {
    let before = client.progress()?;
    eventually(SOON, "every connection to speak", async || {
        let lines = client.progress()?.lines - before.lines;
        ensure!(lines >= count, "{lines} lines since, of {count} connections");
        Ok(())
    })
    .await?;
    let after = client.progress()?;
    ensure!(after.failures.is_empty() && after.open == count, "{after:?}");
    Ok(())
}

fn start_fresh(line: &Line, services: &Services, name: &str) -> Result<Client> {
    let plan = Plan { timeout_ms: LINE_MS_MAX, ..Plan::connect(services.targets(), 10) };
    line.clients.start(name, &plan)
}

/// As many new connections, spread over all services, that must all succeed.
async fn fresh(line: &Line, services: &Services, count: u64) -> Result<Report> {
    let report = line.clients.complete(&Plan::connect(services.targets(), 2).times(count)).await?;
    report.ensure_flawless()?;
    Ok(report)
}

/// The daemon that was started anew has the services that the former one had.
async fn offered_again(line: &Line, services: &Services) -> Result<()> {
    offer(line, &services.0).await?;
    fresh(line, services, 60).await.map(drop)
}

async fn change_weights(line: &Line, services: &mut Services) -> Result<()> {
    services.each(|service| {
        service.backends.insert("b0".into(), 10);
    });
    offer(line, &services.0).await?;
    eventually(SOON, "new connections to follow the weights", async || {
        follows_weights(&fresh(line, services, 400).await?)
    })
    .await
}

fn follows_weights(report: &Report) -> Result<()> {
    let reached = |name: &str| report.pods.get(name).copied().unwrap_or_default();
    let few = reached("b0");
    for name in &BACKENDS[1..] {
        // Expected is a tenth.
        ensure!(few * 3 < reached(name), "reached: {:?}", report.pods);
    }
    Ok(())
}

/// Takes the first backend out of service gently and the second one out of the inventory, as
/// pods go that terminate and that are gone, and puts two others in their places.
async fn replace_backends(line: &Line, services: &mut Services) -> Result<()> {
    services.each(|service| {
        service.backends.insert("b0".into(), 0);
        service.backends.remove("b1");
        for name in REPLACEMENTS {
            service.backends.insert(name.into(), 100);
        }
    });
    offer(line, &services.0).await?;
    let wanted: BTreeSet<&str> = ["b2", "b3", "b4", "b5"].into();
    eventually(SOON, "new connections to reach the new backends alone", async || {
        let report = fresh(line, services, 200).await?;
        let reached: BTreeSet<&str> = report.pods.keys().map(String::as_str).collect();
        ensure!(reached == wanted, "reached {reached:?}");
        Ok(())
    })
    .await
}

/// New connections are carried by `path` alone.
async fn only_by(line: &Line, services: &Services, path: Path) -> Result<()> {
    eventually(SOON, "new connections to go the other way", async || {
        let before = Carried::now(line)?;
        fresh(line, services, 60).await?;
        before.is_by(line, path, 60)
    })
    .await
}

async fn ends_with(held: Client, gone: &str) -> Result<()> {
    let failing = eventually(SOON, "the connections to the backend to end", async || {
        let progress = held.progress()?;
        let failed: u64 = progress.failures.values().sum();
        ensure!(failed > 0 && failed + progress.open == HELD, "{progress:?}");
        ensure!(failed >= HELD / 20, "{progress:?}");
        Ok(())
    });
    failing.await?;
    let report = held.stop().await?;
    for connection in &report.held {
        let ended = connection.failure.is_some();
        ensure!(!ended || connection.pod == gone, "it should live: {connection:?}");
    }
    let others = report.held.iter().filter(|held| held.pod != gone);
    let silent = others.clone().find(|held| held.lines < 2);
    ensure!(silent.is_none(), "it has not spoken: {silent:?}");
    others.map(|held| held.pod.as_str()).find(|pod| *pod == "b1").context("none was to b1")?;
    Ok(())
}
