//! Two state machines on a simulated network with virtual time.
//!
//! ```text
//!   side 0 ── connections, each an ordered pipe of octets with a delay per message ── side 1
//! ```
//!
//! Messages cross as octets, through the encoder of one side and the decoder of the other. The
//! network can go down: then everything in flight is lost and a connection that lost something
//! is dead for good, as it would be by the time the timers have run out.

use std::collections::BTreeMap;
use std::time::Duration;

use haflinger_bgp::fsm::collision::Way;
use haflinger_bgp::fsm::{Config, Input, Output, Reason, Session, State};
use haflinger_bgp::model::{HoldTime, RouterId};
use haflinger_bgp::wire::{
    Capabilities, Framing, Message, Notification, Open, decode_message, encode_message, frame,
};

type Connection = usize;

/// The configuration of the side with an identifier that ends in `last`: odd ones are in AS
/// 64513 and even ones in AS 64512.
pub(crate) fn config(last: u8) -> Config {
    let asn = 64_512 + u32::from(last % 2);
    Config {
        local_as: asn,
        remote_as: 129_025 - asn,
        router_id: RouterId::new([192, 0, 2, last].into()).unwrap(),
        hold_time: HoldTime::from_secs(9).unwrap(),
        connect_retry: Duration::from_secs(5),
        passive: false,
    }
}

/// The OPEN that a side sends.
pub(crate) fn open_of(config: &Config) -> Open {
    Open {
        asn: config.local_as,
        hold_time: config.hold_time,
        router_id: config.router_id,
        capabilities: Capabilities::ours(),
    }
}

enum Event {
    /// The opener's handshake is done.
    Connected(Connection),
    /// The connection waits at the other side.
    Offered(Connection),
    /// Octets for a side, or the end of them.
    Octets(Connection, usize, Option<Vec<u8>>),
}

struct Side {
    session: Session,
    attempt: Option<Connection>,
    offered: Option<Connection>,
    outgoing: Option<Connection>,
    incoming: Option<Connection>,
    heard: Vec<Notification>,
    said: Vec<Notification>,
    keepalives: usize,
    ups: usize,
}

/// The pair.
pub(crate) struct Pair {
    now: Duration,
    sides: [Side; 2],
    /// Who opened each connection.
    openers: Vec<usize>,
    /// Connections that lost something.
    dead: Vec<bool>,
    /// The latest arrival on each direction of each connection: pipes keep their order.
    latest: BTreeMap<(Connection, usize), Duration>,
    events: BTreeMap<(Duration, u64), Event>,
    serial: u64,
    delays: Vec<u64>,
    drawn: usize,
    down: bool,
}

impl Pair {
    /// With a delay of ten milliseconds for everything.
    pub(crate) fn new(one: Config, two: Config) -> Pair {
        Pair::with(one, two, vec![10], 42)
    }

    /// With delays, in milliseconds, that are drawn in turn.
    pub(crate) fn with(one: Config, two: Config, delays: Vec<u64>, seed: u64) -> Pair {
        let side = |config, seed| Side {
            session: Session::new(config, seed),
            attempt: None,
            offered: None,
            outgoing: None,
            incoming: None,
            heard: Vec::new(),
            said: Vec::new(),
            keepalives: 0,
            ups: 0,
        };
        Pair {
            now: Duration::ZERO,
            sides: [side(one, seed), side(two, seed.wrapping_add(1))],
            openers: Vec::new(),
            dead: Vec::new(),
            latest: BTreeMap::new(),
            events: BTreeMap::new(),
            serial: 0,
            delays,
            drawn: 0,
            down: false,
        }
    }

    pub(crate) fn start(&mut self) {
        self.start_one(0);
        self.start_one(1);
    }

    pub(crate) fn start_one(&mut self, side: usize) {
        self.feed(side, Input::Start);
    }

    /// Gives one side an input.
    pub(crate) fn feed(&mut self, side: usize, input: Input) {
        for output in self.sides[side].session.handle(input, self.now) {
            self.carry_out(side, output);
        }
    }

    /// Lets time pass.
    pub(crate) fn run(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            let event = self.events.first_key_value().map(|((at, _), _)| *at);
            let tick = |side: &Side| side.session.deadline();
            let ticks = [tick(&self.sides[0]), tick(&self.sides[1])];
            let next = [event, ticks[0], ticks[1]].into_iter().flatten().min();
            let Some(at) = next.filter(|at| *at <= end) else { break };
            self.now = self.now.max(at);
            if event == Some(at) {
                let (_, event) = self.events.pop_first().unwrap();
                self.happen(event);
            } else {
                // A timer may fire late, in the middle of other things; late is the next event.
                let side = usize::from(ticks[0] != Some(at));
                self.feed(side, Input::Tick);
            }
        }
        self.now = end;
    }

    pub(crate) fn network_down(&mut self) {
        self.down = true;
    }

    pub(crate) fn network_up(&mut self) {
        self.down = false;
    }

    pub(crate) fn established(&self, side: usize) -> bool {
        self.sides[side].session.state() == State::Established
    }

    pub(crate) fn both_established(&self) -> bool {
        self.established(0) && self.established(1)
    }

    /// How many sessions have come up, on both sides together.
    pub(crate) fn ever_established(&self) -> usize {
        self.sides[0].ups + self.sides[1].ups
    }

    /// NOTIFICATIONs that a side has received.
    pub(crate) fn heard(&self, side: usize) -> &[Notification] {
        &self.sides[side].heard
    }

    /// NOTIFICATIONs with which a side has ended connections.
    pub(crate) fn said(&self, side: usize) -> &[Notification] {
        &self.sides[side].said
    }

    pub(crate) fn sent_keepalives(&self, side: usize) -> usize {
        self.sides[side].keepalives
    }

    /// Connections ever attempted.
    pub(crate) fn connects(&self) -> usize {
        self.openers.len()
    }

    fn held(&self) -> Vec<Connection> {
        let sides = self.sides.iter().flat_map(|side| [side.outgoing, side.incoming]);
        let mut held: Vec<Connection> = sides.flatten().collect();
        held.sort_unstable();
        held.dedup();
        held
    }

    /// Connections that either side holds.
    pub(crate) fn open_connections(&self) -> usize {
        self.held().len()
    }

    /// Who opened the only connection.
    pub(crate) fn opener(&self) -> Option<usize> {
        match self.held()[..] {
            [connection] => Some(self.openers[connection]),
            _ => None,
        }
    }

    fn slot(&mut self, side: usize, way: Way) -> &mut Option<Connection> {
        match way {
            Way::Outgoing => &mut self.sides[side].outgoing,
            Way::Incoming => &mut self.sides[side].incoming,
        }
    }

    fn delay(&mut self) -> Duration {
        self.drawn += 1;
        Duration::from_millis(self.delays[self.drawn % self.delays.len()])
    }

    fn schedule(&mut self, at: Duration, event: Event) {
        self.serial += 1;
        self.events.insert((at, self.serial), event);
    }

    /// Puts octets, or the end of them, into a pipe.
    fn transmit(&mut self, connection: Connection, to: usize, octets: Option<Vec<u8>>) {
        let arrival = self.now + self.delay();
        let latest = self.latest.entry((connection, to)).or_default();
        *latest = arrival.max(*latest);
        let at = *latest;
        self.schedule(at, Event::Octets(connection, to, octets));
    }

    fn carry_out(&mut self, side: usize, output: Output) {
        match output {
            Output::Connect => {
                let connection = self.openers.len();
                self.openers.push(side);
                self.dead.push(false);
                self.sides[side].attempt = Some(connection);
                let (done, offered) = (self.now + self.delay(), self.now + self.delay());
                // Nothing may overtake the handshake.
                self.latest.insert((connection, 1 - side), offered.max(done));
                self.schedule(done, Event::Connected(connection));
                self.schedule(offered.max(done), Event::Offered(connection));
            }
            Output::CancelConnect | Output::ConnectTimedOut => {
                if let Some(connection) = self.sides[side].attempt.take() {
                    self.transmit(connection, 1 - side, None);
                }
            }
            Output::Accept => self.sides[side].incoming = self.sides[side].offered.take(),
            Output::Refuse(farewell) => {
                let connection = self.sides[side].offered.take().unwrap();
                self.send(side, connection, Way::Incoming, &Message::Notification(farewell));
                self.transmit(connection, 1 - side, None);
            }
            Output::Send(way, message) => {
                self.sides[side].keepalives += usize::from(message == Message::Keepalive);
                let connection = self.slot(side, way).unwrap();
                self.send(side, connection, way, &message);
            }
            Output::Close(way) => {
                let connection = self.slot(side, way).take().unwrap();
                self.transmit(connection, 1 - side, None);
            }
            Output::Ended(_, Reason::Received(reason)) => self.sides[side].heard.push(reason),
            Output::Ended(_, Reason::Sent(reason)) => self.sides[side].said.push(reason),
            Output::Up(..) => self.sides[side].ups += 1,
            _ => {}
        }
    }

    fn send(&mut self, side: usize, connection: Connection, way: Way, message: &Message) {
        let mut octets = Vec::new();
        let context = self.sides[side].session.context(way);
        encode_message(message, &context, &mut octets).unwrap();
        self.transmit(connection, 1 - side, Some(octets));
    }

    fn happen(&mut self, event: Event) {
        let (Event::Connected(connection)
        | Event::Offered(connection)
        | Event::Octets(connection, ..)) = &event;
        if self.down || self.dead[*connection] {
            self.dead[*connection] = true;
            return;
        }
        match event {
            Event::Connected(connection) => {
                let opener = self.openers[connection];
                if self.sides[opener].attempt == Some(connection) {
                    self.sides[opener].attempt = None;
                    self.sides[opener].outgoing = Some(connection);
                    self.feed(opener, Input::Connected);
                }
            }
            Event::Offered(connection) => {
                let acceptor = 1 - self.openers[connection];
                self.sides[acceptor].offered = Some(connection);
                self.feed(acceptor, Input::Offered);
            }
            Event::Octets(connection, to, octets) => self.arrive(connection, to, octets),
        }
    }

    fn arrive(&mut self, connection: Connection, to: usize, octets: Option<Vec<u8>>) {
        let way = if self.openers[connection] == to { Way::Outgoing } else { Way::Incoming };
        if *self.slot(to, way) != Some(connection) {
            // Nobody holds that end any more: TCP resets, unless this was the end anyway.
            if octets.is_some() {
                self.transmit(connection, 1 - to, None);
            }
            return;
        }
        let Some(octets) = octets else { return self.feed(to, Input::Closed(way)) };
        assert_eq!(frame(&octets), Framing::Frame(octets.len()));
        let context = self.sides[to].session.context(way);
        let input = match decode_message(&octets, &context) {
            Ok(message) => Input::Received(way, message),
            Err(answer) => Input::Malformed(way, answer),
        };
        self.feed(to, input);
    }
}
