//! The cluster: what an administrator does, and a stand-in for the kubelet of one Node.

use std::path::{Path, PathBuf};
use std::time::Duration;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Namespace, Node, Pod, Service};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions};
use kube::{Api, Client, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

/// A wait that is far longer than anything takes: only a failing test reaches it.
const PATIENCE: Duration = Duration::from_secs(60);

/// Between two looks at something that will come.
const LOOK: Duration = Duration::from_millis(50);

pub(crate) const GATE: &str = "haflinger.dev/edge-ready";

pub(crate) async fn until<T, F: Future<Output = Option<T>>>(
    what: &str,
    look: impl FnMut() -> F,
) -> T {
    until_or(what, look, String::new).await
}

/// Waits, and says what is there instead.
pub(crate) async fn until_or<T, F: Future<Output = Option<T>>>(
    what: &str,
    mut look: impl FnMut() -> F,
    instead: impl Fn() -> String,
) -> T {
    let found = async {
        loop {
            if let Some(found) = look().await {
                return found;
            }
            tokio::time::sleep(LOOK).await;
        }
    };
    let found = tokio::time::timeout(PATIENCE, found).await;
    found.unwrap_or_else(|_| panic!("{what} did not come: {}", instead()))
}

/// A pod as the API shows it.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) version: String,
    pub(crate) gate: bool,
    pub(crate) ready: bool,
    pub(crate) leaves: bool,
}

pub(crate) struct Cluster {
    client: Client,
    pub(crate) namespace: String,
    /// What the product signs in with.
    pub(crate) product: PathBuf,
    kubelet: JoinHandle<()>,
}

impl Cluster {
    /// Nothing, and a word, where there is no cluster.
    pub(crate) async fn begin(test: &str) -> Option<Self> {
        let Some(path) = std::env::var_os("HAFLINGER_TEST_KUBECONFIG").map(PathBuf::from) else {
            eprintln!("SKIPPED {test}: HAFLINGER_TEST_KUBECONFIG is not set");
            return None;
        };
        let product = path.with_file_name("haflinger.kubeconfig");
        if !product.exists() {
            eprintln!("SKIPPED {test}: there is no {}", product.display());
            return None;
        }
        let read = kube::config::Kubeconfig::read_from(&path).unwrap();
        let config = kube::Config::from_custom_kubeconfig(read, &Default::default()).await;
        let client = Client::try_from(config.unwrap()).unwrap();
        let namespace = format!("hf-readiness-{}", std::process::id());
        let object = json!({"metadata": {"name": namespace}});
        create(&Api::<Namespace>::all(client.clone()), &object).await;
        let node = json!({"metadata": {"name": namespace}});
        create(&Api::<Node>::all(client.clone()), &node).await;
        let kubelet = Kubelet { client: client.clone(), name: namespace.clone(), given: 0 };
        let kubelet = tokio::spawn(kubelet.run());
        let cluster = Self { client, namespace, product, kubelet };
        // What an earlier run has left.
        for path in [
            "clusterrolebindings/haflinger-readiness",
            "namespaces/haflinger/rolebindings/haflinger-readiness",
        ] {
            let path = format!("/apis/rbac.authorization.k8s.io/v1/{path}");
            let _ = cluster.raw(http::Method::DELETE, &path, "application/json", "").await;
        }
        cluster.apply("rbac.yaml").await;
        Some(cluster)
    }

    pub(crate) async fn end(self) {
        for path in ["mutatingadmissionpolicybindings", "mutatingadmissionpolicies"] {
            let path = format!("/apis/admissionregistration.k8s.io/v1/{path}/haflinger-edge-ready");
            self.raw(http::Method::DELETE, &path, "application/json", "").await.unwrap();
        }
        let leases: Api<Lease> = Api::namespaced(self.client.clone(), "haflinger");
        for name in ["first", "second", "third"] {
            leases.delete(&self.lease(name), &DeleteParams::default()).await.unwrap();
        }
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        namespaces.delete(&self.namespace, &DeleteParams::default()).await.unwrap();
        until("the end of every pod", || async {
            let pods: Api<Pod> = self.api();
            pods.list(&ListParams::default()).await.unwrap().items.is_empty().then_some(())
        })
        .await;
        self.kubelet.abort();
        let nodes: Api<Node> = Api::all(self.client);
        nodes.delete(&self.namespace, &DeleteParams::default()).await.unwrap();
    }

    /// A host of this run among those of others.
    pub(crate) fn identity(&self, name: &str) -> String {
        format!("{name}-{}", self.namespace)
    }

    fn lease(&self, name: &str) -> String {
        format!("haflinger-host-{}", self.identity(name))
    }

    /// Who holds the Lease of a host.
    pub(crate) async fn holder(&self, name: &str) -> String {
        let leases: Api<Lease> = Api::namespaced(self.client.clone(), "haflinger");
        let lease = leases.get(&self.lease(name)).await.unwrap();
        lease.spec.unwrap().holder_identity.unwrap_or_default()
    }

    async fn raw(
        &self,
        method: http::Method,
        path: &str,
        content_type: &str,
        body: &str,
    ) -> kube::Result<String> {
        let request = http::Request::builder().method(method).uri(path);
        let request = request.header("content-type", content_type);
        self.client.request_text(request.body(body.as_bytes().to_vec()).unwrap()).await
    }

    /// Applies every document of a shipped manifest.
    pub(crate) async fn apply(&self, manifest: &str) {
        let path =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../../packaging/kubernetes").join(manifest);
        let text = std::fs::read_to_string(path).unwrap();
        for document in text.split("\n---").filter(|document| document.contains("kind:")) {
            let path = format!("{}?fieldManager=test&force=true", path_of(document));
            let applied =
                self.raw(http::Method::PATCH, &path, "application/apply-patch+yaml", document);
            applied.await.unwrap_or_else(|error| panic!("{manifest} {path}: {error}"));
        }
    }

    fn api<K>(&self) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// A Service of our class for these pods.
    pub(crate) async fn service(&self, name: &str, selector: &Value) {
        let service = json!({"metadata": {"name": name}, "spec": {
            "type": "LoadBalancer",
            "loadBalancerClass": "haflinger.dev/edge",
            "allocateLoadBalancerNodePorts": false,
            "selector": selector,
            "ports": [{"name": "web", "port": 80, "targetPort": 8080}],
        }});
        create(&self.api::<Service>(), &service).await;
    }

    /// A Deployment of pods with gate and label, one of which may be there beyond the wanted number
    /// and none below.
    pub(crate) async fn deploy(&self, name: &str, replicas: u32) {
        let mut spec = self.pod_spec();
        spec["readinessGates"] = json!([{"conditionType": GATE}]);
        let deployment = json!({"metadata": {"name": name}, "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": name, "by": "deployment"}},
            "strategy": {"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
            "template": {
                "metadata": {"labels": {
                    "app": name, "by": "deployment", "version": "1", GATE: "enabled",
                }},
                "spec": spec,
            },
        }});
        create(&self.api::<Deployment>(), &deployment).await;
    }

    /// Has a Deployment replace its pods.
    pub(crate) async fn roll(&self, name: &str, version: &str) {
        let patch = json!({"spec": {"template": {"metadata": {"labels": {"version": version}}}}});
        let deployments: Api<Deployment> = self.api();
        let patch = Patch::Strategic(&patch);
        deployments.patch(name, &PatchParams::default(), &patch).await.unwrap();
    }

    fn pod_spec(&self) -> Value {
        json!({
            "nodeName": self.namespace,
            "automountServiceAccountToken": false,
            "containers": [{"name": "web", "image": "none"}],
        })
    }

    /// A pod of nobody, with the gate or without.
    pub(crate) async fn pod(&self, name: &str, labels: &Value, gate: bool) {
        let mut spec = self.pod_spec();
        if gate {
            spec["readinessGates"] = json!([{"conditionType": GATE}]);
        }
        let pod = json!({"metadata": {"name": name, "labels": labels}, "spec": spec});
        create(&self.api::<Pod>(), &pod).await;
    }

    pub(crate) async fn pods(&self, deployment: &str) -> Vec<Seen> {
        let pods: Api<Pod> = self.api();
        let of = ListParams::default().labels(&format!("app={deployment},by=deployment"));
        pods.list(&of).await.unwrap().items.iter().map(seen).collect()
    }

    pub(crate) async fn gate(&self, pod: &str) -> bool {
        seen(&self.api::<Pod>().get(pod).await.unwrap()).gate
    }

    pub(crate) async fn until_gate(&self, pod: &str, ready: bool) {
        until(&format!("the gate of {pod}"), || async {
            let seen = seen(&self.api::<Pod>().get(pod).await.unwrap());
            (seen.gate && seen.ready == ready).then_some(())
        })
        .await;
    }

    /// What the product does to a pod, to one with another uid.
    pub(crate) async fn patch_gate(&self, pod: &str, uid: &str) -> kube::Error {
        let conditions = json!([{"type": GATE, "status": "True"}]);
        let patch = json!({"metadata": {"uid": uid}, "status": {"conditions": conditions}});
        let pods: Api<Pod> = self.api();
        let (params, patch) = (PatchParams::default(), Patch::Strategic(&patch));
        pods.patch_status(pod, &params, &patch).await.unwrap_err()
    }

    /// Whether a pod has the gate, and whether it has the label with `enabled`.
    pub(crate) async fn opted(&self, pod: &str) -> (bool, bool) {
        let pod = self.api::<Pod>().get(pod).await.unwrap();
        let label = pod.labels().get(GATE).is_some_and(|value| value == "enabled");
        let gates = pod.spec.unwrap().readiness_gates.unwrap_or_default();
        (gates.iter().any(|gate| gate.condition_type == GATE), label)
    }

    pub(crate) async fn label_namespace(&self, value: &str) {
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        let patch = json!({"metadata": {"labels": {GATE: value}}});
        let patch = Patch::Merge(&patch);
        namespaces.patch(&self.namespace, &PatchParams::default(), &patch).await.unwrap();
    }
}

/// Creates an object; a new namespace gets its account, which pods need, within seconds.
async fn create<K>(api: &Api<K>, object: &Value)
where
    K: Clone + std::fmt::Debug + Serialize + DeserializeOwned,
{
    let object: K = serde_json::from_value(object.clone()).unwrap();
    until("an account", || async {
        match api.create(&PostParams::default(), &object).await {
            Ok(_) => Some(()),
            Err(error) => {
                assert!(error.to_string().contains("serviceaccount"), "{error}");
                None
            }
        }
    })
    .await;
}

fn seen(pod: &Pod) -> Seen {
    Seen {
        version: pod.labels().get("version").cloned().unwrap_or_default(),
        gate: holds(pod, GATE),
        ready: holds(pod, "Ready"),
        leaves: pod.metadata.deletion_timestamp.is_some(),
    }
}

fn holds(pod: &Pod, condition: &str) -> bool {
    let conditions = pod.status.iter().flat_map(|status| &status.conditions).flatten();
    let mut found = conditions.filter(|known| known.type_ == condition);
    found.any(|known| known.status == "True")
}

/// The API path of a manifest's document: its head stands in lines of its own.
fn path_of(document: &str) -> String {
    let value = |key: &str| {
        let mut lines = document.lines();
        lines.find_map(|line| Some(line.strip_prefix(key)?.trim().to_owned()))
    };
    let (version, kind) = (value("apiVersion:").unwrap(), value("kind:").unwrap());
    let name = value("  name:").unwrap();
    let root = if version.contains('/') { "apis" } else { "api" };
    let plural = match kind.to_lowercase() {
        kind if kind.ends_with('y') => format!("{}ies", kind.trim_end_matches('y')),
        kind => format!("{kind}s"),
    };
    let within = match (kind.as_str(), value("  namespace:")) {
        ("Namespace", _) | (_, None) => String::new(),
        (_, Some(namespace)) => format!("/namespaces/{namespace}"),
    };
    format!("/{root}/{version}{within}/{plural}/{name}")
}

/// Says what a kubelet would: containers run at once, a pod is ready when all its gates are set, and
/// one that is deleted is gone.
struct Kubelet {
    client: Client,
    /// Of its Node and of the namespace that it looks after.
    name: String,
    /// Addresses given.
    given: u8,
}

impl Kubelet {
    async fn run(mut self) {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &self.name);
        loop {
            self.live().await;
            for pod in pods.list(&ListParams::default()).await.unwrap().items {
                self.look_at(&pods, &pod).await;
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// The Node is ready, and goes on to say so.
    async fn live(&self) {
        let nodes: Api<Node> = Api::all(self.client.clone());
        let now = k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(jiff::Timestamp::now());
        let patch = json!({"status": {"conditions": [{
            "type": "Ready", "status": "True", "reason": "Test", "message": "",
            "lastHeartbeatTime": now,
        }]}});
        let patch = Patch::Strategic(&patch);
        nodes.patch_status(&self.name, &PatchParams::default(), &patch).await.unwrap();
    }

    async fn look_at(&mut self, pods: &Api<Pod>, pod: &Pod) {
        let name = pod.name_any();
        if pod.metadata.deletion_timestamp.is_some() {
            let params = DeleteParams {
                grace_period_seconds: Some(0),
                preconditions: Some(Preconditions { uid: pod.uid(), resource_version: None }),
                ..DeleteParams::default()
            };
            // It may be gone already.
            let _ = pods.delete(&name, &params).await;
            return;
        }
        let gates = pod.spec.iter().flat_map(|spec| &spec.readiness_gates).flatten();
        let ready = { gates }.all(|gate| holds(pod, &gate.condition_type));
        if holds(pod, "ContainersReady") && holds(pod, "Ready") == ready {
            return;
        }
        let (text, reason) = match ready {
            true => ("True", Value::Null),
            false => ("False", json!("ReadinessGatesNotReady")),
        };
        let mut status = json!({"phase": "Running", "conditions": [
            {"type": "ContainersReady", "status": "True"},
            {"type": "Ready", "status": text, "reason": reason},
        ]});
        let known = pod.status.as_ref().and_then(|status| status.pod_ip.as_ref());
        if known.is_none() {
            self.given += 1;
            let address = format!("10.9.0.{}", self.given);
            status["podIP"] = json!(address);
            status["podIPs"] = json!([{"ip": address}]);
        }
        let patch = json!({"metadata": {"uid": pod.uid()}, "status": status});
        let patch = Patch::Strategic(&patch);
        // It may be gone in the meantime.
        let _ = pods.patch_status(&name, &PatchParams::default(), &patch).await;
    }
}
