//! How clients of a listener are greeted: its certificates, and what clients have to show.

use std::sync::Arc;

use super::conditions::Why;
use super::grants::Named;
use super::listeners::Merged;
use super::{GatewayApi, Uses};
use crate::index::Index;
use crate::{
    AuthorityChoice, AuthorityKind, CertificateChoice, CertificateRef, ClientValidation,
    GatewaySpec, IngressTls, ObjectRef, SectionTls,
};

impl Index {
    /// How clients of a listener are greeted that ends TLS; `None`: they cannot be. What stands
    /// against it is noted at the listener.
    pub(super) fn section_tls(
        &self,
        gateway: (&ObjectRef, &GatewaySpec),
        listener: &mut Merged<'_>,
        uses: &mut Uses,
    ) -> Option<SectionTls> {
        let choices = listener.spec.tls.as_ref().map_or(&[][..], |tls| &tls.certificates);
        let mut certificates = Vec::new();
        for choice in choices {
            match self.certificate(listener.owner, choice, uses) {
                Ok((certificate, fault)) => {
                    certificates.push(IngressTls { hosts: Vec::new(), certificate });
                    listener.certified |= fault.is_none();
                    listener.unresolved.extend(fault);
                }
                Err(why) => listener.unresolved.push(why),
            }
        }
        if choices.is_empty() {
            let message = "tls.certificateRefs names no certificate: name a Secret";
            listener.unresolved.push(Why::new("InvalidCertificateRef", message));
        }
        let client = self.client_validation(gateway, listener, uses);
        if certificates.is_empty() {
            return None;
        }
        Some(SectionTls { certificates, client: client.ok()? })
    }

    /// The certificate that a reference leads to, and what is wrong with its newest material: the
    /// former stays in service.
    pub(super) fn certificate(
        &self,
        owner: &ObjectRef,
        choice: &CertificateChoice,
        uses: &mut Uses,
    ) -> Result<(CertificateRef, Option<Why>), Why> {
        let certificate = match choice {
            CertificateChoice::Secret(certificate) => certificate,
            CertificateChoice::Other(kind) => {
                let message = format!("{kind} is no Secret");
                return Err(Why::new("InvalidCertificateRef", message));
            }
        };
        let (namespace, name) = (&certificate.namespace, &certificate.name);
        let named = Named { kind: "Secret", namespace, name };
        permitted(&self.gateway_api, owner, named, uses)?;
        uses.certificates.insert(certificate.clone());
        let entry = self.certificates.get(certificate);
        let invalid = |what: String| Why::new("InvalidCertificateRef", what);
        let Some(entry) = entry.filter(|entry| entry.material.is_some()) else {
            let what = "is missing or not of type kubernetes.io/tls";
            return Err(invalid(format!("secret {namespace}/{name} {what}")));
        };
        let fault = entry.fault.as_ref().map(|fault| invalid(fault.message.clone()));
        Ok((certificate.clone(), fault))
    }

    /// What clients of a listener have to show; an error where nobody can be let in.
    fn client_validation(
        &self,
        (gateway, spec): (&ObjectRef, &GatewaySpec),
        listener: &mut Merged<'_>,
        uses: &mut Uses,
    ) -> Result<Option<ClientValidation>, ()> {
        let of_port = |port: Option<u16>| spec.client_validation.iter().find(|v| v.port == port);
        let validation = of_port(Some(listener.spec.port)).or_else(|| of_port(None));
        let Some(validation) = validation.filter(|v| !v.authorities.is_empty()) else {
            return Ok(None);
        };
        let mut authorities = Vec::new();
        for choice in &validation.authorities {
            let allowed = permitted_authority(&self.gateway_api, gateway, choice, uses);
            match allowed.and_then(|()| self.gateway_api.authority(choice)) {
                Ok((_, authority)) => authorities.push(authority),
                Err(why) => listener.unresolved.push(why),
            }
        }
        if authorities.is_empty() {
            let message = "no reference in the Gateway's spec.tls.frontend leads to certificates \
                           of authorities: nobody could be let in";
            listener.refusal = Some(Why::new("NoValidCACertificate", message));
            return Err(());
        }
        let optional = validation.insecure_fallback;
        Ok(Some(ClientValidation { authorities, optional }))
    }
}

fn permitted(
    api: &GatewayApi,
    owner: &ObjectRef,
    named: Named<'_>,
    uses: &mut Uses,
) -> Result<(), Why> {
    if *named.namespace != owner.namespace {
        uses.foreign.insert(named.namespace.clone());
    }
    if api.is_granted(owner, named) {
        return Ok(());
    }
    let Named { kind, namespace, name } = named;
    let message = format!(
        "{kind} {namespace}/{name} is of another namespace, and no ReferenceGrant there allows \
         the reference"
    );
    Err(Why::new("RefNotPermitted", message))
}

fn permitted_authority(
    api: &GatewayApi,
    owner: &ObjectRef,
    choice: &AuthorityChoice,
    uses: &mut Uses,
) -> Result<(), Why> {
    let AuthorityChoice::Object(authority) = choice else { return Ok(()) };
    let kind = match authority.kind {
        AuthorityKind::ConfigMap => "ConfigMap",
        AuthorityKind::Secret => "Secret",
    };
    let namespace: &Arc<str> = &authority.namespace;
    permitted(api, owner, Named { kind, namespace, name: &authority.name }, uses)?;
    uses.authorities.insert(authority.clone());
    Ok(())
}
