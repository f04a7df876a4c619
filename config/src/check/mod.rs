//! The second check: from values of the right type to values that make sense, alone and
//! together. Each section is a file; what concerns several sections is in [`across`].

mod access;
mod across;
mod bgp;
mod cluster;
mod dns;
mod host;
mod l4;
mod pool;
mod secret;
mod selector;
mod text;
mod traffic;

use crate::checked::Config;
use crate::context::Context;
use crate::file::File;

/// Checks everything and reports every problem; a configuration only when there is none.
pub(crate) fn config(context: &mut Context, file: &File, host_name: &str) -> Option<Config> {
    let host = host::host(context, &file.host, host_name);
    let admin = host::admin(context, &file.admin, host.as_ref());
    let log = host::log(context, &file.log);
    let clusters = cluster::clusters(context, &file.cluster);
    let inventory = cluster::inventory(context, &file.inventory);
    let pools = pool::pools(context, &file.pool);
    let vips = host::vips(context, &file.vips);
    let routes = host::routes(context, &file.routes);
    let bgp = bgp::bgp(context, &file.bgp);
    let dns = dns::dns(context, &file.dns);
    let l4 = l4::l4(&file.l4);
    let xdp = l4::xdp(context, &file.xdp, &l4);
    let relay = traffic::relay(context, &file.relay);
    let proxy = traffic::proxy(context, &file.proxy);
    let health = traffic::health(&file.health);
    let limits = traffic::limits(&file.limits);
    across::addresses(context, file, &pools, proxy.as_ref(), bgp.as_ref().and_then(Option::as_ref));
    l4::apart_from_vips(context, &file.xdp, &pools, proxy.as_ref());
    across::listeners(context, admin.as_ref(), proxy.as_ref(), bgp.as_ref());
    across::waits(context, file);
    across::sources(context, file);
    if !context.problems.is_empty() {
        return None;
    }
    Some(Config {
        host: host?,
        admin: admin?,
        log: log?,
        clusters,
        inventory,
        pools: pools.into_iter().map(|(_, pool)| pool).collect(),
        vips: vips?,
        routes: routes?,
        bgp: bgp?,
        dns,
        l4,
        xdp: xdp?,
        relay: relay?,
        proxy: proxy?,
        health,
        limits,
    })
}
