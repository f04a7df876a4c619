//! The merge by examples, and whatever the status says before.

use haflinger_core::{ObjectKind, ObjectRef, ParentFields, SourceId};
use proptest::prelude::{Strategy, any, prop, prop_assert, prop_assert_eq, proptest};
use proptest::sample::select;

use super::*;

const THEN: &str = "2026-01-01T00:00:00Z";
const NOW: &str = "2026-01-02T00:00:00Z";
const LATER: &str = "2026-01-03T00:00:00Z";

fn condition(kind: &str, holds: Holds, message: &str) -> Condition {
    Condition {
        kind: kind.into(),
        holds,
        reason: "Reason".into(),
        message: message.into(),
        generation: 3,
    }
}

fn written(kind: &str, status: &str, message: &str, since: &str) -> Value {
    json!({
        "type": kind, "status": status, "reason": "Reason", "message": message,
        "observedGeneration": 3, "lastTransitionTime": since,
    })
}

fn parent(name: &str, section: Option<&str>, conditions: Vec<Condition>) -> ParentStatus {
    let source = SourceId::cluster("c");
    let parent = ParentSpec {
        object: ObjectRef::of_kind(&source, ObjectKind::Gateway, "infra", name),
        written: ParentFields { namespace: true },
        section: section.map(Into::into),
        port: None,
    };
    ParentStatus { parent, conditions }
}

/// A merge patch (RFC 7396) of whole fields.
fn patched(present: &Value, merged: &Merged) -> Value {
    let mut status = present.clone();
    if status.is_null() {
        status = json!({});
    }
    for (name, value) in &merged.fields {
        match value {
            Value::Null => drop(status.as_object_mut().unwrap().remove(name)),
            value => status[name] = value.clone(),
        }
    }
    status
}

#[test]
fn a_condition_keeps_its_time_while_its_status_stays_and_has_a_new_one_otherwise() {
    let present = json!({"conditions": [
        written("Accepted", "True", "before", THEN),
        written("Programmed", "Unknown", "before", THEN),
    ]});
    let wanted = ApiStatus::Listeners {
        conditions: vec![
            condition("Accepted", Holds::True, "after"),
            condition("Programmed", Holds::False, "after"),
            condition("ResolvedRefs", Holds::True, "after"),
        ],
        listeners: Vec::new(),
        attached_sets: None,
    };
    let conditions = merged(&present, &wanted, NOW).fields["conditions"].clone();
    assert_eq!(
        conditions,
        json!([
            written("Accepted", "True", "after", THEN),
            written("Programmed", "False", "after", NOW),
            written("ResolvedRefs", "True", "after", NOW),
        ])
    );
}

#[test]
fn conditions_of_others_stay_and_ours_that_are_no_longer_said_go() {
    let present = json!({"conditions": [
        written("example.org/Audited", "True", "theirs", THEN),
        written("Conflicted", "True", "ours", THEN),
        written("haflinger.dev/Former", "True", "ours", THEN),
    ]});
    let wanted = ApiStatus::Class {
        conditions: vec![condition("Accepted", Holds::True, "")],
        features: vec!["A".into(), "B".into()],
    };
    let merged = merged(&present, &wanted, NOW);
    assert_eq!(
        merged.fields["conditions"],
        json!([
            written("Accepted", "True", "", NOW),
            written("example.org/Audited", "True", "theirs", THEN),
        ])
    );
    assert_eq!(merged.fields["supportedFeatures"], json!([{"name": "A"}, {"name": "B"}]));
}

#[test]
fn listeners_have_their_kinds_counts_and_the_times_of_their_own_conditions() {
    let present = json!({
        "attachedListenerSets": 2,
        "listeners": [
            {"name": "gone", "attachedRoutes": 1, "conditions": [], "supportedKinds": []},
            {"name": "web", "attachedRoutes": 1, "supportedKinds": [],
             "conditions": [written("Accepted", "True", "", THEN)]},
        ],
    });
    let wanted = ApiStatus::Listeners {
        conditions: Vec::new(),
        listeners: vec![ListenerStatus {
            name: "web".into(),
            kinds: vec!["GRPCRoute".into(), "HTTPRoute".into()],
            attached_routes: 7,
            conditions: vec![condition("Accepted", Holds::True, "")],
        }],
        attached_sets: None,
    };
    let merged = merged(&present, &wanted, NOW);
    assert_eq!(
        merged.fields["listeners"],
        json!([{
            "name": "web", "attachedRoutes": 7,
            "supportedKinds": [
                {"group": GROUP, "kind": "GRPCRoute"}, {"group": GROUP, "kind": "HTTPRoute"},
            ],
            "conditions": [written("Accepted", "True", "", THEN)],
        }])
    );
    assert!(merged.fields["attachedListenerSets"].is_null(), "no longer counted");
    assert!(!merged.is_held_by(&present) && merged.is_held_by(&patched(&present, &merged)));
}

#[test]
fn parents_are_named_as_the_route_names_them() {
    let mut ours = parent("gate", Some("web"), vec![condition("Accepted", Holds::True, "")]);
    ours.parent.port = Some(443);
    let named = |ours: &ParentStatus| {
        let merged = merged(&Value::Null, &ApiStatus::Route(vec![ours.clone()]), NOW);
        merged.fields["parents"][0]["parentRef"].clone()
    };
    let full = json!({
        "group": GROUP, "kind": "Gateway", "namespace": "infra", "name": "gate",
        "sectionName": "web", "port": 443,
    });
    assert_eq!(named(&ours), full);
    ours.parent.written.namespace = false;
    ours.parent.section = None;
    ours.parent.port = None;
    assert_eq!(named(&ours), json!({"group": GROUP, "kind": "Gateway", "name": "gate"}));
    let source = ours.parent.object.source.clone();
    ours.parent.object = ObjectRef::ingress(&source, "infra", "site");
    let ingress = json!({"group": "networking.k8s.io", "kind": "Ingress", "name": "site"});
    assert_eq!(named(&ours), ingress, "as the targets of a policy are named");
}

#[test]
fn parents_of_other_controllers_stay_and_ours_are_taken_out_when_nothing_is_to_be_said() {
    let theirs = json!({"controllerName": "example.org/other", "parentRef": {"name": "x"},
        "conditions": [written("Accepted", "True", "", THEN)]});
    let ours = json!({"controllerName": CONTROLLER, "parentRef": {"name": "gate"},
        "conditions": [written("Accepted", "True", "", THEN)]});
    let present = json!({"parents": [ours, theirs]});
    let out = without_ours(&present).unwrap();
    assert_eq!(patched(&present, &out), json!({"parents": [theirs]}));
    assert_eq!(without_ours(&patched(&present, &out)), None);
    assert_eq!(without_ours(&Value::Null), None);
    let policy = json!({"ancestors": [ours]});
    assert_eq!(patched(&policy, &without_ours(&policy).unwrap()), json!({"ancestors": []}));
}

#[test]
fn ours_have_the_room_that_others_leave() {
    let theirs = json!({"controllerName": "example.org/other", "parentRef": {"name": "x"},
        "conditions": [written("Accepted", "True", "", THEN)]});
    let present = json!({"ancestors": vec![theirs.clone(); 15]});
    let said = || vec![condition("Accepted", Holds::True, "")];
    let wanted = ApiStatus::Policy(vec![parent("a", None, said()), parent("b", None, said())]);
    let merged = merged(&present, &wanted, NOW);
    let ancestors = merged.fields["ancestors"].as_array().unwrap();
    assert_eq!((ancestors.len(), merged.cut), (16, true));
    assert_eq!(ancestors[..15], vec![theirs; 15]);
    assert_eq!(ancestors[15]["ancestorRef"]["name"], "a");
}

#[test]
fn words_that_the_schema_would_refuse_are_cut() {
    let mut merge = Merge { now: NOW, cut: false };
    assert_eq!(merge.reason("BackendNotFound"), "BackendNotFound");
    assert_eq!(merge.message("a message"), "a message");
    assert!(!merge.cut);
    for (given, kept) in [
        ("haflinger.dev/PoolFull", "haflingerdevPoolFull"),
        ("9 lives:", "lives"),
        ("äöü", NO_REASON),
        ("", NO_REASON),
    ] {
        assert_eq!(merge.reason(given), kept);
    }
    assert!(std::mem::take(&mut merge.cut));
    let long = "ä".repeat(MESSAGE_CHARS_MAX + 1);
    assert_eq!(merge.message(&long).chars().count(), MESSAGE_CHARS_MAX);
    assert!(merge.cut);
}

#[test]
fn what_others_wrote_into_a_status_is_no_reason_to_write() {
    let ours = || vec![condition("Accepted", Holds::True, "")];
    let class = |conditions| ApiStatus::Class { conditions, features: Vec::new() };
    let mut with_theirs = ours();
    with_theirs.push(condition("example.org/Audited", Holds::True, ""));
    assert!(agrees(Some(&class(ours())), Some(&class(with_theirs))));
    assert!(!agrees(Some(&class(ours())), Some(&class(Vec::new()))));
    assert!(!agrees(Some(&class(ours())), None));
    assert!(agrees(None, Some(&class(ours()))), "somebody else's now");
    let route = ApiStatus::Route(vec![parent("a", None, ours())]);
    assert!(!agrees(None, Some(&route)), "ours to take out");
    assert!(agrees(Some(&ApiStatus::Route(Vec::new())), None));
    assert_eq!(generation(&route), Some(3));
    assert_eq!(generation(&ApiStatus::Route(Vec::new())), None);
}

fn conditions() -> impl Strategy<Value = Vec<Condition>> {
    let kinds = prop::sample::subsequence(STANDARD_TYPES.to_vec(), 0..=6);
    let holds = || select(vec![Holds::True, Holds::False, Holds::Unknown]);
    let one = move |kind: &'static str| {
        (holds(), ".{0,9}", ".{0,9}", 0_i64..4).prop_map(
            move |(holds, reason, message, generation)| Condition {
                kind: kind.into(),
                holds,
                reason: reason.into(),
                message: message.into(),
                generation,
            },
        )
    };
    kinds.prop_flat_map(move |kinds| kinds.into_iter().map(one).collect::<Vec<_>>())
}

fn statuses() -> impl Strategy<Value = ApiStatus> {
    let names = || prop::collection::btree_set("[a-d]", 0..5);
    let listeners = (names(), conditions(), 0_u32..3).prop_map(|(names, conditions, count)| {
        let listener = |name: String| ListenerStatus {
            name: name.into(),
            kinds: vec!["HTTPRoute".into(); count as usize],
            attached_routes: count,
            conditions: conditions.clone(),
        };
        names.into_iter().map(listener).collect()
    });
    let parents = || {
        (names(), conditions(), any::<bool>()).prop_map(|(names, conditions, section)| {
            let section = section.then_some("web");
            names.into_iter().map(|name| parent(&name, section, conditions.clone())).collect()
        })
    };
    proptest::prop_oneof![
        (conditions(), names()).prop_map(|(conditions, names)| ApiStatus::Class {
            conditions,
            features: names.into_iter().map(Into::into).collect(),
        }),
        (conditions(), listeners, prop::option::of(0_u32..3)).prop_map(
            |(conditions, listeners, attached_sets)| ApiStatus::Listeners {
                conditions,
                listeners,
                attached_sets,
            }
        ),
        parents().prop_map(ApiStatus::Route),
        parents().prop_map(ApiStatus::Policy),
    ]
}

/// A status in which others have written between what we wrote.
fn disturbed(status: &Value, theirs: &[usize]) -> Value {
    let mut status = status.clone();
    if status.is_null() {
        status = json!({});
    }
    let entry = |number: usize| {
        json!({"controllerName": format!("example.org/{number}"), "parentRef": {"name": "a"},
            "ancestorRef": {"name": "a"}, "conditions": []})
    };
    for (number, place) in theirs.iter().enumerate() {
        for (list, entry) in [
            ("conditions", written(&format!("example.org/T{number}"), "True", "", THEN)),
            ("parents", entry(number)),
            ("ancestors", entry(number)),
        ] {
            if status.get(list).is_none() {
                status[list] = json!([]);
            }
            let list = status[list].as_array_mut().unwrap();
            list.insert(place % (list.len() + 1), entry);
        }
    }
    status
}

fn of_others(status: &Value) -> Vec<Value> {
    let lists = ["conditions", "parents", "ancestors"].into_iter();
    let entries = lists.flat_map(|list| members(status, list));
    let foreign = entries.filter(|entry| match text(entry, "type") {
        "" => !is_ours(entry),
        kind => kind.starts_with("example.org/"),
    });
    foreign.cloned().collect()
}

proptest! {
    /// Any status of ours, between whatever others wrote, becomes any other of ours in one write:
    /// the second changes nothing, and what others wrote is there as before.
    #[test]
    fn one_write_says_it_all_and_leaves_the_rest(
        before in prop::option::of(statuses()),
        wanted in statuses(),
        theirs in prop::collection::vec(0_usize..9, 0..4),
    ) {
        let first = before.map(|before| merged(&Value::Null, &before, THEN));
        let present = first.map_or(Value::Null, |first| patched(&Value::Null, &first));
        let present = disturbed(&present, &theirs);
        let change = merged(&present, &wanted, NOW);
        let after = patched(&present, &change);
        prop_assert_eq!(of_others(&after), of_others(&present));
        let again = merged(&after, &wanted, LATER);
        prop_assert!(again.is_held_by(&after), "{:?} in {}", again, after);
        prop_assert_eq!(patched(&after, &again), after);
    }
}
