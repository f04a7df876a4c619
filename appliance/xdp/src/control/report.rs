//! What the control knows of services and backends, for status and metrics.

use std::net::SocketAddr;
use std::ops::Bound;

use haflinger_core::{ForwardingMode, ServiceKey};
use serde::Serialize;

use super::{Control, Held, Traffic};
use crate::words;

/// Backends whose counters one report reads: a system call each, 20 ms together.
pub(crate) const READS_MAX: usize = 20_000;

/// A service in the maps.
#[derive(Clone, Debug, Serialize)]
pub struct ServiceReport {
    /// VIP, port and protocol.
    pub service: ServiceKey,
    /// How its packets reach the backends.
    pub mode: Option<ForwardingMode>,
    /// It was given up here (relayed now, or gone); its flows go on until they end.
    pub left: bool,
    /// Live flows.
    pub connections: u32,
    /// What was counted since the service came, unless there is too much to read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub traffic: Option<Traffic>,
    /// What went through a second, lately.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub per_second: Option<Traffic>,
    /// Its backends, those included whose last flows are awaited.
    pub backends: Vec<BackendReport>,
}

/// A backend of a service.
#[derive(Clone, Debug, Serialize)]
pub struct BackendReport {
    /// Where packets are sent.
    pub address: SocketAddr,
    /// It is not among the service's backends any more; its flows go on until they end.
    pub left: bool,
    /// Live flows.
    pub connections: u32,
    /// What was counted since the backend came.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub traffic: Option<Traffic>,
}

impl Control {
    /// Every service, by key.
    pub(crate) fn report(&self) -> Vec<ServiceReport> {
        let mut keys: Vec<&ServiceKey> = self.services.keys().collect();
        keys.sort();
        let mut reads = READS_MAX;
        let held = keys.into_iter().filter_map(|key| Some((key, self.services.get(key)?)));
        held.map(|(key, held)| self.report_of(key, held, &mut reads)).collect()
    }

    fn report_of(&self, key: &ServiceKey, held: &Held, reads: &mut usize) -> ServiceReport {
        let reads_all = held.backends.len() <= *reads;
        if reads_all {
            *reads -= held.backends.len();
        }
        let mut backends: Vec<BackendReport> = held
            .backends
            .iter()
            .map(|(address, backend)| BackendReport {
                address: *address,
                left: backend.left.is_some(),
                connections: self.maps.backend_loads.read(backend.slot).connections,
                traffic: reads_all.then(|| self.traffic(backend.slot)),
            })
            .collect();
        backends.sort_by_key(|backend| backend.address);
        let mut traffic = held.past;
        backends.iter().filter_map(|backend| backend.traffic.as_ref()).for_each(|t| traffic.add(t));
        ServiceReport {
            service: *key,
            mode: words::mode_of(self.maps.services.read(held.slot).mode),
            left: held.left.is_some(),
            connections: self.maps.service_loads.read(held.slot).connections,
            traffic: reads_all.then_some(traffic),
            per_second: None,
            backends,
        }
    }

    /// What services behind `after` have seen, in their order, until more than `reads` backends
    /// were read. Those that left are passed over.
    pub(crate) fn totals(&self, after: Option<ServiceKey>, reads: usize) -> Totals {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut totals = Totals::default();
        for (key, _) in self.applied.range((from, Bound::Unbounded)) {
            let Some(held) = self.services.get(key) else { continue };
            totals.reads += held.backends.len();
            let mut traffic = held.past;
            for backend in held.backends.values() {
                traffic.add(&self.traffic(backend.slot));
            }
            totals.services.push((*key, traffic));
            if totals.reads > reads {
                totals.next = Some(*key);
                break;
            }
        }
        totals
    }

    /// Services that have no room, and what there is too little of.
    pub(crate) fn refusals(&self) -> Vec<Refusal> {
        let refused = self.refused.iter();
        refused.map(|(key, r)| Refusal { service: *key, reason: r.reason.to_string() }).collect()
    }

    /// Where `nat` sends from.
    pub(crate) fn source_pools(&self) -> Vec<SourcePool> {
        let pools = self.sources.pools(&self.maps).into_iter();
        let pools = pools.map(|(address, ports)| SourcePool {
            address,
            flows_max: u32::from(*ports.end()) - u32::from(*ports.start()) + 1,
            first_port: *ports.start(),
            last_port: *ports.end(),
        });
        pools.collect()
    }
}

/// What some services have seen.
#[derive(Debug, Default)]
pub(crate) struct Totals {
    pub(crate) services: Vec<(ServiceKey, Traffic)>,
    /// Backends that were read.
    pub(crate) reads: usize,
    /// The last of these services, where others may follow.
    pub(crate) next: Option<ServiceKey>,
}

/// A service that is relayed because the maps have no room.
#[derive(Clone, Debug, Serialize)]
pub struct Refusal {
    /// VIP, port and protocol.
    pub service: ServiceKey,
    /// What there is too little of.
    pub reason: String,
}

/// An address that `nat` sends from.
#[derive(Clone, Debug, Serialize)]
pub struct SourcePool {
    /// The address.
    pub address: std::net::IpAddr,
    /// Its first port.
    pub first_port: u16,
    /// Its last port.
    pub last_port: u16,
    /// Flows to each backend address and port that it is enough for.
    pub flows_max: u32,
}
