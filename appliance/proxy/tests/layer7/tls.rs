//! Certificates: which is served, when another takes its place, and what is refused.

use haflinger_core::{CertificateSpec, FaultReason, HostMatch, Update};

use crate::support::client::{handshake, leaf};
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
    let bad = CertificateSpec { chain_pem: good.chain_pem.clone(), key_pem: stranger };
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
