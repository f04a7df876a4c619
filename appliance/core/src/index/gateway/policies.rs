//! Policies of our own: which of them count for what, and what they are told about themselves
//! (haflinger.dev/v1alpha1, attached as GEP-713 says).
//!
//! Of several policies for one target the oldest counts, then the one whose `namespace/name` comes
//! first; the others are told that they stand in conflict with it. Those for an object and for a
//! part of it do not conflict: of each wish the one counts that is closer to the request. A policy
//! that cannot be followed does not leave its targets as if there were none: requests get 500.
//!
//! Each policy is told about every target of its own, and not about Gateways: one policy may have
//! good and bad targets, and there are as many as there is room for in a status.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::conditions::{Why, unless};
use super::{GatewayApi, Relation, Stated, differ, note};
use crate::index::Index;
use crate::index::wishes::Layer;
use crate::{
    ApiStatus, BackendWishes, ExtensionRef, FaultReason, FilterSpec, ObjectKind, ObjectRef,
    ObjectReport, POLICY_TARGETS_MAX, ParentFields, ParentSpec, ParentStatus, PolicySpec,
    PolicyTarget, RequestWishes, RouteSpec, SourceFault, SourceId,
};

/// The kind of a filter that names a policy (`extensionRef`).
const FILTER_KIND: &str = "haflinger.dev/RequestPolicy";

/// Policies of one kind.
pub(super) struct Policies<W> {
    specs: BTreeMap<ObjectRef, Arc<PolicySpec<W>>>,
    /// Policies by what they target.
    by_target: Relation<ObjectRef>,
}

impl<W> Default for Policies<W> {
    fn default() -> Self {
        Self { specs: BTreeMap::new(), by_target: Relation::default() }
    }
}

/// A policy by its name.
type Named<'a, W> = (&'a ObjectRef, &'a PolicySpec<W>);

impl<W: Clone + PartialEq> Policies<W> {
    /// Notes what a policy says; nothing, where it was known. The objects that it targets or did,
    /// unless all that has changed is what its status records.
    fn note(
        &mut self,
        policy: &ObjectRef,
        spec: Option<PolicySpec<W>>,
    ) -> Option<Option<BTreeSet<ObjectRef>>> {
        let (old, new) = note(&mut self.specs, policy, spec)?;
        if !differ(old.as_deref(), new.as_deref()) {
            return Some(None);
        }
        let targets = |spec: &Option<Arc<PolicySpec<W>>>| -> BTreeSet<ObjectRef> {
            spec.iter().flat_map(|spec| &spec.targets).map(|target| target.object.clone()).collect()
        };
        let (old, new) = (targets(&old), targets(&new));
        self.by_target.relink(policy, &old, &new);
        Some(Some(old.union(&new).cloned().collect()))
    }

    /// Policies that target an object or a part of it.
    pub(super) fn targeting(&self, object: &ObjectRef) -> impl Iterator<Item = &ObjectRef> {
        self.by_target.of(object)
    }

    /// The policy that counts for an object, or for the part of this name.
    fn leading(&self, object: &ObjectRef, section: Option<&Arc<str>>) -> Option<Named<'_, W>> {
        let targets = |policy: &PolicySpec<W>| {
            let mut targets = policy.targets.iter();
            targets.any(|target| target.object == *object && target.section.as_ref() == section)
        };
        let known = self.by_target.of(object).filter_map(|name| {
            let (name, policy) = self.specs.get_key_value(name)?;
            Some((name, &**policy))
        });
        known.filter(|(_, policy)| targets(policy)).min_by_key(|(name, policy)| {
            (policy.created_secs, name.namespace.clone(), name.name.clone())
        })
    }

    fn of_source(&self, source: &SourceId) -> Vec<ObjectRef> {
        self.specs.keys().filter(|name| name.source == *source).cloned().collect()
    }

    /// What a policy should say about itself. `missing` tells why a target is none; `users` are
    /// objects that name the policy.
    fn report<'a>(
        &'a self,
        policy: &ObjectRef,
        missing: impl Fn(&PolicyTarget) -> Option<String>,
        users: impl Iterator<Item = &'a ObjectRef>,
    ) -> Option<ObjectReport> {
        let spec = self.specs.get(policy)?;
        let invalid = spec.faults.first();
        let invalid = invalid.map(|fault| Why::new("Invalid", fault.message.clone()));
        let mut faults = spec.faults.clone();
        let mut ancestors = Vec::new();
        for target in spec.targets.iter().take(POLICY_TARGETS_MAX) {
            let refused = self.refusal(policy, target, &missing);
            faults.extend(refused.as_ref().map(|why| {
                let reason = match why.reason {
                    "Conflicted" => FaultReason::PolicyConflicted,
                    _ => FaultReason::TargetMissing,
                };
                SourceFault::new(reason, why.message.clone())
            }));
            let refused = invalid.clone().or(refused);
            ancestors.push(spec.ancestor(&target.object, target.section.clone(), refused.as_ref()));
        }
        let room = POLICY_TARGETS_MAX - ancestors.len();
        let users = users.filter(|user| spec.targets.iter().all(|target| target.object != **user));
        let users = users.take(room);
        ancestors.extend(users.map(|user| spec.ancestor(user, None, invalid.as_ref())));
        let status = (!ancestors.is_empty() || spec.recorded_status.is_some())
            .then(|| Arc::new(ApiStatus::Policy(ancestors)));
        Some(ObjectReport {
            faults,
            status,
            recorded_status: spec.recorded_status.as_deref().cloned().map(Arc::new),
            ..ObjectReport::default()
        })
    }

    /// Why a policy does not count for one of its targets, however good it is.
    fn refusal(
        &self,
        policy: &ObjectRef,
        target: &PolicyTarget,
        missing: impl Fn(&PolicyTarget) -> Option<String>,
    ) -> Option<Why> {
        if let Some(message) = missing(target) {
            return Some(Why::new("TargetNotFound", message));
        }
        let (leader, _) = self.leading(&target.object, target.section.as_ref())?;
        (leader != policy).then(|| {
            let (namespace, name) = (&leader.namespace, &leader.name);
            let of = &target.object.name;
            let message = format!("policy {namespace}/{name} is older, and has the target {of}");
            Why::new("Conflicted", message)
        })
    }
}

impl<W> PolicySpec<W> {
    /// Its wishes, unless it cannot be followed.
    fn followed(&self) -> Option<Arc<W>> {
        self.faults.is_empty().then(|| self.wishes.clone())
    }

    fn ancestor(
        &self,
        object: &ObjectRef,
        section: Option<Arc<str>>,
        refused: Option<&Why>,
    ) -> ParentStatus {
        let written = ParentFields { namespace: true };
        let parent = ParentSpec { object: object.clone(), written, section, port: None };
        let good = "the policy is followed";
        ParentStatus {
            parent,
            conditions: vec![unless("Accepted", refused, good, self.generation)],
        }
    }
}

impl<W: Clone + PartialEq> Stated for PolicySpec<W> {
    fn without_record(&self) -> Self {
        Self { recorded_status: None, ..self.clone() }
    }
}

/// The policies that the filters of a route name.
pub(super) fn named_policies(route: &ObjectRef, spec: &RouteSpec) -> BTreeSet<ObjectRef> {
    let filters = spec.rules.iter().flat_map(|rule| {
        let of_backends = rule.backends.iter().flat_map(|backend| &backend.filters);
        rule.filters.iter().chain(of_backends)
    });
    let named = filters.filter_map(|filter| match filter {
        FilterSpec::Extension(extension) => named_policy(route, extension),
        _ => None,
    });
    named.collect()
}

/// The policy that a filter names; nothing, where it names something else.
pub(super) fn named_policy(route: &ObjectRef, extension: &ExtensionRef) -> Option<ObjectRef> {
    let kind = ObjectKind::RequestPolicy;
    (*extension.kind == *FILTER_KIND)
        .then(|| ObjectRef::of_kind(&route.source, kind, &route.namespace, &extension.name))
}

impl GatewayApi {
    /// What is asked for requests of an object, or of the part of this name.
    pub(in crate::index) fn layer(
        &self,
        object: &ObjectRef,
        section: Option<&Arc<str>>,
    ) -> Option<Layer> {
        let (name, policy) = self.request_policies.leading(object, section)?;
        Some(Layer { object: name.clone(), wishes: policy.followed() })
    }

    /// The same of a policy by its name; nothing where it is missing.
    pub(super) fn named_layer(&self, policy: &ObjectRef) -> Option<Layer> {
        let (name, spec) = self.request_policies.specs.get_key_value(policy)?;
        Some(Layer { object: name.clone(), wishes: spec.followed() })
    }

    /// What is asked for the backends of a Service's port; nothing, where that cannot be followed.
    pub(in crate::index) fn backend_wishes(
        &self,
        service: &ObjectRef,
        port: &Arc<str>,
    ) -> Option<BackendWishes> {
        let policies = &self.backend_policies;
        let of_port = if port.is_empty() { None } else { policies.leading(service, Some(port)) };
        let mut layers = of_port.into_iter().chain(policies.leading(service, None));
        layers.try_fold(BackendWishes::default(), |closer, (_, policy)| {
            Some(closer.or(&*policy.followed()?))
        })
    }
}

impl Index {
    /// Notes a RequestPolicy, and marks whose requests it concerns.
    pub(super) fn note_request_policy(
        &mut self,
        policy: ObjectRef,
        spec: Option<PolicySpec<RequestWishes>>,
    ) {
        let api = &mut self.gateway_api;
        let Some(touched) = api.request_policies.note(&policy, spec) else { return };
        if let Some(mut touched) = touched {
            touched.extend(api.extended_by.of(&policy).cloned());
            touched.iter().for_each(|object| self.asked_anew(object));
        }
        self.dirty.reports.insert(policy);
    }

    /// Marks what has to be built anew because a policy for it has changed, and the policies that
    /// may stand in conflict with that one.
    fn asked_anew(&mut self, object: &ObjectRef) {
        let api = &mut self.gateway_api;
        match object.kind {
            ObjectKind::Ingress => drop(self.dirty.ingresses.insert(object.clone())),
            kind if kind.is_route() => {
                let spec = api.routes.get(object).cloned();
                let parents = spec.iter().flat_map(|spec| &spec.parents);
                let gateways = parents.filter_map(|parent| api.gateway_of(&parent.object).cloned());
                let gateways: Vec<ObjectRef> = gateways.collect();
                api.stale.extend(gateways);
            }
            _ => {
                let gateway = api.gateway_of(object).cloned();
                api.stale.extend(gateway);
            }
        }
        self.policies_judged_anew(object);
    }

    /// Marks the policies that target an object.
    pub(in crate::index) fn policies_judged_anew(&mut self, object: &ObjectRef) {
        let api = &self.gateway_api;
        let of_backends = api.backend_policies.targeting(object);
        let policies = api.request_policies.targeting(object).chain(of_backends);
        self.dirty.reports.extend(policies.cloned());
    }

    /// Notes a BackendPolicy, and marks who leads to the Services that it concerns.
    pub(super) fn note_backend_policy(
        &mut self,
        policy: ObjectRef,
        spec: Option<PolicySpec<BackendWishes>>,
    ) {
        let api = &mut self.gateway_api;
        let Some(touched) = api.backend_policies.note(&policy, spec) else { return };
        for service in touched.into_iter().flatten() {
            self.backends_asked_anew(&service);
        }
        self.dirty.reports.insert(policy);
    }

    /// Marks who leads to a Service for which a policy is, or was.
    fn backends_asked_anew(&mut self, service: &ObjectRef) {
        let api = &mut self.gateway_api;
        api.stale.extend(api.named_by.of(service).cloned());
        let users = self.services.get(service).into_iter().flat_map(|entry| &entry.users);
        let ingresses = users.filter(|user| user.kind == ObjectKind::Ingress).cloned();
        self.dirty.ingresses.extend(ingresses);
        self.policies_judged_anew(service);
    }

    /// Marks who leads to a Service whose ports have changed, and may now be under other policies.
    pub(super) fn asked_by_other_ports(&mut self, service: &ObjectRef) {
        if self.gateway_api.backend_policies.targeting(service).next().is_some() {
            self.backends_asked_anew(service);
        }
    }

    /// Forgets the policies of a source.
    pub(super) fn forget_policies(&mut self, source: &SourceId) {
        for policy in self.gateway_api.request_policies.of_source(source) {
            self.note_request_policy(policy, None);
        }
        for policy in self.gateway_api.backend_policies.of_source(source) {
            self.note_backend_policy(policy, None);
        }
    }

    /// What a policy of ours should say about itself.
    pub(super) fn own_policy_report(&self, policy: &ObjectRef) -> Option<ObjectReport> {
        let api = &self.gateway_api;
        let missing = |target: &PolicyTarget| self.missing(target);
        match policy.kind {
            ObjectKind::RequestPolicy => {
                api.request_policies.report(policy, missing, api.extended_by.of(policy))
            }
            _ => api.backend_policies.report(policy, missing, std::iter::empty()),
        }
    }

    /// Why a target is none.
    fn missing(&self, target: &PolicyTarget) -> Option<String> {
        let object = &target.object;
        let (kind, name) = (object.kind.api_kind(), &object.name);
        let Some(sections) = self.sections_of(object) else {
            return Some(format!("{kind} {name} is missing, or not of this controller"));
        };
        let section = target.section.as_ref()?;
        let found = sections.contains(&Some(section));
        (!found).then(|| format!("{kind} {name} has no part named {section:?}"))
    }

    /// The names of the parts of an object that policies may target; nothing, where there is no such
    /// object.
    fn sections_of(&self, object: &ObjectRef) -> Option<Vec<Option<&Arc<str>>>> {
        let api = &self.gateway_api;
        match object.kind {
            ObjectKind::Gateway => {
                let spec = api.gateways.get(object)?.spec.as_ref()?;
                let listeners = spec.listeners.iter().map(|listener| Some(&listener.name));
                api.is_ours(object, spec).then(|| listeners.collect())
            }
            ObjectKind::ListenerSet => {
                let spec = api.listener_sets.get(object)?;
                Some(spec.listeners.iter().map(|listener| Some(&listener.name)).collect())
            }
            ObjectKind::Ingress => self.ingresses.contains_key(object).then(Vec::new),
            ObjectKind::Service => {
                let spec = self.services.get(object)?.spec.as_ref()?;
                Some(spec.ports.iter().map(|port| Some(&port.name)).collect())
            }
            _ => {
                let spec = api.routes.get(object)?;
                Some(spec.rules.iter().map(|rule| rule.name.as_ref()).collect())
            }
        }
    }
}
