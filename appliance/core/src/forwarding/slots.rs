//! Small numbers for members, so that a bucket's two hops fit into 32 bits.
//!
//! A slot is taken while its member belongs to the table or some second hop names it. Numbers
//! are an inner matter: nothing that a caller can see depends on which number a member has.

use std::collections::BTreeMap;

use super::cow::CowArray;
use super::member::Member;

/// Number of a member within one table.
pub(super) type Slot = u16;

/// No member.
pub(super) const NO_SLOT: Slot = Slot::MAX;

/// Slots of one table: members, and former members that are still second hops.
pub(super) const SLOTS_MAX: usize = NO_SLOT as usize;

/// Members by slot, as readers see them. A chunk holds those of a small service: there may be
/// 50,000 of them, each with a chunk at least.
pub(super) type Names<M> = CowArray<Option<M>, 8>;

/// Which slots are taken, by whom and for how many reasons.
#[derive(Clone, Debug)]
pub(super) struct Slots<M> {
    names: Names<M>,
    /// Per slot: second hops that name it, and one more while it belongs to the table. A slot
    /// at 0 is in `free`.
    uses: Vec<u32>,
    free: Vec<Slot>,
    /// Members that have left the table and are still second hops.
    former: BTreeMap<M, Slot>,
}

impl<M: Member> Slots<M> {
    pub(super) fn empty() -> Self {
        Self { names: Names::empty(), uses: Vec::new(), free: Vec::new(), former: BTreeMap::new() }
    }

    /// Room for exactly so many members that join a table that begins.
    pub(super) fn reserve(&mut self, members: usize) {
        self.uses.reserve_exact(members);
    }

    /// Slots that [`Slots::join`] can still give out.
    pub(super) fn available(&self) -> usize {
        self.free.len() + SLOTS_MAX - self.uses.len()
    }

    /// Number of slots ever taken at once: the size of a list by slot.
    pub(super) fn len(&self) -> usize {
        self.uses.len()
    }

    /// The slot of a member that joins the table: the one that it had, if it is still a second
    /// hop. The caller has looked at [`Slots::available`].
    pub(super) fn join(&mut self, member: M) -> Slot {
        if let Some(slot) = self.former.remove(&member) {
            self.hold(slot);
            return slot;
        }
        let slot = self.free.pop().unwrap_or_else(|| {
            assert!(self.uses.len() < SLOTS_MAX, "a slot is available");
            if self.uses.len() == self.names.len() {
                self.names.push_chunk(|| None);
            }
            self.uses.push(0);
            // In range by the assertion above.
            Slot::try_from(self.uses.len() - 1).unwrap_or(NO_SLOT)
        });
        *self.names.edit(usize::from(slot)) = Some(member);
        self.uses[usize::from(slot)] = 1;
        slot
    }

    /// The slot's member leaves the table.
    pub(super) fn leave(&mut self, slot: Slot) {
        if self.uses(slot) > 1
            && let Some(member) = self.name(slot)
        {
            self.former.insert(member.clone(), slot);
        }
        self.release(slot);
    }

    /// One more use of a taken slot.
    pub(super) fn hold(&mut self, slot: Slot) {
        self.hold_many(slot, 1);
    }

    /// So many more uses of a taken slot.
    pub(super) fn hold_many(&mut self, slot: Slot, uses: u32) {
        self.uses[usize::from(slot)] += uses;
    }

    /// One use less of a taken slot; the last one frees it. `NO_SLOT` is nobody's.
    pub(super) fn release(&mut self, slot: Slot) {
        if slot == NO_SLOT {
            return;
        }
        let uses = &mut self.uses[usize::from(slot)];
        *uses -= 1;
        if *uses == 0 {
            self.free.push(slot);
            if let Some(Some(member)) = self.names.get(usize::from(slot)) {
                self.former.remove(member);
            }
        }
    }

    /// Uses of the slot.
    pub(super) fn uses(&self, slot: Slot) -> u32 {
        self.uses[usize::from(slot)]
    }

    /// Each second hop becomes `2^doubled` of them; `members` are the slots of the table's members.
    pub(super) fn multiply_second_uses(
        &mut self,
        doubled: u32,
        members: impl Iterator<Item = Slot> + Clone,
    ) {
        members.clone().for_each(|slot| self.uses[usize::from(slot)] -= 1);
        self.uses.iter_mut().for_each(|uses| *uses <<= doubled);
        members.for_each(|slot| self.uses[usize::from(slot)] += 1);
    }

    /// The member in a taken slot.
    pub(super) fn name(&self, slot: Slot) -> Option<&M> {
        self.names.get(usize::from(slot))?.as_ref()
    }

    /// Members that have left and are still second hops, in order.
    pub(super) fn former(&self) -> &BTreeMap<M, Slot> {
        &self.former
    }

    /// The readers' picture.
    pub(super) fn names(&self) -> &Names<M> {
        &self.names
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_free_again_after_its_last_use() {
        let mut slots = Slots::empty();
        let (a, b) = (slots.join(1_u32), slots.join(2_u32));
        slots.hold(a);
        slots.leave(a);
        assert_eq!(slots.former().iter().next(), Some((&1, &a)));
        slots.release(a);
        assert!(slots.former().is_empty());
        assert_eq!(slots.join(3), a);
        assert_eq!((slots.len(), slots.name(a), slots.name(b)), (2, Some(&3), Some(&2)));
    }

    #[test]
    fn who_comes_back_has_the_slot_that_second_hops_still_name() {
        let mut slots = Slots::empty();
        let slot = slots.join(1_u32);
        slots.hold(slot);
        slots.leave(slot);
        assert_eq!(slots.join(1), slot);
        assert!(slots.former().is_empty());
        slots.release(slot);
        slots.leave(slot);
        assert_eq!(slots.available(), SLOTS_MAX);
    }

    #[test]
    fn every_number_but_the_last_can_be_taken() {
        let mut slots = Slots::empty();
        for member in 0..SLOTS_MAX {
            slots.join(u32::try_from(member).unwrap());
        }
        assert_eq!((slots.available(), slots.len()), (0, SLOTS_MAX));
        slots.leave(7);
        assert_eq!((slots.available(), slots.join(7)), (1, 7));
    }
}
