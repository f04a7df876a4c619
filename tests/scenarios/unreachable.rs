//! Pods that a host cannot reach are served through the ports of nodes, and by themselves again.
//!
//! ```text
//!  client ── router ══ edge1, edge2 ──x── pods of node1 and node2
//!                                  └───── ports of node1 and node2 ── pods
//! ```
//!
//! The nodes let nothing from the hosts through to pods but what came to a node port, which each
//! leads to all pods of the Service, as kube-proxy does (here: nftables).
//!
//! 1. While pods are reached, connections go straight to them, and the status says so.
//! 2. Once nothing gets to them, both hosts lead to the nodes' ports: over TCP and UDP, in both
//!    families, without a failure.
//! 3. Status, fault and event say which Service it is, and what to do.
//! 4. A node that is excluded from external load balancers is left out, until it is no more.
//! 5. With `externalTrafficPolicy: Local` each node stands in for its own pods, and for no others.
//! 6. A Service that asks for pods alone is led to pods alone.
//! 7. When the way is back, so are both hosts, by themselves.
//! 8. Connections that were open before live on, and so do those through the nodes.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use haflinger_tests::lab::echo_ports::LINE;
use haflinger_tests::lab::manifests::{annotated, service};
use haflinger_tests::lab::topology::{EDGES, NODES, pod_networks};
use haflinger_tests::lab::{Client, Lab, Namespace, Plan, Report, eventually};
use ipnet::IpNet;
use serde_json::{Value, json};

use super::grounds::Needs;
use super::runner::{Run, Scenario};
use super::sample::{SOON, Sample, event, fault, same_pods};

pub(crate) const SCENARIO: Scenario = Scenario {
    name: "unreachable",
    needs: Needs::Cluster,
    claims: &[
        "pods that are reached are sent to directly",
        "nodes' ports stand in for pods that are not",
        "status and event say so",
        "an excluded node is left out",
        "with Local each node stands in for its own pods",
        "a Service may ask for pods alone",
        "both hosts return to the pods by themselves",
        "connections survive on both ways",
    ],
    run: |run| Box::pin(claims(run)),
};

/// What the ports of the Service are called at the nodes.
const NODE_PORTS: [(&str, u16); 2] = [("tcp", 30_700), ("udp", 30_701)];

/// Longer than a client waits until it repeats itself, when it has been cut off for as long as these
/// claims take.
const PATIENCE: Duration = Duration::from_secs(100);

/// Enough for each of two pods to be missed by chance once in 10^12 runs.
const EXCHANGES: u64 = 40;

const EXCLUDED: &str = "node.kubernetes.io/exclude-from-external-load-balancers";
const TARGETS: &str = "haflinger.dev/targets";

async fn claims(run: &mut Run) -> Result<()> {
    let sample = Sample::deploy_as(&run.lab, 2, on_nodes()).await?;
    for node in &run.lab.network.nodes {
        load(&run.lab, node, TABLE)?;
    }
    lead_ports(&run.lab, &sample, false).await?;
    run.claim(1, async |lab| led(lab, &sample, (0, 0)).await).await;
    let mut held = hold(&run.lab, &sample, "straight").await?;
    cut(&run.lab, true)?;
    run.claim(2, async |lab| {
        led(lab, &sample, (2, 2)).await?;
        let report = exchanges(lab, &sample).await?;
        ensure!(report.peers.keys().all(|peer| is_of_node(peer)), "came by {:?}", report.peers);
        Ok(())
    })
    .await;
    run.claim(3, async |lab| told(lab, &sample).await).await;
    held.extend(hold(&run.lab, &sample, "by-nodes").await?);
    run.claim(4, async |lab| {
        exclude(lab, true).await?;
        led(lab, &sample, (1, 2)).await?;
        exchanges(lab, &sample).await?;
        exclude(lab, false).await?;
        led(lab, &sample, (2, 2)).await
    })
    .await;
    run.claim(5, async |lab| local_traffic(lab, &sample).await).await;
    run.claim(6, async |lab| {
        let api = &lab.cluster()?.api;
        api.apply(&annotated(on_nodes(), TARGETS, "pods")).await?;
        led(lab, &sample, (0, 0)).await?;
        api.apply(&annotated(on_nodes(), TARGETS, "auto")).await?;
        led(lab, &sample, (2, 2)).await
    })
    .await;
    cut(&run.lab, false)?;
    run.claim(7, async |lab| {
        led(lab, &sample, (0, 0)).await?;
        let report = exchanges(lab, &sample).await?;
        ensure!(!report.peers.keys().any(|peer| is_of_node(peer)), "came by {:?}", report.peers);
        Ok(())
    })
    .await;
    run.claim(8, async |_| survive(held).await).await;
    for node in &run.lab.network.nodes {
        node.output("nft", &["delete", "table", "inet", "lab"])?;
    }
    sample.remove(&run.lab).await
}

async fn local_traffic(lab: &Lab, sample: &Sample) -> Result<()> {
    let following = |policy: &str| {
        let mut service = on_nodes();
        service["spec"]["externalTrafficPolicy"] = policy.into();
        service
    };
    lead_ports(lab, sample, true).await?;
    exclude(lab, true).await?;
    lab.cluster()?.api.apply(&following("Local")).await?;
    led(lab, sample, (1, 1)).await?;
    exclude(lab, false).await?;
    led(lab, sample, (2, 2)).await?;
    let report = exchanges(lab, sample).await?;
    // A node remembers UDP for two minutes, and what comes from the same port goes the same way.
    let by_nodes = report.peers.iter().filter(|(peer, _)| is_of_node(peer));
    let by_nodes: u64 = by_nodes.map(|(_, count)| count).sum();
    ensure!(by_nodes < EXCHANGES / 4, "came by {:?}", report.peers);
    lead_ports(lab, sample, false).await?;
    lab.cluster()?.api.apply(&following("Cluster")).await?;
    led(lab, sample, (2, 2)).await
}

/// Waits until each connection has gone on for a while, and ends it.
async fn survive(held: Vec<Client>) -> Result<()> {
    for client in held {
        let lines = client.progress()?.lines;
        eventually(PATIENCE, "the connection to go on", async || {
            let progress = client.progress()?;
            ensure!(progress.open == 1 && progress.lines > lines + 20, "{progress:?}");
            Ok(())
        })
        .await?;
        client.stop().await?.ensure_flawless()?;
    }
    Ok(())
}

/// A Service with node ports, chosen here.
fn on_nodes() -> Value {
    let mut service = service("far", "far");
    service["spec"]["allocateLoadBalancerNodePorts"] = true.into();
    let [(_, tcp), (_, udp)] = NODE_PORTS;
    service["spec"]["ports"] = json!([
        {"name": "line", "port": LINE, "targetPort": "line", "protocol": "TCP", "nodePort": tcp},
        {"name": "line-udp", "port": LINE, "targetPort": "line-udp", "protocol": "UDP",
         "nodePort": udp},
    ]);
    service
}

/// Where rules are kept at a node.
const TABLE: &str = "table inet lab {
chain prerouting { type nat hook prerouting priority dstnat
}
chain postrouting { type nat hook postrouting priority srcnat
}
chain forward { type filter hook forward priority filter
}
}
";

/// Leads the node ports as kube-proxy does: from both nodes to all pods, with the node's own
/// address as the source; or, for `local` traffic, to the node's own pods, which see who sends.
async fn lead_ports(lab: &Lab, sample: &Sample, local: bool) -> Result<()> {
    let all = pod_addresses(lab, sample).await?;
    for (index, node) in lab.network.nodes.iter().enumerate() {
        let mut rules =
            "flush chain inet lab prerouting\nflush chain inet lab postrouting\n".to_owned();
        if !local {
            rules += "add rule inet lab postrouting ct status dnat masquerade\n";
        }
        let own: Vec<IpNet> =
            pod_networks(index).iter().map(|network| network.parse()).collect::<Result<_, _>>()?;
        let leads = |pod: &&IpAddr| !local || own.iter().any(|network| network.contains(*pod));
        for (protocol, port) in NODE_PORTS {
            for (family, pods) in [("ip", &all[0]), ("ip6", &all[1])] {
                let pods: Vec<&IpAddr> = pods.iter().filter(leads).collect();
                for (at, pod) in pods.iter().enumerate() {
                    let (left, to) = (pods.len() - at, SocketAddr::new(**pod, LINE));
                    rules += &format!(
                        "add rule inet lab prerouting fib daddr type local {protocol} dport {port} \
                         numgen random mod {left} == 0 dnat {family} to {to}\n",
                    );
                }
            }
        }
        load(lab, node, &rules)?;
    }
    Ok(())
}

/// Lets nothing from the hosts through to pods but what came to a node port, or lets all through.
fn cut(lab: &Lab, cut: bool) -> Result<()> {
    let mut rules = "flush chain inet lab forward\n".to_owned();
    if cut {
        let hosts = |v4: bool| {
            let addresses = EDGES
                .iter()
                .flat_map(|edge| edge.addresses().into_iter().chain(edge.nat_addresses()));
            let addresses = addresses.filter(|address| address.is_ipv4() == v4);
            addresses.map(|address| address.to_string()).collect::<Vec<_>>().join(", ")
        };
        for (family, v4) in [("ip", true), ("ip6", false)] {
            rules += &format!(
                "add rule inet lab forward {family} saddr {{ {} }} ct status & dnat == 0 drop\n",
                hosts(v4)
            );
        }
    }
    lab.network.nodes.iter().try_for_each(|node| load(lab, node, &rules))
}

fn load(lab: &Lab, node: &Namespace, rules: &str) -> Result<()> {
    let file = lab.place.path(format!("{}.nft", node.name()));
    std::fs::write(&file, rules)?;
    node.output("nft", &["-f", &file.to_string_lossy()]).map(drop)
}

/// Addresses of the pods, by family.
async fn pod_addresses(lab: &Lab, sample: &Sample) -> Result<[Vec<IpAddr>; 2]> {
    let path = format!("/api/v1/namespaces/default/pods?labelSelector=app%3D{}", sample.name);
    let mut found = [Vec::new(), Vec::new()];
    for pod in lab.cluster()?.api.list(&path).await? {
        for entry in pod["status"]["podIPs"].as_array().context("a pod without addresses")? {
            let address = entry["ip"].as_str().context("an address that is no text")?;
            let address: IpAddr = address.parse()?;
            found[usize::from(address.is_ipv6())].push(address);
        }
    }
    ensure!(found.iter().all(|pods| pods.len() == 2), "two pods of both families: {found:?}");
    Ok(found)
}

/// Waits until on both hosts so many nodes' ports stand in for so many pods, for every port of the
/// Service.
async fn led(lab: &Lab, sample: &Sample, (nodes, pods): (u64, u64)) -> Result<()> {
    for edge in &lab.edges {
        eventually(SOON, "the host to lead flows as it should", async || {
            let status = edge.status()?;
            let services = status["services"].as_array().context("no services")?;
            let vips: BTreeSet<String> = sample.vips.iter().map(ToString::to_string).collect();
            let ours = services
                .iter()
                .filter(|s| s["service"]["vip"].as_str().is_some_and(|vip| vips.contains(vip)));
            let fallbacks: Vec<&Value> = ours.map(|service| &service["fallback"]).collect();
            ensure!(fallbacks.len() == 4, "{}: {} services", edge.name(), fallbacks.len());
            for fallback in fallbacks {
                let as_wanted = fallback["node_ports"] == nodes && fallback["unreachable"] == pods;
                ensure!(as_wanted, "{}: {fallback}", edge.name());
            }
            Ok(())
        })
        .await?;
    }
    Ok(())
}

/// Exchanges over TCP and UDP, in both families, none of which may fail.
async fn exchanges(lab: &Lab, sample: &Sample) -> Result<Report> {
    let wanted = sample.pods(lab).await?;
    let mut all = Report::default();
    for vip in sample.vips {
        let tcp = lab.clients.tcp(vip, LINE, EXCHANGES).await?;
        let udp = lab.clients.udp(vip, LINE, EXCHANGES).await?;
        for report in [tcp, udp] {
            report.ensure_flawless().with_context(|| format!("to {vip}"))?;
            same_pods(&report, &wanted)?;
            for (peer, count) in report.peers {
                *all.peers.entry(peer).or_default() += count;
            }
        }
    }
    Ok(all)
}

/// Whether a peer that a pod saw is a node: by its own address, or that of its bridge.
fn is_of_node(peer: &str) -> bool {
    let Ok(peer) = peer.parse() else { return false };
    let is_bridge = (0..NODES.len())
        .flat_map(pod_networks)
        .any(|network| network.parse().is_ok_and(|network: IpNet| network.contains(&peer)));
    is_bridge || NODES.iter().any(|node| node.addresses().contains(&peer))
}

async fn told(lab: &Lab, sample: &Sample) -> Result<()> {
    for (index, edge) in lab.edges.iter().enumerate() {
        let message = fault(lab, index, &sample.name, "PodsUnreachable").await?;
        ensure!(message.contains("stand in"), "{message}");
        ensure!(edge.metric("haflinger_core_fallback", &["of=\"targets\""])? >= 4.0);
        let reach = edge.status()?["reach"]["unreached"].as_array().map_or(0, Vec::len);
        ensure!(reach == 4, "{}: {reach} addresses are not reached", edge.name());
    }
    let note = event(lab, &sample.name, "PodsUnreachable").await?;
    ensure!(note.contains("stand in") && note.contains(TARGETS), "{note}");
    Ok(())
}

async fn exclude(lab: &Lab, excluded: bool) -> Result<()> {
    let label = if excluded { json!("") } else { Value::Null };
    let patch = json!({"metadata": {"labels": {EXCLUDED: label}}});
    lab.cluster()?.api.merge(&format!("/api/v1/nodes/{}", NODES[1].name), &patch).await?;
    Ok(())
}

/// Opens a connection to each VIP that is kept open, by a client of its own.
async fn hold(lab: &Lab, sample: &Sample, name: &str) -> Result<Vec<Client>> {
    let mut held = Vec::new();
    for (at, target) in sample.targets().into_iter().enumerate() {
        let timeout_ms = u64::try_from(PATIENCE.as_millis())?;
        let plan = Plan { timeout_ms, ..Plan::hold(vec![target], 1) };
        let client = lab.clients.start(&format!("{name}-{at}"), &plan)?;
        eventually(SOON, "the connection to be open", async || {
            let progress = client.progress()?;
            ensure!(progress.open == 1 && progress.lines > 0, "{progress:?}");
            Ok(())
        })
        .await?;
        held.push(client);
    }
    Ok(held)
}
