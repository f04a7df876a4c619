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
        "HTTPS of Ingresses, where the API server is older than 1.34",
        "HTTPS of Ingresses";
    Namespaces: "" "namespaces",
        "addresses of pools that choose by labels of namespaces, where the API server is older than \
         1.34",
        "addresses of pools that choose by labels of namespaces";
    BlockAffinities: "crd.projectcalico.org" "blockaffinities",
        "routes to pods by Calico's block affinities, where the API server is older than 1.34",
        "routes to pods by Calico's block affinities";
    CiliumNodes: "cilium.io" "ciliumnodes",
        "routes to pods by CiliumNodes, where the API server is older than 1.34",
        "routes to pods by CiliumNodes";
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
