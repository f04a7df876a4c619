//! What a service object should say about itself: details of its addresses, and what is wrong.

use std::net::IpAddr;

use super::Index;
use super::services::ServiceEntry;
use super::shared::Member;
use crate::{
    Exposure, FaultReason, ForwardingMode, IpMode, ModeReason, ObjectRef, ObjectReport, PortStatus,
    Protocol, ProxyProtocol, Service, ServiceKey, ServiceSpec, SourceFault,
};

/// Faults of one reason at one object. A thousand slices may be wrong in a thousand ways; each
/// fault costs an event, and nobody reads more.
const FAULTS_OF_A_REASON_MAX: usize = 4;

/// Ports of an object that are listed in its status. The API wants all or none of them, for each
/// address; beyond this many the status would outgrow the rest of the object.
const STATUS_PORTS_MAX: usize = 256;

impl Index {
    pub(super) fn service_report(&self, object: &ObjectRef) -> Option<ObjectReport> {
        match self.shared.member(object) {
            Some(_) => self.member_report(object),
            None => self.report_for(object, None),
        }
    }

    /// What an object should say about itself, or what a member should of the shared service.
    pub(super) fn report_for(
        &self,
        object: &ObjectRef,
        member: Option<&Member>,
    ) -> Option<ObjectReport> {
        let entry = self.services.get(object)?;
        let spec = entry.spec.as_ref()?;
        let led = spec.exposure.as_ref()?;
        let ip_mode = self.ip_mode(spec, led);
        let own = member.map_or(spec, |member| &member.spec);
        let exposure = own.exposure.as_ref()?;
        let mut report = self.claim_report(object, &exposure.recorded, &exposure.wish, ip_mode);
        for address in &mut report.desired {
            address.ports = self.port_statuses(address.address, entry, own, member);
        }
        report.details_outdated = is_outdated(&report, ip_mode, exposure);
        report.faults.extend(spec.faults.iter().cloned());
        report.faults.extend(entry.faults.iter().cloned());
        let services = entry.keys.iter().filter_map(|key| self.published.services.get(key));
        let relayed = services.clone().filter(|service| !service.mode.is_xdp());
        report.faults.extend(relayed.filter_map(|service| self.unserved_fault(&service.key)));
        if led.wants_client_address && spec.proxy_protocol == ProxyProtocol::Off {
            report.faults.extend(services.map(|service| &**service).find_map(hidden_client));
        }
        Some(report)
    }

    /// Every port of the object on one address; nothing where all are served, or where there are
    /// too many to list.
    fn port_statuses(
        &self,
        address: IpAddr,
        entry: &ServiceEntry,
        spec: &ServiceSpec,
        member: Option<&Member>,
    ) -> Vec<PortStatus> {
        if spec.ports.len() + spec.refused_ports.len() > STATUS_PORTS_MAX {
            return Vec::new();
        }
        let served = spec.ports.iter().map(|port| {
            let not_shared = member.is_some_and(|member| !member.is_served(port));
            let key = ServiceKey { vip: address, port: port.port, protocol: port.protocol };
            let error = match not_shared {
                true => Some(FaultReason::SharedDiffers),
                false => self.port_error(&key, entry),
            };
            let error = error.map(FaultReason::port_error);
            PortStatus { port: port.port, protocol: written(port.protocol).into(), error }
        });
        let refused = spec.refused_ports.iter().map(|port| PortStatus {
            port: port.port,
            protocol: port.protocol.clone(),
            error: Some(port.reason.port_error()),
        });
        let mut ports: Vec<PortStatus> = served.chain(refused).collect();
        ports.sort();
        if ports.iter().any(|port| port.error.is_some()) { ports } else { Vec::new() }
    }

    /// Why a port of the object is not served on this host.
    fn port_error(&self, key: &ServiceKey, entry: &ServiceEntry) -> Option<FaultReason> {
        if entry.taken.contains(key) {
            return Some(FaultReason::PortTaken);
        }
        let service = self.published.services.get(key)?;
        let closed = entry.keys.contains(key) && !service.mode.is_xdp() && !self.is_open(key);
        closed.then_some(FaultReason::NotServed)
    }
}

/// Whether the status says something else of an address that it should go on to hold.
fn is_outdated(report: &ObjectReport, ip_mode: IpMode, exposure: &Exposure) -> bool {
    if exposure.recorded_ip_mode.is_some_and(|known| known != ip_mode) {
        return true;
    }
    let recorded = |address: IpAddr| {
        let found = exposure.recorded_ports.iter().find(|(of, _)| *of == address);
        found.map_or(&[][..], |(_, ports)| ports)
    };
    let mut kept = report.desired.iter().filter(|entry| report.recorded.contains(&entry.address));
    kept.any(|entry| entry.ports != recorded(entry.address))
}

/// A protocol as the API writes it.
fn written(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "TCP",
        Protocol::Udp => "UDP",
    }
}

/// `externalTrafficPolicy: Local` promises backends their clients' addresses. What this host
/// lacks for it is this host's to say.
fn hidden_client(service: &Service) -> Option<SourceFault> {
    let of_host =
        |reason: &ModeReason| reason.is_of_host() || matches!(reason, ModeReason::Refused { .. });
    let mode = match &service.mode_reason {
        Some(reason) if of_host(reason) => service.asked_mode,
        _ => service.mode,
    };
    match mode {
        ForwardingMode::Routed | ForwardingMode::Dsr => None,
        ForwardingMode::Nat | ForwardingMode::Proxy => Some(SourceFault::new(
            FaultReason::ClientAddressHidden,
            format!(
                "spec.externalTrafficPolicy: Local wants pods to see the client's address, which \
                 mode \"{mode}\" does not give; ask for \"routed\" or \"dsr\", or for the PROXY \
                 protocol, or write Cluster"
            ),
        )),
    }
}

/// Sorted, each once, and of each reason no more than can be read.
pub(super) fn summed_up(mut faults: Vec<SourceFault>) -> Vec<SourceFault> {
    faults.sort();
    faults.dedup();
    let mut kept: Vec<SourceFault> = Vec::new();
    for group in faults.chunk_by(|one, other| one.reason == other.reason) {
        kept.extend(group.iter().take(FAULTS_OF_A_REASON_MAX).cloned());
        if let [first, ..] = group
            && group.len() > FAULTS_OF_A_REASON_MAX
        {
            // Without their number, which would make each change of it an event of its own.
            let message = "more of the same kind are not listed";
            kept.push(SourceFault::new(first.reason, message));
        }
    }
    kept
}
