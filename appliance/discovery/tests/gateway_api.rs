//! The Gateway API, against a real API server and its own definitions.
//!
//! Topology: this process and the cluster of `HAFLINGER_TEST_KUBECONFIG` (an administrator's), into
//! which the definitions in `HAFLINGER_TEST_GATEWAY_API` are put. Claims:
//! 1. A cluster without the API is synced, and nothing is wrong.
//! 2. When it is installed, objects of every kind of it are told, and beside them Namespaces with
//!    their labels, ConfigMaps and Secrets with certificates of authorities, and no others.
//! 3. What is changed is told again, and what the status says of others is not.
//! 4. When it is taken away everything of it goes.
//! 5. docs/honours.md names every field that the definitions have.

#![expect(clippy::unwrap_used, reason = "a test may fail")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use haflinger_core::{AuthorityKind, RouteOrigin, SourceUpdate, Update};
use haflinger_discovery::{ClusterSettings, Discovery, Settings};
use kube::Client;
use prometheus::Registry;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// A wait that is far longer than anything takes: only a failing test reaches it.
const PATIENCE: Duration = Duration::from_secs(180);

const API: &str = "/apis/gateway.networking.k8s.io/v1";
const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const GROUP: &str = "gateway.networking.k8s.io";

async fn client(kubeconfig: &Path) -> Client {
    let kubeconfig = kube::config::Kubeconfig::read_from(kubeconfig).unwrap();
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &Default::default()).await;
    Client::try_from(config.unwrap()).unwrap()
}

async fn ask(client: &Client, method: &str, path: &str, body: &Value) -> Result<(), kube::Error> {
    let kind = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
    let request = http::Request::builder().method(method).uri(path).header("content-type", kind);
    let request = request.body(serde_json::to_vec(body).unwrap());
    client.request::<Value>(request.unwrap()).await.map(drop)
}

/// The definitions of the kinds that are read.
fn definitions(folder: &Path) -> Vec<Value> {
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let yaml = files.filter(|path| path.extension().is_some_and(|extension| extension == "yaml"));
    let documents = yaml.flat_map(|path| {
        let text = std::fs::read_to_string(path).unwrap();
        serde_saphyr::from_multiple::<Value>(&text).unwrap()
    });
    let ours = documents.filter(|document| {
        document["kind"] == "CustomResourceDefinition" && document["spec"]["group"] == GROUP
    });
    ours.collect()
}

/// Creates an object of a kind that the server may not serve yet.
async fn create_once_served(client: &Client, path: &str, object: &Value) {
    let mut refused = None;
    let created = async {
        while let Err(error) = ask(client, "POST", path, object).await {
            refused = Some(error);
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    let created = tokio::time::timeout(PATIENCE, created).await;
    assert!(created.is_ok(), "{path}: {refused:?}");
}

/// Objects of every kind, by the path under which they are created.
fn objects(namespace: &str) -> Vec<(&'static str, Value)> {
    let listener = json!({"name": "web", "port": 80, "protocol": "HTTP"});
    let parents = json!([{"name": "edge"}]);
    let backends = json!([{"backendRefs": [{"name": "web", "port": 80}]}]);
    let specs = [
        (
            "gateways",
            "Gateway",
            json!({"gatewayClassName": "edge", "listeners": [listener],
                   "tls": {"frontend": {"default": {}}}}),
        ),
        (
            "listenersets",
            "ListenerSet",
            json!({"parentRef": {"name": "edge"},
                                               "listeners": [listener]}),
        ),
        ("httproutes", "HTTPRoute", json!({"parentRefs": parents, "rules": backends})),
        (
            "grpcroutes",
            "GRPCRoute",
            json!({"parentRefs": parents, "rules": [{
                "matches": [{"method": {"service": "a.B", "method": "C"}}]}]}),
        ),
        (
            "tlsroutes",
            "TLSRoute",
            json!({"parentRefs": parents, "hostnames": ["a.example"], "rules": backends}),
        ),
        ("tcproutes", "TCPRoute", json!({"parentRefs": parents, "rules": backends})),
        ("udproutes", "UDPRoute", json!({"parentRefs": parents, "rules": backends})),
        (
            "referencegrants",
            "ReferenceGrant",
            json!({"from": [{"group": GROUP, "kind": "HTTPRoute", "namespace": "a"}],
                   "to": [{"group": "", "kind": "Service"}]}),
        ),
        (
            "backendtlspolicies",
            "BackendTLSPolicy",
            json!({"targetRefs": [{"group": "", "kind": "Service", "name": "web"}],
                   "validation": {"hostname": "a.example", "wellKnownCACertificates": "System"}}),
        ),
    ];
    let object = |(plural, kind, spec): (&'static str, &str, Value)| {
        let metadata = json!({"name": "edge", "namespace": namespace});
        let version = format!("{GROUP}/v1");
        (plural, json!({"apiVersion": version, "kind": kind, "metadata": metadata, "spec": spec}))
    };
    specs.into_iter().map(object).collect()
}

/// What an update is about, in a few words; `None` for kinds that this is not about. `-`: gone.
fn about(update: &SourceUpdate, namespace: &str) -> Option<String> {
    let named = |kind: &str, place: &str, name: &str, gone: bool| {
        let sign = if gone { "-" } else { "+" };
        (place == namespace || place.is_empty()).then(|| format!("{sign}{kind} {name}"))
    };
    match update {
        SourceUpdate::GatewayClass { object, spec } => {
            named("class", &object.namespace, &object.name, spec.is_none())
        }
        SourceUpdate::Gateway { object, spec } => {
            named("gateway", &object.namespace, &object.name, spec.is_none())
        }
        SourceUpdate::ListenerSet { object, spec } => {
            named("set", &object.namespace, &object.name, spec.is_none())
        }
        SourceUpdate::Route { object, spec } => {
            named(object.kind.as_str(), &object.namespace, &object.name, spec.is_none())
        }
        SourceUpdate::ReferenceGrant { object, spec } => {
            named("grant", &object.namespace, &object.name, spec.is_none())
        }
        SourceUpdate::BackendTlsPolicy { object, spec } => {
            named("policy", &object.namespace, &object.name, spec.is_none())
        }
        SourceUpdate::Authority { authority, material } => {
            let kind = match authority.kind {
                AuthorityKind::ConfigMap => "map",
                AuthorityKind::Secret => "secret",
            };
            // Of its own the cluster makes one in each namespace.
            let ours = &*authority.name != "kube-root-ca.crt";
            let about = || named(kind, &authority.namespace, &authority.name, material.is_none());
            ours.then(about).flatten()
        }
        SourceUpdate::Namespace { name, spec, .. } if **name == *namespace => {
            let labels = spec.as_ref().map(|spec| spec.all_labels.clone()).unwrap_or_default();
            let team = labels.get("team").map(|team| team.to_string()).unwrap_or_default();
            named("namespace", "", &team, spec.is_none())
        }
        _ => None,
    }
}

struct Heard {
    updates: mpsc::Receiver<Update>,
    namespace: String,
}

impl Heard {
    async fn next(&mut self) -> Update {
        let next = tokio::time::timeout(PATIENCE, self.updates.recv()).await;
        next.expect("an update").unwrap()
    }

    async fn until_synced(&mut self) {
        while !matches!(self.next().await, Update::Synced(_)) {}
    }

    /// Listens until all of this was said, in whatever order and with whatever between.
    async fn until(&mut self, expected: &[&str]) -> Vec<SourceUpdate> {
        let mut missing: BTreeSet<&str> = expected.iter().copied().collect();
        let mut heard = Vec::new();
        while !missing.is_empty() {
            let next = tokio::time::timeout(PATIENCE, self.updates.recv()).await;
            assert!(next.is_ok(), "not heard of: {missing:?}");
            if let Some(Update::Source(update)) = next.unwrap()
                && let Some(about) = about(&update, &self.namespace)
            {
                missing.remove(about.as_str());
                heard.push(update);
            }
        }
        heard
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

/// Where the definitions are; says what is skipped where they are not.
fn folder(test: &str) -> Option<PathBuf> {
    let folder = std::env::var_os("HAFLINGER_TEST_GATEWAY_API").map(PathBuf::from);
    #[expect(clippy::print_stderr, reason = "a skipped test has to say so")]
    if folder.is_none() {
        eprintln!("SKIPPED {test}: HAFLINGER_TEST_GATEWAY_API is not set");
    }
    folder
}

/// Creates what is beside the API: a namespace, ConfigMaps and Secrets.
async fn surroundings(client: &Client, namespace: &str) {
    let pem = "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n";
    let body = json!({"metadata": {"name": namespace, "labels": {"team": "web"}}});
    ask(client, "POST", "/api/v1/namespaces", &body).await.unwrap();
    let place = format!("/api/v1/namespaces/{namespace}");
    for (name, data) in [("other", json!({"a": "b"})), ("ca", json!({"ca.crt": pem, "a": "b"}))] {
        let body = json!({"metadata": {"name": name}, "data": data});
        ask(client, "POST", &format!("{place}/configmaps"), &body).await.unwrap();
    }
    for (name, kind, key) in [
        ("helm", "helm.sh/release.v1", "ca.crt"),
        ("own", "example.org/own", "ca.crt"),
        ("password", "Opaque", "password"),
        ("trusted", "Opaque", "ca.crt"),
    ] {
        let body = json!({"metadata": {"name": name}, "type": kind, "stringData": {key: pem}});
        ask(client, "POST", &format!("{place}/secrets"), &body).await.unwrap();
    }
}

const ALL: [&str; 13] = [
    "class edge",
    "gateway edge",
    "set edge",
    "httproute edge",
    "grpcroute edge",
    "tlsroute edge",
    "tcproute edge",
    "udproute edge",
    "grant edge",
    "policy edge",
    "map ca",
    "secret trusted",
    "namespace web",
];

#[tokio::test]
async fn the_gateway_api_is_noticed_when_it_comes_and_forgotten_when_it_goes() {
    let test = "the_gateway_api_is_noticed_when_it_comes_and_forgotten_when_it_goes";
    let Some(folder) = folder(test) else { return };
    let kubeconfig = PathBuf::from(std::env::var_os("HAFLINGER_TEST_KUBECONFIG").unwrap());
    let client = client(&kubeconfig).await;
    let namespace = format!("hf-gateways-{}", std::process::id());
    surroundings(&client, &namespace).await;

    let discovery = Discovery::new(settings(kubeconfig), &Registry::new()).unwrap();
    let handle = discovery.handle();
    let (sender, updates) = mpsc::channel(64);
    let shutdown = CancellationToken::new();
    let task = tokio::spawn(discovery.run(sender, shutdown.clone()));
    let mut heard = Heard { updates, namespace: namespace.clone() };
    heard.until_synced().await;
    let status = handle.status().sources.remove(0);
    assert!(status.connected && status.last_error.is_none(), "{status:?}");
    for kind in ["gateways", "http_routes", "authority_maps", "authority_secrets", "namespaces"] {
        assert!(status.kinds[kind].absent, "{kind}");
    }

    let definitions = definitions(&folder);
    for definition in &definitions {
        ask(&client, "POST", DEFINITIONS, definition).await.unwrap();
    }
    let class = json!({"apiVersion": format!("{GROUP}/v1"), "kind": "GatewayClass",
                       "metadata": {"name": "edge"},
                       "spec": {"controllerName": "haflinger.dev/gateway"}});
    create_once_served(&client, &format!("{API}/gatewayclasses"), &class).await;
    for (plural, object) in objects(&namespace) {
        create_once_served(&client, &format!("{API}/namespaces/{namespace}/{plural}"), &object)
            .await;
    }
    let come: Vec<String> = ALL.iter().map(|name| format!("+{name}")).collect();
    let come: Vec<&str> = come.iter().map(String::as_str).collect();
    let told = heard.until(&come).await;
    let said: BTreeSet<String> =
        told.iter().filter_map(|update| about(update, &namespace)).collect();
    assert_eq!(said, come.iter().map(ToString::to_string).collect(), "and of nothing else");
    for update in &told {
        let faults = match update {
            SourceUpdate::Gateway { spec: Some(spec), .. } => &spec.faults[..],
            SourceUpdate::ListenerSet { spec: Some(spec), .. } => &spec.faults,
            SourceUpdate::Route { spec: Some(spec), .. } => &spec.faults,
            SourceUpdate::BackendTlsPolicy { spec: Some(spec), .. } => &spec.faults,
            _ => &[],
        };
        assert_eq!(faults, [], "{update:?}");
    }

    statuses_and_changes(&client, &mut heard).await;

    for definition in &definitions {
        let name = definition["metadata"]["name"].as_str().unwrap();
        ask(&client, "DELETE", &format!("{DEFINITIONS}/{name}"), &json!({})).await.unwrap();
    }
    let gone: Vec<String> = ALL[..12].iter().map(|name| format!("-{name}")).collect();
    let mut gone: Vec<&str> = gone.iter().map(String::as_str).collect();
    gone.push("-namespace ");
    heard.until(&gone).await;
    let place = format!("/api/v1/namespaces/{namespace}");
    ask(&client, "DELETE", &place, &json!({})).await.unwrap();
    shutdown.cancel();
    while heard.updates.recv().await.is_some() {}
    task.await.unwrap();
}

/// Claim 3, at the route.
async fn statuses_and_changes(client: &Client, heard: &mut Heard) {
    let route = format!("{API}/namespaces/{}/httproutes/edge", heard.namespace);
    let condition = json!({"type": "Accepted", "status": "True", "reason": "Accepted",
                           "message": "", "lastTransitionTime": "2026-01-02T03:04:05Z"});
    let of = |controller: &str| {
        json!({"controllerName": controller, "parentRef": {"name": "edge"},
               "conditions": [condition]})
    };
    let status = json!({"status": {"parents": [of("example.org/other")]}});
    ask(client, "PATCH", &format!("{route}/status"), &status).await.unwrap();
    let status =
        json!({"status": {"parents": [of("example.org/other"), of("haflinger.dev/gateway")]}});
    ask(client, "PATCH", &format!("{route}/status"), &status).await.unwrap();
    let told = heard.until(&["+httproute edge"]).await;
    let Some(SourceUpdate::Route { spec: Some(spec), .. }) = told.last() else {
        panic!("{told:?}")
    };
    let recorded = spec.recorded_status.as_deref();
    let Some(haflinger_core::ApiStatus::Route(parents)) = recorded else { panic!("{recorded:?}") };
    assert_eq!(parents.len(), 1, "the first change was none of ours, and not told");
    let before = spec.generation;
    let change = json!({"spec": {"hostnames": ["a.example"]}});
    ask(client, "PATCH", &route, &change).await.unwrap();
    let told = heard.until(&["+httproute edge"]).await;
    let Some(SourceUpdate::Route { spec: Some(spec), .. }) = told.last() else {
        panic!("{told:?}")
    };
    assert_eq!((spec.generation, &spec.hostnames[..]), (before + 1, &["a.example".into()][..]));
}

/// Paths of what a schema has that holds no other fields.
fn leaves(at: &str, schema: &Value, found: &mut BTreeSet<String>) {
    let (at, schema) = match schema.get("items") {
        Some(items) => (format!("{at}[]"), items),
        None => (at.to_owned(), schema),
    };
    let Some(fields) = schema["properties"].as_object() else {
        found.insert(at);
        return;
    };
    for (name, field) in fields {
        leaves(&if at.is_empty() { name.clone() } else { format!("{at}.{name}") }, field, found);
    }
}

/// The names in the first column of the tables of the page, by heading.
fn documented(heading: &str) -> BTreeSet<String> {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/honours.md");
    let page = std::fs::read_to_string(page).unwrap();
    let section = page.split("\n## ").find(|section| section.lines().next() == Some(heading));
    let rows = section.unwrap_or_default().lines().filter_map(|line| line.strip_prefix("| `"));
    let cells = rows.map(|row| row.split(" | ").next().unwrap());
    cells.flat_map(|cell| cell.split('`').step_by(2)).map(str::to_owned).collect()
}

#[test]
fn every_field_of_the_gateway_api_is_read_or_named_as_left_aside() {
    let test = "every_field_of_the_gateway_api_is_read_or_named_as_left_aside";
    let Some(folder) = folder(test) else { return };
    let all_aside = documented("Left aside");
    let mut kinds = 0;
    for definition in definitions(&folder) {
        let kind = definition["spec"]["names"]["kind"].as_str().unwrap();
        let versions = definition["spec"]["versions"].as_array().unwrap();
        let version = versions.iter().find(|version| version["name"] == "v1").unwrap();
        let mut fields = BTreeSet::new();
        for part in ["spec", "status"] {
            let schema = &version["schema"]["openAPIV3Schema"]["properties"][part];
            if !schema.is_null() {
                leaves(part, schema, &mut fields);
            }
        }
        let read = documented(kind);
        assert!(!read.is_empty(), "no table for {kind}");
        let aside: BTreeSet<&str> = all_aside
            .iter()
            .filter_map(|name| name.strip_prefix(kind)?.strip_prefix(' '))
            .collect();
        let within = |field: &str, name: &str| {
            field == name || [".", "["].iter().any(|end| field.starts_with(&format!("{name}{end}")))
        };
        for field in &fields {
            let named = read.iter().any(|name| within(field, name));
            let left = aside.iter().any(|name| within(field, name));
            assert!(named != left, "{kind} {field}: read and left aside are {:?}", (named, left));
        }
        for name in read.iter().map(String::as_str).chain(aside.iter().copied()) {
            assert!(fields.iter().any(|field| within(field, name)), "no {kind} has {name}");
        }
        kinds += 1;
    }
    assert_eq!(kinds, 10);
}
