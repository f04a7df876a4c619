//! The services in the status for people.

use haflinger_core::{Algorithm, BackendState, ConnectionLimits, ModeReason, StateReason};

use super::columns::Columns;
use super::text::announcement;
use super::{BackendStatus, ServiceStatus, Status};

/// What this host lacks, so that services which ask for XDP are relayed: said once.
pub(super) fn relayed_by_host(status: &Status) -> Option<&ModeReason> {
    let reasons = status.services.iter().filter_map(|service| service.mode_reason.as_ref());
    reasons.into_iter().find(|reason| reason.is_of_host())
}

pub(super) fn services(status: &Status) -> Columns {
    let mut columns = Columns::new("SERVICES");
    for service in &status.services {
        let active = service.backends.iter().filter(|b| b.state == BackendState::Active).count();
        columns.row([
            service.service.to_string(),
            service.object.clone(),
            mode(service),
            format!("{active}/{} active", service.backends.len()),
            service.announcement.map_or("", |state| announcement(status, state)).to_owned(),
            listening(status, service),
        ]);
        for note in notes(service) {
            columns.row([format!("  {note}")]);
        }
        for backend in &service.backends {
            let place = backend.node.as_deref().or(backend.zone.as_deref()).unwrap_or_default();
            columns.row([
                format!("  {}", backend.address),
                format!("{} {place}", backend.name).trim_end().to_owned(),
                state(backend).to_owned(),
                format!("{}/{} buckets", backend.buckets, service.table.buckets),
                reasons(backend),
                String::new(),
            ]);
        }
    }
    columns
}

/// The mode, and the algorithm where it is not the usual one.
fn mode(service: &ServiceStatus) -> String {
    match service.algorithm {
        Algorithm::Hash => service.mode.to_string(),
        other => format!("{}, {other}", service.mode),
    }
}

/// What is particular about a service.
fn notes(service: &ServiceStatus) -> Vec<String> {
    let mut notes = Vec::new();
    if let Some(reason) = service.mode_reason.as_ref().filter(|reason| !reason.is_of_host()) {
        notes.push(format!("{} instead of {}: {reason}", service.mode, service.asked_mode));
    }
    let (pods, ports) = (service.fallback.unreachable, service.fallback.node_ports);
    if ports > 0 {
        let counted = |count, one: &str, many: &str| match count {
            1 => format!("1 {one}"),
            _ => format!("{count} {many}"),
        };
        let ports = counted(ports, "node's port", "nodes' ports");
        notes.push(match pods {
            0 => format!("led to {ports}, as asked for"),
            _ => {
                let pods = counted(pods, "pod that does", "pods that do");
                format!("led to {ports} in the place of {pods} not answer this host")
            }
        });
    }
    match service.limits {
        ConnectionLimits { service: None, backend: None } => {}
        ConnectionLimits { service: Some(all), backend: None } => {
            notes.push(format!("at most {all} connections"));
        }
        ConnectionLimits { service: None, backend: Some(each) } => {
            notes.push(format!("at most {each} connections to each backend"));
        }
        ConnectionLimits { service: Some(all), backend: Some(each) } => {
            notes.push(format!("at most {all} connections, {each} to each backend"));
        }
    }
    notes
}

fn listening(status: &Status, service: &ServiceStatus) -> String {
    let relayed = status.relay.services.iter().find(|r| r.service == service.service);
    if service.mode.is_xdp() {
        // It needs no socket, but what began in the relay goes on there.
        return match relayed.map_or(0, |relayed| relayed.held) {
            0 => String::new(),
            held => format!("{held} still relayed"),
        };
    }
    match relayed {
        None => "not served".to_owned(),
        Some(relayed) => match (&relayed.error, relayed.listening) {
            (Some(error), _) => error.clone(),
            (None, false) => "opening".to_owned(),
            (None, true) => format!("{} open, {} in all", relayed.active, relayed.total),
        },
    }
}

fn state(backend: &BackendStatus) -> &'static str {
    match backend.state {
        BackendState::Active => "active",
        BackendState::Draining if stands_by(backend) => "standing by",
        BackendState::Draining => "draining",
        BackendState::Down => "down",
    }
}

/// Whether it takes no new flow because others are preferred, rather than because it goes.
fn stands_by(backend: &BackendStatus) -> bool {
    let standing =
        |reason: &StateReason| matches!(reason, StateReason::Backup | StateReason::OtherZone);
    backend.reasons.iter().any(standing)
}

fn reasons(backend: &BackendStatus) -> String {
    let backup = backend.backup.then_some("backup");
    let reasons = backend.reasons.iter().filter_map(|reason| match reason {
        StateReason::NotReady => Some("not ready"),
        StateReason::Terminating => Some("terminating"),
        StateReason::Terminated => Some("terminated"),
        StateReason::CheckFailed => Some("check failed"),
        StateReason::WeightZero => Some("weight 0"),
        StateReason::LastResort => Some("last resort"),
        StateReason::OtherZone => Some("another zone"),
        StateReason::AwaitsGate => Some("awaits its readiness gate"),
        StateReason::Unreachable => Some("not reached"),
        StateReason::NodePort => Some("node's port"),
        // What it is and its state say it.
        StateReason::Backup => None,
    });
    backup.into_iter().chain(reasons).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;
    use std::sync::Arc;

    use haflinger_core::{FlowTimeouts, ForwardingMode, Protocol, ServiceKey};

    use super::super::{FallbackStatus, TableStatus};
    use super::*;

    fn service() -> ServiceStatus {
        ServiceStatus {
            service: ServiceKey { vip: [192, 0, 2, 1].into(), port: 80, protocol: Protocol::Tcp },
            object: "inventory/service/default/web".to_owned(),
            mode: ForwardingMode::Nat,
            asked_mode: ForwardingMode::Nat,
            mode_reason: None,
            algorithm: Algorithm::Hash,
            limits: ConnectionLimits::default(),
            timeouts: FlowTimeouts::default(),
            announcement: None,
            fallback: FallbackStatus { possible: false, unreachable: 0, node_ports: 0 },
            table: TableStatus { generation: 1, buckets: 256 },
            backends: Vec::new(),
        }
    }

    fn backend(backup: bool, state: BackendState, reasons: &[StateReason]) -> BackendStatus {
        BackendStatus {
            address: ([10, 0, 0, 1], 80).into(),
            name: "pod".into(),
            node: None,
            zone: None,
            weight: 100,
            backup,
            state,
            reasons: reasons.to_vec(),
            buckets: 0,
        }
    }

    fn said(backend: &BackendStatus) -> (&'static str, String) {
        (state(backend), reasons(backend))
    }

    #[test]
    fn a_service_as_asked_for_has_no_notes() {
        assert_eq!(mode(&service()), "nat");
        assert!(notes(&service()).is_empty());
    }

    #[test]
    fn the_algorithm_is_shown_where_it_is_not_the_usual_one() {
        let spread = ServiceStatus { algorithm: Algorithm::LeastConnections, ..service() };
        assert_eq!(mode(&spread), "nat, least-connections");
    }

    #[test]
    fn another_mode_than_asked_for_is_explained_but_for_what_the_whole_host_lacks() {
        let relayed = |reason: ModeReason| ServiceStatus {
            mode: ForwardingMode::Proxy,
            asked_mode: ForwardingMode::Dsr,
            mode_reason: Some(reason),
            ..service()
        };
        let full = ModeReason::Refused { detail: Arc::from("no bucket is free") };
        assert_eq!(notes(&relayed(full)), ["proxy instead of dsr: no bucket is free"]);
        assert!(notes(&relayed(ModeReason::XdpDisabled)).is_empty());
    }

    #[test]
    fn limits_are_shown() {
        let limited = |all: u32, each: u32| {
            let limits =
                ConnectionLimits { service: NonZeroU32::new(all), backend: NonZeroU32::new(each) };
            notes(&ServiceStatus { limits, ..service() })
        };
        assert_eq!(limited(9, 0), ["at most 9 connections"]);
        assert_eq!(limited(0, 3), ["at most 3 connections to each backend"]);
        assert_eq!(limited(9, 3), ["at most 9 connections, 3 to each backend"]);
    }

    #[test]
    fn what_stands_in_for_pods_is_shown() {
        let led = |unreachable, node_ports| {
            let fallback = FallbackStatus { possible: true, unreachable, node_ports };
            notes(&ServiceStatus { fallback, ..service() })
        };
        assert!(led(0, 0).is_empty());
        let two = "led to 2 nodes' ports in the place of 3 pods that do not answer this host";
        assert_eq!(led(3, 2), [two]);
        let one = "led to 1 node's port in the place of 1 pod that does not answer this host";
        assert_eq!(led(1, 1), [one]);
        assert_eq!(led(0, 2), ["led to 2 nodes' ports, as asked for"]);
    }

    #[test]
    fn a_backup_is_told_from_what_drains() {
        use BackendState::{Active, Down, Draining};
        let text = String::from;
        assert_eq!(said(&backend(false, Active, &[])), ("active", text("")));
        assert_eq!(said(&backend(true, Active, &[])), ("active", text("backup")));
        let waits = backend(true, Draining, &[StateReason::Backup]);
        assert_eq!(said(&waits), ("standing by", text("backup")));
        let elsewhere = backend(false, Draining, &[StateReason::OtherZone]);
        assert_eq!(said(&elsewhere), ("standing by", text("another zone")));
        let drained = backend(true, Draining, &[StateReason::WeightZero]);
        assert_eq!(said(&drained), ("draining", text("backup, weight 0")));
        let failed = backend(true, Down, &[StateReason::CheckFailed]);
        assert_eq!(said(&failed), ("down", text("backup, check failed")));
    }
}
