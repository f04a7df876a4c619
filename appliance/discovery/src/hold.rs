//! Deletions that come in a mass wait until they are confirmed.
//!
//! An API server that was restored from a backup, or points at an empty store, answers every list
//! politely and says that everything is gone. So the deletions of a kind that go beyond a
//! configured share of it within [`WINDOW`] are held: the objects stand as they were. Each is
//! followed when a second full list, begun a configured time later, lacks the object still, or
//! when the operator accepts it; it is forgotten when the object is heard of again.
//!
//! Pure: time is an argument, counted from any fixed point of a monotonic clock. What is held is a
//! part of what is known, and never more.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use crate::ledger::{Key, Watched};
use crate::settings::DeletionLimits;

/// Deletions count together within this time: the restart of a controller or the removal of a
/// namespace spreads over some seconds, ordinary work over minutes.
pub(crate) const WINDOW: Duration = Duration::from_secs(60);

/// What is held of every kind.
#[derive(Debug, Default)]
pub(crate) struct Holds {
    /// `None`: nothing is held, as for a file that its operator has written.
    pub(crate) limits: Option<DeletionLimits>,
    kinds: [Hold; Watched::ALL.len()],
}

#[derive(Debug, Default)]
struct Hold {
    /// Deletions that were followed within the window, by second: at most one entry for each.
    followed: VecDeque<(u64, usize)>,
    /// Since when the deletion of an object is held.
    held: HashMap<Key, Duration>,
    /// The earliest of these, or earlier.
    since: Option<Duration>,
    /// When the list that runs, or the last one, began.
    list_began: Duration,
    listing: bool,
    /// A list that may confirm was asked for and has not begun yet.
    asked: bool,
}

impl Hold {
    fn recount(&mut self) {
        self.since = self.held.values().min().copied();
    }

    /// Deletions followed within the window before `now`.
    fn recent(&mut self, now: Duration) -> usize {
        let first = now.saturating_sub(WINDOW).as_secs();
        while self.followed.front().is_some_and(|(second, _)| *second < first) {
            self.followed.pop_front();
        }
        self.followed.iter().map(|(_, count)| count).sum()
    }
}

impl Holds {
    fn of(&mut self, watched: Watched) -> &mut Hold {
        &mut self.kinds[watched.index()]
    }

    /// Deletions of a kind that are held.
    pub(crate) fn count(&self, watched: Watched) -> usize {
        self.kinds[watched.index()].held.len()
    }

    /// Whether so many of `known` objects may go now. If so it counts as done.
    pub(crate) fn admits(
        &mut self,
        watched: Watched,
        deletions: usize,
        known: usize,
        now: Duration,
    ) -> bool {
        let Some(limits) = self.limits else { return true };
        if deletions == 0 || watched.is_dropped_unconfirmed() {
            return true;
        }
        let hold = self.of(watched);
        let recent = hold.recent(now);
        // Whoever has begun to lose everything is not believed in part.
        if !hold.held.is_empty() {
            return false;
        }
        // What there was when the window began, as far as deletions go.
        let share = (known + recent).saturating_mul(limits.percent_max.into()) / 100;
        if recent + deletions > share.max(limits.objects_max as usize) {
            return false;
        }
        match hold.followed.back_mut() {
            Some((second, count)) if *second == now.as_secs() => *count += deletions,
            _ => hold.followed.push_back((now.as_secs(), deletions)),
        }
        true
    }

    /// Holds the deletion of an object, unless it is held.
    pub(crate) fn hold(&mut self, key: Key, now: Duration) {
        let hold = self.of(key.watched);
        hold.since.get_or_insert(now);
        hold.held.entry(key).or_insert(now);
    }

    /// The object is there (again), or is gone for good.
    pub(crate) fn settled(&mut self, key: &Key) {
        let hold = self.of(key.watched);
        // Too early a time only asks for a list that confirms nothing; its end counts anew.
        if hold.held.remove(key).is_some() && hold.held.is_empty() {
            (hold.since, hold.asked) = (None, false);
        }
    }

    /// Takes out everything of a kind: the operator says that it is meant. So is what was followed
    /// before, which counts no longer.
    pub(crate) fn accept(&mut self, watched: Watched) -> Vec<Key> {
        let hold = self.of(watched);
        if !hold.held.is_empty() {
            hold.followed.clear();
        }
        (hold.since, hold.asked) = (None, false);
        hold.held.drain().map(|(key, _)| key).collect()
    }

    pub(crate) fn list_began(&mut self, watched: Watched, now: Duration) {
        let hold = self.of(watched);
        (hold.list_began, hold.listing, hold.asked) = (now, true, false);
    }

    /// Of the objects that a complete list lacks, those whose deletion it confirms; the others are
    /// left in `unlisted`, without those that are held already.
    pub(crate) fn list_ended(&mut self, watched: Watched, unlisted: &mut Vec<Key>) -> Vec<Key> {
        let wait = self.limits.map_or(Duration::ZERO, |limits| limits.confirm_after);
        let hold = self.of(watched);
        hold.listing = false;
        let mut confirmed = Vec::new();
        unlisted.retain(|key| match hold.held.get(key) {
            None => true,
            Some(since) => {
                if *since + wait <= hold.list_began {
                    confirmed.push(key.clone());
                }
                false
            }
        });
        for key in &confirmed {
            hold.held.remove(key);
        }
        hold.recount();
        confirmed
    }

    /// When a kind should be listed to confirm what is held of it.
    fn confirm_at(&self, watched: Watched) -> Option<Duration> {
        let hold = &self.kinds[watched.index()];
        let wait = self.limits.map_or(Duration::ZERO, |limits| limits.confirm_after);
        let since = hold.since.filter(|_| !hold.asked && !hold.listing)?;
        Some(since + wait)
    }

    /// When the next kind should be listed.
    pub(crate) fn next_confirmation(&self) -> Option<Duration> {
        Watched::ALL.iter().filter_map(|watched| self.confirm_at(*watched)).min()
    }

    /// The kinds to be listed now; each is named once.
    pub(crate) fn due(&mut self, now: Duration) -> Vec<Watched> {
        let is_due = |watched: &Watched| self.confirm_at(*watched).is_some_and(|at| at <= now);
        let due: Vec<Watched> = Watched::ALL.into_iter().filter(is_due).collect();
        for watched in &due {
            self.of(*watched).asked = true;
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use haflinger_core::{NodeSpec, SourceId, SourceUpdate};
    use proptest::prelude::*;

    use super::*;
    use crate::ledger::{Change, Ledger, is_gone};

    const NODES: Watched = Watched::Nodes;

    fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    fn limits() -> DeletionLimits {
        DeletionLimits { objects_max: 2, percent_max: 30, confirm_after: secs(100) }
    }

    fn node(number: u8) -> SourceUpdate {
        let spec = NodeSpec { addresses: vec![[10, 0, 0, number].into()], ..NodeSpec::default() };
        SourceUpdate::Node {
            source: SourceId::cluster("c"),
            name: number.to_string().into(),
            spec: Some(Box::new(spec)),
        }
    }

    fn key(number: u8) -> Key {
        Key::new(NODES, "", &number.to_string())
    }

    fn hear(ledger: &mut Ledger, number: u8) -> Vec<Change> {
        ledger.heard(key(number), Some(node(number)))
    }

    /// Lists these; how many objects went.
    fn list(ledger: &mut Ledger, numbers: impl IntoIterator<Item = u8>, at: Duration) -> usize {
        ledger.list_began(NODES, at);
        for number in numbers {
            hear(ledger, number);
        }
        ledger.list_ended(NODES, at).iter().filter(|change| is_gone(&change.update)).count()
    }

    /// A ledger that knows the nodes below `count`.
    fn ledger(count: u8) -> Ledger {
        let mut ledger = Ledger::new(SourceId::cluster("c"));
        ledger.limit(Some(limits()));
        list(&mut ledger, 0..count, Duration::ZERO);
        ledger
    }

    fn held(ledger: &Ledger) -> usize {
        ledger.holds().count(NODES)
    }

    #[test]
    fn after_the_operators_word_deletions_count_anew() {
        let mut ledger = ledger(6);
        for number in 0..4 {
            ledger.gone(key(number), secs(1));
        }
        assert_eq!(held(&ledger), 2, "two are followed");
        assert_eq!(ledger.accept().len(), 2);
        assert!(ledger.gone(key(4), secs(2)).is_some(), "an ordinary one");
    }

    #[test]
    fn an_empty_list_takes_nothing_away_until_a_second_one_says_the_same() {
        let mut ledger = ledger(20);
        assert_eq!(list(&mut ledger, [], secs(1000)), 0);
        assert_eq!((held(&ledger), ledger.count(NODES)), (20, 20));
        // A list that comes too early, as after a lost position, confirms nothing.
        assert_eq!(list(&mut ledger, [], secs(1099)), 0);
        assert_eq!(ledger.due(secs(1099)), []);
        assert_eq!(ledger.due(secs(1100)), [NODES]);
        assert_eq!(ledger.due(secs(1101)), [], "it is asked for once");
        assert_eq!(list(&mut ledger, [], secs(1101)), 20);
        assert_eq!((held(&ledger), ledger.count(NODES)), (0, 0));
        assert_eq!(ledger.holds().next_confirmation(), None);
    }

    #[test]
    fn what_comes_back_was_never_gone() {
        let mut ledger = ledger(20);
        list(&mut ledger, [], secs(1000));
        assert!(hear(&mut ledger, 3).is_empty(), "it is what it was");
        assert_eq!(held(&ledger), 19);
        assert_eq!(list(&mut ledger, 0..20, secs(1010)), 0);
        assert_eq!((held(&ledger), ledger.holds().next_confirmation()), (0, None));
    }

    #[test]
    fn a_second_list_that_lacks_more_confirms_only_what_the_first_lacked() {
        let mut ledger = ledger(20);
        assert_eq!(list(&mut ledger, 0..10, secs(1000)), 0);
        assert_eq!(list(&mut ledger, [], secs(1100)), 10);
        assert_eq!(held(&ledger), 10);
        assert_eq!(ledger.holds().next_confirmation(), Some(secs(1200)));
        assert_eq!(list(&mut ledger, [], secs(1200)), 10);
    }

    #[test]
    fn a_list_that_was_cut_short_confirms_nothing() {
        let mut ledger = ledger(20);
        list(&mut ledger, [], secs(1000));
        ledger.list_began(NODES, secs(1100));
        assert_eq!(list(&mut ledger, 0..20, secs(1200)), 0);
        assert_eq!((held(&ledger), ledger.count(NODES)), (0, 20));
    }

    #[test]
    fn deletions_one_by_one_are_held_once_they_are_too_many_for_the_window() {
        let mut ledger = ledger(20);
        let gone = |ledger: &mut Ledger, number, at| ledger.gone(key(number), secs(at)).is_some();
        // Thirty percent of twenty.
        for number in 0..6 {
            assert!(gone(&mut ledger, number, 1000));
        }
        assert!(!gone(&mut ledger, 6, 1059));
        assert!(!gone(&mut ledger, 7, 5000), "while some are held, all are");
        assert_eq!(ledger.accept().len(), 2);
        assert_eq!((held(&ledger), ledger.count(NODES)), (0, 12));
        assert!(gone(&mut ledger, 8, 5000), "the window is over");
    }

    #[test]
    fn pods_with_a_gate_go_as_they_are_said_to() {
        let pod = |number: u8| Key::new(Watched::Pods, "shop", &number.to_string());
        let mut ledger = ledger(0);
        for number in 0..20 {
            let said = SourceUpdate::Pod {
                pod: haflinger_core::PodRef {
                    source: SourceId::cluster("c"),
                    namespace: "shop".into(),
                    name: number.to_string().into(),
                },
                spec: Some(Box::new(haflinger_core::GatedPod {
                    uid: "u".into(),
                    addresses: Box::default(),
                    set: true,
                    labels: Box::default(),
                })),
            };
            assert_eq!(Key::of(&said), pod(number));
            ledger.heard(pod(number), Some(said));
        }
        assert!((0..10).all(|number| ledger.gone(pod(number), secs(1000)).is_some()));
        ledger.list_began(Watched::Pods, secs(1001));
        assert_eq!(ledger.list_ended(Watched::Pods, secs(1001)).len(), 10);
        assert_eq!(ledger.holds().count(Watched::Pods), 0);
    }

    #[test]
    fn of_few_objects_some_may_always_go() {
        let mut ledger = ledger(2);
        assert_eq!(list(&mut ledger, [], secs(1000)), 2);
        let mut ledger = self::ledger(3);
        assert_eq!(list(&mut ledger, [], secs(1000)), 0);
    }

    #[test]
    fn an_object_that_says_nothing_any_more_is_not_deleted_and_not_held() {
        let mut ledger = ledger(20);
        for number in 0..20 {
            assert_eq!(ledger.heard(key(number), None).len(), 1);
        }
        assert_eq!(ledger.count(NODES), 0);
    }

    #[test]
    fn nothing_is_held_without_limits_or_with_all_percents() {
        for limits in [None, Some(DeletionLimits { percent_max: 100, ..limits() })] {
            let mut ledger = ledger(20);
            ledger.limit(limits);
            assert_eq!(list(&mut ledger, [], secs(1000)), 20);
        }
    }

    #[derive(Clone, Debug)]
    enum Step {
        Apply(u8),
        Delete(u8),
        List(Vec<u8>),
        Accept,
    }

    fn steps() -> impl Strategy<Value = Vec<(Step, u8)>> {
        let list = || prop::collection::vec(0u8..12, 0..12);
        let step = prop_oneof![
            4 => (0u8..12).prop_map(Step::Apply),
            4 => (0u8..12).prop_map(Step::Delete),
            2 => list().prop_map(Step::List),
            1 => Just(Step::Accept),
        ];
        prop::collection::vec((step, 0u8..60), 0..40)
    }

    proptest! {
        /// Whatever was held: what is still gone in two lists so far apart is gone, and what was
        /// said adds up to the second.
        #[test]
        fn two_lists_apart_end_as_a_fresh_list(
            steps in steps(),
            last in prop::collection::btree_set(0u8..12, 0..12),
        ) {
            let mut ledger = Ledger::new(SourceId::cluster("c"));
            ledger.limit(Some(limits()));
            let mut said = BTreeMap::new();
            let fold = |said: &mut BTreeMap<Key, SourceUpdate>, changes: Vec<Change>| {
                for change in changes {
                    if is_gone(&change.update) {
                        assert!(said.remove(&change.key).is_some(), "removals are said once");
                    } else {
                        said.insert(change.key, change.update);
                    }
                }
            };
            let mut now = Duration::ZERO;
            for (step, wait) in steps {
                now += secs(wait.into());
                let changes = match step {
                    Step::Apply(number) => hear(&mut ledger, number),
                    Step::Delete(number) => ledger.gone(key(number), now).into_iter().collect(),
                    Step::Accept => ledger.accept(),
                    Step::List(numbers) => {
                        ledger.list_began(NODES, now);
                        for number in numbers {
                            fold(&mut said, hear(&mut ledger, number));
                        }
                        ledger.list_ended(NODES, now)
                    }
                };
                fold(&mut said, changes);
                prop_assert_eq!(said.len(), ledger.count(NODES));
                prop_assert!(held(&ledger) <= said.len());
            }
            for _ in 0..2 {
                now += limits().confirm_after;
                ledger.list_began(NODES, now);
                for number in &last {
                    fold(&mut said, hear(&mut ledger, *number));
                }
                fold(&mut said, ledger.list_ended(NODES, now));
            }
            let fresh: BTreeMap<_, _> = last.iter().map(|n| (key(*n), node(*n))).collect();
            prop_assert_eq!(said, fresh);
            prop_assert_eq!(held(&ledger), 0);
        }
    }
}
