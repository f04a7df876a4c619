//! The state machine of one peer (RFC 4271, 8), without I/O.
//!
//! A peer can have two connections at once, one opened by each side. [`Session`] holds both,
//! with the connect timer between them, and [`collision`] says which survives (RFC 4271, 6.8).
//!
//! ```text
//!        Start             Connected           OPEN              KEEPALIVE
//!  Idle ───────> Connect ───────────> OpenSent ─────> OpenConfirm ─────────> Established
//!   ^               │ failed             ^                                        │
//!   │ after a fault v                    │ Offered                                │
//!   └─────────── Active ─────────────────┘ <──────────────────────────────────────┘
//! ```
//!
//! The caller feeds [`Input`]s, carries the [`Output`]s out in order, and wakes the machine with
//! [`Input::Tick`] at [`Session::deadline`]. Invariants: no output names a connection that the
//! machine does not hold; every connection that is given up is closed by an output; after `Stop`
//! there is neither a connection nor a deadline. The machine never reads a clock and draws its
//! jitter from the seed that it was given.

pub mod collision;
mod jitter;
mod link;

use std::time::Duration;

use serde::Serialize;

use crate::model::{Family, HoldTime, Moment, RouterId};
use crate::wire::{Cease, Context, Message, Notification, Open, Update, notification};
use collision::Way;
use jitter::Jitter;
pub use link::Negotiated;
use link::{Link, Phase};

/// How long a TCP connection may take to open. Shorter than the kernel's own two minutes, so
/// that a router that comes back is tried again soon.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a neighbour may take to send its OPEN. RFC 4271, 8.2.2 suggests four minutes; one
/// lets a neighbour that accepts and says nothing be tried again sooner.
pub const OPEN_TIMEOUT: Duration = Duration::from_secs(60);
/// The longest wait between attempts, before jitter: a router that was away for hours is met
/// again within two minutes.
pub const RETRY_MAX: Duration = Duration::from_secs(120);
/// A session that lasted this long forgets earlier failures.
pub const STABLE_AFTER: Duration = Duration::from_secs(30);

/// What the machine needs to know about its peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Our AS.
    pub local_as: u32,
    /// The AS that the peer must be in.
    pub remote_as: u32,
    /// Our BGP identifier.
    pub router_id: RouterId,
    /// The hold time that we offer.
    pub hold_time: HoldTime,
    /// The first wait after a failed attempt; each further failure doubles it up to
    /// [`RETRY_MAX`].
    pub connect_retry: Duration,
    /// Only wait for the peer to connect.
    pub passive: bool,
}

/// The states of RFC 4271, 8.2.2, for a peer as a whole: that of its further connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Not started, or waiting out a fault; connections are refused.
    Idle,
    /// Waiting to be connected to, or to connect again.
    Active,
    /// Opening a TCP connection.
    Connect,
    /// Our OPEN is sent.
    OpenSent,
    /// The peer's OPEN is accepted.
    OpenConfirm,
    /// Routes are exchanged.
    Established,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// Begin.
    Start,
    /// End for good, with this NOTIFICATION.
    Stop(Notification),
    /// End what there is, with this NOTIFICATION, and try again.
    Reset(Notification),
    /// The connection asked for by [`Output::Connect`] is open.
    Connected,
    /// It could not be opened.
    ConnectFailed,
    /// The peer has opened a connection, which awaits [`Output::Accept`] or [`Output::Refuse`].
    Offered,
    /// A message came.
    Received(Way, Message),
    /// Something came that is no message: the NOTIFICATION to answer with.
    Malformed(Way, Notification),
    /// The connection broke or was closed by the peer.
    Closed(Way),
    /// The deadline has passed.
    Tick,
}

/// Why a connection ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// We ended it.
    #[error("sent {0}")]
    Sent(Notification),
    /// The peer ended it.
    #[error("received {0}")]
    Received(Notification),
    /// It broke without a word.
    #[error("connection closed by peer or network")]
    Closed,
}

/// What is to be done, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Open a TCP connection to the peer.
    Connect,
    /// Give the attempt up: it is no longer needed.
    CancelConnect,
    /// Give the attempt up: it took longer than [`CONNECT_TIMEOUT`].
    ConnectTimedOut,
    /// Take the offered connection as the incoming one.
    Accept,
    /// Close the offered connection with this NOTIFICATION.
    Refuse(Notification),
    /// Send a message.
    Send(Way, Message),
    /// Close a connection once everything is sent.
    Close(Way),
    /// A connection is over; it is closed already or by the next output.
    Ended(Way, Reason),
    /// Routes may be sent now.
    Up(Way, Negotiated),
    /// They may no more; the peer has forgotten ours.
    Down,
    /// The peer sent routes.
    Learned(Update),
    /// The peer wants all our routes of a family again.
    Refresh(Family),
}

/// What becomes of the outgoing connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Connector {
    Quiet,
    /// Connect at that time.
    Waiting(Moment),
    /// Being opened; give up at that time.
    Connecting(Moment),
    /// After a fault: refuse everything until then.
    Penalty(Moment),
}

/// The state machine of one peer.
#[derive(Debug)]
pub struct Session {
    config: Config,
    running: bool,
    connector: Connector,
    outgoing: Option<Link>,
    incoming: Option<Link>,
    /// Attempts that failed since a session was last stable.
    failures: u32,
    jitter: Jitter,
    outputs: Vec<Output>,
}

impl Session {
    /// A machine in Idle. `seed` decides its jitter.
    #[must_use]
    pub fn new(config: Config, seed: u64) -> Session {
        Session {
            config,
            running: false,
            connector: Connector::Quiet,
            outgoing: None,
            incoming: None,
            failures: 0,
            jitter: Jitter::new(seed),
            outputs: Vec::new(),
        }
    }

    /// Takes one input at `now`, which never runs backwards. The outputs are to be carried out
    /// in order.
    pub fn handle(&mut self, input: Input, now: Moment) -> Vec<Output> {
        match input {
            Input::Start => self.start(now),
            Input::Stop(farewell) => self.stop(&farewell),
            Input::Reset(farewell) => self.reset(&farewell, now),
            Input::Connected => self.connected(now),
            Input::ConnectFailed => {
                if matches!(self.connector, Connector::Connecting(_)) {
                    self.connector = Connector::Quiet;
                    self.retry(false, now);
                }
            }
            Input::Offered => self.offered(now),
            Input::Received(way, message) => self.received(way, message, now),
            Input::Malformed(way, answer) => self.fail(way, answer, now),
            Input::Closed(way) => self.end(way, Reason::Closed, now),
            Input::Tick => self.tick(now),
        }
        std::mem::take(&mut self.outputs)
    }

    /// When to call with [`Input::Tick`], if ever.
    #[must_use]
    pub fn deadline(&self) -> Option<Moment> {
        let connector = match self.connector {
            Connector::Quiet => None,
            // While a connection is being negotiated none is opened beside it.
            Connector::Waiting(_) if self.has_link() => None,
            Connector::Waiting(at) | Connector::Connecting(at) | Connector::Penalty(at) => Some(at),
        };
        let links = [&self.outgoing, &self.incoming].into_iter().flatten();
        links.filter_map(Link::deadline).chain(connector).min()
    }

    /// The state of the peer.
    #[must_use]
    pub fn state(&self) -> State {
        let links = [&self.outgoing, &self.incoming].into_iter().flatten();
        let link = links.map(|link| link.phase.state()).max();
        link.unwrap_or(match self.connector {
            Connector::Connecting(_) => State::Connect,
            Connector::Penalty(_) => State::Idle,
            Connector::Waiting(_) | Connector::Quiet if self.running => State::Active,
            _ => State::Idle,
        })
    }

    /// How the messages of a connection are to be read and written.
    #[must_use]
    pub fn context(&self, way: Way) -> Context {
        let negotiated = self.link(way).as_ref().and_then(|link| link.phase.negotiated());
        let internal = self.config.local_as == self.config.remote_as;
        negotiated.map_or(Context { four_octet_as: true, internal }, |session| session.context)
    }

    fn link(&self, way: Way) -> &Option<Link> {
        match way {
            Way::Outgoing => &self.outgoing,
            Way::Incoming => &self.incoming,
        }
    }

    fn link_mut(&mut self, way: Way) -> &mut Option<Link> {
        match way {
            Way::Outgoing => &mut self.outgoing,
            Way::Incoming => &mut self.incoming,
        }
    }

    fn has_link(&self) -> bool {
        self.outgoing.is_some() || self.incoming.is_some()
    }

    fn is_established(&self) -> bool {
        self.state() == State::Established
    }

    fn start(&mut self, now: Moment) {
        if !self.running {
            self.running = true;
            self.failures = 0;
            self.connect(now);
        }
    }

    fn connect(&mut self, now: Moment) {
        if self.config.passive {
            self.connector = Connector::Quiet;
        } else {
            self.connector = Connector::Connecting(now + CONNECT_TIMEOUT);
            self.outputs.push(Output::Connect);
        }
    }

    fn cancel_connect(&mut self) {
        if matches!(self.connector, Connector::Connecting(_)) {
            self.outputs.push(Output::CancelConnect);
        }
        self.connector = Connector::Quiet;
    }

    fn stop(&mut self, farewell: &Notification) {
        self.running = false;
        self.close_all(farewell);
    }

    fn reset(&mut self, farewell: &Notification, now: Moment) {
        if self.running {
            self.close_all(farewell);
            self.retry(false, now);
        }
    }

    fn close_all(&mut self, farewell: &Notification) {
        self.cancel_connect();
        for way in Way::BOTH {
            self.part(way, farewell.clone());
        }
    }

    /// Sends a NOTIFICATION and closes, without deciding what comes next.
    fn part(&mut self, way: Way, farewell: Notification) -> Option<Link> {
        let link = self.link_mut(way).take()?;
        self.outputs.push(Output::Send(way, Message::Notification(farewell.clone())));
        self.outputs.push(Output::Ended(way, Reason::Sent(farewell)));
        self.outputs.push(Output::Close(way));
        if link.phase.state() == State::Established {
            self.outputs.push(Output::Down);
        }
        Some(link)
    }

    /// Decides when to try again, once no connection is left. A fault in what the peer sent
    /// keeps its connections out for the while (RFC 4271, 8.1.1: DampPeerOscillations); other
    /// endings do not, so that a router that restarts is met at once.
    fn retry(&mut self, fault: bool, now: Moment) {
        let in_flight = matches!(self.connector, Connector::Connecting(_));
        if !self.running || self.has_link() || (in_flight && !fault) {
            return;
        }
        self.cancel_connect();
        let doublings = self.failures.min(16);
        self.failures = self.failures.saturating_add(1);
        let wait = self.config.connect_retry.saturating_mul(1 << doublings);
        let longest = RETRY_MAX.max(self.config.connect_retry);
        let at = now + self.jitter.spread(wait.min(longest));
        self.connector = match (fault, self.config.passive) {
            (true, _) => Connector::Penalty(at),
            (false, true) => Connector::Quiet,
            (false, false) => Connector::Waiting(at),
        };
    }

    fn connected(&mut self, now: Moment) {
        if !matches!(self.connector, Connector::Connecting(_)) {
            return;
        }
        self.connector = Connector::Quiet;
        self.open(Way::Outgoing, now);
    }

    fn offered(&mut self, now: Moment) {
        let penalty = matches!(self.connector, Connector::Penalty(_));
        if !self.running || penalty {
            self.outputs.push(Output::Refuse(Notification::cease(Cease::ConnectionRejected)));
        } else if self.is_established() {
            // RFC 4271, 6.8: a collision with an established connection closes the new one.
            self.outputs.push(Output::Refuse(Notification::cease(Cease::ConnectionCollision)));
        } else {
            // A peer that connects anew has given its former attempt up.
            self.part(Way::Incoming, Notification::cease(Cease::ConnectionCollision));
            self.outputs.push(Output::Accept);
            self.open(Way::Incoming, now);
        }
    }

    fn open(&mut self, way: Way, now: Moment) {
        let open = Open {
            asn: self.config.local_as,
            hold_time: self.config.hold_time,
            router_id: self.config.router_id,
            capabilities: crate::wire::Capabilities::ours(),
        };
        *self.link_mut(way) = Some(Link::new(now + OPEN_TIMEOUT));
        self.outputs.push(Output::Send(way, Message::Open(open)));
    }

    fn received(&mut self, way: Way, message: Message, now: Moment) {
        let Some(link) = self.link_mut(way) else { return };
        if let Message::Notification(reason) = message {
            self.end(way, Reason::Received(reason), now);
            return;
        }
        match (&link.phase, message) {
            (Phase::OpenSent, Message::Open(open)) => self.opened(way, &open, now),
            (Phase::OpenConfirm(negotiated), Message::Keepalive) => {
                let negotiated = negotiated.clone();
                link.establish(now);
                self.cancel_connect();
                self.outputs.push(Output::Up(way, negotiated));
            }
            (Phase::Established(..), Message::Keepalive | Message::EndOfRib(_)) => {
                link.heard(now);
            }
            (Phase::Established(..), Message::Update(update)) => {
                link.heard(now);
                self.outputs.push(Output::Learned(update));
            }
            (Phase::Established(..), Message::RouteRefresh(family)) => {
                link.heard(now);
                self.outputs.extend(family.map(Output::Refresh));
            }
            (phase, _) => {
                let subcode = phase.unexpected_subcode();
                self.fail(way, Notification::new(notification::STATE_MACHINE, subcode, &[]), now);
            }
        }
    }

    /// An OPEN came in OpenSent: check it, settle a collision, confirm it.
    fn opened(&mut self, way: Way, open: &Open, now: Moment) {
        let negotiated = match Negotiated::of(&self.config, open) {
            Ok(negotiated) => negotiated,
            Err(answer) => return self.fail(way, answer, now),
        };
        let other = self.link(way.other()).as_ref().map_or(State::Idle, |link| link.phase.state());
        let us = (self.config.router_id, self.config.local_as);
        let them = (open.router_id, open.asn);
        match collision::loser(way, other, us, them) {
            Some(loser) if loser == way => {
                self.part(way, Notification::cease(Cease::ConnectionCollision));
                return;
            }
            Some(loser) => {
                self.part(loser, Notification::cease(Cease::ConnectionCollision));
            }
            None => {}
        }
        let interval = negotiated.hold_time.keepalive().map(|every| self.jitter.spread(every));
        if let Some(link) = self.link_mut(way) {
            link.confirm(negotiated, interval, now);
            self.outputs.push(Output::Send(way, Message::Keepalive));
        }
    }

    /// Ends a connection for a fault of the peer.
    fn fail(&mut self, way: Way, answer: Notification, now: Moment) {
        let fault = !answer.is_cease();
        if let Some(link) = self.part(way, answer) {
            self.ended(&link, fault, now);
        }
    }

    /// A connection ended without our doing.
    fn end(&mut self, way: Way, reason: Reason, now: Moment) {
        let Some(link) = self.link_mut(way).take() else { return };
        self.outputs.push(Output::Ended(way, reason));
        self.outputs.push(Output::Close(way));
        if link.phase.state() == State::Established {
            self.outputs.push(Output::Down);
        }
        self.ended(&link, false, now);
    }

    fn ended(&mut self, link: &Link, fault: bool, now: Moment) {
        if link.was_stable(now) {
            self.failures = 0;
        }
        self.retry(fault, now);
    }

    fn tick(&mut self, now: Moment) {
        for way in Way::BOTH {
            self.tick_link(way, now);
        }
        match self.connector {
            Connector::Waiting(at) if at <= now && !self.has_link() => self.connect(now),
            Connector::Penalty(at) if at <= now => self.connect(now),
            Connector::Connecting(at) if at <= now => {
                self.outputs.push(Output::ConnectTimedOut);
                self.connector = Connector::Quiet;
                self.retry(false, now);
            }
            _ => {}
        }
    }

    fn tick_link(&mut self, way: Way, now: Moment) {
        let Some(link) = self.link_mut(way) else { return };
        if link.hold.is_some_and(|at| at <= now) {
            let answer = Notification::new(notification::HOLD_TIMER, 0, &[]);
            if let Some(link) = self.part(way, answer) {
                // Silence is no fault in what the peer sent: its next connection is welcome.
                self.ended(&link, false, now);
            }
            return;
        }
        if link.keepalive.is_some_and(|at| at <= now) {
            let every = link.phase.negotiated().and_then(|session| session.hold_time.keepalive());
            let interval = every.map(|every| self.jitter.spread(every));
            if let Some(link) = self.link_mut(way) {
                link.keepalive = interval.map(|interval| now + interval);
                self.outputs.push(Output::Send(way, Message::Keepalive));
            }
        }
    }
}
