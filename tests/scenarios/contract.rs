//! What a Service stops asking for goes everywhere: status, router, hosts, DNS.
//!
//! ```text
//!  client ── router ══ edge1 (zone-1), edge2 (zone-2) ── node1 (zone-1), node2 (zone-2)
//!            (ECMP)    dns, control plane
//! ```
//!
//! 1. A Service that becomes a ClusterIP leaves neither status nor route nor address nor record,
//! 2. and gets all of them again when it is of type LoadBalancer and of our class once more.
//! 3. Another port takes the place of the old one, which is refused.
//! 4. A host name that is no longer asked for goes; the address stays and serves.
//! 5. An SCTP port is an error in the status; the others serve.
//! 6. With `trafficDistribution` each host leads to the pods of its own zone alone, and to all
//!    when it has none.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use anyhow::{Result, ensure};
use haflinger_tests::lab::echo_ports::LINE;
use haflinger_tests::lab::manifests::{SERVICE_CLASS, core};
use haflinger_tests::lab::topology::{EDGES, NODES};
use haflinger_tests::lab::{Lab, Plan, eventually};
use serde_json::{Value, json};
use toml::Table;

use super::grounds::Needs;
use super::runner::{Run, Scenario};
use super::sample::{HOSTNAME, SOON, Sample, assigned, event};

pub(crate) const SCENARIO: Scenario = Scenario {
    name: "contract",
    needs: Needs::Cluster,
    claims: &[
        "a Service of another type leaves nothing",
        "a Service that is ours again gets everything again",
        "another port takes the place of the old one",
        "a host name that is not asked for goes and the address stays",
        "an SCTP port is an error in the status and the others serve",
        "each host prefers the pods of its zone while there are any",
    ],
    run: |run| Box::pin(claims(run)),
};

/// A port that no pod listens on by that number.
const MOVED: u16 = 7100;

async fn claims(run: &mut Run) -> Result<()> {
    let mut sample = Sample::deploy(&run.lab, "contract", 2).await?;
    sample.settled(&run.lab).await?;
    run.claim(1, async |lab| {
        patched(lab, &sample, json!({"type": "ClusterIP"})).await?;
        nothing_left(lab, &sample).await
    })
    .await;
    run.claim(2, async |lab| {
        let again = json!({"type": "LoadBalancer", "loadBalancerClass": SERVICE_CLASS});
        patched(lab, &sample, again).await?;
        sample.vips = assigned(lab, &sample.name).await?;
        sample.routed(lab, 2).await?;
        named(lab, &sample, true).await?;
        sample.settled(lab).await
    })
    .await;
    run.claim(3, async |lab| moved(lab, &sample).await).await;
    run.claim(4, async |lab| {
        let patch = json!({"metadata": {"annotations": {HOSTNAME: null}}});
        lab.cluster()?.api.merge(&core("services", &sample.name), &patch).await?;
        named(lab, &sample, false).await?;
        ensure!(assigned(lab, &sample.name).await? == sample.vips, "the address has changed");
        sample.settled(lab).await
    })
    .await;
    run.claim(5, async |lab| sctp(lab, &sample).await).await;
    run.claim(6, async |lab| {
        let before = [lab.edges[0].read()?, lab.edges[1].read()?];
        let outcome = zones(lab, &sample).await;
        for (edge, config) in lab.edges.iter().zip(&before) {
            edge.write(config)?;
        }
        outcome
    })
    .await;
    sample.remove(&run.lab).await
}

async fn patched(lab: &Lab, sample: &Sample, spec: Value) -> Result<()> {
    let path = core("services", &sample.name);
    lab.cluster()?.api.merge(&path, &json!({"spec": spec})).await?;
    Ok(())
}

/// Waits until BIND knows the name, or does not.
async fn named(lab: &Lab, sample: &Sample, wanted: bool) -> Result<()> {
    eventually(SOON, "the records to follow", async || {
        for (kind, vip) in ["A", "AAAA"].iter().zip(sample.vips) {
            let answers = lab.nameserver.answers(&sample.host(), kind)?;
            let expected = if wanted { vec![vip.to_string()] } else { Vec::new() };
            ensure!(answers == expected, "{kind}: {answers:?}, want {expected:?}");
        }
        Ok(())
    })
    .await
}

async fn nothing_left(lab: &Lab, sample: &Sample) -> Result<()> {
    sample.routed(lab, 0).await?;
    named(lab, sample, false).await?;
    eventually(SOON, "addresses, services and status to go", async || {
        for edge in &lab.edges {
            let (bound, status) = (edge.bound_addresses()?, edge.status()?);
            for vip in sample.vips {
                ensure!(!bound.contains(&format!(" {vip}/")), "{} has {vip}", edge.name());
                let text = status["services"].to_string();
                ensure!(!text.contains(&vip.to_string()), "{} serves {vip}", edge.name());
            }
        }
        let object = lab.cluster()?.api.get(&core("services", &sample.name)).await?;
        let ingress = &object["status"]["loadBalancer"]["ingress"];
        ensure!(ingress.is_null(), "the status still holds {ingress}");
        Ok(())
    })
    .await
}

fn port(name: &str, number: u16, protocol: &str) -> Value {
    json!({"name": name, "port": number, "targetPort": "line", "protocol": protocol})
}

async fn moved(lab: &Lab, sample: &Sample) -> Result<()> {
    patched(lab, sample, json!({"ports": [port("line", MOVED, "TCP")]})).await?;
    let wanted = sample.pods(lab).await?;
    eventually(SOON, "the new port to serve and the old one not to", async || {
        for vip in sample.vips {
            let report = lab.clients.tcp(vip, MOVED, 40).await?;
            report.ensure_flawless()?;
            super::sample::same_pods(&report, &wanted)?;
            let plan = Plan::connect(vec![SocketAddr::new(vip, LINE)], 2).times(4);
            let old = lab.clients.complete(&Plan { timeout_ms: 500, ..plan }).await?;
            ensure!(old.successes() == 0, "{vip} still serves port {LINE}: {old:?}");
        }
        Ok(())
    })
    .await?;
    patched(lab, sample, json!({"ports": [port("line", LINE, "TCP")]})).await?;
    sample.settled(lab).await
}

async fn sctp(lab: &Lab, sample: &Sample) -> Result<()> {
    let ports = [port("line", LINE, "TCP"), port("calls", 5060, "SCTP")];
    patched(lab, sample, json!({"ports": ports})).await?;
    let note = event(lab, &sample.name, "UnsupportedProtocol").await?;
    ensure!(note.contains("spec.ports[1].protocol"), "{note}");
    eventually(SOON, "the status to name the port", async || {
        let object = lab.cluster()?.api.get(&core("services", &sample.name)).await?;
        for entry in object["status"]["loadBalancer"]["ingress"].as_array().into_iter().flatten() {
            let errors: Vec<&Value> =
                entry["ports"].as_array().into_iter().flatten().map(|p| &p["error"]).collect();
            // By port.
            let named = [&json!("haflinger.dev/UnsupportedProtocol"), &Value::Null];
            ensure!(errors == named, "{entry}");
        }
        Ok(())
    })
    .await?;
    sample.settled(lab).await?;
    patched(lab, sample, json!({"ports": [port("line", LINE, "TCP")]})).await
}

/// Which host led to which pods: by the node that the pods are on.
async fn ways(lab: &Lab, sample: &Sample) -> Result<BTreeSet<(usize, usize)>> {
    let path = format!("/api/v1/namespaces/default/pods?labelSelector=app%3D{}", sample.name);
    let pods = lab.cluster()?.api.list(&path).await?;
    let mut found = BTreeSet::new();
    for (family, vip) in sample.vips.into_iter().enumerate() {
        let report = lab.clients.tcp(vip, LINE, 60).await?;
        report.ensure_flawless()?;
        for way in report.ways.keys() {
            let Some((peer, name)) = way.split_once(' ') else { continue };
            let host = EDGES.iter().position(|h| h.nat_addresses()[family].to_string() == peer);
            let pod = pods.iter().find(|pod| pod["metadata"]["name"] == name);
            let node = pod.and_then(|pod| pod["spec"]["nodeName"].as_str());
            let node = NODES.iter().position(|host| Some(host.name) == node);
            let (Some(host), Some(node)) = (host, node) else {
                anyhow::bail!("who is {way}?");
            };
            found.insert((host, node));
        }
    }
    Ok(found)
}

async fn zones(lab: &Lab, sample: &Sample) -> Result<()> {
    for (edge, zone) in lab.edges.iter().zip(["zone-1", "zone-2"]) {
        let mut config: Table = edge.read()?;
        if let Some(host) = config.get_mut("host").and_then(toml::Value::as_table_mut) {
            host.insert("zone".into(), zone.into());
        }
        edge.write(&config)?;
    }
    let all = BTreeSet::from([(0, 0), (0, 1), (1, 0), (1, 1)]);
    let own = BTreeSet::from([(0, 0), (1, 1)]);
    for (distribution, wanted) in [(json!("PreferSameZone"), own), (Value::Null, all)] {
        patched(lab, sample, json!({"trafficDistribution": distribution})).await?;
        eventually(SOON, "the hosts to choose by zone", async || {
            let found = ways(lab, sample).await?;
            ensure!(found == wanted, "with {distribution}: host and node are {found:?}");
            Ok(())
        })
        .await?;
    }
    patched(lab, sample, json!({"trafficDistribution": "PreferSameZone"})).await?;
    // Of two pods one is on each node: without the other, both hosts lead to what is left.
    sample.scale(lab, 1).await?;
    sample.settled(lab).await?;
    patched(lab, sample, json!({"trafficDistribution": null})).await
}
