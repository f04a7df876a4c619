//! References: to parents, backends, certificates and authorities.

use std::sync::Arc;

use haflinger_core::{
    AuthorityChoice, AuthorityKind, AuthorityRef, BackendRef, CertificateChoice, CertificateRef,
    ObjectKind, ObjectRef, ParentFields, ParentSpec, SourceId,
};

use super::{GROUP, Reading};
use crate::objects::lax::Lax;
use crate::objects::{
    BackendRefBody, LocalReferenceBody, MirrorBackend, PolicyTarget, ReferenceBody,
    RouteParentBody, StreamBackendBody,
};
use crate::translate::port_number;

/// A reference as it is written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Written<'a> {
    /// Absent is not empty: empty is the core group.
    pub(super) group: Option<&'a str>,
    pub(super) kind: Option<&'a str>,
    pub(super) name: Option<&'a str>,
    pub(super) namespace: Option<&'a str>,
    pub(super) port: Option<i64>,
}

pub(super) trait Refers {
    fn written(&self) -> Written<'_>;
}

macro_rules! refers {
    ($($body:ty: $namespace:expr, $port:expr;)*) => {$(
        impl Refers for $body {
            fn written(&self) -> Written<'_> {
                let namespace: fn(&Self) -> Option<&str> = $namespace;
                let port: fn(&Self) -> Option<i64> = $port;
                Written {
                    group: self.group.get().map(String::as_str),
                    kind: self.kind.text(),
                    name: self.name.text(),
                    namespace: namespace(self),
                    port: port(self),
                }
            }
        }
    )*};
}

refers! {
    ReferenceBody: |body| body.namespace.text(), |_| None;
    LocalReferenceBody: |_| None, |_| None;
    PolicyTarget: |_| None, |_| None;
    RouteParentBody: |body| body.namespace.text(), |body| body.port.get().copied();
    BackendRefBody: |body| body.namespace.text(), |body| body.port.get().copied();
    StreamBackendBody: |body| body.namespace.text(), |body| body.port.get().copied();
    MirrorBackend: |body| body.namespace.text(), |body| body.port.get().copied();
}

impl Written<'_> {
    /// `group/kind name`, for what is none of ours; the core group has no name.
    pub(super) fn described(&self, group: &str, kind: &str) -> Arc<str> {
        let kind = kind_in(self.group.unwrap_or(group), self.kind.unwrap_or(kind));
        format!("{kind} {}", self.name.unwrap_or_default()).into()
    }

    /// Whether it is of this group and kind, which are also those of a reference that names none.
    pub(super) fn is(&self, group: &str, kind: &str) -> bool {
        self.group.unwrap_or(group) == group && self.kind.unwrap_or(kind) == kind
    }
}

/// `group/kind`; the core group has no name.
pub(super) fn kind_in(group: &str, kind: &str) -> String {
    if group.is_empty() { kind.to_owned() } else { format!("{group}/{kind}") }
}

/// What a route may have for a parent.
pub(super) const PARENTS: [ObjectKind; 2] = [ObjectKind::Gateway, ObjectKind::ListenerSet];

/// What the status of a policy may name.
pub(super) const ANCESTORS: [ObjectKind; 6] = [
    ObjectKind::Gateway,
    ObjectKind::ListenerSet,
    ObjectKind::HttpRoute,
    ObjectKind::GrpcRoute,
    ObjectKind::Ingress,
    ObjectKind::Service,
];

/// The object that a route or a status names, if it can be one of ours: a Gateway, unless it says
/// otherwise.
pub(super) fn parent(
    source: &SourceId,
    namespace: &str,
    body: &RouteParentBody,
    kinds: &[ObjectKind],
) -> Option<ParentSpec> {
    let written = body.written();
    let (group, named) = (written.group.unwrap_or(GROUP), written.kind.unwrap_or("Gateway"));
    let of_kind = |kind: &ObjectKind| (kind.api_version().0, kind.api_kind()) == (group, named);
    let kind = kinds.iter().copied().find(of_kind)?;
    let place = written.namespace.unwrap_or(namespace);
    Some(ParentSpec {
        object: ObjectRef::of_kind(source, kind, place, written.name?),
        written: ParentFields { namespace: written.namespace.is_some() },
        section: body.section_name.text().map(Into::into),
        port: port_number(written.port),
    })
}

impl Reading<'_> {
    /// `spec.parentRefs`, without those of other kinds.
    pub(super) fn parents(&mut self, list: &[Lax<RouteParentBody>]) -> Vec<ParentSpec> {
        let parents = self.each("spec.parentRefs", list);
        parents
            .iter()
            .filter_map(|(_, body)| parent(self.source, self.namespace, body, &PARENTS))
            .collect()
    }

    /// A backend: a Service, unless it says otherwise.
    pub(super) fn backend(&mut self, field: &str, body: &impl Refers) -> BackendRef {
        let written = body.written();
        if !written.is("", "Service") {
            return BackendRef::Other(written.described("", "Service"));
        }
        let Some(name) = written.name else {
            self.refuse(format!("{field}.name: is missing; name a Service"));
            return BackendRef::Other(written.described("", "Service"));
        };
        let namespace = written.namespace.unwrap_or(self.namespace);
        let object = ObjectRef::service(self.source, namespace, name);
        BackendRef::Service { object, port: port_number(written.port) }
    }

    /// A certificate with its key: a Secret, unless it says otherwise.
    pub(super) fn certificate(
        &mut self,
        field: &str,
        body: &ReferenceBody,
    ) -> Option<CertificateChoice> {
        let written = body.written();
        if !written.is("", "Secret") {
            return Some(CertificateChoice::Other(written.described("", "Secret")));
        }
        let Some(name) = written.name else {
            self.refuse(format!("{field}.name: is missing; name a Secret"));
            return None;
        };
        Some(CertificateChoice::Secret(CertificateRef {
            source: self.source.clone(),
            namespace: written.namespace.unwrap_or(self.namespace).into(),
            name: name.into(),
        }))
    }

    /// Certificates of authorities. What cannot be one stays in the list: who asks for an
    /// authority that nobody knows must not be taken to ask for none.
    pub(super) fn authority(&mut self, body: &impl Refers) -> AuthorityChoice {
        let written = body.written();
        let kind = match (written.group.unwrap_or_default(), written.kind) {
            ("", Some("ConfigMap")) => AuthorityKind::ConfigMap,
            ("", Some("Secret")) => AuthorityKind::Secret,
            _ => return AuthorityChoice::Other(written.described("", "")),
        };
        AuthorityChoice::Object(AuthorityRef {
            source: self.source.clone(),
            kind,
            namespace: written.namespace.unwrap_or(self.namespace).into(),
            name: written.name.unwrap_or_default().into(),
        })
    }
}
