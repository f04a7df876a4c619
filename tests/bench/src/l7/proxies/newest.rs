//! The newest HAProxy that Debian publishes: a small `sid` in `target/debian-sid`, made once.
//!
//! It is started by its own loader with its own libraries, so that nothing has to be mounted and
//! it reads its configuration where the others do.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use anyhow::{Context as _, Result, bail, ensure};

use super::{Kind, haproxy};

/// One kind in each run: found out, and said if it is missing, once.
pub(super) fn kind() -> Option<Kind> {
    static FOUND: OnceLock<Option<Kind>> = OnceLock::new();
    FOUND
        .get_or_init(|| {
            find()
                .inspect_err(|error| {
                    eprintln!("SKIPPED the comparison with the newest haproxy: {error:#}");
                })
                .ok()
        })
        .clone()
}

fn find() -> Result<Kind> {
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target");
    let root = target.join("debian-sid");
    if !root.join("usr/sbin/haproxy").exists() {
        unpack(&target, &root)?;
    }
    let root = root.canonicalize()?;
    let libraries = libraries(&root)?;
    let loader = files(&libraries)?
        .into_iter()
        .find(|path| {
            path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"ld-linux"))
        })
        .context("no loader in debian-sid")?;
    let program = [loader, "--library-path".into(), libraries, root.join("usr/sbin/haproxy")]
        .map(|part| part.display().to_string());
    haproxy::of("haproxy-newest", program.to_vec()).context("it does not start")
}

fn unpack(target: &Path, root: &Path) -> Result<()> {
    ensure!(rustix::process::geteuid().is_root(), "unpacking Debian sid needs root");
    let part = target.join("debian-sid.part");
    // What an interrupted run has left.
    if part.exists() {
        fs::remove_dir_all(&part)?;
    }
    fs::create_dir_all(target)?;
    let log = target.join("debian-sid.log");
    println!("Unpacking Debian sid into target/debian-sid, for its HAProxy …");
    let status = Command::new("debootstrap")
        .args(["--variant=minbase", "--include=haproxy", "sid"])
        .arg(&part)
        .stdin(Stdio::null())
        .stdout(File::create(&log)?)
        .stderr(File::options().append(true).open(&log)?)
        .status()
        .context("debootstrap is not installed")?;
    if !status.success() {
        bail!("debootstrap failed, see {}", log.display());
    }
    Ok(fs::rename(part, root)?)
}

/// `usr/lib/…-linux-gnu`
fn libraries(root: &Path) -> Result<PathBuf> {
    files(&root.join("usr/lib"))?
        .into_iter()
        .find(|path| path.as_os_str().as_encoded_bytes().ends_with(b"-linux-gnu"))
        .context("no libraries in debian-sid")
}

fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect()
}
