//! The shipped rights, and each of them taken away.
//!
//! Topology: discovery, index and report in this process, signed in as a ServiceAccount with what
//! packaging/kubernetes/rbac.yaml gives (under names of our own), and the cluster of
//! `HAFLINGER_TEST_KUBECONFIG`, an administrator's. Claims:
//! 1. With all of them nothing is missing: they are enough.
//! 2. Without one exactly that is named, with what is lost: every one is needed for something.
//! 3. Without one a Service goes on to be served, and new ones get addresses, unless it is the right
//!    to read just that.
//! 4. The manifest, the table in packaging/kubernetes/README.md and the code agree.

#![expect(clippy::unwrap_used, reason = "a test may fail")]

mod fold;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use fold::fold;
use haflinger_core::{ObjectRef, Policy, Pool, RouteOrigin, Snapshot, SourceId};
use haflinger_discovery::{Discovery, DiscoveryHandle};
use haflinger_report::{Reporter, ReporterHandle};
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Namespace, Service, ServiceAccount};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{ApiResource, DeleteParams, DynamicObject, Patch, PatchParams, PostParams};
use kube::core::GroupVersionKind;
use kube::{Api, Client};
use prometheus::Registry;
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// A wait that is far longer than anything takes: only a failing test reaches it.
const PATIENCE: Duration = Duration::from_secs(60);

/// One right: verb, group and resource.
type Verb = (String, String, String);

fn packaging(file: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../packaging/kubernetes");
    std::fs::read_to_string(folder.join(file)).unwrap()
}

fn manifest() -> Vec<Value> {
    let documents: Vec<Value> = serde_saphyr::from_multiple(&packaging("rbac.yaml")).unwrap();
    documents.into_iter().filter(|document| !document.is_null()).collect()
}

fn texts(value: &Value) -> impl Iterator<Item = String> {
    value.as_array().into_iter().flatten().map(|text| text.as_str().unwrap().to_owned())
}

/// What a rule allows, each by itself.
fn verbs(rule: &Value) -> Vec<Verb> {
    let mut found = Vec::new();
    for group in texts(&rule["apiGroups"]) {
        for resource in texts(&rule["resources"]) {
            let of_verb = |verb| (verb, group.clone(), resource.clone());
            found.extend(texts(&rule["verbs"]).map(of_verb));
        }
    }
    found
}

fn rules(documents: &[Value]) -> impl Iterator<Item = &Value> {
    documents.iter().flat_map(|document| document["rules"].as_array().into_iter().flatten())
}

fn in_code() -> BTreeMap<Verb, &'static str> {
    let all = haflinger_discovery::RIGHTS.iter().chain(haflinger_report::RIGHTS);
    let own = |right: &haflinger_kubernetes::Right| {
        let key = (right.verb.to_owned(), right.group.to_owned(), right.resource.to_owned());
        (key, right.without)
    };
    all.map(own).collect()
}

/// Rows of the table: verbs, resource and group, and what is lost without it.
fn in_table() -> BTreeMap<Verb, String> {
    let mut found = BTreeMap::new();
    for row in packaging("README.md").lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = row.trim_matches('|').split(" | ").map(str::trim).collect();
        let [verb, resource, _, lost] = cells[..] else { panic!("four cells: {row}") };
        let (verb, resource) = (verb.trim_matches('`'), resource.trim_matches('`'));
        let (path, below) = resource.split_once('/').unwrap_or((resource, ""));
        let (plural, group) = path.split_once('.').unwrap_or((path, ""));
        let separator = if below.is_empty() { "" } else { "/" };
        let resource = format!("{plural}{separator}{below}");
        let known = found.insert((verb.to_owned(), group.to_owned(), resource), lost.to_owned());
        assert!(known.is_none(), "twice: {row}");
    }
    found
}

#[test]
fn the_manifest_the_table_and_the_code_agree() {
    let documents = manifest();
    let given: BTreeSet<Verb> = rules(&documents).flat_map(verbs).collect();
    let (code, table) = (in_code(), in_table());
    assert_eq!(given, code.keys().cloned().collect(), "the manifest and the code");
    assert_eq!(given, table.keys().cloned().collect(), "the manifest and the table");
    for (verb, lost) in table {
        assert_eq!(lost, code[&verb], "what is lost without {verb:?}");
    }
}

/// The product, from one set of rights to the next.
struct Product {
    discovery: DiscoveryHandle,
    report: ReporterHandle,
    snapshots: watch::Receiver<Arc<Snapshot>>,
    shutdown: CancellationToken,
    tasks: Vec<JoinHandle<()>>,
}

struct World {
    admin: Client,
    kubeconfig: PathBuf,
    /// Everything of ours is in it, or begins with its name.
    namespace: String,
    _dir: tempfile::TempDir,
}

fn policy() -> Policy {
    Policy {
        sources: vec![SourceId::cluster("test")],
        pools: vec![Pool::new(
            "all",
            vec![("198.51.100.1".parse().unwrap(), "198.51.100.250".parse().unwrap())],
        )],
        ..Policy::default()
    }
}

impl Product {
    async fn start(world: &World) -> Self {
        let discovery = haflinger_discovery::Settings {
            clusters: vec![haflinger_discovery::ClusterSettings {
                name: "test".into(),
                kubeconfig: world.kubeconfig.clone(),
                context: None,
                claim_unclassed: false,
                ingress_class: "haflinger".into(),
                pod_routes: RouteOrigin::ALL.to_vec(),
                readiness_gate: false,
                deletions: haflinger_discovery::DeletionLimits::default(),
                labels: haflinger_discovery::LabelKeys {
                    namespaces: ["team".into()].into(),
                    ..haflinger_discovery::LabelKeys::default()
                },
            }],
            inventory: None,
            state_dir: None,
        };
        let report = haflinger_report::Settings {
            identity: "rights".into(),
            clusters: vec![haflinger_report::ClusterSettings {
                name: "test".into(),
                kubeconfig: world.kubeconfig.clone(),
                context: None,
                lease_namespace: world.namespace.clone(),
                lease_name: "haflinger".into(),
                lease_duration_secs: 30,
                renew_deadline_secs: 20,
                retry_period_secs: 1,
                readiness_gate: false,
            }],
        };
        let discovery = Discovery::new(discovery, &Registry::new()).unwrap();
        let reporter = Reporter::new(report, &Registry::new()).unwrap();
        let (sender, updates) = mpsc::channel(512);
        let (publish, snapshots) = watch::channel(Arc::default());
        let shutdown = CancellationToken::new();
        let (handle, report) = (discovery.handle(), reporter.handle());
        let tasks = vec![
            tokio::spawn(fold(policy(), updates, publish)),
            tokio::spawn(discovery.run(sender, shutdown.clone())),
            tokio::spawn(reporter.run(snapshots.clone(), shutdown.clone())),
        ];
        Self { discovery: handle, report, snapshots, shutdown, tasks }
    }

    /// What the status says that is missing, and is lost.
    fn missing(&self) -> BTreeSet<(String, &'static str)> {
        let (sources, clusters) = (self.discovery.status().sources, self.report.status().clusters);
        let discovery = sources.into_iter().flat_map(|source| source.missing_rights);
        let report = clusters.into_iter().flat_map(|cluster| cluster.missing_rights);
        discovery.chain(report).map(|missing| (missing.right, missing.disables)).collect()
    }

    async fn until(&self, what: &str, look: impl Fn(&Snapshot) -> bool) {
        let found = async {
            while !look(&self.snapshots.borrow()) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let found = tokio::time::timeout(PATIENCE, found).await;
        let status = (self.discovery.status(), self.report.status());
        assert!(found.is_ok(), "{what}: {status:?} {:?}", self.snapshots.borrow().reports);
    }

    async fn names(&self, wanted: &BTreeSet<(String, &'static str)>) {
        let named = async {
            while self.missing() != *wanted {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let named = tokio::time::timeout(PATIENCE, named).await;
        assert!(named.is_ok(), "{:?} instead of {wanted:?}", self.missing());
    }

    async fn end(self) {
        self.shutdown.cancel();
        for task in self.tasks {
            task.await.unwrap();
        }
    }
}

impl World {
    async fn begin() -> Option<Self> {
        let Some(path) = std::env::var_os("HAFLINGER_TEST_KUBECONFIG") else {
            #[expect(clippy::print_stderr, reason = "a skipped test has to say so")]
            {
                eprintln!("SKIPPED rights: HAFLINGER_TEST_KUBECONFIG is not set");
            }
            return None;
        };
        let read = kube::config::Kubeconfig::read_from(path).unwrap();
        let config = kube::Config::from_custom_kubeconfig(read.clone(), &Default::default()).await;
        let admin = Client::try_from(config.unwrap()).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let namespace = format!("hf-rights-{}", std::process::id());
        let world = Self { admin, kubeconfig: dir.path().join("kubeconfig"), namespace, _dir: dir };
        for document in manifest() {
            world.apply(document).await;
        }
        let mut kubeconfig = serde_json::to_value(read).unwrap();
        for user in kubeconfig["users"].as_array_mut().unwrap() {
            user["user"] = json!({"token": world.token().await});
        }
        std::fs::write(&world.kubeconfig, kubeconfig.to_string()).unwrap();
        world.objects().await;
        Some(world)
    }

    /// Applies an object of the manifest under a name of ours.
    async fn apply(&self, mut object: Value) {
        let group = object["apiVersion"].as_str().unwrap().to_owned();
        let kind = object["kind"].as_str().unwrap().to_owned();
        let (group, version) = group.split_once('/').unwrap_or(("", group.as_str()));
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, &kind));
        let ours = |name: &mut Value| {
            let text = name.as_str().unwrap().to_owned();
            *name = match text.strip_prefix("haflinger-") {
                Some(rest) => json!(format!("{}-{rest}", self.namespace)),
                None => json!(self.namespace),
            };
        };
        ours(&mut object["metadata"]["name"]);
        for path in ["/metadata/namespace", "/roleRef/name"] {
            object.pointer_mut(path).map(ours);
        }
        for subject in
            object.get_mut("subjects").and_then(Value::as_array_mut).into_iter().flatten()
        {
            for path in ["/name", "/namespace"] {
                subject.pointer_mut(path).map(ours);
            }
        }
        let api: Api<DynamicObject> = match object["metadata"].get("namespace") {
            Some(_) => Api::namespaced_with(self.admin.clone(), &self.namespace, &resource),
            None => Api::all_with(self.admin.clone(), &resource),
        };
        let name = object["metadata"]["name"].as_str().unwrap().to_owned();
        let params = PatchParams::apply("rights-test").force();
        api.patch(&name, &params, &Patch::Apply(&object)).await.unwrap();
    }

    async fn token(&self) -> String {
        let accounts: Api<ServiceAccount> = Api::namespaced(self.admin.clone(), &self.namespace);
        let spec = TokenRequestSpec { expiration_seconds: Some(3600), ..Default::default() };
        let request = TokenRequest { spec: Some(spec), ..TokenRequest::default() };
        let params = PostParams::default();
        let answer = accounts.create_token_request(&self.namespace, &params, &request).await;
        answer.unwrap().status.unwrap().token.unwrap()
    }

    /// A Service that has its address and a backend.
    async fn objects(&self) {
        self.service("served").await;
        let services: Api<Service> = Api::namespaced(self.admin.clone(), &self.namespace);
        let status = json!({"status": {"loadBalancer": {"ingress": [{"ip": "198.51.100.7"}]}}});
        let params = PatchParams::default();
        services.patch_status("served", &params, &Patch::Merge(&status)).await.unwrap();
        let slices: Api<EndpointSlice> = Api::namespaced(self.admin.clone(), &self.namespace);
        let slice = json!({
            "metadata": {"name": "served-1", "labels": {"kubernetes.io/service-name": "served"}},
            "addressType": "IPv4", "ports": [{"name": "web", "port": 8080}],
            "endpoints": [{"addresses": ["10.0.0.1"]}],
        });
        let slice = serde_json::from_value(slice).unwrap();
        slices.create(&PostParams::default(), &slice).await.unwrap();
    }

    async fn service(&self, name: &str) {
        let services: Api<Service> = Api::namespaced(self.admin.clone(), &self.namespace);
        let service = json!({
            "metadata": {"name": name},
            "spec": {
                "type": "LoadBalancer", "loadBalancerClass": "haflinger.dev/edge",
                "allocateLoadBalancerNodePorts": false, "ports": [{"name": "web", "port": 80}],
            },
        });
        let service = serde_json::from_value(service).unwrap();
        services.create(&PostParams::default(), &service).await.unwrap();
    }

    fn of(&self, name: &str) -> ObjectRef {
        ObjectRef::service(&SourceId::cluster("test"), &self.namespace, name)
    }

    /// Waits until the authorizer, which follows the objects by a watch, knows of a change.
    async fn settled(&self, verb: &Verb, allowed: bool) {
        let (verb, group, resource) = verb;
        let (plural, below) = resource.split_once('/').unwrap_or((resource, ""));
        let user = format!("system:serviceaccount:{0}:{0}", self.namespace);
        let review = json!({"spec": {"user": user, "resourceAttributes": {
            "verb": verb, "group": group, "resource": plural, "subresource": below,
            "namespace": self.namespace, "name": "haflinger",
        }}});
        let reviews: Api<k8s_openapi::api::authorization::v1::SubjectAccessReview> =
            Api::all(self.admin.clone());
        let review = serde_json::from_value(review).unwrap();
        let settled = async {
            loop {
                let answer = reviews.create(&PostParams::default(), &review).await.unwrap();
                if answer.status.unwrap().allowed == allowed {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(PATIENCE, settled).await.expect("the authorizer");
    }

    async fn end(self) {
        let namespaces: Api<Namespace> = Api::all(self.admin.clone());
        namespaces.delete(&self.namespace, &DeleteParams::default()).await.unwrap();
        for document in manifest().iter().filter(|d| d["metadata"].get("namespace").is_none()) {
            let kind = document["kind"].as_str().unwrap();
            let Some(rest) =
                document["metadata"]["name"].as_str().unwrap().strip_prefix("haflinger-")
            else {
                continue;
            };
            let gvk = GroupVersionKind::gvk("rbac.authorization.k8s.io", "v1", kind);
            let resource = ApiResource::from_gvk(&gvk);
            let api: Api<DynamicObject> = Api::all_with(self.admin.clone(), &resource);
            let name = format!("{}-{rest}", self.namespace);
            api.delete(&name, &DeleteParams::default()).await.unwrap();
        }
    }
}

/// A role of the manifest without one of its rights.
fn without(role: &Value, right: &Verb) -> Value {
    let (verb, group, resource) = right;
    let mut rules = Vec::new();
    for rule in role["rules"].as_array().unwrap() {
        // Each right by itself, so that no other goes with it.
        for other in verbs(rule).into_iter().filter(|other| other != right) {
            let mut single = rule.clone();
            single["verbs"] = json!([other.0]);
            single["apiGroups"] = json!([other.1]);
            single["resources"] = json!([other.2]);
            rules.push(single);
        }
    }
    let mut role = role.clone();
    assert_ne!(role["rules"], json!([]), "{verb} {group} {resource}");
    role["rules"] = json!(rules);
    role
}

/// Whether a Service is served, and a new one gets an address, without a right.
fn goes_on((verb, group, resource): &Verb) -> (bool, bool) {
    match (verb.as_str(), group.as_str(), resource.as_str()) {
        ("watch", "", "services") => (false, false),
        // A Service without backends keeps its address.
        ("watch", "discovery.k8s.io", "endpointslices") => (false, true),
        _ => (true, true),
    }
}

#[tokio::test]
async fn each_right_is_needed_and_named_and_nothing_else_is_lost_without_it() {
    let Some(world) = World::begin().await else { return };
    let code = in_code();
    let product = Product::start(&world).await;
    product.until("all rights", |snapshot| is_served(snapshot) && snapshot.complete).await;
    product.names(&BTreeSet::new()).await;
    product.end().await;

    let mut number = 0;
    for role in manifest().iter().filter(|document| document.get("rules").is_some()) {
        for right in role["rules"].as_array().unwrap().iter().flat_map(verbs) {
            number += 1;
            world.apply(without(role, &right)).await;
            world.settled(&right, false).await;
            let product = Product::start(&world).await;
            let (verb, group, resource) = &right;
            let (plural, below) = resource.split_once('/').unwrap_or((resource, ""));
            let dot = if group.is_empty() { "" } else { "." };
            let slash = if below.is_empty() { "" } else { "/" };
            let named = format!("{verb} {plural}{dot}{group}{slash}{below}");
            product.names(&[(named.clone(), code[&right])].into()).await;
            let (served, new) = goes_on(&right);
            let fresh = format!("new-{number}");
            world.service(&fresh).await;
            let fresh = world.of(&fresh);
            product
                .until(&format!("without {named}"), |snapshot| {
                    let desired = snapshot.reports.get(&fresh).map(|report| report.desired.len());
                    (!served || is_served(snapshot)) && (!new || desired == Some(1))
                })
                .await;
            assert_eq!(is_served(&product.snapshots.borrow()), served, "without {named}");
            product.end().await;
            world.apply(role.clone()).await;
            world.settled(&right, true).await;
        }
    }
    assert_eq!(number, code.len(), "every right was taken away");
    world.end().await;
}

/// The Service that was there from the beginning has a backend that takes flows.
fn is_served(snapshot: &Snapshot) -> bool {
    let mut served = snapshot.services.values().filter(|service| &*service.object.name == "served");
    served.any(|service| service.backends.is_available())
}
