//! What becomes of the status of a Gateway API object: what is ours is brought up to date, what
//! others wrote stays as it is. Pure.
//!
//! The API server refuses a status that breaks a limit of the kind's schema as a whole, and would
//! refuse it for ever. So what exceeds a limit is left out, or cut, and that is said
//! ([`Merged::cut`]); what others wrote is never what has to go.

use haflinger_core::{ApiStatus, Condition, Holds, ListenerStatus, ParentSpec, ParentStatus};
use serde_json::{Map, Value, json};

/// Whose parents and ancestors are ours (`controllerName`).
const CONTROLLER: &str = "haflinger.dev/gateway";

/// The group of Gateways and routes.
pub(crate) const GROUP: &str = "gateway.networking.k8s.io";

/// Types of conditions that the standard defines: at objects of our classes they are ours to write,
/// and ours to take out.
const STANDARD_TYPES: [&str; 12] = [
    "Accepted",
    "Conflicted",
    "Detached",
    "InsecureFrontendValidationMode",
    "OverlappingTLSConfig",
    "PartiallyInvalid",
    "Programmed",
    "Ready",
    "ResolvedRefs",
    "Scheduled",
    "SupportedVersion",
    "AttachedListenerSets",
];

/// Prefix of types of conditions that the standard does not define, and that are ours.
const OWN_TYPES: &str = "haflinger.dev/";

// Limits of the schemas (gateway-api, release 1.6).
const CONDITIONS_MAX: usize = 8;
const MESSAGE_CHARS_MAX: usize = 32_768;
const REASON_BYTES_MAX: usize = 1024;
const LISTENERS_MAX: usize = 64;
const KINDS_MAX: usize = 8;
const FEATURES_MAX: usize = 64;
const PARENTS_MAX: usize = 32;
const ANCESTORS_MAX: usize = 16;

/// Reason of a condition whose own the schema would refuse, to the last character.
const NO_REASON: &str = "Unspecified";

/// Fields of a status as they should be; null: absent.
#[derive(Debug, PartialEq)]
pub(crate) struct Merged {
    /// By name.
    pub(crate) fields: Map<String, Value>,
    /// A limit of the API made something go.
    pub(crate) cut: bool,
}

impl Merged {
    /// Whether the object's status holds all of this. An empty list need not be there.
    pub(crate) fn is_held_by(&self, status: &Value) -> bool {
        self.fields.iter().all(|(name, value)| match status.get(name) {
            Some(held) => held == value,
            None => value.is_null() || value.as_array().is_some_and(Vec::is_empty),
        })
    }
}

/// The generation of the object that a status was made from; none where it says nothing.
pub(crate) fn generation(status: &ApiStatus) -> Option<i64> {
    let conditions = match status {
        ApiStatus::Class { conditions, .. } | ApiStatus::Listeners { conditions, .. } => conditions,
        ApiStatus::Route(parents) | ApiStatus::Policy(parents) => &parents.first()?.conditions,
    };
    Some(conditions.first()?.generation)
}

/// Whether what an object says is what it should say, as far as both are known.
///
/// A class or a Gateway of which nothing is to be said is somebody else's; a route of which nothing
/// is to be said gives up what we said of it.
pub(crate) fn agrees(wanted: Option<&ApiStatus>, recorded: Option<&ApiStatus>) -> bool {
    let is_empty = |status: &ApiStatus| match status {
        ApiStatus::Route(parents) | ApiStatus::Policy(parents) => parents.is_empty(),
        ApiStatus::Class { .. } | ApiStatus::Listeners { .. } => false,
    };
    let is_list = |status: &ApiStatus| matches!(status, ApiStatus::Route(_) | ApiStatus::Policy(_));
    match (wanted, recorded) {
        (None, None) => true,
        (None, Some(recorded)) => !is_list(recorded) || is_empty(recorded),
        (Some(wanted), None) => is_empty(wanted),
        (Some(wanted), Some(recorded)) => wanted == recorded || *wanted == only_ours(recorded),
    }
}

/// A status without the conditions that others wrote.
fn only_ours(status: &ApiStatus) -> ApiStatus {
    let mut status = status.clone();
    let keep = |conditions: &mut Vec<Condition>| conditions.retain(|one| is_own_type(&one.kind));
    match &mut status {
        ApiStatus::Class { conditions, .. } => keep(conditions),
        ApiStatus::Listeners { conditions, listeners, .. } => {
            keep(conditions);
            listeners.iter_mut().for_each(|listener| keep(&mut listener.conditions));
        }
        ApiStatus::Route(_) | ApiStatus::Policy(_) => {}
    }
    status
}

fn is_own_type(kind: &str) -> bool {
    STANDARD_TYPES.contains(&kind) || kind.starts_with(OWN_TYPES)
}

/// What the status `present` becomes at the time `now` (RFC 3339), when it should say `wanted`.
pub(crate) fn merged(present: &Value, wanted: &ApiStatus, now: &str) -> Merged {
    let mut merge = Merge { now, cut: false };
    let fields = match wanted {
        ApiStatus::Class { conditions, features } => {
            let features = merge.first(features, FEATURES_MAX).iter();
            let features: Vec<Value> = features.map(|name| json!({ "name": name })).collect();
            let conditions = merge.conditions(present, conditions);
            vec![("conditions", conditions), ("supportedFeatures", Value::Array(features))]
        }
        ApiStatus::Listeners { conditions, listeners, attached_sets } => vec![
            ("conditions", merge.conditions(present, conditions)),
            ("listeners", merge.listeners(present, listeners)),
            ("attachedListenerSets", json!(attached_sets)),
        ],
        ApiStatus::Route(parents) => vec![merge.parents(present, &OF_ROUTES, parents)],
        ApiStatus::Policy(ancestors) => vec![merge.parents(present, &OF_POLICIES, ancestors)],
    };
    let fields = fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    Merged { fields, cut: merge.cut }
}

/// The status `present` of a route or a policy without what is ours; `None`: nothing is.
pub(crate) fn without_ours(present: &Value) -> Option<Merged> {
    let lists = [&OF_ROUTES, &OF_POLICIES].into_iter();
    let mut lists = lists.filter(|list| members(present, list.name).iter().any(is_ours));
    let list = lists.next()?;
    let others = members(present, list.name).iter().filter(|entry| !is_ours(entry)).cloned();
    let fields = [(list.name.to_owned(), Value::Array(others.collect()))];
    Some(Merged { fields: fields.into_iter().collect(), cut: false })
}

/// A list in which every controller has its own entries.
struct SharedList {
    name: &'static str,
    reference: &'static str,
    len_max: usize,
}

const OF_ROUTES: SharedList =
    SharedList { name: "parents", reference: "parentRef", len_max: PARENTS_MAX };

const OF_POLICIES: SharedList =
    SharedList { name: "ancestors", reference: "ancestorRef", len_max: ANCESTORS_MAX };

struct Merge<'a> {
    now: &'a str,
    cut: bool,
}

impl Merge<'_> {
    fn first<'b, T>(&mut self, all: &'b [T], len_max: usize) -> &'b [T] {
        self.cut |= all.len() > len_max;
        &all[..all.len().min(len_max)]
    }

    /// The conditions of `holder`: ours in our order, then those that others wrote.
    fn conditions(&mut self, holder: &Value, wanted: &[Condition]) -> Value {
        let present = members(holder, "conditions");
        let foreign = present.iter().filter(|one| {
            let kind = text(one, "type");
            !is_own_type(kind) && wanted.iter().all(|wanted| &*wanted.kind != kind)
        });
        let foreign: Vec<Value> = foreign.cloned().collect();
        let room = CONDITIONS_MAX.saturating_sub(foreign.len());
        let ours = self.first(wanted, room).iter();
        let mut conditions: Vec<Value> = ours.map(|one| self.condition(present, one)).collect();
        conditions.extend(foreign);
        Value::Array(conditions)
    }

    /// `lastTransitionTime` is that of the last change of `status`, not of words (metav1.Condition).
    fn condition(&mut self, present: &[Value], wanted: &Condition) -> Value {
        let holds = match wanted.holds {
            Holds::True => "True",
            Holds::False => "False",
            Holds::Unknown => "Unknown",
        };
        let before = present.iter().find(|one| text(one, "type") == &*wanted.kind);
        let since = before.filter(|before| text(before, "status") == holds);
        let since = since.map_or("", |before| text(before, "lastTransitionTime"));
        json!({
            "type": wanted.kind,
            "status": holds,
            "reason": self.reason(&wanted.reason),
            "message": self.message(&wanted.message),
            "observedGeneration": wanted.generation,
            "lastTransitionTime": if since.is_empty() { self.now } else { since },
        })
    }

    /// `^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$`: the rest is left out.
    fn reason(&mut self, reason: &str) -> String {
        let fits = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '_' | ',' | ':');
        let kept: String = reason.chars().filter(fits).take(REASON_BYTES_MAX).collect();
        let kept = kept.trim_start_matches(|c: char| !c.is_ascii_alphabetic());
        let kept = kept.trim_end_matches([',', ':']);
        self.cut |= kept != reason;
        if kept.is_empty() { NO_REASON.to_owned() } else { kept.to_owned() }
    }

    fn message<'b>(&mut self, message: &'b str) -> &'b str {
        match message.char_indices().nth(MESSAGE_CHARS_MAX) {
            Some((end, _)) => {
                self.cut = true;
                &message[..end]
            }
            None => message,
        }
    }

    fn listeners(&mut self, present: &Value, wanted: &[ListenerStatus]) -> Value {
        let present = members(present, "listeners");
        let wanted = self.first(wanted, LISTENERS_MAX).iter();
        let entry = |listener: &ListenerStatus| {
            let before = present.iter().find(|one| text(one, "name") == &*listener.name);
            let kinds = self.first(&listener.kinds, KINDS_MAX).iter();
            let kinds: Vec<Value> =
                kinds.map(|kind| json!({ "group": GROUP, "kind": kind })).collect();
            json!({
                "name": listener.name,
                "supportedKinds": kinds,
                "attachedRoutes": listener.attached_routes.min(i32::MAX.unsigned_abs()),
                "conditions": self.conditions(before.unwrap_or(&Value::Null), &listener.conditions),
            })
        };
        Value::Array(wanted.map(entry).collect())
    }

    /// Ours as a whole, behind those of others; where ours are as they should be, nothing moves.
    fn parents(
        &mut self,
        present: &Value,
        list: &SharedList,
        wanted: &[ParentStatus],
    ) -> (&'static str, Value) {
        let present = members(present, list.name);
        let (before, others): (Vec<&Value>, Vec<&Value>) =
            present.iter().partition(|entry| is_ours(entry));
        // The schema wants at least one condition.
        let said: Vec<&ParentStatus> =
            wanted.iter().filter(|entry| !entry.conditions.is_empty()).collect();
        let said = self.first(&said, list.len_max.saturating_sub(others.len())).iter();
        let ours: Vec<Value> = said.map(|entry| self.parent(&before, list, entry)).collect();
        let all: Vec<Value> = if before.iter().copied().eq(&ours) {
            present.to_vec()
        } else {
            others.into_iter().cloned().chain(ours).collect()
        };
        (list.name, Value::Array(all))
    }

    fn parent(&mut self, before: &[&Value], list: &SharedList, wanted: &ParentStatus) -> Value {
        let reference = reference(&wanted.parent);
        let former = before.iter().find(|entry| entry.get(list.reference) == Some(&reference));
        let former = former.map_or(&[][..], |entry| members(entry, "conditions"));
        let conditions = self.first(&wanted.conditions, CONDITIONS_MAX).iter();
        let conditions: Vec<Value> = conditions.map(|one| self.condition(former, one)).collect();
        let mut entry = json!({ "controllerName": CONTROLLER, "conditions": conditions });
        entry[list.reference] = reference;
        entry
    }
}

/// A reference as the object writes it: what it leaves out stays out, but for group and kind, which
/// the API server fills in.
fn reference(parent: &ParentSpec) -> Value {
    let object = &parent.object;
    let mut reference = json!({ "group": object.kind.api_version().0, "kind": object.kind.api_kind(), "name": object.name });
    if parent.written.namespace {
        reference["namespace"] = json!(object.namespace);
    }
    if let Some(section) = &parent.section {
        reference["sectionName"] = json!(section);
    }
    if let Some(port) = parent.port {
        reference["port"] = json!(port);
    }
    reference
}

fn members<'a>(holder: &'a Value, name: &str) -> &'a [Value] {
    holder.get(name).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn text<'a>(holder: &'a Value, name: &str) -> &'a str {
    holder.get(name).and_then(Value::as_str).unwrap_or_default()
}

fn is_ours(entry: &Value) -> bool {
    text(entry, "controllerName") == CONTROLLER
}

#[cfg(test)]
#[path = "merge_tests.rs"]
mod tests;
