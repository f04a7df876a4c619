//! An edge host that reports what a test has it say, to the cluster of `HAFLINGER_TEST_KUBECONFIG`.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use haflinger_core::{IpMode, ObjectRef, ObjectReport, Snapshot, StatusAddress};
use haflinger_report::{ClusterSettings, Reporter, ReporterHandle, Settings};
use kube::Client;
use prometheus::Registry;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// A wait that is far longer than anything takes: only a failing test reaches it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) fn kubeconfig(test: &str) -> Option<PathBuf> {
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

pub(crate) async fn client(kubeconfig: &Path) -> Client {
    let kubeconfig = kube::config::Kubeconfig::read_from(kubeconfig).unwrap();
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &Default::default()).await;
    Client::try_from(config.unwrap()).unwrap()
}

pub(crate) struct Host {
    pub(crate) handle: ReporterHandle,
    pub(crate) leader: watch::Receiver<bool>,
    pub(crate) snapshots: watch::Sender<Arc<Snapshot>>,
    shutdown: CancellationToken,
    task: JoinHandle<()>,
}

impl Host {
    pub(crate) fn start(identity: &str, kubeconfig: &Path, namespace: &str) -> Self {
        let (kubeconfig, restricted) = product(kubeconfig);
        let settings = Settings {
            identity: identity.into(),
            clusters: vec![ClusterSettings {
                name: "test".into(),
                kubeconfig,
                context: None,
                // The shipped role knows one Lease only.
                lease_namespace: if restricted { "haflinger" } else { namespace }.into(),
                lease_name: "haflinger".into(),
                lease_duration_secs: 30,
                renew_deadline_secs: 20,
                retry_period_secs: 1,
                readiness_gate: false,
            }],
        };
        let reporter = Reporter::new(settings, &Registry::new()).unwrap();
        let (handle, leader) = (reporter.handle(), reporter.leader());
        let (snapshots, receiver) = watch::channel(Arc::default());
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(reporter.run(receiver, shutdown.clone()));
        Self { handle, leader, snapshots, shutdown, task }
    }

    pub(crate) fn publish(&self, object: &ObjectRef, report: &ObjectReport) {
        let mut snapshot = Snapshot::clone(&self.snapshots.borrow());
        snapshot.generation += 1;
        snapshot.reports.insert(object.clone(), Arc::new(report.clone()));
        self.snapshots.send_replace(Arc::new(snapshot));
    }

    pub(crate) fn withdraw(&self, object: &ObjectRef) {
        let mut snapshot = Snapshot::clone(&self.snapshots.borrow());
        snapshot.generation += 1;
        snapshot.reports.remove(object);
        self.snapshots.send_replace(Arc::new(snapshot));
    }

    pub(crate) async fn elected(&mut self) {
        let elected = self.leader.wait_for(|leads| *leads);
        tokio::time::timeout(PATIENCE, elected).await.expect("an election").unwrap();
    }

    pub(crate) async fn stop(self) {
        self.shutdown.cancel();
        self.task.await.unwrap();
    }
}

pub(crate) fn report(desired: &[&str], recorded: &[&str]) -> ObjectReport {
    let entry = |text: &&str| StatusAddress::new(text.parse().unwrap(), IpMode::Proxy);
    ObjectReport {
        desired: desired.iter().map(entry).collect(),
        recorded: recorded.iter().map(|text| text.parse().unwrap()).collect(),
        ..ObjectReport::default()
    }
}
