//! TLS towards backends: who they have to be, and what they are shown.
//!
//! One [`BackendTls`] for each way to greet, shared by all rules that greet alike, so that
//! sessions are resumed and a connection is only ever used again by those who would have greeted
//! in the same way. A backend that cannot be verified is not spoken to.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use arc_swap::ArcSwap;
use haflinger_core::{
    CertificateRef, SubjectName, UpstreamAuthorities, UpstreamProtocol, UpstreamTls,
};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ResolvesClientCert, Resumption, WebPkiServerVerifier};
use rustls::crypto::CryptoProvider;
use rustls::sign::CertifiedKey;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::certificates::{Certificate, CertificateSlot};
use super::clients::Authorities;

/// Server names whose sessions are kept for resumption by one configuration: it has but one name.
const SESSIONS_MAX: usize = 4;

/// One way to greet backends.
pub(crate) struct BackendTls {
    /// Tells it from every other: connections with different numbers are never exchanged.
    pub(crate) id: u64,
    /// Present when backends can be greeted in this way at all.
    prepared: Result<Prepared, String>,
}

struct Prepared {
    server_name: ServerName<'static>,
    slot: Option<Arc<CertificateSlot>>,
    configs: ArcSwap<Configs>,
}

/// One configuration for each protocol, and the certificate that their sessions were begun with.
struct Configs {
    certificate: Option<Arc<Certificate>>,
    http1: Arc<ClientConfig>,
    http2: Arc<ClientConfig>,
}

impl Prepared {
    /// The configurations for the certificate of now: with another one, sessions begin anew, since
    /// a backend goes on taking a resumed client for whom it was.
    fn configs(&self) -> Arc<Configs> {
        let configs = self.configs.load_full();
        let Some(now) = self.slot.as_ref().map(|slot| slot.load()) else { return configs };
        if configs.certificate.as_ref().map(Arc::as_ptr) == now.as_ref().map(Arc::as_ptr) {
            return configs;
        }
        let renewed = Arc::new(Configs {
            certificate: now,
            http1: without_sessions(&configs.http1),
            http2: without_sessions(&configs.http2),
        });
        self.configs.store(renewed.clone());
        renewed
    }
}

fn without_sessions(config: &ClientConfig) -> Arc<ClientConfig> {
    let mut config = config.clone();
    config.resumption = Resumption::in_memory_sessions(SESSIONS_MAX);
    Arc::new(config)
}

/// Why a backend cannot be greeted.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BackendTlsError {
    /// What it would be verified by cannot be used.
    #[error("no backend can be verified: {0}")]
    Unprepared(String),
    /// It is not who it has to be.
    #[error("the backend's certificate is not accepted")]
    Certificate(#[source] std::io::Error),
    /// The handshake failed.
    #[error("the TLS handshake with the backend failed")]
    Handshake(#[source] std::io::Error),
    /// It does not speak HTTP/2.
    #[error("the backend did not agree to HTTP/2")]
    Protocol,
}

impl BackendTlsError {
    /// As a label.
    pub(crate) fn as_str(&self) -> &'static str {
        match self {
            Self::Unprepared(_) => "unprepared",
            Self::Certificate(_) => "certificate",
            Self::Handshake(_) => "handshake",
            Self::Protocol => "protocol",
        }
    }
}

impl fmt::Debug for BackendTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.prepared.as_ref().map(|prepared| &prepared.server_name);
        write!(f, "BackendTls({}, {name:?})", self.id)
    }
}

impl BackendTls {
    /// Shakes hands on a connection.
    pub(crate) async fn greet(
        &self,
        stream: TcpStream,
        speaks: UpstreamProtocol,
    ) -> Result<TlsStream<TcpStream>, BackendTlsError> {
        let prepared =
            self.prepared.as_ref().map_err(|e| BackendTlsError::Unprepared(e.clone()))?;
        let configs = prepared.configs();
        let config = match speaks {
            UpstreamProtocol::Http1 => &configs.http1,
            UpstreamProtocol::Http2 => &configs.http2,
        };
        let connector = TlsConnector::from(config.clone());
        let stream = connector.connect(prepared.server_name.clone(), stream).await;
        let stream = stream.map_err(|error| {
            let cause = error.get_ref().and_then(|error| error.downcast_ref::<Error>());
            match cause {
                Some(Error::InvalidCertificate(_) | Error::InvalidCertRevocationList(_)) => {
                    BackendTlsError::Certificate(error)
                }
                _ => BackendTlsError::Handshake(error),
            }
        })?;
        // Without HTTP/2 the backend would take the preface for a broken request.
        let agreed = stream.get_ref().1.alpn_protocol();
        if speaks == UpstreamProtocol::Http2 && agreed != Some(b"h2") {
            return Err(BackendTlsError::Protocol);
        }
        Ok(stream)
    }
}

/// What was asked for, and the way to greet while anybody uses it.
type Known = (Arc<UpstreamTls>, Weak<BackendTls>);

/// All ways to greet that are in use. Bounded by the rules that hold them.
#[derive(Debug, Default)]
pub(crate) struct BackendGreetings {
    by_name: HashMap<Arc<str>, Vec<Known>>,
    swept_at: usize,
}

impl BackendGreetings {
    /// The way to greet that `spec` asks for: an equal one that is in use, or a new one.
    pub(crate) fn greeting(
        &mut self,
        spec: &Arc<UpstreamTls>,
        slot: impl FnOnce(&CertificateRef) -> Arc<CertificateSlot>,
    ) -> Arc<BackendTls> {
        self.sweep();
        let equals = self.by_name.entry(spec.server_name.clone()).or_default();
        equals.retain(|(_, tls)| tls.strong_count() > 0);
        let equal = equals.iter().find(|(other, _)| Arc::ptr_eq(other, spec) || other == spec);
        if let Some(tls) = equal.and_then(|(_, tls)| tls.upgrade()) {
            return tls;
        }
        let tls = Arc::new(BackendTls::new(spec, slot));
        equals.push((spec.clone(), Arc::downgrade(&tls)));
        tls
    }

    /// Forgets what nobody uses any more, once that may have become half of all.
    fn sweep(&mut self) {
        if self.by_name.len() < 2 * self.swept_at + 16 {
            return;
        }
        self.by_name.retain(|_, equals| {
            equals.retain(|(_, tls)| tls.strong_count() > 0);
            !equals.is_empty()
        });
        self.swept_at = self.by_name.len();
    }
}

impl BackendTls {
    fn new(spec: &UpstreamTls, slot: impl FnOnce(&CertificateRef) -> Arc<CertificateSlot>) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        let slot = spec.client_certificate.as_ref().map(slot);
        let prepared = prepare(spec, slot);
        if let Err(error) = &prepared {
            tracing::warn!(server_name = %spec.server_name, error, "backends cannot be verified");
        }
        Self { id, prepared }
    }
}

fn prepare(spec: &UpstreamTls, slot: Option<Arc<CertificateSlot>>) -> Result<Prepared, String> {
    let text = |error: &dyn fmt::Display| error.to_string();
    let server_name =
        ServerName::try_from(spec.server_name.to_string()).map_err(|error| text(&error))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = verifier(spec, &provider)?;
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| text(&error))?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let certificate = slot.as_ref().and_then(|slot| slot.load());
    let mut http1 = match slot.clone() {
        Some(slot) => builder.with_client_cert_resolver(Arc::new(ClientCertificate { slot })),
        None => builder.with_no_client_auth(),
    };
    let mut http2 = http1.clone();
    http1.alpn_protocols = vec![b"http/1.1".to_vec()];
    http2.alpn_protocols = vec![b"h2".to_vec()];
    let (http1, http2) = (without_sessions(&http1), without_sessions(&http2));
    let configs = ArcSwap::from_pointee(Configs { certificate, http1, http2 });
    Ok(Prepared { server_name, slot, configs })
}

fn verifier(
    spec: &UpstreamTls,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ServerCertVerifier>, String> {
    let (roots, revoked) = match &spec.authorities {
        UpstreamAuthorities::System => (system_roots(), Vec::new()),
        UpstreamAuthorities::These(specs) => {
            let Authorities { roots, revoked, faults } = Authorities::load(specs);
            if roots.is_empty() {
                return Err(faults.join("; "));
            }
            (roots, revoked)
        }
    };
    let chain = WebPkiServerVerifier::builder_with_provider(roots, provider.clone())
        .with_crls(revoked)
        .allow_unknown_revocation_status()
        .build()
        .map_err(|error| error.to_string())?;
    if spec.subject_names.is_empty() {
        return Ok(chain);
    }
    let names = spec.subject_names.clone();
    Ok(Arc::new(AnyOfNames { chain, names }))
}

/// What the host trusts, read once: packages that change it restart nothing, and a handshake must
/// not read files.
fn system_roots() -> Arc<RootCertStore> {
    static ROOTS: OnceLock<Arc<RootCertStore>> = OnceLock::new();
    let load = || {
        let found = rustls_native_certs::load_native_certs();
        for error in &found.errors {
            tracing::warn!(%error, "a trusted certificate of the host cannot be read");
        }
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(found.certs);
        Arc::new(roots)
    };
    ROOTS.get_or_init(load).clone()
}

/// Verifies the chain, and one of several names in the place of the server name.
#[derive(Debug)]
struct AnyOfNames {
    chain: Arc<WebPkiServerVerifier>,
    names: Vec<SubjectName>,
}

impl AnyOfNames {
    fn has_one(&self, leaf: &CertificateDer<'_>) -> Result<bool, Error> {
        let encoding = || Error::from(CertificateError::BadEncoding);
        let (_, parsed) = X509Certificate::from_der(leaf).map_err(|_| encoding())?;
        let alternative = parsed.subject_alternative_name().map_err(|_| encoding())?;
        let names = alternative.iter().flat_map(|extension| &extension.value.general_names);
        let fits = |name: &GeneralName<'_>| {
            self.names.iter().any(|wanted| match (wanted, name) {
                (SubjectName::Dns(wanted), GeneralName::DNSName(name)) => covers(name, wanted),
                (SubjectName::Uri(wanted), GeneralName::URI(name)) => **wanted == **name,
                _ => false,
            })
        };
        Ok(names.into_iter().any(fits))
    }
}

/// Whether the name of a certificate, which may begin with a wildcard for one label (RFC 9525,
/// section 6.3), covers `wanted`.
fn covers(name: &str, wanted: &str) -> bool {
    match name.strip_prefix("*.") {
        None => name.eq_ignore_ascii_case(wanted),
        Some(suffix) => wanted
            .split_once('.')
            .is_some_and(|(label, rest)| !label.is_empty() && rest.eq_ignore_ascii_case(suffix)),
    }
}

impl ServerCertVerifier for AnyOfNames {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        stapled: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        use CertificateError::{NotValidForName, NotValidForNameContext};
        match self.chain.verify_server_cert(leaf, chain, server_name, stapled, now) {
            // The name is looked at last: the chain is good.
            Ok(_)
            | Err(Error::InvalidCertificate(NotValidForName | NotValidForNameContext { .. })) => {}
            Err(error) => return Err(error),
        }
        match self.has_one(leaf)? {
            true => Ok(ServerCertVerified::assertion()),
            false => Err(NotValidForName.into()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls12_signature(message, leaf, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls13_signature(message, leaf, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}

/// Shows whatever certificate is in the slot now.
#[derive(Debug)]
struct ClientCertificate {
    slot: Arc<CertificateSlot>,
}

impl ResolvesClientCert for ClientCertificate {
    fn resolve(&self, _: &[&[u8]], schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        let certificate = self.slot.load()?;
        certificate.key().key.choose_scheme(schemes)?;
        Some(certificate.key().clone())
    }

    fn has_certs(&self) -> bool {
        self.slot.load().is_some()
    }
}
