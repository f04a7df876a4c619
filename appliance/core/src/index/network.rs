//! VIPs and host names.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::forwarding::Reach;
use super::{Index, put};
use crate::{Announcement, HostnameIntent, ObjectRef, Vip};

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
