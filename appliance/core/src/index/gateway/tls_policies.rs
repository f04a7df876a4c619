//! How Services are spoken to by TLS (BackendTLSPolicy, GEP-1897).
//!
//! Of several policies for one target the oldest counts, then the one whose `namespace/name` comes
//! first; one for a port comes before one for all ports, and the two do not conflict. A policy
//! that cannot be followed does not make its Service one that is spoken to in plain text: nobody
//! speaks to it at all.

use std::sync::Arc;

use super::GatewayApi;
use super::conditions::Why;
use crate::{
    AuthorityChoice, AuthorityRef, AuthoritySpec, BackendTlsPolicySpec, CertificateRef, ObjectRef,
    ServiceSpec, UpstreamAuthorities, UpstreamTls,
};

/// What stands against a policy, for its two conditions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct PolicyVerdict {
    pub(super) refused: Option<Why>,
    pub(super) unresolved: Option<Why>,
}

/// A policy that targets a Service.
type Targeting<'a> = (&'a ObjectRef, &'a BackendTlsPolicySpec);

impl GatewayApi {
    /// Policies for a Service, the one that comes first first.
    pub(super) fn policies_for(&self, service: &ObjectRef) -> Vec<Targeting<'_>> {
        let names = self.policies_of.of(service);
        let mut policies: Vec<Targeting<'_>> =
            names.filter_map(|name| Some((name, &**self.tls_policies.get(name)?))).collect();
        policies.sort_by_key(|(name, policy)| {
            (policy.created_secs, name.namespace.clone(), name.name.clone())
        });
        policies
    }

    /// The policy that counts for a target: the Service as a whole, or a port of this name.
    fn leading(&self, service: &ObjectRef, port: Option<&Arc<str>>) -> Option<Targeting<'_>> {
        let targets = |policy: &BackendTlsPolicySpec| {
            let mut targets = policy.targets.iter();
            targets.any(|(object, section)| object == service && section.as_ref() == port)
        };
        self.policies_for(service).into_iter().find(|(_, policy)| targets(policy))
    }

    /// How a port of a Service is greeted; `None`: without TLS.
    pub(super) fn greeting(
        &self,
        service: &ObjectRef,
        port: &Arc<str>,
        client_certificate: Option<&CertificateRef>,
    ) -> Option<Result<Arc<UpstreamTls>, Why>> {
        let by_port = if port.is_empty() { None } else { self.leading(service, Some(port)) };
        let (name, policy) = by_port.or_else(|| self.leading(service, None))?;
        let (authorities, verdict) = self.authorities_of(name, policy);
        if let Some(why) = verdict.refused {
            return Some(Err(why));
        }
        Some(Ok(Arc::new(UpstreamTls {
            server_name: policy.hostname.clone(),
            subject_names: policy.subject_names.clone(),
            authorities,
            client_certificate: client_certificate.cloned(),
        })))
    }

    /// What a policy is told about itself.
    pub(super) fn policy_verdict(
        &self,
        name: &ObjectRef,
        policy: &BackendTlsPolicySpec,
        spec_of: impl Fn(&ObjectRef) -> Option<Arc<ServiceSpec>>,
    ) -> PolicyVerdict {
        let (_, mut verdict) = self.authorities_of(name, policy);
        if verdict.refused.is_some() {
            return verdict;
        }
        for (service, section) in &policy.targets {
            let leader = self.leading(service, section.as_ref()).map(|(leader, _)| leader);
            if let Some(leader) = leader.filter(|leader| *leader != name) {
                let (namespace, other) = (&leader.namespace, &leader.name);
                let message = format!("policy {namespace}/{other} is older, and has the target");
                verdict.refused = Some(Why::new("Conflicted", message));
                break;
            }
            let missing = match (spec_of(service), section) {
                (None, _) => Some(format!("service {} is missing", service.name)),
                (Some(spec), Some(port)) if !spec.ports.iter().any(|p| p.name == *port) => {
                    Some(format!("service {} has no port named {port:?}", service.name))
                }
                _ => None,
            };
            if let Some(message) = missing {
                verdict.refused = Some(Why::new("TargetNotFound", message));
                break;
            }
        }
        verdict
    }

    /// Whom a policy trusts, and what stands against that.
    fn authorities_of(
        &self,
        name: &ObjectRef,
        policy: &BackendTlsPolicySpec,
    ) -> (UpstreamAuthorities, PolicyVerdict) {
        let mut verdict = PolicyVerdict::default();
        if let Some(fault) = policy.faults.first() {
            verdict.refused = Some(Why::new("Invalid", fault.message.clone()));
        }
        if policy.authorities.is_empty() {
            if !policy.system_authorities && verdict.refused.is_none() {
                let message = "neither caCertificateRefs nor wellKnownCACertificates: System is \
                               given: give one of them";
                verdict.refused = Some(Why::new("Invalid", message));
            }
            return (UpstreamAuthorities::System, verdict);
        }
        let mut usable = Vec::new();
        for choice in &policy.authorities {
            match self.authority(choice) {
                Ok((_, authority)) => usable.push(authority),
                Err(why) => {
                    let reason = match why.reason {
                        "InvalidCACertificateKind" => "InvalidKind",
                        other => other,
                    };
                    verdict.unresolved.get_or_insert(Why::new(reason, why.message));
                }
            }
        }
        if usable.is_empty() && verdict.refused.is_none() {
            let message = format!("no reference of policy {} leads to a certificate", name.name);
            verdict.refused = Some(Why::new("NoValidCACertificate", message));
        }
        (UpstreamAuthorities::These(usable), verdict)
    }

    /// Certificates of authorities by reference, whether or not it may be made.
    pub(super) fn authority<'a>(
        &self,
        choice: &'a AuthorityChoice,
    ) -> Result<(&'a AuthorityRef, Arc<AuthoritySpec>), Why> {
        let authority = match choice {
            AuthorityChoice::Object(authority) => authority,
            AuthorityChoice::Other(kind) => {
                let message = format!("{kind} is neither a ConfigMap nor a Secret");
                return Err(Why::new("InvalidCACertificateKind", message));
            }
        };
        let name = format!("{}/{}", authority.namespace, authority.name);
        let invalid = |what: &str| Why::new("InvalidCACertificateRef", format!("{name} {what}"));
        match self.authorities.get(authority) {
            None => Err(invalid("is missing, or has no key ca.crt")),
            Some(spec) => match &spec.fault {
                Some(fault) => Err(invalid(&format!("cannot be used: {fault}"))),
                None => Ok((authority, spec.clone())),
            },
        }
    }
}
