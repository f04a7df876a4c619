//! The steps after the set-up.

use std::path::PathBuf;
use std::process::Command;

use crate::step::Suite;
use crate::tally::Tally;

pub(crate) fn cargo(suite: &Suite, name: &str, arguments: &[&str]) -> Tally {
    let done = suite.run(name, &mut suite.command("cargo", arguments));
    if done.succeeded {
        Tally::pass()
    } else {
        Tally::fail(format!("cargo {}", arguments.join(" ")))
    }
}

/// Formatting.
pub(crate) fn format(suite: &Suite) -> Tally {
    cargo(suite, "format", &["fmt", "--all", "--check"])
}

/// Lints, warnings included. Benchmarks are built with it.
pub(crate) fn lints(suite: &Suite) -> Tally {
    let arguments = ["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"];
    cargo(suite, "lints", &arguments)
}

/// Licences, sources and users of dependencies, and the proof that a violation is caught.
pub(crate) fn licences(suite: &Suite) -> Tally {
    let tool = match tool(suite, "cargo-deny") {
        Ok(tool) => tool,
        Err(reason) => return Tally::skip(format!("licences: {reason}")),
    };
    // A build fetches what this target needs; the licences of all others are read as well.
    if !suite.run("licences-fetch", &mut suite.command("cargo", &["fetch", "--locked"])).succeeded {
        return Tally::fail("cargo fetch --locked");
    }
    let checks = ["--offline", "--all-features", "check", "bans", "licenses", "sources"];
    let mut tally = match suite.run("licences", &mut suite.command(&tool, &checks)).succeeded {
        true => Tally::pass(),
        false => Tally::fail("cargo deny check bans licenses sources"),
    };
    let mut proof = suite.command("bash", &["tests/fences/deny-proof"]);
    proof.arg(tool);
    match suite.run("licences-proof", &mut proof).succeeded {
        true => tally.add(Tally::pass()),
        false => tally.add(Tally::fail("a planted licence violation was not caught")),
    }
    tally
}

/// A cargo tool of the version that the packages script pins, built when it is missing.
pub(crate) fn tool(suite: &Suite, name: &str) -> Result<PathBuf, String> {
    let done = suite.run(name, &mut suite.command("bash", &["packaging/tool", name]));
    let path = done.output.lines().last().unwrap_or_default();
    match done.succeeded {
        true => Ok(PathBuf::from(path)),
        false => Err(format!("{name} cannot be built: {path}")),
    }
}

/// Everything, once, with the features that the tests use, so that nothing is built twice.
pub(crate) fn build(suite: &Suite) -> Tally {
    cargo(suite, "build", &["build", "--workspace", "--all-targets", "--locked"])
}

/// The tests of every package, beside a control plane for those that need one.
pub(crate) fn tests(suite: &Suite) -> Tally {
    let arguments = [
        "tests/with-controlplane",
        "cargo",
        "test",
        "--workspace",
        "--all-targets",
        "--no-fail-fast",
        "--locked",
        "--",
        "--show-output",
    ];
    let mut tally = counted(suite, "tests", "bash", &arguments);
    let arguments = ["test", "--workspace", "--doc", "--no-fail-fast", "--locked"];
    tally.add(counted(suite, "doc-tests", "cargo", &arguments));
    tally
}

fn counted(suite: &Suite, name: &str, program: &str, arguments: &[&str]) -> Tally {
    let done = suite.run(name, &mut suite.command(program, arguments));
    let mut tally = Tally::of_libtest(&done.output);
    if !done.succeeded && tally.failures.is_empty() {
        tally.failures.push(format!("{program} {}", arguments.join(" ")));
    }
    tally
}

/// The tests of the XDP data path on Debian 12's own kernel, in a virtual machine.
pub(crate) fn kernel(suite: &Suite) -> Tally {
    told(suite, "kernel", &mut suite.command(suite.built("debug/kernel"), &[]))
}

/// The end-to-end tests in the laboratory.
pub(crate) fn scenarios(suite: &Suite) -> Tally {
    let done = suite.run("scenarios", &mut suite.command(suite.built("debug/scenarios"), &[]));
    let mut tally = Tally::of_scenarios(&done.output);
    if !done.succeeded && tally.failures.is_empty() {
        tally.failures.push("the scenarios did not end well".to_owned());
    }
    if tally == Tally::default() {
        tally.failures.push("the scenarios told of no test".to_owned());
    }
    tally
}

/// The core subset of the official Gateway API conformance suite, in the laboratory.
pub(crate) fn conformance(suite: &Suite) -> Tally {
    let program = suite.built("debug/conformance");
    told(suite, "conformance", &mut suite.command(program, &["--subset"]))
}

/// `make lab` and `make lab-down`.
pub(crate) fn lab(suite: &Suite) -> Tally {
    script(suite, "lab", "tests/lab-commands")
}

/// The first command of the README.
pub(crate) fn quickstart(suite: &Suite) -> Tally {
    script(suite, "quickstart", "tests/quickstart")
}

/// Packages, installed in a booted Debian.
pub(crate) fn packages(suite: &Suite) -> Tally {
    script(suite, "packages", "tests/packaging/run")
}

/// A script that prints `PASS`, `FAIL` and `SKIP` lines.
fn script(suite: &Suite, name: &str, path: &str) -> Tally {
    let mut command = suite.command("bash", &[path]);
    command.env("HAFLINGER", suite.built("debug/haflinger"));
    told(suite, name, &mut command)
}

/// A program that prints such lines, and must print one at least.
fn told(suite: &Suite, name: &str, command: &mut Command) -> Tally {
    let done = suite.run(name, command);
    let mut tally = Tally::of_scenarios(&done.output);
    if tally.failures.is_empty() && (!done.succeeded || tally == Tally::default()) {
        tally.failures.push(format!("{name} did not end well"));
    }
    tally
}
