//! Discovery while its API server dies and comes back.
//!
//! Topology: this process and a control plane of its own, started from the binary that
//! `HAFLINGER_TEST_CONTROLPLANE` names (tests/controlplane). Claims:
//! 1. While the API is away nothing is said, and the status says that it is away.
//! 2. When it is back, exactly what has changed since is said; positions that the new server
//!    no longer knows (410) are recovered from.
//! 3. A daemon that starts while the API is away says what is on disk, as a whole.

#![expect(clippy::unwrap_used, reason = "a test may fail")]

mod control_plane;

use std::path::{Path, PathBuf};
use std::time::Duration;

use control_plane::{Server, free_port};
use haflinger_core::{RouteOrigin, SourceUpdate, Update};
use haflinger_discovery::{ClusterSettings, Discovery, DiscoveryHandle, LabelKeys, Settings};
use k8s_openapi::api::core::v1::Service;
use kube::api::{DeleteParams, PostParams};
use kube::{Api, Client};
use prometheus::Registry;
use serde_json::json;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// A wait that is far longer than anything takes: only a failing test reaches it.
const PATIENCE: Duration = Duration::from_secs(120);

struct Running {
    handle: DiscoveryHandle,
    updates: mpsc::Receiver<Update>,
    shutdown: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl Running {
    fn start(directory: &Path) -> Self {
        let settings = Settings {
            clusters: vec![ClusterSettings {
                name: "test".into(),
                kubeconfig: directory.join("admin.kubeconfig"),
                context: None,
                claim_unclassed: false,
                ingress_class: "haflinger".into(),
                deletions: haflinger_discovery::DeletionLimits::default(),
                labels: LabelKeys::default(),
                pod_routes: RouteOrigin::ALL.to_vec(),
                readiness_gate: false,
            }],
            inventory: None,
            state_dir: Some(directory.join("state")),
        };
        let discovery = Discovery::new(settings, &Registry::new()).unwrap();
        let handle = discovery.handle();
        let (sender, updates) = mpsc::channel(64);
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(discovery.run(sender, shutdown.clone()));
        Self { handle, updates, shutdown, task }
    }

    /// Names of Services in "default", with a minus for those that went, until `last` is said.
    async fn services_until(&mut self, last: &str) -> Vec<String> {
        let mut said = Vec::new();
        loop {
            let next = tokio::time::timeout(PATIENCE, self.updates.recv());
            match next.await.expect("an update").unwrap() {
                Update::Synced(_) => said.push("synced".to_owned()),
                Update::Source(SourceUpdate::Service { object, spec }) => {
                    let sign = if spec.is_some() { "" } else { "-" };
                    said.push(format!("{sign}{}", object.name));
                }
                _ => continue,
            }
            if said.last().is_some_and(|name| name == last) {
                return said;
            }
        }
    }

    async fn connected(&self, wanted: bool) {
        let reached = async {
            while self.handle.status().sources[0].connected != wanted {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(PATIENCE, reached).await.expect("the status follows");
    }

    async fn stop(mut self) {
        self.shutdown.cancel();
        while self.updates.recv().await.is_some() {}
        self.task.await.unwrap();
    }
}

async fn services(directory: &Path) -> Api<Service> {
    let path = directory.join("admin.kubeconfig");
    let kubeconfig = kube::config::Kubeconfig::read_from(path).unwrap();
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &Default::default()).await;
    Api::namespaced(Client::try_from(config.unwrap()).unwrap(), "default")
}

fn service(name: &str) -> Service {
    let spec = json!({"clusterIP": "None", "ports": [{"port": 80}]});
    serde_json::from_value(json!({"metadata": {"name": name}, "spec": spec})).unwrap()
}

#[tokio::test]
async fn an_api_server_that_dies_and_returns_costs_nothing_but_time() {
    let Some(binary) = std::env::var_os("HAFLINGER_TEST_CONTROLPLANE").map(PathBuf::from) else {
        eprintln!(
            "SKIPPED an_api_server_that_dies_and_returns_costs_nothing_but_time: \
             HAFLINGER_TEST_CONTROLPLANE is not set"
        );
        return;
    };
    let directory = tempfile::tempdir().unwrap();
    let (dir, port) = (directory.path(), free_port());
    let server = Server::start(&binary, dir, port);
    let create = async |name: &str| {
        services(dir).await.create(&PostParams::default(), &service(name)).await.unwrap();
    };
    create("first").await;
    let mut running = Running::start(dir);
    running.services_until("synced").await;
    running.connected(true).await;

    drop(server);
    running.connected(false).await;
    assert!(running.handle.status().sources[0].last_error.is_some());
    let server = Server::start(&binary, dir, port);
    create("second").await;
    assert_eq!(running.services_until("second").await, ["second"], "and nothing else");
    running.connected(true).await;
    services(dir).await.delete("first", &DeleteParams::default()).await.unwrap();
    assert_eq!(running.services_until("-first").await, ["-first"]);
    running.stop().await;

    drop(server);
    let mut running = Running::start(dir);
    let mut restored = running.services_until("synced").await;
    restored.sort();
    assert_eq!(restored, ["kubernetes", "second", "synced"]);
    assert!(!running.handle.status().sources[0].connected);
    let server = Server::start(&binary, dir, port);
    create("third").await;
    let said = running.services_until("third").await;
    assert!(said.iter().all(|name| name == "third" || name == "synced"), "{said:?}");
    running.stop().await;
    drop(server);
}
