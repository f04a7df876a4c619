//! The proxy with clients and backends on loopback:
//!
//! ```text
//!  client ── 127.x.y.z:18080 ── proxy ── 127.0.0.1:* ── backends of this process
//! ```

#![expect(clippy::unwrap_used, reason = "a test may panic")]
#![expect(unreachable_pub, reason = "a test binary has no outside")]

mod answers;
mod auth;
mod backends;
mod clients;
mod cors;
mod fast;
mod forwarding;
mod grpc;
mod guards;
mod hostile;
mod lifecycle;
mod mirrors;
mod patience;
mod policies;
mod rules;
mod seen;
mod sessions;
mod staples;
mod streams;
mod support;
mod tls;
mod traffic;
mod why;
