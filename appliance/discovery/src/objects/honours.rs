//! docs/honours.md against the code: it lists every field and annotation that is read, no other,
//! and every field that the API has beside them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1 as discovery;
use k8s_openapi::api::networking::v1 as networking;
use serde::Deserialize;

use super::fields::{Fields, below, names_of};
use super::{Kind, Name};
use super::{gateway, kinds, policies, routes};

pub(super) fn fields_of<B: Kind + Fields>() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    B::fields("", &mut found);
    found
}

/// The page: what stands between backticks in the first column of the tables, by heading.
fn page() -> BTreeMap<String, BTreeSet<String>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/honours.md");
    let text = std::fs::read_to_string(path).expect("the page");
    let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut heading = String::new();
    for line in text.lines() {
        if let Some(title) = line.strip_prefix("## ") {
            title.clone_into(&mut heading);
        } else if let Some(row) = line.strip_prefix("| `") {
            let cell = row.split(" | ").next().unwrap_or_default();
            let names = cell.split('`').step_by(2).filter(|name| !name.is_empty());
            for name in names {
                let new = found.entry(heading.clone()).or_default().insert(name.to_owned());
                assert!(new, "{heading}: {name} stands there twice");
            }
        }
    }
    found
}

fn documented(heading: &str) -> BTreeSet<String> {
    page().remove(heading).unwrap_or_else(|| panic!("no table under \"## {heading}\""))
}

#[test]
fn every_field_that_is_read_is_documented_and_every_documented_field_is_read() {
    let former = documented("Of former releases");
    let mut metadata = BTreeSet::new();
    // Of some kinds different watches read different things.
    let mut by_kind: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    let kinds = [
        kinds::fields_by_kind(),
        gateway::fields_by_kind(),
        routes::fields_by_kind(),
        policies::fields_by_kind(),
    ];
    for (kind, read) in kinds.into_iter().flatten() {
        by_kind.entry(kind).or_default().extend(read);
    }
    for (kind, read) in by_kind {
        let (common, own): (BTreeSet<_>, _) =
            read.into_iter().partition(|field| field.starts_with("metadata."));
        metadata.extend(common);
        // Of some kinds nothing but the metadata is read.
        if !own.is_empty() {
            let mut told = documented(kind);
            for field in former.iter().filter_map(|name| name.strip_prefix(kind)) {
                assert!(told.insert(field.trim_start().to_owned()), "{kind}{field} stands twice");
            }
            assert_eq!(own, told, "{kind}");
        }
    }
    assert_eq!(metadata, documented("Every object"));
}

#[test]
fn every_annotation_that_is_read_is_documented_and_every_documented_one_is_read() {
    let read: BTreeSet<String> = Name::ALL.iter().map(ToString::to_string).collect();
    assert_eq!(read.len(), Name::ALL.len(), "a name stands there twice");
    assert_eq!(read, documented("Annotations"));
}

/// The fields that a type of the API has, at a path.
fn api<'de, T: Deserialize<'de>>(at: &str) -> Vec<String> {
    names_of::<T>().iter().map(|name| below(at, Some(name))).collect()
}

/// Whether a path, or anything below it, is read.
fn is_read(path: &str, read: &BTreeSet<String>) -> bool {
    let below = [format!("{path}."), format!("{path}[]")];
    read.iter().any(|name| name == path || below.iter().any(|start| name.starts_with(start)))
}

#[test]
fn every_field_of_the_api_is_read_or_named_as_left_aside() {
    let services = [
        api::<core::ServiceSpec>("spec"),
        api::<core::ServicePort>("spec.ports[]"),
        api::<core::ClientIPConfig>("spec.sessionAffinityConfig.clientIP"),
        api::<core::ServiceStatus>("status"),
        api::<core::LoadBalancerIngress>("status.loadBalancer.ingress[]"),
        api::<core::PortStatus>("status.loadBalancer.ingress[].ports[]"),
    ];
    let slices = [
        vec!["addressType".to_owned(), "endpoints".to_owned(), "ports".to_owned()],
        api::<discovery::Endpoint>("endpoints[]"),
        api::<discovery::EndpointConditions>("endpoints[].conditions"),
        api::<discovery::EndpointHints>("endpoints[].hints"),
        api::<discovery::EndpointPort>("ports[]"),
    ];
    let ingresses = [
        api::<networking::IngressSpec>("spec"),
        api::<networking::IngressRule>("spec.rules[]"),
        api::<networking::HTTPIngressPath>("spec.rules[].http.paths[]"),
        api::<networking::IngressBackend>("spec.defaultBackend"),
        api::<networking::IngressServiceBackend>("spec.defaultBackend.service"),
        api::<networking::ServiceBackendPort>("spec.defaultBackend.service.port"),
        api::<networking::IngressTLS>("spec.tls[]"),
        api::<networking::IngressStatus>("status"),
    ];
    let aside = documented("Left aside");
    for (kind, fields) in
        [("Service", &services[..]), ("EndpointSlice", &slices), ("Ingress", &ingresses)]
    {
        let read = documented(kind);
        let prefix = format!("{kind} ");
        let aside: BTreeSet<String> =
            aside.iter().filter_map(|name| Some(name.strip_prefix(&prefix)?.to_owned())).collect();
        for field in fields.iter().flatten() {
            let named = (is_read(field, &read), aside.contains(field));
            assert!(named.0 != named.1, "{kind} {field}: read and left aside are {named:?}");
        }
        for field in &aside {
            assert!(fields.iter().flatten().any(|known| known == field), "no {kind} has {field}");
        }
    }
}
