//! How flows of an L4 service are forwarded: mode, algorithm, limits and timeouts.

use std::fmt;
use std::num::NonZeroU32;
use std::ops::RangeInclusive;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::ProxyProtocol;

/// How packets reach the backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ForwardingMode {
    /// The destination becomes the backend, the source an address of this host; the reply comes
    /// back here. For any backend that this host can reach.
    Nat,
    /// Only the destination changes: the backend sees the client's address, and its reply must
    /// be routed back through the appliances.
    Routed,
    /// IP-in-IP to the backend, which takes it off and answers the client itself. The packet
    /// inside keeps VIP and port, so the backend serves on the service's own port.
    Dsr,
    /// The user-space relay: two sockets and splice(2). What every host can do.
    #[default]
    Proxy,
}

impl ForwardingMode {
    /// Every mode.
    pub const ALL: [Self; 4] = [Self::Nat, Self::Routed, Self::Dsr, Self::Proxy];

    /// `nat`, `routed`, `dsr` or `proxy`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Nat => "nat",
            Self::Routed => "routed",
            Self::Dsr => "dsr",
            Self::Proxy => "proxy",
        }
    }

    /// Whether XDP forwards the packets, rather than a socket of this host.
    pub fn is_xdp(self) -> bool {
        self != Self::Proxy
    }
}

impl fmt::Display for ForwardingMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a service is not forwarded in the mode that it asks for.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "reason")]
pub enum ModeReason {
    /// A PROXY protocol header is data inside of the connection: it takes a socket to send it.
    NeedsSocket {
        /// The header that the service sends.
        proxy_protocol: ProxyProtocol,
    },
    /// `dsr` keeps the port of the VIP, but a backend serves on another one.
    BackendPort {
        /// That backend's port.
        port: u16,
    },
    /// The VIP is of one family and its backends are of the other one: only `dsr` and the relay
    /// lead from one to the other.
    FamilyDiffers,
    /// The configuration says that this host does without XDP.
    XdpDisabled,
    /// This host cannot have XDP.
    XdpUnavailable {
        /// What the data path said.
        detail: Arc<str>,
    },
    /// XDP runs here, but cannot take this service.
    Refused {
        /// What the data path said.
        detail: Arc<str>,
    },
}

impl ModeReason {
    /// Whether it is the host that lacks something, for every service alike.
    pub fn is_of_host(&self) -> bool {
        matches!(self, Self::XdpDisabled | Self::XdpUnavailable { .. })
    }
}

impl fmt::Display for ModeReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NeedsSocket { .. } => f.write_str("PROXY protocol needs a socket"),
            Self::BackendPort { port } => {
                write!(f, "a backend's port is {port}, dsr keeps the port of the VIP")
            }
            Self::FamilyDiffers => f.write_str("VIP and backends are of different families"),
            Self::XdpDisabled => f.write_str("XDP is switched off"),
            Self::XdpUnavailable { detail } => write!(f, "XDP cannot run: {detail}"),
            Self::Refused { detail } => f.write_str(detail),
        }
    }
}

/// How the backend of a new flow is chosen; always among the active ones, by weight. Packets of
/// a known flow stay with its backend, whatever the algorithm.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Algorithm {
    /// The forwarding table, by a hash of addresses and ports: hosts choose alike.
    #[default]
    #[serde(alias = "none")]
    Hash,
    /// The forwarding table, by a hash of the client's address alone; and a client stays with
    /// its backend although the table moves (Service field `sessionAffinity: ClientIP`).
    #[serde(alias = "client_ip")]
    Source {
        /// How long after its last use an affinity is kept, in seconds
        /// ([`AFFINITY_TIMEOUT_SECS`]).
        timeout_secs: u32,
    },
    /// In turn, each as often as its weight says. Every host has its own turn.
    RoundRobin,
    /// The one that has the fewest flows of this host for its weight.
    LeastConnections,
}

impl Algorithm {
    /// `hash`, `source`, `round-robin` or `least-connections`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Hash => "hash",
            Self::Source { .. } => "source",
            Self::RoundRobin => "round-robin",
            Self::LeastConnections => "least-connections",
        }
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Seconds for which an affinity may be kept (the API's own range).
pub const AFFINITY_TIMEOUT_SECS: RangeInclusive<u32> = 1..=86_400;

/// Seconds for which an affinity is kept where nothing is said: three hours (the API's default).
pub const DEFAULT_AFFINITY_TIMEOUT_SECS: u32 = 10_800;

/// Flows that this host holds for a service at once. When full, a new TCP connection is refused
/// with a reset and a new UDP flow is dropped; both are counted. What is established stays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ConnectionLimits {
    /// Of the whole service, 1 to [`MAX_CONNECTION_LIMIT`]; `None`: unlimited.
    pub service: Option<NonZeroU32>,
    /// Of each backend, 1 to [`MAX_CONNECTION_LIMIT`]; `None`: unlimited. A flow that meets a full
    /// backend tries another one first, a bounded number of times.
    pub backend: Option<NonZeroU32>,
}

/// Largest connection limit: above any flow table that a host can have.
pub const MAX_CONNECTION_LIMIT: u32 = 10_000_000;

/// How long a flow without packets is kept, by its state. Seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct FlowTimeouts {
    /// TCP, between the client's SYN and the end of the handshake ([`OPENING_SECS`]).
    pub opening_secs: u32,
    /// TCP, established ([`IDLE_SECS`]).
    pub established_secs: u32,
    /// TCP, after the first FIN ([`CLOSING_SECS`]).
    pub closing_secs: u32,
    /// TCP, after both FINs or a reset ([`CLOSING_SECS`]).
    pub closed_secs: u32,
    /// UDP ([`IDLE_SECS`]).
    pub udp_secs: u32,
}

/// Seconds that a handshake may be given.
pub const OPENING_SECS: RangeInclusive<u32> = 1..=300;

/// Seconds that an idle flow may be kept: up to a week.
pub const IDLE_SECS: RangeInclusive<u32> = 1..=604_800;

/// Seconds that a flow may be kept while it closes, and after.
pub const CLOSING_SECS: RangeInclusive<u32> = 1..=3_600;

impl Default for FlowTimeouts {
    fn default() -> Self {
        Self {
            // Three retransmissions of a SYN (1, 2 and 4 s) and what is left; each starts anew.
            opening_secs: 10,
            // The relay's own default.
            established_secs: 3_600,
            // A half-closed connection may still be answering.
            closing_secs: 120,
            // The last acknowledgement and late duplicates; longer would fill the flow table
            // with connections that are over.
            closed_secs: 10,
            // The relay's own default.
            udp_secs: 60,
        }
    }
}

/// The timeouts that an object asks for; what it leaves out is configured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct TimeoutRequest {
    /// For [`FlowTimeouts::established_secs`].
    pub established_secs: Option<u32>,
    /// For [`FlowTimeouts::udp_secs`].
    pub udp_secs: Option<u32>,
}

impl FlowTimeouts {
    /// These, but for what an object asks for.
    pub fn with(self, request: TimeoutRequest) -> Self {
        Self {
            established_secs: request.established_secs.unwrap_or(self.established_secs),
            udp_secs: request.udp_secs.unwrap_or(self.udp_secs),
            ..self
        }
    }
}
