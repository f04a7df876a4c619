//! The checked settings of the room.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use thiserror::Error;

/// Longest name of an interface (`IFNAMSIZ` less its terminating zero).
pub const INTERFACE_NAME_BYTES_MAX: usize = 15;

/// The kernel's main routing table.
pub const MAIN_TABLE: u32 = 254;

/// The kernel's table of local addresses, which nobody else may write.
const LOCAL_TABLE: u32 = 255;

/// VIPs that are bound. The kernel walks an interface's addresses one by one.
pub const ADDRESSES_MAX: usize = 65_536;

/// Pod routes that are written: several times the nodes of the largest clusters.
pub const ROUTES_MAX: usize = 65_536;

/// Addresses that `nat` sends from: as many as the data path takes.
pub const SOURCES_MAX: usize = 256;

/// Longest time for which a former source address stays bound: a week, as long as any flow may be
/// idle.
pub const SOURCE_LINGER_SECS_MAX: u32 = 604_800;

/// What the room is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The interface on which VIPs are bound, usually `lo`. `None`: no VIP is bound, and
    /// those bound before are removed.
    pub vip_interface: Option<String>,
    /// The table to which routes to pods are written, usually [`MAIN_TABLE`]. `None`: none is
    /// written, and those written before are removed.
    pub pod_route_table: Option<u32>,
    /// Time in seconds between two comparisons with the kernel that nothing else asks for
    /// (5 to 3600). Changes are noticed at once; this is for what was missed.
    pub resync_secs: u32,
    /// Addresses that `nat` sends from, bound beside the VIPs; empty: none is. One that leaves
    /// this list stays bound for `source_linger_secs`, since flows may still send from it.
    pub sources: Vec<IpAddr>,
    /// The interface on which they are bound.
    pub source_interface: String,
    /// Time in seconds for which an address that is no source any more stays bound: as long as a
    /// flow may be idle, up to [`SOURCE_LINGER_SECS_MAX`].
    pub source_linger_secs: u32,
    /// Where bound addresses are remembered on kernels before 5.18, which keep no mark of ours.
    /// Without it such kernels leave behind what a crashed daemon bound.
    pub remembered: Option<PathBuf>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            vip_interface: Some("lo".to_owned()),
            sources: Vec::new(),
            source_interface: "lo".to_owned(),
            source_linger_secs: 3600,
            pod_route_table: Some(MAIN_TABLE),
            resync_secs: 60,
            remembered: None,
        }
    }
}

/// Why settings are refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SettingsError {
    /// Not a name that the kernel gives to interfaces.
    #[error(
        "{0:?} is no interface name: 1 to {INTERFACE_NAME_BYTES_MAX} bytes without slash, colon \
         and spaces"
    )]
    Interface(String),
    /// Not a table for routes.
    #[error("table {0} cannot be written: choose 254 (main) or a number of your own")]
    Table(u32),
    /// Too many.
    #[error("{0} source addresses are too many: name {SOURCES_MAX} at most")]
    Sources(usize),
    /// Out of range.
    #[error(
        "source addresses cannot linger for {0} seconds: write {SOURCE_LINGER_SECS_MAX} at most"
    )]
    Linger(u32),
    /// Out of range.
    #[error("resync interval {0} must lie between 5 and 3600 seconds")]
    Resync(u32),
}

impl Settings {
    /// Where bound source addresses are remembered: beside the others.
    pub(crate) fn remembered_sources(&self) -> Option<PathBuf> {
        self.remembered.as_deref().map(remembered_sources)
    }

    /// Refuses what cannot work, naming the value and the remedy.
    pub fn check(&self) -> Result<(), SettingsError> {
        let odd = |byte: u8| !byte.is_ascii_graphic() || byte == b'/' || byte == b':';
        let refused = |name: &&String| {
            name.is_empty() || name.len() > INTERFACE_NAME_BYTES_MAX || name.bytes().any(odd)
        };
        let mut names = self.vip_interface.iter().chain([&self.source_interface]);
        if let Some(name) = names.find(refused) {
            return Err(SettingsError::Interface(name.clone()));
        }
        if self.sources.len() > SOURCES_MAX {
            return Err(SettingsError::Sources(self.sources.len()));
        }
        if self.source_linger_secs > SOURCE_LINGER_SECS_MAX {
            return Err(SettingsError::Linger(self.source_linger_secs));
        }
        if let Some(table @ (0 | LOCAL_TABLE)) = self.pod_route_table {
            return Err(SettingsError::Table(table));
        }
        if !(5..=3600).contains(&self.resync_secs) {
            return Err(SettingsError::Resync(self.resync_secs));
        }
        Ok(())
    }
}

/// Where source addresses are remembered, when others are at `path`.
pub(crate) fn remembered_sources(path: &Path) -> PathBuf {
    path.with_file_name("source-addresses")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_accepted_and_nonsense_is_not() {
        assert_eq!(Settings::default().check(), Ok(()));
        for name in ["", "a/b", "sixteen-bytes-xx", "a b"] {
            let settings = Settings { vip_interface: Some(name.to_owned()), ..Settings::default() };
            assert_eq!(settings.check(), Err(SettingsError::Interface(name.to_owned())));
        }
        for table in [0, 255] {
            let settings = Settings { pod_route_table: Some(table), ..Settings::default() };
            assert_eq!(settings.check(), Err(SettingsError::Table(table)));
        }
        let settings = Settings { source_interface: "a b".into(), ..Settings::default() };
        assert_eq!(settings.check(), Err(SettingsError::Interface("a b".into())));
        let many = vec![IpAddr::from([192, 0, 2, 1]); 257];
        let settings = Settings { sources: many, ..Settings::default() };
        assert_eq!(settings.check(), Err(SettingsError::Sources(257)));
        let settings = Settings { source_linger_secs: 604_801, ..Settings::default() };
        assert_eq!(settings.check(), Err(SettingsError::Linger(604_801)));
        let settings = Settings { resync_secs: 4, ..Settings::default() };
        assert_eq!(settings.check(), Err(SettingsError::Resync(4)));
    }
}
