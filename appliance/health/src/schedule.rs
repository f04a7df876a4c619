//! Probes and when they are due. Pure: time and jitter are arguments.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use haflinger_core::health::{Health, Machine, ProbeResult};
use haflinger_core::{HealthCheck, ProbeKey};

/// A probe from the snapshot that brings it to the one that takes it away. A key that comes
/// back gets another number, so that nothing late is taken for news about it.
pub(crate) type ProbeId = u64;

/// One backend under one check.
pub(crate) struct Probe {
    pub(crate) key: ProbeKey,
    pub(crate) check: Arc<HealthCheck>,
    pub(crate) machine: Machine,
    /// What the last probe found, in words; `None` before the first, and after a success.
    pub(crate) failure: Option<String>,
    /// What this host lacked for the last probe, in words; `None` once one could be made.
    pub(crate) hindrance: Option<String>,
    /// When the last probe ended.
    pub(crate) last_ended: Option<Duration>,
    in_flight: bool,
}

/// What one probe found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// The backend answered as it should.
    Success,
    /// It did not, for this reason.
    Failure(String),
    /// This host could not ask, for this reason: nothing is said about the backend.
    Inconclusive(String),
}

/// All probes, in the order in which they are due.
#[derive(Default)]
pub(crate) struct Schedule {
    probes: HashMap<ProbeId, Probe>,
    ids: HashMap<ProbeKey, ProbeId>,
    due: BTreeSet<(Duration, ProbeId)>,
    last_id: ProbeId,
}

impl Schedule {
    /// Adds a probe, or changes the check of one that is there.
    pub(crate) fn insert(
        &mut self,
        key: &ProbeKey,
        check: &Arc<HealthCheck>,
        now: Duration,
        jitter: u64,
    ) {
        if let Some(probe) = self.ids.get(key).and_then(|id| self.probes.get_mut(id)) {
            let id = self.ids[key];
            self.due.remove(&(probe.machine.next_probe_at(), id));
            probe.check = Arc::clone(check);
            probe.machine.reconfigure(check, now);
            if !probe.in_flight {
                self.due.insert((probe.machine.next_probe_at(), id));
            }
            return;
        }
        self.last_id += 1;
        let id = self.last_id;
        let machine = Machine::new(check, now, jitter);
        self.due.insert((machine.next_probe_at(), id));
        self.ids.insert(key.clone(), id);
        let probe = Probe {
            key: key.clone(),
            check: Arc::clone(check),
            machine,
            failure: None,
            hindrance: None,
            last_ended: None,
            in_flight: false,
        };
        self.probes.insert(id, probe);
    }

    /// Removes a probe. Answers with its number and last health.
    pub(crate) fn remove(&mut self, key: &ProbeKey) -> Option<(ProbeId, Health)> {
        let id = self.ids.remove(key)?;
        let probe = self.probes.remove(&id)?;
        self.due.remove(&(probe.machine.next_probe_at(), id));
        Some((id, probe.machine.health()))
    }

    /// When the next probe that is not in flight is due.
    pub(crate) fn next_due(&self) -> Option<Duration> {
        self.due.first().map(|(at, _)| *at)
    }

    /// Begins the probe that has been due for longest, if one is. Answers with its number and
    /// how late it is.
    pub(crate) fn begin(&mut self, now: Duration) -> Option<(ProbeId, &Probe, Duration)> {
        let (at, id) = *self.due.first()?;
        if at > now {
            return None;
        }
        self.due.pop_first();
        let probe = self.probes.get_mut(&id)?;
        probe.in_flight = true;
        probe.machine.begin(now);
        Some((id, probe, now - at))
    }

    /// A probe ended. Where it said something about the backend, answers with the probe and its
    /// new health, if that changed.
    pub(crate) fn end(
        &mut self,
        id: ProbeId,
        asked: &Arc<HealthCheck>,
        found: Found,
        now: Duration,
    ) -> Option<(&Probe, Option<Health>)> {
        let probe = self.probes.get_mut(&id)?;
        probe.in_flight = false;
        self.due.insert((probe.machine.next_probe_at(), id));
        // An answer to a question that is asked no more says nothing.
        let same = probe.check.kind == asked.kind
            && probe.check.port == asked.port
            && probe.check.ways == asked.ways;
        if !same {
            return None;
        }
        let (result, failure) = match found {
            Found::Success => (ProbeResult::Success, None),
            Found::Failure(reason) => (ProbeResult::Failure, Some(reason)),
            Found::Inconclusive(reason) => {
                probe.hindrance = Some(reason);
                return None;
            }
        };
        probe.last_ended = Some(now);
        probe.hindrance = None;
        probe.failure = failure;
        let changed = probe.machine.handle(result, now);
        Some((probe, changed))
    }

    /// What the results of a probe say so far.
    pub(crate) fn health_of(&self, id: ProbeId) -> Health {
        self.probes.get(&id).map_or(Health::Unknown, |probe| probe.machine.health())
    }

    /// Every probe.
    pub(crate) fn probes(&self) -> impl Iterator<Item = &Probe> {
        self.probes.values()
    }
}

#[cfg(test)]
mod tests {
    use haflinger_core::{HealthCheckKind, ObjectRef, ProxyProtocol, SourceId};

    use super::*;

    fn key(id: u16) -> ProbeKey {
        let object = ObjectRef::service(&SourceId::inventory(), "default", "web");
        ProbeKey { object, backend: ([10, 0, 0, 1], id).into() }
    }

    fn check(interval_ms: u32, port: Option<u16>) -> Arc<HealthCheck> {
        let kind = HealthCheckKind::Tcp;
        Arc::new(HealthCheck {
            kind,
            port,
            proxy_protocol: ProxyProtocol::Off,
            interval_ms,
            timeout_ms: 1,
            rise: 1,
            fall: 1,
            ways: vec![],
        })
    }

    fn at(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn the_probe_due_first_begins_first_and_none_begins_twice() {
        let mut schedule = Schedule::default();
        let check = check(1000, None);
        schedule.insert(&key(1), &check, at(0), u64::MAX / 2);
        schedule.insert(&key(2), &check, at(0), 0);
        assert_eq!(schedule.next_due(), Some(at(0)));
        let (second, _, late) = schedule.begin(at(700)).unwrap();
        assert_eq!(late, at(700));
        let (first, probe, _) = schedule.begin(at(700)).unwrap();
        assert_eq!(probe.key, key(1));
        assert!(first != second && schedule.begin(at(9000)).is_none());
        schedule.end(second, &check, Found::Success, at(710));
        assert_eq!(schedule.next_due(), Some(at(1000)));
    }

    #[test]
    fn late_results_of_removed_or_changed_probes_say_nothing() {
        let mut schedule = Schedule::default();
        let (before, after) = (check(1000, None), check(1000, Some(81)));
        schedule.insert(&key(1), &before, at(0), 0);
        let (id, ..) = schedule.begin(at(0)).unwrap();
        schedule.insert(&key(1), &after, at(1), 0);
        assert!(schedule.end(id, &before, Found::Failure("late".into()), at(2)).is_none());
        let (id, ..) = schedule.begin(at(5000)).unwrap();
        assert_eq!(schedule.remove(&key(1)), Some((id, Health::Unknown)));
        schedule.insert(&key(1), &after, at(5001), 0);
        assert!(schedule.end(id, &after, Found::Failure("late".into()), at(5002)).is_none());
        assert_eq!(schedule.probes().next().unwrap().machine.health(), Health::Unknown);
    }

    #[test]
    fn a_probe_that_says_nothing_is_repeated_and_changes_nothing() {
        let mut schedule = Schedule::default();
        let check = check(1000, None);
        schedule.insert(&key(1), &check, at(0), 0);
        let (id, ..) = schedule.begin(at(0)).unwrap();
        let lacks = Found::Inconclusive("no descriptor".into());
        assert!(schedule.end(id, &check, lacks, at(1)).is_none());
        let hindrance = |schedule: &Schedule| schedule.probes().next().unwrap().hindrance.clone();
        assert_eq!(hindrance(&schedule).as_deref(), Some("no descriptor"));
        let (id, ..) = schedule.begin(at(1000)).unwrap();
        let down = Found::Failure("down".into());
        let (_, changed) = schedule.end(id, &check, down, at(1001)).unwrap();
        assert_eq!(changed, Some(Health::Unhealthy));
        assert_eq!(hindrance(&schedule), None);
        assert!(schedule.begin(at(1999)).is_none());
    }

    #[test]
    fn a_changed_interval_moves_the_next_probe() {
        let mut schedule = Schedule::default();
        schedule.insert(&key(1), &check(60_000, None), at(0), u64::MAX);
        schedule.insert(&key(1), &check(1000, None), at(10), 0);
        assert_eq!(schedule.next_due(), Some(at(1010)));
        schedule.remove(&key(1));
        assert_eq!(schedule.next_due(), None);
    }
}
