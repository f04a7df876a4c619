//! The Kubernetes half of a lab: control plane, stand-in for the kubelet, and the API client.

use anyhow::{Context as _, Result};
use serde_json::Value;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;
use tokio::runtime::Runtime;

use super::container::Images;
use super::control::ControlPlane;
use super::kubelet::Kubelet;
use super::place::checkout;
use super::topology::Network;
use super::{Api, Place};

/// A new namespace gets its service account within seconds.
const ACCOUNT_MAX: Duration = Duration::from_secs(60);

/// A control plane with nodes.
#[derive(Debug)]
pub struct Cluster {
    /// etcd, API server and controller manager.
    pub plane: ControlPlane,
    /// The administrator's client.
    pub api: Api,
    kubelet: Option<Kubelet>,
    inside: Option<Runtime>,
}

impl Cluster {
    /// Starts everything, and gives Haflinger the rights that its package asks for.
    pub async fn start(
        place: &Place,
        network: &Network,
        binary: PathBuf,
        images: Images,
    ) -> Result<Self> {
        let plane = ControlPlane::start(place, &network.control, binary).await?;
        let inside = network.control.runtime()?;
        let api = Api::new(place, inside.handle().clone())?;
        grant(&api).await?;
        // Pods of the namespace are refused before it has its account.
        let account = "/api/v1/namespaces/default/serviceaccounts/default";
        super::eventually(ACCOUNT_MAX, "the default service account", async || {
            api.get(account).await
        })
        .await?;
        let (place, nodes, client) = (place.clone(), network.nodes.clone(), api.clone());
        let start = async move { Kubelet::start(&place, nodes, client, images).await };
        let kubelet = Some(inside.spawn(start).await??);
        Ok(Self { plane, api, kubelet, inside: Some(inside) })
    }

    /// Ends the pods; the control plane goes with the value.
    pub async fn stop(&mut self) -> Result<()> {
        match self.kubelet.take() {
            Some(kubelet) => kubelet.stop().await,
            None => Ok(()),
        }
    }

    /// Pods labelled `app: APP` for which `keep` holds, by name.
    pub async fn pods(&self, app: &str, keep: fn(&Value) -> bool) -> Result<Vec<String>> {
        let path = format!("/api/v1/namespaces/default/pods?labelSelector=app%3D{app}");
        let pods = self.api.list(&path).await?;
        let mut names: Vec<String> = pods
            .iter()
            .filter(|pod| keep(pod))
            .filter_map(|pod| Some(pod["metadata"]["name"].as_str()?.to_owned()))
            .collect();
        names.sort();
        Ok(names)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Some(inside) = self.inside.take() {
            // Waiting for it is not allowed where a lab is dropped by async code.
            inside.shutdown_background();
        }
    }
}

/// Whether a pod is Ready and not on its way out.
pub fn is_serving(pod: &Value) -> bool {
    is_ready(pod) && pod["metadata"]["deletionTimestamp"].is_null()
}

/// Whether a pod's Ready condition holds.
pub fn is_ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array().map_or(&[][..], Vec::as_slice);
    conditions.iter().any(|c| c["type"] == "Ready" && c["status"] == "True")
}

async fn grant(api: &Api) -> Result<()> {
    let path = checkout().join("packaging/kubernetes/rbac.yaml");
    let yaml = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    api.apply_manifest(&yaml).await?;
    Ok(())
}
