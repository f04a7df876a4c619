//! Where XDP cannot be had, the relay serves, and the status says why.
//!
//! ```text
//!  client ── router ── edge1 ── b0 to b3
//!                      XDP switched off, or the interface taken by somebody's program
//! ```
//!
//! 1. With XDP switched off, services are relayed, the status says so, and no program is left.
//! 2. An interface that holds a program of somebody else is left alone: services are relayed, the
//!    status names the interface, and the program is still there.
//! 3. When the program has gone and the daemon is started anew, XDP carries them again.
//! 4. An interface that does not exist is named, and services are relayed.

use anyhow::{Context as _, Result, ensure};
use haflinger_tests::lab::{Kind, Line, Offer, PassingProgram, VipBlock, eventually};
use serde_json::Value;
use toml::Table;

use super::{Path, reaches};
use crate::scenarios::grounds::BACKENDS;
use crate::scenarios::runner::{Run, Scenario};
use crate::scenarios::sample::SOON;
use haflinger_tests::lab::topology::EDGES;

pub(super) const SCENARIO: Scenario<Line> = Scenario {
    name: "xdp-fallback",
    needs: (),
    claims: &[
        "with XDP switched off the relay serves visibly",
        "a foreign program is left alone and the relay serves visibly",
        "XDP carries again once the program has gone",
        "a missing interface is named and the relay serves",
    ],
    run: |run| Box::pin(claims(run)),
};

async fn claims(run: &mut Run<Line>) -> Result<()> {
    let nat = Offer::new("nat", VipBlock::Plain, 1, "nat").to(BACKENDS);
    run.lab.offer(std::slice::from_ref(&nat))?;
    let config = run.lab.edge.read()?;

    run.claim(1, async |line| {
        restarted(line, &changed(&config, "enabled", false.into())?).await?;
        gone(line).await?;
        served(line, &nat, Path::Relay).await?;
        says(line, "xdp_disabled").await
    })
    .await;
    run.claim(2, async |line| {
        line.edge.stop().await?;
        let foreign = PassingProgram::attach(line.edge.namespace(), "eth0")?;
        let before = attached(line)?;
        restarted(line, &config).await?;
        served(line, &nat, Path::Relay).await?;
        says(line, "eth0").await?;
        let after = attached(line)?;
        ensure!(before == after, "the program was replaced: {before}, now {after}");
        drop(foreign);
        Ok(())
    })
    .await;
    run.claim(3, async |line| {
        restarted(line, &config).await?;
        served(line, &nat, Path::Xdp).await
    })
    .await;
    run.claim(4, async |line| {
        let missing = toml::Value::Array(vec!["eth9".into()]);
        restarted(line, &changed(&config, "interfaces", missing)?).await?;
        gone(line).await?;
        served(line, &nat, Path::Relay).await?;
        says(line, "eth9").await
    })
    .await;
    restarted(&mut run.lab, &config).await
}

fn changed(config: &Table, key: &str, value: toml::Value) -> Result<Table> {
    let mut config = config.clone();
    let xdp = config.get_mut("xdp").and_then(toml::Value::as_table_mut).context("no [xdp]")?;
    xdp.insert(key.into(), value);
    Ok(config)
}

async fn restarted(line: &mut Line, config: &Table) -> Result<()> {
    line.edge.stop().await?;
    line.edge.write(config)?;
    line.edge.start().await
}

async fn served(line: &Line, nat: &Offer, path: Path) -> Result<()> {
    let (mode, peers) = match path {
        Path::Xdp => ("nat", EDGES[0].nat_addresses()),
        Path::Relay => ("proxy", EDGES[0].addresses()),
    };
    let shown = Offer { mode, ..nat.clone() };
    eventually(SOON, "the service's mode", async || super::as_offered(line, &[&shown])).await?;
    reaches(line, nat, &Kind::Connect, path, peers).await?;
    reaches(line, nat, &Kind::Datagram { length: 4 }, path, peers).await
}

/// Every service's status has a reason that holds `text`.
async fn says(line: &Line, text: &str) -> Result<()> {
    eventually(SOON, "the reason in the status", async || {
        let status = line.edge.status()?;
        let services = status["services"].as_array().context("no services in the status")?;
        for service in services {
            let said = service["mode_reason"].to_string();
            ensure!(said.contains(text), "{} says {said}", service["service"]);
        }
        Ok(())
    })
    .await
}

/// Waits until the program that an earlier daemon left is off the interface.
async fn gone(line: &Line) -> Result<()> {
    eventually(SOON, "the former program to be taken off", async || {
        let program = attached(line)?;
        ensure!(program.is_null(), "program {program} is attached");
        Ok(())
    })
    .await
}

/// Identifier of the XDP program on the host's interface.
fn attached(line: &Line) -> Result<Value> {
    let shown = line.edge.namespace().output("ip", &["-d", "-j", "link", "show", "eth0"])?;
    let links: Value = serde_json::from_str(&shown)?;
    Ok(links[0]["xdp"]["prog"]["id"].clone())
}
