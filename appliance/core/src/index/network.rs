//! VIPs, routes to pods and host names.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::forwarding::Reach;
use super::{Index, put};
use crate::{Announcement, Family, HostnameIntent, NodeSpec, ObjectRef, PodRoute, SourceId, Vip};

/// Which node wants which route. Two nodes with the same network is a cluster's mistake that
/// must not make routes flap: the first in order keeps it.
#[derive(Default)]
pub(super) struct PodNetworks {
    nodes: BTreeMap<NodeKey, NodeSpec>,
    routes: BTreeMap<IpNet, BTreeMap<NodeKey, Arc<PodRoute>>>,
}

/// A node's cluster and name.
type NodeKey = (SourceId, Arc<str>);

impl PodNetworks {
    /// Notes a node; returns the networks that may have changed.
    pub(super) fn note(
        &mut self,
        source: SourceId,
        name: Arc<str>,
        spec: Option<Box<NodeSpec>>,
    ) -> BTreeSet<IpNet> {
        let key = (source, name);
        let mut touched = BTreeSet::new();
        if let Some(old) = self.nodes.remove(&key) {
            for network in old.pod_networks {
                if let Some(wanting) = self.routes.get_mut(&network) {
                    wanting.remove(&key);
                    if wanting.is_empty() {
                        self.routes.remove(&network);
                    }
                }
                touched.insert(network);
            }
        }
        let Some(spec) = spec else { return touched };
        for network in &spec.pod_networks {
            let family = Family::of(network.addr());
            let via = spec.addresses.iter().find(|address| Family::of(**address) == family);
            let Some(via) = via else { continue };
            let route = PodRoute { via: *via, node: key.1.clone(), source: key.0.clone() };
            self.routes.entry(*network).or_default().insert(key.clone(), Arc::new(route));
            touched.insert(*network);
        }
        self.nodes.insert(key, *spec);
        touched
    }

    pub(super) fn forget_source(&mut self, source: &SourceId) -> BTreeSet<IpNet> {
        let nodes: Vec<_> = self.nodes.keys().filter(|key| key.0 == *source).cloned().collect();
        nodes.into_iter().flat_map(|(source, name)| self.note(source, name, None)).collect()
    }

    fn route(&self, network: &IpNet) -> Option<Arc<PodRoute>> {
        self.routes.get(network)?.values().next().cloned()
    }
}

/// Which object wants which host name.
#[derive(Default)]
pub(super) struct Hostnames {
    by_name: BTreeMap<Arc<str>, BTreeMap<ObjectRef, Wish>>,
    by_object: BTreeMap<ObjectRef, BTreeSet<Arc<str>>>,
}

/// Addresses and time to live in seconds.
type Wish = (Vec<IpAddr>, Option<u32>);

impl Hostnames {
    fn note(
        &mut self,
        object: &ObjectRef,
        names: BTreeSet<Arc<str>>,
        addresses: &[IpAddr],
        ttl_secs: Option<u32>,
    ) -> BTreeSet<Arc<str>> {
        let names = if addresses.is_empty() { BTreeSet::new() } else { names };
        let mut touched = self.by_object.remove(object).unwrap_or_default();
        for name in touched.difference(&names) {
            if let Some(wanting) = self.by_name.get_mut(name) {
                wanting.remove(object);
                if wanting.is_empty() {
                    self.by_name.remove(name);
                }
            }
        }
        for name in &names {
            let wanting = self.by_name.entry(name.clone()).or_default();
            wanting.insert(object.clone(), (addresses.to_vec(), ttl_secs));
        }
        touched.extend(names.iter().cloned());
        if !names.is_empty() {
            self.by_object.insert(object.clone(), names);
        }
        touched
    }

    /// Several objects may want one name (Ingresses that share a host): it gets the addresses
    /// of all, and the first object's time to live.
    fn intent(&self, name: &Arc<str>) -> Option<HostnameIntent> {
        let wanting = self.by_name.get(name)?;
        let (object, (_, ttl_secs)) = wanting.first_key_value()?;
        let addresses: BTreeSet<IpAddr> =
            wanting.values().flat_map(|(addresses, _)| addresses.iter().copied()).collect();
        Some(HostnameIntent {
            addresses: addresses.into_iter().collect(),
            ttl_secs: *ttl_secs,
            object: object.clone(),
        })
    }
}

impl Index {
    pub(super) fn publish_routes(&mut self, touched: BTreeSet<IpNet>) {
        for network in touched {
            let route = self.networks.route(&network);
            self.dirty.changed |= put(&mut self.published.pod_routes, network, route);
        }
    }

    pub(super) fn publish_hostnames(
        &mut self,
        object: &ObjectRef,
        names: BTreeSet<Arc<str>>,
        addresses: &[IpAddr],
        ttl_secs: Option<u32>,
    ) {
        for name in self.hostnames.note(object, names, addresses, ttl_secs) {
            let intent = self.hostnames.intent(&name).map(Arc::new);
            self.dirty.changed |= put(&mut self.published.hostnames, name, intent);
        }
    }

    /// A VIP exists while a service or a site is on it, and is announced while one of them has
    /// a backend that takes new flows, and its port is open.
    pub(super) fn publish_vip(&mut self, address: IpAddr) {
        let reach = self.service_reach_on(address).max(self.site_reach_on(address));
        let vip = reach.map(|reach| {
            let unbound = self.policy.bind_vips && !self.bound.contains(&address);
            let announcement = match reach {
                _ if self.policy.draining => Announcement::Draining,
                Reach::Nowhere => Announcement::NoBackend,
                // A socket on an address that the host does not have yet cannot be open.
                _ if unbound => Announcement::NotBound,
                Reach::ClosedPort => Announcement::NotServed,
                Reach::Backend => Announcement::Announced,
            };
            let pool = self.claims.pool_of(address).map(|pool| pool.name.clone());
            Arc::new(Vip { address, pool, announcement })
        });
        self.dirty.changed |= put(&mut self.published.vips, address, vip);
    }
}
