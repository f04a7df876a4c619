//! Counting what programs print: libtest's and the scenarios' lines.

use std::fmt;

/// What a step found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// Tests that ran and passed.
    pub(crate) passed: usize,
    /// Names of tests, or of steps, that failed, with what is known of the cause.
    pub(crate) failures: Vec<String>,
    /// Names of tests that could not run here, with the reason.
    pub(crate) skipped: Vec<String>,
}

impl Tally {
    /// One check that passed.
    pub(crate) fn pass() -> Self {
        Self { passed: 1, ..Self::default() }
    }

    /// One check that failed.
    pub(crate) fn fail(what: impl Into<String>) -> Self {
        Self { failures: vec![what.into()], ..Self::default() }
    }

    /// One check that could not run here.
    pub(crate) fn skip(what: impl Into<String>) -> Self {
        Self { skipped: vec![what.into()], ..Self::default() }
    }

    /// Adds another step's.
    pub(crate) fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failures.extend(other.failures);
        self.skipped.extend(other.skipped);
    }

    /// Reads what `cargo test --no-fail-fast -- --show-output` printed.
    ///
    /// A test that skips itself says `SKIPPED name: reason` and passes for libtest; here it
    /// counts as skipped. A program that ends without libtest's closing line has failed.
    pub(crate) fn of_libtest(output: &str) -> Self {
        let mut tally = Self::default();
        let mut program = "";
        let mut open = false;
        for line in output.lines().map(str::trim) {
            if let Some(name) = line.strip_prefix("Running ").or(line.strip_prefix("Doc-tests ")) {
                if open {
                    tally.failures.push(format!("{program}: ended before its tests did"));
                }
                (program, open) = (name, true);
            } else if line.starts_with("test result: ") {
                open = false;
            } else if let Some(rest) = line.strip_prefix("test ") {
                tally.count(rest);
            } else if let Some(skip) = line.strip_prefix("SKIPPED ")
                && !tally.skipped.iter().any(|known| known == skip)
            {
                tally.skipped.push(skip.to_owned());
                tally.passed = tally.passed.saturating_sub(1);
            }
        }
        if open {
            tally.failures.push(format!("{program}: ended before its tests did"));
        }
        tally
    }

    fn count(&mut self, rest: &str) {
        let Some((name, result)) = rest.rsplit_once(" ... ") else { return };
        match result {
            "ok" => self.passed += 1,
            "FAILED" => self.failures.push(name.to_owned()),
            _ if result.starts_with("ignored") => {
                let reason = result.strip_prefix("ignored, ").unwrap_or("ignored");
                self.skipped.push(format!("{name}: {reason}"));
            }
            _ => {}
        }
    }

    /// Reads lines `PASS name`, `FAIL name: why` and `SKIP name: reason`.
    pub(crate) fn of_scenarios(output: &str) -> Self {
        let mut tally = Self::default();
        for line in output.lines() {
            if line.starts_with("PASS ") {
                tally.passed += 1;
            } else if let Some(failure) = line.strip_prefix("FAIL ") {
                tally.failures.push(failure.to_owned());
            } else if let Some(skip) = line.strip_prefix("SKIP ") {
                tally.skipped.push(skip.to_owned());
            }
        }
        tally
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed", self.passed, self.failures.len())?;
        match self.skipped.len() {
            0 => Ok(()),
            skipped => write!(f, ", {skipped} skipped"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libtest_lines_are_counted_and_skips_are_not_passes() {
        let output = "   Running unittests src/lib.rs (target/debug/deps/a)\nrunning 4 tests\n\
            test a::b ... ok\ntest a::c ... FAILED\ntest a::d ... ignored, needs a lab\n\
            test e ... ok\nSKIPPED e: bird is not installed\nSKIPPED e: bird is not installed\n\
            test result: FAILED. 2 passed; 1 failed\n";
        let tally = Tally::of_libtest(output);
        assert_eq!(tally.passed, 1);
        assert_eq!(tally.failures, ["a::c"]);
        assert_eq!(tally.skipped, ["a::d: needs a lab", "e: bird is not installed"]);
        assert_eq!(tally.to_string(), "1 passed, 1 failed, 2 skipped");
    }

    #[test]
    fn a_program_that_dies_is_a_failure() {
        let output = "Running tests/a.rs (x)\ntest a ... ok\nRunning tests/b.rs (y)\n\
            test result: ok. 0 passed\n";
        let tally = Tally::of_libtest(output);
        assert_eq!(tally.failures, ["tests/a.rs (x): ended before its tests did"]);
    }

    #[test]
    fn scenario_lines_are_counted() {
        let tally = Tally::of_scenarios("topology\nPASS a\nFAIL b: no route\nSKIP c: no Go\n");
        assert_eq!(tally.passed, 1);
        assert_eq!(tally.failures, ["b: no route"]);
        assert_eq!(tally.skipped, ["c: no Go"]);
    }
}
