//! The readiness gate of one cluster: this host says which pods it is done with, and the elected
//! one sets the gate of those that every live host is done with.
//!
//! ```text
//! snapshots, rooms ──> own (pure) ──> this host's Lease ─┐ renewed, and written when it changes
//!                                                         v
//!      pods' status <── elected: fleet (pure) <── Leases of all hosts
//! ```
//!
//! Invariants: a gate is set only by a host that sees every live host, itself included, done with
//! the pod; and never taken back. Without an API, or without a leader, nothing is set and nothing
//! else changes. Every request is whole in itself: the task may be dropped at any await.

mod hosts;
mod metrics;
mod own;
mod requests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;
use haflinger_core::{PodRef, Snapshot, SourceId};
use haflinger_kubernetes::Pace;
use kube::Client;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::election::Timing;
use crate::settings::ClusterSettings;
use crate::status::{Board, GateHost, GateReport};
use hosts::Fleet;
pub(crate) use metrics::GateMetrics;
use own::{Own, Reached};
use requests::{Outcome, Requests};

/// How long changes are gathered before this host looks at its pods: what the rooms need to take
/// over a snapshot, and less than anybody who waits for a rollout notices.
const GATHER: Duration = Duration::from_millis(100);

/// Time between two looks at the Leases while pods wait for other hosts; it doubles up to the
/// time between two renewals while nothing changes.
const LOOK_FIRST: Duration = Duration::from_millis(400);

/// Gates that are set at a time. The API server has other users.
const CONCURRENCY: usize = 4;

/// Gates that are set before this host renews its Lease and looks again: a second's work for an API
/// server that takes 15 ms for each.
const SETS_MAX: usize = 256;

/// A gate that was set and does not come back by the watch is set again after this time.
const SET_AGAIN: Duration = Duration::from_secs(30);

/// How long a host that stops tries to say so. Others otherwise wait for its Lease to end.
const RELEASE_MAX: Duration = Duration::from_secs(2);

/// Where the rooms of this host say which snapshot they have taken over.
#[derive(Clone, Debug)]
pub struct Applied {
    /// The generation that the maps of XDP hold.
    pub xdp: watch::Receiver<u64>,
    /// The generation that the relay serves.
    pub relay: watch::Receiver<u64>,
    /// The generation that layer 7 serves.
    pub proxy: watch::Receiver<u64>,
}

impl Applied {
    fn reached(&self) -> Reached {
        Reached {
            xdp: *self.xdp.borrow(),
            relay: *self.relay.borrow(),
            proxy: *self.proxy.borrow(),
        }
    }
}

/// See the module's documentation.
pub(crate) struct Gate {
    source: SourceId,
    requests: Arc<Requests>,
    timing: Timing,
    applied: Applied,
    board: Board,
    fleet: Fleet,
    own: Own,
    /// What the Lease says, and when that was written.
    written: Option<(String, Instant)>,
    /// Since when each pod waits.
    since: BTreeMap<Arc<str>, Instant>,
    /// Pods whose gate was set, and when. They leave when the watch shows it.
    set: BTreeMap<Arc<str>, Instant>,
    /// The next look at the Leases, and the wait after it.
    look: (Instant, Duration),
    pace: Pace,
}

impl Gate {
    pub(crate) fn new(
        settings: &ClusterSettings,
        client: Client,
        identity: &str,
        applied: Applied,
        board: Board,
    ) -> Self {
        let timing = settings.timing();
        Self {
            source: settings.source(),
            requests: Arc::new(Requests::new(client, settings, identity)),
            timing,
            applied,
            board,
            fleet: Fleet::default(),
            own: Own::default(),
            written: None,
            since: BTreeMap::new(),
            set: BTreeMap::new(),
            look: (Instant::now(), LOOK_FIRST),
            // Never longer than a renewal may wait.
            pace: Pace::new(LOOK_FIRST, timing.retry_period),
        }
    }

    /// Works until `turn` ends; if that is because of `stop`, this host says that it has stopped.
    pub(crate) async fn run(
        mut self,
        mut snapshots: watch::Receiver<Arc<Snapshot>>,
        leader: watch::Receiver<bool>,
        turn: &CancellationToken,
        stop: &CancellationToken,
    ) {
        snapshots.mark_changed();
        while !turn.is_cancelled() {
            tokio::select! {
                () = turn.cancelled() => break,
                () = self.turn(&mut snapshots, &leader) => {}
            }
        }
        if stop.is_cancelled() && self.written.is_some() {
            let released = tokio::time::timeout(RELEASE_MAX, self.requests.release()).await;
            if !matches!(released, Ok(Ok(()))) {
                tracing::warn!(cluster = %self.board.cluster, "gate: the host's Lease stays as it is");
            }
        }
        self.board.gate(None);
    }

    /// Looks, says, sets, and waits until there is something to do.
    async fn turn(
        &mut self,
        snapshots: &mut watch::Receiver<Arc<Snapshot>>,
        leader: &watch::Receiver<bool>,
    ) {
        let snapshot = snapshots.borrow_and_update().clone();
        self.take_in(&snapshot);
        let limit = self.timing.renew_deadline / 2;
        let work = tokio::time::timeout(limit, self.work(*leader.borrow()));
        let error = match work.await {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error),
            Err(_) => Some(format!("the API server did not answer within {limit:?}")),
        };
        self.show(error.clone());
        if let Some(error) = error {
            let wait = self.pace.after_failure(rand::random());
            self.board.metrics.gate.failed(&self.board.cluster);
            tracing::warn!(
                cluster = %self.board.cluster, error, retry_ms = wait.as_millis(),
                "gate: pods wait, nothing else changes",
            );
            return tokio::time::sleep(wait).await;
        }
        self.pace.succeeded();
        let next = match self.own.under_way {
            true => Instant::now() + GATHER,
            false => self.next_at(*leader.borrow()),
        };
        tokio::select! {
            () = tokio::time::sleep_until(next.into()) => {}
            changed = snapshots.changed() => match changed {
                Ok(()) => tokio::time::sleep(GATHER).await,
                Err(_) => std::future::pending().await,
            }
        }
    }

    fn take_in(&mut self, snapshot: &Snapshot) {
        let own = Own::of(snapshot, &self.source, self.applied.reached());
        if own.waiting != self.own.waiting {
            self.hurry();
        }
        let now = Instant::now();
        let waiting: BTreeSet<Arc<str>> = own.waiting.iter().map(|(_, uid)| uid.clone()).collect();
        self.since.retain(|uid, _| waiting.contains(uid));
        self.set.retain(|uid, at| waiting.contains(uid) && now - *at < SET_AGAIN);
        for uid in waiting {
            self.since.entry(uid).or_insert(now);
        }
        self.own = own;
    }

    async fn work(&mut self, leads: bool) -> Result<(), String> {
        self.say().await?;
        if Instant::now() < self.look.0 {
            return Ok(());
        }
        let leases = self.requests.leases().await?;
        let news = self.fleet.observe(Instant::now(), leases);
        let wait = if news { LOOK_FIRST } else { self.look.1 * 2 };
        let wait = wait.min(self.timing.retry_period);
        self.look = (Instant::now() + wait, wait);
        if leads { self.set_agreed().await } else { Ok(()) }
    }

    /// Writes this host's Lease when it says something else, or has to be renewed.
    async fn say(&mut self) -> Result<(), String> {
        let (text, _) = self.own.listed();
        let current = self
            .written
            .as_ref()
            .is_some_and(|(said, at)| *said == text && at.elapsed() < self.timing.retry_period);
        if current {
            return Ok(());
        }
        let began = Instant::now();
        self.requests.renew(&text).await?;
        if self.written.as_ref().is_none_or(|(said, _)| *said != text) {
            self.hurry();
        }
        self.written = Some((text, began));
        Ok(())
    }

    /// Sets the gates of pods that every live host is done with.
    async fn set_agreed(&mut self) -> Result<(), String> {
        let now = Instant::now();
        let waiting: BTreeMap<&str, &PodRef> =
            self.own.waiting.iter().map(|(pod, uid)| (&**uid, pod)).collect();
        let unset = waiting.keys().copied().filter(|uid| !self.set.contains_key(*uid));
        let agreed = self.fleet.agreed(now, self.requests.own_name(), unset);
        if agreed.len() > SETS_MAX {
            self.look.0 = now;
        }
        let hosts = self.fleet.live(now).count();
        let pods: Vec<(PodRef, Arc<str>)> = agreed
            .into_iter()
            .take(SETS_MAX)
            .filter_map(|uid| Some(((*waiting.get(uid)?).clone(), uid.into())))
            .collect();
        let requests = self.requests.clone();
        let set = move |(pod, uid): (PodRef, Arc<str>)| {
            let requests = requests.clone();
            async move { (requests.set(&pod, &uid, hosts).await, uid) }
        };
        let done = futures::stream::iter(pods).map(set).buffer_unordered(CONCURRENCY);
        let done: Vec<_> = done.collect().await;
        let mut failure = None;
        for (outcome, uid) in done {
            match outcome {
                Ok(outcome) => self.was_set(uid, outcome),
                Err(error) => {
                    self.board.metrics.gate.set(&self.board.cluster, "failed");
                    failure = Some(error);
                }
            }
        }
        failure.map_or(Ok(()), Err)
    }

    fn was_set(&mut self, uid: Arc<str>, outcome: Outcome) {
        let cluster = &self.board.cluster;
        match outcome {
            Outcome::Set => {
                self.board.metrics.gate.set(cluster, "set");
                if let Some(since) = self.since.get(&uid) {
                    self.board.metrics.gate.waited(cluster, since.elapsed());
                }
            }
            Outcome::Gone => self.board.metrics.gate.set(cluster, "gone"),
        }
        self.set.insert(uid, Instant::now());
    }

    fn hurry(&mut self) {
        self.look = (Instant::now(), LOOK_FIRST);
    }

    /// When there is something to do, if nothing happens before.
    fn next_at(&self, leads: bool) -> Instant {
        let now = Instant::now();
        let period = self.timing.retry_period;
        let renewal = self.written.as_ref().map_or(now, |(_, at)| *at + period);
        let idle = !leads || self.own.waiting.is_empty();
        let look = if idle { self.look.0.max(renewal) } else { self.look.0 };
        renewal.min(look)
    }

    fn show(&self, error: Option<String>) {
        let now = Instant::now();
        let of = |lease: &hosts::HostLease| GateHost {
            host: lease.holder.clone(),
            lacking: self
                .own
                .waiting
                .iter()
                .filter(|(_, uid)| !lease.done.contains(&**uid))
                .count(),
        };
        let (_, unlisted) = self.own.listed();
        let lacking = self.own.lacking.as_ref();
        self.board.gate(Some(GateReport {
            waiting: self.own.waiting.len(),
            done: self.own.done.len(),
            unlisted,
            hosts: self.fleet.live(now).map(of).collect(),
            lacking: lacking.map(|(pod, service)| format!("{pod} at {service}")),
            error,
        }));
    }
}
