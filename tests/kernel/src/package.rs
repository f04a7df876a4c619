//! Debian 12's kernel: found among what is kept, or downloaded; taken apart, never installed.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, ensure};

use crate::Skipped;

/// The package that depends on the newest kernel.
const META_PACKAGE: &str = "linux-image-cloud-amd64";
/// Debian 12's kernel series.
const SERIES: &str = "linux-image-6.1.";

/// A kernel, taken apart.
pub(crate) struct Kernel {
    pub(crate) image: PathBuf,
    /// The folder with all of its modules.
    pub(crate) modules: PathBuf,
}

/// The kernel in `folder`, where it is put at the first time.
pub(crate) fn kernel(folder: &Path) -> anyhow::Result<Result<Kernel, Skipped>> {
    if let Some(kernel) = kept(folder)? {
        return Ok(Ok(kernel));
    }
    let package = match newest() {
        Ok(package) => package,
        Err(skipped) => return Ok(Err(skipped)),
    };
    let download = tempfile::tempdir_in(folder)?;
    let got = Command::new("apt-get")
        .args(["--quiet", "download", &package])
        .current_dir(download.path())
        .output()?;
    if !got.status.success() {
        let why = String::from_utf8_lossy(&got.stderr);
        let why = why.lines().last().unwrap_or_default();
        return Ok(Err(Skipped(format!("{package} cannot be downloaded: {why}"))));
    }
    let archive = std::fs::read_dir(download.path())?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
        .with_context(|| format!("apt-get downloaded {package} but left no file"))?;
    let root = download.path().join("root");
    let status = Command::new("dpkg-deb").arg("-x").args([&archive, &root]).status()?;
    ensure!(status.success(), "dpkg-deb cannot take {package} apart");
    // Renamed once it is whole, so that what was interrupted is not taken for a kernel.
    std::fs::rename(&root, folder.join(&package))?;
    Ok(Ok(kept(folder)?.with_context(|| format!("{package} holds no kernel"))?))
}

/// A kernel that an earlier run has left. The newest, should there be several.
fn kept(folder: &Path) -> anyhow::Result<Option<Kernel>> {
    let mut roots: Vec<_> = std::fs::read_dir(folder)?
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(SERIES))
        .map(|entry| entry.path())
        .collect();
    roots.sort();
    let Some(root) = roots.pop() else { return Ok(None) };
    let boot = std::fs::read_dir(root.join("boot"))?.flatten();
    let image = boot
        .map(|entry| entry.path())
        .find(|path| path.file_name().is_some_and(|n| n.to_string_lossy().starts_with("vmlinuz-")));
    Ok(image.map(|image| Kernel { image, modules: root.join("lib/modules") }))
}

/// The name of the newest kernel package that apt knows.
fn newest() -> Result<String, Skipped> {
    if let Some(package) = depended_on()? {
        return Ok(package);
    }
    // A machine that has never asked its mirror knows no package.
    let _ = Command::new("apt-get").args(["--quiet", "update"]).output();
    depended_on()?.ok_or_else(|| {
        Skipped(format!("apt knows no {META_PACKAGE} of Debian 12's kernel ({SERIES}…)"))
    })
}

fn depended_on() -> Result<Option<String>, Skipped> {
    let output = Command::new("apt-cache").args(["depends", META_PACKAGE]).output();
    let output = output.map_err(|error| Skipped(format!("apt-cache cannot be run: {error}")))?;
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.lines().find_map(dependency))
}

/// The kernel package that a line of `apt-cache depends` names.
fn dependency(line: &str) -> Option<String> {
    let name = line.trim().strip_prefix("Depends: ")?;
    name.starts_with(SERIES).then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_series_of_debian_12_is_taken() {
        let line = "  Depends: linux-image-6.1.0-56-cloud-amd64";
        assert_eq!(dependency(line).unwrap(), "linux-image-6.1.0-56-cloud-amd64");
        assert_eq!(dependency("  Depends: linux-image-6.12.0-1-cloud-amd64"), None);
        assert_eq!(dependency("linux-image-cloud-amd64"), None);
    }

    #[test]
    fn what_is_kept_is_used_and_an_interrupted_download_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let (whole, part) = ("linux-image-6.1.0-9-cloud-amd64", ".tmpAbCd/root");
        for root in [whole, part] {
            let boot = folder.path().join(root).join("boot");
            std::fs::create_dir_all(&boot).unwrap();
            std::fs::write(boot.join("vmlinuz-6.1.0"), "").unwrap();
            std::fs::write(boot.join("config-6.1.0"), "").unwrap();
        }
        let kernel = kept(folder.path()).unwrap().unwrap();
        assert_eq!(kernel.image, folder.path().join(whole).join("boot/vmlinuz-6.1.0"));
    }
}
