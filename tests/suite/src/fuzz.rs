//! The fuzz targets: each is built and run for a bounded number of inputs, which shows that it
//! works and finds what lies near. They are a workspace of their own and need the nightly
//! toolchain; without it they are checked with the stable one, and the runs are skipped by name.

use std::fs;
use std::path::Path;

use crate::step::Suite;
use crate::steps::{cargo, tool};
use crate::tally::Tally;

/// Inputs of each target: some seconds with the sanitizer, unoptimised.
const RUNS: &str = "-runs=3000";

/// Seconds after which a target ends all the same, on a machine that is slow.
const SECONDS_MAX: &str = "-max_total_time=60";

/// Where the targets are.
const FUZZ: &str = "tests/fuzz";

/// Builds and runs them.
pub(crate) fn run(suite: &Suite) -> Tally {
    if !suite.path(FUZZ).join("Cargo.toml").exists() {
        return Tally::fail("tests/fuzz is missing");
    }
    let nightly =
        suite.run("fuzz-nightly", &mut suite.command("cargo", &["+nightly", "--version"]));
    if !nightly.succeeded {
        let mut tally = checked(suite);
        tally.add(Tally::skip("fuzz: the nightly toolchain is not installed"));
        return tally;
    }
    let program = match tool(suite, "cargo-fuzz") {
        Ok(program) => program,
        Err(reason) => {
            let mut tally = checked(suite);
            tally.add(Tally::skip(format!("fuzz: {reason}")));
            return tally;
        }
    };
    match built(suite, &program) {
        Ok(targets) => {
            let mut tally = Tally::default();
            for target in &targets {
                tally.add(tried(suite, target));
            }
            tally
        }
        Err(failed) => failed,
    }
}

/// With the stable toolchain.
fn checked(suite: &Suite) -> Tally {
    let directory = suite.built("fuzz").display().to_string();
    let manifest = "tests/fuzz/Cargo.toml";
    let arguments = ["check", "--manifest-path", manifest, "--target-dir", &directory, "--locked"];
    cargo(suite, "fuzz", &arguments)
}

/// Builds every target, quickly and unoptimised; their names.
fn built(suite: &Suite, program: &Path) -> Result<Vec<String>, Tally> {
    let directory = suite.built("fuzz").display().to_string();
    let fuzz = |name: &str, arguments: &[&str]| {
        let mut command = suite.command(program, &["fuzz"]);
        // What `cargo +nightly fuzz` sets.
        command
            .args(arguments)
            .current_dir(suite.path(FUZZ))
            .env("RUSTUP_TOOLCHAIN", "nightly")
            .env_remove("CARGO");
        let done = suite.run(name, &mut command);
        match done.succeeded {
            true => Ok(done.output),
            false => Err(Tally::fail(format!("cargo fuzz {}", arguments.join(" ")))),
        }
    };
    let listed = fuzz("fuzz-list", &["list"])?;
    fuzz("fuzz", &["build", "--dev", "--target-dir", &directory])?;
    Ok(listed.split_whitespace().map(str::to_owned).collect())
}

/// Runs a target on its seeds and on what it makes of them.
fn tried(suite: &Suite, target: &str) -> Tally {
    let machine = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let program = suite.built("fuzz").join(machine).join("debug").join(target);
    let learnt = suite.built("fuzz").join("learnt").join(target);
    // Begun anew, so that a run is as long as any other.
    let _ = fs::remove_dir_all(&learnt);
    if let Err(error) = fs::create_dir_all(&learnt) {
        return Tally::fail(format!("fuzz {target}: {}: {error}", learnt.display()));
    }
    let found = format!("-artifact_prefix={}/found-", learnt.display());
    let mut command = suite.command(program, &[RUNS, SECONDS_MAX, "-max_len=4096", &found]);
    command.arg("-len_control=0").arg(&learnt);
    let seeds = suite.path(FUZZ).join("seeds").join(target);
    if seeds.is_dir() {
        command.arg(seeds);
    }
    match suite.run(&format!("fuzz-{target}"), &mut command).succeeded {
        true => Tally::pass(),
        false => Tally::fail(format!("fuzz {target}: see {}", learnt.display())),
    }
}
