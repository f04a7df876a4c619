//! The routes that every proxy has, and the requests that find them.

use crate::random::Random;

/// What an answer of the backend is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// A body of `SMALL` bytes.
    Small,
    /// A body of `LARGE` bytes.
    Large,
    /// An upgrade to WebSocket, and every message back.
    WebSocket,
}

/// Bytes of a small body.
pub(super) const SMALL: usize = 25;

/// Bytes of a large body.
pub(super) const LARGE: usize = 256 * 1024;

/// Path prefixes of each host, where there is more than one route.
pub(super) const PREFIXES: usize = 10;

/// Hosts that requests ask for, and their prefixes: as many as there are with the most routes.
const HOSTS: usize = 1_000;

/// The host that clients ask for who stay with one: its name is also their TLS server name.
const STEADY_HOST: usize = 617;

/// Different requests that a client sends in turn.
const REQUESTS: usize = 100;

/// What the certificate is for.
pub(super) const CERTIFIED: &str = "*.bench.example";

/// The name of a host.
pub(super) fn host(number: usize) -> String {
    format!("h{number}.bench.example")
}

/// The host of clients who stay with one.
pub(super) fn steady_host() -> String {
    host(STEADY_HOST)
}

/// A prefix, without a slash at its end.
pub(super) fn prefix(number: usize) -> String {
    format!("/p{number}")
}

/// Hosts with a table of so many routes; none where one route takes every request.
pub(super) fn hosts(routes: usize) -> impl Iterator<Item = String> {
    let hosts = if routes == 1 { 0 } else { routes / PREFIXES };
    (0..hosts).map(host)
}

/// Host and path of requests spread over the table; the same however many routes there are.
pub(super) fn spread(answer: Answer) -> Vec<(String, String)> {
    let mut random = Random(7);
    (0..REQUESTS)
        .map(|_| (host(random.below(HOSTS)), path(random.below(PREFIXES), answer)))
        .collect()
}

/// Requests for one host alone.
pub(super) fn steady(answer: Answer) -> Vec<(String, String)> {
    (0..PREFIXES).map(|number| (steady_host(), path(number, answer))).collect()
}

fn path(number: usize, answer: Answer) -> String {
    prefix(number) + ending(answer)
}

/// How the paths of requests for it end.
pub(super) fn ending(answer: Answer) -> &'static str {
    match answer {
        Answer::Small => "/small",
        Answer::Large => "/large",
        Answer::WebSocket => "/websocket",
    }
}
