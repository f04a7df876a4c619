use haflinger_core::*;
use serde_json::{Value, json};

use crate::ledger::Watched;
use crate::translate::tests::{cluster, ip, reasons, source};
use crate::translate::update::translate_object;

mod authorities;
mod listeners;
mod policies;
mod routes;

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
