//! What is counted about guards.

use prometheus::{IntCounter, IntCounterVec, Opts, Registry};

use super::Refused;

/// See the help texts.
#[derive(Clone, Debug)]
pub(crate) struct GuardMetrics {
    refused: IntCounterVec,
    /// Clients whose counts were forgotten.
    pub(crate) keys_displaced: IntCounter,
}

impl GuardMetrics {
    /// Registers everything.
    pub(crate) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let refused = IntCounterVec::new(
            Opts::new(
                "haflinger_proxy_requests_refused_total",
                "Requests refused by a rule, by what was asked of the client: client (to be on a \
                 list), rate, body and header (their \
                 size).",
            ),
            &["guard"],
        )?;
        registry.register(Box::new(refused.clone()))?;
        let keys_displaced = IntCounter::new(
            "haflinger_proxy_rate_keys_displaced_total",
            "Clients whose spent rate was forgotten, since more of them ask than are counted.",
        )?;
        registry.register(Box::new(keys_displaced.clone()))?;
        Ok(Self { refused, keys_displaced })
    }

    pub(crate) fn refused(&self, refused: Refused) {
        self.refused.with_label_values(&[refused.as_str()]).inc();
    }
}
