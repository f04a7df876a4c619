//! What routes say, as rules that need no other object.
//!
//! A backend that cannot be had keeps its share of the requests, which get 500. A filter that
//! cannot be had makes its rule answer 500: a filter is never left out in silence, but for a copy
//! of requests (`RequestMirror`), whose answer nobody waits for.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Uses;
use super::conditions::Why;
use super::grants::Named;
use super::policies::named_policy;
use crate::index::Index;
use crate::index::wishes::{Followed, Layer, followed};
use crate::{
    BackendRef, BackendRefSpec, CertificateRef, ExtensionRef, Filter, FilterSpec, Mirror,
    ObjectKind, ObjectRef, Protocol, RouteRuleSpec, RouteSpec, RuleAction, RuleBackend,
    ServicePort, Target, Upstream, UpstreamProtocol, UpstreamTls,
};

/// The answer in the place of a backend that cannot be had (HTTPRoute `backendRefs`).
const NO_BACKEND: u16 = 500;

/// A route's rules, and what stands against them.
#[derive(Debug, Default)]
pub(super) struct Compiled {
    /// What each rule does; absent: the rule is not served.
    pub(super) rules: Vec<Option<CompiledRule>>,
    /// The first of the rules' references that leads nowhere.
    pub(super) unresolved: Option<Why>,
    /// Why the route as a whole is not served.
    pub(super) refused: Option<Why>,
    /// Why some of its rules are not served.
    pub(super) dropped: Option<Why>,
}

/// What a rule does.
#[derive(Debug)]
pub(super) struct CompiledRule {
    /// By its own word.
    pub(super) action: Arc<RuleAction>,
    /// What policies ask that its filters name, or that are for it or for its route, the closest
    /// first. Those for listeners and Gateways come after them.
    pub(super) layers: Vec<Layer>,
}

/// Filters as they stand, and what policies ask that stand among them.
#[derive(Default)]
struct Filters {
    own: Vec<Filter>,
    layers: Vec<Layer>,
}

/// How a port of a Service is greeted, by Service and port.
type Greetings = BTreeMap<(ObjectRef, u16), Option<Result<Arc<UpstreamTls>, Why>>>;

/// Compiles the routes of one Gateway.
pub(super) struct Compiler<'a> {
    pub(super) index: &'a Index,
    /// What the Gateway shows to backends that ask for a certificate.
    pub(super) client_certificate: Option<CertificateRef>,
    /// What was looked at on the way.
    pub(super) uses: Uses,
    greetings: Greetings,
}

impl<'a> Compiler<'a> {
    pub(super) fn new(
        index: &'a Index,
        client_certificate: Option<CertificateRef>,
        uses: Uses,
    ) -> Self {
        Self { index, client_certificate, uses, greetings: Greetings::new() }
    }

    /// The rules of an HTTPRoute or a GRPCRoute.
    pub(super) fn compile(&mut self, route: &ObjectRef, spec: &RouteSpec) -> Compiled {
        let mut compiled = Compiled { refused: refusal(spec), ..Compiled::default() };
        let mut incompatible = Vec::new();
        for (at, rule) in spec.rules.iter().enumerate() {
            let action = match is_incompatible(rule) {
                true => {
                    incompatible.push(at.to_string());
                    None
                }
                false => Some(self.rule(route, rule, &mut compiled)),
            };
            compiled.rules.push(action);
        }
        if !incompatible.is_empty() && compiled.refused.is_none() {
            let all = incompatible.len() == spec.rules.len();
            let which = incompatible.join(", ");
            let what = "RequestRedirect and URLRewrite cannot both be followed";
            let message = format!("Dropped Rule {which}: {what}");
            match all {
                true => compiled.refused = Some(Why::new("IncompatibleFilters", what)),
                false => compiled.dropped = Some(Why::new("UnsupportedValue", message)),
            }
        }
        compiled
    }

    fn rule(
        &mut self,
        route: &ObjectRef,
        rule: &RouteRuleSpec,
        compiled: &mut Compiled,
    ) -> CompiledRule {
        let unresolved = &mut compiled.unresolved;
        let filters = self.filters(route, &rule.filters, unresolved);
        let mut backends = Vec::with_capacity(rule.backends.len());
        for backend in &rule.backends {
            backends.push(self.backend(route, backend, unresolved));
        }
        let Ok(Filters { own, mut layers }) = filters else {
            let action = Arc::new(RuleAction::unfollowed(rule.name.clone()));
            return CompiledRule { action, layers: Vec::new() };
        };
        let api = &self.index.gateway_api;
        layers.extend(rule.name.as_ref().and_then(|name| api.layer(route, Some(name))));
        layers.extend(api.layer(route, None));
        let action = RuleAction {
            name: rule.name.clone(),
            backends,
            filters: own,
            timeouts: rule.timeouts,
            retry: rule.retry.clone(),
            persistence: rule.persistence.clone(),
        };
        CompiledRule { action: Arc::new(action), layers }
    }

    fn backend(
        &mut self,
        route: &ObjectRef,
        spec: &BackendRefSpec,
        unresolved: &mut Option<Why>,
    ) -> RuleBackend {
        let to = self.upstream(route, &spec.backend);
        let filters = self.backend_filters(route, &spec.filters, unresolved);
        let to = to.map_err(|why| {
            note(unresolved, why);
            NO_BACKEND
        });
        match filters {
            Ok(filters) => RuleBackend { weight: spec.weight, to, filters },
            Err(()) => {
                RuleBackend { weight: spec.weight, to: Err(NO_BACKEND), filters: Vec::new() }
            }
        }
    }

    /// Filters of a backend: what policies ask among them first.
    fn backend_filters(
        &mut self,
        route: &ObjectRef,
        specs: &[FilterSpec],
        unresolved: &mut Option<Why>,
    ) -> Result<Vec<Filter>, ()> {
        let Filters { own, layers } = self.filters(route, specs, unresolved)?;
        // One that cannot be followed has been noted.
        let Followed { mut filters, timeouts, retry, persistence } = followed(&layers).ok_or(())?;
        let of_rule = retry.is_some() || persistence.is_some();
        if timeouts != crate::RuleTimeouts::default() || of_rule {
            let message = "a RequestPolicy at a backend asks for timeouts, retries or sessions, \
                           which only a rule has";
            note(unresolved, Why::new("UnsupportedValue", message));
            return Err(());
        }
        filters.extend(own);
        Ok(filters)
    }

    /// Filters in their order; nothing where one of them cannot be had.
    fn filters(
        &mut self,
        route: &ObjectRef,
        specs: &[FilterSpec],
        unresolved: &mut Option<Why>,
    ) -> Result<Filters, ()> {
        let mut filters = Filters::default();
        for spec in specs {
            filters.own.push(match spec {
                FilterSpec::RequestHeaders(edits) => Filter::RequestHeaders(edits.clone()),
                FilterSpec::ResponseHeaders(edits) => Filter::ResponseHeaders(edits.clone()),
                FilterSpec::Redirect(redirect) => Filter::Redirect(redirect.clone()),
                FilterSpec::Rewrite(rewrite) => Filter::Rewrite(rewrite.clone()),
                FilterSpec::Cors(cors) => Filter::Cors(cors.clone()),
                FilterSpec::Mirror { backend, numerator, denominator } => {
                    let (numerator, denominator) = (*numerator, *denominator);
                    match self.upstream(route, backend) {
                        Ok(to) => Filter::Mirror(Mirror { to, numerator, denominator }),
                        Err(why) => {
                            note(unresolved, why);
                            continue;
                        }
                    }
                }
                FilterSpec::Extension(extension) => {
                    let layer = self.extension(route, extension);
                    filters.layers.push(layer.map_err(|why| note(unresolved, why))?);
                    continue;
                }
            });
        }
        Ok(filters)
    }

    /// What the policy asks that a filter names.
    fn extension(&self, route: &ObjectRef, extension: &ExtensionRef) -> Result<Layer, Why> {
        let (kind, name) = (&extension.kind, &extension.name);
        let Some(policy) = named_policy(route, extension) else {
            let message = format!("filter {kind} {name} is of no kind that is served");
            return Err(Why::new("InvalidKind", message));
        };
        let layer = self.index.gateway_api.named_layer(&policy).ok_or_else(|| {
            Why::new("FilterNotFound", format!("filter {kind} {name} is missing"))
        })?;
        if layer.wishes.is_none() {
            let message = format!("filter {kind} {name} is not valid");
            return Err(Why::new("InvalidFilter", message));
        }
        Ok(layer)
    }

    /// Where requests for a backend go. One that must not be spoken to answers 500 without
    /// anything being wrong with the route.
    fn upstream(&mut self, route: &ObjectRef, backend: &BackendRef) -> Result<Upstream, Why> {
        let (target, port) = self.target(route, backend, Protocol::Tcp)?;
        self.uses.services.insert(target.object.clone());
        let tls = self.greeting(&target.object, &port);
        let wishes = self.index.gateway_api.backend_wishes(&target.object, &port.name);
        let wishes = wishes.ok_or_else(|| Why::new(POLICY, "a policy is not valid"))?;
        let own = speaks(route.kind, &port, tls.is_some())?;
        let speaks = wishes.speaks.unwrap_or(own);
        let tls = tls.transpose().map_err(|why| Why::new(POLICY, why.message))?;
        let balance = wishes.balance();
        Ok(Upstream { target, speaks, tls, balance })
    }

    /// The target of a reference, with the port of the Service.
    pub(super) fn target(
        &mut self,
        route: &ObjectRef,
        backend: &BackendRef,
        protocol: Protocol,
    ) -> Result<(Target, ServicePort), Why> {
        let (object, port) = match backend {
            BackendRef::Service { object, port } => (object, *port),
            BackendRef::Other(kind) => {
                let message = format!("{kind} is of no kind that requests can be sent to");
                return Err(Why::new("InvalidKind", message));
            }
        };
        let place = format!("service {}/{}", object.namespace, object.name);
        if object.namespace != route.namespace {
            self.uses.foreign.insert(object.namespace.clone());
        }
        let (namespace, name) = (&object.namespace, &*object.name);
        let named = Named { kind: "Service", namespace, name };
        if !self.index.gateway_api.is_granted(route, named) {
            let message = format!("{place} is of another namespace, and no ReferenceGrant there");
            return Err(Why::new("RefNotPermitted", format!("{message} allows the reference")));
        }
        self.uses.named.insert(object.clone());
        let missing = |what: String| Why::new("BackendNotFound", what);
        let Some(number) = port else { return Err(missing(format!("{place}: port is missing"))) };
        let entry = self.index.services.get(object);
        let spec = entry.and_then(|entry| Some((entry, entry.spec.as_ref()?)));
        let Some((entry, spec)) = spec else { return Err(missing(format!("{place} is missing"))) };
        let mut ports = spec.ports.iter();
        let port = ports.find(|port| (port.protocol, port.port) == (protocol, number));
        let Some(port) = port else {
            return Err(missing(format!("{place} has no {protocol} port {number}")));
        };
        Ok((entry.http_target(object, port), port.clone()))
    }

    /// How a port of a Service is greeted; `None`: without TLS.
    pub(super) fn greeting(
        &mut self,
        service: &ObjectRef,
        port: &ServicePort,
    ) -> Option<Result<Arc<UpstreamTls>, Why>> {
        let api = &self.index.gateway_api;
        let certificate = self.client_certificate.as_ref();
        let key = (service.clone(), port.port);
        let greeting = self.greetings.entry(key);
        greeting.or_insert_with(|| api.greeting(service, &port.name, certificate)).clone()
    }
}

/// Marks that it is a policy that does not let a backend be spoken to: the reference is good.
const POLICY: &str = "Policy";

fn note(unresolved: &mut Option<Why>, why: Why) {
    if why.reason != POLICY {
        unresolved.get_or_insert(why);
    }
}

/// Why a route as a whole is not served.
pub(super) fn refusal(spec: &RouteSpec) -> Option<Why> {
    let fault = spec.faults.first()?;
    Some(Why::new("UnsupportedValue", fault.message.clone()))
}

/// Whether a rule would send the client away and yet have its request changed (HTTPRoute
/// `filters`).
fn is_incompatible(rule: &RouteRuleSpec) -> bool {
    let mut filters = rule.filters.iter();
    let redirects = filters.clone().any(|filter| matches!(filter, FilterSpec::Redirect(_)));
    redirects && filters.any(|filter| matches!(filter, FilterSpec::Rewrite(_)))
}

/// What a backend speaks (KEP-3726, GEP-1911).
fn speaks(route: ObjectKind, port: &ServicePort, tls: bool) -> Result<UpstreamProtocol, Why> {
    let own = match route {
        ObjectKind::GrpcRoute => UpstreamProtocol::Http2,
        _ => UpstreamProtocol::Http1,
    };
    match port.app_protocol.as_deref() {
        Some("kubernetes.io/h2c") => Ok(UpstreamProtocol::Http2),
        Some("kubernetes.io/ws") => Ok(UpstreamProtocol::Http1),
        Some(secure @ ("kubernetes.io/wss" | "https")) if !tls => {
            let message = format!(
                "port {} wants {secure}, and no BackendTLSPolicy says whom to trust",
                port.port
            );
            Err(Why::new("UnsupportedProtocol", message))
        }
        Some("kubernetes.io/wss") => Ok(UpstreamProtocol::Http1),
        _ => Ok(own),
    }
}
