//! The load generator: one thread, one epoll set, closed or paced.

use std::collections::HashMap;
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddrV4, TcpStream};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use rustix::event::epoll::{self, CreateFlags, Event, EventFlags};
use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, socket_with, sockopt};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};

use super::message::{CHUNK, request};
use super::server::token;

/// Work that does not end within so long after its time failed.
const PATIENCE: Duration = Duration::from_secs(10);

/// Events taken at once.
const EVENTS: usize = 256;

/// What clients do.
#[derive(Clone, Copy, Debug)]
pub(super) enum Work {
    /// One request after the other on connections that stay, for so long.
    Exchanges { connections: usize, time: Duration },
    /// Connect, one request, close; for so long, or until so many.
    Connections { at_once: usize, time: Duration, count_max: u64 },
    /// Answers of so many bytes, one a connection.
    Download { streams: usize, bytes: u64 },
    /// So many requests at a steady rate, whether or not earlier ones are answered. What no
    /// connection is free for waits, and the wait counts.
    Paced { connections: usize, per_second: u32, count: u64 },
}

/// What became of it.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    /// From the first request (or connection) to the last answer.
    pub(super) elapsed: Duration,
    /// Answers received whole.
    pub(super) answers: u64,
    /// Bytes of answers.
    pub(super) bytes: u64,
    /// Of paced requests: from when one was due to its whole answer, in nanoseconds.
    pub(super) latencies: Vec<u64>,
}

/// Bytes of a small answer.
const SMALL: u64 = 64;

/// Carries out the work. Runs in the client's namespace; any failed connection fails it.
pub(super) fn carry_out(work: Work, target: SocketAddrV4) -> Result<Outcome> {
    let mut client = Client::new(work, target)?;
    match work {
        Work::Exchanges { connections, time } => client.closed_loop(connections, time),
        Work::Connections { at_once, time, .. } => client.closed_loop(at_once, time),
        Work::Download { streams, .. } => client.closed_loop(streams, Duration::MAX),
        Work::Paced { connections, per_second, .. } => client.paced(connections, per_second),
    }?;
    Ok(client.outcome)
}

struct Client {
    epoll: OwnedFd,
    target: SocketAddrV4,
    work: Work,
    connections: HashMap<u64, Connection>,
    chunk: Vec<u8>,
    outcome: Outcome,
    /// Connections, begun or established, that owe an answer.
    busy: usize,
    /// Requests that may still be begun.
    left: u64,
    /// Length of an answer.
    answer: u64,
}

struct Connection {
    stream: TcpStream,
    /// Until it is connected it waits for nothing else.
    connected: bool,
    /// Bytes still to come; 0 when free.
    awaited: u64,
    /// When the request was due.
    due: Instant,
}

impl Client {
    fn new(work: Work, target: SocketAddrV4) -> Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC).context("the client's epoll set")?;
        let (left, answer) = match work {
            Work::Exchanges { .. } => (u64::MAX, SMALL),
            Work::Connections { count_max, .. } => (count_max, SMALL),
            Work::Download { streams, bytes } => (streams as u64, bytes / streams as u64),
            Work::Paced { count, .. } => (count, SMALL),
        };
        Ok(Self {
            epoll,
            target,
            work,
            connections: HashMap::new(),
            chunk: vec![0; CHUNK],
            outcome: Outcome::default(),
            busy: 0,
            left,
            answer,
        })
    }

    /// Every answer leads to the next request, until time or work is over.
    fn closed_loop(&mut self, connections: usize, time: Duration) -> Result<()> {
        let persistent = !matches!(self.work, Work::Connections { .. });
        if persistent {
            self.connect_all(connections)?;
        }
        let begin = Instant::now();
        let end = begin.checked_add(time);
        let give_up = end.unwrap_or(begin) + PATIENCE;
        if persistent {
            for connection in self.connections.values_mut() {
                connection.ask(self.answer, begin)?;
            }
            self.left = self.left.saturating_sub(connections as u64);
            self.busy = connections;
        } else {
            for _ in 0..connections {
                self.connect()?;
            }
        }
        let mut events = Vec::with_capacity(EVENTS);
        while self.busy > 0 {
            self.wait(&mut events, give_up)?;
            let now = Instant::now();
            let over = end.is_some_and(|end| now >= end);
            for event in &events {
                self.handle(event, over)?;
            }
        }
        self.outcome.elapsed = begin.elapsed();
        Ok(())
    }

    fn handle(&mut self, event: &Event, over: bool) -> Result<()> {
        let token = event.data.u64();
        let Some(connection) = self.connections.get_mut(&token) else { return Ok(()) };
        if !connection.connected {
            connection.finish_connecting(&self.epoll)?;
            connection.ask(self.answer, Instant::now())?;
            return Ok(());
        }
        let before = connection.awaited;
        let answered = connection.take(&mut self.chunk)?;
        self.outcome.bytes += before - connection.awaited;
        if !answered {
            return Ok(());
        }
        self.outcome.answers += 1;
        let again = !over && self.left > 0;
        if matches!(self.work, Work::Connections { .. }) {
            self.connections.remove(&token);
            self.busy -= 1;
            if again {
                self.connect()?;
            }
        } else if again {
            self.left -= 1;
            connection.ask(self.answer, Instant::now())?;
        } else {
            self.busy -= 1;
        }
        Ok(())
    }

    /// Requests leave when the timer says.
    fn paced(&mut self, connections: usize, per_second: u32) -> Result<()> {
        self.connect_all(connections)?;
        let count = self.left;
        let interval = Duration::from_secs(1) / per_second;
        let timer = timer(interval)?;
        epoll::add(&self.epoll, &timer, token(&timer), EventFlags::IN)?;
        let begin = Instant::now();
        let due_at = |number: u64| begin + interval.mul_f64(number as f64 + 1.0);
        let give_up = due_at(count) + PATIENCE;
        let mut free: Vec<u64> = self.connections.keys().copied().collect();
        let mut events = Vec::with_capacity(EVENTS);
        let mut sent = 0;
        while self.outcome.answers < count {
            self.wait(&mut events, give_up)?;
            for event in &events {
                let number = event.data.u64();
                let Some(connection) = self.connections.get_mut(&number) else {
                    // The count of expirations does not matter, the clock does; spurious
                    // wake-ups find nothing to read.
                    let _ = rustix::io::read(&timer, &mut [0_u8; 8]);
                    continue;
                };
                if connection.take(&mut self.chunk)? {
                    let latency = connection.due.elapsed().as_nanos();
                    self.outcome.latencies.push(u64::try_from(latency)?);
                    self.outcome.answers += 1;
                    free.push(number);
                }
            }
            while sent < count && due_at(sent) <= Instant::now() {
                let Some(number) = free.pop() else { break };
                if let Some(connection) = self.connections.get_mut(&number) {
                    connection.ask(self.answer, due_at(sent))?;
                }
                sent += 1;
            }
        }
        self.outcome.elapsed = begin.elapsed();
        Ok(())
    }

    fn wait(&self, events: &mut Vec<Event>, give_up: Instant) -> Result<()> {
        events.clear();
        let left = give_up.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left)?;
        match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(events), Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        ensure!(Instant::now() < give_up, "no answer from {} in time", self.target);
        Ok(())
    }

    /// Opens connections and waits until all stand.
    fn connect_all(&mut self, count: usize) -> Result<()> {
        for _ in 0..count {
            self.connect()?;
        }
        let give_up = Instant::now() + PATIENCE;
        let mut events = Vec::with_capacity(EVENTS);
        while !self.connections.values().all(|connection| connection.connected) {
            self.wait(&mut events, give_up)?;
            for event in &events {
                if let Some(connection) = self.connections.get_mut(&event.data.u64()) {
                    connection.finish_connecting(&self.epoll)?;
                }
            }
        }
        Ok(())
    }

    /// Begins one connection.
    fn connect(&mut self) -> Result<()> {
        if matches!(self.work, Work::Connections { .. }) {
            self.left -= 1;
            self.busy += 1;
        }
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket = socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)?;
        sockopt::set_tcp_nodelay(&socket, true)?;
        match connect(&socket, &self.target) {
            Ok(()) | Err(rustix::io::Errno::INPROGRESS) => {}
            Err(error) => Err(error).with_context(|| format!("connecting to {}", self.target))?,
        }
        let connection = Connection {
            stream: TcpStream::from(socket),
            connected: false,
            awaited: 0,
            due: Instant::now(),
        };
        let data = token(&connection.stream);
        epoll::add(&self.epoll, &connection.stream, data, EventFlags::OUT)?;
        self.connections.insert(data.u64(), connection);
        Ok(())
    }
}

impl Connection {
    fn finish_connecting(&mut self, epoll: &OwnedFd) -> Result<()> {
        if let Some(error) = self.stream.take_error()? {
            return Err(error).context("connecting");
        }
        self.connected = true;
        epoll::modify(epoll, &self.stream, token(&self.stream), EventFlags::IN)?;
        Ok(())
    }

    /// Sends a request; its few bytes always fit.
    fn ask(&mut self, answer: u64, due: Instant) -> Result<()> {
        self.stream.write_all(&request(answer)).context("sending a request")?;
        self.awaited = answer;
        self.due = due;
        Ok(())
    }

    /// Reads once. True: the answer is whole.
    fn take(&mut self, chunk: &mut [u8]) -> Result<bool> {
        match self.stream.read(chunk) {
            Ok(0) => Err(io::Error::from(io::ErrorKind::UnexpectedEof)).context("answer cut off"),
            Ok(length) => {
                let awaited = self.awaited.checked_sub(length as u64);
                self.awaited = awaited.context("more bytes than were asked for")?;
                Ok(self.awaited == 0)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(error).context("reading an answer"),
        }
    }
}

/// A timer that becomes readable at every interval, without the slack of other waits.
fn timer(interval: Duration) -> Result<OwnedFd> {
    let timer =
        timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
    let interval = Timespec::try_from(interval)?;
    let setting = Itimerspec { it_interval: interval, it_value: interval };
    timerfd_settime(&timer, TimerfdTimerFlags::empty(), &setting)?;
    Ok(timer)
}
