//! What discovery says about itself.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use haflinger_core::SourceId;
use haflinger_kubernetes::{CredentialsBoard, CredentialsStatus, MissingRight, Said};
use serde::Serialize;

use crate::ledger::Watched;
use crate::metrics::{KindMetrics, Metrics, SourceMetrics};

/// The state of every source.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct DiscoveryStatus {
    /// Sorted by source.
    pub sources: Vec<SourceStatus>,
}

/// The state of one source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SourceStatus {
    /// `cluster/NAME` or `inventory`.
    pub source: SourceId,
    /// Every watch stands, or the inventory file as it is now is in use.
    pub connected: bool,
    /// Every kind has been listed in this run.
    pub synced: bool,
    /// The state of an earlier run was read from disk.
    pub restored_from_disk: bool,
    /// What went wrong last, until it works again.
    pub last_error: Option<String>,
    /// Seconds since the source last said anything, bookmarks included.
    pub last_event_age_secs: Option<u64>,
    /// Seconds until a list is asked for that may confirm the deletions that are held; absent when
    /// none is, or while it runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub confirmed_in_secs: Option<u64>,
    /// What a cluster is spoken to with; absent for the inventory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub credentials: Option<CredentialsStatus>,
    /// Rights that the cluster does not give us, and what is lost without each.
    pub missing_rights: Vec<MissingRight>,
    /// By kind.
    pub kinds: BTreeMap<&'static str, KindStatus>,
}

/// The state of one kind of object of one source.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct KindStatus {
    /// Objects known.
    pub objects: usize,
    /// The watch stands.
    pub connected: bool,
    /// It has been listed in this run.
    pub listed: bool,
    /// Objects whose deletion is held because too many went at once: they stand as they were.
    pub held: usize,
    /// What went wrong last, until it works again.
    pub last_error: Option<String>,
    /// The cluster does not have the kind. It is asked for now and then.
    pub absent: bool,
    /// The cluster does not let us read the kind: what is missing without it.
    pub disables: Option<&'static str>,
}

impl KindStatus {
    /// Nothing is wrong that concerns more than the kind itself.
    fn is_sound(&self) -> bool {
        self.connected || self.absent || self.disables.is_some()
    }
}

#[derive(Debug, Default)]
struct Told {
    kinds: [KindStatus; Watched::ALL.len()],
    /// Kinds that the settings leave out.
    unwanted: [bool; Watched::ALL.len()],
    synced: bool,
    restored: bool,
    error: Option<String>,
    last_event: Option<Instant>,
    confirmed_at: Option<Instant>,
    missing_rights: Vec<MissingRight>,
}

/// Where the tasks of one source say how they are; cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Board {
    pub(crate) source: SourceId,
    told: Arc<Mutex<Told>>,
    credentials: CredentialsBoard,
    kinds: [KindMetrics; Watched::ALL.len()],
    pub(crate) metrics: SourceMetrics,
}

impl Board {
    pub(crate) fn new(source: &SourceId, metrics: &Metrics) -> Self {
        Self {
            source: source.clone(),
            told: Arc::default(),
            credentials: CredentialsBoard::default(),
            kinds: Watched::ALL.map(|kind| metrics.of_kind(source, kind)),
            metrics: metrics.of_source(source),
        }
    }

    /// Nothing panics while holding the lock; plain data stays usable anyway.
    fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn kind(&self, kind: Watched) -> &KindMetrics {
        &self.kinds[kind.index()]
    }

    /// The watch of a kind stands.
    pub(crate) fn connected(&self, kind: Watched) {
        self.kind(kind).connected.set(1);
        let mut told = self.told();
        let kind = &mut told.kinds[kind.index()];
        kind.connected = true;
        kind.absent = false;
        kind.disables = None;
        kind.last_error = None;
    }

    /// The cluster does not let us read a kind that it can be served without.
    pub(crate) fn withheld(&self, kind: Watched) {
        self.told().kinds[kind.index()].disables = kind.missed_without();
    }

    /// The cluster does not have a kind.
    pub(crate) fn absent(&self, kind: Watched) {
        self.kind(kind).connected.set(0);
        let mut told = self.told();
        let kind = &mut told.kinds[kind.index()];
        kind.connected = false;
        kind.absent = true;
        kind.disables = None;
        kind.last_error = None;
    }

    /// Whether the settings want a kind.
    pub(crate) fn wanted(&self, kind: Watched, wanted: bool) {
        self.told().unwanted[kind.index()] = !wanted;
    }

    /// The watch of a kind broke.
    pub(crate) fn failed(&self, kind: Watched, error: String) {
        self.kind(kind).connected.set(0);
        self.kind(kind).failures.inc();
        let mut told = self.told();
        told.kinds[kind.index()].connected = false;
        told.kinds[kind.index()].last_error = Some(error);
    }

    /// No watch stands any more.
    pub(crate) fn disconnected(&self) {
        for kind in Watched::ALL {
            self.kind(kind).connected.set(0);
            self.told().kinds[kind.index()].connected = false;
        }
    }

    /// The source said something.
    pub(crate) fn heard(&self, kind: Watched) {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.kind(kind).last_event.set(unix.as_secs_f64());
        self.told().last_event = Some(Instant::now());
    }

    pub(crate) fn listed(&self, kind: Watched, objects: usize) {
        self.kind(kind).lists.inc();
        self.told().kinds[kind.index()].listed = true;
        self.counted(kind, objects);
    }

    pub(crate) fn counted(&self, kind: Watched, objects: usize) {
        self.kind(kind).objects.set(i64::try_from(objects).unwrap_or(i64::MAX));
        self.told().kinds[kind.index()].objects = objects;
    }

    /// So many deletions of a kind are held, the first of the source's until that time at least.
    pub(crate) fn held(&self, kind: Watched, held: usize, confirmed_at: Option<Instant>) {
        self.kind(kind).held.set(i64::try_from(held).unwrap_or(i64::MAX));
        let mut told = self.told();
        told.kinds[kind.index()].held = held;
        told.confirmed_at = confirmed_at;
    }

    pub(crate) fn synced(&self) {
        self.metrics.synced.set(1);
        self.told().synced = true;
    }

    pub(crate) fn restored(&self) {
        self.told().restored = true;
    }

    /// Sets or clears what is wrong with the source as a whole.
    pub(crate) fn error(&self, error: Option<String>) {
        self.told().error = error;
    }

    /// Whether a kind is wanted, and the cluster has it.
    pub(crate) fn is_wanted(&self, kind: Watched) -> bool {
        let told = self.told();
        !told.unwanted[kind.index()] && !told.kinds[kind.index()].absent
    }

    /// Which rights are missing.
    pub(crate) fn missing_rights(&self, missing: Vec<MissingRight>) {
        self.metrics.missing_rights.set(i64::try_from(missing.len()).unwrap_or(i64::MAX));
        let mut told = self.told();
        if told.missing_rights != missing {
            let rights: Vec<&str> = missing.iter().map(|missing| &*missing.right).collect();
            tracing::warn!(source = %self.source, ?rights, "rights that are missing have changed");
            told.missing_rights = missing;
        }
    }

    /// What became of the credentials of a cluster.
    pub(crate) fn credentials(&self, said: Said) {
        self.credentials.note(&said);
        match said {
            Said::Taken => {
                let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                self.metrics.credentials_loaded.set(unix.as_secs_f64());
                tracing::info!(source = %self.source, "credentials taken into use");
            }
            Said::Refused(error) => {
                self.metrics.credentials_failures.inc();
                tracing::warn!(
                    source = %self.source, error,
                    "credentials cannot be used; those in use, if any, stay so",
                );
            }
            Said::Settled => {
                tracing::info!(source = %self.source, "credentials are those in use again");
            }
        }
    }

    pub(crate) fn status(&self, now: Instant, watched: &[Watched]) -> SourceStatus {
        let told = self.told();
        let of = |kind: &Watched| told.kinds[kind.index()].clone();
        let watched: Vec<&Watched> =
            watched.iter().filter(|kind| !told.unwanted[kind.index()]).collect();
        // What concerns more than its own kind goes first.
        let mut kinds: Vec<KindStatus> = watched.iter().map(|kind| of(kind)).collect();
        kinds.sort_by_key(KindStatus::is_sound);
        let first_error = kinds.into_iter().find_map(|kind| kind.last_error);
        let in_cluster = self.source.cluster_name().is_some();
        let credentials = in_cluster.then(|| self.credentials.status());
        let unused = credentials.as_ref().and_then(|known| known.last_error.clone());
        SourceStatus {
            source: self.source.clone(),
            connected: watched.iter().all(|kind| of(kind).is_sound()),
            synced: told.synced,
            restored_from_disk: told.restored,
            last_error: told.error.clone().or(unused).or(first_error),
            last_event_age_secs: told
                .last_event
                .map(|at| now.saturating_duration_since(at).as_secs()),
            confirmed_in_secs: told
                .confirmed_at
                .map(|at| at.saturating_duration_since(now).as_secs()),
            credentials,
            missing_rights: told.missing_rights.clone(),
            kinds: watched.iter().map(|kind| (kind.as_str(), of(kind))).collect(),
        }
    }
}
