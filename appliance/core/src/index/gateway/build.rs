//! Everything that follows from one Gateway with its ListenerSets and routes.
//!
//! ```text
//!  Gateway ──┬─> merge ──> attach <── routes
//!  sets ─────┘     │          │
//!                  v          v
//!               sections <─ rules <── Services, grants, policies
//! ```
//!
//! A function of what objects say. Addresses come later: what is built does not change with them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::attach::{Attached, Attachments};
use super::conditions::Why;
use super::hosts::host_match;
use super::l4::Conduit;
use super::listeners::{Merged, Opening, merge};
use super::routes::{Compiled, CompiledRule, Compiler, refusal};
use super::tls_policies::PolicyVerdict;
use super::{GatewayApi, Uses};
use crate::index::Index;
use crate::index::wishes::Layer;
use crate::{
    CertificateRef, GatewaySpec, HttpListener, HttpRule, ListenerProtocol, ListenerSpec,
    NamespaceChoice, ObjectKind, ObjectRef, Protocol, RouteSpec, RuleAction, Section, SectionRef,
    Serves, StreamRule,
};

/// What one Gateway comes to.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Built {
    /// The Gateway's own listeners, then those of its ListenerSets, in their order.
    pub(super) listeners: Vec<BuiltListener>,
    /// ListenerSets that name the Gateway; whether it lets them in.
    pub(super) sets: BTreeMap<ObjectRef, bool>,
    /// What is served on each TCP port.
    pub(super) ports: BTreeMap<u16, Arc<HttpListener>>,
    /// What L4 listeners lead to.
    pub(super) conduits: Vec<Conduit>,
    /// By route and place among its parents.
    pub(super) routes: BTreeMap<(ObjectRef, usize), RouteVerdict>,
    /// Policies for Services that its routes lead to.
    pub(super) policies: BTreeMap<ObjectRef, PolicyVerdict>,
    /// What is wrong with its certificate towards backends.
    pub(super) client_certificate: Option<Why>,
    /// Names for DNS.
    pub(super) hostnames: BTreeSet<Arc<str>>,
    /// What was looked at.
    pub(super) uses: Uses,
}

/// A listener and what stands against it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct BuiltListener {
    pub(super) owner: ObjectRef,
    pub(super) name: Arc<str>,
    pub(super) port: u16,
    /// The transport; `None`: of no protocol that is known.
    pub(super) opening: Option<Opening>,
    pub(super) kinds: Vec<ObjectKind>,
    pub(super) refusal: Option<Why>,
    pub(super) conflicted: bool,
    pub(super) overlaps: bool,
    pub(super) unresolved: Vec<Why>,
    /// What its clients would meet can be served.
    pub(super) usable: bool,
    pub(super) attached: u32,
}

impl BuiltListener {
    pub(super) fn transport(&self) -> Protocol {
        match self.opening {
            Some(Opening::Udp) => Protocol::Udp,
            _ => Protocol::Tcp,
        }
    }
}

/// What a route is told about one of its parents.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct RouteVerdict {
    pub(super) refused: Option<Why>,
    pub(super) unresolved: Option<Why>,
    pub(super) dropped: Option<Why>,
}

/// A route with its rules.
pub(super) type Ready<'a> = (&'a ObjectRef, &'a RouteSpec, Compiled);

impl Index {
    /// Builds a Gateway of ours anew.
    pub(super) fn build_gateway(&self, gateway: &ObjectRef, spec: &GatewaySpec) -> Built {
        let api = &self.gateway_api;
        let mut built = Built::default();
        let mut uses = Uses { selects: selects(&spec.allowed_sets), ..Uses::default() };
        let sets = api.sets_for(gateway, spec, &mut built.sets);
        let of_sets = sets.iter().map(|(set, of_set)| (*set, *of_set));
        let mut merged = merge(std::iter::once((gateway, &spec.listeners[..])).chain(of_sets));
        let parents = parents(gateway, &built.sets, &merged);
        let candidates = api.candidates(gateway, &built.sets);
        uses.selects |= merged.iter().any(|at| selects(&at.spec.allowed_namespaces));
        let attachments = api.attach(&merged, &parents, &candidates);
        let certificate = self.client_certificate(gateway, spec, &mut uses);
        let (client_certificate, fault) = match certificate {
            Ok(certificate) => (certificate, None),
            Err(why) => (None, Some(why)),
        };
        built.client_certificate = fault;
        let mut compiler = Compiler::new(self, client_certificate, uses);
        let routes: Vec<Ready<'_>> = candidates
            .iter()
            .map(|(route, of_route)| (*route, *of_route, compiler.route(route, of_route)))
            .collect();
        built.sections((gateway, spec), &mut merged, &attachments, &routes, &mut compiler);
        built.judge_routes(&attachments, &routes);
        built.judge_policies(self, &mut compiler.uses);
        built.listeners = describe(&merged, &attachments, &routes);
        built.uses = compiler.uses;
        built
    }

    fn client_certificate(
        &self,
        gateway: &ObjectRef,
        spec: &GatewaySpec,
        uses: &mut Uses,
    ) -> Result<Option<CertificateRef>, Why> {
        let Some(choice) = &spec.backend_certificate else { return Ok(None) };
        let found = self.certificate(gateway, choice, uses);
        let (certificate, fault) = found.map_err(|why| match why.reason {
            "InvalidCertificateRef" => Why::new("InvalidClientCertificateRef", why.message),
            _ => why,
        })?;
        match fault {
            Some(why) => Err(Why::new("InvalidClientCertificateRef", why.message)),
            None => Ok(Some(certificate)),
        }
    }
}

/// Whether labels of namespaces decide.
fn selects(choice: &NamespaceChoice) -> bool {
    matches!(choice, NamespaceChoice::Labels(_))
}

impl GatewayApi {
    /// The ListenerSets that a Gateway lets in, in their order of precedence.
    fn sets_for<'a>(
        &'a self,
        gateway: &ObjectRef,
        spec: &GatewaySpec,
        judged: &mut BTreeMap<ObjectRef, bool>,
    ) -> Vec<(&'a ObjectRef, &'a [ListenerSpec])> {
        let mut sets = Vec::new();
        for set in self.sets_of.of(gateway) {
            let Some((set, of_set)) = self.listener_sets.get_key_value(set) else { continue };
            let allowed = self.allows(&spec.allowed_sets, gateway, set);
            judged.insert(set.clone(), allowed);
            if allowed {
                sets.push((set, of_set));
            }
        }
        sets.sort_by_key(|(set, of_set)| (of_set.created_secs, *set));
        sets.into_iter().map(|(set, of_set)| (set, &of_set.listeners[..])).collect()
    }

    /// Routes that name the Gateway or one of its ListenerSets, the oldest first.
    fn candidates<'a>(
        &'a self,
        gateway: &ObjectRef,
        sets: &BTreeMap<ObjectRef, bool>,
    ) -> Vec<(&'a ObjectRef, &'a RouteSpec)> {
        let parents = std::iter::once(gateway).chain(sets.keys());
        let names: BTreeSet<&ObjectRef> = parents.flat_map(|of| self.routes_of.of(of)).collect();
        let known = names.into_iter().filter_map(|name| self.routes.get_key_value(name));
        let mut routes: Vec<(&ObjectRef, &RouteSpec)> =
            known.map(|(name, spec)| (name, &**spec)).collect();
        routes.sort_by(|(one, a), (other, b)| {
            let by_age = a.created_secs.cmp(&b.created_secs);
            let by_name = || (&one.namespace, &one.name).cmp(&(&other.namespace, &other.name));
            by_age.then_with(by_name).then_with(|| one.kind.cmp(&other.kind))
        });
        routes
    }
}

/// The listeners of each parent; a ListenerSet that is not let in has none.
fn parents<'a>(
    gateway: &'a ObjectRef,
    sets: &'a BTreeMap<ObjectRef, bool>,
    merged: &[Merged<'_>],
) -> BTreeMap<&'a ObjectRef, Vec<usize>> {
    let names = std::iter::once(gateway).chain(sets.keys());
    let mut parents: BTreeMap<&ObjectRef, Vec<usize>> =
        names.map(|name| (name, Vec::new())).collect();
    for (at, listener) in merged.iter().enumerate() {
        if let Some(of_parent) = parents.get_mut(listener.owner) {
            of_parent.push(at);
        }
    }
    parents
}

impl GatewayApi {
    /// What policies ask for a listener and for the objects that it belongs to, the closest first.
    fn layers_of(&self, gateway: &ObjectRef, listener: &Merged<'_>) -> Vec<Layer> {
        let owner = listener.owner;
        let of_listener = self.layer(owner, Some(&listener.spec.name));
        let of_set = (owner != gateway).then(|| self.layer(owner, None)).flatten();
        [of_listener, of_set, self.layer(gateway, None)].into_iter().flatten().collect()
    }
}

impl Compiler<'_> {
    fn route(&mut self, route: &ObjectRef, spec: &RouteSpec) -> Compiled {
        match route.kind {
            ObjectKind::HttpRoute | ObjectKind::GrpcRoute => self.compile(route, spec),
            _ => self.compile_streams(route, spec),
        }
    }

    /// A route of connections has no rules to be compiled, but its references are looked at.
    fn compile_streams(&mut self, route: &ObjectRef, spec: &RouteSpec) -> Compiled {
        let mut compiled = Compiled { refused: refusal(spec), ..Compiled::default() };
        let protocol = match route.kind {
            ObjectKind::UdpRoute => Protocol::Udp,
            _ => Protocol::Tcp,
        };
        for backend in spec.rules.iter().flat_map(|rule| &rule.backends) {
            let found = self.target(route, &backend.backend, protocol);
            match found {
                Ok((target, _)) if route.kind == ObjectKind::TlsRoute => {
                    self.uses.services.insert(target.object);
                }
                Ok(_) => {}
                Err(why) => drop(compiled.unresolved.get_or_insert(why)),
            }
        }
        compiled
    }

    /// Where connections of a TLSRoute go.
    fn stream(&mut self, route: &ObjectRef, spec: &RouteSpec, ends_tls: bool) -> StreamRule {
        let backends = spec.rules.iter().flat_map(|rule| &rule.backends).map(|backend| {
            let found = self.target(route, &backend.backend, Protocol::Tcp).ok();
            let target = found.and_then(|(target, port)| {
                // What is decrypted here must not go on in plain text against a policy.
                let in_plain_text = !ends_tls || self.greeting(&target.object, &port).is_none();
                in_plain_text.then_some(target)
            });
            (backend.weight, target)
        });
        StreamRule {
            host: crate::HostMatch::Any,
            backends: backends.collect(),
            object: route.clone(),
        }
    }
}

impl Built {
    /// Lays the listeners out on their ports, with the rules of their routes.
    fn sections(
        &mut self,
        gateway: (&ObjectRef, &GatewaySpec),
        merged: &mut [Merged<'_>],
        attachments: &Attachments,
        routes: &[Ready<'_>],
        compiler: &mut Compiler<'_>,
    ) {
        let mut ports: BTreeMap<u16, HttpListener> = BTreeMap::new();
        let mut actions = Actions::default();
        for (listener, attached) in merged.iter_mut().zip(&attachments.routes) {
            let ends_tls = listener.speaks_tls() && !is_passthrough(listener.spec);
            let tls = match ends_tls {
                true => compiler.index.section_tls(gateway, listener, &mut compiler.uses),
                false => None,
            };
            let opening = Opening::of(&listener.spec.protocol);
            let served = matches!(opening, Some(Opening::Plain | Opening::Tls));
            self.name(listener, attached);
            if listener.is_accepted() {
                self.conduits.extend(compiler.conduit(listener, attached, routes));
            }
            if !listener.is_accepted() || !served || ends_tls && tls.is_none() {
                continue;
            }
            let serves = match listener.spec.protocol {
                ListenerProtocol::Tls => {
                    Serves::Streams(streams(attached, routes, ends_tls, compiler))
                }
                _ => {
                    let outer = compiler.index.gateway_api.layers_of(gateway.0, listener);
                    Serves::Requests(rules(attached, routes, &mut actions, &outer))
                }
            };
            let name = listener.spec.name.clone();
            let section = Section {
                origin: Some(SectionRef { object: listener.owner.clone(), name }),
                host: host_match(listener.spec.hostname.as_ref()),
                tls,
                serves,
            };
            let port = ports.entry(listener.spec.port).or_insert_with(|| HttpListener {
                tls: listener.speaks_tls(),
                sections: Vec::new(),
            });
            port.sections.push(section);
        }
        self.ports = ports.into_iter().map(|(port, at)| (port, Arc::new(at))).collect();
    }

    fn name(&mut self, listener: &Merged<'_>, attached: &[Attached]) {
        if listener.is_accepted() {
            let hosts = attached.iter().flat_map(|at| &at.hosts).flatten();
            self.hostnames.extend(hosts.chain(&listener.spec.hostname).cloned());
        }
    }

    fn judge_routes(&mut self, attachments: &Attachments, routes: &[Ready<'_>]) {
        for ((at, parent), refused) in &attachments.refused {
            let (route, _, compiled) = &routes[*at];
            let refused = refused.clone().or_else(|| compiled.refused.clone());
            let dropped = compiled.dropped.clone().filter(|_| refused.is_none());
            let verdict =
                RouteVerdict { refused, unresolved: compiled.unresolved.clone(), dropped };
            self.routes.insert(((*route).clone(), *parent), verdict);
        }
    }

    fn judge_policies(&mut self, index: &Index, uses: &mut Uses) {
        let api = &index.gateway_api;
        let spec_of = |service: &ObjectRef| index.services.get(service)?.spec.clone();
        for service in &uses.services {
            for (name, policy) in api.policies_for(service) {
                uses.authorities.extend(policy.authorities.iter().filter_map(
                    |choice| match choice {
                        crate::AuthorityChoice::Object(authority) => Some(authority.clone()),
                        crate::AuthorityChoice::Other(_) => None,
                    },
                ));
                if !self.policies.contains_key(name) {
                    let verdict = api.policy_verdict(name, policy, spec_of);
                    self.policies.insert(name.clone(), verdict);
                }
            }
        }
    }
}

fn is_passthrough(spec: &ListenerSpec) -> bool {
    spec.protocol == ListenerProtocol::Tls && spec.tls.as_ref().is_some_and(|tls| tls.passthrough)
}

/// What rules do under the policies of listeners and Gateways: made once for listeners that are
/// under the same.
#[derive(Default)]
struct Actions {
    /// What is asked at some listener.
    outer: Vec<Vec<Layer>>,
    /// By route, by rule, and by place in that list.
    made: BTreeMap<(usize, usize, usize), Arc<RuleAction>>,
}

impl Actions {
    fn outer(&mut self, layers: &[Layer]) -> usize {
        let known = self.outer.iter().position(|known| known == layers);
        known.unwrap_or_else(|| {
            self.outer.push(layers.to_vec());
            self.outer.len() - 1
        })
    }

    fn under(&mut self, rule: &CompiledRule, place: (usize, usize, usize)) -> Arc<RuleAction> {
        let outer = &self.outer[place.2];
        if rule.layers.is_empty() && outer.is_empty() {
            return rule.action.clone();
        }
        let make = || Arc::new(rule.action.under(rule.layers.iter().chain(outer)));
        self.made.entry(place).or_insert_with(make).clone()
    }
}

/// Rules of one listener, in the order in which they are tried.
fn rules(
    attached: &[Attached],
    routes: &[Ready<'_>],
    actions: &mut Actions,
    outer: &[Layer],
) -> Vec<HttpRule> {
    let mut rules = Vec::new();
    let outer = actions.outer(outer);
    for at in attached {
        let (route, spec, compiled) = &routes[at.route];
        if compiled.refused.is_some() {
            continue;
        }
        for (index, (rule, compiled)) in spec.rules.iter().zip(&compiled.rules).enumerate() {
            let Some(compiled) = compiled else { continue };
            let action = actions.under(compiled, (at.route, index, outer));
            for matches in &rule.matches {
                rules.extend(at.hosts.iter().map(|host| HttpRule {
                    host: host_match(host.as_ref()),
                    matches: matches.clone(),
                    action: action.clone(),
                    object: (*route).clone(),
                }));
            }
        }
    }
    // Stable: among equals the order of routes and of their rules stays.
    rules.sort_by_cached_key(HttpRule::precedence);
    rules
}

/// Where the connections of one listener go, the closest host first.
fn streams(
    attached: &[Attached],
    routes: &[Ready<'_>],
    ends_tls: bool,
    compiler: &mut Compiler<'_>,
) -> Vec<StreamRule> {
    let mut rules = Vec::new();
    for at in attached {
        let (route, spec, compiled) = &routes[at.route];
        if compiled.refused.is_none() {
            let rule = compiler.stream(route, spec, ends_tls);
            let of_host = |host: &Option<Arc<str>>| StreamRule {
                host: host_match(host.as_ref()),
                ..rule.clone()
            };
            rules.extend(at.hosts.iter().map(of_host));
        }
    }
    rules.sort_by_key(|rule| rule.host.closeness());
    rules
}

fn describe(
    merged: &[Merged<'_>],
    attachments: &Attachments,
    routes: &[Ready<'_>],
) -> Vec<BuiltListener> {
    let described = merged.iter().zip(&attachments.routes).map(|(listener, attached)| {
        let accepted = attached.iter().filter(|at| routes[at.route].2.refused.is_none());
        let ends_tls = listener.speaks_tls() && !is_passthrough(listener.spec);
        BuiltListener {
            owner: listener.owner.clone(),
            name: listener.spec.name.clone(),
            port: listener.spec.port,
            opening: Opening::of(&listener.spec.protocol),
            kinds: listener.kinds.clone(),
            refusal: listener.refusal.clone(),
            conflicted: listener.conflicted,
            overlaps: listener.overlaps,
            unresolved: listener.unresolved.clone(),
            usable: listener.is_accepted() && (!ends_tls || listener.certified),
            attached: u32::try_from(accepted.count()).unwrap_or(u32::MAX),
        }
    });
    described.collect()
}
