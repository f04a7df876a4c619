//! The cluster that is replayed: services, slices and changes, as the API server writes them.
//!
//! Every service has five ready endpoints. One in five spreads them over two slices, so that there
//! are six slices for five services. Objects carry what they carry in a cluster, what nobody reads
//! (`managedFields`, owners, UIDs) included. A change replaces one pod of one slice by a new one
//! whose address is found in no other change: by it the change is recognised at the other end.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::ops::Range;

use crate::random::Random;

/// Pods of a service.
const ENDPOINTS: usize = 5;

/// Of so many services the last has two slices.
const DIVIDED: usize = 5;

/// Services of one namespace.
const PER_NAMESPACE: usize = 100;

/// Nodes, each with a share of the pods.
const NODES: usize = 500;

/// First virtual address; the service's number is added.
const FIRST_VIP: u32 = u32::from_be_bytes([198, 18, 0, 0]);

/// First address of the pods that stand at the beginning.
const FIRST_POD: u32 = u32::from_be_bytes([10, 128, 0, 0]);

/// First address of the pods that changes bring: the change's number is added.
const FIRST_NEW_POD: u32 = u32::from_be_bytes([10, 192, 0, 0]);

/// Where every pod and every pod to come is.
pub(super) const POD_NETWORK: &str = "10.128.0.0/9";

/// The change that brought a backend, if one did.
pub(super) fn change_of(address: Ipv4Addr) -> Option<usize> {
    let offset = u32::from(address).checked_sub(FIRST_NEW_POD)?;
    usize::try_from(offset).ok()
}

/// The kinds of which there are objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Services,
    Slices,
    Nodes,
}

/// The version under which everything was listed.
pub(super) const LISTED_VERSION: u64 = 1_000_000;

/// The objects of one kind as JSON, one after the other.
#[derive(Debug, Default)]
pub(super) struct Objects {
    text: String,
    ends: Vec<usize>,
}

impl Objects {
    fn push(&mut self, write: impl FnOnce(&mut String)) {
        write(&mut self.text);
        self.ends.push(self.text.len());
    }

    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    /// Some of them, in order.
    pub(super) fn range(&self, range: Range<usize>) -> impl Iterator<Item = &str> {
        range.filter_map(|at| {
            let start = if at == 0 { 0 } else { *self.ends.get(at - 1)? };
            self.text.get(start..*self.ends.get(at)?)
        })
    }
}

/// A cluster with so many services.
pub(super) struct World {
    services: usize,
    pub(super) lists: [Objects; 3],
    changes: usize,
    /// Pods that changes brought, by service.
    replaced: HashMap<usize, [Option<u32>; ENDPOINTS]>,
    random: Random,
}

impl World {
    pub(super) fn new(services: usize) -> Self {
        let [mut of_services, mut of_slices, mut of_nodes] = <[Objects; 3]>::default();
        for service in 0..services {
            of_services.push(|out| write_service(out, service));
            for (part, pods) in parts(service) {
                let pods = pods.map(|pod| first_pod(service, pod));
                of_slices.push(|out| write_slice(out, service, part, pods, LISTED_VERSION - 1));
            }
        }
        for node in 0..NODES.min(services) {
            of_nodes.push(|out| write_node(out, node));
        }
        Self {
            services,
            lists: [of_services, of_slices, of_nodes],
            changes: 0,
            replaced: HashMap::new(),
            random: Random(7),
        }
    }

    pub(super) fn list(&self, kind: Kind) -> &Objects {
        &self.lists[match kind {
            Kind::Services => 0,
            Kind::Slices => 1,
            Kind::Nodes => 2,
        }]
    }

    /// The next change: its number, and the slice as it is from now on.
    pub(super) fn change(&mut self) -> (usize, String) {
        let number = self.changes;
        self.changes += 1;
        let service = self.random.below(self.services);
        let pod = self.random.below(ENDPOINTS);
        let replaced = self.replaced.entry(service).or_default();
        replaced[pod] = u32::try_from(number).ok().map(|number| FIRST_NEW_POD + number);
        let replaced = *replaced;
        let mut text = String::with_capacity(4096);
        for (part, pods) in parts(service) {
            if pods.contains(&pod) {
                let pods = pods.map(|pod| replaced[pod].unwrap_or(first_pod(service, pod)));
                write_slice(&mut text, service, part, pods, LISTED_VERSION + number as u64 + 1);
            }
        }
        (number, text)
    }
}

/// The slices of a service: their numbers, and which of its pods each has.
fn parts(service: usize) -> Vec<(usize, Range<usize>)> {
    if service % DIVIDED == DIVIDED - 1 {
        vec![(0, 0..3), (1, 3..ENDPOINTS)]
    } else {
        vec![(0, 0..ENDPOINTS)]
    }
}

fn number(value: usize) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

fn first_pod(service: usize, pod: usize) -> u32 {
    FIRST_POD + number(service * ENDPOINTS + pod)
}

fn uid(a: usize, b: usize) -> String {
    format!("{a:08x}-{:04x}-4{:03x}-8{:03x}-{a:06x}{b:06x}", b & 0xffff, a & 0xfff, b & 0xfff)
}

fn write_service(out: &mut String, service: usize) {
    let (namespace, id) = (service / PER_NAMESPACE, uid(service, 1));
    let vip = Ipv4Addr::from(FIRST_VIP + number(service));
    // Writing into a string cannot fail.
    let _ = write!(
        out,
        r#"{{"metadata":{{"name":"service-{service}","namespace":"team-{namespace}","uid":"{id}","resourceVersion":"{LISTED_VERSION}","creationTimestamp":"2026-01-02T03:04:05Z","labels":{{"app.kubernetes.io/name":"service-{service}","app.kubernetes.io/managed-by":"Helm","helm.sh/chart":"service-1.2.3"}},"annotations":{{"meta.helm.sh/release-name":"service-{service}","meta.helm.sh/release-namespace":"team-{namespace}"}},"managedFields":[{{"manager":"helm","operation":"Update","apiVersion":"v1","time":"2026-01-02T03:04:05Z","fieldsType":"FieldsV1","fieldsV1":{{"f:metadata":{{"f:annotations":{{".":{{}},"f:meta.helm.sh/release-name":{{}},"f:meta.helm.sh/release-namespace":{{}}}},"f:labels":{{".":{{}},"f:app.kubernetes.io/managed-by":{{}},"f:app.kubernetes.io/name":{{}},"f:helm.sh/chart":{{}}}}}},"f:spec":{{"f:allocateLoadBalancerNodePorts":{{}},"f:externalTrafficPolicy":{{}},"f:internalTrafficPolicy":{{}},"f:loadBalancerClass":{{}},"f:ports":{{".":{{}},"k:{{\"port\":80,\"protocol\":\"TCP\"}}":{{".":{{}},"f:name":{{}},"f:port":{{}},"f:protocol":{{}},"f:targetPort":{{}}}}}},"f:selector":{{}},"f:sessionAffinity":{{}},"f:type":{{}}}}}}}}]}},"spec":{{"ports":[{{"name":"http","protocol":"TCP","port":80,"targetPort":"http"}}],"selector":{{"app.kubernetes.io/name":"service-{service}"}},"clusterIP":"172.20.0.1","clusterIPs":["172.20.0.1"],"type":"LoadBalancer","sessionAffinity":"None","externalTrafficPolicy":"Cluster","ipFamilies":["IPv4"],"ipFamilyPolicy":"SingleStack","allocateLoadBalancerNodePorts":false,"loadBalancerClass":"haflinger.dev/edge","internalTrafficPolicy":"Cluster"}},"status":{{"loadBalancer":{{"ingress":[{{"ip":"{vip}","ipMode":"Proxy"}}]}}}}}}"#
    );
}

fn write_slice(
    out: &mut String,
    service: usize,
    part: usize,
    pods: impl Iterator<Item = u32>,
    version: u64,
) {
    let (namespace, id, owner) = (service / PER_NAMESPACE, uid(service, 2 + part), uid(service, 1));
    let _ = write!(
        out,
        r#"{{"metadata":{{"name":"service-{service}-{part}x7kq","generateName":"service-{service}-","namespace":"team-{namespace}","uid":"{id}","resourceVersion":"{version}","generation":{version},"creationTimestamp":"2026-01-02T03:04:05Z","labels":{{"app.kubernetes.io/name":"service-{service}","app.kubernetes.io/managed-by":"Helm","endpointslice.kubernetes.io/managed-by":"endpointslice-controller.k8s.io","helm.sh/chart":"service-1.2.3","kubernetes.io/service-name":"service-{service}"}},"annotations":{{"endpoints.kubernetes.io/last-change-trigger-time":"2026-01-02T03:04:05Z"}},"ownerReferences":[{{"apiVersion":"v1","kind":"Service","name":"service-{service}","uid":"{owner}","controller":true,"blockOwnerDeletion":true}}],"managedFields":[{{"manager":"kube-controller-manager","operation":"Update","apiVersion":"discovery.k8s.io/v1","time":"2026-01-02T03:04:05Z","fieldsType":"FieldsV1","fieldsV1":{{"f:addressType":{{}},"f:endpoints":{{}},"f:metadata":{{"f:annotations":{{".":{{}},"f:endpoints.kubernetes.io/last-change-trigger-time":{{}}}},"f:generateName":{{}},"f:labels":{{".":{{}},"f:app.kubernetes.io/managed-by":{{}},"f:app.kubernetes.io/name":{{}},"f:endpointslice.kubernetes.io/managed-by":{{}},"f:helm.sh/chart":{{}},"f:kubernetes.io/service-name":{{}}}},"f:ownerReferences":{{".":{{}},"k:{{\"uid\":\"{owner}\"}}":{{}}}}}},"f:ports":{{}}}}}}]}},"addressType":"IPv4","endpoints":["#
    );
    for (at, pod) in pods.enumerate() {
        let comma = if at == 0 { "" } else { "," };
        let (address, node) = (Ipv4Addr::from(pod), pod as usize % NODES);
        let (zone, id) = (node % 3, uid(pod as usize, 9));
        let _ = write!(
            out,
            r#"{comma}{{"addresses":["{address}"],"conditions":{{"ready":true,"serving":true,"terminating":false}},"targetRef":{{"kind":"Pod","namespace":"team-{namespace}","name":"service-{service}-5d9c7b8f6-{pod:x}","uid":"{id}"}},"nodeName":"node-{node}","zone":"zone-{zone}"}}"#
        );
    }
    out.push_str(r#"],"ports":[{"name":"http","protocol":"TCP","port":8080}]}"#);
}

fn write_node(out: &mut String, node: usize) {
    let (high, low) = (node / 256, node % 256);
    let _ = write!(
        out,
        r#"{{"metadata":{{"name":"node-{node}","uid":"{}","resourceVersion":"{LISTED_VERSION}","creationTimestamp":"2026-01-02T03:04:05Z","labels":{{"kubernetes.io/hostname":"node-{node}","topology.kubernetes.io/zone":"zone-{}"}}}},"spec":{{"podCIDR":"10.{}.{low}.0/24","podCIDRs":["10.{}.{low}.0/24"]}},"status":{{"addresses":[{{"type":"InternalIP","address":"10.66.{high}.{low}"}},{{"type":"Hostname","address":"node-{node}"}}]}}}}"#,
        uid(node, 3),
        node % 3,
        128 + high,
        128 + high,
    );
}
