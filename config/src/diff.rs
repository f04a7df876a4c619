//! What a new configuration changes, and which part of it needs a restart.

use crate::checked::Config;

/// One section or key that differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// The section, or the key when it alone decides, as in the file.
    pub field: &'static str,
    /// Why it takes effect only after a restart; `None`: it is applied at once.
    pub restart: Option<&'static str>,
}

/// What differs between two configurations, in the order of the file.
pub fn changes(old: &Config, new: &Config) -> Vec<Change> {
    let restarts = [
        ("host.name", old.host.name != new.host.name, "the lease carries the name"),
        ("host.state_dir", old.host.state_dir != new.host.state_dir, "state is open there"),
        ("host.run_dir", old.host.run_dir != new.host.run_dir, "sockets are open there"),
        ("admin", old.admin != new.admin, "its listeners are opened once"),
        ("log.format", old.log.format != new.log.format, "the log is set up once"),
        ("xdp.flows_max", old.xdp.flows_max != new.xdp.flows_max, MAPS),
        ("xdp.opening_flows_max", old.xdp.opening_flows_max != new.xdp.opening_flows_max, MAPS),
        ("xdp.services_max", old.xdp.services_max != new.xdp.services_max, MAPS),
        ("xdp.backends_max", old.xdp.backends_max != new.xdp.backends_max, MAPS),
        ("xdp.buckets_max", old.xdp.buckets_max != new.xdp.buckets_max, MAPS),
        ("xdp.source_ranges_max", old.xdp.source_ranges_max != new.xdp.source_ranges_max, MAPS),
        (
            "xdp.affinity_entries_max",
            old.xdp.affinity_entries_max != new.xdp.affinity_entries_max,
            MAPS,
        ),
        ("xdp.fragments_max", old.xdp.fragments_max != new.xdp.fragments_max, MAPS),
        ("xdp.pin_dir", old.xdp.pin_dir != new.xdp.pin_dir, "the maps are pinned there"),
        ("relay.flow_hash_key_file", keys_differ(old, new), "flows are bound to the key"),
        ("proxy.workers", old.proxy.workers != new.proxy.workers, "threads are started once"),
        (
            "limits.updates_max",
            old.limits.updates_max != new.limits.updates_max,
            "the queue is made once",
        ),
    ];
    let live = [
        ("host.zone", old.host.zone != new.host.zone),
        ("log.level", old.log.level != new.log.level),
        ("cluster", old.clusters != new.clusters),
        ("inventory", old.inventory != new.inventory),
        ("pool", old.pools != new.pools),
        ("vips", old.vips != new.vips),
        ("routes", old.routes != new.routes),
        ("bgp", old.bgp != new.bgp),
        ("dns", old.dns != new.dns),
        ("l4", old.l4 != new.l4),
        ("xdp", xdp_differs(old, new)),
        ("relay", relay_differs(old, new)),
        ("proxy", proxy_differs(old, new)),
        ("health", old.health != new.health),
        ("limits", limits_differ(old, new)),
    ];
    let restarts = restarts
        .into_iter()
        .filter(|(_, differs, _)| *differs)
        .map(|(field, _, why)| Change { field, restart: Some(why) });
    let live = live
        .into_iter()
        .filter(|(_, differs)| *differs)
        .map(|(field, _)| Change { field, restart: None });
    let mut changes: Vec<Change> = restarts.chain(live).collect();
    changes.sort_by_key(|change| {
        SECTIONS.iter().position(|name| change.field.split('.').next() == Some(name))
    });
    changes
}

/// The sections in the order of the file.
const SECTIONS: &[&str] = &[
    "host",
    "admin",
    "log",
    "cluster",
    "inventory",
    "pool",
    "vips",
    "routes",
    "bgp",
    "dns",
    "l4",
    "xdp",
    "relay",
    "proxy",
    "health",
    "limits",
];

/// Why sizes of maps wait.
const MAPS: &str = "the maps are made once";

fn xdp_differs(old: &Config, new: &Config) -> bool {
    let (mut xdp, made) = (new.xdp.clone(), &old.xdp);
    xdp.flows_max = made.flows_max;
    xdp.opening_flows_max = made.opening_flows_max;
    xdp.services_max = made.services_max;
    xdp.backends_max = made.backends_max;
    xdp.buckets_max = made.buckets_max;
    xdp.source_ranges_max = made.source_ranges_max;
    xdp.affinity_entries_max = made.affinity_entries_max;
    xdp.fragments_max = made.fragments_max;
    xdp.pin_dir.clone_from(&made.pin_dir);
    xdp != *made
}

fn keys_differ(old: &Config, new: &Config) -> bool {
    old.relay.flow_hash_key != new.relay.flow_hash_key
}

fn relay_differs(old: &Config, new: &Config) -> bool {
    let mut relay = new.relay.clone();
    relay.flow_hash_key = old.relay.flow_hash_key;
    relay != old.relay
}

fn proxy_differs(old: &Config, new: &Config) -> bool {
    let mut proxy = new.proxy.clone();
    proxy.workers = old.proxy.workers;
    proxy != old.proxy
}

fn limits_differ(old: &Config, new: &Config) -> bool {
    let mut limits = new.limits.clone();
    limits.updates_max = old.limits.updates_max;
    limits != old.limits
}
