//! The configuration as written: what serde may find in the file, the environment and the
//! flags. Nothing here is known to make sense; [`crate::Config`] is the checked form.
//!
//! The bounds (`range`) and the defaults stand here once: the JSON schema, the check of types
//! and bounds, and the test of the shipped default all read them from these types.

mod access;
mod l4;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use access::*;
pub use l4::*;

/// The configuration of one Haflinger host.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct File {
    /// This machine.
    pub host: Host,
    /// Metrics, health, readiness and status.
    pub admin: Admin,
    /// Log lines.
    pub log: Log,
    /// Kubernetes clusters to serve.
    pub cluster: Vec<Cluster>,
    /// Backends that are in no cluster.
    pub inventory: Inventory,
    /// Pools from which virtual addresses are assigned.
    pub pool: Vec<Pool>,
    /// Binding of virtual addresses.
    pub vips: Vips,
    /// Routes to pod networks.
    pub routes: Routes,
    /// Announcing virtual addresses to routers.
    pub bgp: Bgp,
    /// Keeping DNS zones.
    pub dns: Dns,
    /// Layer 4, whoever forwards it.
    pub l4: L4,
    /// Forwarding by XDP.
    pub xdp: Xdp,
    /// The user-space layer-4 relay.
    pub relay: Relay,
    /// The layer-7 proxy.
    pub proxy: Proxy,
    /// Health checks.
    pub health: Health,
    /// Bounds and waits of the whole daemon.
    pub limits: Limits,
}

/// This machine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Host {
    /// Name of this host in leases, events and status; the kernel's host name when absent.
    pub name: Option<String>,
    /// Directory for what must survive a restart of the machine.
    pub state_dir: String,
    /// Directory for what need not.
    pub run_dir: String,
    /// Failure zone of this host: services may prefer pods there.
    pub zone: Option<String>,
}

impl Default for Host {
    fn default() -> Self {
        Self {
            name: None,
            state_dir: "/var/lib/haflinger".into(),
            run_dir: "/run/haflinger".into(),
            zone: None,
        }
    }
}

/// Metrics, health, readiness and status.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Admin {
    /// Address and port of /metrics, /healthz, /readyz and /status; empty for none.
    pub listen: String,
    /// Unix socket of the command line; `admin.sock` in `host.run_dir` when absent.
    pub socket: Option<String>,
}

impl Default for Admin {
    fn default() -> Self {
        Self { listen: "127.0.0.1:9410".into(), socket: None }
    }
}

/// Log lines.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// A level, or comma-separated directives `target=level`.
    pub level: String,
    /// Form of a line.
    pub format: LogFormat,
}

impl Default for Log {
    fn default() -> Self {
        Self { level: "info".into(), format: LogFormat::Text }
    }
}

/// Form of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// A Kubernetes cluster to serve.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Cluster {
    /// Name of the cluster, unique in this file. Required.
    pub name: Option<String>,
    /// Kubeconfig file. Required.
    pub kubeconfig: Option<String>,
    /// Context in the kubeconfig; its current one when absent.
    pub context: Option<String>,
    /// Whether Services of type LoadBalancer without a class are served too.
    pub claim_unclassed: bool,
    /// `ingressClassName` of the Ingresses to serve.
    pub ingress_class: String,
    /// Whose word about the nodes' pod networks counts, in this order.
    pub pod_routes: Vec<PodRoutes>,
    /// Whether pods may wait for the readiness gate `haflinger.dev/edge-ready`.
    pub readiness_gate: bool,
    /// Namespace of the Lease that elects the writing host.
    pub lease_namespace: String,
    /// Name of that Lease.
    pub lease_name: String,
    /// Seconds after which a silent leader is replaced.
    #[schemars(range(min = 3, max = 300))]
    pub lease_duration_secs: u32,
    /// Seconds between two renewals by the leader.
    #[schemars(range(min = 1, max = 100))]
    pub lease_renew_secs: u32,
    /// Objects of one kind that may be deleted within a minute without a question.
    #[schemars(range(min = 0, max = 1_000_000))]
    pub deletes_max: u32,
    /// Percent of a kind's objects that may be, if that is more.
    #[schemars(range(min = 0, max = 100))]
    pub deletes_percent_max: u8,
    /// Seconds until deletions beyond that are confirmed by a second list.
    #[schemars(range(min = 1, max = 604_800))]
    pub deletes_confirm_secs: u32,
}

impl Default for Cluster {
    fn default() -> Self {
        Self {
            name: None,
            kubeconfig: None,
            context: None,
            claim_unclassed: false,
            ingress_class: "haflinger".into(),
            pod_routes: PodRoutes::ALL.to_vec(),
            readiness_gate: false,
            lease_namespace: "haflinger".into(),
            lease_name: "haflinger".into(),
            lease_duration_secs: 15,
            lease_renew_secs: 5,
            deletes_max: 10,
            deletes_percent_max: 30,
            deletes_confirm_secs: 60,
        }
    }
}

/// Who says which networks a node's pods are in.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum PodRoutes {
    /// Calico's block affinities.
    Calico,
    /// CiliumNodes, or Cilium's annotations of Nodes.
    Cilium,
    /// OVN-Kubernetes's annotation of Nodes.
    Ovn,
    /// `spec.podCIDRs` of Nodes.
    Node,
}

impl PodRoutes {
    /// All of them, those that know best first.
    pub const ALL: [Self; 4] = [Self::Calico, Self::Cilium, Self::Ovn, Self::Node];
}

/// Backends that are in no cluster.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Inventory {
    /// Inventory file (TOML), watched for changes.
    pub path: Option<String>,
}

/// A pool from which virtual addresses are assigned.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Pool {
    /// Name of the pool, unique in this file. Required.
    pub name: Option<String>,
    /// Networks (`192.0.2.0/24`), ranges (`192.0.2.10-192.0.2.20`) or addresses. Required.
    pub addresses: Vec<String>,
    /// Whether objects that ask for nothing in particular are served from it.
    pub auto_assign: bool,
    /// Of several pools the one with the lowest number is tried first.
    #[schemars(range(max = 1000))]
    pub priority: u32,
    /// Whether IPv4 addresses that end in .0 or .255 are left out.
    pub skip_0_and_255: bool,
    /// Namespaces whose objects are served from it; with `namespace_labels` empty too: all.
    pub namespaces: Vec<String>,
    /// Label selectors (`team=shop`) of namespaces whose objects are served from it.
    pub namespace_labels: Vec<String>,
    /// Label selectors (`tier in (edge, public)`) of objects that are served from it; empty: all.
    pub service_labels: Vec<String>,
}

impl Default for Pool {
    fn default() -> Self {
        Self {
            name: None,
            addresses: Vec::new(),
            auto_assign: true,
            priority: 100,
            skip_0_and_255: false,
            namespaces: Vec::new(),
            namespace_labels: Vec::new(),
            service_labels: Vec::new(),
        }
    }
}

/// Binding of virtual addresses.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Vips {
    /// Whether virtual addresses are added to an interface of this host.
    pub bind: bool,
    /// That interface.
    pub interface: String,
}

impl Default for Vips {
    fn default() -> Self {
        Self { bind: true, interface: "lo".into() }
    }
}

/// Routes to pod networks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Routes {
    /// Whether the kernel is given a route to each node's pod networks.
    pub enabled: bool,
    /// Routing table; 254 is the main one.
    #[schemars(range(min = 1, max = 4_294_967_294_u32))]
    pub table: u32,
}

impl Default for Routes {
    fn default() -> Self {
        Self { enabled: false, table: 254 }
    }
}

/// Announcing virtual addresses to routers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Bgp {
    /// Autonomous system of this host. Required with a peer.
    #[schemars(range(min = 1, max = 4_294_967_294_u32))]
    pub local_as: Option<u32>,
    /// BGP identifier, written as an IPv4 address, unique in the network. Required with a peer.
    pub router_id: Option<String>,
    /// Seconds without a message after which a session is down.
    #[schemars(range(min = 3, max = 65535))]
    pub hold_time_secs: u16,
    /// Seconds between two attempts to connect, before jitter.
    #[schemars(range(min = 1, max = 3600))]
    pub connect_retry_secs: u16,
    /// Address and port on which peers may connect; when absent this host always connects.
    pub listen: Option<String>,
    /// Communities on every route: `64512:100` or a well-known name.
    pub communities: Vec<String>,
    /// Routers to announce to.
    pub peer: Vec<Peer>,
}

impl Default for Bgp {
    fn default() -> Self {
        Self {
            local_as: None,
            router_id: None,
            hold_time_secs: 9,
            connect_retry_secs: 5,
            listen: None,
            communities: Vec::new(),
            peer: Vec::new(),
        }
    }
}

/// A router to announce to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Peer {
    /// Name of the peer, unique in this file. Required.
    pub name: Option<String>,
    /// Address of the peer. Required.
    pub address: Option<String>,
    /// TCP port of the peer.
    #[schemars(range(min = 1, max = 65535))]
    pub port: u16,
    /// Autonomous system of the peer. Required.
    #[schemars(range(min = 1, max = 4_294_967_294_u32))]
    pub remote_as: Option<u32>,
    /// Address of this host to speak from; the kernel's choice when absent.
    pub local_address: Option<String>,
    /// TCP MD5 password (RFC 2385), 1 to 80 bytes.
    #[schemars(extend("writeOnly" = true))]
    pub password: Option<String>,
    /// File that holds the password.
    pub password_file: Option<String>,
    /// Communities on routes to this peer, beside those of `bgp.communities`.
    pub communities: Vec<String>,
    /// IPv4 next hop; the session's own address when absent.
    pub next_hop_v4: Option<String>,
    /// IPv6 next hop; the session's own address when absent.
    pub next_hop_v6: Option<String>,
    /// Whether to wait for the peer to connect.
    pub passive: bool,
    /// Hops to a peer that is not on a shared link.
    #[schemars(range(min = 1, max = 255))]
    pub multihop: Option<u8>,
}

impl Default for Peer {
    fn default() -> Self {
        Self {
            name: None,
            address: None,
            port: 179,
            remote_as: None,
            local_address: None,
            password: None,
            password_file: None,
            communities: Vec::new(),
            next_hop_v4: None,
            next_hop_v6: None,
            passive: false,
            multihop: None,
        }
    }
}

/// Keeping DNS zones.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Dns {
    /// Whether changes are only computed and shown.
    pub dry_run: bool,
    /// Seconds between two comparisons of a zone with what it should hold.
    #[schemars(range(min = 10, max = 86_400))]
    pub refresh_secs: u32,
    /// Zones to keep.
    pub zone: Vec<Zone>,
}

impl Default for Dns {
    fn default() -> Self {
        Self { dry_run: false, refresh_secs: 60, zone: Vec::new() }
    }
}

/// A DNS zone to keep.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Zone {
    /// Name of the zone, unique in this file. Required.
    pub name: Option<String>,
    /// Addresses of its primary servers, with a port if it is not 53. Required.
    pub servers: Vec<String>,
    /// Name of the TSIG key.
    pub key_name: Option<String>,
    /// Algorithm of the TSIG key.
    pub key_algorithm: KeyAlgorithm,
    /// The TSIG key, base64.
    #[schemars(extend("writeOnly" = true))]
    pub key: Option<String>,
    /// File that holds the TSIG key, base64.
    pub key_file: Option<String>,
    /// Time to live of records whose object says nothing, in seconds.
    #[schemars(range(min = 1, max = 604_800))]
    pub ttl_secs: u32,
    /// Owner written into the TXT records.
    pub owner: String,
    /// Which changes are made.
    pub policy: ZonePolicy,
    /// Names deleted at most within ten minutes.
    #[schemars(range(min = 0, max = 100_000))]
    pub deletes_max: u32,
    /// Of the names that we own, the part deleted at most within ten minutes, in percent.
    #[schemars(range(min = 1, max = 100))]
    pub deletes_percent_max: u8,
    /// Word that stands for the `*` of wildcards in ownership names; `*` itself when absent.
    pub wildcard: Option<String>,
}

impl Default for Zone {
    fn default() -> Self {
        Self {
            name: None,
            servers: Vec::new(),
            key_name: None,
            key_algorithm: KeyAlgorithm::HmacSha256,
            key: None,
            key_file: None,
            ttl_secs: 60,
            owner: "haflinger".into(),
            policy: ZonePolicy::Sync,
            deletes_max: 20,
            deletes_percent_max: 50,
            wildcard: None,
        }
    }
}

/// Algorithm of a TSIG key (RFC 8945, section 6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum KeyAlgorithm {
    /// HMAC-SHA256.
    #[serde(rename = "hmac-sha256")]
    HmacSha256,
    /// HMAC-SHA512.
    #[serde(rename = "hmac-sha512")]
    HmacSha512,
}

/// Which changes are made to a zone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ZonePolicy {
    /// Create, update and delete.
    Sync,
    /// Create and update, never delete.
    UpsertOnly,
}

/// The user-space layer-4 relay.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Relay {
    /// TCP connections at most.
    #[schemars(range(min = 1, max = 10_000_000))]
    pub connections_max: u32,
    /// TCP connections at most to one service.
    #[schemars(range(min = 1, max = 10_000_000))]
    pub connections_per_service_max: u32,
    /// UDP flows at most.
    #[schemars(range(min = 1, max = 10_000_000))]
    pub udp_flows_max: u32,
    /// Milliseconds for one connection attempt to a backend.
    #[schemars(range(min = 10, max = 60_000))]
    pub connect_timeout_ms: u32,
    /// Backends tried at most for one connection.
    #[schemars(range(min = 1, max = 16))]
    pub connect_attempts_max: u8,
    /// Milliseconds for all attempts of one connection together.
    #[schemars(range(min = 10, max = 300_000))]
    pub connect_total_timeout_ms: u32,
    /// Seconds that connections may go on after a stop was asked for.
    #[schemars(range(min = 0, max = 86_400))]
    pub drain_secs: u32,
    /// Clients at most whose backend is remembered for `sessionAffinity: ClientIP`.
    #[schemars(range(min = 0, max = 10_000_000))]
    pub affinity_entries_max: u32,
    /// Pipes for splice(2) at most.
    #[schemars(range(min = 0, max = 1_000_000))]
    pub pipes_max: u32,
    /// File with the 32 hexadecimal digits of the flow hash's key.
    pub flow_hash_key_file: Option<String>,
}

impl Default for Relay {
    fn default() -> Self {
        Self {
            connections_max: 65_536,
            connections_per_service_max: 32_768,
            udp_flows_max: 65_536,
            connect_timeout_ms: 1_000,
            connect_attempts_max: 3,
            connect_total_timeout_ms: 3_000,
            drain_secs: 30,
            affinity_entries_max: 65_536,
            pipes_max: 4_096,
            flow_hash_key_file: None,
        }
    }
}

/// The layer-7 proxy.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Proxy {
    /// Virtual addresses of Ingresses that have none of their own.
    pub addresses: Vec<String>,
    /// Port of plain HTTP on an Ingress's address.
    #[schemars(range(min = 1, max = 65535))]
    pub http_port: u16,
    /// Port of HTTPS on an Ingress's address.
    #[schemars(range(min = 1, max = 65535))]
    pub https_port: u16,
    /// Threads; one for each core when absent.
    #[schemars(range(min = 1, max = 256))]
    pub workers: Option<u16>,
    /// Client connections at most.
    #[schemars(range(min = 1, max = 10_000_000))]
    pub connections_max: u32,
    /// Which TLS is spoken with clients.
    pub tls_policy: TlsPolicy,
    /// File with the secret of which every host of the fleet makes its session tickets.
    pub session_ticket_secret_file: Option<String>,
    /// Seconds after which their keys are replaced, and for which a session can be resumed.
    #[schemars(range(min = 60, max = 604_800))]
    pub session_ticket_rotation_secs: u32,
    /// Days before its end from which a certificate is warned about.
    #[schemars(range(min = 0, max = 365))]
    pub certificate_warning_days: u32,
    /// Milliseconds for a TLS handshake.
    #[schemars(range(min = 10, max = 60_000))]
    pub tls_handshake_timeout_ms: u32,
    /// Milliseconds for the head of a request.
    #[schemars(range(min = 10, max = 600_000))]
    pub request_header_timeout_ms: u32,
    /// Bytes of a request's head at most.
    #[schemars(range(min = 1024, max = 1_048_576))]
    pub request_header_bytes_max: u32,
    /// Milliseconds without a byte of a request's body.
    #[schemars(range(min = 10, max = 3_600_000))]
    pub client_read_timeout_ms: u32,
    /// Milliseconds for which a client may refuse to take a byte.
    #[schemars(range(min = 10, max = 3_600_000))]
    pub client_write_timeout_ms: u32,
    /// Seconds that an idle client connection is kept.
    #[schemars(range(min = 1, max = 86_400))]
    pub keepalive_idle_secs: u32,
    /// Streams at most that a client may open on one HTTP/2 connection.
    #[schemars(range(min = 1, max = 10_000))]
    pub h2_streams_max: u32,
    /// Milliseconds for one connection attempt to a pod.
    #[schemars(range(min = 10, max = 60_000))]
    pub upstream_connect_timeout_ms: u32,
    /// Milliseconds without a byte of a pod's answer.
    #[schemars(range(min = 10, max = 3_600_000))]
    pub upstream_read_timeout_ms: u32,
    /// Milliseconds for which a pod may refuse to take a byte.
    #[schemars(range(min = 10, max = 3_600_000))]
    pub upstream_write_timeout_ms: u32,
    /// Seconds that an idle connection to a pod is kept.
    #[schemars(range(min = 1, max = 86_400))]
    pub upstream_idle_secs: u32,
    /// Idle connections to pods at most, each worker.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub upstream_idle_max: u32,
    /// Seconds without a byte on an upgraded connection (WebSocket).
    #[schemars(range(min = 1, max = 86_400))]
    pub upgraded_idle_secs: u32,
    /// Further pods tried at most when a connection fails.
    #[schemars(range(min = 0, max = 9))]
    pub retries_max: u8,
    /// Retries at most for a hundred requests.
    #[schemars(range(min = 0, max = 1000))]
    pub retry_percent: u32,
    /// Networks of proxies in front of this one, whose `X-Forwarded-*` fields are believed.
    pub trusted_proxies: Vec<String>,
    /// Field in which a request's id goes to the pod; empty for none.
    pub request_id_header: String,
    /// What is done with W3C trace contexts.
    pub trace_context: TraceContext,
    /// Seconds that requests may go on after a stop was asked for.
    #[schemars(range(min = 0, max = 86_400))]
    pub drain_secs: u32,
    /// A line for each request.
    pub access_log: AccessLog,
}

impl Default for Proxy {
    fn default() -> Self {
        Self {
            addresses: Vec::new(),
            http_port: 80,
            https_port: 443,
            workers: None,
            connections_max: 50_000,
            tls_policy: TlsPolicy::Intermediate,
            session_ticket_secret_file: None,
            session_ticket_rotation_secs: 21_600,
            certificate_warning_days: 14,
            tls_handshake_timeout_ms: 10_000,
            request_header_timeout_ms: 10_000,
            request_header_bytes_max: 32_768,
            client_read_timeout_ms: 60_000,
            client_write_timeout_ms: 60_000,
            keepalive_idle_secs: 60,
            h2_streams_max: 128,
            upstream_connect_timeout_ms: 1_000,
            upstream_read_timeout_ms: 60_000,
            upstream_write_timeout_ms: 60_000,
            upstream_idle_secs: 30,
            upstream_idle_max: 1_024,
            upgraded_idle_secs: 600,
            retries_max: 2,
            retry_percent: 100,
            trusted_proxies: Vec::new(),
            request_id_header: "X-Request-ID".into(),
            trace_context: TraceContext::Pass,
            drain_secs: 30,
            access_log: AccessLog::default(),
        }
    }
}

/// Which versions of TLS are spoken with clients, always with forward secrecy and AEAD ciphers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum TlsPolicy {
    /// TLS 1.2 and 1.3.
    Intermediate,
    /// TLS 1.3 alone.
    Modern,
}

/// Health checks; what is checked, and how often, is said by each service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Health {
    /// Probes at most under way at one time.
    #[schemars(range(min = 1, max = 65_536))]
    pub concurrent_max: u32,
    /// What stands in for pods that this host cannot reach.
    pub fallback: Fallback,
}

impl Default for Health {
    fn default() -> Self {
        Self { concurrent_max: 1_024, fallback: Fallback::Nodeport }
    }
}

/// What stands in for pods that this host cannot reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Fallback {
    /// Ports of nodes.
    Nodeport,
    /// Nothing.
    Off,
}

/// Bounds and waits of the whole daemon.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Updates at most that wait for the core.
    #[schemars(range(min = 64, max = 1_048_576))]
    pub updates_max: u32,
    /// Milliseconds for which updates are gathered before a snapshot is published.
    #[schemars(range(min = 0, max = 10_000))]
    pub publish_delay_ms: u32,
    /// Milliseconds between withdrawing the routes and closing the listeners.
    #[schemars(range(min = 0, max = 60_000))]
    pub withdraw_wait_ms: u32,
    /// Seconds after which a graceful stop is cut short.
    #[schemars(range(min = 1, max = 86_400))]
    pub stop_secs: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self { updates_max: 16_384, publish_delay_ms: 0, withdraw_wait_ms: 1_000, stop_secs: 60 }
    }
}
