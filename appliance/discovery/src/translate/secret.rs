//! TLS Secret → [`CertificateSpec`].

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use haflinger_core::{CertificateSpec, UserList};

use crate::objects::lax::Lax;
use crate::objects::{Object, SecretBody, UserSecretBody, Withheld};

/// Longest chain and longest key that are taken, in bytes. etcd takes a Secret of 1 MiB; a
/// chain of a dozen certificates is 30 KiB.
pub(super) const PEM_BYTES_MAX: usize = 256 * 1024;

/// Chain and key of a Secret. What is missing, malformed or oversized is left empty: the
/// proxy then refuses the whole with a reason and keeps the former certificate in service.
pub(crate) fn certificate(object: &Object<SecretBody>) -> CertificateSpec {
    let data = object.body.data.get();
    let pem = |value: Option<&Lax<Withheld>>| value.and_then(decoded).unwrap_or_default();
    CertificateSpec {
        chain_pem: pem(data.map(|data| &data.chain)),
        key_pem: pem(data.map(|data| &data.key)),
        ocsp_der: pem(data.map(|data| &data.ocsp)),
    }
}

/// Users of a Secret; `None` for one without the key `auth`.
pub(crate) fn users(object: &Object<UserSecretBody>) -> Option<UserList> {
    let data = object.body.data.get().filter(|_| !object.deleting)?;
    if matches!(data.auth, Lax::Absent) {
        return None;
    }
    let list = decoded(&data.auth).map(|text| UserList::parse(&text));
    Some(list.unwrap_or_else(|| UserList::faulty("cannot be read, or has more than 256 KiB")))
}

/// A value of a Secret, unless it is too long or no base64.
pub(super) fn decoded(value: &Lax<Withheld>) -> Option<Vec<u8>> {
    let text = value.get().filter(|text| text.0.len() / 4 * 3 <= PEM_BYTES_MAX)?;
    STANDARD.decode(&text.0).ok()
}
