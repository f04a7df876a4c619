//! A Service gets a VIP, and the bytes reach its pods.
//!
//! ```text
//!  client ── router ══ edge1, edge2 ── node1, node2 ── three ready pods, one that is not
//!            (ECMP)                 dns, control plane
//! ```
//!
//! 1. The status names one address of each family, from the pool, with the mode of a proxy.
//! 2. BIRD and the router's kernel have a host route to each by way of both hosts.
//! 3. BIND answers the annotated name with both, and the zone says who owns them.
//! 4. Over TCP and IPv4 the client reaches every ready pod and only those.
//! 5. So it does over TCP and IPv6,
//! 6. over UDP and IPv4,
//! 7. and over UDP and IPv6.
//! 8. Both hosts carry flows by XDP, and pods see them as peers: nothing stands in between.
//! 9. A pod that becomes ready again is reached again.
//! 10. Both hosts hold the VIPs on their own interface, and a route to every node's pods.
//! 11. In mode `proxy` the relay of both hosts reaches the same pods, over TCP and UDP.
//! 12. When the Service goes, so do routes, addresses and records.

use std::net::IpAddr;

use anyhow::{Result, ensure};
use haflinger_tests::lab::echo_ports::{LINE, READY};
use haflinger_tests::lab::manifests::{annotated, core, service};
use haflinger_tests::lab::topology::{EDGES, NODES, POOL_NETWORKS, pod_networks};
use haflinger_tests::lab::{Lab, Report, ZONE, eventually};
use ipnet::IpNet;
use reqwest::Method;
use serde_json::Value;

use super::grounds::Needs;
use super::runner::{Run, Scenario};
use super::sample::{HOSTNAME, MODE, SOON, Sample, same_pods};

pub(crate) const SCENARIO: Scenario = Scenario {
    name: "service",
    needs: Needs::Cluster,
    claims: &[
        "the status names one address of each family",
        "the router has each VIP by way of both hosts",
        "BIND answers with both addresses",
        "TCP over IPv4 reaches every ready pod and only those",
        "TCP over IPv6 reaches every ready pod and only those",
        "UDP over IPv4 reaches every ready pod and only those",
        "UDP over IPv6 reaches every ready pod and only those",
        "both hosts carry flows straight to the pods",
        "a pod that becomes ready again is reached again",
        "hosts hold the VIPs and routes to the pods",
        "the relay reaches the same pods in mode proxy",
        "a deleted Service leaves nothing",
    ],
    run: |run| Box::pin(claims(run)),
};

/// Enough for each of four pods to be missed by chance once in 10^11 runs.
const EXCHANGES: u64 = 100;

async fn claims(run: &mut Run) -> Result<()> {
    let sample = Sample::deploy(&run.lab, "shop", 4).await?;
    let unready = set_unready(&run.lab, &sample).await?;
    run.claim(1, async |lab| status_names_addresses(lab, &sample).await).await;
    run.claim(2, async |lab| router_has_both(lab, &sample).await).await;
    run.claim(3, async |lab| bind_answers(lab, &sample).await).await;
    run.claim(4, async |lab| reaches(lab, &sample, Speak::Tcp, sample.v4()).await).await;
    run.claim(5, async |lab| reaches(lab, &sample, Speak::Tcp, sample.v6()).await).await;
    run.claim(6, async |lab| reaches(lab, &sample, Speak::Udp, sample.v4()).await).await;
    run.claim(7, async |lab| reaches(lab, &sample, Speak::Udp, sample.v6()).await).await;
    run.claim(8, async |lab| both_hosts_carry(lab, &sample).await).await;
    run.claim(9, async |lab| {
        set_ready(lab, &unready, true).await?;
        sample.scaled(lab, 4).await?;
        sample.settled(lab).await
    })
    .await;
    run.claim(10, async |lab| hosts_hold(lab, &sample)).await;
    run.claim(11, async |lab| relayed(lab, &sample).await).await;
    run.claim(12, async |lab| {
        sample.remove(lab).await?;
        nothing_left(lab, &sample).await
    })
    .await;
    Ok(())
}

enum Speak {
    Tcp,
    Udp,
}

async fn exchange(lab: &Lab, speak: &Speak, vip: IpAddr, count: u64) -> Result<Report> {
    match speak {
        Speak::Tcp => lab.clients.tcp(vip, LINE, count).await,
        Speak::Udp => lab.clients.udp(vip, LINE, count).await,
    }
}

async fn reaches(lab: &Lab, sample: &Sample, speak: Speak, vip: IpAddr) -> Result<()> {
    let wanted = sample.pods(lab).await?;
    ensure!(wanted.len() == 3, "the scenario wants three ready pods: {wanted:?}");
    let report = exchange(lab, &speak, vip, EXCHANGES).await?;
    report.ensure_flawless()?;
    same_pods(&report, &wanted)
}

/// Makes one pod of the sample unready, and waits until no new connection reaches it.
async fn set_unready(lab: &Lab, sample: &Sample) -> Result<Pod> {
    let path = "/api/v1/namespaces/default/pods?labelSelector=app%3Dshop";
    let pods = lab.cluster()?.api.list(path).await?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let pod = Pod { address: text(&pods[0]["status"]["podIP"]) };
    set_ready(lab, &pod, false).await?;
    eventually(SOON, "the pod to be unready", async || {
        ensure!(sample.pods(lab).await?.len() == 3, "all are ready");
        Ok(())
    })
    .await?;
    sample.settled(lab).await?;
    Ok(pod)
}

struct Pod {
    address: String,
}

async fn set_ready(lab: &Lab, pod: &Pod, ready: bool) -> Result<()> {
    let url = format!("http://{}:{READY}/ready/{ready}", pod.address);
    let (status, _) = lab.cluster()?.api.fetch(Method::POST, &url).await?;
    ensure!(status.is_success(), "{url}: {status}");
    Ok(())
}

async fn status_names_addresses(lab: &Lab, sample: &Sample) -> Result<()> {
    for (vip, pool) in sample.vips.iter().zip(POOL_NETWORKS) {
        let pool: IpNet = pool.parse()?;
        ensure!(pool.contains(vip), "{vip} is not of the pool {pool}");
    }
    let object = lab.cluster()?.api.get(&core("services", &sample.name)).await?;
    let ingress = object["status"]["loadBalancer"]["ingress"].as_array().cloned();
    let modes: Vec<Value> =
        ingress.unwrap_or_default().iter().map(|entry| entry["ipMode"].clone()).collect();
    ensure!(modes == ["Proxy", "Proxy"], "ipMode is {modes:?}");
    Ok(())
}

async fn router_has_both(lab: &Lab, sample: &Sample) -> Result<()> {
    sample.routed(lab, 2).await?;
    for (family, vip) in sample.vips.iter().enumerate() {
        let mut wanted: Vec<IpAddr> = EDGES.iter().map(|host| host.addresses()[family]).collect();
        wanted.sort();
        let bird = lab.router.next_hops(*vip)?;
        ensure!(bird == wanted, "BIRD has {vip} via {bird:?}, want {wanted:?}");
        let kernel = lab.router.kernel_next_hops(*vip)?;
        ensure!(kernel == wanted, "the kernel has {vip} via {kernel:?}, want {wanted:?}");
    }
    Ok(())
}

async fn bind_answers(lab: &Lab, sample: &Sample) -> Result<()> {
    for (kind, vip) in ["A", "AAAA"].iter().zip(sample.vips) {
        eventually(SOON, "the record", async || {
            let answers = lab.nameserver.answers(&sample.host(), kind)?;
            ensure!(answers == [vip.to_string()], "{kind}: {answers:?}, want {vip}");
            Ok(())
        })
        .await?;
    }
    let owned = lab.nameserver.answers(ZONE, "AXFR")?;
    let owner = "heritage=external-dns,external-dns/owner=lab";
    ensure!(
        owned.iter().any(|line| line.contains(&sample.name) && line.contains(owner)),
        "no TXT record with {owner}: {owned:#?}"
    );
    Ok(())
}

async fn both_hosts_carry(lab: &Lab, sample: &Sample) -> Result<()> {
    for (family, vip) in sample.vips.into_iter().enumerate() {
        let report = lab.clients.tcp(vip, LINE, EXCHANGES).await?;
        let peers: Vec<IpAddr> =
            report.peers.keys().map(|peer| peer.parse()).collect::<Result<_, _>>()?;
        let wanted = EDGES.map(|host| host.nat_addresses()[family]);
        ensure!(peers == wanted, "pods saw {peers:?}, want {wanted:?}");
    }
    Ok(())
}

fn hosts_hold(lab: &Lab, sample: &Sample) -> Result<()> {
    for edge in &lab.edges {
        let bound = edge.bound_addresses()?;
        for vip in sample.vips {
            ensure!(bound.contains(&format!(" {vip}/")), "{} lacks {vip}: {bound}", edge.name());
        }
        let routes = edge.own_routes()?;
        for (index, node) in NODES.iter().enumerate() {
            for (network, via) in pod_networks(index).iter().zip(node.addresses()) {
                let route = format!("{network} via {via} ");
                ensure!(routes.contains(&route), "{} lacks {route}: {routes}", edge.name());
            }
        }
    }
    Ok(())
}

async fn relayed(lab: &Lab, sample: &Sample) -> Result<()> {
    let asked = annotated(service(&sample.name, &sample.name), HOSTNAME, &sample.host());
    lab.cluster()?.api.apply(&annotated(asked, MODE, "proxy")).await?;
    let wanted = sample.pods(lab).await?;
    for (family, vip) in sample.vips.into_iter().enumerate() {
        let peers = EDGES.map(|host| host.addresses()[family].to_string());
        for speak in [Speak::Tcp, Speak::Udp] {
            eventually(SOON, "the relay to carry new flows", async || {
                let report = exchange(lab, &speak, vip, EXCHANGES).await?;
                report.ensure_flawless()?;
                same_pods(&report, &wanted)?;
                ensure!(report.peers.keys().eq(&peers), "pods saw {:?}", report.peers);
                Ok(())
            })
            .await?;
        }
    }
    Ok(())
}

async fn nothing_left(lab: &Lab, sample: &Sample) -> Result<()> {
    sample.routed(lab, 0).await?;
    eventually(SOON, "addresses and records to go", async || {
        for edge in &lab.edges {
            let bound = edge.bound_addresses()?;
            for vip in sample.vips {
                ensure!(!bound.contains(&format!(" {vip}/")), "{} has {vip}", edge.name());
            }
        }
        for kind in ["A", "AAAA"] {
            let answers = lab.nameserver.answers(&sample.host(), kind)?;
            ensure!(answers.is_empty(), "BIND still answers {answers:?}");
        }
        let zone = lab.nameserver.answers(ZONE, "AXFR")?;
        ensure!(!zone.iter().any(|line| line.contains(&sample.name)), "the zone has {zone:#?}");
        Ok(())
    })
    .await
}
