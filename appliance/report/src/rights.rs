//! What report may do, right by right: packaging/kubernetes/rbac.yaml holds the same, which a test
//! compares, and takes away one by one.

use haflinger_kubernetes::{Place, Right};

use crate::settings::ClusterSettings;

const fn everywhere(
    verb: &'static str,
    group: &'static str,
    resource: &'static str,
    without: &'static str,
) -> Right {
    Right { verb, group, resource, place: Place::Everywhere, without }
}

const fn of_lease(verb: &'static str, place: Place, without: &'static str) -> Right {
    Right { verb, group: "coordination.k8s.io", resource: "leases", place, without }
}

const NETWORKING: &str = "networking.k8s.io";
const EVENTS: &str = "events.k8s.io";

/// Every right of report that packaging/kubernetes/rbac.yaml gives.
pub const RIGHTS: &[Right] = &[
    everywhere("get", "", "services", "addresses and faults in the status and events of Services"),
    everywhere("patch", "", "services/status", "new addresses of Services"),
    everywhere(
        "get",
        NETWORKING,
        "ingresses",
        "addresses and faults in the status and events of Ingresses",
    ),
    everywhere("patch", NETWORKING, "ingresses/status", "new addresses of Ingresses"),
    everywhere("create", EVENTS, "events", "events that say why an object is not served"),
    everywhere("get", EVENTS, "events", "the count of events that are told again"),
    everywhere("patch", EVENTS, "events", "the count of events that are told again"),
    of_lease("create", Place::Namespace, "an election where the Lease does not exist yet"),
    of_lease("get", Place::Object, "the election: nobody writes statuses and events"),
    of_lease("update", Place::Object, "the election: nobody writes statuses and events"),
];

/// What packaging/kubernetes/readiness.yaml gives, where the readiness gate is on.
const OF_GATES: [Right; 4] = [
    everywhere("patch", "", "pods/status", "readiness gates of pods: none is set"),
    of_lease("create", Place::Namespace, "readiness gates of pods: nobody hears of this host"),
    of_lease("list", Place::Namespace, "readiness gates of pods: this host hears of nobody"),
    of_lease("patch", Place::Namespace, "readiness gates of pods: nobody hears of this host"),
];

/// Those that the settings need.
pub(crate) fn rights_for(settings: &ClusterSettings) -> Vec<Right> {
    let of_gates = OF_GATES.iter().filter(|_| settings.readiness_gate);
    RIGHTS.iter().chain(of_gates).copied().collect()
}
