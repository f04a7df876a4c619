//! What tests/conformance builds: the suite, and the programs that stand for its images.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::lab::{Images, checkout};

/// The built programs. Building them takes a minute or two the first time; Go's own cache makes
/// the next ones short.
#[derive(Clone, Debug)]
pub struct Programs {
    /// The suite with our options, as a test binary.
    pub suite: PathBuf,
    echo: PathBuf,
    coredns: PathBuf,
}

impl Programs {
    /// Builds all, or says why that cannot be.
    pub fn build() -> Result<Self> {
        let folder = super::folder().join("bin");
        let [suite, echo, coredns] =
            ["suite", "echo-basic", "coredns"].map(|name| folder.join(name));
        let module = checkout().join("tests/conformance");
        go(&module, &["test", "-c", "-o"], &suite, ".")?;
        let package = "sigs.k8s.io/gateway-api/conformance/echo-basic";
        go(&module, &["build", "-o"], &echo, package)?;
        go(&module.join("coredns"), &["build", "-o"], &coredns, ".")?;
        Ok(Self { suite, echo, coredns })
    }

    /// The images of the suite's manifests. Every version of the echo server is the one of the
    /// suite's own module, from which those images are built.
    pub fn images(&self) -> Images {
        Images::default()
            .with("/gateway-api/echo-basic:", self.echo.clone())
            .with("/coredns/coredns:", self.coredns.clone())
    }
}

fn go(module: &Path, arguments: &[&str], output: &Path, package: &str) -> Result<()> {
    let done = Command::new("go")
        .current_dir(module)
        .args(arguments)
        .arg(output)
        .arg(package)
        .output()
        .context("Go is missing (1.26 or later builds the conformance suite)")?;
    let stderr = String::from_utf8_lossy(&done.stderr);
    ensure!(done.status.success(), "go build {package} in {}: {stderr}", module.display());
    Ok(())
}
