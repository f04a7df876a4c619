//! The control plane: the Go program of tests/controlplane in its namespace.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::place::checkout;
use super::topology::CONTROL;
use super::{Namespace, Place, Process};

/// The Kubernetes version that tests/controlplane/go.mod names.
const KUBERNETES: (&str, &str, &str) = ("v1.36.3", "1", "36");
/// Environment variable that names the built program, when it should not be built here.
pub(super) const BINARY_VARIABLE: &str = "HAFLINGER_CONTROLPLANE";
/// The program's command for etcd and the API server.
const APISERVER: &str = "etcd+apiserver";
/// Port of the API server.
pub(super) const PORT: u16 = 6443;

/// Generous: both components start in seconds on an idle machine.
const START_MAX: Duration = Duration::from_secs(120);

/// etcd with the API server, and the controller manager.
#[derive(Debug)]
pub struct ControlPlane {
    place: Place,
    namespace: Namespace,
    binary: PathBuf,
    api: Process,
    controllers: Process,
    starts: u32,
}

impl ControlPlane {
    /// Starts both and waits until they are ready.
    pub async fn start(place: &Place, namespace: &Namespace, binary: PathBuf) -> Result<Self> {
        let mut api = spawn(place, namespace, &binary, APISERVER, "apiserver-1")?;
        api.wait_for_output("READY", START_MAX).await?;
        let name = "controller-manager";
        let mut controllers = spawn(place, namespace, &binary, name, name)?;
        controllers.wait_for_output("READY", START_MAX).await?;
        let (place, namespace) = (place.clone(), namespace.clone());
        Ok(Self { place, namespace, binary, api, controllers, starts: 1 })
    }

    /// Kills etcd and the API server.
    pub fn kill_api(&mut self) {
        self.api.kill();
    }

    /// Starts etcd and the API server again, with the data that they had.
    pub async fn resume_api(&mut self) -> Result<()> {
        self.starts += 1;
        // A log of its own, in which READY is looked for.
        let name = format!("apiserver-{}", self.starts);
        self.api = spawn(&self.place, &self.namespace, &self.binary, APISERVER, &name)?;
        self.api.wait_for_output("READY", START_MAX).await?;
        // It would come back by itself, but only after its own backoff of up to a minute.
        self.controllers.kill();
        let log = format!("controller-manager-{}", self.starts);
        let command = "controller-manager";
        self.controllers = spawn(&self.place, &self.namespace, &self.binary, command, &log)?;
        self.controllers.wait_for_output("READY", START_MAX).await?;
        Ok(())
    }

    /// The directory with certificates and kubeconfigs.
    pub fn directory(place: &Place) -> PathBuf {
        place.path("control")
    }

    /// The kubeconfig of someone who may do everything.
    pub fn admin_kubeconfig(place: &Place) -> PathBuf {
        Self::directory(place).join("admin.kubeconfig")
    }

    /// The kubeconfig that Haflinger is given.
    pub fn haflinger_kubeconfig(place: &Place) -> PathBuf {
        Self::directory(place).join("haflinger.kubeconfig")
    }

    /// What the logs are about, newest first.
    pub fn processes(&self) -> [&Process; 2] {
        [&self.api, &self.controllers]
    }
}

fn spawn(
    place: &Place,
    namespace: &Namespace,
    binary: &Path,
    command: &str,
    log: &str,
) -> Result<Process> {
    let mut child = namespace.command(&binary.display().to_string())?;
    child.arg(command).arg("-dir").arg(ControlPlane::directory(place)).args([
        "-address",
        &CONTROL.v4().to_string(),
        "-port",
        &PORT.to_string(),
    ]);
    if command == APISERVER {
        // The nodes' names are in no DNS.
        child.args(["-arg", "--kubelet-preferred-address-types=InternalIP"]);
    }
    Process::spawn(place, log, child)
}

/// Where the program is, or why it cannot be had. Building it takes minutes the first time;
/// Go's own cache makes the next ones short.
pub fn binary() -> Result<PathBuf> {
    if let Some(path) = env::var_os(BINARY_VARIABLE) {
        let path = PathBuf::from(path);
        ensure!(path.exists(), "{BINARY_VARIABLE} names {}, not there", path.display());
        return Ok(path);
    }
    let path = checkout().join("target/controlplane");
    let go = Command::new("go").arg("version").output();
    match go {
        Ok(output) if output.status.success() => build(&path)?,
        // An earlier build serves as well.
        _ if path.exists() => {}
        _ => anyhow::bail!("Go is missing (1.26 or later builds the control plane)"),
    }
    Ok(path)
}

fn build(path: &Path) -> Result<()> {
    let (version, major, minor) = KUBERNETES;
    let package = "k8s.io/component-base/version";
    let flags = format!(
        "-s -w -X {package}.gitVersion={version} -X {package}.gitMajor={major} \
         -X {package}.gitMinor={minor}"
    );
    let output = Command::new("go")
        .current_dir(checkout().join("tests/controlplane"))
        .args(["build", "-ldflags", &flags, "-o"])
        .arg(path)
        .arg(".")
        .output()
        .context("start go")?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "go build in tests/controlplane: {stderr}");
    Ok(())
}
