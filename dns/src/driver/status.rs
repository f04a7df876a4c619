//! What the room says about itself.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use imbl::OrdMap;
use serde::Serialize;

use super::read::Reading;
use crate::name::RecordName;
use crate::record::{DesiredName, RecordKind};
use crate::settings::Policy;

/// Names that a status lists where only an example is needed.
pub(crate) const EXAMPLES_MAX: usize = 20;

/// The room's part of `haflinger status`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Status {
    /// Whether this host is the one that writes.
    pub leader: bool,
    /// Nothing is written: plans are only reported.
    pub dry_run: bool,
    /// Per zone.
    pub zones: Vec<ZoneStatus>,
    /// Per name and kind, of every zone; the worst of its servers.
    pub records: Vec<RecordStatus>,
    /// Wanted names that lie in no configured zone: as many as there are, at most 20 named.
    pub outside: OutsideStatus,
}

/// Wanted names that no zone holds.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct OutsideStatus {
    /// How many.
    pub count: usize,
    /// Some of them.
    pub examples: Vec<RecordName>,
}

/// One zone.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ZoneStatus {
    /// Its name.
    pub zone: RecordName,
    /// Our identity in it.
    pub owner_id: String,
    /// Whether names are deleted.
    pub policy: Policy,
    /// Per server.
    pub servers: Vec<ServerStatus>,
}

/// One server of a zone.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ServerStatus {
    /// Its address.
    pub server: SocketAddr,
    /// How it stands.
    pub state: ServerState,
    /// The zone's serial when it was last read.
    pub serial: Option<u32>,
    /// How it was read.
    pub reading: Option<Reading>,
    /// Why the zone cannot be transferred.
    pub transfer_refused: Option<String>,
    /// Seconds since 1970 of the last comparison that ended well.
    pub last_sync_secs: Option<u64>,
    /// What went wrong last; gone after a comparison that ended well.
    pub last_error: Option<String>,
    /// Names that we own there.
    pub owned_names: usize,
    /// Wanted names that something foreign keeps us from writing.
    pub conflicts: usize,
    /// Names whose deletion waits for a larger budget.
    pub held_deletions: usize,
    /// Some of them.
    pub held_examples: Vec<RecordName>,
}

/// How a server stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ServerState {
    /// Another host writes.
    Standby,
    /// Not compared yet.
    Starting,
    /// Compared and brought up to date, as far as that may be.
    Synced,
    /// The last attempt failed; the next follows.
    Failing,
}

/// One name and kind.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RecordStatus {
    /// The zone.
    pub zone: RecordName,
    /// The name.
    pub name: RecordName,
    /// The kind.
    pub kind: RecordKind,
    /// Addresses that it should have.
    pub addresses: Vec<IpAddr>,
    /// How it stands.
    pub state: RecordState,
    /// Why it is not synced.
    pub reason: Option<String>,
    /// The server that the state is about, when not all agree.
    pub server: Option<SocketAddr>,
}

/// How a record stands, from good to bad.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RecordState {
    /// As it should be.
    Synced,
    /// Waiting for a server, or for this host to be the one that writes.
    Pending,
    /// Would be written, were this not a dry run.
    Planned,
    /// Its deletion waits for a larger budget.
    Held,
    /// Something foreign is in the way.
    Conflict,
    /// The server refuses it.
    Refused,
}

/// What a worker knows about a name.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Entry {
    pub(crate) state: RecordState,
    pub(crate) reason: Option<Arc<str>>,
}

/// What a worker publishes.
#[derive(Clone, Debug)]
pub(crate) struct WorkerStatus {
    pub(crate) server: ServerStatus,
    /// Names that are not simply synced.
    pub(crate) entries: OrdMap<RecordName, Entry>,
}

impl WorkerStatus {
    pub(crate) fn new(server: SocketAddr) -> Self {
        Self {
            server: ServerStatus {
                server,
                state: ServerState::Starting,
                serial: None,
                reading: None,
                transfer_refused: None,
                last_sync_secs: None,
                last_error: None,
                owned_names: 0,
                conflicts: 0,
                held_deletions: 0,
                held_examples: Vec::new(),
            },
            entries: OrdMap::new(),
        }
    }

    fn entry(&self, name: &RecordName) -> Entry {
        let settled = match self.server.state {
            ServerState::Synced => RecordState::Synced,
            ServerState::Standby | ServerState::Starting | ServerState::Failing => {
                RecordState::Pending
            }
        };
        let reason = || self.server.last_error.as_deref().map(Arc::from);
        self.entries.get(name).cloned().unwrap_or_else(|| Entry {
            state: settled,
            reason: reason().filter(|_| settled == RecordState::Pending),
        })
    }
}

/// One name of a zone as its servers stand: one row a kind.
pub(crate) fn record_rows(
    zone: &RecordName,
    name: &RecordName,
    desired: Option<&DesiredName>,
    servers: &[WorkerStatus],
) -> Vec<RecordStatus> {
    let entries: Vec<_> =
        servers.iter().map(|worker| (worker.server.server, worker.entry(name))).collect();
    let Some((worst_at, worst)) = entries.iter().max_by_key(|(_, entry)| entry.state) else {
        return Vec::new();
    };
    let agree = entries.iter().all(|(_, entry)| entry.state == worst.state);
    RecordKind::ALL
        .into_iter()
        .filter_map(|kind| {
            let addresses: Vec<_> = desired
                .iter()
                .flat_map(|desired| &desired.addresses)
                .copied()
                .filter(|address| RecordKind::of(*address) == kind)
                .collect();
            // A name that waits to be deleted has no address any more; one row tells of it.
            let shown = !addresses.is_empty() || (desired.is_none() && kind == RecordKind::A);
            shown.then(|| RecordStatus {
                zone: zone.clone(),
                name: name.clone(),
                kind,
                addresses,
                state: worst.state,
                reason: worst.reason.as_deref().map(str::to_owned),
                server: (!agree).then_some(*worst_at),
            })
        })
        .collect()
}
