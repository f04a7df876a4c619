//! The status is the record, and what is foreign stays.
//!
//! ```text
//!  router ══ edge1, edge2 (one of them elected) ── pods
//!            dns: foreign.lab.example          control plane: the Lease
//! ```
//!
//! 1. When the leader stops, the other is elected, and the address does not move.
//! 2. The new leader assigns addresses.
//! 3. After both restarted the address is still the same.
//! 4. A record that Haflinger did not write survives, even when a Service asks for its name.
//! 5. Routes and addresses on the hosts that are not Haflinger's survive its stop and start.
//! 6. A pod route that somebody removed comes back.

use anyhow::{Context as _, Result, ensure};
use haflinger_tests::lab::manifests::{annotated, service};
use haflinger_tests::lab::topology::{NODES, pod_networks};
use haflinger_tests::lab::{Edge, FOREIGN_RECORD, Lab, eventually};

use super::grounds::Needs;
use super::runner::{Run, Scenario};
use super::sample::{HOSTNAME, SOON, Sample, assigned};

pub(crate) const SCENARIO: Scenario = Scenario {
    name: "record",
    needs: Needs::Cluster,
    claims: &[
        "the address stays when the leader changes",
        "the new leader assigns addresses",
        "the address stays when both hosts restart",
        "a foreign record survives",
        "foreign routes and addresses survive",
        "a pod route that was removed comes back",
    ],
    run: |run| Box::pin(claims(run)),
};

/// A route on the host that is none of Haflinger's business.
const FOREIGN_ROUTE: &str = "198.51.100.0/24";
/// An address on the interface of the VIPs that is none of Haflinger's business.
const FOREIGN_ADDRESS: &str = "192.0.2.99/32";

async fn claims(run: &mut Run) -> Result<()> {
    let sample = Sample::deploy(&run.lab, "record", 1).await?;
    let second = service("record-second", &sample.name);

    run.claim(1, async |lab| {
        let leader = leader(lab).await?;
        lab.edges[leader].stop().await?;
        eventually(SOON, "the other host to be elected", async || {
            ensure!(leads(&lab.edges[1 - leader])?, "it is not");
            Ok(())
        })
        .await?;
        sample.routed(lab, 1).await?;
        unmoved(lab, &sample).await
    })
    .await;
    run.claim(2, async |lab| {
        lab.cluster()?.api.apply(&second).await?;
        let vips = assigned(lab, "record-second").await?;
        ensure!(vips.iter().all(|vip| !sample.vips.contains(vip)), "{vips:?} is given twice");
        Ok(())
    })
    .await;
    run.claim(3, async |lab| {
        for edge in &mut lab.edges {
            edge.stop().await?;
        }
        for edge in &mut lab.edges {
            edge.start().await?;
        }
        sample.routed(lab, 2).await?;
        leader(lab).await?;
        unmoved(lab, &sample).await?;
        sample.settled(lab).await
    })
    .await;
    run.claim(4, async |lab| foreign_record(lab, &sample).await).await;
    run.claim(5, async |lab| foreign_on_host(lab, &sample).await).await;
    run.claim(6, async |lab| route_returns(lab).await).await;
    let api = &run.lab.cluster()?.api;
    api.delete(&haflinger_tests::lab::manifests::core("services", "record-second")).await?;
    sample.remove(&run.lab).await
}

fn leads(edge: &Edge) -> Result<bool> {
    Ok(edge.metric("haflinger_report_leader", &[])? > 0.0)
}

/// Number of the elected host, once exactly one says that it is.
async fn leader(lab: &Lab) -> Result<usize> {
    eventually(SOON, "one elected host", async || {
        let leading = [leads(&lab.edges[0])?, leads(&lab.edges[1])?];
        ensure!(leading[0] != leading[1], "leading: {leading:?}");
        Ok(usize::from(leading[1]))
    })
    .await
}

async fn unmoved(lab: &Lab, sample: &Sample) -> Result<()> {
    let now = assigned(lab, &sample.name).await?;
    ensure!(now == sample.vips, "the status holds {now:?}, it was {:?}", sample.vips);
    Ok(())
}

async fn foreign_record(lab: &Lab, sample: &Sample) -> Result<()> {
    let (name, address) = FOREIGN_RECORD;
    let names = format!("{name},wanted.lab.example");
    let greedy = annotated(service(&sample.name, &sample.name), HOSTNAME, &names);
    lab.cluster()?.api.apply(&greedy).await?;
    eventually(SOON, "the other name", async || {
        let answers = lab.nameserver.answers("wanted.lab.example", "A")?;
        ensure!(answers == [sample.v4().to_string()], "BIND answers {answers:?}");
        Ok(())
    })
    .await?;
    let writer = leader(lab).await?;
    eventually(SOON, "the status to name the conflict", async || {
        let status = lab.edges[writer].status()?;
        let records = status["dns"]["records"].as_array().context("no DNS records")?;
        let bare = |record: &serde_json::Value| {
            record["name"].as_str().unwrap_or_default().trim_end_matches('.').to_owned()
        };
        let record = records.iter().find(|record| bare(record) == name && record["kind"] == "A");
        let record = record.with_context(|| format!("{name} is not in {records:?}"))?;
        ensure!(record["state"] == "conflict", "the record is {record}");
        Ok(())
    })
    .await?;
    let answers = lab.nameserver.answers(name, "A")?;
    ensure!(answers == [address], "the foreign record became {answers:?}");
    Ok(())
}

async fn foreign_on_host(lab: &mut Lab, sample: &Sample) -> Result<()> {
    let via = NODES[0].v4();
    lab.edges[0].namespace().ip(&format!(
        "route add {FOREIGN_ROUTE} via {via} proto static\n\
         addr add {FOREIGN_ADDRESS} dev lo\n"
    ))?;
    let look = |lab: &Lab, when: &str| -> Result<()> {
        let routes = lab.edges[0].namespace().output("ip", &["route", "show"])?;
        ensure!(routes.contains(FOREIGN_ROUTE), "{when}: {routes}");
        let bound = lab.edges[0].bound_addresses()?;
        ensure!(bound.contains(FOREIGN_ADDRESS), "{when}: {bound}");
        Ok(())
    };
    lab.edges[0].stop().await?;
    look(lab, "after the stop")?;
    let bound = lab.edges[0].bound_addresses()?;
    ensure!(!bound.contains(&format!(" {}/", sample.v4())), "a VIP is left: {bound}");
    lab.edges[0].start().await?;
    sample.routed(lab, 2).await?;
    look(lab, "after the start")?;
    lab.edges[0]
        .namespace()
        .ip(&format!("route del {FOREIGN_ROUTE}\naddr del {FOREIGN_ADDRESS} dev lo\n"))
}

async fn route_returns(lab: &Lab) -> Result<()> {
    let [network, _] = pod_networks(0);
    lab.edges[0].namespace().ip(&format!("route del {network}\n"))?;
    eventually(SOON, "the route to come back", async || {
        let routes = lab.edges[0].own_routes()?;
        ensure!(routes.contains(&network), "{routes}");
        Ok(())
    })
    .await
}
