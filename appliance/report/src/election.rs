//! The election, pure: what to do about the Lease, given what was last seen of it.
//!
//! The rules are client-go's. A candidate never compares clocks: it measures, by its own
//! monotonic clock, for how long it has seen the same version, and takes the Lease when that
//! exceeds the duration that the record promises. A leader counts its term from the moment
//! *before* it sent the last renewal that succeeded, and ends it after the renew deadline,
//! which is shorter than the duration: so there are never two, as long as clocks run at about
//! the same rate. Times in the record are for people to read.

use std::time::{Duration, Instant};

use jiff::Timestamp;

/// How an election is timed. `duration > renew_deadline > retry_period`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Timing {
    /// How long others wait after the last renewal that they saw.
    pub(crate) duration: Duration,
    /// How long the leader goes on without a successful renewal.
    pub(crate) renew_deadline: Duration,
    /// Between two attempts.
    pub(crate) retry_period: Duration,
}

/// `Lease.spec`, as far as it matters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Record {
    /// `holderIdentity`; empty: free.
    pub(crate) holder: String,
    /// `leaseDurationSeconds`.
    pub(crate) duration: Duration,
    /// `acquireTime`.
    pub(crate) acquired: Option<Timestamp>,
    /// `renewTime`.
    pub(crate) renewed: Option<Timestamp>,
    /// `leaseTransitions`.
    pub(crate) transitions: i32,
}

/// What to do about the Lease now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Intent {
    /// Write this record, if the Lease is still at this version (`None`: does not exist).
    Write { record: Record, version: Option<String> },
    /// Somebody else holds it.
    Wait,
}

#[derive(Clone, Debug)]
struct Seen {
    record: Record,
    version: String,
    /// Since when the Lease has had this version, by our clock.
    since: Instant,
}

/// One candidate.
#[derive(Clone, Debug)]
pub(crate) struct Election {
    identity: String,
    timing: Timing,
    seen: Option<Seen>,
    /// When the last renewal that succeeded was begun.
    renewed_at: Option<Instant>,
}

impl Election {
    pub(crate) fn new(identity: &str, timing: Timing) -> Self {
        Self { identity: identity.to_owned(), timing, seen: None, renewed_at: None }
    }

    /// The Lease as it was just read; `None`: there is none.
    pub(crate) fn observe(&mut self, now: Instant, lease: Option<(Record, String)>) {
        // The version, not the record, tells a renewal: a leader whose wall clock stands still
        // writes the same record again and again.
        let known = self.seen.as_ref().map(|seen| seen.version.as_str());
        match lease {
            None => self.seen = None,
            Some((_, version)) if known == Some(version.as_str()) => {}
            Some((record, version)) => self.seen = Some(Seen { record, version, since: now }),
        }
        // Somebody took it while we slept: the term is over, whatever our clock says.
        if self.holder() != Some(self.identity.as_str()) {
            self.renewed_at = None;
        }
    }

    /// What to do, given everything observed. `wall` is only written down.
    pub(crate) fn intent(&self, now: Instant, wall: Timestamp) -> Intent {
        let mut record = Record {
            holder: self.identity.clone(),
            duration: self.timing.duration,
            acquired: Some(wall),
            renewed: Some(wall),
            transitions: 0,
        };
        let Some(seen) = &self.seen else { return Intent::Write { record, version: None } };
        let ours = seen.record.holder == self.identity;
        // A record may promise nonsense; ours is the least that is waited for.
        let promised = seen.record.duration.max(self.timing.duration);
        let expired = now.saturating_duration_since(seen.since) > promised;
        if !(ours || seen.record.holder.is_empty() || expired) {
            return Intent::Wait;
        }
        if ours {
            record.acquired = seen.record.acquired.or(record.acquired);
            record.transitions = seen.record.transitions;
        } else {
            record.transitions = seen.record.transitions.saturating_add(1);
        }
        Intent::Write { record, version: Some(seen.version.clone()) }
    }

    /// The write that was begun at `began` succeeded and made this version.
    pub(crate) fn wrote(&mut self, began: Instant, record: Record, version: String) {
        self.renewed_at = Some(began);
        self.seen = Some(Seen { record, version, since: began });
    }

    /// Whether this candidate leads.
    pub(crate) fn leads(&self, now: Instant) -> bool {
        self.term_ends().is_some_and(|end| now < end)
    }

    /// When the term ends unless it is renewed.
    pub(crate) fn term_ends(&self) -> Option<Instant> {
        self.renewed_at.map(|at| at + self.timing.renew_deadline)
    }

    /// The record that gives the Lease back, for a leader that stops.
    pub(crate) fn release(&self, now: Instant, wall: Timestamp) -> Option<(Record, String)> {
        let seen = self.seen.as_ref().filter(|_| self.leads(now))?;
        let record = Record {
            holder: String::new(),
            // Others need not wait; the field must be at least a second.
            duration: Duration::from_secs(1),
            acquired: Some(wall),
            renewed: Some(wall),
            transitions: seen.record.transitions,
        };
        Some((record, seen.version.clone()))
    }

    /// Who holds the Lease, as last seen.
    pub(crate) fn holder(&self) -> Option<&str> {
        self.seen.as_ref().map(|seen| seen.record.holder.as_str()).filter(|h| !h.is_empty())
    }

    pub(crate) fn timing(&self) -> Timing {
        self.timing
    }
}

#[cfg(test)]
#[path = "election_tests.rs"]
mod tests;
