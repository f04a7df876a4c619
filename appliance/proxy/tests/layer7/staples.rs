//! What clients are told beside a certificate, and what its users are told about it.

use std::sync::{Arc, Mutex};

use haflinger_core::{CertificateSpec, FaultReason, SourceFault, Update};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::{DigitallySignedStruct, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use crate::support::client::{Credulous, credulous, greet};
use crate::support::issuer::Issuer;
use crate::support::{Lab, PATIENCE, certificate_ref, self_signed, tls_entry};

/// A response about number 0x85a1 by `openssl ocsp`, made to hold from 2020 until 2999.
const RESPONSE: &str = "\
    3081fd0a0100a081f73081f406092b06010505073001010481e63081e330818aa10f300d310b300906035504\
    030c026361180f32303230303130313030303030305a30663064303c300906052b0e03021a0500041411048c\
    d20cb3592307d019fd0889562b62d364920414982258d0dfb939ae9ca36413623b38824819a56d02030085a1\
    8000180f32303230303130313030303030305aa011180f32393939303130313030303030305a300a06082a86\
    48ce3d040302034800304502207caab24405d8544adb7c85e15ed6cec775ee522f693838a1fe22847a9c4145\
    4d022100b06a16559e172e75d28ca07a5aef9f3192e9e319195c02049ca7f51cf9d0670b";

const NUMBER: u64 = 0x85a1;

fn response() -> Vec<u8> {
    let byte = |pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    RESPONSE.as_bytes().chunks(2).map(byte).collect()
}

/// Trusts everybody and keeps what it is told.
#[derive(Debug)]
struct Listening {
    others: Credulous,
    heard: Mutex<Vec<u8>>,
}

impl ServerCertVerifier for Listening {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        ocsp_response: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        *self.heard.lock().unwrap() = ocsp_response.to_vec();
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.others.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.others.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.others.supported_verify_schemes()
    }
}

/// What a client is told about the certificate.
async fn told(lab: &Lab) -> Vec<u8> {
    let heard = Mutex::new(b"nothing".to_vec());
    let listening = Arc::new(Listening { others: Credulous::new(), heard });
    let mut config = credulous();
    config.dangerous().set_certificate_verifier(listening.clone());
    greet(lab.address, "shop.example", config).await.unwrap();
    listening.heard.lock().unwrap().clone()
}

/// What is next said of the certificate.
async fn notices(lab: &mut Lab) -> Vec<SourceFault> {
    loop {
        let update = tokio::time::timeout(PATIENCE, lab.updates.recv()).await;
        let update = update.expect("nothing is said").unwrap();
        if let Update::CertificateNotice { certificate, notices } = update {
            assert_eq!(certificate, certificate_ref("shop"));
            return notices;
        }
    }
}

fn shop(lab: &mut Lab, spec: CertificateSpec) {
    lab.certificate("shop", spec);
    lab.listen_tls(Vec::new(), vec![tls_entry("shop", &["shop.example"])]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_response_about_the_certificate_is_handed_out_and_replaced_live() {
    let issuer = Issuer::new("authority");
    let bare = issuer.issue(&["shop.example"], NUMBER);
    let mut lab = Lab::start();
    shop(&mut lab, bare.clone());
    lab.publish().await;
    assert_eq!(told(&lab).await, b"");

    lab.certificate("shop", CertificateSpec { ocsp_der: response(), ..bare.clone() });
    lab.publish().await;
    assert_eq!(told(&lab).await, response());
    assert!(lab.handle.status().certificates[0].staple_until_secs.is_some());

    // Renewed without it: the response is about the former one.
    let renewed = issuer.issue(&["shop.example"], 7);
    lab.certificate("shop", CertificateSpec { ocsp_der: response(), ..renewed });
    lab.publish().await;
    assert_eq!(told(&lab).await, b"");
    let said = notices(&mut lab).await;
    assert_eq!(said.iter().map(|n| n.reason).collect::<Vec<_>>(), [FaultReason::StapleUnusable]);
    assert!(said[0].message.contains("about another certificate"), "{}", said[0].message);
    assert_eq!(lab.metric("haflinger_proxy_staples_unusable", ""), 1.0);

    lab.certificate("shop", bare);
    lab.publish().await;
    assert_eq!(notices(&mut lab).await, []);
    assert_eq!(lab.metric("haflinger_proxy_staples_unusable", ""), 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_certificate_is_served_and_told_of_until_it_is_replaced() {
    let mut params = rcgen::CertificateParams::new(vec!["shop.example".into()]).unwrap();
    params.not_after = rcgen::date_time_ymd(2020, 1, 1);
    let key = rcgen::KeyPair::generate().unwrap();
    let chain_pem = params.self_signed(&key).unwrap().pem().into_bytes();
    let key_pem = key.serialize_pem().into_bytes();
    let mut lab = Lab::start();
    shop(&mut lab, CertificateSpec { chain_pem, key_pem, ..CertificateSpec::default() });
    lab.publish().await;
    let said = notices(&mut lab).await;
    let expired =
        "certificate of secret default/shop: it expired at 2020-01-01T00:00:00Z; replace it";
    assert_eq!(said, [SourceFault::new(FaultReason::CertificateExpired, expired)]);
    assert_eq!(lab.handle.status().certificates[0].notices, [expired]);
    assert_eq!(told(&lab).await, b"", "it is served");
    let end = || lab.metric("haflinger_proxy_certificate_expire_timestamp_seconds", "shop");
    assert_eq!(end(), 1_577_836_800.0);

    lab.certificate("shop", self_signed(&["shop.example"]));
    lab.publish().await;
    assert_eq!(notices(&mut lab).await, []);
    lab.snapshot.certificates.remove(&certificate_ref("shop"));
    lab.publish().await;
    let end = || lab.metric("haflinger_proxy_certificate_expire_timestamp_seconds", "shop");
    assert_eq!(end(), 0.0, "its series is gone");
}
