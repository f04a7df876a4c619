//! `[l4]` and `[xdp]` as written.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Layer 4, whoever forwards it: defaults of services that say nothing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct L4 {
    /// How packets reach the backends.
    pub mode: ForwardingMode,
    /// How long flows without packets are kept.
    pub timeouts: Timeouts,
}

impl Default for L4 {
    fn default() -> Self {
        Self { mode: ForwardingMode::Nat, timeouts: Timeouts::default() }
    }
}

/// How packets reach the backends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ForwardingMode {
    /// Destination and source are rewritten; replies come back here.
    Nat,
    /// The destination is rewritten; replies are routed back through the appliances.
    Routed,
    /// IP-in-IP to the backend, which answers the client itself.
    Dsr,
    /// Through the user-space relay.
    Proxy,
}

/// How long flows without packets are kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Timeouts {
    /// Seconds for the handshake of a TCP connection.
    #[schemars(range(min = 1, max = 300))]
    pub opening_secs: u32,
    /// Seconds that an established TCP connection is kept.
    #[schemars(range(min = 1, max = 604_800))]
    pub established_secs: u32,
    /// Seconds that a TCP connection is kept that one side has closed.
    #[schemars(range(min = 1, max = 3_600))]
    pub closing_secs: u32,
    /// Seconds that a TCP connection is kept that both sides have closed, or one has reset.
    #[schemars(range(min = 1, max = 3_600))]
    pub closed_secs: u32,
    /// Seconds that a UDP flow is kept.
    #[schemars(range(min = 1, max = 604_800))]
    pub udp_secs: u32,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            opening_secs: 10,
            established_secs: 3_600,
            closing_secs: 120,
            closed_secs: 10,
            udp_secs: 60,
        }
    }
}

/// Forwarding by XDP.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Xdp {
    /// Whether packets are forwarded by XDP; otherwise every service is relayed.
    pub enabled: bool,
    /// Interfaces to attach to; those with a default route when empty.
    pub interfaces: Vec<String>,
    /// How it attaches.
    pub attach: Attach,
    /// Source addresses in mode nat; the host's own address towards each backend when empty.
    pub nat_addresses: Vec<String>,
    /// Whether `nat_addresses` are added to the interface of `[vips]`.
    pub bind_nat_addresses: bool,
    /// Ports that may be used on `nat_addresses`: `LOWEST-HIGHEST`.
    pub nat_ports: String,
    /// Answered flows at most.
    #[schemars(range(min = 1_024, max = 16_777_216))]
    pub flows_max: u32,
    /// Flows at most that nobody has answered yet, beside the answered ones.
    #[schemars(range(min = 1_024, max = 16_777_216))]
    pub opening_flows_max: u32,
    /// New flows at most in a second, each CPU.
    #[schemars(range(min = 1_000, max = 100_000_000))]
    pub new_flows_per_second: u32,
    /// Services at most.
    #[schemars(range(min = 1, max = 1_048_576))]
    pub services_max: u32,
    /// Backends at most, each counted once for every service that it is in.
    #[schemars(range(min = 1, max = 4_194_304))]
    pub backends_max: u32,
    /// Buckets at most of all forwarding tables together.
    #[schemars(range(min = 256, max = 67_108_864))]
    pub buckets_max: u32,
    /// Source ranges at most of all services together.
    #[schemars(range(min = 1, max = 4_194_304))]
    pub source_ranges_max: u32,
    /// Clients at most whose backend is remembered for `sessionAffinity: ClientIP`.
    #[schemars(range(min = 1, max = 10_000_000))]
    pub affinity_entries_max: u32,
    /// Fragmented datagrams at most whose later fragments are led to their flow.
    #[schemars(range(min = 64, max = 1_048_576))]
    pub fragments_max: u32,
    /// Directory of the BPF file system for what outlives the daemon.
    pub pin_dir: String,
}

impl Default for Xdp {
    fn default() -> Self {
        Self {
            enabled: true,
            interfaces: Vec::new(),
            attach: Attach::Auto,
            nat_addresses: Vec::new(),
            bind_nat_addresses: true,
            nat_ports: "1024-65535".into(),
            flows_max: 524_288,
            opening_flows_max: 131_072,
            new_flows_per_second: 250_000,
            services_max: 65_536,
            backends_max: 262_144,
            buckets_max: 16_777_216,
            source_ranges_max: 65_536,
            affinity_entries_max: 65_536,
            fragments_max: 8_192,
            pin_dir: "/sys/fs/bpf/haflinger".into(),
        }
    }
}

/// How XDP attaches to an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Attach {
    /// In the driver, or behind it where it cannot.
    Auto,
    /// In the driver only.
    Native,
    /// Behind the driver: slower, on any interface.
    Generic,
}
