//! `[l4]` and `[xdp]`.

use std::net::IpAddr;

use super::host::interface;
use super::text::{self, Distinct, path, secs};
use super::traffic::either;
use crate::checked::{ForwardingMode, L4, Pool, PortRange, Proxy, Timeouts, Xdp};
use crate::context::Context;
use crate::file;

/// Source addresses at most: with 64,512 ports each far more flows than memory holds.
const NAT_ADDRESSES_MAX: usize = 256;

/// Interfaces at most: above any host that forwards.
const INTERFACES_MAX: usize = 64;

pub(crate) fn l4(file: &file::L4) -> L4 {
    let timeouts = &file.timeouts;
    L4 {
        mode: file.mode,
        timeouts: Timeouts {
            opening: secs(timeouts.opening_secs),
            established: secs(timeouts.established_secs),
            closing: secs(timeouts.closing_secs),
            closed: secs(timeouts.closed_secs),
            udp: secs(timeouts.udp_secs),
        },
    }
}

pub(crate) fn xdp(context: &mut Context, file: &file::Xdp, l4: &L4) -> Option<Xdp> {
    let interfaces = interfaces(context, &file.interfaces);
    let nat_addresses = nat_addresses(context, &file.nat_addresses);
    let nat_ports = ports(context, "xdp.nat_ports", &file.nat_ports);
    let pin_dir = path(context, "xdp.pin_dir", &file.pin_dir);
    if file.opening_flows_max > file.flows_max {
        let at = either(context, "xdp.opening_flows_max", "xdp.flows_max");
        let what = format!(
            "{} flows may be unanswered, only {} answered",
            file.opening_flows_max, file.flows_max
        );
        context.refuse(at, &what, "write a limit of unanswered flows that is not above the other");
        return None;
    }
    if nat_addresses.is_empty() && context.is_set("xdp.nat_ports") {
        let what = "without `nat_addresses` it is not used: the host's own address has 61000-65535";
        context.warn("xdp.nat_ports", what, "write `nat_addresses`, or take the key out");
    }
    if !file.enabled && l4.mode != ForwardingMode::Proxy && context.is_set("l4.mode") {
        let what = "every service is relayed: XDP is switched off";
        context.warn("l4.mode", what, "write xdp.enabled = true, or mode = \"proxy\"");
    }
    Some(Xdp {
        enabled: file.enabled,
        interfaces: interfaces.into_iter().map(|(_, name)| name).collect(),
        attach: file.attach,
        nat_addresses: nat_addresses.into_iter().map(|(_, address)| address).collect(),
        bind_nat_addresses: file.bind_nat_addresses,
        nat_ports: nat_ports?,
        flows_max: file.flows_max,
        opening_flows_max: file.opening_flows_max,
        new_flows_per_second: file.new_flows_per_second,
        services_max: file.services_max,
        backends_max: file.backends_max,
        buckets_max: file.buckets_max,
        source_ranges_max: file.source_ranges_max,
        affinity_entries_max: file.affinity_entries_max,
        fragments_max: file.fragments_max,
        pin_dir: pin_dir?,
    })
}

fn interfaces(context: &mut Context, written: &[String]) -> Vec<(String, String)> {
    const AT: &str = "xdp.interfaces";
    too_many(context, AT, written.len(), INTERFACES_MAX);
    let mut distinct = Distinct::new("the interface");
    let mut names =
        text::each(context, AT, written, |context, at, name| interface(context, at, name, "eth0"));
    names.retain(|(at, name)| distinct.add(context, at, name));
    names
}

fn nat_addresses(context: &mut Context, written: &[String]) -> Vec<(String, IpAddr)> {
    const AT: &str = "xdp.nat_addresses";
    too_many(context, AT, written.len(), NAT_ADDRESSES_MAX);
    let mut distinct = Distinct::new("the address");
    let mut addresses = text::each(context, AT, written, text::address);
    addresses.retain(|(at, address)| {
        let local = match address {
            IpAddr::V4(v4) => v4.is_loopback() || v4.is_link_local(),
            IpAddr::V6(v6) => v6.is_loopback() || v6.is_unicast_link_local(),
        };
        if local {
            let remedy = "write an address that the network routes to this host alone";
            context.refuse(at, "no reply to it would find back", remedy);
        }
        !local && distinct.add(context, at, address)
    });
    addresses
}

fn too_many(context: &mut Context, at: &str, count: usize, most: usize) {
    if count > most {
        context.refuse(at, &format!("{count} are too many"), &format!("write {most} at most"));
    }
}

/// `LOWEST-HIGHEST`.
fn ports(context: &mut Context, at: &str, written: &str) -> Option<PortRange> {
    let port = |text: &str| text.trim().parse::<u16>().ok().filter(|port| *port != 0);
    let range = written.split_once('-').and_then(|(first, last)| Some((port(first)?, port(last)?)));
    match range {
        _ if context.is_refused(at) => None,
        Some((first, last)) if first <= last => Some(PortRange { first, last }),
        Some((first, last)) => {
            context.refuse(at, "it ends before it begins", &format!("write \"{last}-{first}\""));
            None
        }
        None => {
            let remedy = "write the lowest and the highest port, such as \"1024-65535\"";
            context.refuse(at, "it is not a range of ports", remedy);
            None
        }
    }
}

/// Source addresses that clients connect to: replies and connections would be mixed up.
pub(crate) fn apart_from_vips(
    context: &mut Context,
    file: &file::Xdp,
    pools: &[(String, Pool)],
    proxy: Option<&Proxy>,
) {
    for (index, written) in file.nat_addresses.iter().enumerate() {
        let at = crate::layer::item("xdp.nat_addresses", index);
        let Ok(address) = written.parse::<IpAddr>() else { continue };
        let pool =
            pools.iter().find(|(_, pool)| pool.ranges.iter().any(|range| range.contains(address)));
        if let Some((pool_at, pool)) = pool {
            let place = context.whereabouts(&format!("{pool_at}.addresses"));
            let what = format!("it lies in the pool {:?} ({place}), as a VIP", pool.name);
            context.refuse(&at, &what, "write an address that is in no pool");
        } else if proxy.is_some_and(|proxy| proxy.addresses.contains(&address)) {
            let place = context.whereabouts("proxy.addresses");
            let what = format!("it is a VIP of Ingresses ({place})");
            context.refuse(&at, &what, "write an address that is no VIP");
        }
    }
}
