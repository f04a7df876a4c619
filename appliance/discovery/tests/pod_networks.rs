//! Pod networks that keep their own book, against a real API server.
//!
//! Topology: this process and the cluster of `HAFLINGER_TEST_KUBECONFIG` (an administrator's).
//! The custom resources are minimal definitions of the test's own, under the names of the pod
//! networks. Claims:
//! 1. A cluster without them is synced, and nothing is wrong.
//! 2. A pod network that is installed is noticed, and every block of a node is told.
//! 3. A block that is taken back, and one that is gone, is taken away.
//! 4. A CiliumNode tells the networks of its node.

#![expect(clippy::unwrap_used, reason = "a test may fail")]

use std::path::{Path, PathBuf};
use std::time::Duration;

use haflinger_core::{PodNetworkSpec, RouteOrigin, SourceUpdate, Update};
use haflinger_discovery::{ClusterSettings, Discovery, Settings};
use kube::Client;
use prometheus::Registry;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// A wait that is far longer than anything takes: only a failing test reaches it.
const PATIENCE: Duration = Duration::from_secs(90);

const CALICO: &str = "/apis/crd.projectcalico.org/v1/blockaffinities";
const CILIUM: &str = "/apis/cilium.io/v2/ciliumnodes";
const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";

async fn client(kubeconfig: &Path) -> Client {
    let kubeconfig = kube::config::Kubeconfig::read_from(kubeconfig).unwrap();
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &Default::default()).await;
    Client::try_from(config.unwrap()).unwrap()
}

async fn ask(client: &Client, method: &str, path: &str, body: &Value) -> Result<(), kube::Error> {
    let request = http::Request::builder()
        .method(method)
        .uri(path)
        .header("content-type", if method == "PATCH" { MERGE } else { "application/json" })
        .body(serde_json::to_vec(body).unwrap());
    client.request::<Value>(request.unwrap()).await.map(drop)
}

const MERGE: &str = "application/merge-patch+json";

fn definition(group: &str, version: &str, kind: &str, plural: &str) -> Value {
    let schema = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("{plural}.{group}")},
        "spec": {
            "group": group, "scope": "Cluster",
            "names": {"kind": kind, "plural": plural, "singular": kind.to_lowercase()},
            "versions": [{"name": version, "served": true, "storage": true,
                          "schema": {"openAPIV3Schema": schema}}],
        },
    })
}

fn affinity(name: &str, cidr: &str) -> Value {
    json!({"apiVersion": "crd.projectcalico.org/v1", "kind": "BlockAffinity",
           "metadata": {"name": name},
           "spec": {"cidr": cidr, "node": "n1", "state": "confirmed", "deleted": "false"}})
}

/// Creates an object of a kind that the server may not serve yet.
async fn create_once_served(client: &Client, path: &str, object: &Value) {
    let created = async {
        while ask(client, "POST", path, object).await.is_err() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(PATIENCE, created).await.expect("the kind is served");
}

struct Heard(mpsc::Receiver<Update>);

impl Heard {
    /// The next word on an object of a pod network.
    async fn next(&mut self) -> (RouteOrigin, String, Option<PodNetworkSpec>) {
        let next = async {
            loop {
                let update = self.0.recv().await.unwrap();
                if let Update::Source(SourceUpdate::PodNetwork { origin, name, spec, .. }) = update
                {
                    return (origin, name.to_string(), spec.map(|spec| *spec));
                }
            }
        };
        tokio::time::timeout(PATIENCE, next).await.expect("an update")
    }

    async fn until_synced(&mut self) {
        let synced = async { while !matches!(self.0.recv().await.unwrap(), Update::Synced(_)) {} };
        tokio::time::timeout(PATIENCE, synced).await.expect("the source is synced");
    }
}

fn settings(kubeconfig: PathBuf) -> Settings {
    let cluster = ClusterSettings {
        name: "test".into(),
        kubeconfig,
        context: None,
        claim_unclassed: false,
        ingress_class: "haflinger".into(),
        deletions: haflinger_discovery::DeletionLimits::default(),
        labels: haflinger_discovery::LabelKeys::default(),
        pod_routes: RouteOrigin::ALL.to_vec(),
        readiness_gate: false,
    };
    Settings { clusters: vec![cluster], inventory: None, state_dir: None }
}

fn networks(spec: &PodNetworkSpec) -> Vec<String> {
    spec.networks.iter().map(ToString::to_string).collect()
}

#[tokio::test]
async fn pod_networks_are_noticed_when_they_come_and_followed() {
    let Some(kubeconfig) = std::env::var_os("HAFLINGER_TEST_KUBECONFIG").map(PathBuf::from) else {
        eprintln!(
            "SKIPPED pod_networks_are_noticed_when_they_come_and_followed: \
             HAFLINGER_TEST_KUBECONFIG is not set"
        );
        return;
    };
    let client = client(&kubeconfig).await;
    let discovery = Discovery::new(settings(kubeconfig), &Registry::new()).unwrap();
    let handle = discovery.handle();
    let (sender, updates) = mpsc::channel(64);
    let shutdown = CancellationToken::new();
    let task = tokio::spawn(discovery.run(sender, shutdown.clone()));
    let mut heard = Heard(updates);
    heard.until_synced().await;
    let status = handle.status().sources.remove(0);
    assert!(status.connected && status.synced && status.last_error.is_none(), "{status:?}");
    assert!(status.kinds["block_affinities"].absent && status.kinds["cilium_nodes"].absent);

    let calico = definition("crd.projectcalico.org", "v1", "BlockAffinity", "blockaffinities");
    ask(&client, "POST", DEFINITIONS, &calico).await.unwrap();
    create_once_served(&client, CALICO, &affinity("n1-a", "10.8.0.0/26")).await;
    let (origin, name, spec) = heard.next().await;
    assert_eq!((origin, name.as_str()), (RouteOrigin::Calico, "n1-a"));
    let spec = spec.unwrap();
    assert_eq!((&*spec.node, networks(&spec)), ("n1", vec!["10.8.0.0/26".to_owned()]));
    ask(&client, "POST", CALICO, &affinity("n1-b", "10.8.3.64/26")).await.unwrap();
    assert_eq!(networks(&heard.next().await.2.unwrap()), ["10.8.3.64/26"]);
    assert!(handle.status().sources[0].kinds["block_affinities"].connected);

    let taken_back = json!({"spec": {"state": "pendingDeletion"}});
    ask(&client, "PATCH", &format!("{CALICO}/n1-a"), &taken_back).await.unwrap();
    assert_eq!(heard.next().await, (RouteOrigin::Calico, "n1-a".to_owned(), None));
    ask(&client, "DELETE", &format!("{CALICO}/n1-b"), &json!({})).await.unwrap();
    assert_eq!(heard.next().await, (RouteOrigin::Calico, "n1-b".to_owned(), None));

    let cilium = definition("cilium.io", "v2", "CiliumNode", "ciliumnodes");
    ask(&client, "POST", DEFINITIONS, &cilium).await.unwrap();
    let node = json!({"apiVersion": "cilium.io/v2", "kind": "CiliumNode",
                      "metadata": {"name": "n2"},
                      "spec": {"addresses": [{"type": "InternalIP", "ip": "192.0.2.2"}],
                               "ipam": {"podCIDRs": ["10.9.0.0/24"]}}});
    create_once_served(&client, CILIUM, &node).await;
    let (origin, name, spec) = heard.next().await;
    assert_eq!((origin, name.as_str()), (RouteOrigin::Cilium, "n2"));
    assert_eq!(networks(&spec.unwrap()), ["10.9.0.0/24"]);

    for definition in [calico, cilium] {
        let name = definition["metadata"]["name"].as_str().unwrap();
        ask(&client, "DELETE", &format!("{DEFINITIONS}/{name}"), &json!({})).await.unwrap();
    }
    shutdown.cancel();
    while heard.0.recv().await.is_some() {}
    task.await.unwrap();
}
