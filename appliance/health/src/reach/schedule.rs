//! Addresses, what is known about them, and when they are asked next. Pure: time and jitter are
//! arguments.
//!
//! ```text
//!              answer                       `FALL` silences in a row
//!  unknown ────────────> reached ──────────────────────────────────────> not reached
//!     │                     ^                                              │  ^
//!     │                     └──────────────────────────────────────────────┘  │
//!     │                              `RISE` answers in a row                  │
//!     └───────────────────────────────────────────────────────────────────────┘
//!                              `FALL` silences in a row
//! ```
//!
//! The first answer decides alone, the first silence does not: a pod is ready before every router
//! knows the way to it, and this host's own routes are written while it begins to ask.

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::time::Duration;

use super::connect::Found;

/// Silences in a row that say that there is no way.
const FALL: u8 = 3;

/// Answers in a row that say that there is one again. More than fall, so that a way that comes and
/// goes moves flows rarely.
const RISE: u8 = 5;

/// Time between two probes of an address while nothing changes. With more addresses than
/// [`RATE_MAX`] allows for it is longer.
const INTERVAL: Duration = Duration::from_secs(10);

/// Time to the next probe while results contradict what is known.
const RETRY: Duration = Duration::from_secs(1);

/// The first probes of addresses that come together are spread over this.
const SPREAD: Duration = Duration::from_secs(1);

/// Probes begun in a second at most: some hundredths of a processor, and 65 seconds for as many
/// addresses as the index asks about. Those due for longest begin first, so that all are asked.
pub(crate) const RATE_MAX: u32 = 1000;

/// Time for which the rate is counted.
const TICK: Duration = Duration::from_millis(10);

/// Probes begun in a tick.
const PER_TICK: u32 = RATE_MAX / 100;

/// One address.
#[derive(Debug)]
pub(crate) struct Way {
    /// The number under which the index asks.
    pub(crate) asked: u64,
    /// What is known.
    pub(crate) reached: Option<bool>,
    /// Since when.
    pub(crate) since: Duration,
    /// Results in a row that contradict it.
    against: u8,
    due: Duration,
    in_flight: bool,
}

/// All addresses, in the order in which they are due.
#[derive(Debug, Default)]
pub(crate) struct Schedule {
    ways: HashMap<SocketAddr, Way>,
    due: BTreeSet<(Duration, SocketAddr)>,
}

impl Schedule {
    /// Asks about an address. What is known about it already is the answer.
    pub(crate) fn ask(
        &mut self,
        address: SocketAddr,
        asked: u64,
        now: Duration,
        jitter: u64,
    ) -> Option<bool> {
        if let Some(way) = self.ways.get_mut(&address) {
            way.asked = asked;
            return way.reached;
        }
        let due = now + part_of(SPREAD, jitter);
        let way = Way { asked, reached: None, since: now, against: 0, due, in_flight: false };
        self.ways.insert(address, way);
        self.due.insert((due, address));
        None
    }

    /// Asks no more.
    pub(crate) fn cease(&mut self, address: &SocketAddr) -> Option<Way> {
        let way = self.ways.remove(address)?;
        self.due.remove(&(way.due, *address));
        Some(way)
    }

    /// When the next probe is due.
    pub(crate) fn next_due(&self) -> Option<Duration> {
        self.due.first().map(|(at, _)| *at)
    }

    /// Begins the probe that has been due for longest, if one is. Answers with how late it is.
    pub(crate) fn begin(&mut self, now: Duration) -> Option<(SocketAddr, Duration)> {
        let (at, address) = *self.due.first().filter(|(at, _)| *at <= now)?;
        self.due.pop_first();
        self.ways.get_mut(&address)?.in_flight = true;
        Some((address, now - at))
    }

    /// A probe ended. Answers with the address's way, and with what was known before if that has
    /// changed.
    pub(crate) fn end(
        &mut self,
        address: SocketAddr,
        found: Found,
        now: Duration,
    ) -> Option<(&Way, Option<bool>)> {
        // One that was asked about anew meanwhile has not begun.
        let way = self.ways.get_mut(&address).filter(|way| way.in_flight)?;
        way.in_flight = false;
        let before = way.reached;
        let changed = way.hear(found);
        if changed {
            way.since = now;
        }
        way.due = now + if way.against > 0 { RETRY } else { INTERVAL };
        self.due.insert((way.due, address));
        changed.then_some((way, before))
    }

    /// Every address.
    pub(crate) fn ways(&self) -> impl Iterator<Item = (&SocketAddr, &Way)> {
        self.ways.iter()
    }
}

impl Way {
    /// Whether what is known changes.
    fn hear(&mut self, found: Found) -> bool {
        let (says, needed) = match (found, self.reached) {
            (Found::Nothing, _) => return false,
            (Found::Answer, None) => (true, 1),
            (Found::Answer, _) => (true, RISE),
            (Found::Silence, _) => (false, FALL),
        };
        if self.reached == Some(says) {
            self.against = 0;
            return false;
        }
        self.against += 1;
        if self.against < needed {
            return false;
        }
        (self.reached, self.against) = (Some(says), 0);
        true
    }
}

/// How many probes may still begin now.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    tick: Duration,
    begun: u32,
}

impl Pace {
    /// Whether a probe may begin; if so, it has.
    pub(crate) fn take(&mut self, now: Duration) -> bool {
        if now >= self.tick + TICK {
            *self = Self { tick: now, begun: 0 };
        }
        let may = self.begun < PER_TICK;
        self.begun += u32::from(may);
        may
    }

    /// When one may begin that is due at `due`.
    pub(crate) fn at(&self, due: Duration) -> Duration {
        if self.begun < PER_TICK { due } else { due.max(self.tick + TICK) }
    }
}

/// `whole × share / 2^64`, in nanoseconds.
fn part_of(whole: Duration, share: u64) -> Duration {
    let nanos = (whole.as_nanos() * u128::from(share)) >> 64;
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn address(port: u16) -> SocketAddr {
        ([10, 0, 0, 1], port).into()
    }

    fn at(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    /// Feeds results, each when it is due; what is known after each.
    fn feed(results: &str) -> (Vec<Option<bool>>, Duration) {
        let mut schedule = Schedule::default();
        schedule.ask(address(1), 1, at(0), 0);
        let mut now = at(0);
        let known = results.chars().map(|result| {
            now = schedule.next_due().unwrap();
            assert_eq!(schedule.begin(now), Some((address(1), at(0))));
            let found = match result {
                '+' => Found::Answer,
                '-' => Found::Silence,
                _ => Found::Nothing,
            };
            schedule.end(address(1), found, now);
            schedule.ways[&address(1)].reached
        });
        let known = known.collect();
        (known, now)
    }

    #[test]
    fn the_first_answer_decides_and_the_third_silence() {
        assert_eq!(feed("+").0, [Some(true)]);
        assert_eq!(feed("--?-").0, [None, None, None, Some(false)]);
        assert_eq!(feed("--+").0, [None, None, Some(true)]);
    }

    #[test]
    fn what_is_known_falls_in_seconds_and_rises_more_slowly() {
        let (known, took) = feed("+---");
        assert_eq!(known, [Some(true), Some(true), Some(true), Some(false)]);
        assert_eq!(took, INTERVAL + RETRY * 2);
        let (known, took) = feed("---+++++");
        assert_eq!(known[6..], [Some(false), Some(true)]);
        assert_eq!(took, RETRY * 2 + INTERVAL + RETRY * 4);
    }

    #[test]
    fn what_comes_and_goes_changes_nothing() {
        assert!(feed("+--+--+--+").0.iter().all(|known| *known == Some(true)));
        assert!(feed("---++++-++++-").0[2..].iter().all(|known| *known == Some(false)));
    }

    #[test]
    fn what_is_asked_anew_is_answered_from_what_is_known() {
        let mut schedule = Schedule::default();
        assert_eq!(schedule.ask(address(1), 1, at(0), 0), None);
        schedule.begin(at(0)).unwrap();
        let (way, before) = schedule.end(address(1), Found::Answer, at(1)).unwrap();
        assert_eq!((way.asked, way.reached, before), (1, Some(true), None));
        assert_eq!(schedule.ask(address(1), 2, at(2), 0), Some(true));
        schedule.cease(&address(1)).unwrap();
        assert_eq!(schedule.next_due(), None);
        assert_eq!(schedule.ask(address(1), 3, at(3), 0), None, "it was forgotten");
    }

    #[test]
    fn a_late_result_of_a_forgotten_address_says_nothing() {
        let mut schedule = Schedule::default();
        schedule.ask(address(1), 1, at(0), 0);
        schedule.begin(at(0)).unwrap();
        schedule.cease(&address(1));
        schedule.ask(address(1), 2, at(1), u64::MAX);
        assert!(schedule.end(address(1), Found::Answer, at(2)).is_none());
        assert!(schedule.next_due().unwrap() < at(1) + SPREAD);
    }

    #[test]
    fn a_crowd_is_asked_at_the_rate_and_nobody_is_left_out() {
        let mut schedule = Schedule::default();
        for port in 0..u16::MAX {
            schedule.ask(address(port), 1, at(0), u64::from(port) << 48);
        }
        let (mut pace, mut begun) = (Pace::default(), BTreeSet::new());
        let mut now = at(0);
        // With every tenth one silent, whose retries are due earlier than the end of the first turn.
        for _ in 0..60 * RATE_MAX {
            now = now.max(pace.at(schedule.next_due().unwrap()));
            assert!(pace.take(now));
            let (asked, _) = schedule.begin(now).unwrap();
            begun.insert(asked);
            let silent = asked.port() % 10 == 0;
            schedule.end(asked, if silent { Found::Silence } else { Found::Answer }, now);
        }
        assert!(now >= Duration::from_secs(59) && now <= Duration::from_secs(61), "{now:?}");
        assert!(begun.len() > 50_000, "{}", begun.len());
    }

    proptest! {
        #[test]
        fn what_is_known_is_what_a_slow_count_says(results in "[+-]{1,100}") {
            let (known, _) = feed(&results);
            let results: Vec<bool> = results.chars().map(|result| result == '+').collect();
            let mut expected = None;
            let mut start = 0;
            for at in 0..results.len() {
                let needed = match (expected, results[at]) {
                    (None, true) => 1,
                    (_, true) => usize::from(RISE),
                    (_, false) => usize::from(FALL),
                };
                // The slow way: look back since the last change, every time.
                let back = results[start..=at].iter().rev();
                let in_a_row = back.take_while(|one| **one == results[at]).count();
                if expected != Some(results[at]) && in_a_row >= needed {
                    (expected, start) = (Some(results[at]), at + 1);
                }
                prop_assert_eq!(known[at], expected);
            }
        }
    }
}
