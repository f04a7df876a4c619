use haflinger_core::*;
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::ledger::Watched;
use crate::translate::FAULTS_MAX;
use crate::translate::tests::{any_json, cluster, ip, reasons, source};
use crate::translate::update::translate_object;

mod authorities;
mod listeners;
mod policies;
mod routes;
mod wishes;

/// What an object tells, with a usual name where it has none.
fn told(watched: Watched, mut object: Value) -> Option<SourceUpdate> {
    let metadata = object.as_object_mut().unwrap().entry("metadata").or_insert(json!({}));
    let metadata = metadata.as_object_mut().unwrap();
    metadata.entry("name").or_insert(json!("web"));
    metadata.entry("namespace").or_insert(json!("shop"));
    translate_object(watched, object.to_string().as_bytes(), &cluster()).unwrap()
}

fn object(kind: ObjectKind, namespace: &str, name: &str) -> ObjectRef {
    ObjectRef::of_kind(&source(), kind, namespace, name)
}

fn gateway(spec: Value) -> GatewaySpec {
    match told(Watched::Gateways, json!({"spec": spec})) {
        Some(SourceUpdate::Gateway { spec: Some(spec), .. }) => *spec,
        other => panic!("{other:?}"),
    }
}

fn route(watched: Watched, spec: Value) -> RouteSpec {
    match told(watched, json!({"spec": spec})) {
        Some(SourceUpdate::Route { spec: Some(spec), .. }) => *spec,
        other => panic!("{other:?}"),
    }
}

fn http_rule(rule: Value) -> (RouteRuleSpec, Vec<SourceFault>) {
    let mut route = route(Watched::HttpRoutes, json!({"rules": [rule]}));
    (route.rules.remove(0), route.faults)
}

fn condition(kind: &str, holds: Holds, generation: i64) -> Condition {
    let (kind, reason, message) = (kind.into(), "Why".into(), "so".into());
    Condition { kind, holds, reason, message, generation }
}

fn written_condition(kind: &str, status: &str, generation: i64) -> Value {
    json!({"type": kind, "status": status, "reason": "Why", "message": "so",
           "observedGeneration": generation, "lastTransitionTime": "2026-01-02T03:04:05Z"})
}

/// Objects with which the fuzzer begins as well.
const EXAMPLES: [&str; 6] = [
    include_str!("../../../../../tests/fuzz/seeds/objects/authority.json"),
    include_str!("../../../../../tests/fuzz/seeds/objects/authority-secret.json"),
    include_str!("../../../../../tests/fuzz/seeds/objects/backendtlspolicy.json"),
    include_str!("../../../../../tests/fuzz/seeds/objects/gateway.json"),
    include_str!("../../../../../tests/fuzz/seeds/objects/grpcroute.json"),
    include_str!("../../../../../tests/fuzz/seeds/objects/httproute.json"),
];

/// Pointers to everything in a document.
fn places(at: &str, value: &Value, found: &mut Vec<String>) {
    found.push(at.to_owned());
    match value {
        Value::Array(list) => {
            for (index, element) in list.iter().enumerate() {
                places(&format!("{at}/{index}"), element, found);
            }
        }
        Value::Object(fields) => {
            for (name, field) in fields {
                places(&format!("{at}/{}", name.replace('/', "~1")), field, found);
            }
        }
        _ => {}
    }
}

fn faults(update: &SourceUpdate) -> &[SourceFault] {
    match update {
        SourceUpdate::Gateway { spec: Some(spec), .. } => &spec.faults,
        SourceUpdate::ListenerSet { spec: Some(spec), .. } => &spec.faults,
        SourceUpdate::Route { spec: Some(spec), .. } => &spec.faults,
        SourceUpdate::BackendTlsPolicy { spec: Some(spec), .. } => &spec.faults,
        _ => &[],
    }
}

proptest! {
    #[test]
    fn an_object_that_is_wrong_anywhere_is_read_and_what_it_tells_can_be_kept(
        example in prop::sample::select(&EXAMPLES[..]),
        place in any::<prop::sample::Index>(),
        odd in any_json(),
    ) {
        let mut object: Value = serde_json::from_str(example).unwrap();
        let mut found = Vec::new();
        places("", &object, &mut found);
        *object.pointer_mut(place.get(&found).as_str()).unwrap() = odd;
        for watched in Watched::ALL {
            let update = translate_object(watched, object.to_string().as_bytes(), &cluster());
            let Some(update) = update.unwrap() else { continue };
            prop_assert!(faults(&update).len() <= FAULTS_MAX + 1);
            let kept = serde_json::to_vec(&update).unwrap();
            prop_assert_eq!(serde_json::from_slice::<SourceUpdate>(&kept).unwrap(), update);
        }
    }
}
