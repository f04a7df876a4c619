//! Taking everything back: for the end of an appliance's life, or of its XDP.

use std::fs;
use std::io;
use std::path::Path;

use crate::attach;

/// Where maps and links are pinned when nothing else is configured.
pub const DEFAULT_PIN_DIR: &str = "/sys/fs/bpf/haflinger";

/// What was taken back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// Interfaces that the program was taken off.
    pub interfaces: usize,
    /// Versions of maps that were given up, with their flows.
    pub layouts: usize,
}

/// Takes the program off every interface and gives up its maps, with the flows in them. To be
/// called when the data path does not run.
///
/// # Errors
///
/// Something is there that cannot be removed.
pub fn take_off(pin_dir: &Path) -> io::Result<Removed> {
    let mut removed = Removed::default();
    for index in attach::pinned(pin_dir) {
        attach::detach(pin_dir, index)?;
        removed.interfaces += 1;
    }
    for version in versions(pin_dir) {
        fs::remove_dir_all(pin_dir.join(version))?;
        removed.layouts += 1;
    }
    Ok(removed)
}

/// Versions of maps that are pinned there.
pub(crate) fn versions(pin_dir: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(pin_dir) else { return Vec::new() };
    let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    names.filter(|name| name.starts_with('v') || name == "fresh").collect()
}
