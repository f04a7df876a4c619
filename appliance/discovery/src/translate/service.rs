//! Service → [`ServiceSpec`].

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use haflinger_core::{Exposure, Family, FaultReason, Protocol, ServicePort, ServiceSpec};
use ipnet::IpNet;

use super::annotations::Annotations;
use super::l4::algorithm;
use super::{Claims, Faults, is_usable_vip, port_number, quoted, recorded, recorded_ip_mode};
use crate::objects::lax::Lax;
use crate::objects::{Object, ServiceBody, ServiceSpecBody};

/// The value of `spec.loadBalancerClass` that is ours.
const CLASS: &str = "haflinger.dev/edge";

/// What `spec.loadBalancerSourceRanges` was before it became a field; the field wins.
const LEGACY_SOURCE_RANGES: &str = "service.beta.kubernetes.io/load-balancer-source-ranges";

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
    let ports = ports(spec, &mut faults);
    let mut annotations = Annotations { object, faults: &mut faults };
    let algorithm = algorithm(spec, &mut annotations);
    let limits = annotations.connection_limits();
    let timeouts = annotations.timeouts();
    let proxy_protocol = annotations.proxy_protocol();
    let health_check = annotations.health_check();
    let exposure = claimed.then(|| exposure(object, spec, &families, &mut faults));
    ServiceSpec {
        ports,
        exposure,
        created_secs: object.created_secs,
        families,
        algorithm,
        limits,
        timeouts,
        publish_not_ready: spec.publish_not_ready_addresses.get().copied().unwrap_or(false),
        proxy_protocol,
        health_check,
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

fn ports(spec: &ServiceSpecBody, faults: &mut Faults) -> Vec<ServicePort> {
    let mut ports = Vec::new();
    for (at, port) in spec.ports.elements().iter().enumerate() {
        let Some(body) = port.get() else {
            faults.add(FaultReason::InvalidField, format!("spec.ports[{at}]: is no object"));
            continue;
        };
        let Some(number) = port_number(body.port.get().copied()) else {
            faults.add(
                FaultReason::InvalidField,
                format!("spec.ports[{at}].port: is not from 1 to 65535; write a port number"),
            );
            continue;
        };
        let protocol = match body.protocol.text().unwrap_or("TCP") {
            "TCP" => Protocol::Tcp,
            "UDP" => Protocol::Udp,
            other => {
                faults.add(
                    FaultReason::UnsupportedProtocol,
                    format!(
                        "spec.ports[{at}].protocol: {} is not supported; use TCP or UDP, or \
                         leave port {number} to another load balancer",
                        quoted(other)
                    ),
                );
                continue;
            }
        };
        let name = body.name.text().unwrap_or_default().into();
        ports.push(ServicePort { name, port: number, protocol });
    }
    ports
}

fn exposure(
    object: &Object<ServiceBody>,
    spec: &ServiceSpecBody,
    families: &[Family],
    faults: &mut Faults,
) -> Exposure {
    let source_ranges = source_ranges(object, spec, faults);
    let mut annotations = Annotations { object, faults };
    let mut requested = annotations.addresses();
    let pool = annotations.pool();
    let mode = annotations.mode();
    let hostnames = annotations.hostnames();
    let ttl_secs = annotations.ttl_secs();
    if requested.is_empty()
        && let Some(text) = spec.load_balancer_ip.text()
    {
        match text.parse() {
            Ok(address) if is_usable_vip(address) => requested.push(address),
            _ => faults.add(
                FaultReason::InvalidField,
                format!(
                    "spec.loadBalancerIP: {} cannot be used; write a unicast address of a pool",
                    quoted(text)
                ),
            ),
        }
    }
    Exposure {
        families: families.to_vec(),
        requested,
        pool,
        recorded: recorded(&object.body.status),
        recorded_ip_mode: recorded_ip_mode(&object.body.status),
        mode,
        source_ranges,
        hostnames,
        ttl_secs,
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
            .annotation(LEGACY_SOURCE_RANGES)
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
