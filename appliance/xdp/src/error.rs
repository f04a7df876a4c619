//! Why the data path cannot be had.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

/// What stands against the data path as a whole.
#[derive(Debug, Error)]
pub enum Error {
    /// A setting lies outside of its bounds.
    #[error("{setting}: {problem}")]
    Setting {
        /// Which.
        setting: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// A metric's name is taken.
    #[error("a metric cannot be registered")]
    Metrics(#[from] prometheus::Error),
}

/// Why the program could not be loaded.
#[derive(Debug, Error)]
pub enum LoadError {
    /// There is no BPF file system at the directory.
    #[error(
        "{} is not in a BPF file system: run `mount -t bpf bpf /sys/fs/bpf`, or set xdp.pin_dir to \
         a directory in one", .0.display()
    )]
    NoBpfFileSystem(PathBuf),
    /// The daemon may not.
    #[error("the kernel does not permit it: the daemon lacks {0}")]
    NotPermitted(String),
    /// The kernel was built without something, or is too old.
    #[error("this kernel lacks {what}: {detail}")]
    Kernel {
        /// What it lacks.
        what: &'static str,
        /// What it said.
        detail: String,
    },
    /// The verifier refused the program.
    #[error("this kernel's verifier refuses the program: {0}")]
    Rejected(String),
    /// There is not enough memory for the maps.
    #[error("not enough memory for maps of that size: lower the sizes in [xdp]")]
    Memory,
    /// Something about the directory of pinned objects.
    #[error("{}: {source}", path.display())]
    Pins {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        source: io::Error,
    },
    /// Anything else.
    #[error("{0}")]
    Other(String),
}
