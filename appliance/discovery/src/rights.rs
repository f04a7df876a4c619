//! What discovery may read, right by right: packaging/kubernetes/rbac.yaml holds the same, which a
//! test compares, and takes away one by one.

use haflinger_kubernetes::{Place, Right};

use crate::ledger::Watched;

/// Servers from 1.34 on stream their lists as the head of a watch, for which `watch` is enough.
macro_rules! lists_and_watches {
    ($($watched:ident: $group:literal $resource:literal, $list:literal, $watch:literal;)*) => {
        /// Every right of discovery that packaging/kubernetes/rbac.yaml gives.
        pub const RIGHTS: &[Right] = &[$(
            Right {
                verb: "list",
                group: $group,
                resource: $resource,
                place: Place::Everywhere,
                without: $list,
            },
            Right {
                verb: "watch",
                group: $group,
                resource: $resource,
                place: Place::Everywhere,
                without: $watch,
            },
        )*];

        /// The kinds that they are for, each twice.
        const KINDS: &[Watched] = &[$(Watched::$watched, Watched::$watched),*];
    };
}

lists_and_watches! {
    Services: "" "services",
        "Services of the cluster, where its API server is older than 1.34",
        "Services of the cluster, and new addresses in every cluster until they are known";
    Slices: "discovery.k8s.io" "endpointslices",
        "backends of Services, where the API server is older than 1.34",
        "backends of Services";
    Nodes: "" "nodes",
        "routes to pods, and nodes' ports in their place, where the API server is older than 1.34",
        "routes to pods, and nodes' ports in their place";
    Ingresses: "networking.k8s.io" "ingresses",
        "Ingresses, where the API server is older than 1.34",
        "Ingresses";
    Certificates: "" "secrets",
        "HTTPS of Ingresses and Gateways, where the API server is older than 1.34",
        "HTTPS of Ingresses and Gateways";
    Namespaces: "" "namespaces",
        "addresses of pools, and listeners of Gateways, that choose by labels of namespaces, where \
         the API server is older than 1.34",
        "addresses of pools, and listeners of Gateways, that choose by labels of namespaces";
    BlockAffinities: "crd.projectcalico.org" "blockaffinities",
        "routes to pods by Calico's block affinities, where the API server is older than 1.34",
        "routes to pods by Calico's block affinities";
    CiliumNodes: "cilium.io" "ciliumnodes",
        "routes to pods by CiliumNodes, where the API server is older than 1.34",
        "routes to pods by CiliumNodes";
    GatewayClasses: "gateway.networking.k8s.io" "gatewayclasses",
        "Gateways, where the API server is older than 1.34",
        "Gateways";
    Gateways: "gateway.networking.k8s.io" "gateways",
        "Gateways, where the API server is older than 1.34",
        "Gateways";
    ListenerSets: "gateway.networking.k8s.io" "listenersets",
        "listeners of ListenerSets, where the API server is older than 1.34",
        "listeners of ListenerSets";
    HttpRoutes: "gateway.networking.k8s.io" "httproutes",
        "HTTPRoutes, where the API server is older than 1.34",
        "HTTPRoutes";
    GrpcRoutes: "gateway.networking.k8s.io" "grpcroutes",
        "GRPCRoutes, where the API server is older than 1.34",
        "GRPCRoutes";
    TlsRoutes: "gateway.networking.k8s.io" "tlsroutes",
        "TLSRoutes, where the API server is older than 1.34",
        "TLSRoutes";
    TcpRoutes: "gateway.networking.k8s.io" "tcproutes",
        "TCPRoutes, where the API server is older than 1.34",
        "TCPRoutes";
    UdpRoutes: "gateway.networking.k8s.io" "udproutes",
        "UDPRoutes, where the API server is older than 1.34",
        "UDPRoutes";
    ReferenceGrants: "gateway.networking.k8s.io" "referencegrants",
        "references of routes and Gateways across namespaces, where the API server is older than 1.34",
        "references of routes and Gateways across namespaces";
    BackendTlsPolicies: "gateway.networking.k8s.io" "backendtlspolicies",
        "TLS to backends, where the API server is older than 1.34",
        "TLS to backends";
    RequestPolicies: "haflinger.dev" "requestpolicies",
        "RequestPolicies: nothing that they ask is done, where the API server is older than 1.34",
        "RequestPolicies: nothing that they ask is done";
    BackendPolicies: "haflinger.dev" "backendpolicies",
        "BackendPolicies: nothing that they ask is done, where the API server is older than 1.34",
        "BackendPolicies: nothing that they ask is done";
    AuthorityMaps: "" "configmaps",
        "certificates of clients, and TLS to backends, where the API server is older than 1.34",
        "certificates of clients, and TLS to backends";
}

const fn of_pods(verb: &'static str, without: &'static str) -> Right {
    Right { verb, group: "", resource: "pods", place: Place::Everywhere, without }
}

/// What packaging/kubernetes/readiness.yaml gives, where the readiness gate is on.
const OF_PODS: [Right; 2] = [
    of_pods("list", "readiness gates of pods, where the API server is older than 1.34"),
    of_pods("watch", "readiness gates of pods"),
];

/// Those for kinds that are wanted.
pub(crate) fn rights_for(is_wanted: impl Fn(Watched) -> bool) -> Vec<Right> {
    let wanted = RIGHTS.iter().zip(KINDS).filter(|(_, kind)| is_wanted(**kind));
    let of_pods = OF_PODS.iter().filter(|_| is_wanted(Watched::Pods));
    wanted.map(|(right, _)| right).chain(of_pods).copied().collect()
}
