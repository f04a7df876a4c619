//! The sample that `make lab` deploys: four pods behind a VIP and a site.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::echo_ports::{HTTP, LINE};
use super::manifests::{annotated, core, deployment, ingress, service, tls_secret};
use super::sandbox::Sandbox;
use super::topology::{pod_addresses, pod_routes};
use super::{Lab, is_serving};

/// Name of the sample's Deployment, Service and Ingress.
pub const NAME: &str = "hello";
/// The site's host name.
pub const HOST: &str = "hello.lab.example";
/// The host name of the Service's VIP.
pub const SERVICE_HOST: &str = "hello-tcp.lab.example";
/// The sample's VIP where there is no control plane to assign one.
pub const INVENTORY_VIP: &str = "10.50.0.1";
/// The same, IPv6.
pub const INVENTORY_VIP_V6: &str = "fd00:50::1";
const REPLICAS: u32 = 4;

/// Generous: pods take seconds.
const READY_MAX: Duration = Duration::from_secs(60);

/// Deploys the sample and answers the VIP.
pub async fn deploy(lab: &Lab) -> Result<String> {
    let api = &lab.cluster()?.api;
    let signed = lab.authority.sign(HOST)?;
    api.apply(&deployment(NAME, REPLICAS)).await?;
    let service = service(NAME, NAME);
    let key = "external-dns.alpha.kubernetes.io/hostname";
    api.apply(&annotated(service, key, SERVICE_HOST)).await?;
    api.apply(&tls_secret(NAME, &signed.chain_pem, &signed.key_pem)).await?;
    api.apply(&ingress(NAME, HOST, NAME, NAME)).await?;
    super::eventually(READY_MAX, "the sample's pods and VIP", async || {
        let ready = lab.cluster()?.pods(NAME, is_serving).await?.len();
        anyhow::ensure!(ready == usize::try_from(REPLICAS)?, "{ready} pods are ready");
        let object = api.get(&core("services", NAME)).await?;
        vips(&object).into_iter().next().context("the Service has no address yet")
    })
    .await
}

/// Runs the sample's pods without a control plane, and writes the inventory file that says so.
pub fn take_stock(lab: &mut Lab) -> Result<()> {
    let mut backends = String::new();
    for number in 0..REPLICAS {
        let index = usize::try_from(number)? % lab.network.nodes.len();
        let slot = 2 + u8::try_from(number)?;
        let name = format!("{NAME}-{number}");
        let node = &lab.network.nodes[index];
        lab.stock.push(Sandbox::create(&lab.place, node, index, slot, &name, &[])?);
        for address in pod_addresses(index, slot) {
            backends += &format!("    {{ name = \"{name}\", address = \"{address}\" }},\n");
        }
    }
    // An inventory has no nodes, so the fabric must know the way to the backends.
    for edge in &lab.network.edges {
        edge.ip(&pod_routes())?;
    }
    let signed = lab.authority.sign(HOST)?;
    fs::write(lab.place.path("site.crt"), &signed.chain_pem)?;
    fs::write(lab.place.path("site.key"), &signed.key_pem)?;
    fs::write(lab.place.path("inventory.toml"), inventory(&backends))?;
    Ok(())
}

fn inventory(backends: &str) -> String {
    format!(
        "[[service]]\nname = \"{NAME}\"\n\
         addresses = [\"{INVENTORY_VIP}\", \"{INVENTORY_VIP_V6}\"]\n\
         hostnames = [\"{SERVICE_HOST}\"]\n\
         ports = [\n    \
         {{ name = \"line\", port = {LINE} }},\n    \
         {{ name = \"line-udp\", port = {LINE}, protocol = \"udp\" }},\n    \
         {{ name = \"web\", port = 80, target_port = {HTTP} }},\n]\n\
         backends = [\n{backends}]\n\
         health_check = {{ kind = \"tcp\", port = {LINE}, interval_ms = 1000, timeout_ms = 500 }}\n\n\
         [[site]]\nname = \"{NAME}\"\nhosts = [\"{HOST}\"]\n\
         service = \"{NAME}\"\nport = \"web\"\n\
         tls = [{{ certificate = \"site.crt\", key = \"site.key\" }}]\n"
    )
}

/// Addresses in a Service's (or Ingress's) status.
pub fn vips(object: &Value) -> Vec<String> {
    let ingress = object["status"]["loadBalancer"]["ingress"].as_array();
    let addresses = ingress.into_iter().flatten().filter_map(|entry| entry["ip"].as_str());
    addresses.map(str::to_owned).collect()
}
