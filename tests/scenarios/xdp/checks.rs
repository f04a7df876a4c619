//! Checks of `dsr` backends go the way of their packets.
//!
//! ```text
//!  client ── router ── edge1 (XDP) ══ IP-in-IP ══> b0 to b3, each with the VIP on its loopback
//!                        ^                            │
//!                        └──── answers to probes, from the VIP
//! ```
//!
//! 1. Every backend is found healthy through its VIP, over both families.
//! 2. One that loses the VIP is taken out, although it serves at its own address: new connections
//!    all reach another. Its other VIP goes on.
//! 3. With the VIP it comes back.
//! 4. In another mode the same backends are asked at their own addresses.
//! 5. The way out, which has no room for the outer header, is named with the MTU that it takes.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, ensure};
use haflinger_tests::lab::echo_ports::LINE;
use haflinger_tests::lab::{Kind, Line, Offer, VipBlock, eventually};
use serde_json::Value;

use super::{EXCHANGES, exchange, offer};
use crate::scenarios::grounds::BACKENDS;
use crate::scenarios::runner::{Run, Scenario};
use crate::scenarios::sample::{SOON, same_pods};

pub(super) const SCENARIO: Scenario<Line> = Scenario {
    name: "xdp-checks",
    needs: (),
    claims: &[
        "dsr backends are checked through the VIP",
        "a backend that loses the VIP is taken out",
        "it comes back with the VIP",
        "in nat they are checked at their own addresses",
        "a way without room for the outer header is named",
    ],
    run: |run| Box::pin(claims(run)),
};

/// The one that loses a VIP.
const LOSER: &str = "b1";

async fn claims(run: &mut Run<Line>) -> Result<()> {
    let dsr = Offer::new("dsr", VipBlock::Dsr, 1, "dsr").to(BACKENDS);
    let nat = Offer { mode: "nat", ..dsr.clone() };
    offer(&run.lab, std::slice::from_ref(&dsr)).await?;
    let [vip, _] = dsr.vips;

    run.claim(1, async |line| {
        eventually(SOON, "all to be healthy", async || healthy_through(line, &dsr)).await
    })
    .await;
    run.claim(2, async |line| {
        line.backend(LOSER)?.ip(&format!("addr del {vip}/32 dev lo\n"))?;
        eventually(SOON, "it to be taken out", async || is_out(line, &dsr)).await?;
        let others = BACKENDS.iter().filter(|name| **name != LOSER);
        let others: BTreeSet<String> = others.map(|name| (*name).to_owned()).collect();
        let all: BTreeSet<String> = BACKENDS.iter().map(|name| (*name).to_owned()).collect();
        for (target, wanted) in dsr.targets(LINE).into_iter().zip([others, all]) {
            let report = exchange(line, &Kind::Connect, target, EXCHANGES).await?;
            report.ensure_flawless().with_context(|| target.to_string())?;
            same_pods(&report, &wanted)?;
        }
        Ok(())
    })
    .await;
    run.claim(3, async |line| {
        line.backend(LOSER)?.ip(&format!("addr add {vip}/32 dev lo\n"))?;
        eventually(SOON, "it to be back", async || healthy_through(line, &dsr)).await?;
        offer(line, std::slice::from_ref(&dsr)).await
    })
    .await;
    run.claim(4, async |line| {
        offer(line, &[nat]).await?;
        eventually(SOON, "nothing to go through a VIP", async || {
            let probes = probes(line)?;
            ensure!(!probes.is_empty(), "no probes");
            ensure!(probes.iter().all(|probe| through(probe).is_empty()), "{probes:?}");
            Ok(())
        })
        .await
    })
    .await;
    run.claim(5, async |line| {
        offer(line, std::slice::from_ref(&dsr)).await?;
        eventually(SOON, "the way to be named", async || {
            let status = line.edge.status()?;
            let narrow = status["xdp"]["narrow_exits"].as_array().context("no exits")?;
            let figures = narrow.iter().map(|exit| (&exit["interface"], &exit["header"]));
            let figures: Vec<String> = figures.map(|(at, bytes)| format!("{at} {bytes}")).collect();
            ensure!(figures == ["\"eth0\" 40", "\"eth0\" 20"], "{narrow:?}");
            let text = narrow[1]["text"].as_str().unwrap_or_default();
            ensure!(text.contains("to 1520"), "{text}");
            Ok(())
        })
        .await
    })
    .await;
    Ok(())
}

fn probes(line: &Line) -> Result<Vec<Value>> {
    let status = line.edge.status()?;
    Ok(status["health"]["probes"].as_array().context("no probes in the status")?.clone())
}

/// The VIPs through which a backend is asked.
fn through(probe: &Value) -> Vec<&str> {
    let ways = probe["through"].as_array().map_or(&[][..], Vec::as_slice);
    ways.iter().filter_map(Value::as_str).collect()
}

/// Fails unless every backend is healthy through the VIP of its family.
fn healthy_through(line: &Line, offer: &Offer) -> Result<()> {
    let probes = probes(line)?;
    for vip in offer.vips.map(|vip| vip.to_string()) {
        let of_vip: Vec<_> = probes.iter().filter(|probe| through(probe) == [&*vip]).collect();
        // Several ports of each backend are probed apart.
        ensure!(of_vip.len() >= BACKENDS.len(), "{} through {vip}: {probes:?}", of_vip.len());
        let sick = of_vip.iter().find(|probe| probe["health"] != "healthy");
        ensure!(sick.is_none(), "through {vip}: {sick:?}");
    }
    Ok(())
}

/// Fails unless the loser is down on the first VIP, alone, because its check failed.
fn is_out(line: &Line, offer: &Offer) -> Result<()> {
    let status = line.edge.status()?;
    let services = status["services"].as_array().context("no services in the status")?;
    for service in services {
        let backends = service["backends"].as_array().map_or(&[][..], Vec::as_slice);
        let on_first = service["service"]["vip"] == offer.vips[0].to_string();
        for backend in backends {
            let wanted = if on_first && backend["name"] == LOSER { "down" } else { "active" };
            ensure!(backend["state"] == wanted, "{}: {backend}", service["service"]);
            let failed = backend["reasons"].as_array().is_some_and(|all| !all.is_empty());
            ensure!(failed == (wanted == "down"), "{backend}");
        }
    }
    Ok(())
}
