//! One service in two clusters, against two real API servers.
//!
//! Topology: discovery, index and report in this process, and two control planes of its own, each
//! with its etcd, started from the binary that `HAFLINGER_TEST_CONTROLPLANE` names
//! (tests/controlplane). Claims:
//! 1. Services of one name are two, with two addresses, until both ask to be one.
//! 2. Then both statuses get one address, and pods of both clusters serve it, by their weights.
//! 3. A cluster that is away takes nothing away, and holds nothing up in the other.
//! 4. When it is back, what has changed in it is followed.
//! 5. What does not fit is told at the object that does not lead.
//! 6. A cluster that goes its own way gets an address of its own, and the other keeps its.

#![expect(clippy::unwrap_used, reason = "a test may fail")]

#[path = "../../discovery/tests/control_plane/mod.rs"]
mod control_plane;
mod fold;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use control_plane::{Server, free_port};
use fold::fold;
use haflinger_core::{BackendState, FaultReason, ObjectRef, Policy, Pool, Snapshot, SourceId};
use haflinger_discovery::{DeletionLimits, Discovery, LabelKeys};
use haflinger_report::Reporter;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use prometheus::Registry;
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// A wait that is far longer than anything takes: only a failing test reaches it.
const PATIENCE: Duration = Duration::from_secs(120);

struct Cluster {
    name: &'static str,
    dir: tempfile::TempDir,
    port: u16,
    server: Option<Server>,
    client: Client,
}

impl Cluster {
    async fn start(binary: &Path, name: &'static str) -> Self {
        let (dir, port) = (tempfile::tempdir().unwrap(), free_port());
        let server = Some(Server::start(binary, dir.path(), port));
        let read = kube::config::Kubeconfig::read_from(dir.path().join("admin.kubeconfig"));
        let config = kube::Config::from_custom_kubeconfig(read.unwrap(), &Default::default()).await;
        let client = Client::try_from(config.unwrap()).unwrap();
        Self { name, dir, port, server, client }
    }

    fn kubeconfig(&self) -> PathBuf {
        self.dir.path().join("admin.kubeconfig")
    }

    fn services(&self) -> Api<Service> {
        Api::default_namespaced(self.client.clone())
    }

    fn of(&self, name: &str) -> ObjectRef {
        ObjectRef::service(&SourceId::cluster(self.name), "default", name)
    }

    async fn service(&self, name: &str) {
        let service = json!({
            "metadata": {"name": name},
            "spec": {
                "type": "LoadBalancer", "loadBalancerClass": "haflinger.dev/edge",
                "allocateLoadBalancerNodePorts": false, "ports": [{"name": "web", "port": 80}],
            },
        });
        let service = serde_json::from_value(service).unwrap();
        self.services().create(&PostParams::default(), &service).await.unwrap();
    }

    async fn patch(&self, name: &str, patch: Value) {
        let params = PatchParams::default();
        self.services().patch(name, &params, &Patch::Merge(&patch)).await.unwrap();
    }

    async fn annotate(&self, annotations: Value) {
        self.patch("web", json!({"metadata": {"annotations": annotations}})).await;
    }

    async fn slice(&self, addresses: &[&str]) {
        let slices: Api<EndpointSlice> = Api::default_namespaced(self.client.clone());
        let endpoints: Vec<_> =
            addresses.iter().map(|address| json!({"addresses": [address]})).collect();
        let slice = json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {"name": "web-1", "labels": {"kubernetes.io/service-name": "web"}},
            "addressType": "IPv4", "ports": [{"name": "web", "port": 8080}],
            "endpoints": endpoints,
        });
        let params = PatchParams::apply("test").force();
        slices.patch("web-1", &params, &Patch::Apply(&slice)).await.unwrap();
    }

    /// Addresses in the status of a Service.
    async fn status(&self, name: &str) -> BTreeSet<String> {
        let service = serde_json::to_value(self.services().get(name).await.unwrap()).unwrap();
        let entries = service.pointer("/status/loadBalancer/ingress").cloned().unwrap_or_default();
        let entries = entries.as_array().cloned().unwrap_or_default();
        entries.iter().map(|entry| entry["ip"].as_str().unwrap().to_owned()).collect()
    }

    async fn address(&self, name: &str) -> String {
        until(&format!("an address of {name} in {}", self.name), async || {
            let mut addresses = self.status(name).await;
            (addresses.len() == 1).then(|| addresses.pop_first().unwrap())
        })
        .await
    }
}

async fn until<T>(what: &str, look: impl AsyncFn() -> Option<T>) -> T {
    let found = async {
        loop {
            if let Some(found) = look().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, found).await.unwrap_or_else(|_| panic!("{what}: never"))
}

fn policy() -> Policy {
    Policy {
        sources: ["a", "b"].map(SourceId::cluster).to_vec(),
        pools: vec![Pool::new(
            "all",
            vec![("198.51.100.1".parse().unwrap(), "198.51.100.250".parse().unwrap())],
        )],
        ..Policy::default()
    }
}

/// The product, with both clusters.
struct Product {
    snapshots: watch::Receiver<Arc<Snapshot>>,
    shutdown: CancellationToken,
    tasks: Vec<JoinHandle<()>>,
}

impl Product {
    fn start(clusters: [&Cluster; 2]) -> Self {
        let discovery = clusters.map(|cluster| haflinger_discovery::ClusterSettings {
            name: cluster.name.into(),
            kubeconfig: cluster.kubeconfig(),
            context: None,
            claim_unclassed: false,
            ingress_class: "haflinger".into(),
            pod_routes: Vec::new(),
            readiness_gate: false,
            deletions: DeletionLimits::default(),
            labels: LabelKeys::default(),
        });
        let report = clusters.map(|cluster| haflinger_report::ClusterSettings {
            name: cluster.name.into(),
            kubeconfig: cluster.kubeconfig(),
            context: None,
            lease_namespace: "default".into(),
            lease_name: "haflinger".into(),
            lease_duration_secs: 30,
            renew_deadline_secs: 20,
            retry_period_secs: 1,
            readiness_gate: false,
        });
        let discovery = haflinger_discovery::Settings {
            clusters: discovery.to_vec(),
            ..haflinger_discovery::Settings::default()
        };
        let report =
            haflinger_report::Settings { identity: "clusters".into(), clusters: report.to_vec() };
        let discovery = Discovery::new(discovery, &Registry::new()).unwrap();
        let reporter = Reporter::new(report, &Registry::new()).unwrap();
        let (sender, updates) = mpsc::channel(512);
        let (publish, snapshots) = watch::channel(Arc::default());
        let shutdown = CancellationToken::new();
        let tasks = vec![
            tokio::spawn(fold(policy(), updates, publish)),
            tokio::spawn(discovery.run(sender, shutdown.clone())),
            tokio::spawn(reporter.run(snapshots.clone(), shutdown.clone())),
        ];
        Self { snapshots, shutdown, tasks }
    }

    /// Waits until the service at an address has these backends: address, weight, active.
    async fn serves(&self, at: &str, wanted: &[(&str, u32, bool)]) {
        let wanted: Vec<(String, u32, bool)> =
            wanted.iter().map(|(a, weight, active)| ((*a).to_owned(), *weight, *active)).collect();
        until(&format!("{at} served by {wanted:?}"), async || {
            let snapshot = self.snapshots.borrow().clone();
            let mut services = snapshot.services.values();
            let service = services.find(|service| service.key.vip.to_string() == at)?;
            let backends = service.backends.backends.iter().map(|backend| {
                let active = backend.state == BackendState::Active;
                (backend.address.ip().to_string(), backend.weight, active)
            });
            backends.eq(wanted.iter().cloned()).then_some(())
        })
        .await;
    }

    async fn end(self) {
        self.shutdown.cancel();
        for task in self.tasks {
            task.await.unwrap();
        }
    }
}

#[tokio::test]
async fn services_of_two_clusters_become_one_and_part_again() {
    let Some(binary) = std::env::var_os("HAFLINGER_TEST_CONTROLPLANE").map(PathBuf::from) else {
        eprintln!("SKIPPED clusters: HAFLINGER_TEST_CONTROLPLANE is not set");
        return;
    };
    let (a, mut b) = (Cluster::start(&binary, "a").await, Cluster::start(&binary, "b").await);
    a.service("web").await;
    a.slice(&["10.1.0.1"]).await;
    // Ages count in seconds.
    tokio::time::sleep(Duration::from_secs(1)).await;
    b.service("web").await;
    b.slice(&["10.2.0.1"]).await;
    let product = Product::start([&a, &b]);
    let (of_a, of_b) = (a.address("web").await, b.address("web").await);
    assert_ne!(of_a, of_b, "two services");
    product.serves(&of_b, &[("10.2.0.1", 100, true)]).await;

    a.annotate(json!({"haflinger.dev/shared": "true"})).await;
    let shared = json!({"haflinger.dev/shared": "true", "haflinger.dev/cluster-weight": "50"});
    b.annotate(shared).await;
    let both = [("10.1.0.1", 100, true), ("10.2.0.1", 50, true)];
    product.serves(&of_a, &both).await;
    until("the leader's address in the other status", async || {
        (b.status("web").await == [of_a.clone()].into()).then_some(())
    })
    .await;
    assert_eq!(a.status("web").await, [of_a.clone()].into());

    // The first cluster is preferred: the other one stands by.
    b.annotate(json!({"haflinger.dev/cluster-priority": "1"})).await;
    product.serves(&of_a, &[("10.1.0.1", 100, true), ("10.2.0.1", 50, false)]).await;

    b.server = None;
    a.slice(&["10.1.0.2"]).await;
    product.serves(&of_a, &[("10.1.0.2", 100, true), ("10.2.0.1", 50, false)]).await;
    a.service("new").await;
    a.address("new").await;
    // The last pods of the first cluster go, while the other one's API is away.
    a.slice(&[]).await;
    product.serves(&of_a, &[("10.2.0.1", 50, true)]).await;

    b.server = Some(Server::start(&binary, b.dir.path(), b.port));
    b.slice(&["10.2.0.2"]).await;
    a.slice(&["10.1.0.3"]).await;
    product.serves(&of_a, &[("10.1.0.3", 100, true), ("10.2.0.2", 50, false)]).await;

    b.patch("web", json!({"spec": {"loadBalancerSourceRanges": ["192.0.2.0/24"]}})).await;
    product.serves(&of_a, &[("10.1.0.3", 100, true)]).await;
    until("a word at the other object", async || {
        let snapshot = product.snapshots.borrow().clone();
        let report = snapshot.reports.get(&b.of("web"))?;
        let mut faults = report.faults.iter();
        faults.any(|fault| fault.reason == FaultReason::SharedDiffers).then_some(())
    })
    .await;
    let ours = product.snapshots.borrow().reports.get(&a.of("web")).unwrap().faults.clone();
    assert!(ours.is_empty(), "{ours:?}");

    b.annotate(json!({"haflinger.dev/shared": "false"})).await;
    until("an address of its own", async || {
        let own = b.status("web").await;
        (own.len() == 1 && !own.contains(&of_a)).then_some(())
    })
    .await;
    assert_eq!(a.status("web").await, [of_a].into());
    b.services().delete("web", &DeleteParams::default()).await.unwrap();
    product.end().await;
}
