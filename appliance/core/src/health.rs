//! Rise and fall: a pure machine that turns probe results into health.
