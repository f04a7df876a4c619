//! The one task that owns the index: updates in, snapshots out.
//!
//! Updates wait in a bounded queue; a source that outruns the core waits itself, which slows
//! its watch and loses nothing. Updates that arrive together are published together.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use haflinger_core::index::{Index, Movement};
use haflinger_core::{ForwardingMode, Service, ServiceKey, Snapshot, Update};
use imbl::OrdMap;
use imbl::ordmap::DiffItem;
use prometheus::{
    Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::pools::PoolGauges;
use crate::problems::Problems;

/// Updates folded before anything else is looked at, however many more wait.
const BATCH_MAX: usize = 4096;

/// Time for which updates are gathered while the first lists are read: nobody waits for a single
/// object of them, and every snapshot wakes every actuator.
const LIST_GATHER: Duration = Duration::from_millis(20);

/// As many updates in that time are a list on its way, of which a snapshot would show a part: its
/// services without their slices. Then they are gathered on. Far fewer come from a cluster that
/// has listed, while another one is away.
const LIST_FLOOD: usize = 128;

/// The longest time for which updates are gathered. A list that takes longer is served in parts.
const LIST_GATHER_MAX: Duration = Duration::from_secs(1);

/// How often the loop shows that it lives when nothing arrives.
const HEARTBEAT: Duration = Duration::from_secs(1);

/// A loop that is silent this long hangs: ten heartbeats, far above any batch's work.
const SILENCE_MAX: Duration = Duration::from_secs(10);

/// What others may know about the loop.
pub(crate) struct Pulse {
    started: Instant,
    /// Milliseconds from `started` to the last beat.
    last_beat_ms: AtomicU64,
}

impl Default for Pulse {
    fn default() -> Self {
        let started = Instant::now();
        Self { started, last_beat_ms: AtomicU64::new(0) }
    }
}

impl Pulse {
    fn beat(&self) {
        self.last_beat_ms.store(self.now_ms(), Ordering::Relaxed);
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Whether the loop went round lately.
    pub(crate) fn is_beating(&self) -> bool {
        let silent_ms = self.now_ms().saturating_sub(self.last_beat_ms.load(Ordering::Relaxed));
        Duration::from_millis(silent_ms) < SILENCE_MAX
    }
}

/// The loop with its metrics.
pub(crate) struct Fold {
    index: Index,
    pulse: Arc<Pulse>,
    updates_total: IntCounter,
    waiting: IntGauge,
    generation: IntGauge,
    publish_seconds: Histogram,
    gateways: IntCounter,
    buckets: IntCounterVec,
    movement: Movement,
    modes: IntGaugeVec,
    pools: PoolGauges,
    fallback: IntGaugeVec,
    services: OrdMap<ServiceKey, Arc<Service>>,
    problems: Problems,
}

impl Fold {
    pub(crate) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let fold = Self {
            index: Index::new(),
            pulse: Arc::default(),
            updates_total: IntCounter::new(
                "haflinger_core_updates_total",
                "Updates folded into the index.",
            )?,
            waiting: IntGauge::new(
                "haflinger_core_updates_waiting",
                "Updates in the queue when a batch was taken; at limits.updates_max sources wait.",
            )?,
            generation: IntGauge::new(
                "haflinger_core_snapshot_generation",
                "Generation of the snapshot published last.",
            )?,
            publish_seconds: Histogram::with_opts(
                HistogramOpts::new(
                    "haflinger_core_publish_seconds",
                    "Time that it takes to bring a snapshot up to date and to publish it.",
                )
                .buckets(vec![1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1.0]),
            )?,
            gateways: IntCounter::new(
                "haflinger_core_gateway_builds_total",
                "Gateways that were built anew, each with all of its listeners and routes.",
            )?,
            buckets: IntCounterVec::new(
                Opts::new(
                    "haflinger_core_table_changes_total",
                    "Changes of the forwarding tables: buckets moved; of these at_risk, moved a \
                     second time within the hold time; second hops cleared; tables doubled; \
                     backends refused because a table is full.",
                ),
                &["change"],
            )?,
            movement: Movement::default(),
            modes: IntGaugeVec::new(
                Opts::new(
                    "haflinger_core_services",
                    "Services of layer 4 by the mode in force: XDP forwards nat, routed and dsr, \
                     the relay proxy.",
                ),
                &["mode"],
            )?,
            pools: PoolGauges::register(registry)?,
            fallback: IntGaugeVec::new(
                Opts::new(
                    "haflinger_core_fallback",
                    "How far nodes' ports stand in for pods that this host cannot reach: targets \
                     (ports of services, by family) that they take flows of; addresses probed to \
                     know; objects with pods that are not probed for want of room.",
                ),
                &["of"],
            )?,
            services: OrdMap::new(),
            problems: Problems::register(registry)?,
        };
        registry.register(Box::new(fold.updates_total.clone()))?;
        registry.register(Box::new(fold.waiting.clone()))?;
        registry.register(Box::new(fold.generation.clone()))?;
        registry.register(Box::new(fold.publish_seconds.clone()))?;
        registry.register(Box::new(fold.gateways.clone()))?;
        registry.register(Box::new(fold.buckets.clone()))?;
        registry.register(Box::new(fold.modes.clone()))?;
        registry.register(Box::new(fold.fallback.clone()))?;
        for mode in ForwardingMode::ALL {
            fold.modes.with_label_values(&[mode.as_str()]).set(0);
        }
        fold.count(Movement::default());
        Ok(fold)
    }

    pub(crate) fn pulse(&self) -> Arc<Pulse> {
        self.pulse.clone()
    }

    /// Runs until `shutdown`. `gather` says how long after a snapshot updates are gathered for the
    /// next one; an update that comes later than that is published at once.
    pub(crate) async fn run(
        mut self,
        mut updates: mpsc::Receiver<Update>,
        gather: watch::Receiver<Duration>,
        snapshots: watch::Sender<Arc<Snapshot>>,
        shutdown: CancellationToken,
    ) {
        let started = Instant::now();
        let mut batch = Vec::with_capacity(BATCH_MAX);
        let mut gathering = Gathering::default();
        loop {
            self.pulse.beat();
            let due = gathering.due();
            tokio::select! {
                // What has come is looked at before the time is.
                biased;
                () = shutdown.cancelled() => return,
                received = updates.recv_many(&mut batch, BATCH_MAX) => {
                    if received == 0 {
                        return;
                    }
                }
                () = until(due) => {}
                () = tokio::time::sleep(HEARTBEAT) => continue,
            }
            self.waiting.set(i64::try_from(updates.len()).unwrap_or(i64::MAX));
            let was_complete = self.index.is_complete();
            gathering.note(batch.len(), Instant::now(), was_complete, *gather.borrow());
            self.apply(&mut batch);
            // The last list is what everybody waits for.
            let completed = !was_complete && self.index.is_complete();
            if completed || gathering.due().is_some_and(|due| due <= Instant::now()) {
                self.publish(started.elapsed().as_secs(), &snapshots);
                gathering.published(Instant::now());
            }
        }
    }

    fn apply(&mut self, batch: &mut Vec<Update>) {
        self.updates_total.inc_by(batch.len() as u64);
        for update in batch.drain(..) {
            self.index.apply(update);
        }
    }

    fn publish(&mut self, now_secs: u64, snapshots: &watch::Sender<Arc<Snapshot>>) {
        let timer = self.publish_seconds.start_timer();
        if let Some(snapshot) = self.index.publish(now_secs) {
            self.generation.set(i64::try_from(snapshot.generation).unwrap_or(i64::MAX));
            self.count_modes(&snapshot);
            self.problems.follow(&snapshot);
            self.pools.show(&snapshot.pools, self.index.effort());
            self.count_fallback();
            snapshots.send_replace(snapshot);
        }
        timer.observe_duration();
        self.gateways.inc_by(self.index.gateway_builds() - self.gateways.get());
        self.count(self.index.movement());
        self.movement = self.index.movement();
    }

    /// By what has changed: a host may have 50,000 services.
    fn count_modes(&mut self, snapshot: &Snapshot) {
        let gauge = |service: &Service| self.modes.with_label_values(&[service.mode.as_str()]);
        for item in self.services.diff(&snapshot.services) {
            match item {
                DiffItem::Add(_, service) => gauge(service).inc(),
                DiffItem::Remove(_, service) => gauge(service).dec(),
                DiffItem::Update { old: (_, old), new: (_, new) } => {
                    gauge(old).dec();
                    gauge(new).inc();
                }
            }
        }
        self.services = snapshot.services.clone();
    }

    fn count_fallback(&self) {
        let now = self.index.fallback();
        for (of, count) in
            [("targets", now.targets), ("addresses", now.asked), ("unprobed_objects", now.waiting)]
        {
            let count = i64::try_from(count).unwrap_or(i64::MAX);
            self.fallback.with_label_values(&[of]).set(count);
        }
    }

    fn count(&self, now: Movement) {
        let before = self.movement;
        for (change, by) in [
            ("moved", now.moved - before.moved),
            ("at_risk", now.at_risk - before.at_risk),
            ("cleared", now.cleared - before.cleared),
            ("doubled", now.doubled - before.doubled),
            ("refused", now.refused - before.refused),
        ] {
            self.buckets.with_label_values(&[change]).inc_by(by);
        }
    }
}

/// When what was folded is published. Time is an argument.
#[derive(Default)]
struct Gathering {
    published: Option<Instant>,
    /// Since when something waits, and until when.
    waiting: Option<(Instant, Instant)>,
    /// Updates since the time was set last.
    came: usize,
}

impl Gathering {
    /// Updates have come, while the first lists were complete or not; `gather` is configured.
    fn note(&mut self, updates: usize, now: Instant, complete: bool, gather: Duration) {
        if updates > 0 && self.waiting.is_none() {
            let wait = if complete { gather } else { LIST_GATHER.max(gather) };
            let due = self.published.map_or(now, |published| published + wait);
            self.waiting = Some((now, due.max(now)));
            self.came = 0;
        }
        self.came += updates;
        if let Some((since, due)) = &mut self.waiting
            && !complete
            && *due <= now
            && self.came >= LIST_FLOOD
            && now.duration_since(*since) < LIST_GATHER_MAX
        {
            *due = now + LIST_GATHER;
            self.came = 0;
        }
    }

    /// When to publish; `None` while there is nothing.
    fn due(&self) -> Option<Instant> {
        self.waiting.map(|(_, due)| due)
    }

    fn published(&mut self, now: Instant) {
        *self = Self { published: Some(now), ..Self::default() };
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_single_update_is_published_at_once() {
        let (mut gathering, now) = (Gathering::default(), Instant::now());
        assert_eq!(gathering.due(), None);
        for complete in [false, true] {
            gathering.note(1, now, complete, Duration::ZERO);
            assert_eq!(gathering.due(), Some(now));
            gathering = Gathering::default();
        }
    }

    #[test]
    fn updates_after_a_snapshot_are_gathered_for_as_long_as_is_configured() {
        let (mut gathering, now) = (Gathering::default(), Instant::now());
        gathering.published(now);
        gathering.note(1, now + MS, true, 5 * MS);
        assert_eq!(gathering.due(), Some(now + 5 * MS));
        gathering.note(1000, now + 2 * MS, true, 5 * MS);
        assert_eq!(gathering.due(), Some(now + 5 * MS));
        gathering.published(now + 5 * MS);
        gathering.note(1, now + 20 * MS, true, 5 * MS);
        assert_eq!(gathering.due(), Some(now + 20 * MS));
    }

    #[test]
    fn a_list_on_its_way_is_gathered_on_and_not_for_ever() {
        let (mut gathering, mut now) = (Gathering::default(), Instant::now());
        gathering.note(LIST_FLOOD, now, false, Duration::ZERO);
        let mut longest = Duration::ZERO;
        let began = now;
        while gathering.due() > Some(now) {
            now += MS;
            longest = now - began;
            gathering.note(LIST_FLOOD, now, false, Duration::ZERO);
        }
        assert!((LIST_GATHER_MAX..LIST_GATHER_MAX + LIST_GATHER).contains(&longest));
    }

    #[test]
    fn changes_that_come_beside_a_source_that_is_away_wait_no_longer_than_a_moment() {
        let (mut gathering, now) = (Gathering::default(), Instant::now());
        gathering.published(now);
        for ms in 0..20 {
            gathering.note(2, now + ms * MS, false, Duration::ZERO);
        }
        assert_eq!(gathering.due(), Some(now + LIST_GATHER));
        gathering.note(0, now + LIST_GATHER, false, Duration::ZERO);
        assert_eq!(gathering.due(), Some(now + LIST_GATHER));
    }
}
