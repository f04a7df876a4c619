//! Gateways and what attaches to them: what each has been told, and where it is served.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use haflinger_core::{
    ApiStatus, Condition, Holds, ListenerStatus, ObjectKind, ObjectRef, ObjectReport, SectionRef,
    Serves, Snapshot,
};
use serde::Serialize;

use super::columns::Columns;

/// A Gateway or a ListenerSet.
#[derive(Debug, PartialEq, Serialize)]
pub(super) struct GatewayStatus {
    object: String,
    /// Addresses that it holds.
    addresses: Vec<IpAddr>,
    /// What is wrong with it, as `reason: message`; empty: nothing.
    wrong: Vec<String>,
    /// ListenerSets that have joined a Gateway.
    listener_sets: Option<u32>,
    listeners: Vec<GatewayListener>,
}

/// A listener of it.
#[derive(Debug, PartialEq, Serialize)]
struct GatewayListener {
    name: Arc<str>,
    /// Kinds of routes that may attach.
    kinds: Vec<Arc<str>>,
    /// Routes that are attached.
    routes: u32,
    /// Where requests and connections find it, with the number of its rules; not for listeners of
    /// TCP and UDP, which are services.
    sections: BTreeMap<SocketAddr, usize>,
    wrong: Vec<String>,
}

/// A route or a policy of which something is wrong at one of its parents.
#[derive(Debug, PartialEq, Serialize)]
pub(super) struct UnattachedStatus {
    object: String,
    parent: String,
    wrong: Vec<String>,
}

/// Sections by whose they are.
type Sections = BTreeMap<SectionRef, BTreeMap<SocketAddr, usize>>;

/// Every Gateway and ListenerSet of ours.
pub(super) fn gateways(snapshot: &Snapshot) -> Vec<GatewayStatus> {
    let sections = sections(snapshot);
    let reports = snapshot.reports.iter();
    reports.filter_map(|(object, report)| gateway(object, report, &sections)).collect()
}

/// Routes and policies that are not followed everywhere, or in part.
pub(super) fn unattached(snapshot: &Snapshot) -> Vec<UnattachedStatus> {
    let reports = snapshot.reports.iter().filter_map(|(object, report)| {
        let (ApiStatus::Route(parents) | ApiStatus::Policy(parents)) = report.status.as_deref()?
        else {
            return None;
        };
        Some((object, parents))
    });
    let parents = reports.flat_map(|(object, parents)| {
        parents.iter().map(move |parent| UnattachedStatus {
            object: object.to_string(),
            parent: match &parent.parent.section {
                Some(section) => format!("{} {section}", parent.parent.object),
                None => parent.parent.object.to_string(),
            },
            wrong: wrong(&parent.conditions),
        })
    });
    parents.filter(|parent| !parent.wrong.is_empty()).collect()
}

fn sections(snapshot: &Snapshot) -> Sections {
    let mut found = Sections::new();
    for (at, listener) in &snapshot.http {
        for section in &listener.sections {
            let rules = match &section.serves {
                Serves::Requests(rules) => rules.len(),
                Serves::Streams(rules) => rules.len(),
            };
            if let Some(origin) = &section.origin {
                found.entry(origin.clone()).or_default().insert(*at, rules);
            }
        }
    }
    found
}

fn gateway(
    object: &ObjectRef,
    report: &ObjectReport,
    sections: &Sections,
) -> Option<GatewayStatus> {
    let ApiStatus::Listeners { conditions, listeners, attached_sets } = report.status.as_deref()?
    else {
        return None;
    };
    let listener = |listener: &ListenerStatus| {
        let origin = SectionRef { object: object.clone(), name: listener.name.clone() };
        GatewayListener {
            name: listener.name.clone(),
            kinds: listener.kinds.clone(),
            routes: listener.attached_routes,
            sections: sections.get(&origin).cloned().unwrap_or_default(),
            wrong: wrong(&listener.conditions),
        }
    };
    Some(GatewayStatus {
        object: object.to_string(),
        addresses: report.served.clone(),
        wrong: wrong(conditions),
        listener_sets: attached_sets.filter(|_| object.kind == ObjectKind::Gateway),
        listeners: listeners.iter().map(listener).collect(),
    })
}

/// Conditions that say that something is wrong. Those whose truth is the bad news are told by
/// name; the others by not being true.
fn wrong(conditions: &[Condition]) -> Vec<String> {
    let wrong = conditions.iter().filter(|condition| match &*condition.kind {
        "Conflicted" | "PartiallyInvalid" => condition.holds == Holds::True,
        "OverlappingTLSConfig" | "InsecureFrontendValidationMode" => false,
        _ => condition.holds != Holds::True,
    });
    let mut said: Vec<String> =
        wrong.map(|condition| format!("{}: {}", condition.reason, condition.message)).collect();
    said.dedup();
    said
}

/// For people.
pub(super) fn columns(gateways: &[GatewayStatus], unattached: &[UnattachedStatus]) -> Columns {
    let mut columns = Columns::new("GATEWAYS");
    for gateway in gateways {
        let addresses: Vec<String> = gateway.addresses.iter().map(ToString::to_string).collect();
        columns.row([
            gateway.object.clone(),
            addresses.join(", "),
            String::new(),
            state(&gateway.wrong),
        ]);
        for listener in &gateway.listeners {
            let ports: Vec<String> = listener.sections.keys().map(ToString::to_string).collect();
            let routes = if listener.routes == 1 { "route" } else { "routes" };
            columns.row([
                format!("  {}", listener.name),
                ports.join(", "),
                format!("{} {routes}", listener.routes),
                state(&listener.wrong),
            ]);
        }
    }
    for parent in unattached {
        let place = format!("at {}", parent.parent);
        columns.row([parent.object.clone(), place, String::new(), state(&parent.wrong)]);
    }
    columns
}

fn state(wrong: &[String]) -> String {
    if wrong.is_empty() { "in order".to_owned() } else { wrong.join("; ") }
}

#[cfg(test)]
mod tests {
    use haflinger_core::{
        HostMatch, HttpListener, ParentFields, ParentSpec, ParentStatus, Section,
    };
    use haflinger_core::{HttpRule, PathMatch, SourceId};

    use super::*;

    fn named(kind: ObjectKind, name: &str) -> ObjectRef {
        ObjectRef::of_kind(&SourceId::cluster("c"), kind, "ns", name)
    }

    fn condition(kind: &str, holds: Holds, reason: &str) -> Condition {
        let message = "why".into();
        Condition { kind: kind.into(), holds, reason: reason.into(), message, generation: 1 }
    }

    fn said(status: ApiStatus) -> Arc<ObjectReport> {
        let served = vec!["192.0.2.1".parse().unwrap()];
        let status = Some(Arc::new(status));
        Arc::new(ObjectReport { served, status, ..ObjectReport::default() })
    }

    /// A Gateway of two listeners, one of which is served, and a route that is refused.
    fn snapshot() -> Snapshot {
        let gate = named(ObjectKind::Gateway, "gate");
        let route = named(ObjectKind::HttpRoute, "site");
        let good = vec![
            condition("Accepted", Holds::True, "Accepted"),
            condition("Conflicted", Holds::False, "NoConflicts"),
        ];
        let bad = vec![
            condition("Accepted", Holds::False, "PortUnavailable"),
            condition("Programmed", Holds::False, "PortUnavailable"),
            condition("Conflicted", Holds::True, "HostnameConflict"),
        ];
        let listener = |name: &str, conditions: &[Condition]| ListenerStatus {
            name: name.into(),
            kinds: vec!["HTTPRoute".into()],
            attached_routes: 1,
            conditions: conditions.to_vec(),
        };
        let status = ApiStatus::Listeners {
            conditions: good.clone(),
            listeners: vec![listener("web", &good), listener("other", &bad)],
            attached_sets: Some(0),
        };
        let written = ParentFields::default();
        let parent =
            ParentSpec { object: gate.clone(), written, section: Some("web".into()), port: None };
        let conditions = vec![condition("Accepted", Holds::False, "NoMatchingParent")];
        let mut snapshot = Snapshot::default();
        let of_route = ApiStatus::Route(vec![ParentStatus { parent, conditions }]);
        snapshot.reports.insert(route.clone(), said(of_route));
        snapshot.reports.insert(gate.clone(), said(status));
        let section = Section {
            origin: Some(SectionRef { object: gate, name: "web".into() }),
            host: HostMatch::Any,
            tls: None,
            serves: Serves::Requests(vec![HttpRule::simple(
                HostMatch::Any,
                PathMatch::every(),
                None,
                route,
            )]),
        };
        let listener = HttpListener { tls: false, sections: vec![section] };
        snapshot.http.insert("192.0.2.1:80".parse().unwrap(), Arc::new(listener));
        snapshot
    }

    #[test]
    fn listeners_show_where_they_are_served_and_what_is_wrong_with_them() {
        let gateways = gateways(&snapshot());
        let [gate] = &gateways[..] else { panic!("{gateways:?}") };
        assert_eq!((&*gate.object, &gate.wrong[..]), ("cluster/c/gateway/ns/gate", &[][..]));
        let [web, other] = &gate.listeners[..] else { panic!("{gate:?}") };
        assert_eq!(web.sections, [("192.0.2.1:80".parse().unwrap(), 1)].into());
        assert!(web.wrong.is_empty() && other.sections.is_empty());
        assert_eq!(other.wrong, ["PortUnavailable: why", "HostnameConflict: why"]);
    }

    #[test]
    fn people_see_gateways_listeners_and_what_is_refused() {
        let snapshot = snapshot();
        let mut out = String::new();
        columns(&gateways(&snapshot), &unattached(&snapshot)).print(&mut out);
        let lines: Vec<String> =
            out.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        assert_eq!(
            lines,
            [
                "",
                "GATEWAYS",
                "cluster/c/gateway/ns/gate 192.0.2.1 in order",
                "web 192.0.2.1:80 1 route in order",
                "other 1 route PortUnavailable: why; HostnameConflict: why",
                "cluster/c/httproute/ns/site at cluster/c/gateway/ns/gate web NoMatchingParent: why",
            ]
        );
    }
}
