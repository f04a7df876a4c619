//! What the data path is told.

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;

use haflinger_core::flow::FlowHashKey;

use crate::Error;

/// Flow records of one region: a record, what is remembered of its ways, and its two entries in the
/// index and among the hints take 450 bytes, so that this is 7 GiB, and a program that looks for a free one never comes round.
pub const FLOWS_MAX: u32 = 1 << 24;

/// Services: their slots are in the upper part of a longest-prefix key, and 64 times what a large
/// cluster has is beyond any host.
pub const SERVICES_MAX: u32 = 1 << 20;

/// Backends of all services.
pub const BACKENDS_MAX: u32 = 1 << 22;

/// Buckets of all tables: 8 bytes each.
pub const BUCKETS_MAX: u32 = 1 << 27;

/// Interfaces: each is a link of its own.
pub const INTERFACES_MAX: usize = 64;

/// Source addresses: a backend names them by 16 bits, and both families are kept while they change.
pub const NAT_ADDRESSES_MAX: usize = 1024;

/// Sizes of the maps. A change takes a restart; what fits is carried over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Capacities {
    /// Flows that have not been answered yet, 1 to [`FLOWS_MAX`]. A flood fills these and no
    /// others.
    pub opening_flows: u32,
    /// All other flows, 1 to [`FLOWS_MAX`].
    pub established_flows: u32,
    /// Services, 1 to [`SERVICES_MAX`].
    pub services: u32,
    /// Backends of all services together, 1 to [`BACKENDS_MAX`].
    pub backends: u32,
    /// Buckets of all tables together, [`BUCKETS_MAX`] at most. A service takes 16 for each active
    /// backend and 256 at least, as a power of two, or about 128 for each of more than 64 or of
    /// different weights; while its table grows, both sizes.
    pub buckets: u32,
    /// Source ranges of all services together.
    pub source_ranges: u32,
    /// Clients whose affinity is remembered (algorithm `source`); the longest unused are forgotten.
    pub affinities: u32,
    /// Datagrams whose fragments are on their way; the longest unused are forgotten.
    pub fragments: u32,
}

impl Default for Capacities {
    fn default() -> Self {
        Self {
            opening_flows: 1 << 18,
            established_flows: 1 << 20,
            services: 65_536,
            backends: 262_144,
            buckets: 1 << 24,
            source_ranges: 65_536,
            affinities: 1 << 18,
            fragments: 16_384,
        }
    }
}

/// Which way of attaching is wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum AttachWish {
    /// The driver's if it has one, else the network stack's.
    #[default]
    Auto,
    /// The driver's or none.
    Native,
    /// The network stack's.
    Generic,
}

/// What the data path is told.
#[derive(Clone, PartialEq, Eq)]
pub struct Settings {
    /// Forward by XDP. Otherwise nothing is loaded, and what an earlier run left attached is
    /// taken off.
    pub enabled: bool,
    /// Names of the interfaces on which packets of clients and backends arrive.
    pub interfaces: Vec<String>,
    /// How the program is attached to them.
    pub attach: AttachWish,
    /// Directory in a BPF file system, where maps and links outlive the daemon.
    pub pin_dir: PathBuf,
    /// Key of the flow hash, the same on every host that shares a table.
    pub flow_hash_key: FlowHashKey,
    /// Sizes of the maps.
    pub capacities: Capacities,
    /// New flows a second and CPU; 0: no limit.
    pub new_flows_rate: u32,
    /// Addresses that `nat` mode sends from; a family without one uses this host's own address
    /// towards the backend.
    pub nat_addresses: Vec<IpAddr>,
    /// Ports that `nat` mode sends from.
    pub nat_ports: RangeInclusive<u16>,
}

/// The key is a secret.
impl std::fmt::Debug for Settings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Settings")
            .field("enabled", &self.enabled)
            .field("interfaces", &self.interfaces)
            .field("attach", &self.attach)
            .field("pin_dir", &self.pin_dir)
            .field("capacities", &self.capacities)
            .field("new_flows_rate", &self.new_flows_rate)
            .field("nat_addresses", &self.nat_addresses)
            .field("nat_ports", &self.nat_ports)
            .finish_non_exhaustive()
    }
}

impl Settings {
    /// Whether everything lies within its bounds.
    ///
    /// # Errors
    ///
    /// The first setting that does not.
    pub fn check(&self) -> Result<(), Error> {
        let Capacities { opening_flows, established_flows, services, backends, buckets, .. } =
            self.capacities;
        let Capacities { source_ranges, affinities, fragments, .. } = self.capacities;
        let bounded = [
            ("opening_flows", opening_flows, FLOWS_MAX),
            ("established_flows", established_flows, FLOWS_MAX),
            ("services", services, SERVICES_MAX),
            ("backends", backends, BACKENDS_MAX),
            ("buckets", buckets, BUCKETS_MAX),
            ("source_ranges", source_ranges, BACKENDS_MAX),
            ("affinities", affinities, FLOWS_MAX),
            ("fragments", fragments, FLOWS_MAX),
        ];
        for (setting, value, max) in bounded {
            if !(1..=max).contains(&value) {
                let problem = format!("{value} is not between 1 and {max}");
                return Err(Error::Setting { setting, problem });
            }
        }
        let lengths = [
            ("interfaces", self.interfaces.len(), INTERFACES_MAX),
            ("nat_addresses", self.nat_addresses.len(), NAT_ADDRESSES_MAX),
        ];
        for (setting, len, max) in lengths {
            if len > max {
                let problem = format!("{len} are more than the {max} that there can be");
                return Err(Error::Setting { setting, problem });
            }
        }
        if self.nat_ports.is_empty() || *self.nat_ports.start() == 0 {
            let problem = "the range holds no port".to_owned();
            return Err(Error::Setting { setting: "nat_ports", problem });
        }
        Ok(())
    }
}
