//! Scenarios of the XDP data path, on a line: one Haflinger host between a client and backends.

mod checks;
mod fallback;
mod flood;
mod held;
mod modes;
mod mtu;
mod packets;
mod seeing;

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use anyhow::{Context as _, Result, ensure};
use haflinger_tests::lab::echo_ports::LINE;
use haflinger_tests::lab::{Kind, Line, Offer, Plan, Report, eventually};

use super::runner::Scenario;
use super::sample::{SOON, same_pods};

/// In the order in which they run.
pub(super) const ALL: &[Scenario<Line>] = &[
    modes::SCENARIO,
    packets::SCENARIO,
    seeing::SCENARIO,
    mtu::SCENARIO,
    checks::SCENARIO,
    held::SCENARIO,
    flood::SCENARIO,
    fallback::SCENARIO,
];

/// Enough for each of four backends to be missed by chance once in 10^11 runs.
const EXCHANGES: u64 = 100;

/// Puts these services and no others into the inventory, and waits until each is forwarded in its
/// mode to its backends.
async fn offer(line: &Line, offers: &[Offer]) -> Result<()> {
    line.offer(offers)?;
    let offers: Vec<&Offer> = offers.iter().collect();
    eventually(SOON, "the services to be as offered", async || as_offered(line, &offers)).await
}

/// Fails unless the status shows these services as they are offered.
fn as_offered(line: &Line, offers: &[&Offer]) -> Result<()> {
    let status = line.edge.status()?;
    let services = status["services"].as_array().context("no services in the status")?;
    for offer in offers {
        for vip in offer.vips {
            let of_vip: Vec<_> =
                services.iter().filter(|s| s["service"]["vip"] == vip.to_string()).collect();
            ensure!(!of_vip.is_empty(), "no service on {vip}");
            for service in of_vip {
                is_as_offered(service, offer)?;
            }
        }
    }
    Ok(())
}

fn is_as_offered(service: &serde_json::Value, offer: &Offer) -> Result<()> {
    ensure!(service["mode"] == offer.mode, "{service}: not {}", offer.mode);
    // Not before the data path holds it: here the router sends packets all the time.
    ensure!(service["announcement"] == "announced", "{service}: not announced");
    let backends = service["backends"].as_array().map_or(&[][..], Vec::as_slice);
    let active: BTreeSet<&str> = backends
        .iter()
        .filter(|backend| backend["state"] == "active")
        .filter_map(|backend| backend["name"].as_str())
        .collect();
    let wanted: BTreeSet<&str> = offer
        .backends
        .iter()
        .filter(|(_, weight)| **weight > 0)
        .map(|(name, _)| name.as_str())
        .collect();
    ensure!(active == wanted, "{}: active are {active:?}, want {wanted:?}", offer.name);
    Ok(())
}

/// Which part of the data path carried something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Path {
    Xdp,
    Relay,
}

/// New flows that each part of the data path has carried.
#[derive(Clone, Copy, Debug)]
struct Carried {
    xdp: f64,
    relay: f64,
}

impl Carried {
    fn now(line: &Line) -> Result<Self> {
        let xdp = reason(line, "forwarded_new").unwrap_or(0.0);
        // Nothing was counted before the first flow.
        let relay = line.edge.metric("haflinger_relay_flows_total", &[]).unwrap_or(0.0);
        Ok(Self { xdp, relay })
    }

    /// Waits until at least `flows` new flows are counted since then, of `path` alone.
    async fn since(self, line: &Line, path: Path, flows: u64) -> Result<()> {
        eventually(SOON, "the flows to be counted", async || self.is_by(line, path, flows)).await
    }

    /// Fails unless `path` alone carried `flows` new flows since then: a tenth fewer will do, since
    /// a port that comes again soon continues an old flow of UDP.
    fn is_by(self, line: &Line, path: Path, flows: u64) -> Result<()> {
        let flows = f64::from(u32::try_from(flows)?) * 0.9;
        let now = Self::now(line)?;
        let (xdp, relay) = (now.xdp - self.xdp, now.relay - self.relay);
        let (by, other) = if path == Path::Xdp { (xdp, relay) } else { (relay, xdp) };
        ensure!(
            by >= flows && other < 1.0,
            "XDP carried {xdp} flows and the relay {relay}; {path:?} should {flows}"
        );
        Ok(())
    }
}

/// Packets that left the XDP program for `reason`.
fn reason(line: &Line, reason: &str) -> Result<f64> {
    line.edge.metric("haflinger_xdp_packets_total", &[&format!("reason=\"{reason}\"")])
}

/// A report of `count` exchanges with every target.
async fn exchange(line: &Line, kind: &Kind, target: SocketAddr, count: u64) -> Result<Report> {
    let plan = Plan::connect(vec![target], 2).times(count).by(kind.clone());
    line.clients.complete(&plan).await
}

/// Exchanges lines over TCP, or datagrams over UDP, with both VIPs of a service: every backend
/// is reached, `path` carries it, and backends see the `peers`, IPv4 first.
async fn reaches(
    line: &Line,
    offer: &Offer,
    kind: &Kind,
    path: Path,
    peers: [IpAddr; 2],
) -> Result<()> {
    let wanted: BTreeSet<String> = offer.backends.keys().cloned().collect();
    for (target, peer) in offer.targets(LINE).into_iter().zip(peers) {
        let before = Carried::now(line)?;
        let report = exchange(line, kind, target, EXCHANGES).await?;
        report.ensure_flawless().with_context(|| format!("{kind:?} to {target}"))?;
        same_pods(&report, &wanted)?;
        let seen = report.peers.keys();
        ensure!(seen.eq([&peer.to_string()]), "backends saw {:?}, not {peer}", report.peers);
        before.since(line, path, EXCHANGES).await?;
    }
    Ok(())
}
