//! The API comes back, and says that everything is gone: as after a restore from an old backup.
//!
//! ```text
//!  client: new connections every few ms, ┐
//!          connections kept open         ┴─ router ══ edge1, edge2 ── pods, which live on
//!                                                       ╳ cut off while Services are deleted by
//!                                                       │ the dozen, and the API is restarted
//!                                                     control plane
//! ```
//!
//! 1. The deletions are held on both hosts: a Service among them loses no connection, new or kept,
//!    and keeps its routes; metric and status say how many wait.
//! 2. Objects that are made meanwhile are served.
//! 3. Once the operator accepts on each host, what was deleted goes; what was made stays.

use std::process::Output;

use anyhow::{Context as _, Result, ensure};
use haflinger_tests::lab::manifests::{core, deployments, service};
use haflinger_tests::lab::topology::{CONTROL, EDGES};
use haflinger_tests::lab::{Edge, Lab, Plan, eventually};
use serde_json::json;

use super::grounds::Needs;
use super::runner::{Run, Scenario};
use super::sample::{SOON, Sample, assigned, routed};

pub(crate) const SCENARIO: Scenario = Scenario {
    name: "deletions",
    needs: Needs::Cluster,
    claims: &[
        "deletions in a mass are held and lose no connection",
        "what is made meanwhile is served",
        "what was deleted goes once the operator accepts it",
    ],
    run: |run| Box::pin(claims(run)),
};

/// Services beside the sample's: above `deletes_max` and `deletes_percent_max` together, so that not
/// all of them may go before something is held.
const MANY: usize = 24;

/// The source as commands name it.
const CLUSTER: &str = "cluster/lab";

async fn claims(run: &mut Run) -> Result<()> {
    let before = [run.lab.edges[0].read()?, run.lab.edges[1].read()?];
    for edge in &run.lab.edges {
        hold_all(edge)?;
    }
    let sample = Sample::deploy(&run.lab, "deleted", 2).await?;
    sample.settled(&run.lab).await?;
    let many: Vec<String> = (0..MANY).map(|number| format!("mass-{number}")).collect();
    for name in &many {
        let mut object = service(name, "nobody");
        // The pool has not as many addresses, nor are they needed.
        object["spec"] = json!({"ports": object["spec"]["ports"].take()});
        run.lab.cluster()?.api.apply(&object).await?;
    }
    for index in 0..EDGES.len() {
        known(&run.lab, index).await?;
    }

    run.claim(1, async |lab| {
        let fresh = lab.clients.start("deletions", &Plan::connect(sample.targets(), 5))?;
        let held = lab.clients.start("deletions-held", &Plan::hold(sample.targets(), 12))?;
        lose_memory(lab, many.iter().chain([&sample.name])).await?;
        for index in 0..EDGES.len() {
            waiting(lab, index).await?;
        }
        sample.routed(lab, 2).await?;
        sample.settled(lab).await?;
        fresh.stop().await?.ensure_flawless()?;
        held.stop().await?.ensure_flawless()
    })
    .await;
    run.claim(2, async |lab| {
        lab.cluster()?.api.apply(&service("meanwhile", &sample.name)).await?;
        routed(lab, assigned(lab, "meanwhile").await?[0], 2).await
    })
    .await;
    run.claim(3, async |lab| {
        for index in 0..EDGES.len() {
            accept(lab, index).await?;
        }
        sample.routed(lab, 0).await?;
        routed(lab, assigned(lab, "meanwhile").await?[0], 2).await
    })
    .await;
    let api = &run.lab.cluster()?.api;
    api.delete(&core("services", "meanwhile")).await?;
    api.delete(&deployments(&sample.name)).await?;
    for index in 0..EDGES.len() {
        waiting(&run.lab, index).await?;
        accept(&run.lab, index).await?;
    }
    for (edge, config) in run.lab.edges.iter().zip(&before) {
        edge.write(config)?;
    }
    Ok(())
}

/// Has every deletion held: whether a host sees them one by one or has to list, and which ones are
/// among the first, is chance.
fn hold_all(edge: &Edge) -> Result<()> {
    let mut config = edge.read()?;
    let clusters = config.get_mut("cluster").and_then(toml::Value::as_array_mut);
    for cluster in clusters.into_iter().flatten().filter_map(toml::Value::as_table_mut) {
        for bound in ["deletes_max", "deletes_percent_max"] {
            cluster.insert(bound.into(), 0.into());
        }
    }
    edge.write(&config)
}

/// The operator accepts what a host holds.
async fn accept(lab: &Lab, index: usize) -> Result<()> {
    let Output { status, stderr, .. } = lab.edges[index].order(&["accept", CLUSTER])?.output()?;
    ensure!(status.success(), "{}", String::from_utf8_lossy(&stderr));
    eventually(SOON, "nothing to be held", async || {
        let held = services(lab, index, "held")?;
        ensure!(held == 0, "{held} deletions are held");
        Ok(())
    })
    .await
}

/// Restarts the API without these Services, out of the hosts' sight: they do not see the deletions
/// one by one, and have to list.
async fn lose_memory(lab: &mut Lab, names: impl Iterator<Item = &String>) -> Result<()> {
    let api = format!("{}/32", CONTROL.v4());
    lab.cluster_mut()?.plane.kill_api();
    for edge in &lab.edges {
        edge.namespace().ip(&format!("route add unreachable {api}"))?;
    }
    lab.cluster_mut()?.plane.resume_api().await?;
    for name in names {
        lab.cluster()?.api.delete(&core("services", name)).await?;
    }
    for edge in &lab.edges {
        edge.namespace().ip(&format!("route del unreachable {api}"))?;
    }
    Ok(())
}

/// Waits until a host knows all Services.
async fn known(lab: &Lab, index: usize) -> Result<()> {
    eventually(SOON, "the Services to be known", async || {
        let objects = services(lab, index, "objects")?;
        ensure!(objects > MANY, "{objects} Services are known");
        Ok(())
    })
    .await
}

/// Waits until a host holds the deletion of Services, and says so everywhere.
async fn waiting(lab: &Lab, index: usize) -> Result<()> {
    eventually(SOON, "deletions to be held", async || {
        let held = services(lab, index, "held")?;
        ensure!(held > 0, "none is held");
        let labels = ["source=\"cluster/lab\"", "kind=\"services\""];
        let told = lab.edges[index].metric("haflinger_discovery_held_deletions", &labels)?;
        ensure!(told == f64::from(u32::try_from(held)?), "{held} are held, the metric says {told}");
        Ok(())
    })
    .await
}

/// What a host's status counts of Services.
fn services(lab: &Lab, index: usize, what: &str) -> Result<usize> {
    let status = lab.edges[index].status()?;
    let sources = status["discovery"]["sources"].as_array().context("no sources")?;
    let source = sources.iter().find(|source| source["source"] == CLUSTER);
    let services = &source.context("no such source")?["kinds"]["services"];
    let count = services[what].as_u64().with_context(|| format!("no {what} in {services}"))?;
    Ok(usize::try_from(count)?)
}
