//! Which addresses `nat` mode sends from.
//!
//! Each backend names a range of the array of sources: all configured addresses of its family, or
//! this host's own one towards it. Ranges of equal content are shared.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::RangeInclusive;

use crate::buddy::{Buddies, Region};
use crate::maps::Maps;
use crate::program::types;
use crate::settings::Settings;
use crate::words;

/// Ports that are used on this host's own addresses: above those that its own sockets are given
/// by default (32768 to 60999, `net.ipv4.ip_local_port_range`).
pub(crate) const OWN_PORTS: RangeInclusive<u16> = 61_000..=65_535;

/// A range of the array: first slot and number of slots.
pub(crate) type SourceRange = (u16, u16);

/// The array of sources.
#[derive(Debug)]
pub(crate) struct Sources {
    regions: Buddies,
    configured: Vec<IpAddr>,
    ports: RangeInclusive<u16>,
    /// By content: one address of this host's, or the configured ones of a family.
    ranges: BTreeMap<Vec<IpAddr>, Region>,
}

impl Sources {
    /// Nothing is written yet.
    pub(crate) fn new(maps: &Maps, settings: &Settings) -> Self {
        Self {
            // A backend names its sources by 16 bits.
            regions: Buddies::new(0, maps.sources.len().min(1 << 16)),
            configured: settings.nat_addresses.clone(),
            ports: settings.nat_ports.clone(),
            ranges: BTreeMap::new(),
        }
    }

    /// Whether other addresses or ports are configured than those in force.
    pub(crate) fn is_other(&self, settings: &Settings) -> bool {
        self.configured != settings.nat_addresses || self.ports != settings.nat_ports
    }

    /// Whether addresses are configured of the backend's family.
    pub(crate) fn has_configured(&self, backend: IpAddr) -> bool {
        self.configured.iter().any(|address| address.is_ipv4() == backend.is_ipv4())
    }

    /// The range for a backend; `own` is the address that this host would send from. `None` when
    /// there is none, or no room.
    pub(crate) fn range(
        &mut self,
        maps: &Maps,
        backend: IpAddr,
        own: Option<IpAddr>,
    ) -> Option<SourceRange> {
        let same_family = |address: &&IpAddr| address.is_ipv4() == backend.is_ipv4();
        let configured: Vec<IpAddr> = self.configured.iter().filter(same_family).copied().collect();
        let (addresses, ports) = if configured.is_empty() {
            (vec![own.filter(|own| own.is_ipv4() == backend.is_ipv4())?], OWN_PORTS)
        } else {
            (configured, self.ports.clone())
        };
        let count = u16::try_from(addresses.len()).ok()?;
        let region = match self.ranges.get(&addresses) {
            Some(region) => *region,
            None => {
                let region = self.regions.take(u32::from(count).next_power_of_two().ilog2())?;
                for (slot, address) in (region.first..).zip(&addresses) {
                    let source = types::source {
                        address: words::address(*address),
                        port_min: *ports.start(),
                        port_max: *ports.end(),
                        ..Default::default()
                    };
                    maps.sources.write(slot, &source);
                }
                self.ranges.insert(addresses, region);
                region
            }
        };
        Some((u16::try_from(region.first).ok()?, count))
    }

    /// Takes a range that backends of an earlier run name; one that is not in the array is damaged.
    pub(crate) fn restore(&mut self, maps: &Maps, (first, count): SourceRange) {
        let slots = u32::from(first)..u32::from(first) + u32::from(count);
        if slots.end > maps.sources.len() {
            return;
        }
        let addresses: Vec<IpAddr> =
            slots.map(|slot| words::ip(&maps.sources.read(slot).address)).collect();
        let region = Region {
            first: first.into(),
            bits: u32::from(count.max(1)).next_power_of_two().ilog2(),
        };
        if count > 0 && !self.ranges.contains_key(&addresses) && self.regions.claim(region) {
            self.ranges.insert(addresses, region);
        }
    }

    /// Other addresses or ports are configured: the ranges that were are nobody's after the
    /// backends have been written again, and are returned to be released then.
    pub(crate) fn reconfigure(&mut self, settings: &Settings) -> Vec<Region> {
        self.configured.clone_from(&settings.nat_addresses);
        self.ports = settings.nat_ports.clone();
        std::mem::take(&mut self.ranges).into_values().collect()
    }

    /// Gives back a range that no packet can see any more.
    pub(crate) fn release(&mut self, region: Region) {
        self.regions.release(region);
    }

    /// Addresses in use, with the ports of each.
    pub(crate) fn pools(&self, maps: &Maps) -> BTreeMap<IpAddr, RangeInclusive<u16>> {
        let mut pools = BTreeMap::new();
        for (addresses, region) in &self.ranges {
            for (slot, address) in (region.first..).zip(addresses) {
                let source = maps.sources.read(slot);
                pools.insert(*address, source.port_min..=source.port_max);
            }
        }
        pools
    }
}
