//! The addresses of Gateways, and who serves which port of one.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::listeners::Opening;
use crate::index::claims::{Want, WantedPort};
use crate::index::{Index, put};
use crate::{Family, GatewaySpec, HttpListener, ObjectRef, ServiceKey};

/// What Gateways serve on one address.
#[derive(Default)]
pub(in crate::index) struct Placed {
    pub(in crate::index) listeners: BTreeMap<u16, (ObjectRef, Arc<HttpListener>)>,
    denied: BTreeMap<ObjectRef, BTreeMap<u16, Arc<str>>>,
}

impl Index {
    /// Decides which addresses a Gateway wants.
    pub(super) fn want_for_gateway(&mut self, gateway: &ObjectRef) {
        let Some(entry) = self.gateway_api.gateways.get(gateway) else { return };
        let ours = |spec: &&Arc<GatewaySpec>| self.gateway_api.is_ours(gateway, spec);
        let Some(spec) = entry.spec.as_ref().filter(ours) else {
            self.claims.want(gateway, None);
            return;
        };
        let chosen = spec.requested.is_empty();
        let asked: BTreeSet<Family> = spec.requested.iter().map(|a| Family::of(*a)).collect();
        let families =
            if chosen { vec![Family::V4, Family::V6] } else { asked.into_iter().collect() };
        let listeners = entry.built.listeners.iter().filter(|at| at.refusal.is_none());
        let ports: BTreeSet<WantedPort> = listeners
            .map(|listener| WantedPort {
                protocol: listener.transport(),
                port: listener.port,
                http: matches!(listener.opening, Some(Opening::Plain | Opening::Tls)),
            })
            .collect();
        let wanted = Want {
            families,
            any_family: chosen,
            requested: spec.requested.clone(),
            pool: spec.pool.clone(),
            recorded: spec.recorded.clone(),
            created_secs: spec.created_secs,
            sharing: spec.wish.sharing.clone(),
            ports: ports.into_iter().collect(),
            labels: spec.wish.labels.clone(),
            fixed: false,
        };
        self.claims.want(gateway, Some(wanted));
    }

    /// Marks a Gateway whose claims have changed.
    pub(in crate::index) fn gateway_moved(&mut self, gateway: ObjectRef) {
        self.gateway_api.moved.insert(gateway);
    }

    /// Takes a Gateway to the addresses that it holds and its status records.
    pub(super) fn place_gateway(&mut self, gateway: &ObjectRef) {
        let Some(entry) = self.gateway_api.gateways.get_mut(gateway) else { return };
        let outcome = self.claims.outcome(gateway);
        let served: BTreeSet<IpAddr> =
            outcome.into_iter().flat_map(|outcome| outcome.served.iter().copied()).collect();
        let before = std::mem::replace(&mut entry.addresses, served.clone());
        entry.denied.retain(|(address, _), _| served.contains(address));
        let ttl_secs = entry.spec.as_ref().and_then(|spec| spec.ttl_secs);
        let names = entry.built.hostnames.clone();
        if entry.spec.is_none() {
            self.gateway_api.gateways.remove(gateway);
        }
        self.gateway_api.on_address.relink(gateway, &before, &served);
        self.dirty.addresses.extend(before.symmetric_difference(&served));
        let addresses: Vec<IpAddr> = served.into_iter().collect();
        self.publish_hostnames(gateway, names, &addresses, ttl_secs);
        self.dirty.reports.insert(gateway.clone());
        let sets = self.gateway_api.sets_of.of(gateway);
        self.dirty.reports.extend(sets.cloned());
    }

    /// Gateways on an address, with their age.
    pub(in crate::index) fn gateways_on(
        &self,
        address: IpAddr,
    ) -> impl Iterator<Item = (i64, &ObjectRef)> {
        let gateways = self.gateway_api.on_address.of(&address);
        gateways.filter_map(|gateway| {
            let spec = self.gateway_api.gateways.get(gateway)?.spec.as_ref()?;
            Some((spec.created_secs, gateway))
        })
    }

    /// Gives a Gateway those of its ports that nobody has. `taken` says who has one.
    pub(in crate::index) fn place_ports(
        &self,
        gateway: &ObjectRef,
        placed: &mut Placed,
        taken: impl Fn(u16, &Placed) -> Option<String>,
    ) {
        let Some(entry) = self.gateway_api.gateways.get(gateway) else { return };
        for (port, listener) in &entry.built.ports {
            match taken(*port, placed) {
                Some(why) => {
                    let denied = placed.denied.entry(gateway.clone()).or_default();
                    denied.insert(*port, why.into());
                }
                None => {
                    let place = (gateway.clone(), listener.clone());
                    placed.listeners.insert(*port, place);
                }
            }
        }
    }

    /// Publishes what Gateways serve on an address, and tells them what they do not.
    pub(in crate::index) fn publish_placed(&mut self, address: IpAddr, mut placed: Placed) {
        for (port, (_, listener)) in placed.listeners {
            let at = std::net::SocketAddr::new(address, port);
            self.dirty.changed |= put(&mut self.published.http, at, Some(listener));
        }
        let gateways: Vec<ObjectRef> = self.gateway_api.on_address.of(&address).cloned().collect();
        for gateway in gateways {
            let Some(entry) = self.gateway_api.gateways.get_mut(&gateway) else { continue };
            let denied = placed.denied.remove(&gateway).unwrap_or_default();
            let here = entry.denied.range((address, 0)..=(address, u16::MAX));
            let same = here.map(|((_, port), why)| (port, why)).eq(denied.iter());
            if !same {
                entry.denied.retain(|(of, _), _| *of != address);
                entry.denied.extend(denied.into_iter().map(|(port, why)| ((address, port), why)));
                let sets = entry.built.sets.keys().cloned();
                self.dirty.reports.extend(sets);
                self.dirty.reports.insert(gateway);
            }
        }
    }

    /// Addresses of those of an object's users that are Gateways.
    pub(in crate::index) fn gateway_addresses<'a>(
        &'a self,
        users: impl IntoIterator<Item = &'a ObjectRef>,
    ) -> impl Iterator<Item = &'a IpAddr> {
        let gateways = users.into_iter().filter_map(|user| self.gateway_api.gateways.get(user));
        gateways.flat_map(|entry| &entry.addresses)
    }

    /// Marks the reports of Gateways on an address, and of their ListenerSets.
    pub(in crate::index) fn mark_gateways_on(&mut self, listener: &ServiceKey) {
        for gateway in self.gateway_api.on_address.of(&listener.vip) {
            self.dirty.reports.insert(gateway.clone());
            self.dirty.reports.extend(self.gateway_api.sets_of.of(gateway).cloned());
        }
    }
}
