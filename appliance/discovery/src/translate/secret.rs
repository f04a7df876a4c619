//! TLS Secret → [`CertificateSpec`].

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use haflinger_core::CertificateSpec;

use crate::objects::{Object, SecretBody};

/// Longest chain and longest key that are taken, in bytes. etcd takes a Secret of 1 MiB; a
/// chain of a dozen certificates is 30 KiB.
const PEM_BYTES_MAX: usize = 256 * 1024;

/// Chain and key of a Secret. What is missing, malformed or oversized is left empty: the
/// proxy then refuses the whole with a reason and keeps the former certificate in service.
pub(crate) fn certificate(object: &Object<SecretBody>) -> CertificateSpec {
    let pem = |key: &str| {
        let encoded = object.body.data.get().and_then(|data| data.get(key)?.get());
        encoded
            .filter(|text| text.0.len() / 4 * 3 <= PEM_BYTES_MAX)
            .and_then(|text| STANDARD.decode(&text.0).ok())
            .unwrap_or_default()
    };
    CertificateSpec { chain_pem: pem("tls.crt"), key_pem: pem("tls.key") }
}
