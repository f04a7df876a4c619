//! TCP and UDP listeners: L4 services on the Gateway's addresses.
//!
//! ```text
//!  listener ─ oldest route ─┬─ Service a, weight 70 ─ slices ─┐  weights of the parts multiplied
//!                           └─ Service b, weight 30 ─ slices ─┴─> one service, one table
//! ```
//!
//! The Gateway is a service object like any other: its ports are listeners, its slices those of
//! the Services that its routes name. Tables, modes, pods that cannot be reached: all of that knows
//! nothing of Gateways. Without a route a port is not served. Of several routes the oldest has the
//! listener.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::Built;
use super::attach::Attached;
use super::build::Ready;
use super::listeners::{Merged, Opening};
use super::routes::Compiler;
use crate::index::Index;
use crate::{
    Algorithm, BackendSlice, ConnectionLimits, Distribution, Exposure, Family, MAX_WEIGHT,
    ObjectRef, Protocol, ProxyProtocol, ServicePort, ServiceSpec, SlicePort, TimeoutRequest,
    Weight,
};

/// What a TCP or UDP listener leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Conduit {
    /// Names the port among those of the Gateway.
    name: Arc<str>,
    port: u16,
    protocol: Protocol,
    parts: Vec<Part>,
}

/// A Service's part in it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Part {
    service: ObjectRef,
    /// The name of its port, by which slices are matched.
    port: Arc<str>,
    weight: u32,
}

impl Compiler<'_> {
    /// Where a TCP or UDP listener leads to; nothing, without a route.
    pub(super) fn conduit(
        &mut self,
        listener: &Merged<'_>,
        attached: &[Attached],
        routes: &[Ready<'_>],
    ) -> Option<Conduit> {
        let protocol = match Opening::of(&listener.spec.protocol)? {
            Opening::Tcp => Protocol::Tcp,
            Opening::Udp => Protocol::Udp,
            Opening::Plain | Opening::Tls => return None,
        };
        let mut usable =
            attached.iter().map(|at| &routes[at.route]).filter(|(.., c)| c.refused.is_none());
        let (route, spec, _) = usable.next()?;
        let mut parts = Vec::new();
        for backend in spec.rules.iter().flat_map(|rule| &rule.backends) {
            if let Ok((target, port)) = self.target(route, &backend.backend, protocol) {
                let (service, port) = (target.object, port.name);
                parts.push(Part { service, port, weight: backend.weight });
            }
        }
        let port = listener.spec.port;
        let name = format!("{port}/{protocol}").into();
        Some(Conduit { name, port, protocol, parts })
    }
}

impl Built {
    /// Services that L4 listeners lead to.
    pub(super) fn fed_by(&self) -> BTreeSet<ObjectRef> {
        let parts = self.conduits.iter().flat_map(|conduit| &conduit.parts);
        parts.map(|part| part.service.clone()).collect()
    }
}

impl Index {
    /// Marks the Gateways whose L4 listeners a changed Service feeds.
    pub(in crate::index) fn feed_changed(&mut self, service: &ObjectRef) {
        let api = &mut self.gateway_api;
        api.refed.extend(api.fed_by.of(service).cloned());
    }

    /// Makes the Gateway's L4 services of what feeds them now.
    pub(super) fn feed_gateway(&mut self, gateway: &ObjectRef) {
        let entry = self.gateway_api.gateways.get(gateway);
        let conduits = entry.map_or(&[][..], |entry| &entry.built.conduits);
        if conduits.is_empty() && !self.services.contains_key(gateway) {
            return;
        }
        let mut slices: Vec<(Arc<str>, Arc<BackendSlice>)> =
            conduits.iter().flat_map(|conduit| self.slices_for(conduit)).collect();
        slices.sort_by(|(one, _), (other, _)| one.cmp(other));
        let spec = entry.and_then(|entry| {
            let spec = entry.spec.as_ref()?;
            let families = entry.addresses.iter().map(|address| Family::of(*address));
            let families: BTreeSet<Family> = families.collect();
            let families: Vec<Family> = families.into_iter().collect();
            (!conduits.is_empty()).then(|| service(conduits, families, spec.created_secs))
        });
        let fed = self.services.entry(gateway.clone()).or_default();
        fed.slices.replace(slices);
        fed.spec = spec.map(Arc::new);
        self.dirty.services.insert(gateway.clone());
    }

    fn slices_for(&self, conduit: &Conduit) -> Vec<(Arc<str>, Arc<BackendSlice>)> {
        let mut slices = Vec::new();
        let heaviest = conduit.parts.iter().map(|part| part.weight).max().unwrap_or_default();
        for (at, part) in conduit.parts.iter().enumerate() {
            let Some(entry) = self.services.get(&part.service) else { continue };
            let own = |slice: &BackendSlice| {
                let mut ports = slice.ports.iter();
                let port = ports.find(|p| p.name == part.port && p.protocol == conduit.protocol)?;
                Some(port.port)
            };
            let serving = entry.slices.values().filter(|slice| own(slice).is_some());
            let backends = serving.flat_map(|slice| &slice.backends);
            let ready = backends.filter(|backend| backend.ready && !backend.terminating);
            let total: u64 = ready.map(|backend| u64::from(backend.weight)).sum();
            for (name, slice) in entry.slices.iter() {
                let Some(port) = own(slice) else { continue };
                let port =
                    SlicePort { name: conduit.name.clone(), protocol: conduit.protocol, port };
                let mut backends = slice.backends.clone();
                for backend in &mut backends {
                    backend.weight = share(backend.weight, total, part.weight, heaviest);
                }
                let family = slice.family;
                let slice = BackendSlice { family, ports: vec![port], backends, faults: vec![] };
                let name = format!("{}\n{at}\n{name}", conduit.name);
                slices.push((name.into(), Arc::new(slice)));
            }
        }
        slices
    }
}

/// The weight of a backend which has `own` of the `total` of a Service that has `of_service` of a
/// route in which `heaviest` is the most that one has. What takes flows goes on to take some.
fn share(own: Weight, total: u64, of_service: u32, heaviest: u32) -> Weight {
    if own == 0 || of_service == 0 {
        return 0;
    }
    let whole = u128::from(total.max(u64::from(own))) * u128::from(heaviest);
    let part = u128::from(own) * u128::from(of_service) * u128::from(MAX_WEIGHT);
    u32::try_from(part / whole.max(1)).unwrap_or(MAX_WEIGHT).clamp(1, MAX_WEIGHT)
}

/// The Gateway as a service object. Its addresses are claimed as the Gateway's.
fn service(conduits: &[Conduit], families: Vec<Family>, created_secs: i64) -> ServiceSpec {
    let port = |conduit: &Conduit| ServicePort {
        name: conduit.name.clone(),
        port: conduit.port,
        protocol: conduit.protocol,
        app_protocol: None,
        node_port: None,
    };
    ServiceSpec {
        ports: conduits.iter().map(port).collect(),
        refused_ports: Vec::new(),
        exposure: Some(Exposure { families: families.clone(), ..Exposure::default() }),
        created_secs,
        families,
        algorithm: Algorithm::default(),
        limits: ConnectionLimits::default(),
        timeouts: TimeoutRequest::default(),
        destination: None,
        local_traffic: false,
        publish_not_ready: false,
        distribution: Distribution::default(),
        proxy_protocol: ProxyProtocol::Off,
        health_check: None,
        selector: Box::default(),
        faults: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backends_of_all_services_together_have_the_shares_of_the_route() {
        // Ten backends of one Service, two of another.
        let (many, few) = (share(100, 1000, 70, 70), share(100, 200, 30, 70));
        assert_eq!((u64::from(many) * 10 + 5) / 10, 100_000);
        let all = f64::from(many) * 10.0 + f64::from(few) * 2.0;
        assert!((f64::from(many) * 10.0 / all - 0.7).abs() < 0.001);
    }

    #[test]
    fn what_has_no_share_gets_none_and_a_small_one_is_not_lost() {
        assert_eq!(share(0, 10, 1, 1), 0);
        assert_eq!(share(10, 10, 0, 1), 0);
        assert_eq!(share(1, u64::from(u32::MAX), 1, 1_000_000), 1);
        assert_eq!(share(100, 0, 1, 1), MAX_WEIGHT, "not ready, and counted all the same");
    }
}
