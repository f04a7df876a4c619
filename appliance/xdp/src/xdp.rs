//! The actuator: loads, attaches, follows snapshots, tends.
//!
//! ```text
//!  run ── load, with retries ──> engine ──┬── snapshots: apply the difference
//!                                         ├── links: attach what appears
//!                                         ├── every second: give back, retry; in short parts:
//!                                         │   look at routes, counters and flows
//!                                         └── settings: apply, or load anew
//! ```
//!
//! Every step that asks the kernel runs on a blocking thread, one at a time, so that no task waits
//! behind it. When the daemon stops or dies the program stays attached and forwards on: maps and
//! links are pinned (fail static).

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use haflinger_core::{Snapshot, Update};
use prometheus::Registry;
use rand::Rng as _;
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;

use crate::cleanup;
use crate::engine::{Engine, lock};
use crate::error::{Error, LoadError};
use crate::metrics;
use crate::netlink::{Netlink, RTMGRP_LINK};
use crate::settings::Settings;
use crate::status::XdpStatus;

/// Between the first two attempts to load.
const RELOAD_WAIT_MIN: Duration = Duration::from_secs(2);

/// Longest wait between attempts to load: a file system that was mounted, or memory that became
/// free, is taken up within a few minutes; loading costs a second of a CPU.
const RELOAD_WAIT_MAX: Duration = Duration::from_secs(300);

/// Between the first two attempts to attach to an interface that refused.
const ATTACH_WAIT_MIN: Duration = Duration::from_secs(1);

/// Longest wait between attempts to attach; link events come at once besides.
const ATTACH_WAIT_MAX: Duration = Duration::from_secs(60);

/// Least time between two looks at the links: a burst of events is one.
const FOLLOW_WAIT_MIN: Duration = Duration::from_millis(200);

/// Between the parts of what is looked at every second, in which snapshots are applied.
const PART_PAUSE: Duration = Duration::from_millis(10);

/// How long an incomplete snapshot may keep the program from being attached: what it does not
/// know is passed to the kernel, which has no more to answer with.
const COMPLETE_WAIT: Duration = Duration::from_secs(30);

/// What handle and task share.
pub(crate) struct Shared {
    pub(crate) settings: watch::Sender<Arc<Settings>>,
    pub(crate) engine: Mutex<Option<Arc<Engine>>>,
    /// Why there is no engine, or none that forwards.
    pub(crate) fault: Mutex<Option<Arc<str>>>,
    /// Whether somebody traces packets.
    pub(crate) tracing: Arc<AtomicBool>,
    /// Generation of the snapshot that the maps hold.
    applied: watch::Sender<u64>,
}

/// The data path before it runs.
pub struct Xdp {
    shared: Arc<Shared>,
    /// What the core was told last of the data path as a whole.
    told: Mutex<Option<Option<Arc<str>>>>,
}

/// Shows and adjusts the data path.
#[derive(Clone)]
pub struct XdpHandle {
    pub(crate) shared: Arc<Shared>,
}

impl XdpHandle {
    /// Interfaces, capacities, services and counters. The cost is proportional to the backends.
    pub fn status(&self) -> XdpStatus {
        XdpStatus::of(&self.shared)
    }

    /// Generation of the snapshot that the maps hold; 0 before the first.
    pub fn applied(&self) -> watch::Receiver<u64> {
        self.shared.applied.subscribe()
    }

    /// Applies changed settings. Other sizes or another directory load the program anew, which
    /// carries over what fits.
    ///
    /// # Errors
    ///
    /// A setting lies outside of its bounds. The former settings stay.
    pub fn reconfigure(&self, settings: Settings) -> Result<(), Error> {
        settings.check()?;
        self.shared.settings.send_if_modified(|known| {
            let differs = **known != settings;
            if differs {
                *known = Arc::new(settings);
            }
            differs
        });
        Ok(())
    }
}

/// Why an engine is left.
enum Left {
    Stop,
    /// What cannot be changed while it runs was changed.
    Settings,
}

impl Xdp {
    /// A data path that forwards nothing yet.
    ///
    /// # Errors
    ///
    /// A setting lies outside of its bounds, or a metric's name is taken in the registry.
    pub fn new(settings: Settings, registry: &Registry) -> Result<Self, Error> {
        settings.check()?;
        let shared = Arc::new(Shared {
            settings: watch::channel(Arc::new(settings)).0,
            engine: Mutex::new(None),
            fault: Mutex::new(None),
            tracing: Arc::default(),
            applied: watch::channel(0).0,
        });
        metrics::register(&shared, registry)?;
        Ok(Self { shared, told: Mutex::new(None) })
    }

    /// Shows and adjusts this data path.
    pub fn handle(&self) -> XdpHandle {
        XdpHandle { shared: self.shared.clone() }
    }

    /// Forwards what the snapshots say until `shutdown`, and tells `updates` whether packets are
    /// forwarded at all and which services have no room. The program stays attached afterwards.
    pub async fn run(
        self,
        mut snapshots: watch::Receiver<Arc<Snapshot>>,
        updates: mpsc::Sender<Update>,
        shutdown: CancellationToken,
    ) {
        let stopped = shutdown.clone();
        tokio::select! {
            () = stopped.cancelled() => {}
            () = self.forward(&mut snapshots, &updates, &shutdown) => {}
        }
        // The handle may live on; the maps need not.
        lock(&self.shared.engine).take();
    }

    async fn forward(
        &self,
        snapshots: &mut watch::Receiver<Arc<Snapshot>>,
        updates: &mpsc::Sender<Update>,
        shutdown: &CancellationToken,
    ) {
        let mut settings = self.shared.settings.subscribe();
        let mut wait = RELOAD_WAIT_MIN;
        loop {
            let wanted = settings.borrow_and_update().clone();
            if !wanted.enabled {
                self.take_off(&wanted).await;
                self.tell_fault(Some("switched off".into()), updates).await;
                if settings.changed().await.is_err() {
                    return shutdown.cancelled().await;
                }
                continue;
            }
            match self.load(&wanted).await {
                Ok(engine) => {
                    wait = RELOAD_WAIT_MIN;
                    let engine = Arc::new(engine);
                    *lock(&self.shared.engine) = Some(engine.clone());
                    let driven = engine.clone();
                    let left =
                        self.drive(driven, snapshots, updates, &mut settings, shutdown).await;
                    lock(&self.shared.engine).take();
                    if matches!(left, Left::Stop) {
                        return;
                    }
                    tell(engine.let_go(), updates).await;
                }
                Err(fault) => {
                    tracing::error!(%fault, "the XDP program is not loaded, the relay takes over");
                    self.tell_fault(Some(fault.to_string().into()), updates).await;
                    // Half of it is random, so that hosts of a fleet do not try in step.
                    let wait_now = wait.mul_f64(rand::rng().random_range(0.5..1.0));
                    tokio::select! {
                        _ = settings.changed() => wait = RELOAD_WAIT_MIN,
                        () = sleep(wait_now) => wait = (wait * 2).min(RELOAD_WAIT_MAX),
                    }
                }
            }
        }
    }

    async fn load(&self, settings: &Arc<Settings>) -> Result<Engine, LoadError> {
        let settings = settings.clone();
        blocking(move || Engine::start(&settings)).await
    }

    async fn take_off(&self, settings: &Settings) {
        let pin_dir = settings.pin_dir.clone();
        match blocking(move || cleanup::take_off(&pin_dir)).await {
            Ok(removed) if removed.interfaces > 0 => {
                let interfaces = removed.interfaces;
                tracing::info!(interfaces, "XDP is switched off: the program is taken off");
            }
            Ok(_) => {}
            Err(error) => tracing::warn!(%error, "what an earlier run attached stays"),
        }
    }

    /// Drives a loaded program.
    async fn drive(
        &self,
        engine: Arc<Engine>,
        snapshots: &mut watch::Receiver<Arc<Snapshot>>,
        updates: &mpsc::Sender<Update>,
        settings: &mut watch::Receiver<Arc<Settings>>,
        shutdown: &CancellationToken,
    ) -> Left {
        let started_with = settings.borrow_and_update().clone();
        let mut links = LinkEvents::open();
        let mut second = interval(Duration::from_secs(1));
        second.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let attach_anyway = Instant::now() + COMPLETE_WAIT;
        let mut retry = Retry::new();
        let mut next_part = None;
        // What is said of services while no packet reaches the program: at most one word for each.
        let mut withheld = Vec::new();
        snapshots.mark_changed();
        loop {
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return Left::Stop,
                Ok(()) = settings.changed() => {
                    let wanted = settings.borrow_and_update().clone();
                    if needs_loading(&started_with, &wanted) {
                        return Left::Settings;
                    }
                    let may_attach = retry.begun || may_attach(&wanted, &withheld);
                    let tuned = engine.clone();
                    blocking(move || tuned.configure(&wanted)).await;
                    if may_attach {
                        retry.hurry();
                    }
                }
                Ok(()) = snapshots.changed() => {
                    let snapshot = snapshots.borrow_and_update().clone();
                    let applying = engine.clone();
                    let (complete, generation) = (snapshot.complete, snapshot.generation);
                    let told = blocking(move || applying.apply(&snapshot)).await;
                    self.shared.applied.send_replace(generation);
                    withheld.extend(told);
                    if complete && !retry.begun && may_attach(&settings.borrow(), &withheld) {
                        retry.hurry();
                    }
                }
                () = links.changed() => {
                    if retry.begun {
                        retry.hurry();
                    }
                }
                () = retry.due() => {}
                () = at(next_part) => {
                    let tending = engine.clone();
                    let more = blocking(move || tending.tend_on()).await;
                    next_part = more.then(|| Instant::now() + PART_PAUSE);
                }
                _ = second.tick() => {
                    let tending = engine.clone();
                    let told = blocking(move || tending.tend()).await;
                    tell(told, updates).await;
                    next_part = Some(Instant::now());
                    if !retry.begun
                        && Instant::now() >= attach_anyway
                        && may_attach(&settings.borrow(), &withheld)
                    {
                        retry.hurry();
                    }
                }
            }
            if retry.is_due() {
                self.follow_links(&engine, &mut retry, updates).await;
            }
            if retry.begun {
                tell(std::mem::take(&mut withheld), updates).await;
            }
        }
    }

    async fn follow_links(
        &self,
        engine: &Arc<Engine>,
        retry: &mut Retry,
        updates: &mpsc::Sender<Update>,
    ) {
        let settings = self.shared.settings.borrow().clone();
        let following = engine.clone();
        let outcome = blocking(move || following.follow_links(&settings)).await;
        let fault = match outcome {
            Ok(()) => engine.fault(),
            Err(error) => Some(format!("the kernel does not list its interfaces: {error}").into()),
        };
        retry.note(fault.is_none() && engine.is_attached_everywhere());
        self.tell_fault(fault, updates).await;
    }

    /// Says whether packets are forwarded, when that has changed.
    async fn tell_fault(&self, fault: Option<Arc<str>>, updates: &mpsc::Sender<Update>) {
        lock(&self.shared.fault).clone_from(&fault);
        if lock(&self.told).replace(fault.clone()).is_some_and(|told| told == fault) {
            return;
        }
        tell(vec![Update::Datapath { fault }], updates).await;
    }
}

/// Whether interfaces may be touched: those that are named, always; those that are only guessed,
/// once there is a word to say of a service that asked for it. To install the daemon changes
/// nothing of a host.
fn may_attach(settings: &Settings, words: &[Update]) -> bool {
    !settings.interfaces.is_empty() || !words.is_empty()
}

/// Sizes and place of the maps, and whether there are any, are fixed when they are made.
fn needs_loading(before: &Settings, now: &Settings) -> bool {
    !now.enabled || before.capacities != now.capacities || before.pin_dir != now.pin_dir
}

async fn tell(told: Vec<Update>, updates: &mpsc::Sender<Update>) {
    for update in told {
        // The core lives as long as the daemon.
        let _ = updates.send(update).await;
    }
}

/// Runs what blocks where it may.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        // The runtime is being dropped, and this task with it.
        Err(_) => std::future::pending().await,
    }
}

async fn at(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}

/// When to look at the links again.
struct Retry {
    /// Whether it was ever time.
    begun: bool,
    due: Option<Instant>,
    last: Option<Instant>,
    wait: Duration,
}

impl Retry {
    fn new() -> Self {
        Self { begun: false, due: None, last: None, wait: ATTACH_WAIT_MIN }
    }

    fn hurry(&mut self) {
        let soonest = self.last.map_or_else(Instant::now, |last| last + FOLLOW_WAIT_MIN);
        self.due = Some(soonest.max(Instant::now()));
    }

    /// Waits until it is time.
    async fn due(&self) {
        at(self.due).await;
    }

    fn is_due(&self) -> bool {
        self.due.is_some_and(|due| due <= Instant::now())
    }

    fn note(&mut self, settled: bool) {
        self.begun = true;
        self.last = Some(Instant::now());
        if settled {
            self.wait = ATTACH_WAIT_MIN;
            // Routes may come to lead by other links, and abilities change without an event.
            self.due = Some(Instant::now() + ATTACH_WAIT_MAX);
            return;
        }
        let random = rand::rng().random_range(0.5..1.0);
        self.due = Some(Instant::now() + self.wait.mul_f64(random));
        self.wait = (self.wait * 2).min(ATTACH_WAIT_MAX);
    }
}

/// Hears of links that come, change and go. Without it they are found by the clock.
struct LinkEvents {
    socket: Option<AsyncFd<Netlink>>,
}

impl LinkEvents {
    fn open() -> Self {
        let socket = Netlink::open(RTMGRP_LINK).and_then(|netlink| {
            // SAFETY: the socket owns its descriptor, always names the same one, and is closed
            // when it is dropped with the registration.
            Ok(unsafe { AsyncFd::register(netlink) }?)
        });
        if let Err(error) = &socket {
            tracing::warn!(%error, "link events are not heard, links are looked at by the clock");
        }
        Self { socket: socket.ok() }
    }

    async fn changed(&mut self) {
        let Some(socket) = &mut self.socket else { return std::future::pending().await };
        match socket.readable_mut().await {
            Ok(mut ready) => {
                ready.get_inner_mut().drain();
                ready.clear_ready();
            }
            Err(_) => self.socket = None,
        }
    }
}
