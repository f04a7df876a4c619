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
const GATEWAY_API: &str = "gateway.networking.k8s.io";
const OWN: &str = "haflinger.dev";
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
    everywhere("get", GATEWAY_API, "gatewayclasses", "conditions in the status of GatewayClasses"),
    everywhere(
        "patch",
        GATEWAY_API,
        "gatewayclasses/status",
        "conditions in the status of GatewayClasses",
    ),
    everywhere(
        "get",
        GATEWAY_API,
        "gateways",
        "addresses and conditions in the status of Gateways",
    ),
    everywhere(
        "patch",
        GATEWAY_API,
        "gateways/status",
        "addresses and conditions in the status of Gateways",
    ),
    everywhere("get", GATEWAY_API, "listenersets", "conditions in the status of ListenerSets"),
    everywhere(
        "patch",
        GATEWAY_API,
        "listenersets/status",
        "conditions in the status of ListenerSets",
    ),
    everywhere("get", GATEWAY_API, "httproutes", "conditions in the status of HTTPRoutes"),
    everywhere("patch", GATEWAY_API, "httproutes/status", "conditions in the status of HTTPRoutes"),
    everywhere("get", GATEWAY_API, "grpcroutes", "conditions in the status of GRPCRoutes"),
    everywhere("patch", GATEWAY_API, "grpcroutes/status", "conditions in the status of GRPCRoutes"),
    everywhere("get", GATEWAY_API, "tlsroutes", "conditions in the status of TLSRoutes"),
    everywhere("patch", GATEWAY_API, "tlsroutes/status", "conditions in the status of TLSRoutes"),
    everywhere("get", GATEWAY_API, "tcproutes", "conditions in the status of TCPRoutes"),
    everywhere("patch", GATEWAY_API, "tcproutes/status", "conditions in the status of TCPRoutes"),
    everywhere("get", GATEWAY_API, "udproutes", "conditions in the status of UDPRoutes"),
    everywhere("patch", GATEWAY_API, "udproutes/status", "conditions in the status of UDPRoutes"),
    everywhere(
        "get",
        GATEWAY_API,
        "backendtlspolicies",
        "conditions in the status of BackendTLSPolicies",
    ),
    everywhere(
        "patch",
        GATEWAY_API,
        "backendtlspolicies/status",
        "conditions in the status of BackendTLSPolicies",
    ),
    everywhere("get", OWN, "requestpolicies", "conditions in the status of RequestPolicies"),
    everywhere(
        "patch",
        OWN,
        "requestpolicies/status",
        "conditions in the status of RequestPolicies",
    ),
    everywhere("get", OWN, "backendpolicies", "conditions in the status of BackendPolicies"),
    everywhere(
        "patch",
        OWN,
        "backendpolicies/status",
        "conditions in the status of BackendPolicies",
    ),
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
