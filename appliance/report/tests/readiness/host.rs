//! One edge host without a data path.

use std::sync::Arc;

use haflinger_core::{BackendState, Policy, Pool, Snapshot, SourceId, StateReason};
use haflinger_discovery::{Discovery, DiscoveryHandle, KindStatus};
use haflinger_report::{Applied, GateReport, Reporter, ReporterHandle};
use prometheus::Registry;
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::cluster::Cluster;
use super::fold::fold;

/// Generations are counted from 1, and never get there.
const EVERYTHING: u64 = u64::MAX;

pub(crate) struct Host {
    pub(crate) name: String,
    pub(crate) identity: String,
    namespace: String,
    discovery: DiscoveryHandle,
    reporter: ReporterHandle,
    snapshots: watch::Receiver<Arc<Snapshot>>,
    applied: watch::Sender<u64>,
    shutdown: CancellationToken,
    tasks: Vec<JoinHandle<()>>,
    /// Of its own, so that it can end as a host does that loses its power.
    runtime: Option<Runtime>,
}

fn discovery(cluster: &Cluster) -> haflinger_discovery::Settings {
    haflinger_discovery::Settings {
        clusters: vec![haflinger_discovery::ClusterSettings {
            name: "test".into(),
            kubeconfig: cluster.product.clone(),
            context: None,
            claim_unclassed: false,
            ingress_class: "haflinger".into(),
            pod_routes: Vec::new(),
            readiness_gate: true,
            deletions: haflinger_discovery::DeletionLimits {
                percent_max: 100,
                ..haflinger_discovery::DeletionLimits::default()
            },
            labels: haflinger_discovery::LabelKeys::default(),
        }],
        inventory: None,
        state_dir: None,
    }
}

fn report(cluster: &Cluster, identity: &str) -> haflinger_report::Settings {
    haflinger_report::Settings {
        identity: identity.to_owned(),
        clusters: vec![haflinger_report::ClusterSettings {
            name: "test".into(),
            kubeconfig: cluster.product.clone(),
            context: None,
            // What the shipped roles know.
            lease_namespace: "haflinger".into(),
            lease_name: "haflinger".into(),
            lease_duration_secs: 6,
            renew_deadline_secs: 4,
            retry_period_secs: 1,
            readiness_gate: true,
        }],
    }
}

impl Host {
    pub(crate) fn start(name: &str, cluster: &Cluster) -> Self {
        let identity = cluster.identity(name);
        let source = SourceId::cluster("test");
        let range = ("198.51.100.1".parse().unwrap(), "198.51.100.250".parse().unwrap());
        let policy = Policy {
            sources: vec![source.clone()],
            pools: vec![Pool::new("pool", vec![range])],
            gated: [source.clone()].into(),
            ..Policy::default()
        };
        let discovery = Discovery::new(discovery(cluster), &Registry::new()).unwrap();
        let (applied, receiver) = watch::channel(EVERYTHING);
        let reporter = Reporter::new(report(cluster, &identity), &Registry::new()).unwrap();
        let reporter = reporter.with_applied(Applied {
            xdp: receiver.clone(),
            relay: receiver.clone(),
            proxy: receiver,
        });
        let (heard, told) = (discovery.handle(), reporter.handle());
        let (sender, updates) = mpsc::channel(512);
        let (publish, snapshots) = watch::channel(Arc::default());
        let shutdown = CancellationToken::new();
        let runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = { runtime }.worker_threads(1).enable_all().build().unwrap();
        let tasks = vec![
            runtime.spawn(fold(policy, updates, publish)),
            runtime.spawn(discovery.run(sender, shutdown.clone())),
            runtime.spawn(reporter.run(snapshots.clone(), shutdown.clone())),
        ];
        let (discovery, reporter, name) = (heard, told, name.to_owned());
        Self {
            name,
            identity,
            namespace: cluster.namespace.clone(),
            discovery,
            reporter,
            snapshots,
            applied,
            shutdown,
            tasks,
            runtime: Some(runtime),
        }
    }

    /// The data path takes over nothing any more.
    pub(crate) fn hold(&self) {
        self.applied.send_replace(0);
    }

    /// The data path takes over everything at once.
    pub(crate) fn catch_up(&self) {
        self.applied.send_replace(EVERYTHING);
    }

    pub(crate) fn gate(&self) -> GateReport {
        let status = self.reporter.status();
        status.clusters.first().and_then(|cluster| cluster.gate.clone()).unwrap_or_default()
    }

    pub(crate) fn kind(&self, kind: &str) -> KindStatus {
        let status = self.discovery.status();
        status
            .sources
            .first()
            .and_then(|source| source.kinds.get(kind).cloned())
            .unwrap_or_default()
    }

    pub(crate) fn is_synced(&self) -> bool {
        self.discovery.status().sources.first().is_some_and(|source| source.synced)
    }

    /// State and reasons of a Service's backends, once it has an address.
    pub(crate) fn backends(&self, service: &str) -> Option<Vec<(BackendState, Vec<StateReason>)>> {
        let snapshot = self.snapshots.borrow();
        let mut services = snapshot.services.values();
        let found = services.find(|known| {
            *known.object.name == *service && *known.object.namespace == *self.namespace
        })?;
        let backends = found.backends.backends.iter();
        Some(backends.map(|backend| (backend.state, backend.reasons.clone())).collect())
    }

    /// Ends without a word.
    pub(crate) async fn die(&mut self) {
        self.runtime.take().unwrap().shutdown_background();
        for task in self.tasks.drain(..) {
            assert!(task.await.unwrap_err().is_cancelled());
        }
    }

    pub(crate) async fn stop(mut self) {
        self.shutdown.cancel();
        for task in self.tasks {
            task.await.unwrap();
        }
        self.runtime.take().unwrap().shutdown_background();
    }
}
