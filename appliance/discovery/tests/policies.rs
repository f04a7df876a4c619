//! Our own policies, against a real API server.
//!
//! Topology: this process and the cluster of `HAFLINGER_TEST_KUBECONFIG` (an administrator's), into
//! which packaging/kubernetes/policies.yaml is put. Claims:
//! 1. Every example of docs/policies.md is taken by the server as it stands, and told without fault.
//! 2. What makes no sense is refused by the server, with the field.
//! 3. What is taken away is told as gone.

#![expect(clippy::unwrap_used, reason = "a test may fail")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use haflinger_core::{ObjectRef, SourceFault, SourceUpdate, Update};
use haflinger_discovery::{ClusterSettings, Discovery, Settings};
use kube::Client;
use prometheus::Registry;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// A wait that is far longer than anything takes: only a failing test reaches it.
const PATIENCE: Duration = Duration::from_secs(180);

const API: &str = "/apis/haflinger.dev/v1alpha1";
const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";

async fn ask(client: &Client, method: &str, path: &str, body: &Value) -> Result<(), kube::Error> {
    let request = http::Request::builder().method(method).uri(path);
    let request = request.header("content-type", "application/json");
    let request = request.body(serde_json::to_vec(body).unwrap());
    client.request::<Value>(request.unwrap()).await.map(drop)
}

fn text(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The objects among the examples of docs/policies.md.
fn examples() -> Vec<Value> {
    let page = text("docs/policies.md");
    let blocks = page.split("```yaml\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    let documents = blocks.flat_map(|block| serde_saphyr::from_multiple::<Value>(block).unwrap());
    documents.filter(|document| document["kind"].is_string()).collect()
}

fn plural(object: &Value) -> &'static str {
    match object["kind"].as_str().unwrap() {
        "RequestPolicy" => "requestpolicies",
        "BackendPolicy" => "backendpolicies",
        other => panic!("{other}"),
    }
}

/// Creates an object of a kind that the server may not serve yet.
async fn create_once_served(client: &Client, path: &str, object: &Value) {
    let created = async {
        loop {
            match ask(client, "POST", path, object).await {
                Err(kube::Error::Api(status)) if status.code == 404 => {
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
                result => return result,
            }
        }
    };
    let created = tokio::time::timeout(PATIENCE, created).await.expect("the kind to be served");
    created.unwrap_or_else(|error| panic!("{object}: {error}"));
}

/// The cluster of the test; says what is skipped where there is none.
fn kubeconfig() -> Option<PathBuf> {
    let kubeconfig = std::env::var_os("HAFLINGER_TEST_KUBECONFIG").map(PathBuf::from);
    #[expect(clippy::print_stderr, reason = "a skipped test has to say so")]
    if kubeconfig.is_none() {
        eprintln!("SKIPPED policies: HAFLINGER_TEST_KUBECONFIG is not set");
    }
    kubeconfig
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
        pod_routes: Vec::new(),
        readiness_gate: false,
    };
    Settings { clusters: vec![cluster], inventory: None, state_dir: None }
}

/// A policy, and what is wrong with it; `None`: it is gone.
fn told(update: Update) -> Option<(ObjectRef, Option<Vec<SourceFault>>)> {
    match update {
        Update::Source(SourceUpdate::RequestPolicy { object, spec }) => {
            Some((object, spec.map(|spec| spec.faults)))
        }
        Update::Source(SourceUpdate::BackendPolicy { object, spec }) => {
            Some((object, spec.map(|spec| spec.faults)))
        }
        _ => None,
    }
}

/// Listens until all of these were told, or were told as gone.
async fn until(
    updates: &mut mpsc::Receiver<Update>,
    namespace: &str,
    names: &[String],
    gone: bool,
) {
    let mut missing: BTreeSet<&str> = names.iter().map(String::as_str).collect();
    while !missing.is_empty() {
        let next = tokio::time::timeout(PATIENCE, updates.recv()).await;
        let next = next.unwrap_or_else(|_| panic!("not heard of: {missing:?}")).unwrap();
        if let Some((object, faults)) = told(next)
            && *object.namespace == *namespace
            && faults.is_none() == gone
        {
            assert_eq!(faults.unwrap_or_default(), [], "{object}");
            missing.remove(&*object.name);
        }
    }
}

/// Specs that the server refuses, and the field that it names.
fn refused() -> Vec<(&'static str, Value, &'static str)> {
    let target = |group: &str, kind: &str| json!([{"group": group, "kind": kind, "name": "x"}]);
    let service = json!({"targetRefs": target("", "Service")});
    let route = json!({"targetRefs": target("gateway.networking.k8s.io", "HTTPRoute")});
    let many = vec![json!({"requests": 1}); 9];
    vec![
        ("RequestPolicy", service, "spec.targetRefs[0]"),
        ("BackendPolicy", route, "spec.targetRefs[0]"),
        ("RequestPolicy", json!({"bodyMax": "8M"}), "spec.bodyMax"),
        ("RequestPolicy", json!({"bodyMax": -1}), "spec.bodyMax"),
        ("RequestPolicy", json!({"rates": [{}]}), "spec.rates[0].requests"),
        ("RequestPolicy", json!({"rates": many}), "spec.rates"),
        ("RequestPolicy", json!({"rates": [{"requests": 1, "header": "a"}]}), "spec.rates[0]"),
        ("RequestPolicy", json!({"clients": {"allow": ["office"]}}), "spec.clients.allow[0]"),
        ("RequestPolicy", json!({"timeouts": {"request": "1d"}}), "spec.timeouts.request"),
        ("BackendPolicy", json!({"protocol": "HTTP3"}), "spec.protocol"),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn policies_are_taken_as_documented_told_and_forgotten() {
    let Some(kubeconfig) = kubeconfig() else { return };
    let config = kube::config::Kubeconfig::read_from(&kubeconfig).unwrap();
    let config = kube::Config::from_custom_kubeconfig(config, &Default::default()).await;
    let client = Client::try_from(config.unwrap()).unwrap();
    let documents = text("packaging/kubernetes/policies.yaml");
    for definition in serde_saphyr::from_multiple::<Value>(&documents).unwrap() {
        match ask(&client, "POST", DEFINITIONS, &definition).await {
            // Of an earlier run.
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            result => result.unwrap(),
        }
    }
    let namespace = format!("hf-policies-{}", std::process::id());
    let body = json!({"metadata": {"name": namespace}});
    ask(&client, "POST", "/api/v1/namespaces", &body).await.unwrap();
    let examples = examples();
    assert!(examples.len() >= 4, "the page has examples");
    let place = |object: &Value| format!("{API}/namespaces/{namespace}/{}", plural(object));
    for example in &examples {
        create_once_served(&client, &place(example), example).await;
    }
    for (kind, spec, field) in refused() {
        let object = json!({"apiVersion": "haflinger.dev/v1alpha1", "kind": kind,
                            "metadata": {"name": "odd"}, "spec": spec});
        let Err(kube::Error::Api(status)) = ask(&client, "POST", &place(&object), &object).await
        else {
            panic!("{object} is taken")
        };
        assert!(status.message.contains(field), "{object}: {}", status.message);
    }

    let discovery = Discovery::new(settings(kubeconfig), &Registry::new()).unwrap();
    let (sender, mut updates) = mpsc::channel(1024);
    let shutdown = CancellationToken::new();
    let running = tokio::spawn(discovery.run(sender, shutdown.clone()));
    let name = |example: &Value| example["metadata"]["name"].as_str().unwrap().to_owned();
    let names: Vec<String> = examples.iter().map(name).collect();
    until(&mut updates, &namespace, &names, false).await;
    for example in &examples {
        let path = format!("{}/{}", place(example), name(example));
        ask(&client, "DELETE", &path, &json!({})).await.unwrap();
    }
    until(&mut updates, &namespace, &names, true).await;
    shutdown.cancel();
    running.await.unwrap();
}
