//! What Gateway API objects say (gateway.networking.k8s.io, version 1.6).
//!
//! Sources state the facts field by field; what attaches to what, who wins, and what each object
//! is told about it, is the core's.

use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{
    AddressWish, ApiStatus, CertificateRef, Cors, FieldEdits, LabelSelector, ObjectKind, ObjectRef,
    Persistence, Redirect, RequestMatch, RetryPolicy, Rewrite, RuleTimeouts, SourceFault, SourceId,
    SubjectName,
};

/// A GatewayClass whose `spec.controllerName` is ours. Cluster-wide: its namespace is empty.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GatewayClassSpec {
    /// `metadata.generation`.
    pub generation: i64,
    /// `spec.parametersRef`, as `group/kind name`: nothing here reads it.
    pub parameters: Option<Arc<str>>,
    /// What its status says, as far as it is ours.
    pub recorded_status: Option<Box<ApiStatus>>,
}

/// A Gateway, of whatever class: classes come and go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GatewaySpec {
    /// `metadata.generation`.
    pub generation: i64,
    /// `metadata.creationTimestamp`, in seconds since 1970: of two that claim the same, the older
    /// one has it, then the one whose `namespace/name` comes first.
    pub created_secs: i64,
    /// `spec.gatewayClassName`.
    pub class: Arc<str>,
    /// `spec.listeners`.
    pub listeners: Vec<ListenerSpec>,
    /// `spec.addresses` with a value, of type `IPAddress`.
    pub requested: Vec<IpAddr>,
    /// `spec.addresses` asks for an address of some type that is not served, as `type value`.
    pub foreign_addresses: Vec<Arc<str>>,
    /// `spec.allowedListeners.namespaces`: whose ListenerSets may attach.
    pub allowed_sets: NamespaceChoice,
    /// `spec.tls.frontend.default` and `perPort`: what clients have to show, the port's own first.
    pub client_validation: Vec<PortClientValidation>,
    /// `spec.tls.backend.clientCertificateRef`: what backends are shown that ask for it.
    pub backend_certificate: Option<CertificateChoice>,
    /// The pool from which it wants its addresses.
    pub pool: Option<Arc<str>>,
    /// What else it asks about its addresses.
    pub wish: AddressWish,
    /// The record: addresses in its status.
    pub recorded: Vec<IpAddr>,
    /// Time to live of the DNS records of its listeners' and routes' names, in seconds.
    pub ttl_secs: Option<u32>,
    /// What discovery had to refuse.
    pub faults: Vec<SourceFault>,
    /// What its status says, as far as it is ours.
    pub recorded_status: Option<Box<ApiStatus>>,
}

/// A ListenerSet: further listeners of a Gateway.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListenerSetSpec {
    /// `metadata.generation`.
    pub generation: i64,
    /// As for [`GatewaySpec::created_secs`].
    pub created_secs: i64,
    /// `spec.parentRef`: the Gateway.
    pub parent: ObjectRef,
    /// `spec.listeners`.
    pub listeners: Vec<ListenerSpec>,
    /// What discovery had to refuse.
    pub faults: Vec<SourceFault>,
    /// What its status says, as far as it is ours.
    pub recorded_status: Option<Box<ApiStatus>>,
}

/// One listener (`spec.listeners[]`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListenerSpec {
    /// `name`, unique in its object.
    pub name: Arc<str>,
    /// `hostname`: lower case, exact or `*.suffix`; `None` matches every host.
    pub hostname: Option<Arc<str>>,
    /// `port`.
    pub port: u16,
    /// `protocol`.
    pub protocol: ListenerProtocol,
    /// `tls`.
    pub tls: Option<ListenerTlsSpec>,
    /// `allowedRoutes.namespaces`.
    pub allowed_namespaces: NamespaceChoice,
    /// `allowedRoutes.kinds`; empty: those of the protocol. A kind that is none of ours stands as
    /// `group/kind`.
    pub allowed_kinds: Vec<Result<ObjectKind, Arc<str>>>,
}

/// `protocol` of a listener.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum ListenerProtocol {
    /// `HTTP`.
    Http,
    /// `HTTPS`.
    Https,
    /// `TLS`.
    Tls,
    /// `TCP`.
    Tcp,
    /// `UDP`.
    Udp,
    /// Anything else: not supported.
    Other(Arc<str>),
}

/// `tls` of a listener.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListenerTlsSpec {
    /// `mode: Passthrough`; otherwise `Terminate`.
    pub passthrough: bool,
    /// `certificateRefs`.
    pub certificates: Vec<CertificateChoice>,
    /// `options`, by name.
    pub options: Vec<(Arc<str>, Arc<str>)>,
}

/// A reference, which may cross namespaces where a grant allows it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum CertificateChoice {
    /// A Secret.
    Secret(CertificateRef),
    /// A kind that cannot be one, as `group/kind name`.
    Other(Arc<str>),
}

/// A reference to certificates of authorities, which may cross namespaces where a grant allows it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum AuthorityChoice {
    /// A ConfigMap or a Secret with a key `ca.crt`.
    Object(AuthorityRef),
    /// A kind that cannot be one, as `group/kind name`.
    Other(Arc<str>),
}

/// An object that holds certificates of authorities.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct AuthorityRef {
    /// Where it lives.
    pub source: SourceId,
    /// Its kind.
    pub kind: AuthorityKind,
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
}

/// The kinds of object that hold certificates of authorities.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum AuthorityKind {
    /// `v1/ConfigMap`.
    ConfigMap,
    /// `v1/Secret`.
    Secret,
}

/// Certificates of authorities.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct AuthoritySpec {
    /// `ca.crt`: PEM, one or more.
    pub pem: Vec<u8>,
    /// `ca.crl`: PEM, revocation lists; empty: none is looked at.
    #[serde(default)]
    pub revoked_pem: Vec<u8>,
    /// Why they cannot be used; `None`: they can.
    pub fault: Option<Arc<str>>,
}

/// What clients have to show on a port (`spec.tls.frontend`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortClientValidation {
    /// The port; `None`: all that have none of their own.
    pub port: Option<u16>,
    /// `caCertificateRefs`; empty: nothing is asked.
    pub authorities: Vec<AuthorityChoice>,
    /// `mode: AllowInsecureFallback`: who shows nothing valid is served all the same.
    pub insecure_fallback: bool,
}

/// `namespaces.from` with its selector.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum NamespaceChoice {
    /// `Same`: the object's own.
    Same,
    /// `All`.
    All,
    /// `None`.
    None,
    /// `Selector`: those whose labels fit.
    Labels(LabelSelector),
}

/// A route of any kind; which one, its reference says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteSpec {
    /// `metadata.generation`.
    pub generation: i64,
    /// As for [`GatewaySpec::created_secs`].
    pub created_secs: i64,
    /// `spec.parentRefs`.
    pub parents: Vec<ParentSpec>,
    /// `spec.hostnames`: lower case.
    pub hostnames: Vec<Arc<str>>,
    /// `spec.rules`.
    pub rules: Vec<RouteRuleSpec>,
    /// What discovery had to refuse: the route is not accepted while there is any.
    pub faults: Vec<SourceFault>,
    /// What its status says, as far as it is ours.
    pub recorded_status: Option<Box<ApiStatus>>,
}

/// One of `spec.parentRefs`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ParentSpec {
    /// The Gateway or ListenerSet. Parents of other kinds are not ours to speak of, and left out.
    pub object: ObjectRef,
    /// What is written although it could be left out, which a status repeats as it is. (The API
    /// server fills in group and kind.)
    #[serde(default)]
    pub written: ParentFields,
    /// `sectionName`: the listener.
    pub section: Option<Arc<str>>,
    /// `port`.
    pub port: Option<u16>,
}

/// Which fields of a `parentRef` the object writes out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ParentFields {
    /// `namespace`.
    pub namespace: bool,
}

/// One rule of a route. What the kind of route does not have stays empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteRuleSpec {
    /// `name`.
    pub name: Option<Arc<str>>,
    /// `matches`, one of which has to fit: at least one, that of every request where the object has
    /// none.
    pub matches: Vec<RequestMatch>,
    /// `filters`, in their order.
    pub filters: Vec<FilterSpec>,
    /// `backendRefs`.
    pub backends: Vec<BackendRefSpec>,
    /// `timeouts`.
    pub timeouts: RuleTimeouts,
    /// `retry`.
    pub retry: Option<RetryPolicy>,
    /// `sessionPersistence`.
    #[serde(default)]
    pub persistence: Option<Persistence>,
}

/// One of `backendRefs`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackendRefSpec {
    /// Where to.
    pub backend: BackendRef,
    /// `weight`: its share of the sum of all; 0: none.
    pub weight: u32,
    /// `filters`, for requests that go there.
    pub filters: Vec<FilterSpec>,
}

/// An object that requests are sent to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum BackendRef {
    /// A port of a Service by its number.
    Service {
        /// The Service.
        object: ObjectRef,
        /// `port`; `None` is refused at the route.
        port: Option<u16>,
    },
    /// Another kind, as `group/kind name`: requests get 500.
    Other(Arc<str>),
}

/// A filter as a route states it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FilterSpec {
    /// `RequestHeaderModifier`.
    RequestHeaders(FieldEdits),
    /// `ResponseHeaderModifier`.
    ResponseHeaders(FieldEdits),
    /// `RequestRedirect`.
    Redirect(Redirect),
    /// `URLRewrite`.
    Rewrite(Rewrite),
    /// `RequestMirror`: a copy goes there, whose answer nobody waits for.
    Mirror {
        /// Where to.
        backend: BackendRef,
        /// Of so many requests …
        numerator: u32,
        /// … out of so many. At least 1.
        denominator: u32,
    },
    /// `CORS`.
    Cors(Cors),
    /// `ExtensionRef`.
    Extension(ExtensionRef),
}

/// `ExtensionRef` of a filter: in the route's own namespace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ExtensionRef {
    /// `group/kind`.
    pub kind: Arc<str>,
    /// `name`.
    pub name: Arc<str>,
}

/// A ReferenceGrant: who may name what in its namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReferenceGrantSpec {
    /// `spec.from`.
    pub from: Vec<GrantFrom>,
    /// `spec.to`.
    pub to: Vec<GrantTo>,
}

/// One of `from` of a ReferenceGrant.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct GrantFrom {
    /// `group`.
    pub group: Arc<str>,
    /// `kind`.
    pub kind: Arc<str>,
    /// `namespace`.
    pub namespace: Arc<str>,
}

/// One of `to` of a ReferenceGrant.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct GrantTo {
    /// `group`; empty: the core one.
    pub group: Arc<str>,
    /// `kind`.
    pub kind: Arc<str>,
    /// `name`; `None`: all of the kind.
    pub name: Option<Arc<str>>,
}

/// A BackendTLSPolicy: how Services of its namespace are spoken to by TLS.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackendTlsPolicySpec {
    /// `metadata.generation`.
    pub generation: i64,
    /// As for [`GatewaySpec::created_secs`].
    pub created_secs: i64,
    /// `spec.targetRefs`: the Service, and the name of its port; without one, all its ports.
    pub targets: Vec<(ObjectRef, Option<Arc<str>>)>,
    /// `spec.validation.caCertificateRefs`.
    pub authorities: Vec<AuthorityChoice>,
    /// `spec.validation.wellKnownCACertificates: System`.
    pub system_authorities: bool,
    /// `spec.validation.hostname`: SNI, and the name that the certificate has to have unless
    /// `subject_names` say otherwise.
    pub hostname: Arc<str>,
    /// `spec.validation.subjectAltNames`: one of them has to be there.
    pub subject_names: Vec<SubjectName>,
    /// What discovery had to refuse.
    pub faults: Vec<SourceFault>,
    /// What its status says, as far as it is ours.
    pub recorded_status: Option<Box<ApiStatus>>,
}
