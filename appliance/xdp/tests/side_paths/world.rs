//! The program in a network of its own: a client's side and a backends' side, each with a router
//! whose address and link-layer address are known, and flows put into the maps by hand.
//!
//! ```text
//!   clients ── router 02::c1 ── front | program | back ── router 02::b1 ── backends
//!   198.51.100.0/24, 2001:db8:c::/48               10.1.0.0/16, fd00:1::/48
//! ```

use std::cell::RefCell;
use std::mem::MaybeUninit;
use std::net::{IpAddr, SocketAddr};
use std::process::Command;
use std::rc::Rc;
use std::time::Duration;

use haflinger_xdp::program::{HaflingerSkel, HaflingerSkelBuilder, types};
use libbpf_rs::skel::{OpenSkel as _, SkelBuilder as _};
use libbpf_rs::{MapCore, MapFlags, OpenObject, PerfBufferBuilder, ProgramInput};
use rustix::thread::UnshareFlags;

use crate::packets::{Ends, TCP, frame};

/// Of this host's interface, and of the router behind it.
pub(crate) const FRONT: [u8; 6] = [2, 0, 0, 0, 0, 0x0c];
pub(crate) const CLIENT_ROUTER: [u8; 6] = [2, 0, 0, 0, 0, 0xc1];
pub(crate) const BACK: [u8; 6] = [2, 0, 0, 0, 0, 0x0b];
pub(crate) const BACKEND_ROUTER: [u8; 6] = [2, 0, 0, 0, 0, 0xb1];

/// MTUs of the two sides.
pub(crate) const FRONT_MTU: u32 = 1500;
pub(crate) const BACK_MTU: u32 = 1450;

const NETWORK: &str = "\
    link set lo up
    link add front address 02:00:00:00:00:0c mtu 1500 type veth peer name clients
    link add back address 02:00:00:00:00:0b mtu 1450 type veth peer name backends
    link set clients up
    link set front up
    link set backends up
    link set back up
    addr add 192.0.2.1/24 dev front
    addr add 2001:db8:f::1/64 dev front nodad
    addr add 10.0.0.1/24 dev back
    addr add fd00:f::1/64 dev back nodad
    neigh add 192.0.2.254 lladdr 02:00:00:00:00:c1 dev front
    neigh add 2001:db8:f::fe lladdr 02:00:00:00:00:c1 dev front
    neigh add 10.0.0.254 lladdr 02:00:00:00:00:b1 dev back
    neigh add fd00:f::fe lladdr 02:00:00:00:00:b1 dev back
    route add 198.51.100.0/24 via 192.0.2.254
    route add 2001:db8:c::/48 via 2001:db8:f::fe
    route add 10.1.0.0/16 via 10.0.0.254
    route add fd00:1::/48 via fd00:f::fe";

/// Flows that a test may make: each is a record of its own, and the random ones make many.
const FLOWS_MAX: u32 = 2048;

/// The side that a packet comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Client,
    Backend,
}

impl Side {
    /// The packet in a frame from that side's router.
    pub(crate) fn entering(self, packet: &[u8]) -> Vec<u8> {
        match self {
            Self::Client => frame(FRONT, CLIENT_ROUTER, &[], packet),
            Self::Backend => frame(BACK, BACKEND_ROUTER, &[], packet),
        }
    }

    /// The packet in a frame to that side's router.
    pub(crate) fn leaving(self, packet: &[u8]) -> Vec<u8> {
        match self {
            Self::Client => frame(CLIENT_ROUTER, FRONT, &[], packet),
            Self::Backend => frame(BACKEND_ROUTER, BACK, &[], packet),
        }
    }

    /// Where packets from that side go on to.
    pub(crate) fn other(self) -> Self {
        match self {
            Self::Client => Self::Backend,
            Self::Backend => Self::Client,
        }
    }
}

/// What the program did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) verdict: u32,
    pub(crate) reason: &'static str,
    pub(crate) frame: Vec<u8>,
}

/// A loaded program.
pub(crate) struct World {
    skeleton: HaflingerSkel<'static>,
    settings: types::settings,
    front: u32,
    back: u32,
    records: u32,
}

/// Runs a test in a thread with a network of its own; without the rights for it, says so.
pub(crate) fn in_a_world(test: impl FnOnce(&mut World) + Send + 'static) {
    if !rustix::process::geteuid().is_root() {
        #[expect(clippy::print_stderr, reason = "a skipped test must be seen")]
        {
            eprintln!("skipped: loading an XDP program takes root");
        }
        return;
    }
    let thread = std::thread::spawn(|| {
        // SAFETY: only the network namespace of this thread changes; it shares no descriptor
        // table or file system state anew.
        unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }.unwrap();
        test(&mut World::new());
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// The bytes of a value that the program shares.
pub(crate) fn bytes_of<T: Copy>(value: &T) -> &[u8] {
    // SAFETY: generated from the BTF of a struct of integers; its padding is named.
    unsafe { std::slice::from_raw_parts(std::ptr::from_ref(value).cast(), size_of::<T>()) }
}

/// The value that bytes of a map are.
pub(crate) fn value_of<T: Copy>(bytes: &[u8]) -> T {
    assert!(bytes.len() >= size_of::<T>());
    // SAFETY: there are enough bytes, any of them make a value, and the read needs no alignment.
    unsafe { bytes.as_ptr().cast::<T>().read_unaligned() }
}

fn address(ip: IpAddr) -> types::address {
    let octets = match ip {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    };
    value_of(&octets)
}

pub(crate) fn key(ends: Ends, protocol: u8) -> types::flow_key {
    types::flow_key {
        source: address(ends.source.ip()),
        destination: address(ends.destination.ip()),
        source_port: ends.source.port().to_be(),
        destination_port: ends.destination.port().to_be(),
        protocol,
        ..Default::default()
    }
}

pub(crate) fn run(program: &str, arguments: &str) {
    let status = Command::new(program).args(arguments.split_whitespace()).status().unwrap();
    assert!(status.success(), "{program} {arguments}: {status}");
}

fn index_of(interface: &str) -> u32 {
    let shown = Command::new("ip").args(["-o", "link", "show", interface]).output().unwrap();
    let shown = String::from_utf8(shown.stdout).unwrap();
    shown.split(':').next().unwrap().parse().unwrap_or_else(|_| panic!("no index: {shown}"))
}

impl World {
    fn new() -> Self {
        for line in NETWORK.lines() {
            let v6 = line.contains("route") && line.contains("::");
            run("ip", &format!("{} {line}", if v6 { "-6" } else { "" }));
        }
        run("sysctl", "-qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1");
        let object: &'static mut MaybeUninit<OpenObject> =
            Box::leak(Box::new(MaybeUninit::uninit()));
        let mut open = HaflingerSkelBuilder::default().open(object).unwrap();
        open.maps.flow_index.set_max_entries(2 * FLOWS_MAX).unwrap();
        open.maps.flows.set_max_entries(FLOWS_MAX).unwrap();
        open.maps.fragments.set_max_entries(64).unwrap();
        open.maps.interfaces.set_max_entries(64).unwrap();
        open.maps.service_index.set_max_entries(8).unwrap();
        open.maps.services.set_max_entries(8).unwrap();
        open.maps.backends.set_max_entries(2).unwrap();
        let skeleton = open.load().unwrap();
        let (front, back) = (index_of("front"), index_of("back"));
        let mut world =
            Self { skeleton, settings: types::settings::default(), front, back, records: 0 };
        for (index, mtu) in [(front, FRONT_MTU), (back, BACK_MTU)] {
            let interface =
                types::interface { redirect: index, mtu, transmits: 1, ..Default::default() };
            put(&world.skeleton.maps.interfaces, &index.to_ne_bytes(), bytes_of(&interface));
        }
        let backend = types::backend {
            state: u8::try_from(types::backend_state::BACKEND_ACTIVE.0).unwrap(),
            ..Default::default()
        };
        put(&world.skeleton.maps.backends, &1_u32.to_ne_bytes(), bytes_of(&backend));
        world.settings(|settings| {
            settings.tunnel_source_v4 = address("192.0.2.1".parse().unwrap());
            settings.tunnel_source_v6 = address("2001:db8:f::1".parse().unwrap());
            settings.self_v4 = address("192.0.2.1".parse().unwrap());
            settings.self_v6 = address("2001:db8:f::1".parse().unwrap());
        });
        world
    }

    /// Changes the settings.
    pub(crate) fn settings(&mut self, change: impl FnOnce(&mut types::settings)) {
        change(&mut self.settings);
        put(&self.skeleton.maps.settings, &[0; 4], bytes_of(&self.settings));
    }

    /// A live flow: what the client sends, and what the backend gets. `sent` is as `client` but for
    /// its destination in mode routed; in mode dsr its destination is the backend.
    pub(crate) fn flow(&mut self, mode: types::mode, protocol: u8, client: Ends, sent: Ends) {
        self.records += 1;
        let record = self.records;
        let phase = if protocol == TCP {
            types::phase::PHASE_ESTABLISHED
        } else {
            types::phase::PHASE_DATAGRAMS
        };
        let flow = types::flow {
            client: key(client, protocol),
            state: types::record_state::RECORD_LIVE.0,
            phase: u8::try_from(phase.0).unwrap(),
            mode: u8::try_from(mode.0).unwrap(),
            backend_port: sent.destination.port().to_be(),
            source_port: sent.source.port().to_be(),
            backend: address(sent.destination.ip()),
            source: address(sent.source.ip()),
            backend_id: 1,
            ..Default::default()
        };
        put(&self.skeleton.maps.flows, &record.to_ne_bytes(), bytes_of(&flow));
        let index = |ends, direction: types::direction| {
            let reference = types::flow_reference { record, direction: direction.0 };
            let index = &self.skeleton.maps.flow_index;
            put(index, bytes_of(&key(ends, protocol)), bytes_of(&reference));
        };
        index(client, types::direction::TO_BACKEND);
        if mode != types::mode::MODE_DSR {
            index(sent.reversed(), types::direction::TO_CLIENT);
        }
    }

    /// A service without a table: what it is sent finds no backend.
    pub(crate) fn service(&mut self, vip: SocketAddr, protocol: u8, mode: types::mode) {
        let service_key = types::service_key {
            vip: address(vip.ip()),
            port: vip.port().to_be(),
            protocol,
            ..Default::default()
        };
        let service = types::service {
            key: service_key,
            mode: u8::try_from(mode.0).unwrap(),
            ..Default::default()
        };
        let slot = 1_u32.to_ne_bytes();
        put(&self.skeleton.maps.services, &slot, bytes_of(&service));
        put(&self.skeleton.maps.service_index, bytes_of(&service_key), &slot);
    }

    /// Gives the program a frame that comes from that side.
    pub(crate) fn send(&self, from: Side, frame: &[u8]) -> Outcome {
        let before = self.reasons();
        let ingress = if from == Side::Client { self.front } else { self.back };
        let length = u32::try_from(frame.len()).unwrap();
        let mut context: Vec<u8> = [0, length, 0, ingress, 0, 0]
            .iter()
            .flat_map(|word: &u32| word.to_ne_bytes())
            .collect();
        let mut out = vec![0; frame.len() + 256];
        let input = ProgramInput {
            context_in: Some(&mut context),
            data_in: Some(frame),
            data_out: Some(&mut out),
            ..Default::default()
        };
        let output = self.skeleton.progs.haflinger.test_run(input).unwrap();
        let (verdict, length) = (output.return_value, output.data.unwrap().len());
        out.truncate(length);
        let after = self.reasons();
        let mut grown = (0..after.len()).filter(|&index| after[index] != before[index]);
        let reason = REASONS[grown.next().expect("the exit counts every packet")];
        assert_eq!(grown.next(), None, "counted twice");
        Outcome { verdict, reason, frame: out }
    }

    /// What the daemon would be handed while `send` runs: packets, from their network layer on.
    pub(crate) fn deferred(&self, send: impl FnOnce(&Self)) -> Vec<Vec<u8>> {
        let packets = Rc::new(RefCell::new(Vec::new()));
        let sink = Rc::clone(&packets);
        let buffer = PerfBufferBuilder::new(&self.skeleton.maps.deferrals)
            .sample_cb(move |_, bytes: &[u8]| {
                let header: types::deferred = value_of(bytes);
                let frame = &bytes[size_of::<types::deferred>()..];
                let length = usize::try_from(header.length).unwrap();
                let packet = frame[usize::from(header.offset)..length].to_vec();
                let kind = if packet[0] >> 4 == 4 { 0x0800 } else { 0x86dd };
                assert_eq!(header.protocol, kind);
                sink.borrow_mut().push(packet);
            })
            .build()
            .unwrap();
        send(self);
        buffer.poll(Duration::ZERO).unwrap();
        drop(buffer);
        packets.take()
    }

    /// Packets by reason, of all CPUs.
    fn reasons(&self) -> Vec<u64> {
        let of = |index: u32| {
            let counters = self
                .skeleton
                .maps
                .reasons
                .lookup_percpu(&index.to_ne_bytes(), MapFlags::ANY)
                .unwrap()
                .unwrap();
            counters.iter().map(|bytes| value_of::<types::reason_counters>(bytes).packets).sum()
        };
        (0..u32::try_from(REASONS.len()).unwrap()).map(of).collect()
    }

    /// The loaded program and its maps.
    pub(crate) fn maps(&self) -> &haflinger_xdp::program::HaflingerMaps<'static> {
        &self.skeleton.maps
    }
}

fn put(map: &impl MapCore, key: &[u8], value: &[u8]) {
    map.update(key, value, MapFlags::ANY).unwrap();
}

/// The names of `enum reason`, in its order.
static REASONS: std::sync::LazyLock<Vec<&'static str>> = std::sync::LazyLock::new(|| {
    let lines = include_str!("../../program/reasons.h").lines();
    let names = lines.filter_map(|line| line.trim().strip_prefix("REASON_"));
    names.map(|line| line.split(',').next().unwrap()).collect()
});

/// Random packets of a property. An emulated machine is a hundred times slower.
pub(crate) fn cases() -> u32 {
    if std::env::var_os("HAFLINGER_GUEST").is_some() { 10 } else { 300 }
}
