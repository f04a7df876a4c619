//! Discovery against a real API server.
//!
//! Topology: this process and the cluster of `HAFLINGER_TEST_KUBECONFIG` (an administrator's;
//! everything happens in namespaces of our own). Claims:
//! 1. Objects that exist are told before the source counts as synced.
//! 2. Objects that come, change and go are told, each once.
//! 3. A restarted discovery says what it knew at once, and then exactly what had changed.
//! 4. A kubeconfig that is nonsense is named in the status, and used once it is not.
//! 5. A cluster that is taken out of the settings is retired.

#![expect(clippy::unwrap_used, reason = "a test may fail")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use haflinger_core::{RouteOrigin, ServiceSpec, SourceId, SourceUpdate, Update};
use haflinger_discovery::{ClusterSettings, Discovery, DiscoveryHandle, LabelKeys, Settings};
use k8s_openapi::api::core::v1::{Namespace, Service};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use prometheus::Registry;
use serde_json::json;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// A wait that is far longer than anything takes: only a failing test reaches it.
const PATIENCE: Duration = Duration::from_secs(60);

fn kubeconfig(test: &str) -> Option<PathBuf> {
    let path = std::env::var_os("HAFLINGER_TEST_KUBECONFIG").map(PathBuf::from);
    if path.is_none() {
        #[expect(clippy::print_stderr, reason = "a skipped test has to say so")]
        {
            eprintln!("SKIPPED {test}: HAFLINGER_TEST_KUBECONFIG is not set");
        }
    }
    path
}

/// What the product itself signs in with, and whether that has the shipped rights only
/// (`HAFLINGER_TEST_PRODUCT_KUBECONFIG`, with packaging/kubernetes/rbac.yaml applied).
fn product(administrator: &Path) -> (PathBuf, bool) {
    match std::env::var_os("HAFLINGER_TEST_PRODUCT_KUBECONFIG") {
        Some(path) => (path.into(), true),
        None => (administrator.to_owned(), false),
    }
}

async fn client(kubeconfig: &Path) -> Client {
    let kubeconfig = kube::config::Kubeconfig::read_from(kubeconfig).unwrap();
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &Default::default()).await;
    Client::try_from(config.unwrap()).unwrap()
}

fn settings(kubeconfig: &Path, state_dir: &Path) -> Settings {
    Settings {
        clusters: vec![ClusterSettings {
            name: "test".into(),
            kubeconfig: product(kubeconfig).0,
            context: None,
            claim_unclassed: false,
            ingress_class: "haflinger".into(),
            deletions: haflinger_discovery::DeletionLimits::default(),
            labels: LabelKeys::default(),
            pod_routes: RouteOrigin::ALL.to_vec(),
            readiness_gate: false,
        }],
        inventory: None,
        state_dir: Some(state_dir.to_owned()),
    }
}

struct Running {
    handle: DiscoveryHandle,
    updates: mpsc::Receiver<Update>,
    shutdown: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl Running {
    fn start(settings: Settings) -> Self {
        let discovery = Discovery::new(settings, &Registry::new()).unwrap();
        let handle = discovery.handle();
        let (sender, updates) = mpsc::channel(16);
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(discovery.run(sender, shutdown.clone()));
        Self { handle, updates, shutdown, task }
    }

    async fn next(&mut self) -> Update {
        tokio::time::timeout(PATIENCE, self.updates.recv()).await.expect("an update").unwrap()
    }

    /// What is said about Services of a namespace until the source is synced.
    async fn until_synced(&mut self, namespace: &str) -> BTreeMap<String, Option<ServiceSpec>> {
        let mut said = BTreeMap::new();
        loop {
            match self.next().await {
                Update::Synced(_) => return said,
                update => {
                    if let Some((name, spec)) = service_of(&update, namespace) {
                        assert!(said.insert(name, spec).is_none(), "said twice");
                    }
                }
            }
        }
    }

    async fn next_service(&mut self, namespace: &str) -> (String, Option<ServiceSpec>) {
        loop {
            if let Some(service) = service_of(&self.next().await, namespace) {
                return service;
            }
        }
    }

    async fn stop(mut self) {
        self.shutdown.cancel();
        // Draining lets a feed that has something to say end.
        while self.updates.recv().await.is_some() {}
        self.task.await.unwrap();
    }
}

fn service_of(update: &Update, namespace: &str) -> Option<(String, Option<ServiceSpec>)> {
    match update {
        Update::Source(SourceUpdate::Service { object, spec })
            if *object.namespace == *namespace =>
        {
            Some((object.name.to_string(), spec.as_deref().cloned()))
        }
        _ => None,
    }
}

fn service(name: &str, port: u16) -> Service {
    serde_json::from_value(json!({
        "metadata": {"name": name},
        "spec": {
            "type": "LoadBalancer", "loadBalancerClass": "haflinger.dev/edge",
            "allocateLoadBalancerNodePorts": false, "ports": [{"port": port}],
        },
    }))
    .unwrap()
}

async fn namespace(client: &Client, name: &str) -> Api<Service> {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let object = serde_json::from_value(json!({"metadata": {"name": name}})).unwrap();
    namespaces.create(&PostParams::default(), &object).await.unwrap();
    Api::namespaced(client.clone(), name)
}

#[tokio::test]
async fn a_cluster_is_told_through_changes_and_a_restart() {
    let test = "a_cluster_is_told_through_changes_and_a_restart";
    let Some(kubeconfig) = kubeconfig(test) else { return };
    let state = tempfile::tempdir().unwrap();
    let client = client(&kubeconfig).await;
    let name = format!("hf-discovery-{}", std::process::id());
    let services = namespace(&client, &name).await;
    for (service_name, port) in [("kept", 80), ("changed", 81), ("deleted", 82)] {
        services.create(&PostParams::default(), &service(service_name, port)).await.unwrap();
    }

    let mut running = Running::start(settings(&kubeconfig, state.path()));
    let said = running.until_synced(&name).await;
    assert_eq!(said.keys().collect::<Vec<_>>(), ["changed", "deleted", "kept"]);
    let exposure = said["kept"].as_ref().unwrap().exposure.as_ref().unwrap();
    assert!(exposure.recorded.is_empty());

    let patch = json!({"metadata": {"annotations": {"haflinger.dev/pool": "p"}}});
    let patch = Patch::Merge(&patch);
    services.patch("kept", &PatchParams::default(), &patch).await.unwrap();
    let (said, spec) = running.next_service(&name).await;
    assert_eq!(said, "kept");
    assert_eq!(spec.unwrap().exposure.unwrap().pool.as_deref(), Some("p"));
    let status = running.handle.status();
    assert!(status.sources[0].connected && status.sources[0].synced, "{status:?}");
    assert!(!status.sources[0].restored_from_disk);
    running.stop().await;

    let patch = json!({"spec": {"ports": [{"port": 8081}]}});
    services.patch("changed", &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap();
    services.delete("deleted", &DeleteParams::default()).await.unwrap();
    services.create(&PostParams::default(), &service("created", 83)).await.unwrap();

    let mut running = Running::start(settings(&kubeconfig, state.path()));
    let restored = running.until_synced(&name).await;
    assert_eq!(restored.keys().collect::<Vec<_>>(), ["changed", "deleted", "kept"]);
    let pool = restored["kept"].as_ref().unwrap().exposure.as_ref().unwrap().pool.clone();
    assert_eq!(pool.as_deref(), Some("p"), "the last change was kept");
    let difference = running.until_synced(&name).await;
    assert_eq!(difference.keys().collect::<Vec<_>>(), ["changed", "created", "deleted"]);
    assert!(difference["deleted"].is_none());
    assert_eq!(difference["changed"].as_ref().unwrap().ports[0].port, 8081);
    assert!(running.handle.status().sources[0].restored_from_disk);

    let none = Settings { clusters: Vec::new(), ..settings(&kubeconfig, state.path()) };
    running.handle.reconfigure(none);
    loop {
        if let Update::Retired(source) = running.next().await {
            assert_eq!(source, SourceId::cluster("test"));
            break;
        }
    }
    assert!(running.handle.status().sources.is_empty());
    running.stop().await;
    let left: Vec<_> = std::fs::read_dir(state.path()).unwrap().collect();
    assert!(left.is_empty(), "a retired source leaves no state: {left:?}");
    let namespaces: Api<Namespace> = Api::all(client);
    namespaces.delete(&name, &DeleteParams::default()).await.unwrap();
}

#[tokio::test]
async fn a_bad_kubeconfig_is_named_and_used_once_it_is_good() {
    let test = "a_bad_kubeconfig_is_named_and_used_once_it_is_good";
    let Some(kubeconfig) = kubeconfig(test) else { return };
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("kubeconfig");
    std::fs::write(&path, "nonsense").unwrap();
    let mut settings = settings(&kubeconfig, dir.path());
    settings.clusters[0].kubeconfig.clone_from(&path);
    let mut running = Running::start(settings);
    let named = async {
        loop {
            let status = running.handle.status();
            if let Some(error) = status.sources.first().and_then(|s| s.last_error.clone()) {
                return error;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let error = tokio::time::timeout(PATIENCE, named).await.expect("an error");
    assert!(error.contains(path.to_str().unwrap()), "{error}");
    std::fs::copy(product(&kubeconfig).0, &path).unwrap();
    running.until_synced("default").await;
    running.stop().await;
}
