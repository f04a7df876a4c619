//! Pods come and go under load.
//!
//! ```text
//!  client: new connections every few ms ┐
//!          connections kept open        ├─ router ══ edge1, edge2 ── 3 to 6 pods
//!          HTTPS requests               ┘
//! ```
//!
//! 1. Scaling up loses no request, and the new pods are reached.
//! 2. Scaling down loses no request.
//! 3. Connections to pods that stay live through both.
//! 4. A rolling update loses no new connection, and replaces every pod.
//! 5. Nor does it lose a request by HTTPS through the Ingress.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, ensure};
use haflinger_tests::lab::manifests::{ingress, tls_secret};
use haflinger_tests::lab::topology::SHARED_HTTP;
use haflinger_tests::lab::{Client, Kind, Lab, Plan, ZONE, eventually};
use std::net::SocketAddr;

use super::grounds::Needs;
use super::runner::{Run, Scenario};
use super::sample::{SOON, Sample};

pub(crate) const SCENARIO: Scenario = Scenario {
    name: "rollout",
    needs: Needs::Cluster,
    claims: &[
        "scaling up loses no request",
        "scaling down loses no request",
        "connections to pods that stay live through scaling",
        "a rolling update loses no new connection",
        "a rolling update loses no HTTPS request",
    ],
    run: |run| Box::pin(claims(run)),
};

/// Time between two new connections, in milliseconds.
const INTERVAL_MS: u64 = 4;
/// Connections kept open: enough to meet every pod.
const HELD: u64 = 24;

async fn claims(run: &mut Run) -> Result<()> {
    let sample = Sample::deploy(&run.lab, "roll", 3).await?;
    sample.settled(&run.lab).await?;
    let first = sample.pods(&run.lab).await?;
    let held = run.lab.clients.start("roll-held", &Plan::hold(sample.targets(), HELD))?;

    run.claim(1, async |lab| {
        under_load(lab, &sample, "roll-up", async || sample.scale(lab, 6).await).await?;
        sample.settled(lab).await
    })
    .await;
    run.claim(2, async |lab| {
        under_load(lab, &sample, "roll-down", async || sample.scale(lab, 3).await).await?;
        sample.settled(lab).await
    })
    .await;
    let stayed: BTreeSet<String> =
        sample.pods(&run.lab).await?.intersection(&first).cloned().collect();
    run.claim(3, async |_| survivors_are_flawless(held, &stayed).await).await;

    let host = format!("roll-web.{ZONE}");
    publish(&run.lab, &sample, &host).await?;
    let https = Plan {
        interval_ms: 20,
        ..Plan::connect(vec![SocketAddr::new(SHARED_HTTP.0.into(), 443)], 20)
    }
    .by(Kind::Https {
        host,
        path: "/".into(),
        authority: run.lab.authority.file().clone(),
        http2: false,
    });
    served(&run.lab, &https).await?;
    let web = run.lab.clients.start("roll-https", &https)?;
    run.claim(4, async |lab| {
        under_load(lab, &sample, "roll-update", async || sample.roll(lab).await).await?;
        sample.settled(lab).await
    })
    .await;
    run.claim(5, async |lab| {
        let report = web.stop().await?;
        report.ensure_flawless()?;
        let wanted = sample.pods(lab).await?;
        ensure!(wanted.iter().any(|pod| report.pods.contains_key(pod)), "no new pod answered");
        Ok(())
    })
    .await;
    sample.remove(&run.lab).await
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
    // Whatever the change set off is over once clients see nothing but the pods of now.
    let settled = sample.settled(lab).await;
    let report = client.stop().await?;
    changed?;
    settled?;
    ensure!(report.successes() > 100, "too little happened to mean anything: {report:?}");
    report.ensure_flawless()
}

async fn survivors_are_flawless(held: Client, stayed: &BTreeSet<String>) -> Result<()> {
    let report = held.stop().await?;
    ensure!(!stayed.is_empty(), "no pod of the first three stayed");
    let survivors: Vec<_> = report.held.iter().filter(|held| stayed.contains(&held.pod)).collect();
    ensure!(!survivors.is_empty(), "no connection was to a pod that stayed: {report:?}");
    for connection in survivors {
        ensure!(connection.failure.is_none(), "a connection to a pod that stayed: {connection:?}");
        ensure!(connection.lines > 10, "a connection said next to nothing: {connection:?}");
    }
    Ok(())
}

async fn publish(lab: &Lab, sample: &Sample, host: &str) -> Result<()> {
    let signed = lab.authority.sign(host)?;
    let api = &lab.cluster()?.api;
    api.apply(&tls_secret("roll-web", &signed.chain_pem, &signed.key_pem)).await?;
    api.apply(&ingress("roll-web", host, &sample.name, "roll-web")).await?;
    Ok(())
}

async fn served(lab: &Lab, plan: &Plan) -> Result<()> {
    super::sample::routed(lab, SHARED_HTTP.0.into(), 2).await?;
    eventually(SOON, "the Ingress to be served by both hosts", async || {
        let report = lab.clients.complete(&plan.clone().times(20)).await?;
        report.ensure_flawless().context("HTTPS")?;
        ensure!(report.peers.len() == 2, "pods saw {:?}", report.peers);
        Ok(())
    })
    .await
}
