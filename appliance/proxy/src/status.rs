//! What `haflinger status` shows about layer 7.

use std::net::SocketAddr;
use std::sync::Arc;

use haflinger_core::CertificateRef;
use serde::Serialize;

use crate::access::AccessLogStatus;

/// The room at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ProxyStatus {
    /// Generation of the snapshot that is being served.
    pub generation: u64,
    /// Listeners, by address.
    pub listeners: Vec<ListenerStatus>,
    /// Certificates, by name.
    pub certificates: Vec<CertificateStatus>,
    /// Client connections open now.
    pub connections: usize,
    /// The limit on them.
    pub connections_max: usize,
    /// The access log.
    pub access_log: AccessLogStatus,
    /// Threads that carry traffic.
    pub workers: usize,
    /// Whether the number of workers was changed, which holds from the next start.
    pub restart_needed: bool,
}

/// One listener.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ListenerStatus {
    /// VIP and port.
    pub address: SocketAddr,
    /// Whether clients speak TLS.
    pub tls: bool,
    /// Whether it accepts connections.
    pub state: ListenerState,
    /// Why not.
    pub reason: Option<String>,
    /// Rules.
    pub rules: usize,
    /// Those that answer with an error or are left out, because something in them is broken.
    pub rules_faulty: usize,
    /// What is wrong with the first of them.
    pub rule_faults: Vec<Arc<str>>,
    /// Client connections open now.
    pub connections: i64,
    /// Requests ended since it was added.
    pub requests: u64,
}

/// Whether a listener accepts connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ListenerState {
    /// Its socket is bound.
    Bound,
    /// Binding failed and is tried again.
    Retrying,
    /// There are more listeners than [`crate::LISTENERS_MAX`].
    Refused,
}

/// One certificate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CertificateStatus {
    /// Which.
    pub certificate: CertificateRef,
    /// DNS names of the certificate in service; empty when none is.
    pub names: Vec<Arc<str>>,
    /// When the certificate in service expires, in seconds since 1970.
    pub not_after_secs: Option<i64>,
    /// What is wrong with the newest material.
    pub fault: Option<String>,
    /// What is said of the one in service: that it ends soon, that its OCSP response is too old.
    pub notices: Vec<String>,
    /// Until when its OCSP response holds, in seconds since 1970; `None`: it has none that could
    /// ever be handed out.
    pub staple_until_secs: Option<i64>,
}
