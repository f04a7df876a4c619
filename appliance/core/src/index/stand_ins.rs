//! Which nodes' ports can stand in for pods, and with what share.
//!
//! With `externalTrafficPolicy: Cluster` any node leads to all pods of the service: some nodes are
//! chosen, always the same. With `Local` a node leads to its own pods alone, and stands in for
//! these. Nodes that external load balancers have to leave out are left out.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::hash::Hasher as _;
use std::net::SocketAddr;
use std::sync::Arc;

use siphasher::sip::SipHasher13;

use super::Index;
use super::reach::{awaits_gate, usable};
use crate::{
    Backend, BackendState, Family, MAX_WEIGHT, NodeSpec, ObjectRef, ServicePort, ServiceSpec,
    StateReason, Target, Weight,
};

/// Nodes whose ports stand in for the pods of one port of a service: enough that the loss of one
/// is small, few enough that a cluster of thousands of nodes need not be asked for each service.
const NODES_MAX: usize = 64;

/// Why no node's port can stand in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoStandIn {
    /// The service's port has none.
    NoPort,
    /// Kubernetes calls none of the pods ready, so that no node leads to them.
    NoPod,
    /// No node is eligible.
    NoNode,
    /// Of those that are, nothing is known yet, or of some.
    NotKnown,
    /// None of those that are is reached.
    NotReached,
}

impl fmt::Display for NoStandIn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoPort => "it has no nodePort; allow allocateLoadBalancerNodePorts",
            Self::NoPod => "the pods wait for their readiness gate",
            Self::NoNode => {
                "no node is eligible; one needs an InternalIP of the family, no label \
                 node.kubernetes.io/exclude-from-external-load-balancers and, with \
                 externalTrafficPolicy Local, a ready pod"
            }
            Self::NotKnown => "it is not known yet which of them answers",
            Self::NotReached => "none answers this host; let it through to the nodes",
        })
    }
}

/// Nodes' ports, and the pods that they stand in for.
pub(super) struct StandIns {
    nodes: Vec<(Arc<str>, SocketAddr)>,
    /// Weights to take over: of each node, or of all together.
    weights: Weights,
    replaced: BTreeSet<SocketAddr>,
}

enum Weights {
    Together(u64),
    OfNodes(BTreeMap<Arc<str>, u64>),
}

impl Index {
    /// The nodes' ports that lead to the pods to be replaced.
    pub(super) fn stand_ins(
        &self,
        target: &Target,
        spec: &ServiceSpec,
        port: &ServicePort,
        backends: &[Backend],
        replaced: &BTreeSet<SocketAddr>,
    ) -> Result<StandIns, NoStandIn> {
        let node_port = port.node_port.ok_or(NoStandIn::NoPort)?;
        let replaced_pods = usable(backends).filter(|pod| replaced.contains(&pod.address));
        let mut pods = replaced_pods.filter(|pod| !awaits_gate(pod)).peekable();
        if pods.peek().is_none() {
            return Err(NoStandIn::NoPod);
        }
        let weights = Weights::of(pods, spec.local_traffic);
        let address_of = |node: &NodeSpec| {
            let mut addresses = node.addresses.iter();
            addresses.find(|address| Family::of(**address) == target.family).copied()
        };
        let leads = |name: &Arc<str>| match &weights {
            Weights::Together(_) => true,
            Weights::OfNodes(weights) => weights.contains_key(name),
        };
        let nodes = self.networks.nodes(&target.object.source);
        let eligible: Vec<(bool, Arc<str>, SocketAddr)> = nodes
            .filter(|(name, node)| !node.excluded && leads(name))
            .filter_map(|(name, node)| {
                let address = SocketAddr::new(address_of(node)?, node_port);
                Some((!node.not_ready, name.clone(), address))
            })
            .collect();
        // A control plane that has lost all its nodes says little about the nodes.
        let none_ready = eligible.iter().all(|(ready, ..)| !ready);
        let mut nodes: Vec<(Arc<str>, SocketAddr)> = eligible
            .into_iter()
            .filter(|(ready, ..)| *ready || none_ready)
            .map(|(_, name, address)| (name, address))
            .collect();
        if nodes.is_empty() {
            return Err(NoStandIn::NoNode);
        }
        if nodes.len() > NODES_MAX {
            // Other services get others, all hosts the same.
            nodes.sort_by_cached_key(|(name, _)| draw(&target.object, name));
            nodes.truncate(NODES_MAX);
        }
        Ok(StandIns { nodes, weights, replaced: replaced.clone() })
    }
}

impl StandIns {
    /// What has to be asked.
    pub(super) fn addresses(&self) -> impl Iterator<Item = SocketAddr> {
        self.nodes.iter().map(|(_, address)| *address)
    }

    /// Those that are known to be reached. Where nodes' ports are what is `wanted` it is enough
    /// that nothing is known against them, and that counts for nothing where it is known of all.
    pub(super) fn choose(
        mut self,
        reached: impl Fn(&SocketAddr) -> Option<bool>,
        wanted: bool,
    ) -> Result<Self, NoStandIn> {
        let fits = |(_, address): &(Arc<str>, SocketAddr)| match wanted {
            true => reached(address) != Some(false),
            false => reached(address) == Some(true),
        };
        if self.nodes.iter().any(fits) {
            self.nodes.retain(fits);
        } else if !wanted {
            let unknown = self.nodes.iter().any(|(_, address)| reached(address).is_none());
            return Err(if unknown { NoStandIn::NotKnown } else { NoStandIn::NotReached });
        }
        Ok(self)
    }

    /// The backends with the nodes' ports among them, sorted by address. Where these are what is
    /// `wanted`, pods are left out.
    pub(super) fn put_in(self, mut backends: Vec<Backend>, wanted: bool) -> Vec<Backend> {
        let mut members: BTreeMap<SocketAddr, Backend> = BTreeMap::new();
        for (node, address) in &self.nodes {
            // Two nodes of one address are a cluster's mistake; the first in order is named.
            members.entry(*address).or_insert_with(|| Backend {
                address: *address,
                name: node.clone(),
                node: Some(node.clone()),
                zone: None,
                weight: self.weight_of(node),
                backup: false,
                state: BackendState::Active,
                reasons: vec![StateReason::NodePort],
            });
        }
        if wanted {
            return members.into_values().collect();
        }
        let replaced = |pod: &Backend| {
            let has_stand_in = match &self.weights {
                Weights::Together(_) => true,
                Weights::OfNodes(_) => {
                    self.nodes.iter().any(|(node, _)| pod.node.as_ref() == Some(node))
                }
            };
            (has_stand_in || awaits_gate(pod)) && self.replaced.contains(&pod.address)
        };
        for pod in backends.iter_mut().filter(|pod| replaced(pod)) {
            // TCP flows of XDP live on, should the way come back in time.
            pod.state = BackendState::Down;
            pod.reasons.push(StateReason::Unreachable);
        }
        // A pod in its node's own network may have the very address and port.
        backends.retain(|pod| !members.contains_key(&pod.address));
        backends.extend(members.into_values());
        backends.sort_by_key(|backend| backend.address);
        backends
    }

    fn weight_of(&self, node: &Arc<str>) -> Weight {
        let weight = match &self.weights {
            Weights::Together(sum) => {
                let nodes = self.nodes.len() as u64;
                (sum + nodes / 2) / nodes
            }
            Weights::OfNodes(weights) => weights.get(node).copied().unwrap_or_default(),
        };
        Weight::try_from(weight).unwrap_or(MAX_WEIGHT).clamp(1, MAX_WEIGHT)
    }
}

impl Weights {
    fn of<'a>(pods: impl Iterator<Item = &'a Backend>, local: bool) -> Self {
        if !local {
            return Self::Together(pods.map(|pod| u64::from(pod.weight)).sum());
        }
        let mut weights: BTreeMap<Arc<str>, u64> = BTreeMap::new();
        for pod in pods {
            let Some(node) = &pod.node else { continue };
            *weights.entry(node.clone()).or_default() += u64::from(pod.weight);
        }
        Self::OfNodes(weights)
    }
}

/// A node's place among the nodes for an object.
fn draw(object: &ObjectRef, node: &str) -> u64 {
    let mut hasher = SipHasher13::new();
    for part in [&*object.namespace, &*object.name, node] {
        hasher.write(part.as_bytes());
        hasher.write_u8(0xff);
    }
    hasher.finish()
}
