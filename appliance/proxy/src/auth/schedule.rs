//! When keys are fetched. Pure: times on a monotonic clock and randomness are arguments.

use std::time::Duration;

/// Shortest time for which keys are kept, whatever the server says.
const KEPT_MIN: Duration = Duration::from_secs(60);

/// Longest time for which keys are kept unasked: one that was taken back is known that long.
const KEPT_MAX: Duration = Duration::from_secs(24 * 3600);

/// Time between two fetches for the sake of an unknown key, so that tokens with invented keys do
/// not load the server.
const UNKNOWN_INTERVAL: Duration = Duration::from_secs(30);

/// First and longest pause after a failure.
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(60);

/// When the next fetch is due.
#[derive(Clone, Debug)]
pub(super) struct Schedule {
    usual: Duration,
    failures: u32,
    began: Option<Duration>,
    due: Duration,
}

impl Schedule {
    /// The first is due at once; `usual` is how long keys are kept unless the server says.
    pub(super) fn new(usual: Duration) -> Self {
        Self { usual, failures: 0, began: None, due: Duration::ZERO }
    }

    /// When the next fetch is due.
    pub(super) fn due(&self) -> Duration {
        self.due
    }

    /// A fetch begins.
    pub(super) fn begin(&mut self, now: Duration) {
        self.began = Some(now);
    }

    /// It has brought keys, which the server wants to be kept for `max_age`.
    pub(super) fn succeeded(&mut self, now: Duration, max_age: Option<Duration>) {
        self.failures = 0;
        self.due = now + max_age.unwrap_or(self.usual).clamp(KEPT_MIN, KEPT_MAX);
    }

    /// It has brought nothing. `jitter` is from 0.5 to 1.
    pub(super) fn failed(&mut self, now: Duration, jitter: f64) {
        let pause = RETRY_FIRST.saturating_mul(1 << self.failures.min(16)).min(RETRY_MAX);
        self.failures = self.failures.saturating_add(1);
        self.due = now + pause.mul_f64(jitter);
    }

    /// Whether a fetch for the sake of an unknown key may begin.
    pub(super) fn may_fetch(&self, now: Duration) -> bool {
        self.began.is_none_or(|began| now >= began + UNKNOWN_INTERVAL)
    }

    /// An unknown key is asked for: the next fetch is due at once, if it may begin.
    pub(super) fn wanted(&mut self, now: Duration) {
        if self.may_fetch(now) {
            self.due = self.due.min(now);
        }
    }
}

/// `max-age` of `Cache-Control` (RFC 9111, section 5.2.2.1); zero for what is not to be kept.
pub(super) fn max_age(cache_control: &str) -> Option<Duration> {
    let mut directives = cache_control.split(',').map(str::trim);
    directives.find_map(|directive| {
        if ["no-store", "no-cache"].iter().any(|name| directive.eq_ignore_ascii_case(name)) {
            return Some(Duration::ZERO);
        }
        let (name, value) = directive.split_once('=')?;
        let seconds = value.trim().trim_matches('"').parse().ok()?;
        name.trim().eq_ignore_ascii_case("max-age").then(|| Duration::from_secs(seconds))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    #[test]
    fn keys_are_kept_as_long_as_the_server_says_within_bounds() {
        let mut schedule = Schedule::new(secs(300));
        assert_eq!(schedule.due(), secs(0));
        let mut due = |max_age| {
            schedule.succeeded(secs(1_000), max_age);
            schedule.due() - secs(1_000)
        };
        assert_eq!(due(None), secs(300));
        assert_eq!(due(Some(secs(3_600))), secs(3_600));
        assert_eq!(due(Some(secs(0))), KEPT_MIN);
        assert_eq!(due(Some(secs(u64::MAX))), KEPT_MAX);
    }

    #[test]
    fn failures_are_retried_ever_later_up_to_a_minute() {
        let mut schedule = Schedule::new(secs(300));
        let pauses: Vec<u64> = (0..9)
            .map(|_| {
                schedule.failed(secs(10), 1.0);
                (schedule.due() - secs(10)).as_secs()
            })
            .collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
        schedule.failed(secs(10), 0.5);
        assert_eq!(schedule.due(), secs(40));
    }

    #[test]
    fn an_unknown_key_brings_a_fetch_forward_at_most_once_per_interval() {
        let mut schedule = Schedule::new(secs(300));
        schedule.begin(secs(100));
        schedule.succeeded(secs(100), None);
        schedule.wanted(secs(110));
        assert_eq!(schedule.due(), secs(400), "fetched just now");
        schedule.wanted(secs(130));
        assert_eq!(schedule.due(), secs(130));
        schedule.begin(secs(130));
        schedule.succeeded(secs(131), None);
        assert!(!schedule.may_fetch(secs(159)) && schedule.may_fetch(secs(160)));
    }

    #[test]
    fn max_age_is_found_among_other_directives() {
        assert_eq!(max_age("public, Max-Age=60, must-revalidate"), Some(secs(60)));
        assert_eq!(max_age("max-age=\"7\""), Some(secs(7)));
        assert_eq!(max_age("no-store"), Some(secs(0)));
        assert_eq!(max_age("public"), None);
        assert_eq!(max_age("max-age=x"), None);
    }
}
