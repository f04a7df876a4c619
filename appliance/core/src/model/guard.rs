//! What is asked of a client before its request goes anywhere.

use std::fmt;
use std::sync::Arc;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// Ranges of a list of clients: more belong into a firewall.
pub const CLIENT_RANGES_MAX: usize = 1_024;

/// Who may ask. Others get 403.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ClientRanges {
    /// Only these; `None`: all. Empty: nobody, because nothing of the list could be read.
    pub allow: Option<Vec<IpNet>>,
    /// Of those, all but these.
    pub deny: Vec<IpNet>,
}

/// How often may be asked. One time too many gets [`RateLimit::status`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct RateLimit {
    /// So many requests …
    pub requests: u32,
    /// … in so many milliseconds, on each host of the fleet.
    pub period_ms: u32,
    /// At once after a pause: at least 1.
    pub burst: u32,
    /// Whose requests are counted together.
    pub per: RateKey,
    /// 429 (RFC 6585, section 4), or what the object says.
    pub status: u16,
}

/// Largest [`RateLimit::requests`] and [`RateLimit::burst`]: above what a host serves.
pub const RATE_REQUESTS_MAX: u32 = 10_000_000;

/// Largest [`RateLimit::period_ms`]: a day.
pub const RATE_PERIOD_MAX_MS: u32 = 86_400_000;

/// Whose requests are counted together.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RateKey {
    /// Everybody's.
    All,
    /// Those of one client: an IPv4 address, or an IPv6 network of 64 bits, which is what one
    /// subscriber has.
    Client,
    /// Those with one value of this field; requests without it are counted together.
    Header(Arc<str>),
}

impl fmt::Display for RateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all"),
            Self::Client => f.write_str("client"),
            Self::Header(name) => write!(f, "header {name}"),
        }
    }
}
