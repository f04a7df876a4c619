//! Gateway API in the lab: its definitions from the Go module that tests/conformance names, and
//! the class that Haflinger serves.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::json;

use super::place::checkout;
use super::{Api, eventually};

/// The class that the lab creates.
pub const GATEWAY_CLASS: &str = "haflinger";
/// The controller that it names.
pub const GATEWAY_CONTROLLER: &str = "haflinger.dev/gateway";
/// The definitions are served within seconds.
const SERVED_MAX: Duration = Duration::from_secs(60);

/// The folder of the module's experimental channel, which holds the standard one's fields too.
fn definitions() -> Result<PathBuf> {
    let output = Command::new("go")
        .current_dir(checkout().join("tests/conformance"))
        .args(["mod", "download", "-json", "sigs.k8s.io/gateway-api"])
        .output()
        .context("start go")?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "go mod download in tests/conformance: {stderr}");
    let module: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    let directory = module["Dir"].as_str().context("the module has no folder")?;
    Ok(PathBuf::from(directory).join("config/crd/experimental"))
}

/// Installs the definitions of our own policies, as they are shipped.
async fn install_policies(api: &Api) -> Result<()> {
    let path = checkout().join("packaging/kubernetes/policies.yaml");
    let yaml = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    api.apply_manifest(&yaml).await?;
    Ok(())
}

/// Installs every definition by server-side apply, and the class once they are served.
pub async fn install(api: &Api) -> Result<()> {
    let folder = definitions()?;
    let mut installed = 0;
    for entry in fs::read_dir(&folder).with_context(|| format!("read {}", folder.display()))? {
        let path = entry?.path();
        let yaml = fs::read_to_string(&path)?;
        // Of the folder, kustomization.yaml is none.
        if yaml.contains("\nkind: CustomResourceDefinition") {
            installed += api.apply_manifest(&yaml).await?;
        }
    }
    ensure!(installed > 0, "no definitions in {}", folder.display());
    install_policies(api).await?;
    let class = json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "GatewayClass",
        "metadata": {"name": GATEWAY_CLASS},
        "spec": {"controllerName": GATEWAY_CONTROLLER},
    });
    eventually(SERVED_MAX, "Gateway API to be served", async || {
        for version in [
            "gateway.networking.k8s.io/v1",
            "gateway.networking.x-k8s.io/v1alpha1",
            "haflinger.dev/v1alpha1",
        ] {
            api.get(&format!("/apis/{version}")).await?;
        }
        api.apply(&class).await
    })
    .await?;
    Ok(())
}
