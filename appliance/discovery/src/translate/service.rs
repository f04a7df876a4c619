//! Service → [`ServiceSpec`].

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use haflinger_core::{
    Distribution, Exposure, Family, FamilyPolicy, FaultReason, LabelPairs, ServiceSpec,
};
use ipnet::IpNet;

use super::annotations::Annotations;
use super::l4::algorithm;
use super::ports::{Ports, recorded_ports};
use super::{Claims, Faults, quoted, recorded, recorded_ip_mode};
use crate::objects::lax::Lax;
use crate::objects::{Name, Object, ServiceBody, ServiceSpecBody};
use crate::settings::LabelKeys;

/// The value of `spec.loadBalancerClass` that is ours.
const CLASS: &str = "haflinger.dev/edge";

/// Source ranges of one service. The relay tests them one by one for every new flow.
const SOURCE_RANGES_MAX: usize = 256;

/// What a Service says. Every Service is sent, because an Ingress may point at it; only those
/// of our class are exposed. One that is being deleted asks for nothing any more.
pub(crate) fn service(object: &Object<ServiceBody>, claims: &Claims) -> ServiceSpec {
    let mut faults = Faults::default();
    let empty = ServiceSpecBody::default();
    let spec = object.body.spec.get().unwrap_or(&empty);
    let claimed = is_claimed(spec, claims) && !object.deleting;
    if object.body.spec.is_wrong() {
        faults.add(FaultReason::InvalidField, "spec: is no object; write the Service anew");
    }
    let families = families(spec);
    let ports = Ports::read(spec, &mut faults);
    let distribution = distribution(spec, &mut faults);
    let mut annotations = Annotations { object, faults: &mut faults };
    let algorithm = algorithm(spec, &mut annotations);
    let limits = annotations.connection_limits();
    let timeouts = annotations.timeouts();
    let destination = annotations.destination();
    let proxy_protocol = annotations.proxy_protocol();
    let health_check = annotations.health_check();
    let exposure = claimed.then(|| exposure(object, spec, &families, &claims.labels, &mut faults));
    ServiceSpec {
        ports: ports.served,
        refused_ports: ports.refused,
        exposure,
        created_secs: object.created_secs,
        families,
        algorithm,
        limits,
        timeouts,
        destination,
        local_traffic: spec.external_traffic_policy.text() == Some("Local"),
        publish_not_ready: spec.publish_not_ready_addresses.get().copied().unwrap_or(false),
        distribution,
        proxy_protocol,
        health_check,
        selector: pods(spec, claims),
        faults: faults.into_vec(),
    }
}

fn is_claimed(spec: &ServiceSpecBody, claims: &Claims) -> bool {
    spec.service_type.text() == Some("LoadBalancer")
        && match spec.load_balancer_class.text() {
            Some(class) => class == CLASS,
            None => claims.unclassed,
        }
}

/// `spec.ipFamilies`, which the API server always fills in but for ExternalName.
fn families(spec: &ServiceSpecBody) -> Vec<Family> {
    let mut families = Vec::new();
    for name in spec.ip_families.elements().iter().filter_map(Lax::text) {
        let family = match name {
            "IPv4" => Family::V4,
            "IPv6" => Family::V6,
            _ => continue,
        };
        if !families.contains(&family) {
            families.push(family);
        }
    }
    if families.is_empty() {
        families.push(Family::V4);
    }
    families
}

/// One of the values that a field may have; `None` where it is absent, or has none of them.
fn choice<T: Copy>(
    field: &str,
    written: &Lax<String>,
    choices: &[(&str, T)],
    faults: &mut Faults,
) -> Option<T> {
    let text = written.text()?;
    let chosen = choices.iter().find(|(name, _)| *name == text).map(|(_, value)| *value);
    if chosen.is_none() {
        let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
        faults.add(
            FaultReason::InvalidField,
            format!("spec.{field}: {} is unknown; write {}", quoted(text), names.join(" or ")),
        );
    }
    chosen
}

/// `spec.trafficDistribution`. An edge host is no node, so that the same node means the same
/// zone, as it does on a node without a pod.
fn distribution(spec: &ServiceSpecBody, faults: &mut Faults) -> Distribution {
    let choices = [
        ("PreferSameZone", Distribution::SameZone),
        ("PreferSameNode", Distribution::SameZone),
        ("PreferClose", Distribution::SameZone),
    ];
    choice("trafficDistribution", &spec.traffic_distribution, &choices, faults).unwrap_or_default()
}

/// `spec.ipFamilyPolicy`. What the cluster itself can do has gone into `ipFamilies` already.
fn family_policy(spec: &ServiceSpecBody, faults: &mut Faults) -> FamilyPolicy {
    let choices = [
        ("SingleStack", FamilyPolicy::Every),
        ("PreferDualStack", FamilyPolicy::Possible),
        ("RequireDualStack", FamilyPolicy::Every),
    ];
    choice("ipFamilyPolicy", &spec.ip_family_policy, &choices, faults).unwrap_or_default()
}

/// `spec.externalTrafficPolicy`. While packets go to pods, they pass no other node with either
/// value; what `Local` still asks for is that pods see the client.
fn wants_client_address(spec: &ServiceSpecBody, faults: &mut Faults) -> bool {
    let choices = [("Cluster", false), ("Local", true)];
    let field = &spec.external_traffic_policy;
    choice("externalTrafficPolicy", field, &choices, faults).unwrap_or_default()
}

/// `spec.selector`, where pods may wait for us: which services a pod waits for.
fn pods(spec: &ServiceSpecBody, claims: &Claims) -> LabelPairs {
    let labels = spec.selector.get().filter(|_| claims.readiness_gate).into_iter().flatten();
    let pair = |(name, value): (&String, &Lax<String>)| {
        (name.as_str().into(), value.text().unwrap_or_default().into())
    };
    labels.map(pair).collect()
}

/// `spec.selector`, the same text for the same pods.
fn selector(spec: &ServiceSpecBody) -> Arc<str> {
    let labels = spec.selector.get().into_iter().flatten();
    let labels = labels.map(|(key, value)| format!("{key}={}", value.text().unwrap_or_default()));
    labels.collect::<Vec<_>>().join(",").into()
}

fn exposure(
    object: &Object<ServiceBody>,
    spec: &ServiceSpecBody,
    families: &[Family],
    keys: &LabelKeys,
    faults: &mut Faults,
) -> Exposure {
    let source_ranges = source_ranges(object, spec, faults);
    let wants_client_address = wants_client_address(spec, faults);
    let backends = wants_client_address.then(|| selector(spec));
    let mut annotations = Annotations { object, faults };
    let asked = annotations.asked(spec.load_balancer_ip.text(), backends, keys);
    let mode = annotations.mode();
    let hostnames = annotations.hostnames();
    let ttl_secs = annotations.ttl_secs();
    let share = annotations.share();
    Exposure {
        families: families.to_vec(),
        family_policy: family_policy(spec, faults),
        requested: asked.requested,
        pool: asked.pool,
        wish: asked.wish,
        recorded: recorded(&object.body.status),
        recorded_ip_mode: recorded_ip_mode(&object.body.status),
        recorded_ports: recorded_ports(&object.body.status),
        wants_client_address,
        mode,
        source_ranges,
        hostnames,
        ttl_secs,
        share,
    }
}

/// `spec.loadBalancerSourceRanges`. Fails closed: a range that cannot be read admits nobody,
/// and where none can be read the service admits nobody, rather than everybody.
fn source_ranges(
    object: &Object<ServiceBody>,
    spec: &ServiceSpecBody,
    faults: &mut Faults,
) -> Vec<IpNet> {
    let written: Vec<String> = match &spec.load_balancer_source_ranges {
        Lax::Is(list) if !list.is_empty() => {
            list.iter().map(|text| text.get().cloned().unwrap_or_default()).collect()
        }
        Lax::Wrong => vec![String::new()],
        Lax::Is(_) | Lax::Absent => object
            .annotation(Name::LEGACY_SOURCE_RANGES)
            .map(str::trim)
            .filter(|list| !list.is_empty())
            .map(|list| list.split(',').map(str::to_owned).collect())
            .unwrap_or_default(),
    };
    let mut ranges: Vec<IpNet> = Vec::new();
    for text in &written {
        match text.trim().parse::<IpNet>() {
            Ok(range) if ranges.len() < SOURCE_RANGES_MAX => {
                if !ranges.contains(&range.trunc()) {
                    ranges.push(range.trunc());
                }
            }
            Ok(_) => faults.add(
                FaultReason::InvalidField,
                "spec.loadBalancerSourceRanges: only the first 256 ranges are admitted; \
                 summarise them",
            ),
            Err(_) => faults.add(
                FaultReason::InvalidField,
                format!(
                    "spec.loadBalancerSourceRanges: {} admits nobody; write a CIDR, as in \
                     192.0.2.0/24",
                    quoted(text)
                ),
            ),
        }
    }
    if ranges.is_empty() && !written.is_empty() {
        ranges = nobody();
    }
    ranges
}

/// Ranges that no client can be in: unspecified addresses are never a source on the wire.
fn nobody() -> Vec<IpNet> {
    vec![
        IpNet::from(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
        IpNet::from(IpAddr::V6(Ipv6Addr::UNSPECIFIED)),
    ]
}
