//! What tasks share about one service: the current picture of it, counters, and the tokens that
//! end its listener and its flows.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use arc_swap::ArcSwap;
use haflinger_core::{Backend, BackendState, Protocol, Service, ServiceKey, StateReason};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::candidates::{position_of, takes_flows};
use crate::intake::Intake;
use crate::limit::Count;
use crate::pipes::lock;

/// A service as one snapshot has it, with the counters of each of its backends.
pub(crate) struct Picture {
    pub(crate) service: Arc<Service>,
    /// Parallel to `service.backends.backends`.
    slots: Vec<Arc<BackendSlot>>,
}

impl Picture {
    /// The slot of the backend at a position of the set.
    pub(crate) fn slot(&self, at: usize) -> &Arc<BackendSlot> {
        &self.slots[at]
    }

    /// Flows that the service may have at once.
    pub(crate) fn service_limit(&self) -> u32 {
        self.service.limits.service.map_or(u32::MAX, NonZeroU32::get)
    }

    /// Flows that each of its backends may have at once.
    pub(crate) fn backend_limit(&self) -> u32 {
        self.service.limits.backend.map_or(u32::MAX, NonZeroU32::get)
    }

    /// Backends with their slots.
    pub(crate) fn backends(&self) -> impl Iterator<Item = (&Backend, &Arc<BackendSlot>)> {
        self.service.backends.backends.iter().zip(&self.slots)
    }
}

/// Counters of a service or of one of its backends.
#[derive(Default)]
pub(crate) struct Counters {
    /// Flows now.
    pub(crate) active: AtomicU64,
    /// Flows since the start.
    pub(crate) total: AtomicU64,
    /// Connection attempts (UDP: flows) that the backend did not take.
    pub(crate) failed: AtomicU64,
    /// Clients that were turned away.
    pub(crate) rejected: AtomicU64,
    /// Bytes from clients.
    pub(crate) bytes_in: AtomicU64,
    /// Bytes to clients.
    pub(crate) bytes_out: AtomicU64,
}

/// One backend of one service, for as long as the service or a flow knows it.
pub(crate) struct BackendSlot {
    pub(crate) address: SocketAddr,
    pub(crate) counters: Counters,
    /// Cancelled when the flows to this backend must end; made by the first flow, and anew for
    /// the flows after such an end.
    ending: Mutex<Option<CancellationToken>>,
}

impl BackendSlot {
    fn new(address: SocketAddr) -> Self {
        Self { address, counters: Counters::default(), ending: Mutex::new(None) }
    }

    /// Cancelled when a flow that begins now must end: by its backend or by its service.
    pub(crate) fn flow_token(&self, service: &ServiceState) -> CancellationToken {
        lock(&self.ending).get_or_insert_with(|| service.closing.child_token()).clone()
    }

    /// Ends every flow that has begun.
    pub(crate) fn end_flows(&self) {
        if let Some(token) = lock(&self.ending).take() {
            token.cancel();
        }
    }
}

/// Whether a service has its socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Listening {
    /// Not yet, and no attempt has failed.
    Starting,
    /// It has.
    Yes,
    /// The last attempt failed; another follows.
    Failed(String),
    /// It wants none: another data path serves it.
    No,
}

/// One service, from the snapshot that brings it to the one that takes it away.
pub(crate) struct ServiceState {
    pub(crate) key: ServiceKey,
    /// Swapped with every change of the service.
    pub(crate) picture: ArcSwap<Picture>,
    pub(crate) counters: Counters,
    /// TCP connections, from their acceptance on, or UDP flows: what limits are about.
    pub(crate) held: Arc<Count>,
    /// Flows that the round-robin has placed.
    pub(crate) turns: AtomicU64,
    pub(crate) listening: Mutex<Listening>,
    /// What its listener is to do.
    pub(crate) intake: watch::Sender<Intake>,
    /// Cancelled when every flow must end.
    pub(crate) closing: CancellationToken,
    /// Whether it has metric series of its own.
    pub(crate) has_series: bool,
}

impl ServiceState {
    /// Whether a backend in use, chosen by `picture`, still takes flows. Asked after it came in
    /// use: a backend that goes later finds the flow, and ends it with its grace period.
    pub(crate) fn still_offers(&self, picture: &Picture, chosen: &Arc<BackendSlot>) -> bool {
        let now = self.picture.load();
        if std::ptr::eq(&raw const **now, picture) {
            return true;
        }
        let at = position_of(&now.service.backends, chosen.address);
        at.is_some_and(|at| {
            takes_flows(&now.service.backends.backends[at]) && Arc::ptr_eq(now.slot(at), chosen)
        })
    }
}

/// A service as the relay's own task keeps it: the shared state, and the slots of backends that
/// are in the picture or still have a grace period running.
pub(crate) struct ServiceRecord {
    pub(crate) state: Arc<ServiceState>,
    /// Since it left the relay to another data path: which leave this is.
    pub(crate) left: Option<u64>,
    slots: HashMap<SocketAddr, SlotRecord>,
}

struct SlotRecord {
    slot: Arc<BackendSlot>,
    state: BackendState,
    /// Its flows may go on without end.
    keeps_flows: bool,
    present: bool,
    /// Rises whenever the backend starts or ceases to keep flows, so that a grace period that
    /// was overtaken by events is recognised.
    turn: u64,
}

/// A backend whose flows may go on until its grace period ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Leaving {
    pub(crate) backend: SocketAddr,
    pub(crate) turn: u64,
}

impl ServiceRecord {
    pub(crate) fn new(service: Arc<Service>, abort: &CancellationToken, has_series: bool) -> Self {
        let mut slots = HashMap::new();
        let picture = picture_of(&service, &mut slots);
        let state = Arc::new(ServiceState {
            key: service.key,
            picture: ArcSwap::from_pointee(picture),
            counters: Counters::default(),
            held: Arc::new(Count::default()),
            turns: AtomicU64::new(0),
            listening: Mutex::new(Listening::Starting),
            intake: watch::Sender::new(Intake::Open),
            closing: abort.child_token(),
            has_series,
        });
        Self { state, left: None, slots }
    }

    /// Shows the tasks the service as it is now. UDP flows of a backend that takes none any
    /// more end here. Answers with the backends whose grace period begins.
    pub(crate) fn update(&mut self, service: Arc<Service>) -> Vec<Leaving> {
        let before: HashSet<SocketAddr> = self
            .slots
            .iter()
            .filter(|(_, record)| record.present && record.keeps_flows)
            .map(|(address, _)| *address)
            .collect();
        for record in self.slots.values_mut() {
            record.present = false;
        }
        let picture = picture_of(&service, &mut self.slots);
        self.state.picture.store(Arc::new(picture));

        let mut leaving = Vec::new();
        for (address, record) in &mut self.slots {
            if !record.present {
                record.state = BackendState::Down;
                record.keeps_flows = false;
            }
            let kept_flows = before.contains(address);
            if kept_flows != record.keeps_flows {
                record.turn += 1;
            }
            if kept_flows && !record.keeps_flows {
                leaving.push(Leaving { backend: *address, turn: record.turn });
            }
            if service.key.protocol == Protocol::Udp && record.state == BackendState::Down {
                record.slot.end_flows();
            }
        }
        self.forget_absent();
        leaving
    }

    /// A grace period ended: what still flows to the backend ends, unless it came back.
    /// Answers whether flows were told to end.
    pub(crate) fn grace_ended(&mut self, leaving: Leaving) -> bool {
        let Some(record) = self.slots.get(&leaving.backend) else {
            return false;
        };
        let due = record.turn == leaving.turn && !record.keeps_flows;
        if due {
            record.slot.end_flows();
        }
        self.forget_absent();
        due
    }

    /// Drops the slots of removed backends once nobody uses them.
    fn forget_absent(&mut self) {
        self.slots.retain(|_, record| {
            record.present || record.slot.counters.active.load(Ordering::Relaxed) > 0
        });
    }
}

/// Whether a backend's flows may go on without end: those of a backup do, that stands by again.
fn keeps_flows(backend: &Backend) -> bool {
    backend.state == BackendState::Active || backend.reasons.contains(&StateReason::Backup)
}

/// The picture of a service, with known slots where there are any.
fn picture_of(service: &Arc<Service>, slots: &mut HashMap<SocketAddr, SlotRecord>) -> Picture {
    let slot_of = |backend: &Backend| {
        let record = slots.entry(backend.address).or_insert_with(|| SlotRecord {
            slot: Arc::new(BackendSlot::new(backend.address)),
            state: backend.state,
            keeps_flows: false,
            present: true,
            turn: 0,
        });
        record.state = backend.state;
        record.keeps_flows = keeps_flows(backend);
        record.present = true;
        Arc::clone(&record.slot)
    };
    let slots = service.backends.backends.iter().map(slot_of).collect();
    Picture { service: Arc::clone(service), slots }
}

#[cfg(test)]
mod tests {
    use haflinger_core::BackendSet;

    use super::*;
    use crate::testing::{member, tcp_service};

    fn record(members: &[(SocketAddr, BackendState)]) -> ServiceRecord {
        ServiceRecord::new(tcp_service(80, members), &CancellationToken::new(), true)
    }

    fn token(record: &ServiceRecord, address: SocketAddr) -> CancellationToken {
        let picture = record.state.picture.load();
        let slot = picture.slot(position_of(&picture.service.backends, address).unwrap());
        slot.counters.active.fetch_add(1, Ordering::Relaxed);
        slot.flow_token(&record.state)
    }

    #[test]
    fn flows_of_a_removed_backend_end_with_its_grace_period() {
        let (one, two) = (member(1), member(2));
        let mut record = record(&[one, two]);
        let (stays, goes) = (token(&record, one.0), token(&record, two.0));
        let leaving = record.update(tcp_service(80, &[one]));
        assert_eq!(leaving.len(), 1);
        assert!(!goes.is_cancelled());
        assert!(record.grace_ended(leaving[0]));
        assert!(goes.is_cancelled() && !stays.is_cancelled());
    }

    #[test]
    fn a_backend_that_comes_back_in_time_keeps_its_flows() {
        let one = member(1);
        let mut record = record(&[one]);
        let flow = token(&record, one.0);
        let draining = record.update(tcp_service(80, &[(one.0, BackendState::Draining)]));
        assert_eq!(draining.len(), 1);
        assert!(record.update(tcp_service(80, &[one])).is_empty());
        assert!(!record.grace_ended(draining[0]));
        assert!(!flow.is_cancelled());
        // Leaving again starts a grace period of its own.
        let again = record.update(tcp_service(80, &[]));
        assert!(!record.grace_ended(draining[0]));
        assert!(record.grace_ended(again[0]));
        assert!(flow.is_cancelled());
    }

    #[test]
    fn a_backend_that_went_after_it_was_chosen_is_not_offered_any_more() {
        let (one, two) = (member(1), member(2));
        let mut record = record(&[one, two]);
        let before = record.state.picture.load_full();
        let (stays, goes) = (before.slot(0), before.slot(1));
        assert!(record.state.still_offers(&before, goes));
        record.update(tcp_service(80, &[one, (two.0, BackendState::Draining)]));
        assert!(record.state.still_offers(&before, stays));
        assert!(!record.state.still_offers(&before, goes));
        // Gone without a flow and back again, it is another one with counters of its own.
        record.update(tcp_service(80, &[one]));
        record.update(tcp_service(80, &[one, two]));
        assert!(!record.state.still_offers(&before, goes));
        let now = record.state.picture.load_full();
        assert!(record.state.still_offers(&before, now.slot(1)));
    }

    #[test]
    fn flows_of_a_backup_that_stands_by_again_go_on_until_it_leaves() {
        let one = member(1);
        let mut record = record(&[one]);
        let flow = token(&record, one.0);
        let mut standby = Service::clone(&tcp_service(80, &[(one.0, BackendState::Draining)]));
        let mut set = BackendSet::clone(&standby.backends);
        set.backends[0].backup = true;
        set.backends[0].reasons.push(StateReason::Backup);
        standby.backends = Arc::new(set);
        assert!(record.update(Arc::new(standby)).is_empty());
        let leaving = record.update(tcp_service(80, &[]));
        assert_eq!(leaving.len(), 1);
        assert!(!flow.is_cancelled());
        assert!(record.grace_ended(leaving[0]));
        assert!(flow.is_cancelled());
    }

    #[test]
    fn a_draining_backend_that_is_then_removed_has_one_grace_period() {
        let one = member(1);
        let mut record = record(&[one]);
        let flow = token(&record, one.0);
        let leaving = record.update(tcp_service(80, &[(one.0, BackendState::Draining)]));
        assert!(record.update(tcp_service(80, &[])).is_empty());
        assert!(record.grace_ended(leaving[0]));
        assert!(flow.is_cancelled());
    }
}
