//! Contradictions between sections.

use std::net::SocketAddr;

use crate::checked::{Admin, Bgp, Pool, Proxy};
use crate::context::Context;
use crate::file::File;
use crate::layer::item;

/// Addresses that cannot be what two sections say they are.
pub(crate) fn addresses(
    context: &mut Context,
    file: &File,
    pools: &[(String, Pool)],
    proxy: Option<&Proxy>,
    bgp: Option<&Bgp>,
) {
    let holder = |address| {
        pools
            .iter()
            .find(|(_, pool)| pool.ranges.iter().any(|range| range.contains(address)))
            .map(|(at, pool)| (at.clone(), pool.name.clone()))
    };
    for (index, peer) in file.bgp.peer.iter().enumerate() {
        let at = format!("{}.address", item("bgp.peer", index));
        let Some(address) = peer.address.as_ref().and_then(|text| text.parse().ok()) else {
            continue;
        };
        if let Some((pool_at, pool)) = holder(address) {
            let place = context.whereabouts(&pool_at);
            let what = format!("the router's address lies in the pool {pool:?} ({place})");
            context.refuse(&at, &what, "take the address out of the pool");
        }
    }
    let outside = proxy.into_iter().flat_map(|proxy| &proxy.addresses);
    for address in outside.filter(|address| holder(**address).is_none() && !pools.is_empty()) {
        let what = format!("{address} lies in no pool");
        context.warn("proxy.addresses", &what, "add it to a pool, so that nothing else takes it");
    }
    if let Some(bgp) = bgp {
        families(context, pools, bgp);
    }
}

/// A family of addresses that no session can carry. Next to its own family a session carries
/// the other one if it is told the next hop.
fn families(context: &mut Context, pools: &[(String, Pool)], bgp: &Bgp) {
    let v4 = bgp.peers.iter().any(|peer| peer.address.is_ipv4() || peer.next_hop_v4.is_some());
    let v6 = bgp.peers.iter().any(|peer| peer.address.is_ipv6() || peer.next_hop_v6.is_some());
    for (at, pool) in pools {
        let lost = pool.ranges.iter().find(|range| match range.first().is_ipv4() {
            true => !v4,
            false => !v6,
        });
        let Some(range) = lost else { continue };
        let (family, key) =
            if range.first().is_ipv4() { ("IPv4", "next_hop_v4") } else { ("IPv6", "next_hop_v6") };
        let what =
            format!("no BGP session carries {family} routes, so {range} cannot be announced");
        let remedy = format!("add an {family} peer, or `{key}` to a [[bgp.peer]]");
        context.refuse(&format!("{at}.addresses"), &what, &remedy);
    }
}

/// Two listeners that want one address and port.
pub(crate) fn listeners(
    context: &mut Context,
    admin: Option<&Admin>,
    proxy: Option<&Proxy>,
    bgp: Option<&Option<Bgp>>,
) {
    let Some(admin) = admin.and_then(|admin| admin.listen) else { return };
    let bgp = bgp.and_then(Option::as_ref);
    if let Some(listen) = bgp.and_then(|bgp| bgp.listen)
        && collide(admin, listen)
    {
        refuse_listener(context, "bgp.listen", listen);
    }
    let Some(proxy) = proxy else { return };
    for (index, address) in proxy.addresses.iter().enumerate() {
        for port in [proxy.http_port, proxy.https_port] {
            let listen = SocketAddr::new(*address, port);
            if collide(admin, listen) {
                refuse_listener(context, &item("proxy.addresses", index), listen);
            }
        }
    }
}

fn collide(a: SocketAddr, b: SocketAddr) -> bool {
    let same_family = a.is_ipv4() == b.is_ipv4();
    a.port() == b.port()
        && (a.ip() == b.ip()
            || (same_family && (a.ip().is_unspecified() || b.ip().is_unspecified())))
}

fn refuse_listener(context: &mut Context, at: &str, listen: SocketAddr) {
    let place = context.whereabouts("admin.listen");
    let what = format!("{listen} is taken by admin.listen ({place})");
    context.refuse(at, &what, "choose another port for one of the two");
}

/// Waits that do not fit into the time for a graceful stop.
pub(crate) fn waits(context: &mut Context, file: &File) {
    let (longest, at) =
        [(file.relay.drain_secs, "relay.drain_secs"), (file.proxy.drain_secs, "proxy.drain_secs")]
            .into_iter()
            .max()
            .expect("there are two drains");
    let needed = longest + file.limits.withdraw_wait_ms.div_ceil(1000);
    if file.limits.stop_secs < needed {
        let at = if context.is_set("limits.stop_secs") { "limits.stop_secs" } else { at };
        let what = format!(
            "a stop of {} s is cut short before the withdrawal and the drain of {longest} s are over",
            file.limits.stop_secs
        );
        let remedy = format!("write limits.stop_secs = {needed} or more, or shorten the drain");
        context.refuse(at, &what, &remedy);
    }
}

/// A configuration with which nothing can be served.
pub(crate) fn sources(context: &mut Context, file: &File) {
    if file.cluster.is_empty() && file.inventory.path.is_none() {
        let remedy = "add a [[cluster]], or a path to [inventory]";
        context.warn("", "nothing is served: there is no cluster and no inventory", remedy);
    }
    if !file.cluster.is_empty() && file.pool.is_empty() {
        let remedy = "add a [[pool]]";
        context.warn("", "no Service will get an address: there is no pool", remedy);
    }
}
