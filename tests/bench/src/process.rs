//! Programs under test: processes that share one core, apart from what loads them.

use std::fs::{self, File};
use std::io::Error;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// Core of the programs under test.
const TESTED_CORE: usize = 0;

/// Core of clients and backends.
const LOAD_CORE: usize = 1;

/// A process is given up when it does not listen within so long: a debug build reads thousands of
/// sites in it.
const START_PATIENCE: Duration = Duration::from_secs(30);

/// Binds the calling thread, and whatever it starts, to a core; until dropped. Where the machine
/// has no such core, nothing is bound.
pub(crate) struct Bound {
    before: CpuSet,
}

impl Bound {
    /// To the core of clients and backends.
    pub(crate) fn to_load() -> Result<Self> {
        Self::to(LOAD_CORE)
    }

    fn to(core: usize) -> Result<Self> {
        let before = sched_getaffinity(None).context("asking for this thread's cores")?;
        let mut wanted = CpuSet::new();
        wanted.set(core);
        match sched_setaffinity(None, &wanted) {
            Ok(()) | Err(rustix::io::Errno::INVAL) => Ok(Self { before }),
            Err(error) => Err(error).context("binding to a core"),
        }
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        // They were its cores before; should one be gone, it stays where it is.
        let _ = sched_setaffinity(None, &self.before);
    }
}

/// A running program; killed when dropped.
pub(crate) struct Process {
    name: &'static str,
    child: Child,
}

impl Process {
    /// Starts it on the core of programs under test, and waits until it listens on all of these.
    /// What it says goes into a file.
    pub(crate) fn start(
        name: &'static str,
        mut command: Command,
        listens: &[SocketAddr],
        log: &Path,
    ) -> Result<Self> {
        let output = File::create(log)?;
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        let bound = Bound::to(TESTED_CORE)?;
        let child = command.spawn().with_context(|| format!("starting {name}"))?;
        drop(bound);
        let mut process = Self { name, child };
        let give_up_at = Instant::now() + START_PATIENCE;
        for address in listens {
            while TcpStream::connect(address).is_err() {
                let ended = process.child.try_wait()?;
                if ended.is_some() || Instant::now() > give_up_at {
                    let said = fs::read_to_string(log).unwrap_or_default();
                    bail!("{name} does not listen on {address} ({ended:?}), and says {said}");
                }
                sleep(Duration::from_millis(10));
            }
        }
        Ok(process)
    }

    pub(crate) fn name(&self) -> &'static str {
        self.name
    }

    /// Processor time so far, user and system, of all threads that it has or had.
    pub(crate) fn cpu_time(&self) -> Result<Duration> {
        let (mut clock, mut time) = (0, libc::timespec { tv_sec: 0, tv_nsec: 0 });
        let process = libc::pid_t::try_from(self.child.id())?;
        // SAFETY: the pointer is to a clock's number that lives for the call.
        let error = unsafe { libc::clock_getcpuclockid(process, &raw mut clock) };
        ensure!(error == 0, "{} has no clock: {}", self.name, Error::from_raw_os_error(error));
        // SAFETY: the pointer is to a time that lives for the call.
        let result = unsafe { libc::clock_gettime(clock, &raw mut time) };
        ensure!(result == 0, "the clock of {}: {}", self.name, Error::last_os_error());
        Ok(Duration::new(time.tv_sec.try_into()?, time.tv_nsec.try_into()?))
    }

    /// Resident memory that is its own, in bytes: without files and what it shares.
    pub(crate) fn own_memory(&self) -> Result<u64> {
        let text = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = text.lines().find_map(|line| line.strip_prefix("RssAnon:"));
        let kib = line.context("/proc/PID/status has no RssAnon")?.trim();
        Ok(kib.trim_end_matches(" kB").parse::<u64>()? * 1024)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself; either way it is gone afterwards.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A loopback address with a port that was free a moment ago.
pub(crate) fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}
