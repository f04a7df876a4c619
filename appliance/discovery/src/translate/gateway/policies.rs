//! ReferenceGrant and BackendTLSPolicy.

use haflinger_core::{
    BackendTlsPolicySpec, GrantFrom, GrantTo, ObjectRef, ReferenceGrantSpec, SourceId, SubjectName,
};

use super::references::Refers as _;
use super::{Reading, status};
use crate::objects::lax::Lax;
use crate::objects::{BackendTlsPolicyBody, Object, ReferenceGrantBody, SubjectAltName};
use crate::translate::{Faults, quoted};

/// Who may name what. An entry that cannot be read lets nobody in.
pub(crate) fn reference_grant(object: &Object<ReferenceGrantBody>) -> Option<ReferenceGrantSpec> {
    let spec = object.body.spec.get().filter(|_| !object.deleting)?;
    let group = |group: &Lax<String>| group.get().map(String::as_str).unwrap_or_default().into();
    let from = spec.from.elements().iter().filter_map(Lax::get).filter_map(|from| {
        Some(GrantFrom {
            group: group(&from.group),
            kind: from.kind.text()?.into(),
            namespace: from.namespace.text()?.into(),
        })
    });
    let to = spec.to.elements().iter().filter_map(Lax::get).filter_map(|to| {
        // A name that is of another type must not become every name.
        let name = (!to.name.is_wrong()).then(|| to.name.text().map(Into::into))?;
        Some(GrantTo { group: group(&to.group), kind: to.kind.text()?.into(), name })
    });
    Some(ReferenceGrantSpec { from: from.collect(), to: to.collect() })
}

/// How Services are spoken to by TLS.
pub(crate) fn backend_tls_policy(
    object: &Object<BackendTlsPolicyBody>,
    source: &SourceId,
) -> Option<BackendTlsPolicySpec> {
    let spec = object.body.spec.get().filter(|_| !object.deleting)?;
    let mut faults = Faults::default();
    let mut reading = Reading { source, namespace: object.namespace(), faults: &mut faults };
    let mut targets = Vec::new();
    for (field, body) in reading.each("spec.targetRefs", spec.target_refs.elements()) {
        let written = body.written();
        match written.name.filter(|_| written.is("", "Service")) {
            Some(name) => targets.push((
                ObjectRef::service(source, object.namespace(), name),
                body.section_name.text().map(Into::into),
            )),
            None => reading.decline(format!(
                "{field}: {} cannot be a target; name a Service",
                quoted(&written.described("", "Service"))
            )),
        }
    }
    let validation = spec.validation.get().cloned().unwrap_or_default();
    let references = reading
        .each("spec.validation.caCertificateRefs", validation.authorities.elements())
        .into_iter()
        .map(|(_, body)| body.clone())
        .collect::<Vec<_>>();
    let authorities = references.iter().map(|body| reading.authority(body)).collect();
    let system_authorities = match validation.well_known_authorities.text() {
        None => false,
        Some("System") => true,
        Some(other) => {
            let other = quoted(other);
            reading.decline(format!(
                "spec.validation.wellKnownCACertificates: {other} is unknown; write System"
            ));
            false
        }
    };
    let hostname = validation.hostname.text().unwrap_or_default();
    let hostname = reading.precise_hostname("spec.validation.hostname", hostname);
    let names = reading
        .each("spec.validation.subjectAltNames", validation.subject_alt_names.elements())
        .into_iter()
        .filter_map(|(field, body)| reading_name(&mut reading, &field, body))
        .collect();
    Some(BackendTlsPolicySpec {
        generation: object.generation,
        created_secs: object.created_secs,
        targets,
        authorities,
        system_authorities,
        hostname: hostname.unwrap_or_default(),
        subject_names: names,
        faults: faults.into_vec(),
        recorded_status: status::of_policy(&object.body.status, source, object.namespace()),
    })
}

fn reading_name(
    reading: &mut Reading<'_>,
    field: &str,
    body: &SubjectAltName,
) -> Option<SubjectName> {
    match (body.name_type.text(), body.hostname.text(), body.uri.text()) {
        (Some("Hostname"), Some(name), _) => {
            Some(SubjectName::Dns(reading.hostname(&format!("{field}.hostname"), name)?))
        }
        (Some("URI"), _, Some(uri)) => Some(SubjectName::Uri(uri.into())),
        _ => {
            reading.refuse(format!(
                "{field}: names nothing; write type Hostname with hostname, or URI with uri"
            ));
            None
        }
    }
}
