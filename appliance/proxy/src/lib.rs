//! Layer 7: routes, certificates and Pingora behind a small seam.
//!
//! The room serves what a snapshot's `http`, `targets` and `certificates` say, straight to the
//! backends, by their forwarding tables. It reads snapshots, reports bad certificates, and talks
//! to no other room.
//!
//! Invariant: a connection that is open is not disturbed by any change of routes, backends or
//! certificates; only taking its own listener out of service ends it, after its requests.
//!
//! What it never does: name Kubernetes; resolve names; block a worker on the control loop; answer
//! with anything that names a backend.
//!
//! | module | holds |
//! |---|---|
//! | `proxy` | the room's loop and handle |
//! | `tables` | snapshot against what is served |
//! | `guards` | what is asked of clients before a backend hears of them |
//! | `auth` | who clients have to be: passwords, tokens, the word of a server |
//! | `worker`, `listen`, `listener`, `connection` | threads, sockets, draining |
//! | `tls` | certificates, sections by server name, handshakes |
//! | `routes`, `hosts`, `paths`, `conditions`, `expressions` | which rule a request leads to, pure |
//! | `admission`, `answers`, `authority` | whether it is let through, pure |
//! | `action`, `edits`, `rewrite`, `cors`, `headers`, `upstream`, `patience` | what is done with it, pure |
//! | `coding`, `pages` | what clients get in the place of what a backend says |
//! | `sessions` | which backend a client comes back to, pure |
//! | `correlation` | request ids and trace contexts, pure |
//! | `access` | the access log |
//! | `tally` | what is counted for each route and pod |
//! | `slots` | places whose content changes while many hold them |
//! | `why` | what would become of a request, and why |
//! | `engine` | the only place that names Pingora |

mod access;
mod action;
mod admission;
mod answers;
mod auth;
mod authority;
mod coding;
mod conditions;
mod connection;
mod correlation;
mod cors;
mod edits;
mod engine;
mod expressions;
mod guards;
mod headers;
mod hosts;
mod listen;
mod listener;
mod metrics;
mod pages;
mod paths;
mod patience;
mod proxy;
mod reports;
mod rewrite;
mod routes;
mod sessions;
mod settings;
mod slots;
mod status;
mod tables;
mod tally;
mod tls;
mod upstream;
mod why;
mod worker;

pub use access::{
    AccessDestination, AccessFormat, AccessLogSettings, AccessLogStatus, FORMAT_BYTES_MAX,
    FORMAT_FIELDS_MAX, FormatError, LineFormat, QUEUE_BYTES_MAX, QUEUE_LINES_MAX,
};
pub use correlation::TraceContext;
pub use engine::EngineError;
pub use proxy::{Proxy, ProxyError, ProxyHandle};
pub use settings::{
    ATTEMPTS_MAX, CONNECTION_REQUESTS_MAX, RETRY_PERCENT_MAX, Settings, SettingsError,
    TICKET_ROTATION_SECS, TicketSecret, TlsPolicy, WORKERS_MAX,
};
pub use status::{CertificateStatus, ListenerState, ListenerStatus, ProxyStatus};
pub use tables::LISTENERS_MAX;
pub use tally::{PODS_COUNTED_MAX, ROUTES_COUNTED_MAX, TallyView, TallyViews};
pub use tls::CERTIFICATE_SERIES_MAX;
pub use tls::certificates::CertificateError;
pub use upstream::RETRY_RESERVE;
pub use why::{
    BackendWhy, CertificateWhy, FilterWhy, ListenerWhy, OnwardWhy, Outcome, Question,
    QuestionError, Rejected, RuleWhy, ShareWhy, TlsWhy, UrlWhy,
};
pub use worker::WorkerError;

/// Targets of Pingora's own log records, which say per connection, at level error, what this
/// room counts and tells at level debug. The log filter should have `TARGET=off` for each.
pub const NOISY_LOG_TARGETS: [&str; 2] = ["pingora_core", "pingora_proxy"];
