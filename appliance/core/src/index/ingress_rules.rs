//! What an Ingress asks for its requests, as filters of its rules. Pure.

use std::sync::Arc;

use super::wishes::{Layer, UNFOLLOWED};
use crate::{
    BackendWishes, FieldEdits, Filter, IngressRequests, IngressRule, IngressSpec, IngressTls,
    ObjectRef, PathRewrite, Redirect, Rewrite, RuleAction, RuleBackend, Target, ToHttps, Upstream,
};

/// The answer where a backend is missing.
const NO_BACKEND: u16 = 503;

/// Status of a redirect to the root of an application: the place may change.
const ROOT_STATUS: u16 = 302;

/// The port that a listener is on, and what is spoken there.
#[derive(Clone, Copy)]
pub(super) struct Port {
    /// Clients speak TLS.
    pub(super) tls: bool,
    /// Where the Ingress is served by TLS.
    pub(super) https: u16,
}

/// Policies that an Ingress is under.
pub(super) struct Policies {
    /// For its requests.
    pub(super) requests: Option<Layer>,
    /// For the Service that a rule leads to; `None`: they cannot be followed.
    pub(super) backends: Option<BackendWishes>,
}

impl Default for Policies {
    /// None.
    fn default() -> Self {
        Self { requests: None, backends: Some(BackendWishes::default()) }
    }
}

/// What is done with the requests of a rule; of the default backend's, without one.
pub(super) fn action(
    object: &ObjectRef,
    spec: &IngressSpec,
    rule: Option<&IngressRule>,
    port: Port,
    target: Option<Target>,
    policies: &Policies,
) -> RuleAction {
    let requests = &spec.requests;
    let host = rule.and_then(|rule| rule.host.as_ref());
    let redirect = match &requests.to_https {
        Some(to_https) if !port.tls && (to_https.always || is_served_by_tls(&spec.tls, host)) => {
            Some(https(*to_https, port.https))
        }
        _ => requests.redirect.clone(),
    };
    if let Some(redirect) = redirect {
        return RuleAction { filters: vec![Filter::Redirect(redirect)], ..RuleAction::default() };
    }
    let to = target.ok_or(NO_BACKEND).and_then(|target| {
        let wishes = policies.backends.as_ref().ok_or(UNFOLLOWED)?.or(&requests.backends);
        let speaks = wishes.speaks.unwrap_or_default();
        Ok(Upstream { speaks, balance: wishes.balance(), ..Upstream::plain(target) })
    });
    let action = RuleAction {
        backends: vec![RuleBackend { weight: 1, to, filters: Vec::new() }],
        filters: filters(requests, rule.and_then(|rule| rule.rewrite.clone())),
        ..RuleAction::default()
    };
    // A policy was written for Haflinger; annotations may be older than the move to it.
    let wishes = Some(Arc::new(requests.wishes.clone()));
    let own = Layer { object: object.clone(), wishes };
    action.under(policies.requests.iter().chain([&own]))
}

/// What is done with requests for `/` alone.
pub(super) fn to_root(root: &Arc<str>) -> RuleAction {
    let redirect = Redirect {
        scheme: None,
        host: None,
        path: Some(PathRewrite::Full(root.clone())),
        port: None,
        status: ROOT_STATUS,
    };
    RuleAction { filters: vec![Filter::Redirect(redirect)], ..RuleAction::default() }
}

fn filters(requests: &IngressRequests, path: Option<PathRewrite>) -> Vec<Filter> {
    let rewrite = Rewrite { host: requests.host.clone(), path };
    let edits = |edits: &FieldEdits| (*edits != FieldEdits::default()).then(|| edits.clone());
    let rewrite = (rewrite != Rewrite::default()).then_some(Filter::Rewrite(rewrite));
    let of_request = edits(&requests.request_headers).map(Filter::RequestHeaders);
    let of_response = edits(&requests.response_headers).map(Filter::ResponseHeaders);
    [of_request, rewrite, of_response].into_iter().flatten().collect()
}

fn https(to_https: ToHttps, served: u16) -> Redirect {
    let port = to_https.port.unwrap_or(served);
    Redirect {
        scheme: Some("https".into()),
        host: None,
        path: None,
        // Left out, the scheme's usual one is meant.
        port: (port != 443).then_some(port),
        status: to_https.status,
    }
}

/// Whether `tls` names the host. An entry without names is for those of its certificate: taken for
/// all.
fn is_served_by_tls(tls: &[IngressTls], host: Option<&Arc<str>>) -> bool {
    tls.iter().any(|entry| {
        let named = |name: &Arc<str>| match (host, name.strip_prefix("*.")) {
            (Some(host), _) if host == name => true,
            (Some(host), Some(suffix)) => {
                host.split_once('.').is_some_and(|(_, rest)| rest == suffix)
            }
            _ => false,
        };
        entry.hosts.is_empty() || entry.hosts.iter().any(named)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{CertificateRef, Cors, RequestWishes, SourceId, UpstreamProtocol};

    fn spec(tls_hosts: &[&str], requests: IngressRequests) -> IngressSpec {
        let certificate = CertificateRef {
            source: SourceId::inventory(),
            namespace: "default".into(),
            name: "shop".into(),
        };
        let hosts = tls_hosts.iter().map(|host| (*host).into()).collect();
        IngressSpec {
            tls: vec![IngressTls { hosts, certificate }],
            requests,
            ..IngressSpec::default()
        }
    }

    fn object() -> ObjectRef {
        ObjectRef::ingress(&SourceId::inventory(), "default", "shop")
    }

    fn rule(host: &str) -> IngressRule {
        let service = crate::ObjectRef::service(&SourceId::inventory(), "default", "web");
        IngressRule {
            host: Some(host.into()),
            path_match: crate::PathType::Prefix,
            path: "/".into(),
            backend: crate::IngressBackend { service, port: crate::IngressPort::Number(80) },
            rewrite: None,
        }
    }

    fn redirect(spec: &IngressSpec, host: &str, port: Port) -> Option<Redirect> {
        let policies = Policies::default();
        let action = action(&object(), spec, Some(&rule(host)), port, None, &policies);
        action.filters.into_iter().find_map(|filter| match filter {
            Filter::Redirect(redirect) => Some(redirect),
            _ => None,
        })
    }

    const PLAIN: Port = Port { tls: false, https: 8443 };

    #[test]
    fn plain_requests_for_hosts_with_tls_go_to_the_port_that_serves_it() {
        let to_https = Some(ToHttps { status: 308, port: None, always: false });
        let requests = IngressRequests { to_https, ..IngressRequests::default() };
        let spec = spec(&["a.example", "*.b.example"], requests);
        let sent = redirect(&spec, "a.example", PLAIN).unwrap();
        assert_eq!(
            (sent.scheme.as_deref(), sent.port, sent.status),
            (Some("https"), Some(8443), 308)
        );
        assert!(redirect(&spec, "x.b.example", PLAIN).is_some());
        assert_eq!(redirect(&spec, "x.y.b.example", PLAIN), None, "a wildcard is one label");
        assert_eq!(redirect(&spec, "c.example", PLAIN), None);
        assert_eq!(redirect(&spec, "a.example", Port { tls: true, ..PLAIN }), None);
        let usual = redirect(&spec, "a.example", Port { https: 443, ..PLAIN }).unwrap();
        assert_eq!(usual.port, None);
    }

    #[test]
    fn where_tls_ends_before_us_all_hosts_are_sent() {
        let to_https = Some(ToHttps { status: 301, port: Some(444), always: true });
        let spec = spec(&[], IngressRequests { to_https, ..IngressRequests::default() });
        let spec = IngressSpec { tls: Vec::new(), ..spec };
        assert_eq!(redirect(&spec, "a.example", PLAIN).unwrap().port, Some(444));
    }

    #[test]
    fn a_rule_without_wishes_has_no_filter_and_a_missing_backend_answers_503() {
        let spec = spec(&[], IngressRequests::default());
        let action = action(&object(), &spec, None, PLAIN, None, &Policies::default());
        assert_eq!(action.filters, []);
        assert_eq!(action.backends[0].to, Err(503));
    }

    #[test]
    fn wishes_become_filters_those_that_refuse_first() {
        let edits = |name: &str| FieldEdits {
            set: vec![(name.into(), "1".into())],
            ..FieldEdits::default()
        };
        let requests = IngressRequests {
            host: Some("inner.example".into()),
            request_headers: edits("x-in"),
            response_headers: edits("x-out"),
            wishes: RequestWishes {
                cors: Some(Cors::default()),
                body_max: Some(7),
                ..RequestWishes::default()
            },
            backends: BackendWishes {
                speaks: Some(UpstreamProtocol::Http2),
                ..BackendWishes::default()
            },
            ..IngressRequests::default()
        };
        let rule =
            IngressRule { rewrite: Some(PathRewrite::Full("/x".into())), ..rule("a.example") };
        let policies = Policies::default();
        let action = action(&object(), &spec(&[], requests), Some(&rule), PLAIN, None, &policies);
        let rewrite = Rewrite {
            host: Some("inner.example".into()),
            path: Some(PathRewrite::Full("/x".into())),
        };
        let wanted = [
            Filter::BodyMax(7),
            Filter::Cors(Cors::default()),
            Filter::RequestHeaders(edits("x-in")),
            Filter::Rewrite(rewrite),
            Filter::ResponseHeaders(edits("x-out")),
        ];
        assert_eq!(action.filters, wanted);
    }
}
