//! wrk, with requests that were written before it starts, and one line of results.

use std::fs;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tempfile::TempDir;

use super::{Latency, Outcome, output_of};
use crate::l7::proxies::Proxy;
use crate::l7::routes::{self, Answer, LARGE};

/// Connections that are opened one after the other for each request.
const AT_ONCE: usize = 64;

/// Tells what there is to tell at the end, in microseconds; and leads every name to loopback, so
/// that TLS is greeted by a name that is in no DNS.
const SCRIPT: &str = r#"
local at = 0
function request()
    at = at % #requests + 1
    return requests[at]
end
function wrk.resolve(host, service)
    wrk.addrs = wrk.lookup("127.0.0.1", service)
end
function done(summary, latency, per_thread)
    local errors = summary.errors
    io.write(string.format("summary %d %d %d %d %d %d %d\n", summary.requests, summary.duration,
        summary.bytes, errors.connect + errors.read + errors.write + errors.status + errors.timeout,
        latency:percentile(50), latency:percentile(99), latency:percentile(99.9)))
end
"#;

/// Requests on connections that stay.
pub(super) fn keep(
    proxy: &Proxy,
    tls: bool,
    answer: Answer,
    connections: usize,
    duration: Duration,
) -> Result<Outcome> {
    let (requests, address) = match tls {
        // Of one host, which the server name says.
        true => (routes::steady(answer), proxy.https),
        false => (routes::spread(answer), proxy.http),
    };
    let scheme = if tls { "https" } else { "http" };
    let url = format!("{scheme}://{}:{}/", routes::steady_host(), address.port());
    let (outcome, bytes) = run(&requests, "", connections, &url, duration)?;
    let least = if answer == Answer::Large { LARGE as u64 * outcome.count } else { 0 };
    ensure!(bytes >= least, "answers are cut short: {bytes} bytes instead of {least}");
    Ok(outcome)
}

/// A connection for each request.
pub(super) fn connect(proxy: &Proxy, duration: Duration) -> Result<Outcome> {
    let url = format!("http://{}:{}/", routes::steady_host(), proxy.http.port());
    let requests = routes::spread(Answer::Small);
    Ok(run(&requests, "Connection: close\\r\\n", AT_ONCE, &url, duration)?.0)
}

/// What was seen, and the bytes that came.
fn run(
    requests: &[(String, String)],
    field: &str,
    connections: usize,
    url: &str,
    duration: Duration,
) -> Result<(Outcome, u64)> {
    let folder = TempDir::with_prefix("haflinger-bench-")?;
    let script = folder.path().join("requests.lua");
    let written: String = requests
        .iter()
        .map(|(host, path)| {
            format!("    \"GET {path} HTTP/1.1\\r\\nHost: {host}\\r\\n{field}\\r\\n\",\n")
        })
        .collect();
    fs::write(&script, format!("requests = {{\n{written}}}\n{SCRIPT}"))?;
    let mut command = Command::new("wrk");
    command.args(["--threads", "1", "--connections", &connections.to_string()]);
    // It takes whole seconds.
    command.args(["--duration", &format!("{}s", duration.as_secs().max(1))]);
    command.arg("--script").arg(&script).arg(url);
    let text = output_of(&mut command)?;
    result_in(&text).with_context(|| format!("wrk says {text}"))
}

fn result_in(text: &str) -> Result<(Outcome, u64)> {
    let line = text.lines().find_map(|line| line.strip_prefix("summary "));
    let line = line.context("no summary")?;
    let numbers: Vec<u64> = line.split(' ').map(str::parse).collect::<Result<_, _>>()?;
    let [count, micros, bytes, errors, p50, p99, p999] = numbers[..] else {
        anyhow::bail!("another summary");
    };
    ensure!(errors == 0, "{errors} requests failed");
    let millis = |micros: u64| micros as f64 / 1e3;
    let latency = Latency { p50: millis(p50), p99: millis(p99), p999: millis(p999) };
    let elapsed = Duration::from_micros(micros);
    Ok((Outcome { count, elapsed, latency }, bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_is_read_and_a_failure_is_one() {
        let (outcome, bytes) =
            result_in("Running 1s test\nsummary 5000 1000000 655360000000 0 900 2500 8000\n")
                .unwrap();
        assert_eq!((outcome.count, bytes), (5000, 655_360_000_000));
        assert_eq!(outcome.elapsed, Duration::from_secs(1));
        assert_eq!((outcome.latency.p50, outcome.latency.p999), (0.9, 8.0));
        assert!(result_in("summary 5000 1000000 9 1 900 2500 8000").is_err());
        assert!(result_in("unable to connect").is_err());
    }
}
