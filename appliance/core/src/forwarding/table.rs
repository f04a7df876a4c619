//! The table itself: members and weights in, changes out.

use super::ages::{Ages, BucketHops, Buckets, CHUNK, Queues, Stamps, sort_ascending};
use super::member::Member;
use super::plan::{self, Demand, Heir, Receivers};
use super::shares::{self, Claimant};
use super::slots::{NO_SLOT, Slot, Slots};
use super::starts::Starts;
use super::view::TableView;
use super::{
    BUCKETS_MAX, BUCKETS_MIN, BUCKETS_PER_MEMBER_MIN, COARSE_BUCKETS_PER_MEMBER_MIN,
    COARSE_MEMBERS_MAX, MEMBERS_MAX,
};
use crate::{MAX_WEIGHT, Weight};

/// Tables of at least this many buckets keep their queues between changes. Below, sorting anew
/// takes microseconds, and 50,000 small services save 4 bytes a bucket.
const QUEUES_KEPT_FROM: usize = 1 << 12;

/// What is set for a table from outside. Holders that must agree to the bit share it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableSettings {
    /// Fewest buckets; rounded up to a power of two from [`BUCKETS_MIN`] to [`BUCKETS_MAX`].
    pub buckets_min: u32,
    /// Most buckets; rounded up likewise, and at least `buckets_min`.
    pub buckets_max: u32,
    /// Up to [`COARSE_MEMBERS_MAX`] members of one weight share fewer buckets
    /// ([`COARSE_BUCKETS_PER_MEMBER_MIN`]), whatever `buckets_min` says. Nearly every service is
    /// such a one, and there may be 50,000 of them.
    pub coarse: bool,
    /// Seconds within which a second move of a bucket puts flows at risk: about the life of a
    /// long flow.
    pub hold_secs: u32,
}

impl Default for TableSettings {
    fn default() -> Self {
        Self { buckets_min: BUCKETS_MIN, buckets_max: BUCKETS_MAX, coarse: false, hold_secs: 3600 }
    }
}

impl TableSettings {
    /// As the tables of services are.
    pub fn of_services() -> Self {
        Self { coarse: true, ..Self::default() }
    }

    /// Buckets that a table of these members should have.
    fn buckets_for<M>(&self, members: &[(M, Weight)]) -> u32 {
        let round = |buckets: u32| buckets.clamp(BUCKETS_MIN, BUCKETS_MAX).next_power_of_two();
        let even = || members.windows(2).all(|pair| pair[0].1 == pair[1].1);
        let count = u32::try_from(members.len().min(MEMBERS_MAX)).unwrap_or(u32::MAX);
        if self.coarse && members.len() <= COARSE_MEMBERS_MAX && even() {
            return round(count * COARSE_BUCKETS_PER_MEMBER_MIN).min(round(self.buckets_max));
        }
        let (min, max) = (round(self.buckets_min), round(self.buckets_max));
        (count * BUCKETS_PER_MEMBER_MIN).next_power_of_two().clamp(min, max.max(min))
    }
}

/// What one call changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// The table's generation after the call; as before when nothing changed.
    pub generation: u64,
    /// Buckets after the call.
    pub buckets: u32,
    /// Buckets whose first hop went from one member to another.
    pub moved: u32,
    /// Of these, buckets whose change before lies within the hold time: flows that have lived
    /// through both may be cut off.
    pub at_risk: u32,
    /// Second hops cleared, because their member was found dead or slots ran out.
    pub cleared: u32,
    /// How often the table doubled.
    pub doubled: u32,
    /// Members that were given nothing because there are more than [`MEMBERS_MAX`].
    pub refused: usize,
}

/// A member of the table.
#[derive(Clone, Debug)]
pub(super) struct Entry<M> {
    pub(super) member: M,
    pub(super) weight: Weight,
    pub(super) slot: Slot,
    /// Buckets whose first hop it is.
    pub(super) held: u32,
}

/// A forwarding table with its history.
///
/// It never halves: two buckets that become one must have the same hops, so halving would move
/// flows only to save memory. It returns to the size it needs when it starts from nothing again.
#[derive(Clone, Debug)]
pub struct ForwardingTable<M> {
    pub(super) settings: TableSettings,
    pub(super) generation: u64,
    /// By member; weights are from 1 to `MAX_WEIGHT`.
    pub(super) entries: Vec<Entry<M>>,
    pub(super) slots: Slots<M>,
    pub(super) buckets: Buckets,
    pub(super) ages: Ages,
    pub(super) stamps: Stamps,
    pub(super) queues: Option<Queues>,
}

impl<M: Member> ForwardingTable<M> {
    /// The first table of these members: a function of them and their weights alone.
    pub fn new(members: impl IntoIterator<Item = (M, Weight)>) -> Self {
        let mut table = Self::with_settings(TableSettings::default());
        table.update(members, 0);
        table
    }

    /// An empty table.
    pub fn with_settings(settings: TableSettings) -> Self {
        Self {
            settings,
            generation: 0,
            entries: Vec::new(),
            slots: Slots::empty(),
            buckets: Buckets::empty(),
            ages: Ages::Untouched,
            stamps: Stamps::default(),
            queues: None,
        }
    }

    /// Makes these the members, and moves as few buckets as their exact shares allow.
    ///
    /// A member with weight 0 is as good as absent. Of a member that is named more than once the
    /// largest weight counts, and weights above `MAX_WEIGHT` count as that. Who is not named
    /// leaves as planned: its flows may live on at the second hop. When nobody is left the table
    /// is empty, and the next one starts from nothing.
    ///
    /// The cost is proportional to the members and to the buckets moved.
    pub fn update(
        &mut self,
        members: impl IntoIterator<Item = (M, Weight)>,
        now_secs: u64,
    ) -> Change {
        self.update_sharing(&mut Starts::default(), members, now_secs)
    }

    /// The same; a table that begins shares its buckets with those that began alike.
    pub fn update_sharing(
        &mut self,
        starts: &mut Starts,
        members: impl IntoIterator<Item = (M, Weight)>,
        now_secs: u64,
    ) -> Change {
        let (wanted, refused) = normalize(members);
        let unchanged = self.entries.len() == wanted.len()
            && self.entries.iter().zip(&wanted).all(|(entry, (member, weight))| {
                entry.weight == *weight && entry.member == *member
            });
        let change = if unchanged {
            self.change()
        } else if wanted.is_empty() {
            self.clear()
        } else if self.entries.is_empty() {
            self.start(wanted, starts)
        } else {
            self.rebalance(wanted, None, now_secs)
        };
        Change { refused, ..change }
    }

    /// Takes out a member that was found dead, and forgets it as a second hop.
    ///
    /// Each of its buckets goes to its second hop, as far as the exact shares allow. Another
    /// receiver becomes the first hop before a second hop that stays, so that flows living there
    /// are still found. For a member that has left already only second hops are cleared, which
    /// looks at every bucket.
    pub fn fail(&mut self, member: &M, now_secs: u64) -> Change {
        let Ok(at) = self.entries.binary_search_by(|entry| entry.member.cmp(member)) else {
            let Some(&slot) = self.slots.former().get(member) else { return self.change() };
            self.generation += 1;
            let cleared = self.clear_second_hops(|second| second == slot);
            return Change { cleared, ..self.change() };
        };
        let slot = self.entries[at].slot;
        let others = self.entries.iter().filter(|entry| entry.slot != slot);
        let wanted: Vec<_> = others.map(|entry| (entry.member.clone(), entry.weight)).collect();
        if wanted.is_empty() {
            return self.clear();
        }
        // One use more, so that the slot is not given away before it is forgotten.
        self.slots.hold(slot);
        let change = self.rebalance(wanted, Some(slot), now_secs);
        let is_named = self.slots.uses(slot) > 1;
        let cleared = if is_named { self.clear_second_hops(|second| second == slot) } else { 0 };
        self.slots.release(slot);
        Change { cleared: change.cleared + cleared, ..change }
    }

    /// What readers see, as it is now.
    pub fn view(&self) -> TableView<M> {
        TableView::new(self.buckets.clone(), self.slots.names().clone(), self.generation)
    }

    /// Rises by one with every change.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Members with their weights and the buckets that they hold, in order.
    pub fn members(&self) -> impl Iterator<Item = (&M, Weight, u32)> {
        self.entries.iter().map(|entry| (&entry.member, entry.weight, entry.held))
    }

    /// A call that changed nothing so far.
    fn change(&self) -> Change {
        let buckets = u32::try_from(self.buckets.len()).unwrap_or(BUCKETS_MAX);
        Change { generation: self.generation, buckets, ..Change::default() }
    }

    /// Nobody is left.
    fn clear(&mut self) -> Change {
        let generation = self.generation + 1;
        *self = Self { generation, ..Self::with_settings(self.settings) };
        self.change()
    }

    /// From nothing: members in order take consecutive runs of buckets.
    fn start(&mut self, wanted: Vec<(M, Weight)>, starts: &mut Starts) -> Change {
        self.generation += 1;
        let buckets = self.settings.buckets_for(&wanted);
        let fresh = |weight| Claimant { weight, held: 0, inherited: 0 };
        let shares = shares::exact(buckets, wanted.iter().map(|(_, weight)| fresh(*weight)));
        self.entries.reserve_exact(wanted.len());
        self.slots.reserve(wanted.len());
        for ((member, weight), held) in wanted.into_iter().zip(&shares) {
            let slot = self.slots.join(member.clone());
            self.entries.push(Entry { member, weight, slot, held: *held });
        }
        // Slots of a table that begins count from 0, so the shares say everything.
        self.buckets = starts.buckets(shares);
        self.change()
    }

    /// The general change: `wanted` is not empty, nor is the table.
    fn rebalance(&mut self, wanted: Vec<(M, Weight)>, dead: Option<Slot>, now_secs: u64) -> Change {
        self.generation += 1;
        let now = self.stamps.advance(now_secs, self.settings.hold_secs);
        let doubled = if dead.is_none() { self.double_for(&wanted) } else { 0 };
        let mut next = Roster::merge(std::mem::take(&mut self.entries), wanted);
        let cleared = self.take_slots(&mut next);
        let targets = next.targets(self.buckets.len());

        let mut queues = self
            .queues
            .take()
            .unwrap_or_else(|| Queues::build(&self.buckets, &self.ages, self.slots.len()));
        queues.reserve_slots(self.slots.len());
        let surplus = next.surplus(&targets);
        let moved = self.take(&surplus, dead, &mut queues);
        let demand =
            Demand { wanting: &mut next.wanting(&targets), heirs: &next.heirs(&targets), dead };
        let receivers = Receivers::new(&self.buckets, &moved, demand);
        let at_risk = self.apply(&moved, receivers, dead, &mut queues);

        if !moved.is_empty() {
            self.stamps.stamp(now, age_of(self.generation));
        }
        for entry in &next.leaving {
            self.slots.leave(entry.slot);
        }
        self.entries = next.entries;
        for (entry, target) in self.entries.iter_mut().zip(targets) {
            entry.held = target;
        }
        self.queues = (self.buckets.len() >= QUEUES_KEPT_FROM).then_some(queues);
        let moved = u32::try_from(moved.len()).unwrap_or(BUCKETS_MAX);
        Change { moved, at_risk, cleared, doubled, ..self.change() }
    }

    /// Doubles until the table is fine enough for these members: every bucket becomes two with
    /// the same hops, and no flow moves. Returns how often.
    fn double_for(&mut self, members: &[(M, Weight)]) -> u32 {
        let (before, needed) = (self.buckets.len(), self.settings.buckets_for(members) as usize);
        if needed <= before {
            return 0;
        }
        let copies = needed / before;
        let doubled = copies.ilog2();
        let old = self.buckets.clone();
        self.buckets = Buckets::from_fn(needed / CHUNK, |at| {
            old.get(at / copies).copied().unwrap_or(BucketHops::NONE)
        });
        self.ages.multiply(copies);
        self.queues = None;
        for entry in &mut self.entries {
            entry.held <<= doubled;
        }
        self.slots.multiply_second_uses(doubled, self.entries.iter().map(|entry| entry.slot));
        doubled
    }

    /// Gives a slot to every member that arrives. Should slots run out, second hops that name
    /// former members are forgotten; then there are enough, since members past and present of
    /// one change are at most three times `MEMBERS_MAX`. Returns how many were.
    fn take_slots(&mut self, next: &mut Roster<M>) -> u32 {
        let mut cleared = 0;
        if self.slots.available() < next.arriving.len() {
            let mut belongs = vec![false; self.slots.len()];
            for entry in next.entries.iter().chain(&next.leaving) {
                // Those that arrive have no slot yet.
                if let Some(belongs) = belongs.get_mut(usize::from(entry.slot)) {
                    *belongs = true;
                }
            }
            cleared = self.clear_second_hops(|second| !belongs[usize::from(second)]);
        }
        for at in &next.arriving {
            let entry = &mut next.entries[*at];
            entry.slot = self.slots.join(entry.member.clone());
        }
        cleared
    }

    /// Clears the second hops that `forget` picks; returns how many. Looks at every bucket.
    fn clear_second_hops(&mut self, forget: impl Fn(Slot) -> bool) -> u32 {
        let forgotten: Vec<u32> = (0_u32..)
            .zip(self.buckets.iter())
            .filter(|(_, hops)| hops.second != NO_SLOT && forget(hops.second))
            .map(|(bucket, _)| bucket)
            .collect();
        let slots = &mut self.slots;
        self.buckets.edit_ascending(&forgotten, |_, hops| {
            slots.release(hops.second);
            hops.second = NO_SLOT;
        });
        u32::try_from(forgotten.len()).unwrap_or(BUCKETS_MAX)
    }

    /// Takes the oldest of the donors' buckets, as many as each gives up; ascending. The donors
    /// will be their second hops, unless dead.
    fn take(
        &mut self,
        surplus: &[(Slot, u32)],
        dead: Option<Slot>,
        queues: &mut Queues,
    ) -> Vec<u32> {
        let total = surplus.iter().map(|(_, count)| *count as usize).sum();
        let mut moved = Vec::with_capacity(total);
        for (donor, count) in surplus {
            queues.pop_oldest(*donor, *count, &mut moved);
            if dead != Some(*donor) {
                self.slots.hold_many(*donor, *count);
            }
        }
        sort_ascending(&mut moved, self.buckets.len());
        moved
    }

    /// Writes the moves. Returns how many put flows at risk.
    fn apply(
        &mut self,
        moved: &[u32],
        mut receivers: Receivers,
        dead: Option<Slot>,
        queues: &mut Queues,
    ) -> u32 {
        if moved.is_empty() {
            return 0;
        }
        let age = age_of(self.generation);
        let (slots, stamps, ages) = (&mut self.slots, &self.stamps, &mut self.ages);
        ages.prepare(self.buckets.len(), age);
        let mut at_risk = 0;
        self.buckets.edit_ascending(moved, |bucket, hops| {
            let before = *hops;
            hops.first = receivers.next(before.first);
            if dead != Some(before.first) {
                hops.second = before.first;
                slots.release(before.second);
            } else if before.second == hops.first {
                hops.second = NO_SLOT;
                slots.release(before.second);
            }
            queues.push(hops.first, bucket);
            let changed = ages.replace(bucket, age);
            at_risk += u32::from(changed > 0 && stamps.is_held(changed));
        });
        at_risk
    }
}

/// The generation as ages have it.
fn age_of(generation: u64) -> u32 {
    u32::try_from(generation).unwrap_or(u32::MAX)
}

/// Sorted by member, one entry each, weights from 1 to `MAX_WEIGHT`, at most `MEMBERS_MAX`; and
/// how many more there were.
fn normalize<M: Member>(
    members: impl IntoIterator<Item = (M, Weight)>,
) -> (Vec<(M, Weight)>, usize) {
    let some_weight = members.into_iter().filter(|(_, weight)| *weight > 0);
    let mut wanted: Vec<_> =
        some_weight.map(|(member, weight)| (member, weight.min(MAX_WEIGHT))).collect();
    if !wanted.is_sorted_by(|a, b| a.0 < b.0) {
        wanted.sort_unstable();
        wanted.dedup_by(|later, earlier| {
            let same = later.0 == earlier.0;
            if same {
                earlier.1 = later.1;
            }
            same
        });
    }
    let refused = wanted.len().saturating_sub(MEMBERS_MAX);
    wanted.truncate(MEMBERS_MAX);
    (wanted, refused)
}

/// The members after a change, and those that it takes out; all by member.
struct Roster<M> {
    entries: Vec<Entry<M>>,
    /// Positions in `entries` of those that were not there before.
    arriving: Vec<usize>,
    leaving: Vec<Entry<M>>,
    /// Who replaces whom: positions in `leaving` and in `entries`.
    pairs: Vec<(usize, usize)>,
}

impl<M: Member> Roster<M> {
    fn merge(old: Vec<Entry<M>>, wanted: Vec<(M, Weight)>) -> Self {
        let mut entries = Vec::with_capacity(wanted.len());
        let (mut arriving, mut leaving) = (Vec::new(), Vec::new());
        let mut old = old.into_iter();
        for (member, weight) in wanted {
            // Most stay: equality is asked before order.
            let stays = loop {
                match old.as_slice().first() {
                    Some(entry) if entry.member == member => break true,
                    Some(entry) if entry.member < member => leaving.extend(old.next()),
                    _ => break false,
                }
            };
            if stays {
                entries.extend(old.next().map(|entry| Entry { weight, ..entry }));
            } else {
                arriving.push(entries.len());
                entries.push(Entry { member, weight, slot: NO_SLOT, held: 0 });
            }
        }
        leaving.extend(old);
        let old_weights: Vec<_> = leaving.iter().map(|entry| entry.weight).collect();
        let new_weights: Vec<_> = arriving.iter().map(|at| entries[*at].weight).collect();
        let pairs = plan::pair(&old_weights, &new_weights);
        let pairs = pairs.into_iter().map(|(old, new)| (old, arriving[new])).collect();
        Self { entries, arriving, leaving, pairs }
    }

    /// What each entry shall hold.
    fn targets(&self, buckets: usize) -> Vec<u32> {
        let mut inherited = vec![0; self.entries.len()];
        for (old, new) in &self.pairs {
            inherited[*new] = self.leaving[*old].held;
        }
        let claimants = self.entries.iter().zip(&inherited).map(|(entry, inherited)| Claimant {
            weight: entry.weight,
            held: entry.held,
            inherited: *inherited,
        });
        shares::exact(u32::try_from(buckets).unwrap_or(BUCKETS_MAX), claimants)
    }

    /// Everyone that holds more than it shall, and how much more.
    fn surplus(&self, targets: &[u32]) -> Vec<(Slot, u32)> {
        let staying = self.entries.iter().zip(targets);
        let over = staying.map(|(entry, target)| (entry.slot, entry.held.saturating_sub(*target)));
        let gone = self.leaving.iter().map(|entry| (entry.slot, entry.held));
        over.chain(gone).filter(|(_, count)| *count > 0).collect()
    }

    /// What each entry lacks.
    fn wanting(&self, targets: &[u32]) -> Vec<(Slot, u32)> {
        let lack =
            |(entry, target): (&Entry<M>, &u32)| (entry.slot, target.saturating_sub(entry.held));
        self.entries.iter().zip(targets).map(lack).collect()
    }

    /// What heirs take from those that they replace.
    fn heirs(&self, targets: &[u32]) -> Vec<Heir> {
        let heir = |(old, new): &(usize, usize)| {
            let leaving = &self.leaving[*old];
            Heir { at: *new, donor: leaving.slot, count: leaving.held.min(targets[*new]) }
        };
        self.pairs.iter().map(heir).collect()
    }
}
