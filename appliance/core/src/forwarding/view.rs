//! The read side of a table: what a flow's hash leads to.

use std::collections::BTreeMap;

use super::ages::{BucketHops, Buckets};
use super::slots::Names;

/// Where a flow goes: the member that owns its bucket, and the one that owned it before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hops<M> {
    /// Owner of the bucket: new flows go here.
    pub first: M,
    /// The owner before it, where an established flow may still live. It need not belong to the
    /// table any more.
    pub second: Option<M>,
}

/// An immutable view of a table at one generation.
///
/// Cloning costs two atomic increments; reading takes no lock, and nothing that happens to the
/// table later is seen.
#[derive(Clone, Debug)]
pub struct TableView<M> {
    buckets: Buckets,
    names: Names<M>,
    generation: u64,
}

/// Equal when every flow goes to the same hops. Views of one table at one generation are equal
/// without looking at a bucket.
impl<M: PartialEq> PartialEq for TableView<M> {
    fn eq(&self, other: &Self) -> bool {
        let shared = self.buckets.is_same(&other.buckets) && self.names.is_same(&other.names);
        shared || self.bucket_count() == other.bucket_count() && self.buckets().eq(other.buckets())
    }
}

impl<M: Eq> Eq for TableView<M> {}

impl<M> TableView<M> {
    /// The table of a service without any active backend.
    pub fn empty() -> Self {
        Self { buckets: Buckets::empty(), names: Names::empty(), generation: 0 }
    }

    pub(super) fn new(buckets: Buckets, names: Names<M>, generation: u64) -> Self {
        Self { buckets, names, generation }
    }

    /// The hops of the bucket that the top bits of `hash` pick; `None` for an empty table.
    pub fn hops(&self, hash: u64) -> Option<Hops<&M>> {
        let bits = self.buckets.len().checked_ilog2()?;
        let bucket = usize::try_from(hash.checked_shr(u64::BITS - bits)?).ok()?;
        self.resolve(*self.buckets.get(bucket)?)
    }

    /// Rises by one with every change of the table.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Number of buckets: a power of two, or 0 for an empty table.
    pub fn bucket_count(&self) -> usize {
        self.buckets.len()
    }

    /// The hops of every bucket, in order.
    pub fn buckets(&self) -> impl Iterator<Item = Hops<&M>> {
        self.buckets.iter().filter_map(|hops| self.resolve(*hops))
    }

    /// The hops of one bucket; `None` when the table has fewer.
    pub fn bucket(&self, at: usize) -> Option<Hops<&M>> {
        self.resolve(*self.buckets.get(at)?)
    }

    /// The buckets whose hops are not those that `old` has, ascending. `None` when the tables have
    /// different numbers of buckets. For two views of one table the cost is in proportion to what
    /// was written between them.
    pub fn moved_since(&self, old: &Self) -> Option<impl Iterator<Item = (usize, Hops<&M>)>>
    where
        M: PartialEq,
    {
        let same_length = self.bucket_count() == old.bucket_count();
        let written = same_length.then(|| self.buckets.written_since(&old.buckets))?;
        Some(written.flatten().filter_map(|at| {
            let hops = self.bucket(at)?;
            (old.bucket(at) != Some(hops)).then_some((at, hops))
        }))
    }

    /// Buckets whose first hop each member is, by member. Looks at every bucket.
    pub fn shares(&self) -> BTreeMap<&M, u32>
    where
        M: Ord,
    {
        let mut by_slot = vec![0_u32; self.names.len()];
        for hops in self.buckets.iter() {
            by_slot[usize::from(hops.first)] += 1;
        }
        let named = self.names.iter().zip(by_slot).filter(|(_, count)| *count > 0);
        named.filter_map(|(name, count)| Some((name.as_ref()?, count))).collect()
    }

    fn resolve(&self, hops: BucketHops) -> Option<Hops<&M>> {
        let first = self.names.get(usize::from(hops.first))?.as_ref()?;
        let second = self.names.get(usize::from(hops.second)).and_then(Option::as_ref);
        Some(Hops { first, second })
    }
}

impl<M> Default for TableView<M> {
    fn default() -> Self {
        Self::empty()
    }
}
