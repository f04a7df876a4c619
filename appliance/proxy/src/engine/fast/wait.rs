//! One timer for a connection, armed seldom.
//!
//! Whoever waits moves the moment at which it gives up, and not the timer: only when the timer fires
//! too early is it set anew. So a busy connection sets it once in the length of its limits.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

/// The timer.
#[derive(Debug, Default)]
pub(super) struct Wait {
    timer: Option<Pin<Box<Sleep>>>,
    until: Option<Instant>,
}

impl Wait {
    /// What was waited for has come: the next wait is another one.
    pub(super) fn over(&mut self) {
        self.until = None;
    }

    /// Ready once the wait that begins with the first call has lasted for `limit`.
    pub(super) fn poll(&mut self, limit: Duration, cx: &mut Context<'_>) -> Poll<()> {
        let until = *self.until.get_or_insert_with(|| Instant::now() + limit);
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(until)));
        if timer.deadline() > until {
            timer.as_mut().reset(until);
        }
        while timer.as_mut().poll(cx).is_ready() {
            if Instant::now() >= until {
                return Poll::Ready(());
            }
            timer.as_mut().reset(until);
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    async fn wait(wait: &mut Wait, millis: u64) -> u128 {
        let (since, limit) = (Instant::now(), Duration::from_millis(millis));
        wait.over();
        poll_fn(|cx| wait.poll(limit, cx)).await;
        since.elapsed().as_millis()
    }

    #[tokio::test(start_paused = true)]
    async fn each_wait_lasts_as_long_as_its_own_limit() {
        let mut one = Wait::default();
        for millis in [500, 100, 900, 900, 5] {
            let took = wait(&mut one, millis).await;
            // The timer's own grain is a millisecond.
            assert!((u128::from(millis)..=u128::from(millis) + 1).contains(&took), "{took}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_comes_in_time_makes_the_next_wait_a_whole_one() {
        let mut one = Wait::default();
        let limit = Duration::from_millis(100);
        for _ in 0..10 {
            let early = tokio::time::timeout(limit / 2, poll_fn(|cx| one.poll(limit, cx)));
            assert!(early.await.is_err());
            one.over();
        }
        assert!(wait(&mut one, 100).await >= 100);
    }
}
