//! What was measured, on the terminal and as JSON.

use std::path::Path;

use anyhow::Result;
use serde::Serialize;

/// One quantity over several repetitions.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stat {
    pub(crate) min: f64,
    pub(crate) median: f64,
    pub(crate) max: f64,
}

impl Stat {
    /// From at least one sample.
    pub(crate) fn of(mut samples: Vec<f64>) -> Self {
        samples.sort_by(f64::total_cmp);
        let at = |position: usize| samples.get(position).copied().unwrap_or(f64::NAN);
        let last = samples.len().saturating_sub(1);
        Self { min: at(0), median: at(last / 2), max: at(last) }
    }
}

/// Which way is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Better {
    /// Less is better: times, moved buckets.
    Lower,
    /// More is better: rates.
    Higher,
    /// It tells how something was measured.
    Neither,
}

/// One quantity, Haflinger's and its peers'.
#[derive(Clone, Debug)]
pub(crate) struct Measure {
    /// `benchmark/case/quantity`.
    pub(crate) name: String,
    pub(crate) unit: &'static str,
    pub(crate) better: Better,
    pub(crate) haflinger: Stat,
    pub(crate) peers: Vec<(&'static str, Stat)>,
}

/// A row of `target/bench.json`: one for each peer, or one without.
#[derive(Debug, Serialize)]
struct Row<'a> {
    name: &'a str,
    unit: &'a str,
    /// Haflinger's median.
    value: f64,
    min: f64,
    max: f64,
    /// The one compared with.
    peer: Option<&'a str>,
    /// Above 1: Haflinger is better.
    ratio: Option<f64>,
    /// The peer's own median.
    peer_value: Option<f64>,
    /// Whether no other peer is better.
    better_peer: bool,
}

/// Everything measured in this run.
#[derive(Debug, Default)]
pub(crate) struct Report {
    measures: Vec<Measure>,
}

impl Report {
    /// Prints a heading.
    pub(crate) fn heading(&self, text: &str) {
        println!("\n{text}");
        let (name, haflinger) = ("", "haflinger median (min to max)");
        println!("{name:44} {haflinger:>42}   peers: median (ratio, above 1 is in our favour)");
    }

    /// Prints and keeps one measure.
    pub(crate) fn add(&mut self, measure: Measure) {
        let Measure { name, unit, haflinger: Stat { min, median, max }, .. } = &measure;
        let value = format!("{} {unit} ({} to {})", short(*median), short(*min), short(*max));
        let peers: Vec<_> = measure
            .peers
            .iter()
            .map(|(peer, stat)| {
                let ratio = measure.ratio(stat).map_or("–".to_owned(), short);
                format!("{peer} {} (×{ratio})", short(stat.median))
            })
            .collect();
        let better = match measure.better_peer() {
            Some(ratio) if peers.len() > 1 => format!("  against the better ×{}", short(ratio)),
            _ => String::new(),
        };
        println!("{name:44} {value:>42}   {}{better}", peers.join("  "));
        self.measures.push(measure);
    }

    /// Writes the JSON form.
    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        let rows: Vec<Row<'_>> = self.measures.iter().flat_map(Measure::rows).collect();
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        std::fs::write(path, serde_json::to_string_pretty(&rows)? + "\n")?;
        Ok(())
    }
}

impl Measure {
    fn ratio(&self, peer: &Stat) -> Option<f64> {
        let ratio = match self.better {
            Better::Lower => peer.median / self.haflinger.median,
            Better::Higher => self.haflinger.median / peer.median,
            Better::Neither => return None,
        };
        ratio.is_finite().then_some(ratio)
    }

    /// The ratio to the peer that is ahead of the others.
    fn better_peer(&self) -> Option<f64> {
        self.peers.iter().filter_map(|(_, stat)| self.ratio(stat)).min_by(f64::total_cmp)
    }

    fn rows(&self) -> Vec<Row<'_>> {
        let Stat { min, median, max } = self.haflinger;
        let row = |peer: Option<&(&'static str, Stat)>| {
            let ratio = peer.and_then(|(_, stat)| self.ratio(stat));
            Row {
                name: &self.name,
                unit: self.unit,
                value: median,
                min,
                max,
                peer: peer.map(|(name, _)| *name),
                ratio,
                peer_value: peer.map(|(_, stat)| stat.median),
                better_peer: ratio.is_some() && ratio == self.better_peer(),
            }
        };
        if self.peers.is_empty() {
            return vec![row(None)];
        }
        self.peers.iter().map(|peer| row(Some(peer))).collect()
    }
}

/// Three digits, as far as they tell anything.
fn short(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}
