//! Routes of every kind.

use std::sync::Arc;

use haflinger_core::{
    BackendRefSpec, ObjectKind, ObjectRef, Persistence, RequestMatch, RetryPolicy, RouteRuleSpec,
    RouteSpec, RuleTimeouts, SourceId,
};

use super::durations::duration_ms;
use super::expressions::Budget;
use super::{Reading, status};
use crate::objects::lax::Lax;
use crate::objects::{
    BackendRefBody, FilterBody, GrpcRouteBody, GrpcRouteRule, GrpcRouteSpec, HttpRouteBody,
    HttpRouteRule, HttpRouteSpec, Object, RetryBody, RouteParentBody, RouteStatusBody,
    StreamBackendBody, StreamRoute, StreamRouteRule, TimeoutsBody,
};
use crate::translate::{Faults, quoted};

/// Largest weight of a backend.
const WEIGHT_MAX: u32 = 1_000_000;

/// An HTTPRoute.
pub(crate) fn http_route(object: &Object<HttpRouteBody>, source: &SourceId) -> Option<RouteSpec> {
    let empty = HttpRouteSpec::default();
    let spec = object.body.spec.get().unwrap_or(&empty);
    let parts = (spec.parent_refs.elements(), spec.hostnames.elements(), &object.body.status);
    let mut budget = Budget::of_route();
    route(object, source, parts, |reading| {
        let rules = reading.each("spec.rules", spec.rules.elements());
        let rules = rules.iter().enumerate().map(|(at, (field, rule))| {
            let name = default_name(reading, (ObjectKind::HttpRoute, object.name(), at));
            let persistence = reading.persistence(field, || Some(name), &rule.session_persistence);
            RouteRuleSpec { persistence, ..reading.http_rule(field, rule, &mut budget) }
        });
        rules.collect()
    })
}

/// The name of sessions of a rule that names none, by the route's kind and name and its place there.
fn default_name(reading: &Reading<'_>, (kind, name, at): (ObjectKind, &str, usize)) -> Arc<str> {
    let route = ObjectRef::of_kind(reading.source, kind, reading.namespace, name);
    Persistence::default_name(&route, at)
}

/// A GRPCRoute.
pub(crate) fn grpc_route(object: &Object<GrpcRouteBody>, source: &SourceId) -> Option<RouteSpec> {
    let empty = GrpcRouteSpec::default();
    let spec = object.body.spec.get().unwrap_or(&empty);
    let parts = (spec.parent_refs.elements(), spec.hostnames.elements(), &object.body.status);
    let mut budget = Budget::of_route();
    route(object, source, parts, |reading| {
        let rules = reading.each("spec.rules", spec.rules.elements());
        let rules = rules.iter().enumerate().map(|(at, (field, rule))| {
            let name = default_name(reading, (ObjectKind::GrpcRoute, object.name(), at));
            let persistence = reading.persistence(field, || Some(name), &rule.session_persistence);
            RouteRuleSpec { persistence, ..reading.grpc_rule(field, rule, &mut budget) }
        });
        rules.collect()
    })
}

/// A TLSRoute, TCPRoute or UDPRoute.
pub(crate) fn stream_route<B: StreamRoute>(
    object: &Object<B>,
    source: &SourceId,
) -> Option<RouteSpec> {
    let body = &object.body;
    route(object, source, (body.parent_refs(), body.hostnames(), body.parents()), |reading| {
        let rules = reading.each("spec.rules", body.rules());
        let read = |(field, rule): &(String, &StreamRouteRule)| RouteRuleSpec {
            name: rule.name.text().map(Into::into),
            matches: vec![RequestMatch::default()],
            backends: reading.stream_backends(field, rule.backend_refs.elements()),
            ..RouteRuleSpec::default()
        };
        rules.iter().map(read).collect()
    })
}

/// `spec.parentRefs`, `spec.hostnames` and the status of a route.
type Parts<'a> = (&'a [Lax<RouteParentBody>], &'a [Lax<String>], &'a Lax<RouteStatusBody>);

/// What all routes have, and the rules that `rules` reads; nothing of one that is being deleted.
fn route<B>(
    object: &Object<B>,
    source: &SourceId,
    (parents, hostnames, recorded): Parts<'_>,
    rules: impl FnOnce(&mut Reading<'_>) -> Vec<RouteRuleSpec>,
) -> Option<RouteSpec> {
    if object.deleting {
        return None;
    }
    let mut faults = Faults::default();
    let mut reading = Reading { source, namespace: object.namespace(), faults: &mut faults };
    let parents = reading.parents(parents);
    let hostnames = reading.hostnames(hostnames);
    let rules = rules(&mut reading);
    Some(RouteSpec {
        generation: object.generation,
        created_secs: object.created_secs,
        parents,
        hostnames,
        rules,
        faults: faults.into_vec(),
        recorded_status: status::of_route(recorded, source, object.namespace()),
    })
}

impl Reading<'_> {
    fn http_rule(
        &mut self,
        field: &str,
        rule: &HttpRouteRule,
        budget: &mut Budget,
    ) -> RouteRuleSpec {
        let timeouts = rule.timeouts.get();
        RouteRuleSpec {
            name: rule.name.text().map(Into::into),
            matches: self.http_matches(field, rule.matches.elements(), budget),
            filters: self.filters(field, rule.filters.elements()),
            backends: self.backends(field, rule.backend_refs.elements()),
            timeouts: timeouts.map(|body| self.timeouts(field, body)).unwrap_or_default(),
            retry: rule.retry.get().map(|body| self.retry(field, body)),
            persistence: None,
        }
    }

    fn grpc_rule(
        &mut self,
        field: &str,
        rule: &GrpcRouteRule,
        budget: &mut Budget,
    ) -> RouteRuleSpec {
        let filters = rule.filters.elements().iter().map(|filter| match filter {
            Lax::Is(filter) => Lax::Is(FilterBody::from(filter)),
            Lax::Absent => Lax::Absent,
            Lax::Wrong => Lax::Wrong,
        });
        let filters: Vec<Lax<FilterBody>> = filters.collect();
        RouteRuleSpec {
            name: rule.name.text().map(Into::into),
            matches: self.grpc_matches(field, rule.matches.elements(), budget),
            filters: self.filters(field, &filters),
            backends: self.backends(field, rule.backend_refs.elements()),
            ..RouteRuleSpec::default()
        }
    }

    fn backends(&mut self, field: &str, list: &[Lax<BackendRefBody>]) -> Vec<BackendRefSpec> {
        let mut found = Vec::with_capacity(list.len());
        for (field, body) in self.each(&format!("{field}.backendRefs"), list) {
            let filters = body.filters.get().map(|filters| filters.0.as_slice());
            found.push(BackendRefSpec {
                backend: self.backend(&field, body),
                weight: self.weight(&field, &body.weight),
                filters: self.filters(&field, filters.unwrap_or_default()),
            });
        }
        found
    }

    fn stream_backends(
        &mut self,
        field: &str,
        list: &[Lax<StreamBackendBody>],
    ) -> Vec<BackendRefSpec> {
        let mut found = Vec::with_capacity(list.len());
        for (field, body) in self.each(&format!("{field}.backendRefs"), list) {
            found.push(BackendRefSpec {
                backend: self.backend(&field, body),
                weight: self.weight(&field, &body.weight),
                filters: Vec::new(),
            });
        }
        found
    }

    fn weight(&mut self, field: &str, written: &Lax<i64>) -> u32 {
        let Some(weight) = written.get() else { return 1 };
        let weight = u32::try_from(*weight).ok().filter(|weight| *weight <= WEIGHT_MAX);
        weight.unwrap_or_else(|| {
            self.refuse(format!("{field}.weight: is none; write one from 0 to {WEIGHT_MAX}"));
            0
        })
    }

    pub(super) fn timeouts(&mut self, field: &str, body: &TimeoutsBody) -> RuleTimeouts {
        let field = format!("{field}.timeouts");
        RuleTimeouts {
            request_ms: self.duration(&format!("{field}.request"), &body.request),
            backend_ms: self.duration(&format!("{field}.backendRequest"), &body.backend_request),
        }
    }

    pub(super) fn retry(&mut self, field: &str, body: &RetryBody) -> RetryPolicy {
        let field = format!("{field}.retry");
        let mut codes = Vec::new();
        for (field, code) in self.each(&format!("{field}.codes"), body.codes.elements()) {
            match u16::try_from(*code).ok().filter(|code| (400..600).contains(code)) {
                Some(code) => codes.push(code),
                None => self.refuse(format!("{field}: {code} is none; write one from 400 to 599")),
            }
        }
        let attempts = body.attempts.get().map(|count| u32::try_from(*count));
        if matches!(attempts, Some(Err(_))) {
            self.refuse(format!("{field}.attempts: is no count; write one from 1"));
        }
        RetryPolicy {
            codes,
            attempts: attempts.and_then(Result::ok),
            backoff_ms: self.duration(&format!("{field}.backoff"), &body.backoff),
        }
    }

    pub(super) fn duration(&mut self, field: &str, written: &Lax<String>) -> Option<u32> {
        let text = written.text()?;
        let duration = duration_ms(text);
        if duration.is_none() {
            let text = quoted(text);
            self.refuse(format!("{field}: {text} is no duration; write one, as in 1m30s or 500ms"));
        }
        duration
    }
}
