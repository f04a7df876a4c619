//! From the checked configuration to each room's settings. Nothing is decided here: values that
//! the configuration does not name come from the rooms' own constants.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::num::NonZeroUsize;
use std::time::Duration;

use anyhow::Context as _;
use haflinger_bgp::model::{Community, HoldTime, RouterId};
use haflinger_bgp::settings::{Distance, PeerSettings, Secret};
use haflinger_config::{
    Attach, Config, Fallback, KeyAlgorithm, Peer, PodRoutes, TlsPolicy, Zone, ZonePolicy,
};
use haflinger_core::flow::FlowHashKey;
use haflinger_core::{
    FlowTimeouts, ForwardingMode, LabelRequirement, LabelSelector, LabelTest, Policy, Pool,
    PoolSelector, RouteOrigin, SourceId,
};
use haflinger_dns::RecordName;
use haflinger_proxy::{AccessDestination, AccessFormat, AccessLogSettings, TraceContext};

/// What the core is told.
pub(crate) fn policy(config: &Config, draining: bool) -> Policy {
    let clusters = config.clusters.iter().map(|cluster| SourceId::cluster(&cluster.name));
    let inventory = config.inventory.iter().map(|_| SourceId::inventory());
    let pools = config.pools.iter().map(pool);
    Policy {
        sources: clusters.chain(inventory).collect(),
        pools: pools.collect(),
        shared_http_addresses: config.proxy.addresses.clone(),
        http_port: config.proxy.http_port,
        https_port: config.proxy.https_port,
        bind_vips: config.vips.bind,
        draining,
        default_mode: forwarding_mode(config.l4.mode),
        timeouts: FlowTimeouts {
            opening_secs: secs(config.l4.timeouts.opening),
            established_secs: secs(config.l4.timeouts.established),
            closing_secs: secs(config.l4.timeouts.closing),
            closed_secs: secs(config.l4.timeouts.closed),
            udp_secs: secs(config.l4.timeouts.udp),
        },
        xdp: config.xdp.enabled,
        zone: config.host.zone.as_deref().map(Into::into),
        pod_routes: config
            .clusters
            .iter()
            .map(|cluster| (SourceId::cluster(&cluster.name), pod_routes(config, cluster)))
            .collect(),
        gated: config
            .clusters
            .iter()
            .filter(|cluster| cluster.readiness_gate)
            .map(|cluster| SourceId::cluster(&cluster.name))
            .collect(),
        fallback: config.health.fallback == Fallback::Nodeport,
    }
}

fn pool(pool: &haflinger_config::Pool) -> Pool {
    Pool {
        name: pool.name.as_str().into(),
        ranges: pool.ranges.iter().map(|range| (range.first(), range.last())).collect(),
        auto_assign: pool.auto_assign,
        skip_0_and_255: pool.skip_0_and_255,
        priority: pool.priority,
        selects: PoolSelector {
            namespaces: pool.namespaces.iter().map(|name| name.as_str().into()).collect(),
            namespace_labels: pool.namespace_labels.iter().map(label_selector).collect(),
            service_labels: pool.service_labels.iter().map(label_selector).collect(),
        },
    }
}

fn label_selector(selector: &haflinger_config::LabelSelector) -> LabelSelector {
    let values = |values: &BTreeSet<String>| values.iter().map(|v| v.as_str().into()).collect();
    let requirements = selector.requirements.iter().map(|requirement| LabelRequirement {
        key: requirement.key.as_str().into(),
        test: match &requirement.test {
            haflinger_config::LabelTest::Exists => LabelTest::Exists,
            haflinger_config::LabelTest::Absent => LabelTest::Absent,
            haflinger_config::LabelTest::In(list) => LabelTest::In(values(list)),
            haflinger_config::LabelTest::NotIn(list) => LabelTest::NotIn(values(list)),
        },
    });
    LabelSelector { text: selector.text.as_str().into(), requirements: requirements.collect() }
}

/// The labels that any pool's selector names.
fn label_keys(config: &Config) -> haflinger_discovery::LabelKeys {
    let keys = |selectors: fn(&haflinger_config::Pool) -> &[haflinger_config::LabelSelector]| {
        let requirements = config.pools.iter().flat_map(selectors).flat_map(|s| &s.requirements);
        requirements.map(|requirement| requirement.key.as_str().into()).collect()
    };
    haflinger_discovery::LabelKeys {
        services: keys(|pool| &pool.service_labels),
        namespaces: keys(|pool| &pool.namespace_labels),
    }
}

/// Whose word about pod networks counts. Nobody's, where no route is written.
fn pod_routes(config: &Config, cluster: &haflinger_config::Cluster) -> Vec<RouteOrigin> {
    let wanted = cluster.pod_routes.iter().filter(|_| config.routes.enabled);
    let origins = wanted.map(|origin| match origin {
        PodRoutes::Calico => RouteOrigin::Calico,
        PodRoutes::Cilium => RouteOrigin::Cilium,
        PodRoutes::Ovn => RouteOrigin::Ovn,
        PodRoutes::Node => RouteOrigin::Node,
    });
    origins.collect()
}

fn forwarding_mode(mode: haflinger_config::ForwardingMode) -> ForwardingMode {
    match mode {
        haflinger_config::ForwardingMode::Nat => ForwardingMode::Nat,
        haflinger_config::ForwardingMode::Routed => ForwardingMode::Routed,
        haflinger_config::ForwardingMode::Dsr => ForwardingMode::Dsr,
        haflinger_config::ForwardingMode::Proxy => ForwardingMode::Proxy,
    }
}

pub(crate) fn discovery(config: &Config) -> haflinger_discovery::Settings {
    let clusters = config.clusters.iter().map(|cluster| haflinger_discovery::ClusterSettings {
        name: cluster.name.clone(),
        kubeconfig: cluster.kubeconfig.clone(),
        context: cluster.context.clone(),
        claim_unclassed: cluster.claim_unclassed,
        ingress_class: cluster.ingress_class.clone(),
        deletions: haflinger_discovery::DeletionLimits {
            objects_max: cluster.deletes_max,
            percent_max: cluster.deletes_percent_max,
            confirm_after: cluster.deletes_confirm,
        },
        labels: label_keys(config),
        pod_routes: pod_routes(config, cluster),
        readiness_gate: cluster.readiness_gate,
    });
    haflinger_discovery::Settings {
        clusters: clusters.collect(),
        inventory: config.inventory.clone(),
        state_dir: Some(config.host.state_dir.clone()),
    }
}

pub(crate) fn reporter(config: &Config) -> haflinger_report::Settings {
    let clusters = config.clusters.iter().map(|cluster| haflinger_report::ClusterSettings {
        name: cluster.name.clone(),
        kubeconfig: cluster.kubeconfig.clone(),
        context: cluster.context.clone(),
        lease_namespace: cluster.lease_namespace.clone(),
        lease_name: cluster.lease_name.clone(),
        lease_duration_secs: cluster.lease_duration.as_secs(),
        // A leader that could not renew for so long stops writing well before the lease runs out.
        renew_deadline_secs: cluster.lease_duration.as_secs() * 2 / 3,
        retry_period_secs: cluster.lease_renew.as_secs(),
        readiness_gate: cluster.readiness_gate,
    });
    haflinger_report::Settings { clusters: clusters.collect(), identity: config.host.name.clone() }
}

/// Without a peer nothing is said, so that number and identifier stand for none.
const SILENT_AS: u32 = 64_512;
const SILENT_ID: Ipv4Addr = Ipv4Addr::LOCALHOST;

pub(crate) fn bgp(config: &Config) -> anyhow::Result<haflinger_bgp::settings::Settings> {
    let Some(bgp) = &config.bgp else {
        return Ok(haflinger_bgp::settings::Settings {
            local_as: SILENT_AS,
            router_id: RouterId::new(SILENT_ID)?,
            hold_time: HoldTime::DEFAULT,
            connect_retry_secs: 5,
            listen: None,
            communities: Vec::new(),
            peers: Vec::new(),
        });
    };
    Ok(haflinger_bgp::settings::Settings {
        local_as: bgp.local_as,
        router_id: RouterId::new(bgp.router_id)?,
        hold_time: HoldTime::from_secs(bgp.hold_time.secs())?,
        connect_retry_secs: u16::try_from(bgp.connect_retry.as_secs()).unwrap_or(u16::MAX),
        listen: bgp.listen,
        // Each peer's list holds the general ones already.
        communities: Vec::new(),
        peers: bgp.peers.iter().map(peer).collect(),
    })
}

fn peer(peer: &Peer) -> PeerSettings {
    PeerSettings {
        name: peer.name.clone(),
        address: peer.address,
        port: peer.port,
        remote_as: peer.remote_as,
        local_address: peer.local_address,
        md5_password: peer
            .password
            .as_ref()
            .map(|password| Secret::new(String::from_utf8_lossy(password.expose()))),
        communities: peer.communities.iter().map(|value| Community(value.0)).collect(),
        next_hop_v4: peer.next_hop_v4,
        next_hop_v6: peer.next_hop_v6,
        passive: peer.passive,
        distance: peer.multihop.map_or(Distance::Direct, Distance::Multihop),
    }
}

pub(crate) fn netlink(config: &Config) -> haflinger_netlink::Settings {
    let binds_sources = config.xdp.enabled && config.xdp.bind_nat_addresses;
    haflinger_netlink::Settings {
        vip_interface: config.vips.bind.then(|| config.vips.interface.clone()),
        sources: if binds_sources { config.xdp.nat_addresses.clone() } else { Vec::new() },
        source_interface: config.vips.interface.clone(),
        source_linger_secs: longest_idle(config),
        pod_route_table: config.routes.enabled.then_some(config.routes.table),
        remembered: Some(config.host.state_dir.join("addresses")),
        ..haflinger_netlink::Settings::default()
    }
}

pub(crate) fn prober(config: &Config) -> haflinger_health::Settings {
    haflinger_health::Settings { probes_in_flight_max: config.health.concurrent_max }
}

pub(crate) fn relay(config: &Config, key: FlowHashKey) -> haflinger_relay::Settings {
    let relay = &config.relay;
    haflinger_relay::Settings {
        connections_max: relay.connections_max,
        connections_per_service_max: relay.connections_per_service_max,
        udp_flows_max: relay.udp_flows_max,
        connect_timeout_ms: millis(relay.connect_timeout),
        connect_attempts_max: u32::from(relay.connect_attempts_max),
        connect_total_timeout_ms: millis(relay.connect_total_timeout),
        drain_secs: secs(relay.drain),
        affinity_entries_max: relay.affinity_entries_max,
        pipes_max: relay.pipes_max,
        flow_hash_key: key,
    }
}

/// Layer 7.
///
/// # Errors
/// The description of the access log's lines is none.
pub(crate) fn proxy(
    config: &Config,
    key: FlowHashKey,
) -> anyhow::Result<haflinger_proxy::Settings> {
    let proxy = &config.proxy;
    let defaults = haflinger_proxy::Settings::new(key);
    Ok(haflinger_proxy::Settings {
        flow_hash_key: key,
        workers: proxy.workers.and_then(NonZeroUsize::new).unwrap_or(defaults.workers),
        connections_max: proxy.connections_max,
        tls_policy: match proxy.tls_policy {
            TlsPolicy::Intermediate => haflinger_proxy::TlsPolicy::Intermediate,
            TlsPolicy::Modern => haflinger_proxy::TlsPolicy::Modern,
        },
        ticket_secret: proxy.session_ticket_secret.as_ref().map(|secret| {
            let rotation_secs = secs(proxy.session_ticket_rotation);
            haflinger_proxy::TicketSecret { bytes: secret.expose(), rotation_secs }
        }),
        certificate_warning: proxy.certificate_warning,
        tls_handshake_timeout: proxy.tls_handshake_timeout,
        header_timeout: proxy.request_header_timeout,
        header_bytes_max: proxy.request_header_bytes_max,
        client_idle_timeout: proxy.keepalive_idle,
        client_read_timeout: proxy.client_read_timeout,
        client_write_timeout: proxy.client_write_timeout,
        h2_streams_max: proxy.h2_streams_max,
        connect_timeout: proxy.upstream_connect_timeout,
        upstream_read_timeout: proxy.upstream_read_timeout,
        upstream_write_timeout: proxy.upstream_write_timeout,
        upstream_idle_timeout: proxy.upstream_idle,
        upstream_idle_max: proxy.upstream_idle_max,
        upgraded_idle_timeout: proxy.upgraded_idle,
        attempts_max: usize::from(proxy.retries_max) + 1,
        retry_percent: proxy.retry_percent,
        trusted_proxies: proxy.trusted_proxies.clone(),
        access_log: proxy.access_log.as_ref().map(access_log).transpose()?,
        request_id_header: proxy.request_id_header.as_ref().map(|name| name.parse()).transpose()?,
        trace_context: match proxy.trace_context {
            haflinger_config::TraceContext::Pass => TraceContext::Pass,
            haflinger_config::TraceContext::Follow => TraceContext::Follow,
            haflinger_config::TraceContext::Make => TraceContext::Make,
        },
        // 0 means at once; a timer needs a little.
        drain_timeout: proxy.drain.max(Duration::from_millis(1)),
    })
}

fn access_log(log: &haflinger_config::AccessLog) -> anyhow::Result<AccessLogSettings> {
    let format = AccessFormat::parse(&log.format)
        .with_context(|| format!("proxy.access_log.format = {:?}", log.format))?;
    let to = match &log.to {
        haflinger_config::AccessDestination::Stdout => AccessDestination::Stdout,
        haflinger_config::AccessDestination::Syslog => AccessDestination::syslog(),
        haflinger_config::AccessDestination::File(path) => AccessDestination::File(path.clone()),
    };
    Ok(AccessLogSettings { to, format, queries: log.queries })
}

pub(crate) fn xdp(config: &Config, key: FlowHashKey) -> haflinger_xdp::Settings {
    let xdp = &config.xdp;
    haflinger_xdp::Settings {
        enabled: xdp.enabled,
        interfaces: xdp.interfaces.clone(),
        attach: match xdp.attach {
            Attach::Auto => haflinger_xdp::AttachWish::Auto,
            Attach::Native => haflinger_xdp::AttachWish::Native,
            Attach::Generic => haflinger_xdp::AttachWish::Generic,
        },
        pin_dir: xdp.pin_dir.clone(),
        flow_hash_key: key,
        capacities: haflinger_xdp::Capacities {
            opening_flows: xdp.opening_flows_max,
            established_flows: xdp.flows_max,
            services: xdp.services_max,
            backends: xdp.backends_max,
            buckets: xdp.buckets_max,
            source_ranges: xdp.source_ranges_max,
            affinities: xdp.affinity_entries_max,
            fragments: xdp.fragments_max,
        },
        new_flows_rate: xdp.new_flows_per_second,
        nat_addresses: xdp.nat_addresses.clone(),
        nat_ports: xdp.nat_ports.first()..=xdp.nat_ports.last(),
    }
}

pub(crate) fn dns(config: &Config) -> anyhow::Result<haflinger_dns::Settings> {
    let zones = config.dns.zones.iter().map(zone).collect::<anyhow::Result<_>>()?;
    Ok(haflinger_dns::Settings {
        zones,
        dry_run: config.dns.dry_run,
        refresh_secs: secs(config.dns.refresh),
    })
}

fn zone(zone: &Zone) -> anyhow::Result<haflinger_dns::ZoneSettings> {
    let tsig = zone.key.as_ref().map(|key| {
        anyhow::Ok(haflinger_dns::Tsig {
            key_name: RecordName::parse(&key.name)?,
            algorithm: match key.algorithm {
                KeyAlgorithm::HmacSha256 => haflinger_dns::TsigAlgorithm::HmacSha256,
                KeyAlgorithm::HmacSha512 => haflinger_dns::TsigAlgorithm::HmacSha512,
            },
            secret: key.secret.expose().to_vec(),
        })
    });
    Ok(haflinger_dns::ZoneSettings {
        name: RecordName::parse(&zone.name)?,
        servers: zone.servers.clone(),
        tsig: tsig.transpose()?,
        ttl_secs: zone.ttl_secs,
        owner_id: zone.owner.clone(),
        policy: match zone.policy {
            ZonePolicy::Sync => haflinger_dns::Policy::Sync,
            ZonePolicy::UpsertOnly => haflinger_dns::Policy::UpsertOnly,
        },
        deletions: haflinger_dns::DeletionBudget {
            names_max: usize::try_from(zone.deletes_max).unwrap_or(usize::MAX),
            percent_max: zone.deletes_percent_max,
        },
        wildcard: zone.wildcard.clone(),
    })
}

/// How long a flow may be without packets, as far as services ask for nothing else.
fn longest_idle(config: &Config) -> u32 {
    let timeouts = &config.l4.timeouts;
    secs(timeouts.established.max(timeouts.closing).max(timeouts.udp))
}

fn millis(value: Duration) -> u32 {
    u32::try_from(value.as_millis()).unwrap_or(u32::MAX)
}

fn secs(value: Duration) -> u32 {
    u32::try_from(value.as_secs()).unwrap_or(u32::MAX)
}
