//! How requests are spread over the backends of an upstream, and what a backend is spared.

use std::sync::{Arc, LazyLock};

use serde::{Deserialize, Serialize};

/// Largest [`Balance::slow_start_ms`]: an hour. What takes longer to warm up should not be ready.
pub const SLOW_START_MAX_MS: u32 = 3_600_000;

/// Largest [`Ejection::consecutive`], [`Ejection::requests_min`] and bound on answers counted.
pub const EJECTION_REQUESTS_MAX: u32 = 1_000_000;

/// Largest [`Ejection::window_ms`]: an hour.
pub const EJECTION_WINDOW_MAX_MS: u32 = 3_600_000;

/// Largest [`Ejection::base_ms`] and [`Ejection::longest_ms`]: a day. What is longer is a matter
/// of health checks.
pub const EJECTION_TIME_MAX_MS: u32 = 86_400_000;

/// Largest [`Ejection::latency_percent`]: a thousand times as slow as the others.
pub const EJECTION_LATENCY_MAX_PERCENT: u32 = 100_000;

/// Largest [`Concurrency::requests`]: beyond it a limit is none.
pub const CONCURRENCY_REQUESTS_MAX: u32 = 1_000_000;

/// Largest [`Concurrency::queue`]: each request that waits holds a connection and its header.
pub const QUEUE_LENGTH_MAX: u32 = 100_000;

/// Largest [`Concurrency::wait_ms`]: an hour, which is longer than clients wait.
pub const QUEUE_WAIT_MAX_MS: u32 = 3_600_000;

/// Largest [`RetryAllowance::percent`]: ten retries a request.
pub const RETRY_ALLOWANCE_MAX_PERCENT: u32 = 1_000;

/// Largest [`RetryAllowance::reserve`].
pub const RETRY_RESERVE_MAX: u32 = 1_000_000;

/// How requests are spread over the backends of an upstream. The default is what is done when
/// nothing is asked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default)]
pub struct Balance {
    /// Which backend gets a request.
    pub choice: Choice,
    /// How long a backend that comes, or comes back, gets less than its share, in milliseconds,
    /// up to [`SLOW_START_MAX_MS`]: it begins with a tenth and gains evenly. 0: none. It means
    /// nothing to [`Choice::Hash`], whose keys would move twice.
    pub slow_start_ms: u32,
    /// When a backend that fails is left out for a while; `None`: never.
    pub ejection: Option<Ejection>,
    /// How many requests a backend gets at once; `None`: as many as come.
    pub concurrency: Option<Concurrency>,
    /// What retries may add to the load; `None`: as configured.
    pub retries: Option<RetryAllowance>,
}

impl Balance {
    /// The default, shared.
    pub fn usual() -> Arc<Self> {
        static USUAL: LazyLock<Arc<Balance>> = LazyLock::new(Arc::default);
        USUAL.clone()
    }
}

/// Which backend gets a request. All follow the backends' weights.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Choice {
    /// By the forwarding table, each request another bucket.
    #[default]
    Table,
    /// By the forwarding table, requests that are alike the same bucket, so that they go to the
    /// same backend and the fewest possible move when backends change.
    Hash(HashKey),
    /// One after the other.
    RoundRobin,
    /// The one with the fewest requests in flight.
    LeastRequests,
    /// The one that would answer first, by its latency, which follows a slow answer at once and a
    /// fast one slowly, and its requests in flight.
    PeakEwma,
    /// The one of two drawn ones with fewer requests in flight.
    PowerOfTwo,
    /// Of some drawn ones, the fastest of those that do not have many requests in flight (Wydrowski
    /// and others, "Load is not what you should balance: introducing Prequal", NSDI 2024).
    Prequal,
}

/// What makes requests alike. A request without it is spread as by [`Choice::Table`].
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HashKey {
    /// The client's address, of which trusted proxies may tell.
    Client,
    /// The value of a header field; its name in lower case.
    Header(Arc<str>),
    /// The value of a cookie (RFC 6265, section 4.2.1).
    Cookie(Arc<str>),
    /// The value of a parameter of the query, the first of its name.
    Query(Arc<str>),
    /// The path, without the query.
    Path,
    /// Path and query.
    Uri,
    /// The host asked for.
    Host,
}

/// When a backend is left out because of what its answers are like, seen by this host alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default)]
pub struct Ejection {
    /// After so many failures in a row, 1 to [`EJECTION_REQUESTS_MAX`]; 0: not by this.
    pub consecutive: u32,
    /// When so many of a hundred answers of a window were failures, 1 to 100; 0: not by this.
    pub failure_percent: u32,
    /// When answers of a window took so many hundredths of what those of the others took, 101 to
    /// [`EJECTION_LATENCY_MAX_PERCENT`]; 0: not by this.
    pub latency_percent: u32,
    /// Answers that a window has to have to be judged, 1 to [`EJECTION_REQUESTS_MAX`].
    pub requests_min: u32,
    /// The window in milliseconds, 1 to [`EJECTION_WINDOW_MAX_MS`].
    pub window_ms: u32,
    /// Which answers are failures, beside none at all.
    pub failures: FailureKind,
    /// How long the first time, in milliseconds, 1 to [`EJECTION_TIME_MAX_MS`]. Each further time
    /// doubles it, each such time without one halves it again.
    pub base_ms: u32,
    /// The longest time, in milliseconds, `base_ms` to [`EJECTION_TIME_MAX_MS`].
    pub longest_ms: u32,
    /// Of a hundred backends at most so many are left out at once, rounded down, 1 to 100.
    pub share_max_percent: u32,
    /// While fewer than so many of a hundred backends are left (of all that do not drain), nobody
    /// is left out, 0 to 100: what all do is not their own fault.
    pub panic_percent: u32,
}

impl Default for Ejection {
    fn default() -> Self {
        Self {
            consecutive: 5,
            failure_percent: 0,
            latency_percent: 0,
            requests_min: 20,
            window_ms: 10_000,
            failures: FailureKind::default(),
            base_ms: 10_000,
            longest_ms: 300_000,
            share_max_percent: 50,
            panic_percent: 30,
        }
    }
}

/// Which answers count as failures. Failed connects, connections that end without an answer and
/// times that run out always do.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// 502, 503 and 504.
    #[default]
    Gateway,
    /// Every status from 500 to 599.
    Server,
    /// No status.
    Connection,
}

/// How many requests a backend gets at once, and what happens to more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default)]
pub struct Concurrency {
    /// Requests in flight from this host to one backend, 1 to [`CONCURRENCY_REQUESTS_MAX`].
    pub requests: u32,
    /// Requests that wait for one of the upstream's backends, up to [`QUEUE_LENGTH_MAX`]; more
    /// are answered 503 with `Retry-After`.
    pub queue: u32,
    /// How long one waits in milliseconds, 1 to [`QUEUE_WAIT_MAX_MS`]; then it is answered in the
    /// same way.
    pub wait_ms: u32,
}

impl Default for Concurrency {
    fn default() -> Self {
        Self { requests: 100, queue: 100, wait_ms: 5_000 }
    }
}

/// What retries may add to the load of an upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct RetryAllowance {
    /// Retries earned by a hundred requests, up to [`RETRY_ALLOWANCE_MAX_PERCENT`].
    pub percent: u32,
    /// Retries saved up at most, up to [`RETRY_RESERVE_MAX`]: those of a small service's first
    /// failures, before any traffic has earned some.
    pub reserve: u32,
}
