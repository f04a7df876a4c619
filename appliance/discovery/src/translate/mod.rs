//! Pure translation: one object of a source becomes what the core is told about it.
//!
//! Nothing here does I/O or reads a clock. A value that cannot be used becomes a fault with
//! field, value and remedy; the rest of the object goes on.

mod addresses;
mod annotations;
pub(crate) mod authority;
pub(crate) mod gateway;
mod ingress;
mod l4;
mod migration;
mod namespace;
mod node;
mod pod;
mod ports;
mod secret;
mod service;
mod shared;
mod slice;
#[cfg(test)]
mod tests;
pub(crate) mod update;

use std::net::IpAddr;

use haflinger_core::{Family, FaultReason, IpMode, SourceFault};

pub(crate) use annotations::{dns_name, is_usable_vip};
pub(crate) use ingress::ingress;
pub(crate) use namespace::namespace;
pub(crate) use node::{block_affinity, cilium_node, node};
pub(crate) use pod::pod;
pub(crate) use secret::{certificate, users};
pub(crate) use service::service;
pub(crate) use slice::{SERVICE_NAME_LABEL, slice};

use crate::objects::LoadBalanced;
use crate::objects::lax::Lax;
use crate::settings::{ClusterSettings, LabelKeys};

/// More faults than this at one object are summed up: its status and events stay readable,
/// and an object cannot grow without bound by being wrong.
pub(crate) const FAULTS_MAX: usize = 8;

/// Longest part of a value that a fault repeats, in characters.
const QUOTED_CHARS_MAX: usize = 80;

/// What an object's cluster is configured to claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Claims {
    /// Services of type LoadBalancer without a class are ours.
    pub(crate) unclassed: bool,
    /// The Ingress class that is ours.
    pub(crate) ingress_class: String,
    /// The labels by which pools choose.
    pub(crate) labels: LabelKeys,
    /// Pods may wait for the readiness gate.
    pub(crate) readiness_gate: bool,
}

impl Claims {
    /// What a cluster's settings claim.
    pub(crate) fn of(cluster: &ClusterSettings) -> Self {
        Self {
            unclassed: cluster.claim_unclassed,
            ingress_class: cluster.ingress_class.clone(),
            labels: cluster.labels.clone(),
            readiness_gate: cluster.readiness_gate,
        }
    }
}

/// Collects what is wrong with one object.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    kept: Vec<SourceFault>,
    left_out: usize,
}

impl Faults {
    pub(crate) fn add(&mut self, reason: FaultReason, message: impl Into<String>) {
        let fault = SourceFault::new(reason, message);
        if self.kept.contains(&fault) {
            return;
        }
        if self.kept.len() < FAULTS_MAX {
            self.kept.push(fault);
        } else {
            self.left_out += 1;
        }
    }

    pub(crate) fn into_vec(mut self) -> Vec<SourceFault> {
        if self.left_out > 0
            && let Some(last) = self.kept.last()
        {
            let message = format!("{} more faults of this object are not listed", self.left_out);
            self.kept.push(SourceFault::new(last.reason, message));
        }
        self.kept
    }
}

/// A value for a message: shortened, without line breaks or control characters.
pub(crate) fn quoted(value: &str) -> String {
    let mut text: String = value
        .chars()
        .take(QUOTED_CHARS_MAX)
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    if value.chars().nth(QUOTED_CHARS_MAX).is_some() {
        text.push('…');
    }
    format!("\"{text}\"")
}

/// Addresses in `status.loadBalancer.ingress`; host names and nonsense are not ours.
fn recorded(status: &Lax<LoadBalanced>) -> Vec<IpAddr> {
    let Some(balancer) = status.get().and_then(|status| status.load_balancer.get()) else {
        return Vec::new();
    };
    let entries = balancer.ingress.elements().iter();
    entries.filter_map(|entry| entry.get()?.ip.text()?.parse().ok()).collect()
}

/// The `ipMode` that all those entries have.
fn recorded_ip_mode(status: &Lax<LoadBalanced>) -> Option<IpMode> {
    let balancer = status.get().and_then(|status| status.load_balancer.get())?;
    let modes = balancer.ingress.elements().iter().map(|entry| {
        match entry.get().and_then(|entry| entry.ip_mode.text()) {
            Some("VIP") => Some(IpMode::Vip),
            Some("Proxy") => Some(IpMode::Proxy),
            _ => None,
        }
    });
    let mut modes = modes.collect::<Vec<_>>().into_iter();
    let first = modes.next()?;
    first.filter(|_| modes.all(|mode| mode == first))
}

/// Families in the order in which the addresses name them.
pub(crate) fn families_of(addresses: impl IntoIterator<Item = IpAddr>) -> Vec<Family> {
    let mut families = Vec::new();
    for family in addresses.into_iter().map(Family::of) {
        if !families.contains(&family) {
            families.push(family);
        }
    }
    families
}

/// A port number from 1 to 65535.
fn port_number(value: Option<i64>) -> Option<u16> {
    value.and_then(|value| u16::try_from(value).ok()).filter(|port| *port != 0)
}
