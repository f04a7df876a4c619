//! What is asked for requests and for the backends of a Service: of policies, and of the inventory,
//! whose tables have the same fields.

use std::net::IpAddr;

use haflinger_core::{
    BackendPolicySpec, BackendWishes, CLIENT_RANGES_MAX, ClientRanges, ObjectKind, ObjectRef,
    POLICY_TARGETS_MAX, PolicySpec, PolicyTarget, RATE_PERIOD_MAX_MS, RATE_REQUESTS_MAX, RATES_MAX,
    RateKey, RateLimit, RequestPolicySpec, RequestWishes, SourceId, UpstreamProtocol,
};
use ipnet::IpNet;

use super::references::Refers as _;
use super::{Reading, status};
use crate::objects::lax::Lax;
use crate::objects::{
    BackendPolicyBody, BackendWishesBody, ClientsBody, Object, PolicyStatusBody,
    PolicyTarget as TargetBody, RateBody, RequestPolicyBody, RequestWishesBody,
};
use crate::translate::{Faults, quoted};

/// The period of a rate that names none.
const PERIOD_DEFAULT_MS: u32 = 1_000;

/// The status of a rate that names none (RFC 6585, section 4).
const RATE_STATUS_DEFAULT: u16 = 429;

/// Objects that a RequestPolicy may target.
const REQUEST_TARGETS: [ObjectKind; 5] = [
    ObjectKind::Gateway,
    ObjectKind::ListenerSet,
    ObjectKind::HttpRoute,
    ObjectKind::GrpcRoute,
    ObjectKind::Ingress,
];

/// Objects that a BackendPolicy may target.
const BACKEND_TARGETS: [ObjectKind; 1] = [ObjectKind::Service];

/// A RequestPolicy.
pub(crate) fn request_policy(
    object: &Object<RequestPolicyBody>,
    source: &SourceId,
) -> Option<RequestPolicySpec> {
    let body = object.body.spec.get().cloned().unwrap_or_default();
    policy(object, source, &object.body.status, |reading| {
        let targets = reading.targets(body.target_refs.elements(), &REQUEST_TARGETS);
        (targets, reading.request_wishes("spec", &body))
    })
}

/// A BackendPolicy.
pub(crate) fn backend_policy(
    object: &Object<BackendPolicyBody>,
    source: &SourceId,
) -> Option<BackendPolicySpec> {
    let body = object.body.spec.get().cloned().unwrap_or_default();
    policy(object, source, &object.body.status, |reading| {
        let targets = reading.targets(body.target_refs.elements(), &BACKEND_TARGETS);
        (targets, reading.backend_wishes("spec", &body))
    })
}

fn policy<B, W>(
    object: &Object<B>,
    source: &SourceId,
    recorded: &Lax<PolicyStatusBody>,
    read: impl FnOnce(&mut Reading<'_>) -> (Vec<PolicyTarget>, W),
) -> Option<PolicySpec<W>> {
    if object.deleting {
        return None;
    }
    let mut faults = Faults::default();
    let mut reading = Reading { source, namespace: object.namespace(), faults: &mut faults };
    let (targets, wishes) = read(&mut reading);
    Some(PolicySpec {
        generation: object.generation,
        created_secs: object.created_secs,
        targets,
        wishes: wishes.into(),
        faults: faults.into_vec(),
        recorded_status: status::of_policy(recorded, source, object.namespace()),
    })
}

/// What a table of the inventory asks for requests; `field` is its name.
pub(crate) fn request_wishes(
    field: &str,
    body: &RequestWishesBody,
    source: &SourceId,
    namespace: &str,
    faults: &mut Faults,
) -> RequestWishes {
    Reading { source, namespace, faults }.request_wishes(field, body)
}

/// The same for backends.
pub(crate) fn backend_wishes(
    field: &str,
    body: &BackendWishesBody,
    source: &SourceId,
    namespace: &str,
    faults: &mut Faults,
) -> BackendWishes {
    Reading { source, namespace, faults }.backend_wishes(field, body)
}

impl Reading<'_> {
    fn targets(&mut self, list: &[Lax<TargetBody>], kinds: &[ObjectKind]) -> Vec<PolicyTarget> {
        if list.len() > POLICY_TARGETS_MAX {
            self.refuse(format!(
                "spec.targetRefs: are more than {POLICY_TARGETS_MAX}; write fewer"
            ));
        }
        let mut targets = Vec::new();
        for (field, body) in self.each("spec.targetRefs", list) {
            let written = body.written();
            let group = written.group.unwrap_or_default();
            let known = kinds.iter().find(|kind| {
                kind.api_version().0 == group && Some(kind.api_kind()) == written.kind
            });
            let Some((kind, name)) = known.zip(written.name) else {
                let names: Vec<&str> = kinds.iter().map(|kind| kind.api_kind()).collect();
                let (found, names) = (quoted(&written.described("", "")), names.join(", "));
                self.refuse(format!("{field}: {found} cannot be a target; name one of {names}"));
                continue;
            };
            let section = body.section_name.text();
            if let Some(section) = section.filter(|_| *kind == ObjectKind::Ingress) {
                let section = quoted(section);
                self.refuse(format!(
                    "{field}.sectionName: {section} is no part of an Ingress; leave it out"
                ));
            }
            targets.push(PolicyTarget {
                object: ObjectRef::of_kind(self.source, *kind, self.namespace, name),
                section: section.map(Into::into),
            });
        }
        targets.truncate(POLICY_TARGETS_MAX);
        targets
    }

    fn request_wishes(&mut self, field: &str, body: &RequestWishesBody) -> RequestWishes {
        let timeouts = self.present(&format!("{field}.timeouts"), &body.timeouts);
        let rates = self.present(&format!("{field}.rates"), &body.rates);
        RequestWishes {
            clients: self
                .present(&format!("{field}.clients"), &body.clients)
                .map(|clients| self.clients(&format!("{field}.clients"), clients)),
            rates: rates.map(|list| self.rates(&format!("{field}.rates"), list)),
            users: self
                .present(&format!("{field}.users"), &body.users)
                .and_then(|users| self.users(&format!("{field}.users"), users)),
            tokens: self
                .present(&format!("{field}.tokens"), &body.tokens)
                .and_then(|tokens| self.tokens(&format!("{field}.tokens"), tokens)),
            authorizer: self
                .present(&format!("{field}.authorizer"), &body.authorizer)
                .and_then(|asked| self.authorizer(&format!("{field}.authorizer"), asked)),
            body_max: self.size(&format!("{field}.bodyMax"), &body.body_max),
            cors: self.present(&format!("{field}.cors"), &body.cors).map(super::filters::cors_of),
            timeouts: timeouts.map(|body| self.timeouts(field, body)).unwrap_or_default(),
            retry: self
                .present(&format!("{field}.retry"), &body.retry)
                .map(|retry| self.retry(field, retry)),
            header_max: self
                .size(&format!("{field}.headerMax"), &body.header_max)
                .map(|bytes| u32::try_from(bytes).unwrap_or(u32::MAX)),
            answer_max: self.size(&format!("{field}.answerMax"), &body.answer_max),
            compression: self
                .present(&format!("{field}.compression"), &body.compression)
                .map(|body| self.compression(&format!("{field}.compression"), body)),
            error_pages: self
                .present(&format!("{field}.errorPages"), &body.error_pages)
                .map(|body| self.error_pages(&format!("{field}.errorPages"), body)),
            maintenance: self
                .present(&format!("{field}.maintenance"), &body.maintenance)
                .map(|body| self.maintenance(&format!("{field}.maintenance"), body)),
            sessions: self.policy_sessions(field, &body.session_persistence),
        }
    }

    fn backend_wishes(&mut self, field: &str, body: &BackendWishesBody) -> BackendWishes {
        let protocol = body.protocol.text().map(|text| match text {
            "HTTP1" => Some(UpstreamProtocol::Http1),
            "HTTP2" => Some(UpstreamProtocol::Http2),
            other => {
                let other = quoted(other);
                self.refuse(format!("{field}.protocol: {other} is unknown; write HTTP1 or HTTP2"));
                None
            }
        });
        BackendWishes { speaks: protocol.flatten(), ..BackendWishes::default() }
    }

    /// A value that is there; one of another type is refused.
    pub(super) fn present<'b, T>(&mut self, field: &str, written: &'b Lax<T>) -> Option<&'b T> {
        if written.is_wrong() {
            self.refuse(format!("{field}: is of another type; write it anew"));
        }
        written.get()
    }

    fn clients(&mut self, field: &str, body: &ClientsBody) -> ClientRanges {
        let allow = self.present(&format!("{field}.allow"), &body.allow);
        ClientRanges {
            allow: allow.map(|list| self.networks(&format!("{field}.allow"), list)),
            deny: self.networks(&format!("{field}.deny"), body.deny.elements()),
        }
    }

    pub(super) fn networks(&mut self, field: &str, list: &[Lax<String>]) -> Vec<IpNet> {
        if list.len() > CLIENT_RANGES_MAX {
            let limit = CLIENT_RANGES_MAX;
            self.refuse(format!("{field}: are more than {limit}; keep them out by a firewall"));
            return Vec::new();
        }
        let mut networks = Vec::with_capacity(list.len());
        for (field, text) in self.each(field, list) {
            let address = || text.parse::<IpAddr>().ok().map(IpNet::from);
            match text.parse::<IpNet>().ok().map(|network| network.trunc()).or_else(address) {
                Some(network) => networks.push(network),
                None => {
                    let text = quoted(text);
                    self.refuse(format!(
                        "{field}: {text} is no network; write one, as in \"192.0.2.0/24\""
                    ));
                }
            }
        }
        networks
    }

    fn rates(&mut self, field: &str, list: &[Lax<RateBody>]) -> Vec<RateLimit> {
        if list.len() > RATES_MAX {
            self.refuse(format!("{field}: are more than {RATES_MAX}; write fewer"));
            return Vec::new();
        }
        let rates = self.each(field, list);
        rates.iter().filter_map(|(field, body)| self.rate(field, body)).collect()
    }

    fn rate(&mut self, field: &str, body: &RateBody) -> Option<RateLimit> {
        let requests =
            self.whole(&format!("{field}.requests"), &body.requests, 1, RATE_REQUESTS_MAX);
        if matches!(body.requests, Lax::Absent) {
            self.refuse(format!("{field}.requests: is missing; write how many requests may come"));
        }
        let period_ms = match body.period.text() {
            None => Some(PERIOD_DEFAULT_MS),
            Some(_) => self.duration(&format!("{field}.period"), &body.period),
        };
        if period_ms.is_some_and(|ms| !(1..=RATE_PERIOD_MAX_MS).contains(&ms)) {
            self.refuse(format!("{field}.period: is not within 1ms and 24h; write one that is"));
        }
        let burst = self.whole(&format!("{field}.burst"), &body.burst, 1, RATE_REQUESTS_MAX);
        let status = self.whole(&format!("{field}.status"), &body.status, 400, 599);
        let status = status.and_then(|status| u16::try_from(status).ok());
        let requests = requests?;
        Some(RateLimit {
            requests,
            period_ms: period_ms?,
            burst: burst.unwrap_or(requests),
            per: self.rate_key(field, body)?,
            status: status.unwrap_or(RATE_STATUS_DEFAULT),
        })
    }

    fn rate_key(&mut self, field: &str, body: &RateBody) -> Option<RateKey> {
        let named = body.header.text();
        let per = body.per.text().unwrap_or("Client");
        match (per, named) {
            ("All", None) => Some(RateKey::All),
            ("Client", None) => Some(RateKey::Client),
            ("Header", Some(name)) => {
                self.field_name(&format!("{field}.header"), name).map(RateKey::Header)
            }
            ("Header", None) => {
                self.refuse(format!("{field}.header: is missing; name a field of requests"));
                None
            }
            ("All" | "Client", Some(name)) => {
                let name = quoted(name);
                self.refuse(format!("{field}.header: {name} has no use; write per: Header too"));
                None
            }
            (other, _) => {
                let other = quoted(other);
                self.refuse(format!(
                    "{field}.per: {other} is unknown; write All, Client or Header"
                ));
                None
            }
        }
    }

    /// A whole number within limits.
    fn whole(&mut self, field: &str, written: &Lax<i64>, least: u32, most: u32) -> Option<u32> {
        let value = self.present(field, written)?;
        let fine = u32::try_from(*value).ok().filter(|value| (least..=most).contains(value));
        if fine.is_none() {
            self.refuse(format!(
                "{field}: \"{value}\" is not from {least} to {most}; write one that is"
            ));
        }
        fine
    }

    pub(super) fn size(&mut self, field: &str, written: &Lax<crate::objects::Size>) -> Option<u64> {
        match &self.present(field, written)?.0 {
            Ok(bytes) => Some(*bytes),
            Err(text) => {
                let text = quoted(text);
                self.refuse(format!("{field}: {text} is no size; write bytes, or as in \"8Mi\""));
                None
            }
        }
    }
}
