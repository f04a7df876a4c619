//! The way of sampled packets through the program, as they pass.
//!
//! ```text
//!  settings: filter, one in so many ──> program ── ring buffer ──> thread ── channel ──> reader
//!       ^                                                            │
//!       └────────── withdrawn when the thread ends, however it ends ─┘
//! ```
//!
//! One trace at a time. The thread ends with the time, the count, the reader or the data path;
//! nothing waits for a reader that is slow: what finds no room is counted.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use haflinger_core::{Protocol, ServiceKey, Snapshot};
use libbpf_rs::RingBufferBuilder;
use tokio::sync::mpsc;

use super::ask::{Chosen, Endpoint};
use super::reasons::{Reason, reason};
use super::select::Selection;
use super::{SeeError, XdpHandle, record};
use crate::engine::{Engine, lock};
use crate::mapped::value_of;
use crate::program::types;
use crate::words;

/// Longest trace in seconds: what is watched for longer is a matter for metrics.
pub const TRACE_SECS_MAX: u32 = 300;

/// Packets that one trace shows: more than anybody reads.
pub const TRACE_COUNT_MAX: u32 = 10_000;

/// Of so many packets one is shown at least: at ten million packets a second, ten.
pub const TRACE_ONE_IN_MAX: u32 = 1_000_000;

/// Events that are shown in a second. What comes beyond is counted and not shown: a trace should
/// cost no CPU that packets need.
pub const EVENTS_PER_SEC_MAX: u32 = 1_000;

/// Packets that wait for the reader: two seconds of them.
const WAITING_MAX: usize = 2 * EVENTS_PER_SEC_MAX as usize;

/// How long the thread sleeps without events, and so how late it notices that it should end.
const PAUSE: Duration = Duration::from_millis(100);

/// What the reader's callback answers when no more should be read.
const ENOUGH: i32 = -1;

/// Which packets, and how many.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceQuery {
    /// To and from these services; `None`: all.
    pub service: Option<Chosen>,
    /// To and from this client; `None`: all.
    pub client: Option<Endpoint>,
    /// To and from this VIP; `None`: all.
    pub vip: Option<Endpoint>,
    /// One packet in so many is shown, 1 to [`TRACE_ONE_IN_MAX`].
    pub one_in: u32,
    /// For how long, 1 to [`TRACE_SECS_MAX`] seconds.
    pub secs: u32,
    /// Packets at most, 1 to [`TRACE_COUNT_MAX`].
    pub count: u32,
}

/// A packet that the program has judged.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct TracedPacket {
    /// Since the trace began, in nanoseconds.
    pub nanoseconds: u64,
    /// Where it was received.
    pub interface: String,
    /// Its sender, as received.
    pub from: SocketAddr,
    /// Its destination, as received.
    pub to: SocketAddr,
    /// Its protocol: `tcp`, `udp`, `icmp`, `icmpv6` or a number.
    pub protocol: String,
    /// Length of its network layer in bytes.
    pub length: u16,
    /// Of TCP: `S`, `SA`, `A`, `FA`, `R`...
    pub flags: String,
    /// Stages passed, in order.
    pub stages: Vec<&'static str>,
    /// `pass`, `drop`, `tx`, `redirect` or `aborted`.
    pub verdict: &'static str,
    /// Why.
    pub reason: Reason,
    /// Whose it is, once the program knew.
    pub service: Option<ServiceKey>,
    /// Where its flow goes, once the program knew.
    pub backend: Option<SocketAddr>,
    /// That backend's name.
    pub backend_name: Option<Arc<str>>,
    /// Number of its flow's record.
    pub record: Option<u32>,
    /// Where it was sent.
    pub egress: Option<String>,
}

/// How a trace ended.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct TraceEnd {
    /// Packets shown.
    pub shown: u32,
    /// Packets that the filter let through, of which one in so many was shown.
    pub matched: u64,
    /// Packets that were to be shown and were too many a second.
    pub left_out: u64,
    /// Packets that were to be shown and found no room in the program's buffer.
    pub lost: u64,
    /// Why it ended, in words.
    pub because: &'static str,
}

/// What a trace tells, the end last.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Traced {
    /// A packet.
    Packet(Box<TracedPacket>),
    /// There are no more.
    End(TraceEnd),
}

impl TraceQuery {
    fn check(&self) -> Result<(), SeeError> {
        let bounded = [
            ("one-in", self.one_in, TRACE_ONE_IN_MAX),
            ("for", self.secs, TRACE_SECS_MAX),
            ("count", self.count, TRACE_COUNT_MAX),
        ];
        for (what, value, max) in bounded {
            if !(1..=max).contains(&value) {
                return Err(SeeError::Bounds { what, value: value.into(), max: max.into() });
            }
        }
        Ok(())
    }
}

/// The one place of a tracer.
struct Seat(Arc<AtomicBool>);

impl Seat {
    fn take(taken: &Arc<AtomicBool>) -> Result<Self, SeeError> {
        if taken.swap(true, Ordering::AcqRel) {
            return Err(SeeError::Busy);
        }
        Ok(Self(taken.clone()))
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

/// The filter in the program, for as long as this lives.
struct Armed<'a>(&'a Engine);

impl<'a> Armed<'a> {
    fn arm(engine: &'a Engine, selection: &Selection, one_in: u32) -> Self {
        let mut control = lock(&engine.control);
        // The filter before it counts.
        control.set_trace(selection.filter, 0);
        control.set_trace(selection.filter, one_in);
        Self(engine)
    }
}

impl Drop for Armed<'_> {
    fn drop(&mut self) {
        lock(&self.0.control).set_trace(types::flow_key::default(), 0);
    }
}

impl XdpHandle {
    /// Traces packets until the query's time or count is over, or nobody listens any more. Takes a
    /// blocking thread of the runtime for so long.
    ///
    /// # Errors
    ///
    /// No program runs, somebody traces already, the services are not there, or a number lies
    /// outside of its bounds.
    pub fn trace(
        &self,
        query: TraceQuery,
        snapshot: Arc<Snapshot>,
    ) -> Result<mpsc::Receiver<Traced>, SeeError> {
        query.check()?;
        let services = match &query.service {
            Some(chosen) => {
                let services = chosen.services(&snapshot);
                if services.is_empty() {
                    return Err(SeeError::NoService(chosen.clone()));
                }
                services
            }
            None => Vec::new(),
        };
        let engine = self.engine()?;
        let seat = Seat::take(&self.shared.tracing)?;
        let selection = Selection::of(&query, &services);
        // The end has a place of its own.
        let (sender, receiver) = mpsc::channel(WAITING_MAX + 1);
        let handle = self.clone();
        tokio::task::spawn_blocking(move || {
            let tracer = Tracer::new(&handle, &engine, &query, selection, &snapshot, sender);
            tracer.run();
            drop(seat);
        });
        Ok(receiver)
    }
}

/// One trace.
struct Tracer<'a> {
    handle: &'a XdpHandle,
    engine: &'a Arc<Engine>,
    selection: Selection,
    one_in: u32,
    count: u32,
    snapshot: &'a Snapshot,
    sender: mpsc::Sender<Traced>,
    names: BTreeMap<u32, String>,
    began: Instant,
    began_nanoseconds: u64,
    ends: Instant,
    pace: Pace,
    shown: u32,
    left_out: u64,
}

impl<'a> Tracer<'a> {
    fn new(
        handle: &'a XdpHandle,
        engine: &'a Arc<Engine>,
        query: &TraceQuery,
        selection: Selection,
        snapshot: &'a Snapshot,
        sender: mpsc::Sender<Traced>,
    ) -> Self {
        let links = &lock(&engine.interfaces).links;
        let names = links.iter().map(|link| (link.index, link.name.clone())).collect();
        let clock = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        let began = Instant::now();
        Self {
            handle,
            engine,
            selection,
            one_in: query.one_in,
            count: query.count,
            snapshot,
            sender,
            names,
            began,
            began_nanoseconds: (clock.tv_sec * 1_000_000_000 + clock.tv_nsec).cast_unsigned(),
            ends: began + Duration::from_secs(query.secs.into()),
            pace: Pace::default(),
            shown: 0,
            left_out: 0,
        }
    }

    fn run(mut self) {
        let before = self.counters();
        let because = self.watch();
        let after = self.counters();
        let end = TraceEnd {
            shown: self.shown,
            matched: after.0.saturating_sub(before.0),
            left_out: self.left_out,
            lost: after.1.saturating_sub(before.1),
            because,
        };
        // A reader that has gone needs no end.
        let _ = self.sender.try_send(Traced::End(end));
    }

    /// Packets that matched, and events lost, over all CPUs.
    fn counters(&self) -> (u64, u64) {
        let all = self.engine.loaded.trace_counters.get(0).unwrap_or_default();
        all.iter().fold((0, 0), |sum, cpu| (sum.0 + cpu.matched, sum.1 + cpu.lost))
    }

    /// Until it is over; why it is.
    fn watch(&mut self) -> &'static str {
        let engine = self.engine.clone();
        // What an earlier trace left in the buffer is not this one's.
        let mut discarding = RingBufferBuilder::new();
        let emptied = discarding.add(&engine.loaded.trace, |_| 0).is_ok()
            && discarding.build().is_ok_and(|buffer| buffer.consume().is_ok());
        if !emptied {
            return "the program's buffer cannot be read";
        }
        let armed = Armed::arm(&engine, &self.selection, self.one_in);
        let ended = std::cell::Cell::new(None);
        let tracer = std::cell::RefCell::new(self);
        let mut reading = RingBufferBuilder::new();
        let reads = |bytes: &[u8]| {
            let mut tracer = tracer.borrow_mut();
            tracer.take(bytes);
            ended.set(tracer.over());
            if ended.get().is_some() { ENOUGH } else { 0 }
        };
        if reading.add(&engine.loaded.trace, reads).is_err() {
            return "the program's buffer cannot be read";
        }
        let Ok(buffer) = reading.build() else { return "the program's buffer cannot be read" };
        let because = loop {
            // An error is the callback's word, or a signal.
            let _ = buffer.poll(PAUSE);
            if let Some(because) = ended.get().or_else(|| tracer.borrow().over()) {
                break because;
            }
        };
        drop(armed);
        because
    }

    fn over(&self) -> Option<&'static str> {
        if self.shown >= self.count {
            return Some("as many were shown as were asked for");
        }
        if Instant::now() >= self.ends {
            return Some("the time is over");
        }
        if self.sender.is_closed() {
            return Some("nobody listens");
        }
        let runs = lock(&self.handle.shared.engine).clone();
        let is_this = runs.is_some_and(|engine| Arc::ptr_eq(&engine, self.engine));
        (!is_this).then_some("the program was stopped or loaded anew")
    }

    /// One event of the buffer.
    fn take(&mut self, bytes: &[u8]) {
        let Some(event) = value_of::<types::trace_event>(bytes) else { return };
        if !self.pace.admits(self.began.elapsed().as_secs()) {
            self.left_out += 1;
            return;
        }
        let packet = self.describe(&event);
        if !self.selection.admits(&packet) {
            self.pace.give_back();
            return;
        }
        // The last place is the end's.
        let is_room = self.sender.capacity() > 1;
        if is_room && self.sender.try_send(Traced::Packet(Box::new(packet))).is_ok() {
            self.shown += 1;
        } else {
            self.left_out += 1;
        }
    }

    fn describe(&self, event: &types::trace_event) -> TracedPacket {
        let name = |index: u32| {
            self.names.get(&index).cloned().unwrap_or_else(|| format!("interface {index}"))
        };
        let maps = &self.engine.maps;
        let passed = |stage: types::stage| event.stages & stage.0 != 0;
        let of_flow =
            passed(types::stage::STAGE_FLOW_FOUND) || passed(types::stage::STAGE_FLOW_CREATED);
        let of_service = of_flow || passed(types::stage::STAGE_SERVICE_FOUND);
        let service = of_service.then(|| maps.services.read(event.service).key);
        let service = service.and_then(|key| words::service_of(&key));
        let backend = (event.backend != 0).then(|| maps.backends.read(event.backend));
        let backend = backend.map(|record| words::socket(&record.address, record.port));
        let protocol = words::protocol_of(event.packet.protocol);
        let is_tcp = protocol == Some(Protocol::Tcp);
        let backend_name = match (&service, &backend) {
            (Some(service), Some(backend)) => record::backend_name(self.snapshot, service, backend),
            _ => None,
        };
        TracedPacket {
            nanoseconds: event.nanoseconds.saturating_sub(self.began_nanoseconds),
            interface: name(event.ingress),
            from: words::socket(&event.packet.source, event.packet.source_port),
            to: words::socket(&event.packet.destination, event.packet.destination_port),
            protocol: protocol_name(event.packet.protocol),
            length: event.length,
            flags: if is_tcp { flags(event.tcp_flags) } else { String::new() },
            stages: stages(event.stages),
            verdict: verdict(event.verdict),
            reason: reason(event.reason),
            service,
            backend,
            backend_name,
            record: of_flow.then_some(event.record),
            egress: (event.egress != 0).then(|| name(event.egress)),
        }
    }
}

/// So many events a second, by the second in which they are read.
#[derive(Debug, Default)]
struct Pace {
    second: u64,
    shown: u32,
}

impl Pace {
    fn admits(&mut self, second: u64) -> bool {
        if self.second != second {
            *self = Self { second, shown: 0 };
        }
        self.shown += 1;
        self.shown <= EVENTS_PER_SEC_MAX
    }

    /// It was not shown after all.
    fn give_back(&mut self) {
        self.shown -= 1;
    }
}

/// The IANA keyword of what the program looks into, else the number.
fn protocol_name(number: u8) -> String {
    match (words::protocol_of(number), number) {
        (Some(known), _) => known.to_string(),
        (None, 1) => "icmp".to_owned(),
        (None, 58) => "icmpv6".to_owned(),
        (None, number) => number.to_string(),
    }
}

/// As tcpdump(1) writes them, from the lowest bit on.
fn flags(bits: u8) -> String {
    let letters = ['F', 'S', 'R', 'P', 'A', 'U', 'E', 'W'];
    letters.iter().enumerate().filter(|(bit, _)| bits >> bit & 1 == 1).map(|(_, l)| *l).collect()
}

fn stages(bits: u32) -> Vec<&'static str> {
    let all = [
        (types::stage::STAGE_PARSED, "parsed"),
        (types::stage::STAGE_FLOW_FOUND, "flow found"),
        (types::stage::STAGE_SERVICE_FOUND, "service found"),
        (types::stage::STAGE_FLOW_CREATED, "flow created"),
        (types::stage::STAGE_REWRITTEN, "rewritten"),
        (types::stage::STAGE_ENCAPSULATED, "encapsulated"),
        (types::stage::STAGE_ROUTED, "routed"),
        (types::stage::STAGE_ANSWERED, "answered"),
    ];
    all.into_iter().filter(|(stage, _)| bits & stage.0 != 0).map(|(_, name)| name).collect()
}

/// `enum xdp_action` of the kernel.
fn verdict(number: u32) -> &'static str {
    ["aborted", "drop", "pass", "tx", "redirect"].get(number as usize).copied().unwrap_or("unknown")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query() -> TraceQuery {
        TraceQuery { service: None, client: None, vip: None, one_in: 1, secs: 10, count: 100 }
    }

    #[test]
    fn numbers_outside_of_their_bounds_are_named() {
        for (query, what) in [
            (TraceQuery { one_in: 0, ..query() }, "one-in"),
            (TraceQuery { secs: 301, ..query() }, "for"),
            (TraceQuery { count: 10_001, ..query() }, "count"),
        ] {
            let said = query.check().unwrap_err().to_string();
            assert!(said.starts_with(&format!("{what}: ")), "{said}");
        }
        assert!(query().check().is_ok());
    }

    #[test]
    fn there_is_one_seat_and_it_is_left_however_the_tracer_ends() {
        let taken = Arc::new(AtomicBool::new(false));
        let seat = Seat::take(&taken).unwrap();
        assert!(matches!(Seat::take(&taken), Err(SeeError::Busy)));
        drop(seat);
        assert!(Seat::take(&taken).is_ok());
    }

    #[test]
    fn no_more_than_so_many_are_shown_in_a_second() {
        let mut pace = Pace::default();
        let admitted = (0..2 * EVENTS_PER_SEC_MAX).filter(|_| pace.admits(7)).count();
        assert_eq!(admitted, EVENTS_PER_SEC_MAX as usize);
        assert!(pace.admits(8));
    }

    #[test]
    fn flags_protocols_and_stages_have_names() {
        assert_eq!(flags(0b1_0010), "SA");
        assert_eq!([6, 17, 1, 58, 47].map(protocol_name), ["tcp", "udp", "icmp", "icmpv6", "47"]);
        assert_eq!(stages(1 | 4 | 8), ["parsed", "service found", "flow created"]);
        assert_eq!([verdict(1), verdict(4), verdict(9)], ["drop", "redirect", "unknown"]);
    }
}
