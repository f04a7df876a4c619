//! What is counted about checks of clients.

use std::time::Duration;

use prometheus::{Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts, Registry};

use super::Denied;
use crate::metrics::DURATION_BUCKETS;

/// What came of a comparison of a password.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Comparison {
    Right,
    Wrong,
    Busy,
}

/// What an authorizer has said.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Authorization {
    Passed,
    Refused,
    Failed,
    Timeout,
    Busy,
}

/// See the help texts.
#[derive(Clone, Debug)]
pub(crate) struct AuthMetrics {
    refused: IntCounterVec,
    comparisons: [IntCounter; 3],
    fetches: [IntCounter; 2],
    /// Key sets whose last fetch failed.
    pub(crate) key_sets_failing: IntGauge,
    authorizations: [IntCounter; 5],
    authorizer_took: Histogram,
}

impl AuthMetrics {
    /// Registers everything.
    pub(crate) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let counters = |name: &str, help: &str, labels: &[&str]| {
            let counters = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(counters.clone()))?;
            Ok::<_, prometheus::Error>(counters)
        };
        let refused = counters(
            "haflinger_proxy_auth_refused_total",
            "Requests refused because of who the client is, by what was asked of it (users, \
             tokens, authorizer) and why.",
            &["by", "reason"],
        )?;
        let comparisons = counters(
            "haflinger_proxy_password_comparisons_total",
            "Passwords compared with their hashes, by outcome: right, wrong; not compared because \
             too many were waiting (busy).",
            &["outcome"],
        )?;
        let fetches = counters(
            "haflinger_proxy_key_fetches_total",
            "Fetches of key sets for tokens, by outcome: fetched, failed.",
            &["outcome"],
        )?;
        let authorizations = counters(
            "haflinger_proxy_authorizations_total",
            "Requests that an authorizer was asked about, by outcome: passed, refused, failed, \
             timeout; not asked because too many were waiting (busy).",
            &["outcome"],
        )?;
        let key_sets_failing = IntGauge::new(
            "haflinger_proxy_key_sets_failing",
            "Key sets for tokens whose last fetch failed; former keys stand.",
        )?;
        registry.register(Box::new(key_sets_failing.clone()))?;
        let authorizer_took = Histogram::with_opts(
            HistogramOpts::new(
                "haflinger_proxy_authorizer_duration_seconds",
                "Time that an authorizer takes to answer, or not to.",
            )
            .buckets(DURATION_BUCKETS.to_vec()),
        )?;
        registry.register(Box::new(authorizer_took.clone()))?;
        // Looked up once: in the order of the enumerations.
        let child = |vec: &IntCounterVec, label: &str| vec.with_label_values(&[label]);
        Ok(Self {
            refused,
            comparisons: ["right", "wrong", "busy"].map(|label| child(&comparisons, label)),
            fetches: ["fetched", "failed"].map(|label| child(&fetches, label)),
            key_sets_failing,
            authorizations: ["passed", "refused", "failed", "timeout", "busy"]
                .map(|label| child(&authorizations, label)),
            authorizer_took,
        })
    }

    pub(crate) fn refused(&self, denied: &Denied) {
        self.refused.with_label_values(&[denied.by, denied.reason]).inc();
    }

    pub(crate) fn compared(&self, outcome: Comparison) {
        self.comparisons[outcome as usize].inc();
    }

    pub(crate) fn fetched(&self, succeeded: bool) {
        self.fetches[usize::from(!succeeded)].inc();
    }

    pub(crate) fn authorized(&self, outcome: Authorization, took: Duration) {
        self.authorizations[outcome as usize].inc();
        if !matches!(outcome, Authorization::Busy) {
            self.authorizer_took.observe(took.as_secs_f64());
        }
    }
}
