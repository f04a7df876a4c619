//! One peer's task: the session, its streams and its Adj-RIB-Out.
//!
//! It waits for one event, feeds it to the session, carries the outputs out, fills and flushes
//! the streams, shows its status, and waits again.

mod telling;

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::SystemTime;

use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::stream::Stream;
use super::supervisor::{DRAIN_MAX, Desired};
use super::{Shared, socket};
use crate::export::{Export, Unannounced};
use crate::fsm::collision::Way;
use crate::fsm::{Config, Input, Negotiated, Output, Reason, Session, State};
use crate::model::{Moment, PerFamily};
use crate::rib::{AdjRibOut, Delta};
use crate::settings::{PeerSettings, Settings};
use crate::status::{NotificationStatus, PeerStatus, unix_secs};
use crate::wire::{Framing, Message, Notification, Path, decode_message, encode_message, frame};

/// Messages that are looked at before timers and other connections get their turn.
pub const MESSAGES_PER_WAKEUP_MAX: usize = 64;
/// Prefixes encoded at once: at most 34 KiB.
const PREFIXES_PER_BATCH: usize = 2000;
/// Connections being closed at once. A peer whose connections end faster than that has the next
/// ones cut off.
const CLOSING_MAX: usize = 4;

/// How a peer task ends.
#[derive(Clone, Debug)]
pub(super) enum Ending {
    /// At once.
    Now(Notification),
    /// After everything is withdrawn.
    Drained(Notification),
}

/// What the supervisor wants of a running peer.
#[derive(Clone, Debug)]
pub(super) struct Control {
    pub(super) export: Arc<Export>,
    pub(super) ending: Option<Ending>,
}

/// What a peer task is given.
#[derive(Debug)]
pub(super) struct Seat {
    pub(super) shared: Arc<Shared>,
    pub(super) speaker: Arc<Settings>,
    pub(super) peer: PeerSettings,
    pub(super) desired: watch::Receiver<Arc<Desired>>,
    pub(super) control: watch::Receiver<Control>,
    pub(super) offers: mpsc::Receiver<TcpStream>,
}

type Connecting = Pin<Box<dyn Future<Output = io::Result<TcpStream>> + Send>>;

/// What woke the task.
enum Event {
    Desired,
    Control,
    Offer(TcpStream),
    Connect(io::Result<TcpStream>),
    Ready(Way, io::Result<()>),
    ClosedOne,
    /// There is more to tell, and room for it.
    More,
    Deadline,
}

/// An established session.
struct Established {
    way: Way,
    negotiated: Negotiated,
    paths: PerFamily<Result<Path, Unannounced>>,
    rib: AdjRibOut,
}

struct Peer {
    seat: Seat,
    internal: bool,
    session: Session,
    epoch: Instant,
    outgoing: Option<Stream>,
    incoming: Option<Stream>,
    /// A connection that the session has yet to accept or refuse.
    offered: Option<TcpStream>,
    connecting: Option<Connecting>,
    /// Connections that broke while outputs were being carried out.
    lost: Vec<Way>,
    established: Option<Established>,
    /// Families that the peer asked for since the last filling; many requests count once.
    refresh: PerFamily<bool>,
    seen: Arc<Desired>,
    export: Arc<Export>,
    /// The goodbye to say once all is withdrawn, or at that time.
    draining: Option<(Notification, Instant)>,
    over: bool,
    closing: JoinSet<()>,
    status: PeerStatus,
    shown: Option<PeerStatus>,
}

/// Runs until told to end.
pub(super) async fn run(seat: Seat) {
    let mut peer = Peer::new(seat);
    peer.feed(Input::Start);
    // A stop may have been asked for before the task first ran.
    peer.obey();
    loop {
        peer.fill();
        peer.flush();
        peer.finish_drain();
        peer.show();
        if peer.over {
            break;
        }
        let event = peer.next_event().await;
        peer.on(event);
    }
    while peer.closing.join_next().await.is_some() {}
}

impl Peer {
    fn new(mut seat: Seat) -> Peer {
        let speaker = &seat.speaker;
        let config = Config {
            local_as: speaker.local_as,
            remote_as: seat.peer.remote_as,
            router_id: speaker.router_id,
            hold_time: speaker.hold_time,
            connect_retry: std::time::Duration::from_secs(speaker.connect_retry_secs.into()),
            passive: seat.peer.passive,
        };
        let internal = config.local_as == config.remote_as;
        let status = idle_status(&seat.peer);
        let seen = Arc::clone(&seat.desired.borrow_and_update());
        let export = Arc::clone(&seat.control.borrow_and_update().export);
        Peer {
            internal,
            session: Session::new(config, rand::random()),
            epoch: Instant::now(),
            outgoing: None,
            incoming: None,
            offered: None,
            connecting: None,
            lost: Vec::new(),
            established: None,
            refresh: PerFamily::default(),
            seen,
            export,
            draining: None,
            over: false,
            closing: JoinSet::new(),
            status,
            shown: None,
            seat,
        }
    }

    fn now(&self) -> Moment {
        self.epoch.elapsed()
    }

    fn stream(&mut self, way: Way) -> &mut Option<Stream> {
        match way {
            Way::Outgoing => &mut self.outgoing,
            Way::Incoming => &mut self.incoming,
        }
    }

    fn name(&self) -> &str {
        &self.seat.peer.name
    }

    /// When to wake without an event.
    fn deadline(&self) -> Option<Instant> {
        let session = self.session.deadline().map(|at| self.epoch + at);
        let streams = [&self.outgoing, &self.incoming].into_iter().flatten();
        let sends = streams.filter_map(Stream::send_deadline);
        let drain = self.draining.as_ref().map(|(_, at)| *at);
        sends.chain(session).chain(drain).min()
    }

    async fn next_event(&mut self) -> Event {
        let deadline = self.deadline();
        let more = self.has_more();
        let Peer { seat, connecting, outgoing, incoming, closing, .. } = self;
        let connect = async {
            match connecting {
                Some(attempt) => attempt.await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            // The supervisor's end of a channel outlives the task, or the task is aborted.
            Ok(()) = seat.desired.changed() => Event::Desired,
            Ok(()) = seat.control.changed() => Event::Control,
            Some(stream) = seat.offers.recv() => Event::Offer(stream),
            outcome = connect => Event::Connect(outcome),
            outcome = ready(outgoing.as_ref()) => Event::Ready(Way::Outgoing, outcome),
            outcome = ready(incoming.as_ref()) => Event::Ready(Way::Incoming, outcome),
            Some(_) = closing.join_next() => Event::ClosedOne,
            // The kernel took everything before all was encoded: go on after the others' turn.
            () = tokio::task::yield_now(), if more => Event::More,
            () = sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => {
                Event::Deadline
            }
        }
    }

    fn on(&mut self, event: Event) {
        match event {
            Event::Desired => self.take_desired(),
            Event::Control => self.obey(),
            Event::Offer(stream) => {
                let adopted = socket::adopt(&stream, &self.seat.peer, self.internal);
                if let Err(error) = adopted {
                    tracing::debug!(peer = self.name(), %error, "offered connection is gone");
                    return;
                }
                self.offered = Some(stream);
                self.feed(Input::Offered);
                self.offered = None;
            }
            Event::Connect(outcome) => self.connected(outcome),
            Event::Ready(way, Ok(())) => self.receive(way),
            Event::Ready(way, Err(_)) => self.feed(Input::Closed(way)),
            Event::ClosedOne | Event::More => {}
            Event::Deadline => self.tick(),
        }
    }

    fn connected(&mut self, outcome: io::Result<TcpStream>) {
        self.connecting = None;
        match outcome.and_then(Stream::new) {
            Ok(stream) => {
                self.outgoing = Some(stream);
                self.feed(Input::Connected);
            }
            Err(error) => {
                self.connect_failed(&error);
                self.feed(Input::ConnectFailed);
            }
        }
    }

    fn connect_failed(&mut self, error: &io::Error) {
        tracing::debug!(peer = self.name(), %error, "cannot connect");
        self.seat.shared.metrics.connect_failures.with_label_values(&[self.name()]).inc();
        self.status.last_error = Some(format!("connect: {error}"));
    }

    fn tick(&mut self) {
        let now = Instant::now();
        for way in Way::BOTH {
            let stalled = self.stream(way).as_ref().and_then(Stream::send_deadline);
            if stalled.is_some_and(|at| at <= now) {
                // RFC 9687, 3: error code 8, Send Hold Timer Expired.
                self.feed(Input::Malformed(way, Notification::new(8, 0, &[])));
            }
        }
        self.feed(Input::Tick);
    }

    /// Takes what the peer sent, in portions.
    fn receive(&mut self, way: Way) {
        let Some(stream) = self.stream(way) else { return };
        let open = stream.has_frame() || stream.read().unwrap_or(false);
        for _ in 0..MESSAGES_PER_WAKEUP_MAX {
            let context = self.session.context(way);
            let Some(stream) = self.stream(way) else { return };
            let decoded = match frame(stream.inbox()) {
                Framing::NeedMore => break,
                Framing::Malformed(answer) => Err(answer),
                Framing::Frame(length) => {
                    let decoded = decode_message(&stream.inbox()[..length], &context);
                    stream.consume(length);
                    decoded
                }
            };
            self.seat.shared.metrics.messages.with_label_values(&[self.name(), "received"]).inc();
            self.feed(match decoded {
                Ok(message) => Input::Received(way, message),
                Err(answer) => Input::Malformed(way, answer),
            });
        }
        if !open {
            self.feed(Input::Closed(way));
        }
    }

    /// Gives the session an input and carries out what comes of it.
    fn feed(&mut self, input: Input) {
        let mut next = Some(input);
        while let Some(input) = next {
            let now = self.now();
            for output in self.session.handle(input, now) {
                self.carry_out(output);
            }
            next = self.lost.pop().map(Input::Closed);
        }
    }

    fn carry_out(&mut self, output: Output) {
        match output {
            Output::Connect => {
                let attempt = socket::connect(self.seat.peer.clone(), self.internal);
                self.connecting = Some(Box::pin(attempt));
            }
            Output::CancelConnect => self.connecting = None,
            Output::ConnectTimedOut => {
                self.connecting = None;
                self.connect_failed(&io::Error::from(io::ErrorKind::TimedOut));
            }
            Output::Accept => match self.offered.take().map(Stream::new) {
                Some(Ok(stream)) => self.incoming = Some(stream),
                _ => self.lost.push(Way::Incoming),
            },
            Output::Refuse(farewell) => {
                let context = self.session.context(Way::Incoming);
                if let Some(Ok(mut stream)) = self.offered.take().map(Stream::new) {
                    let message = Message::Notification(farewell);
                    if encode_message(&message, &context, &mut stream.outbox).is_ok() {
                        self.close(stream);
                    }
                }
            }
            Output::Send(way, message) => self.send(way, &message),
            Output::Close(way) => {
                if let Some(stream) = self.stream(way).take() {
                    self.close(stream);
                }
            }
            Output::Ended(way, reason) => self.ended(way, &reason),
            Output::Up(way, negotiated) => self.up(way, negotiated),
            Output::Down => self.down(),
            Output::Learned(update) => self.learned(&update),
            Output::Refresh(family) => *self.refresh.of_mut(family) = true,
        }
    }

    fn send(&mut self, way: Way, message: &Message) {
        let context = self.session.context(way);
        let Some(stream) = self.stream(way) else { return };
        if let Err(error) = encode_message(message, &context, &mut stream.outbox) {
            // Nothing that the session or the packing makes is unwritable; a bug must show.
            tracing::error!(peer = self.name(), %error, "bgp message not sent");
            return;
        }
        let metrics = &self.seat.shared.metrics;
        metrics.messages.with_label_values(&[self.name(), "sent"]).inc();
        if let Message::Notification(notification) = message {
            metrics.notifications.with_label_values(&[self.name(), "sent"]).inc();
            let shown = NotificationStatus::new(notification, SystemTime::now());
            self.status.last_notification_sent = Some(shown);
        }
    }

    fn close(&mut self, stream: Stream) {
        if self.closing.len() < CLOSING_MAX {
            self.closing.spawn(stream.close());
        }
    }

    fn ended(&mut self, way: Way, reason: &Reason) {
        tracing::info!(peer = self.name(), ?way, %reason, "bgp connection ended");
        self.status.last_error = Some(reason.to_string());
        if let Reason::Received(notification) = reason {
            let metrics = &self.seat.shared.metrics;
            metrics.notifications.with_label_values(&[self.name(), "received"]).inc();
            let shown = NotificationStatus::new(notification, SystemTime::now());
            self.status.last_notification_received = Some(shown);
        }
    }

    /// Does what the supervisor wants.
    fn obey(&mut self) {
        let control = self.seat.control.borrow_and_update().clone();
        if control.export != self.export {
            self.export = control.export;
            self.export_changed();
        }
        match control.ending {
            Some(Ending::Now(farewell)) => {
                self.feed(Input::Stop(farewell));
                self.over = true;
            }
            Some(Ending::Drained(farewell)) if self.draining.is_none() => {
                self.draining = Some((farewell, Instant::now() + DRAIN_MAX));
                if let Some(up) = &mut self.established {
                    up.rib.apply(&Delta::between(&self.seen.set, &Default::default()));
                }
            }
            _ => {}
        }
    }

    fn finish_drain(&mut self) {
        let Some((farewell, until)) = &self.draining else { return };
        if self.is_settled() || *until <= Instant::now() {
            let farewell = farewell.clone();
            self.feed(Input::Stop(farewell));
            self.over = true;
        }
    }

    fn show(&mut self) {
        let state = self.session.state();
        if state != self.status.state {
            self.status.state = state;
            self.status.since_unix_secs = unix_secs(SystemTime::now());
        }
        self.status.settled = state == State::Established && self.is_settled();
        self.status.announced =
            self.established.as_ref().map(|up| up.rib.told()).unwrap_or_default();
        if self.shown.as_ref() != Some(&self.status) {
            self.seat.shared.metrics.show(&self.status);
            let mut board = self.seat.shared.board();
            board.peers.insert(self.status.address, self.status.clone());
            drop(board);
            self.shown = Some(self.status.clone());
        }
    }
}

async fn ready(stream: Option<&Stream>) -> io::Result<()> {
    match stream {
        Some(stream) => stream.ready().await,
        None => std::future::pending().await,
    }
}

fn idle_status(peer: &PeerSettings) -> PeerStatus {
    PeerStatus {
        name: peer.name.clone(),
        address: peer.address,
        port: peer.port,
        remote_as: peer.remote_as,
        state: State::Idle,
        since_unix_secs: unix_secs(SystemTime::now()),
        hold_time_secs: None,
        router_id: None,
        capabilities: None,
        local_address: None,
        announced: PerFamily::default(),
        unannounced: Vec::new(),
        settled: false,
        established_count: 0,
        received_prefixes: 0,
        treated_as_withdraw: 0,
        last_error: None,
        last_notification_sent: None,
        last_notification_received: None,
    }
}
