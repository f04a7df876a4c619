//! What Haflinger only talks to goes away and comes back: the data path does not notice.
//!
//! ```text
//!  client: new connections every few ms, ┐
//!          connections kept open         ┴─ router* ══ edge1, edge2 ── pods
//!                                            dns*, control plane*      (* restarted in turn)
//! ```
//!
//! 1. Restarting etcd and the API server loses no connection; later changes are followed.
//! 2. Restarting BIND loses none; later names are written.
//! 3. Restarting the router's BIRD loses none, new or kept; both sessions come back.
//! 4. With the API away, a host that is restarted serves from disk.
//! 5. When the API is back, changes are followed again.

use anyhow::{Result, ensure};
use haflinger_tests::lab::echo_ports::LINE;
use haflinger_tests::lab::manifests::{annotated, service};
use haflinger_tests::lab::topology::EDGES;
use haflinger_tests::lab::{Client, Lab, Plan, ZONE, eventually};

use super::grounds::Needs;
use super::runner::{Run, Scenario};
use super::sample::{HOSTNAME, SOON, Sample, established};

pub(crate) const SCENARIO: Scenario = Scenario {
    name: "outages",
    needs: Needs::Cluster,
    claims: &[
        "restarting the API server loses no connection",
        "restarting BIND loses no connection",
        "restarting the router's daemon loses no connection",
        "a host restarted without the API serves from disk",
        "changes are followed once the API is back",
    ],
    run: |run| Box::pin(claims(run)),
};

async fn claims(run: &mut Run) -> Result<()> {
    let sample = Sample::deploy(&run.lab, "outage", 3).await?;
    sample.settled(&run.lab).await?;

    run.claim(1, async |lab| {
        let load = Load::start(lab, &sample, "api")?;
        let plane = &mut lab.cluster_mut()?.plane;
        plane.kill_api();
        tokio::time::sleep(std::time::Duration::from_secs(2)).await;
        plane.resume_api().await?;
        // Scaling up, so that the connections that are kept may be kept.
        sample.scale(lab, 4).await?;
        sample.settled(lab).await?;
        load.finish().await
    })
    .await;
    run.claim(2, async |lab| {
        let load = Load::start(lab, &sample, "bind")?;
        lab.nameserver.restart().await?;
        let renamed = service(&sample.name, &sample.name);
        let host = format!("renamed.{ZONE}");
        lab.cluster()?.api.apply(&annotated(renamed, HOSTNAME, &host)).await?;
        eventually(SOON, "the new name", async || {
            let answers = lab.nameserver.answers(&host, "A")?;
            ensure!(answers == [sample.v4().to_string()], "BIND answers {answers:?}");
            Ok(())
        })
        .await?;
        load.finish().await
    })
    .await;
    run.claim(3, async |lab| {
        let load = Load::start(lab, &sample, "bird")?;
        lab.router.restart().await?;
        established(lab).await?;
        sample.routed(lab, 2).await?;
        sample.settled(lab).await?;
        load.finish().await
    })
    .await;
    run.claim(4, async |lab| {
        lab.cluster_mut()?.plane.kill_api();
        from_disk(lab, &sample).await
    })
    .await;
    run.claim(5, async |lab| {
        lab.cluster_mut()?.plane.resume_api().await?;
        sample.scale(lab, 2).await?;
        sample.settled(lab).await
    })
    .await;
    sample.remove(&run.lab).await
}

/// Restarts each host while the API is away, and has it carry flows alone.
async fn from_disk(lab: &mut Lab, sample: &Sample) -> Result<()> {
    for (index, host) in EDGES.iter().enumerate() {
        lab.edges[index].stop().await?;
        sample.routed(lab, 1).await?;
        lab.edges[index].start().await?;
        sample.routed(lab, 2).await?;
        // The other one steps back, so that every exchange is carried by the restarted host.
        lab.edges[1 - index].stop().await?;
        sample.routed(lab, 1).await?;
        for (family, vip) in sample.vips.into_iter().enumerate() {
            let report = lab.clients.tcp(vip, LINE, 40).await?;
            report.ensure_flawless()?;
            let wanted = host.nat_addresses()[family].to_string();
            ensure!(report.peers.keys().eq([&wanted]), "pods saw {:?}", report.peers);
            ensure!(report.pods.len() > 1, "only {:?} answered", report.pods);
        }
        lab.edges[1 - index].start().await?;
        sample.routed(lab, 2).await?;
    }
    Ok(())
}

/// New connections and kept ones, of which none may fail.
struct Load {
    fresh: Client,
    held: Client,
}

impl Load {
    fn start(lab: &Lab, sample: &Sample, name: &str) -> Result<Self> {
        let targets = sample.targets();
        let fresh = Plan::connect(targets.clone(), 5);
        Ok(Self {
            fresh: lab.clients.start(&format!("outage-{name}"), &fresh)?,
            held: lab.clients.start(&format!("outage-{name}-held"), &Plan::hold(targets, 12))?,
        })
    }

    async fn finish(self) -> Result<()> {
        let (fresh, held) = (self.fresh.stop().await?, self.held.stop().await?);
        fresh.ensure_flawless()?;
        held.ensure_flawless()
    }
}
