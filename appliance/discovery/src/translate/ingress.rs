//! Ingress → [`IngressSpec`].

use std::sync::Arc;

use haflinger_core::{
    CertificateRef, FaultReason, IngressBackend, IngressPort, IngressRule, IngressSpec, IngressTls,
    ObjectRef, PathType, SourceId,
};

use super::annotations::Annotations;
use super::{Claims, Faults, dns_name, migration, port_number, quoted, recorded};
use crate::objects::lax::Lax;
use crate::objects::{
    IngressBackendBody, IngressBody, IngressPath, IngressRuleBody, IngressSpecBody, Name, Object,
};

/// What an Ingress says, or `None` when it is of another class or being deleted.
pub(crate) fn ingress(
    object: &Object<IngressBody>,
    source: &SourceId,
    claims: &Claims,
) -> Option<IngressSpec> {
    let empty = IngressSpecBody::default();
    let spec = object.body.spec.get().unwrap_or(&empty);
    // The field wins over what it was before.
    let class = spec.ingress_class_name.text().or(object.annotation(Name::LEGACY_INGRESS_CLASS))?;
    if class != claims.ingress_class || object.deleting {
        return None;
    }
    let mut faults = Faults::default();
    let mut reading = Reading { source, namespace: object.namespace(), faults: &mut faults };
    let default_backend = spec
        .default_backend
        .get()
        .and_then(|backend| reading.backend(backend, "spec.defaultBackend"));
    let mut rules = Vec::new();
    for (at, rule) in spec.rules.elements().iter().enumerate() {
        match rule.get() {
            Some(rule) => reading.rule(rule, at, default_backend.as_ref(), &mut rules),
            None => reading.refuse(format!("spec.rules[{at}]: is no object")),
        }
    }
    let tls = reading.tls(spec);
    let requests = migration::requests(object, source, &mut rules, &mut faults);
    let mut annotations = Annotations { object, faults: &mut faults };
    let asked = annotations.asked(None, None, &claims.labels);
    let hostnames = annotations.hostnames();
    let ttl_secs = annotations.ttl_secs();
    Some(IngressSpec {
        created_secs: object.created_secs,
        rules,
        default_backend,
        tls,
        requested: asked.requested,
        pool: asked.pool,
        wish: asked.wish,
        recorded: recorded(&object.body.status),
        http_port: None,
        https_port: None,
        hostnames,
        ttl_secs,
        requests,
        faults: faults.into_vec(),
    })
}

struct Reading<'a> {
    source: &'a SourceId,
    namespace: &'a str,
    faults: &'a mut Faults,
}

impl Reading<'_> {
    fn refuse(&mut self, message: String) {
        self.faults.add(FaultReason::InvalidField, message);
    }

    fn rule(
        &mut self,
        rule: &IngressRuleBody,
        at: usize,
        default_backend: Option<&IngressBackend>,
        rules: &mut Vec<IngressRule>,
    ) {
        let host = match rule.host.text() {
            None => None,
            Some(text) => match dns_name(text) {
                Some(host) => Some(host),
                None => {
                    let text = quoted(text);
                    return self.refuse(format!(
                        "spec.rules[{at}].host: {text} is no host name; its paths are not served"
                    ));
                }
            },
        };
        let paths = rule.http.get().map(|http| http.paths.elements()).unwrap_or_default();
        // A rule with a host alone sends everything for that host to the default backend.
        if paths.is_empty() && host.is_some() {
            if let Some(backend) = default_backend {
                rules.push(IngressRule {
                    host,
                    path_match: PathType::Prefix,
                    path: "/".into(),
                    backend: backend.clone(),
                    rewrite: None,
                });
            }
            return;
        }
        for (path_at, path) in paths.iter().enumerate() {
            let field = format!("spec.rules[{at}].http.paths[{path_at}]");
            match path.get() {
                Some(path) => rules.extend(self.path(path, &field, host.clone())),
                None => self.refuse(format!("{field}: is no object")),
            }
        }
    }

    fn path(
        &mut self,
        path: &IngressPath,
        field: &str,
        host: Option<Arc<str>>,
    ) -> Option<IngressRule> {
        let path_match = match path.path_type.text() {
            Some("Exact") => PathType::Exact,
            // What ImplementationSpecific means is ours to say: the same as Prefix.
            None | Some("Prefix" | "ImplementationSpecific") => PathType::Prefix,
            Some(other) => {
                let other = quoted(other);
                self.refuse(format!("{field}.pathType: {other} is unknown; write Prefix or Exact"));
                return None;
            }
        };
        let text = path.path.text().unwrap_or("/");
        if !text.starts_with('/') {
            let text = quoted(text);
            self.refuse(format!("{field}.path: {text} does not begin with /; write /path"));
            return None;
        }
        let backend = path.backend.get();
        let backend = self.backend(backend?, &format!("{field}.backend"))?;
        Some(IngressRule { host, path_match, path: text.into(), backend, rewrite: None })
    }

    fn backend(&mut self, backend: &IngressBackendBody, field: &str) -> Option<IngressBackend> {
        if !matches!(backend.resource, Lax::Absent) {
            self.faults.add(
                FaultReason::UnsupportedFeature,
                format!("{field}.resource: resource backends are not supported; name a service"),
            );
            return None;
        }
        let service = backend.service.get();
        let Some(name) = service.and_then(|service| service.name.text()) else {
            self.refuse(format!("{field}.service.name: is missing; name a service"));
            return None;
        };
        let port = service.and_then(|service| service.port.get());
        let number = port.and_then(|port| port_number(port.number.get().copied()));
        let named = port.and_then(|port| port.name.text());
        let port = match (number, named) {
            (Some(number), _) => IngressPort::Number(number),
            (None, Some(name)) => IngressPort::Name(name.into()),
            (None, None) => {
                self.refuse(format!(
                    "{field}.service.port: is missing; write a name or a number from 1 to 65535"
                ));
                return None;
            }
        };
        let service = ObjectRef::service(self.source, self.namespace, name);
        Some(IngressBackend { service, port })
    }

    fn tls(&mut self, spec: &IngressSpecBody) -> Vec<IngressTls> {
        let mut entries = Vec::new();
        for (at, tls) in spec.tls.elements().iter().enumerate() {
            let field = format!("spec.tls[{at}]");
            let Some(tls) = tls.get() else {
                self.refuse(format!("{field}: is no object"));
                continue;
            };
            let Some(secret) = tls.secret_name.text() else {
                self.refuse(format!("{field}.secretName: is missing; name a TLS Secret"));
                continue;
            };
            let mut hosts = Vec::new();
            for host in tls.hosts.elements().iter().filter_map(Lax::text) {
                match dns_name(host) {
                    Some(host) => hosts.push(host),
                    None => {
                        let host = quoted(host);
                        self.refuse(format!("{field}.hosts: {host} is no host name"));
                    }
                }
            }
            // Empty hosts mean "every name in the certificate"; hosts that are all wrong must not.
            if hosts.is_empty() && !tls.hosts.elements().is_empty() {
                continue;
            }
            let certificate = CertificateRef {
                source: self.source.clone(),
                namespace: self.namespace.into(),
                name: secret.into(),
            };
            entries.push(IngressTls { hosts, certificate });
        }
        entries
    }
}
