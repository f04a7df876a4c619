//! Pods that are ready once every edge host uses them.
//!
//! ```text
//!  client: new connections every few ms ── router ══ edge1, edge2 ── 3 pods with the readiness gate
//! ```
//!
//! 1. A rolling update to pods with the gate loses no new connection, and both hosts use each pod
//!    before it is ready.
//! 2. Without the right to set the gate a rollout waits, with its old pods, and loses nothing; it goes
//!    on with the right.
//! 3. A host that is stopped is not waited for.

use anyhow::{Context as _, Result, ensure};
use haflinger_tests::lab::manifests::deployments;
use haflinger_tests::lab::{Lab, Plan, checkout, eventually, is_ready};
use serde_json::{Value, json};
use toml::Value as Setting;

use super::grounds::Needs;
use super::runner::{Run, Scenario};
use super::sample::{SOON, Sample};

pub(crate) const SCENARIO: Scenario = Scenario {
    name: "readiness",
    needs: Needs::Cluster,
    claims: &[
        "a rolling update to pods with the gate loses no new connection",
        "a rollout whose gates cannot be set waits and loses nothing",
        "a host that is stopped is not waited for",
    ],
    run: |run| Box::pin(claims(run)),
};

const GATE: &str = "haflinger.dev/edge-ready";

/// Time between two new connections, in milliseconds.
const INTERVAL_MS: u64 = 4;

/// The binding without which nobody may read pods or set their gates.
const BINDING: &str = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings/haflinger-readiness";

async fn claims(run: &mut Run) -> Result<()> {
    let sample = Sample::deploy(&run.lab, "gated", 3).await?;
    sample.settled(&run.lab).await?;
    grant(&run.lab).await?;
    switch(&mut run.lab, true)?;
    seen(&run.lab, 2).await?;

    run.claim(1, async |lab| {
        let template = json!({
            "metadata": {"labels": {GATE: "enabled"}},
            "spec": {"readinessGates": [{"conditionType": GATE}]},
        });
        let patch = json!({"spec": {"template": template}});
        under_load(lab, &sample, "gate-first", async || {
            lab.cluster()?.api.merge(&deployments(&sample.name), &patch).await?;
            all_used_by(lab, &sample, 2).await
        })
        .await
    })
    .await;
    run.claim(2, async |lab| {
        under_load(lab, &sample, "gate-wait", async || {
            lab.cluster()?.api.delete(BINDING).await?;
            let (rolled, waited) = tokio::join!(sample.roll(lab), waits(lab, &sample));
            waited?;
            rolled
        })
        .await
    })
    .await;
    run.claim(3, async |lab| {
        lab.edges[0].stop().await?;
        sample.routed(lab, 1).await?;
        under_load(lab, &sample, "gate-alone", async || {
            sample.roll(lab).await?;
            all_used_by(lab, &sample, 1).await
        })
        .await?;
        lab.edges[0].start().await?;
        sample.routed(lab, 2).await
    })
    .await;
    switch(&mut run.lab, false)?;
    sample.remove(&run.lab).await
}

async fn grant(lab: &Lab) -> Result<()> {
    let path = checkout().join("packaging/kubernetes/readiness.yaml");
    let yaml = std::fs::read_to_string(&path).with_context(|| format!("{}", path.display()))?;
    lab.cluster()?.api.apply_manifest(&yaml).await.map(drop)
}

/// Has both hosts take part, or no longer. A changed file is taken up by itself.
fn switch(lab: &mut Lab, on: bool) -> Result<()> {
    for edge in &lab.edges {
        let mut config = edge.read()?;
        let clusters = config.get_mut("cluster").and_then(Setting::as_array_mut);
        let cluster = clusters.and_then(|list| list.first_mut()).context("no cluster")?;
        let cluster = cluster.as_table_mut().context("a cluster that is no table")?;
        cluster.insert("readiness_gate".into(), Setting::Boolean(on));
        edge.write(&config)?;
    }
    Ok(())
}

/// What a host says of its gates.
fn gate(lab: &Lab, host: usize) -> Result<Value> {
    Ok(lab.edges[host].status()?["report"]["clusters"][0]["gate"].clone())
}

/// Waits until both hosts see as many.
async fn seen(lab: &Lab, hosts: usize) -> Result<()> {
    eventually(SOON, "the hosts to see each other", async || {
        for host in 0..lab.edges.len() {
            let gate = gate(lab, host)?;
            let seen = gate["hosts"].as_array().map_or(0, Vec::len);
            ensure!(seen == hosts && gate["error"].is_null(), "host {host} sees {gate}");
        }
        Ok(())
    })
    .await
}

/// Waits until all pods are ready, have the gate, and say so many hosts use them.
async fn all_used_by(lab: &Lab, sample: &Sample, hosts: usize) -> Result<()> {
    let wanted = format!("used by every edge host ({hosts})");
    eventually(SOON, "pods that the hosts use", async || {
        let pods = pods(lab, sample).await?;
        ensure!(pods.len() == 3 && pods.iter().all(is_ready), "{} pods", pods.len());
        for pod in &pods {
            let said = condition(pod);
            ensure!(said["message"] == wanted.as_str(), "{}: {said}", pod["metadata"]["name"]);
        }
        Ok(())
    })
    .await
}

async fn pods(lab: &Lab, sample: &Sample) -> Result<Vec<Value>> {
    let pods = lab.cluster()?.api.list("/api/v1/pods").await?;
    Ok(pods.into_iter().filter(|pod| pod["metadata"]["labels"]["app"] == *sample.name).collect())
}

fn condition(pod: &Value) -> Value {
    let conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
    let found = { conditions }.find(|known| known["type"] == GATE);
    found.cloned().unwrap_or_default()
}

/// A rollout that was begun stands still, and goes on once the right is back.
async fn waits(lab: &Lab, sample: &Sample) -> Result<()> {
    let before = eventually(SOON, "a pod that waits in vain", async || {
        let gates = [gate(lab, 0)?, gate(lab, 1)?];
        let refused =
            |gate: &Value| gate["error"].as_str().is_some_and(|error| error.contains("403"));
        ensure!(gates.iter().any(refused), "nobody is refused: {gates:?}");
        let waiting = gates.iter().all(|gate| gate["waiting"] == 1 && gate["done"] == 1);
        ensure!(waiting, "not both hosts use one pod that waits: {gates:?}");
        pods(lab, sample).await
    })
    .await?;
    let ready = before.iter().filter(|pod| is_ready(pod)).count();
    ensure!(before.len() == 4 && ready == 3, "{ready} of {} pods are ready", before.len());
    grant(lab).await
}

/// Makes new connections to both VIPs while `change` is under way; fails when one is lost.
async fn under_load(
    lab: &Lab,
    sample: &Sample,
    name: &str,
    change: impl AsyncFnOnce() -> Result<()>,
) -> Result<()> {
    let client = lab.clients.start(name, &Plan::connect(sample.targets(), INTERVAL_MS))?;
    let changed = change().await;
    let report = client.stop().await?;
    changed?;
    ensure!(report.successes() > 100, "too little happened to mean anything: {report:?}");
    report.ensure_flawless()
}
