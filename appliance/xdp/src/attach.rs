//! The program on its interfaces.
//!
//! Each interface has a link, pinned by the interface's index: a link outlives the daemon, and its
//! program is replaced between two packets. What this never does: take another's program off.

use std::fs;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::{Path, PathBuf};

use crate::netlink::Link;
use crate::settings::AttachWish;
use crate::sys::{self, AttachMode};

/// `EBUSY`: another program has its place.
const BUSY: i32 = 16;

/// `EEXIST`: as above, where the other was not attached by a link.
const EXISTS: i32 = 17;

/// How the program hangs on an interface.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Attached {
    /// Index of the interface.
    pub index: u32,
    /// By whom.
    pub mode: AttachMode,
    /// Why it is not the driver, where that was wanted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_native: Option<String>,
}

/// Puts the program on the interface, in the place of the one that an earlier run left there.
pub(crate) fn attach(
    pin_dir: &Path,
    link: &Link,
    wish: AttachWish,
    program: BorrowedFd<'_>,
) -> Result<Attached, String> {
    let path = path_of(pin_dir, link.index);
    if let Some(attached) = take_over(&path, link, wish, program)? {
        return Ok(attached);
    }
    let mut not_native = None;
    if wish != AttachWish::Generic {
        match attach_by(&path, link, AttachMode::Native, program) {
            Ok(attached) => return Ok(attached),
            Err(error) if is_busy(&error) => return Err(name_the_other(link)),
            Err(error) if wish == AttachWish::Native => {
                return Err(format!("its driver does not take the program: {error}"));
            }
            Err(error) => not_native = Some(error.to_string()),
        }
    }
    match attach_by(&path, link, AttachMode::Generic, program) {
        Ok(attached) => Ok(Attached { not_native, ..attached }),
        Err(error) if is_busy(&error) => Err(name_the_other(link)),
        Err(error) => Err(format!("the kernel does not attach the program: {error}")),
    }
}

/// Replaces the program of a link that an earlier run pinned.
fn take_over(
    path: &Path,
    link: &Link,
    wish: AttachWish,
    program: BorrowedFd<'_>,
) -> Result<Option<Attached>, String> {
    let Ok(pinned) = sys::open(path) else { return Ok(None) };
    let lives = sys::link_target(pinned.as_fd()).is_ok_and(|(index, _)| index == link.index);
    let mode = lives.then(|| mode_of(link.index)).flatten();
    let fits = match wish {
        AttachWish::Auto => true,
        AttachWish::Native => mode != Some(AttachMode::Generic),
        AttachWish::Generic => mode != Some(AttachMode::Native),
    };
    if !lives || !fits {
        remove(path, pinned.as_fd()).map_err(|error| format!("{}: {error}", path.display()))?;
        return Ok(None);
    }
    sys::replace(pinned.as_fd(), program)
        .map_err(|error| format!("the former program cannot be replaced: {error}"))?;
    let mode = mode.unwrap_or(AttachMode::Native);
    Ok(Some(Attached { index: link.index, mode, not_native: None }))
}

fn attach_by(
    path: &Path,
    link: &Link,
    mode: AttachMode,
    program: BorrowedFd<'_>,
) -> io::Result<Attached> {
    let attached = sys::attach(program, link.index, mode)?;
    sys::pin(attached.as_fd(), path)?;
    Ok(Attached { index: link.index, mode, not_native: None })
}

/// How something hangs on an interface.
fn mode_of(index: u32) -> Option<AttachMode> {
    let hanging = sys::query(index).ok()?;
    if hanging.native != 0 {
        return Some(AttachMode::Native);
    }
    (hanging.generic != 0).then_some(AttachMode::Generic)
}

fn is_busy(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(BUSY | EXISTS))
}

/// Says whose program has the place.
fn name_the_other(link: &Link) -> String {
    let hanging = sys::query(link.index).unwrap_or_default();
    let id = if hanging.native != 0 { hanging.native } else { hanging.generic };
    let name = sys::program_name(id).unwrap_or_else(|_| "of unknown name".to_owned());
    format!(
        "the XDP program {name} (id {id}) of another owner is attached to it: remove that, or take \
         the interface out of xdp.interfaces"
    )
}

/// Whether the link that was made for the interface still holds it.
pub(crate) fn is_attached(pin_dir: &Path, index: u32) -> bool {
    let pinned = sys::open(&path_of(pin_dir, index));
    let target = pinned.and_then(|pinned| sys::link_target(pinned.as_fd()));
    target.is_ok_and(|(found, _)| found == index)
}

/// Indices of the interfaces for which a link is pinned.
pub(crate) fn pinned(pin_dir: &Path) -> Vec<u32> {
    let Ok(entries) = fs::read_dir(pin_dir.join(LINKS)) else { return Vec::new() };
    let names = entries.flatten().map(|entry| entry.file_name());
    names.filter_map(|name| name.to_str()?.parse().ok()).collect()
}

/// Takes the program off an interface.
pub(crate) fn detach(pin_dir: &Path, index: u32) -> io::Result<()> {
    let path = path_of(pin_dir, index);
    match sys::open(&path) {
        Ok(pinned) => remove(&path, pinned.as_fd()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(_) => fs::remove_file(&path),
    }
}

fn remove(path: &Path, pinned: BorrowedFd<'_>) -> io::Result<()> {
    // Of an interface that has gone there is nothing to detach.
    let _ = sys::detach(pinned);
    fs::remove_file(path)
}

/// The directory of links. A file system for BPF takes no dot in a name, which names of VLAN
/// devices have: the links go by index.
const LINKS: &str = "links";

fn path_of(pin_dir: &Path, index: u32) -> PathBuf {
    pin_dir.join(LINKS).join(index.to_string())
}

/// Makes the directory of links.
pub(crate) fn prepare(pin_dir: &Path) -> io::Result<()> {
    fs::create_dir_all(pin_dir.join(LINKS))
}
