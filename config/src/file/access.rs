//! `[proxy.access_log]` as written, and what requests are known by.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A line for each request that layer 7 has answered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AccessLog {
    /// `off`, `stdout`, `syslog` or the path of a file.
    pub to: String,
    /// `combined`, `json`, `haproxy` or the description of a line.
    pub format: String,
    /// Whether queries are written.
    pub queries: bool,
}

impl Default for AccessLog {
    fn default() -> Self {
        Self { to: "off".into(), format: "combined".into(), queries: false }
    }
}

/// What is done with W3C trace contexts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum TraceContext {
    /// They pass as they are.
    Pass,
    /// Valid ones go on with a new parent id, others are removed.
    Follow,
    /// As `follow`, and requests without one are given one.
    Make,
}
