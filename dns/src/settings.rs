//! The checked settings of the room.

use std::collections::BTreeSet;
use std::fmt;
use std::net::SocketAddr;

use serde::Serialize;
use thiserror::Error;

use crate::budget::DeletionBudget;
use crate::name::RecordName;

/// Zones that one appliance may write: each costs a picture of the zone per server.
pub const ZONES_MAX: usize = 256;

/// Servers of one zone: each is written to on its own.
pub const SERVERS_MAX: usize = 8;

/// Longest time to live in seconds (RFC 2181 section 8).
pub const TTL_SECS_MAX: u32 = i32::MAX as u32;

/// Longest owner identity in bytes: it stands in every ownership record.
pub const OWNER_BYTES_MAX: usize = 128;

/// What the room is told.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Settings {
    /// Zones to write. None: nothing is done.
    pub zones: Vec<ZoneSettings>,
    /// Plan and report, write nothing.
    pub dry_run: bool,
    /// Time in seconds between two comparisons with a server that nothing else asks for
    /// (1 to 86400). Costs one query, and a transfer when the zone's serial has moved.
    pub refresh_secs: u32,
}

/// One zone.
#[derive(Clone, Debug, PartialEq)]
pub struct ZoneSettings {
    /// The zone's name.
    pub name: RecordName,
    /// Servers that take updates; each is read and written on its own.
    pub servers: Vec<SocketAddr>,
    /// The key that signs updates and transfers.
    pub tsig: Option<Tsig>,
    /// Time to live in seconds of names that ask for none (1 to [`TTL_SECS_MAX`]).
    pub ttl_secs: u32,
    /// Our identity in ownership records: unique among everything that writes the zone.
    pub owner_id: String,
    /// Whether names are deleted.
    pub policy: Policy,
    /// How much may be deleted before the operator is asked.
    pub deletions: DeletionBudget,
    /// What stands for the `*` of wildcards in ownership names; `*` itself when absent.
    pub wildcard: Option<String>,
}

/// What is done about names that are no longer wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Policy {
    /// They are deleted.
    #[default]
    Sync,
    /// They stay.
    UpsertOnly,
}

/// A transaction signature key (RFC 8945). `Debug` withholds the secret.
#[derive(Clone, PartialEq)]
pub struct Tsig {
    /// The key's name, as the server knows it.
    pub key_name: RecordName,
    /// The algorithm.
    pub algorithm: TsigAlgorithm,
    /// The secret, decoded.
    pub secret: Vec<u8>,
}

/// Algorithms of transaction signatures (RFC 8945 section 6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum TsigAlgorithm {
    /// `hmac-sha256`.
    #[serde(rename = "hmac-sha256")]
    HmacSha256,
    /// `hmac-sha512`.
    #[serde(rename = "hmac-sha512")]
    HmacSha512,
}

impl fmt::Display for TsigAlgorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::HmacSha256 => "hmac-sha256",
            Self::HmacSha512 => "hmac-sha512",
        })
    }
}

impl fmt::Debug for Tsig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tsig({} {}, secret withheld)", self.key_name, self.algorithm)
    }
}

/// Why settings are refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SettingsError {
    /// More than [`ZONES_MAX`].
    #[error("{0} zones are configured, {ZONES_MAX} are allowed")]
    Zones(usize),
    /// The same zone twice.
    #[error("zone {0} is configured twice: merge the two entries")]
    DuplicateZone(RecordName),
    /// None, or more than [`SERVERS_MAX`].
    #[error("zone {zone} has {count} servers: name between 1 and {SERVERS_MAX}")]
    Servers {
        /// The zone.
        zone: RecordName,
        /// How many.
        count: usize,
    },
    /// The same server twice.
    #[error("zone {zone} names server {server} twice: remove one")]
    DuplicateServer {
        /// The zone.
        zone: RecordName,
        /// The server.
        server: SocketAddr,
    },
    /// Not an owner identity.
    #[error(
        "owner {owner:?} of zone {zone} must have 1 to {OWNER_BYTES_MAX} printable characters \
         without commas, quotation marks and spaces"
    )]
    Owner {
        /// The zone.
        zone: RecordName,
        /// The identity.
        owner: String,
    },
    /// Out of range.
    #[error("time to live {ttl_secs} of zone {zone} must lie between 1 and {TTL_SECS_MAX}")]
    Ttl {
        /// The zone.
        zone: RecordName,
        /// The value in seconds.
        ttl_secs: u32,
    },
    /// Out of range.
    #[error("refresh interval {0} must lie between 1 and 86400 seconds")]
    Refresh(u32),
    /// A key without a secret.
    #[error("key {0} has an empty secret")]
    EmptySecret(RecordName),
    /// Not a label.
    #[error("wildcard stand-in {0:?} must be one label of lower-case letters, digits and hyphens")]
    Wildcard(String),
    /// A percentage beyond the whole.
    #[error("deletion share {percent} % of zone {zone} must lie between 1 and 100")]
    DeletionShare {
        /// The zone.
        zone: RecordName,
        /// The value.
        percent: u8,
    },
}

impl Settings {
    /// Refuses what cannot work, naming the value and the remedy.
    pub fn check(&self) -> Result<(), SettingsError> {
        if self.zones.is_empty() {
            return Ok(());
        }
        if self.zones.len() > ZONES_MAX {
            return Err(SettingsError::Zones(self.zones.len()));
        }
        if !(1..=86_400).contains(&self.refresh_secs) {
            return Err(SettingsError::Refresh(self.refresh_secs));
        }
        let mut names = BTreeSet::new();
        for zone in &self.zones {
            if !names.insert(&zone.name) {
                return Err(SettingsError::DuplicateZone(zone.name.clone()));
            }
            zone.check()?;
        }
        Ok(())
    }
}

impl ZoneSettings {
    fn check(&self) -> Result<(), SettingsError> {
        let zone = || self.name.clone();
        if self.servers.is_empty() || self.servers.len() > SERVERS_MAX {
            return Err(SettingsError::Servers { zone: zone(), count: self.servers.len() });
        }
        let mut servers = BTreeSet::new();
        if let Some(server) = self.servers.iter().find(|server| !servers.insert(**server)) {
            return Err(SettingsError::DuplicateServer { zone: zone(), server: *server });
        }
        let plain = |byte: u8| byte.is_ascii_graphic() && byte != b',' && byte != b'"';
        let owner = &self.owner_id;
        if owner.is_empty() || owner.len() > OWNER_BYTES_MAX || !owner.bytes().all(plain) {
            return Err(SettingsError::Owner { zone: zone(), owner: owner.clone() });
        }
        if !(1..=TTL_SECS_MAX).contains(&self.ttl_secs) {
            return Err(SettingsError::Ttl { zone: zone(), ttl_secs: self.ttl_secs });
        }
        if self.deletions.percent_max.get() > 100 {
            let percent = self.deletions.percent_max.get();
            return Err(SettingsError::DeletionShare { zone: zone(), percent });
        }
        if let Some(tsig) = self.tsig.as_ref().filter(|tsig| tsig.secret.is_empty()) {
            return Err(SettingsError::EmptySecret(tsig.key_name.clone()));
        }
        let is_label = |text: &str| {
            RecordName::parse(text).is_ok_and(|name| name.as_str() == text)
                && !text.contains(['.', '*'])
        };
        match &self.wildcard {
            Some(text) if !is_label(text) => Err(SettingsError::Wildcard(text.clone())),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU8;

    use super::*;

    fn zone() -> ZoneSettings {
        ZoneSettings {
            name: RecordName::parse("example.com").unwrap(),
            servers: vec!["192.0.2.53:53".parse().unwrap()],
            tsig: None,
            ttl_secs: 60,
            owner_id: "blue".into(),
            policy: Policy::Sync,
            deletions: DeletionBudget { names_max: 10, percent_max: NonZeroU8::MIN },
            wildcard: None,
        }
    }

    fn check(zones: Vec<ZoneSettings>) -> Result<(), SettingsError> {
        Settings { zones, dry_run: false, refresh_secs: 60 }.check()
    }

    #[test]
    fn what_cannot_work_is_refused_with_the_value() {
        assert_eq!(check(vec![zone()]), Ok(()));
        assert!(matches!(check(vec![zone(), zone()]), Err(SettingsError::DuplicateZone(_))));
        let twice = vec![zone().servers[0]; 2];
        for (broken, message) in [
            (ZoneSettings { servers: vec![], ..zone() }, "0 servers"),
            (ZoneSettings { servers: twice, ..zone() }, "192.0.2.53:53 twice"),
            (ZoneSettings { owner_id: "a,b".into(), ..zone() }, "\"a,b\""),
            (ZoneSettings { ttl_secs: 0, ..zone() }, "time to live 0"),
            (ZoneSettings { wildcard: Some("a.b".into()), ..zone() }, "\"a.b\""),
        ] {
            let error = check(vec![broken]).unwrap_err().to_string();
            assert!(error.contains(message), "{error}");
        }
    }

    #[test]
    fn the_secret_is_never_shown() {
        let tsig = Tsig {
            key_name: RecordName::parse("edge").unwrap(),
            algorithm: TsigAlgorithm::HmacSha256,
            secret: b"hunter2".to_vec(),
        };
        let shown = format!("{:?}", ZoneSettings { tsig: Some(tsig), ..zone() });
        assert!(shown.contains("withheld") && !shown.contains("104, 117"), "{shown}");
    }
}
