//! Certificates: which is served, when another takes its place, and what is refused.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use haflinger_core::{CertificateSpec, FaultReason, HostMatch, Update};
use haflinger_proxy::{TicketSecret, TlsPolicy};
use rustls::SignatureScheme;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::client::{Credulous, RawTls, credulous, greet, handshake, leaf, trusting};
use crate::support::issuer::Issuer;
use crate::support::{Lab, certificate_ref, section, self_signed, tls_entry, until};

#[tokio::test(flavor = "multi_thread")]
async fn the_certificate_of_the_name_is_served_and_a_new_one_at_the_next_handshake() {
    let (shop, blog) = (self_signed(&["shop.example"]), self_signed(&["*.site.example"]));
    let mut lab = Lab::start();
    lab.certificate("shop", shop.clone());
    lab.certificate("wild", blog.clone());
    let entries =
        vec![tls_entry("shop", &["shop.example"]), tls_entry("wild", &["*.site.example"])];
    lab.listen_tls(Vec::new(), entries);
    lab.publish().await;
    let served = handshake(lab.address, "shop.example", &[&shop]).await.unwrap();
    assert_eq!(served, leaf(&shop).to_vec());
    let served = handshake(lab.address, "blog.site.example", &[&blog]).await.unwrap();
    assert_eq!(served, leaf(&blog).to_vec());

    let renewed = self_signed(&["shop.example"]);
    lab.certificate("shop", renewed.clone());
    lab.publish().await;
    let served = handshake(lab.address, "shop.example", &[&renewed]).await.unwrap();
    assert_eq!(served, leaf(&renewed).to_vec());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_nobody_serves_is_refused_as_unrecognized() {
    let shop = self_signed(&["shop.example"]);
    let mut lab = Lab::start();
    lab.certificate("shop", shop.clone());
    lab.listen_tls(Vec::new(), vec![tls_entry("shop", &["shop.example"])]);
    lab.publish().await;
    let error = handshake(lab.address, "other.example", &[&shop]).await.unwrap_err();
    assert!(error.contains("UnrecognisedName"), "{error}");
    until("the refusal is counted", || {
        lab.metric("haflinger_proxy_connections_refused_total", "unrecognized_name") == 1.0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_certificate_leaves_the_former_in_service_and_is_reported_until_it_is_good() {
    let good = self_signed(&["shop.example"]);
    let mut lab = Lab::start();
    lab.certificate("shop", good.clone());
    lab.listen_tls(Vec::new(), vec![tls_entry("shop", &["shop.example"])]);
    lab.publish().await;

    let stranger = self_signed(&["shop.example"]).key_pem;
    let bad = CertificateSpec { key_pem: stranger, ..good.clone() };
    lab.certificate("shop", bad);
    lab.publish().await;
    let (certificate, fault) = report(&mut lab).await;
    assert_eq!(certificate, certificate_ref("shop"));
    let fault = fault.unwrap();
    assert_eq!(fault.reason, FaultReason::CertificateInvalid);
    assert!(fault.message.contains("tls.key does not belong"), "{}", fault.message);
    let shown = lab.handle.status().certificates.remove(0);
    assert_eq!(shown.names, ["shop.example".into()]);
    assert_eq!(shown.fault, Some(fault.message));
    assert!(shown.not_after_secs.is_some());
    assert_eq!(lab.metric("haflinger_proxy_certificates_faulty", ""), 1.0);
    let served = handshake(lab.address, "shop.example", &[&good]).await.unwrap();
    assert_eq!(served, leaf(&good).to_vec());

    lab.certificate("shop", self_signed(&["shop.example"]));
    lab.publish().await;
    assert_eq!(report(&mut lab).await, (certificate_ref("shop"), None));
    assert_eq!(lab.handle.status().certificates[0].fault, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_is_deleted_is_no_longer_served() {
    let shop = self_signed(&["shop.example"]);
    let mut lab = Lab::start();
    lab.certificate("shop", shop.clone());
    lab.listen_tls(Vec::new(), vec![tls_entry("shop", &["shop.example"])]);
    lab.publish().await;
    handshake(lab.address, "shop.example", &[&shop]).await.unwrap();
    lab.snapshot.certificates.remove(&certificate_ref("shop"));
    lab.publish().await;
    handshake(lab.address, "shop.example", &[&shop]).await.unwrap_err();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_without_hosts_follows_the_names_of_its_certificate() {
    let (old, new) = (self_signed(&["shop.example"]), self_signed(&["blog.example"]));
    let mut lab = Lab::start();
    lab.listen_tls(Vec::new(), vec![tls_entry("site", &[])]);
    lab.certificate("site", old.clone());
    lab.publish().await;
    handshake(lab.address, "shop.example", &[&old]).await.unwrap();
    lab.certificate("site", new.clone());
    lab.publish().await;
    handshake(lab.address, "blog.example", &[&new]).await.unwrap();
    handshake(lab.address, "shop.example", &[&new]).await.unwrap_err();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_name_chooses_the_section_and_with_it_the_certificate() {
    let mut lab = Lab::start();
    let hosts = [
        ("exact", HostMatch::Exact("shop.example".into())),
        ("near", HostMatch::Suffix("a.example".into())),
        ("far", HostMatch::Suffix("example".into())),
        ("any", HostMatch::Any),
    ];
    // Each certificate has another name than its section: the host of the section decides.
    let specs = hosts.clone().map(|(name, _)| self_signed(&[&format!("{name}.test")]));
    let mut sections = Vec::new();
    for ((name, host), spec) in hosts.into_iter().zip(&specs) {
        lab.certificate(name, spec.clone());
        sections.push(section(host, vec![tls_entry(name, &[])], Vec::new()));
    }
    lab.listen_sections(sections);
    lab.publish().await;
    for (name, expected) in [
        ("shop.example", 0),
        ("SHOP.example", 0),
        ("x.a.example", 1),
        ("x.y.a.example", 1),
        ("a.example", 2),
        ("other.example", 2),
        ("else.where", 3),
        ("127.0.0.1", 3),
    ] {
        let served = crate::support::client::shown(lab.address, name).await.unwrap();
        assert_eq!(served, leaf(&specs[expected]).to_vec(), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_without_a_section_and_a_section_without_a_certificate_are_told_apart() {
    let mut lab = Lab::start();
    lab.certificate("shop", self_signed(&["shop.example"]));
    lab.listen_sections(vec![
        section(HostMatch::Exact("shop.example".into()), vec![tls_entry("shop", &[])], vec![]),
        section(HostMatch::Exact("blog.example".into()), vec![tls_entry("lost", &[])], vec![]),
    ]);
    lab.publish().await;
    for (name, reason) in
        [("other.example", "unrecognized_name"), ("blog.example", "no_certificate")]
    {
        let error = crate::support::client::shown(lab.address, name).await.unwrap_err();
        assert!(error.contains("UnrecognisedName"), "{error}");
        until("the refusal is counted", || {
            lab.metric("haflinger_proxy_connections_refused_total", reason) == 1.0
        })
        .await;
    }
    crate::support::client::shown(lab.address, "shop.example").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_sections_are_served_and_one_more_leaves_the_others_alone() {
    let mut lab = Lab::start();
    let spec = self_signed(&["*.site.example"]);
    lab.certificate("wild", spec.clone());
    let one = |n: usize| {
        let host = HostMatch::Exact(format!("host-{n}.site.example").into());
        section(host, vec![tls_entry("wild", &[])], Vec::new())
    };
    lab.listen_sections((0..1_000).map(one).collect());
    lab.publish().await;
    for n in [0, 500, 999] {
        handshake(lab.address, &format!("host-{n}.site.example"), &[&spec]).await.unwrap();
    }
    handshake(lab.address, "host-1000.site.example", &[&spec]).await.unwrap_err();
    lab.listen_sections((0..1_001).map(one).collect());
    lab.publish().await;
    handshake(lab.address, "host-1000.site.example", &[&spec]).await.unwrap();
}

async fn report(
    lab: &mut Lab,
) -> (haflinger_core::CertificateRef, Option<haflinger_core::SourceFault>) {
    match tokio::time::timeout(crate::support::PATIENCE, lab.updates.recv()).await {
        Ok(Some(Update::Certificate { certificate, fault })) => (certificate, fault),
        other => panic!("no report about a certificate: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_kind_of_key_is_served_in_both_versions_of_tls() {
    let issuer = Issuer::new("ours");
    let mut lab = Lab::start();
    let rsa = include_str!("support/rsa-2048.pem");
    let kinds: [(&str, CertificateSpec); 4] = [
        ("p256", issuer.issue_with(&["p256.example"], 1, &rcgen::PKCS_ECDSA_P256_SHA256)),
        ("p384", issuer.issue_with(&["p384.example"], 2, &rcgen::PKCS_ECDSA_P384_SHA384)),
        ("ed25519", issuer.issue_with(&["ed25519.example"], 3, &rcgen::PKCS_ED25519)),
        ("rsa", issuer.issue_for(&["rsa.example"], 4, rcgen::KeyPair::from_pem(rsa).unwrap())),
    ];
    let mut entries = Vec::new();
    for (name, spec) in &kinds {
        lab.certificate(name, spec.clone());
        entries.push(tls_entry(name, &[]));
    }
    lab.listen_tls(Vec::new(), entries);
    lab.publish().await;
    for (name, spec) in &kinds {
        for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
            let config = trusting(&[&issuer.pem], &[version]);
            let stream = greet(lab.address, &format!("{name}.example"), config).await.unwrap();
            let session = stream.get_ref().1;
            assert_eq!(session.protocol_version(), Some(version.version), "{name}");
            assert_eq!(session.peer_certificates().unwrap()[0], leaf(spec), "{name}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_is_shown_the_certificate_of_a_name_that_it_can_check() {
    let mut lab = Lab::start();
    let issuer = Issuer::new("ours");
    let ed25519 = issuer.issue_with(&["shop.example"], 1, &rcgen::PKCS_ED25519);
    let ecdsa = issuer.issue(&["shop.example"], 2);
    lab.certificate("ed25519", ed25519.clone());
    lab.certificate("ecdsa", ecdsa.clone());
    lab.listen_tls(Vec::new(), vec![tls_entry("ed25519", &[]), tls_entry("ecdsa", &[])]);
    lab.publish().await;
    let config = trusting(&[&issuer.pem], rustls::ALL_VERSIONS);
    let stream = greet(lab.address, "shop.example", config).await.unwrap();
    assert_eq!(stream.get_ref().1.peer_certificates().unwrap()[0], leaf(&ed25519));
    let mut config = credulous();
    let schemes = vec![SignatureScheme::ECDSA_NISTP256_SHA256];
    config.dangerous().set_certificate_verifier(Arc::new(Credulous { schemes }));
    let stream = greet(lab.address, "shop.example", config).await.unwrap();
    assert_eq!(stream.get_ref().1.peer_certificates().unwrap()[0], leaf(&ecdsa));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_modern_policy_leaves_tls_1_3_alone_and_is_changed_while_running() {
    let spec = self_signed(&["shop.example"]);
    let mut lab = Lab::start();
    lab.certificate("shop", spec.clone());
    lab.listen_tls(Vec::new(), vec![tls_entry("shop", &[])]);
    lab.publish().await;
    let address = lab.address;
    let visit = async |version| {
        let config = trusting(&[&spec.chain_pem], &[version]);
        greet(address, "shop.example", config).await.map(|_| ())
    };
    let (old, new) = (&rustls::version::TLS12, &rustls::version::TLS13);
    assert!(visit(old).await.is_ok() && visit(new).await.is_ok());
    for (policy, old_is_served) in [(TlsPolicy::Modern, false), (TlsPolicy::Intermediate, true)] {
        lab.reconfigure(|settings| settings.tls_policy = policy);
        assert_eq!(visit(old).await.is_ok(), old_is_served);
        assert!(visit(new).await.is_ok());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_replaced_under_load_without_a_failed_handshake() {
    let issuer = Issuer::new("ours");
    let mut lab = Lab::start();
    lab.certificate("shop", issuer.issue(&["shop.example"], 0));
    lab.listen_tls(Vec::new(), vec![tls_entry("shop", &[])]);
    lab.publish().await;
    let (address, pem) = (lab.address, issuer.pem.clone());
    let stop = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let (stop, pem) = (stop.clone(), pem.clone());
            tokio::spawn(async move {
                let mut seen = BTreeSet::new();
                while !stop.load(Ordering::Relaxed) {
                    let config = trusting(&[&pem], rustls::ALL_VERSIONS);
                    let stream = greet(address, "shop.example", config).await.unwrap();
                    seen.insert(stream.get_ref().1.peer_certificates().unwrap()[0].to_vec());
                }
                seen.len()
            })
        })
        .collect();
    for number in 1..=20 {
        let handshakes = || lab.metric("haflinger_proxy_connections_total", "");
        let before = handshakes();
        until("clients come and go", || handshakes() >= before + 8.0).await;
        lab.certificate("shop", issuer.issue(&["shop.example"], number));
        lab.publish().await;
    }
    stop.store(true, Ordering::Relaxed);
    for client in clients {
        assert!(client.await.unwrap() > 5, "certificates were seen to change");
    }
    assert_eq!(lab.metric("haflinger_proxy_connections_refused_total", ""), 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_resumed_for_its_own_name_alone() {
    let mut lab = Lab::start();
    lab.certificate("both", self_signed(&["shop.example", "blog.example"]));
    let host = |name: &str| HostMatch::Exact(name.into());
    lab.listen_sections(vec![
        section(host("shop.example"), vec![tls_entry("both", &[])], Vec::new()),
        section(host("blog.example"), vec![tls_entry("both", &[])], Vec::new()),
    ]);
    lab.publish().await;
    let config = credulous();
    let visit = async |name: &str| {
        let mut client = RawTls::connect(lab.address, name, config.clone()).await.unwrap();
        // Tickets come behind the handshake.
        assert_eq!(client.get(name).await, Some(404));
        client.resumed()
    };
    assert!(!visit("shop.example").await);
    assert!(visit("shop.example").await);
    assert!(!visit("blog.example").await);
    let handshakes = |kind| lab.metric("haflinger_proxy_tls_handshakes_total", kind);
    assert_eq!((handshakes("full"), handshakes("resumed")), (2.0, 1.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_resumed_by_every_host_that_has_the_secret_and_by_no_other() {
    for version in rustls::ALL_VERSIONS {
        let spec = self_signed(&["shop.example"]);
        let mut hosts = Vec::new();
        for byte in [Some(1), Some(1), Some(2), None] {
            let rotation_secs = 21_600;
            let secret = byte.map(|byte| TicketSecret { bytes: [byte; 32], rotation_secs });
            let mut lab = Lab::start_with(|settings| settings.ticket_secret = secret);
            lab.certificate("shop", spec.clone());
            lab.listen_tls(Vec::new(), vec![tls_entry("shop", &["shop.example"])]);
            lab.publish().await;
            hosts.push(lab);
        }
        let resumed_at = async |host: &Lab, config: &rustls::ClientConfig| {
            let visit = RawTls::connect(host.address, "shop.example", config.clone());
            let mut client = visit.await.unwrap();
            assert_eq!(client.get("shop.example").await, Some(404));
            client.resumed()
        };
        let begin = async || {
            let config = trusting(&[&spec.chain_pem], &[version]);
            assert!(!resumed_at(&hosts[0], &config).await);
            config
        };
        assert!(resumed_at(&hosts[0], &begin().await).await, "by itself, {version:?}");
        assert!(resumed_at(&hosts[1], &begin().await).await, "with the secret, {version:?}");
        assert!(!resumed_at(&hosts[2], &begin().await).await, "with another, {version:?}");
        assert!(!resumed_at(&hosts[3], &begin().await).await, "with none, {version:?}");
        let config = begin().await;
        hosts[0].reconfigure(|settings| settings.ticket_secret = None);
        assert!(!resumed_at(&hosts[0], &config).await, "the secret is gone, {version:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_do_not_speak_tls_or_only_by_the_byte_are_cut_off() {
    let mut lab = Lab::start_with(|settings| {
        settings.tls_handshake_timeout = std::time::Duration::from_millis(500);
    });
    lab.certificate("shop", self_signed(&["shop.example"]));
    lab.listen_tls(Vec::new(), vec![tls_entry("shop", &[])]);
    lab.publish().await;
    let refused = |reason| lab.metric("haflinger_proxy_connections_refused_total", reason);
    // The last one is a record that is longer than any may be.
    for garbage in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0; 4_000], &[22, 3, 1, 0xff, 0xff, 1]] {
        let mut stream = tokio::net::TcpStream::connect(lab.address).await.unwrap();
        stream.write_all(garbage).await.unwrap();
        let mut answer = Vec::new();
        // A reset is an end too.
        let _ = stream.read_to_end(&mut answer).await;
        assert_eq!(answer.first(), Some(&21), "{garbage:?}");
    }
    until("garbage is counted", || refused("tls_hello") == 3.0).await;
    let mut slow = tokio::net::TcpStream::connect(lab.address).await.unwrap();
    slow.write_all(&[22, 3, 1]).await.unwrap();
    until("the slow client is cut off", || refused("tls_timeout") == 1.0).await;
}
