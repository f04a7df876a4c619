//! Bad input gives one clear reason at the object concerned, and everything else goes on.
//!
//! ```text
//!  client ── router ══ edge1, edge2 ── pods          a peer that sends garbage (in dns)
//!            BIND, which refuses one zone            a pool of one address
//! ```
//!
//! 1. A malformed EndpointSlice is named in event and status; the Service's other slices serve.
//! 2. So is a Service port that no slice has by name.
//! 3. An annotation with nonsense is named; the Service is served without it.
//! 4. A pool that overlaps another is refused with both places, by `check` and by a running
//!    host, which keeps what it had and says so in status and metric.
//! 5. Of two Services that want one address and port the first keeps it, the second is told.
//! 6. A full pool, and an address outside every pool, are told to who asked.
//! 7. A peer that sends garbage gets a NOTIFICATION and a reason; the other session stays.
//! 8. A DNS server that refuses is named with the record; other zones are written.
//! 9. A Service that nothing is wrong with loses no connection in all this.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use haflinger_tests::lab::echo_ports::LINE;
use haflinger_tests::lab::manifests::{annotated, core, service};
use haflinger_tests::lab::topology::{DNS, ROUTER_AS};
use haflinger_tests::lab::{Lab, Plan, REFUSING_ZONE, Router, ZONE, check, eventually};
use serde_json::{Value, json};
use toml::Table;

use super::grounds::Needs;
use super::runner::{Run, Scenario};
use super::sample::{HOSTNAME, SOON, Sample, assigned, event, fault};

pub(crate) const SCENARIO: Scenario = Scenario {
    name: "bad-input",
    needs: Needs::Cluster,
    claims: &[
        "a malformed EndpointSlice is named and the others serve",
        "a port without a match is named",
        "an annotation with nonsense is named and the Service is served",
        "an overlapping pool is refused and the former configuration kept",
        "of two Services that want one address and port the first keeps it",
        "a full pool and an address outside every pool are named",
        "a peer that sends garbage is told so and the other stays",
        "a DNS server that refuses is named and other zones are written",
        "a Service that nothing is wrong with loses no connection",
    ],
    run: |run| Box::pin(claims(run)),
};

/// Port on which the peer that sends garbage listens.
const GARBAGE_PORT: u16 = 1790;
/// BGP message type NOTIFICATION (RFC 4271, section 4.1).
const NOTIFICATION: u8 = 3;

async fn claims(run: &mut Run) -> Result<()> {
    let sample = Sample::deploy(&run.lab, "good", 2).await?;
    sample.settled(&run.lab).await?;
    let load = run.lab.clients.start("bad-input", &Plan::connect(sample.targets(), 10))?;

    run.claim(1, async |lab| malformed_slice(lab, &sample).await).await;
    run.claim(2, async |lab| unmatched_port(lab, &sample).await).await;
    run.claim(3, async |lab| nonsense_annotation(lab, &sample).await).await;
    run.claim(4, async |lab| restoring(lab, async |lab| overlapping_pool(lab).await).await).await;
    run.claim(5, async |lab| same_address(lab, &sample).await).await;
    run.claim(6, async |lab| restoring(lab, async |lab| no_address(lab, &sample).await).await)
        .await;
    run.claim(7, async |lab| restoring(lab, async |lab| garbage(lab).await).await).await;
    run.claim(8, async |lab| refusing_server(lab, &sample).await).await;
    run.claim(9, async |_| load.stop().await?.ensure_flawless()).await;
    for name in ["slice", "port", "nonsense", "second", "full", "outside", "refused"] {
        run.lab.cluster()?.api.delete(&core("services", &format!("bad-{name}"))).await?;
    }
    sample.remove(&run.lab).await
}

/// Waits for `reason` at the Service `name`, as an event and in the status of both hosts, and
/// for `words` in what is said.
async fn told(lab: &Lab, name: &str, reason: &str, words: &[&str]) -> Result<()> {
    let mut said = vec![event(lab, name, reason).await?];
    for index in 0..lab.edges.len() {
        said.push(fault(lab, index, name, reason).await?);
    }
    for sentence in said {
        for word in words {
            ensure!(sentence.contains(word), "{reason} does not name {word:?}: {sentence}");
        }
    }
    Ok(())
}

/// Puts the hosts' configurations back, whatever becomes of `change`.
async fn restoring(lab: &Lab, change: impl AsyncFnOnce(&Lab) -> Result<()>) -> Result<()> {
    let before = [lab.edges[0].read()?, lab.edges[1].read()?];
    let outcome = change(lab).await;
    for (edge, config) in lab.edges.iter().zip(&before) {
        if edge.read()? != *config {
            edge.write(config)?;
        }
    }
    outcome
}

async fn malformed_slice(lab: &Lab, sample: &Sample) -> Result<()> {
    let api = &lab.cluster()?.api;
    api.apply(&service("bad-slice", &sample.name)).await?;
    // The API server accepts it: names are addresses too, for others.
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "name": "bad-slice-by-hand", "namespace": "default",
            "labels": {"kubernetes.io/service-name": "bad-slice"},
        },
        "addressType": "FQDN",
        "endpoints": [{"addresses": ["pod.example.org"]}],
        "ports": [{"name": "line", "port": 1, "protocol": "TCP"}],
    });
    api.apply(&slice).await?;
    told(lab, "bad-slice", "InvalidEndpointSlice", &["bad-slice-by-hand", "FQDN"]).await?;
    let wanted = sample.pods(lab).await?;
    let vips = assigned(lab, "bad-slice").await?;
    eventually(SOON, "the other slices to serve", async || {
        let report = lab.clients.tcp(vips[0], LINE, 40).await?;
        report.ensure_flawless()?;
        super::sample::same_pods(&report, &wanted)
    })
    .await?;
    api.delete("/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/bad-slice-by-hand")
        .await
}

async fn unmatched_port(lab: &Lab, sample: &Sample) -> Result<()> {
    let mut object = service("bad-port", &sample.name);
    object["spec"]["ports"][2]["targetPort"] = "no-such-port".into();
    lab.cluster()?.api.apply(&object).await?;
    told(lab, "bad-port", "PortUnmatched", &["web"]).await?;
    let vips = assigned(lab, "bad-port").await?;
    eventually(SOON, "the other ports to serve", async || {
        lab.clients.tcp(vips[0], LINE, 10).await?.ensure_flawless()
    })
    .await
}

async fn nonsense_annotation(lab: &Lab, sample: &Sample) -> Result<()> {
    let key = "haflinger.dev/proxy-protocol";
    let object = annotated(service("bad-nonsense", &sample.name), key, "v9");
    lab.cluster()?.api.apply(&object).await?;
    told(lab, "bad-nonsense", "InvalidAnnotation", &[key, "v9"]).await?;
    let vips = assigned(lab, "bad-nonsense").await?;
    eventually(SOON, "the Service to be served", async || {
        lab.clients.tcp(vips[0], LINE, 10).await?.ensure_flawless()
    })
    .await
}

fn with_pool(config: &Table, name: &str, addresses: &[&str]) -> Result<Table> {
    let mut config = config.clone();
    let pools = config.get_mut("pool").and_then(toml::Value::as_array_mut);
    let pool = toml::toml! { auto_assign = false };
    let mut pool: Table = pool;
    pool.insert("name".into(), name.into());
    pool.insert("addresses".into(), addresses.to_vec().into());
    pools.context("a configuration without pools")?.push(pool.into());
    Ok(config)
}

async fn overlapping_pool(lab: &Lab) -> Result<()> {
    let edge = &lab.edges[0];
    let good = edge.read()?;
    let bad = with_pool(&good, "overlaps", &["10.50.0.8/30"])?;
    let file = lab.place.path("overlapping.toml");
    fs::write(&file, toml::to_string(&bad)?)?;
    let complaint = check(&file)?.err().context("check accepts an overlapping pool")?;
    for word in ["overlaps", "pool[2]", "pool[0]", "10.50.0.8"] {
        ensure!(complaint.contains(word), "check does not name {word:?}: {complaint}");
    }
    let before = edge.metric("haflinger_config_refused", &[])?;
    ensure!(before == 0.0, "a configuration was refused before");
    edge.write(&bad)?;
    eventually(SOON, "the host to refuse it", async || {
        let refused = &edge.status()?["config"]["refused"];
        let refused = refused.as_str().context("nothing is refused")?;
        ensure!(refused.contains("overlaps"), "refused: {refused}");
        ensure!(edge.metric("haflinger_config_refused", &[])? > 0.0, "the metric is silent");
        Ok(())
    })
    .await?;
    ensure!(edge.logged("overlaps"), "the log is silent");
    edge.write(&good)?;
    eventually(SOON, "the good one to be taken", async || {
        let refused = &edge.status()?["config"]["refused"];
        ensure!(refused.is_null(), "still refused: {refused}");
        Ok(())
    })
    .await
}

async fn same_address(lab: &Lab, sample: &Sample) -> Result<()> {
    let object = service("bad-second", &sample.name);
    let wanted = sample.vips.map(|vip| vip.to_string()).join(",");
    let object = annotated(object, "haflinger.dev/address", &wanted);
    lab.cluster()?.api.apply(&object).await?;
    told(lab, "bad-second", "AddressTaken", &[&format!("default/{}", sample.name)]).await?;
    sample.settled(lab).await
}

async fn no_address(lab: &Lab, sample: &Sample) -> Result<()> {
    let api = &lab.cluster()?.api;
    let tiny = ["10.52.0.1", "fd00:52::1"];
    let configs = [lab.edges[0].read()?, lab.edges[1].read()?];
    for (edge, config) in lab.edges.iter().zip(&configs) {
        edge.write(&with_pool(config, "tiny", &tiny)?)?;
    }
    let key = "haflinger.dev/pool";
    api.apply(&annotated(service("bad-first", &sample.name), key, "tiny")).await?;
    let first = assigned(lab, "bad-first").await?.map(|vip| vip.to_string());
    ensure!(first == tiny, "the pool's only addresses are not given: {first:?}");
    api.apply(&annotated(service("bad-full", &sample.name), key, "tiny")).await?;
    told(lab, "bad-full", "PoolFull", &["tiny"]).await?;
    let mut outside = service("bad-outside", &sample.name);
    outside["spec"]["loadBalancerIP"] = "203.0.113.9".into();
    api.apply(&outside).await?;
    told(lab, "bad-outside", "AddressOutsidePools", &["203.0.113.9"]).await?;
    // The freed addresses go to who waits for them.
    api.delete(&core("services", "bad-first")).await?;
    let moved = assigned(lab, "bad-full").await?.map(|vip| vip.to_string());
    ensure!(moved == tiny, "the freed addresses are not given: {moved:?}");
    api.delete(&core("services", "bad-full")).await?;
    eventually(SOON, "the pool to be empty again", async || {
        let status = lab.edges[0].status()?;
        let vips = status["vips"].as_array().context("no vips")?;
        ensure!(!vips.iter().any(|vip| vip["pool"] == "tiny"), "{vips:?}");
        Ok(())
    })
    .await
}

/// A peer that answers every OPEN with bytes that are no BGP, and keeps what it is told.
struct GarbagePeer {
    heard: Arc<Mutex<Vec<u8>>>,
}

impl GarbagePeer {
    fn listen(lab: &Lab) -> Result<Self> {
        let address = SocketAddr::new(DNS.v4().into(), GARBAGE_PORT);
        let listener = lab.network.dns.enter(move || TcpListener::bind(address))??;
        let peer = Self { heard: Arc::default() };
        let heard = Arc::clone(&peer.heard);
        // A socket keeps the namespace that it was made in. The thread ends with the process.
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { continue };
                let _ = stream.set_read_timeout(Some(Duration::from_secs(3)));
                let _ = stream.write_all(&[0x42; 64]);
                let mut bytes = Vec::new();
                // The other side closes, or says nothing more.
                let _ = stream.read_to_end(&mut bytes);
                heard.lock().unwrap_or_else(PoisonError::into_inner).extend(bytes);
            }
        });
        Ok(peer)
    }

    /// Types of the messages that it was sent.
    fn message_types(&self) -> Vec<u8> {
        let heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        let mut types = Vec::new();
        let mut rest = &heard[..];
        while rest.len() >= 19 {
            types.push(rest[18]);
            let length = usize::from(u16::from_be_bytes([rest[16], rest[17]])).max(19);
            rest = rest.get(length..).unwrap_or_default();
        }
        types
    }
}

async fn garbage(lab: &Lab) -> Result<()> {
    let peer = GarbagePeer::listen(lab)?;
    let edge = &lab.edges[0];
    let good = edge.read()?;
    let mut config = good.clone();
    let peers = config["bgp"]["peer"].as_array_mut().context("no peers in the configuration")?;
    let mut added = Table::new();
    added.insert("name".into(), "garbage".into());
    added.insert("address".into(), DNS.v4().to_string().into());
    added.insert("port".into(), i64::from(GARBAGE_PORT).into());
    added.insert("remote_as".into(), i64::from(ROUTER_AS).into());
    peers.push(added.into());
    edge.write(&config)?;
    eventually(SOON, "a NOTIFICATION to the peer that sends garbage", async || {
        let types = peer.message_types();
        ensure!(types.contains(&NOTIFICATION), "it was sent messages of types {types:?}");
        Ok(())
    })
    .await?;
    eventually(SOON, "the status to say why", async || {
        let status = edge.status()?;
        let found = peer_status(&status, "garbage")?;
        let code = &found["last_notification_sent"]["code"];
        // Message Header Error (RFC 4271, section 6.1).
        ensure!(*code == 1, "the last NOTIFICATION sent is {code}: {found}");
        ensure!(found["state"] != "established", "established with garbage: {found}");
        Ok(())
    })
    .await?;
    let status = edge.status()?;
    let router = peer_status(&status, "router")?;
    ensure!(router["established_count"] == 1, "the other session suffered: {router}");
    ensure!(lab.router.is_established(0)?, "{} is not established", Router::session(0));
    edge.write(&good)?;
    eventually(SOON, "the peer to be forgotten", async || {
        ensure!(peer_status(&edge.status()?, "garbage").is_err(), "it is still in the status");
        Ok(())
    })
    .await
}

fn peer_status(status: &Value, name: &str) -> Result<Value> {
    let peers = status["bgp"]["peers"].as_array().context("no peers in the status")?;
    let found = peers.iter().find(|peer| peer["name"] == name);
    found.cloned().with_context(|| format!("no peer {name}"))
}

async fn refusing_server(lab: &Lab, sample: &Sample) -> Result<()> {
    let names = format!("bad.{REFUSING_ZONE},fine.{ZONE}");
    let object = annotated(service("bad-refused", &sample.name), HOSTNAME, &names);
    lab.cluster()?.api.apply(&object).await?;
    let vips = assigned(lab, "bad-refused").await?;
    eventually(SOON, "the other zone to be written", async || {
        let answers = lab.nameserver.answers(&format!("fine.{ZONE}"), "A")?;
        ensure!(answers == [vips[0].to_string()], "BIND answers {answers:?}");
        Ok(())
    })
    .await?;
    eventually(SOON, "the refusal in status and metric of the host that writes", async || {
        let mut all = Vec::new();
        for edge in &lab.edges {
            let status = edge.status()?;
            if status["dns"]["leader"] != true {
                continue;
            }
            let zones = status["dns"]["zones"].as_array().context("no zones")?;
            let is = |zone: &&Value| {
                zone["zone"]
                    .as_str()
                    .is_some_and(|name| name.trim_end_matches('.') == REFUSING_ZONE)
            };
            let zone = zones.iter().find(is).context("the zone is not in the status")?;
            let said = format!("{zone} {}", status["dns"]["records"]).to_lowercase();
            ensure!(said.contains("refused"), "the zone's status is {zone}");
            ensure!(edge.metric("haflinger_dns_errors_total", &[REFUSING_ZONE])? > 0.0, "metric");
            all.push(edge.name());
        }
        ensure!(all.len() == 1, "the writers are {all:?}");
        Ok(())
    })
    .await
}
