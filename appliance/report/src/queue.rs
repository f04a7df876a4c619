//! Which objects wait for the API, and until when. Pure.
//!
//! Only keys are queued; what to write is read from the newest snapshot when an object's turn
//! comes. So the latest state wins, and the queue never exceeds the number of objects.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::time::{Duration, Instant};

use haflinger_core::ObjectRef;
use haflinger_kubernetes::Pace;

/// Waits between attempts at one object.
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(120);

/// See the module's documentation.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    due: BTreeSet<(Instant, ObjectRef)>,
    times: HashMap<ObjectRef, Instant>,
    failing: HashMap<ObjectRef, Pace>,
    under_way: HashSet<ObjectRef>,
    /// Changed while under way.
    again: HashSet<ObjectRef>,
}

impl Queue {
    /// Something about the object changed.
    pub(crate) fn add(&mut self, object: &ObjectRef, at: Instant) {
        if self.under_way.contains(object) {
            self.again.insert(object.clone());
            return;
        }
        match self.times.get(object) {
            Some(earlier) if *earlier <= at => return,
            Some(later) => {
                self.due.remove(&(*later, object.clone()));
            }
            None => {}
        }
        self.times.insert(object.clone(), at);
        self.due.insert((at, object.clone()));
    }

    /// The object whose turn it is.
    pub(crate) fn take(&mut self, now: Instant) -> Option<ObjectRef> {
        if self.next_at()? > now {
            return None;
        }
        let (_, object) = self.due.pop_first()?;
        self.times.remove(&object);
        self.under_way.insert(object.clone());
        Some(object)
    }

    /// When somebody's turn comes.
    pub(crate) fn next_at(&self) -> Option<Instant> {
        self.due.first().map(|(at, _)| *at)
    }

    /// The object is as it should be.
    pub(crate) fn succeeded(&mut self, object: &ObjectRef, now: Instant) {
        self.failing.remove(object);
        self.ended(object, now);
    }

    /// The object has to be tried again; returns after how long.
    pub(crate) fn failed(&mut self, object: &ObjectRef, now: Instant, chance: f64) -> Duration {
        let pace =
            self.failing.entry(object.clone()).or_insert_with(|| Pace::new(RETRY_FIRST, RETRY_MAX));
        let wait = pace.after_failure(chance);
        self.again.remove(object);
        self.under_way.remove(object);
        self.add(object, now + wait);
        wait
    }

    /// The object waits for leave to go on, through no fault of its own.
    pub(crate) fn postponed(&mut self, object: &ObjectRef, until: Instant) {
        self.again.remove(object);
        self.under_way.remove(object);
        self.add(object, until);
    }

    fn ended(&mut self, object: &ObjectRef, now: Instant) {
        self.under_way.remove(object);
        if self.again.remove(object) {
            self.add(object, now);
        }
    }

    /// Objects that wait or are under way.
    pub(crate) fn len(&self) -> usize {
        self.due.len() + self.under_way.len()
    }

    /// Forgets everything: this host no longer leads.
    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use haflinger_core::SourceId;

    use super::*;

    fn object(name: &str) -> ObjectRef {
        ObjectRef::service(&SourceId::cluster("c"), "ns", name)
    }

    #[test]
    fn an_object_that_changes_often_is_queued_once_at_the_earliest_time() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        let a = object("a");
        queue.add(&a, now + Duration::from_secs(9));
        queue.add(&a, now);
        queue.add(&a, now + Duration::from_secs(5));
        assert_eq!(queue.len(), 1);
        assert_eq!(queue.take(now), Some(a.clone()));
        assert_eq!(queue.take(now), None);
        assert_eq!(queue.len(), 1, "under way");
    }

    #[test]
    fn a_change_while_under_way_leads_to_one_more_turn() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        let a = object("a");
        queue.add(&a, now);
        queue.take(now);
        queue.add(&a, now);
        queue.add(&a, now);
        assert_eq!(queue.take(now), None, "never twice at a time");
        queue.succeeded(&a, now);
        assert_eq!(queue.take(now), Some(a.clone()));
        queue.succeeded(&a, now);
        assert_eq!((queue.take(now), queue.len()), (None, 0));
    }

    #[test]
    fn failures_wait_longer_each_time_and_do_not_hold_up_others() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        let (a, b) = (object("a"), object("b"));
        queue.add(&a, now);
        queue.take(now);
        assert_eq!(queue.failed(&a, now, 1.0), Duration::from_secs(1));
        queue.add(&b, now);
        assert_eq!(queue.take(now), Some(b));
        let later = now + Duration::from_secs(1);
        assert_eq!(queue.take(later), Some(a.clone()));
        assert_eq!(queue.failed(&a, later, 1.0), Duration::from_secs(2));
        for _ in 0..20 {
            assert!(queue.failed(&a, later, 1.0) <= RETRY_MAX);
        }
    }
}
