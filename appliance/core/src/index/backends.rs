//! From slices to the backends of one target.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use crate::{
    Backend, BackendSlice, BackendState, Family, Protocol, ServicePort, ServiceSpec, SliceBackend,
    StateReason,
};

/// What the slices of one service object say about one port in one family.
pub(super) struct Gathered {
    /// Sorted by address.
    pub(super) backends: Vec<Backend>,
    /// Slices hold backends of the family, but none has the port.
    pub(super) port_unmatched: bool,
}

/// Gathers the backends of a port. `failed` says whether our own check has taken a backend out.
pub(super) fn gather<'a>(
    spec: &ServiceSpec,
    port: &ServicePort,
    family: Family,
    slices: impl Iterator<Item = &'a BackendSlice>,
    failed: impl Fn(&SocketAddr) -> bool,
) -> Gathered {
    let mut merged: BTreeMap<SocketAddr, Backend> = BTreeMap::new();
    let (mut populated, mut matched) = (false, false);
    for slice in slices.filter(|slice| slice.family == family) {
        populated |= !slice.backends.is_empty();
        let Some(backend_port) = matching_port(slice, &port.name, port.protocol) else { continue };
        matched = true;
        for entry in &slice.backends {
            let address = SocketAddr::new(entry.address, backend_port);
            let backend = assess(spec, entry, address, failed(&address));
            // A pod may stand in two slices while the controller moves it: the better state
            // counts (EndpointSlice API, "Duplicate endpoints").
            match merged.get(&address) {
                Some(known) if known.state <= backend.state => {}
                _ => {
                    merged.insert(address, backend);
                }
            }
        }
    }
    let mut backends: Vec<Backend> = merged.into_values().collect();
    hold_back_backups(&mut backends);
    keep_last_resort(&mut backends);
    Gathered { backends, port_unmatched: populated && !matched }
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
) -> Backend {
    let mut reasons = Vec::new();
    let mut state = BackendState::Active;
    let mut because = |worse: BackendState, reason: StateReason| {
        state = state.max(worse);
        reasons.push(reason);
    };
    if entry.terminating {
        if entry.serving {
            because(BackendState::Draining, StateReason::Terminating);
        } else {
            because(BackendState::Down, StateReason::Terminated);
        }
    } else if !entry.ready && !spec.publish_not_ready {
        because(BackendState::Down, StateReason::NotReady);
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

/// While a primary is active, backups take no new flow. They keep those that they got while
/// none was.
fn hold_back_backups(backends: &mut [Backend]) {
    if !backends.iter().any(|backend| backend.state == BackendState::Active && !backend.backup) {
        return;
    }
    for backend in backends.iter_mut().filter(|backend| backend.backup) {
        if backend.state == BackendState::Active {
            backend.state = BackendState::Draining;
            backend.reasons.push(StateReason::Backup);
        }
    }
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
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::DEFAULT_WEIGHT;

    fn spec() -> ServiceSpec {
        ServiceSpec {
            ports: vec![],
            exposure: None,
            created_secs: 0,
            families: vec![Family::V4],
            algorithm: crate::Algorithm::Hash,
            limits: crate::ConnectionLimits::default(),
            timeouts: crate::TimeoutRequest::default(),
            publish_not_ready: false,
            proxy_protocol: crate::ProxyProtocol::Off,
            health_check: None,
            faults: vec![],
        }
    }

    fn port() -> ServicePort {
        ServicePort { name: "web".into(), port: 80, protocol: Protocol::Tcp }
    }

    fn entry(last: u8, ready: bool, serving: bool, terminating: bool) -> SliceBackend {
        SliceBackend {
            address: [10, 0, 0, last].into(),
            name: format!("pod-{last}").into(),
            node: None,
            zone: None,
            weight: DEFAULT_WEIGHT,
            ready,
            serving,
            terminating,
            backup: false,
        }
    }

    fn slice(port_name: &str, backends: Vec<SliceBackend>) -> BackendSlice {
        let port = crate::SlicePort { name: port_name.into(), protocol: Protocol::Tcp, port: 8080 };
        BackendSlice { family: Family::V4, ports: vec![port], backends, faults: vec![] }
    }

    fn states(slices: &[BackendSlice]) -> Vec<(BackendState, Vec<StateReason>)> {
        let gathered = gather(&spec(), &port(), Family::V4, slices.iter(), |_| false);
        gathered.backends.into_iter().map(|b| (b.state, b.reasons)).collect()
    }

    #[test]
    fn conditions_decide_the_state() {
        let backends = vec![
            entry(1, true, true, false),
            entry(2, false, false, false),
            entry(3, false, true, true),
            entry(4, false, false, true),
        ];
        assert_eq!(
            states(&[slice("web", backends)]),
            [
                (BackendState::Active, vec![]),
                (BackendState::Down, vec![StateReason::NotReady]),
                (BackendState::Draining, vec![StateReason::Terminating]),
                (BackendState::Down, vec![StateReason::Terminated]),
            ]
        );
    }

    #[test]
    fn terminating_pods_serve_when_no_other_is_left() {
        let backends = vec![entry(1, false, true, true), entry(2, false, false, false)];
        assert_eq!(
            states(&[slice("web", backends)])[0],
            (BackendState::Active, vec![StateReason::Terminating, StateReason::LastResort])
        );
    }

    fn backup(last: u8, ready: bool) -> SliceBackend {
        SliceBackend { backup: true, ..entry(last, ready, ready, false) }
    }

    #[test]
    fn backups_stand_by_serve_and_go_before_what_terminates() {
        let terminating = entry(1, false, true, true);
        let standing_by = (BackendState::Draining, vec![StateReason::Backup]);
        assert_eq!(
            states(&[slice("web", vec![entry(1, true, true, false), backup(2, true)])])[1],
            standing_by
        );
        assert_eq!(
            states(&[slice("web", vec![terminating.clone(), backup(2, true)])]),
            [
                (BackendState::Draining, vec![StateReason::Terminating]),
                (BackendState::Active, vec![])
            ]
        );
        assert_eq!(
            states(&[slice("web", vec![terminating, backup(2, false)])]),
            [
                (BackendState::Active, vec![StateReason::Terminating, StateReason::LastResort]),
                (BackendState::Down, vec![StateReason::NotReady])
            ]
        );
    }

    #[test]
    fn a_backup_that_is_down_says_only_that() {
        let states = states(&[slice("web", vec![entry(1, true, true, false), backup(2, false)])]);
        assert_eq!(states[1], (BackendState::Down, vec![StateReason::NotReady]));
    }

    fn any_entry() -> impl Strategy<Value = SliceBackend> {
        (any::<[bool; 4]>(), prop::sample::select(vec![0, 1, DEFAULT_WEIGHT])).prop_map(
            |([ready, serving, terminating, backup], weight)| SliceBackend {
                backup,
                weight,
                ..entry(0, ready, serving, terminating)
            },
        )
    }

    proptest! {
        /// The order in which backends are used, said once more and simply.
        #[test]
        fn only_the_best_tier_that_has_anybody_is_active(
            entries in prop::collection::vec((any_entry(), any::<bool>()), 0..6),
        ) {
            let entries: Vec<(SliceBackend, bool)> = (1..)
                .zip(entries)
                .map(|(last, (entry, failed))| {
                    (SliceBackend { address: [10, 0, 0, last].into(), ..entry }, failed)
                })
                .collect();
            let sound = |(entry, failed): &&(SliceBackend, bool)| !failed && entry.weight > 0;
            let ready = |(entry, _): &&(SliceBackend, bool)| entry.ready && !entry.terminating;
            let usable: Vec<_> = entries.iter().filter(sound).filter(ready).collect();
            let of = |backup: bool| usable.iter().filter(move |(entry, _)| entry.backup == backup);
            let leaving = |(entry, _): &&(SliceBackend, bool)| entry.terminating && entry.serving;
            let expected: Vec<SocketAddr> = if of(false).count() > 0 {
                of(false).map(|(entry, _)| (entry.address, 8080).into()).collect()
            } else if of(true).count() > 0 {
                of(true).map(|(entry, _)| (entry.address, 8080).into()).collect()
            } else {
                let leaving = entries.iter().filter(sound).filter(leaving);
                leaving.map(|(entry, _)| (entry.address, 8080).into()).collect()
            };
            let slices = [slice("web", entries.iter().map(|(entry, _)| entry.clone()).collect())];
            let failed = |address: &SocketAddr| {
                entries.iter().any(|(entry, failed)| *failed && entry.address == address.ip())
            };
            let gathered = gather(&spec(), &port(), Family::V4, slices.iter(), failed);
            let active: Vec<SocketAddr> = gathered
                .backends
                .iter()
                .filter(|backend| backend.state == BackendState::Active)
                .map(|backend| backend.address)
                .collect();
            prop_assert_eq!(active, expected);
            // Whoever is not active says why.
            let explained = gathered.backends.iter().all(|backend| {
                backend.state == BackendState::Active || !backend.reasons.is_empty()
            });
            prop_assert!(explained);
        }
    }

    #[test]
    fn a_backend_in_two_slices_counts_once_with_its_better_state() {
        let slices = [
            slice("web", vec![entry(1, false, false, false)]),
            slice("web", vec![entry(1, true, true, false)]),
        ];
        assert_eq!(states(&slices), [(BackendState::Active, vec![])]);
    }

    #[test]
    fn a_failed_check_takes_a_ready_pod_out() {
        let slices = [slice("web", vec![entry(1, true, true, false)])];
        let gathered = gather(&spec(), &port(), Family::V4, slices.iter(), |_| true);
        assert_eq!(gathered.backends[0].state, BackendState::Down);
        assert_eq!(gathered.backends[0].reasons, [StateReason::CheckFailed]);
    }

    #[test]
    fn a_port_that_no_slice_has_is_unmatched() {
        let slices = [slice("other", vec![entry(1, true, true, false)])];
        let gathered = gather(&spec(), &port(), Family::V4, slices.iter(), |_| false);
        assert!(gathered.port_unmatched && gathered.backends.is_empty());
        let empty = [slice("other", vec![])];
        assert!(!gather(&spec(), &port(), Family::V4, empty.iter(), |_| false).port_unmatched);
    }
}
