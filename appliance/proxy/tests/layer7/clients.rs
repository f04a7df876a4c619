//! Certificates of clients: who is let in.

use std::sync::Arc;

use haflinger_core::{AuthoritySpec, CertificateSpec, ClientValidation, HostMatch, Section};

use crate::support::backend::Backend;
use crate::support::client::{RawTls, credulous, identified};
use crate::support::issuer::Issuer;
use crate::support::{Lab, rule, section, self_signed, tls_entry, until};

/// A lab whose section for `shop.example` checks clients.
struct Door {
    lab: Lab,
    _shop: Backend,
}

impl Door {
    async fn open(authorities: Vec<Arc<AuthoritySpec>>, optional: bool) -> Self {
        let shop = Backend::start("shop").await;
        let mut lab = Lab::start();
        lab.backends("shop", &[shop.address]);
        lab.certificate("shop", self_signed(&["shop.example"]));
        lab.certificate("open", self_signed(&["open.example"]));
        let mut door = Self { lab, _shop: shop };
        door.check(authorities, optional).await;
        door
    }

    async fn check(&mut self, authorities: Vec<Arc<AuthoritySpec>>, optional: bool) {
        let rules = || vec![rule(None, "/", Some("shop"))];
        let host = |name: &str| HostMatch::Exact(name.into());
        let mut guarded = section(host("shop.example"), vec![tls_entry("shop", &[])], rules());
        let client = ClientValidation { authorities, optional };
        guarded.tls.as_mut().unwrap().client = Some(client);
        let open: Section = section(host("open.example"), vec![tls_entry("open", &[])], rules());
        self.lab.listen_sections(vec![guarded, open]);
        self.lab.publish().await;
    }

    /// The answer to a client that shows this; with TLS 1.3 a refusal comes after the handshake.
    async fn answer(&self, name: &str, shown: Option<&CertificateSpec>) -> Option<u16> {
        let config = shown.map_or_else(credulous, identified);
        let mut client = RawTls::connect(self.lab.address, name, config).await.ok()?;
        client.get(name).await
    }

    async fn refused(&self, count: f64) {
        until("the refusals are counted", || {
            let metric = "haflinger_proxy_connections_refused_total";
            self.lab.metric(metric, "client_certificate") == count
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_clients_of_the_authority_are_let_in_where_that_is_asked() {
    let (ours, theirs) = (Issuer::new("ours"), Issuer::new("theirs"));
    let door = Door::open(vec![ours.authority()], false).await;
    let known = ours.issue(&["client.example"], 1);
    assert_eq!(door.answer("shop.example", Some(&known)).await, Some(200));
    assert_eq!(door.answer("shop.example", None).await, None);
    let stranger = theirs.issue(&["client.example"], 1);
    assert_eq!(door.answer("shop.example", Some(&stranger)).await, None);
    door.refused(2.0).await;
    assert_eq!(door.answer("open.example", None).await, Some(200), "another section");
}

#[tokio::test(flavor = "multi_thread")]
async fn with_the_fallback_everybody_is_let_in_whatever_is_shown() {
    let (ours, theirs) = (Issuer::new("ours"), Issuer::new("theirs"));
    let door = Door::open(vec![ours.authority()], true).await;
    let (known, stranger) = (ours.issue(&["c.example"], 1), theirs.issue(&["c.example"], 1));
    for shown in [None, Some(&known), Some(&stranger), Some(&self_signed(&["me"]))] {
        assert_eq!(door.answer("shop.example", shown).await, Some(200));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_authority_has_revoked_is_refused_from_the_next_handshake_on() {
    let ours = Issuer::new("ours");
    let mut door = Door::open(vec![ours.authority()], false).await;
    let (lost, kept) = (ours.issue(&["lost.example"], 7), ours.issue(&["kept.example"], 8));
    assert_eq!(door.answer("shop.example", Some(&lost)).await, Some(200));
    door.check(vec![ours.revoking(&[7])], false).await;
    assert_eq!(door.answer("shop.example", Some(&lost)).await, None);
    assert_eq!(door.answer("shop.example", Some(&kept)).await, Some(200));
    door.refused(1.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_not_resumed_when_its_client_would_no_longer_be_let_in() {
    let ours = Issuer::new("ours");
    let mut door = Door::open(vec![ours.authority()], false).await;
    // One configuration for all: it keeps the tickets that it is given.
    let config = identified(&ours.issue(&["lost.example"], 7));
    let visit = async |door: &Door| {
        let client = RawTls::connect(door.lab.address, "shop.example", config.clone()).await;
        let mut client = client.ok()?;
        let status = client.get("shop.example").await?;
        Some((status, client.resumed()))
    };
    assert_eq!(visit(&door).await, Some((200, false)));
    assert_eq!(visit(&door).await, Some((200, true)), "a ticket is honoured");
    door.check(vec![ours.revoking(&[7])], false).await;
    assert_eq!(visit(&door).await, None, "a ticket from before is worth nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn authorities_that_cannot_be_read_are_left_out_and_without_any_nobody_is_let_in() {
    let ours = Issuer::new("ours");
    let broken = AuthoritySpec { pem: b"no certificate".to_vec(), ..AuthoritySpec::default() };
    let mut door = Door::open(vec![Arc::new(broken.clone()), ours.authority()], false).await;
    let known = ours.issue(&["client.example"], 1);
    assert_eq!(door.answer("shop.example", Some(&known)).await, Some(200));
    for nobody in [broken, AuthoritySpec::default()] {
        door.check(vec![Arc::new(nobody)], false).await;
        assert_eq!(door.answer("shop.example", Some(&known)).await, None);
        assert_eq!(door.answer("shop.example", None).await, None);
        assert_eq!(door.answer("open.example", None).await, Some(200), "another section");
    }
}
