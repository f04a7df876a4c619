//! TLS to backends, and what clients have to show.

use super::*;
use crate::{
    AuthorityChoice, AuthorityKind, PortClientValidation, SectionTls, UpstreamAuthorities,
};

fn authority(at: &str) -> AuthorityRef {
    let (kind, namespace, name) = (AuthorityKind::ConfigMap, "default".into(), at.into());
    AuthorityRef { source: cluster(), kind, namespace, name }
}

fn set_authority(at: &str) -> Update {
    let material = AuthoritySpec { pem: at.as_bytes().to_vec(), ..AuthoritySpec::default() };
    let (authority, material) = (authority(at), Some(Box::new(material)));
    Update::Source(SourceUpdate::Authority { authority, material })
}

fn policy(host: &str, section: Option<&str>, created_secs: i64) -> BackendTlsPolicySpec {
    BackendTlsPolicySpec {
        generation: 4,
        created_secs,
        targets: vec![(object("web"), section.map(Into::into))],
        authorities: vec![AuthorityChoice::Object(authority("ca"))],
        system_authorities: false,
        hostname: host.into(),
        subject_names: vec![],
        faults: vec![],
        recorded_status: None,
    }
}

fn set_policy(at: &str, spec: Option<BackendTlsPolicySpec>) -> Update {
    let object = name(ObjectKind::BackendTlsPolicy, "default", at);
    Update::Source(SourceUpdate::BackendTlsPolicy { object, spec: spec.map(Box::new) })
}

fn ancestors(index: &Index, at: &str) -> Vec<Vec<String>> {
    let report = report(index, &name(ObjectKind::BackendTlsPolicy, "default", at));
    let Some(ApiStatus::Policy(ancestors)) = report.status.as_deref() else { panic!("{report:?}") };
    ancestors.iter().map(|ancestor| said(&ancestor.conditions)).collect()
}

/// The name that the backend of the only rule is greeted with; the status in its place.
fn greeted(index: &Index) -> Result<Option<Arc<str>>, u16> {
    let rules = rules(index, 80);
    let to = rules[0].action.backends[0].to.as_ref().map_err(|status| *status)?;
    Ok(to.tls.as_ref().map(|tls| tls.server_name.clone()))
}

fn served() -> [Update; 2] {
    [
        set_gateway("g", Some(gateway(vec![http("web", None)]))),
        set_route("r", Some(route("g", &[]))),
    ]
}

#[test]
fn a_policy_whose_authorities_are_missing_is_not_bypassed() {
    let policies = [set_policy("p", Some(policy("a.test", None, 1)))];
    let mut index = index(served().into_iter().chain(policies));
    assert_eq!(greeted(&index), Err(500));
    let refused = ["-Accepted NoValidCACertificate", "-ResolvedRefs InvalidCACertificateRef"];
    assert_eq!(ancestors(&index, "p"), [refused]);
    assert_eq!(parents_of(&index, &route_name("r")), [ROUTE_GOOD], "the reference is good");
    index.apply(set_authority("ca"));
    index.publish(1).unwrap();
    assert_eq!(greeted(&index), Ok(Some("a.test".into())));
    assert_eq!(ancestors(&index, "p"), [ROUTE_GOOD]);
    let rules = rules(&index, 80);
    let to = rules[0].action.backends[0].to.as_ref().unwrap();
    let UpstreamAuthorities::These(these) = &to.tls.as_ref().unwrap().authorities else {
        panic!("{to:?}")
    };
    assert_eq!(these[0].pem, b"ca");
    index.apply(set_policy("p", None));
    index.publish(2).unwrap();
    assert_eq!(greeted(&index), Ok(None));
}

#[test]
fn of_policies_for_one_target_the_oldest_counts_and_a_port_s_own_goes_first() {
    let policies = [
        set_authority("ca"),
        set_policy("whole-old", Some(policy("whole.test", None, 1))),
        set_policy("whole-young", Some(policy("late.test", None, 2))),
    ];
    let mut index = index(served().into_iter().chain(policies));
    assert_eq!(greeted(&index), Ok(Some("whole.test".into())));
    assert_eq!(ancestors(&index, "whole-old"), [ROUTE_GOOD]);
    let conflicted = ["-Accepted Conflicted", "+ResolvedRefs ResolvedRefs"];
    assert_eq!(ancestors(&index, "whole-young"), [conflicted]);
    index.apply(set_policy("port", Some(policy("port.test", Some("web"), 9))));
    index.publish(1).unwrap();
    assert_eq!(greeted(&index), Ok(Some("port.test".into())));
    assert_eq!(ancestors(&index, "port"), [ROUTE_GOOD]);
    assert_eq!(ancestors(&index, "whole-old"), [ROUTE_GOOD]);
}

#[test]
fn a_kind_that_holds_no_authorities_is_told_as_such() {
    let mut odd = policy("a.test", None, 1);
    odd.authorities = vec![AuthorityChoice::Other("example/Vault ca".into())];
    let index = index(served().into_iter().chain([set_policy("p", Some(odd))]));
    let refused = ["-Accepted NoValidCACertificate", "-ResolvedRefs InvalidKind"];
    assert_eq!(ancestors(&index, "p"), [refused]);
    assert_eq!(greeted(&index), Err(500));
}

#[test]
fn a_gateway_s_own_certificate_is_shown_to_backends() {
    let choice = |at: &str| Some(CertificateChoice::Secret(certificate("default", at)));
    let with = |at: &str| GatewaySpec {
        backend_certificate: choice(at),
        ..gateway(vec![http("web", None)])
    };
    let mut index = index([
        set_gateway("g", Some(with("client"))),
        set_route("r", Some(route("g", &[]))),
        set_authority("ca"),
        set_policy("p", Some(policy("a.test", None, 1))),
    ]);
    let (conditions, _) = listeners_of(&index, &gateway_name("g"));
    assert_eq!(conditions[0], "+Accepted Accepted");
    assert_eq!(conditions[2], "-ResolvedRefs InvalidClientCertificateRef");
    index.apply(set_certificate("default", "client"));
    index.publish(1).unwrap();
    assert_eq!(listeners_of(&index, &gateway_name("g")).0, GATEWAY_GOOD);
    let rules = rules(&index, 80);
    let tls = rules[0].action.backends[0].to.as_ref().unwrap().tls.clone().unwrap();
    assert_eq!(tls.client_certificate, Some(certificate("default", "client")));
    assert!(index.current().certificates.contains_key(&certificate("default", "client")));
}

fn asking(port: Option<u16>, at: &str) -> PortClientValidation {
    let authorities = vec![AuthorityChoice::Object(authority(at))];
    PortClientValidation { port, authorities, insecure_fallback: false }
}

#[test]
fn clients_show_what_the_port_asks_or_else_the_gateway() {
    let own = ListenerSpec { port: 444, ..https("own", None, "cert") };
    let mut spec = gateway(vec![https("default", None, "cert"), own, http("plain", None)]);
    spec.client_validation = vec![asking(Some(444), "port"), asking(None, "ca")];
    let mut index = index([
        set_gateway("g", Some(spec.clone())),
        set_certificate("default", "cert"),
        set_authority("ca"),
    ]);
    let asked = |index: &Index, port: u16| {
        let tls: SectionTls = listening(index, port)?.sections[0].tls.clone()?;
        let client = tls.client?;
        Some((String::from_utf8(client.authorities[0].pem.clone()).unwrap(), client.optional))
    };
    assert_eq!(asked(&index, 443), Some(("ca".to_owned(), false)));
    assert!(listening(&index, 444).is_none(), "nobody could be let in");
    let (_, listeners) = listeners_of(&index, &gateway_name("g"));
    let told = said(&listeners[1].conditions);
    assert_eq!(told[0], "-Accepted NoValidCACertificate");
    assert_eq!(told[1..3], ["-Programmed Invalid", "-ResolvedRefs InvalidCACertificateRef"]);
    assert_eq!(said(&listeners[2].conditions), LISTENER_GOOD, "plain text is not concerned");
    spec.client_validation[0].insecure_fallback = true;
    index.apply(set_authority("port"));
    index.apply(set_gateway("g", Some(spec)));
    index.publish(1).unwrap();
    assert_eq!(asked(&index, 444), Some(("port".to_owned(), true)));
    let (conditions, _) = listeners_of(&index, &gateway_name("g"));
    assert_eq!(conditions[3], "+InsecureFrontendValidationMode ConfigurationChanged");
}
