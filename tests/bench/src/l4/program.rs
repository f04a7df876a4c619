//! `ONLY=l4/program`: nanoseconds that the XDP program takes for one packet, by the kernel's test
//! runs: from the frame in memory to the verdict, rewritten and routed, without any driver.
//!
//! Kinds of packets are measured with one service and with 50,000, and with one live flow and
//! with a million. The packets of one flow find everything in the processor's caches, however many
//! others live; so the rows `cycled` have the flows take turns, and each packet finds its flow's
//! memory cold. New flows (`syn`) and the flood (`flood`) always take turns.
//!
//! All flows are opened by the program itself, from handshakes handed to it. Laying out a frame
//! costs time too; the same with a program that does nothing is measured in turns and subtracted.

mod frames;
mod stage;

use anyhow::Result;
use haflinger_xdp::harness::Subject;
use rustix::process::geteuid;

use super::world::World;
use crate::report::{Better, Measure, Report, Stat};
use stage::{Kind, MANY_SERVICES, Stage};

/// Repetitions of each row: odd, so that the median is a measured one.
const ROUNDS: usize = 7;

/// Packets of one repetition.
const PACKETS: u32 = 300_000;

/// The same where each opens a flow, for which there is a free record.
const OPENINGS: u32 = 50_000;

/// Binary logarithm of the number of many flows.
const MANY_FLOWS_BITS: u32 = 20;

/// What is measured on one stage, by the kind of its service.
const STAGES: [(Kind, &[Row]); 5] = [
    (Kind::Tcp4, &[Row::Established, Row::Syn, Row::NotOurs]),
    (Kind::Tcp6, &[Row::Established]),
    (Kind::Udp4, &[Row::Established]),
    (Kind::Ranged, &[Row::Drop]),
    (Kind::Flooded, &[Row::Flood]),
];

/// A row of the report, but for the state that it is measured in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Row {
    /// A packet of a live flow.
    Established,
    /// Opens a flow, for which there is a free record.
    Syn,
    /// To no service of ours.
    NotOurs,
    /// Of a client that may not.
    Drop,
    /// Opens a flow in the place of another that was never answered, with as many records for
    /// such as are shipped.
    Flood,
}

/// Runs all rows.
pub(crate) fn run(report: &mut Report) -> Result<()> {
    if !geteuid().is_root() {
        eprintln!("SKIPPED l4/program: loading an XDP program needs root");
        return Ok(());
    }
    report
        .heading("the XDP program, one packet, by test run (what the harness costs is subtracted)");
    let world = World::create()?;
    for (kind, rows) in STAGES {
        let measures = Stage::with(&world, kind, move |stage| all(stage, rows))?;
        for measure in measures? {
            report.add(measure);
        }
    }
    Ok(())
}

/// All rows of one stage, in every state.
fn all(stage: &mut Stage, rows: &[Row]) -> Result<Vec<Measure>> {
    let mut measures = Vec::new();
    for (services, flows_bits) in
        [(1, 0), (MANY_SERVICES, 0), (MANY_SERVICES, MANY_FLOWS_BITS), (1, MANY_FLOWS_BITS)]
    {
        stage.serve(services)?;
        stage.establish(flows_bits)?;
        if rows.contains(&Row::Flood) {
            stage.fill_opening()?;
        }
        for row in rows {
            measures.push(measure(stage, *row, services, 0)?);
            if *row == Row::Established && flows_bits > 0 {
                measures.push(measure(stage, *row, services, flows_bits)?);
            }
        }
    }
    Ok(measures)
}

/// Measures one row in the state that the stage is in; of established flows so many take turns.
fn measure(stage: &mut Stage, row: Row, services: usize, turns_bits: u32) -> Result<Measure> {
    let packets = if row == Row::Syn { OPENINGS } else { PACKETS };
    let mut samples = Vec::new();
    // The first round warms caches, and is not counted.
    for round in 0..=ROUNDS {
        let program = stage.time(row, Subject::Program, turns_bits, packets)?;
        let nothing = stage.time(row, Subject::Nothing, turns_bits, packets)?;
        if round > 0 {
            samples
                .push((program.as_secs_f64() - nothing.as_secs_f64()) * 1e9 / f64::from(packets));
        }
    }
    let what = match row {
        Row::Established => stage.kind().name(),
        Row::Syn => "syn",
        Row::NotOurs => "not-ours",
        Row::Drop => "drop",
        Row::Flood => "flood",
    };
    let flows = stage.established();
    let cycled = if turns_bits > 0 { "/cycled" } else { "" };
    Ok(Measure {
        name: format!("l4/program/{what}/services={services}/flows={flows}{cycled}"),
        unit: "ns",
        better: Better::Lower,
        haflinger: Stat::of(samples),
        peers: Vec::new(),
    })
}
