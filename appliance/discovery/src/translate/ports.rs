//! `Service.spec.ports`, and what a status says of them.

use std::net::IpAddr;
use std::sync::Arc;

use haflinger_core::{FaultReason, PortStatus, Protocol, RefusedPort, ServicePort};

use super::{Faults, port_number, quoted};
use crate::objects::lax::Lax;
use crate::objects::{LoadBalanced, ServicePortBody, ServiceSpecBody};

/// Ports of one service that are served. Each is a service of its own in the data path, with its
/// own table in each family; a Service can have tens of thousands.
pub(crate) const PORTS_MAX: usize = 1024;

/// Refused ports that are remembered, and ports of one status entry that are read: more are never
/// written into a status either.
const LISTED_MAX: usize = 1024;

/// The ports of one Service.
#[derive(Default)]
pub(super) struct Ports {
    /// Those that can be served.
    pub(super) served: Vec<ServicePort>,
    /// Those that cannot.
    pub(super) refused: Vec<RefusedPort>,
}

impl Ports {
    pub(super) fn read(spec: &ServiceSpecBody, faults: &mut Faults) -> Self {
        let mut ports = Self::default();
        for (at, port) in spec.ports.elements().iter().enumerate() {
            match port.get() {
                Some(body) => ports.add(body, at, faults),
                None => {
                    faults.add(FaultReason::InvalidField, format!("spec.ports[{at}]: is no object"))
                }
            }
        }
        let written = spec.ports.elements().len();
        if ports.refused.iter().any(|port| port.reason == FaultReason::TooManyPorts) {
            faults.add(
                FaultReason::TooManyPorts,
                format!(
                    "spec.ports: of {written} ports the first {PORTS_MAX} are served; spread them \
                     over several Services"
                ),
            );
        }
        ports
    }

    fn add(&mut self, body: &ServicePortBody, at: usize, faults: &mut Faults) {
        let Some(port) = port_number(body.port.get().copied()) else {
            faults.add(
                FaultReason::InvalidField,
                format!("spec.ports[{at}].port: is not from 1 to 65535; write a port number"),
            );
            return;
        };
        let written = body.protocol.text().unwrap_or("TCP");
        let protocol = match written {
            "TCP" => Protocol::Tcp,
            "UDP" => Protocol::Udp,
            other => {
                faults.add(
                    FaultReason::UnsupportedProtocol,
                    format!(
                        "spec.ports[{at}].protocol: {} is not supported; use TCP or UDP, or \
                         leave port {port} to another load balancer",
                        quoted(other)
                    ),
                );
                self.refuse(port, other, FaultReason::UnsupportedProtocol);
                return;
            }
        };
        if self.served.len() >= PORTS_MAX {
            self.refuse(port, written, FaultReason::TooManyPorts);
            return;
        }
        let name = body.name.text().unwrap_or_default().into();
        let app_protocol = body.app_protocol.text().map(Arc::from);
        let node_port = port_number(body.node_port.get().copied());
        self.served.push(ServicePort { name, port, protocol, app_protocol, node_port });
    }

    fn refuse(&mut self, port: u16, protocol: &str, reason: FaultReason) {
        if self.refused.len() < LISTED_MAX {
            self.refused.push(RefusedPort { port, protocol: protocol.into(), reason });
        }
    }
}

/// `status.loadBalancer.ingress[].ports`, of the addresses that list any.
pub(super) fn recorded_ports(status: &Lax<LoadBalanced>) -> Vec<(IpAddr, Vec<PortStatus>)> {
    let balancer = status.get().and_then(|status| status.load_balancer.get());
    let entries = balancer.map_or(&[][..], |balancer| balancer.ingress.elements());
    let entries = entries.iter().filter_map(|entry| {
        let entry = entry.get()?;
        let address: IpAddr = entry.ip.text()?.parse().ok()?;
        let ports = entry.ports.elements().iter().take(LISTED_MAX).filter_map(|port| {
            let port = port.get()?;
            Some(PortStatus {
                port: port_number(port.port.get().copied())?,
                protocol: port.protocol.text().unwrap_or("TCP").into(),
                error: port.error.text().map(Arc::from),
            })
        });
        let mut ports: Vec<PortStatus> = ports.collect();
        ports.sort();
        (!ports.is_empty()).then_some((address, ports))
    });
    entries.collect()
}
