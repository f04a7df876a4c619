//! Waiting for what is bound to happen: bounded, never a fixed sleep that a test relies on.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

/// How often a condition is looked at.
const POLL: Duration = Duration::from_millis(50);

/// Looks until `attempt` succeeds, or gives up after `limit` with its last error.
pub async fn eventually<T>(
    limit: Duration,
    what: &str,
    mut attempt: impl AsyncFnMut() -> Result<T>,
) -> Result<T> {
    let end = Instant::now() + limit;
    loop {
        match attempt().await {
            Ok(value) => return Ok(value),
            Err(error) if Instant::now() > end => {
                return Err(error).with_context(|| format!("waited {limit:?} for {what}"));
            }
            Err(_) => tokio::time::sleep(POLL).await,
        }
    }
}

/// Looks for as long as `duration` and fails as soon as `check` does: for what must not happen.
pub async fn always(
    duration: Duration,
    what: &str,
    mut check: impl AsyncFnMut() -> Result<()>,
) -> Result<()> {
    let end = Instant::now() + duration;
    let mut looks = 0_u32;
    while Instant::now() < end || looks == 0 {
        check().await.with_context(|| what.to_owned())?;
        looks += 1;
        tokio::time::sleep(POLL).await;
    }
    ensure!(looks > 0, "never looked");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::bail;

    #[tokio::test]
    async fn eventually_returns_the_first_success_and_the_last_failure() {
        let mut attempts = 0;
        let result = eventually(Duration::from_secs(60), "three", async || {
            attempts += 1;
            ensure!(attempts == 3, "only {attempts}");
            Ok(attempts)
        });
        assert_eq!(result.await.expect("third attempt"), 3);
        let error = eventually(Duration::ZERO, "never", async || -> Result<()> { bail!("no") })
            .await
            .expect_err("must give up");
        assert_eq!(format!("{error:#}"), "waited 0ns for never: no");
    }
}
