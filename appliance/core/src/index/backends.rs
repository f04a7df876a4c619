//! From slices to the backends of one target.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use crate::forwarding::MEMBERS_MAX;
use crate::{
    Backend, BackendSlice, BackendState, Distribution, Family, Protocol, ServicePort, ServiceSpec,
    SliceBackend, StateReason,
};

/// Backends of one port in one family: as many as a forwarding table has room for.
pub(super) const BACKENDS_MAX: usize = MEMBERS_MAX;

/// Backends of all ports and families of one object together. A change of any slice costs a look
/// at all of them and an update of each table, while every other service waits: a tenth of a second
/// for 1,024 ports with 32 backends each.
pub(super) const BACKENDS_OF_OBJECT_MAX: usize = 1 << 15;

/// The share of one of `targets` ports and families in what an object may have.
pub(super) fn backends_max(targets: usize) -> usize {
    (BACKENDS_OF_OBJECT_MAX / targets.max(1)).clamp(1, BACKENDS_MAX)
}

/// What the slices of one service object say about one port in one family.
pub(super) struct Gathered {
    /// Sorted by address.
    pub(super) backends: Vec<Backend>,
    /// Slices hold backends of the family, but none has the port.
    pub(super) port_unmatched: bool,
    /// There are more than were looked at.
    pub(super) cut: bool,
}

/// How backends are gathered, beside what their slices say.
pub(super) struct Gathering<'a> {
    pub(super) spec: &'a ServiceSpec,
    /// The failure zone of this host.
    pub(super) zone: Option<&'a str>,
    /// Entries that are looked at. The slices' order decides about which, so that it depends on
    /// what they say and not on when.
    pub(super) backends_max: usize,
}

/// A backend that may be used.
struct Candidate {
    backend: Backend,
    /// Whether it is meant for the zone of this host; `None`: nothing is said.
    near: Option<bool>,
    /// Its slice's, and behind those of its rank backups.
    rank: (u16, bool),
}

/// A slice, and when its backends are used: 0 first, others while none of a lower rank can be.
pub(super) struct Ranked<'a>(&'a BackendSlice, u16);

impl<'a> From<&'a BackendSlice> for Ranked<'a> {
    fn from(slice: &'a BackendSlice) -> Self {
        Self(slice, 0)
    }
}

impl<'a> From<(&'a BackendSlice, u16)> for Ranked<'a> {
    fn from((slice, rank): (&'a BackendSlice, u16)) -> Self {
        Self(slice, rank)
    }
}

impl Gathering<'_> {
    /// Gathers the backends of a port. `failed` says whether our own check has taken a backend
    /// out, `awaited` whether an endpoint lacks nothing but the readiness gate.
    pub(super) fn gather<'a>(
        &self,
        port: &ServicePort,
        family: Family,
        slices: impl Iterator<Item: Into<Ranked<'a>>>,
        failed: impl Fn(&SocketAddr) -> bool,
        awaited: impl Fn(&SliceBackend) -> bool,
    ) -> Gathered {
        let mut merged: BTreeMap<SocketAddr, Candidate> = BTreeMap::new();
        let (mut populated, mut matched) = (false, false);
        let mut left = self.backends_max;
        let mut cut = false;
        let slices = slices.map(Into::into).filter(|Ranked(slice, _)| slice.family == family);
        for Ranked(slice, rank) in slices {
            populated |= !slice.backends.is_empty();
            let Some(backend_port) = matching_port(slice, &port.name, port.protocol) else {
                continue;
            };
            matched = true;
            cut |= slice.backends.len() > left;
            for entry in slice.backends.iter().take(left) {
                let address = SocketAddr::new(entry.address, backend_port);
                let gate = !entry.ready && awaited(entry);
                let mut backend = assess(self.spec, entry, address, failed(&address), gate);
                backend.backup |= rank > 0;
                let rank = (rank, entry.backup);
                // A pod may stand in two slices while the controller moves it: the better state
                // counts (EndpointSlice API, "Duplicate endpoints").
                match merged.get(&address) {
                    Some(known) if known.backend.state <= backend.state => {}
                    _ => {
                        let near = self.is_near(entry);
                        merged.insert(address, Candidate { backend, near, rank });
                    }
                }
            }
            left = left.saturating_sub(slice.backends.len());
        }
        let mut candidates: Vec<Candidate> = merged.into_values().collect();
        hold_back_backups(&mut candidates);
        self.prefer_zone(&mut candidates);
        let mut backends: Vec<Backend> =
            candidates.into_iter().map(|candidate| candidate.backend).collect();
        keep_last_resort(&mut backends);
        Gathered { backends, port_unmatched: populated && !matched, cut }
    }

    /// Whether an endpoint is hinted to be meant for the zone of this host.
    fn is_near(&self, entry: &SliceBackend) -> Option<bool> {
        let zone = self.zone?;
        let hinted = !entry.for_zones.is_empty();
        hinted.then(|| entry.for_zones.iter().any(|wanted| **wanted == *zone))
    }

    /// Of the active backends, those for the zone of this host take new flows alone: as hinted,
    /// where every one of them has a hint (as kube-proxy does it), or by their own zone, where
    /// the service asks for that. Without one for this zone all are used.
    fn prefer_zone(&self, candidates: &mut [Candidate]) {
        let Some(zone) = self.zone else { return };
        let is_active = |backend: &Backend| backend.state == BackendState::Active;
        let active = || candidates.iter().filter(|candidate| is_active(&candidate.backend));
        let in_zone = |backend: &Backend| backend.zone.as_deref() == Some(zone);
        // Only what is ready gets a hint.
        let awaits = |backend: &Backend| backend.reasons.contains(&StateReason::AwaitsGate);
        let hinted = active().all(|known| known.near.is_some() || awaits(&known.backend));
        let by_hint = hinted && active().any(|candidate| candidate.near == Some(true));
        let by_zone = self.spec.distribution == Distribution::SameZone
            && active().any(|candidate| in_zone(&candidate.backend));
        if !by_hint && !by_zone {
            return;
        }
        for Candidate { backend, near, .. } in candidates {
            let preferred = match *near {
                Some(near) if by_hint => near,
                _ => in_zone(backend),
            };
            if is_active(backend) && !preferred {
                hold_back(backend, StateReason::OtherZone);
            }
        }
    }
}

fn matching_port(slice: &BackendSlice, name: &Arc<str>, protocol: Protocol) -> Option<u16> {
    let found = slice.ports.iter().find(|p| p.name == *name && p.protocol == protocol)?;
    Some(found.port)
}

fn assess(
    spec: &ServiceSpec,
    entry: &SliceBackend,
    address: SocketAddr,
    check_failed: bool,
    awaits_gate: bool,
) -> Backend {
    let mut reasons = Vec::new();
    let mut state = BackendState::Active;
    let mut because = |worse: BackendState, reason: StateReason| {
        state = state.max(worse);
        reasons.push(reason);
    };
    if entry.terminating {
        if entry.serving || spec.publish_not_ready {
            because(BackendState::Draining, StateReason::Terminating);
        } else {
            because(BackendState::Down, StateReason::Terminated);
        }
    } else if !entry.ready && !spec.publish_not_ready {
        match awaits_gate {
            true => because(BackendState::Active, StateReason::AwaitsGate),
            false => because(BackendState::Down, StateReason::NotReady),
        }
    }
    if check_failed {
        because(BackendState::Down, StateReason::CheckFailed);
    }
    if entry.weight == 0 {
        because(BackendState::Draining, StateReason::WeightZero);
    }
    Backend {
        address,
        name: entry.name.clone(),
        node: entry.node.clone(),
        zone: entry.zone.clone(),
        weight: entry.weight,
        backup: entry.backup,
        state,
        reasons,
    }
}

/// While a backend of a lower rank is active, the others take no new flow. They keep those that
/// they got while none was.
fn hold_back_backups(candidates: &mut [Candidate]) {
    let is_active = |candidate: &Candidate| candidate.backend.state == BackendState::Active;
    let active = candidates.iter().filter(|candidate| is_active(candidate));
    let Some(first) = active.map(|candidate| candidate.rank).min() else { return };
    for candidate in candidates.iter_mut().filter(|candidate| is_active(candidate)) {
        if candidate.rank > first {
            hold_back(&mut candidate.backend, StateReason::Backup);
        }
    }
}

fn hold_back(backend: &mut Backend, reason: StateReason) {
    backend.state = BackendState::Draining;
    backend.reasons.push(reason);
}

/// When no backend is active, backups included, those that terminate but still serve are used (KEP-1669).
fn keep_last_resort(backends: &mut [Backend]) {
    if backends.iter().any(|backend| backend.state == BackendState::Active) {
        return;
    }
    for backend in backends {
        if backend.reasons == [StateReason::Terminating] {
            backend.state = BackendState::Active;
            backend.reasons.push(StateReason::LastResort);
        }
    }
}

#[cfg(test)]
mod tests;
