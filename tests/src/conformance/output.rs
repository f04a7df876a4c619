//! Reads what a Go test binary prints with `-test.v=test2json`: which test each line belongs to,
//! and how every test ended.

use std::collections::BTreeMap;

/// What Go puts before a line of its own in this mode, so that no test's output looks like one.
const MARK: char = '\u{16}';
/// Lines that are kept of one test: its errors come last.
const LINES_MAX: usize = 60;

/// How a test ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It passed.
    Passed,
    /// It failed.
    Failed,
    /// It skipped itself.
    Skipped,
}

/// A finished test.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finished {
    /// Its whole name, subtests behind slashes.
    pub name: String,
    /// How it ended.
    pub outcome: Outcome,
    /// How long it took, as Go prints it.
    pub took: String,
}

/// What has been read so far.
#[derive(Debug, Default)]
pub struct Output {
    /// The test that prints.
    current: String,
    /// The end of what each test printed.
    lines: BTreeMap<String, Vec<String>>,
    /// In the order in which they ended.
    finished: Vec<Finished>,
}

impl Output {
    /// Takes one line, without its end; answers the test that ended with it.
    pub fn take(&mut self, line: &str) -> Option<&Finished> {
        // Go's line may follow what a test printed without an end.
        if let Some((before, own)) = line.split_once(MARK) {
            self.keep(before);
            return self.own(own);
        }
        self.keep(line);
        None
    }

    /// Every test that ended.
    pub fn finished(&self) -> &[Finished] {
        &self.finished
    }

    /// Failed tests below `name` (itself included) that have no failed subtest, with the end of
    /// what they printed.
    pub fn causes(&self, name: &str) -> Vec<(&str, &[String])> {
        let below = |test: &str, top: &str| {
            test.strip_prefix(top).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        let failed: Vec<&str> = self
            .finished
            .iter()
            .filter(|test| test.outcome == Outcome::Failed && below(&test.name, name))
            .map(|test| test.name.as_str())
            .collect();
        let leaf = |test: &&str| !failed.iter().any(|other| other != test && below(other, test));
        failed.iter().copied().filter(leaf).map(|test| (test, self.printed(test))).collect()
    }

    /// The end of what a test printed itself.
    pub fn printed(&self, name: &str) -> &[String] {
        self.lines.get(name).map_or(&[][..], Vec::as_slice)
    }

    fn own(&mut self, line: &str) -> Option<&Finished> {
        if let Some(rest) = line.strip_prefix("=== ") {
            let mut words = rest.split_whitespace();
            // RUN, CONT and NAME say who prints from here on; PAUSE, who does not.
            match (words.next(), words.next()) {
                (Some("RUN" | "CONT" | "NAME"), name) => {
                    name.unwrap_or_default().clone_into(&mut self.current);
                }
                _ => self.current.clear(),
            }
            return None;
        }
        let (outcome, rest) = line.strip_prefix("--- ")?.split_once(": ")?;
        let outcome = match outcome {
            "PASS" => Outcome::Passed,
            "FAIL" => Outcome::Failed,
            "SKIP" => Outcome::Skipped,
            _ => return None,
        };
        let (name, took) = rest.split_once(" (")?;
        let took = took.trim_end_matches(')').to_owned();
        // What follows is the test's until Go says otherwise.
        name.clone_into(&mut self.current);
        self.finished.push(Finished { name: name.to_owned(), outcome, took });
        self.finished.last()
    }

    fn keep(&mut self, line: &str) {
        if self.current.is_empty() || line.trim().is_empty() {
            return;
        }
        let lines = self.lines.entry(self.current.clone()).or_default();
        if lines.len() == LINES_MAX {
            lines.remove(0);
        }
        lines.push(line.trim_end().to_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Output {
        let mut output = Output::default();
        for line in text.lines() {
            output.take(line);
        }
        output
    }

    const TEXT: &str = "\u{16}=== RUN   TestC\n    a: begin\n\u{16}=== RUN   TestC/One\n\
        \u{16}=== RUN   TestC/One/part\n    x.go:1: no route\n\u{16}=== NAME  TestC/One\n    \
        y.go:2: over\n\u{16}--- FAIL: TestC/One/part (1.50s)\n\u{16}--- FAIL: TestC/One (2.00s)\n\
        \u{16}=== RUN   TestC/Two\nunfinished\u{16}--- SKIP: TestC/Two (0.00s)\n\
        \u{16}--- FAIL: TestC (3.00s)\n";

    #[test]
    fn every_end_is_told_once_with_its_time() {
        let output = read(TEXT);
        let ends: Vec<_> = output
            .finished()
            .iter()
            .map(|f| (f.name.as_str(), f.outcome, f.took.as_str()))
            .collect();
        assert_eq!(
            ends,
            [
                ("TestC/One/part", Outcome::Failed, "1.50s"),
                ("TestC/One", Outcome::Failed, "2.00s"),
                ("TestC/Two", Outcome::Skipped, "0.00s"),
                ("TestC", Outcome::Failed, "3.00s"),
            ]
        );
    }

    #[test]
    fn the_cause_is_what_the_innermost_failed_test_printed() {
        let output = read(TEXT);
        let lines = ["    x.go:1: no route".to_owned()];
        assert_eq!(output.causes("TestC/One"), [("TestC/One/part", &lines[..])]);
        assert_eq!(output.causes("TestC/O"), []);
        assert_eq!(output.causes("TestC/Two"), []);
    }

    #[test]
    fn what_looks_like_an_end_but_is_printed_by_a_test_is_none() {
        let output = read("\u{16}=== RUN   TestC\n--- PASS: TestC (0.00s)\n");
        assert_eq!(output.finished(), []);
    }
}
