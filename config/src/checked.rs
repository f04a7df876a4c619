//! The configuration as checked. A value of [`Config`] has passed every check, so that no
//! reader needs to ask again: required parts are not optional, addresses and times are typed,
//! and lists that must not overlap do not.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU8;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

pub use crate::file::{
    Attach, Fallback, ForwardingMode, KeyAlgorithm, LogFormat, PodRoutes, TlsPolicy, TraceContext,
    ZonePolicy,
};

/// The whole configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// This machine.
    pub host: Host,
    /// Metrics, health, readiness and status.
    pub admin: Admin,
    /// Log lines.
    pub log: Log,
    /// Clusters, with distinct names.
    pub clusters: Vec<Cluster>,
    /// The inventory file, if any.
    pub inventory: Option<PathBuf>,
    /// Pools, with distinct names and disjoint ranges.
    pub pools: Vec<Pool>,
    /// Binding of virtual addresses.
    pub vips: Vips,
    /// Routes to pod networks.
    pub routes: Routes,
    /// Announcing virtual addresses; absent without a peer.
    pub bgp: Option<Bgp>,
    /// Keeping DNS zones.
    pub dns: Dns,
    /// Layer 4, whoever forwards it.
    pub l4: L4,
    /// Forwarding by XDP.
    pub xdp: Xdp,
    /// The user-space relay.
    pub relay: Relay,
    /// The layer-7 proxy.
    pub proxy: Proxy,
    /// Health checks.
    pub health: Health,
    /// Bounds and waits of the whole daemon.
    pub limits: Limits,
}

/// This machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// Not empty, at most 63 bytes, letters, digits, `-` and `.`.
    pub name: String,
    /// What must survive a restart of the machine; absolute.
    pub state_dir: PathBuf,
    /// What need not; absolute.
    pub run_dir: PathBuf,
    /// Failure zone: services may prefer pods there.
    pub zone: Option<String>,
}

/// Metrics, health, readiness and status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admin {
    /// HTTP listener; `None` when switched off.
    pub listen: Option<SocketAddr>,
    /// Unix socket of the command line.
    pub socket: PathBuf,
}

/// Log lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// Comma-separated `level` or `target=level`.
    pub level: String,
    /// Form of a line.
    pub format: LogFormat,
}

/// A Kubernetes cluster to serve.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cluster {
    /// Lower-case letters, digits and `-`.
    pub name: String,
    /// Kubeconfig file.
    pub kubeconfig: PathBuf,
    /// Its context; the current one when absent.
    pub context: Option<String>,
    /// Whether Services without a class are served too.
    pub claim_unclassed: bool,
    /// Class of the Ingresses to serve.
    pub ingress_class: String,
    /// Whose word about pod networks counts, in this order, without repetition.
    pub pod_routes: Vec<PodRoutes>,
    /// Whether pods may wait for the readiness gate.
    pub readiness_gate: bool,
    /// Namespace of the Lease that elects the writing host.
    pub lease_namespace: String,
    /// Name of that Lease.
    pub lease_name: String,
    /// After this long a silent leader is replaced; at least twice `lease_renew`.
    pub lease_duration: Duration,
    /// Time between two renewals by the leader.
    pub lease_renew: Duration,
    /// Objects of one kind that may be deleted within a minute.
    pub deletes_max: u32,
    /// Percent of the kind's objects that may be, if that is more.
    pub deletes_percent_max: u8,
    /// After this long a second list confirms deletions beyond that.
    pub deletes_confirm: Duration,
}

/// A pool of virtual addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pool {
    /// Lower-case letters, digits and `-`.
    pub name: String,
    /// In the order written; never empty, disjoint within and between pools.
    pub ranges: Vec<AddressRange>,
    /// Whether objects that ask for nothing in particular are served from it.
    pub auto_assign: bool,
    /// Of several pools the one with the lowest number is tried first.
    pub priority: u32,
    /// Whether IPv4 addresses that end in .0 or .255 are left out. Some address is left.
    pub skip_0_and_255: bool,
    /// Namespaces that are served; with `namespace_labels` empty too: all.
    pub namespaces: BTreeSet<String>,
    /// Labels of namespaces that are served: one selector has to fit.
    pub namespace_labels: Vec<LabelSelector>,
    /// Labels of objects that are served: one selector has to fit; empty: all.
    pub service_labels: Vec<LabelSelector>,
}

/// Labels, written as `kubectl --selector` takes them. Never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LabelSelector {
    /// As written.
    pub text: String,
    /// All of them have to hold.
    pub requirements: Vec<LabelRequirement>,
}

/// What is asked of one label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LabelRequirement {
    /// The label.
    pub key: String,
    /// What it has to be.
    pub test: LabelTest,
}

/// What a label has to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LabelTest {
    /// There.
    Exists,
    /// Not there.
    Absent,
    /// One of these values.
    In(BTreeSet<String>),
    /// None of these values, or not there.
    NotIn(BTreeSet<String>),
}

/// An inclusive range of addresses of one family, first not above last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressRange {
    pub(crate) first: IpAddr,
    pub(crate) last: IpAddr,
}

impl AddressRange {
    /// The lowest address.
    pub fn first(&self) -> IpAddr {
        self.first
    }

    /// The highest address.
    pub fn last(&self) -> IpAddr {
        self.last
    }

    /// Whether the two share an address.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.first.is_ipv4() == other.first.is_ipv4()
            && self.first <= other.last
            && other.first <= self.last
    }

    /// Whether the address lies in it.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.first.is_ipv4() == address.is_ipv4() && self.first <= address && address <= self.last
    }
}

impl fmt::Display for AddressRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            write!(f, "{}", self.first)
        } else {
            write!(f, "{}-{}", self.first, self.last)
        }
    }
}

/// Binding of virtual addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vips {
    /// Whether they are added to an interface.
    pub bind: bool,
    /// That interface: 1 to 15 bytes.
    pub interface: String,
}

/// Routes to pod networks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Routes {
    /// Whether the kernel is given them.
    pub enabled: bool,
    /// Routing table, never 0 (unspecified) or 255 (local).
    pub table: u32,
}

/// Announcing virtual addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bgp {
    /// Autonomous system of this host.
    pub local_as: u32,
    /// BGP identifier, not zero.
    pub router_id: Ipv4Addr,
    /// Time between two attempts to connect, before jitter.
    pub connect_retry: Duration,
    /// Hold time to propose.
    pub hold_time: HoldTime,
    /// Where peers may connect.
    pub listen: Option<SocketAddr>,
    /// Peers, with distinct names and addresses; never empty.
    pub peers: Vec<Peer>,
}

/// Seconds without a message after which a session is down (RFC 4271, section 4.2): never 1 or
/// 2, which the protocol forbids, nor 0, which would let a dead peer go unnoticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HoldTime(pub(crate) u16);

impl HoldTime {
    /// The time in seconds, 3 to 65535.
    pub fn secs(self) -> u16 {
        self.0
    }
}

/// A router to announce to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Letters, digits, `-`, `_` and `.`.
    pub name: String,
    /// Address, neither unspecified nor multicast.
    pub address: IpAddr,
    /// TCP port.
    pub port: u16,
    /// Autonomous system.
    pub remote_as: u32,
    /// Address to speak from, of the same family as `address`.
    pub local_address: Option<IpAddr>,
    /// TCP MD5 password, 1 to 80 bytes of UTF-8.
    pub password: Option<Secret>,
    /// Communities on every route to it, sorted, without repetition: the general ones and its own.
    pub communities: Vec<Community>,
    /// IPv4 next hop, when not the session's own address.
    pub next_hop_v4: Option<Ipv4Addr>,
    /// IPv6 next hop, when not the session's own address.
    pub next_hop_v6: Option<Ipv6Addr>,
    /// Whether to wait for the peer to connect.
    pub passive: bool,
    /// Hops to it when it is not on a shared link.
    pub multihop: Option<u8>,
}

/// A BGP community (RFC 1997): two bytes of AS number, two bytes of value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Community(pub u32);

impl fmt::Display for Community {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.0 >> 16, self.0 & 0xffff)
    }
}

/// Keeping DNS zones.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dns {
    /// Whether changes are only computed and shown.
    pub dry_run: bool,
    /// Time between two comparisons.
    pub refresh: Duration,
    /// Zones, with distinct names.
    pub zones: Vec<Zone>,
}

/// A DNS zone to keep.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Zone {
    /// Lower case, without a final dot.
    pub name: String,
    /// Primary servers; never empty.
    pub servers: Vec<SocketAddr>,
    /// What signs the updates; unsigned when absent.
    pub key: Option<TsigKey>,
    /// Time to live of records whose object says nothing, in seconds.
    pub ttl_secs: u32,
    /// Owner in the TXT records.
    pub owner: String,
    /// Which changes are made.
    pub policy: ZonePolicy,
    /// Names deleted at most within ten minutes.
    pub deletes_max: u32,
    /// Of the names that we own, the part deleted at most within ten minutes: 1 to 100 percent.
    pub deletes_percent_max: NonZeroU8,
    /// Word that stands for the `*` of wildcards in ownership names.
    pub wildcard: Option<String>,
}

/// A TSIG key (RFC 8945).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TsigKey {
    /// Name, lower case, without a final dot.
    pub name: String,
    /// Algorithm.
    pub algorithm: KeyAlgorithm,
    /// The key itself, decoded.
    pub secret: Secret,
}

/// Bytes that no log line or status may show: `Debug` withholds them.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub(crate) Vec<u8>);

impl Secret {
    /// The bytes, for the one place that needs them.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(withheld)")
    }
}

/// Of what session tickets are made that every host of the fleet takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TicketSecret {
    /// 32 bytes.
    pub(crate) secret: Secret,
    /// The file that it was read from: a change of it is a change of the configuration.
    pub file: PathBuf,
}

impl TicketSecret {
    /// The bytes, for the one place that needs them.
    pub fn expose(&self) -> [u8; 32] {
        self.secret.0.as_slice().try_into().expect("the check has made it 32 bytes")
    }
}

/// Layer 4, whoever forwards it: defaults of services that say nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct L4 {
    /// How packets reach the backends.
    pub mode: ForwardingMode,
    /// How long flows without packets are kept.
    pub timeouts: Timeouts,
}

/// How long flows without packets are kept; whole seconds, never zero.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// For the handshake of a TCP connection.
    pub opening: Duration,
    /// An established TCP connection.
    pub established: Duration,
    /// A TCP connection that one side has closed.
    pub closing: Duration,
    /// A TCP connection that both sides have closed, or one has reset.
    pub closed: Duration,
    /// A UDP flow.
    pub udp: Duration,
}

/// Forwarding by XDP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Xdp {
    /// Whether packets are forwarded by XDP.
    pub enabled: bool,
    /// Interfaces to attach to, without repetition; empty: those with a default route.
    pub interfaces: Vec<String>,
    /// How it attaches.
    pub attach: Attach,
    /// Source addresses in mode nat, without repetition, in no pool; empty: the host's own
    /// address towards each backend.
    pub nat_addresses: Vec<IpAddr>,
    /// Whether they are added to the interface of `[vips]`.
    pub bind_nat_addresses: bool,
    /// Ports that may be used on `nat_addresses`.
    pub nat_ports: PortRange,
    /// Answered flows at most.
    pub flows_max: u32,
    /// Flows at most that nobody has answered yet, beside the answered ones; not above them.
    pub opening_flows_max: u32,
    /// New flows at most in a second, each CPU.
    pub new_flows_per_second: u32,
    /// Services at most.
    pub services_max: u32,
    /// Backends at most.
    pub backends_max: u32,
    /// Buckets at most of all forwarding tables together.
    pub buckets_max: u32,
    /// Source ranges at most of all services together.
    pub source_ranges_max: u32,
    /// Clients at most whose backend is remembered for `sessionAffinity: ClientIP`.
    pub affinity_entries_max: u32,
    /// Fragmented datagrams at most whose later fragments are led to their flow.
    pub fragments_max: u32,
    /// Directory of the BPF file system for what outlives the daemon; absolute.
    pub pin_dir: PathBuf,
}

/// An inclusive range of ports, first not above last, neither of them 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortRange {
    pub(crate) first: u16,
    pub(crate) last: u16,
}

impl PortRange {
    /// The lowest port.
    pub fn first(self) -> u16 {
        self.first
    }

    /// The highest port.
    pub fn last(self) -> u16 {
        self.last
    }
}

/// The user-space relay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relay {
    /// TCP connections at most.
    pub connections_max: u32,
    /// TCP connections at most to one service; not above `connections_max`.
    pub connections_per_service_max: u32,
    /// UDP flows at most.
    pub udp_flows_max: u32,
    /// For one connection attempt to a backend.
    pub connect_timeout: Duration,
    /// Backends tried at most for one connection.
    pub connect_attempts_max: u8,
    /// For all attempts of one connection together; not below `connect_timeout`.
    pub connect_total_timeout: Duration,
    /// How long connections may go on after a stop was asked for.
    pub drain: Duration,
    /// Clients at most whose backend is remembered for `sessionAffinity: ClientIP`.
    pub affinity_entries_max: u32,
    /// Pipes for splice(2) at most.
    pub pipes_max: u32,
    /// Key of the flow hash; kept in the state directory when absent.
    pub flow_hash_key: Option<FlowHashKey>,
}

/// 128-bit key of the flow hash; `Debug` withholds it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct FlowHashKey(pub(crate) [u8; 16]);

impl FlowHashKey {
    /// The bytes, for the one place that needs them.
    pub fn expose(&self) -> [u8; 16] {
        self.0
    }
}

impl fmt::Debug for FlowHashKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FlowHashKey(withheld)")
    }
}

/// The layer-7 proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proxy {
    /// Virtual addresses of Ingresses that have none of their own, without repetition.
    pub addresses: Vec<IpAddr>,
    /// Port of plain HTTP.
    pub http_port: u16,
    /// Port of HTTPS, never that of plain HTTP.
    pub https_port: u16,
    /// Threads; one for each core when absent.
    pub workers: Option<usize>,
    /// Client connections at most.
    pub connections_max: usize,
    /// Which TLS is spoken with clients.
    pub tls_policy: TlsPolicy,
    /// Of what session tickets of the fleet are made; `None`: each host has its own.
    pub session_ticket_secret: Option<TicketSecret>,
    /// How long their keys are in use.
    pub session_ticket_rotation: Duration,
    /// How long before its end a certificate is warned about.
    pub certificate_warning: Duration,
    /// For a TLS handshake.
    pub tls_handshake_timeout: Duration,
    /// For the head of a request.
    pub request_header_timeout: Duration,
    /// Bytes of a request's head at most.
    pub request_header_bytes_max: usize,
    /// Without a byte of a request's body.
    pub client_read_timeout: Duration,
    /// For which a client may refuse to take a byte.
    pub client_write_timeout: Duration,
    /// How long an idle client connection is kept.
    pub keepalive_idle: Duration,
    /// Streams at most on one HTTP/2 connection of a client.
    pub h2_streams_max: u32,
    /// For one connection attempt to a pod.
    pub upstream_connect_timeout: Duration,
    /// Without a byte of a pod's answer.
    pub upstream_read_timeout: Duration,
    /// For which a pod may refuse to take a byte.
    pub upstream_write_timeout: Duration,
    /// How long an idle connection to a pod is kept.
    pub upstream_idle: Duration,
    /// Idle connections to pods at most, each worker.
    pub upstream_idle_max: usize,
    /// Further pods tried at most when a connection fails.
    pub retries_max: u8,
    /// Retries at most for a hundred requests.
    pub retry_percent: u32,
    /// Networks of proxies whose `X-Forwarded-*` fields are believed.
    pub trusted_proxies: Vec<IpNet>,
    /// Field in which a request's id goes to the pod, lower case; none when absent.
    pub request_id_header: Option<String>,
    /// What is done with W3C trace contexts.
    pub trace_context: TraceContext,
    /// Without a byte on an upgraded connection (WebSocket).
    pub upgraded_idle: Duration,
    /// How long requests may go on after a stop was asked for.
    pub drain: Duration,
    /// A line for each request; off when absent.
    pub access_log: Option<AccessLog>,
}

/// A line for each request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessLog {
    /// Where to.
    pub to: AccessDestination,
    /// How lines look: a name or a description, which whoever writes them checks.
    pub format: String,
    /// Whether queries are written.
    pub queries: bool,
}

/// Where lines of the access log go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AccessDestination {
    /// Standard output.
    Stdout,
    /// The host's syslog.
    Syslog,
    /// A file.
    File(PathBuf),
}

/// Health checks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// Probes at most under way at one time.
    pub concurrent_max: u32,
    /// What stands in for pods that this host cannot reach.
    pub fallback: Fallback,
}

/// Bounds and waits of the whole daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Updates at most that wait for the core.
    pub updates_max: usize,
    /// How long updates are gathered before a snapshot is published.
    pub publish_delay: Duration,
    /// Between withdrawing the routes and closing the listeners.
    pub withdraw_wait: Duration,
    /// After this long a graceful stop is cut short; not below the drains and the withdrawal.
    pub stop: Duration,
}
