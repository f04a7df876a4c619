//! `ONLY=table-instructions`: instructions of one change, counted by callgrind. Unlike times
//! they are the same on every machine and under every load.
//!
//! The program runs itself twice under valgrind, with different numbers of changes after the
//! same preparation; the difference is what the changes cost.

use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::random::Random;
use crate::report::{Better, Measure, Report, Stat};
use crate::table::{self, Contender as _, Haflinger};

/// The first argument of the run that is counted.
pub(crate) const COUNTED: &str = "counted";

/// Changes by which the two runs differ.
const CHANGES: u64 = 100;

/// Counts instructions for each number of members.
pub(crate) fn run(report: &mut Report) -> Result<()> {
    if Command::new("valgrind").arg("--version").output().is_err() {
        eprintln!("SKIPPED table-instructions: valgrind is not installed");
        return Ok(());
    }
    report.heading("forwarding table, 65,536 buckets: instructions of one replaced member");
    for members in [10, 100, 1000] {
        let few = count(members, 0)?;
        let many = count(members, CHANGES)?;
        let each = many.saturating_sub(few) as f64 / CHANGES as f64;
        report.add(Measure {
            name: format!("table-instructions/replaced/{members}"),
            unit: "instructions",
            better: Better::Lower,
            haflinger: Stat { min: each, median: each, max: each },
            peers: Vec::new(),
        });
    }
    Ok(())
}

/// The run that is counted: so many members, so many changes.
pub(crate) fn counted(mut arguments: impl Iterator<Item = String>) -> Result<()> {
    let mut number = || -> Result<usize> { Ok(arguments.next().context("a number")?.parse()?) };
    let (members, changes) = (number()?, number()?);
    let mut random = Random(1);
    let mut members = table::equal_members(members, &mut random);
    let mut contender = Haflinger::new(&members);
    for _ in 0..50 + changes {
        table::replace(&mut members, &mut random);
        contender.change(&members);
    }
    Ok(())
}

fn count(members: usize, changes: u64) -> Result<u64> {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(std::env::current_exe()?)
        .args([COUNTED, &members.to_string(), &changes.to_string()])
        .output()?;
    let text = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        bail!("valgrind failed: {text}");
    }
    let collected = text.lines().find_map(|line| line.split_once("Collected : "));
    let (_, number) = collected.context("valgrind printed no count")?;
    number.trim().parse().context("valgrind printed no number")
}
