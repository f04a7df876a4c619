//! The first file system of the guest: everything that it has.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, ensure};
use tempfile::NamedTempFile;

use crate::archive::Archive;
use crate::libraries::{Modules, of_program};
use crate::package::Kernel;

/// What the guest does first.
const INIT: &str = include_str!("init");
/// Modules that tests may use; Debian builds none of them into its kernel.
const MODULES: &[&str] = &["veth", "8021q", "dummy", "bonding", "ipip", "ip6_tunnel"];
const BUSYBOX: &str = "/bin/busybox";
/// Debian's own tools, which tests call: they know more than busybox's. A test that calls one
/// which this machine has not got says so.
const TOOLS: &[(&str, &str)] = &[
    // Not busybox's shell, which prefers its own tools to any on the path.
    ("dash", "/bin/sh"),
    ("ip", "/usr/sbin/ip"),
    ("ss", "/usr/sbin/ss"),
    ("tc", "/usr/sbin/tc"),
    ("ethtool", "/usr/sbin/ethtool"),
    ("sysctl", "/usr/sbin/sysctl"),
    ("bpftool", "/usr/sbin/bpftool"),
];
/// Where this machine has them.
const PLACES: &[&str] = &["/usr/sbin", "/usr/bin", "/sbin", "/bin"];

/// Writes the image for some programs; it goes with what is returned.
pub(crate) fn build(
    kernel: &Kernel,
    programs: &[PathBuf],
    folder: &Path,
) -> anyhow::Result<NamedTempFile> {
    let file = NamedTempFile::with_prefix_in("initramfs", folder)?;
    let mut image =
        Image { archive: Archive::new(BufWriter::new(file.reopen()?)), libraries: BTreeSet::new() };
    image.archive.file(Path::new("/init"), INIT.as_bytes())?;
    image.program(Path::new(BUSYBOX), Path::new(BUSYBOX))?;
    image.modules(kernel)?;
    for (tool, to) in TOOLS {
        let found = PLACES.iter().map(|place| Path::new(place).join(tool)).find(|p| p.exists());
        if let Some(from) = found {
            image.program(&from, Path::new(to))?;
        }
    }
    let stripped = tempfile::tempdir_in(folder)?;
    let mut order: Vec<String> = Vec::new();
    for program in programs {
        let name = name_of(program);
        ensure!(!order.contains(&name), "two programs are named {name}");
        let small = stripped.path().join(&name);
        strip(program, &small)?;
        image.program(&small, &Path::new("/programs").join(&name))?;
        order.push(name);
    }
    image.archive.file(Path::new("/programs/order"), order.join("\n").as_bytes())?;
    image.archive.finish()?;
    Ok(file)
}

struct Image {
    archive: Archive<BufWriter<File>>,
    libraries: BTreeSet<PathBuf>,
}

impl Image {
    fn copy(&mut self, from: &Path, to: &Path) -> anyhow::Result<()> {
        let contents =
            std::fs::read(from).with_context(|| format!("{} cannot be read", from.display()))?;
        Ok(self.archive.file(to, &contents)?)
    }

    /// A program with its libraries, which stay where they are on this machine.
    fn program(&mut self, from: &Path, to: &Path) -> anyhow::Result<()> {
        self.copy(from, to)?;
        for library in of_program(from)? {
            if self.libraries.insert(library.clone()) {
                self.copy(&library, &library)?;
            }
        }
        Ok(())
    }

    fn modules(&mut self, kernel: &Kernel) -> anyhow::Result<()> {
        let files = Modules::find(&kernel.modules)?.with_dependencies(MODULES)?;
        let mut order = String::new();
        for file in files {
            let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
            self.copy(&file, &Path::new("/modules").join(&name))?;
            order.push_str(&name);
            order.push('\n');
        }
        Ok(self.archive.file(Path::new("/modules/order"), order.as_bytes())?)
    }
}

/// The name without the hash that cargo appends.
fn name_of(program: &Path) -> String {
    let name = program.file_name().unwrap_or_default().to_string_lossy();
    match name.rsplit_once('-') {
        Some((name, hash)) if hash.len() == 16 => name.to_owned(),
        _ => name.into_owned(),
    }
}

/// Leaves out what only a debugger reads: most of a test program, all of it in memory.
fn strip(program: &Path, to: &Path) -> anyhow::Result<()> {
    let status = Command::new("strip")
        .arg("--strip-debug")
        .arg("-o")
        .args([to, program])
        .status()
        .context("strip cannot be run")?;
    ensure!(status.success(), "strip cannot read {}", program.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_named_without_their_hash() {
        assert_eq!(name_of(Path::new("/t/deps/load-0123456789abcdef")), "load");
        assert_eq!(name_of(Path::new("/t/two-words")), "two-words");
    }
}
