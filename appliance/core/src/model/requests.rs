//! What objects ask for requests beside where they go, and for the backends of a Service: the wishes
//! that a RequestPolicy, an Ingress and a `[[site]]` of the inventory share, and those of a
//! BackendPolicy.
//!
//! A wish that is not written leaves the matter to the next wider object, and at last to the
//! configuration.
//!
//! # To add a wish
//!
//! 1. its field here, with unit, range and the constant of its limit;
//! 2. what it comes to: `filters` in `index/wishes.rs` for requests, [`BackendWishes::or`] and
//!    [`BackendWishes::balance`] for backends;
//! 3. how it is written: the field of `RequestWishesBody` or `BackendWishesBody` in
//!    `discovery/src/objects/policies.rs`, and how that is read in
//!    `discovery/src/translate/gateway/wishes.rs`. The inventory's `[site.requests]` and
//!    `[site.backends]` are read by the same code;
//! 4. its schema in `packaging/kubernetes/policies.yaml`;
//! 5. its rows in `docs/honours.md` and `docs/policies.md`, where an example has it: a test reads
//!    the rows, another one applies the examples to an API server.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{
    ApiStatus, AuthorizerWish, Balance, Choice, ClientRanges, Compression, Concurrency, Cors,
    Ejection, ErrorPages, Maintenance, ObjectRef, Persistence, RateLimit, RetryAllowance,
    RetryPolicy, RuleTimeouts, SourceFault, TokensWish, UpstreamProtocol, Users,
};

/// Objects that one policy targets (`spec.targetRefs`): `status.ancestors`, in which each of them is
/// told of, has room for so many (GEP-713).
pub const POLICY_TARGETS_MAX: usize = 16;

/// Rates of one object: each costs a look at a table for every request.
pub const RATES_MAX: usize = 8;

/// What is asked of requests and done with them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RequestWishes {
    /// Who may ask.
    pub clients: Option<ClientRanges>,
    /// How often may be asked, at most [`RATES_MAX`]; empty: as often as one likes.
    pub rates: Option<Vec<RateLimit>>,
    /// Names and passwords.
    pub users: Option<Arc<Users>>,
    /// Signed tokens.
    pub tokens: Option<TokensWish>,
    /// The word of a server.
    pub authorizer: Option<AuthorizerWish>,
    /// Bytes of a request's body at most.
    pub body_max: Option<u64>,
    /// What other origins may do.
    pub cors: Option<Cors>,
    /// How long requests may take.
    pub timeouts: RuleTimeouts,
    /// Which failures are tried again.
    pub retry: Option<RetryPolicy>,
    /// Bytes of a request's header at most, beside the configured limit.
    pub header_max: Option<u32>,
    /// Bytes of an answer's body at most, as the backend sends it.
    pub answer_max: Option<u64>,
    /// Which answers are compressed; without codings none.
    pub compression: Option<Compression>,
    /// Pages in the place of errors.
    pub error_pages: Option<ErrorPages>,
    /// Nothing is passed on for now.
    pub maintenance: Option<Maintenance>,
    /// How the requests of a client keep going to one backend.
    pub sessions: Option<Persistence>,
}

/// How the backends of a Service are chosen and spoken to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct BackendWishes {
    /// What they speak; it counts more than the `appProtocol` of the port.
    pub speaks: Option<UpstreamProtocol>,
    /// Which of them gets a request.
    pub choice: Option<Choice>,
    /// As [`Balance::slow_start_ms`].
    pub slow_start_ms: Option<u32>,
    /// When one that fails is left out for a while.
    pub ejection: Option<Ejection>,
    /// How many requests one gets at once.
    pub concurrency: Option<Concurrency>,
    /// What retries may add to the load.
    pub retries: Option<RetryAllowance>,
}

impl BackendWishes {
    /// These, and where they say nothing, those of `wider`.
    pub fn or(&self, wider: &Self) -> Self {
        Self {
            speaks: self.speaks.or(wider.speaks),
            choice: self.choice.clone().or_else(|| wider.choice.clone()),
            slow_start_ms: self.slow_start_ms.or(wider.slow_start_ms),
            ejection: self.ejection.or(wider.ejection),
            concurrency: self.concurrency.or(wider.concurrency),
            retries: self.retries.or(wider.retries),
        }
    }

    /// How requests are spread by them: what asks for nothing shares one.
    pub fn balance(&self) -> Arc<Balance> {
        let asked = Balance {
            choice: self.choice.clone().unwrap_or_default(),
            slow_start_ms: self.slow_start_ms.unwrap_or_default(),
            ejection: self.ejection,
            concurrency: self.concurrency,
            retries: self.retries,
        };
        let usual = Balance::usual();
        if asked == *usual { usual } else { Arc::new(asked) }
    }
}

/// A RequestPolicy.
pub type RequestPolicySpec = PolicySpec<RequestWishes>;

/// A BackendPolicy.
pub type BackendPolicySpec = PolicySpec<BackendWishes>;

/// A policy of our own (haflinger.dev/v1alpha1) with its wishes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicySpec<W> {
    /// `metadata.generation`.
    pub generation: i64,
    /// As for [`GatewaySpec::created_secs`](super::GatewaySpec::created_secs).
    pub created_secs: i64,
    /// `spec.targetRefs`, of the policy's own namespace; at most [`POLICY_TARGETS_MAX`].
    pub targets: Vec<PolicyTarget>,
    /// What it asks.
    pub wishes: Arc<W>,
    /// What discovery had to refuse: while there is any, the policy is not followed, and nobody gets
    /// past it.
    pub faults: Vec<SourceFault>,
    /// What its status says, as far as it is ours.
    pub recorded_status: Option<Box<ApiStatus>>,
}

/// One of `spec.targetRefs` of a policy.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PolicyTarget {
    /// The object.
    pub object: ObjectRef,
    /// `sectionName`: a listener, a rule or a port by its name; `None`: all of the object.
    pub section: Option<Arc<str>>,
}
