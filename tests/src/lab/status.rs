//! What the stand-in for the kubelet tells the API about nodes and pods.

use anyhow::Result;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::Api;
use super::api::Refused;
use super::logs;
use super::sandbox::Sandbox;
use super::topology::{NODES, pod_networks};

/// Creates Node number `index` with its pod networks, unless it exists.
pub(super) async fn create_node(api: &Api, index: usize) -> Result<()> {
    let host = NODES[index];
    let networks = pod_networks(index);
    let node = json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {
            "name": host.name,
            "labels": {
                "kubernetes.io/hostname": host.name,
                "topology.kubernetes.io/zone": format!("zone-{}", index + 1),
            },
        },
        "spec": {"podCIDR": networks[0], "podCIDRs": networks},
    });
    accept_conflict(api.create("/api/v1/nodes", &node).await)?;
    let lease = json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": {"name": host.name, "namespace": "kube-node-lease"},
        "spec": {"holderIdentity": host.name, "leaseDurationSeconds": 40},
    });
    let leases = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
    accept_conflict(api.create(leases, &lease).await)?;
    renew_node(api, index).await
}

/// Renews a Node's status and Lease.
pub(super) async fn renew_node(api: &Api, index: usize) -> Result<()> {
    let host = NODES[index];
    let now = timestamp();
    let [v4, v6] = host.addresses();
    let status = json!({
        "addresses": [
            {"type": "InternalIP", "address": v4},
            {"type": "InternalIP", "address": v6},
            {"type": "Hostname", "address": host.name},
        ],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": logs::PORT}},
        "capacity": {"pods": "250", "cpu": "2", "memory": "4Gi"},
        "allocatable": {"pods": "250", "cpu": "2", "memory": "4Gi"},
        "conditions": [{
            "type": "Ready", "status": "True", "reason": "KubeletReady",
            "message": "the lab stands in for the kubelet", "lastHeartbeatTime": now,
        }],
    });
    let node = format!("/api/v1/nodes/{}/status", host.name);
    api.merge(&node, &json!({"status": status})).await?;
    let lease =
        format!("/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/{}", host.name);
    api.merge(&lease, &json!({"spec": {"renewTime": now}})).await?;
    Ok(())
}

/// Whether every readiness gate of a pod is set.
pub(super) fn gates_hold(pod: &Value) -> bool {
    let list = |pointer: &str| pod.pointer(pointer).and_then(Value::as_array).into_iter().flatten();
    list("/spec/readinessGates").all(|gate| {
        let mut conditions = list("/status/conditions");
        conditions.any(|known| known["type"] == gate["conditionType"] && known["status"] == "True")
    })
}

/// `status` of a pod that runs in `sandbox`; `gates`: its readiness gates are set.
pub(super) fn pod_status(pod: &Value, sandbox: &Sandbox, gates: bool) -> Value {
    let node = NODES[sandbox.node];
    let now = timestamp();
    let started = pod["status"]["startTime"].as_str().unwrap_or(&now);
    let condition = |kind: &str, holds: bool| {
        json!({
            "type": kind, "status": if holds { "True" } else { "False" },
            "lastTransitionTime": now,
        })
    };
    let mut ready = condition("Ready", sandbox.ready && gates);
    // Lists are merged: a reason that is over has to be taken away.
    ready["reason"] = match sandbox.ready && !gates {
        true => "ReadinessGatesNotReady".into(),
        false => Value::Null,
    };
    let containers = pod["spec"]["containers"].as_array().cloned().unwrap_or_default();
    let containers: Vec<Value> = containers
        .iter()
        .map(|container| {
            json!({
                "name": container["name"], "image": container["image"], "imageID": "lab",
                "ready": sandbox.ready, "started": true, "restartCount": 0,
                "state": {"running": {"startedAt": started}},
            })
        })
        .collect();
    json!({
        "phase": "Running",
        "startTime": started,
        "hostIP": node.v4(),
        "hostIPs": [{"ip": node.v4()}, {"ip": node.v6()}],
        "podIP": sandbox.addresses[0],
        "podIPs": [{"ip": sandbox.addresses[0]}, {"ip": sandbox.addresses[1]}],
        "conditions": [
            condition("PodScheduled", true),
            condition("Initialized", true),
            condition("ContainersReady", sandbox.ready),
            ready,
        ],
        "containerStatuses": containers,
    })
}

/// Now, as the API writes times with microseconds.
fn timestamp() -> String {
    Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()
}

fn accept_conflict(answer: Result<Value>) -> Result<()> {
    match answer {
        Ok(_) => Ok(()),
        Err(error) => match error.downcast_ref::<Refused>() {
            Some(refused) if refused.status.as_u16() == 409 => Ok(()),
            _ => Err(error),
        },
    }
}
