//! Child processes that are written down, logged, and never outlive the lab.
//!
//! Three nets: the value ends its process on drop; the kernel ends it when the lab dies
//! (`PR_SET_PDEATHSIG`); the ledger names it to whoever cleans up after both.

use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{LazyLock, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::process::{
    Pid, Resource, Rlimit, Signal, getrlimit, kill_process_group, set_parent_process_death_signal,
    setrlimit,
};

use super::Place;

/// How often an exit is looked for.
const POLL: Duration = Duration::from_millis(20);
/// How much of a log is shown when something fails, in bytes.
const TAIL_MAX: u64 = 6000;

/// A running child in a process group of its own.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

type Job = (Command, mpsc::Sender<io::Result<Child>>);

/// The kernel sends the death signal when the *thread* that forked ends, so one thread, as old
/// as the process, starts every child.
static SPAWNER: LazyLock<mpsc::Sender<Job>> = LazyLock::new(|| {
    let (sender, jobs) = mpsc::channel::<Job>();
    thread::spawn(move || {
        for (mut command, answer) in jobs {
            // The asker waits for the answer; if it died, the child is dropped with it.
            let _ = answer.send(command.spawn());
        }
    });
    sender
});

impl Process {
    /// Starts `command` with both outputs appended to the log of `name`.
    pub fn spawn(place: &Place, name: &str, mut command: Command) -> Result<Self> {
        let log = place.log(name);
        let open = || File::options().create(true).append(true).open(&log);
        let (stdout, stderr) = (open()?, open()?);
        command.stdin(Stdio::null()).stdout(stdout).stderr(stderr).process_group(0);
        die_with_parent(&mut command);
        let child = spawn(command).with_context(|| format!("start {name}"))?;
        let process = Self { name: name.to_owned(), child, log };
        place.enter(name, process.id())?;
        Ok(process)
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it was called.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether it has not exited yet.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Sends a signal to the whole group.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        let pid = pid.context("a child has a positive process id")?;
        kill_process_group(pid, signal).with_context(|| format!("signal {}", self.name))
    }

    /// Asks it to stop, and kills it after `grace`. Answers whether it went by itself.
    pub async fn stop(&mut self, grace: Duration) -> Result<bool> {
        if !self.is_running() {
            return Ok(true);
        }
        self.signal(Signal::TERM)?;
        let end = Instant::now() + grace;
        while self.is_running() {
            if Instant::now() > end {
                self.kill();
                return Ok(false);
            }
            tokio::time::sleep(POLL).await;
        }
        Ok(true)
    }

    /// Kills it without asking.
    pub fn kill(&mut self) {
        if self.is_running() {
            // It may exit between the look and the signal; then there is nothing to kill.
            let _ = self.signal(Signal::KILL);
            let _ = self.child.wait();
        }
    }

    /// Waits until its log holds `text`.
    pub async fn wait_for_output(&mut self, text: &str, limit: Duration) -> Result<()> {
        let end = Instant::now() + limit;
        loop {
            if fs::read_to_string(&self.log).unwrap_or_default().contains(text) {
                return Ok(());
            }
            if !self.is_running() {
                bail!("{} exited:\n{}", self.name, tail(&self.log));
            }
            if Instant::now() > end {
                bail!("{} did not say {text:?} within {limit:?}:\n{}", self.name, tail(&self.log));
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Where its output goes.
    pub fn log(&self) -> &Path {
        &self.log
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Lets this process have as many descriptors as it may have.
pub fn raise_descriptor_limit() -> Result<()> {
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })
        .context("raise the limit of open files")
}

/// Has the kernel kill the child when this process dies.
fn die_with_parent(command: &mut Command) {
    // SAFETY: between fork and exec only one system call is made; nothing is allocated and no
    // lock is taken.
    unsafe {
        command.pre_exec(|| {
            set_parent_process_death_signal(Some(Signal::KILL))?;
            Ok(())
        });
    }
}

fn spawn(command: Command) -> Result<Child> {
    let (sender, answer) = mpsc::channel();
    SPAWNER.send((command, sender)).ok().context("the spawning thread is gone")?;
    Ok(answer.recv().context("the spawning thread is gone")??)
}

/// The end of a log file, whole lines.
pub fn tail(log: &Path) -> String {
    let read = || -> io::Result<String> {
        let mut file = File::open(log)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(TAIL_MAX)))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        let text = String::from_utf8_lossy(&bytes).into_owned();
        match text.split_once('\n') {
            Some((_, rest)) if length > TAIL_MAX => Ok(rest.to_owned()),
            _ => Ok(text),
        }
    };
    read().unwrap_or_default()
}
