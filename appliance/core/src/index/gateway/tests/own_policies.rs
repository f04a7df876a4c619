//! RequestPolicies and BackendPolicies.

use super::*;
use crate::{
    ExtensionRef, FaultReason, Filter, FilterSpec, PolicySpec, PolicyTarget, RateKey, RateLimit,
    RuleTimeouts, SourceFault, UpstreamProtocol,
};

pub(super) fn policy_name(at: &str) -> ObjectRef {
    name(ObjectKind::RequestPolicy, "default", at)
}

pub(super) fn target(object: ObjectRef, section: Option<&str>) -> PolicyTarget {
    PolicyTarget { object, section: section.map(Into::into) }
}

pub(super) fn asks<W>(created_secs: i64, targets: Vec<PolicyTarget>, wishes: W) -> PolicySpec<W> {
    let (generation, wishes) = (6, Arc::new(wishes));
    PolicySpec { generation, created_secs, targets, wishes, faults: vec![], recorded_status: None }
}

pub(super) fn body_max(bytes: u64) -> RequestWishes {
    RequestWishes { body_max: Some(bytes), ..RequestWishes::default() }
}

pub(super) fn set_request_policy(at: &str, spec: Option<PolicySpec<RequestWishes>>) -> Update {
    let spec = spec.map(Box::new);
    Update::Source(SourceUpdate::RequestPolicy { object: policy_name(at), spec })
}

pub(super) fn set_backend_policy(at: &str, spec: Option<PolicySpec<BackendWishes>>) -> Update {
    let object = name(ObjectKind::BackendPolicy, "default", at);
    Update::Source(SourceUpdate::BackendPolicy { object, spec: spec.map(Box::new) })
}

pub(super) fn named_filter(policy: &str) -> FilterSpec {
    let kind = "haflinger.dev/RequestPolicy".into();
    FilterSpec::Extension(ExtensionRef { kind, name: policy.into() })
}

fn served() -> [Update; 2] {
    [
        set_gateway("g", Some(gateway(vec![http("web", None)]))),
        set_route("r", Some(named_rule(route("g", &[])))),
    ]
}

fn named_rule(mut route: RouteSpec) -> RouteSpec {
    route.rules[0].name = Some("all".into());
    route
}

fn with(policies: impl IntoIterator<Item = Update>) -> Index {
    index(served().into_iter().chain(policies))
}

fn invalid<W>(spec: PolicySpec<W>) -> PolicySpec<W> {
    let faults = vec![SourceFault::new(FaultReason::InvalidField, "spec.bodyMax: is no size")];
    PolicySpec { faults, ..spec }
}

/// Sizes that bodies of the only rule's requests may have.
fn sizes(index: &Index) -> Vec<u64> {
    let size = |filter: &Filter| match filter {
        Filter::BodyMax(bytes) => *bytes,
        other => panic!("{other:?}"),
    };
    rules(index, 80)[0].action.filters.iter().map(size).collect()
}

fn answers(index: &Index) -> Option<u16> {
    rules(index, 80)[0].action.backends[0].to.as_ref().err().copied()
}

/// What a policy is told: the target, its part, and the conditions.
fn told(index: &Index, policy: &ObjectRef) -> Vec<(String, Vec<String>)> {
    let report = report(index, policy);
    let Some(ApiStatus::Policy(ancestors)) = report.status.as_deref() else { panic!("{report:?}") };
    let told = |ancestor: &crate::ParentStatus| {
        let ParentSpec { object, section, .. } = &ancestor.parent;
        let place = format!("{}/{}", object.name, section.as_deref().unwrap_or_default());
        (place, said(&ancestor.conditions))
    };
    ancestors.iter().map(told).collect()
}

fn accepted(place: &str) -> (String, Vec<String>) {
    (place.to_owned(), vec!["+Accepted Accepted".to_owned()])
}

fn refused(place: &str, reason: &str) -> (String, Vec<String>) {
    (place.to_owned(), vec![format!("-Accepted {reason}")])
}

#[test]
fn the_closest_of_the_policies_counts_for_each_wish() {
    let places = [
        ("gateway", target(gateway_name("g"), None)),
        ("listener", target(gateway_name("g"), Some("web"))),
        ("route", target(route_name("r"), None)),
        ("rule", target(route_name("r"), Some("all"))),
    ];
    let mut index = with([]);
    for (size, (at, target)) in (1..).zip(places) {
        index.apply(set_request_policy(at, Some(asks(1, vec![target], body_max(size)))));
        index.publish(size).unwrap();
        assert_eq!(sizes(&index), [size], "{at}");
        assert_eq!(told(&index, &policy_name(at)).len(), 1);
    }
    index.apply(set_request_policy("rule", None));
    index.publish(9).unwrap();
    assert_eq!(sizes(&index), [3], "the next wider one counts again");
}

#[test]
fn a_filter_of_the_rule_that_names_a_policy_comes_before_policies_for_it() {
    let mut filtered = named_rule(route("g", &[]));
    filtered.rules[0].filters = vec![named_filter("named")];
    let mut index = with([
        set_route("r", Some(filtered)),
        set_request_policy("all", Some(asks(1, vec![target(route_name("r"), None)], body_max(1)))),
    ]);
    assert_eq!(answers(&index), Some(500), "nobody gets past a filter that is missing");
    let conditions = ["+Accepted Accepted", "-ResolvedRefs FilterNotFound"];
    assert_eq!(parents_of(&index, &route_name("r")), [conditions]);
    index.apply(set_request_policy("named", Some(asks(2, vec![], body_max(2)))));
    index.publish(1).unwrap();
    assert_eq!((sizes(&index), answers(&index)), (vec![2], None));
    assert_eq!(parents_of(&index, &route_name("r")), [ROUTE_GOOD]);
    assert_eq!(told(&index, &policy_name("named")), [accepted("r/")]);
    let named = invalid(asks(2, vec![], body_max(2)));
    index.apply(set_request_policy("named", Some(named)));
    index.publish(2).unwrap();
    assert_eq!(answers(&index), Some(500));
    let conditions = ["+Accepted Accepted", "-ResolvedRefs InvalidFilter"];
    assert_eq!(parents_of(&index, &route_name("r")), [conditions]);
    assert_eq!(told(&index, &policy_name("named")), [refused("r/", "Invalid")]);
}

#[test]
fn at_a_backend_a_policy_is_asked_besides_those_of_the_rule() {
    let mut filtered = named_rule(route("g", &[]));
    filtered.rules[0].backends[0].filters = vec![named_filter("named")];
    let whole = asks(1, vec![target(route_name("r"), None)], body_max(1));
    let mut index = with([
        set_route("r", Some(filtered)),
        set_request_policy("all", Some(whole)),
        set_request_policy("named", Some(asks(1, vec![], body_max(2)))),
    ]);
    assert_eq!(sizes(&index), [1]);
    let backend = rules(&index, 80)[0].action.backends[0].clone();
    assert_eq!(backend.filters, [Filter::BodyMax(2)]);
    let timeouts = RuleTimeouts { request_ms: Some(1), backend_ms: None };
    let wishes = RequestWishes { timeouts, ..RequestWishes::default() };
    index.apply(set_request_policy("named", Some(asks(1, vec![], wishes))));
    index.publish(1).unwrap();
    assert_eq!(answers(&index), Some(500), "a backend has no timeouts of its own");
    let conditions = ["+Accepted Accepted", "-ResolvedRefs UnsupportedValue"];
    assert_eq!(parents_of(&index, &route_name("r")), [conditions]);
}

#[test]
fn of_two_policies_for_one_target_the_older_counts_and_the_other_is_told() {
    let place = || vec![target(route_name("r"), None)];
    let mut index = with([
        set_request_policy("young", Some(asks(2, place(), body_max(2)))),
        set_request_policy("old", Some(asks(1, place(), body_max(1)))),
    ]);
    assert_eq!(sizes(&index), [1]);
    assert_eq!(told(&index, &policy_name("old")), [accepted("r/")]);
    assert_eq!(told(&index, &policy_name("young")), [refused("r/", "Conflicted")]);
    let young = report(&index, &policy_name("young"));
    assert_eq!(young.faults[0].reason, FaultReason::PolicyConflicted);
    index.apply(set_request_policy("old", None));
    index.publish(1).unwrap();
    assert_eq!(sizes(&index), [2]);
    assert_eq!(told(&index, &policy_name("young")), [accepted("r/")]);
}

#[test]
fn nobody_gets_past_a_policy_that_cannot_be_followed() {
    let whole = asks(1, vec![target(gateway_name("g"), None)], body_max(1));
    let mut index = with([set_request_policy("p", Some(invalid(whole.clone())))]);
    assert_eq!(answers(&index), Some(500));
    assert_eq!(told(&index, &policy_name("p")), [refused("g/", "Invalid")]);
    index.apply(set_request_policy("p", Some(whole)));
    index.publish(1).unwrap();
    assert_eq!((sizes(&index), answers(&index)), (vec![1], None));
}

#[test]
fn a_target_that_is_missing_is_told_until_it_is_there() {
    let places = vec![
        target(route_name("late"), None),
        target(route_name("r"), Some("none")),
        target(gateway_name("g"), Some("web")),
    ];
    let mut index = with([set_request_policy("p", Some(asks(1, places, body_max(1))))]);
    let policy = policy_name("p");
    let wanted = [
        refused("late/", "TargetNotFound"),
        refused("r/none", "TargetNotFound"),
        accepted("g/web"),
    ];
    assert_eq!(told(&index, &policy), wanted);
    index.apply(set_route("late", Some(route("g", &["late.test"]))));
    index.publish(1).unwrap();
    assert_eq!(told(&index, &policy)[0], accepted("late/"));
    let class = name(ObjectKind::GatewayClass, "", "edge");
    index.apply(Update::Source(SourceUpdate::GatewayClass { object: class, spec: None }));
    index.publish(2).unwrap();
    assert_eq!(told(&index, &policy)[2], refused("g/web", "TargetNotFound"), "not ours any more");
}

#[test]
fn a_policy_changes_the_gateways_that_it_concerns_and_no_other() {
    let mut index = with([
        set_gateway("other", Some(gateway(vec![http("web", None)]))),
        set_request_policy("p", Some(asks(1, vec![target(gateway_name("g"), None)], body_max(1)))),
    ]);
    let built = index.gateway_builds();
    let mut changed = asks(1, vec![target(gateway_name("g"), None)], body_max(2));
    index.apply(set_request_policy("p", Some(changed.clone())));
    index.publish(1).unwrap();
    assert_eq!(index.gateway_builds(), built + 1);
    changed.recorded_status = Some(Box::new(ApiStatus::Policy(Vec::new())));
    index.apply(set_request_policy("p", Some(changed)));
    index.publish(2).unwrap();
    assert_eq!(index.gateway_builds(), built + 1, "what its status records changes nothing");
}

#[test]
fn listeners_of_a_set_are_under_the_policies_of_their_gateway() {
    let set = listener_set("g", vec![http("shop", Some("shop.test"))]);
    let set_name = name(ObjectKind::ListenerSet, "default", "s");
    let mut of_set = route("g", &[]);
    of_set.parents = vec![parent(set_name.clone(), None)];
    let mut open = gateway(vec![https("tls", None, "c")]);
    open.allowed_sets = NamespaceChoice::All;
    let rate = RateLimit {
        requests: 1,
        period_ms: 1000,
        burst: 1,
        per: RateKey::Header("x-key".into()),
        status: 429,
    };
    let rates = RequestWishes { rates: Some(vec![rate.clone()]), ..RequestWishes::default() };
    let index = index([
        set_gateway("g", Some(open)),
        set_set("s", Some(set)),
        set_route("r", Some(of_set)),
        set_request_policy("wide", Some(asks(1, vec![target(gateway_name("g"), None)], rates))),
        set_request_policy("set", Some(asks(1, vec![target(set_name, Some("shop"))], body_max(5)))),
    ]);
    let scope = policy_name("wide").to_string().into();
    let wanted = [Filter::Rate { limit: rate, scope }, Filter::BodyMax(5)];
    assert_eq!(rules(&index, 80)[0].action.filters, wanted);
}

#[test]
fn backends_are_spoken_to_as_their_policies_say_a_port_s_own_first() {
    let speaks = |speaks| BackendWishes { speaks: Some(speaks), ..BackendWishes::default() };
    let web = |section| vec![target(object("web"), section)];
    let mut index = with([set_backend_policy(
        "whole",
        Some(asks(1, web(None), speaks(UpstreamProtocol::Http2))),
    )]);
    let spoken = |index: &Index| {
        let to = rules(index, 80)[0].action.backends[0].to.clone();
        to.map(|to| to.speaks)
    };
    assert_eq!(spoken(&index), Ok(UpstreamProtocol::Http2));
    let policy = |at| name(ObjectKind::BackendPolicy, "default", at);
    assert_eq!(told(&index, &policy("whole")), [accepted("web/")]);
    let of_port = asks(2, web(Some("web")), speaks(UpstreamProtocol::Http1));
    index.apply(set_backend_policy("port", Some(of_port.clone())));
    index.publish(1).unwrap();
    assert_eq!(spoken(&index), Ok(UpstreamProtocol::Http1));
    index.apply(set_backend_policy("port", Some(invalid(of_port))));
    index.publish(2).unwrap();
    assert_eq!(spoken(&index), Err(500), "nobody gets past it");
    assert_eq!(parents_of(&index, &route_name("r")), [ROUTE_GOOD], "the reference is good");
    assert_eq!(told(&index, &policy("port")), [refused("web/web", "Invalid")]);
    index.apply(set_backend_policy("port", None));
    index.apply(set_service("web", None));
    index.publish(3).unwrap();
    assert_eq!(told(&index, &policy("whole")), [refused("web/", "TargetNotFound")]);
}

#[test]
fn an_ingress_is_under_policies_for_it_and_for_its_services() {
    let ingress = ObjectRef::ingress(&cluster(), "default", "site");
    let place = || vec![target(ingress.clone(), None)];
    let mut index = with([
        set_request_policy("p", Some(asks(1, place(), body_max(1)))),
        set_backend_policy(
            "b",
            Some(asks(
                1,
                vec![target(object("web"), None)],
                BackendWishes { speaks: Some(UpstreamProtocol::Http2), ..BackendWishes::default() },
            )),
        ),
    ]);
    assert_eq!(told(&index, &policy_name("p")), [refused("site/", "TargetNotFound")]);
    let service =
        crate::IngressBackend { service: object("web"), port: crate::IngressPort::Number(80) };
    let spec = crate::IngressSpec {
        default_backend: Some(service),
        requested: vec!["192.0.2.77".parse().unwrap()],
        recorded: vec!["192.0.2.77".parse().unwrap()],
        requests: crate::IngressRequests { wishes: body_max(9), ..Default::default() },
        ..crate::IngressSpec::default()
    };
    let spec = Some(Box::new(spec));
    index.apply(Update::Source(SourceUpdate::Ingress { object: ingress.clone(), spec }));
    index.publish(1).unwrap();
    let action = |index: &Index| {
        let at = SocketAddr::new("192.0.2.77".parse().unwrap(), 80);
        index.current().http[&at].rules().next().unwrap().action.clone()
    };
    assert_eq!(action(&index).filters, [Filter::BodyMax(1)], "a policy counts more");
    assert_eq!(action(&index).backends[0].to.as_ref().unwrap().speaks, UpstreamProtocol::Http2);
    assert_eq!(told(&index, &policy_name("p")), [accepted("site/")]);
    index.apply(set_request_policy("p", Some(invalid(asks(1, place(), body_max(1))))));
    index.publish(2).unwrap();
    assert_eq!(action(&index).backends[0].to, Err(500));
    index.apply(set_request_policy("p", None));
    index.apply(set_backend_policy("b", None));
    index.publish(3).unwrap();
    assert_eq!(action(&index).filters, [Filter::BodyMax(9)]);
    assert_eq!(action(&index).backends[0].to.as_ref().unwrap().speaks, UpstreamProtocol::Http1);
}
