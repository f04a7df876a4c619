//! What an Ingress says, and certificates.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{
    AddressWish, BackendWishes, CertificateRef, FieldEdits, ObjectRef, PathMatch, PathRewrite,
    Redirect, RequestWishes, SourceFault,
};

/// An Ingress (or a `[[site]]` of the inventory) as its source describes it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IngressSpec {
    /// Seconds since 1970 at which it was created: of two that claim one host and path the
    /// older keeps it.
    pub created_secs: i64,
    /// Rules in the object's order.
    pub rules: Vec<IngressRule>,
    /// Where requests go that match no rule.
    pub default_backend: Option<IngressBackend>,
    /// Certificates and the names that they are for.
    pub tls: Vec<IngressTls>,
    /// Addresses of its own; empty: the shared ones.
    pub requested: Vec<IpAddr>,
    /// The pool from which it wants an address of its own.
    pub pool: Option<Arc<str>>,
    /// What else it asks about its addresses.
    #[serde(default)]
    pub wish: AddressWish,
    /// The record: addresses in its status.
    pub recorded: Vec<IpAddr>,
    /// Ports to listen on, when not the policy's (inventory only).
    pub http_port: Option<u16>,
    /// HTTPS port, when not the policy's (inventory only).
    pub https_port: Option<u16>,
    /// Further host names for DNS, beside those of the rules.
    pub hostnames: Vec<Arc<str>>,
    /// Time to live of those records in seconds.
    pub ttl_secs: Option<u32>,
    /// What it asks for its requests beside where they go.
    #[serde(default, skip_serializing_if = "IngressRequests::is_plain")]
    pub requests: IngressRequests,
    /// What discovery had to refuse.
    pub faults: Vec<SourceFault>,
}

/// What an Ingress asks for its requests beside where they go: annotations of other controllers
/// (docs/from-ingress-nginx.md, docs/from-haproxy.md), or tables of the inventory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct IngressRequests {
    /// Plain requests are sent to HTTPS.
    pub to_https: Option<ToHttps>,
    /// All requests are sent elsewhere.
    pub redirect: Option<Redirect>,
    /// Requests for `/` alone are sent to this path, with status 302.
    pub root: Option<Arc<str>>,
    /// The host that backends see; `None`: the client's.
    pub host: Option<Arc<str>>,
    /// Fields of requests.
    pub request_headers: FieldEdits,
    /// Fields of answers.
    pub response_headers: FieldEdits,
    /// What any object may ask.
    #[serde(flatten)]
    pub wishes: RequestWishes,
    /// How its backends are chosen and spoken to.
    pub backends: BackendWishes,
}

impl IngressRequests {
    fn is_plain(&self) -> bool {
        *self == Self::default()
    }
}

/// How plain requests are sent to HTTPS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToHttps {
    /// 301, 302, 303, 307 or 308.
    pub status: u16,
    /// The port; `None`: that on which the Ingress is served by TLS.
    pub port: Option<u16>,
    /// Also for hosts that `tls` does not name, because TLS ends before us.
    pub always: bool,
}

/// One host and path of an Ingress.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IngressRule {
    /// Lower-case host name, `*.suffix`, or `None` for every host.
    pub host: Option<Arc<str>>,
    /// How the path is compared.
    pub path_match: PathType,
    /// The path, beginning with `/`.
    pub path: Arc<str>,
    /// Where such requests go.
    pub backend: IngressBackend,
    /// The path that the backend sees.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rewrite: Option<PathRewrite>,
}

/// How an Ingress path is compared (Ingress v1 `pathType`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PathType {
    /// The whole path, case sensitive.
    Exact,
    /// Element by element, split by `/`.
    Prefix,
    /// The whole path fits a regular expression.
    Regex,
}

impl PathType {
    /// The comparison with a path.
    pub fn with(self, path: Arc<str>) -> PathMatch {
        match self {
            Self::Exact => PathMatch::Exact(path),
            Self::Prefix => PathMatch::Prefix(path),
            Self::Regex => PathMatch::Regex(path),
        }
    }
}

/// The service and port that an Ingress points at.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct IngressBackend {
    /// The service object.
    pub service: ObjectRef,
    /// Its port.
    pub port: IngressPort,
}

/// A service port by number or by name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IngressPort {
    /// By number.
    Number(u16),
    /// By name.
    Name(Arc<str>),
}

/// A certificate and the names that it serves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IngressTls {
    /// Host names; empty: those of the certificate itself.
    pub hosts: Vec<Arc<str>>,
    /// The certificate.
    pub certificate: CertificateRef,
}

/// A certificate chain and its private key, PEM. `Debug` shows neither.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertificateSpec {
    /// Leaf first.
    pub chain_pem: Vec<u8>,
    /// PKCS#8, PKCS#1 or SEC1.
    pub key_pem: Vec<u8>,
    /// What the authority says about the leaf (OCSPResponse of RFC 6960, section 4.2.1, DER), for
    /// clients that ask; empty: nothing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ocsp_der: Vec<u8>,
}

impl fmt::Debug for CertificateSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CertificateSpec({} bytes of chain, key withheld)", self.chain_pem.len())
    }
}
