//! A BPF file system of the lab's own, in which XDP programs outlive the daemons of its hosts.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use super::Place;

/// Where it is mounted.
pub(super) fn directory(place: &Place) -> PathBuf {
    place.path("bpf")
}

/// Mounts it.
pub(super) fn mount(place: &Place) -> Result<()> {
    let directory = directory(place);
    fs::create_dir_all(&directory)?;
    let output = Command::new("mount")
        .args(["-t", "bpf", "-o", "mode=0700", "bpf"])
        .arg(&directory)
        .output()
        .context("start mount")?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "mount a BPF file system: {stderr}");
    Ok(())
}

/// Unmounts it, and so lets go of everything that is pinned there.
pub(super) fn unmount(place: &Place) {
    let directory = directory(place);
    if directory.exists() {
        // What was never mounted is as good.
        let _ = Command::new("umount").arg("-l").arg(&directory).output();
    }
}
