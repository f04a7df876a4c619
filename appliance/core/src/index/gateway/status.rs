//! What objects of the Gateway API are told about themselves.
//!
//! Conditions are those of the API's own documentation of each kind. Nothing here decides: what is
//! served follows from what was built, and this says it.

use std::net::IpAddr;
use std::sync::Arc;

use super::build::{BuiltListener, RouteVerdict};
use super::conditions::{Why, fails, holds, unless};
use super::features::SUPPORTED_FEATURES;
use super::{GatewayApi, GatewayEntry};
use crate::index::Index;
use crate::{
    ApiStatus, Condition, FaultReason, GatewaySpec, IpMode, ListenerStatus, ObjectKind, ObjectRef,
    ObjectReport, ParentFields, ParentSpec, ParentStatus, ServiceKey,
};

/// `status.ancestors` of a policy has room for so many.
const ANCESTORS_MAX: usize = 16;

impl Index {
    /// What an object of the Gateway API should say about itself.
    pub(in crate::index) fn gateway_api_report(&self, object: &ObjectRef) -> Option<ObjectReport> {
        match object.kind {
            ObjectKind::GatewayClass => self.gateway_api.class_report(object),
            ObjectKind::Gateway => self.gateway_report(object),
            ObjectKind::ListenerSet => self.listener_set_report(object),
            ObjectKind::BackendTlsPolicy => self.gateway_api.policy_report(object),
            ObjectKind::RequestPolicy | ObjectKind::BackendPolicy => self.own_policy_report(object),
            kind if kind.is_route() => self.gateway_api.route_report(object),
            _ => None,
        }
    }

    fn gateway_report(&self, gateway: &ObjectRef) -> Option<ObjectReport> {
        let entry = self.gateway_api.gateways.get(gateway)?;
        let spec = entry.spec.as_ref()?;
        if !self.gateway_api.is_ours(gateway, spec) {
            return None;
        }
        let mut report = self.claim_report(gateway, &spec.recorded, &spec.wish, IpMode::Proxy);
        let fates = self.fates((gateway, entry), gateway);
        let generation = spec.generation;
        let accepted = accepted(spec, &fates);
        let programmed = self.programmed(gateway, entry, spec, &accepted, &fates);
        let sets = entry.built.sets.iter();
        let attached = sets.filter(|(set, allowed)| {
            **allowed && self.fates((gateway, entry), set).iter().any(Fate::is_valid)
        });
        let attached_sets = u32::try_from(attached.count()).unwrap_or(u32::MAX);
        let mut conditions = vec![
            match &accepted {
                Ok(None) => holds("Accepted", "Accepted", "the Gateway is valid", generation),
                Ok(Some(why)) => holds("Accepted", why.reason, &why.message, generation),
                Err(why) => fails("Accepted", why, generation),
            },
            unless("Programmed", programmed.as_ref(), "the Gateway is served", generation),
            resolved(entry, &fates, generation),
        ];
        if spec.client_validation.iter().any(|validation| validation.insecure_fallback) {
            let message = "clients without a valid certificate are let in on some ports";
            let kind = "InsecureFrontendValidationMode";
            conditions.push(holds(kind, "ConfigurationChanged", message, generation));
        }
        let statuses = fates.iter().map(|fate| fate.status(generation));
        let status = ApiStatus::Listeners {
            conditions,
            listeners: statuses.collect(),
            attached_sets: Some(attached_sets),
        };
        report.faults.extend(spec.faults.iter().cloned());
        let certificates = entry.built.uses.certificates.iter();
        report.faults.extend(certificates.flat_map(|used| self.certificate_notices(used)));
        report.status = Some(Arc::new(status));
        report.recorded_status = recorded(spec.recorded_status.as_deref());
        Some(report)
    }

    /// What becomes of the listeners of a Gateway or of one of its ListenerSets.
    fn fates<'a>(
        &self,
        (gateway, entry): (&ObjectRef, &'a GatewayEntry),
        owner: &ObjectRef,
    ) -> Vec<Fate<'a>> {
        let listeners = entry.built.listeners.iter().filter(|at| at.owner == *owner);
        let fates = listeners.map(|listener| {
            let key = |address: &IpAddr| ServiceKey {
                vip: *address,
                port: listener.port,
                protocol: listener.transport(),
            };
            let denied = entry.addresses.iter().find_map(|address| {
                let why = entry.denied.get(&(*address, listener.port))?;
                Some(Why::new("PortUnavailable", &**why))
            });
            let taken = self.services.get(gateway).map_or(&[][..], |fed| &fed.taken);
            let taken = entry.addresses.iter().map(key).find(|key| taken.contains(key));
            let denied = denied.or_else(|| {
                let message = format!("{} is served for an older object", taken?);
                Some(Why::new("PortUnavailable", message))
            });
            let closed = entry.addresses.iter().find_map(|address| {
                let fault = self.unserved_fault(&key(address))?;
                Some(Why::new("Invalid", fault.message))
            });
            let has_address = !entry.addresses.is_empty();
            let denied = denied.filter(|_| listener.refusal.is_none());
            let refusal = listener.refusal.clone().or(denied);
            let unprogrammed = refusal.clone().or_else(|| listener.unprogrammed(has_address));
            let unprogrammed = unprogrammed.or(closed).map(|why| match why.reason {
                // Reasons that this condition knows.
                "HostnameConflict" | "ProtocolConflict" | "PortUnavailable" | "Pending" => why,
                _ => Why { reason: "Invalid", ..why },
            });
            Fate { listener, refusal, unprogrammed }
        });
        fates.collect()
    }

    /// Why a Gateway is not served.
    fn programmed(
        &self,
        gateway: &ObjectRef,
        entry: &GatewayEntry,
        spec: &GatewaySpec,
        accepted: &Accepted,
        fates: &[Fate<'_>],
    ) -> Option<Why> {
        if let Err(why) = accepted {
            return Some(Why::new("Invalid", why.message.clone()));
        }
        let outcome = self.claims.outcome(gateway);
        let fault = outcome.and_then(|outcome| outcome.faults.first());
        let lacks = |address: &&IpAddr| !entry.addresses.contains(address);
        if let Some(missing) = spec.requested.iter().find(lacks) {
            return Some(match fault {
                Some(fault) => Why::new("AddressNotUsable", fault.message.clone()),
                None => {
                    let message = format!("address {missing} is not assigned yet");
                    Why::new("AddressNotAssigned", message)
                }
            });
        }
        if entry.addresses.is_empty() {
            let message = fault
                .map_or("no address is assigned yet".to_owned(), |fault| fault.message.clone());
            return Some(Why::new("AddressNotAssigned", message));
        }
        let of_sets = entry.built.sets.keys().flat_map(|set| self.fates((gateway, entry), set));
        let served = fates.iter().any(|fate| fate.unprogrammed.is_none())
            || of_sets.into_iter().any(|fate| fate.unprogrammed.is_none());
        let first = fates.iter().find_map(|fate| fate.unprogrammed.as_ref());
        (!served).then(|| {
            let message = first.map_or("there is no listener".to_owned(), |why| {
                format!("no listener is served: {}", why.message)
            });
            Why::new("Invalid", message)
        })
    }

    fn listener_set_report(&self, set: &ObjectRef) -> Option<ObjectReport> {
        let spec = self.gateway_api.listener_sets.get(set)?;
        let entry = self.gateway_api.gateways.get(&spec.parent)?;
        let allowed = *entry.built.sets.get(set)?;
        let gateway = entry.spec.as_ref()?;
        let generation = spec.generation;
        let of_gateway = self.fates((&spec.parent, entry), &spec.parent);
        let parent_accepted = accepted(gateway, &of_gateway);
        let fates = self.fates((&spec.parent, entry), set);
        let none = |pick: fn(&Fate<'_>) -> bool| !fates.iter().any(pick);
        let refused = if !allowed {
            let message = "the Gateway's spec.allowedListeners does not let it in";
            Some(Why::new("NotAllowed", message))
        } else if let Some(fault) = spec.faults.first() {
            Some(Why::new("Invalid", fault.message.clone()))
        } else if let Err(why) = &parent_accepted {
            Some(Why::new("ParentNotAccepted", why.message.clone()))
        } else {
            none(|fate| fate.is_valid())
                .then(|| Why::new("ListenersNotValid", "none of its listeners is valid"))
        };
        let unprogrammed = refused.clone().map(|why| match why.reason {
            "ParentNotAccepted" => Why { reason: "ParentNotProgrammed", ..why },
            _ => why,
        });
        let unprogrammed = unprogrammed.or_else(|| {
            if entry.addresses.is_empty() {
                return Some(Why::new("ParentNotProgrammed", "the Gateway has no address yet"));
            }
            let served = |fate: &Fate<'_>| fate.unprogrammed.is_none();
            none(served).then(|| Why::new("ListenersNotValid", "none of its listeners is served"))
        });
        let some_invalid = fates.iter().any(|fate| fate.refusal.is_some());
        let accepted = match &refused {
            Some(why) => fails("Accepted", why, generation),
            None if some_invalid => {
                let message = "some of its listeners are not valid";
                holds("Accepted", "ListenersNotValid", message, generation)
            }
            None => holds("Accepted", "Accepted", "the ListenerSet is valid", generation),
        };
        let good = "the ListenerSet is served";
        let conditions =
            vec![accepted, unless("Programmed", unprogrammed.as_ref(), good, generation)];
        let listeners = fates.iter().map(|fate| fate.status(generation)).collect();
        let status = ApiStatus::Listeners { conditions, listeners, attached_sets: None };
        Some(ObjectReport {
            faults: spec.faults.clone(),
            status: Some(Arc::new(status)),
            recorded_status: recorded(spec.recorded_status.as_deref()),
            ..ObjectReport::default()
        })
    }
}

fn recorded(status: Option<&ApiStatus>) -> Option<Arc<ApiStatus>> {
    status.cloned().map(Arc::new)
}

/// Whether a Gateway is accepted, and what is wrong with it all the same; or why it is not.
type Accepted = Result<Option<Why>, Why>;

fn accepted(spec: &GatewaySpec, fates: &[Fate<'_>]) -> Accepted {
    if let [first, ..] = &spec.foreign_addresses[..] {
        let message = format!("address {first} is of a type that is not served: use IPAddress");
        return Err(Why::new("UnsupportedAddress", message));
    }
    let refusing = |fault: &&crate::SourceFault| fault.reason != FaultReason::InvalidAnnotation;
    if let Some(fault) = spec.faults.iter().find(refusing) {
        let parameters = fault.message.contains("parametersRef");
        let reason = if parameters { "InvalidParameters" } else { "Invalid" };
        return Err(Why::new(reason, fault.message.clone()));
    }
    let refused = fates.iter().filter(|fate| fate.refusal.is_some());
    let names: Vec<&str> = refused.map(|fate| &*fate.listener.name).collect();
    if names.is_empty() {
        return Ok(None);
    }
    let why = Why::new("ListenersNotValid", format!("not served: {}", names.join(", ")));
    if names.len() == fates.len() { Err(why) } else { Ok(Some(why)) }
}

/// `ResolvedRefs` of a Gateway.
fn resolved(entry: &GatewayEntry, fates: &[Fate<'_>], generation: i64) -> Condition {
    let broken = fates.iter().filter(|fate| !fate.listener.unresolved.is_empty());
    let names: Vec<&str> = broken.map(|fate| &*fate.listener.name).collect();
    let of_listeners = (!names.is_empty()).then(|| {
        let message = format!("references of listeners lead nowhere: {}", names.join(", "));
        Why::new("ListenersNotResolved", message)
    });
    let why = entry.built.client_certificate.clone().or(of_listeners);
    unless("ResolvedRefs", why.as_ref(), "every reference leads somewhere", generation)
}

/// What becomes of a listener.
struct Fate<'a> {
    listener: &'a BuiltListener,
    /// Why it is not accepted.
    refusal: Option<Why>,
    /// Why it is not served.
    unprogrammed: Option<Why>,
}

impl BuiltListener {
    fn unprogrammed(&self, has_address: bool) -> Option<Why> {
        if !self.usable {
            let message = self.unresolved.first().map_or("", |why| &why.message);
            return Some(Why::new("Invalid", message));
        }
        (!has_address).then(|| Why::new("Pending", "the Gateway has no address yet"))
    }
}

impl Fate<'_> {
    /// Whether it is accepted, and its certificates are there. Of a ListenerSet whose listeners all
    /// lack that, the API's own tests want it refused.
    fn is_valid(&self) -> bool {
        self.refusal.is_none() && self.listener.usable
    }

    fn status(&self, generation: i64) -> ListenerStatus {
        let listener = self.listener;
        let conflict = listener.refusal.as_ref().filter(|_| listener.conflicted);
        let unless =
            |kind: &str, why: Option<&Why>, good: &str| unless(kind, why, good, generation);
        let unresolved = listener.unresolved.iter().min();
        let mut conditions = vec![
            unless("Accepted", self.refusal.as_ref(), "the listener is valid"),
            unless("Programmed", self.unprogrammed.as_ref(), "the listener is served"),
            unless("ResolvedRefs", unresolved, "every reference leads somewhere"),
            match conflict {
                Some(why) => holds("Conflicted", why.reason, &why.message, generation),
                None => {
                    let none = Why::new("NoConflicts", "no other listener stands against it");
                    fails("Conflicted", &none, generation)
                }
            },
        ];
        if listener.overlaps {
            let message = "another listener of the port has host names in common with it: clients \
                           may use a connection for both, and requests get 421";
            let (kind, reason) = ("OverlappingTLSConfig", "OverlappingHostnames");
            conditions.push(holds(kind, reason, message, generation));
        }
        let mut kinds: Vec<Arc<str>> =
            listener.kinds.iter().map(|kind| kind.api_kind().into()).collect();
        kinds.sort();
        ListenerStatus {
            name: listener.name.clone(),
            kinds,
            attached_routes: listener.attached,
            conditions,
        }
    }
}

impl GatewayApi {
    fn class_report(&self, class: &ObjectRef) -> Option<ObjectReport> {
        let spec = self.classes.get(class)?;
        let refused = spec.parameters.as_ref().map(|parameters| {
            let message = format!("spec.parametersRef: {parameters} is not read: take it out");
            Why::new("InvalidParameters", message)
        });
        let good = "Gateways of the class are served";
        let conditions = vec![unless("Accepted", refused.as_ref(), good, spec.generation)];
        let features = SUPPORTED_FEATURES.iter().map(|feature| (*feature).into()).collect();
        Some(ObjectReport {
            status: Some(Arc::new(ApiStatus::Class { conditions, features })),
            recorded_status: recorded(spec.recorded_status.as_deref()),
            ..ObjectReport::default()
        })
    }

    fn route_report(&self, route: &ObjectRef) -> Option<ObjectReport> {
        let spec = self.routes.get(route)?;
        let parents = spec.parents.iter().enumerate().filter_map(|(at, parent)| {
            let gateway = self.gateways.get(self.gateway_of(&parent.object)?)?;
            let verdict = gateway.built.routes.get(&(route.clone(), at))?;
            let conditions = verdict.conditions(spec.generation);
            Some(ParentStatus { parent: parent.clone(), conditions })
        });
        let parents: Vec<ParentStatus> = parents.collect();
        if parents.is_empty() && spec.recorded_status.is_none() {
            return None;
        }
        Some(ObjectReport {
            faults: spec.faults.clone(),
            status: Some(Arc::new(ApiStatus::Route(parents))),
            recorded_status: recorded(spec.recorded_status.as_deref()),
            ..ObjectReport::default()
        })
    }

    fn policy_report(&self, policy: &ObjectRef) -> Option<ObjectReport> {
        let spec = self.tls_policies.get(policy)?;
        let judging = self.gateways.iter().filter_map(|(gateway, entry)| {
            let verdict = entry.built.policies.get(policy)?;
            let parent = ParentSpec {
                object: gateway.clone(),
                written: ParentFields { namespace: true },
                section: None,
                port: None,
            };
            let generation = spec.generation;
            let (refused, unresolved) = (verdict.refused.as_ref(), verdict.unresolved.as_ref());
            let conditions = vec![
                unless("Accepted", refused, "the policy is followed", generation),
                unless("ResolvedRefs", unresolved, "every reference leads somewhere", generation),
            ];
            Some(ParentStatus { parent, conditions })
        });
        let ancestors: Vec<ParentStatus> = judging.take(ANCESTORS_MAX).collect();
        if ancestors.is_empty() && spec.recorded_status.is_none() {
            return None;
        }
        Some(ObjectReport {
            faults: spec.faults.clone(),
            status: Some(Arc::new(ApiStatus::Policy(ancestors))),
            recorded_status: recorded(spec.recorded_status.as_deref()),
            ..ObjectReport::default()
        })
    }
}

impl RouteVerdict {
    fn conditions(&self, generation: i64) -> Vec<Condition> {
        let (refused, unresolved) = (self.refused.as_ref(), self.unresolved.as_ref());
        let mut conditions = vec![
            unless("Accepted", refused, "the route is followed", generation),
            unless("ResolvedRefs", unresolved, "every reference leads somewhere", generation),
        ];
        if let Some(why) = &self.dropped {
            let message = &why.message;
            conditions.push(holds("PartiallyInvalid", why.reason, message, generation));
        }
        conditions
    }
}
