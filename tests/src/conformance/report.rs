//! The official report file, and the table that people read.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde::Deserialize;

/// What is read of the suite's report (apis/v1/conformancereport.go of its module).
#[derive(Clone, Debug, Deserialize)]
pub struct Report {
    /// Absent where the suite's set-up failed.
    profiles: Option<Vec<Profile>>,
}

#[derive(Clone, Debug, Deserialize)]
struct Profile {
    name: String,
    core: Part,
    extended: Option<Part>,
}

/// Core or extended tests of a profile.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Part {
    result: String,
    /// `Passed`, `Skipped`, `Failed`.
    statistics: BTreeMap<String, u32>,
    /// Of the extended part.
    unsupported_features: Vec<String>,
}

impl Report {
    /// Reads the file that the suite wrote.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("the suite wrote no {}", path.display()))?;
        Self::parse(&text).with_context(|| format!("read {}", path.display()))
    }

    fn parse(text: &str) -> Result<Self> {
        Ok(serde_saphyr::from_str(text)?)
    }

    /// One line for each part of each profile.
    pub fn table(&self) -> String {
        let mut table = String::from(
            "profile        part      result    passed  failed  skipped  not claimed\n",
        );
        for profile in self.profiles.iter().flatten() {
            let parts = [("core", Some(&profile.core)), ("extended", profile.extended.as_ref())];
            for (name, part) in parts {
                let Some(part) = part else { continue };
                let count = |key: &str| part.statistics.get(key).copied().unwrap_or_default();
                // Writing to a String does not fail.
                let _ = writeln!(
                    table,
                    "{:<14} {name:<9} {:<9} {:>6}  {:>6}  {:>7}  {:>11}",
                    profile.name,
                    part.result,
                    count("Passed"),
                    count("Failed"),
                    count("Skipped"),
                    part.unsupported_features.len(),
                );
            }
        }
        table
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_a_line_for_each_part_of_each_profile() {
        let text = "apiVersion: gateway.networking.k8s.io/v1\nkind: ConformanceReport\nprofiles:\n\
            - core:\n    result: failure\n    failedTests:\n    - A\n    statistics:\n      \
            Failed: 1\n      Passed: 36\n      Skipped: 0\n  extended:\n    result: success\n    \
            statistics:\n      Failed: 0\n      Passed: 56\n      Skipped: 2\n    \
            supportedFeatures:\n    - X\n    unsupportedFeatures:\n    - Y\n  name: GATEWAY-HTTP\n  \
            summary: it failed\n\
            - core:\n    result: success\n    statistics:\n      Failed: 0\n      Passed: 15\n      \
            Skipped: 0\n  name: GATEWAY-GRPC\n";
        let table = Report::parse(text).expect("a report").table();
        let lines: Vec<Vec<&str>> =
            table.lines().skip(1).map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(
            lines,
            [
                vec!["GATEWAY-HTTP", "core", "failure", "36", "1", "0", "0"],
                vec!["GATEWAY-HTTP", "extended", "success", "56", "0", "2", "1"],
                vec!["GATEWAY-GRPC", "core", "success", "15", "0", "0", "0"],
            ]
        );
    }
}
