//! Without any cluster: services from an inventory file.
//!
//! ```text
//!  client ── router ══ edge1, edge2 (one inventory file) ── node1, node2 ── four backends
//! ```
//!
//! 1. Both hosts announce the VIPs that the file names, and BIND answers with them.
//! 2. The client reaches every backend, over TCP and UDP, IPv4 and IPv6.
//! 3. It reaches them by HTTPS through the site.
//! 4. A backend that is taken out of the file is not reached any more, and nothing is lost.
//! 5. A file with a mistake is refused with its place; what was served goes on.

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, SocketAddr};

use anyhow::{Context as _, Result, ensure};
use haflinger_tests::lab::echo_ports::LINE;
use haflinger_tests::lab::topology::SHARED_HTTP;
use haflinger_tests::lab::{Kind, Lab, Plan, demo, eventually};

use super::grounds::Needs;
use super::runner::{Run, Scenario};
use super::sample::{SOON, routed, same_pods};

pub(crate) const SCENARIO: Scenario = Scenario {
    name: "inventory",
    needs: Needs::Inventory,
    claims: &[
        "both hosts announce the VIPs and BIND answers with them",
        "every backend is reached over TCP and UDP, IPv4 and IPv6",
        "every backend is reached by HTTPS",
        "a backend taken out is not reached and nothing is lost",
        "a file with a mistake is refused and the former goes on",
    ],
    run: |run| Box::pin(claims(run)),
};

async fn claims(run: &mut Run) -> Result<()> {
    let vips: [IpAddr; 2] = [demo::INVENTORY_VIP.parse()?, demo::INVENTORY_VIP_V6.parse()?];
    let everyone: BTreeSet<String> = (0..4).map(|pod| format!("{}-{pod}", demo::NAME)).collect();
    run.claim(1, async |lab| {
        for (kind, vip) in ["A", "AAAA"].iter().zip(vips) {
            routed(lab, vip, 2).await?;
            eventually(SOON, "the record", async || {
                let answers = lab.nameserver.answers(demo::SERVICE_HOST, kind)?;
                ensure!(answers == [vip.to_string()], "{kind}: {answers:?}");
                Ok(())
            })
            .await?;
        }
        Ok(())
    })
    .await;
    run.claim(2, async |lab| {
        for vip in vips {
            reaches(lab, vip, &everyone).await?;
        }
        Ok(())
    })
    .await;
    run.claim(3, async |lab| {
        let plan = Plan::connect(vec![SocketAddr::new(SHARED_HTTP.0.into(), 443)], 5);
        let https = plan.times(60).by(Kind::Https {
            host: demo::HOST.into(),
            path: "/".into(),
            authority: lab.authority.file().clone(),
            http2: true,
        });
        routed(lab, SHARED_HTTP.0.into(), 2).await?;
        let report = lab.clients.complete(&https).await?;
        report.ensure_flawless()?;
        same_pods(&report, &everyone)
    })
    .await;
    run.claim(4, async |lab| taken_out(lab, vips, &everyone).await).await;
    run.claim(5, async |lab| mistake(lab, vips).await).await;
    Ok(())
}

async fn reaches(lab: &Lab, vip: IpAddr, wanted: &BTreeSet<String>) -> Result<()> {
    let tcp = lab.clients.tcp(vip, LINE, 100).await?;
    let udp = lab.clients.udp(vip, LINE, 100).await?;
    for report in [tcp, udp] {
        report.ensure_flawless()?;
        same_pods(&report, wanted)?;
    }
    Ok(())
}

async fn taken_out(lab: &Lab, vips: [IpAddr; 2], everyone: &BTreeSet<String>) -> Result<()> {
    let targets = vips.map(|vip| SocketAddr::new(vip, LINE)).to_vec();
    let load = lab.clients.start("inventory", &Plan::connect(targets, 5))?;
    let gone = everyone.first().context("no backends")?;
    let file = lab.place.path("inventory.toml");
    let text = fs::read_to_string(&file)?;
    let fewer: Vec<&str> =
        text.lines().filter(|line| !line.contains(&format!("\"{gone}\""))).collect();
    replace(&file, &(fewer.join("\n") + "\n"))?;
    let rest: BTreeSet<String> = everyone.iter().filter(|name| *name != gone).cloned().collect();
    eventually(SOON, "the others alone to be reached", async || {
        for vip in vips {
            reaches(lab, vip, &rest).await?;
        }
        Ok(())
    })
    .await?;
    load.stop().await?.ensure_flawless()?;
    replace(&file, &text)?;
    eventually(SOON, "all to be reached again", async || reaches(lab, vips[0], everyone).await)
        .await
}

async fn mistake(lab: &Lab, vips: [IpAddr; 2]) -> Result<()> {
    let file = lab.place.path("inventory.toml");
    let text = fs::read_to_string(&file)?;
    replace(&file, &text.replace("target_port", "target_prot"))?;
    for edge in &lab.edges {
        eventually(SOON, "the mistake in log and status", async || {
            ensure!(edge.logged("target_prot"), "the log is silent");
            let discovery = edge.status()?["discovery"].to_string();
            ensure!(discovery.contains("target_prot"), "the status says {discovery}");
            Ok(())
        })
        .await?;
    }
    for vip in vips {
        lab.clients.tcp(vip, LINE, 40).await?.ensure_flawless()?;
    }
    replace(&file, &text)?;
    for edge in &lab.edges {
        eventually(SOON, "the good file to be taken", async || {
            let discovery = edge.status()?["discovery"].to_string();
            ensure!(!discovery.contains("target_prot"), "the status says {discovery}");
            Ok(())
        })
        .await?;
    }
    Ok(())
}

/// Replaces a file as a whole, so that no reader sees half of it.
fn replace(file: &std::path::Path, text: &str) -> Result<()> {
    let new = file.with_extension("new");
    fs::write(&new, text)?;
    Ok(fs::rename(new, file)?)
}
