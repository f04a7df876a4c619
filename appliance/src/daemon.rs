//! `haflinger run`: start order, reloads, and the graceful stop.
//!
//! ```text
//!  stage      tasks                             stops
//!  writers    reporter, DNS                     first: another host takes over at once
//!  data path  relay, XDP, proxy, probes         after the routers have followed the withdrawal
//!  outward    announcer, BGP, netlink           when no flow is left
//!  core       discovery, fold                   then: the last good state is written
//!  admin      status, metrics, watchdog         last
//! ```
//!
//! A task that ends by itself is a fault: the daemon stops gracefully and exits with an error,
//! so that the service manager starts it again from the state on disk.

mod parts;
mod stages;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::Context as _;
use haflinger_bgp::fsm::State;
use haflinger_config::{Change, Config, FileSource, Loaded, Sources};
use haflinger_core::Update;
use haflinger_netlink::Cleanup;
use prometheus::{IntCounterVec, IntGauge, Opts};
use sd_notify::NotifyState;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::logging::{self, LevelHandle};
use crate::reload::{Trigger, Triggers};
use crate::status::Exhibition;
use crate::supervisor;

pub(crate) use parts::Handles;
use parts::{Assembly, Converted, assemble};
use stages::Stages;

/// Runs until SIGTERM or SIGINT.
pub(crate) fn run(loaded: Loaded, sources: Sources) -> anyhow::Result<()> {
    run_observed(loaded, sources, |_| {})
}

/// The same; `observe` is called within the runtime, once every task runs.
pub(crate) fn run_observed(
    loaded: Loaded,
    sources: Sources,
    observe: impl FnOnce(&Exhibition),
) -> anyhow::Result<()> {
    // An embedder may have installed one already, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let log = &loaded.config.log;
    let level = logging::install(&log.level, log.format)?;
    raise_descriptor_limit();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .thread_name("haflinger")
        .enable_all()
        .build()
        .context("starting the runtime")?;
    let ended = runtime.block_on(serve(loaded, sources, level, observe));
    // Whatever is left (a slow name lookup) must not delay the exit.
    runtime.shutdown_timeout(Duration::from_secs(1));
    ended
}

/// A token that SIGTERM or SIGINT cancels.
pub(crate) fn stop_signal() -> anyhow::Result<CancellationToken> {
    let mut terminate = signal(SignalKind::terminate()).context("listening for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listening for SIGINT")?;
    let token = CancellationToken::new();
    let stop = token.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        stop.cancel();
    });
    Ok(token)
}

async fn serve(
    loaded: Loaded,
    sources: Sources,
    level: LevelHandle,
    observe: impl FnOnce(&Exhibition),
) -> anyhow::Result<()> {
    for warning in &loaded.warnings {
        warn!("{warning}");
    }
    let stop = stop_signal()?;
    let file = match &sources.file {
        FileSource::Path(path) => Some(path.clone()),
        FileSource::Embedded | FileSource::Text { .. } => None,
    };
    let mut triggers = Triggers::open(file.as_deref())?;
    let Assembly { stages, exhibition, updates, gather, flow_key } =
        assemble(&loaded.config, &sources).await?;
    let metrics = ReloadMetrics::new(&exhibition.registry)?;
    observe(&exhibition);
    let mut daemon = Daemon {
        initial: loaded.config.clone(),
        running: loaded.config,
        sources,
        level,
        stages,
        exhibition,
        updates,
        gather,
        flow_key,
        metrics,
    };
    let snapshots = daemon.exhibition.snapshots.clone();
    tokio::spawn(supervisor::tell_ready(snapshots, stop.clone()));
    info!(version = env!("CARGO_PKG_VERSION"), host = %daemon.running.host.name, "started");
    let fault = loop {
        let secret = &daemon.running.proxy.session_ticket_secret;
        triggers.follow(secret.as_ref().map(|secret| secret.file.as_path()));
        tokio::select! {
            () = stop.cancelled() => break None,
            name = daemon.stages.first_to_end() => break Some(name),
            trigger = triggers.next() => daemon.reload(trigger).await,
        }
    };
    if let Some(name) = fault {
        error!(task = name, "a task ended by itself, stopping");
    }
    daemon.stop().await;
    match fault {
        Some(name) => Err(anyhow::anyhow!("task {name} ended by itself: see the log above")),
        None => Ok(()),
    }
}

struct Daemon {
    /// What the daemon was started with: keys that need a restart are compared with it.
    initial: Config,
    /// What is in force.
    running: Config,
    sources: Sources,
    level: LevelHandle,
    stages: Stages,
    exhibition: Arc<Exhibition>,
    updates: mpsc::Sender<Update>,
    gather: watch::Sender<Duration>,
    flow_key: haflinger_core::flow::FlowHashKey,
    metrics: ReloadMetrics,
}

impl Daemon {
    /// Reads the configuration again and applies the difference; a bad one changes nothing.
    async fn reload(&mut self, trigger: Trigger) {
        if trigger == Trigger::Signal {
            self.exhibition.handles.proxy.reopen_access_log();
        }
        let now = monotonic_micros();
        supervisor::notify(&[NotifyState::Reloading, NotifyState::MonotonicUsec(now)]);
        match self.try_reload(trigger).await {
            Ok(()) => {
                self.metrics.note(true);
                self.exhibition.config().refused = None;
            }
            Err(refusal) => {
                error!(
                    "the new configuration is refused, the former one stays in force:\n{refusal}"
                );
                self.metrics.note(false);
                self.exhibition.config().refused = Some(refusal);
            }
        }
        supervisor::notify(&[NotifyState::Ready]);
    }

    async fn try_reload(&mut self, trigger: Trigger) -> Result<(), String> {
        let Loaded { config, warnings } =
            Config::load(&self.sources).map_err(|errors| errors.to_string())?;
        let changes = haflinger_config::changes(&self.running, &config);
        if changes.is_empty() {
            if trigger == Trigger::Signal {
                info!("the configuration has not changed");
            }
            return Ok(());
        }
        let converted = Converted::of(&config, self.flow_key).map_err(|e| format!("{e:#}"))?;
        for warning in warnings {
            warn!("{warning}");
        }
        for Change { field, restart } in &changes {
            match restart {
                None => info!(field, "configuration changed, applied"),
                Some(reason) => warn!(field, reason, "configuration changed, needs a restart"),
            }
        }
        if config.log.level != self.running.log.level {
            self.level.set(&config.log.level).map_err(|error| format!("{error:#}"))?;
        }
        converted.apply(&self.exhibition.handles).map_err(|e| format!("{e:#}"))?;
        self.gather.send_replace(config.limits.publish_delay);
        let policy = Arc::new(crate::settings::policy(&config, false));
        // The core lives as long as the daemon.
        let _ = self.updates.send(Update::Policy(policy)).await;
        self.exhibition.zone().clone_from(&config.host.zone);
        let mut status = self.exhibition.config();
        status.applied += 1;
        status.restart_needed = haflinger_config::changes(&self.initial, &config)
            .iter()
            .filter_map(|change| Some(format!("{}: {}", change.field, change.restart?)))
            .collect();
        drop(status);
        self.running = config;
        Ok(())
    }

    /// Withdraws, waits for the routers, lets flows end, closes.
    async fn stop(self) {
        info!("stopping: withdrawing every address");
        supervisor::notify(&[NotifyState::Stopping, NotifyState::Status("draining")]);
        self.exhibition.draining.store(true, Ordering::Relaxed);
        let limit = self.running.limits.stop;
        let wait = self.running.limits.withdraw_wait;
        let policy = Arc::new(crate::settings::policy(&self.running, true));
        let _ = self.updates.send(Update::Policy(policy)).await;
        let peers = self.exhibition.handles.bgp.status().peers;
        let announcing = peers.iter().any(|peer| peer.state == State::Established);
        let orderly = async {
            self.stages.writers.stop().await;
            if announcing {
                tokio::time::sleep(wait).await;
            }
            info!("stopping: letting flows end");
            self.stages.data_path.stop().await;
            self.stages.outward.stop().await;
            // Pod routes stay for a restart; addresses would draw packets that nobody serves.
            let remembered = crate::settings::netlink(&self.running).remembered;
            // Sources of `nat` stay as well: the flows of XDP go on.
            let bound = Cleanup { addresses: true, sources: false, routes: false, remembered };
            if self.running.vips.bind
                && let Err(error) = haflinger_netlink::cleanup(&bound).await
            {
                warn!(%error, "some addresses stay bound");
            }
            self.stages.core.stop().await;
        };
        if tokio::time::timeout(limit, orderly).await.is_err() {
            warn!(limit_secs = limit.as_secs(), "the stop took too long and was cut short");
        }
        self.stages.admin.stop().await;
        info!("stopped");
    }
}

struct ReloadMetrics {
    reloads: IntCounterVec,
    refused: IntGauge,
}

impl ReloadMetrics {
    fn new(registry: &prometheus::Registry) -> anyhow::Result<Self> {
        let metrics = Self {
            reloads: IntCounterVec::new(
                Opts::new("haflinger_config_reloads_total", "Configurations read, by result."),
                &["result"],
            )?,
            refused: IntGauge::new(
                "haflinger_config_refused",
                "1 while the newest configuration is refused and a former one in force.",
            )?,
        };
        registry.register(Box::new(metrics.reloads.clone()))?;
        registry.register(Box::new(metrics.refused.clone()))?;
        Ok(metrics)
    }

    fn note(&self, accepted: bool) {
        let result = if accepted { "accepted" } else { "refused" };
        self.reloads.with_label_values(&[result]).inc();
        self.refused.set(i64::from(!accepted));
    }
}

/// CLOCK_MONOTONIC in microseconds, as sd_notify(3) wants it.
fn monotonic_micros() -> i128 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    i128::from(now.tv_sec) * 1_000_000 + i128::from(now.tv_nsec) / 1000
}

/// Every connection of the relay takes two descriptors: take what the hard limit allows.
fn raise_descriptor_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current == limit.maximum {
        return;
    }
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        warn!(%error, "the limit on descriptors cannot be raised");
    }
}
