//! Objects of a cluster: any JSON is read, and what it tells can be kept on disk and read again.

#![no_main]

use haflinger_core::{RouteOrigin, SourceFault, SourceUpdate};
use haflinger_discovery::{ClusterSettings, INGRESS_CLASS_DEFAULT, LabelKeys, Watched, translate_object};
use libfuzzer_sys::fuzz_target;
use serde_json::{Map, Value, json};

/// Faults of one object: eight, and one that counts the others.
const FAULTS_MAX: usize = 9;

fuzz_target!(|bytes: &[u8]| {
    let cluster = ClusterSettings {
        name: "fuzzed".to_owned(),
        kubeconfig: "kubeconfig".into(),
        context: None,
        claim_unclassed: true,
        ingress_class: INGRESS_CLASS_DEFAULT.to_owned(),
        deletions: haflinger_discovery::DeletionLimits::default(),
        labels: LabelKeys::default(),
        pod_routes: RouteOrigin::ALL.to_vec(),
        readiness_gate: true,
    };
    for watched in Watched::ALL {
        // Only the parser may refuse them.
        let _ = translate_object(watched, bytes, &cluster);
    }
    let Ok(mut json) = serde_json::from_slice::<Value>(bytes) else { return };
    claim(&mut json);
    // Written anew no key appears twice, so that there is nothing left to refuse.
    let text = json.to_string();
    for watched in Watched::ALL {
        let update = translate_object(watched, text.as_bytes(), &cluster);
        let Some(update) = update.expect("an object of any shape is read") else { continue };
        assert!(faults(&update).len() <= FAULTS_MAX);
        let kept = serde_json::to_vec(&update).expect("an update can be kept");
        assert_eq!(serde_json::from_slice::<SourceUpdate>(&kept).expect("and read again"), update);
    }
});

/// Gives the object a name and makes it ours, which would keep the fuzzer out.
fn claim(json: &mut Value) {
    let Some(object) = json.as_object_mut() else { return };
    let metadata = object.entry("metadata").or_insert_with(|| Map::new().into());
    if let Some(metadata) = metadata.as_object_mut() {
        metadata.entry("name").or_insert("web".into());
        metadata.entry("labels").or_insert(json!({"kubernetes.io/service-name": "web"}));
    }
    let spec = object.entry("spec").or_insert_with(|| Map::new().into());
    if let Some(spec) = spec.as_object_mut() {
        spec.entry("type").or_insert("LoadBalancer".into());
        spec.entry("ingressClassName").or_insert(INGRESS_CLASS_DEFAULT.into());
        spec.entry("controllerName").or_insert("haflinger.dev/gateway".into());
        spec.entry("parentRef").or_insert(json!({"name": "edge"}));
    }
    object.entry("addressType").or_insert("IPv4".into());
}

fn faults(update: &SourceUpdate) -> &[SourceFault] {
    match update {
        SourceUpdate::Service { spec: Some(spec), .. } => &spec.faults,
        SourceUpdate::Slice { content: Some(content), .. } => &content.faults,
        SourceUpdate::Ingress { spec: Some(spec), .. } => &spec.faults,
        SourceUpdate::Gateway { spec: Some(spec), .. } => &spec.faults,
        SourceUpdate::ListenerSet { spec: Some(spec), .. } => &spec.faults,
        SourceUpdate::Route { spec: Some(spec), .. } => &spec.faults,
        SourceUpdate::BackendTlsPolicy { spec: Some(spec), .. } => &spec.faults,
        _ => &[],
    }
}
