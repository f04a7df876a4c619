//! What the data path can do: which mode a service gets, and which port is not open.
//!
//! The object asks, or else the configuration; then the object's other wishes may need a socket;
//! then this host must have XDP, and XDP must have room. Whatever cannot be had ends at the
//! relay, with a reason. Pure: the drivers say what they met, nothing is tried here.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::Index;
use crate::{
    BackendSet, Exposure, Family, FaultReason, ForwardingMode, IpMode, ModeReason, ProxyProtocol,
    ServiceKey, ServiceSpec, SourceFault,
};

/// What the drivers said. Each entry stays until its driver withdraws it: the drivers follow the
/// snapshot, so that there are never more than services and listeners.
#[derive(Default)]
pub(super) struct DataPath {
    /// Why XDP does not run.
    fault: Option<Arc<str>>,
    /// Services that XDP cannot take.
    refused: BTreeMap<ServiceKey, Arc<str>>,
    /// Services that XDP has.
    held: BTreeSet<ServiceKey>,
    /// Sockets that could not be opened.
    unserved: BTreeMap<ServiceKey, Arc<str>>,
}

/// How far a new flow gets. The better one is the greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Reach {
    /// There is no backend for it.
    Nowhere,
    /// There is one, but the port that leads to it could not be opened.
    ClosedPort,
    /// To a backend.
    Backend,
}

impl Reach {
    pub(super) fn of(available: bool, open: bool) -> Self {
        match (available, open) {
            (false, _) => Self::Nowhere,
            (true, false) => Self::ClosedPort,
            (true, true) => Self::Backend,
        }
    }
}

/// Which mode a service gets.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Resolved {
    /// By the object or else by the configuration.
    pub(super) asked: ForwardingMode,
    /// What it gets.
    pub(super) mode: ForwardingMode,
    /// Why the two differ.
    pub(super) reason: Option<ModeReason>,
    /// For the object, when it is the object that asks for what cannot be had. What this host
    /// lacks is this host's to say.
    pub(super) fault: Option<SourceFault>,
}

impl Index {
    pub(super) fn note_data_path(&mut self, fault: Option<Arc<str>>) {
        if self.data_path.fault != fault {
            self.data_path.fault = fault;
            self.dirty.services.extend(self.services.keys().cloned());
        }
    }

    pub(super) fn note_refused(&mut self, service: ServiceKey, refused: Option<Arc<str>>) {
        if replace(&mut self.data_path.refused, service, refused)
            && let Some(known) = self.published.services.get(&service)
        {
            self.dirty.services.insert(known.object.clone());
        }
    }

    pub(super) fn note_held(&mut self, service: ServiceKey, held: bool) {
        let changed = match held {
            true => self.data_path.held.insert(service),
            false => self.data_path.held.remove(&service),
        };
        if changed {
            self.dirty.vips.insert(service.vip);
        }
    }

    pub(super) fn note_unserved(&mut self, listener: ServiceKey, fault: Option<Arc<str>>) {
        if replace(&mut self.data_path.unserved, listener, fault) {
            self.dirty.vips.insert(listener.vip);
            let service = self.published.services.get(&listener);
            self.dirty.reports.extend(service.map(|service| service.object.clone()));
            self.dirty.reports.extend(self.sites.get(&listener.vip).into_iter().flatten().cloned());
            self.mark_gateways_on(&listener);
        }
    }

    /// Decides the mode of a service.
    pub(super) fn resolve_mode(
        &self,
        key: ServiceKey,
        spec: &ServiceSpec,
        exposure: &Exposure,
        backends: &BackendSet,
    ) -> Resolved {
        let asked = exposure.mode.unwrap_or(self.policy.default_mode);
        let (mut mode, mut reason) = self.possible_mode(asked, key, spec, backends);
        let fault = match (&reason, exposure.mode) {
            (Some(reason), Some(asked)) => Some(SourceFault::new(
                FaultReason::ModeUnavailable,
                format!("mode \"{asked}\" cannot be had for {key}: {reason}; \"{mode}\" is used"),
            )),
            _ => None,
        };
        if mode.is_xdp()
            && let Some(missing) = self.missing_xdp(&key)
        {
            (mode, reason) = (ForwardingMode::Proxy, Some(missing));
        }
        Resolved { asked, mode, reason, fault }
    }

    /// What the service itself allows.
    fn possible_mode(
        &self,
        asked: ForwardingMode,
        key: ServiceKey,
        spec: &ServiceSpec,
        backends: &BackendSet,
    ) -> (ForwardingMode, Option<ModeReason>) {
        if !asked.is_xdp() {
            return (asked, None);
        }
        let proxy_protocol = spec.proxy_protocol;
        if proxy_protocol != ProxyProtocol::Off {
            return (ForwardingMode::Proxy, Some(ModeReason::NeedsSocket { proxy_protocol }));
        }
        let (mut mode, mut reason) = (asked, None);
        if mode == ForwardingMode::Dsr {
            let mut ports = backends.backends.iter().map(|backend| backend.address.port());
            if let Some(port) = ports.find(|port| *port != key.port) {
                reason = Some(ModeReason::BackendPort { port });
                mode = match self.policy.default_mode {
                    // What asks nothing of the backend.
                    ForwardingMode::Dsr => ForwardingMode::Nat,
                    other => other,
                };
            }
        }
        let rewrites = matches!(mode, ForwardingMode::Nat | ForwardingMode::Routed);
        if rewrites && backends.target.family != Family::of(key.vip) {
            return (ForwardingMode::Proxy, Some(ModeReason::FamilyDiffers));
        }
        (mode, reason)
    }

    /// Why this host cannot forward the service by XDP.
    fn missing_xdp(&self, key: &ServiceKey) -> Option<ModeReason> {
        if !self.policy.xdp {
            return Some(ModeReason::XdpDisabled);
        }
        if let Some(fault) = &self.data_path.fault {
            return Some(ModeReason::XdpUnavailable { detail: fault.clone() });
        }
        let refused = self.data_path.refused.get(key)?;
        Some(ModeReason::Refused { detail: refused.clone() })
    }

    /// Whether the socket of a service or of an L7 listener could be opened.
    pub(super) fn is_open(&self, listener: &ServiceKey) -> bool {
        !self.data_path.unserved.contains_key(listener)
    }

    /// Whether packets for a service find it: in the maps of XDP, or a socket of the relay.
    pub(super) fn is_reachable(&self, key: &ServiceKey, mode: ForwardingMode) -> bool {
        if mode.is_xdp() { self.data_path.held.contains(key) } else { self.is_open(key) }
    }

    /// Why the socket of a service or of an L7 listener is not open, for its object.
    pub(super) fn unserved_fault(&self, listener: &ServiceKey) -> Option<SourceFault> {
        let fault = self.data_path.unserved.get(listener)?;
        let text = format!("{listener} cannot be opened: {fault}");
        Some(SourceFault::new(FaultReason::NotServed, text))
    }

    /// What nodes may do with packets of their own pods to the VIP. In `routed` and `dsr` the
    /// backend answers past the appliance, which a client inside of the cluster could not make
    /// sense of: its node does better to short-cut. A PROXY protocol header comes from the edge
    /// alone.
    pub(super) fn ip_mode(&self, spec: &ServiceSpec, exposure: &Exposure) -> IpMode {
        match exposure.mode.unwrap_or(self.policy.default_mode) {
            ForwardingMode::Routed | ForwardingMode::Dsr
                if spec.proxy_protocol == ProxyProtocol::Off =>
            {
                IpMode::Vip
            }
            _ => IpMode::Proxy,
        }
    }
}

/// Notes what a driver said; returns whether it is new.
fn replace(
    map: &mut BTreeMap<ServiceKey, Arc<str>>,
    key: ServiceKey,
    said: Option<Arc<str>>,
) -> bool {
    match said {
        Some(said) if map.get(&key) == Some(&said) => false,
        Some(said) => {
            map.insert(key, said);
            true
        }
        None => map.remove(&key).is_some(),
    }
}
