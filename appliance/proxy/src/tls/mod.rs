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
//! | `accept` | handshakes with clients |
//! | `streams` | connections that are passed on as they are |
//! | `clients` | what clients have to show |
//! | `backends` | handshakes with backends |
//! | `staple` | OCSP responses checked before they are handed out |
//! | `notices` | what is said of certificates although they are served |
//! | `tickets` | sessions that any host of the fleet resumes |
//! | `certificates` | material checked and swapped in place |

mod accept;
mod backends;
pub(crate) mod certificates;
mod clients;
mod hello;
mod metrics;
pub(crate) mod notices;
mod sections;
mod staple;
mod streams;
mod tickets;

pub(crate) use self::accept::{Greeted, greet};
pub(crate) use self::backends::{BackendGreetings, BackendTls, BackendTlsError};
pub use self::metrics::CERTIFICATE_SERIES_MAX;
pub(crate) use self::metrics::{CertificateEnds, TlsMetrics};
pub(crate) use self::sections::{Sections, TlsBase};
pub(crate) use self::streams::relay;
