//! The daemon under test: a process of its own, and what it says of itself.
//!
//! The process runs the daemon whole, as `haflinger run` does, and an observer beside it, which
//! notes when a change is first seen in a published snapshot, and when the data path says that it
//! has applied that one. It speaks on standard output:
//!
//! ```text
//!  complete P A            first complete snapshot published at P, applied at A
//!  change N P A            (asked by a line on standard input) change N likewise
//!  end                     no more of them
//! ```

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::IpAddr;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use haflinger_appliance::observed::{self, View};
use haflinger_core::{BackendSet, Snapshot, Target};
use imbl::OrdMap;
use imbl::ordmap::DiffItem;
use tokio::sync::watch;

use super::api::now_nanos;
use super::world::change_of;

/// First argument of the process that is the daemon under test.
pub(crate) const UNDER_TEST: &str = "scale-under-test";

/// How a change went through the daemon, in nanoseconds of the clock that all processes share.
#[derive(Clone, Copy, Debug)]
pub(super) struct Passage {
    pub(super) change: usize,
    /// Seen in a published snapshot.
    pub(super) published: u64,
    /// Applied by the data path.
    pub(super) applied: u64,
}

/// The running daemon; killed when dropped.
pub(super) struct Subject {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

/// Memory of the process, in bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Memory {
    /// Resident, all of it.
    pub(super) resident: u64,
    /// Resident and its own: without files, and without the maps that it shares with the kernel.
    pub(super) own: u64,
    /// The most that was ever resident.
    pub(super) peak: u64,
}

impl Subject {
    /// Starts it by a command that runs this program; `xdp` says which data path counts.
    pub(super) fn start(mut command: Command, configuration: &Path, xdp: bool) -> Result<Self> {
        let data_path = if xdp { "xdp" } else { "relay" };
        let mut child = command
            .args([UNDER_TEST, data_path])
            .arg(configuration)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("starting the daemon under test")?;
        let input = child.stdin.take().context("no standard input")?;
        let output = BufReader::new(child.stdout.take().context("no standard output")?);
        Ok(Self { child, input, output })
    }

    /// Waits until it has everything, and its data path too; when that was.
    pub(super) fn complete(&mut self) -> Result<Passage> {
        match self.line()? {
            Some(complete) => Ok(complete),
            None => bail!("the daemon under test ended"),
        }
    }

    /// Everything that changes did since this was asked last.
    pub(super) fn passages(&mut self) -> Result<Vec<Passage>> {
        self.input.write_all(b"\n")?;
        self.input.flush()?;
        let mut passages = Vec::new();
        while let Some(passage) = self.line()? {
            passages.push(passage);
        }
        Ok(passages)
    }

    /// One line; `None` for the end.
    fn line(&mut self) -> Result<Option<Passage>> {
        let mut line = String::new();
        if self.output.read_line(&mut line)? == 0 {
            bail!("the daemon under test ended");
        }
        let words: Vec<&str> = line.split_whitespace().collect();
        let passage = |change: &str, published: &str, applied: &str| -> Result<_> {
            let (published, applied) = (published.parse()?, applied.parse()?);
            Ok(Some(Passage { change: change.parse()?, published, applied }))
        };
        match *words.as_slice() {
            ["complete", published, applied] => passage("0", published, applied),
            ["change", change, published, applied] => passage(change, published, applied),
            ["end"] => Ok(None),
            _ => bail!("the daemon under test said {line:?}"),
        }
    }

    /// Processor time so far: the first figure of `schedstat` is nanoseconds on a core, in user
    /// and kernel mode.
    pub(super) fn cpu_time(&self) -> Result<Duration> {
        let mut total = 0;
        for entry in fs::read_dir(format!("/proc/{}/task", self.child.id()))? {
            // A thread of the blocking pool may end meanwhile.
            let Ok(text) = fs::read_to_string(entry?.path().join("schedstat")) else { continue };
            let first = text.split_whitespace().next().context("schedstat is empty")?;
            total += first.parse::<u64>()?;
        }
        Ok(Duration::from_nanos(total))
    }

    /// Its memory now.
    pub(super) fn memory(&self) -> Result<Memory> {
        let text = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let field = |name: &str| -> Result<u64> {
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            let kib = line.context("a field of /proc/PID/status is missing")?.trim();
            Ok(kib.trim_end_matches(" kB").parse::<u64>()? * 1024)
        };
        Ok(Memory { resident: field("VmRSS")?, own: field("RssAnon")?, peak: field("VmHWM")? })
    }
}

impl Drop for Subject {
    fn drop(&mut self) {
        // It may have ended by itself; either way it is gone afterwards.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs the daemon until killed.
pub(crate) fn under_test(mut arguments: impl Iterator<Item = String>) -> Result<()> {
    let xdp = arguments.next().context("a data path is missing")? == "xdp";
    let configuration = arguments.next().context("a configuration is missing")?;
    observed::run(Path::new(&configuration), move |view| {
        let View { snapshots, relayed, forwarded } = view;
        tokio::spawn(observe(snapshots, if xdp { forwarded } else { relayed }));
    })
}

/// What the observer knows.
#[derive(Default)]
struct Seen {
    targets: OrdMap<Target, Arc<BackendSet>>,
    /// Published, and waiting for the data path: change, generation, time.
    waiting: Vec<(usize, u64, u64)>,
    passages: Vec<Passage>,
    newest: Option<usize>,
}

async fn observe(mut snapshots: watch::Receiver<Arc<Snapshot>>, mut applied: watch::Receiver<u64>) {
    if snapshots.wait_for(|snapshot| snapshot.complete).await.is_err() {
        return;
    }
    let complete = snapshots.borrow_and_update().clone();
    let published = now_nanos();
    if applied.wait_for(|generation| *generation >= complete.generation).await.is_err() {
        return;
    }
    println!("complete {published} {}", now_nanos());
    let targets = complete.targets.clone();
    let seen = Arc::new(Mutex::new(Seen { targets, ..Seen::default() }));
    let asked = seen.clone();
    std::thread::spawn(move || answer(&asked));
    loop {
        tokio::select! {
            biased;
            changed = applied.changed() => {
                let now = now_nanos();
                if changed.is_err() {
                    return;
                }
                let generation = *applied.borrow_and_update();
                lock(&seen).note_applied(generation, now);
            }
            changed = snapshots.changed() => {
                let now = now_nanos();
                if changed.is_err() {
                    return;
                }
                let snapshot = snapshots.borrow_and_update().clone();
                let mut seen = lock(&seen);
                seen.note_published(&snapshot, now);
                // It may have been applied before it was looked at here.
                seen.note_applied(*applied.borrow(), now);
            }
        }
    }
}

fn lock(seen: &Mutex<Seen>) -> std::sync::MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Seen {
    fn note_published(&mut self, snapshot: &Snapshot, now: u64) {
        let before = std::mem::replace(&mut self.targets, snapshot.targets.clone());
        let mut newest = self.newest;
        for item in before.diff(&snapshot.targets) {
            let (DiffItem::Add(_, set) | DiffItem::Update { new: (_, set), .. }) = item else {
                continue;
            };
            let changes = set.backends.iter().filter_map(|backend| match backend.address.ip() {
                IpAddr::V4(address) => change_of(address),
                IpAddr::V6(_) => None,
            });
            // Of the pods of one service that changes brought, all but the newest are known. Two
            // changes of one service that are published together count as the later one.
            let Some(change) = changes.max().filter(|change| Some(*change) > self.newest) else {
                continue;
            };
            newest = newest.max(Some(change));
            self.waiting.push((change, snapshot.generation, now));
        }
        self.newest = newest;
    }

    fn note_applied(&mut self, generation: u64, now: u64) {
        let passages = &mut self.passages;
        self.waiting.retain(|&(change, since, published)| {
            let applied = since <= generation;
            if applied {
                passages.push(Passage { change, published, applied: now });
            }
            !applied
        });
    }
}

/// Tells what is known whenever a line arrives.
fn answer(seen: &Mutex<Seen>) {
    let mut line = String::new();
    while std::io::stdin().read_line(&mut line).is_ok_and(|bytes| bytes > 0) {
        line.clear();
        for Passage { change, published, applied } in std::mem::take(&mut lock(seen).passages) {
            println!("change {change} {published} {applied}");
        }
        println!("end");
    }
}
