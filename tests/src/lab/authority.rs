//! Signs certificates that the lab's clients trust.

use std::fs;
use std::path::PathBuf;

use anyhow::Result;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

use super::Place;

/// A certificate authority with its certificate in a file.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    file: PathBuf,
}

/// A chain and its key, PEM.
#[derive(Clone, Debug)]
pub struct Signed {
    /// The certificate.
    pub chain_pem: String,
    /// Its key.
    pub key_pem: String,
}

impl Authority {
    /// Makes a new authority, with its certificate in the file NAME.pem of the lab.
    pub fn create(place: &Place, name: &str) -> Result<Self> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate()?;
        let file = place.path(format!("{name}.pem"));
        fs::write(&file, params.self_signed(&key)?.pem())?;
        Ok(Self { issuer: Issuer::new(params, key), file })
    }

    /// A new certificate for `host`, different from every earlier one.
    pub fn sign(&self, host: &str) -> Result<Signed> {
        let key = KeyPair::generate()?;
        let certificate = CertificateParams::new(vec![host.to_owned()])?;
        let certificate = certificate.signed_by(&key, &self.issuer)?;
        Ok(Signed { chain_pem: certificate.pem(), key_pem: key.serialize_pem() })
    }

    /// PEM file with the authority's own certificate.
    pub fn file(&self) -> &PathBuf {
        &self.file
    }
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").field("file", &self.file).finish_non_exhaustive()
    }
}
