//! A stand-in for scheduler and kubelet: keeps Nodes Ready, binds pods to them, runs a pod as a
//! namespace with the program that stands for its image, tells its status and what it printed,
//! and finishes deletions.
//!
//! It looks at all pods a few times a second instead of watching: with a handful of pods that
//! is cheap, and there is nothing to resume after the API was away. A pod of the lab's echo server
//! serves until its grace period ends, like one whose preStop hook sleeps; other programs end when
//! they are told.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context as _, Result};
use futures::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::container::{Images, Program, Readiness};
use super::echo_ports;
use super::logs::Logs;
use super::sandbox::Sandbox;
use super::status::{create_node, gates_hold, pod_status, renew_node};
use super::topology::NODES;
use super::{Api, Namespace, Place};

/// How often pods are looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(150);
/// How often Nodes and their Leases are renewed. The node controller waits for 50 seconds.
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(5);

/// Last parts of pods' addresses; the node itself has 1.
const SLOT_FIRST: u8 = 2;
const SLOT_LAST: u8 = 254;

/// The stand-in, running.
#[derive(Debug)]
pub(super) struct Kubelet {
    stop: CancellationToken,
    task: JoinHandle<()>,
    _servers: JoinSet<()>,
}

impl Kubelet {
    /// Creates the Nodes and starts looking after pods. To be called on the runtime inside the
    /// control plane's namespace, from where pods are probed.
    pub(super) async fn start(
        place: &Place,
        nodes: [Namespace; 2],
        api: Api,
        images: Images,
    ) -> Result<Self> {
        for index in 0..NODES.len() {
            create_node(&api, index).await?;
        }
        let logs = Logs::default();
        let servers = logs.serve(&nodes)?;
        let stop = CancellationToken::new();
        let mut rounds = Rounds {
            place: place.clone(),
            nodes,
            api,
            images,
            logs,
            sandboxes: BTreeMap::new(),
            slots: [SLOT_FIRST; NODES.len()],
            heartbeat: Instant::now(),
        };
        let stopped = stop.clone();
        let task = tokio::spawn(async move {
            while !stopped.is_cancelled() {
                if let Err(error) = rounds.look().await {
                    // The API is away: pods go on running.
                    tracing::debug!("{error:#}");
                }
                tokio::time::sleep(LOOK_INTERVAL).await;
            }
        });
        Ok(Self { stop, task, _servers: servers })
    }

    /// Ends the stand-in and with it every pod's namespace.
    pub(super) async fn stop(self) -> Result<()> {
        self.stop.cancel();
        self.task.await.context("the stand-in for the kubelet panicked")
    }
}

struct Rounds {
    place: Place,
    nodes: [Namespace; 2],
    api: Api,
    images: Images,
    logs: Logs,
    sandboxes: BTreeMap<String, Sandbox>,
    /// From where each node looks for a free slot.
    slots: [u8; NODES.len()],
    heartbeat: Instant,
}

impl Rounds {
    async fn look(&mut self) -> Result<()> {
        if self.heartbeat <= Instant::now() {
            for index in 0..NODES.len() {
                renew_node(&self.api, index).await?;
            }
            self.heartbeat = Instant::now() + HEARTBEAT_INTERVAL;
        }
        let pods = self.api.list("/api/v1/pods").await?;
        self.forget_vanished(&pods);
        for pod in &pods {
            if let Err(error) = self.look_at(pod).await {
                tracing::warn!(pod = %path_of(pod), "{error:#}");
            }
        }
        self.probe().await;
        Ok(())
    }

    /// Pods that were taken out of the API without waiting for us.
    fn forget_vanished(&mut self, pods: &[Value]) {
        self.sandboxes.retain(|uid, _| pods.iter().any(|pod| uid_of(pod) == uid));
        self.logs.retain(|name| pods.iter().any(|pod| name_of(pod) == name));
    }

    async fn look_at(&mut self, pod: &Value) -> Result<()> {
        if !pod["metadata"]["deletionTimestamp"].is_null() {
            return self.terminate(pod).await;
        }
        let index = match pod["spec"]["nodeName"].as_str() {
            None => self.bind(pod).await?,
            Some(node) => match NODES.iter().position(|host| host.name == node) {
                Some(index) => index,
                None => return Ok(()),
            },
        };
        let uid = uid_of(pod);
        if !self.sandboxes.contains_key(uid) {
            let program = Program::of(pod, &self.images, &self.api, &self.place).await?;
            // What it mounts does not exist yet.
            let Some(program) = program else { return Ok(()) };
            let slot = free_slot(self.sandboxes.values(), index, self.slots[index]);
            let slot = slot.context("the node is full")?;
            self.slots[index] = slot.wrapping_add(1).max(SLOT_FIRST);
            let name = pod["metadata"]["name"].as_str().context("a pod without a name")?;
            let node = &self.nodes[index];
            let sandbox = Sandbox::run(&self.place, node, index, slot, name, program)?;
            self.sandboxes.insert(uid.to_owned(), sandbox);
        }
        if let Some(sandbox) = self.sandboxes.get(uid) {
            self.logs.note(&name_of(pod), sandbox.log());
        }
        self.report(pod).await
    }

    /// Chooses the node with the fewest pods, the first of equals.
    async fn bind(&self, pod: &Value) -> Result<usize> {
        let wanted = pod["spec"]["nodeSelector"]["kubernetes.io/hostname"].as_str();
        let chosen = (0..NODES.len())
            .filter(|index| wanted.is_none_or(|name| NODES[*index].name == name))
            .min_by_key(|index| self.sandboxes.values().filter(|s| s.node == *index).count())
            .context("no node has the name that the pod selects")?;
        let binding = json!({
            "apiVersion": "v1", "kind": "Binding",
            "metadata": {"name": pod["metadata"]["name"]},
            "target": {"apiVersion": "v1", "kind": "Node", "name": NODES[chosen].name},
        });
        self.api.create(&format!("{}/binding", path_of(pod)), &binding).await?;
        Ok(chosen)
    }

    async fn terminate(&mut self, pod: &Value) -> Result<()> {
        let grace = pod["metadata"]["deletionGracePeriodSeconds"].as_u64().unwrap_or(0);
        let uid = uid_of(pod);
        if let Some(sandbox) = self.sandboxes.get_mut(uid) {
            if !sandbox.terminate(Duration::from_secs(grace))? {
                return self.report(pod).await;
            }
            self.sandboxes.remove(uid);
        }
        self.api.finish(&path_of(pod), uid).await
    }

    /// Writes the pod's status when it changed.
    async fn report(&mut self, pod: &Value) -> Result<()> {
        let Some(sandbox) = self.sandboxes.get_mut(uid_of(pod)) else { return Ok(()) };
        let gates = gates_hold(pod);
        let told = (sandbox.ready, gates);
        if sandbox.reported == Some(told) {
            return Ok(());
        }
        let status = json!({"status": pod_status(pod, sandbox, gates)});
        // The conditions of gates are others' to write.
        self.api.merge_lists(&format!("{}/status", path_of(pod)), &status).await?;
        sandbox.reported = Some(told);
        Ok(())
    }

    async fn probe(&mut self) {
        let api = &self.api;
        let probes = self.sandboxes.values_mut().map(|sandbox| async move {
            sandbox.ready = match sandbox.readiness() {
                Readiness::Probed => answers(api, sandbox.addresses[0]).await,
                Readiness::Running => sandbox.is_running(),
            };
            sandbox.revive()
        });
        for result in join_all(probes).await {
            if let Err(error) = result {
                tracing::warn!("{error:#}");
            }
        }
    }
}

async fn answers(api: &Api, address: IpAddr) -> bool {
    let url = format!("http://{address}:{}/ready", echo_ports::READY);
    let answer = api.fetch(Method::GET, &url).await;
    answer.is_ok_and(|(status, _)| status.is_success())
}

/// The next slot that nobody has, from `first` on. An address that a pod has just left is the last
/// to be given away again: the kernel takes a while to remove its namespace and device.
fn free_slot<'a>(
    sandboxes: impl Iterator<Item = &'a Sandbox> + Clone,
    node: usize,
    first: u8,
) -> Option<u8> {
    let taken = |slot: u8| sandboxes.clone().any(|s| s.node == node && s.slot == slot);
    (first..=SLOT_LAST).chain(SLOT_FIRST..first).find(|slot| !taken(*slot))
}

fn uid_of(pod: &Value) -> &str {
    pod["metadata"]["uid"].as_str().unwrap_or_default()
}

/// NAMESPACE/NAME.
fn name_of(pod: &Value) -> String {
    let text = |key: &str| pod["metadata"][key].as_str().unwrap_or_default();
    format!("{}/{}", text("namespace"), text("name"))
}

fn path_of(pod: &Value) -> String {
    let text = |key: &str| pod["metadata"][key].as_str().unwrap_or_default().to_owned();
    format!("/api/v1/namespaces/{}/pods/{}", text("namespace"), text("name"))
}
