//! What a Service may ask of the relay.
//!
//! ```text
//!  client (10.10.0.2) ── router ══ edge1, edge2 ── two pods
//! ```
//!
//! 1. With the PROXY protocol asked for, pods learn the client's address, in version 1 and 2.
//! 2. Clients outside `loadBalancerSourceRanges` are refused; those inside are served.
//! 3. With `sessionAffinity: ClientIP` each host keeps one client with one pod.
//! 4. An address asked for by annotation is the one that is given.

use std::net::SocketAddr;

use anyhow::{Context as _, Result, ensure};
use haflinger_tests::lab::echo_ports::{LINE, PROXIED};
use haflinger_tests::lab::manifests::{annotated, core, service};
use haflinger_tests::lab::topology::CLIENT;
use haflinger_tests::lab::{Kind, Lab, Plan, eventually};
use serde_json::{Value, json};

use super::grounds::Needs;
use super::runner::{Run, Scenario};
use super::sample::{SOON, Sample, assigned, routed};

pub(crate) const SCENARIO: Scenario = Scenario {
    name: "options",
    needs: Needs::Cluster,
    claims: &[
        "the PROXY protocol tells pods the client's address",
        "clients outside the source ranges are refused",
        "each host keeps a client with one pod by session affinity",
        "an address asked for is given",
    ],
    run: |run| Box::pin(claims(run)),
};

async fn claims(run: &mut Run) -> Result<()> {
    let sample = Sample::deploy(&run.lab, "options", 2).await?;
    run.claim(1, async |lab| proxy_protocol(lab, &sample).await).await;
    run.claim(2, async |lab| source_ranges(lab, &sample).await).await;
    run.claim(3, async |lab| affinity(lab, &sample).await).await;
    run.claim(4, async |lab| requested(lab, &sample).await).await;
    let api = &run.lab.cluster()?.api;
    api.delete(&core("services", "options-proxy")).await?;
    api.delete(&core("services", "options-asked")).await?;
    sample.remove(&run.lab).await
}

async fn proxy_protocol(lab: &Lab, sample: &Sample) -> Result<()> {
    let mut object = service("options-proxy", &sample.name);
    object["spec"]["ports"] =
        json!([{"name": "proxied", "port": PROXIED, "targetPort": "proxied", "protocol": "TCP"}]);
    for version in ["v1", "v2"] {
        let asked = annotated(object.clone(), "haflinger.dev/proxy-protocol", version);
        lab.cluster()?.api.apply(&asked).await?;
        let vips = assigned(lab, "options-proxy").await?;
        let clients = [CLIENT.0.to_string(), CLIENT.1.to_string()];
        for (vip, client) in vips.into_iter().zip(clients) {
            routed(lab, vip, 2).await?;
            // The pod's greeting ends in what the header said.
            let plan = Plan::connect(vec![SocketAddr::new(vip, PROXIED)], 2).by(Kind::Proxied);
            eventually(SOON, "pods to be told the client's address", async || {
                let report = lab.clients.complete(&plan.clone().times(20)).await?;
                report.ensure_flawless().with_context(|| format!("{version} to {vip}"))?;
                let said: Vec<&String> = report.peers.keys().collect();
                ensure!(said == [&client], "{version}: pods were told {said:?}, not {client}");
                Ok(())
            })
            .await?;
        }
    }
    Ok(())
}

async fn patched(lab: &Lab, sample: &Sample, spec: Value) -> Result<()> {
    let path = core("services", &sample.name);
    lab.cluster()?.api.merge(&path, &json!({"spec": spec})).await?;
    Ok(())
}

async fn source_ranges(lab: &Lab, sample: &Sample) -> Result<()> {
    let elsewhere = json!(["192.0.2.0/24", "2001:db8::/32"]);
    patched(lab, sample, json!({"loadBalancerSourceRanges": elsewhere})).await?;
    eventually(SOON, "the client to be refused", async || {
        for vip in sample.vips {
            let report = lab.clients.tcp(vip, LINE, 10).await?;
            ensure!(report.successes() == 0, "{vip}: {report:?}");
        }
        Ok(())
    })
    .await?;
    let here = json!(["10.10.0.0/24", "fd00:10::/64"]);
    patched(lab, sample, json!({"loadBalancerSourceRanges": here})).await?;
    sample.settled(lab).await?;
    patched(lab, sample, json!({"loadBalancerSourceRanges": null})).await
}

async fn affinity(lab: &Lab, sample: &Sample) -> Result<()> {
    sample.settled(lab).await?;
    patched(lab, sample, json!({"sessionAffinity": "ClientIP"})).await?;
    eventually(SOON, "the client to stay with one pod", async || {
        for vip in sample.vips {
            let report = lab.clients.tcp(vip, LINE, 40).await?;
            report.ensure_flawless()?;
            // Each host remembers for itself.
            ensure!(report.ways.len() == report.peers.len(), "{vip}: {:?}", report.ways);
        }
        Ok(())
    })
    .await?;
    patched(lab, sample, json!({"sessionAffinity": "None"})).await?;
    sample.settled(lab).await
}

async fn requested(lab: &Lab, sample: &Sample) -> Result<()> {
    let asked = ["10.50.0.13", "fd00:50::d"];
    let object = service("options-asked", &sample.name);
    let object = annotated(object, "haflinger.dev/address", &asked.join(","));
    lab.cluster()?.api.apply(&object).await?;
    let given = assigned(lab, "options-asked").await?.map(|vip| vip.to_string());
    ensure!(given == asked, "given are {given:?}");
    Ok(())
}
