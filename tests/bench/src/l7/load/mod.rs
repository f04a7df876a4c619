//! What clients do, on the core of the load: wrk and h2load where they can, and clients of our
//! own for handshakes, WebSockets and idle connections.

mod h2load;
mod idle;
mod own;
mod wrk;

use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::proxies::Proxy;
use super::routes::Answer;

pub(super) use idle::Idle;

/// Kinds of clients.
#[derive(Clone, Copy, Debug)]
pub(super) enum Load {
    /// HTTP/1.1 on connections that stay, by wrk.
    Requests { tls: bool, answer: Answer, connections: usize },
    /// HTTP/1.1, one request on each connection, by wrk.
    Connections,
    /// HTTP/2 over TLS, many streams on few connections, by h2load.
    Streams,
    /// The same with a message of gRPC in each request.
    Calls,
    /// A TLS connection, one request on it, and the next.
    Handshakes { resumed: bool },
    /// Messages over WebSockets, each sent when the one before has come back.
    Messages,
}

/// What clients saw.
#[derive(Clone, Copy, Debug)]
pub(super) struct Outcome {
    /// Requests, calls, connections or messages: those that ended well. There are no others.
    pub(super) count: u64,
    pub(super) elapsed: Duration,
    pub(super) latency: Latency,
}

/// From asking to the whole answer, in milliseconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Latency {
    pub(super) p50: f64,
    pub(super) p99: f64,
    pub(super) p999: f64,
}

impl Latency {
    /// Of samples in microseconds, at least one.
    fn of(mut samples: Vec<u32>) -> Result<Self> {
        samples.sort_unstable();
        let at = |thousandths: usize| -> Result<f64> {
            let position =
                (samples.len() * thousandths / 1000).min(samples.len().saturating_sub(1));
            Ok(f64::from(*samples.get(position).context("no latencies")?) / 1e3)
        };
        Ok(Self { p50: at(500)?, p99: at(990)?, p999: at(999)? })
    }
}

impl Load {
    /// Loads a proxy for so long.
    pub(super) fn carry_out(self, proxy: &Proxy, duration: Duration) -> Result<Outcome> {
        let outcome = match self {
            Self::Requests { tls, answer, connections } => {
                wrk::keep(proxy, tls, answer, connections, duration)
            }
            Self::Connections => wrk::connect(proxy, duration),
            Self::Streams => h2load::request(proxy, duration),
            Self::Calls => h2load::call(proxy, duration),
            Self::Handshakes { resumed } => own::shake_hands(proxy.https, resumed, duration),
            Self::Messages => own::exchange_messages(proxy.http, duration),
        }?;
        ensure!(outcome.count > 0, "nothing went through");
        Ok(outcome)
    }

    /// The program that it needs.
    pub(super) fn program(self) -> Option<&'static str> {
        match self {
            Self::Requests { .. } | Self::Connections => Some("wrk"),
            Self::Streams | Self::Calls => Some("h2load"),
            Self::Handshakes { .. } | Self::Messages => None,
        }
    }

    /// What is counted.
    pub(super) fn unit(self) -> &'static str {
        match self {
            Self::Requests { .. } | Self::Streams => "request",
            Self::Connections | Self::Handshakes { .. } => "connection",
            Self::Calls => "call",
            Self::Messages => "message",
        }
    }
}

/// Runs a program to its end; what it wrote.
fn output_of(command: &mut Command) -> Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output =
        command.stdin(Stdio::null()).output().with_context(|| format!("starting {name}"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(
        output.status.success(),
        "{name} ended with {}: {text}{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_all_samples_in_order() {
        let latency = Latency::of((1..=10_000).rev().collect()).unwrap();
        assert_eq!((latency.p50, latency.p99, latency.p999), (5.001, 9.901, 9.991));
        let only = Latency::of(vec![7]).unwrap();
        assert_eq!((only.p50, only.p999), (0.007, 0.007));
        assert!(Latency::of(Vec::new()).is_err());
    }
}
