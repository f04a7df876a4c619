//! GatewayClass, Gateway and ListenerSet.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use haflinger_core::{
    GatewayClassSpec, GatewaySpec, LabelRequirement, LabelSelector, LabelTest, ListenerProtocol,
    ListenerSetSpec, ListenerSpec, ListenerTlsSpec, NamespaceChoice, ObjectKind, ObjectRef,
    PortClientValidation, SourceId,
};

use super::references::{Refers, kind_in};
use super::{CONTROLLER, GROUP, Reading, status};
use crate::objects::lax::Lax;
use crate::objects::{
    AllowedRoutes, FrontendTls, GatewayAddress, GatewayBody, GatewayClassBody, GatewaySpecBody,
    GatewayTls, ListenerBody, ListenerSetBody, ListenerTls, NamespacesBody, Object, SelectorBody,
};
use crate::translate::annotations::Annotations;
use crate::translate::{Claims, Faults, port_number, quoted};

/// Addresses that a Gateway may ask for: as many as its schema takes.
const ADDRESSES_MAX: usize = 16;

/// A GatewayClass of ours, or `None`.
pub(crate) fn gateway_class(object: &Object<GatewayClassBody>) -> Option<GatewayClassSpec> {
    let spec = object.body.spec.get()?;
    if spec.controller_name.text() != Some(CONTROLLER) || object.deleting {
        return None;
    }
    let parameters = spec.parameters_ref.get().map(|body| body.written().described("", ""));
    Some(GatewayClassSpec {
        generation: object.generation,
        parameters,
        recorded_status: status::of_class(&object.body.status),
    })
}

/// A Gateway of any class.
pub(crate) fn gateway(
    object: &Object<GatewayBody>,
    source: &SourceId,
    claims: &Claims,
) -> Option<GatewaySpec> {
    if object.deleting {
        return None;
    }
    let empty = GatewaySpecBody::default();
    let spec = object.body.spec.get().unwrap_or(&empty);
    let mut faults = Faults::default();
    let mut annotations = Annotations { object, faults: &mut faults };
    let asked = annotations.asked(None, None, &claims.labels);
    let ttl_secs = annotations.ttl_secs();
    let mut reading = Reading { source, namespace: object.namespace(), faults: &mut faults };
    let listeners = reading.listeners(&spec.listeners);
    let (mut requested, foreign_addresses) = reading.addresses(&spec.addresses);
    if requested.is_empty() {
        requested = asked.requested;
    }
    let allowed = spec.allowed_listeners.get().map(|allowed| &allowed.namespaces);
    let allowed_sets = reading.namespaces(
        "spec.allowedListeners.namespaces",
        allowed.and_then(Lax::get),
        NamespaceChoice::None,
    );
    let tls = spec.tls.get();
    let client_validation = tls.map(|tls| reading.frontend(tls)).unwrap_or_default();
    let backend = tls.and_then(|tls| tls.backend.get()?.client_certificate_ref.get());
    let backend_certificate =
        backend.and_then(|body| reading.certificate("spec.tls.backend.clientCertificateRef", body));
    reading.unsupported(spec);
    Some(GatewaySpec {
        generation: object.generation,
        created_secs: object.created_secs,
        class: spec.gateway_class_name.text().unwrap_or_default().into(),
        listeners,
        requested,
        foreign_addresses,
        allowed_sets,
        client_validation,
        backend_certificate,
        pool: asked.pool,
        wish: asked.wish,
        recorded: recorded(object.body.status.get().map(|status| &status.addresses)),
        ttl_secs,
        faults: faults.into_vec(),
        recorded_status: status::of_gateway(&object.body.status),
    })
}

/// A ListenerSet, unless its parent is no Gateway.
pub(crate) fn listener_set(
    object: &Object<ListenerSetBody>,
    source: &SourceId,
) -> Option<ListenerSetSpec> {
    let spec = object.body.spec.get().filter(|_| !object.deleting)?;
    let parent = spec.parent_ref.get()?.written();
    if !parent.is(GROUP, "Gateway") {
        return None;
    }
    let namespace = parent.namespace.unwrap_or(object.namespace());
    let parent = ObjectRef::of_kind(source, ObjectKind::Gateway, namespace, parent.name?);
    let mut faults = Faults::default();
    let mut reading = Reading { source, namespace: object.namespace(), faults: &mut faults };
    let listeners = reading.listeners(&spec.listeners);
    Some(ListenerSetSpec {
        generation: object.generation,
        created_secs: object.created_secs,
        parent,
        listeners,
        faults: faults.into_vec(),
        recorded_status: status::of_listener_set(&object.body.status),
    })
}

/// Addresses in a Gateway's status; names are not ours.
fn recorded(addresses: Option<&Lax<Vec<Lax<GatewayAddress>>>>) -> Vec<IpAddr> {
    let entries = addresses.map(Lax::elements).unwrap_or_default().iter().filter_map(Lax::get);
    entries.filter_map(|entry| entry.value.text()?.parse().ok()).collect()
}

impl Reading<'_> {
    /// Addresses that are asked for, and those of types that are not served. One without a value
    /// asks for any.
    fn addresses(&mut self, list: &Lax<Vec<Lax<GatewayAddress>>>) -> (Vec<IpAddr>, Vec<Arc<str>>) {
        let (mut requested, mut foreign) = (Vec::new(), Vec::new());
        for (field, entry) in self.each("spec.addresses", list.elements()) {
            let kind = entry.address_type.text().unwrap_or("IPAddress");
            let Some(value) = entry.value.text() else { continue };
            if requested.len() + foreign.len() == ADDRESSES_MAX {
                self.refuse(format!("{field}: is one too many; ask for {ADDRESSES_MAX} at most"));
                break;
            }
            match value.parse::<IpAddr>() {
                Ok(address) if kind == "IPAddress" => {
                    if !requested.contains(&address) {
                        requested.push(address);
                    }
                }
                _ => foreign.push(format!("{kind} {}", quoted(value)).into()),
            }
        }
        (requested, foreign)
    }

    /// What nothing here does.
    fn unsupported(&mut self, spec: &GatewaySpecBody) {
        if let Some(body) = spec.infrastructure.get().and_then(|body| body.parameters_ref.get()) {
            let parameters = body.written().described("", "");
            self.decline(format!(
                "spec.infrastructure.parametersRef: {} is read by nothing; leave it out",
                quoted(&parameters)
            ));
        }
        if let Some(scope) = spec.default_scope.text().filter(|scope| *scope != "None") {
            self.decline(format!(
                "spec.defaultScope: {} is not supported; name the Gateway in the parentRefs of \
                 its routes",
                quoted(scope)
            ));
        }
    }

    fn listeners(&mut self, list: &Lax<Vec<Lax<ListenerBody>>>) -> Vec<ListenerSpec> {
        let listeners = self.each("spec.listeners", list.elements());
        listeners.iter().filter_map(|(field, body)| self.listener(field, body)).collect()
    }

    fn listener(&mut self, field: &str, body: &ListenerBody) -> Option<ListenerSpec> {
        let Some(name) = body.name.text() else {
            self.refuse(format!("{field}.name: is missing; name the listener"));
            return None;
        };
        // What cannot be read must not become a listener for every host.
        let hostname = match body.hostname.text() {
            Some(text) => Some(self.hostname(&format!("{field}.hostname"), text)?),
            None => None,
        };
        let Some(port) = port_number(body.port.get().copied()) else {
            self.refuse(format!("{field}.port: is no port; write one from 1 to 65535"));
            return None;
        };
        let tls = body.tls.get().map(|tls| self.listener_tls(&format!("{field}.tls"), tls));
        let empty = AllowedRoutes::default();
        let allowed = body.allowed_routes.get().unwrap_or(&empty);
        let allowed_namespaces = self.namespaces(
            &format!("{field}.allowedRoutes.namespaces"),
            allowed.namespaces.get(),
            NamespaceChoice::Same,
        );
        Some(ListenerSpec {
            name: name.into(),
            hostname,
            port,
            protocol: protocol(body.protocol.text().unwrap_or_default()),
            tls,
            allowed_namespaces,
            allowed_kinds: allowed_kinds(allowed),
        })
    }

    fn listener_tls(&mut self, field: &str, tls: &ListenerTls) -> ListenerTlsSpec {
        let references =
            self.each(&format!("{field}.certificateRefs"), tls.certificate_refs.elements());
        let certificates =
            references.iter().filter_map(|(field, body)| self.certificate(field, body));
        let certificates = certificates.collect();
        let options = tls.options.get().into_iter().flatten();
        ListenerTlsSpec {
            passthrough: tls.mode.text() == Some("Passthrough"),
            certificates,
            options: options
                .map(|(name, value)| {
                    (name.as_str().into(), value.text().unwrap_or_default().into())
                })
                .collect(),
        }
    }

    /// `namespaces`. Fails closed: whom it means that nobody understands, nobody is.
    fn namespaces(
        &mut self,
        field: &str,
        body: Option<&NamespacesBody>,
        absent: NamespaceChoice,
    ) -> NamespaceChoice {
        let Some(body) = body else { return absent };
        match body.from.text() {
            None => absent,
            Some("Same") => NamespaceChoice::Same,
            Some("All") => NamespaceChoice::All,
            Some("None") => NamespaceChoice::None,
            // As everywhere in Kubernetes, a selector that is absent selects nothing.
            Some("Selector") => match body.selector.get() {
                Some(selector) => self.selector(&format!("{field}.selector"), selector),
                None => NamespaceChoice::None,
            },
            Some(other) => {
                let other = quoted(other);
                self.refuse(format!(
                    "{field}.from: {other} is unknown; write All, Same, Selector or None"
                ));
                NamespaceChoice::None
            }
        }
    }

    fn selector(&mut self, field: &str, selector: &SelectorBody) -> NamespaceChoice {
        let mut requirements: Vec<LabelRequirement> = Vec::new();
        for (key, value) in selector.match_labels.get().into_iter().flatten() {
            let value: Arc<str> = value.get().map(String::as_str).unwrap_or_default().into();
            let test = LabelTest::In(BTreeSet::from([value]));
            requirements.push(LabelRequirement { key: key.as_str().into(), test });
        }
        let expressions =
            self.each(&format!("{field}.matchExpressions"), selector.match_expressions.elements());
        if expressions.len() < selector.match_expressions.elements().len() {
            return NamespaceChoice::None;
        }
        for (field, body) in expressions {
            let values = body.values.elements().iter().filter_map(Lax::get);
            let values: BTreeSet<Arc<str>> = values.map(|value| value.as_str().into()).collect();
            let test = match body.operator.text().unwrap_or_default() {
                "In" => LabelTest::In(values),
                "NotIn" => LabelTest::NotIn(values),
                "Exists" => LabelTest::Exists,
                "DoesNotExist" => LabelTest::Absent,
                other => {
                    let other = quoted(other);
                    self.refuse(format!(
                        "{field}.operator: {other} is unknown; write In, NotIn, Exists or \
                         DoesNotExist"
                    ));
                    return NamespaceChoice::None;
                }
            };
            let key = body.key.text().unwrap_or_default().into();
            requirements.push(LabelRequirement { key, test });
        }
        let text = requirements.iter().map(shown).collect::<Vec<_>>().join(",");
        NamespaceChoice::Labels(LabelSelector { text: text.into(), requirements })
    }

    /// `spec.tls.frontend`: those of ports first.
    fn frontend(&mut self, tls: &GatewayTls) -> Vec<PortClientValidation> {
        let Some(frontend) = tls.frontend.get() else { return Vec::new() };
        let mut found = Vec::new();
        for (field, body) in self.each("spec.tls.frontend.perPort", frontend.per_port.elements()) {
            match port_number(body.port.get().copied()) {
                Some(port) => {
                    let field = format!("{field}.tls");
                    found.push(self.client_validation(&field, Some(port), body.tls.get()));
                }
                None => self.refuse(format!("{field}.port: is no port; write one from 1 to 65535")),
            }
        }
        let default = frontend.default.get();
        found.push(self.client_validation("spec.tls.frontend.default", None, default));
        found
    }

    fn client_validation(
        &mut self,
        field: &str,
        port: Option<u16>,
        body: Option<&FrontendTls>,
    ) -> PortClientValidation {
        let validation = body.and_then(|body| body.validation.get());
        let list = validation.map(|body| body.authorities.elements()).unwrap_or_default();
        let references = self.each(&format!("{field}.validation.caCertificateRefs"), list);
        let authorities = references.iter().map(|(_, body)| self.authority(*body)).collect();
        let mode = validation.and_then(|body| body.mode.text());
        PortClientValidation {
            port,
            authorities,
            insecure_fallback: mode == Some("AllowInsecureFallback"),
        }
    }
}

fn protocol(text: &str) -> ListenerProtocol {
    match text {
        "HTTP" => ListenerProtocol::Http,
        "HTTPS" => ListenerProtocol::Https,
        "TLS" => ListenerProtocol::Tls,
        "TCP" => ListenerProtocol::Tcp,
        "UDP" => ListenerProtocol::Udp,
        other => ListenerProtocol::Other(other.into()),
    }
}

fn allowed_kinds(allowed: &AllowedRoutes) -> Vec<Result<ObjectKind, Arc<str>>> {
    const ROUTES: [ObjectKind; 5] = [
        ObjectKind::HttpRoute,
        ObjectKind::GrpcRoute,
        ObjectKind::TlsRoute,
        ObjectKind::TcpRoute,
        ObjectKind::UdpRoute,
    ];
    let kinds = allowed.kinds.elements().iter().filter_map(Lax::get);
    let read = kinds.map(|body| {
        let group = body.group.get().map_or(GROUP, String::as_str);
        let kind = body.kind.text().unwrap_or_default();
        let known = ROUTES.into_iter().find(|route| group == GROUP && route.api_kind() == kind);
        known.ok_or_else(|| kind_in(group, kind).into())
    });
    read.collect()
}

/// A requirement as `kubectl` takes it.
fn shown(requirement: &LabelRequirement) -> String {
    let key = &requirement.key;
    let list = |values: &BTreeSet<Arc<str>>| {
        values.iter().map(|value| &**value).collect::<Vec<_>>().join(",")
    };
    match &requirement.test {
        LabelTest::Exists => key.to_string(),
        LabelTest::Absent => format!("!{key}"),
        LabelTest::In(values) if values.len() == 1 => format!("{key}={}", list(values)),
        LabelTest::In(values) => format!("{key} in ({})", list(values)),
        LabelTest::NotIn(values) => format!("{key} notin ({})", list(values)),
    }
}
