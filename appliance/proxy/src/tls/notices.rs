//! What the users of a certificate are told although it is served: that it ends soon or has ended,
//! and that what the authority says about it is not handed out.
//!
//! Pure: the time is an argument.

use std::time::Duration;

use haflinger_core::{CertificateRef, FaultReason, SourceFault};

use super::certificates::Certificate;
use super::staple::date;

/// Everything that is to be said at a time. Sentences do not change with the time, so that an event
/// is told once and not every day.
pub(crate) fn notices(
    key: &CertificateRef,
    certificate: &Certificate,
    warning: Duration,
    now_secs: i64,
) -> Vec<SourceFault> {
    let of = format!("certificate of secret {}/{}", key.namespace, key.name);
    let mut notices = Vec::new();
    let end = certificate.not_after_secs;
    let warning = i64::try_from(warning.as_secs()).unwrap_or(i64::MAX);
    if end <= now_secs {
        let message = format!("{of}: it expired at {}; replace it", date(end));
        notices.push(SourceFault::new(FaultReason::CertificateExpired, message));
    } else if end.saturating_sub(warning) <= now_secs {
        let message = format!("{of}: it expires at {}; renew it", date(end));
        notices.push(SourceFault::new(FaultReason::CertificateExpires, message));
    }
    let unusable = match &certificate.staple {
        None => None,
        Some(Ok(staple)) => staple.holds(now_secs).err(),
        Some(Err(error)) => Some(error.clone()),
    };
    if let Some(error) = unusable {
        let message = format!("{of}: its OCSP response is not handed to clients: {error}");
        notices.push(SourceFault::new(FaultReason::StapleUnusable, message));
    }
    notices
}

#[cfg(test)]
mod tests {
    use haflinger_core::{CertificateSpec, SourceId};

    use super::super::staple::tests::response;
    use super::*;

    const DAY: i64 = 86_400;
    const TWO_WEEKS: Duration = Duration::from_secs(14 * 86_400);

    /// A certificate with number 5 that ends with the year 2030.
    fn certificate(ocsp_der: Vec<u8>) -> Certificate {
        let mut params = rcgen::CertificateParams::new(vec!["a.example".into()]).unwrap();
        params.not_after = rcgen::date_time_ymd(2031, 1, 1);
        params.serial_number = Some(5_u64.into());
        let key = rcgen::KeyPair::generate().unwrap();
        let chain_pem = params.self_signed(&key).unwrap().pem().into_bytes();
        let key_pem = key.serialize_pem().into_bytes();
        Certificate::load(&CertificateSpec { chain_pem, key_pem, ocsp_der }).unwrap()
    }

    fn told(certificate: &Certificate, now_secs: i64) -> Vec<(FaultReason, String)> {
        let (source, name) = (SourceId::cluster("c"), "site".into());
        let key = CertificateRef { source, namespace: "shop".into(), name };
        let notices = notices(&key, certificate, TWO_WEEKS, now_secs);
        notices.into_iter().map(|notice| (notice.reason, notice.message)).collect()
    }

    #[test]
    fn an_end_is_told_from_two_weeks_before_and_once_it_has_come() {
        let certificate = certificate(Vec::new());
        let end = certificate.not_after_secs;
        assert_eq!(told(&certificate, end - 14 * DAY - 1), []);
        let expires =
            "certificate of secret shop/site: it expires at 2031-01-01T00:00:00Z; renew it";
        for now in [end - 14 * DAY, end - 1] {
            let wanted = (FaultReason::CertificateExpires, expires.to_owned());
            assert_eq!(told(&certificate, now), [wanted]);
        }
        assert_eq!(told(&certificate, end)[0].0, FaultReason::CertificateExpired);
    }

    #[test]
    fn a_response_is_told_of_while_it_cannot_be_handed_out() {
        let good = response(&[5], &[0x80, 0], "20261101000000Z", Some("20261108000000Z"));
        let stapled = certificate(good);
        let now = 1_793_750_400;
        assert_eq!(told(&stapled, now), []);
        let later = told(&stapled, now + 30 * DAY);
        assert_eq!(later[0].0, FaultReason::StapleUnusable);
        assert!(later[0].1.ends_with("it held until 2026-11-08T00:00:00Z; fetch it again"));
        let broken = told(&certificate(b"<html>".to_vec()), now);
        assert_eq!(broken[0].0, FaultReason::StapleUnusable);
    }
}
