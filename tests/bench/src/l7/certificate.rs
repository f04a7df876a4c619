//! The certificate that every proxy shows: ECDSA on P-256, as most public sites have it.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;
use rcgen::{CertificateParams, KeyPair};

use super::routes::CERTIFIED;

/// Files with it.
pub(super) struct Certificate {
    pub(super) chain: PathBuf,
    pub(super) key: PathBuf,
    /// Both in one, as HAProxy reads them.
    pub(super) both: PathBuf,
}

impl Certificate {
    /// A new one, signed by itself: clients do not check it.
    pub(super) fn write(folder: &Path) -> Result<Self> {
        let key = KeyPair::generate()?;
        let signed = CertificateParams::new(vec![CERTIFIED.to_owned()])?.self_signed(&key)?;
        let file = |name: &str, text: String| -> Result<PathBuf> {
            let path = folder.join(name);
            fs::write(&path, text)?;
            Ok(path)
        };
        Ok(Self {
            chain: file("chain.pem", signed.pem())?,
            key: file("key.pem", key.serialize_pem())?,
            both: file("both.pem", signed.pem() + &key.serialize_pem())?,
        })
    }
}
