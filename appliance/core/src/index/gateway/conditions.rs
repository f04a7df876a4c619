//! Conditions, and why they do not hold.

use crate::{Condition, Holds};

/// Why something does not hold: a reason of the API, and what it means here.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Why {
    pub(super) reason: &'static str,
    /// A sentence without a final stop.
    pub(super) message: String,
}

impl Why {
    pub(super) fn new(reason: &'static str, message: impl Into<String>) -> Self {
        Self { reason, message: message.into() }
    }
}

/// A condition that holds.
pub(super) fn holds(kind: &str, reason: &str, message: &str, generation: i64) -> Condition {
    Condition {
        kind: kind.into(),
        holds: Holds::True,
        reason: reason.into(),
        message: message.into(),
        generation,
    }
}

/// A condition that does not hold.
pub(super) fn fails(kind: &str, why: &Why, generation: i64) -> Condition {
    Condition {
        kind: kind.into(),
        holds: Holds::False,
        reason: why.reason.into(),
        message: why.message.as_str().into(),
        generation,
    }
}

/// A condition that holds, for the reason of its own name, unless something stands against it.
pub(super) fn unless(kind: &str, why: Option<&Why>, good: &str, generation: i64) -> Condition {
    match why {
        Some(why) => fails(kind, why, generation),
        None => holds(kind, kind, good, generation),
    }
}
