//! `haflinger status`: what the host does, and why it does not do the rest.

pub(crate) mod columns;
mod datapath;
mod gateways;
mod services;
mod text;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use haflinger_core::{
    Algorithm, Announcement, BackendSet, BackendState, ConnectionLimits, FlowTimeouts,
    ForwardingMode, ModeReason, ObjectRef, ObjectReport, ServiceKey, Snapshot, SourceFault,
    StateReason,
};
use haflinger_discovery::DiscoveryHandle;
use prometheus::Registry;
use serde::Serialize;
use tokio::sync::watch;

use crate::admin::Exhibit;
use crate::daemon::Handles;
use crate::fold::Pulse;
use crate::pools::Pools;
use crate::seeing::Seeing;

/// How the configuration stands.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct ConfigStatus {
    /// Where it was read from.
    pub(crate) source: String,
    /// How often it was read and applied.
    pub(crate) applied: u64,
    /// Why the newest one was refused; the former one is in force.
    pub(crate) refused: Option<String>,
    /// What takes effect only after a restart.
    pub(crate) restart_needed: Vec<String>,
}

/// Everything that the status is made of.
pub(crate) struct Exhibition {
    pub(crate) host: String,
    /// Follows the configuration.
    pub(crate) zone: Mutex<Option<String>>,
    pub(crate) started: Instant,
    pub(crate) registry: Registry,
    pub(crate) pulse: Arc<Pulse>,
    pub(crate) snapshots: watch::Receiver<Arc<Snapshot>>,
    pub(crate) handles: Handles,
    pub(crate) config: Mutex<ConfigStatus>,
    pub(crate) draining: AtomicBool,
}

/// The status as JSON. Field names are stable: a change is named in the changelog.
#[derive(Serialize)]
struct Status {
    version: &'static str,
    host: String,
    zone: Option<String>,
    uptime_secs: u64,
    ready: bool,
    unready_reason: Option<String>,
    generation: u64,
    config: ConfigStatus,
    services: Vec<ServiceStatus>,
    vips: Vec<VipStatus>,
    objects: Vec<ObjectStatus>,
    gateways: Vec<gateways::GatewayStatus>,
    /// Routes and policies that are not followed, at which parent and why.
    unattached: Vec<gateways::UnattachedStatus>,
    hostnames: BTreeMap<Arc<str>, Vec<IpAddr>>,
    discovery: haflinger_discovery::DiscoveryStatus,
    report: haflinger_report::ReportStatus,
    /// Absent without a peer.
    bgp: Option<haflinger_bgp::status::SpeakerStatus>,
    dns: haflinger_dns::driver::Status,
    netlink: haflinger_netlink::Status,
    relay: haflinger_relay::RelayStatus,
    xdp: haflinger_xdp::XdpStatus,
    proxy: haflinger_proxy::ProxyStatus,
    health: haflinger_health::HealthStatus,
    /// Which pods and nodes' ports packets of this host reach.
    reach: haflinger_health::ReachStatus,
}

/// An L4 service.
#[derive(Serialize)]
struct ServiceStatus {
    service: ServiceKey,
    object: String,
    mode: ForwardingMode,
    asked_mode: ForwardingMode,
    /// Why the two differ.
    mode_reason: Option<ModeReason>,
    algorithm: Algorithm,
    limits: ConnectionLimits,
    timeouts: FlowTimeouts,
    announcement: Option<Announcement>,
    fallback: FallbackStatus,
    table: TableStatus,
    backends: Vec<BackendStatus>,
}

/// How far nodes' ports take the flows of a service.
#[derive(Serialize)]
struct FallbackStatus {
    /// Pods are probed, and nodes' ports may stand in for them. Not for ports without a
    /// `nodePort`, where the configuration or the object does not want it, and beyond the bound.
    possible: bool,
    /// Pods that are not reached, and for which nodes' ports stand in.
    unreachable: usize,
    /// Nodes' ports that take flows.
    node_ports: usize,
}

/// A forwarding table.
#[derive(Serialize)]
struct TableStatus {
    generation: u64,
    buckets: usize,
}

/// A backend of a service.
#[derive(Serialize)]
struct BackendStatus {
    address: SocketAddr,
    name: Arc<str>,
    node: Option<Arc<str>>,
    zone: Option<Arc<str>>,
    weight: u32,
    backup: bool,
    state: BackendState,
    reasons: Vec<StateReason>,
    buckets: u32,
}

/// A virtual address.
#[derive(Serialize)]
struct VipStatus {
    address: IpAddr,
    pool: Option<Arc<str>>,
    announcement: Announcement,
}

/// A Service, an Ingress, or an object of the Gateway API.
#[derive(Serialize)]
struct ObjectStatus {
    object: String,
    recorded: Vec<IpAddr>,
    desired: Vec<IpAddr>,
    /// Annotations of other products that were followed.
    followed: Vec<Arc<str>>,
    faults: Vec<SourceFault>,
}

impl Exhibition {
    // Plain data stays usable after a panic elsewhere.
    pub(crate) fn config(&self) -> MutexGuard<'_, ConfigStatus> {
        self.config.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn zone(&self) -> MutexGuard<'_, Option<String>> {
        self.zone.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshots.borrow().clone()
    }

    fn status(&self) -> Status {
        let snapshot = self.snapshot();
        let services = snapshot.services.values().map(|service| ServiceStatus {
            service: service.key,
            object: service.object.to_string(),
            mode: service.mode,
            asked_mode: service.asked_mode,
            mode_reason: service.mode_reason.clone(),
            algorithm: service.algorithm,
            limits: service.limits,
            timeouts: service.timeouts,
            announcement: announcement(&snapshot, service.key.vip),
            fallback: fallback(&snapshot, &service.backends),
            table: TableStatus {
                generation: service.backends.table.generation(),
                buckets: service.backends.table.bucket_count(),
            },
            backends: backends(&service.backends),
        });
        let vips = snapshot.vips.values().map(|vip| VipStatus {
            address: vip.address,
            pool: vip.pool.clone(),
            announcement: vip.announcement,
        });
        let unready_reason = self.unready();
        Status {
            version: env!("CARGO_PKG_VERSION"),
            host: self.host.clone(),
            zone: self.zone().clone(),
            uptime_secs: self.started.elapsed().as_secs(),
            ready: unready_reason.is_none(),
            unready_reason,
            generation: snapshot.generation,
            config: self.config().clone(),
            services: services.collect(),
            vips: vips.collect(),
            objects: snapshot.reports.iter().map(|(o, r)| object_status(o, r)).collect(),
            gateways: gateways::gateways(&snapshot),
            unattached: gateways::unattached(&snapshot),
            hostnames: snapshot
                .hostnames
                .iter()
                .map(|(name, intent)| (name.clone(), intent.addresses.clone()))
                .collect(),
            discovery: self.handles.discovery.status(),
            report: self.handles.reporter.status(),
            bgp: Some(self.handles.bgp.status()).filter(|bgp| !bgp.peers.is_empty()),
            dns: self.handles.dns.status(),
            netlink: self.handles.netlink.status(),
            relay: self.handles.relay.status(),
            xdp: self.handles.xdp.status(),
            proxy: self.handles.proxy.status(),
            health: self.handles.prober.status(),
            reach: self.handles.reach.status(),
        }
    }
}

impl Exhibit for Exhibition {
    fn is_alive(&self) -> bool {
        self.pulse.is_beating()
    }

    fn unready(&self) -> Option<String> {
        if self.draining.load(Ordering::Relaxed) {
            return Some("the host is draining".to_owned());
        }
        if !self.snapshots.borrow().complete {
            return Some("not every source has listed yet".to_owned());
        }
        None
    }

    fn status_json(&self) -> serde_json::Value {
        serde_json::to_value(self.status()).unwrap_or_else(|error| {
            // Only a map with keys that are no strings could fail, and there is none.
            serde_json::json!({ "error": error.to_string() })
        })
    }

    fn status_text(&self) -> String {
        text::render(&self.status(), &self.snapshot())
    }

    fn pools(&self, pool: Option<&str>, addresses: bool) -> Option<Pools> {
        Pools::of(&self.snapshot(), pool, addresses)
    }

    fn registry(&self) -> &Registry {
        &self.registry
    }

    fn seeing(&self) -> Seeing {
        Seeing {
            xdp: self.handles.xdp.clone(),
            proxy: self.handles.proxy.clone(),
            snapshots: self.snapshots.clone(),
        }
    }

    fn discovery(&self) -> &DiscoveryHandle {
        &self.handles.discovery
    }
}

fn announcement(snapshot: &Snapshot, vip: IpAddr) -> Option<Announcement> {
    snapshot.vips.get(&vip).map(|vip| vip.announcement)
}

fn fallback(snapshot: &Snapshot, set: &BackendSet) -> FallbackStatus {
    let count = |reason| {
        let backends = set.backends.iter();
        backends.filter(|backend| backend.reasons.contains(&reason)).count()
    };
    FallbackStatus {
        possible: set.backends.iter().any(|b| snapshot.reach.contains_key(&b.address)),
        unreachable: count(StateReason::Unreachable),
        node_ports: count(StateReason::NodePort),
    }
}

fn backends(set: &BackendSet) -> Vec<BackendStatus> {
    let shares = set.table.shares();
    let backends = set.backends.iter().map(|backend| BackendStatus {
        address: backend.address,
        name: backend.name.clone(),
        node: backend.node.clone(),
        zone: backend.zone.clone(),
        weight: backend.weight,
        backup: backend.backup,
        state: backend.state,
        reasons: backend.reasons.clone(),
        buckets: shares.get(&backend.address).copied().unwrap_or(0),
    });
    backends.collect()
}

fn object_status(object: &ObjectRef, report: &ObjectReport) -> ObjectStatus {
    ObjectStatus {
        object: object.to_string(),
        recorded: report.recorded.clone(),
        desired: report.desired.iter().map(|status| status.address).collect(),
        followed: report.followed.clone(),
        faults: report.faults.clone(),
    }
}
