//! TLS towards clients and towards backends.
//!
//! A client's first message is read before anything is decided: its server name chooses the
//! section of the listener, and with it the certificates, what the client has to show, and
//! whether the connection is decrypted here at all.
//!
//! Invariant: whatever changes (certificates, authorities, policies), a connection that is open
//! keeps what it was greeted with, and the next handshake has the new.
//!
//! What it never does: log a key; pass on a certificate's private key to anything but rustls.
//!
//! | module | holds |
//! |---|---|
//! | `hello` | the first message of a client |
//! | `sections` | the sections of a listener by server name |
//! | `by_name` | the closest entry for a server name |
//! | `accept` | handshakes with clients |
//! | `streams` | connections that are passed on as they are |
//! | `clients` | what clients have to show |
//! | `backends` | handshakes with backends |
//! | `certificates` | material checked and swapped in place |

mod accept;
mod backends;
mod by_name;
pub(crate) mod certificates;
mod clients;
mod hello;
mod metrics;
mod sections;
mod streams;

pub(crate) use self::accept::{Greeted, greet};
pub(crate) use self::backends::{BackendGreetings, BackendTls, BackendTlsError};
pub(crate) use self::by_name::NameMap;
pub(crate) use self::metrics::TlsMetrics;
pub(crate) use self::sections::{Sections, TlsBase};
pub(crate) use self::streams::relay;
