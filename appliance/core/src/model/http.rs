//! What the proxy serves: listeners, sections, rules and what is done with requests.
//!
//! Whatever an Ingress, a route or a policy says ends here, resolved: a reader needs no other
//! object to serve a request.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{
    AuthoritySpec, Balance, CertificateRef, Filter, IngressTls, ObjectRef, PathMatch, Persistence,
    RequestMatch, Target,
};

/// What is served on one TCP socket address (the key of `Snapshot::http`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpListener {
    /// Whether clients speak TLS. On one socket all do, or none.
    pub tls: bool,
    /// Parts that share the socket and nothing else. With TLS the server name of the handshake
    /// chooses (none: [`HostMatch::Any`]), without it the host of each request: the section whose
    /// host fits most closely, and only its rules ("listener isolation", Gateway API
    /// `spec.listeners`). No two have the same host.
    pub sections: Vec<Section>,
}

/// One part of a listener: a listener of a Gateway or a ListenerSet, or all Ingresses together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Section {
    /// The object and its listener; `None`: Ingresses and sites, whose rules name their own.
    pub origin: Option<SectionRef>,
    /// Whose it is. Ingresses have [`HostMatch::Any`].
    pub host: HostMatch,
    /// How clients are greeted; present exactly on a TLS listener, but for passthrough, where
    /// the backend greets them.
    pub tls: Option<SectionTls>,
    /// What is done with what they send.
    pub serves: Serves,
}

/// A listener by its object and name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SectionRef {
    /// The Gateway or ListenerSet.
    pub object: ObjectRef,
    /// `spec.listeners[].name`.
    pub name: Arc<str>,
}

/// What is done with connections of a section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Serves {
    /// HTTP requests, by rules: see [`HttpRule::precedence`] for their order.
    Requests(Vec<HttpRule>),
    /// Connections as they are, behind TLS or ([`Section::tls`] is absent) with it (TLSRoute): the
    /// first whose host fits the server name, most specific first.
    Streams(Vec<StreamRule>),
}

/// How the clients of a section are greeted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SectionTls {
    /// Names and certificates.
    pub certificates: Vec<IngressTls>,
    /// What clients have to show.
    pub client: Option<ClientValidation>,
}

/// What clients have to show (`spec.tls.frontend…validation`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientValidation {
    /// Who has to have signed their certificate: never empty. An object that cannot be read is
    /// left out; when none can, there is one without content, and nobody is let in.
    pub authorities: Vec<Arc<AuthoritySpec>>,
    /// `AllowInsecureFallback`: who shows nothing, or nothing valid, is let in all the same.
    pub optional: bool,
}

/// Which hosts.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum HostMatch {
    /// This one, lower case.
    Exact(Arc<str>),
    /// Any with exactly one label before this suffix, which is without `*.` (Ingress v1).
    OneLabel(Arc<str>),
    /// Any with one label or more before this suffix (Gateway API `Hostname`).
    Suffix(Arc<str>),
    /// Every one, and none.
    Any,
}

/// One way to match, and what happens then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpRule {
    /// Host names: closer ones win over everything else.
    pub host: HostMatch,
    /// What else the request has to be like.
    pub matches: RequestMatch,
    /// What is done with it; shared between the matches of one rule.
    pub action: Arc<RuleAction>,
    /// The Ingress or route that the rule is from.
    pub object: ObjectRef,
}

impl HttpRule {
    /// A rule by host and path, to one target or, without it, the answer 503 (Ingress v1).
    pub fn simple(
        host: HostMatch,
        path: PathMatch,
        target: Option<Target>,
        object: ObjectRef,
    ) -> Self {
        let to = target.map(Upstream::plain).ok_or(503);
        let backend = RuleBackend { weight: 1, to, filters: Vec::new() };
        let action = RuleAction { backends: vec![backend], ..RuleAction::default() };
        Self { host, matches: RequestMatch::path(path), action: Arc::new(action), object }
    }
}

impl HttpListener {
    /// A listener of Ingresses alone.
    pub fn simple(certificates: Option<Vec<IngressTls>>, rules: Vec<HttpRule>) -> Self {
        let tls = certificates.map(|certificates| SectionTls { certificates, client: None });
        let serves = Serves::Requests(rules);
        let section = Section { origin: None, host: HostMatch::Any, tls, serves };
        Self { tls: section.tls.is_some(), sections: vec![section] }
    }

    /// Rules of all sections.
    pub fn rules(&self) -> impl Iterator<Item = &HttpRule> {
        let rules = self.sections.iter().map(|section| match &section.serves {
            Serves::Requests(rules) => &rules[..],
            Serves::Streams(_) => &[],
        });
        rules.flatten()
    }

    /// Every target that something on the socket leads to.
    pub fn targets(&self) -> impl Iterator<Item = &Target> {
        let of_rules = self.rules().flat_map(|rule| &rule.action.backends);
        let of_rules = of_rules.filter_map(|backend| Some(&backend.to.as_ref().ok()?.target));
        let streams = self.sections.iter().filter_map(|section| match &section.serves {
            Serves::Requests(_) => None,
            Serves::Streams(rules) => Some(rules),
        });
        let of_streams = streams.flatten().flat_map(|rule| &rule.backends);
        of_rules.chain(of_streams.filter_map(|(_, target)| target.as_ref()))
    }

    /// Whether some requests are answered without a backend: clients are sent elsewhere, or told
    /// that a Gateway has nothing for them, which no backend's health can change.
    pub fn answers_itself(&self) -> bool {
        let redirects = |filter: &Filter| matches!(filter, Filter::Redirect(_));
        let of_gateway = || self.sections.iter().any(|section| section.origin.is_some());
        self.rules().any(|rule| rule.action.filters.iter().any(redirects))
            || of_gateway() && self.targets().next().is_none()
    }

    /// Names and certificates of all sections.
    pub fn certificates(&self) -> impl Iterator<Item = &IngressTls> {
        self.sections
            .iter()
            .filter_map(|section| section.tls.as_ref())
            .flat_map(|t| &t.certificates)
    }
}

impl HostMatch {
    /// As an Ingress writes it: `*.suffix` stands for one label, nothing for every host.
    pub fn of_ingress(host: Option<&Arc<str>>) -> Self {
        match host {
            None => Self::Any,
            Some(host) => match host.strip_prefix("*.") {
                Some(suffix) => Self::OneLabel(suffix.into()),
                None => Self::Exact(host.clone()),
            },
        }
    }
}

/// What is done with a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuleAction {
    /// The rule's name in its object, for what is shown.
    pub name: Option<Arc<str>>,
    /// Where requests go, by weight; those that cannot be resolved keep their share, and answer
    /// with the status in [`RuleBackend::to`]. Empty: the filters answer, or else 500.
    pub backends: Vec<RuleBackend>,
    /// In their order, before those of the backend.
    pub filters: Vec<Filter>,
    /// How long it may take.
    pub timeouts: RuleTimeouts,
    /// Which failures are tried again beside failed connects, which always are.
    pub retry: Option<RetryPolicy>,
    /// How the requests of a client keep going to one backend.
    pub persistence: Option<Persistence>,
}

/// One backend of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleBackend {
    /// Its share of the sum of all; 0: none.
    pub weight: u32,
    /// Where to, or the status that requests are answered with: 500 for what does not exist or may
    /// not be named (HTTPRoute `backendRefs`), 503 for an Ingress.
    pub to: Result<Upstream, u16>,
    /// For requests that go there, after those of the rule.
    pub filters: Vec<Filter>,
}

/// A target and how it is spoken to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upstream {
    /// The backends.
    pub target: Target,
    /// The protocol.
    pub speaks: UpstreamProtocol,
    /// How it is greeted; `None`: without TLS.
    pub tls: Option<Arc<UpstreamTls>>,
    /// How requests are spread over the backends.
    pub balance: Arc<Balance>,
}

impl Upstream {
    /// In plain HTTP/1.1.
    pub fn plain(target: Target) -> Self {
        Self { target, speaks: UpstreamProtocol::Http1, tls: None, balance: Balance::usual() }
    }
}

/// What a backend speaks (KEP-3726 `appProtocol`; GRPCRoute).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum UpstreamProtocol {
    /// HTTP/1.1, also for WebSockets.
    #[default]
    Http1,
    /// HTTP/2: with TLS agreed on in the handshake, without it known beforehand
    /// (`kubernetes.io/h2c`).
    Http2,
}

/// How a backend is greeted (BackendTLSPolicy, Gateway `spec.tls.backend`).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct UpstreamTls {
    /// The server name sent, and the name that the certificate has to have unless `subject_names`
    /// says otherwise.
    pub server_name: Arc<str>,
    /// Names of which the certificate has to have one; empty: `server_name`.
    pub subject_names: Vec<SubjectName>,
    /// Who has to have signed the certificate.
    pub authorities: UpstreamAuthorities,
    /// What is shown to a backend that asks for a certificate.
    pub client_certificate: Option<CertificateRef>,
}

/// A name in a certificate (RFC 5280, section 4.2.1.6).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum SubjectName {
    /// A DNS name.
    Dns(Arc<str>),
    /// A URI, compared as a whole (SPIFFE).
    Uri(Arc<str>),
}

/// Whom a backend's certificate has to be from.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum UpstreamAuthorities {
    /// Those that the host itself trusts.
    System,
    /// Only these.
    These(Vec<Arc<AuthoritySpec>>),
}

/// Where connections go that are not looked into.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamRule {
    /// Server names.
    pub host: HostMatch,
    /// By weight; those that cannot be resolved keep their share, and are closed.
    pub backends: Vec<(u32, Option<Target>)>,
    /// The TLSRoute that the rule is from.
    pub object: ObjectRef,
}

/// How long requests of a rule may take (GEP-1742). Milliseconds; `None`: as configured; 0: for
/// ever.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct RuleTimeouts {
    /// From the first byte of the request to the last one of the answer, with all attempts.
    pub request_ms: Option<u32>,
    /// Of one attempt.
    pub backend_ms: Option<u32>,
}

/// What is tried again (GEP-1731).
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct RetryPolicy {
    /// Status codes of a backend's answer that are not passed on while an attempt is left.
    pub codes: Vec<u16>,
    /// Attempts beside the first; `None`: as configured.
    pub attempts: Option<u32>,
    /// Pause before another attempt at least, in milliseconds.
    pub backoff_ms: Option<u32>,
}
