//! Every mode, with real TCP and UDP.
//!
//! ```text
//!  client ── router ── edge1 ──┬── node1 ── b0, b2
//!  10.10.0.2           XDP     └── node2 ── b1, b3
//!
//!  10.60.0.1 nat    10.60.0.2 routed    10.60.0.101 dsr    10.60.0.4 proxy, and IPv6 alike
//! ```
//!
//! 1. The status shows each service in the mode that it asks for.
//! 2. `nat`: TCP reaches every backend, over both families; they see an address of the host.
//! 3. So does UDP.
//! 4. `routed`: TCP, with the client's own address.
//! 5. So does UDP.
//! 6. `dsr`: TCP, with the client's own address; answers do not come back through the host.
//! 7. So does UDP.
//! 8. 64 MiB go each way without a wrong byte in `nat`,
//! 9. in `routed`,
//! 10. and in `dsr`, where the host tells the client that the way is narrower.
//! 11. `proxy`: the relay passes the same tests.

use std::net::IpAddr;

use anyhow::{Context as _, Result, ensure};
use haflinger_tests::lab::echo_ports::BULK;
use haflinger_tests::lab::topology::{CLIENT, EDGES};
use haflinger_tests::lab::{Kind, Line, Offer, Plan, VipBlock};

use super::{Carried, Path, offer, reaches, reason};
use crate::scenarios::grounds::BACKENDS;
use crate::scenarios::runner::{Run, Scenario};

pub(super) const SCENARIO: Scenario<Line> = Scenario {
    name: "xdp-modes",
    needs: (),
    claims: &[
        "each service is in the mode that it asks for",
        "nat carries TCP to every backend",
        "nat carries UDP to every backend",
        "routed carries TCP with the client's address",
        "routed carries UDP with the client's address",
        "dsr carries TCP, answers go straight to the client",
        "dsr carries UDP, answers go straight to the client",
        "nat carries 64 MiB each way",
        "routed carries 64 MiB each way",
        "dsr carries 64 MiB each way",
        "the relay passes the same tests",
    ],
    run: |run| Box::pin(claims(run)),
};

/// What a transfer carries, in bytes.
const LARGE: u64 = 64 * 1024 * 1024;
/// More than any transfer takes on a busy machine.
const TRANSFER_MS_MAX: u64 = 60_000;

const UDP: Kind = Kind::Datagram { length: 4 };

async fn claims(run: &mut Run<Line>) -> Result<()> {
    let nat = Offer::new("nat", VipBlock::Plain, 1, "nat").to(BACKENDS);
    let routed = Offer::new("routed", VipBlock::Plain, 2, "routed").to(BACKENDS);
    let dsr = Offer::new("dsr", VipBlock::Dsr, 1, "dsr").to(BACKENDS);
    let proxy = Offer::new("proxy", VipBlock::Plain, 4, "proxy").to(BACKENDS);
    let all = [nat.clone(), routed.clone(), dsr.clone(), proxy.clone()];
    let client: [IpAddr; 2] = [CLIENT.0.into(), CLIENT.1.into()];
    let [sources, host] = [EDGES[0].nat_addresses(), EDGES[0].addresses()];

    run.claim(1, async |line| offer(line, &all).await).await;
    let tried = [(&nat, sources), (&routed, client), (&dsr, client)];
    for (index, (service, peers)) in tried.into_iter().enumerate() {
        let number = 2 + 2 * index;
        run.claim(number, async |line| {
            reaches(line, service, &Kind::Connect, Path::Xdp, peers).await
        })
        .await;
        run.claim(number + 1, async |line| reaches(line, service, &UDP, Path::Xdp, peers).await)
            .await;
    }
    run.claim(8, async |line| transfers(line, &nat, Path::Xdp).await).await;
    run.claim(9, async |line| transfers(line, &routed, Path::Xdp).await).await;
    run.claim(10, async |line| {
        let told = reason(line, "too_big").unwrap_or(0.0);
        transfers(line, &dsr, Path::Xdp).await?;
        ensure!(reason(line, "too_big")? > told, "the client was not told");
        Ok(())
    })
    .await;
    run.claim(11, async |line| {
        reaches(line, &proxy, &Kind::Connect, Path::Relay, host).await?;
        reaches(line, &proxy, &UDP, Path::Relay, host).await?;
        transfers(line, &proxy, Path::Relay).await
    })
    .await;
    Ok(())
}

async fn transfers(line: &Line, offer: &Offer, path: Path) -> Result<()> {
    for target in offer.targets(BULK) {
        for kind in [Kind::Store { length: LARGE }, Kind::Fetch { length: LARGE }] {
            let before = Carried::now(line)?;
            let plan = Plan::connect(vec![target], 1).times(1).by(kind.clone());
            let plan = Plan { timeout_ms: TRANSFER_MS_MAX, ..plan };
            let report = line.clients.complete(&plan).await?;
            report.ensure_flawless().with_context(|| format!("{kind:?} to {target}"))?;
            before.since(line, path, 1).await?;
        }
    }
    Ok(())
}
