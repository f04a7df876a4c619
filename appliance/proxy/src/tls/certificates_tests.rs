use haflinger_core::SourceId;
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ED25519};

use super::*;

fn spec(names: &[&str]) -> CertificateSpec {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let certificate = CertificateParams::new(names).unwrap().self_signed(&key).unwrap();
    CertificateSpec {
        chain_pem: certificate.pem().into_bytes(),
        key_pem: key.serialize_pem().into_bytes(),
        ..CertificateSpec::default()
    }
}

fn reference(name: &str) -> CertificateRef {
    CertificateRef { source: SourceId::inventory(), namespace: "default".into(), name: name.into() }
}

fn entry(name: &str, hosts: &[&str]) -> IngressTls {
    IngressTls {
        hosts: hosts.iter().map(|host| (*host).into()).collect(),
        certificate: reference(name),
    }
}

/// A table whose slots are filled with certificates for a name equal to their own.
fn table(entries: &[IngressTls], filled: &[&str]) -> NameTable {
    NameTable::compile(entries.iter(), false, |certificate| {
        let slot = CertificateSlot::default();
        if filled.contains(&&*certificate.name) {
            slot.store(Some(Certificate::load(&spec(&[&certificate.name])).unwrap()));
        }
        Arc::new(slot)
    })
}

fn served(table: &NameTable, name: Option<&str>) -> Option<String> {
    table.find(name, |_| true).map(|certificate| certificate.names[0].to_string())
}

#[test]
fn a_chain_with_its_key_is_accepted_and_its_names_are_read() {
    let certificate = Certificate::load(&spec(&["Shop.example", "*.shop.example"])).unwrap();
    assert_eq!(certificate.names, ["shop.example".into(), "*.shop.example".into()]);
    assert!(certificate.not_after_secs > 0);
    assert!(!format!("{certificate:?}").contains("PRIVATE"));
}

#[test]
fn each_kind_of_bad_material_is_refused_with_its_reason() {
    let good = spec(&["a.example"]);
    let with = |chain: &[u8], key: &[u8]| {
        let (chain_pem, key_pem) = (chain.to_vec(), key.to_vec());
        let spec = CertificateSpec { chain_pem, key_pem, ..CertificateSpec::default() };
        Certificate::load(&spec).unwrap_err()
    };
    let (chain, key) = (&good.chain_pem[..], &good.key_pem[..]);
    let other = KeyPair::generate_for(&PKCS_ED25519).unwrap().serialize_pem();
    let garbage = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    assert!(matches!(with(b"", key), CertificateError::ChainEmpty));
    assert!(matches!(with(garbage, key), CertificateError::Leaf(_)));
    assert!(matches!(with(&chain[..60], key), CertificateError::ChainSyntax(_)));
    assert!(matches!(with(chain, b"no key"), CertificateError::KeySyntax(_)));
    assert!(matches!(with(chain, other.as_bytes()), CertificateError::KeyMismatch));
    assert!(matches!(with(&chain.repeat(11), key), CertificateError::ChainTooLong));
    assert!(matches!(with(&vec![b'x'; 300_000], key), CertificateError::TooLarge));
}

#[test]
fn an_exact_name_wins_over_a_wildcard_and_that_over_the_default() {
    let entries = [
        entry("default", &["*"]),
        entry("wild", &["*.example"]),
        entry("exact", &["shop.example"]),
    ];
    let table = table(&entries, &["default", "wild", "exact"]);
    assert_eq!(served(&table, Some("SHOP.example")).as_deref(), Some("exact"));
    assert_eq!(served(&table, Some("blog.example")).as_deref(), Some("wild"));
    assert_eq!(served(&table, Some("a.blog.example")).as_deref(), Some("default"));
    assert_eq!(served(&table, None).as_deref(), Some("default"));
}

#[test]
fn without_a_default_an_unknown_name_is_not_served_but_no_name_is() {
    let table = table(&[entry("a.example", &["a.example"])], &["a.example"]);
    assert_eq!(served(&table, Some("b.example")), None);
    assert_eq!(served(&table, None).as_deref(), Some("a.example"));
}

#[test]
fn a_name_whose_certificate_is_not_usable_falls_through() {
    let entries = [entry("bad", &["shop.example"]), entry("wild", &["*.example"])];
    let table = table(&entries, &["wild"]);
    assert_eq!(served(&table, Some("shop.example")).as_deref(), Some("wild"));
}

#[test]
fn an_entry_without_hosts_serves_the_names_of_its_certificate() {
    let table = table(&[entry("a.example", &[])], &["a.example"]);
    assert_eq!(served(&table, Some("a.example")).as_deref(), Some("a.example"));
    assert_eq!(served(&table, Some("b.example")), None);
}

#[test]
fn the_listener_of_a_gateway_shows_its_certificate_for_every_name() {
    let entries = [entry("a.example", &[]), entry("b.example", &[])];
    let mut table = table(&entries, &["a.example", "b.example"]);
    assert_eq!(served(&table, Some("other.example")), None);
    table.any_name = true;
    assert_eq!(served(&table, Some("other.example")).as_deref(), Some("a.example"));
    assert_eq!(served(&table, Some("b.example")).as_deref(), Some("b.example"));
}

#[test]
fn of_several_certificates_for_a_name_the_first_is_shown_that_the_client_can_check() {
    let entries = [entry("one", &["a.example"]), entry("two", &["a.example"])];
    let table = table(&entries, &["one", "two"]);
    let found = |fits: &str| table.find(Some("a.example"), |c| &*c.names[0] == fits).unwrap();
    assert_eq!(&*found("two").names[0], "two");
    assert_eq!(&*found("neither").names[0], "one");
}
