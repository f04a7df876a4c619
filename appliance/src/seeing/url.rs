//! `haflinger why URL` for people: one line for each thing that decides, in the order of a request.

use std::fmt::Write as _;

use haflinger_proxy::{
    BackendWhy, CertificateWhy, ListenerWhy, OnwardWhy, Outcome, RuleWhy, ShareWhy, TlsWhy, UrlWhy,
};

/// Rules with another path that are shown: the nearest ones.
const OTHER_PATHS_SHOWN: usize = 3;

pub(crate) fn render(why: &UrlWhy) -> String {
    let mut out = format!("{} {}\n", why.method, why.url);
    let mut say = |title: &str, text: String| {
        // Writing into a string cannot fail.
        let _ = writeln!(out, "  {title:<9} {text}");
    };
    if let Some(client) = client(why) {
        say("client", client);
    }
    if let Some(listener) = &why.listener {
        say("listener", listener_text(listener));
    }
    if let Some(tls) = &why.tls {
        say("tls", tls_text(tls));
    }
    if let Some(rule) = &why.rule {
        say("rule", rule_text(rule));
    }
    for (title, text) in rejected(why) {
        say(title, text);
    }
    for (at, filter) in why.filters.iter().enumerate() {
        say(if at == 0 { "filters" } else { "" }, format!("{}: {}", filter.filter, filter.does));
    }
    for (at, share) in why.shares.iter().enumerate() {
        say(if at == 0 { "backends" } else { "" }, share_text(share));
    }
    if let Some(onward) = &why.onward {
        say("backend", backend_text(onward, why.port_assumed));
        say("is asked", onward_text(onward));
        for field in &onward.fields {
            say("", field.clone());
        }
    }
    say("outcome", outcome(&why.outcome));
    for hint in &why.hints {
        say("hint", hint.clone());
    }
    out
}

fn client(why: &UrlWhy) -> Option<String> {
    let client = why.client?;
    Some(match (why.client_assumed, why.port_assumed) {
        (true, _) => format!("{client}, assumed: --from names another"),
        (false, true) => format!("{client}, its port assumed"),
        (false, false) => client.to_string(),
    })
}

fn listener_text(listener: &ListenerWhy) -> String {
    let spoken = if listener.tls { "TLS" } else { "no TLS" };
    let section = match (&listener.section, listener.has_section) {
        (Some(section), _) => format!("listener {} of {}", section.name, section.object),
        (None, true) => "Ingresses and sites".to_owned(),
        (None, false) => return format!("{}, {spoken}", listener.address),
    };
    let hosts = listener.host.as_ref().map(|host| format!(", for {host}")).unwrap_or_default();
    format!("{}, {spoken}: {section}{hosts}", listener.address)
}

fn tls_text(tls: &TlsWhy) -> String {
    let name = match &tls.server_name {
        Some(name) => format!("server name {name}"),
        None => "no server name".to_owned(),
    };
    let shown = match (&tls.certificate, tls.passthrough) {
        (Some(certificate), _) => certificate_text(certificate),
        (None, true) => "passed on as it is: the backend shows its certificate".to_owned(),
        (None, false) => "no certificate".to_owned(),
    };
    let client = match tls.client_certificate {
        Some(wish) => format!("; the client's certificate is {wish}"),
        None => String::new(),
    };
    format!("{name}: {shown}{client}")
}

fn certificate_text(certificate: &CertificateWhy) -> String {
    let name = certificate.name.as_deref().unwrap_or("a certificate");
    let date = jiff::Timestamp::from_second(certificate.not_after_secs)
        .map_or_else(|_| "an unknown date".to_owned(), |date| date.to_string());
    let until = match certificate.expired {
        true => format!("EXPIRED on {date}"),
        false => format!("valid until {date}"),
    };
    let covers = if certificate.covers { "" } else { ", which does NOT have the name" };
    format!("{name} ({}), {until}{covers}", certificate.names.join(", "))
}

fn rule_text(rule: &RuleWhy) -> String {
    let name = rule.name.as_ref().map(|name| format!(" rule {name}")).unwrap_or_default();
    let mut text = format!("{}{name}: {}", rule.object, rule.asks);
    let time = |ms: u32| if ms == 0 { "no end".to_owned() } else { format!("{ms} ms") };
    if let Some(ms) = rule.request_timeout_ms {
        let _ = write!(text, "; {} for a request", time(ms));
    }
    if let Some(ms) = rule.backend_timeout_ms {
        let _ = write!(text, "; {} for an attempt", time(ms));
    }
    if !rule.retried.is_empty() {
        let codes: Vec<String> = rule.retried.iter().map(ToString::to_string).collect();
        let _ = write!(text, "; tried again on {}", codes.join(", "));
    }
    if let Some(fault) = &rule.fault {
        let _ = write!(text, "; BROKEN: {fault}");
    }
    text
}

/// The rules that come before and do not fit; of those for other paths the nearest alone.
fn rejected(why: &UrlWhy) -> Vec<(&'static str, String)> {
    let (mut lines, mut paths, mut more) = (Vec::new(), 0, why.rejected_more);
    for rule in &why.rejected {
        if rule.because == "another path" {
            paths += 1;
            if paths > OTHER_PATHS_SHOWN {
                more += 1;
                continue;
            }
        }
        let name = rule.name.as_ref().map(|name| format!(" rule {name}")).unwrap_or_default();
        let title = if lines.is_empty() { "not" } else { "" };
        lines.push((title, format!("{}{name} ({}): {}", rule.object, rule.asks, rule.because)));
    }
    if more > 0 {
        lines.push(("", format!("nor {more} more that come before")));
    }
    lines
}

fn share_text(share: &ShareWhy) -> String {
    let mark = if share.chosen { " <- this request" } else { "" };
    let part = format!("{} of {}", share.weight, share.of);
    match (&share.target, share.status) {
        (Some(target), _) => {
            let (active, all) = (share.active, share.backends);
            format!("{part} to {target}: {active} of {all} take requests{mark}")
        }
        (None, status) => {
            format!("{part} nowhere: answered with {}{mark}", status.unwrap_or(500))
        }
    }
}

fn backend_text(onward: &OnwardWhy, port_assumed: bool) -> String {
    let place = |backend: &BackendWhy| {
        let mut text = super::named(Some(&backend.name), backend.address);
        if let Some(node) = &backend.node {
            let _ = write!(text, " on {node}");
        }
        if let Some(zone) = &backend.zone {
            let _ = write!(text, " in {zone}");
        }
        text
    };
    let next = match &onward.next {
        Some(next) => format!(", then {} if it cannot be reached", place(next)),
        None => ", and no other".to_owned(),
    };
    let which = if port_assumed { "for this client's port " } else { "" };
    format!("{which}{}{next}", place(&onward.backend))
}

fn onward_text(onward: &OnwardWhy) -> String {
    let host = onward.host.as_deref().unwrap_or("no host");
    let tls = match (&onward.tls, &onward.trusts) {
        (Some(name), Some(trusts)) => format!("TLS as {name}, signed by {trusts}"),
        (Some(name), None) => format!("TLS as {name}"),
        (None, _) => "no TLS".to_owned(),
    };
    format!("{} {}, host {host}, {tls}", onward.request, onward.protocol)
}

fn outcome(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Unknown => "unknown".to_owned(),
        Outcome::NoConnection { because } => format!("no connection: {because}"),
        Outcome::Depends => "settled by a check when the request comes".to_owned(),
        Outcome::Forwarded => "what the backend answers".to_owned(),
        Outcome::Stream { target, backend } => match backend {
            Some(backend) => format!("bytes go to {backend} of {target}, and back"),
            None => format!("the connection is closed: {target} has no backend"),
        },
        Outcome::Answer { status, because } => format!("{status}: {because}"),
        Outcome::Redirect { status, location } => format!("{status} to {location}"),
        Outcome::Preflight { fields } => format!("204 with {}", fields.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use haflinger_core::{ObjectRef, SectionRef, SourceId};
    use haflinger_proxy::{FilterWhy, Rejected};

    use super::*;

    fn site() -> ObjectRef {
        ObjectRef::ingress(&SourceId::inventory(), "default", "shop")
    }

    fn why() -> UrlWhy {
        let object = site();
        let address = "10.2.0.2:8080".parse().expect("an address");
        let backend = BackendWhy { address, name: "web-1".into(), node: None, zone: None };
        UrlWhy {
            method: "GET".into(),
            url: "https://shop.example/api".into(),
            client: Some("198.51.100.7:40000".parse().expect("an address")),
            port_assumed: true,
            listener: Some(ListenerWhy {
                address: "192.0.2.10:443".parse().expect("an address"),
                tls: true,
                unbound: None,
                section: Some(SectionRef { object: object.clone(), name: "web".into() }),
                has_section: true,
                host: Some("*.example".into()),
            }),
            tls: Some(TlsWhy {
                server_name: Some("shop.example".into()),
                certificate: Some(CertificateWhy {
                    name: Some("inventory/secret/default/shop".into()),
                    names: vec!["shop.example".into()],
                    not_after_secs: 1_800_000_000,
                    expired: false,
                    covers: true,
                }),
                passthrough: false,
                client_certificate: Some("optional"),
            }),
            rule: Some(RuleWhy {
                object: object.clone(),
                name: Some("api".into()),
                asks: "any host, paths below /api".into(),
                fault: None,
                request_timeout_ms: Some(500),
                backend_timeout_ms: None,
                retried: vec![502, 503],
            }),
            rejected: vec![Rejected {
                object,
                name: None,
                asks: "any host, path /api, method POST".into(),
                because: "the method is GET".into(),
            }],
            filters: vec![FilterWhy {
                filter: "bodies of 10 bytes at most".into(),
                does: "lets it through".into(),
                ends: false,
            }],
            shares: vec![ShareWhy {
                target: Some("shop:80".into()),
                status: None,
                weight: 9,
                of: 10,
                active: 2,
                backends: 3,
                chosen: true,
            }],
            onward: Some(OnwardWhy {
                backend,
                next: None,
                protocol: "HTTP/1.1",
                tls: None,
                trusts: None,
                request: "GET /api".into(),
                host: Some("shop.example".into()),
                fields: vec!["x-forwarded-proto: https".into()],
            }),
            outcome: Outcome::Forwarded,
            ..UrlWhy::default()
        }
    }

    #[test]
    fn what_decides_is_said_in_the_order_of_a_request() {
        assert_eq!(
            render(&why()),
            "GET https://shop.example/api\n  \
             client    198.51.100.7:40000, its port assumed\n  \
             listener  192.0.2.10:443, TLS: listener web of inventory/ingress/default/shop, for \
             *.example\n  \
             tls       server name shop.example: inventory/secret/default/shop (shop.example), \
             valid until 2027-01-15T08:00:00Z; the client's certificate is optional\n  \
             rule      inventory/ingress/default/shop rule api: any host, paths below /api; 500 ms \
             for a request; tried again on 502, 503\n  \
             not       inventory/ingress/default/shop (any host, path /api, method POST): the \
             method is GET\n  \
             filters   bodies of 10 bytes at most: lets it through\n  \
             backends  9 of 10 to shop:80: 2 of 3 take requests <- this request\n  \
             backend   for this client's port web-1 (10.2.0.2:8080), and no other\n  \
             is asked  GET /api HTTP/1.1, host shop.example, no TLS\n            \
             x-forwarded-proto: https\n  \
             outcome   what the backend answers\n"
        );
    }

    #[test]
    fn of_rules_for_other_paths_the_nearest_are_shown_and_the_others_counted() {
        let other = || Rejected {
            object: site(),
            name: None,
            asks: String::new(),
            because: "another path".into(),
        };
        let rejected = (0..5).map(|_| other()).collect();
        let text = render(&UrlWhy { rejected, rejected_more: 2, ..why() });
        assert_eq!(text.matches("another path").count(), OTHER_PATHS_SHOWN);
        assert!(text.contains("nor 4 more that come before"), "{text}");
    }

    #[test]
    fn what_ends_badly_is_said_loudly() {
        let mut expired = why();
        let tls = expired.tls.as_mut().expect("there is TLS");
        let certificate = tls.certificate.as_mut().expect("there is one");
        (certificate.expired, certificate.covers) = (true, false);
        let text = render(&expired);
        assert!(text.contains("EXPIRED on 2027-01-15") && text.contains("does NOT have the name"));
        let refused = Outcome::Answer { status: 404, because: "no rule fits the request".into() };
        let hints = vec!["hosts that are near: shop.example".to_owned()];
        let text = render(&UrlWhy { outcome: refused, hints, ..UrlWhy::default() });
        assert!(text.ends_with(
            "  outcome   404: no rule fits the request\n  \
             hint      hosts that are near: shop.example\n"
        ));
    }
}
