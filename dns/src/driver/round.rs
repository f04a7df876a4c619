//! One comparison with one server: read what it holds, plan, write the difference.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hickory_proto::op::ResponseCode;
use imbl::OrdMap;
use imbl::ordmap::DiffItem;
use tracing::{info, warn};

use super::backoff::jitter;
use super::connection::Connection;
use super::error::{ExchangeError, is_stale};
use super::memory::Memory;
use super::metrics::WorkerMetrics;
use super::read::{self, Reading};
use super::signing::Signer;
use super::status::{Entry, RecordState};
use crate::name::RecordName;
use crate::plan::{Action, Change, Decision, Rules, apply, decide, is_owned};
use crate::record::{DesiredName, DesiredRecords};
use crate::settings::ZoneSettings;
use crate::wire::{self, BATCH_NAMES_MAX};

/// Decisions between two points at which other tasks may run.
const DECISIONS_PER_TURN: usize = 1000;

/// Changes of a dry run that are logged; all of them are in the status.
const LOGGED_CHANGES_MAX: usize = 100;

/// What a worker is told.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct WorkerConfig {
    pub(crate) zone: ZoneSettings,
    /// Every configured zone: a name belongs to the longest that holds it.
    pub(crate) zones: Arc<[RecordName]>,
    pub(crate) dry_run: bool,
    pub(crate) refresh: Duration,
}

impl WorkerConfig {
    /// Whether the name belongs to this zone rather than to a longer one.
    pub(crate) fn holds(&self, name: &RecordName) -> bool {
        zone_of(name, &self.zones) == Some(&self.zone.name)
    }

    pub(crate) fn rules(&self) -> Rules<'_> {
        Rules {
            zone: &self.zone.name,
            owner: &self.zone.owner_id,
            ttl_secs: self.zone.ttl_secs,
            policy: self.zone.policy,
            wildcard: self.zone.wildcard.as_deref(),
        }
    }
}

/// The longest zone that holds a name.
pub(crate) fn zone_of<'a>(name: &RecordName, zones: &'a [RecordName]) -> Option<&'a RecordName> {
    zones.iter().filter(|zone| name.is_within(zone)).max_by_key(|zone| zone.label_count())
}

/// One round, with everything that it needs.
pub(crate) struct Round<'a> {
    pub(crate) server: SocketAddr,
    pub(crate) config: &'a WorkerConfig,
    pub(crate) desired: &'a DesiredRecords,
    pub(crate) metrics: &'a WorkerMetrics,
    pub(crate) memory: &'a mut Memory,
    /// Milliseconds of a clock that never goes back.
    pub(crate) now_ms: u64,
}

/// What a plan wants.
#[derive(Default)]
struct Wanted {
    writes: Vec<Change>,
    deletes: Vec<Change>,
}

/// How the writing went.
#[derive(Default)]
struct Outcome {
    changed: usize,
    refused: usize,
    stale: bool,
    last_code: Option<ResponseCode>,
}

impl Round<'_> {
    pub(crate) async fn run(mut self) -> Result<(), ExchangeError> {
        let signer = self.config.zone.tsig.as_ref().map(Signer::new).transpose()?;
        let mut connection = None;
        let scope = match self.refresh(&mut connection, signer.as_ref()).await? {
            true => self.everything(),
            false => self.difference(),
        };
        let mut wanted = self.decide_all(&scope).await;
        self.hold_excess(&mut wanted);
        if self.config.dry_run {
            self.report(&wanted);
        } else {
            self.write_all(&mut connection, signer, wanted).await?;
        }
        self.memory.planned = self.desired.clone();
        Ok(())
    }

    /// Reads the zone if that is due; says whether everything is to be planned anew.
    async fn refresh(
        &mut self,
        connection: &mut Option<Connection>,
        signer: Option<&Signer>,
    ) -> Result<bool, ExchangeError> {
        let known = self.memory.actual.is_some();
        let due = self.memory.read_at.is_none_or(|at| at.elapsed() >= self.config.refresh);
        let retry = self.memory.transfer_again_at.is_some_and(|at| at <= Instant::now());
        if known && !due && !retry {
            return Ok(false);
        }
        let mut open = Connection::open(self.server, signer.cloned()).await?;
        let zone = &self.config.zone.name;
        let transferred = known && self.memory.reading == Some(Reading::Transfer);
        if transferred && self.memory.serial == Some(open.serial(zone).await?) {
            self.memory.read_at = Some(Instant::now());
            *connection = Some(open);
            // Nothing has changed there, but what was refused may be allowed by now.
            return Ok(true);
        }
        let rules = self.config.rules();
        let picture = match read::transfer(&mut open, zone).await? {
            Ok(picture) => picture,
            Err(refusal) => {
                let queried = match known && !due {
                    true => None,
                    false => {
                        open = Connection::open(self.server, signer.cloned()).await?;
                        Some(read::query(&mut open, &self.names_to_ask(), &rules).await?)
                    }
                };
                self.memory.refused(refusal, self.config.refresh, Instant::now(), jitter());
                // Without another picture the present one stays in use.
                let Some(picture) = queried else { return Ok(false) };
                picture
            }
        };
        self.memory.adopt(picture, &rules, Instant::now());
        *connection = Some(open);
        Ok(true)
    }

    fn wanted_here(&self, name: &RecordName) -> Option<Arc<DesiredName>> {
        self.desired.names.get(name).filter(|_| self.config.holds(name)).cloned()
    }

    fn names_to_ask(&self) -> BTreeSet<RecordName> {
        let wanted = self.desired.names.keys().filter(|name| self.config.holds(name));
        wanted.chain(&self.memory.owned).cloned().collect()
    }

    fn everything(&mut self) -> BTreeSet<RecordName> {
        self.memory.entries = OrdMap::new();
        self.names_to_ask()
    }

    /// Names whose wish has changed since the last plan, and those that wait.
    fn difference(&self) -> BTreeSet<RecordName> {
        let changed = self.memory.planned.names.diff(&self.desired.names).map(|item| match item {
            DiffItem::Add(name, _) | DiffItem::Remove(name, _) => name,
            DiffItem::Update { new: (name, _), .. } => name,
        });
        changed
            .filter(|name| name.is_within(&self.config.zone.name))
            .chain(&self.memory.held)
            .cloned()
            .collect()
    }

    async fn decide_all(&mut self, scope: &BTreeSet<RecordName>) -> Wanted {
        let mut wanted = Wanted::default();
        for (at, name) in scope.iter().enumerate() {
            if at % DECISIONS_PER_TURN == DECISIONS_PER_TURN - 1 {
                tokio::task::yield_now().await;
            }
            let desired = self.wanted_here(name);
            let Some(actual) = &self.memory.actual else { break };
            self.memory.entries.remove(name);
            match decide(name, desired.as_deref(), actual, &self.config.rules()) {
                Decision::Settled { .. } => {}
                Decision::Conflict(conflict) => {
                    self.note(name, RecordState::Conflict, conflict.to_string());
                }
                Decision::Change(change) if change.action == Action::Delete => {
                    wanted.deletes.push(change);
                }
                Decision::Change(change) => wanted.writes.push(change),
            }
        }
        wanted
    }

    fn note(&mut self, name: &RecordName, state: RecordState, reason: String) {
        let entry = Entry { state, reason: Some(reason.into()) };
        self.memory.entries.insert(name.clone(), entry);
    }

    /// Holds all deletions back when they are more than the budget allows.
    fn hold_excess(&mut self, wanted: &mut Wanted) {
        self.memory.held.clear();
        let budget = &self.config.zone.deletions;
        let (count, owned) = (wanted.deletes.len(), self.memory.owned.len());
        if self.memory.deletions.allow(budget, count, owned, self.now_ms) {
            return;
        }
        warn!(
            zone = %self.config.zone.name, server = %self.server, deletions = count, owned,
            deletions_max = budget.names_max,
            "deletions are held back: more than the budget allows; raise it to let them through"
        );
        let reason = format!(
            "deleting {count} of {owned} names exceeds the budget of {} names and {} %: raise it \
             to let them through",
            budget.names_max, budget.percent_max
        );
        for change in std::mem::take(&mut wanted.deletes) {
            self.note(&change.name, RecordState::Held, reason.clone());
            self.memory.held.insert(change.name);
        }
    }

    /// A dry run: says what would be done.
    fn report(&mut self, wanted: &Wanted) {
        for (at, change) in wanted.writes.iter().chain(&wanted.deletes).enumerate() {
            if at < LOGGED_CHANGES_MAX {
                info!(
                    zone = %self.config.zone.name, server = %self.server, name = %change.name,
                    action = ?change.action, "dry run: would change"
                );
            }
            let text = format!("dry run: {:?}", change.action).to_lowercase();
            self.note(&change.name, RecordState::Planned, text);
        }
    }

    async fn write_all(
        &mut self,
        connection: &mut Option<Connection>,
        signer: Option<Signer>,
        wanted: Wanted,
    ) -> Result<(), ExchangeError> {
        let changes: Vec<_> = wanted.writes.into_iter().chain(wanted.deletes).collect();
        if changes.is_empty() {
            return Ok(());
        }
        let connection = match connection {
            Some(connection) => connection,
            None => connection.insert(Connection::open(self.server, signer).await?),
        };
        let mut outcome = Outcome::default();
        for batch in changes.chunks(BATCH_NAMES_MAX) {
            self.write_batch(connection, batch, &mut outcome).await?;
        }
        match outcome.last_code {
            // The next round reads what has happened.
            Some(code) if outcome.stale => Err(ExchangeError::Refused(code)),
            Some(code) if outcome.changed == 0 => Err(ExchangeError::Refused(code)),
            _ => Ok(()),
        }
    }

    /// Writes some names with one message. Refused, it is taken apart, so that one bad name does
    /// not keep the others out; but only until a whole batch was refused name by name: then the
    /// server means the zone.
    async fn write_batch(
        &mut self,
        connection: &mut Connection,
        batch: &[Change],
        outcome: &mut Outcome,
    ) -> Result<(), ExchangeError> {
        let zone = &self.config.zone.name;
        let code = match connection.update(wire::update(rand::random(), zone, batch)?).await {
            Ok(()) => {
                batch.iter().for_each(|change| self.written(change, outcome));
                return Ok(());
            }
            Err(ExchangeError::Refused(code)) => code,
            Err(error) => return Err(error),
        };
        let hopeless = outcome.changed == 0 && outcome.refused >= BATCH_NAMES_MAX;
        if batch.len() == 1 || (hopeless && !is_stale(code)) {
            batch.iter().for_each(|change| self.refused(change, code, outcome));
            return Ok(());
        }
        for change in batch {
            let message = wire::update(rand::random(), zone, std::slice::from_ref(change))?;
            match connection.update(message).await {
                Ok(()) => self.written(change, outcome),
                Err(ExchangeError::Refused(code)) => self.refused(change, code, outcome),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn written(&mut self, change: &Change, outcome: &mut Outcome) {
        outcome.changed += 1;
        self.metrics.changed(change.action);
        if change.action == Action::Delete {
            self.memory.deletions.record(1, self.now_ms);
        }
        info!(
            zone = %self.config.zone.name, server = %self.server, name = %change.name,
            action = ?change.action, "record written"
        );
        let Some(actual) = &mut self.memory.actual else { return };
        apply(change, actual);
        if is_owned(&change.name, actual, &self.config.rules()) {
            self.memory.owned.insert(change.name.clone());
        } else {
            self.memory.owned.remove(&change.name);
        }
    }

    fn refused(&mut self, change: &Change, code: ResponseCode, outcome: &mut Outcome) {
        outcome.refused += 1;
        outcome.last_code = Some(code);
        outcome.stale |= is_stale(code);
        self.metrics.refused();
        let state = if is_stale(code) { RecordState::Pending } else { RecordState::Refused };
        let reason = ExchangeError::Refused(code).to_string();
        warn!(
            zone = %self.config.zone.name, server = %self.server, name = %change.name, reason,
            "record not written"
        );
        self.note(&change.name, state, reason);
    }
}
