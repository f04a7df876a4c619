//! Routes to pods: who says which networks are a node's, and which word counts.
//!
//! ```text
//!  Node ── podCIDRs, annotations ──┐
//!  BlockAffinity, CiliumNode … ────┴─> node and family: the first origin in the cluster's order
//!                                      that says anything ─> network: the first that claims it
//! ```
//!
//! One origin counts for a node and family, the others are not mixed in: where a pod network has
//! its own book, `podCIDRs` are leftovers. A network that two nodes claim is given to one of them,
//! always the same, so that a cluster's mistake does not make routes flap. Networks of one cluster
//! may nest: the kernel follows the longer prefix, and so does the cluster. Across clusters they
//! may not: what would lead one cluster's packets into another is withheld, with the reason.
//!
//! A pure function of the facts: the order in which they came does not matter.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::{Index, put};
use crate::{
    Family, NodeSpec, PodNetworkSpec, PodRoute, Policy, RouteOrigin, RouteRival, SourceId,
};

/// A node's cluster and name.
pub(super) type NodeKey = (SourceId, Arc<str>);

/// An object of a pod network: its cluster, whose it is, and its name.
type ObjectKey = (SourceId, RouteOrigin, Arc<str>);

/// What stands behind a claim on a network, in the order in which claims are honoured: the
/// cluster, the place of the origin in its order, the node.
type Claimant = (SourceId, usize, Arc<str>);

/// What a claim says: whose word it is, and the next hop.
type Claim = (RouteOrigin, IpAddr);

/// The networks of one node, with the place of the origin in the cluster's order.
type Claims = BTreeMap<IpNet, (usize, Claim)>;

/// Everything said about nodes and their networks, and what it comes to.
#[derive(Default)]
pub(super) struct PodNetworks {
    nodes: BTreeMap<NodeKey, NodeSpec>,
    objects: BTreeMap<ObjectKey, PodNetworkSpec>,
    /// The objects that speak of a node, which need not be known itself.
    of_node: BTreeMap<NodeKey, BTreeSet<(RouteOrigin, Arc<str>)>>,
    claims: BTreeMap<NodeKey, Claims>,
    wanted: BTreeMap<IpNet, BTreeMap<Claimant, Claim>>,
    /// Networks claimed, by cluster: with one cluster nothing can overlap.
    clusters: BTreeMap<SourceId, usize>,
}

impl PodNetworks {
    /// Notes a Node; returns the networks whose route may have changed.
    pub(super) fn note_node(
        &mut self,
        key: NodeKey,
        spec: Option<NodeSpec>,
        policy: &Policy,
    ) -> BTreeSet<IpNet> {
        match spec {
            Some(spec) => self.nodes.insert(key.clone(), spec),
            None => self.nodes.remove(&key),
        };
        self.derive(&key, policy)
    }

    /// The nodes of a cluster, by name.
    pub(super) fn nodes<'a>(
        &'a self,
        source: &'a SourceId,
    ) -> impl Iterator<Item = (&'a Arc<str>, &'a NodeSpec)> {
        let first = (source.clone(), Arc::from(""));
        let from = self.nodes.range(first..);
        from.take_while(move |(key, _)| key.0 == *source).map(|(key, spec)| (&key.1, spec))
    }

    /// Whether a node, as it is and as it will be, takes packets for its ports alike.
    pub(super) fn leads_alike(&self, key: &NodeKey, next: Option<&NodeSpec>) -> bool {
        let led = |node: &NodeSpec| (node.addresses.clone(), node.not_ready, node.excluded);
        self.nodes.get(key).map(led) == next.map(led)
    }

    /// Notes an object of a pod network; returns the networks whose route may have changed.
    pub(super) fn note_object(
        &mut self,
        source: SourceId,
        origin: RouteOrigin,
        name: Arc<str>,
        spec: Option<PodNetworkSpec>,
        policy: &Policy,
    ) -> BTreeSet<IpNet> {
        let key = (source.clone(), origin, name.clone());
        let mut nodes = BTreeSet::new();
        if let Some(old) = self.objects.remove(&key) {
            let node = (source.clone(), old.node);
            if let Some(objects) = self.of_node.get_mut(&node) {
                objects.remove(&(origin, name.clone()));
                if objects.is_empty() {
                    self.of_node.remove(&node);
                }
            }
            nodes.insert(node);
        }
        if let Some(spec) = spec {
            let node = (source, spec.node.clone());
            self.of_node.entry(node.clone()).or_default().insert((origin, name));
            self.objects.insert(key, spec);
            nodes.insert(node);
        }
        nodes.iter().flat_map(|node| self.derive(node, policy)).collect()
    }

    /// Forgets a cluster.
    pub(super) fn forget_source(&mut self, source: &SourceId, policy: &Policy) -> BTreeSet<IpNet> {
        self.nodes.retain(|key, _| key.0 != *source);
        self.objects.retain(|key, _| key.0 != *source);
        self.of_node.retain(|key, _| key.0 != *source);
        let nodes: Vec<NodeKey> = self.of_source(source);
        nodes.iter().flat_map(|node| self.derive(node, policy)).collect()
    }

    /// Takes over an order of belief that has changed.
    pub(super) fn reorder(&mut self, before: &Policy, now: &Policy) -> BTreeSet<IpNet> {
        let known: BTreeSet<SourceId> =
            self.nodes.keys().chain(self.of_node.keys()).map(|key| key.0.clone()).collect();
        let changed =
            known.into_iter().filter(|source| order(before, source) != order(now, source));
        let mut touched = BTreeSet::new();
        for source in changed {
            let nodes = self.nodes.keys().chain(self.of_node.keys());
            let nodes: BTreeSet<NodeKey> = nodes.filter(|key| key.0 == source).cloned().collect();
            touched.extend(nodes.iter().flat_map(|node| self.derive(node, now)));
        }
        touched
    }

    /// Nodes of a cluster that have claimed a network.
    fn of_source(&self, source: &SourceId) -> Vec<NodeKey> {
        self.claims.keys().filter(|key| key.0 == *source).cloned().collect()
    }

    /// Brings the claims of one node up to date.
    fn derive(&mut self, key: &NodeKey, policy: &Policy) -> BTreeSet<IpNet> {
        let next = self.claims_of(key, order(policy, &key.0));
        let former = self.claims.remove(key).unwrap_or_default();
        let changed = |network: &&IpNet| former.get(network) != next.get(network);
        let touched: BTreeSet<IpNet> =
            former.keys().chain(next.keys()).filter(changed).copied().collect();
        let shared_before = self.clusters.len() > 1;
        for network in &touched {
            if let Some((place, _)) = former.get(network) {
                self.unclaim(network, &claimant(key, *place));
            }
            if let Some((place, claim)) = next.get(network) {
                let wanting = self.wanted.entry(*network).or_default();
                wanting.insert(claimant(key, *place), *claim);
                *self.clusters.entry(key.0.clone()).or_default() += 1;
            }
        }
        if !next.is_empty() {
            self.claims.insert(key.clone(), next);
        }
        let mut touched = touched;
        if shared_before || self.clusters.len() > 1 {
            let overlapping: Vec<IpNet> =
                touched.iter().flat_map(|network| self.overlapping(network)).collect();
            touched.extend(overlapping);
        }
        touched
    }

    fn unclaim(&mut self, network: &IpNet, claimant: &Claimant) {
        let Some(wanting) = self.wanted.get_mut(network) else { return };
        if wanting.remove(claimant).is_none() {
            return;
        }
        if wanting.is_empty() {
            self.wanted.remove(network);
        }
        if let Some(count) = self.clusters.get_mut(&claimant.0) {
            *count -= 1;
            if *count == 0 {
                self.clusters.remove(&claimant.0);
            }
        }
    }

    /// What is said of one node, in each family by the first origin that says anything.
    fn claims_of(&self, key: &NodeKey, order: &[RouteOrigin]) -> Claims {
        let node = self.nodes.get(key);
        let objects: Vec<(RouteOrigin, &PodNetworkSpec)> = self
            .of_node
            .get(key)
            .into_iter()
            .flatten()
            .filter_map(|(origin, name)| {
                Some((*origin, self.objects.get(&(key.0.clone(), *origin, name.clone()))?))
            })
            .collect();
        let mut claims = Claims::new();
        for family in [Family::V4, Family::V6] {
            let own = node.into_iter().flat_map(|node| &node.addresses);
            let other = objects.iter().flat_map(|(_, object)| &object.addresses);
            let mut addresses = own.chain(other).copied();
            let Some(via) = addresses.find(|address| Family::of(*address) == family) else {
                continue;
            };
            for (place, origin) in order.iter().enumerate() {
                let networks = networks(*origin, family, node, &objects);
                if !networks.is_empty() {
                    let said = networks.into_iter().map(|net| (net, (place, (*origin, via))));
                    claims.extend(said);
                    break;
                }
            }
        }
        claims
    }

    /// Networks that share addresses with this one: those around it, and those within.
    fn overlapping(&self, network: &IpNet) -> BTreeSet<IpNet> {
        let around = (0..network.prefix_len()).filter_map(|length| {
            let around = IpNet::new(network.network(), length).ok()?.trunc();
            self.wanted.contains_key(&around).then_some(around)
        });
        let within = self.wanted.range(*network..).map(|(within, _)| *within);
        let within = within.take_while(|within| network.contains(&within.network()));
        around.chain(within).filter(|other| other != network).collect()
    }

    /// The route to a network, if anybody claims it.
    fn route(&self, network: &IpNet) -> Option<PodRoute> {
        let mut claims = self.wanted.get(network)?.iter();
        let ((source, _, node), (origin, via)) = claims.next()?;
        let second = claims.next().map(|(claimant, _)| rival(*network, claimant));
        let overlaps = (self.clusters.len() > 1)
            .then(|| self.overlapping(network))
            .into_iter()
            .flatten()
            .filter_map(|other| Some((other, self.wanted.get(&other)?.keys().next()?)))
            .find(|(_, claimant)| claimant.0 < *source)
            .map(|(other, claimant)| rival(other, claimant));
        Some(PodRoute {
            via: *via,
            node: node.clone(),
            source: source.clone(),
            origin: *origin,
            overlaps,
            rival: second,
        })
    }
}

/// Whose word counts in a cluster, in this order.
fn order<'a>(policy: &'a Policy, source: &SourceId) -> &'a [RouteOrigin] {
    policy.pod_routes.get(source).map_or(&RouteOrigin::ALL, Vec::as_slice)
}

fn claimant((source, node): &NodeKey, place: usize) -> Claimant {
    (source.clone(), place, node.clone())
}

fn rival(network: IpNet, (source, _, node): &Claimant) -> RouteRival {
    RouteRival { network, node: node.clone(), source: source.clone() }
}

/// The networks of one origin in one family. Cilium writes annotations where CiliumNodes have no
/// networks.
fn networks(
    origin: RouteOrigin,
    family: Family,
    node: Option<&NodeSpec>,
    objects: &[(RouteOrigin, &PodNetworkSpec)],
) -> BTreeSet<IpNet> {
    let fits = |network: &IpNet| Family::of(network.addr()) == family;
    let own = objects.iter().filter(|(of, _)| *of == origin);
    let told: BTreeSet<IpNet> =
        own.flat_map(|(_, object)| &object.networks).copied().filter(fits).collect();
    let Some(node) = node.filter(|_| told.is_empty()) else { return told };
    if origin == RouteOrigin::Node {
        return node.pod_networks.iter().copied().filter(fits).collect();
    }
    let annotated = node.annotated.iter().filter(|(of, _)| *of == origin);
    annotated.map(|(_, network)| *network).filter(fits).collect()
}

impl Index {
    pub(super) fn publish_routes(&mut self, touched: BTreeSet<IpNet>) {
        for network in touched {
            let route = self.networks.route(&network).map(Arc::new);
            self.dirty.changed |= put(&mut self.published.pod_routes, network, route);
        }
    }
}

#[cfg(test)]
mod tests;
