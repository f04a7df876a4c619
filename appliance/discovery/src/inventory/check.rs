//! From what is written to what can be used, or to the first reason why not.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use haflinger_core::{
    AddressWish, BackendSlice, BackendWishes, CertificateRef, CertificateSpec, DEFAULT_WEIGHT,
    Distribution, Exposure, Family, HealthCheck, HealthCheckKind, IngressBackend, IngressPort,
    IngressRequests, IngressRule, IngressSpec, IngressTls, MAX_WEIGHT, ObjectRef, PathType,
    Protocol, ProxyProtocol, ServicePort, ServiceSpec, SliceBackend, SlicePort, SourceId,
    SourceUpdate, UpstreamProtocol,
};
use ipnet::IpNet;
use toml::Spanned;

use super::{Inventory, InventoryError, OCSP_BYTES_MAX, PEM_BYTES_MAX, file, line_of, read};
use crate::translate::{dns_name, families_of, quoted};

/// The namespace of everything in an inventory.
pub(super) const NAMESPACE: &str = "default";

const TTL_MAX_SECS: u64 = i32::MAX.unsigned_abs() as u64;
const INTERVAL_MS_MAX: u64 = 3_600_000;

/// Checks one file. `at` in every method is the object, for messages.
pub(super) struct Check<'a> {
    path: &'a Path,
    text: &'a str,
    source: SourceId,
    /// Ports of the services, by name of the service.
    services: BTreeMap<&'a str, &'a file::Service>,
    /// Services that a site points at.
    pointed_at: BTreeSet<&'a str>,
    updates: Vec<SourceUpdate>,
    files: Vec<PathBuf>,
}

pub(super) type Checked<T> = Result<T, InventoryError>;

impl<'a> Check<'a> {
    pub(super) fn new(path: &'a Path, text: &'a str) -> Self {
        Self {
            path,
            text,
            source: SourceId::inventory(),
            services: BTreeMap::new(),
            pointed_at: BTreeSet::new(),
            updates: Vec::new(),
            files: Vec::new(),
        }
    }

    pub(super) fn inventory_path(&self) -> &Path {
        self.path
    }

    pub(super) fn text(&self) -> &str {
        self.text
    }

    pub(super) fn source(&self) -> &SourceId {
        &self.source
    }

    pub(super) fn file(mut self, file: &'a file::File) -> Checked<Inventory> {
        for service in &file.service {
            let name = self.name("service.name", &service.name)?;
            if self.services.insert(name, service).is_some() {
                return self.refuse(
                    &service.name,
                    "service.name",
                    name,
                    "give every service its own name",
                );
            }
        }
        let mut sites = BTreeSet::new();
        for (index, site) in file.site.iter().enumerate() {
            let name = self.name("site.name", &site.name)?;
            if !sites.insert(name) {
                return self.refuse(&site.name, "site.name", name, "give every site its own name");
            }
            self.site(index, name, site)?;
        }
        for service in &file.service {
            self.service(service)?;
        }
        Ok(Inventory { updates: self.updates, files: self.files })
    }

    pub(super) fn refuse<T, V>(
        &self,
        place: &Spanned<V>,
        field: &str,
        value: &str,
        remedy: &str,
    ) -> Checked<T> {
        Err(InventoryError::Value {
            path: self.path.to_owned(),
            line: line_of(self.text.as_bytes(), place.span().start),
            field: field.to_owned(),
            value: quoted(value),
            remedy: remedy.to_owned(),
        })
    }

    fn name(&self, field: &str, name: &'a Spanned<String>) -> Checked<&'a str> {
        let text = name.get_ref();
        let fine = !text.is_empty()
            && text.len() <= 253
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
        if !fine {
            let remedy = "write 1 to 253 letters, digits, '-', '_' or '.'";
            return self.refuse(name, field, text, remedy);
        }
        Ok(text)
    }

    pub(super) fn number<T: TryFrom<u64>>(
        &self,
        field: &str,
        number: &Spanned<u64>,
        limits: std::ops::RangeInclusive<u64>,
    ) -> Checked<T> {
        let value = *number.get_ref();
        match T::try_from(value) {
            Ok(fine) if limits.contains(&value) => Ok(fine),
            _ => {
                let remedy = format!("write a number from {} to {}", limits.start(), limits.end());
                self.refuse(number, field, &value.to_string(), &remedy)
            }
        }
    }

    fn port(&self, field: &str, number: &Spanned<u64>) -> Checked<u16> {
        self.number(field, number, 1..=65_535)
    }

    fn ttl(&self, field: &str, ttl: Option<&Spanned<u64>>) -> Checked<Option<u32>> {
        ttl.map(|ttl| self.number(field, ttl, 1..=TTL_MAX_SECS)).transpose()
    }

    /// Loopback is allowed: the file describes this host too.
    fn address(&self, field: &str, address: &Spanned<String>) -> Checked<IpAddr> {
        match address.get_ref().parse::<IpAddr>() {
            Ok(ip) if !ip.is_unspecified() && !ip.is_multicast() => Ok(ip),
            _ => self.refuse(
                address,
                field,
                address.get_ref(),
                "write a unicast IPv4 or IPv6 address, as in \"192.0.2.1\"",
            ),
        }
    }

    fn addresses(&self, field: &str, list: &[Spanned<String>]) -> Checked<Vec<IpAddr>> {
        let mut addresses = Vec::new();
        for written in list {
            let address = self.address(field, written)?;
            if addresses.contains(&address) {
                return self.refuse(written, field, written.get_ref(), "write it once only");
            }
            addresses.push(address);
        }
        Ok(addresses)
    }

    fn hosts(&self, field: &str, list: &[Spanned<String>]) -> Checked<Vec<Arc<str>>> {
        list.iter()
            .map(|host| match dns_name(host.get_ref()) {
                Some(name) => Ok(name),
                None => self.refuse(
                    host,
                    field,
                    host.get_ref(),
                    "write a host name, as in \"www.example.com\" or \"*.example.com\"",
                ),
            })
            .collect()
    }

    pub(super) fn choice<T: Copy>(
        &self,
        field: &str,
        written: Option<&Spanned<String>>,
        choices: &[(&str, T)],
        default: T,
    ) -> Checked<T> {
        let Some(written) = written else { return Ok(default) };
        let text = written.get_ref();
        if let Some((_, value)) = choices.iter().find(|(name, _)| name == text) {
            return Ok(*value);
        }
        let names: Vec<String> = choices.iter().map(|(name, _)| format!("\"{name}\"")).collect();
        self.refuse(written, field, text, &format!("write {}", names.join(" or ")))
    }

    fn service(&mut self, service: &'a file::Service) -> Checked<()> {
        let name = service.name.get_ref().as_str();
        let at = |field: &str| format!("service \"{name}\": {field}");
        let addresses = self.addresses(&at("addresses"), &service.addresses)?;
        if addresses.is_empty() && !self.pointed_at.contains(name) {
            let remedy = "write the addresses on which it is served, or point a site at it; \
                          pools do not give addresses to the inventory";
            return self.refuse(&service.name, &at("addresses"), "", remedy);
        }
        let ports = self.service_ports(service)?;
        let backends = self.backends(service, &ports)?;
        let families = if addresses.is_empty() {
            families_of(backends.iter().map(|(backend, _)| backend.address))
        } else {
            families_of(addresses.iter().copied())
        };
        let exposure = self.exposure(service, addresses)?;
        let object = ObjectRef::service(&self.source, NAMESPACE, name);
        let spec = ServiceSpec {
            ports: ports.iter().map(|(port, _)| port.clone()).collect(),
            refused_ports: Vec::new(),
            exposure,
            // Older than any object of a cluster: the file of this host decides.
            created_secs: 0,
            families,
            algorithm: self.algorithm(service)?,
            limits: self.connection_limits(service)?,
            timeouts: self.timeouts(service)?,
            destination: None,
            local_traffic: false,
            publish_not_ready: false,
            distribution: Distribution::Even,
            proxy_protocol: self.choice(
                &at("proxy_protocol"),
                service.proxy_protocol.as_ref(),
                &[
                    ("off", ProxyProtocol::Off),
                    ("v1", ProxyProtocol::V1),
                    ("v2", ProxyProtocol::V2),
                ],
                ProxyProtocol::Off,
            )?,
            health_check: self.health_check(service)?,
            selector: Box::default(),
            faults: Vec::new(),
        };
        self.slices(&object, &ports, backends);
        self.updates.push(SourceUpdate::Service { object, spec: Some(Box::new(spec)) });
        Ok(())
    }

    fn exposure(
        &self,
        service: &file::Service,
        addresses: Vec<IpAddr>,
    ) -> Checked<Option<Exposure>> {
        let name = service.name.get_ref();
        let at = |field: &str| format!("service \"{name}\": {field}");
        let mut source_ranges = Vec::new();
        for range in &service.source_ranges {
            match range.get_ref().parse::<IpNet>() {
                Ok(net) => source_ranges.push(net.trunc()),
                Err(_) => {
                    let remedy = "write a CIDR, as in \"192.0.2.0/24\"";
                    return self.refuse(range, &at("source_ranges"), range.get_ref(), remedy);
                }
            }
        }
        let hostnames = self.hosts(&at("hostnames"), &service.hostnames)?;
        let ttl_secs = self.ttl(&at("ttl_secs"), service.ttl_secs.as_ref())?;
        let mode = self.mode(service)?;
        if addresses.is_empty() {
            if let Some(hostname) = service.hostnames.first() {
                let remedy = "write the addresses that the name stands for";
                return self.refuse(hostname, &at("hostnames"), hostname.get_ref(), remedy);
            }
            if let Some(mode) = &service.mode {
                let remedy = "leave it out: without addresses only sites lead here, by the proxy";
                return self.refuse(mode, &at("mode"), mode.get_ref(), remedy);
            }
            return Ok(None);
        }
        Ok(Some(Exposure {
            families: families_of(addresses.iter().copied()),
            requested: addresses.clone(),
            recorded: addresses,
            mode,
            source_ranges,
            hostnames,
            ttl_secs,
            ..Exposure::default()
        }))
    }

    /// Each port with its port on the backends.
    fn service_ports(&self, service: &file::Service) -> Checked<Vec<(ServicePort, u16)>> {
        let name = service.name.get_ref();
        let at = |field: &str| format!("service \"{name}\": ports.{field}");
        if service.ports.get_ref().is_empty() {
            return self.refuse(&service.ports, &at("port"), "", "write at least one port");
        }
        let mut ports: Vec<(ServicePort, u16)> = Vec::new();
        let several = service.ports.get_ref().len() > 1;
        for written in service.ports.get_ref() {
            let port = self.port(&at("port"), &written.port)?;
            let protocol = self.choice(
                &at("protocol"),
                written.protocol.as_ref(),
                &[("tcp", Protocol::Tcp), ("udp", Protocol::Udp)],
                Protocol::Tcp,
            )?;
            let label: Arc<str> = match &written.name {
                Some(label) => label.get_ref().as_str().into(),
                None if several => {
                    let remedy = "name every port where there are several";
                    return self.refuse(&written.port, &at("name"), "", remedy);
                }
                None => "".into(),
            };
            for (other, _) in &ports {
                if (other.port, other.protocol) == (port, protocol) || other.name == label {
                    let remedy = "give every port its own name, and its own number or protocol";
                    return self.refuse(&written.port, &at("port"), &port.to_string(), remedy);
                }
            }
            let target = match &written.target_port {
                Some(target) => self.port(&at("target_port"), target)?,
                None => port,
            };
            ports.push((
                ServicePort { name: label, port, protocol, app_protocol: None, node_port: None },
                target,
            ));
        }
        Ok(ports)
    }

    /// Each backend with its ports, in the order of the service's ports.
    fn backends(
        &self,
        service: &file::Service,
        ports: &[(ServicePort, u16)],
    ) -> Checked<Vec<(SliceBackend, Vec<u16>)>> {
        let name = service.name.get_ref();
        let at = |field: &str| format!("service \"{name}\": backends.{field}");
        let mut backends: Vec<(SliceBackend, Vec<u16>)> = Vec::new();
        for written in &service.backends {
            let address = self.address(&at("address"), &written.address)?;
            let mut targets: Vec<u16> = ports.iter().map(|(_, target)| *target).collect();
            if let Some(port) = &written.port {
                let [only] = targets.as_mut_slice() else {
                    let value = port.get_ref().to_string();
                    let remedy = "write ports = { NAME = NUMBER } where the service has several";
                    return self.refuse(port, &at("port"), &value, remedy);
                };
                *only = self.port(&at("port"), port)?;
            }
            for (label, port) in &written.ports {
                let Some(index) =
                    ports.iter().position(|(port, _)| *port.name == **label.get_ref())
                else {
                    let remedy = "write the name of one of the service's ports";
                    return self.refuse(label, &at("ports"), label.get_ref(), remedy);
                };
                targets[index] = self.port(&at("ports"), port)?;
            }
            if backends.iter().any(|(other, ports)| other.address == address && *ports == targets) {
                let remedy = "write every backend once only; use weight for its share";
                return self.refuse(
                    &written.address,
                    &at("address"),
                    written.address.get_ref(),
                    remedy,
                );
            }
            let weight = match &written.weight {
                Some(weight) => self.number(&at("weight"), weight, 0..=u64::from(MAX_WEIGHT))?,
                None => DEFAULT_WEIGHT,
            };
            let label = written.name.as_ref().map(|name| name.get_ref().as_str());
            let backend = SliceBackend {
                address,
                name: label.map_or_else(|| address.to_string().into(), Arc::from),
                node: None,
                zone: written.zone.as_ref().map(|zone| zone.get_ref().as_str().into()),
                for_zones: Box::default(),
                weight,
                ready: true,
                serving: true,
                terminating: false,
                backup: written.backup,
            };
            backends.push((backend, targets));
        }
        Ok(backends)
    }

    /// Backends with the same family and ports make one slice, named after both.
    fn slices(
        &mut self,
        object: &ObjectRef,
        ports: &[(ServicePort, u16)],
        backends: Vec<(SliceBackend, Vec<u16>)>,
    ) {
        let mut groups: BTreeMap<(Family, Vec<u16>), Vec<SliceBackend>> = BTreeMap::new();
        for (backend, targets) in backends {
            groups.entry((Family::of(backend.address), targets)).or_default().push(backend);
        }
        for ((family, targets), backends) in groups {
            let numbers: Vec<String> = targets.iter().map(ToString::to_string).collect();
            let slice = format!("{}-{family}-{}", object.name, numbers.join("-"));
            let ports = ports.iter().zip(targets).map(|((port, _), target)| SlicePort {
                name: port.name.clone(),
                protocol: port.protocol,
                port: target,
            });
            let content =
                BackendSlice { family, ports: ports.collect(), backends, faults: Vec::new() };
            self.updates.push(SourceUpdate::Slice {
                service: object.clone(),
                slice: slice.into(),
                content: Some(Box::new(content)),
            });
        }
    }

    fn health_check(&self, service: &file::Service) -> Checked<Option<HealthCheck>> {
        let Some(spanned) = &service.health_check else { return Ok(None) };
        let written = spanned.get_ref();
        let name = service.name.get_ref();
        let at = |field: &str| format!("service \"{name}\": health_check.{field}");
        let choices = [("tcp", false), ("http", true)];
        let http = self.choice(&at("kind"), Some(&written.kind), &choices, false)?;
        let kind = if http {
            let path = written.path.as_ref().map_or("/", |path| path.get_ref().as_str());
            if let Some(place) = &written.path
                && !(path.starts_with('/') && path.bytes().all(|b| b.is_ascii_graphic()))
            {
                return self.refuse(place, &at("path"), path, "write a path, as in \"/healthz\"");
            }
            let host = written.host.as_slice();
            let host = self.hosts(&at("host"), host)?.into_iter().next();
            HealthCheckKind::Http { path: path.into(), host }
        } else {
            HealthCheckKind::Tcp
        };
        let number = |field: &str, written: &Option<Spanned<u64>>, default: u32, limits| {
            written.as_ref().map_or(Ok(default), |number| self.number(&at(field), number, limits))
        };
        let interval_ms =
            number("interval_ms", &written.interval_ms, 5_000, 100..=INTERVAL_MS_MAX)?;
        let longest = u64::from(interval_ms);
        let port = written.port.as_ref().map(|port| self.port(&at("port"), port)).transpose()?;
        Ok(Some(HealthCheck {
            kind,
            port,
            proxy_protocol: ProxyProtocol::Off,
            interval_ms,
            timeout_ms: number(
                "timeout_ms",
                &written.timeout_ms,
                interval_ms.min(2_000),
                1..=longest,
            )?,
            rise: number("rise", &written.rise, 2, 1..=100)?,
            fall: number("fall", &written.fall, 3, 1..=100)?,
            ways: Vec::new(),
        }))
    }

    fn site(&mut self, index: usize, name: &'a str, site: &'a file::Site) -> Checked<()> {
        let at = |field: &str| format!("site \"{name}\": {field}");
        let hosts = self.hosts(&at("hosts"), &site.hosts)?;
        let requested = self.addresses(&at("addresses"), &site.addresses)?;
        let default_backend = match &site.service {
            Some(service) => Some(self.backend(name, service, site.port.as_ref())?),
            None => None,
        };
        let mut rules = Vec::new();
        for path in &site.paths {
            self.path(name, path, &hosts, &mut rules)?;
        }
        let mut site_default = None;
        match default_backend {
            // With hosts, "everything" means everything for those hosts.
            Some(backend) if !hosts.is_empty() => {
                rules.extend(hosts.iter().map(|host| IngressRule {
                    host: Some(host.clone()),
                    path_match: PathType::Prefix,
                    path: "/".into(),
                    backend: backend.clone(),
                    rewrite: None,
                }))
            }
            other => site_default = other,
        }
        if rules.is_empty() && site_default.is_none() {
            return self.refuse(&site.name, &at("service"), "", "name a service, or write paths");
        }
        let protocols =
            [("http1", Some(UpstreamProtocol::Http1)), ("h2c", Some(UpstreamProtocol::Http2))];
        let spoken = site.backend_protocol.as_ref();
        let speaks = self.choice(&at("backend_protocol"), spoken, &protocols, None)?;
        let backends = self.backends_of_site((index, name), site)?;
        let backends = backends.or(&BackendWishes { speaks, ..BackendWishes::default() });
        let wishes = self.requests((index, name), site)?;
        let mut tls = Vec::new();
        for (index, written) in site.tls.iter().enumerate() {
            tls.push(self.tls(name, index, written)?);
        }
        let port = |field: &str, port: &Option<Spanned<u64>>| {
            port.as_ref().map(|port| self.port(&at(field), port)).transpose()
        };
        let spec = IngressSpec {
            created_secs: 0,
            rules,
            default_backend: site_default,
            tls,
            recorded: requested.clone(),
            requested,
            pool: None,
            wish: AddressWish::default(),
            http_port: port("http_port", &site.http_port)?,
            https_port: port("https_port", &site.https_port)?,
            hostnames: Vec::new(),
            ttl_secs: self.ttl(&at("ttl_secs"), site.ttl_secs.as_ref())?,
            requests: IngressRequests { wishes, backends, ..IngressRequests::default() },
            faults: Vec::new(),
        };
        let object = ObjectRef::ingress(&self.source, NAMESPACE, name);
        self.updates.push(SourceUpdate::Ingress { object, spec: Some(Box::new(spec)) });
        Ok(())
    }

    fn path(
        &mut self,
        site: &str,
        written: &'a file::Path,
        hosts: &[Arc<str>],
        rules: &mut Vec<IngressRule>,
    ) -> Checked<()> {
        let field = format!("site \"{site}\": paths.path");
        let path = written.path.get_ref();
        if !path.starts_with('/') {
            return self.refuse(&written.path, &field, path, "write a path, as in \"/api\"");
        }
        let choices = [("prefix", PathType::Prefix), ("exact", PathType::Exact)];
        let field = format!("site \"{site}\": paths.match");
        let path_match =
            self.choice(&field, written.path_match.as_ref(), &choices, PathType::Prefix)?;
        let backend = self.backend(site, &written.service, written.port.as_ref())?;
        let every: Vec<Option<Arc<str>>> = match hosts {
            [] => vec![None],
            hosts => hosts.iter().cloned().map(Some).collect(),
        };
        rules.extend(every.into_iter().map(|host| IngressRule {
            host,
            path_match,
            path: path.as_str().into(),
            backend: backend.clone(),
            rewrite: None,
        }));
        Ok(())
    }

    fn backend(
        &mut self,
        site: &str,
        service: &'a Spanned<String>,
        port: Option<&'a Spanned<file::PortRef>>,
    ) -> Checked<IngressBackend> {
        let name = service.get_ref().as_str();
        let field = format!("site \"{site}\": service");
        let Some(found) = self.services.get(name) else {
            return self.refuse(
                service,
                &field,
                name,
                "write the name of a [[service]] of this file",
            );
        };
        let ports = found.ports.get_ref();
        let field = format!("site \"{site}\": port");
        let remedy = "write the number or the name of one of the service's ports";
        let port = match (port, ports.as_slice()) {
            (None, [only]) => IngressPort::Number(self.port(&field, &only.port)?),
            (None, _) => return self.refuse(service, &field, "", remedy),
            (Some(place), ports) => match place.get_ref() {
                file::PortRef::Number(number)
                    if ports.iter().any(|port| port.port.get_ref() == number) =>
                {
                    let number = Spanned::new(place.span(), *number);
                    IngressPort::Number(self.port(&field, &number)?)
                }
                file::PortRef::Name(label)
                    if ports
                        .iter()
                        .any(|port| port.name.as_ref().is_some_and(|n| n.get_ref() == label)) =>
                {
                    IngressPort::Name(label.as_str().into())
                }
                file::PortRef::Number(number) => {
                    return self.refuse(place, &field, &number.to_string(), remedy);
                }
                file::PortRef::Name(label) => return self.refuse(place, &field, label, remedy),
            },
        };
        self.pointed_at.insert(name);
        let service = ObjectRef::service(&self.source, NAMESPACE, name);
        Ok(IngressBackend { service, port })
    }

    fn tls(&mut self, site: &str, index: usize, written: &file::Tls) -> Checked<IngressTls> {
        let hosts = self.hosts(&format!("site \"{site}\": tls.hosts"), &written.hosts)?;
        let certificate = CertificateRef {
            source: self.source.clone(),
            namespace: NAMESPACE.into(),
            name: format!("{site}.{index}").into(),
        };
        let directory = self.path.parent().unwrap_or(Path::new("."));
        let chain_path = directory.join(written.certificate.get_ref());
        let key_path = directory.join(written.key.get_ref());
        let ocsp_path = written.ocsp.as_ref().map(|path| directory.join(path.get_ref()));
        let material = CertificateSpec {
            chain_pem: read(&chain_path, PEM_BYTES_MAX)?,
            key_pem: read(&key_path, PEM_BYTES_MAX)?,
            ocsp_der: match &ocsp_path {
                Some(path) => read(path, OCSP_BYTES_MAX)?,
                None => Vec::new(),
            },
        };
        self.files.extend([chain_path, key_path].into_iter().chain(ocsp_path));
        self.updates.push(SourceUpdate::Certificate {
            certificate: certificate.clone(),
            material: Some(Box::new(material)),
        });
        Ok(IngressTls { hosts, certificate })
    }
}
