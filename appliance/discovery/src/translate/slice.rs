//! EndpointSlice → [`BackendSlice`].

use std::net::IpAddr;
use std::sync::Arc;

use haflinger_core::{
    BackendSlice, DEFAULT_WEIGHT, Family, FaultReason, Protocol, SliceBackend, SlicePort,
};

use super::{Faults, is_usable_vip, port_number, quoted};
use crate::objects::lax::Lax;
use crate::objects::{EndpointBody, Object, SliceBody};

/// Names the Service that a slice belongs to. A slice without it belongs to none.
pub(crate) const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";

/// Zones that one endpoint is meant for; the API allows as many.
const ZONE_HINTS_MAX: usize = 8;

/// What an EndpointSlice says.
pub(crate) fn slice(object: &Object<SliceBody>) -> BackendSlice {
    let mut faults = Faults::default();
    let body = &object.body;
    let name = object.name();
    let family = match body.address_type.text() {
        Some("IPv4") => Family::V4,
        Some("IPv6") => Family::V6,
        other => {
            faults.add(
                FaultReason::InvalidEndpointSlice,
                format!(
                    "slice {name}: addressType {} is not supported; use IPv4 or IPv6",
                    quoted(other.unwrap_or_default())
                ),
            );
            let faults = faults.into_vec();
            return BackendSlice {
                family: Family::V4,
                ports: Vec::new(),
                backends: Vec::new(),
                faults,
            };
        }
    };
    let ports = ports(body, name, &mut faults);
    let mut backends = Vec::with_capacity(body.endpoints.elements().len());
    if body.endpoints.is_wrong() {
        faults
            .add(FaultReason::InvalidEndpointSlice, format!("slice {name}: endpoints is no list"));
    }
    for (at, endpoint) in body.endpoints.elements().iter().enumerate() {
        let refused = match endpoint {
            Lax::Is(endpoint) => match backend(endpoint, family) {
                Ok(backend) => {
                    backends.push(backend);
                    continue;
                }
                Err(refused) => refused,
            },
            Lax::Absent | Lax::Wrong => "is no object".to_owned(),
        };
        faults.add(
            FaultReason::InvalidEndpointSlice,
            format!("slice {name}: endpoints[{at}] {refused}; the others are used"),
        );
    }
    BackendSlice { family, ports, backends, faults: faults.into_vec() }
}

fn ports(body: &SliceBody, slice: &str, faults: &mut Faults) -> Vec<SlicePort> {
    let mut ports = Vec::new();
    for (at, port) in body.ports.elements().iter().enumerate() {
        let Some(port) = port.get() else {
            faults.add(
                FaultReason::InvalidEndpointSlice,
                format!("slice {slice}: ports[{at}] is no object"),
            );
            continue;
        };
        let protocol = match port.protocol.text().unwrap_or("TCP") {
            "TCP" => Protocol::Tcp,
            "UDP" => Protocol::Udp,
            // The Service's own port says that the protocol is not supported.
            _ => continue,
        };
        let Some(number) = port_number(port.port.get().copied()) else {
            faults.add(
                FaultReason::InvalidEndpointSlice,
                format!(
                    "slice {slice}: ports[{at}].port is not from 1 to 65535, so its backends \
                     cannot be reached by it; write a port number"
                ),
            );
            continue;
        };
        let name = port.name.text().unwrap_or_default().into();
        ports.push(SlicePort { name, protocol, port: number });
    }
    ports
}

/// One endpoint. Its addresses are interchangeable by definition, so the first is used.
fn backend(endpoint: &EndpointBody, family: Family) -> Result<SliceBackend, String> {
    let text = match endpoint.addresses.elements().first() {
        Some(Lax::Is(text)) => text,
        _ => return Err("has no address".to_owned()),
    };
    let address: IpAddr =
        text.parse().map_err(|_| format!("has the malformed address {}", quoted(text)))?;
    if Family::of(address) != family {
        return Err(format!("has the address {address}, which is not of its slice's family"));
    }
    if !is_usable_vip(address) {
        return Err(format!("has the address {address}, which no pod can have"));
    }
    let conditions = endpoint.conditions.get();
    let condition = |read: fn(&crate::objects::Conditions) -> &Lax<bool>| {
        conditions.and_then(|conditions| read(conditions).get().copied())
    };
    let ready = condition(|c| &c.ready).unwrap_or(true);
    let pod = endpoint.target_ref.get().and_then(|target| target.name.text());
    let name =
        pod.or(endpoint.hostname.text()).map_or_else(|| address.to_string().into(), Arc::from);
    let zone: Option<Arc<str>> = endpoint.zone.text().map(Arc::from);
    Ok(SliceBackend {
        address,
        name,
        node: endpoint.node_name.text().map(Arc::from),
        for_zones: for_zones(endpoint, zone.as_ref()),
        zone,
        weight: DEFAULT_WEIGHT,
        ready,
        serving: condition(|c| &c.serving).unwrap_or(true),
        terminating: condition(|c| &c.terminating).unwrap_or(false),
        backup: false,
    })
}

/// `hints.forZones`: nearly always the endpoint's own zone alone, which then is kept once.
fn for_zones(endpoint: &EndpointBody, own: Option<&Arc<str>>) -> Box<[Arc<str>]> {
    let Some(hints) = endpoint.hints.get() else { return Box::default() };
    let zones = hints.for_zones.elements().iter().filter_map(|zone| zone.get()?.name.text());
    zones
        .take(ZONE_HINTS_MAX)
        .map(|zone| match own {
            Some(own) if **own == *zone => own.clone(),
            _ => zone.into(),
        })
        .collect()
}
