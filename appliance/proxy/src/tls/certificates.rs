//! Certificates: checked before they are put in service, chosen by the name that a client asks
//! for.
//!
//! Every certificate has a slot that all listeners share. New material is parsed and its key
//! compared with the leaf first; only then is the slot's pointer replaced, so a bad Secret leaves
//! the former certificate in service and a good one is served at the next handshake. Keys are
//! never logged and never leave this module except into rustls.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use arc_swap::{ArcSwap, ArcSwapOption};
use haflinger_core::{CertificateRef, CertificateSpec, IngressTls};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::staple::{Staple, StapleError};

/// Largest chain or key that is looked at, in bytes. Kubernetes allows a Secret 1 MiB in all; a
/// chain of ten certificates is below 64 KiB.
const PEM_BYTES_MAX: usize = 256 * 1024;

/// Longest chain: clients refuse longer ones, and every handshake sends all of it.
const CHAIN_MAX: usize = 10;

/// Most names that one certificate is served for.
const NAMES_MAX: usize = 1_000;

/// Why certificate material cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// More bytes than any sensible chain.
    #[error("tls.crt or tls.key is larger than {PEM_BYTES_MAX} bytes; store one chain and its key")]
    TooLarge,
    /// The chain is not PEM.
    #[error("tls.crt is not a PEM certificate chain")]
    ChainSyntax(#[source] rustls_pki_types::pem::Error),
    /// No certificate in it.
    #[error("tls.crt holds no certificate; store the leaf first, then its issuers")]
    ChainEmpty,
    /// Too many certificates in it.
    #[error("tls.crt holds more than {CHAIN_MAX} certificates; store one chain")]
    ChainTooLong,
    /// The leaf is not an X.509 certificate.
    #[error("the first certificate of tls.crt cannot be parsed: {0}")]
    Leaf(String),
    /// The key is not PEM.
    #[error("tls.key is not a PEM private key (PKCS#8, PKCS#1 or SEC1)")]
    KeySyntax(#[source] rustls_pki_types::pem::Error),
    /// The key's algorithm is not supported.
    #[error("tls.key cannot be used; RSA from 2048 bits, ECDSA P-256 or P-384, or Ed25519")]
    KeyUnsupported(#[source] rustls::Error),
    /// The key belongs to another certificate.
    #[error("tls.key does not belong to the first certificate of tls.crt")]
    KeyMismatch,
}

/// A certificate that can be served.
pub(crate) struct Certificate {
    key: Arc<CertifiedKey>,
    /// The same with the staple.
    stapled: Option<Arc<CertifiedKey>>,
    /// What the authority says about it; `None`: nothing was given.
    pub(crate) staple: Option<Result<Staple, StapleError>>,
    /// DNS names of the leaf in lower case, wildcards included.
    pub(crate) names: Vec<Arc<str>>,
    /// When it expires, in seconds since 1970.
    pub(crate) not_after_secs: i64,
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Certificate({:?})", self.names)
    }
}

impl Certificate {
    /// Chain, key and, as long as that holds, staple; for rustls alone.
    fn key_at(&self, now_secs: i64) -> &Arc<CertifiedKey> {
        let holds = |staple: &Staple| staple.holds(now_secs).is_ok();
        match (&self.stapled, &self.staple) {
            (Some(stapled), Some(Ok(staple))) if holds(staple) => stapled,
            _ => &self.key,
        }
    }

    /// Chain and key, for rustls alone.
    pub(super) fn key(&self) -> &Arc<CertifiedKey> {
        &self.key
    }

    /// Checks and prepares what a Secret holds.
    pub(crate) fn load(spec: &CertificateSpec) -> Result<Self, CertificateError> {
        if spec.chain_pem.len() > PEM_BYTES_MAX || spec.key_pem.len() > PEM_BYTES_MAX {
            return Err(CertificateError::TooLarge);
        }
        let chain = CertificateDer::pem_slice_iter(&spec.chain_pem)
            .collect::<Result<Vec<_>, _>>()
            .map_err(CertificateError::ChainSyntax)?;
        if chain.len() > CHAIN_MAX {
            return Err(CertificateError::ChainTooLong);
        }
        let leaf = chain.first().ok_or(CertificateError::ChainEmpty)?;
        let Leaf { names, not_after_secs, serial } = read_leaf(leaf)?;
        let key =
            PrivateKeyDer::from_pem_slice(&spec.key_pem).map_err(CertificateError::KeySyntax)?;
        let key = rustls::crypto::ring::sign::any_supported_type(&key)
            .map_err(CertificateError::KeyUnsupported)?;
        let key = CertifiedKey::new(chain, key);
        key.keys_match().map_err(|_| CertificateError::KeyMismatch)?;
        let given = (!spec.ocsp_der.is_empty()).then_some(&spec.ocsp_der);
        let staple = given.map(|der| Staple::read(der, &serial));
        let with = |staple: &Staple| CertifiedKey { ocsp: Some(staple.der.clone()), ..key.clone() };
        let stapled = staple.as_ref().and_then(|staple| staple.as_ref().ok());
        let stapled = stapled.map(|staple| Arc::new(with(staple)));
        Ok(Self { key: Arc::new(key), stapled, staple, names, not_after_secs })
    }
}

/// What is read of a leaf.
struct Leaf {
    names: Vec<Arc<str>>,
    not_after_secs: i64,
    /// Its number, as in DER.
    serial: Vec<u8>,
}

fn read_leaf(leaf: &CertificateDer<'_>) -> Result<Leaf, CertificateError> {
    let (_, parsed) =
        X509Certificate::from_der(leaf).map_err(|e| CertificateError::Leaf(e.to_string()))?;
    let mut names: Vec<Arc<str>> = Vec::new();
    let alternative =
        parsed.subject_alternative_name().map_err(|e| CertificateError::Leaf(e.to_string()))?;
    for name in alternative.iter().flat_map(|extension| &extension.value.general_names) {
        if let GeneralName::DNSName(name) = name {
            names.push(name.to_ascii_lowercase().into());
        }
    }
    names.truncate(NAMES_MAX);
    let (not_after_secs, serial) =
        (parsed.validity().not_after.timestamp(), parsed.raw_serial().to_vec());
    Ok(Leaf { names, not_after_secs, serial })
}

/// The place of one certificate. It is empty until usable material has come.
#[derive(Debug, Default)]
pub(crate) struct CertificateSlot {
    current: ArcSwapOption<Certificate>,
}

impl CertificateSlot {
    /// The certificate in service.
    pub(crate) fn load(&self) -> Option<Arc<Certificate>> {
        self.current.load_full()
    }

    /// Puts another certificate, or none, in service for the next handshake.
    pub(crate) fn store(&self, certificate: Option<Certificate>) {
        self.current.store(certificate.map(Arc::new));
    }
}

/// The names of one section and the certificates that serve them. A name may have several, for
/// clients that know different kinds of keys.
#[derive(Debug, Default)]
pub(crate) struct NameTable {
    exact: HashMap<Arc<str>, Slots>,
    /// Keyed by the suffix behind `*.`.
    wildcard: HashMap<Box<str>, Slots>,
    /// Serve every other name: entries for the host `*`.
    default: Slots,
    /// Every certificate, in its order.
    all: Slots,
    /// Whether any certificate is better than none for a name that none of them has.
    any_name: bool,
}

type Slots = Vec<Arc<CertificateSlot>>;

impl NameTable {
    /// Compiles what a section lists; of several certificates for one name the first that a client
    /// can check is shown. An entry without hosts serves the names of its certificate.
    pub(crate) fn compile<'a>(
        entries: impl Iterator<Item = &'a IngressTls>,
        any_name: bool,
        mut slot: impl FnMut(&CertificateRef) -> Arc<CertificateSlot>,
    ) -> Self {
        let mut table = Self { any_name, ..Self::default() };
        for entry in entries {
            let slot = slot(&entry.certificate);
            table.all.push(slot.clone());
            let own = slot.load().filter(|_| entry.hosts.is_empty());
            let own = own.as_ref().map_or(&[][..], |certificate| &certificate.names);
            for host in entry.hosts.iter().chain(own) {
                let slots = match host.strip_prefix('*') {
                    None => table.exact.entry(host.clone()).or_default(),
                    Some("") => &mut table.default,
                    Some(suffix) => {
                        let suffix = suffix.strip_prefix('.').unwrap_or(suffix);
                        table.wildcard.entry(suffix.into()).or_default()
                    }
                };
                slots.push(slot.clone());
            }
        }
        table
    }

    /// The certificate for the name that a client asks for (RFC 6066, section 3), or for a
    /// client that asks for none: exact name, wildcard of one label, default. A name whose own
    /// certificate is not usable yet falls through to the less specific ones.
    pub(crate) fn find(
        &self,
        name: Option<&str>,
        fits: impl Fn(&Certificate) -> bool,
    ) -> Option<Arc<Certificate>> {
        let first = |slots: &Slots| {
            let mut usable = slots.iter().filter_map(|slot| slot.load());
            let first = usable.next()?;
            if fits(&first) {
                return Some(first);
            }
            Some(usable.find(|certificate| fits(certificate)).unwrap_or(first))
        };
        let rest = (self.any_name || name.is_none()).then_some(&self.all);
        let Some(name) = name else {
            return [Some(&self.default), rest].into_iter().flatten().find_map(first);
        };
        let name = name.to_ascii_lowercase();
        let wildcard = name.split_once('.').and_then(|(_, suffix)| self.wildcard.get(suffix));
        let places = [self.exact.get(name.as_str()), wildcard, Some(&self.default), rest];
        places.into_iter().flatten().find_map(first)
    }

    /// Whether none of its certificates can be used.
    pub(crate) fn is_empty(&self) -> bool {
        self.all.iter().all(|slot| slot.load().is_none())
    }
}

/// Hands rustls the certificate of a section's current name table.
#[derive(Debug, Default)]
pub(crate) struct Resolver {
    names: ArcSwap<NameTable>,
}

impl Resolver {
    /// Puts a new table in service for the next handshake.
    pub(crate) fn replace(&self, names: NameTable) {
        self.names.store(Arc::new(names));
    }

    /// The certificate that a client is shown that asks for `name` and can check any.
    pub(crate) fn shown(&self, name: Option<&str>) -> Option<Arc<Certificate>> {
        self.names.load().find(name, |_| true)
    }

    /// Whether a handshake for `name` can be served.
    pub(crate) fn serves(&self, name: Option<&str>) -> bool {
        self.shown(name).is_some()
    }

    /// Whether there is no usable certificate at all.
    pub(crate) fn is_empty(&self) -> bool {
        self.names.load().is_empty()
    }
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let schemes = hello.signature_schemes();
        let fits = |certificate: &Certificate| certificate.key.key.choose_scheme(schemes).is_some();
        let found = self.names.load().find(hello.server_name(), fits);
        let now = i64::try_from(UnixTime::now().as_secs()).unwrap_or(i64::MAX);
        found.map(|certificate| certificate.key_at(now).clone())
    }
}

#[cfg(test)]
#[path = "certificates_tests.rs"]
mod tests;
