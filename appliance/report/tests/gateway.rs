//! Reports on Gateway API objects against a real API server with the standard's own schemas.
//!
//! Topology: this process as one host, and the cluster of `HAFLINGER_TEST_KUBECONFIG` (an
//! administrator's), into which the definitions in `HAFLINGER_TEST_GATEWAY_API` are put. Claims:
//! 1. Nothing is said before everything has been heard of, and then all of it.
//! 2. A GatewayClass, which has no namespace, has conditions and features; what the schema fills in
//!    gives way, and conditions of others stay.
//! 3. A Gateway has addresses, listeners and conditions; the time of a condition changes with its
//!    status only. A ListenerSet has listeners.
//! 4. A route and a policy, one of our own too, name our parents beside those of others, and lose
//!    them when they are reported on no more.
//! 5. What was made from another generation is not written, nor what is there already.
//! 6. What exceeds the limits of the schema is cut, and what is left is accepted.
//! 7. Faults of an object without a namespace become events.

#![expect(clippy::unwrap_used, reason = "a test may fail")]

mod host;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use haflinger_core::{
    ApiStatus, Condition, FaultReason, Holds, ListenerStatus, ObjectKind, ObjectRef, ObjectReport,
    ParentFields, ParentSpec, ParentStatus, Snapshot, SourceFault, SourceId,
};
use host::{Host, PATIENCE, client, kubeconfig, report};
use k8s_openapi::api::core::v1::{Namespace, Service};
use k8s_openapi::api::events::v1::Event;
use kube::api::{
    ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams,
};
use kube::core::GroupVersionKind;
use kube::{Api, Client};
use serde_json::{Value, json};

const GROUP: &str = "gateway.networking.k8s.io";
const OURS: &str = "haflinger.dev/gateway";
const EPOCH: &str = "1970-01-01T00:00:00Z";

struct Stage {
    client: Client,
    namespace: String,
    host: Host,
}

impl Stage {
    async fn set(kubeconfig: &Path, definitions: &Path) -> Self {
        let client = client(kubeconfig).await;
        let namespace = format!("hf-gateway-{}", std::process::id());
        let namespaces: Api<Namespace> = Api::all(client.clone());
        let object = serde_json::from_value(json!({"metadata": {"name": namespace}})).unwrap();
        namespaces.create(&PostParams::default(), &object).await.unwrap();
        define(&client, definitions).await;
        let mut host = Host::start("host-1", kubeconfig, &namespace);
        host.elected().await;
        Self { client, namespace, host }
    }

    fn of(&self, kind: ObjectKind, name: &str) -> ObjectRef {
        let namespace = match kind {
            ObjectKind::GatewayClass => "",
            _ => &self.namespace,
        };
        ObjectRef::of_kind(&SourceId::cluster("test"), kind, namespace, name)
    }

    fn api(&self, kind: ObjectKind) -> Api<DynamicObject> {
        let (group, version) = kind.api_version();
        let kind_of_api = GroupVersionKind::gvk(group, version, kind.api_kind());
        let resource = ApiResource::from_gvk(&kind_of_api);
        match kind {
            ObjectKind::GatewayClass => Api::all_with(self.client.clone(), &resource),
            _ => Api::namespaced_with(self.client.clone(), &self.namespace, &resource),
        }
    }

    /// Creates an object; the definition may have to be taken in first.
    async fn create(&self, kind: ObjectKind, name: &str, spec: Value) -> ObjectRef {
        let (group, version) = kind.api_version();
        let object = json!({
            "apiVersion": format!("{group}/{version}"), "kind": kind.api_kind(),
            "metadata": {"name": name}, "spec": spec,
        });
        let object: DynamicObject = serde_json::from_value(object).unwrap();
        let created = async {
            loop {
                match self.api(kind).create(&PostParams::default(), &object).await {
                    Err(kube::Error::Api(status)) if status.code == 404 => {
                        tokio::time::sleep(Duration::from_millis(50)).await;
                    }
                    result => return result.unwrap(),
                }
            }
        };
        tokio::time::timeout(PATIENCE, created).await.expect("the definition");
        self.of(kind, name)
    }

    async fn read(&self, object: &ObjectRef) -> Value {
        serde_json::to_value(self.api(object.kind).get(&object.name).await.unwrap()).unwrap()
    }

    async fn write(&self, object: &ObjectRef, status: Value) {
        let patch = json!({"status": status});
        let api = self.api(object.kind);
        api.patch_status(&object.name, &PatchParams::default(), &Patch::Merge(&patch))
            .await
            .unwrap();
    }

    /// The status, once `look` holds for it.
    async fn until(&self, object: &ObjectRef, look: impl Fn(&Value) -> bool) -> Value {
        let mut last = Value::Null;
        let reached = async {
            loop {
                last = self.read(object).await["status"].clone();
                if look(&last) {
                    return last.clone();
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        let reached = tokio::time::timeout(PATIENCE, reached).await;
        reached
            .unwrap_or_else(|_| panic!("{object}: stays {last}: {:?}", self.host.handle.status()))
    }

    /// As [`Self::sign`], by what is written before everything is known.
    async fn service_sign(&self) {
        let services: Api<Service> = Api::namespaced(self.client.clone(), &self.namespace);
        let spec = json!({"type": "LoadBalancer", "ports": [{"port": 80}],
            "loadBalancerClass": "haflinger.dev/edge", "allocateLoadBalancerNodePorts": false});
        let service = json!({"metadata": {"name": "sign"}, "spec": spec});
        let service = serde_json::from_value(service).unwrap();
        services.create(&PostParams::default(), &service).await.unwrap();
        let sign = ObjectRef::service(&SourceId::cluster("test"), &self.namespace, "sign");
        self.host.publish(&sign, &report(&["192.0.2.9"], &[]));
        let written = async {
            loop {
                let service = serde_json::to_value(services.get("sign").await.unwrap()).unwrap();
                if service.pointer("/status/loadBalancer/ingress/0/ip").is_some() {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(PATIENCE, written).await.expect("a sign");
    }

    /// Waits until all that was published before has had its turn.
    async fn sign(&self, name: &str) {
        let sign = self.create(ObjectKind::GatewayClass, name, class()).await;
        self.host.publish(&sign, &said(conditions(1, "sign")));
        self.until(&sign, |status| status["conditions"][0]["status"] == "True").await;
        self.api(ObjectKind::GatewayClass).delete(name, &DeleteParams::default()).await.unwrap();
    }
}

async fn define(client: &Client, definitions: &Path) {
    let own =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../packaging/kubernetes/policies.yaml");
    let files = std::fs::read_dir(definitions).unwrap().map(|entry| entry.unwrap().path());
    for file in files.chain([own]) {
        let text = std::fs::read_to_string(file).unwrap();
        let documents: Vec<Value> = serde_saphyr::from_multiple(&text).unwrap();
        for definition in documents.iter().filter(|one| one["kind"] == "CustomResourceDefinition") {
            let gvk =
                GroupVersionKind::gvk("apiextensions.k8s.io", "v1", "CustomResourceDefinition");
            let api: Api<DynamicObject> =
                Api::all_with(client.clone(), &ApiResource::from_gvk(&gvk));
            let name = definition["metadata"]["name"].as_str().unwrap();
            let params = PatchParams::apply("gateway-test").force();
            api.patch(name, &params, &Patch::Apply(definition)).await.unwrap();
        }
    }
}

fn class() -> Value {
    json!({"controllerName": OURS})
}

fn gateway() -> Value {
    let listener = json!({"name": "web", "port": 80, "protocol": "HTTP"});
    json!({"gatewayClassName": "ours", "listeners": [listener]})
}

fn condition(kind: &str, holds: Holds, generation: i64, message: &str) -> Condition {
    Condition { kind: kind.into(), holds, reason: kind.into(), message: message.into(), generation }
}

fn conditions(generation: i64, message: &str) -> ApiStatus {
    ApiStatus::Class {
        conditions: vec![condition("Accepted", Holds::True, generation, message)],
        features: vec!["GRPCRoute".into(), "HTTPRoute".into()],
    }
}

fn said(status: ApiStatus) -> ObjectReport {
    ObjectReport { status: Some(Arc::new(status)), ..ObjectReport::default() }
}

fn accepted(gateway: &ObjectRef) -> ParentStatus {
    ParentStatus {
        parent: ParentSpec {
            object: gateway.clone(),
            written: ParentFields { namespace: true },
            section: Some("web".into()),
            port: None,
        },
        conditions: vec![condition("Accepted", Holds::True, 1, "")],
    }
}

fn listeners(programmed: Holds, message: &str) -> ApiStatus {
    let conditions = || {
        vec![
            condition("Accepted", Holds::True, 1, message),
            condition("Programmed", programmed, 1, message),
        ]
    };
    ApiStatus::Listeners {
        conditions: conditions(),
        listeners: vec![ListenerStatus {
            name: "web".into(),
            kinds: vec!["GRPCRoute".into(), "HTTPRoute".into()],
            attached_routes: 2,
            conditions: conditions(),
        }],
        attached_sets: Some(1),
    }
}

#[tokio::test]
async fn gateway_api_objects_are_told_what_became_of_them() {
    let test = "gateway_api_objects_are_told_what_became_of_them";
    let Some(kubeconfig) = kubeconfig(test) else { return };
    let Some(definitions) = std::env::var_os("HAFLINGER_TEST_GATEWAY_API") else {
        eprintln!("SKIPPED {test}: HAFLINGER_TEST_GATEWAY_API is not set");
        return;
    };
    let stage = Stage::set(&kubeconfig, Path::new(&definitions)).await;
    a_class_is_told_once_everything_is_known(&stage).await;
    let gateway = a_gateway_has_addresses_and_listeners(&stage).await;
    parents_stand_beside_those_of_others_and_go(&stage, &gateway).await;
    what_is_outdated_or_there_already_is_not_written(&stage, &gateway).await;
    what_exceeds_the_schema_is_cut(&stage).await;
    let Stage { client, namespace, host } = stage;
    host.stop().await;
    let namespaces: Api<Namespace> = Api::all(client);
    namespaces.delete(&namespace, &DeleteParams::default()).await.unwrap();
}

async fn a_class_is_told_once_everything_is_known(stage: &Stage) {
    let class = stage.create(ObjectKind::GatewayClass, "ours", class()).await;
    let theirs = json!({"type": "example.org/Audited", "status": "True", "reason": "Audit",
        "message": "", "lastTransitionTime": EPOCH});
    let pending = stage.read(&class).await["status"]["conditions"][0].clone();
    assert_eq!(
        (&pending["status"], &pending["lastTransitionTime"]),
        (&json!("Unknown"), &json!(EPOCH))
    );
    stage.write(&class, json!({"conditions": [theirs, pending]})).await;
    let mut report = said(conditions(1, "served"));
    report.faults.push(SourceFault::new(FaultReason::InvalidField, "spec.parametersRef: ignored"));

    stage.host.publish(&class, &report);
    let events: Api<Event> = Api::namespaced(stage.client.clone(), "default");
    let of_class = async || {
        let list = events.list(&ListParams::default()).await.unwrap();
        let about =
            |event: &Event| event.regarding.as_ref().unwrap().name.as_deref() == Some("ours");
        list.items.into_iter().filter(about).collect::<Vec<_>>()
    };
    // A Service's word does not wait for the rest: once it is out, the class had its chance, for
    // which it waits a moment.
    tokio::time::sleep(Duration::from_millis(500)).await;
    stage.service_sign().await;
    assert_eq!(stage.read(&class).await["status"]["conditions"], json!([theirs, pending]));
    assert!(of_class().await.is_empty());

    let everything = Snapshot { complete: true, ..Snapshot::clone(&stage.host.snapshots.borrow()) };
    stage.host.snapshots.send_replace(Arc::new(everything));
    let status = stage.until(&class, |status| status["supportedFeatures"].is_array()).await;
    assert_eq!(status["supportedFeatures"], json!([{"name": "GRPCRoute"}, {"name": "HTTPRoute"}]));
    let [ours, other] = &status["conditions"].as_array().unwrap()[..] else { panic!("{status}") };
    assert_eq!(*other, theirs);
    assert_eq!((&ours["status"], &ours["observedGeneration"]), (&json!("True"), &json!(1)));
    assert_ne!(ours["lastTransitionTime"], EPOCH);
    let told = async {
        while of_class().await.is_empty() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, told).await.expect("an event");
    stage.host.withdraw(&class);
    stage.api(ObjectKind::GatewayClass).delete("ours", &DeleteParams::default()).await.unwrap();
}

async fn a_gateway_has_addresses_and_listeners(stage: &Stage) -> ObjectRef {
    let gateway = stage.create(ObjectKind::Gateway, "gate", gateway()).await;
    let addresses = ["192.0.2.1", "2001:db8::1"];
    let status = |programmed, message| Some(Arc::new(listeners(programmed, message)));
    let pending = status(Holds::False, "no address yet");
    let first = ObjectReport { status: pending.clone(), ..report(&addresses, &[]) };
    stage.host.publish(&gateway, &first);
    let before = stage.until(&gateway, |status| status["listeners"].is_array()).await;
    assert_eq!(
        before["addresses"],
        json!([
            {"type": "IPAddress", "value": "192.0.2.1"},
            {"type": "IPAddress", "value": "2001:db8::1"},
        ])
    );
    assert_eq!(before["attachedListenerSets"], 1);
    let listener = &before["listeners"][0];
    assert_eq!((&listener["name"], &listener["attachedRoutes"]), (&json!("web"), &json!(2)));
    assert_eq!(listener["supportedKinds"][1], json!({"group": GROUP, "kind": "HTTPRoute"}));

    // The clock of conditions counts in seconds.
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let served = ObjectReport {
        status: status(Holds::True, "served"),
        recorded_status: pending,
        ..report(&addresses, &addresses)
    };
    stage.host.publish(&gateway, &served);
    let after = stage.until(&gateway, |status| status["conditions"][1]["status"] == "True").await;
    let since = |status: &Value, number: usize| {
        [&status["conditions"][number], &status["listeners"][0]["conditions"][number]]
            .map(|condition| condition["lastTransitionTime"].clone())
    };
    assert_eq!(since(&before, 0), since(&after, 0), "Accepted stayed as it was");
    for (before, after) in since(&before, 1).iter().zip(since(&after, 1)) {
        assert_ne!(*before, after, "Programmed changed");
    }
    assert_eq!(after["conditions"][0]["message"], "served");

    let parent = json!({"group": GROUP, "kind": "Gateway", "name": "gate"});
    let further = json!({"name": "web", "port": 81, "protocol": "HTTP"});
    let spec = json!({"parentRef": parent, "listeners": [further]});
    let set = stage.create(ObjectKind::ListenerSet, "more", spec).await;
    let mut of_set = listeners(Holds::True, "");
    if let ApiStatus::Listeners { attached_sets, .. } = &mut of_set {
        *attached_sets = None;
    }
    stage.host.publish(&set, &said(of_set));
    stage.until(&set, |status| status["listeners"][0]["attachedRoutes"] == 2).await;
    gateway
}

async fn parents_stand_beside_those_of_others_and_go(stage: &Stage, gateway: &ObjectRef) {
    let parent = json!({"name": "gate", "namespace": stage.namespace, "sectionName": "web"});
    let target = json!({"group": "", "kind": "Service", "name": "web"});
    let validation = json!({"hostname": "web.example", "wellKnownCACertificates": "System"});
    let kinds = [
        (ObjectKind::HttpRoute, json!({"parentRefs": [parent]}), "parents", "parentRef"),
        (
            ObjectKind::BackendTlsPolicy,
            json!({"targetRefs": [target], "validation": validation}),
            "ancestors",
            "ancestorRef",
        ),
        (ObjectKind::RequestPolicy, json!({"bodyMax": "8Mi"}), "ancestors", "ancestorRef"),
    ];
    for (kind, spec, list, reference) in kinds {
        let object = stage.create(kind, "web", spec).await;
        let mut theirs = json!({"controllerName": "example.org/other", "conditions": [{
            "type": "Accepted", "status": "True", "reason": "Theirs", "message": "",
            "lastTransitionTime": EPOCH}]});
        theirs[reference] = json!({"group": GROUP, "kind": "Gateway", "name": "another"});
        let mut status = json!({});
        status[list] = json!([theirs]);
        stage.write(&object, status).await;
        let ours = vec![accepted(gateway)];
        let wanted = match kind {
            ObjectKind::HttpRoute => ApiStatus::Route(ours),
            _ => ApiStatus::Policy(ours),
        };
        stage.host.publish(&object, &said(wanted));
        let status = stage.until(&object, |status| status[list][1].is_object()).await;
        assert_eq!(status[list][0], theirs);
        let ours = &status[list][1];
        assert_eq!(ours["controllerName"], OURS);
        let named = json!({"group": GROUP, "kind": "Gateway", "namespace": stage.namespace,
            "name": "gate", "sectionName": "web"});
        assert_eq!(ours[reference], named);
        stage.host.withdraw(&object);
        stage.until(&object, |status| status[list] == json!([theirs])).await;
    }
}

async fn what_is_outdated_or_there_already_is_not_written(stage: &Stage, gateway: &ObjectRef) {
    let version = async || stage.read(gateway).await["metadata"]["resourceVersion"].clone();
    let before = version().await;
    // As if discovery had not seen what was written.
    let addresses = ["192.0.2.1", "2001:db8::1"];
    let status = Some(Arc::new(listeners(Holds::True, "served")));
    let again = ObjectReport { status, ..report(&addresses, &addresses) };
    stage.host.publish(gateway, &again);
    stage.sign("again").await;
    assert_eq!(version().await, before, "a status that is there is not written");

    let newer = json!({"spec": {"infrastructure": {"labels": {"a": "b"}}}});
    let api = stage.api(ObjectKind::Gateway);
    api.patch("gate", &PatchParams::default(), &Patch::Merge(&newer)).await.unwrap();
    let (before, read) = (version().await, stage.read(gateway).await);
    assert_eq!(read["metadata"]["generation"], 2);
    let status = Some(Arc::new(listeners(Holds::False, "of the former generation")));
    let outdated = ObjectReport { status, ..report(&addresses, &addresses) };
    stage.host.publish(gateway, &outdated);
    stage.sign("outdated").await;
    assert_eq!(version().await, before, "a new generation waits for its own report");
}

async fn what_exceeds_the_schema_is_cut(stage: &Stage) {
    let class = stage.create(ObjectKind::GatewayClass, "much", class()).await;
    let kinds = (0..20).map(|number| format!("haflinger.dev/T{number}"));
    let much = |kind: String| Condition {
        reason: "haflinger.dev/no reason".into(),
        ..condition(&kind, Holds::False, 1, &"ä".repeat(40_000))
    };
    let status = ApiStatus::Class {
        conditions: kinds.map(much).collect(),
        features: (0..100).map(|number| format!("F{number:02}").into()).collect(),
    };
    stage.host.publish(&class, &said(status));
    let status = stage.until(&class, |status| status["supportedFeatures"].is_array()).await;
    assert_eq!(status["supportedFeatures"].as_array().unwrap().len(), 64);
    let conditions = status["conditions"].as_array().unwrap();
    assert_eq!(conditions.len(), 8);
    assert_eq!(conditions[0]["reason"], "haflingerdevnoreason");
    assert_eq!(conditions[0]["message"].as_str().unwrap().chars().count(), 32_768);
    assert_eq!(stage.host.handle.status().clusters[0].write_error, None);
    stage.api(ObjectKind::GatewayClass).delete("much", &DeleteParams::default()).await.unwrap();
}
