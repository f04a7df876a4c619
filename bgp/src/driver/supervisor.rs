//! The supervisor: one task that owns the listener and the list of peers.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::peer::{self, Control, Ending};
use super::{Shared, socket};
use crate::export::Export;
use crate::rib::Delta;
use crate::settings::{Distance, PeerSettings, Secret, Settings};
use crate::wire::{Cease, Notification};

/// Most prefixes that are announced: five times the 50,000 services that one appliance is made
/// for. Of more, the first ones in order are announced and the rest is shown as refused.
pub const DESIRED_MAX: usize = 250_000;
/// How long a stopping peer may take to be told all withdrawals.
pub const DRAIN_MAX: Duration = Duration::from_secs(5);
/// Connections of one peer that wait to be looked at. A peer has one, or two when it is hasty.
const OFFERS_MAX: usize = 4;
/// Pause after a listener that cannot be opened, and before a peer task that failed runs again.
const PAUSE: Duration = Duration::from_secs(1);
/// What peers are told when the speaker stops (RFC 9003).
const FAREWELL: &str = "haflinger is stopping";

/// The desired set, with what led to it from the one before.
#[derive(Debug, Default)]
pub(super) struct Desired {
    pub(super) version: u64,
    pub(super) set: Arc<BTreeSet<IpNet>>,
    pub(super) delta: Delta,
}

/// A running peer task, seen from above.
#[derive(Debug)]
struct Running {
    /// With what it was started; only its export may have changed since.
    settings: PeerSettings,
    identity: Identity,
    control: watch::Sender<Control>,
    offers: mpsc::Sender<TcpStream>,
}

/// The settings of the speaker whose change restarts every session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Identity {
    local_as: u32,
    router_id: crate::model::RouterId,
    hold_time: crate::model::HoldTime,
    connect_retry_secs: u16,
}

impl Identity {
    fn of(settings: &Settings) -> Identity {
        Identity {
            local_as: settings.local_as,
            router_id: settings.router_id,
            hold_time: settings.hold_time,
            connect_retry_secs: settings.connect_retry_secs,
        }
    }
}

struct Supervisor {
    shared: Arc<Shared>,
    settings: Arc<Settings>,
    desired: watch::Sender<Arc<Desired>>,
    peers: BTreeMap<IpAddr, Running>,
    tasks: JoinSet<IpAddr>,
    listener: Option<TcpListener>,
    /// What the listener was opened with.
    listening: Option<ListenKey>,
    /// When to try again to open it, or to accept from it.
    listen_at: Option<Instant>,
}

/// What a listener depends on: its address, and the address, password and TTL security of each
/// peer that has one of these.
type ListenKey = (SocketAddr, Vec<(IpAddr, Option<Secret>, bool)>);

/// Runs until `shutdown` and every peer is parted from.
pub(super) async fn run(
    shared: Arc<Shared>,
    mut settings: watch::Receiver<Arc<Settings>>,
    mut wanted: watch::Receiver<Arc<BTreeSet<IpNet>>>,
    shutdown: CancellationToken,
) {
    let current = Arc::clone(&settings.borrow_and_update());
    let mut supervisor = Supervisor {
        shared,
        settings: current,
        desired: watch::Sender::new(Arc::default()),
        peers: BTreeMap::new(),
        tasks: JoinSet::new(),
        listener: None,
        listening: None,
        listen_at: None,
    };
    supervisor.want(&Arc::clone(&wanted.borrow_and_update()));
    supervisor.reconcile(Duration::ZERO);
    let mut has_source = true;
    loop {
        let listen_at = supervisor.listen_at;
        tokio::select! {
            () = shutdown.cancelled() => break,
            change = wanted.changed(), if has_source => match change {
                Ok(()) => supervisor.want(&Arc::clone(&wanted.borrow_and_update())),
                // Fail static: the last set stays announced.
                Err(_) => has_source = false,
            },
            Ok(()) = settings.changed() => {
                supervisor.settings = Arc::clone(&settings.borrow_and_update());
                supervisor.reconcile(Duration::ZERO);
            }
            connection = accept(supervisor.listener.as_ref()), if listen_at.is_none() => {
                supervisor.offer(connection);
            }
            () = sleep_until(listen_at.unwrap_or_else(Instant::now)), if listen_at.is_some() => {
                supervisor.listen_at = None;
                supervisor.listen();
            }
            Some(ended) = supervisor.tasks.join_next() => supervisor.joined(ended),
        }
    }
    supervisor.stop().await;
}

async fn accept(listener: Option<&TcpListener>) -> io::Result<(TcpStream, SocketAddr)> {
    match listener {
        Some(listener) => listener.accept().await,
        None => std::future::pending().await,
    }
}

impl Supervisor {
    /// Publishes a new desired set with its difference to the last one.
    fn want(&mut self, set: &Arc<BTreeSet<IpNet>>) {
        let refused = set.len().saturating_sub(DESIRED_MAX);
        let set = if refused == 0 {
            Arc::clone(set)
        } else {
            tracing::error!(refused, limit = DESIRED_MAX, "more prefixes than can be announced");
            Arc::new(set.iter().take(DESIRED_MAX).copied().collect())
        };
        let last = Arc::clone(&self.desired.borrow());
        let delta = Delta::between(&last.set, &set);
        {
            let mut board = self.shared.board();
            (board.desired, board.refused) = (set.len(), refused);
        }
        let metrics = &self.shared.metrics;
        metrics.desired.set(i64::try_from(set.len()).unwrap_or(i64::MAX));
        metrics.refused.set(i64::try_from(refused).unwrap_or(i64::MAX));
        if !delta.is_empty() {
            let version = last.version + 1;
            self.desired.send_replace(Arc::new(Desired { version, set, delta }));
        }
    }

    /// Brings listener and peer tasks in line with the settings.
    fn reconcile(&mut self, pause: Duration) {
        let settings = Arc::clone(&self.settings);
        let identity = Identity::of(&settings);
        for (address, running) in &self.peers {
            let wanted = settings.peers.iter().find(|peer| peer.address == *address);
            let farewell = match wanted {
                None => Cease::PeerDeconfigured,
                Some(peer) if running.identity == identity && running.can_become(peer) => {
                    let export = Arc::new(Export::new(&settings, peer));
                    running.control.send_if_modified(|control| {
                        let changed = control.export != export;
                        control.export = export;
                        changed
                    });
                    continue;
                }
                Some(_) => Cease::OtherConfigurationChange,
            };
            running.stop(Ending::Now(Notification::cease(farewell)));
        }
        self.listen();
        for peer in &settings.peers {
            if !self.peers.contains_key(&peer.address) {
                self.start(peer, pause);
            }
        }
    }

    fn start(&mut self, peer: &PeerSettings, pause: Duration) {
        let export = Arc::new(Export::new(&self.settings, peer));
        let (control, control_seen) = watch::channel(Control { export, ending: None });
        let (offers, offered) = mpsc::channel(OFFERS_MAX);
        let seat = peer::Seat {
            shared: Arc::clone(&self.shared),
            speaker: Arc::clone(&self.settings),
            peer: peer.clone(),
            desired: self.desired.subscribe(),
            control: control_seen,
            offers: offered,
        };
        let address = peer.address;
        self.tasks.spawn(async move {
            tokio::time::sleep(pause).await;
            peer::run(seat).await;
            address
        });
        let identity = Identity::of(&self.settings);
        let running = Running { settings: peer.clone(), identity, control, offers };
        self.peers.insert(address, running);
    }

    /// A peer task has ended: because it was told to, or because it failed.
    fn joined(&mut self, ended: Result<IpAddr, tokio::task::JoinError>) {
        let pause = match &ended {
            Ok(_) => Duration::ZERO,
            Err(error) => {
                tracing::error!(%error, "peer task failed and will be started again");
                PAUSE
            }
        };
        // A task that failed cannot say whose it was; its receivers are gone, though.
        let shared = &self.shared;
        self.peers.retain(|address, running| {
            let gone = running.offers.is_closed();
            if gone {
                shared.board().peers.remove(address);
                let name = &running.settings.name;
                if !self.settings.peers.iter().any(|peer| peer.name == *name) {
                    shared.metrics.forget(name);
                }
            }
            !gone
        });
        self.reconcile(pause);
    }

    /// Opens, reopens or closes the listener, as the settings want.
    fn listen(&mut self) {
        let settings = &self.settings;
        let key = settings.listen.map(|address| {
            // Peers that need nothing of the listener may come and go without touching it.
            let peers = settings.peers.iter().map(|peer| {
                let secured = matches!(peer.distance, Distance::Security(_));
                (peer.address, peer.md5_password.clone(), secured)
            });
            (address, peers.filter(|(_, signed, secured)| signed.is_some() || *secured).collect())
        });
        if key == self.listening && (self.listener.is_some() || key.is_none()) {
            return;
        }
        // The old one goes first: the new one may want the same port with other signatures.
        (self.listener, self.listening, self.listen_at) = (None, key, None);
        let opened = settings.listen.map(|address| socket::listen(address, settings));
        let mut board = self.shared.board();
        board.listen_error = None;
        match opened {
            None => {}
            Some(Ok(listener)) => {
                tracing::info!(address = ?settings.listen, "accepting bgp connections");
                self.listener = Some(listener);
            }
            Some(Err(error)) => {
                tracing::warn!(address = ?settings.listen, %error, "cannot accept bgp connections");
                board.listen_error = Some(error.to_string());
                self.listen_at = Some(Instant::now() + PAUSE);
            }
        }
    }

    /// Hands a connection to the task of its peer.
    fn offer(&mut self, connection: io::Result<(TcpStream, SocketAddr)>) {
        let (stream, from) = match connection {
            Ok(connection) => connection,
            Err(error) => {
                // Out of descriptors, most likely: the connection stays in the backlog meanwhile.
                tracing::warn!(%error, "cannot accept a bgp connection");
                self.listen_at = Some(Instant::now() + PAUSE);
                return;
            }
        };
        let address = from.ip().to_canonical();
        let running = self.peers.iter().find(|(peer, _)| peer.to_canonical() == address);
        let Some((_, running)) = running else {
            tracing::debug!(%from, "closing a bgp connection that is no peer's");
            self.shared.metrics.strangers.inc();
            self.shared.board().strangers += 1;
            return;
        };
        if running.offers.try_send(stream).is_err() {
            self.shared.metrics.offers_dropped.inc();
        }
    }

    /// Parts from all peers: withdraw, flush, say goodbye, close.
    async fn stop(mut self) {
        self.listener = None;
        for running in self.peers.values() {
            running.stop(Ending::Drained(Notification::shutdown(FAREWELL)));
        }
        while self.tasks.join_next().await.is_some() {}
        let names: Vec<String> =
            self.peers.values().map(|running| running.settings.name.clone()).collect();
        for name in names {
            self.shared.metrics.forget(&name);
        }
        self.shared.board().peers.clear();
    }
}

impl Running {
    /// Whether the running session can go on under these settings.
    fn can_become(&self, peer: &PeerSettings) -> bool {
        let exported = PeerSettings {
            communities: self.settings.communities.clone(),
            next_hop_v4: self.settings.next_hop_v4,
            next_hop_v6: self.settings.next_hop_v6,
            ..peer.clone()
        };
        self.settings == exported && self.control.borrow().ending.is_none()
    }

    /// Ends the task. The first ending counts.
    fn stop(&self, ending: Ending) {
        self.control.send_if_modified(|control| {
            let first = control.ending.is_none();
            if first {
                control.ending = Some(ending);
            }
            first
        });
    }
}
