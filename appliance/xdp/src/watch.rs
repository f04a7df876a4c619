//! Whether the program may remember the ways that the kernel's routes gave to a flow's packets.
//!
//! It may while it hears of every change. Of routes it reads the kernel's own numbers; changes of
//! neighbours are counted by programs at the kernel's tracepoints, which are attached here, by links
//! pinned beside the maps: they count on while the daemon is away. Where that cannot be had, the
//! kernel is asked for every packet, and status says why.

use std::fs;
use std::io;
use std::mem::{MaybeUninit, offset_of};
use std::os::fd::AsFd as _;
use std::path::Path;

use libbpf_rs::btf::types::Func;
use libbpf_rs::skel::{OpenSkel as _, SkelBuilder as _};
use libbpf_rs::{Btf, MapHandle, ProgramMut};
use thiserror::Error;

use crate::mapped::Mapped;
use crate::program::types;
use crate::sys;
use crate::watch_program::WatchSkelBuilder;

/// By which a program sees the kernel's own form of its packet.
const CAST: &str = "bpf_cast_to_kern_ctx";

/// The names of pinned links end so until they stand in the place of those of an earlier run.
const FRESH: &str = "_fresh";

/// Why the kernel is asked for every packet.
#[derive(Debug, Error)]
pub(crate) enum WatchError {
    /// The kernel does not say what types it has.
    #[error("the kernel does not describe its types: {0}")]
    Types(libbpf_rs::Error),
    /// It is too old.
    #[error("the kernel shows a program no numbers of its own (Linux 6.2 does)")]
    Cast,
    /// Something refused the programs.
    #[error("changed neighbours cannot be counted: {0}")]
    Program(libbpf_rs::Error),
    /// Something about the pinned links.
    #[error("changed neighbours cannot be counted, {0}: {1}")]
    Pin(String, io::Error),
}

/// Attaches what counts, for the map `counted`, and lets the program remember; or sees to it that it
/// does not. `directory` is that of the maps' version.
pub(crate) fn start(
    directory: &Path,
    counted: &MapHandle,
    generation: &Mapped<types::generation>,
) -> Result<(), WatchError> {
    let attached = attach(directory, counted);
    if attached.is_err() {
        // Those of an earlier run would go on counting from zero.
        for name in NAMES {
            let _ = fs::remove_file(directory.join(name));
        }
        generation.write(0, &types::generation::default());
        return attached;
    }
    // Not zero any more; and what an earlier run remembered, whoever counted since, is over.
    generation.add_one(0, offset_of!(types::generation, number));
    Ok(())
}

/// The programs, and the pins of their links.
const NAMES: [&str; 3] = ["neighbour_updated", "neighbour_timed", "neighbour_released"];

fn attach(directory: &Path, counted: &MapHandle) -> Result<(), WatchError> {
    let kernel = Btf::from_vmlinux().map_err(WatchError::Types)?;
    if kernel.type_by_name::<Func<'_>>(CAST).is_none() {
        return Err(WatchError::Cast);
    }
    let mut object = MaybeUninit::uninit();
    let mut open = WatchSkelBuilder::default().open(&mut object).map_err(WatchError::Program)?;
    open.maps.generation.reuse_fd(counted.as_fd()).map_err(WatchError::Program)?;
    let skeleton = open.load().map_err(WatchError::Program)?;
    let programs = &skeleton.progs;
    pin(directory, NAMES[0], &programs.neighbour_updated)?;
    pin(directory, NAMES[1], &programs.neighbour_timed)?;
    pin(directory, NAMES[2], &programs.neighbour_released)
}

/// Attaches a program. Its link takes the place of an earlier run's, which counts until then.
fn pin(directory: &Path, name: &str, program: &ProgramMut<'_>) -> Result<(), WatchError> {
    let link = program.attach().map_err(WatchError::Program)?;
    let fresh = directory.join(format!("{name}{FRESH}"));
    let pinned = match fs::remove_file(&fresh) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => sys::pin(link.as_fd(), &fresh),
    };
    let moved = pinned.and_then(|()| fs::rename(&fresh, directory.join(name)));
    moved.map_err(|error| WatchError::Pin(name.to_owned(), error))
}
