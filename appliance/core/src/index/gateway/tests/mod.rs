use std::net::SocketAddr;

use super::super::tests::{
    cluster, index_of, object, policy, service, set_service, set_slice, slice,
};
use super::*;
use crate::{
    AddressWish, ApiStatus, BackendRef, BackendRefSpec, CertificateChoice, CertificateSpec,
    Condition, Holds, HttpListener, HttpRule, ListenerProtocol, ListenerSpec, ListenerStatus,
    ListenerTlsSpec, NamespaceChoice, ObjectReport, ParentFields, ParentSpec, PathMatch,
    RequestMatch, RouteRuleSpec, Serves, Update,
};

mod conflicts;
mod order;
mod own_policies;
mod policies;
mod references;
mod serving;
mod streams;

pub(super) const VIP: &str = "192.0.2.9";

pub(super) fn name(kind: ObjectKind, namespace: &str, name: &str) -> ObjectRef {
    ObjectRef::of_kind(&cluster(), kind, namespace, name)
}

pub(super) fn gateway_name(at: &str) -> ObjectRef {
    name(ObjectKind::Gateway, "default", at)
}

pub(super) fn route_name(at: &str) -> ObjectRef {
    name(ObjectKind::HttpRoute, "default", at)
}

pub(super) fn class() -> Update {
    let spec = GatewayClassSpec { generation: 1, parameters: None, recorded_status: None };
    let object = name(ObjectKind::GatewayClass, "", "edge");
    Update::Source(SourceUpdate::GatewayClass { object, spec: Some(Box::new(spec)) })
}

pub(super) fn listener(at: &str, port: u16, protocol: ListenerProtocol) -> ListenerSpec {
    ListenerSpec {
        name: at.into(),
        hostname: None,
        port,
        protocol,
        tls: None,
        allowed_namespaces: NamespaceChoice::Same,
        allowed_kinds: vec![],
    }
}

pub(super) fn http(at: &str, host: Option<&str>) -> ListenerSpec {
    let hostname = host.map(Into::into);
    ListenerSpec { hostname, ..listener(at, 80, ListenerProtocol::Http) }
}

pub(super) fn https(at: &str, host: Option<&str>, secret: &str) -> ListenerSpec {
    let certificates = vec![CertificateChoice::Secret(certificate("default", secret))];
    let tls = ListenerTlsSpec { passthrough: false, certificates, options: vec![] };
    let hostname = host.map(Into::into);
    ListenerSpec { hostname, tls: Some(tls), ..listener(at, 443, ListenerProtocol::Https) }
}

pub(super) fn certificate(namespace: &str, at: &str) -> CertificateRef {
    CertificateRef { source: cluster(), namespace: namespace.into(), name: at.into() }
}

pub(super) fn set_certificate(namespace: &str, at: &str) -> Update {
    let (chain_pem, key_pem) = (b"chain".to_vec(), b"key".to_vec());
    let material = CertificateSpec { chain_pem, key_pem, ..CertificateSpec::default() };
    let certificate = certificate(namespace, at);
    let material = Some(Box::new(material));
    Update::Source(SourceUpdate::Certificate { certificate, material })
}

pub(super) fn gateway(listeners: Vec<ListenerSpec>) -> GatewaySpec {
    GatewaySpec {
        generation: 3,
        created_secs: 10,
        class: "edge".into(),
        listeners,
        requested: vec![],
        foreign_addresses: vec![],
        allowed_sets: NamespaceChoice::None,
        client_validation: vec![],
        backend_certificate: None,
        pool: None,
        wish: AddressWish::default(),
        recorded: vec![VIP.parse().unwrap()],
        ttl_secs: None,
        faults: vec![],
        recorded_status: None,
    }
}

pub(super) fn set_gateway(at: &str, spec: Option<GatewaySpec>) -> Update {
    let object = gateway_name(at);
    Update::Source(SourceUpdate::Gateway { object, spec: spec.map(Box::new) })
}

pub(super) fn set_set(at: &str, spec: Option<ListenerSetSpec>) -> Update {
    let object = name(ObjectKind::ListenerSet, "default", at);
    Update::Source(SourceUpdate::ListenerSet { object, spec: spec.map(Box::new) })
}

pub(super) fn listener_set(parent: &str, listeners: Vec<ListenerSpec>) -> ListenerSetSpec {
    ListenerSetSpec {
        generation: 2,
        created_secs: 20,
        parent: gateway_name(parent),
        listeners,
        faults: vec![],
        recorded_status: None,
    }
}

pub(super) fn parent(object: ObjectRef, section: Option<&str>) -> ParentSpec {
    let written = ParentFields::default();
    ParentSpec { object, written, section: section.map(Into::into), port: None }
}

pub(super) fn backend(service: &str, weight: u32) -> BackendRefSpec {
    let backend = BackendRef::Service { object: object(service), port: Some(80) };
    BackendRefSpec { backend, weight, filters: vec![] }
}

pub(super) fn rule(path: &str, backends: Vec<BackendRefSpec>) -> RouteRuleSpec {
    let matches = vec![RequestMatch::path(PathMatch::Prefix(path.into()))];
    RouteRuleSpec { matches, backends, ..RouteRuleSpec::default() }
}

pub(super) fn route(gateway: &str, hosts: &[&str]) -> RouteSpec {
    RouteSpec {
        generation: 5,
        created_secs: 30,
        parents: vec![parent(gateway_name(gateway), None)],
        hostnames: hosts.iter().map(|host| (*host).into()).collect(),
        rules: vec![rule("/", vec![backend("web", 1)])],
        faults: vec![],
        recorded_status: None,
    }
}

pub(super) fn set_route(at: &str, spec: Option<RouteSpec>) -> Update {
    let object = route_name(at);
    Update::Source(SourceUpdate::Route { object, spec: spec.map(Box::new) })
}

/// A Service `web` with a pod.
pub(super) fn web() -> [Update; 2] {
    let plain = crate::ServiceSpec { exposure: None, ..service(&[]) };
    [set_service("web", Some(plain)), set_slice("web", Some(slice(&[(1, true)])))]
}

pub(super) fn index(updates: impl IntoIterator<Item = Update>) -> Index {
    let first = [Update::Policy(policy()), class()];
    index_of(first.into_iter().chain(web()).chain(updates))
}

pub(super) fn at(port: u16) -> SocketAddr {
    SocketAddr::new(VIP.parse().unwrap(), port)
}

pub(super) fn listening(index: &Index, port: u16) -> Option<Arc<HttpListener>> {
    index.current().http.get(&at(port)).cloned()
}

/// The rules of a port's only section.
pub(super) fn rules(index: &Index, port: u16) -> Vec<HttpRule> {
    let listener = listening(index, port).unwrap();
    let [section] = &listener.sections[..] else { panic!("{listener:?}") };
    let Serves::Requests(rules) = &section.serves else { panic!("{section:?}") };
    rules.clone()
}

pub(super) fn report(index: &Index, object: &ObjectRef) -> Arc<ObjectReport> {
    index.current().reports.get(object).unwrap().clone()
}

/// Conditions as `type=status reason`.
pub(super) fn said(conditions: &[Condition]) -> Vec<String> {
    let said = |condition: &Condition| {
        let holds = match condition.holds {
            Holds::True => '+',
            Holds::False => '-',
            Holds::Unknown => '?',
        };
        format!("{holds}{} {}", condition.kind, condition.reason)
    };
    conditions.iter().map(said).collect()
}

/// Conditions and listeners of a Gateway or ListenerSet.
pub(super) fn listeners_of(
    index: &Index,
    object: &ObjectRef,
) -> (Vec<String>, Vec<ListenerStatus>) {
    let report = report(index, object);
    let Some(ApiStatus::Listeners { conditions, listeners, .. }) = report.status.as_deref() else {
        panic!("{report:?}")
    };
    (said(conditions), listeners.clone())
}

/// Conditions of the one parent of a route.
pub(super) fn parents_of(index: &Index, object: &ObjectRef) -> Vec<Vec<String>> {
    let report = report(index, object);
    let Some(ApiStatus::Route(parents)) = report.status.as_deref() else { panic!("{report:?}") };
    parents.iter().map(|parent| said(&parent.conditions)).collect()
}

pub(super) const ROUTE_GOOD: [&str; 2] = ["+Accepted Accepted", "+ResolvedRefs ResolvedRefs"];

pub(super) const LISTENER_GOOD: [&str; 4] = [
    "+Accepted Accepted",
    "+Programmed Programmed",
    "+ResolvedRefs ResolvedRefs",
    "-Conflicted NoConflicts",
];

pub(super) const GATEWAY_GOOD: [&str; 3] =
    ["+Accepted Accepted", "+Programmed Programmed", "+ResolvedRefs ResolvedRefs"];
