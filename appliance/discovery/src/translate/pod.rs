//! Pod → [`GatedPod`].

use std::net::IpAddr;

use haflinger_core::GatedPod;
use haflinger_kubernetes::EDGE_READY;

use crate::objects::lax::Lax;
use crate::objects::{Object, PodBody, PodCondition, PodStatusBody};

/// Addresses of one pod: the API allows one in each family.
const ADDRESSES_MAX: usize = 2;

/// Why a kubelet calls a pod unready whose containers are ready. Of a pod on a node that is lost
/// nobody but the node's controller speaks: it takes `Ready` away, gives no reason, and leaves
/// `ContainersReady` as it was.
const WAITS_FOR_GATES: &str = "ReadinessGatesNotReady";

/// A pod that has our readiness gate and lacks nothing else; `None` while it does.
pub(crate) fn pod(object: &Object<PodBody>) -> Option<GatedPod> {
    let spec = object.body.spec.get()?;
    let status = object.body.status.get()?;
    let gates = spec.readiness_gates.elements().iter().filter_map(Lax::get);
    let gates: Vec<&str> = gates.filter_map(|gate| gate.condition_type.text()).collect();
    let mut others = gates.iter().filter(|gate| **gate != EDGE_READY);
    let ready = condition(status, "Ready");
    let by_kubelet = ready.is_some_and(|ready| {
        ready.status.text() == Some("True") || ready.reason.text() == Some(WAITS_FOR_GATES)
    });
    let lacks_nothing_else =
        by_kubelet && holds(status, "ContainersReady") && others.all(|gate| holds(status, gate));
    if !gates.contains(&EDGE_READY) || !lacks_nothing_else || object.deleting {
        return None;
    }
    let addresses = addresses(status);
    let uid = object.uid().filter(|_| !addresses.is_empty())?;
    let set = holds(status, EDGE_READY);
    let labels = object.labels().filter(|_| !set);
    Some(GatedPod {
        uid: uid.into(),
        addresses,
        set,
        labels: labels.map(|(name, value)| (name.into(), value.into())).collect(),
    })
}

fn condition<'a>(status: &'a PodStatusBody, name: &str) -> Option<&'a PodCondition> {
    let mut conditions = status.conditions.elements().iter().filter_map(Lax::get);
    conditions.find(|known| known.condition_type.text() == Some(name))
}

fn holds(status: &PodStatusBody, name: &str) -> bool {
    condition(status, name).is_some_and(|known| known.status.text() == Some("True"))
}

fn addresses(status: &PodStatusBody) -> Box<[IpAddr]> {
    let listed = status.pod_ips.elements().iter().filter_map(|entry| entry.get()?.ip.text());
    let listed: Vec<&str> = listed.take(ADDRESSES_MAX).collect();
    let texts = if listed.is_empty() { status.pod_ip.text().into_iter().collect() } else { listed };
    texts.into_iter().filter_map(|text| text.parse().ok()).collect()
}
