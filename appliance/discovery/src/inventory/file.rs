//! The inventory as it is written. Unknown keys are refused; values are checked in `check`.

use std::collections::BTreeMap;

use serde::Deserialize;
use toml::Spanned;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    #[serde(default)]
    pub(super) service: Vec<Service>,
    #[serde(default)]
    pub(super) site: Vec<Site>,
}

/// `[[service]]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Service {
    /// Unique among the services.
    pub(super) name: Spanned<String>,
    /// VIPs. May be left out for a service that only sites point at.
    #[serde(default)]
    pub(super) addresses: Vec<Spanned<String>>,
    pub(super) ports: Spanned<Vec<Port>>,
    #[serde(default)]
    pub(super) backends: Vec<Backend>,
    pub(super) health_check: Option<Spanned<HealthCheck>>,
    /// `none` (default) or `client_ip`.
    pub(super) affinity: Option<Spanned<String>>,
    /// Seconds, 1 to 86400; default 10800.
    pub(super) affinity_timeout_secs: Option<Spanned<u64>>,
    /// `nat`, `routed`, `dsr` or `proxy`; default: the configuration's.
    pub(super) mode: Option<Spanned<String>>,
    /// `hash` (default), `source`, `round-robin` or `least-connections`.
    pub(super) algorithm: Option<Spanned<String>>,
    /// 1 to 10000000; default: unlimited.
    pub(super) connections_max: Option<Spanned<u64>>,
    /// 1 to 10000000; default: unlimited.
    pub(super) backend_connections_max: Option<Spanned<u64>>,
    /// Seconds, 1 to 604800; default: the configuration's.
    pub(super) idle_timeout_secs: Option<Spanned<u64>>,
    /// Seconds, 1 to 604800; default: the configuration's.
    pub(super) udp_timeout_secs: Option<Spanned<u64>>,
    /// `off` (default), `v1` or `v2`.
    pub(super) proxy_protocol: Option<Spanned<String>>,
    /// Clients that may connect, as CIDRs; default: all.
    #[serde(default)]
    pub(super) source_ranges: Vec<Spanned<String>>,
    #[serde(default)]
    pub(super) hostnames: Vec<Spanned<String>>,
    /// Seconds, 1 to 2147483647; default: the zone's.
    pub(super) ttl_secs: Option<Spanned<u64>>,
}

/// An element of `service.ports`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Port {
    /// May be left out where there is one port only.
    pub(super) name: Option<Spanned<String>>,
    pub(super) port: Spanned<u64>,
    /// `tcp` (default) or `udp`.
    pub(super) protocol: Option<Spanned<String>>,
    /// Default: `port`.
    pub(super) target_port: Option<Spanned<u64>>,
}

/// An element of `service.backends`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Backend {
    /// Default: the address.
    pub(super) name: Option<Spanned<String>>,
    pub(super) address: Spanned<String>,
    /// 0 to 1000000; default 100.
    pub(super) weight: Option<Spanned<u64>>,
    pub(super) zone: Option<Spanned<String>>,
    /// Used only while no other backend can be.
    #[serde(default)]
    pub(super) backup: bool,
    /// Instead of the only port's `target_port`.
    pub(super) port: Option<Spanned<u64>>,
    /// Instead of `target_port`, by port name.
    #[serde(default)]
    pub(super) ports: BTreeMap<Spanned<String>, Spanned<u64>>,
}

/// `service.health_check`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct HealthCheck {
    /// `tcp` or `http`.
    pub(super) kind: Spanned<String>,
    /// For `http`; default `/`.
    pub(super) path: Option<Spanned<String>>,
    /// Host header for `http`; default: the backend's address.
    pub(super) host: Option<Spanned<String>>,
    /// Default: the backend's own port.
    pub(super) port: Option<Spanned<u64>>,
    /// Default 5000.
    pub(super) interval_ms: Option<Spanned<u64>>,
    /// Default 2000.
    pub(super) timeout_ms: Option<Spanned<u64>>,
    /// Default 2.
    pub(super) rise: Option<Spanned<u64>>,
    /// Default 3.
    pub(super) fall: Option<Spanned<u64>>,
}

/// `[[site]]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Site {
    /// Unique among the sites.
    pub(super) name: Spanned<String>,
    /// Host names; default: every host.
    #[serde(default)]
    pub(super) hosts: Vec<Spanned<String>>,
    /// VIPs; default: the shared ones of the configuration.
    #[serde(default)]
    pub(super) addresses: Vec<Spanned<String>>,
    /// Default: the configuration's.
    pub(super) http_port: Option<Spanned<u64>>,
    /// Default: the configuration's.
    pub(super) https_port: Option<Spanned<u64>>,
    /// Where everything goes that no path matches.
    pub(super) service: Option<Spanned<String>>,
    /// Its port; may be left out where it has one only.
    pub(super) port: Option<Spanned<PortRef>>,
    #[serde(default)]
    pub(super) paths: Vec<Path>,
    /// `http1` (default) or `h2c`.
    pub(super) backend_protocol: Option<Spanned<String>>,
    /// What is asked of requests, as a RequestPolicy asks it.
    pub(super) requests: Option<toml::Table>,
    /// How backends are chosen and spoken to, as a BackendPolicy asks it.
    pub(super) backends: Option<toml::Table>,
    #[serde(default)]
    pub(super) tls: Vec<Tls>,
    /// Seconds; default: the zone's.
    pub(super) ttl_secs: Option<Spanned<u64>>,
}

/// An element of `site.paths`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Path {
    pub(super) path: Spanned<String>,
    /// `prefix` (default) or `exact`.
    #[serde(rename = "match")]
    pub(super) path_match: Option<Spanned<String>>,
    pub(super) service: Spanned<String>,
    pub(super) port: Option<Spanned<PortRef>>,
}

/// A service's port by number or by name.
#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "expected a port number or the name of a port")]
pub(super) enum PortRef {
    Number(u64),
    Name(String),
}

/// An element of `site.tls`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Tls {
    /// PEM file, leaf first; relative to the inventory file.
    pub(super) certificate: Spanned<String>,
    /// PEM file; relative to the inventory file.
    pub(super) key: Spanned<String>,
    /// DER file with the OCSP response about the leaf; relative to the inventory file.
    pub(super) ocsp: Option<Spanned<String>>,
    /// Default: the names in the certificate.
    #[serde(default)]
    pub(super) hosts: Vec<Spanned<String>>,
}
