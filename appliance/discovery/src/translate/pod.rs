//! Pod → [`GatedPod`].

use std::net::IpAddr;

use haflinger_core::GatedPod;
use haflinger_kubernetes::EDGE_READY;

use crate::objects::lax::Lax;
use crate::objects::{Object, PodBody, PodStatusBody};

/// Addresses of one pod: the API allows one in each family.
const ADDRESSES_MAX: usize = 2;

/// A pod that has our readiness gate and lacks nothing else; `None` while it does.
pub(crate) fn pod(object: &Object<PodBody>) -> Option<GatedPod> {
    let spec = object.body.spec.get()?;
    let status = object.body.status.get()?;
    let gates = spec.readiness_gates.elements().iter().filter_map(Lax::get);
    let gates: Vec<&str> = gates.filter_map(|gate| gate.condition_type.text()).collect();
    let mut others = gates.iter().filter(|gate| **gate != EDGE_READY);
    let lacks_nothing_else =
        holds(status, "ContainersReady") && others.all(|gate| holds(status, gate));
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

fn holds(status: &PodStatusBody, condition: &str) -> bool {
    let mut conditions = status.conditions.elements().iter().filter_map(Lax::get);
    let found = conditions.find(|known| known.condition_type.text() == Some(condition));
    found.is_some_and(|known| known.status.text() == Some("True"))
}

fn addresses(status: &PodStatusBody) -> Box<[IpAddr]> {
    let listed = status.pod_ips.elements().iter().filter_map(|entry| entry.get()?.ip.text());
    let listed: Vec<&str> = listed.take(ADDRESSES_MAX).collect();
    let texts = if listed.is_empty() { status.pod_ip.text().into_iter().collect() } else { listed };
    texts.into_iter().filter_map(|text| text.parse().ok()).collect()
}
