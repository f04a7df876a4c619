//! Ingresses: the addresses they are served on, their rules, certificates and host names.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::forwarding::Reach;
use super::gateway::Placed;
use super::ingress_rules::{Policies, Port, action, to_root};
use super::{Index, Want, WantedPort, put};
use crate::{
    CertificateRef, Family, FaultReason, HostMatch, HttpListener, HttpRule, IngressBackend,
    IngressPort, IngressRule, IngressSpec, IngressTls, IpMode, ObjectRef, ObjectReport, PathMatch,
    Protocol, RequestMatch, ServiceKey, SourceFault, StatusAddress, Target,
};

/// Everything known about one Ingress.
pub(super) struct IngressEntry {
    spec: Arc<IngressSpec>,
    /// Whether it is served on the shared addresses.
    shared: bool,
    /// Where it is served.
    pub(super) addresses: BTreeSet<IpAddr>,
    /// What it could not get on an address.
    conflicts: BTreeMap<IpAddr, Vec<SourceFault>>,
}

impl Index {
    pub(super) fn note_ingress(&mut self, object: ObjectRef, spec: Option<Box<IngressSpec>>) {
        let known = self.ingresses.get(&object).map(|entry| entry.spec.clone());
        if known.as_deref() == spec.as_deref() {
            return;
        }
        self.register_uses(&object, known.as_deref(), spec.as_deref());
        match spec {
            Some(spec) => {
                let spec = Arc::new(*spec);
                let entry = self.ingresses.entry(object.clone()).or_insert_with(|| IngressEntry {
                    spec: spec.clone(),
                    shared: false,
                    addresses: BTreeSet::new(),
                    conflicts: BTreeMap::new(),
                });
                entry.spec = spec;
                self.want_for_ingress(&object);
            }
            None => {
                self.claims.want(&object, None);
                if let Some(entry) = self.ingresses.remove(&object) {
                    self.leave_addresses(&object, &entry.addresses);
                }
                self.publish_hostnames(&object, BTreeSet::new(), &[], None);
            }
        }
        if known.is_some() != self.ingresses.contains_key(&object) {
            self.policies_judged_anew(&object);
        }
        self.dirty.ingresses.insert(object.clone());
        self.dirty.reports.insert(object);
    }

    /// Tells services and certificates who points at them.
    fn register_uses(
        &mut self,
        object: &ObjectRef,
        old: Option<&IngressSpec>,
        new: Option<&IngressSpec>,
    ) {
        let (old_services, new_services) = (services_of(old), services_of(new));
        for service in old_services.symmetric_difference(&new_services) {
            let entry = self.services.entry(service.clone()).or_default();
            if new_services.contains(service) {
                entry.users.insert(object.clone());
            } else {
                entry.users.remove(object);
            }
            self.dirty.services.insert(service.clone());
        }
        let (old_certificates, new_certificates) = (certificates_of(old), certificates_of(new));
        for certificate in old_certificates.symmetric_difference(&new_certificates) {
            let entry = self.certificates.entry(certificate.clone()).or_default();
            if new_certificates.contains(certificate) {
                entry.users.insert(object.clone());
            } else {
                entry.users.remove(object);
            }
            self.dirty.certificates.insert(certificate.clone());
        }
    }

    /// Decides whether the Ingress shares an address or wants its own.
    pub(super) fn want_for_ingress(&mut self, object: &ObjectRef) {
        let Some(entry) = self.ingresses.get_mut(object) else { return };
        let spec = entry.spec.clone();
        let in_cluster = object.source.cluster_name().is_some();
        entry.shared = spec.requested.is_empty()
            && spec.pool.is_none()
            && !self.policy.shared_http_addresses.is_empty();
        if entry.shared {
            self.claims.want(object, None);
            return;
        }
        let chosen = spec.requested.is_empty() && in_cluster;
        let families = match chosen {
            true => vec![Family::V4, Family::V6],
            false => {
                let asked: BTreeSet<Family> =
                    spec.requested.iter().map(|address| Family::of(*address)).collect();
                asked.into_iter().collect()
            }
        };
        let ports = self.ports_of(&spec).into_iter().map(|(port, _)| WantedPort {
            protocol: Protocol::Tcp,
            port,
            http: true,
        });
        let wanted = Want {
            families,
            any_family: chosen,
            requested: spec.requested.clone(),
            pool: spec.pool.clone(),
            recorded: if in_cluster { spec.recorded.clone() } else { spec.requested.clone() },
            created_secs: spec.created_secs,
            sharing: spec.wish.sharing.clone(),
            ports: ports.collect(),
            labels: spec.wish.labels.clone(),
            fixed: !in_cluster,
        };
        self.claims.want(object, Some(wanted));
    }

    pub(super) fn publish_ingress(&mut self, object: &ObjectRef) {
        let Some(entry) = self.ingresses.get(object) else { return };
        let served: BTreeSet<IpAddr> = if entry.shared {
            self.policy.shared_http_addresses.iter().copied().collect()
        } else {
            let outcome = self.claims.outcome(object);
            outcome.into_iter().flat_map(|outcome| outcome.served.iter().copied()).collect()
        };
        let left: BTreeSet<IpAddr> = entry.addresses.difference(&served).copied().collect();
        let spec = entry.spec.clone();
        self.leave_addresses(object, &left);
        for address in &served {
            self.sites.entry(*address).or_default().insert(object.clone());
            self.dirty.addresses.insert(*address);
        }
        let names = spec.rules.iter().filter_map(|rule| rule.host.clone());
        let names: BTreeSet<Arc<str>> = names.chain(spec.hostnames.iter().cloned()).collect();
        let addresses: Vec<IpAddr> = served.iter().copied().collect();
        self.publish_hostnames(object, names, &addresses, spec.ttl_secs);
        if let Some(entry) = self.ingresses.get_mut(object) {
            entry.addresses = served;
            entry.conflicts.retain(|address, _| entry.addresses.contains(address));
        }
        self.dirty.reports.insert(object.clone());
    }

    fn leave_addresses(&mut self, object: &ObjectRef, addresses: &BTreeSet<IpAddr>) {
        for address in addresses {
            if let Some(sites) = self.sites.get_mut(address) {
                sites.remove(object);
                if sites.is_empty() {
                    self.sites.remove(address);
                }
            }
            self.dirty.addresses.insert(*address);
        }
    }

    /// Rebuilds the listeners of one address from the Ingresses and Gateways on it.
    pub(super) fn publish_listeners(&mut self, address: IpAddr) {
        let built = self.build_listeners(address);
        let has = |port: u16| {
            built.listeners.contains_key(&port) || built.placed.listeners.contains_key(&port)
        };
        let old: Vec<SocketAddr> = self
            .published
            .http
            .range(SocketAddr::new(address, 0)..)
            .map(|(at, _)| *at)
            .take_while(|at| at.ip() == address)
            .filter(|at| !has(at.port()))
            .collect();
        for at in old {
            self.published.http.remove(&at);
            self.dirty.changed = true;
        }
        for (port, site) in built.listeners {
            let at = SocketAddr::new(address, port);
            let listener = site.listener();
            self.dirty.changed |= put(&mut self.published.http, at, Some(Arc::new(listener)));
        }
        self.publish_placed(address, built.placed);
        for object in self.sites.get(&address).cloned().unwrap_or_default() {
            let conflicts = built.conflicts.get(&object).cloned().unwrap_or_default();
            let Some(entry) = self.ingresses.get_mut(&object) else { continue };
            if entry.conflicts.insert(address, conflicts.clone()) != Some(conflicts) {
                self.dirty.reports.insert(object);
            }
        }
    }

    /// The older an object, the earlier it has its ports. Ingresses share theirs, a Gateway shares
    /// none.
    fn build_listeners(&self, address: IpAddr) -> Built {
        let mut built = Built::default();
        let sites = self.sites.get(&address).into_iter().flatten();
        let sites = sites.filter_map(|object| {
            let spec = &*self.ingresses.get(object)?.spec;
            Some((spec.created_secs, object, Some(spec)))
        });
        let gateways = self.gateways_on(address).map(|(created, object)| (created, object, None));
        let mut places: Vec<_> = sites.chain(gateways).collect();
        places.sort_by_key(|(created_secs, object, _)| (*created_secs, *object));
        for (_, object, spec) in places {
            let Some(spec) = spec else {
                self.place_gateway_ports(address, object, &mut built);
                continue;
            };
            for (port, tls) in self.ports_of(spec) {
                if let Some(fault) = self.port_conflict(address, port, tls, &built) {
                    built.conflicts.entry(object.clone()).or_default().push(fault);
                    continue;
                }
                self.join_listener(object, spec, (port, tls), &mut built);
            }
        }
        built
    }

    fn place_gateway_ports(&self, address: IpAddr, gateway: &ObjectRef, built: &mut Built) {
        let listeners = &built.listeners;
        let taken = |port: u16, placed: &Placed| {
            let key = ServiceKey { vip: address, port, protocol: Protocol::Tcp };
            let holder = match (self.published.services.get(&key), placed.listeners.get(&port)) {
                (Some(service), _) if service.object != *gateway => service.object.to_string(),
                (_, Some((holder, _))) => holder.to_string(),
                _ if listeners.contains_key(&port) => "Ingresses".to_owned(),
                _ => return None,
            };
            Some(format!("{key} is served for {holder}: choose another port or address"))
        };
        self.place_ports(gateway, &mut built.placed, taken);
    }

    /// The ports that an Ingress wants, and whether clients speak TLS there.
    fn ports_of(&self, spec: &IngressSpec) -> Vec<(u16, bool)> {
        let mut ports = vec![(spec.http_port.unwrap_or(self.policy.http_port), false)];
        if !spec.tls.is_empty() {
            ports.push((spec.https_port.unwrap_or(self.policy.https_port), true));
        }
        ports
    }

    fn port_conflict(
        &self,
        address: IpAddr,
        port: u16,
        tls: bool,
        built: &Built,
    ) -> Option<SourceFault> {
        let key = ServiceKey { vip: address, port, protocol: Protocol::Tcp };
        if let Some(holder) = self.published.services.get(&key) {
            let text = format!("{key} is served for {}: choose another port", holder.object);
            return Some(SourceFault::new(FaultReason::PortTaken, text));
        }
        if let Some((holder, _)) = built.placed.listeners.get(&port) {
            let text = format!("{key} is served for {holder}: choose another port");
            return Some(SourceFault::new(FaultReason::PortTaken, text));
        }
        let other = built.listeners.get(&port)?;
        (other.tls != tls).then(|| {
            let text = format!("{key} would be both HTTP and HTTPS: choose another port");
            SourceFault::new(FaultReason::PortTaken, text)
        })
    }

    /// Adds one Ingress's rules to a listener. Ingresses come oldest first, so what is there
    /// already stays.
    fn join_listener(
        &self,
        object: &ObjectRef,
        spec: &IngressSpec,
        (port, tls): (u16, bool),
        built: &mut Built,
    ) {
        let site = built.listeners.entry(port).or_insert_with(|| Site {
            tls,
            rules: Vec::new(),
            default: None,
            certificates: Vec::new(),
        });
        let conflicts = built.conflicts.entry(object.clone()).or_default();
        let served = Port { tls, https: spec.https_port.unwrap_or(self.policy.https_port) };
        let made = |rule: Option<&IngressRule>, host, path, backend| {
            let (target, policies) = self.policies_for(object, backend);
            HttpRule {
                host,
                matches: RequestMatch::path(path),
                action: Arc::new(action(object, spec, rule, served, target, &policies)),
                object: object.clone(),
            }
        };
        for rule in &spec.rules {
            let path = rule.path_match.with(rule.path.clone());
            let place = (port, rule.host.clone(), path);
            match built.taken.get(&place) {
                Some(holder) if holder == object => {}
                Some(holder) => conflicts.push(route_taken(&place.1, &rule.path, holder)),
                None => {
                    let host = HostMatch::of_ingress(rule.host.as_ref());
                    let path = place.2.clone();
                    built.taken.insert(place, object.clone());
                    site.rules.push(made(Some(rule), host, path, &rule.backend));
                }
            }
        }
        if let Some(backend) = &spec.default_backend {
            let place = (port, None, PathMatch::Exact(DEFAULT_PLACE.into()));
            match built.taken.get(&place) {
                Some(holder) => conflicts.push(route_taken(&None, "default backend", holder)),
                None => {
                    built.taken.insert(place, object.clone());
                    let every = PathMatch::every();
                    site.default = Some(made(None, HostMatch::Any, every, backend));
                }
            }
        }
        if let Some(root) = &spec.requests.root {
            let hosts: BTreeSet<Option<&Arc<str>>> =
                spec.rules.iter().map(|rule| rule.host.as_ref()).collect();
            for host in hosts {
                let path = PathMatch::Exact("/".into());
                let place = (port, host.cloned(), path.clone());
                // Somebody's rule for exactly this path has it.
                if built.taken.contains_key(&place) {
                    continue;
                }
                built.taken.insert(place, object.clone());
                site.rules.push(HttpRule {
                    host: HostMatch::of_ingress(host),
                    matches: RequestMatch::path(path),
                    action: Arc::new(to_root(root)),
                    object: object.clone(),
                });
            }
        }
        if tls {
            let fresh = spec.tls.iter().filter(|tls| !site.certificates.contains(tls));
            let fresh: Vec<IngressTls> = fresh.cloned().collect();
            site.certificates.extend(fresh);
        }
    }

    /// Where a rule of an Ingress leads to, and the policies that it is under.
    fn policies_for(
        &self,
        ingress: &ObjectRef,
        backend: &IngressBackend,
    ) -> (Option<Target>, Policies) {
        let api = &self.gateway_api;
        let requests = api.layer(ingress, None);
        let Ok((target, port)) = self.resolve(backend) else {
            return (None, Policies { requests, ..Policies::default() });
        };
        let backends = api.backend_wishes(&target.object, &port);
        (Some(target), Policies { requests, backends })
    }

    /// The target of a backend, with the name of its port.
    fn resolve(&self, backend: &IngressBackend) -> Result<(Target, Arc<str>), SourceFault> {
        let missing = |what: String| {
            SourceFault::new(FaultReason::BackendMissing, format!("{what}: requests get 503"))
        };
        let service = &backend.service;
        let place = format!("service {}/{}", service.namespace, service.name);
        let entry = self.services.get(service);
        let spec = entry.and_then(|entry| Some((entry, entry.spec.as_ref()?)));
        let Some((entry, spec)) = spec else { return Err(missing(format!("{place} is missing"))) };
        let port = spec.ports.iter().find(|port| {
            port.protocol == Protocol::Tcp
                && match &backend.port {
                    IngressPort::Number(number) => port.port == *number,
                    IngressPort::Name(name) => port.name == *name,
                }
        });
        let Some(port) = port else {
            let wanted = match &backend.port {
                IngressPort::Number(number) => number.to_string(),
                IngressPort::Name(name) => format!("{name:?}"),
            };
            return Err(missing(format!("{place} has no TCP port {wanted}")));
        };
        Ok((entry.http_target(service, port), port.name.clone()))
    }

    /// How far a request gets on the address at best; `None` without a site.
    pub(super) fn site_reach_on(&self, address: IpAddr) -> Option<Reach> {
        let mut best = None;
        let from = SocketAddr::new(address, 0);
        for (at, listener) in self.published.http.range(from..) {
            if at.ip() != address {
                break;
            }
            let available = listener.answers_itself()
                || listener.targets().any(|target| {
                    self.published.targets.get(target).is_some_and(|set| set.is_available())
                });
            let key = ServiceKey { vip: address, port: at.port(), protocol: Protocol::Tcp };
            best = best.max(Some(Reach::of(available, self.is_open(&key))));
            if best == Some(Reach::Backend) {
                break;
            }
        }
        best
    }

    pub(super) fn publish_certificate(&mut self, certificate: &CertificateRef) {
        let Some(entry) = self.certificates.get(certificate) else { return };
        let used = if entry.users.is_empty() { None } else { entry.material.clone() };
        let unused = entry.users.is_empty() && entry.material.is_none();
        self.dirty.changed |= put(&mut self.published.certificates, certificate.clone(), used);
        if unused {
            self.certificates.remove(certificate);
        }
    }

    pub(super) fn ingress_report(&self, object: &ObjectRef) -> Option<ObjectReport> {
        let entry = self.ingresses.get(object)?;
        let (recorded, wish) = (&entry.spec.recorded, &entry.spec.wish);
        let mut report = self.claim_report(object, recorded, wish, IpMode::Proxy);
        if entry.shared {
            let shared = &self.policy.shared_http_addresses;
            let entry = |address: &IpAddr| StatusAddress::new(*address, IpMode::Proxy);
            report.desired = shared.iter().map(entry).collect();
            report.desired.sort();
            report.served.clone_from(shared);
        }
        let fixed = object.source.cluster_name().is_none();
        if fixed && !entry.shared && entry.spec.requested.is_empty() {
            report.faults.push(SourceFault::new(
                FaultReason::NoPool,
                "neither the site nor proxy.addresses names an address: name one",
            ));
        }
        report.faults.extend(entry.spec.faults.iter().cloned());
        report.faults.extend(entry.conflicts.values().flatten().cloned());
        let backends = entry.spec.rules.iter().map(|rule| &rule.backend);
        let unresolved = backends.chain(&entry.spec.default_backend);
        report.faults.extend(unresolved.filter_map(|backend| self.resolve(backend).err()));
        for tls in &entry.spec.tls {
            report.faults.extend(self.certificate_fault(&tls.certificate));
            report.faults.extend(self.certificate_notices(&tls.certificate));
        }
        let ports = self.ports_of(&entry.spec);
        let listeners = entry.addresses.iter().flat_map(|address| {
            ports.iter().map(|(port, _)| ServiceKey {
                vip: *address,
                port: *port,
                protocol: Protocol::Tcp,
            })
        });
        report.faults.extend(listeners.filter_map(|key| self.unserved_fault(&key)));
        Some(report)
    }

    /// What users of a certificate are told although it is served.
    pub(super) fn certificate_notices(
        &self,
        certificate: &CertificateRef,
    ) -> impl Iterator<Item = SourceFault> {
        let entry = self.certificates.get(certificate);
        entry.into_iter().flat_map(|entry| entry.notices.iter().cloned())
    }

    fn certificate_fault(&self, certificate: &CertificateRef) -> Option<SourceFault> {
        let entry = self.certificates.get(certificate);
        if entry.is_none_or(|entry| entry.material.is_none()) {
            return Some(SourceFault::new(
                FaultReason::CertificateMissing,
                format!(
                    "secret {}/{} is missing or not of type kubernetes.io/tls",
                    certificate.namespace, certificate.name
                ),
            ));
        }
        entry?.fault.clone()
    }
}

/// Stands for the default backend among the places of a listener; no path begins like it.
const DEFAULT_PLACE: &str = "default";

type Place = (u16, Option<Arc<str>>, PathMatch);

/// What Ingresses serve on one port of an address.
struct Site {
    tls: bool,
    rules: Vec<HttpRule>,
    /// The oldest object's.
    default: Option<HttpRule>,
    certificates: Vec<IngressTls>,
}

impl Site {
    fn listener(mut self) -> HttpListener {
        self.rules.sort_by_cached_key(|rule| (rule.precedence(), rule.host.clone()));
        // The last of its precedence: a rule for every path comes before it.
        self.rules.extend(self.default);
        HttpListener::simple(self.tls.then_some(self.certificates), self.rules)
    }
}

#[derive(Default)]
struct Built {
    listeners: BTreeMap<u16, Site>,
    conflicts: BTreeMap<ObjectRef, Vec<SourceFault>>,
    taken: BTreeMap<Place, ObjectRef>,
    placed: Placed,
}

fn route_taken(host: &Option<Arc<str>>, path: &str, holder: &ObjectRef) -> SourceFault {
    let host = host.as_deref().unwrap_or("*");
    SourceFault::new(
        FaultReason::RouteTaken,
        format!("host {host} with {path} is served for {holder}, which is older"),
    )
}

fn services_of(spec: Option<&IngressSpec>) -> BTreeSet<ObjectRef> {
    let backends = spec
        .into_iter()
        .flat_map(|spec| spec.rules.iter().map(|rule| &rule.backend).chain(&spec.default_backend));
    backends.map(|backend| backend.service.clone()).collect()
}

fn certificates_of(spec: Option<&IngressSpec>) -> BTreeSet<CertificateRef> {
    spec.into_iter().flat_map(|spec| &spec.tls).map(|tls| tls.certificate.clone()).collect()
}
