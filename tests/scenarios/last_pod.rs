//! A service without a healthy backend withdraws its VIP.
//!
//! ```text
//!  client ── router ══ edge1, edge2 ── two pods, then none
//! ```
//!
//! 1. When the last ready pod goes, the routes go from the router, by both hosts.
//! 2. When one comes back, so do the routes, and it is reached.
//! 3. A failing check of our own withdraws them too, and the status says which it was.
//! 4. The other services stay announced all the while.

use anyhow::{Context as _, Result, ensure};
use haflinger_tests::lab::echo_ports::LINE;
use haflinger_tests::lab::manifests::{annotated, deployments, service};
use haflinger_tests::lab::{Lab, Plan, eventually};
use serde_json::{Value, json};

use super::grounds::Needs;
use super::runner::{Run, Scenario};
use super::sample::{SOON, Sample};

pub(crate) const SCENARIO: Scenario = Scenario {
    name: "last-pod",
    needs: Needs::Cluster,
    claims: &[
        "the last ready pod going withdraws the routes",
        "a pod coming back announces them again",
        "a failing check withdraws them and the status says so",
        "other services stay announced",
    ],
    run: |run| Box::pin(claims(run)),
};

/// A port on which no pod listens.
const CLOSED_PORT: &str = "7999";
const CHECK: &str = "haflinger.dev/health-check";
const CHECK_PORT: &str = "haflinger.dev/health-check-port";
const CHECK_INTERVAL: &str = "haflinger.dev/health-check-interval";

async fn claims(run: &mut Run) -> Result<()> {
    let other = Sample::deploy(&run.lab, "stays", 1).await?;
    other.settled(&run.lab).await?;
    let load = run.lab.clients.start("stays", &Plan::connect(other.targets(), 10))?;
    let sample = Sample::deploy(&run.lab, "goes", 2).await?;
    sample.settled(&run.lab).await?;

    run.claim(1, async |lab| {
        let patch = json!({"spec": {"replicas": 0}});
        lab.cluster()?.api.merge(&deployments(&sample.name), &patch).await?;
        sample.routed(lab, 0).await?;
        ensure_announcement(lab, &sample, "no_backend").await
    })
    .await;
    run.claim(2, async |lab| {
        sample.scale(lab, 2).await?;
        sample.routed(lab, 2).await?;
        sample.settled(lab).await
    })
    .await;
    run.claim(3, async |lab| checked(lab, &sample).await).await;
    run.claim(4, async |lab| {
        other.routed(lab, 2).await?;
        load.stop().await?.ensure_flawless()
    })
    .await;
    sample.remove(&run.lab).await?;
    other.remove(&run.lab).await
}

async fn ensure_announcement(lab: &Lab, sample: &Sample, wanted: &str) -> Result<()> {
    for edge in &lab.edges {
        eventually(SOON, "the status to say why", async || {
            let status = edge.status()?;
            let vips = status["vips"].as_array().context("no vips in the status")?;
            for vip in sample.vips {
                let found = vips.iter().find(|entry| entry["address"] == vip.to_string());
                let said = found.map(|entry| &entry["announcement"]);
                ensure!(said == Some(&wanted.into()), "{}: {vip} is {said:?}", edge.name());
            }
            Ok(())
        })
        .await?;
    }
    Ok(())
}

async fn checked(lab: &Lab, sample: &Sample) -> Result<()> {
    let api = &lab.cluster()?.api;
    let plain = service(&sample.name, &sample.name);
    let fast = annotated(annotated(plain, CHECK, "tcp"), CHECK_INTERVAL, "200ms");
    api.apply(&annotated(fast.clone(), CHECK_PORT, CLOSED_PORT)).await?;
    sample.routed(lab, 0).await?;
    for edge in &lab.edges {
        let status = edge.status()?;
        let reasons = reasons(&status, &sample.v4().to_string())?;
        ensure!(
            !reasons.is_empty() && reasons.iter().all(|reason| reason == "check_failed"),
            "{} says {reasons:?}",
            edge.name()
        );
    }
    api.apply(&annotated(fast, CHECK_PORT, &LINE.to_string())).await?;
    sample.routed(lab, 2).await?;
    sample.settled(lab).await
}

/// Reasons of every backend of every service on `vip`.
fn reasons(status: &Value, vip: &str) -> Result<Vec<String>> {
    let services = status["services"].as_array().context("no services in the status")?;
    let backends = services
        .iter()
        .filter(|service| service["service"]["vip"] == vip)
        .flat_map(|service| service["backends"].as_array().cloned().unwrap_or_default());
    let mut all = Vec::new();
    for backend in backends {
        let reasons = backend["reasons"].as_array().cloned().unwrap_or_default();
        ensure!(!reasons.is_empty(), "a backend without a reason: {backend}");
        all.extend(reasons.iter().filter_map(|reason| Some(reason.as_str()?.to_owned())));
    }
    Ok(all)
}
