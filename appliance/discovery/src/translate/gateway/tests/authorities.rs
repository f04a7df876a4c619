use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::*;

fn pem(label: &str, der: &[u8]) -> String {
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", STANDARD.encode(der))
}

fn certificate(length: u8) -> String {
    let mut der = vec![0x30, length];
    der.extend(vec![0; usize::from(length)]);
    pem("CERTIFICATE", &der)
}

fn material(watched: Watched, object: Value) -> Option<AuthoritySpec> {
    match told(watched, object)? {
        SourceUpdate::Authority { material, .. } => material.map(|material| *material),
        other => panic!("{other:?}"),
    }
}

fn of_map(data: Value) -> Option<AuthoritySpec> {
    material(Watched::AuthorityMaps, json!({"data": data}))
}

#[test]
fn a_config_map_without_the_key_is_not_kept() {
    assert_eq!(of_map(json!({"app.conf": "x"})), None);
    assert_eq!(material(Watched::AuthorityMaps, json!({})), None);
    let both = certificate(3) + &certificate(9);
    let spec = of_map(json!({"ca.crt": both, "app.conf": "x"})).unwrap();
    assert_eq!((spec.pem, spec.revoked_pem, spec.fault), (both.into_bytes(), vec![], None));
}

#[test]
fn what_is_no_certificate_is_a_fault_that_says_why() {
    let fault = |text: &str| of_map(json!({"ca.crt": text})).unwrap().fault;
    let long = {
        let mut der = vec![0x30, 0x82, 1, 0];
        der.extend(vec![0; 256]);
        pem("CERTIFICATE", &der)
    };
    assert_eq!(fault(&long), None);
    assert_eq!(fault(&(pem("PRIVATE KEY", &[1]) + &long)), None, "other sections are left aside");
    let none = Some("ca.crt holds no certificate in PEM".into());
    assert_eq!(fault(""), none);
    assert_eq!(fault("nonsense"), none);
    assert_eq!(fault(&pem("PRIVATE KEY", &[0x30, 0])), none);
    let malformed = Some("ca.crt holds something that is no certificate in PEM".into());
    for der in
        [&[][..], &[0x30], &[0x30, 5, 0], &[0x31, 0], &[0x30, 0x80], &[0x30, 0x84, 0, 0, 0, 0]]
    {
        assert_eq!(fault(&(certificate(3) + &pem("CERTIFICATE", der))), malformed, "{der:?}");
    }
    assert_eq!(fault("-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n"), malformed);
    let unread = Some("ca.crt cannot be read, or has more than 256 KiB".into());
    assert_eq!(fault(&"x".repeat(256 * 1024 + 1)), unread);
    assert_eq!(of_map(json!({"ca.crt": 7})).unwrap().fault, unread);
    let spec = of_map(json!({"ca.crt": certificate(1), "ca.crl": pem("X509 CRL", &[1])})).unwrap();
    assert_eq!(
        spec.fault.as_deref(),
        Some("ca.crl holds something that is no revocation list in PEM")
    );
}

#[test]
fn of_secrets_those_that_somebody_may_name_are_kept() {
    let data = json!({"ca.crt": STANDARD.encode(certificate(3)),
                      "ca.crl": STANDARD.encode(pem("X509 CRL", &[0x30, 0])),
                      "tls.key": "c2VjcmV0"});
    for (kind, kept) in [
        ("Opaque", true),
        ("kubernetes.io/tls", true),
        ("kubernetes.io/service-account-token", false),
        ("example.org/own", false),
    ] {
        let spec = material(Watched::AuthoritySecrets, json!({"type": kind, "data": data}));
        assert_eq!(spec.is_some(), kept, "{kind}");
        if let Some(spec) = spec {
            assert_eq!(spec.pem, certificate(3).into_bytes());
            assert_eq!((spec.revoked_pem.is_empty(), spec.fault), (false, None));
        }
    }
    let update =
        told(Watched::AuthoritySecrets, json!({"type": "Opaque", "data": {"ca.crt": "no base64"}}));
    let Some(SourceUpdate::Authority { authority, material: Some(material) }) = update else {
        panic!("{update:?}")
    };
    assert_eq!((authority.kind, &*authority.name), (AuthorityKind::Secret, "web"));
    assert!(material.fault.is_some());
}
