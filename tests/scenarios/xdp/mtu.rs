//! Packets that are too large for a part of the way.
//!
//! ```text
//!  client ── router ── edge1 (XDP) ── node1, node2 ── b0 to b3
//!        (1)               (2)                   (3)
//! ```
//!
//! 1. A narrow link between the router and the client: the router's ICMP errors about answers
//!    reach the backend, and large answers get through.
//! 2. A narrow link between the nodes and their backends: the nodes' errors about the client's
//!    packets reach the client, and large uploads get through.
//! 3. A narrow route of the host itself: it tells the client.
//! 4. The same with every ICMP error to the client lost on its way: connections get through all
//!    the same, because segments are never made larger than the host's own routes.
//! 5. With IP-in-IP the way is narrower by a header: both directions carry large transfers.

use anyhow::{Context as _, Result, ensure};
use haflinger_tests::lab::echo_ports::BULK;
use haflinger_tests::lab::topology::{CLIENT, NODES, pod_networks};
use haflinger_tests::lab::{Kind, Line, Offer, Plan, VipBlock};

use super::{offer, reason};
use crate::scenarios::grounds::BACKENDS;
use crate::scenarios::runner::{Run, Scenario};

pub(super) const SCENARIO: Scenario<Line> = Scenario {
    name: "xdp-mtu",
    needs: (),
    claims: &[
        "errors about answers reach the backend",
        "errors about a client's packets reach the client",
        "a narrow route of the host is told to the client",
        "connections get through when errors are lost",
        "IP-in-IP leaves room for its header",
    ],
    run: |run| Box::pin(claims(run)),
};

/// Of a narrow link: above what IPv6 asks for, below what Ethernet has.
const NARROW: u32 = 1300;
/// What a transfer carries, in bytes.
const LENGTH: u64 = 2 * 1024 * 1024;
/// More than a transfer takes whose first packets are lost to errors.
const TRANSFER_MS_MAX: u64 = 20_000;

async fn claims(run: &mut Run<Line>) -> Result<()> {
    let nat = Offer::new("nat", VipBlock::Plain, 1, "nat").to(BACKENDS);
    let routed = Offer::new("routed", VipBlock::Plain, 2, "routed").to(BACKENDS);
    let dsr = Offer::new("dsr", VipBlock::Dsr, 1, "dsr").to(BACKENDS);
    offer(&run.lab, &[nat.clone(), routed.clone(), dsr.clone()]).await?;
    let rewritten = [&nat, &routed];

    run.claim(1, async |line| {
        link_mtu(line, "client", NARROW)?;
        let outcome = async {
            for offer in rewritten {
                let before = reason(line, "icmp_to_backend").unwrap_or(0.0);
                fetch(line, offer).await?;
                let told = reason(line, "icmp_to_backend")? - before;
                ensure!(told >= 1.0, "{}: no error reached a backend", offer.name);
            }
            Ok(())
        };
        let outcome = outcome.await;
        link_mtu(line, "client", 1500)?;
        outcome
    })
    .await;
    run.claim(2, async |line| {
        pods_mtu(line, NARROW)?;
        let outcome = async {
            for offer in rewritten {
                let before = reason(line, "icmp_to_client").unwrap_or(0.0);
                store(line, offer).await?;
                let told = reason(line, "icmp_to_client")? - before;
                // What the node says to the client in `routed` passes the host as any packet.
                ensure!(told >= 1.0, "{}: no error reached the client", offer.name);
            }
            Ok(())
        };
        let outcome = outcome.await;
        pods_mtu(line, 1500)?;
        outcome
    })
    .await;
    run.claim(3, async |line| {
        routes_mtu(line, NARROW)?;
        let outcome = told_by_host(line, &nat).await;
        routes_mtu(line, 1500)?;
        outcome
    })
    .await;
    run.claim(4, async |line| {
        routes_mtu(line, NARROW)?;
        lose_errors(line, true)?;
        let outcome = async {
            for offer in rewritten {
                store(line, offer).await?;
                fetch(line, offer).await?;
            }
            Ok(())
        };
        let outcome = outcome.await;
        lose_errors(line, false)?;
        routes_mtu(line, 1500)?;
        outcome
    })
    .await;
    run.claim(5, async |line| {
        store(line, &dsr).await?;
        fetch(line, &dsr).await
    })
    .await;
    Ok(())
}

async fn store(line: &Line, offer: &Offer) -> Result<()> {
    transfer(line, offer, &Kind::Store { length: LENGTH }).await
}

async fn fetch(line: &Line, offer: &Offer) -> Result<()> {
    transfer(line, offer, &Kind::Fetch { length: LENGTH }).await
}

/// Enough transfers over both families to meet several backends. Nobody remembers what a former
/// test taught about the way.
async fn transfer(line: &Line, offer: &Offer, kind: &Kind) -> Result<()> {
    forget_ways(line)?;
    for target in offer.targets(BULK) {
        let plan = Plan::connect(vec![target], 1).times(4).by(kind.clone());
        let plan = Plan { timeout_ms: TRANSFER_MS_MAX, ..plan };
        let report = line.clients.complete(&plan).await?;
        report.ensure_flawless().with_context(|| format!("{kind:?} to {target}"))?;
    }
    Ok(())
}

/// A datagram that may not be cut and is too large is answered by the host itself.
async fn told_by_host(line: &Line, nat: &Offer) -> Result<()> {
    let before = reason(line, "too_big").unwrap_or(0.0);
    forget_ways(line)?;
    for target in nat.targets(haflinger_tests::lab::echo_ports::LINE) {
        // The first is lost to the error; the client's kernel cuts the ones after it.
        let kind = Kind::Datagram { length: 1400 };
        let plan = Plan::connect(vec![target], 20).times(10).by(kind);
        let report = line.clients.complete(&Plan { timeout_ms: 1000, ..plan }).await?;
        ensure!(report.successes() >= 5, "{target}: {report:?}");
    }
    ensure!(reason(line, "too_big")? >= before + 2.0, "the host told nobody");
    Ok(())
}

/// Forgets what client and backends have learnt of the ways' widths.
fn forget_ways(line: &Line) -> Result<()> {
    let backends = BACKENDS.iter().map(|name| line.backend(name));
    let all = backends.chain([Ok(&line.network.client)]).chain(line.network.nodes.iter().map(Ok));
    for namespace in all {
        let namespace = namespace?;
        namespace.ip("route flush cache\n")?;
        namespace.ip6("route flush cache\n")?;
    }
    Ok(())
}

/// The router's link to the client.
fn link_mtu(line: &Line, device: &str, mtu: u32) -> Result<()> {
    line.network.router.ip(&format!("link set {device} mtu {mtu}\n"))
}

/// The nodes' links to their backends, as the nodes see them.
fn pods_mtu(line: &Line, mtu: u32) -> Result<()> {
    for node in &line.network.nodes {
        node.ip(&format!("link set pods mtu {mtu}\n"))?;
    }
    Ok(())
}

/// The host's routes to the backends. Locked, because a router takes no other MTU from a route.
fn routes_mtu(line: &Line, mtu: u32) -> Result<()> {
    for (index, node) in NODES.iter().enumerate() {
        for (network, via) in pod_networks(index).iter().zip(node.addresses()) {
            line.network.edges[0]
                .ip(&format!("route replace {network} via {via} mtu lock {mtu}\n"))?;
        }
    }
    Ok(())
}

/// Whether the router loses every ICMP packet to the client.
fn lose_errors(line: &Line, lose: bool) -> Result<()> {
    let verb = if lose { "add" } else { "del" };
    let (v4, v6) = CLIENT;
    let router = &line.network.router;
    router.ip(&format!("rule {verb} to {v4} ipproto icmp pref 10 blackhole\n"))?;
    router.ip6(&format!("rule {verb} to {v6} ipproto ipv6-icmp pref 10 blackhole\n"))
}
