//! What should be served, and what is: the part of the room that compares snapshots.
//!
//! A change costs in proportion to itself: a target or a certificate is one pointer store, a
//! listener is compiled anew alone. Nothing here waits.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use haflinger_core::{
    CertificateRef, CertificateSpec, FaultReason, HttpListener, Snapshot, SourceFault, Target,
    Upstream,
};
use imbl::ordmap::DiffItem;

use crate::action::{Action, ActionUpstream};
use crate::auth::{AuthShelf, KeySlot};
use crate::expressions::Expression;
use crate::listener::{Listener, Routes};
use crate::metrics::Metrics;
use crate::reports::{CertificateNotices, SocketWord};
use crate::routes::Shelf;
use crate::settings::{TicketSecret, TlsPolicy};
use crate::slots::Slots;
use crate::status::{CertificateStatus, ListenerState, ListenerStatus};
use crate::tls::certificates::{Certificate, CertificateError, CertificateSlot};
use crate::tls::notices::notices;
use crate::tls::{BackendGreetings, Sections, TlsBase};
use crate::upstream::TargetSlot;

/// Most listeners: each costs a descriptor a worker and a set of time series.
pub const LISTENERS_MAX: usize = 4_096;

/// First pause before binding is tried again. Short, because the former listener's sockets on
/// the same address may be closing this moment.
const BIND_RETRY_FIRST: Duration = Duration::from_millis(50);

/// Longest pause: an operator who has freed the port should not wait longer.
const BIND_RETRY_MAX: Duration = Duration::from_secs(10);

/// One listener and its socket.
struct Served {
    spec: Arc<HttpListener>,
    listener: Arc<Listener>,
    socket: SocketState,
}

/// One listener as it is shown to those who ask why.
pub(crate) struct Serving<'a> {
    /// What it was compiled from.
    pub(crate) spec: &'a HttpListener,
    /// What serves.
    pub(crate) listener: &'a Listener,
    /// Why it takes no connection, if it takes none.
    pub(crate) unbound: Option<String>,
}

enum SocketState {
    Bound,
    Retrying { reason: Option<String>, attempts: u32, due: Instant },
    Refused,
}

/// One certificate of the snapshot.
struct Held {
    slot: Arc<CertificateSlot>,
    fault: Option<SourceFault>,
    /// What its users are told although it is served.
    notices: Vec<SourceFault>,
}

/// Everything that is or should be served.
pub(crate) struct Tables {
    metrics: Metrics,
    tls: TlsBase,
    snapshot: Arc<Snapshot>,
    targets: Slots<Target, TargetSlot>,
    shelf: Shelf<Action>,
    certificate_slots: Slots<CertificateRef, CertificateSlot>,
    greetings: BackendGreetings,
    auth: AuthShelf,
    certificates: BTreeMap<CertificateRef, Held>,
    listeners: BTreeMap<SocketAddr, Served>,
    /// Those that are still to be bound.
    unbound: BTreeSet<SocketAddr>,
    /// Those beyond the limit; the first takes the place of one that goes.
    refused: BTreeSet<SocketAddr>,
    listeners_max: usize,
}

/// What has to be done outside after a snapshot was compared.
#[derive(Default)]
pub(crate) struct Effects {
    /// Listeners that are out of service and have to be drained.
    pub(crate) retired: Vec<Arc<Listener>>,
    /// What to say about certificates.
    pub(crate) reports: Vec<(CertificateRef, Option<SourceFault>)>,
    /// What to say about certificates although they are served.
    pub(crate) notices: Vec<CertificateNotices>,
    /// Whether certificates have come, changed or gone.
    pub(crate) certificates_changed: bool,
    /// What to say about sockets.
    pub(crate) sockets: Vec<SocketWord>,
    /// Keys that somebody has to fetch.
    pub(crate) keys: Vec<Weak<KeySlot>>,
}

impl Tables {
    /// Empty tables for at most `listeners_max` listeners.
    pub(crate) fn new(metrics: Metrics, tls: TlsBase, listeners_max: usize) -> Self {
        Self {
            metrics,
            tls,
            snapshot: Arc::default(),
            targets: Slots::default(),
            shelf: Shelf::default(),
            certificate_slots: Slots::default(),
            greetings: BackendGreetings::default(),
            auth: AuthShelf::default(),
            certificates: BTreeMap::new(),
            listeners: BTreeMap::new(),
            unbound: BTreeSet::new(),
            refused: BTreeSet::new(),
            listeners_max,
        }
    }

    /// Puts a snapshot in service.
    pub(crate) fn apply(&mut self, new: Arc<Snapshot>, now: Instant) -> Effects {
        let old = std::mem::replace(&mut self.snapshot, new.clone());
        let mut effects = Effects::default();
        self.auth.renew(&new.user_lists);
        for item in old.certificates.diff(&new.certificates) {
            match item {
                DiffItem::Add(key, spec) | DiffItem::Update { new: (key, spec), .. } => {
                    self.load_certificate(key, spec, &mut effects);
                }
                DiffItem::Remove(key, _) => self.drop_certificate(key, &mut effects),
            }
        }
        for item in old.targets.diff(&new.targets) {
            let (key, backends) = match item {
                DiffItem::Add(key, set) | DiffItem::Update { new: (key, set), .. } => {
                    (key, Some(set.clone()))
                }
                DiffItem::Remove(key, _) => (key, None),
            };
            // Targets that no rule points at have no slot; most services are not L7.
            if let Some(slot) = self.targets.find(key) {
                slot.store(backends);
            }
        }
        // Removed ones first, so that an address whose kind changes is free by the time that it
        // is bound again.
        for item in old.http.diff(&new.http) {
            match item {
                DiffItem::Remove(address, _) => self.retire(*address, now, &mut effects),
                DiffItem::Update { old: (address, was), new: (_, is) } if was.tls != is.tls => {
                    self.retire(*address, now, &mut effects);
                    self.add(*address, is, now, &mut effects);
                }
                DiffItem::Update { new: (address, spec), .. } => self.change(*address, spec),
                DiffItem::Add(address, spec) => self.add(*address, spec, now, &mut effects),
            }
        }
        self.metrics.generation.set(i64::try_from(new.generation).unwrap_or(i64::MAX));
        if !old.certificates.ptr_eq(&new.certificates) {
            self.count_certificates();
            effects.certificates_changed = true;
        }
        if !old.http.ptr_eq(&new.http) {
            self.count_rules();
        }
        self.count_listeners();
        effects.keys = self.auth.take_unfetched();
        effects
    }

    fn load_certificate(
        &mut self,
        key: &CertificateRef,
        spec: &CertificateSpec,
        effects: &mut Effects,
    ) {
        let slot = self.certificate_slots.slot(key, CertificateSlot::default);
        let fault = match Certificate::load(spec) {
            Ok(certificate) => {
                slot.store(Some(certificate));
                tracing::info!(certificate = %key, "certificate in service");
                None
            }
            Err(error) => {
                tracing::warn!(certificate = %key, error = %chain(&error), "certificate refused");
                let message = format!(
                    "certificate of secret {}/{}: {}",
                    key.namespace,
                    key.name,
                    chain(&error)
                );
                Some(SourceFault::new(FaultReason::CertificateInvalid, message))
            }
        };
        let former = self.certificates.remove(key);
        let (before, notices) = former.map(|held| (held.fault, held.notices)).unwrap_or_default();
        self.certificates.insert(key.clone(), Held { slot, fault: fault.clone(), notices });
        if before != fault {
            effects.reports.push((key.clone(), fault));
        }
        self.rename_listeners(key);
    }

    /// A Secret that is deleted is no longer served: unlike a bad one, that is what was asked.
    fn drop_certificate(&mut self, key: &CertificateRef, effects: &mut Effects) {
        let Some(held) = self.certificates.remove(key) else { return };
        held.slot.store(None);
        if held.fault.is_some() {
            effects.reports.push((key.clone(), None));
        }
        if !held.notices.is_empty() {
            effects.notices.push((key.clone(), Vec::new()));
        }
        self.rename_listeners(key);
    }

    /// Listeners that serve the names of the certificate itself follow when those change.
    fn rename_listeners(&mut self, key: &CertificateRef) {
        let Self { listeners, certificate_slots, .. } = self;
        for served in listeners.values() {
            if let Some(tls) = &served.listener.tls {
                let slot = |key: &_| certificate_slots.slot(key, CertificateSlot::default);
                tls.load().rename(&served.spec, key, slot);
            }
        }
    }

    /// Looks at what the time has made of the certificates; what is to be said otherwise than before.
    pub(crate) fn review(&mut self, warning: Duration, now_secs: i64) -> Vec<CertificateNotices> {
        let mut changed = Vec::new();
        let mut unstapled = 0;
        for (key, held) in &mut self.certificates {
            let current = held.slot.load();
            let notices = current
                .as_ref()
                .map_or_else(Vec::new, |certificate| notices(key, certificate, warning, now_secs));
            unstapled += notices.iter().filter(|n| n.reason == FaultReason::StapleUnusable).count();
            if held.notices != notices {
                for notice in notices.iter().filter(|notice| !held.notices.contains(notice)) {
                    tracing::warn!(certificate = %key, notice.message, "certificate");
                }
                held.notices.clone_from(&notices);
                changed.push((key.clone(), notices));
            }
        }
        self.metrics.certificate_ends.unstapled.set(as_gauge(unstapled));
        changed
    }

    /// Greets the clients of every listener anew, from the next handshake on.
    pub(crate) fn set_tls(&mut self, policy: TlsPolicy, secret: Option<&TicketSecret>) {
        if !self.tls.configure(policy, secret) {
            return;
        }
        let listeners = self.listeners.values();
        let all: Vec<_> = listeners.map(|s| (s.spec.clone(), s.listener.clone())).collect();
        for (spec, listener) in all {
            let Some(tls) = &listener.tls else { continue };
            match self.sections(&spec, None) {
                Ok(sections) => tls.store(Arc::new(sections)),
                Err(error) => {
                    tracing::error!(listener = %listener.address, %error, "no TLS configuration");
                }
            }
        }
    }

    /// How the clients of a listener are greeted; what is greeted as before keeps its sessions.
    fn sections(
        &mut self,
        spec: &HttpListener,
        former: Option<&Sections>,
    ) -> Result<Sections, rustls::Error> {
        let Self { tls, certificate_slots, targets, snapshot, .. } = self;
        let slot = |key: &_| certificate_slots.slot(key, CertificateSlot::default);
        let target = |target: &Target| {
            targets.slot(target, || TargetSlot::new(snapshot.targets.get(target).cloned()))
        };
        tls.sections(spec, former, slot, target)
    }

    /// Compiles the routes of a listener; what has not changed is shared with those of now.
    fn routes(&mut self, address: SocketAddr, spec: &HttpListener) -> Routes {
        let Self {
            targets,
            snapshot,
            shelf,
            listeners,
            greetings,
            auth,
            certificate_slots,
            metrics,
            ..
        } = self;
        let served = listeners.get(&address);
        let former = served.map(|served| (served.spec.clone(), served.listener.routes.load_full()));
        let former = former.as_ref().map(|(spec, routes)| (&**spec, &**routes));
        let routes = Routes::compile(spec, former, shelf, |rule| {
            let upstream = |to: &Upstream| {
                let backends = || TargetSlot::new(snapshot.targets.get(&to.target).cloned());
                let certificate = |key: &_| certificate_slots.slot(key, CertificateSlot::default);
                let tls = to.tls.as_ref().map(|tls| greetings.greeting(tls, certificate));
                ActionUpstream { slot: targets.slot(&to.target, backends), speaks: to.speaks, tls }
            };
            let refuse = |name: &str| {
                tracing::warn!(listener = %address, name, "rules cannot edit this header field");
            };
            Action::compile(rule, metrics.tallies.route(&rule.object), auth, upstream, refuse)
        });
        for fault in &routes.faults.told {
            tracing::warn!(listener = %address, %fault, "a rule is broken");
        }
        routes
    }

    fn add(
        &mut self,
        address: SocketAddr,
        spec: &Arc<HttpListener>,
        now: Instant,
        effects: &mut Effects,
    ) {
        let routes = self.routes(address, spec);
        let tls = match spec.tls.then(|| self.sections(spec, None)).transpose() {
            Ok(tls) => tls,
            Err(error) => {
                tracing::error!(listener = %address, %error, "no TLS configuration");
                effects.sockets.push((address, Some("no TLS configuration".into())));
                return;
            }
        };
        let listener = Listener::new(address, tls, routes, self.metrics.listener(address));
        let socket = if self.listeners.len() - self.refused.len() < self.listeners_max {
            self.unbound.insert(address);
            SocketState::Retrying { reason: None, attempts: 0, due: now }
        } else {
            tracing::error!(listener = %address, limit = self.listeners_max, "listener refused");
            self.refused.insert(address);
            effects.sockets.push((address, Some(self.refusal().into())));
            SocketState::Refused
        };
        let served = Served { spec: spec.clone(), listener: Arc::new(listener), socket };
        self.listeners.insert(address, served);
    }

    fn change(&mut self, address: SocketAddr, spec: &Arc<HttpListener>) {
        let routes = self.routes(address, spec);
        let Some(served) = self.listeners.get_mut(&address) else { return };
        served.spec = spec.clone();
        served.listener.routes.store(Arc::new(routes));
        let listener = served.listener.clone();
        let Some(tls) = &listener.tls else { return };
        match self.sections(spec, Some(&tls.load())) {
            Ok(sections) => tls.store(Arc::new(sections)),
            // The former greeting stands.
            Err(error) => tracing::error!(listener = %address, %error, "no TLS configuration"),
        }
    }

    /// Why a listener is refused.
    fn refusal(&self) -> String {
        format!("more than {} listeners", self.listeners_max)
    }

    fn retire(&mut self, address: SocketAddr, now: Instant, effects: &mut Effects) {
        effects.sockets.push((address, None));
        let Some(served) = self.listeners.remove(&address) else { return };
        self.unbound.remove(&address);
        effects.retired.push(served.listener);
        if !self.refused.remove(&address)
            && let Some(next) = self.refused.pop_first()
            && let Some(served) = self.listeners.get_mut(&next)
        {
            served.socket = SocketState::Retrying { reason: None, attempts: 0, due: now };
            self.unbound.insert(next);
        }
    }

    /// Takes everything out of service.
    pub(crate) fn retire_all(&mut self) -> Vec<Arc<Listener>> {
        self.metrics.listeners_bound.set(0);
        self.unbound.clear();
        self.refused.clear();
        std::mem::take(&mut self.listeners).into_values().map(|served| served.listener).collect()
    }

    /// Whether something is, or should be, served on the address.
    pub(crate) fn has(&self, address: SocketAddr) -> bool {
        self.listeners.contains_key(&address)
    }

    /// When a listener is next to be bound.
    pub(crate) fn next_bind(&self) -> Option<Instant> {
        let due = |address| match self.listeners.get(address)?.socket {
            SocketState::Retrying { due, .. } => Some(due),
            SocketState::Bound | SocketState::Refused => None,
        };
        self.unbound.iter().filter_map(due).min()
    }

    /// Binds every listener that is due and gives each new socket to `start`. `jitter` draws
    /// from 0.5 to 1. Answers what to say about their sockets; of the first failure nothing, since
    /// it may just have met the former listener.
    pub(crate) fn bind_due(
        &mut self,
        now: Instant,
        mut jitter: impl FnMut() -> f64,
        bind: impl Fn(SocketAddr) -> std::io::Result<TcpListener>,
        mut start: impl FnMut(TcpListener, &Arc<Listener>) -> std::io::Result<()>,
    ) -> Vec<SocketWord> {
        let Self { listeners, unbound, metrics, .. } = self;
        let mut words = Vec::new();
        unbound.retain(|address| {
            let Some(served) = listeners.get_mut(address) else { return false };
            let SocketState::Retrying { attempts, due, .. } = served.socket else { return false };
            if due > now {
                return true;
            }
            served.socket = match bind(*address).and_then(|s| start(s, &served.listener)) {
                Ok(()) => {
                    tracing::info!(listener = %address, tls = served.spec.tls, "listening");
                    words.push((*address, None));
                    SocketState::Bound
                }
                Err(error) => {
                    metrics.bind_failed();
                    if attempts > 0 {
                        words.push((*address, Some(error.to_string().into())));
                    }
                    if attempts == 1 {
                        tracing::warn!(listener = %address, %error, "cannot listen, trying on");
                    }
                    let pause = BIND_RETRY_FIRST.saturating_mul(1 << attempts.min(16));
                    let due = now + pause.min(BIND_RETRY_MAX).mul_f64(jitter());
                    let attempts = attempts.saturating_add(1);
                    SocketState::Retrying { reason: Some(error.to_string()), attempts, due }
                }
            };
            !matches!(served.socket, SocketState::Bound)
        });
        self.count_listeners();
        words
    }

    fn count_listeners(&self) {
        let bound = self.listeners.len() - self.unbound.len() - self.refused.len();
        self.metrics.listeners_wanted.set(as_gauge(self.listeners.len()));
        self.metrics.listeners_bound.set(as_gauge(bound));
    }

    fn count_rules(&self) {
        let faulty = |served: &Served| served.listener.routes.load().faults.count;
        self.metrics.rules_faulty.set(as_gauge(self.listeners.values().map(faulty).sum()));
    }

    fn count_certificates(&self) {
        let faulty = self.certificates.values().filter(|held| held.fault.is_some()).count();
        self.metrics.certificates_faulty.set(as_gauge(faulty));
        let ends = self.certificates.iter().filter_map(|(key, held)| {
            held.slot.load().map(|certificate| (certificate.not_after_secs, key))
        });
        let mut ends: Vec<(i64, &CertificateRef)> = ends.collect();
        ends.sort_unstable();
        self.metrics.certificates_expire.set(ends.first().map_or(0, |(first, _)| *first));
        self.metrics.certificate_ends.follow(&ends);
    }

    /// The snapshot in service.
    pub(crate) fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// What is or should be served, by address; with the reason where it is not.
    pub(crate) fn serving(&self) -> impl Iterator<Item = Serving<'_>> {
        self.listeners.values().map(|served| {
            let unbound = match &served.socket {
                SocketState::Bound => None,
                SocketState::Retrying { reason, .. } => {
                    Some(reason.clone().unwrap_or_else(|| "it is about to be bound".into()))
                }
                SocketState::Refused => Some(self.refusal()),
            };
            Serving { spec: &served.spec, listener: &served.listener, unbound }
        })
    }

    /// An expression of a rule as it was compiled.
    pub(crate) fn expression(&self, text: &Arc<str>) -> Arc<Expression> {
        self.shelf.expression(text)
    }

    /// The name of a certificate in service.
    pub(crate) fn name_of(&self, certificate: &Arc<Certificate>) -> Option<&CertificateRef> {
        let is = |held: &Held| held.slot.load().is_some_and(|own| Arc::ptr_eq(&own, certificate));
        self.certificates.iter().find(|(_, held)| is(held)).map(|(name, _)| name)
    }

    /// Generation of the snapshot in service.
    pub(crate) fn generation(&self) -> u64 {
        self.snapshot.generation
    }

    pub(crate) fn listener_status(&self) -> Vec<ListenerStatus> {
        let status = |(address, served): (&SocketAddr, &Served)| {
            let (state, reason) = match &served.socket {
                SocketState::Bound => (ListenerState::Bound, None),
                SocketState::Retrying { reason, .. } => (ListenerState::Retrying, reason.clone()),
                SocketState::Refused => (ListenerState::Refused, Some(self.refusal())),
            };
            let routes = served.listener.routes.load();
            ListenerStatus {
                address: *address,
                tls: served.spec.tls,
                state,
                reason,
                rules: served.spec.rules().count(),
                rules_faulty: routes.faults.count,
                rule_faults: routes.faults.told.clone(),
                connections: served.listener.metrics.connections.get(),
                requests: served.listener.metrics.requests(),
            }
        };
        self.listeners.iter().map(status).collect()
    }

    pub(crate) fn certificate_status(&self) -> Vec<CertificateStatus> {
        let status = |(key, held): (&CertificateRef, &Held)| {
            let current = held.slot.load();
            CertificateStatus {
                certificate: key.clone(),
                names: current.as_ref().map(|c| c.names.clone()).unwrap_or_default(),
                not_after_secs: current.as_ref().map(|c| c.not_after_secs),
                fault: held.fault.as_ref().map(|fault| fault.message.clone()),
                notices: held.notices.iter().map(|notice| notice.message.clone()).collect(),
                staple_until_secs: current.as_ref().and_then(|certificate| {
                    Some(certificate.staple.as_ref()?.as_ref().ok()?.next_update_secs)
                }),
            }
        };
        self.certificates.iter().map(status).collect()
    }
}

fn as_gauge(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// An error and its causes, for a reader outside this process.
fn chain(error: &CertificateError) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

#[cfg(test)]
#[path = "tables_tests.rs"]
mod tests;
