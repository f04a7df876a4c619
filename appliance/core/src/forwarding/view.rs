//! The read side of a table: what a flow's hash leads to.

use std::sync::Arc;

/// Where a flow goes: the member that owns its bucket, and the one that owned it before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hops<M> {
    /// Owner of the bucket: new flows go here.
    pub first: M,
    /// The owner before it, where an established flow may still live.
    pub second: Option<M>,
}

/// An immutable view of a table at one generation, cheap to clone.
#[derive(Clone, Debug)]
pub struct TableView<M> {
    buckets: Arc<[Hops<M>]>,
    generation: u64,
}

/// Equal when every flow goes to the same hops; views of one table at one generation are equal
/// without looking at a bucket.
impl<M: PartialEq> PartialEq for TableView<M> {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.buckets, &other.buckets) || self.buckets == other.buckets
    }
}

impl<M: Eq> Eq for TableView<M> {}

impl<M> TableView<M> {
    /// The table of a service without any active backend.
    pub fn empty() -> Self {
        Self { buckets: Arc::new([]), generation: 0 }
    }

    /// The hops of the bucket that the top bits of `hash` pick; `None` for an empty table.
    pub fn hops(&self, hash: u64) -> Option<Hops<&M>> {
        let bits = self.buckets.len().checked_ilog2()?;
        let hops = &self.buckets[(hash.checked_shr(64 - bits).unwrap_or(0)) as usize];
        Some(Hops { first: &hops.first, second: hops.second.as_ref() })
    }

    /// Rises by one with every change of the table.
    pub fn generation(&self) -> u64 {
        self.generation
    }
}
