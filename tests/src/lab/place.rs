//! Where one lab keeps its files, and the ledger of what it started.
//!
//! Invariant: a process or namespace is in the ledger (or has the lab's prefix) before anything
//! else can fail, so that whoever comes after a crash finds all of it and nothing else.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::{env, process};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

/// Directories of one lab. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Place {
    id: String,
    run: PathBuf,
}

/// One process that a lab started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LedgerEntry {
    /// What it is, for people.
    pub name: String,
    /// Its process id, and the id of its process group.
    pub pid: u32,
    /// When it started, in clock ticks since boot: tells it from a later owner of the same id.
    pub start_ticks: u64,
}

impl Place {
    /// The directories of the lab `id`, which need not exist.
    pub fn of(id: &str) -> Self {
        Self { id: id.to_owned(), run: PathBuf::from(format!("/run/hf-{id}")) }
    }

    /// Creates the directories, and writes down this process as the owner.
    pub fn create(&self) -> Result<()> {
        fs::create_dir_all(self.run.join("logs"))
            .with_context(|| format!("create {}", self.run.display()))?;
        let owner = LedgerEntry::of("owner", process::id()).context("find this process")?;
        fs::write(self.owner_path(), serde_json::to_vec(&owner)?)?;
        Ok(())
    }

    /// The lab's name.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// A path below the lab's directory, which disappears with the lab.
    pub fn path(&self, below: impl AsRef<Path>) -> PathBuf {
        self.run.join(below)
    }

    /// Where the process `name` writes its output.
    pub fn log(&self, name: &str) -> PathBuf {
        self.run.join("logs").join(format!("{name}.log"))
    }

    /// The full name of the lab's namespace `name`.
    pub fn namespace(&self, name: &str) -> String {
        format!("{}{name}", self.namespace_prefix())
    }

    /// What the names of all the lab's namespaces begin with.
    pub fn namespace_prefix(&self) -> String {
        format!("hf-{}-", self.id)
    }

    /// Who brought the lab up, if that is known.
    pub fn owner(&self) -> Option<LedgerEntry> {
        serde_json::from_slice(&fs::read(self.owner_path()).ok()?).ok()
    }

    /// Writes a process into the ledger.
    pub fn enter(&self, name: &str, pid: u32) -> Result<()> {
        // A process that is gone already has no start time, and nobody needs to end it.
        let Some(entry) = LedgerEntry::of(name, pid) else { return Ok(()) };
        let mut line = serde_json::to_vec(&entry)?;
        line.push(b'\n');
        let path = self.ledger_path();
        let mut file = OpenOptions::new().create(true).append(true).open(&path)?;
        file.write_all(&line).with_context(|| format!("write {}", path.display()))
    }

    /// Everything in the ledger that still runs.
    pub fn running(&self) -> Vec<LedgerEntry> {
        let text = fs::read_to_string(self.ledger_path()).unwrap_or_default();
        text.lines()
            .filter_map(|line| serde_json::from_str::<LedgerEntry>(line).ok())
            .filter(LedgerEntry::is_running)
            .collect()
    }

    /// Labs that left a directory in /run.
    pub fn all() -> Vec<Self> {
        let Ok(entries) = fs::read_dir("/run") else { return Vec::new() };
        entries
            .flatten()
            .filter_map(|entry| Some(entry.file_name().to_str()?.strip_prefix("hf-")?.to_owned()))
            .map(|id| Self::of(&id))
            .filter(|place| place.owner_path().exists())
            .collect()
    }

    fn owner_path(&self) -> PathBuf {
        self.run.join("owner.json")
    }

    fn ledger_path(&self) -> PathBuf {
        self.run.join("processes.jsonl")
    }
}

impl LedgerEntry {
    /// The process that has the id `pid` now, if there is one.
    pub fn of(name: &str, pid: u32) -> Option<Self> {
        Some(Self { name: name.to_owned(), pid, start_ticks: start_ticks(pid)? })
    }

    /// Whether the very process (not a later one of the same id) still runs.
    pub fn is_running(&self) -> bool {
        start_ticks(self.pid) == Some(self.start_ticks)
    }
}

/// Field 22 of /proc/PID/stat; `None` for a process that is gone or a zombie.
fn start_ticks(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command name in parentheses may itself hold spaces and parentheses.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?;
    if matches!(state, "Z" | "X") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

/// The directory of the running binary, where Cargo puts its siblings.
pub fn binaries() -> Result<PathBuf> {
    let this = env::current_exe().context("find the running binary")?;
    let directory = this.parent().context("the running binary has no directory")?;
    // Test binaries live one level deeper.
    let directory = match directory.file_name() {
        Some(name) if name == "deps" => directory.parent().unwrap_or(directory),
        _ => directory,
    };
    Ok(directory.to_owned())
}

/// The root of the checkout that this was built from.
pub fn checkout() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_a_start_time_and_a_free_pid_has_none() {
        assert!(start_ticks(process::id()).is_some());
        assert_eq!(start_ticks(u32::MAX), None);
    }

    #[test]
    fn a_later_process_of_the_same_id_is_not_taken_for_the_earlier() {
        let pid = process::id();
        let ticks = start_ticks(pid).expect("own start time");
        let entry = |start_ticks| LedgerEntry { name: "x".into(), pid, start_ticks };
        assert!(entry(ticks).is_running());
        assert!(!entry(ticks + 1).is_running());
    }
}
