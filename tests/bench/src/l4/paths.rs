//! `ONLY=l4/paths`: clients and a server with something between them: plain forwarding by the
//! kernel (the limit), nftables as a NodePort is served, HAProxy in TCP mode, our relay, and
//! our XDP path. [`super::world`] draws the cables.
//!
//! Client and server are one thread each and the same for all. The ways take turns, in another
//! order each round; each has a middle of its own, so that nothing is set up between turns and
//! no rule of one is walked by the packets of another. Client, middle and server share two
//! cores: a rate is what the whole machine does, not what the middle alone could.

mod client;
mod message;
mod server;
mod usage;
mod ways;

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use rustix::process::geteuid;

use super::world::{CLIENT_CORE, World, pin};
use crate::report::{Better, Measure, Report, Stat};
use client::{Outcome, Work, carry_out};
use ways::Way;

/// Rounds that count: odd, so that the median is a measured one.
const ROUNDS: usize = 5;

/// The one whose figures are compared with all others.
const HAFLINGER: &str = "xdp";

/// How long open-ended work goes on.
const TIME: Duration = Duration::from_secs(1);

const EXCHANGES: Work = Work::Exchanges { connections: 64, time: TIME };
/// As many as the ports of a second allow, over all rounds.
const CONNECTIONS: Work = Work::Connections { at_once: 16, time: TIME, count_max: 8000 };
const DOWNLOAD: Work = Work::Download { streams: 4, bytes: 512 << 20 };
/// Far below what the slowest can do, so that what is seen is the way and not a queue.
const PACED: Work = Work::Paced { connections: 32, per_second: 4000, count: 8000 };

/// One run of one work over one way.
#[derive(Debug)]
struct Run {
    way: &'static str,
    outcome: Outcome,
    /// Time that the machine was not idle.
    busy: Duration,
    /// Packets on the client's cable.
    packets: u64,
}

/// Runs all works.
pub(crate) fn run(report: &mut Report) -> Result<()> {
    if !geteuid().is_root() {
        eprintln!("SKIPPED l4/paths: network namespaces need root");
        return Ok(());
    }
    let world = World::create()?;
    server::start(&world.server)?;
    let ways = ways(&world)?;
    report.heading("from client to server: XDP against what else can stand there, two cores");
    let exchanges = measure(&world, &ways, EXCHANGES)?;
    let rate = |run: &Run| run.outcome.answers as f64 / run.outcome.elapsed.as_secs_f64();
    add(report, "exchanges", "/s", Better::Higher, &exchanges, rate);
    add_cpu(report, "cpu/exchanges", &exchanges);
    let connections = measure(&world, &ways, CONNECTIONS)?;
    add(report, "connections", "/s", Better::Higher, &connections, rate);
    add_cpu(report, "cpu/connections", &connections);
    let download = measure(&world, &ways, DOWNLOAD)?;
    add(report, "download", "MiB/s", Better::Higher, &download, |run| {
        run.outcome.bytes as f64 / f64::from(1 << 20) / run.outcome.elapsed.as_secs_f64()
    });
    add_cpu(report, "cpu/download", &download);
    let mut paced = measure(&world, &ways, PACED)?;
    for run in &mut paced {
        run.outcome.latencies.sort_unstable();
    }
    for (name, share) in [("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999)] {
        let name = format!("latency/{name}");
        add(report, &name, "µs", Better::Lower, &paced, |run| {
            percentile(&run.outcome.latencies, share) / 1e3
        });
    }
    Ok(())
}

/// All ways that this machine has the tools for.
fn ways(world: &World) -> Result<Vec<Way>> {
    let mut ways = vec![Way::direct(), Way::plain(world.middle("plain", 1)?)];
    if installed("nft") {
        ways.push(Way::nftables(world, world.middle("nftables", 2)?)?);
    }
    if installed("haproxy") {
        ways.push(Way::haproxy(world, world.middle("haproxy", 3)?)?);
    }
    ways.push(Way::relay(world, world.middle("relay", 4)?)?);
    ways.push(Way::xdp(world, world.middle("xdp", 5)?)?);
    for way in &ways {
        way.wait(world)?;
    }
    Ok(ways)
}

fn installed(tool: &str) -> bool {
    let found = std::process::Command::new(tool).arg("-v").output().is_ok();
    if !found {
        eprintln!("SKIPPED the comparison with {tool}: it is not installed");
    }
    found
}

/// Every way carries out the work in every round.
fn measure(world: &World, ways: &[Way], work: Work) -> Result<Vec<Run>> {
    let mut runs = Vec::new();
    // The first round warms caches and resolves neighbours, and is not counted.
    for round in 0..=ROUNDS {
        for turn in 0..ways.len() {
            let way = &ways[(round + turn) % ways.len()];
            let run = run_once(world, way, work).with_context(|| format!("over {}", way.name))?;
            if round > 0 {
                runs.push(run);
            }
        }
    }
    Ok(runs)
}

fn run_once(world: &World, way: &Way, work: Work) -> Result<Run> {
    let (target, device, name) = (way.target, way.device.clone(), way.name);
    world.client.enter(move || {
        pin(CLIENT_CORE)?;
        let packets = usage::packets(&device)?;
        let (unused, begin) = (usage::unused()?, Instant::now());
        let outcome = carry_out(work, target)?;
        let available = begin.elapsed() * usage::cores()?;
        let busy = available.saturating_sub(usage::unused()?.saturating_sub(unused));
        Ok(Run { way: name, outcome, busy, packets: usage::packets(&device)? - packets })
    })?
}

/// Reports a quantity of every way but the bare cable.
fn add(
    report: &mut Report,
    name: &str,
    unit: &'static str,
    better: Better,
    runs: &[Run],
    quantity: impl Fn(&Run) -> f64,
) {
    let stat = |way: &str| {
        let samples: Vec<f64> = runs.iter().filter(|run| run.way == way).map(&quantity).collect();
        (!samples.is_empty()).then(|| Stat::of(samples))
    };
    let Some(haflinger) = stat(HAFLINGER) else { return };
    let peers = ["plain", "nftables", "haproxy", "relay"];
    let peers = peers.iter().filter_map(|peer| Some((*peer, stat(peer)?))).collect();
    report.add(Measure { name: format!("l4/{name}"), unit, better, haflinger, peers });
}

/// Reports what a way costs for each packet on the client's cable, beyond what the same work
/// costs client and server over a bare cable.
fn add_cpu(report: &mut Report, name: &str, runs: &[Run]) {
    let per_answer = |run: &Run| {
        let answers = run.outcome.answers as f64;
        (run.busy.as_secs_f64() * 1e9 / answers, run.packets as f64 / answers)
    };
    let bare = runs.iter().filter(|run| run.way == "direct");
    let bare = Stat::of(bare.map(|run| per_answer(run).0).collect()).median;
    add(report, name, "ns/packet", Better::Lower, runs, |run| {
        let (busy, packets) = per_answer(run);
        (busy - bare) / packets
    });
}

/// The value that a share of the sorted samples does not exceed.
fn percentile(sorted: &[u64], share: f64) -> f64 {
    let rank = (sorted.len() as f64 * share).ceil().max(1.0);
    #[expect(clippy::cast_possible_truncation, reason = "a share of a length is an index")]
    #[expect(clippy::cast_sign_loss, reason = "it is positive")]
    sorted.get(rank as usize - 1).map_or(f64::NAN, |value| *value as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_the_smallest_sample_that_enough_do_not_exceed() {
        let sorted: Vec<u64> = (1..=1000).collect();
        assert_eq!(percentile(&sorted, 0.5), 500.0);
        assert_eq!(percentile(&sorted, 0.999), 999.0);
        assert_eq!(percentile(&[7], 0.5), 7.0);
        assert!(percentile(&[], 0.5).is_nan());
    }
}
