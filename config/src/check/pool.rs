//! `[[pool]]`.

use std::net::IpAddr;

use ipnet::IpNet;

use super::selector;
use super::text::{self, Distinct};
use crate::checked::{AddressRange, LabelSelector, Pool};
use crate::context::Context;
use crate::file;
use crate::layer::item;

/// Pools, each with where it stands.
pub(crate) fn pools(context: &mut Context, file: &[file::Pool]) -> Vec<(String, Pool)> {
    let mut names = Distinct::new("the pool name");
    let mut taken: Vec<(String, AddressRange)> = Vec::new();
    let mut pools = Vec::with_capacity(file.len());
    for (index, written) in file.iter().enumerate() {
        let at = item("pool", index);
        let key = format!("{at}.name");
        let name = text::required(
            context,
            &key,
            written.name.as_ref(),
            "give the pool a name, such as name = \"public\"",
        )
        .and_then(|name| text::label(context, &key, name));
        let ranges = ranges(context, &format!("{at}.addresses"), &written.addresses, &mut taken);
        let namespaces =
            text::each(context, &format!("{at}.namespaces"), &written.namespaces, text::label);
        let namespace_labels =
            selectors(context, &at, "namespace_labels", &written.namespace_labels);
        let service_labels = selectors(context, &at, "service_labels", &written.service_labels);
        if written.skip_0_and_255 && !ranges.is_empty() && ranges.iter().all(skipped) {
            let remedy = "add other addresses to the pool, or leave the key out";
            context.refuse(
                &format!("{at}.skip_0_and_255"),
                "every address of the pool ends in .0 or .255, so that none is left",
                remedy,
            );
        }
        let Some(name) = name else { continue };
        if names.add(context, &key, &name) {
            let pool = Pool {
                name,
                ranges,
                auto_assign: written.auto_assign,
                priority: written.priority,
                skip_0_and_255: written.skip_0_and_255,
                namespaces: namespaces.into_iter().map(|(_, name)| name).collect(),
                namespace_labels,
                service_labels,
            };
            pools.push((at, pool));
        }
    }
    pools
}

fn selectors(context: &mut Context, at: &str, key: &str, written: &[String]) -> Vec<LabelSelector> {
    let selectors = text::each(context, &format!("{at}.{key}"), written, selector::read);
    selectors.into_iter().map(|(_, selector)| selector).collect()
}

/// Whether a range has only addresses that end in .0 or .255.
fn skipped(range: &AddressRange) -> bool {
    match (range.first, range.last) {
        // Of three neighbours one always ends otherwise.
        (IpAddr::V4(first), IpAddr::V4(last)) => {
            let (first, last) = (u32::from(first), u32::from(last));
            last - first < 2 && (first..=last).all(|number| matches!(number % 256, 0 | 255))
        }
        _ => false,
    }
}

fn ranges(
    context: &mut Context,
    at: &str,
    written: &[String],
    taken: &mut Vec<(String, AddressRange)>,
) -> Vec<AddressRange> {
    if written.is_empty() {
        context.missing(at, "list networks or ranges, such as addresses = [\"192.0.2.0/24\"]");
    }
    let mut ranges = Vec::with_capacity(written.len());
    for (path, range) in text::each(context, at, written, range) {
        let clash = taken.iter().find(|(_, other)| other.overlaps(&range));
        if let Some((other_at, other)) = clash {
            let shared = AddressRange {
                first: range.first.max(other.first),
                last: range.last.min(other.last),
            };
            let what =
                format!("it overlaps {other_at} ({}) in {shared}", context.whereabouts(other_at));
            let remedy = "give every address to one pool only";
            context.refuse(&path, &what, remedy);
            continue;
        }
        taken.push((path, range));
        ranges.push(range);
    }
    ranges
}

fn range(context: &mut Context, at: &str, text: &str) -> Option<AddressRange> {
    let range = if text.contains('/') {
        network(context, at, text)?
    } else if let Some((first, last)) = text.split_once('-') {
        span(context, at, first.trim(), last.trim())?
    } else {
        let Ok(address) = text.trim().parse::<IpAddr>() else {
            let remedy = "write \"192.0.2.0/24\", \"192.0.2.10-192.0.2.20\" or one address";
            context.refuse(at, "it is neither a network, a range nor an address", remedy);
            return None;
        };
        AddressRange { first: address, last: address }
    };
    let edge = text::unusable(range.first).or_else(|| text::unusable(range.last));
    if let Some(edge) = edge {
        let remedy = "list only addresses that a client can connect to";
        context.refuse(at, &format!("it contains {edge}, which belongs to no host"), remedy);
        return None;
    }
    Some(range)
}

fn network(context: &mut Context, at: &str, text: &str) -> Option<AddressRange> {
    let Ok(network) = text.trim().parse::<IpNet>() else {
        let remedy = "write address and prefix length, such as \"192.0.2.0/24\"";
        context.refuse(at, "it is not a network", remedy);
        return None;
    };
    if network.trunc() != network {
        let what = format!("the address has bits beyond the /{} prefix", network.prefix_len());
        context.refuse(at, &what, &format!("write \"{}\"", network.trunc()));
        return None;
    }
    Some(AddressRange { first: network.network(), last: network.broadcast() })
}

fn span(context: &mut Context, at: &str, first: &str, last: &str) -> Option<AddressRange> {
    let remedy = "write the lowest and the highest address, such as \"192.0.2.10-192.0.2.20\"";
    let (Ok(first), Ok(last)) = (first.parse::<IpAddr>(), last.parse::<IpAddr>()) else {
        context.refuse(at, "it is not a range of addresses", remedy);
        return None;
    };
    if first.is_ipv4() != last.is_ipv4() {
        context.refuse(at, "it begins in one address family and ends in the other", remedy);
        return None;
    }
    if first > last {
        context.refuse(at, "it ends before it begins", &format!("write \"{last}-{first}\""));
        return None;
    }
    Some(AddressRange { first, last })
}
