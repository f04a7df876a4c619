//! Report against a real API server.
//!
//! Topology: this process as two hosts, and the cluster of `HAFLINGER_TEST_KUBECONFIG` (an
//! administrator's; everything happens in a namespace of our own). Claims:
//! 1. Of two hosts one is elected, and only it writes.
//! 2. An address is written with its mode; one that is no longer desired is taken out.
//! 3. A status that says something else than the report was made from is left alone.
//! 4. Faults become events, each once.
//! 5. An object that is no longer reported on gives up exactly what was recorded for it.
//! 6. An Ingress gets the address without a mode.
//! 7. A cluster that leaves the configuration keeps its statuses: other hosts may serve them.
//! 8. A leader that stops is succeeded at once, and the address does not move.

#![expect(clippy::unwrap_used, reason = "a test may fail")]

mod host;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use haflinger_core::{FaultReason, ObjectRef, SourceFault, SourceId};
use host::{Host, PATIENCE, client, kubeconfig, report};
use k8s_openapi::api::core::v1::{Namespace, Service};
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::api::networking::v1::Ingress;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::{Value, json};

/// A kind with a status that holds addresses.
trait Balanced: Clone + std::fmt::Debug + serde::Serialize + serde::de::DeserializeOwned {}

impl Balanced for Service {}
impl Balanced for Ingress {}

async fn ingress_of<K: Balanced>(objects: &Api<K>, name: &str) -> Value {
    let object = serde_json::to_value(objects.get(name).await.unwrap()).unwrap();
    object.pointer("/status/loadBalancer/ingress").cloned().unwrap_or(Value::Null)
}

async fn until_ingress<K: Balanced>(services: &Api<K>, name: &str, wanted: &Value) {
    let reached = async {
        while ingress_of(services, name).await != *wanted {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    if tokio::time::timeout(PATIENCE, reached).await.is_err() {
        panic!("{name}: {} instead of {wanted}", ingress_of(services, name).await);
    }
}

async fn until_event(client: &Client, namespace: &str, reason: &str) {
    let told = async {
        while events_of(client, namespace, reason).await.is_empty() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, told).await.expect("an event");
}

async fn events_of(client: &Client, namespace: &str, reason: &str) -> Vec<Event> {
    let events: Api<Event> = Api::namespaced(client.clone(), namespace);
    let list = events.list(&ListParams::default()).await.unwrap();
    list.items.into_iter().filter(|event| event.reason.as_deref() == Some(reason)).collect()
}

fn service(name: &str) -> Service {
    serde_json::from_value(json!({
        "metadata": {"name": name},
        "spec": {
            "type": "LoadBalancer", "loadBalancerClass": "haflinger.dev/edge",
            "allocateLoadBalancerNodePorts": false, "ports": [{"port": 80}],
        },
    }))
    .unwrap()
}

/// A namespace of the test, two hosts of which the first is elected.
struct Stage {
    client: Client,
    namespace: String,
    services: Api<Service>,
    source: SourceId,
    first: Host,
    second: Host,
}

impl Stage {
    async fn set(kubeconfig: &Path) -> Self {
        let client = client(kubeconfig).await;
        let namespace = format!("hf-report-{}", std::process::id());
        let namespaces: Api<Namespace> = Api::all(client.clone());
        let object = serde_json::from_value(json!({"metadata": {"name": namespace}})).unwrap();
        namespaces.create(&PostParams::default(), &object).await.unwrap();
        let services: Api<Service> = Api::namespaced(client.clone(), &namespace);
        for name in ["web", "foreign", "faulty", "last"] {
            services.create(&PostParams::default(), &service(name)).await.unwrap();
        }
        let mut first = Host::start("host-1", kubeconfig, &namespace);
        first.elected().await;
        let second = Host::start("host-2", kubeconfig, &namespace);
        let source = SourceId::cluster("test");
        Self { client, namespace, services, source, first, second }
    }

    fn of(&self, name: &str) -> ObjectRef {
        ObjectRef::service(&self.source, &self.namespace, name)
    }

    async fn events(&self, reason: &str) -> Vec<Event> {
        events_of(&self.client, &self.namespace, reason).await
    }
}

/// What the status of "web" says while it has its address.
fn assigned() -> Value {
    json!([{"ip": "192.0.2.1", "ipMode": "Proxy"}])
}

#[tokio::test]
async fn the_elected_host_writes_and_is_succeeded() {
    let Some(kubeconfig) = kubeconfig("the_elected_host_writes_and_is_succeeded") else { return };
    let stage = Stage::set(&kubeconfig).await;
    only_the_elected_host_writes(&stage).await;
    theirs_is_left_alone_and_faults_are_told_once(&stage).await;
    an_ingress_gets_an_address_and_gives_it_back(&stage).await;
    let (client, namespace) = (stage.client.clone(), stage.namespace.clone());
    a_leader_is_succeeded(stage).await;
    let namespaces: Api<Namespace> = Api::all(client);
    namespaces.delete(&namespace, &DeleteParams::default()).await.unwrap();
}

async fn only_the_elected_host_writes(stage: &Stage) {
    let Stage { client, namespace, services, first, second, .. } = stage;
    // Only the second host is told at first: it may not write.
    second.publish(&stage.of("web"), &report(&["192.0.2.99"], &[]));
    first.publish(&stage.of("web"), &report(&["192.0.2.1"], &[]));
    until_ingress(services, "web", &assigned()).await;
    // The event follows the status.
    until_event(client, namespace, "AddressAssigned").await;
    assert_eq!(stage.events("AddressAssigned").await.len(), 1);
}

async fn theirs_is_left_alone_and_faults_are_told_once(stage: &Stage) {
    let Stage { client, namespace, services, first, .. } = stage;
    // The status of "foreign" is not what its report was made from.
    let theirs = json!([{"ip": "198.51.100.1", "ipMode": "VIP"}]);
    let patch = json!({"status": {"loadBalancer": {"ingress": theirs}}});
    let patch = Patch::Merge(&patch);
    services.patch_status("foreign", &PatchParams::default(), &patch).await.unwrap();
    first.publish(&stage.of("foreign"), &report(&["192.0.2.2"], &[]));

    let mut faulty = report(&[], &[]);
    faulty.faults.push(SourceFault::new(FaultReason::PoolFull, "pool p: no address is free"));
    first.publish(&stage.of("faulty"), &faulty);
    // A change elsewhere in the report does not tell the same fault again.
    faulty.faults.push(SourceFault::new(FaultReason::PortUnmatched, "no port is named http"));
    first.publish(&stage.of("faulty"), &faulty);

    // Cleared when nothing is desired any more; done after all of the above.
    first.publish(&stage.of("web"), &report(&[], &["192.0.2.1"]));
    until_ingress(services, "web", &Value::Null).await;
    until_event(client, namespace, "PortUnmatched").await;
    let full = stage.events("PoolFull").await;
    assert_eq!(full.len(), 1);
    assert_eq!(full[0].note.as_deref(), Some("pool p: no address is free"));
    assert_eq!(full[0].type_.as_deref(), Some("Warning"));
    let regarding = full[0].regarding.as_ref().unwrap();
    assert_eq!(regarding.uid, services.get("faulty").await.unwrap().metadata.uid);
    assert_eq!(ingress_of(services, "foreign").await, theirs);
}

async fn an_ingress_gets_an_address_and_gives_it_back(stage: &Stage) {
    let first = &stage.first;
    let ingresses: Api<Ingress> = Api::namespaced(stage.client.clone(), &stage.namespace);
    let backend = json!({"service": {"name": "web", "port": {"number": 80}}});
    let site = json!({"metadata": {"name": "site"}, "spec": {"defaultBackend": backend}});
    let site = serde_json::from_value(site).unwrap();
    ingresses.create(&PostParams::default(), &site).await.unwrap();
    let of_site = ObjectRef::ingress(&stage.source, &stage.namespace, "site");
    let bare = json!([{"ip": "192.0.2.5"}]);
    first.publish(&of_site, &report(&["192.0.2.5"], &[]));
    until_ingress(&ingresses, "site", &bare).await;
    first.publish(&of_site, &report(&["192.0.2.5"], &["192.0.2.5"]));
    first.withdraw(&of_site);
    until_ingress(&ingresses, "site", &Value::Null).await;
}

async fn a_leader_is_succeeded(stage: Stage) {
    let (web, last, faulty) = (stage.of("web"), stage.of("last"), stage.of("faulty"));
    let Stage { services, first, mut second, .. } = stage;
    // What the second host should say once it leads.
    second.publish(&web, &report(&[], &[]));
    second.publish(&last, &report(&["192.0.2.4"], &[]));
    assert!(!*second.leader.borrow());
    assert_eq!(second.handle.status().clusters[0].holder.as_deref(), Some("host-1"));
    first.publish(&last, &report(&["192.0.2.3"], &[]));
    let kept = json!([{"ip": "192.0.2.3", "ipMode": "Proxy"}]);
    until_ingress(&services, "last", &kept).await;
    first.stop().await;
    second.elected().await;
    // Its report is outdated, so the address stays; a sign that it works is written after.
    second.publish(&web, &report(&["192.0.2.1"], &[]));
    until_ingress(&services, "web", &assigned()).await;
    assert_eq!(ingress_of(&services, "last").await, kept);
    let status = second.handle.status();
    assert_eq!(status.clusters[0].holder.as_deref(), Some("host-2"));
    // A cluster of which nothing is reported on any more was taken out of the configuration.
    second.publish(&web, &report(&["192.0.2.1"], &["192.0.2.1"]));
    second.snapshots.send_replace(Arc::default());
    // One thread: whoever was woken by that runs before we do again, and so sees it.
    tokio::task::yield_now().await;
    second.publish(&faulty, &report(&["192.0.2.6"], &[]));
    let sign = json!([{"ip": "192.0.2.6", "ipMode": "Proxy"}]);
    until_ingress(&services, "faulty", &sign).await;
    assert_eq!(ingress_of(&services, "web").await, assigned());
    second.stop().await;
}
