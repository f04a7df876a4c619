//! The virtual machine: booted, listened to, ended.

use std::io::{self, BufReader, Read as _};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tempfile::NamedTempFile;

use crate::console::{Console, Verdicts};
use crate::package::Kernel;
use crate::{Skipped, say};

const QEMU: &str = "qemu-system-x86_64";
/// Enough for the programs, which live in memory, and maps of a million entries.
const MEMORY: &str = "2048M";
/// Two processors, so that what is kept per processor is seen to be.
const PROCESSORS: &str = "2";
/// The whole run, by the clock of this machine. Emulation is some ten times slower than the
/// machine itself; each test that loads the program costs seconds.
const RUN_MAX: Duration = Duration::from_secs(2400);
/// The kernel goes down at the first panic (qemu ends instead of booting again).
const COMMAND_LINE: &str = "console=ttyS0 panic=-1 loglevel=6 rdinit=/init";

/// Whether a machine can be booted here.
pub(crate) fn available() -> Result<(), Skipped> {
    if !cfg!(target_arch = "x86_64") {
        return Err(Skipped("the kernel package is for x86-64".to_owned()));
    }
    for (program, package) in
        [(QEMU, "qemu-system-x86"), ("busybox", "busybox-static"), ("strip", "binutils")]
    {
        if Command::new(program).arg("--help").output().is_err() {
            return Err(Skipped(format!("{package} is not installed")));
        }
    }
    Ok(())
}

/// Boots a kernel with an image and reports every test of it; after a failure, also what the
/// kernel said last. `folder` is for files that go with the machine.
pub(crate) fn boot(kernel: &Kernel, image: &Path, folder: &Path) -> anyhow::Result<Verdicts> {
    let log = NamedTempFile::with_prefix_in("console", folder)?;
    let mut command = Command::new(QEMU);
    // SAFETY: prctl(2) may be called between fork and exec, and touches no memory of ours.
    unsafe { command.pre_exec(end_with_the_harness) };
    let mut machine = Machine(
        command
            .args(["-accel", "tcg,thread=multi", "-cpu", "max", "-m", MEMORY, "-smp", PROCESSORS])
            .args(["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"])
            .arg("-serial")
            .arg(format!("file:{}", log.path().display()))
            .args(["-serial", "stdio"])
            .arg("-kernel")
            .arg(&kernel.image)
            .arg("-initrd")
            .arg(image)
            .args(["-append", COMMAND_LINE])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("{QEMU} cannot be run"))?,
    );
    let output = machine.0.stdout.take().context("the output of qemu is taken")?;
    let (sender, pieces) = channel();
    std::thread::spawn(move || {
        let mut output = BufReader::new(output);
        let mut piece = [0; 4096];
        while let Ok(length @ 1..) = output.read(&mut piece) {
            if sender.send(piece[..length].to_vec()).is_err() {
                return;
            }
        }
    });
    let (console, why) = listen(&pieces, Instant::now() + RUN_MAX);
    let verdicts = console.finish(why);
    for verdict in &verdicts.0 {
        say(&verdict.to_string());
    }
    if !verdicts.all_passed() {
        say(&format!("what the kernel said:\n{}", end_of(log.path())));
    }
    Ok(verdicts)
}

/// A harness that is killed takes its machine with it.
fn end_with_the_harness() -> io::Result<()> {
    // SAFETY: it takes two numbers.
    match unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Hears the guest out, or says why not.
fn listen(pieces: &Receiver<Vec<u8>>, end: Instant) -> (Console, Option<String>) {
    let mut console = Console::default();
    let mut rest = Vec::new();
    loop {
        match pieces.recv_timeout(end.saturating_duration_since(Instant::now())) {
            Ok(piece) => rest.extend(piece),
            Err(RecvTimeoutError::Timeout) => {
                return (console, Some(format!("no end within {} s", RUN_MAX.as_secs())));
            }
            Err(RecvTimeoutError::Disconnected) => return (console, None),
        }
        while let Some(at) = rest.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = rest.drain(..=at).collect();
            let line = String::from_utf8_lossy(&line);
            say(&format!("  | {}", line.trim_end()));
            console.line(&line);
        }
        console.partial(&String::from_utf8_lossy(&rest));
    }
}

fn end_of(log: &Path) -> String {
    const LINES: usize = 40;
    let text = std::fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LINES)..].join("\n")
}

/// A machine that ends with the test.
struct Machine(Child);

impl Drop for Machine {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
