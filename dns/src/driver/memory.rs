//! What a worker remembers between two rounds.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use imbl::OrdMap;

use super::backoff::backoff;
use super::read::{Picture, Reading, Refusal};
use super::status::Entry;
use crate::budget::Deletions;
use crate::name::RecordName;
use crate::plan::{Rules, owned_names};
use crate::record::{Actual, DesiredRecords};

/// What is remembered between two rounds.
#[derive(Default)]
pub(crate) struct Memory {
    /// What the server holds, kept up to date with what we write.
    pub(crate) actual: Option<Actual>,
    pub(crate) reading: Option<Reading>,
    pub(crate) transfer_refused: Option<String>,
    pub(crate) serial: Option<u32>,
    pub(crate) read_at: Option<Instant>,
    pub(crate) planned: DesiredRecords,
    /// Names that we own there.
    pub(crate) owned: BTreeSet<RecordName>,
    /// Names whose deletion waits.
    pub(crate) held: BTreeSet<RecordName>,
    /// Names that are not simply synced.
    pub(crate) entries: OrdMap<RecordName, Entry>,
    pub(crate) deletions: Deletions,
    /// Transfers refused in a row.
    refusals: u32,
    /// When a transfer is tried again although the zone need not be read yet.
    pub(crate) transfer_again_at: Option<Instant>,
}

impl Memory {
    /// The picture is no longer trusted: the next round reads anew. What was deleted lately and
    /// which names were ours stays known.
    pub(crate) fn distrust(&mut self) {
        self.actual = None;
        self.serial = None;
    }

    /// Takes a picture that was read at `now`.
    pub(crate) fn adopt(&mut self, picture: Picture, rules: &Rules<'_>, now: Instant) {
        self.owned = owned_names(&picture.actual, rules);
        self.actual = Some(picture.actual);
        self.serial = Some(picture.serial);
        self.reading = Some(picture.reading);
        self.read_at = Some(now);
        if picture.reading == Reading::Transfer {
            self.transfer_refused = None;
            self.forget_refusals();
        }
    }

    /// Notes that a transfer was refused. A server that was still loading the zone, or whose
    /// operator is about to allow transfers, is asked again soon, then ever later; and in the
    /// end only when the zone is read anyway. `jitter` lies between 0.5 and 1.
    pub(crate) fn refused(
        &mut self,
        refusal: Refusal,
        refresh: Duration,
        now: Instant,
        jitter: f64,
    ) {
        self.refusals = self.refusals.saturating_add(1);
        let wait = backoff(self.refusals, Duration::MAX, jitter);
        self.transfer_again_at = (refusal.may_pass && wait < refresh).then(|| now + wait);
        self.transfer_refused = Some(refusal.reason);
    }

    /// Somebody has changed something: what was refused before says nothing now.
    pub(crate) fn forget_refusals(&mut self) {
        self.refusals = 0;
        self.transfer_again_at = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Policy;

    const REFRESH: Duration = Duration::from_secs(60);

    fn refused(memory: &mut Memory, may_pass: bool, now: Instant) -> Option<Duration> {
        let refusal = Refusal { reason: "the server failed".to_owned(), may_pass };
        memory.refused(refusal, REFRESH, now, 1.0);
        memory.transfer_again_at.map(|at| at - now)
    }

    #[test]
    fn a_refused_transfer_is_tried_again_soon_and_in_the_end_when_the_zone_is_read() {
        let (mut memory, now) = (Memory::default(), Instant::now());
        let waits = [(); 8].map(|()| refused(&mut memory, true, now).map(|wait| wait.as_secs()));
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 0, 0].map(|wait| Some(wait).filter(|w| *w > 0)));
        memory.forget_refusals();
        assert_eq!(refused(&mut memory, true, now), Some(Duration::from_secs(1)));
    }

    #[test]
    fn what_cannot_pass_is_not_tried_before_the_zone_is_read_again() {
        assert_eq!(refused(&mut Memory::default(), false, Instant::now()), None);
    }

    #[test]
    fn a_transfer_ends_the_refusals_and_queries_do_not() {
        let zone = RecordName::parse("example.com").unwrap();
        let (owner, policy) = ("blue", Policy::Sync);
        let rules = Rules { zone: &zone, owner, ttl_secs: 60, policy, wildcard: None };
        let (mut memory, now) = (Memory::default(), Instant::now());
        refused(&mut memory, true, now);
        let picture = |reading| Picture { actual: Actual::default(), serial: 1, reading };
        memory.adopt(picture(Reading::Queries), &rules, now);
        assert!(memory.transfer_refused.is_some() && memory.transfer_again_at.is_some());
        memory.adopt(picture(Reading::Transfer), &rules, now);
        assert_eq!((memory.transfer_refused, memory.transfer_again_at), (None, None));
    }
}
