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

use super::certificates::{CertificateSlot, NameTable, Resolver};
use super::clients::client_verifier;
use super::streams::StreamRoutes;
use super::tickets::FleetTickets;
use crate::hosts::NameMap;
use crate::settings::{TicketSecret, TlsPolicy};
use crate::upstream::TargetSlot;

/// What all TLS listeners share.
pub(crate) struct TlsBase {
    provider: Arc<CryptoProvider>,
    policy: TlsPolicy,
    /// With keys of this host alone.
    own_tickets: Arc<dyn ProducesTickets>,
    fleet_tickets: Option<Fleet>,
}

/// What the fleet's tickets are made of.
struct Fleet {
    secret: TicketSecret,
    tickets: Arc<FleetTickets>,
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

impl Termination {
    /// What clients have to show.
    pub(crate) fn client(&self) -> Option<&ClientValidation> {
        self.spec.client.as_ref()
    }
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
    /// Makes keys for session tickets of this host alone. They are replaced every six hours, and
    /// taken for another six.
    pub(crate) fn new() -> Result<Self, rustls::Error> {
        Ok(Self {
            provider: Arc::new(rustls::crypto::ring::default_provider()),
            policy: TlsPolicy::Intermediate,
            own_tickets: rustls::crypto::ring::Ticketer::new()?,
            fleet_tickets: None,
        })
    }

    /// Holds for what is compiled from now on; whether it differs from before. With a `secret`
    /// sessions are resumed by every host that has it, without by this one alone.
    pub(crate) fn configure(&mut self, policy: TlsPolicy, secret: Option<&TicketSecret>) -> bool {
        let other_policy = std::mem::replace(&mut self.policy, policy) != policy;
        if self.fleet_tickets.as_ref().map(|fleet| &fleet.secret) == secret {
            return other_policy;
        }
        self.fleet_tickets = secret.map(|secret| {
            let tickets = Arc::new(FleetTickets::new(secret.clone()));
            Fleet { secret: secret.clone(), tickets }
        });
        true
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
        let tickets = self.tickets(section, tls)?;
        let config = self.config(http, tls.client.as_ref(), resolver.clone(), tickets)?;
        Ok(Arc::new(Termination { spec: tls.clone(), http, of_gateway, resolver, config }))
    }

    /// A ticket stands for what the client has shown, and ends with the check that it was given
    /// out by: what is revoked or no longer trusted is not resumed. Tickets of the fleet are bound
    /// to it; where there are none, the section has keys of its own.
    fn tickets(
        &self,
        section: &Section,
        tls: &SectionTls,
    ) -> Result<Arc<dyn ProducesTickets>, rustls::Error> {
        match &self.fleet_tickets {
            Some(fleet) => Ok(fleet.tickets.of_section(section, tls)),
            None if tls.client.is_some() => rustls::crypto::ring::Ticketer::new(),
            None => Ok(self.own_tickets.clone()),
        }
    }

    fn config(
        &self,
        http: bool,
        client: Option<&ClientValidation>,
        resolver: Arc<Resolver>,
        tickets: Arc<dyn ProducesTickets>,
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
        config.ticketer = tickets;
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
