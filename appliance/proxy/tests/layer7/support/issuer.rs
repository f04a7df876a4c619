//! An authority for tests.

use std::sync::Arc;

use haflinger_core::{AuthoritySpec, CertificateSpec};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, IsCa, Issuer as Signer,
    KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SanType, SerialNumber,
    SignatureAlgorithm,
};

/// An authority and what it signs with.
pub struct Issuer {
    signer: Signer<'static, KeyPair>,
    pub pem: Vec<u8>,
}

impl Issuer {
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem().into_bytes();
        Self { signer: Signer::new(params, key), pem }
    }

    /// As rules name it.
    pub fn authority(&self) -> Arc<AuthoritySpec> {
        Arc::new(AuthoritySpec { pem: self.pem.clone(), ..AuthoritySpec::default() })
    }

    /// As rules name it, with those revoked that have these numbers.
    pub fn revoking(&self, numbers: &[u64]) -> Arc<AuthoritySpec> {
        let since = rcgen::date_time_ymd(2020, 1, 1);
        let revoked = |number: &u64| RevokedCertParams {
            serial_number: SerialNumber::from(*number),
            revocation_time: since,
            reason_code: None,
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: since,
            next_update: rcgen::date_time_ymd(4000, 1, 1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: numbers.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let list = list.signed_by(&self.signer).unwrap();
        let revoked_pem = list.pem().unwrap().into_bytes();
        Arc::new(AuthoritySpec { pem: self.pem.clone(), revoked_pem, fault: None })
    }

    /// A certificate for names and URIs, with a number.
    pub fn issue(&self, names: &[&str], number: u64) -> CertificateSpec {
        self.issue_with(names, number, &rcgen::PKCS_ECDSA_P256_SHA256)
    }

    pub fn issue_with(
        &self,
        names: &[&str],
        number: u64,
        algorithm: &'static SignatureAlgorithm,
    ) -> CertificateSpec {
        self.issue_for(names, number, KeyPair::generate_for(algorithm).unwrap())
    }

    pub fn issue_for(&self, names: &[&str], number: u64, key: KeyPair) -> CertificateSpec {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.serial_number = Some(SerialNumber::from(number));
        params.subject_alt_names = names
            .iter()
            .map(|name| match name.contains("://") {
                true => SanType::URI((*name).try_into().unwrap()),
                false => SanType::DnsName((*name).try_into().unwrap()),
            })
            .collect();
        let certificate = params.signed_by(&key, &self.signer).unwrap();
        CertificateSpec {
            chain_pem: certificate.pem().into_bytes(),
            key_pem: key.serialize_pem().into_bytes(),
            ..CertificateSpec::default()
        }
    }
}
