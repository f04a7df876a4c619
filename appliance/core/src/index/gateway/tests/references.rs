//! References, grants and what routes are told.

use super::*;
use crate::{GrantFrom, GrantTo};

fn grant(from: ObjectKind, to: &str, to_name: Option<&str>) -> Update {
    let from = GrantFrom {
        group: "gateway.networking.k8s.io".into(),
        kind: from.api_kind().into(),
        namespace: "default".into(),
    };
    let to = GrantTo { group: "".into(), kind: to.into(), name: to_name.map(Into::into) };
    let spec = ReferenceGrantSpec { from: vec![from], to: vec![to] };
    let object = name(ObjectKind::ReferenceGrant, "there", "grant");
    Update::Source(SourceUpdate::ReferenceGrant { object, spec: Some(Box::new(spec)) })
}

#[test]
fn a_reference_to_another_namespace_needs_a_grant_there() {
    let mut spec = route("g", &[]);
    let there = ObjectRef::service(&cluster(), "there", "web");
    spec.rules[0].backends[0].backend =
        BackendRef::Service { object: there.clone(), port: Some(80) };
    let plain = crate::ServiceSpec { exposure: None, ..service(&[]) };
    let service = SourceUpdate::Service { object: there, spec: Some(Box::new(plain)) };
    let mut index = index([
        set_gateway("g", Some(gateway(vec![http("web", None)]))),
        Update::Source(service),
        set_route("r", Some(spec)),
    ]);
    let resolved = |index: &Index| parents_of(index, &route_name("r"))[0][1].clone();
    assert_eq!(resolved(&index), "-ResolvedRefs RefNotPermitted");
    assert_eq!(rules(&index, 80)[0].action.backends[0].to, Err(500));
    for (update, expected) in [
        (grant(ObjectKind::GrpcRoute, "Service", None), "-ResolvedRefs RefNotPermitted"),
        (grant(ObjectKind::HttpRoute, "Secret", None), "-ResolvedRefs RefNotPermitted"),
        (grant(ObjectKind::HttpRoute, "Service", Some("x")), "-ResolvedRefs RefNotPermitted"),
        (grant(ObjectKind::HttpRoute, "Service", Some("web")), "+ResolvedRefs ResolvedRefs"),
        (grant(ObjectKind::HttpRoute, "Service", None), "+ResolvedRefs ResolvedRefs"),
    ] {
        index.apply(update);
        index.publish(1);
        assert_eq!(resolved(&index), expected);
    }
}

#[test]
fn a_certificate_that_is_not_there_or_not_granted_is_told_at_the_listener() {
    let mut foreign = https("foreign", Some("b.test"), "cert");
    let choice = CertificateChoice::Secret(certificate("there", "cert"));
    foreign.tls.as_mut().unwrap().certificates = vec![choice];
    let mut index = index([
        set_gateway("g", Some(gateway(vec![https("own", Some("a.test"), "cert"), foreign]))),
        set_certificate("there", "cert"),
    ]);
    let told = |index: &Index| {
        let (conditions, listeners) = listeners_of(index, &gateway_name("g"));
        let of_listeners: Vec<String> =
            listeners.iter().map(|at| said(&at.conditions)[1..3].join(" ")).collect();
        (conditions, of_listeners)
    };
    let (conditions, listeners) = told(&index);
    assert_eq!(conditions[1], "-Programmed Invalid");
    assert_eq!(conditions[2], "-ResolvedRefs ListenersNotResolved");
    assert_eq!(listeners[0], "-Programmed Invalid -ResolvedRefs InvalidCertificateRef");
    assert_eq!(listeners[1], "-Programmed Invalid -ResolvedRefs RefNotPermitted");
    assert!(listening(&index, 443).is_none());
    index.apply(set_certificate("default", "cert"));
    index.apply(grant(ObjectKind::Gateway, "Secret", None));
    index.publish(1).unwrap();
    let (conditions, listeners) = told(&index);
    assert_eq!(conditions, GATEWAY_GOOD);
    assert_eq!(listeners, ["+Programmed Programmed +ResolvedRefs ResolvedRefs"; 2]);
    assert_eq!(listening(&index, 443).unwrap().sections.len(), 2);
    assert_eq!(index.current().certificates.len(), 2);
    let fault = crate::SourceFault::new(crate::FaultReason::CertificateInvalid, "key is odd");
    let certificate = certificate("default", "cert");
    index.apply(Update::Certificate { certificate, fault: Some(fault) });
    index.publish(2).unwrap();
    let (_, listeners) = told(&index);
    assert_eq!(listeners[0], "-Programmed Invalid -ResolvedRefs InvalidCertificateRef");
    assert_eq!(listening(&index, 443).unwrap().sections.len(), 2, "the former stays");
}

#[test]
fn a_notice_about_a_certificate_is_told_and_changes_no_condition() {
    let listeners = vec![https("shop", Some("shop.test"), "cert")];
    let mut index =
        index([set_certificate("default", "cert"), set_gateway("g", Some(gateway(listeners)))]);
    let before = listeners_of(&index, &gateway_name("g"));
    let expires = crate::SourceFault::new(crate::FaultReason::CertificateExpires, "in 3 days");
    let notice = |notices: &[crate::SourceFault]| Update::CertificateNotice {
        certificate: certificate("default", "cert"),
        notices: notices.to_vec(),
    };
    let faults = |index: &Index| index.current().reports[&gateway_name("g")].faults.clone();
    index.apply(notice(std::slice::from_ref(&expires)));
    index.publish(1).unwrap();
    assert_eq!(faults(&index), [expires]);
    assert_eq!(listeners_of(&index, &gateway_name("g")), before);
    index.apply(notice(&[]));
    index.publish(2).unwrap();
    assert_eq!(faults(&index), []);
}

#[test]
fn a_route_is_told_why_it_does_not_attach() {
    let mut tls_only = http("tls-only", Some("tls.test"));
    tls_only.allowed_kinds = vec![Ok(ObjectKind::TlsRoute)];
    let listeners = vec![http("web", Some("web.test")), tls_only];
    let to = |section: &str, host: &str| RouteSpec {
        parents: vec![parent(gateway_name("g"), Some(section))],
        ..route("g", &[host])
    };
    let mut port = to("web", "web.test");
    port.parents[0].port = Some(81);
    let index = index([
        set_gateway("g", Some(gateway(listeners))),
        set_route("section", Some(to("missing", "web.test"))),
        set_route("port", Some(port)),
        set_route("kind", Some(to("tls-only", "tls.test"))),
        set_route("host", Some(to("web", "other.test"))),
        set_route("good", Some(to("web", "web.test"))),
    ]);
    let told = |at: &str| parents_of(&index, &route_name(at))[0][0].clone();
    assert_eq!(told("section"), "-Accepted NoMatchingParent");
    assert_eq!(told("port"), "-Accepted NoMatchingParent");
    assert_eq!(told("kind"), "-Accepted NotAllowedByListeners");
    assert_eq!(told("host"), "-Accepted NoMatchingListenerHostname");
    assert_eq!(told("good"), "+Accepted Accepted");
    let (conditions, listeners) = listeners_of(&index, &gateway_name("g"));
    let attached: Vec<u32> = listeners.iter().map(|at| at.attached_routes).collect();
    assert_eq!(attached, [1, 0]);
    assert_eq!(said(&listeners[1].conditions)[2], "-ResolvedRefs InvalidRouteKinds");
    assert_eq!(conditions[0], "+Accepted Accepted");
}

#[test]
fn what_a_service_port_speaks_decides_how_it_is_spoken_to() {
    use crate::UpstreamProtocol;
    let mut index = index([
        set_gateway("g", Some(gateway(vec![http("web", None)]))),
        set_route("r", Some(route("g", &[]))),
    ]);
    for (app_protocol, expected) in [
        ("kubernetes.io/h2c", Ok(UpstreamProtocol::Http2)),
        ("kubernetes.io/ws", Ok(UpstreamProtocol::Http1)),
        ("https", Err(500)),
        ("mongo", Ok(UpstreamProtocol::Http1)),
    ] {
        let mut spec = crate::ServiceSpec { exposure: None, ..service(&[]) };
        spec.ports[0].app_protocol = Some(app_protocol.into());
        index.apply(set_service("web", Some(spec)));
        index.publish(1);
        let rules = rules(&index, 80);
        let to = &rules[0].action.backends[0].to;
        assert_eq!(to.as_ref().map(|to| to.speaks).map_err(|status| *status), expected);
        let unsupported = "-ResolvedRefs UnsupportedProtocol";
        let told = parents_of(&index, &route_name("r"))[0][1] == unsupported;
        assert_eq!(told, expected.is_err());
    }
}

#[test]
fn namespaces_are_let_in_by_their_labels() {
    use crate::{LabelRequirement, LabelSelector, LabelTest};
    let requirement = LabelRequirement {
        key: "team".into(),
        test: LabelTest::In(BTreeSet::from(["web".into()])),
    };
    let selector = LabelSelector { text: "team=web".into(), requirements: vec![requirement] };
    let mut listener = http("web", None);
    listener.allowed_namespaces = NamespaceChoice::Labels(selector);
    let there = name(ObjectKind::HttpRoute, "there", "r");
    let spec = Some(Box::new(RouteSpec { rules: vec![], ..route("g", &[]) }));
    let mut index = index([
        set_gateway("g", Some(gateway(vec![listener]))),
        Update::Source(SourceUpdate::Route { object: there.clone(), spec }),
    ]);
    for (team, expected) in [
        (None, "-Accepted NotAllowedByListeners"),
        (Some("web"), "+Accepted Accepted"),
        (Some("other"), "-Accepted NotAllowedByListeners"),
    ] {
        let all_labels = team.map(|team| ("team".into(), team.into())).into_iter().collect();
        let spec = Some(Box::new(NamespaceSpec { all_labels, ..NamespaceSpec::default() }));
        let (source, name) = (cluster(), "there".into());
        index.apply(Update::Source(SourceUpdate::Namespace { source, name, spec }));
        index.publish(1);
        assert_eq!(parents_of(&index, &there)[0][0], expected);
    }
}

#[test]
fn rules_that_cannot_be_followed_are_dropped_or_answer_with_an_error() {
    use crate::{ExtensionRef, FilterSpec, Redirect, Rewrite};
    let redirect = Redirect { scheme: None, host: None, path: None, port: None, status: 302 };
    let both = vec![FilterSpec::Redirect(redirect), FilterSpec::Rewrite(Rewrite::default())];
    let bad = RouteRuleSpec { filters: both, ..rule("/bad", vec![]) };
    let extension = ExtensionRef { kind: "example/Filter".into(), name: "x".into() };
    let filters = vec![FilterSpec::Extension(extension)];
    let unknown = RouteRuleSpec { filters, ..rule("/unknown", vec![backend("web", 1)]) };
    let with = |rules: Vec<RouteRuleSpec>| RouteSpec { rules, ..route("g", &[]) };
    let index = index([
        set_gateway("g", Some(gateway(vec![http("web", None)]))),
        set_route("some", Some(with(vec![rule("/", vec![backend("web", 1)]), bad.clone()]))),
        set_route("none", Some(with(vec![bad]))),
        set_route("unknown", Some(with(vec![unknown]))),
    ]);
    let rules = rules(&index, 80);
    let paths: Vec<&str> = rules.iter().map(|rule| rule.matches.path.as_str()).collect();
    assert_eq!(paths, ["/unknown", "/"]);
    assert_eq!(rules[0].action.backends[0].to, Err(500));
    let told = |at: &str| parents_of(&index, &route_name(at))[0].clone();
    assert_eq!(told("some"), [&ROUTE_GOOD[..], &["+PartiallyInvalid UnsupportedValue"]].concat());
    assert_eq!(told("none")[0], "-Accepted IncompatibleFilters");
    assert_eq!(told("unknown"), ["+Accepted Accepted", "-ResolvedRefs InvalidKind"]);
    let (_, listeners) = listeners_of(&index, &gateway_name("g"));
    assert_eq!(listeners[0].attached_routes, 2);
}

#[test]
fn a_route_that_discovery_could_not_read_is_not_accepted() {
    let fault = crate::SourceFault::new(crate::FaultReason::InvalidField, "rules[0]: is odd");
    let spec = RouteSpec { faults: vec![fault], ..route("g", &[]) };
    let index = index([
        set_gateway("g", Some(gateway(vec![http("web", None)]))),
        set_route("r", Some(spec)),
    ]);
    assert_eq!(parents_of(&index, &route_name("r"))[0][0], "-Accepted UnsupportedValue");
    assert!(rules(&index, 80).is_empty());
}
