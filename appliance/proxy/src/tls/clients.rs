//! What clients have to show: certificates, checked against authorities and what those revoked.
//!
//! Never lets anybody in because something of ours is broken: authorities that cannot be read are
//! left out, and without any left nobody passes.

use std::sync::Arc;

use haflinger_core::{AuthoritySpec, ClientValidation};
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::CryptoProvider;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore,
    SignatureScheme,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, UnixTime};

/// Most certificates of authorities, and most revocation lists, that one check takes: a handshake
/// may look at all of them.
const AUTHORITIES_MAX: usize = 1_000;

/// Authorities as far as they can be used.
#[derive(Debug)]
pub(super) struct Authorities {
    /// Their certificates.
    pub(super) roots: Arc<RootCertStore>,
    /// What they have revoked.
    pub(super) revoked: Vec<CertificateRevocationListDer<'static>>,
    /// What of them could not be read.
    pub(super) faults: Vec<String>,
}

impl Authorities {
    /// Reads what can be read.
    pub(super) fn load(specs: &[Arc<AuthoritySpec>]) -> Self {
        let (mut roots, mut revoked, mut faults) = (RootCertStore::empty(), vec![], vec![]);
        for spec in specs {
            let mut found = 0;
            for certificate in CertificateDer::pem_slice_iter(&spec.pem) {
                match certificate.map_err(|e| e.to_string()).and_then(|certificate| {
                    roots.add(certificate).map_err(|error| error.to_string())
                }) {
                    Ok(()) => found += 1,
                    Err(error) => faults.push(format!("ca.crt: {error}")),
                }
            }
            if found == 0 {
                faults.push("ca.crt holds no usable certificate".to_owned());
            }
            for list in CertificateRevocationListDer::pem_slice_iter(&spec.revoked_pem) {
                match list {
                    Ok(list) => revoked.push(list),
                    Err(error) => faults.push(format!("ca.crl: {error}")),
                }
            }
            faults.extend(spec.fault.as_ref().map(|fault| fault.to_string()));
        }
        if roots.len() > AUTHORITIES_MAX || revoked.len() > AUTHORITIES_MAX {
            faults.push(format!("more than {AUTHORITIES_MAX} authorities or revocation lists"));
            roots = RootCertStore::empty();
        }
        Self { roots: Arc::new(roots), revoked, faults }
    }
}

/// How the clients of a section are checked, and what is wrong with what they are checked by.
pub(super) fn client_verifier(
    validation: &ClientValidation,
    provider: &Arc<CryptoProvider>,
) -> (Arc<dyn ClientCertVerifier>, Vec<String>) {
    let Authorities { roots, revoked, mut faults } = Authorities::load(&validation.authorities);
    let schemes = provider.signature_verification_algorithms.supported_schemes();
    if validation.optional {
        return (Arc::new(Anybody { hints: roots.subjects(), schemes }), faults);
    }
    // Who is on no list has not been revoked, and an old list is better than none: otherwise one
    // authority without a list, or a job that has not run, would lock out everybody.
    let builder = WebPkiClientVerifier::builder_with_provider(roots, provider.clone())
        .with_crls(revoked)
        .allow_unknown_revocation_status();
    match builder.build() {
        Ok(verifier) => (verifier, faults),
        Err(error) => {
            faults.push(error.to_string());
            (Arc::new(Nobody { schemes }), faults)
        }
    }
}

/// Asks for a certificate and takes whatever comes, or nothing (`AllowInsecureFallback`). Nothing
/// relies on what is shown here.
#[derive(Debug)]
struct Anybody {
    hints: Vec<DistinguishedName>,
    schemes: Vec<SignatureScheme>,
}

impl ClientCertVerifier for Anybody {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.hints
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes.clone()
    }
}

/// Lets nobody in, for want of an authority.
#[derive(Debug)]
struct Nobody {
    schemes: Vec<SignatureScheme>,
}

impl ClientCertVerifier for Nobody {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Err(CertificateError::UnknownIssuer.into())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(CertificateError::UnknownIssuer.into())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(CertificateError::UnknownIssuer.into())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes.clone()
    }
}
