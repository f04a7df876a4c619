//! An Ingress is served by HTTPS, straight to the pods.
//!
//! ```text
//!  client ── router ══ edge1, edge2 (TLS ends here) ── three pods, port 8080
//!            shared address 10.51.0.1, fd00:51::1
//! ```
//!
//! 1. Its status names the shared addresses, and BIND answers its host with them.
//! 2. By HTTPS over IPv4 the client reaches every ready pod and only those.
//! 3. So it does over IPv6,
//! 4. and by HTTP/2.
//! 5. Pods are told the client's address, the host and the scheme.
//! 6. A certificate replaced in its Secret is served at the next handshake.
//! 7. Routes follow the Ingress without a restart: one that is gone answers 404, one that is
//!    new is served.
//! 8. With the last Ingress goes the listener.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context as _, Result, bail, ensure};
use haflinger_tests::lab::manifests::{core, ingress, tls_secret};
use haflinger_tests::lab::topology::{CLIENT, SHARED_HTTP};
use haflinger_tests::lab::{Authority, Kind, Lab, Plan, Report, demo, eventually};
use serde_json::Value;

use super::grounds::Needs;
use super::runner::{Run, Scenario};
use super::sample::{SOON, Sample, routed, same_pods};

pub(crate) const SCENARIO: Scenario = Scenario {
    name: "ingress",
    needs: Needs::Cluster,
    claims: &[
        "the status names the shared addresses and BIND answers with them",
        "HTTPS over IPv4 reaches every ready pod and only those",
        "HTTPS over IPv6 reaches every ready pod and only those",
        "HTTP/2 reaches every ready pod and only those",
        "pods are told client, host and scheme",
        "a replaced certificate is served at the next handshake",
        "routes follow the Ingress without a restart",
        "the listener goes with the last Ingress",
    ],
    run: |run| Box::pin(claims(run)),
};

const NAME: &str = "site";
const HOST: &str = "site.lab.example";
const PATH: &str = "/apis/networking.k8s.io/v1/namespaces/default/ingresses/site";
const EXCHANGES: u64 = 60;

async fn claims(run: &mut Run) -> Result<()> {
    let sample = Sample::deploy(&run.lab, "web", 3).await?;
    let first = run.lab.authority.sign(HOST)?;
    let api = &run.lab.cluster()?.api;
    api.apply(&tls_secret(NAME, &first.chain_pem, &first.key_pem)).await?;
    api.apply(&ingress(NAME, HOST, &sample.name, NAME)).await?;

    run.claim(1, async |lab| addresses_are_known(lab).await).await;
    run.claim(2, async |lab| reaches(lab, &sample, SHARED_HTTP.0.into(), false).await).await;
    run.claim(3, async |lab| reaches(lab, &sample, SHARED_HTTP.1.into(), false).await).await;
    run.claim(4, async |lab| reaches(lab, &sample, SHARED_HTTP.0.into(), true).await).await;
    run.claim(5, async |lab| pods_are_told(lab).await).await;
    run.claim(6, async |lab| certificate_is_replaced(lab).await).await;
    run.claim(7, async |lab| routes_follow(lab, &sample).await).await;
    run.claim(8, async |lab| {
        lab.cluster()?.api.delete(PATH).await?;
        for address in [SHARED_HTTP.0.into(), SHARED_HTTP.1.into()] {
            routed(lab, address, 0).await?;
        }
        Ok(())
    })
    .await;
    run.lab.cluster()?.api.delete(&core("secrets", NAME)).await?;
    sample.remove(&run.lab).await
}

fn plan(authority: &Authority, address: IpAddr, path: &str, http2: bool) -> Plan {
    Plan::connect(vec![SocketAddr::new(address, 443)], 5).by(Kind::Https {
        host: HOST.into(),
        path: path.into(),
        authority: authority.file().clone(),
        http2,
    })
}

async fn addresses_are_known(lab: &Lab) -> Result<()> {
    let wanted = [SHARED_HTTP.0.to_string(), SHARED_HTTP.1.to_string()];
    eventually(SOON, "the Ingress's status", async || {
        let object = lab.cluster()?.api.get(PATH).await?;
        let mut found = demo::vips(&object);
        found.sort();
        ensure!(found == wanted, "the status holds {found:?}");
        let entries = object["status"]["loadBalancer"]["ingress"].as_array().cloned();
        let modes = entries.unwrap_or_default();
        ensure!(modes.iter().all(|entry| entry["ipMode"].is_null()), "an ipMode in {modes:?}");
        Ok(())
    })
    .await?;
    for (kind, address) in ["A", "AAAA"].iter().zip(&wanted) {
        eventually(SOON, "the host's record", async || {
            let answers = lab.nameserver.answers(HOST, kind)?;
            ensure!(answers == [address.clone()], "{kind}: {answers:?}");
            Ok(())
        })
        .await?;
    }
    routed(lab, SHARED_HTTP.0.into(), 2).await?;
    routed(lab, SHARED_HTTP.1.into(), 2).await
}

async fn reaches(lab: &Lab, sample: &Sample, address: IpAddr, http2: bool) -> Result<()> {
    let wanted = sample.pods(lab).await?;
    let plan = plan(&lab.authority, address, "/", http2).times(EXCHANGES);
    let report = eventually(SOON, "every exchange by HTTPS to succeed", async || {
        let report = lab.clients.complete(&plan).await?;
        report.ensure_flawless()?;
        same_pods(&report, &wanted)?;
        Ok(report)
    })
    .await?;
    ensure!(report.peers.len() == 2, "pods saw {:?}, not both hosts", report.peers);
    let version = if http2 { "HTTP/2.0" } else { "HTTP/1.1" };
    let body = report.last_body.unwrap_or_default();
    ensure!(body.starts_with(version), "the client spoke {body}, not {version}");
    Ok(())
}

async fn pods_are_told(lab: &Lab) -> Result<()> {
    let plan = plan(&lab.authority, SHARED_HTTP.0.into(), "/a/path?query=1", false).times(1);
    let report = lab.clients.complete(&plan).await?;
    report.ensure_flawless()?;
    let body = report.last_body.context("an answer without a body")?;
    let (_, json) = body.split_once(' ').context("a body without its version")?;
    let told: Value = serde_json::from_str(json)?;
    let expected = [
        ("x-forwarded-for", CLIENT.0.to_string()),
        ("x-forwarded-proto", "https".to_owned()),
        ("x-forwarded-host", HOST.to_owned()),
        ("host", HOST.to_owned()),
    ];
    for (field, wanted) in expected {
        let found = &told["headers"][field];
        ensure!(*found == *wanted, "{field} is {found}, want {wanted}: {told}");
    }
    ensure!(told["path"] == "/a/path?query=1", "the path is {}", told["path"]);
    Ok(())
}

async fn certificate_is_replaced(lab: &Lab) -> Result<()> {
    // Signed by another authority, so that whoever trusts only that one notices.
    let other = Authority::create(&lab.place, "other-ca")?;
    let newer = plan(&other, SHARED_HTTP.0.into(), "/", false).times(10);
    let before: Report = lab.clients.complete(&newer).await?;
    ensure!(before.successes() == 0, "the new certificate is served before its time");
    let signed = other.sign(HOST)?;
    let secret = tls_secret(NAME, &signed.chain_pem, &signed.key_pem);
    lab.cluster()?.api.apply(&secret).await?;
    eventually(SOON, "the new certificate on both hosts", async || {
        let report = lab.clients.complete(&newer).await?;
        report.ensure_flawless()
    })
    .await?;
    let older = plan(&lab.authority, SHARED_HTTP.0.into(), "/", false).times(10);
    let after = lab.clients.complete(&older).await?;
    ensure!(after.successes() == 0, "the old certificate is still served");
    let signed = lab.authority.sign(HOST)?;
    let secret = tls_secret(NAME, &signed.chain_pem, &signed.key_pem);
    lab.cluster()?.api.apply(&secret).await?;
    eventually(SOON, "the first authority's certificate again", async || {
        lab.clients.complete(&older).await?.ensure_flawless()
    })
    .await
}

async fn routes_follow(lab: &Lab, sample: &Sample) -> Result<()> {
    let starts = [lab.edges[0].log(), lab.edges[1].log()];
    let mut narrowed = ingress(NAME, HOST, &sample.name, NAME);
    let path = &mut narrowed["spec"]["rules"][0]["http"]["paths"][0];
    (path["path"], path["pathType"]) = ("/only".into(), "Exact".into());
    lab.cluster()?.api.apply(&narrowed).await?;
    let everything = plan(&lab.authority, SHARED_HTTP.0.into(), "/", false).times(10);
    let only = plan(&lab.authority, SHARED_HTTP.0.into(), "/only", false).times(10);
    eventually(SOON, "the old route to be gone and the new one to be served", async || {
        lab.clients.complete(&only).await?.ensure_flawless()?;
        let report = lab.clients.complete(&everything).await?;
        match report.failures.keys().collect::<Vec<_>>()[..] {
            [reason] if reason.contains("404") && report.successes() == 0 => Ok(()),
            _ => bail!("the old route: {report:?}"),
        }
    })
    .await?;
    ensure!(starts == [lab.edges[0].log(), lab.edges[1].log()], "a host was restarted");
    lab.cluster()?.api.apply(&ingress(NAME, HOST, &sample.name, NAME)).await?;
    eventually(SOON, "the first route again", async || {
        lab.clients.complete(&everything).await?.ensure_flawless()
    })
    .await
}
