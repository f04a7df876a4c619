//! The host under test and the cluster that it looks at.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use haflinger_core::{
    FlowTimeouts, ForwardingMode, LabelRequirement, LabelSelector, LabelTest, ObjectRef,
    ObjectReport, Policy, Pool, PoolSelector, Service as Served, Snapshot, SourceId,
};
use haflinger_discovery::Discovery;
use haflinger_report::Reporter;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{Namespace, Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::events::v1::Event;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client, Resource};
use prometheus::Registry;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::fold::fold;

/// A wait that is far longer than anything takes: only a failing test reaches it.
const PATIENCE: Duration = Duration::from_secs(60);

/// The zone of the host.
pub(crate) const HERE: &str = "here";

/// A pool of IPv4 addresses alone, to be asked for.
pub(crate) const V4_POOL: &str = "four";

/// A pool for objects with a label in namespaces with another.
pub(crate) const CHOOSY_POOL: &str = "choosy";

fn label(key: &str, value: &str) -> LabelSelector {
    let test = LabelTest::In([value.into()].into());
    let requirements = vec![LabelRequirement { key: key.into(), test }];
    LabelSelector { text: format!("{key}={value}").into(), requirements }
}

pub(crate) struct World {
    client: Client,
    pub(crate) namespace: String,
    source: SourceId,
    pub(crate) services: Api<Service>,
    snapshots: watch::Receiver<Arc<Snapshot>>,
    shutdown: CancellationToken,
    tasks: Vec<JoinHandle<()>>,
}

fn policy(source: &SourceId) -> Policy {
    let pool = |name: &str, ranges: &[(&str, &str)], auto_assign| {
        let ranges = ranges.iter().map(|(a, b)| (a.parse().unwrap(), b.parse().unwrap()));
        Pool { auto_assign, ..Pool::new(name, ranges.collect()) }
    };
    Policy {
        sources: vec![source.clone()],
        pools: vec![
            pool(
                "both",
                &[("198.51.100.1", "198.51.100.250"), ("2001:db8:51::1", "2001:db8:51::ff")],
                true,
            ),
            pool(V4_POOL, &[("203.0.113.1", "203.0.113.250")], false),
            Pool {
                priority: 1,
                skip_0_and_255: true,
                selects: PoolSelector {
                    namespace_labels: vec![label("hf-team", "edge")],
                    service_labels: vec![label("hf-tier", "gold")],
                    ..PoolSelector::default()
                },
                ..pool(CHOOSY_POOL, &[("192.0.2.254", "192.0.3.1")], true)
            },
        ],
        default_mode: ForwardingMode::Nat,
        timeouts: FlowTimeouts::default(),
        zone: Some(HERE.into()),
        // There is no data path here: what is relayed counts as served.
        xdp: false,
        ..Policy::default()
    }
}

fn discovery(kubeconfig: &Path) -> haflinger_discovery::Settings {
    haflinger_discovery::Settings {
        clusters: vec![haflinger_discovery::ClusterSettings {
            name: "test".into(),
            kubeconfig: kubeconfig.to_owned(),
            context: None,
            claim_unclassed: false,
            ingress_class: "haflinger".into(),
            pod_routes: Vec::new(),
            readiness_gate: false,
            // Claims delete what they created, which in a cluster of few objects is most of them.
            deletions: haflinger_discovery::DeletionLimits {
                percent_max: 100,
                ..haflinger_discovery::DeletionLimits::default()
            },
            labels: haflinger_discovery::LabelKeys {
                services: ["hf-tier".into()].into(),
                namespaces: ["hf-team".into()].into(),
            },
        }],
        inventory: None,
        state_dir: None,
    }
}

fn report(kubeconfig: &Path, lease_namespace: &str) -> haflinger_report::Settings {
    haflinger_report::Settings {
        identity: "contract".into(),
        clusters: vec![haflinger_report::ClusterSettings {
            name: "test".into(),
            kubeconfig: kubeconfig.to_owned(),
            context: None,
            lease_namespace: lease_namespace.to_owned(),
            lease_name: "haflinger".into(),
            lease_duration_secs: 30,
            renew_deadline_secs: 20,
            retry_period_secs: 1,
            readiness_gate: false,
        }],
    }
}

impl World {
    /// Nothing, and a word, where there is no cluster.
    pub(crate) async fn begin(test: &str) -> Option<Self> {
        let Some(path) = std::env::var_os("HAFLINGER_TEST_KUBECONFIG").map(PathBuf::from) else {
            eprintln!("SKIPPED {test}: HAFLINGER_TEST_KUBECONFIG is not set");
            return None;
        };
        // What the product signs in with, if it is to have the shipped rights only; these know
        // one Lease.
        let product = std::env::var_os("HAFLINGER_TEST_PRODUCT_KUBECONFIG").map(PathBuf::from);
        let read = kube::config::Kubeconfig::read_from(&path).unwrap();
        let config = kube::Config::from_custom_kubeconfig(read, &Default::default()).await;
        let client = Client::try_from(config.unwrap()).unwrap();
        let namespace = format!("hf-contract-{}", std::process::id());
        let namespaces: Api<Namespace> = Api::all(client.clone());
        let labels = json!({"hf-team": "edge"});
        let object = json!({"metadata": {"name": namespace, "labels": labels}});
        let object = serde_json::from_value(object).unwrap();
        namespaces.create(&PostParams::default(), &object).await.unwrap();

        let source = SourceId::cluster("test");
        let kubeconfig = product.as_ref().unwrap_or(&path);
        let lease_namespace = if product.is_some() { "haflinger" } else { &namespace };
        let discovery = Discovery::new(discovery(kubeconfig), &Registry::new()).unwrap();
        let reporter =
            Reporter::new(report(kubeconfig, lease_namespace), &Registry::new()).unwrap();
        let mut leader = reporter.leader();
        let (sender, updates) = mpsc::channel(512);
        let (publish, snapshots) = watch::channel(Arc::default());
        let shutdown = CancellationToken::new();
        let tasks = vec![
            tokio::spawn(fold(policy(&source), updates, publish)),
            tokio::spawn(discovery.run(sender, shutdown.clone())),
            tokio::spawn(reporter.run(snapshots.clone(), shutdown.clone())),
        ];
        let elected = leader.wait_for(|leads| *leads);
        tokio::time::timeout(PATIENCE, elected).await.expect("an election").unwrap();
        let services = Api::namespaced(client.clone(), &namespace);
        Some(Self { client, namespace, source, services, snapshots, shutdown, tasks })
    }

    pub(crate) async fn end(self) {
        self.shutdown.cancel();
        for task in self.tasks {
            task.await.unwrap();
        }
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        namespaces.delete(&self.namespace, &DeleteParams::default()).await.unwrap();
        let nodes: Api<Node> = Api::all(self.client);
        for zone in [HERE, "there"] {
            nodes.delete(&node_name(zone), &DeleteParams::default()).await.unwrap();
        }
    }

    pub(crate) fn api<K>(&self) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Creates an object from JSON, or says why the server refuses it.
    pub(crate) async fn try_create<K>(&self, object: Value) -> kube::Result<K>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
        K: Clone + Debug + Serialize + DeserializeOwned,
    {
        let object = serde_json::from_value(object).unwrap();
        self.api().create(&PostParams::default(), &object).await
    }

    /// Creates a Service of our class with these fields and annotations.
    pub(crate) async fn create(&self, name: &str, spec: Value, annotations: Value) {
        self.try_create::<Service>(service(name, spec, annotations)).await.unwrap();
    }

    pub(crate) async fn patch(&self, name: &str, patch: Value) {
        let patch = Patch::Merge(&patch);
        self.services.patch(name, &PatchParams::default(), &patch).await.unwrap();
    }

    pub(crate) async fn delete(&self, name: &str) {
        self.services.delete(name, &DeleteParams::default()).await.unwrap();
    }

    pub(crate) fn of(&self, name: &str) -> ObjectRef {
        ObjectRef::service(&self.source, &self.namespace, name)
    }

    /// Waits for a snapshot of which `look` makes something.
    pub(crate) async fn until<T>(
        &self,
        what: &str,
        mut look: impl FnMut(&Snapshot) -> Option<T>,
    ) -> T {
        let mut snapshots = self.snapshots.clone();
        let found = async {
            loop {
                if let Some(found) = look(&snapshots.borrow_and_update()) {
                    return found;
                }
                snapshots.changed().await.unwrap();
            }
        };
        let found = tokio::time::timeout(PATIENCE, found).await;
        found.unwrap_or_else(|_| panic!("{what} did not come: {}", self.picture()))
    }

    /// The services of an object once they are as `look` wants them.
    pub(crate) async fn served<T>(
        &self,
        name: &str,
        what: &str,
        mut look: impl FnMut(&[&Served]) -> Option<T>,
    ) -> T {
        let object = self.of(name);
        self.until(what, |snapshot| look(&services_of(snapshot, &object))).await
    }

    /// The addresses of an object once it is served on `count` of them.
    pub(crate) async fn addresses(&self, name: &str, count: usize) -> BTreeSet<IpAddr> {
        self.served(name, &format!("{name} on {count} addresses"), |services| {
            let vips: BTreeSet<IpAddr> = services.iter().map(|service| service.key.vip).collect();
            (vips.len() == count).then_some(vips)
        })
        .await
    }

    /// The report of an object once it is as `look` wants it.
    pub(crate) async fn reported<T>(
        &self,
        name: &str,
        what: &str,
        mut look: impl FnMut(&ObjectReport) -> Option<T>,
    ) -> T {
        let object = self.of(name);
        self.until(what, |snapshot| look(snapshot.reports.get(&object)?)).await
    }

    /// The status of a Service, once `look` finds in it what it wants.
    pub(crate) async fn status<T>(&self, name: &str, look: impl Fn(&Value) -> Option<T>) -> T {
        let mut last = Value::Null;
        let found = async {
            loop {
                last = self.read(name).await["status"].clone();
                if let Some(found) = look(&last["loadBalancer"]["ingress"]) {
                    return found;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        let found = tokio::time::timeout(PATIENCE, found).await;
        found.unwrap_or_else(|_| panic!("{name}: the status stays {last}"))
    }

    pub(crate) async fn read(&self, name: &str) -> Value {
        serde_json::to_value(self.services.get(name).await.unwrap()).unwrap()
    }

    /// Reasons and notes of our warnings about a Service.
    pub(crate) async fn warnings(&self, name: &str) -> Vec<(String, String)> {
        let events: Api<Event> = self.api();
        let list = events.list(&ListParams::default()).await.unwrap();
        let about = list.items.into_iter().filter(|event| {
            let regarding = event.regarding.as_ref().and_then(|object| object.name.as_deref());
            let ours = event.reporting_controller.as_deref() == Some("haflinger.dev/edge");
            ours && regarding == Some(name) && event.type_.as_deref() == Some("Warning")
        });
        let text = |text: Option<String>| text.unwrap_or_default();
        let mut told: Vec<_> = about.map(|event| (text(event.reason), text(event.note))).collect();
        told.sort();
        told
    }

    /// Waits until exactly these reasons have been told about a Service; answers with the notes.
    pub(crate) async fn told(&self, name: &str, reasons: &[&str]) -> Vec<String> {
        let told = async {
            loop {
                let warnings = self.warnings(name).await;
                if warnings.iter().map(|(reason, _)| reason.as_str()).eq(reasons.iter().copied()) {
                    return warnings.into_iter().map(|(_, note)| note).collect();
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        match tokio::time::timeout(PATIENCE, told).await {
            Ok(notes) => notes,
            Err(_) => panic!("{name}: {:?}, not {reasons:?}", self.warnings(name).await),
        }
    }

    /// Waits until nothing of a Service is left, and nobody holds its addresses.
    pub(crate) async fn nothing_left(&self, name: &str, addresses: &BTreeSet<IpAddr>) {
        let object = self.of(name);
        self.until(&format!("the end of {name}"), |snapshot| {
            let targets = snapshot.targets.keys().any(|target| target.object == object);
            let hostnames = snapshot.hostnames.values().any(|intent| intent.object == object);
            let vips = addresses.iter().any(|address| snapshot.vips.contains_key(address));
            let probes = snapshot.probes.keys().any(|probe| probe.object == object);
            let served = !services_of(snapshot, &object).is_empty();
            let reported = snapshot.reports.contains_key(&object);
            let left = targets || hostnames || vips || probes || served || reported;
            (!left).then_some(())
        })
        .await;
    }

    /// What the last snapshot holds, for whoever looks for a fault.
    fn picture(&self) -> String {
        let snapshot = self.snapshots.borrow();
        let services: Vec<String> =
            snapshot.services.iter().map(|(key, s)| format!("{key} {}", s.object.name)).collect();
        let vips: Vec<&IpAddr> = snapshot.vips.keys().collect();
        let names: Vec<_> = snapshot.hostnames.keys().collect();
        let reports: Vec<_> = snapshot
            .reports
            .iter()
            .map(|(object, report)| (&object.name, &report.desired, &report.faults))
            .collect();
        let (targets, probes) = (snapshot.targets.keys(), snapshot.probes.keys());
        let (targets, probes) = (targets.collect::<Vec<_>>(), probes.collect::<Vec<_>>());
        format!(
            "services {services:?}, VIPs {vips:?}, names {names:?}, targets {targets:?}, probes \
             {probes:?}, reports {reports:?}"
        )
    }

    pub(crate) async fn slice(&self, service: &str, name: &str, fields: Value) {
        let mut slice = json!({
            "metadata": {"name": name, "labels": {"kubernetes.io/service-name": service}},
            "addressType": "IPv4",
            "ports": [{"name": "web", "port": 8080}],
            "endpoints": [],
        });
        for (field, value) in fields.as_object().unwrap() {
            slice[field] = value.clone();
        }
        self.try_create::<EndpointSlice>(slice).await.unwrap();
    }

    /// The Node of a zone, which has a name of its own in every run.
    pub(crate) async fn node(&self, zone: &str) {
        let nodes: Api<Node> = Api::all(self.client.clone());
        let node = json!({"metadata": {
            "name": node_name(zone),
            "labels": {"topology.kubernetes.io/zone": zone},
        }});
        let node = serde_json::from_value(node).unwrap();
        match nodes.create(&PostParams::default(), &node).await {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            Err(error) => panic!("{error}"),
        }
        // Ready, as a kubelet would say: otherwise zones are not counted.
        let patch = json!({"status": {
            "conditions": [{"type": "Ready", "status": "True", "reason": "Test", "message": ""}],
            "allocatable": {"cpu": "4"},
        }});
        let patch = Patch::Merge(&patch);
        nodes.patch_status(&node_name(zone), &PatchParams::default(), &patch).await.unwrap();
    }

    /// A ready pod on the Node of a zone, with its port named `web`.
    pub(crate) async fn pod(&self, name: &str, app: &str, zone: &str, address: &str, port: u16) {
        let pods: Api<Pod> = self.api();
        let pod = json!({
            "metadata": {"name": name, "labels": {"app": app}},
            "spec": {
                "nodeName": node_name(zone),
                "terminationGracePeriodSeconds": 600,
                "automountServiceAccountToken": false,
                "tolerations": [{"operator": "Exists"}],
                "containers": [{
                    "name": "web", "image": "none",
                    "ports": [{"name": "web", "containerPort": port}],
                }],
            },
        });
        let pod = serde_json::from_value(pod).unwrap();
        // A new namespace gets its account within seconds.
        let created = async {
            while let Err(error) = pods.create(&PostParams::default(), &pod).await {
                assert!(error.to_string().contains("serviceaccount"), "{error}");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(PATIENCE, created).await.expect("an account");
        self.pod_status(name, address, true).await;
    }

    pub(crate) async fn pod_status(&self, name: &str, address: &str, ready: bool) {
        let ready = if ready { "True" } else { "False" };
        let patch = json!({"status": {
            "phase": "Running", "podIP": address, "podIPs": [{"ip": address}],
            "conditions": [
                {"type": "Ready", "status": ready},
                {"type": "ContainersReady", "status": ready},
            ],
        }});
        let pods: Api<Pod> = self.api();
        let patch = Patch::Merge(&patch);
        pods.patch_status(name, &PatchParams::default(), &patch).await.unwrap();
    }
}

fn node_name(zone: &str) -> String {
    format!("hf-contract-{}-{zone}", std::process::id())
}

fn services_of<'a>(snapshot: &'a Snapshot, object: &ObjectRef) -> Vec<&'a Served> {
    let services = snapshot.services.values().map(|service| &**service);
    services.filter(|service| service.object == *object).collect()
}

/// A Service of our class with these fields and annotations.
pub(crate) fn service(name: &str, fields: Value, annotations: Value) -> Value {
    let mut spec = json!({
        "type": "LoadBalancer",
        "loadBalancerClass": "haflinger.dev/edge",
        "allocateLoadBalancerNodePorts": false,
        "ports": [{"name": "web", "port": 80}],
    });
    for (field, value) in fields.as_object().unwrap() {
        spec[field] = value.clone();
    }
    json!({"metadata": {"name": name, "annotations": annotations}, "spec": spec})
}
