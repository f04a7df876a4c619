//! Running programs: without a standard input, with a log, and with the end of the log shown
//! when they fail.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::say;

/// Lines of a failed program's log that are shown.
const SHOWN_LINES_MAX: usize = 120;

/// Where the suite runs.
pub(crate) struct Suite {
    checkout: PathBuf,
    target: PathBuf,
    logs: PathBuf,
}

/// What a program did.
pub(crate) struct Done {
    /// Whether it ended with status 0.
    pub(crate) succeeded: bool,
    /// What it printed to either output.
    pub(crate) output: String,
}

impl Suite {
    /// The checkout from which this program was built.
    pub(crate) fn find() -> io::Result<Self> {
        let checkout = Path::new(env!("CARGO_MANIFEST_DIR"))
            .ancestors()
            .nth(2)
            .ok_or_else(|| io::Error::other("this package is not two levels below the checkout"))?
            .to_path_buf();
        let target = match std::env::var_os("CARGO_TARGET_DIR") {
            Some(target) => checkout.join(target),
            None => checkout.join("target"),
        };
        let logs = target.join("suite");
        fs::create_dir_all(&logs)?;
        Ok(Self { checkout, target, logs })
    }

    /// A path in the checkout.
    pub(crate) fn path(&self, below: &str) -> PathBuf {
        self.checkout.join(below)
    }

    /// A path in the build directory.
    pub(crate) fn built(&self, below: &str) -> PathBuf {
        self.target.join(below)
    }

    /// A program that will run in the checkout.
    pub(crate) fn command(
        &self,
        program: impl AsRef<std::ffi::OsStr>,
        arguments: &[&str],
    ) -> Command {
        let mut command = Command::new(program);
        command.args(arguments).current_dir(&self.checkout);
        command
    }

    /// Runs a program with its output in the log `name`.
    pub(crate) fn run(&self, name: &str, command: &mut Command) -> Done {
        let path = self.logs.join(format!("{name}.log"));
        match logged(&path, command) {
            Ok(done) => {
                if !done.succeeded {
                    show_end(&path, &done.output);
                }
                done
            }
            Err(error) => {
                let program = command.get_program().display();
                let output = format!("{program} cannot be run: {error}");
                say(&output);
                Done { succeeded: false, output }
            }
        }
    }
}

fn logged(path: &Path, command: &mut Command) -> io::Result<Done> {
    let log = File::create(path)?;
    let status = command
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .env("CARGO_TERM_COLOR", "never")
        .status()?;
    let output = String::from_utf8_lossy(&fs::read(path)?).into_owned();
    Ok(Done { succeeded: status.success(), output })
}

fn show_end(path: &Path, output: &str) {
    let lines: Vec<&str> = output.lines().collect();
    let from = lines.len().saturating_sub(SHOWN_LINES_MAX);
    say(&format!("--- the end of {}", path.display()));
    for line in &lines[from..] {
        say(&format!("  | {line}"));
    }
}
