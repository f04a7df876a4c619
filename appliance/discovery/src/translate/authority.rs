//! ConfigMap and Secret → [`AuthoritySpec`].

use haflinger_core::AuthoritySpec;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer};

use super::secret::{PEM_BYTES_MAX, decoded};
use crate::objects::lax::Lax;
use crate::objects::{AuthoritySecretBody, ConfigMapBody, Object};

/// Types of Secrets whose `ca.crt` somebody may name. The others hold one of their own, or none.
const SECRET_TYPES: [&str; 2] = ["Opaque", "kubernetes.io/tls"];

/// Certificates of authorities in a ConfigMap; `None` for one without the key `ca.crt`.
pub(crate) fn config_map(object: &Object<ConfigMapBody>) -> Option<AuthoritySpec> {
    let data = object.body.data.get().filter(|_| !object.deleting)?;
    let bytes = |text: &Lax<String>| {
        let text = text.get().filter(|text| text.len() <= PEM_BYTES_MAX);
        text.map(|text| text.as_bytes().to_vec())
    };
    material(&data.certificates, &data.revoked, bytes)
}

/// Certificates of authorities in a Secret; `None` for one without the key `ca.crt`, and for those
/// of types that no object names.
pub(crate) fn secret(object: &Object<AuthoritySecretBody>) -> Option<AuthoritySpec> {
    let data = object.body.data.get().filter(|_| !object.deleting)?;
    let secret_type = object.body.secret_type.text().unwrap_or("Opaque");
    if !SECRET_TYPES.contains(&secret_type) {
        return None;
    }
    material(&data.certificates, &data.revoked, decoded)
}

fn material<T>(
    certificates: &Lax<T>,
    revoked: &Lax<T>,
    bytes: impl Fn(&Lax<T>) -> Option<Vec<u8>>,
) -> Option<AuthoritySpec> {
    if matches!(certificates, Lax::Absent) {
        return None;
    }
    let (pem, revoked_pem) = (bytes(certificates), bytes(revoked));
    let fault = match &pem {
        None => Some("ca.crt cannot be read, or has more than 256 KiB"),
        Some(pem) => fault_of(pem),
    };
    let fault = fault.or_else(|| match (revoked, &revoked_pem) {
        (Lax::Absent, _) => None,
        (_, None) => Some("ca.crl cannot be read, or has more than 256 KiB"),
        (_, Some(pem)) => fault_of_revoked(pem),
    });
    Some(AuthoritySpec {
        pem: pem.unwrap_or_default(),
        revoked_pem: revoked_pem.unwrap_or_default(),
        fault: fault.map(Into::into),
    })
}

/// What is wrong with certificates of authorities, as far as their wrapping goes.
fn fault_of(pem: &[u8]) -> Option<&'static str> {
    let mut count = 0;
    for certificate in CertificateDer::pem_slice_iter(pem) {
        match certificate {
            Ok(der) if is_sequence(&der) => count += 1,
            _ => return Some("ca.crt holds something that is no certificate in PEM"),
        }
    }
    (count == 0).then_some("ca.crt holds no certificate in PEM")
}

fn fault_of_revoked(pem: &[u8]) -> Option<&'static str> {
    let mut lists = CertificateRevocationListDer::pem_slice_iter(pem);
    let malformed = lists.any(|list| !matches!(list, Ok(der) if is_sequence(&der)));
    malformed.then_some("ca.crl holds something that is no revocation list in PEM")
}

/// Whether the whole is one SEQUENCE (X.690, section 8.9), as every certificate is.
fn is_sequence(der: &[u8]) -> bool {
    const SEQUENCE: u8 = 0x30;
    let Some(([SEQUENCE, first], rest)) = der.split_first_chunk() else { return false };
    if *first < 0x80 {
        return rest.len() == usize::from(*first);
    }
    // At most three bytes of length: nothing longer than `PEM_BYTES_MAX` gets here.
    let count = usize::from(first & 0x7f);
    let Some((length, rest)) = rest.split_at_checked(count).filter(|_| (1..=3).contains(&count))
    else {
        return false;
    };
    let length = length.iter().fold(0, |length, byte| length << 8 | usize::from(*byte));
    rest.len() == length
}
