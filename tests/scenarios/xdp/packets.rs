//! Packets other than those of a connection that goes well.
//!
//! ```text
//!  client ── router ── edge1 (XDP) ── node1, node2 ── b0 to b3
//! ```
//!
//! 1. An echo request to a VIP is answered, over both families.
//! 2. Datagrams of 4,000 bytes travel in fragments, both ways, in every mode.
//! 3. A connection to a port on which a backend does not listen is refused at once, in every mode.
//! 4. So is a datagram: the backend's ICMP error reaches the client's socket.
//! 5. A connection to a port of a VIP that no service has is refused at once.
//! 6. A connection of which the host knows nothing more is reset, not left to hang.
//! 7. A client outside of the source ranges is not answered; one inside is served.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, ensure};
use haflinger_tests::lab::echo_ports::{CLOSED, LINE};
use haflinger_tests::lab::{Kind, Line, Offer, Plan, VipBlock, eventually};

use super::{EXCHANGES, exchange, offer, reason};
use crate::scenarios::grounds::BACKENDS;
use crate::scenarios::runner::{Run, Scenario};
use crate::scenarios::sample::{SOON, same_pods};

pub(super) const SCENARIO: Scenario<Line> = Scenario {
    name: "xdp-packets",
    needs: (),
    claims: &[
        "an echo request to a VIP is answered",
        "datagrams of 4,000 bytes travel in fragments both ways",
        "a connection to a closed port of a backend is refused",
        "a datagram to a closed port of a backend is refused",
        "a connection to a port without a service is refused",
        "a connection that was forgotten is reset",
        "a client outside of the source ranges is not answered",
    ],
    run: |run| Box::pin(claims(run)),
};

/// A datagram that takes three packets.
const FRAGMENTED: Kind = Kind::Datagram { length: 4000 };
const DATAGRAM: Kind = Kind::Datagram { length: 4 };
/// A port that no service of the line has.
const NO_SERVICE: u16 = 6999;
/// Far below what a SYN that nobody answers takes, on a busy machine too.
const AT_ONCE_MS: u64 = 3000;

async fn claims(run: &mut Run<Line>) -> Result<()> {
    let offers = [
        Offer::new("nat", VipBlock::Plain, 1, "nat").to(BACKENDS),
        Offer::new("routed", VipBlock::Plain, 2, "routed").to(BACKENDS),
        Offer::new("dsr", VipBlock::Dsr, 1, "dsr").to(BACKENDS),
    ];
    offer(&run.lab, &offers).await?;
    run.claim(1, async |line| {
        for target in offers.iter().flat_map(|offer| offer.targets(0)) {
            let report = exchange(line, &Kind::Ping, target, 5).await?;
            report.ensure_flawless().with_context(|| format!("echo of {target}"))?;
        }
        Ok(())
    })
    .await;
    run.claim(2, async |line| {
        for offer in &offers {
            fragments(line, offer).await?;
        }
        Ok(())
    })
    .await;
    for (number, kind) in [(3, Kind::Connect), (4, DATAGRAM)] {
        run.claim(number, async |line| {
            for offer in &offers {
                refused(line, offer, &kind, CLOSED).await?;
            }
            Ok(())
        })
        .await;
    }
    run.claim(5, async |line| refused(line, &offers[0], &Kind::Connect, NO_SERVICE).await).await;
    run.claim(6, async |line| forgotten(line).await).await;
    run.claim(7, async |line| ranges(line).await).await;
    Ok(())
}

async fn fragments(line: &Line, offer: &Offer) -> Result<()> {
    let wanted: BTreeSet<String> = offer.backends.keys().cloned().collect();
    for target in offer.targets(LINE) {
        let before = reason(line, "fragment").unwrap_or(0.0);
        let report = exchange(line, &FRAGMENTED, target, EXCHANGES).await?;
        report.ensure_flawless().with_context(|| format!("fragments to {target}"))?;
        same_pods(&report, &wanted)?;
        // Two later fragments of each datagram to the backend; more with the answers.
        let least = before + f64::from(u32::try_from(2 * EXCHANGES)?);
        eventually(SOON, "the fragments to be counted", async || {
            let counted = reason(line, "fragment")?;
            ensure!(counted >= least, "{counted} fragments were counted, want {least}");
            Ok(())
        })
        .await?;
    }
    Ok(())
}

/// Nothing gets through, and every attempt ends at once by a refusal.
async fn refused(line: &Line, offer: &Offer, kind: &Kind, port: u16) -> Result<()> {
    for target in offer.targets(port) {
        let plan = Plan::connect(vec![target], 5).times(20).by(kind.clone());
        let report = line.clients.complete(&Plan { timeout_ms: AT_ONCE_MS, ..plan }).await?;
        ensure!(report.successes() == 0, "{target} answers: {:?}", report.pods);
        for why in report.failures.keys() {
            ensure!(why.contains("refused"), "{} {target} ended by: {why}", offer.name);
        }
    }
    Ok(())
}

async fn forgotten(line: &Line) -> Result<()> {
    let short =
        Offer::new("short", VipBlock::Plain, 3, "nat").to(BACKENDS).with("idle_timeout_secs = 1");
    offer(line, std::slice::from_ref(&short)).await?;
    let before = reason(line, "reset").unwrap_or(0.0);
    // The first line goes at once, the second long after the flow was forgotten: records are
    // looked through every five seconds.
    let plan = Plan { interval_ms: 8000, ..Plan::hold(short.targets(LINE), 8) };
    let held = line.clients.start("forgotten", &plan)?;
    eventually(SOON, "every connection to end", async || {
        let progress = held.progress()?;
        let failed: u64 = progress.failures.values().sum();
        ensure!(failed == plan.count && progress.open == 0, "{progress:?}");
        Ok(())
    })
    .await?;
    let report = held.stop().await?;
    for connection in &report.held {
        let why = connection.failure.as_deref().unwrap_or("nothing");
        ensure!(why.contains("reset by peer"), "{connection:?} ended by {why}");
        ensure!(connection.lines == 1, "{connection:?}");
    }
    ensure!(reason(line, "reset")? >= before + 8.0, "the resets were not the host's");
    Ok(())
}

async fn ranges(line: &Line) -> Result<()> {
    for mode in ["nat", "routed"] {
        let elsewhere = "source_ranges = [\"192.0.2.0/24\", \"2001:db8::/32\"]";
        let here = "source_ranges = [\"10.10.0.0/24\", \"fd00:10::/64\"]";
        let plain = Offer::new("ranged", VipBlock::Plain, 4, mode).to(BACKENDS);
        offer(line, &[plain.clone().with(elsewhere)]).await?;
        let before = reason(line, "source_range").unwrap_or(0.0);
        for target in plain.targets(LINE) {
            for kind in [Kind::Connect, DATAGRAM] {
                let plan = Plan { timeout_ms: 700, ..Plan::connect(vec![target], 2) };
                let report = line.clients.complete(&plan.times(10).by(kind)).await?;
                ensure!(report.successes() == 0, "{target} answers: {report:?}");
            }
        }
        ensure!(reason(line, "source_range")? >= before + 40.0, "not refused by its range");
        offer(line, &[plain.clone().with(here)]).await?;
        for target in plain.targets(LINE) {
            exchange(line, &Kind::Connect, target, 20).await?.ensure_flawless()?;
        }
    }
    Ok(())
}
