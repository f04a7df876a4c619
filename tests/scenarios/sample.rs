//! What scenarios set up and look at again and again.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use haflinger_tests::lab::manifests::{annotated, core, deployment, deployments, service};
use haflinger_tests::lab::topology::EDGES;
use haflinger_tests::lab::{
    Lab, Report, Router, ZONE, demo, echo_ports::LINE, eventually, is_serving,
};
use serde_json::{Value, json};

/// How long anything may take that needs several parts to agree. Generous: the machine may be
/// building something else.
pub(crate) const SOON: Duration = Duration::from_secs(40);

/// The annotation that asks for a host name.
pub(crate) const HOSTNAME: &str = "external-dns.alpha.kubernetes.io/hostname";

/// The annotation that asks for a mode.
pub(crate) const MODE: &str = "haflinger.dev/mode";

/// A Deployment with its Service, both of one name.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    /// The name.
    pub(crate) name: String,
    /// VIPs in the Service's status, IPv4 first.
    pub(crate) vips: [IpAddr; 2],
}

impl Sample {
    /// Deploys `replicas` pods behind a Service that asks for the host name NAME.lab.example,
    /// and waits until all are ready and the routers send clients to both hosts.
    pub(crate) async fn deploy(lab: &Lab, name: &str, replicas: u32) -> Result<Self> {
        let host = format!("{name}.{ZONE}");
        Self::deploy_as(lab, replicas, annotated(service(name, name), HOSTNAME, &host)).await
    }

    /// The same with a Service of the caller's making.
    pub(crate) async fn deploy_as(lab: &Lab, replicas: u32, service: Value) -> Result<Self> {
        let name = service["metadata"]["name"].as_str().context("a Service without name")?;
        let api = &lab.cluster()?.api;
        api.apply(&deployment(name, replicas)).await?;
        api.apply(&service).await?;
        let vips = assigned(lab, name).await?;
        let sample = Self { name: name.to_owned(), vips };
        sample.scaled(lab, replicas).await?;
        sample.routed(lab, 2).await?;
        Ok(sample)
    }

    /// Its IPv4 address.
    pub(crate) fn v4(&self) -> IpAddr {
        self.vips[0]
    }

    /// Its IPv6 address.
    pub(crate) fn v6(&self) -> IpAddr {
        self.vips[1]
    }

    /// Its host name.
    pub(crate) fn host(&self) -> String {
        format!("{}.{ZONE}", self.name)
    }

    /// Where its line servers are reached, in both families.
    pub(crate) fn targets(&self) -> Vec<SocketAddr> {
        self.vips.iter().map(|vip| SocketAddr::new(*vip, LINE)).collect()
    }

    /// Names of its pods that should be reached.
    pub(crate) async fn pods(&self, lab: &Lab) -> Result<BTreeSet<String>> {
        Ok(lab.cluster()?.pods(&self.name, is_serving).await?.into_iter().collect())
    }

    /// Asks for another number of pods and waits for it.
    pub(crate) async fn scale(&self, lab: &Lab, replicas: u32) -> Result<()> {
        let patch = json!({"spec": {"replicas": replicas}});
        lab.cluster()?.api.merge(&deployments(&self.name), &patch).await?;
        self.scaled(lab, replicas).await
    }

    /// Waits until as many pods are ready and no other pod is left.
    pub(crate) async fn scaled(&self, lab: &Lab, replicas: u32) -> Result<()> {
        let wanted = usize::try_from(replicas)?;
        eventually(SOON, "the pods to be as many as asked for", async || {
            let all = lab.cluster()?.pods(&self.name, |_| true).await?.len();
            let ready = self.pods(lab).await?.len();
            ensure!(ready == wanted && all == wanted, "{ready} ready of {all}, want {wanted}");
            Ok(())
        })
        .await
    }

    /// Replaces every pod by a rolling update and waits until it is done.
    pub(crate) async fn roll(&self, lab: &Lab) -> Result<()> {
        let before = self.pods(lab).await?;
        let stamp = json!({"lab.example/rolled": format!("{before:?}")});
        let patch = json!({"spec": {"template": {"metadata": {"annotations": stamp}}}});
        lab.cluster()?.api.merge(&deployments(&self.name), &patch).await?;
        eventually(SOON, "the rolling update", async || {
            let pods: BTreeSet<String> =
                lab.cluster()?.pods(&self.name, |_| true).await?.into_iter().collect();
            let ready = self.pods(lab).await?;
            ensure!(pods.is_disjoint(&before), "old pods are left: {pods:?}");
            ensure!(ready.len() == before.len(), "{} of {} ready", ready.len(), before.len());
            Ok(())
        })
        .await
    }

    /// Waits until the router's kernel has `hosts` next hops for both VIPs.
    pub(crate) async fn routed(&self, lab: &Lab, hosts: usize) -> Result<()> {
        for vip in self.vips {
            routed(lab, vip, hosts).await?;
        }
        Ok(())
    }

    /// Waits until new connections reach exactly the pods that should be reached.
    pub(crate) async fn settled(&self, lab: &Lab) -> Result<()> {
        eventually(SOON, "the client to reach every ready pod and only those", async || {
            let wanted = self.pods(lab).await?;
            for vip in self.vips {
                let report = lab.clients.tcp(vip, LINE, 40).await?;
                report.ensure_flawless()?;
                same_pods(&report, &wanted)?;
            }
            Ok(())
        })
        .await
    }

    /// Deletes Service and Deployment.
    pub(crate) async fn remove(&self, lab: &Lab) -> Result<()> {
        let api = &lab.cluster()?.api;
        api.delete(&core("services", &self.name)).await?;
        api.delete(&deployments(&self.name)).await
    }
}

/// The addresses of the Service `name`, IPv4 first, once it has one of each family.
pub(crate) async fn assigned(lab: &Lab, name: &str) -> Result<[IpAddr; 2]> {
    let path = core("services", name);
    eventually(SOON, "the Service's status to hold its addresses", async || {
        let object = lab.cluster()?.api.get(&path).await?;
        let mut found: Vec<IpAddr> =
            demo::vips(&object).iter().map(|ip| ip.parse()).collect::<Result<_, _>>()?;
        found.sort();
        let found: [IpAddr; 2] = match found.try_into() {
            Ok(pair) => pair,
            Err(others) => bail!("status holds {others:?}"),
        };
        ensure!(found[0].is_ipv4() && found[1].is_ipv6(), "status holds {found:?}");
        Ok(found)
    })
    .await
}

/// Waits until the router's kernel has `hosts` next hops for `vip`.
pub(crate) async fn routed(lab: &Lab, vip: IpAddr, hosts: usize) -> Result<()> {
    eventually(SOON, "the router to have the right next hops", async || {
        let hops = lab.router.kernel_next_hops(vip)?;
        ensure!(hops.len() == hosts, "{vip} via {hops:?}, want {hosts}");
        Ok(())
    })
    .await
}

/// Waits until both sessions are established.
pub(crate) async fn established(lab: &Lab) -> Result<()> {
    eventually(SOON, "both BGP sessions", async || {
        for index in 0..EDGES.len() {
            ensure!(lab.router.is_established(index)?, "no session {}", Router::session(index));
        }
        Ok(())
    })
    .await
}

/// Fails unless exactly `wanted` pods answered.
pub(crate) fn same_pods(report: &Report, wanted: &BTreeSet<String>) -> Result<()> {
    let reached: BTreeSet<String> = report.pods.keys().cloned().collect();
    ensure!(reached == *wanted, "reached {reached:?}, ready are {wanted:?}");
    Ok(())
}

/// Waits for an event with `reason` about the object `name`; answers its note.
pub(crate) async fn event(lab: &Lab, name: &str, reason: &str) -> Result<String> {
    let path = "/apis/events.k8s.io/v1/namespaces/default/events";
    eventually(SOON, &format!("the event {reason} at {name}"), async || {
        let events = lab.cluster()?.api.list(path).await?;
        let found = events
            .iter()
            .find(|event| event["regarding"]["name"] == name && event["reason"] == reason);
        let note = found.and_then(|event| event["note"].as_str());
        note.map(str::to_owned).with_context(|| {
            let reasons = events.iter().filter(|event| event["regarding"]["name"] == name);
            let reasons: Vec<&Value> = reasons.map(|event| &event["reason"]).collect();
            format!("events at {name}: {reasons:?}")
        })
    })
    .await
}

/// Waits until host number `index` states fault `reason` at the object `name`.
pub(crate) async fn fault(lab: &Lab, index: usize, name: &str, reason: &str) -> Result<String> {
    eventually(SOON, &format!("the fault {reason} at {name} in the status"), async || {
        let status = lab.edges[index].status()?;
        let objects = status["objects"].as_array().context("no objects in the status")?;
        let object = objects
            .iter()
            .find(|object| {
                object["object"].as_str().is_some_and(|o| o.ends_with(&format!("/{name}")))
            })
            .with_context(|| format!("{name} is not in the status"))?;
        let faults = object["faults"].as_array().map_or(&[][..], Vec::as_slice);
        let found = faults.iter().find(|fault| fault["reason"] == reason);
        let message = found.and_then(|fault| fault["message"].as_str());
        message.map(str::to_owned).with_context(|| format!("faults: {faults:?}"))
    })
    .await
}
