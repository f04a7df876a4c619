//! Rise and fall: a pure machine that turns probe results into health.
//!
//! One [`Machine`] stands for one backend under one check. It knows when the next probe is due
//! and what the results so far say; it never probes, sleeps or reads a clock. Time is a
//! [`Duration`] since any fixed moment of a monotonic clock, so a step of the wall clock
//! cannot matter.
//!
//! ```text
//!              first result                `fall` failures in a row
//!  unknown ───────────────────> healthy ─────────────────────────────> unhealthy
//!     │                            ^                                       │  ^
//!     │                            └───────────────────────────────────────┘  │
//!     │                                   `rise` successes in a row           │
//!     └───────────────────────────────────────────────────────────────────────┘
//!                                    first result
//! ```
//!
//! The first result decides alone. Until it is known, a backend counts as Kubernetes says;
//! waiting for `fall` failures would send new flows to a dead backend for that long after
//! every start, and waiting for `rise` successes would say nothing that readiness did not.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::HealthCheck;

/// What one probe found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProbeResult {
    /// The backend answered as it should, in time.
    Success,
    /// It did not.
    Failure,
}

/// What the results so far say about a backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Health {
    /// No probe has ended yet.
    #[default]
    Unknown,
    /// Takes flows, as far as the check is concerned.
    Healthy,
    /// The check takes it out.
    Unhealthy,
}

impl Health {
    /// What an update says: `None` when nothing is known.
    pub fn is_healthy(self) -> Option<bool> {
        match self {
            Self::Unknown => None,
            Self::Healthy => Some(true),
            Self::Unhealthy => Some(false),
        }
    }
}

/// Rise and fall of one backend under one check.
///
/// The caller waits until [`next_probe_at`](Self::next_probe_at), calls
/// [`begin`](Self::begin), probes, and hands what it found to [`handle`](Self::handle).
#[derive(Clone, Debug)]
pub struct Machine {
    interval: Duration,
    rise: u32,
    fall: u32,
    health: Health,
    /// Results in a row that contradict `health`.
    against: u32,
    since: Duration,
    next_probe_at: Duration,
}

impl Machine {
    /// A machine that knows nothing yet. The first probe is due within one interval of `now`,
    /// at the part of it that `jitter` is of `u64::MAX`: probes that begin together do not
    /// stay together.
    pub fn new(check: &HealthCheck, now: Duration, jitter: u64) -> Self {
        let interval = interval_of(check);
        Self {
            interval,
            rise: check.rise.max(1),
            fall: check.fall.max(1),
            health: Health::Unknown,
            against: 0,
            since: now,
            next_probe_at: now + part_of(interval, jitter),
        }
    }

    /// Applies changed numbers. What is known stays until results in a row contradict it: a
    /// change of the check is no news about the backend. A shorter interval counts from `now`.
    pub fn reconfigure(&mut self, check: &HealthCheck, now: Duration) {
        self.interval = interval_of(check);
        self.rise = check.rise.max(1);
        self.fall = check.fall.max(1);
        self.against = 0;
        self.next_probe_at = self.next_probe_at.min(now + self.interval);
    }

    /// When the next probe is due.
    pub fn next_probe_at(&self) -> Duration {
        self.next_probe_at
    }

    /// A probe begins. The next is due one interval after this one was, so that the phase is
    /// kept; probes that were missed altogether are not made up for.
    pub fn begin(&mut self, now: Duration) {
        let in_phase = self.next_probe_at + self.interval;
        self.next_probe_at = if in_phase > now { in_phase } else { now + self.interval };
    }

    /// A probe ended. Answers with the new health when that changed.
    pub fn handle(&mut self, result: ProbeResult, now: Duration) -> Option<Health> {
        let (says, needed) = match result {
            ProbeResult::Success => (Health::Healthy, self.rise),
            ProbeResult::Failure => (Health::Unhealthy, self.fall),
        };
        if says == self.health {
            self.against = 0;
            return None;
        }
        self.against += 1;
        if self.health != Health::Unknown && self.against < needed {
            return None;
        }
        self.against = 0;
        self.health = says;
        self.since = now;
        Some(says)
    }

    /// What the results so far say.
    pub fn health(&self) -> Health {
        self.health
    }

    /// Since when they say so.
    pub fn since(&self) -> Duration {
        self.since
    }

    /// Results in a row that contradict [`health`](Self::health): how near a change is.
    pub fn results_against(&self) -> u32 {
        self.against
    }
}

/// An interval of zero would make a probe due at every moment; discovery refuses it, and here
/// it cannot do harm.
fn interval_of(check: &HealthCheck) -> Duration {
    Duration::from_millis(u64::from(check.interval_ms.max(1)))
}

/// `whole × share / 2^64`, in nanoseconds.
fn part_of(whole: Duration, share: u64) -> Duration {
    let nanos = (whole.as_nanos() * u128::from(share)) >> 64;
    // An interval is at most u32::MAX milliseconds, which is 52 bits of nanoseconds.
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::HealthCheckKind;

    const START: Duration = Duration::from_secs(1000);

    fn check(interval_ms: u32, rise: u32, fall: u32) -> HealthCheck {
        HealthCheck {
            kind: HealthCheckKind::Tcp,
            port: None,
            proxy_protocol: crate::ProxyProtocol::Off,
            interval_ms,
            timeout_ms: interval_ms,
            rise,
            fall,
            ways: vec![],
        }
    }

    fn feed(machine: &mut Machine, results: &str) -> Vec<Option<Health>> {
        let result_of = |letter| match letter {
            '+' => ProbeResult::Success,
            _ => ProbeResult::Failure,
        };
        results.chars().map(|letter| machine.handle(result_of(letter), START)).collect()
    }

    #[test]
    fn the_first_result_decides_alone() {
        let check = check(1000, 3, 3);
        let mut up = Machine::new(&check, START, 0);
        assert_eq!(up.health(), Health::Unknown);
        assert_eq!(feed(&mut up, "+"), [Some(Health::Healthy)]);
        let mut down = Machine::new(&check, START, 0);
        assert_eq!(feed(&mut down, "-"), [Some(Health::Unhealthy)]);
    }

    #[test]
    fn only_results_in_a_row_count() {
        let mut machine = Machine::new(&check(1000, 2, 3), START, 0);
        assert_eq!(
            feed(&mut machine, "+--+--"),
            [Some(Health::Healthy), None, None, None, None, None]
        );
        assert_eq!(feed(&mut machine, "-"), [Some(Health::Unhealthy)]);
        assert_eq!(feed(&mut machine, "+-++"), [None, None, None, Some(Health::Healthy)]);
    }

    #[test]
    fn a_changed_check_keeps_what_is_known_and_starts_counting_anew() {
        let mut machine = Machine::new(&check(1000, 2, 3), START, 0);
        feed(&mut machine, "+--");
        machine.reconfigure(&check(1000, 2, 2), START);
        assert_eq!(machine.health(), Health::Healthy);
        assert_eq!(feed(&mut machine, "--"), [None, Some(Health::Unhealthy)]);
    }

    #[test]
    fn a_shorter_interval_is_not_waited_out() {
        let mut machine = Machine::new(&check(60_000, 1, 1), START, u64::MAX);
        machine.reconfigure(&check(1000, 1, 1), START);
        assert_eq!(machine.next_probe_at(), START + Duration::from_secs(1));
    }

    #[test]
    fn late_probes_keep_the_phase_and_missed_ones_are_not_made_up_for() {
        let mut machine = Machine::new(&check(1000, 1, 1), START, 0);
        machine.begin(START + Duration::from_millis(300));
        assert_eq!(machine.next_probe_at(), START + Duration::from_millis(1000));
        machine.begin(START + Duration::from_millis(5500));
        assert_eq!(machine.next_probe_at(), START + Duration::from_millis(6500));
    }

    proptest! {
        #[test]
        fn health_changes_exactly_when_a_slow_count_says_so(
            rise in 1_u32..5,
            fall in 1_u32..5,
            results in proptest::collection::vec(any::<bool>(), 1..200),
        ) {
            let mut machine = Machine::new(&check(1000, rise, fall), START, 0);
            let mut expected = results[0];
            for at in 0..results.len() {
                let result = if results[at] { ProbeResult::Success } else { ProbeResult::Failure };
                let changed = machine.handle(result, START);
                // The slow way: look back at the whole history every time.
                let needed = if expected { fall } else { rise } as usize;
                let turned = at + 1 >= needed
                    && results[at + 1 - needed..=at].iter().all(|&one| one != expected);
                if turned {
                    expected = !expected;
                }
                prop_assert_eq!(machine.health().is_healthy(), Some(expected));
                prop_assert_eq!(changed.is_some(), turned || at == 0);
            }
        }

        #[test]
        fn the_first_probe_is_due_within_one_interval(
            interval in 1_u32..=u32::MAX,
            jitter in any::<u64>(),
        ) {
            let machine = Machine::new(&check(interval, 1, 1), START, jitter);
            let interval = Duration::from_millis(u64::from(interval));
            prop_assert!(machine.next_probe_at() >= START);
            prop_assert!(machine.next_probe_at() < START + interval);
        }

        #[test]
        fn a_probe_is_never_due_at_once_again(
            lateness in proptest::collection::vec(0_u64..10_000, 1..50),
        ) {
            let mut machine = Machine::new(&check(1000, 1, 1), START, 77);
            for late in lateness {
                let now = machine.next_probe_at() + Duration::from_millis(late);
                machine.begin(now);
                prop_assert!(machine.next_probe_at() > now);
                prop_assert!(machine.next_probe_at() <= now + Duration::from_secs(1));
            }
        }
    }
}
