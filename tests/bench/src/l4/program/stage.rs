//! One service on the program, and whatever else is to stand beside it.
//!
//! ```text
//!  clients 10.16.0.0/12 ── client ┌─────────┐ server ── backends 10.81.0.0/16
//!       2001:db8:16::/48          │ program │                  2001:db8:81::/48
//!                                 └─────────┘
//! ```
//!
//! Nobody is at the other ends: test runs hand frames to the program, and these go nowhere. But
//! routes and neighbours are there, so that the kernel's lookup finds what it would find.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use haflinger_core::{BackendSet, ForwardingMode, Protocol, Service};
use haflinger_xdp::harness::{Harness, PORT_BITS, Packets, Subject};
use haflinger_xdp::{Capacities, Settings, take_off};
use tokio::runtime::Runtime;

use super::Row;
use super::frames::{Carries, ends, frame};
use crate::l4::datapath::{Datapath, settings};
use crate::l4::world::{CLIENT_CORE, Middle, TO_CLIENT, TO_SERVER, World, pin};
use crate::snapshot::{backends, service, snapshot};

/// Services beside the tested one, and that one.
pub(super) const MANY_SERVICES: usize = 50_000;

/// Backends of the tested service.
const BACKENDS: u8 = 64;

/// First port of each client.
const CLIENT_PORT: u16 = 10_000;

/// The last 32 bits of the first established flow's client.
const ESTABLISHED: u32 = u32::from_be_bytes([10, 16, 0, 0]);

/// The same of the first flow that a SYN opens.
const OPENING: u32 = u32::from_be_bytes([10, 20, 0, 0]);

/// Records for flows that nobody has answered, where each SYN is to find a free one.
const OPENING_RECORDS: u32 = 1 << 21;

/// The binary logarithm of flows that one repetition can open at most.
const OPENINGS_BITS: u32 = 19;

// Verdicts, `enum xdp_action` of linux/bpf.h.
const DROP: u32 = 1;
const PASS: u32 = 2;
const REDIRECT: u32 = 4;

/// What the tested service is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Tcp4,
    Tcp6,
    Udp4,
    /// TCP over IPv4, for clients of 10.0.0.0/8 alone.
    Ranged,
    /// TCP over IPv4, with all records for unanswered flows taken.
    Flooded,
}

impl Kind {
    /// Its name in the report.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Tcp4 => "tcp4",
            Self::Tcp6 => "tcp6",
            Self::Udp4 => "udp4",
            Self::Ranged => "ranged",
            Self::Flooded => "flooded",
        }
    }

    fn number(self) -> u8 {
        match self {
            Self::Tcp4 => 11,
            Self::Tcp6 => 12,
            Self::Udp4 => 13,
            Self::Ranged => 14,
            Self::Flooded => 15,
        }
    }

    fn v6(self) -> bool {
        self == Self::Tcp6
    }

    fn protocol(self) -> Protocol {
        if self == Self::Udp4 { Protocol::Udp } else { Protocol::Tcp }
    }

    /// An address of its family: 10.NET.x.y or 2001:db8:NET::x:y.
    fn address(self, net: u8, host: u32) -> IpAddr {
        let [_, _, third, last] = host.to_be_bytes();
        match self.v6() {
            false => Ipv4Addr::new(10, net, third, last).into(),
            true => {
                let net = u16::from_be_bytes([0, net / 10 * 16 + net % 10]);
                let host = u16::from_be_bytes([third, last]);
                Ipv6Addr::new(0x2001, 0xdb8, net, 0, 0, 0, 0, host).into()
            }
        }
    }

    fn tested(self, backends: Arc<BackendSet>) -> Result<Service> {
        let vip = SocketAddr::new(self.address(80, 1), 80);
        let mut tested = service(vip, ForwardingMode::Nat, backends);
        // Nothing is to time out while it is measured.
        tested.timeouts.opening_secs = 300;
        tested.timeouts.udp_secs = 3600;
        if self == Self::Ranged {
            tested.source_ranges = vec!["10.0.0.0/8".parse()?];
        }
        Ok(tested)
    }
}

/// The program with its state. Lives in the namespace of the thread that made it.
pub(super) struct Stage {
    kind: Kind,
    tested: Service,
    others: Vec<Service>,
    generation: u64,
    /// Flows that have been established.
    established: u32,
    /// The client of the next flow that a SYN opens.
    opening: u32,
    harness: Harness,
    datapath: Datapath,
    runtime: Runtime,
}

impl Stage {
    /// Does something with a stage, which is gone afterwards.
    pub(super) fn with<T: Send + 'static>(
        world: &World,
        kind: Kind,
        work: impl FnOnce(&mut Self) -> T + Send + 'static,
    ) -> Result<T> {
        let middle = world.middle(kind.name(), kind.number())?;
        surround(world, &middle, kind)?;
        let pin_dir = world.bpf.join(kind.name());
        let settings = settings_for(kind, &middle, pin_dir.clone());
        let done = middle.namespace.enter(move || {
            pin(CLIENT_CORE)?;
            let mut stage = Self::start(kind, settings)?;
            anyhow::Ok(work(&mut stage))
        })?;
        take_off(&pin_dir).context("taking the program off")?;
        done
    }

    fn start(kind: Kind, settings: Settings) -> Result<Self> {
        let members: Vec<SocketAddr> = (1..=BACKENDS)
            .map(|host| SocketAddr::new(kind.address(81, host.into()), 8080))
            .collect();
        let tested = kind.tested(backends(&members, kind.protocol()))?;
        let one = backends(&members[..1], kind.protocol());
        let others = (1..MANY_SERVICES)
            .map(|number| {
                let host = u32::try_from(number).unwrap_or_default();
                let vip = SocketAddr::new(kind.address(82, host), 80);
                service(vip, ForwardingMode::Nat, one.clone())
            })
            .collect();
        // Its threads inherit this thread's namespace.
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        let first = snapshot(1, [tested.clone()]);
        let datapath = runtime.block_on(Datapath::start(settings, first))?;
        let harness = Harness::of(interface(TO_CLIENT)?).context("preparing test runs")?;
        let (generation, established, opening) = (1, 0, OPENING);
        let stage = Self {
            kind,
            tested,
            others,
            generation,
            established,
            opening,
            harness,
            datapath,
            runtime,
        };
        stage.wait_for_next_hop()?;
        Ok(stage)
    }

    /// Until its address is known, what goes there is not redirected.
    fn wait_for_next_hop(&self) -> Result<()> {
        let opens = || self.open(self.client(OPENING - 1, 0));
        let give_up = Instant::now() + Duration::from_secs(10);
        while let Err(error) = opens() {
            if Instant::now() > give_up {
                return Err(error).context("the next hop to the backends is not resolved");
            }
            sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    pub(super) fn kind(&self) -> Kind {
        self.kind
    }

    /// Flows that have been established.
    pub(super) fn established(&self) -> u32 {
        self.established
    }

    /// So many services, one of them the tested one.
    pub(super) fn serve(&mut self, count: usize) -> Result<()> {
        self.generation += 1;
        let others = self.others.iter().take(count - 1).cloned();
        let services = others.chain([self.tested.clone()]);
        self.datapath.publish(snapshot(self.generation, services));
        self.runtime.block_on(self.datapath.serves(count))
    }

    /// Makes it 2^bits established flows.
    pub(super) fn establish(&mut self, bits: u32) -> Result<()> {
        while self.established < 1 << bits {
            let client = self.client(ESTABLISHED, self.established);
            self.open(client).with_context(|| format!("opening a flow of {client}"))?;
            self.established += 1;
        }
        Ok(())
    }

    /// Hands over what opens a flow, from both ends.
    fn open(&self, client: SocketAddr) -> Result<()> {
        let vip = self.vip();
        let to_backend = |carries| -> Result<_> {
            let run = self.harness.run(&frame(client, vip, carries)?)?;
            ensure!(run.verdict == REDIRECT, "{carries:?}: verdict {}", run.verdict);
            ends(&run.frame)
        };
        let udp = self.kind.protocol() == Protocol::Udp;
        let (source, backend) = to_backend(if udp { Carries::Datagram } else { Carries::Syn })?;
        let answer = if udp { Carries::Datagram } else { Carries::SynAck(1001) };
        let run = self.harness.run(&frame(backend, source, answer)?)?;
        ensure!(run.verdict == REDIRECT, "the answer: verdict {}", run.verdict);
        ensure!(ends(&run.frame)? == (vip, client), "the answer is not translated back");
        if !udp {
            to_backend(Carries::Ack(1001))?;
        }
        Ok(())
    }

    /// Fills the records for flows that nobody has answered.
    pub(super) fn fill_opening(&mut self) -> Result<()> {
        // More than there are records.
        self.time(Row::Flood, Subject::Program, 0, 1 << OPENINGS_BITS)?;
        Ok(())
    }

    /// Runs so many packets; how long they took. Of established flows 2^`turns_bits` take turns.
    pub(super) fn time(
        &mut self,
        row: Row,
        subject: Subject,
        turns_bits: u32,
        packets: u32,
    ) -> Result<Duration> {
        let datagram = self.kind.protocol() == Protocol::Udp;
        let usual = if datagram { Carries::Datagram } else { Carries::Ack(1001) };
        let elsewhere = SocketAddr::new(self.kind.address(99, 1), 80);
        let outside = u32::from_be_bytes([192, 168, 0, 1]);
        let (to, carries, first, flows_bits, expected) = match row {
            Row::Established => (self.vip(), usual, ESTABLISHED, turns_bits, REDIRECT),
            Row::NotOurs => (elsewhere, usual, ESTABLISHED, 0, PASS),
            Row::Drop => (self.vip(), usual, outside, 0, DROP),
            Row::Syn | Row::Flood => {
                (self.vip(), Carries::Syn, self.opening, OPENINGS_BITS, REDIRECT)
            }
        };
        if matches!(row, Row::Syn | Row::Flood) {
            self.opening += 1 << (OPENINGS_BITS - PORT_BITS);
        }
        let frame = frame(self.client(first, 0), to, carries)?;
        let packets_of = Packets {
            frame: &frame,
            v6: self.kind.v6(),
            address: first,
            port: CLIENT_PORT,
            flows_bits,
        };
        let (verdict, elapsed) = self.harness.time(subject, &packets_of, packets)?;
        let expected = if subject == Subject::Nothing { PASS } else { expected };
        ensure!(verdict == expected, "{row:?}: verdict {verdict} instead of {expected}");
        Ok(elapsed)
    }

    fn vip(&self) -> SocketAddr {
        SocketAddr::new(self.tested.key.vip, self.tested.key.port)
    }

    /// The client of a flow, as the harness numbers them.
    fn client(&self, first: u32, number: u32) -> SocketAddr {
        let last = first + (number >> PORT_BITS);
        let offset = number & ((1 << PORT_BITS) - 1);
        let port = CLIENT_PORT + u16::try_from(offset).unwrap_or_default();
        let address = match self.kind.v6() {
            false => IpAddr::from(last.to_be_bytes()),
            true => {
                let [a, b, c, d] = last.to_be_bytes();
                let (high, low) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
                Ipv6Addr::new(0x2001, 0xdb8, 0x16, 0, 0, 0, high, low).into()
            }
        };
        SocketAddr::new(address, port)
    }
}

fn settings_for(kind: Kind, middle: &Middle, pin_dir: std::path::PathBuf) -> Settings {
    let mut sources: Vec<IpAddr> = middle.sources().map(IpAddr::from).into();
    let v6 = |last| Ipv6Addr::new(0x2001, 0xdb8, 0x74, 0, 0, 0, 0, last);
    sources.extend((1..=4).map(|last| IpAddr::from(v6(last))));
    let defaults = settings(pin_dir, [TO_CLIENT, TO_SERVER], sources);
    let opening_flows = match kind {
        Kind::Tcp4 => OPENING_RECORDS,
        _ => defaults.capacities.opening_flows,
    };
    Settings {
        capacities: Capacities {
            opening_flows,
            established_flows: 1 << 21,
            buckets: 1 << 24,
            ..defaults.capacities
        },
        new_flows_rate: 0,
        ..defaults
    }
}

/// Routes to clients and backends. The next hop towards backends answers, since the daemon keeps
/// it resolved; that towards clients need not.
fn surround(world: &World, middle: &Middle, kind: Kind) -> Result<()> {
    let number = kind.number();
    // The address that the frames are sent to.
    middle.namespace.ip(&format!(
        "link set {TO_CLIENT} address 02:00:00:00:00:02\n\
         route add 10.16.0.0/12 via 10.71.{number}.2\n\
         route add 10.81.0.0/16 via 10.72.{number}.2\n\
         neigh replace 10.71.{number}.2 lladdr 02:00:00:00:71:02 dev {TO_CLIENT} nud permanent\n"
    ))?;
    if kind.v6() {
        let device = middle.client_device();
        world.server.ip(&format!("addr add 2001:db8:72::2/64 dev {device} nodad\n"))?;
        middle.namespace.ip(&format!(
            "addr add 2001:db8:71::1/64 dev {TO_CLIENT} nodad\n\
             addr add 2001:db8:72::1/64 dev {TO_SERVER} nodad\n\
             route add 2001:db8:16::/48 via 2001:db8:71::2\n\
             route add 2001:db8:81::/48 via 2001:db8:72::2\n\
             neigh replace 2001:db8:71::2 lladdr 02:00:00:00:71:02 dev {TO_CLIENT} nud permanent\n"
        ))?;
    }
    Ok(())
}

/// The index of an interface of this thread's namespace.
fn interface(name: &str) -> Result<u32> {
    let socket = rustix::net::socket(
        rustix::net::AddressFamily::INET,
        rustix::net::SocketType::DGRAM,
        None,
    )?;
    Ok(rustix::net::netdevice::name_to_index(socket, name)?)
}
