//! h2load: HTTP/2 over TLS, with many streams on each connection.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tempfile::TempDir;

use super::{Latency, Outcome, output_of};
use crate::l7::proxies::Proxy;
use crate::l7::routes::{self, Answer};

const CONNECTIONS: usize = 16;

/// Streams at once on each connection.
const STREAMS: usize = 16;

/// The cipher of the other clients too, so that each server's own order plays no part.
const CIPHER: &str = "TLS_AES_256_GCM_SHA384";

/// A unary request: not compressed, eleven bytes long, and these.
const MESSAGE: &[u8] = b"\0\0\0\0\x0bhello bench";

/// Requests without a body.
pub(super) fn request(proxy: &Proxy, duration: Duration) -> Result<Outcome> {
    run(proxy, duration, |_| Ok(Vec::new()))
}

/// gRPC calls, as far as a proxy can tell.
pub(super) fn call(proxy: &Proxy, duration: Duration) -> Result<Outcome> {
    run(proxy, duration, |folder| {
        let message = folder.join("message");
        fs::write(&message, MESSAGE)?;
        let fields = ["--header=content-type: application/grpc", "--header=te: trailers"];
        let data = format!("--data={}", message.display());
        Ok(fields.map(str::to_owned).into_iter().chain([data]).collect())
    })
}

fn run(
    proxy: &Proxy,
    duration: Duration,
    further: impl FnOnce(&Path) -> Result<Vec<String>>,
) -> Result<Outcome> {
    let folder = TempDir::with_prefix("haflinger-bench-")?;
    let log = folder.path().join("log");
    let (host, https) = (routes::steady_host(), proxy.https);
    let mut command = Command::new("h2load");
    command.args([
        format!("--clients={CONNECTIONS}"),
        format!("--max-concurrent-streams={STREAMS}"),
        format!("--duration={}ms", duration.as_millis()),
        format!("--log-file={}", log.display()),
        format!("--tls13-ciphers={CIPHER}"),
        format!("--connect-to={https}"),
        // Without the port, which stands for none of the routes.
        format!("--header=:authority: {host}"),
    ]);
    command.args(further(folder.path())?);
    let paths = routes::steady(Answer::Small);
    command.args(paths.iter().map(|(_, path)| format!("https://{host}:{}{path}", https.port())));
    let text = output_of(&mut command)?;
    let (count, elapsed) = result_in(&text).with_context(|| format!("h2load says {text}"))?;
    ensure!(count > 0, "no request was answered in {elapsed:?}");
    let latency = Latency::of(latencies_in(&fs::read_to_string(&log)?))?;
    Ok(Outcome { count, elapsed, latency })
}

/// Requests that succeeded, and in how long.
fn result_in(text: &str) -> Result<(u64, Duration)> {
    let line = |start: &str| text.lines().find_map(|line| line.strip_prefix(start));
    let finished = line("finished in ").context("it did not finish")?;
    let (elapsed, _) = finished.split_once(',').context("another form of its end")?;
    let requests = line("requests: ").context("no requests")?;
    let number = |what: &str| -> Result<u64> {
        let part = requests.split(", ").find_map(|part| part.strip_suffix(what));
        Ok(part.with_context(|| format!("no number{what}"))?.parse()?)
    };
    let (done, succeeded) = (number(" done")?, number(" succeeded")?);
    let (failed, errored) = (number(" failed")?, number(" errored")?);
    ensure!(done == succeeded && failed + errored == 0, "requests fail");
    Ok((succeeded, seconds(elapsed)?))
}

/// "2.01s", "873.20ms"
fn seconds(text: &str) -> Result<Duration> {
    let number = text.trim_end_matches(|unit: char| unit.is_ascii_alphabetic());
    let scale = match &text[number.len()..] {
        "s" => 1.0,
        "ms" => 1e-3,
        "us" => 1e-6,
        _ => anyhow::bail!("another unit in {text}"),
    };
    Ok(Duration::try_from_secs_f64(number.parse::<f64>()? * scale)?)
}

/// The third field of each line of its log, microseconds.
fn latencies_in(log: &str) -> Vec<u32> {
    log.lines().filter_map(|line| line.split('\t').nth(2)?.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAID: &str = "\nfinished in 1.00s, 41234.00 req/s, 2.11MB/s\n\
        requests: 41234 total, 41490 started, 41234 done, 41234 succeeded, 0 failed, 0 errored, \
        0 timeout\nstatus codes: 41234 2xx, 0 3xx, 0 4xx, 0 5xx\n";

    #[test]
    fn requests_and_their_time_are_read_and_a_failure_is_one() {
        assert_eq!(result_in(SAID).unwrap(), (41_234, Duration::from_secs(1)));
        assert!(result_in(&SAID.replace("0 failed", "3 failed")).is_err());
        assert!(result_in(&SAID.replace("finished", "stopped")).is_err());
        assert_eq!(seconds("873.50ms").unwrap(), Duration::from_micros(873_500));
    }

    #[test]
    fn latencies_are_the_third_field() {
        assert_eq!(
            latencies_in("1763900000000000\t200\t1234\n1763900000000001\t200\t90\n"),
            [1234, 90]
        );
    }
}
