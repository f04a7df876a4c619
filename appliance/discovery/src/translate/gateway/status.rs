//! What objects say about themselves, as far as it is this controller's.

use std::sync::Arc;

use haflinger_core::{ApiStatus, Condition, Holds, ListenerStatus, ParentStatus, SourceId};

use super::references::{ANCESTORS, PARENTS, parent};
use super::{CONTROLLER, GROUP};
use crate::objects::lax::Lax;
use crate::objects::{
    ConditionBody, GatewayClassStatus, GatewayStatusBody, ListenerSetStatus, ListenerStatusBody,
    PolicyStatusBody, RouteStatusBody,
};

/// Nothing where the status says nothing.
fn unless_empty(status: ApiStatus) -> Option<Box<ApiStatus>> {
    let is_empty = match &status {
        ApiStatus::Class { conditions, features } => conditions.is_empty() && features.is_empty(),
        ApiStatus::Listeners { conditions, listeners, attached_sets } => {
            conditions.is_empty() && listeners.is_empty() && attached_sets.is_none()
        }
        ApiStatus::Route(parents) | ApiStatus::Policy(parents) => parents.is_empty(),
    };
    (!is_empty).then(|| Box::new(status))
}

fn conditions(list: &[Lax<ConditionBody>]) -> Vec<Condition> {
    let text = |text: &Lax<String>| text.text().unwrap_or_default().into();
    let read = |body: &ConditionBody| {
        Some(Condition {
            kind: body.condition_type.text()?.into(),
            holds: match body.status.text() {
                Some("True") => Holds::True,
                Some("False") => Holds::False,
                _ => Holds::Unknown,
            },
            reason: text(&body.reason),
            message: text(&body.message),
            generation: body.observed_generation.get().copied().unwrap_or_default(),
        })
    };
    list.iter().filter_map(|body| read(body.get()?)).collect()
}

fn count(value: &Lax<i64>) -> Option<u32> {
    u32::try_from(*value.get()?).ok()
}

fn listeners(list: &[Lax<ListenerStatusBody>]) -> Vec<ListenerStatus> {
    let read = |body: &ListenerStatusBody| {
        let kinds = body.supported_kinds.elements().iter().filter_map(Lax::get);
        let kinds = kinds.filter(|kind| kind.group.get().is_none_or(|group| group == GROUP));
        let mut kinds: Vec<Arc<str>> =
            kinds.filter_map(|kind| Some(kind.kind.text()?.into())).collect();
        kinds.sort_unstable();
        Some(ListenerStatus {
            name: body.name.text()?.into(),
            kinds,
            attached_routes: count(&body.attached_routes).unwrap_or_default(),
            conditions: conditions(body.conditions.elements()),
        })
    };
    list.iter().filter_map(|body| read(body.get()?)).collect()
}

/// Of a GatewayClass of ours.
pub(super) fn of_class(status: &Lax<GatewayClassStatus>) -> Option<Box<ApiStatus>> {
    let status = status.get()?;
    let features = status.supported_features.elements().iter();
    let mut features: Vec<Arc<str>> =
        features.filter_map(|feature| Some(feature.get()?.name.text()?.into())).collect();
    features.sort_unstable();
    let conditions = conditions(status.conditions.elements());
    unless_empty(ApiStatus::Class { conditions, features })
}

/// Of a Gateway, beside its addresses.
pub(super) fn of_gateway(status: &Lax<GatewayStatusBody>) -> Option<Box<ApiStatus>> {
    let status = status.get()?;
    unless_empty(ApiStatus::Listeners {
        conditions: conditions(status.conditions.elements()),
        listeners: listeners(status.listeners.elements()),
        attached_sets: count(&status.attached_listener_sets),
    })
}

/// Of a ListenerSet.
pub(super) fn of_listener_set(status: &Lax<ListenerSetStatus>) -> Option<Box<ApiStatus>> {
    let status = status.get()?;
    unless_empty(ApiStatus::Listeners {
        conditions: conditions(status.conditions.elements()),
        listeners: listeners(status.listeners.elements()),
        attached_sets: None,
    })
}

/// Of a route: its parents at this controller.
pub(super) fn of_route(
    status: &Lax<RouteStatusBody>,
    source: &SourceId,
    namespace: &str,
) -> Option<Box<ApiStatus>> {
    let parents = status.get()?.parents.elements().iter().filter_map(Lax::get);
    let ours = parents.filter(|entry| entry.controller_name.text() == Some(CONTROLLER));
    let read = ours.filter_map(|entry| {
        Some(ParentStatus {
            parent: parent(source, namespace, entry.parent_ref.get()?, &PARENTS)?,
            conditions: conditions(entry.conditions.elements()),
        })
    });
    unless_empty(ApiStatus::Route(read.collect()))
}

/// Of a policy: its ancestors at this controller.
pub(super) fn of_policy(
    status: &Lax<PolicyStatusBody>,
    source: &SourceId,
    namespace: &str,
) -> Option<Box<ApiStatus>> {
    let ancestors = status.get()?.ancestors.elements().iter().filter_map(Lax::get);
    let ours = ancestors.filter(|entry| entry.controller_name.text() == Some(CONTROLLER));
    let read = ours.filter_map(|entry| {
        Some(ParentStatus {
            parent: parent(source, namespace, entry.ancestor_ref.get()?, &ANCESTORS)?,
            conditions: conditions(entry.conditions.elements()),
        })
    });
    unless_empty(ApiStatus::Policy(read.collect()))
}
