//! What the guest says on its serial line, and what follows from it.
//!
//! Invariant: a program that begins and is not seen to end has failed, and so has one that
//! tells of no test, and a guest that does not power itself off.

use std::fmt;

/// What became of a test of the guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Pass(String),
    Fail(String, String),
    Skip(String, String),
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Verdict::Pass(name) => write!(f, "PASS kernel/{name}"),
            Verdict::Fail(name, why) => write!(f, "FAIL kernel/{name}: {why}"),
            Verdict::Skip(name, why) => write!(f, "SKIP kernel/{name}: {why}"),
        }
    }
}

/// A test that failed, and its first words about why.
struct Failure {
    test: String,
    why: Option<String>,
}

/// The program that runs.
#[derive(Default)]
struct Running {
    name: String,
    /// Tests that libtest calls passed; a skip among them is told later.
    passed: Vec<String>,
    skipped: Vec<(String, String)>,
    failed: Vec<Failure>,
    /// The failed test whose output is being told.
    telling: Option<String>,
    /// The test whose end has not been told.
    under_way: Option<String>,
}

/// Reads the guest's lines, one after the other.
#[derive(Default)]
pub(crate) struct Console {
    running: Option<Running>,
    verdicts: Vec<Verdict>,
    off: bool,
}

/// Everything that was found.
pub(crate) struct Verdicts(pub(crate) Vec<Verdict>);

impl Verdicts {
    pub(crate) fn all_passed(&self) -> bool {
        !self.0.iter().any(|verdict| matches!(verdict, Verdict::Fail(..)))
    }
}

impl Console {
    pub(crate) fn line(&mut self, line: &str) {
        let line = line.trim_end();
        if let Some(name) = line.strip_prefix("== begin ") {
            self.running = Some(Running { name: name.to_owned(), ..Running::default() });
        } else if let Some(end) = line.strip_prefix("== end ") {
            let status = end.rsplit(' ').next().unwrap_or_default();
            self.end(status);
        } else if line == "== off" {
            self.off = true;
        } else if let Some(running) = &mut self.running {
            running.line(line);
        }
    }

    /// The half of a line that has not ended yet: libtest names a test before it runs it.
    pub(crate) fn partial(&mut self, line: &str) {
        if let (Some(running), Some((test, _))) = (&mut self.running, split(line)) {
            running.under_way = Some(test.to_owned());
        }
    }

    fn end(&mut self, status: &str) {
        let Some(running) = self.running.take() else { return };
        let verdicts = &mut self.verdicts;
        let is_skipped = |test: &str| running.skipped.iter().any(|(known, _)| known == test);
        let passed = running.passed.iter().filter(|test| !is_skipped(test));
        verdicts.extend(passed.map(|test| Verdict::Pass(running.full(test))));
        let skips = running.skipped.iter();
        verdicts.extend(skips.map(|(test, why)| Verdict::Skip(running.full(test), why.clone())));
        for Failure { test, why } in &running.failed {
            let why = why.clone().unwrap_or_else(|| "see the output above".to_owned());
            verdicts.push(Verdict::Fail(running.full(test), why));
        }
        if running.failed.is_empty() && status != "0" {
            let why = format!("the program ended with {status}");
            verdicts.push(Verdict::Fail(running.place(), why));
        } else if running.told_nothing() {
            let why = "the program told of no test".to_owned();
            verdicts.push(Verdict::Fail(running.place(), why));
        }
    }

    /// The guest is gone; `why` is what ended it, if it was not its own doing.
    pub(crate) fn finish(mut self, why: Option<String>) -> Verdicts {
        let reason = why.unwrap_or_else(|| "the machine went down".to_owned());
        if let Some(running) = &mut self.running {
            let test = running.under_way.take();
            let name = running.name.clone();
            match test {
                Some(test) => running.failed.push(Failure { test, why: Some(reason) }),
                None => self.verdicts.push(Verdict::Fail(name, reason)),
            }
            // What passed before did pass.
            self.end("0");
        } else if !self.off {
            self.verdicts.push(Verdict::Fail("boot".to_owned(), reason));
        }
        Verdicts(self.verdicts)
    }
}

impl Running {
    fn full(&self, test: &str) -> String {
        format!("{}/{test}", self.name)
    }

    /// The test under way, or else the program.
    fn place(&self) -> String {
        self.under_way.as_deref().map_or_else(|| self.name.clone(), |test| self.full(test))
    }

    fn told_nothing(&self) -> bool {
        self.passed.is_empty() && self.skipped.is_empty() && self.failed.is_empty()
    }

    fn line(&mut self, line: &str) {
        if let Some((test, why)) = line.strip_prefix("SKIPPED ").and_then(|s| s.split_once(": ")) {
            if !self.skipped.iter().any(|(known, _)| known == test) {
                self.skipped.push((test.to_owned(), why.to_owned()));
            }
        } else if let Some((test, result)) = split(line) {
            if is_result(result) {
                self.under_way = None;
                self.result(test, result);
            } else {
                // The end follows on a line of its own: the test has printed by itself.
                self.under_way = Some(test.to_owned());
            }
        } else if is_result(line)
            && let Some(test) = self.under_way.take()
        {
            self.result(&test, line);
        } else {
            self.explanation(line);
        }
    }

    fn result(&mut self, test: &str, result: &str) {
        // The lines of a test that is meant to panic say so.
        let test = test.trim_end_matches(" - should panic").to_owned();
        if result == "ok" {
            self.passed.push(test);
        } else if result == "FAILED" {
            self.failed.push(Failure { test, why: None });
        } else if let Some((_, why)) = result.split_once("ignored") {
            let why = why.trim_start_matches([',', ' ']);
            let why = if why.is_empty() { "ignored" } else { why };
            self.skipped.push((test, why.to_owned()));
        }
    }

    /// Takes the place of a panic and the line after it out of the output of a failed test.
    fn explanation(&mut self, line: &str) {
        let heading = line.strip_prefix("---- ").and_then(|rest| rest.strip_suffix(" stdout ----"));
        if let Some(test) = heading {
            self.telling = Some(test.to_owned());
            return;
        }
        let Some(telling) = &self.telling else { return };
        let failure = self.failed.iter_mut().find(|failure| failure.test == *telling);
        let Some(failure) = failure else { return };
        match &mut failure.why {
            None => {
                let place = line.split_once("panicked at ").map(|(_, place)| place);
                failure.why = place.map(str::to_owned);
            }
            Some(why) => {
                why.push(' ');
                why.push_str(line.trim());
                self.telling = None;
            }
        }
    }
}

/// A test's name and what libtest says of it so far.
fn split(line: &str) -> Option<(&str, &str)> {
    let rest = line.strip_prefix("test ")?;
    rest.split_once(" ... ").or_else(|| Some((rest.strip_suffix(" ...")?, "")))
}

fn is_result(text: &str) -> bool {
    matches!(text, "ok" | "FAILED") || text.starts_with("ignored")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(lines: &str, why: Option<&str>) -> Vec<String> {
        let mut console = Console::default();
        let (whole, rest) = lines.rsplit_once('\n').unwrap_or(("", lines));
        whole.lines().for_each(|line| console.line(line));
        console.partial(rest);
        let Verdicts(verdicts) = console.finish(why.map(str::to_owned));
        verdicts.iter().map(Verdict::to_string).collect()
    }

    #[test]
    fn tests_pass_fail_and_are_skipped_by_name() {
        let lines = "boot noise\n== begin load\nrunning 4 tests\ntest a ... ok\n\
            test b ... FAILED\ntest c ... ok\ntest d ... ignored, too slow\n\
            SKIPPED c: no bonding\n---- b stdout ----\n\nthread 'b' panicked at t.rs:1:2:\n\
            left is not right\n  left: 1\ntest result: FAILED.\n\n== end load 101\n== off\n";
        assert_eq!(
            told(lines, None),
            [
                "PASS kernel/load/a",
                "SKIP kernel/load/d: too slow",
                "SKIP kernel/load/c: no bonding",
                "FAIL kernel/load/b: t.rs:1:2: left is not right",
            ]
        );
    }

    #[test]
    fn a_program_that_dies_a_panic_and_silence_are_failures() {
        let died = "== begin load\ntest a ... ok\ntest b ... \n== end load 139\n== off\n";
        let verdicts = told(died, None);
        assert_eq!(verdicts[0], "PASS kernel/load/a");
        assert_eq!(verdicts[1], "FAIL kernel/load/b: the program ended with 139");
        let down = "== begin load\ntest a ... ok\ntest b ... ";
        assert_eq!(
            told(down, None),
            ["PASS kernel/load/a", "FAIL kernel/load/b: the machine went down"]
        );
        assert_eq!(told("", Some("no end within 1 s")), ["FAIL kernel/boot: no end within 1 s"]);
        let silent = "== begin load\n== end load 0\n== off\n";
        assert_eq!(told(silent, None), ["FAIL kernel/load: the program told of no test"]);
        let between = "== begin load\ntest a ... ok\n== end load 0\n";
        assert_eq!(
            told(between, None),
            ["PASS kernel/load/a", "FAIL kernel/boot: the machine went down"]
        );
    }

    #[test]
    fn a_test_that_prints_into_its_line_is_still_counted() {
        let mut console = Console::default();
        console.line("== begin load");
        console.partial("test a ... ");
        console.line("test a ... libbpf: a warning");
        console.partial("o");
        console.line("ok");
        console.line("== end load 0");
        console.line("== off");
        let Verdicts(verdicts) = console.finish(None);
        assert_eq!(verdicts, [Verdict::Pass("load/a".to_owned())]);
    }
}
