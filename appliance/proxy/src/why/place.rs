//! Which listener is asked, how the client is greeted there, and which hosts are near.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;

use haflinger_core::{HostMatch, HttpListener, Section, Serves};

use super::{CertificateWhy, Circumstances, Outcome, Question, TlsWhy, UrlWhy, no_connection};
use crate::tables::{Serving, Tables};
use crate::tls::certificates::Certificate;
use crate::upstream::choose;

/// Things that a hint names.
const HINTED_MAX: usize = 5;

/// Characters by which a name may differ and still be called near.
const TYPOS_MAX: usize = 2;

/// The listener that a question is for. Without an address in it: of those on the port, one whose
/// address the host's name has, or else one that serves the host, or else any.
pub(super) fn listener<'a>(
    tables: &'a Tables,
    question: &Question,
    why: &mut UrlWhy,
) -> Option<Serving<'a>> {
    let asked = question.to.or(question.literal.map(|address| (address, None)));
    let port = asked.and_then(|(_, port)| port).unwrap_or(question.port);
    let here = |serving: &Serving<'_>| {
        let address = serving.listener.address;
        address.port() == port && asked.is_none_or(|(own, _)| own == address.ip().to_canonical())
    };
    let mut on_port: Vec<Serving<'a>> = tables.serving().filter(here).collect();
    let named = tables.snapshot().hostnames.get(question.host.as_str());
    let distance = |serving: &Serving<'_>| {
        let address = serving.listener.address;
        let of_name = named.is_some_and(|intent| intent.addresses.contains(&address.ip()));
        let serves = serves(serving.spec, &question.host);
        (!of_name, !serves, serving.spec.tls != question.tls, address)
    };
    on_port.sort_by_cached_key(distance);
    if on_port.is_empty() {
        let because = match asked {
            Some((address, _)) => format!("nothing listens on {}", SocketAddr::new(address, port)),
            None => format!("no listener of layer 7 has port {port}"),
        };
        why.outcome = no_connection(&because);
        hint_listeners(tables, question, asked.is_some(), why);
        return None;
    }
    let chosen = on_port.remove(0);
    // What is as near, and might be asked as well.
    let best = distance(&chosen);
    let mut others = on_port.iter().take_while(|other| {
        let other = distance(other);
        (other.0, other.1, other.2) == (best.0, best.1, best.2)
    });
    if !best.1 {
        let all: Vec<String> =
            others.by_ref().take(HINTED_MAX).map(|s| s.listener.address.to_string()).collect();
        if !all.is_empty() {
            let all = all.join(", ");
            why.hints.push(format!("the host is served at {all} as well: --to chooses"));
        }
    }
    Some(chosen)
}

/// Greets the client; an outcome where that is the end. Without TLS there is nothing to do.
pub(super) fn greeting(
    tables: &Tables,
    serving: &Serving<'_>,
    question: &Question,
    flow: u64,
    with: &Circumstances<'_>,
    why: &mut UrlWhy,
) -> Option<Outcome> {
    let sections = serving.listener.tls.as_ref()?.load();
    let name = question.server_name();
    let mut told = TlsWhy {
        server_name: name.map(str::to_owned),
        certificate: None,
        passthrough: false,
        client_certificate: None,
    };
    let Some(section) = sections.find(name) else {
        why.tls = Some(told);
        hint_hosts(tables, serving, name, why);
        return Some(no_connection(
            "nothing is served for the server name: alert unrecognized_name",
        ));
    };
    if let Some(termination) = &section.termination {
        let shown = termination.resolver.shown(name);
        told.certificate = shown.as_ref().map(|shown| certificate(tables, shown, name, with));
        told.client_certificate =
            termination.client().map(|validation| match validation.optional {
                true => "optional",
                false => "required",
            });
    }
    told.passthrough = section.streams.is_some() && section.termination.is_none();
    let no_certificate = section.termination.is_some() && told.certificate.is_none();
    why.tls = Some(told);
    if no_certificate {
        return Some(no_connection("no usable certificate for the server name"));
    }
    let Some(streams) = &section.streams else {
        let nothing = section.termination.is_none();
        return nothing.then(|| no_connection("the listener has no certificates"));
    };
    tell_section(serving.spec, name, why);
    let Some(slot) = streams.find(name, flow) else {
        return Some(no_connection("no rule of the listener has a backend for the server name"));
    };
    let set = slot.load()?;
    let backend = choose(&set, flow, &[]);
    Some(Outcome::Stream { target: set.target.to_string(), backend })
}

fn certificate(
    tables: &Tables,
    shown: &Arc<Certificate>,
    name: Option<&str>,
    with: &Circumstances<'_>,
) -> CertificateWhy {
    let covers = |own: &Arc<str>| match (own.strip_prefix("*."), name) {
        (_, None) => false,
        (None, Some(name)) => **own == *name,
        (Some(parent), Some(name)) => name.split_once('.').is_some_and(|(_, rest)| rest == parent),
    };
    CertificateWhy {
        name: tables.name_of(shown).map(ToString::to_string),
        names: shown.names.clone(),
        not_after_secs: shown.not_after_secs,
        expired: shown.not_after_secs < with.today_secs,
        covers: shown.names.iter().any(covers),
    }
}

/// The section of a connection that is passed on: the closest one that serves streams.
fn tell_section(spec: &HttpListener, name: Option<&str>, why: &mut UrlWhy) {
    let streams = spec.sections.iter().filter(|s| matches!(s.serves, Serves::Streams(_)));
    let fitting = streams.filter(|section| {
        name.map_or(section.host == HostMatch::Any, |name| fits(&section.host, name))
    });
    let closest = fitting.min_by_key(|section| section.host.closeness());
    if let (Some(section), Some(listener)) = (closest, &mut why.listener) {
        listener.section = section.origin.clone();
        listener.has_section = true;
        listener.host = pattern(&section.host);
    }
}

/// A host as it is written in objects; `None`: every one.
pub(super) fn pattern(host: &HostMatch) -> Option<String> {
    match host {
        HostMatch::Exact(host) => Some(host.to_string()),
        HostMatch::OneLabel(suffix) | HostMatch::Suffix(suffix) => Some(format!("*.{suffix}")),
        HostMatch::Any => None,
    }
}

/// Whether a host name is one of these.
fn fits(own: &HostMatch, host: &str) -> bool {
    let before = |suffix: &str| {
        let labels = host.strip_suffix(suffix)?.strip_suffix('.')?;
        (!labels.is_empty()).then_some(labels)
    };
    match own {
        HostMatch::Exact(own) => **own == *host,
        HostMatch::OneLabel(suffix) => before(suffix).is_some_and(|labels| !labels.contains('.')),
        HostMatch::Suffix(suffix) => before(suffix).is_some(),
        HostMatch::Any => true,
    }
}

/// Hosts of a section's rules.
fn of_rules(section: &Section) -> Vec<&HostMatch> {
    match &section.serves {
        Serves::Requests(rules) => rules.iter().map(|rule| &rule.host).collect(),
        Serves::Streams(rules) => rules.iter().map(|rule| &rule.host).collect(),
    }
}

/// Whether a listener has a rule for a host.
fn serves(spec: &HttpListener, host: &str) -> bool {
    let fitting = spec.sections.iter().filter(|section| fits(&section.host, host));
    fitting.flat_map(of_rules).any(|own| fits(own, host))
}

/// Whether a listener names a host, and does not only serve every one.
fn names(spec: &HttpListener, host: &str) -> bool {
    serves(spec, host) && hosts(spec).any(|own| *own != HostMatch::Any && fits(own, host))
}

/// Hosts of a listener's sections and of their rules.
fn hosts(spec: &HttpListener) -> impl Iterator<Item = &HostMatch> {
    let sections = spec.sections.iter();
    sections.flat_map(|section| std::iter::once(&section.host).chain(of_rules(section)))
}

/// Names what listens instead.
fn hint_listeners(tables: &Tables, question: &Question, address: bool, why: &mut UrlWhy) {
    let serving: Vec<Serving<'_>> = tables.serving().collect();
    if serving.is_empty() {
        why.hints.push("this host has no listener of layer 7: see haflinger status".into());
        return;
    }
    let all = serving.iter().map(|serving| serving.listener.address);
    let own = question.to.map(|(address, _)| address).or(question.literal).filter(|_| address);
    let beside: Vec<SocketAddr> =
        all.clone().filter(|listener| own.is_some_and(|own| own == listener.ip())).collect();
    let named = if beside.is_empty() { all.collect() } else { beside };
    let shown: Vec<String> = named.iter().take(HINTED_MAX).map(ToString::to_string).collect();
    let more = match named.len().saturating_sub(HINTED_MAX) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    why.hints.push(format!("there are listeners at {}{more}", shown.join(", ")));
    let services = &tables.snapshot().services;
    if own.is_some_and(|own| services.keys().any(|key| key.vip == own)) {
        why.hints
            .push("the address has services of layer 4: ask why CLIENT:PORT VIP:PORT/tcp".into());
    }
}

/// Names hosts that are near to one that is not served, and where it is served instead.
pub(super) fn hint_hosts(
    tables: &Tables,
    serving: &Serving<'_>,
    host: Option<&str>,
    why: &mut UrlWhy,
) {
    let Some(host) = host else { return };
    let here = serving.listener.address;
    let elsewhere = tables.serving().filter(|s| s.listener.address != here && names(s.spec, host));
    let elsewhere: Vec<String> =
        elsewhere.take(HINTED_MAX).map(|s| s.listener.address.to_string()).collect();
    if !elsewhere.is_empty() {
        why.hints.push(format!("the host is served at {}", elsewhere.join(", ")));
    }
    let known: BTreeSet<String> = hosts(serving.spec).filter_map(pattern).collect();
    let mut near: Vec<(usize, &String)> =
        known.iter().filter_map(|own| Some((distance(host, own)?, own))).collect();
    near.retain(|(typos, _)| *typos > 0);
    near.sort();
    let named: Vec<&str> = near.iter().take(HINTED_MAX).map(|(_, own)| own.as_str()).collect();
    if !named.is_empty() {
        why.hints.push(format!("hosts that are near: {}", named.join(", ")));
    }
}

/// How many characters have to be put in, taken out or exchanged to make one name of the other;
/// a name of the same parent domain is one farther than any of these; `None`: too far.
fn distance(one: &str, other: &str) -> Option<usize> {
    let parent = |name: &str| name.split_once('.').map(|(_, rest)| rest.to_owned());
    let related = parent(one)
        .is_some_and(|rest| rest.contains('.') && parent(other).as_ref() == Some(&rest))
        .then_some(TYPOS_MAX + 1);
    if one.len().abs_diff(other.len()) > TYPOS_MAX {
        return related;
    }
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (at, byte) in one.bytes().enumerate() {
        let mut corner = std::mem::replace(&mut row[0], at + 1);
        for (column, own) in other.bytes().enumerate() {
            let exchanged = corner + usize::from(own != byte);
            corner = row[column + 1];
            row[column + 1] = exchanged.min(row[column] + 1).min(corner + 1);
        }
    }
    let typos = row.last().copied().filter(|typos| *typos <= TYPOS_MAX);
    typos.or(related)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_names_are_those_with_few_typos_and_those_of_one_domain() {
        assert_eq!(distance("shop.example", "shop.example"), Some(0));
        assert_eq!(distance("shp.example", "shop.example"), Some(1));
        assert_eq!(distance("shpo.example", "shop.example"), Some(2));
        assert_eq!(distance("blog.example", "shop.example"), None);
        assert_eq!(distance("blog.shop.example", "payments.shop.example"), Some(3));
        assert_eq!(distance("", "ab"), Some(2));
    }

    #[test]
    fn a_pattern_fits_as_its_kind_says() {
        let one = HostMatch::OneLabel("example".into());
        let more = HostMatch::Suffix("example".into());
        for (host, by_one, by_more) in [
            ("a.example", true, true),
            ("a.b.example", false, true),
            ("example", false, false),
            ("aexample", false, false),
            (".example", false, false),
        ] {
            assert_eq!((fits(&one, host), fits(&more, host)), (by_one, by_more), "{host}");
        }
    }
}
