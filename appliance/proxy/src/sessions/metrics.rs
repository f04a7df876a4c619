//! What is counted about sessions.

use prometheus::{IntCounter, IntCounterVec, Opts, Registry};

/// Tokens, looked up once.
#[derive(Clone, Debug)]
pub(crate) struct SessionMetrics {
    begun: IntCounter,
    renewed: IntCounter,
}

impl SessionMetrics {
    pub(crate) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let tokens = IntCounterVec::new(
            Opts::new(
                "haflinger_proxy_session_tokens_total",
                "Tokens that clients were given to come back to their backend, by whether the \
                 session is a new one (begun), also because the former backend was no longer \
                 active, or goes on (renewed).",
            ),
            &["session"],
        )?;
        registry.register(Box::new(tokens.clone()))?;
        let of = |session| tokens.with_label_values(&[session]);
        Ok(Self { begun: of("begun"), renewed: of("renewed") })
    }

    /// A client was given a token.
    pub(crate) fn given(&self, renewed: bool) {
        if renewed { self.renewed.inc() } else { self.begun.inc() }
    }
}
