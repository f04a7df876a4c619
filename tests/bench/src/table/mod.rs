//! `ONLY=table`: what a change of members costs in buckets and in time, against Maglev hashing
//! with weights and weighted rendezvous hashing.
//!
//! Every contender lives through the same changes: it has grown old with replacements, and a
//! reader always holds its newest table, so that making a change visible is part of the time.
//! The members are handed over as a complete list each time.

mod contenders;
mod maglev;
mod minimum;
mod rendezvous;

use std::collections::BTreeMap;
use std::hint::black_box;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Instant;

use anyhow::Result;
use haflinger_core::Weight;

use crate::random::Random;
use crate::report::{Better, Measure, Report, Stat};

pub(crate) use contenders::{Contender, Haflinger};
use maglev::Maglev;
use rendezvous::Rendezvous;

/// Members in order, with their weights.
pub(crate) type Members = BTreeMap<SocketAddr, Weight>;

/// What happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Case {
    Added,
    Removed,
    Replaced,
    TenthReplaced,
    WeightCut,
}

const CASES: [(Case, &str); 5] = [
    (Case::Added, "added"),
    (Case::Removed, "removed"),
    (Case::Replaced, "replaced"),
    (Case::TenthReplaced, "tenth-replaced"),
    (Case::WeightCut, "weight-cut"),
];

/// What one contender did in one case, over all repetitions.
struct Outcome {
    moved_over_minimum: Stat,
    deviation: Stat,
    micros: Stat,
}

/// Runs all cases.
pub(crate) fn run(report: &mut Report) -> Result<()> {
    report.heading("forwarding table, 65,536 buckets (Maglev 65,537): one change of its members");
    for count in [10, 100, 1000] {
        for (case, name) in CASES {
            let haflinger = outcome::<Haflinger>(count, case, 51);
            let maglev = outcome::<Maglev>(count, case, 9);
            let rendezvous = outcome::<Rendezvous>(count, case, if count < 1000 { 9 } else { 3 });
            let mut add = |quantity: &str, unit, pick: fn(&Outcome) -> Stat| {
                report.add(Measure {
                    name: format!("table/{name}/{count}/{quantity}"),
                    unit,
                    better: Better::Lower,
                    haflinger: pick(&haflinger),
                    peers: vec![("maglev", pick(&maglev)), ("rendezvous", pick(&rendezvous))],
                });
            };
            add("moved", "of minimum", |outcome| outcome.moved_over_minimum);
            add("deviation", "buckets", |outcome| outcome.deviation);
            add("time", "µs", |outcome| outcome.micros);
        }
    }
    for count in [10, 1000] {
        report.add(Measure {
            name: format!("table/lookup/{count}/time"),
            unit: "ns",
            better: Better::Lower,
            haflinger: lookups::<Haflinger>(count),
            peers: vec![("maglev", lookups::<Maglev>(count))],
        });
    }
    Ok(())
}

/// A member that has not been there before.
pub(crate) fn fresh_member(random: &mut Random) -> SocketAddr {
    let [a, b, c, ..] = random.next().to_le_bytes();
    (Ipv4Addr::new(10, a, b, c), 8080).into()
}

/// `count` members of one weight.
pub(crate) fn equal_members(count: usize, random: &mut Random) -> Members {
    let mut members = Members::new();
    while members.len() < count {
        members.insert(fresh_member(random), 100);
    }
    members
}

/// Replaces a member picked at random.
pub(crate) fn replace(members: &mut Members, random: &mut Random) {
    let count = members.len();
    remove(members, random);
    while members.len() < count {
        members.insert(fresh_member(random), 100);
    }
}

fn remove(members: &mut Members, random: &mut Random) {
    let at = random.below(members.len());
    if let Some(member) = members.keys().nth(at).copied() {
        members.remove(&member);
    }
}

/// The timed changes of one repetition, as the lists of members they lead to; and the list to
/// which the table returns afterwards, untimed.
fn plan(case: Case, members: &Members, random: &mut Random) -> (Vec<Members>, Members) {
    let mut next = members.clone();
    let back = members.clone();
    match case {
        Case::Added => {
            while next.len() == members.len() {
                next.insert(fresh_member(random), 100);
            }
            let mut back = next.clone();
            remove(&mut back, random);
            (vec![next], back)
        }
        Case::Removed => {
            remove(&mut next, random);
            (vec![next], back)
        }
        Case::Replaced => {
            replace(&mut next, random);
            (vec![next.clone()], next)
        }
        Case::TenthReplaced => {
            let mut steps = Vec::new();
            for _ in 0..members.len() / 10 {
                replace(&mut next, random);
                steps.push(next.clone());
            }
            (steps, next)
        }
        Case::WeightCut => {
            let at = random.below(next.len());
            if let Some(weight) = next.values_mut().nth(at) {
                *weight = 90;
            }
            (vec![next], back)
        }
    }
}

fn outcome<C: Contender>(count: usize, case: Case, repetitions: usize) -> Outcome {
    let mut random = Random(count as u64);
    let mut members = equal_members(count, &mut random);
    let mut contender = C::new(&members);
    for _ in 0..C::CHANGES_BEFORE {
        replace(&mut members, &mut random);
        contender.change(&members);
    }
    let (mut moved_over_minimum, mut deviation, mut micros) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..repetitions {
        let (steps, back) = plan(case, &members, &mut random);
        let (mut moved, mut minimum, mut time, mut off) = (0, 0, 0.0, 0.0_f64);
        let changes = steps.len();
        for next in steps {
            let before = contender.owners();
            minimum += minimum::moves(&before, &members, &next, C::IS_EXACT);
            let begin = Instant::now();
            contender.change(black_box(&next));
            time += begin.elapsed().as_secs_f64() * 1e6;
            let after = contender.owners();
            moved += before.iter().zip(&after).filter(|(before, after)| before != after).count();
            off = off.max(minimum::deviation(&after, &next));
            members = next;
        }
        if members != back {
            contender.change(&back);
            members = back;
        }
        moved_over_minimum.push(moved as f64 / minimum as f64);
        deviation.push(off);
        micros.push(time / changes as f64);
    }
    Outcome {
        moved_over_minimum: Stat::of(moved_over_minimum),
        deviation: Stat::of(deviation),
        micros: Stat::of(micros),
    }
}

/// Nanoseconds a lookup, of a million that do not wait for each other.
fn lookups<C: Contender>(count: usize) -> Stat {
    const LOOKUPS: u64 = 1_000_000;
    let mut random = Random(count as u64);
    let contender = C::new(&equal_members(count, &mut random));
    let samples = (0..9).map(|_| {
        let begin = Instant::now();
        let ports: u64 =
            (0..LOOKUPS).map(|_| u64::from(contender.lookup(random.next()).port())).sum();
        black_box(ports);
        begin.elapsed().as_secs_f64() * 1e9 / LOOKUPS as f64
    });
    Stat::of(samples.collect())
}
