//! How long a request may take, and how often and how soon it is tried again. Pure: the time is an
//! argument.

use std::time::{Duration, Instant};

use haflinger_core::{RetryPolicy, RuleTimeouts};

use crate::settings::{ATTEMPTS_MAX, Settings};

/// What "for ever" comes to: timers need an end.
const FOREVER: Duration = Duration::from_secs(86_400);

/// First pause before another attempt where a rule asks for attempts but names no pause.
const PAUSE_FIRST: Duration = Duration::from_millis(25);

/// Longest pause, unless a rule asks for a longer one: the client is waiting.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// The limits of one attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AttemptLimits {
    /// Time between two reads of the answer.
    pub(crate) read: Duration,
    /// Time for a connection.
    pub(crate) connect: Duration,
    /// When the answer has to be complete.
    pub(crate) deadline: Option<Instant>,
}

/// The limits of an attempt that starts `now`, of a request that `began`; `None` when its time is
/// over. `idle`: the configured time between two reads.
pub(crate) fn attempt_limits(
    timeouts: RuleTimeouts,
    began: Instant,
    now: Instant,
    idle: Duration,
    settings: &Settings,
) -> Option<AttemptLimits> {
    let limit =
        |ms: Option<u32>| ms.filter(|ms| *ms > 0).map(|ms| Duration::from_millis(u64::from(ms)));
    let of_request = limit(timeouts.request_ms).map(|limit| began + limit);
    let of_attempt = limit(timeouts.backend_ms).map(|limit| now + limit);
    let deadline = [of_request, of_attempt].into_iter().flatten().min();
    let unlimited = timeouts.request_ms == Some(0) || timeouts.backend_ms == Some(0);
    let idle = if unlimited { FOREVER } else { idle };
    let left = match deadline {
        None => FOREVER,
        Some(deadline) => {
            let left = deadline.saturating_duration_since(now);
            if left.is_zero() {
                return None;
            }
            left
        }
    };
    // A rule's own limit takes the place of the configured one, also when it is longer.
    let read = if deadline.is_some() { left } else { idle };
    Some(AttemptLimits { read, connect: settings.connect_timeout.min(left), deadline })
}

/// How often a request may be sent, the first time included.
pub(crate) fn attempts(retry: Option<&RetryPolicy>, settings: &Settings) -> usize {
    match retry.and_then(|retry| retry.attempts) {
        Some(more) => {
            usize::try_from(more).unwrap_or(usize::MAX).saturating_add(1).min(ATTEMPTS_MAX)
        }
        None => settings.attempts_max,
    }
}

/// The pause before attempt number `attempt` (the second is number 1). `jitter` is drawn from 0
/// to 1. Without a policy another backend is asked at once.
pub(crate) fn pause(retry: Option<&RetryPolicy>, attempt: usize, jitter: f64) -> Duration {
    let Some(retry) = retry else { return Duration::ZERO };
    let least = retry.backoff_ms.map(|ms| Duration::from_millis(u64::from(ms)));
    let first = least.unwrap_or(PAUSE_FIRST);
    let doubled = u32::try_from(attempt.saturating_sub(1)).unwrap_or(u32::MAX).min(16);
    let pause = first.saturating_mul(1 << doubled).min(PAUSE_MAX.max(first));
    pause + pause.mul_f64(jitter / 4.0)
}

#[cfg(test)]
mod tests {
    use haflinger_core::flow::FlowHashKey;

    use super::*;

    const IDLE: Duration = Duration::from_secs(60);

    fn limits(
        request_ms: Option<u32>,
        backend_ms: Option<u32>,
        after_ms: u64,
    ) -> Option<(u64, bool)> {
        let began = Instant::now();
        let now = began + Duration::from_millis(after_ms);
        let timeouts = RuleTimeouts { request_ms, backend_ms };
        let settings = Settings::new(FlowHashKey(*b"sixteen byte key"));
        let limits = attempt_limits(timeouts, began, now, IDLE, &settings)?;
        assert!(limits.connect <= settings.connect_timeout);
        let millis = u64::try_from(limits.read.as_millis()).unwrap();
        Some((millis, limits.deadline.is_some()))
    }

    #[test]
    fn an_attempt_ends_with_the_first_of_its_limits() {
        assert_eq!(limits(None, None, 0), Some((60_000, false)));
        assert_eq!(limits(Some(500), None, 100), Some((400, true)));
        assert_eq!(limits(Some(500), Some(200), 100), Some((200, true)));
        assert_eq!(limits(Some(500), Some(200), 400), Some((100, true)));
        assert_eq!(limits(Some(500), None, 500), None);
        assert_eq!(limits(Some(90_000), None, 0), Some((90_000, true)), "beyond the configured");
    }

    #[test]
    fn zero_is_for_ever() {
        let forever = Some((86_400_000, false));
        assert_eq!(limits(Some(0), None, 500_000), forever);
        assert_eq!(limits(None, Some(0), 0), forever);
        assert_eq!(limits(Some(0), Some(200), 0), Some((200, true)));
    }

    #[test]
    fn pauses_double_from_the_least_and_have_an_end() {
        let policy = |backoff_ms| RetryPolicy { backoff_ms, ..RetryPolicy::default() };
        let pauses = |backoff_ms, jitter| {
            [1, 2, 9].map(|n| pause(Some(&policy(backoff_ms)), n, jitter).as_millis())
        };
        assert_eq!(pauses(None, 0.0), [25, 50, 1_000]);
        assert_eq!(pauses(Some(100), 0.0), [100, 200, 1_000]);
        assert_eq!(pauses(Some(5_000), 0.0), [5_000; 3]);
        assert_eq!(pauses(Some(100), 1.0), [125, 250, 1_250], "never less than asked for");
        assert_eq!(pause(None, 1, 1.0), Duration::ZERO);
    }

    #[test]
    fn attempts_are_those_of_the_rule_within_the_limit() {
        let settings = Settings::new(FlowHashKey(*b"sixteen byte key"));
        let of = |attempts| RetryPolicy { attempts, ..RetryPolicy::default() };
        assert_eq!(attempts(None, &settings), settings.attempts_max);
        assert_eq!(attempts(Some(&of(None)), &settings), settings.attempts_max);
        assert_eq!(attempts(Some(&of(Some(1))), &settings), 2);
        assert_eq!(attempts(Some(&of(Some(u32::MAX))), &settings), ATTEMPTS_MAX);
    }
}
