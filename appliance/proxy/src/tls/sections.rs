//! The sections of a TLS listener, by the server name that clients ask for.
//!
//! Compiled when the listener changes. A section whose greeting is still the same keeps its
//! configuration, and with it the sessions that clients may resume.

use std::sync::Arc;

use haflinger_core::{
    CertificateRef, ClientValidation, HttpListener, Section, SectionTls, Serves, Target,
};
use rustls::crypto::CryptoProvider;
use rustls::server::{NoServerSessionStorage, ProducesTickets};
use rustls::{ServerConfig, SupportedProtocolVersion};

use super::by_name::NameMap;
use super::certificates::{CertificateSlot, NameTable, Resolver};
use super::clients::client_verifier;
use super::streams::StreamRoutes;
use crate::settings::TlsPolicy;
use crate::upstream::TargetSlot;

/// What all TLS listeners share.
pub(crate) struct TlsBase {
    provider: Arc<CryptoProvider>,
    policy: TlsPolicy,
    tickets: Arc<dyn ProducesTickets>,
}

/// The sections of one listener.
#[derive(Debug, Default)]
pub(crate) struct Sections {
    by_host: NameMap<Arc<TlsSection>>,
    http: bool,
}

/// One section.
#[derive(Debug)]
pub(crate) struct TlsSection {
    /// How connections are decrypted; `None`: they are not.
    pub(crate) termination: Option<Arc<Termination>>,
    /// Where connections go, when it is not HTTP that is served.
    pub(crate) streams: Option<StreamRoutes>,
}

/// What decrypting takes.
#[derive(Debug)]
pub(crate) struct Termination {
    /// What it was made of.
    spec: SectionTls,
    /// Whether HTTP is spoken, which is what ALPN offers then.
    http: bool,
    /// Whether it belongs to the listener of a Gateway.
    of_gateway: bool,
    /// The names served.
    pub(crate) resolver: Arc<Resolver>,
    /// Refers to the resolver.
    pub(crate) config: Arc<ServerConfig>,
}

impl Sections {
    /// The section for a server name in lower case, or for clients that name none.
    pub(crate) fn find(&self, server_name: Option<&str>) -> Option<&Arc<TlsSection>> {
        self.by_host.find(server_name)
    }

    /// Whether any of them serves HTTP.
    pub(crate) fn http(&self) -> bool {
        self.http
    }

    /// Follows certificates whose own names have changed, where those are what is served.
    pub(crate) fn rename(
        &self,
        spec: &HttpListener,
        key: &CertificateRef,
        mut slot: impl FnMut(&CertificateRef) -> Arc<CertificateSlot>,
    ) {
        for section in &spec.sections {
            let Some(tls) = &section.tls else { continue };
            let named =
                tls.certificates.iter().any(|e| e.hosts.is_empty() && e.certificate == *key);
            let compiled = self.by_host.get(&section.host).filter(|_| named);
            if let Some(termination) = compiled.and_then(|section| section.termination.as_ref()) {
                termination.resolver.replace(names(section, tls, &mut slot));
            }
        }
    }
}

impl TlsBase {
    /// Makes keys for session tickets. They are replaced every six hours, and taken for another
    /// six; each host has its own.
    pub(crate) fn new(policy: TlsPolicy) -> Result<Self, rustls::Error> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        Ok(Self { provider, policy, tickets: rustls::crypto::ring::Ticketer::new()? })
    }

    /// Holds for what is compiled from now on; whether it differs from before.
    pub(crate) fn set_policy(&mut self, policy: TlsPolicy) -> bool {
        std::mem::replace(&mut self.policy, policy) != policy
    }

    /// Compiles the sections of a listener; what `former` has already is kept.
    pub(crate) fn sections(
        &self,
        spec: &HttpListener,
        former: Option<&Sections>,
        mut slot: impl FnMut(&CertificateRef) -> Arc<CertificateSlot>,
        mut target: impl FnMut(&Target) -> Arc<TargetSlot>,
    ) -> Result<Sections, rustls::Error> {
        let mut sections = Sections::default();
        for section in &spec.sections {
            let former = former.and_then(|former| former.by_host.get(&section.host));
            let former = former.and_then(|section| section.termination.as_ref());
            let termination = match &section.tls {
                Some(tls) => Some(self.termination(section, tls, former, &mut slot)?),
                None => None,
            };
            let streams = match &section.serves {
                Serves::Requests(_) => None,
                Serves::Streams(rules) => Some(StreamRoutes::compile(rules, &mut target)),
            };
            sections.http |= streams.is_none();
            let compiled = TlsSection { termination, streams };
            sections.by_host.add(&section.host, Arc::new(compiled));
        }
        Ok(sections)
    }

    fn termination(
        &self,
        section: &Section,
        tls: &SectionTls,
        former: Option<&Arc<Termination>>,
        slot: impl FnMut(&CertificateRef) -> Arc<CertificateSlot>,
    ) -> Result<Arc<Termination>, rustls::Error> {
        let http = matches!(section.serves, Serves::Requests(_));
        let of_gateway = section.origin.is_some();
        let same = |former: &&Arc<Termination>| {
            former.spec == *tls && former.http == http && former.of_gateway == of_gateway
        };
        if let Some(former) = former.filter(same) {
            return Ok(former.clone());
        }
        let resolver = Arc::new(Resolver::default());
        resolver.replace(names(section, tls, slot));
        let config = self.config(http, tls.client.as_ref(), resolver.clone())?;
        Ok(Arc::new(Termination { spec: tls.clone(), http, of_gateway, resolver, config }))
    }

    fn config(
        &self,
        http: bool,
        client: Option<&ClientValidation>,
        resolver: Arc<Resolver>,
    ) -> Result<Arc<ServerConfig>, rustls::Error> {
        let builder = ServerConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(versions(self.policy))?;
        let mut config = match client {
            None => builder.with_no_client_auth(),
            Some(validation) => {
                let (verifier, faults) = client_verifier(validation, &self.provider);
                for fault in faults {
                    tracing::warn!(fault, "an authority for clients cannot be used");
                }
                builder.with_client_cert_verifier(verifier)
            }
        }
        .with_cert_resolver(resolver);
        if http {
            config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        }
        // A ticket stands for what the client has shown. Keys of its own end with the check that
        // they were given out by: what is revoked or no longer trusted is not resumed.
        config.ticketer = match client {
            None => self.tickets.clone(),
            Some(_) => rustls::crypto::ring::Ticketer::new()?,
        };
        // Tickets hold what a session is resumed from; a store for each of a thousand sections
        // would hold it once more.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        Ok(Arc::new(config))
    }
}

/// rustls has no other ciphers than those with forward secrecy and authenticated encryption.
fn versions(policy: TlsPolicy) -> &'static [&'static SupportedProtocolVersion] {
    static MODERN: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13];
    match policy {
        TlsPolicy::Intermediate => rustls::ALL_VERSIONS,
        TlsPolicy::Modern => MODERN,
    }
}

/// The names of a section. The listener of a Gateway has been given to its clients by its host:
/// it shows its first certificate where none has the name.
fn names(
    section: &Section,
    tls: &SectionTls,
    slot: impl FnMut(&CertificateRef) -> Arc<CertificateSlot>,
) -> NameTable {
    NameTable::compile(tls.certificates.iter(), section.origin.is_some(), slot)
}
