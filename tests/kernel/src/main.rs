//! Runs test programs on Debian 12's own kernel, in a virtual machine without disk and network.
//!
//! ```text
//! linux-image-6.1.…-cloud-amd64 ──> vmlinuz, modules ─┐
//! test programs, their libraries, busybox, tools ─────┴─> initramfs ──> qemu (TCG) ──> claims
//! ```
//!
//! ```sh
//! kernel                 # the test programs of haflinger-xdp, as cargo builds them
//! kernel PROGRAM…        # these programs, called with --test-threads=1 --show-output
//! ```
//!
//! Prints one line for each test of the guest, `PASS`, `FAIL` or `SKIP` with the reason. Without
//! qemu or the kernel package every claim is skipped, by name. Nothing is installed, and the
//! kernel package is kept in `target/kernel`. Hardware virtualisation is not used: it is often
//! not to be had where tests run, and the emulated machine boots in seconds.

mod archive;
mod console;
mod guest;
mod image;
mod libraries;
mod package;
mod programs;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use console::Verdicts;

/// Why something cannot be tried here.
#[derive(Debug)]
struct Skipped(String);

fn main() -> ExitCode {
    let programs: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    match run(programs) {
        Ok(Ok(verdicts)) if verdicts.all_passed() => ExitCode::SUCCESS,
        Ok(Ok(_)) => ExitCode::FAILURE,
        Ok(Err(Skipped(reason))) => {
            say(&format!("SKIP kernel/6.1: {reason}"));
            ExitCode::SUCCESS
        }
        Err(error) => {
            say(&format!("FAIL kernel/6.1: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run(named: Vec<PathBuf>) -> anyhow::Result<Result<Verdicts, Skipped>> {
    if let Err(skipped) = guest::available() {
        return Ok(Err(skipped));
    }
    let checkout = checkout();
    let target = target(&checkout);
    let folder = target.join("kernel");
    std::fs::create_dir_all(&folder)?;
    let kernel = match package::kernel(&folder)? {
        Ok(kernel) => kernel,
        Err(skipped) => return Ok(Err(skipped)),
    };
    let mut programs = vec![programs::smoke()?];
    match named.is_empty() {
        true => programs.extend(programs::built_by_cargo(&checkout)?),
        false => programs.extend(named),
    }
    let image = image::build(&kernel, &programs, &folder)?;
    Ok(Ok(guest::boot(&kernel, image.path(), &folder)?))
}

fn checkout() -> PathBuf {
    // Two levels above this package.
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap_or(Path::new(".")).into()
}

fn target(checkout: &Path) -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into());
    checkout.join(target)
}

/// Writes a line to the standard output; a reader that has gone away is no failure of a test.
fn say(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}
