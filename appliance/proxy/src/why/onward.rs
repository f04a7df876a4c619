//! Which backend is asked, and for what.

use std::net::SocketAddr;
use std::sync::Arc;

use haflinger_core::{RuleBackend, Upstream, UpstreamAuthorities, UpstreamProtocol};
use http::header;
use serde::Serialize;

use super::{Circumstances, Question, UrlWhy};
use crate::action::Step;
use crate::admission::Admitted;
use crate::headers::{Arrival, forwarding};
use crate::rewrite;
use crate::tables::Serving;
use crate::upstream::choose;

/// One of the backends of a rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ShareWhy {
    /// The service and its port; `None`: it cannot be resolved.
    pub target: Option<String>,
    /// What requests get where it cannot be resolved.
    pub status: Option<u16>,
    /// Its weight.
    pub weight: u32,
    /// The sum of all weights.
    pub of: u64,
    /// Backends that take requests.
    pub active: usize,
    /// All backends.
    pub backends: usize,
    /// Whether this request goes there.
    pub chosen: bool,
}

/// What is asked of a backend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct OnwardWhy {
    /// The backend that is asked.
    pub backend: BackendWhy,
    /// The one that is tried when it cannot be reached.
    pub next: Option<BackendWhy>,
    /// `HTTP/1.1`, `HTTP/2`.
    pub protocol: &'static str,
    /// The server name that is verified; `None`: without TLS.
    pub tls: Option<Arc<str>>,
    /// Whom the backend's certificate has to be from.
    pub trusts: Option<String>,
    /// Method and path.
    pub request: String,
    /// The host.
    pub host: Option<String>,
    /// The other fields that are not as they came, as they are sent. Ids and traces are made anew for
    /// each request and are left out.
    pub fields: Vec<String>,
}

/// A backend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BackendWhy {
    /// Where it listens.
    pub address: SocketAddr,
    /// The pod's name.
    pub name: Arc<str>,
    /// The node it runs on.
    pub node: Option<Arc<str>>,
    /// The zone it runs in.
    pub zone: Option<Arc<str>>,
}

/// Tells the backends of the rule and their shares.
pub(super) fn tell_shares(rule: &Admitted, why: &mut UrlWhy) {
    let backends = &rule.action.from().backends;
    let of = backends.iter().map(|backend| u64::from(backend.weight)).sum();
    for (at, RuleBackend { weight, to, .. }) in backends.iter().enumerate() {
        let slot = rule.action.backend(at).and_then(|own| own.to.as_ref().ok());
        let set = slot.and_then(|upstream| upstream.slot.load());
        why.shares.push(ShareWhy {
            target: to.as_ref().ok().map(|to| to.target.to_string()),
            status: to.as_ref().err().copied(),
            weight: *weight,
            of,
            active: set.as_ref().map_or(0, |set| set.active().count()),
            backends: set.as_ref().map_or(0, |set| set.backends.len()),
            chosen: rule.backend == Some(at),
        });
    }
}

/// Tells what is asked of which backend.
pub(super) fn tell(
    rule: &Admitted,
    serving: &Serving<'_>,
    question: &Question,
    (client, hash): (SocketAddr, u64),
    with: &Circumstances<'_>,
    why: &mut UrlWhy,
) {
    let Some(at) = rule.backend else { return };
    let Some(Ok(to)) = rule.action.from().backends.get(at).map(|backend| &backend.to) else {
        return;
    };
    let upstream = rule.action.backend(at).and_then(|backend| backend.to.as_ref().ok());
    let Some(set) = upstream.and_then(|upstream| upstream.slot.load()) else { return };
    let kept = rule.session.map(|(_, address)| address);
    let backend = |tried: &[SocketAddr]| {
        let kept = kept.filter(|kept| !tried.contains(kept));
        let backend = set.get(&kept.or_else(|| choose(&set, hash, tried))?)?;
        let (name, node, zone) = (backend.name.clone(), backend.node.clone(), backend.zone.clone());
        Some(BackendWhy { address: backend.address, name, node, zone })
    };
    let Some(first) = backend(&[]) else { return };
    let next = backend(&[first.address]);
    let (request, host, fields) = sent(rule, serving, question, client, with);
    let (protocol, tls, trusts) = greeting(to);
    why.onward =
        Some(OnwardWhy { backend: first, next, protocol, tls, trusts, request, host, fields });
}

fn greeting(to: &Upstream) -> (&'static str, Option<Arc<str>>, Option<String>) {
    let protocol = match to.speaks {
        UpstreamProtocol::Http1 => "HTTP/1.1",
        UpstreamProtocol::Http2 => "HTTP/2",
    };
    let trusts = to.tls.as_ref().map(|tls| match &tls.authorities {
        UpstreamAuthorities::System => "whom this host trusts".to_owned(),
        UpstreamAuthorities::These(own) => format!("{} authorities of its policy", own.len()),
    });
    (protocol, to.tls.as_ref().map(|tls| tls.server_name.clone()), trusts)
}

/// Method and path, host, and the other fields that are changed, as the backend sees them.
fn sent(
    rule: &Admitted,
    serving: &Serving<'_>,
    question: &Question,
    client: SocketAddr,
    with: &Circumstances<'_>,
) -> (String, Option<String>, Vec<String>) {
    let original = &question.request.headers;
    let mut fields = original.clone();
    let arrival = Arrival {
        peer: client,
        local: serving.listener.address,
        tls: question.tls,
        host: original.get(header::HOST),
    };
    let (remove, set) = forwarding(arrival, original, &with.settings.trusted_proxies);
    for name in remove {
        fields.remove(name);
    }
    for (name, value) in set {
        fields.insert(name, value);
    }
    let uri = &question.request.uri;
    let mut path = uri.path().to_owned();
    for step in rule.action.steps(rule.backend) {
        match step {
            Step::Request(edits) => edits.apply(&mut fields),
            Step::Rewrite(to) => {
                if let Some(to) = &to.path {
                    path = rewrite::path(to, &path, rule.prefix_bytes).into_owned();
                }
                let host = to.host.as_ref().and_then(|host| host.parse().ok());
                if let Some(host) = host {
                    fields.insert(header::HOST, host);
                }
            }
            _ => {}
        }
    }
    let text = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let host = fields.get(header::HOST).map(text);
    let changed = fields.keys().filter(|name| {
        **name != header::HOST && !original.get_all(*name).iter().eq(fields.get_all(*name).iter())
    });
    let shown = changed
        .flat_map(|name| fields.get_all(name).iter().map(move |v| (name, v)))
        .map(|(name, value)| format!("{name}: {}", text(value)))
        .collect();
    let target = rewrite::with_query(&path, uri.query());
    (format!("{} {target}", question.request.method), host, shown)
}
