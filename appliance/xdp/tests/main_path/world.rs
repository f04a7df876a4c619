//! The program in a network of its own, with services, tables and backends put into its maps.

use std::fmt::Write as _;
use std::io::ErrorKind;
use std::mem::MaybeUninit;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::sync::{LazyLock, Mutex};

use haflinger_xdp::program::{HaflingerMaps, HaflingerSkel, HaflingerSkelBuilder, types};
use haflinger_xdp::watch_program::WatchSkelBuilder;
use libbpf_rs::btf::types::Func;
use libbpf_rs::skel::{OpenSkel as _, SkelBuilder as _};
use libbpf_rs::{Btf, Link, MapCore, MapFlags, OpenObject, PrintLevel, ProgramInput};

use crate::network::{
    BACK_MTU, FRONT_MTU, Outcome, REASONS, Side, address, bytes_of, in_a_namespace, index_of, key,
    lay_out, put, skipped, value_of,
};
use crate::packets::Ends;

/// How much a world holds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Size {
    pub(crate) opening: u32,
    pub(crate) established: u32,
}

impl Size {
    pub(crate) const SMALL: Self = Self { opening: 64, established: 64 };
}

/// A service and its backends, as a test wants them.
#[derive(Clone, Debug)]
pub(crate) struct Wish {
    pub(crate) vip: SocketAddr,
    pub(crate) protocol: u8,
    pub(crate) service: types::service,
    /// Address and weight: so many buckets in turn lead to it.
    pub(crate) backends: Vec<(SocketAddr, u32)>,
}

/// A loaded program.
pub(crate) struct World {
    skeleton: HaflingerSkel<'static>,
    settings: types::settings,
    front: u32,
    back: u32,
    services: u32,
    backends: u32,
    buckets: u32,
    sources: u16,
    /// What counts changed neighbours.
    watch: Vec<Link>,
}

/// What libbpf said last: with the verifier's log, when it refuses the program.
static SAID: Mutex<Vec<String>> = Mutex::new(Vec::new());

fn listen(_: PrintLevel, line: String) {
    SAID.lock().unwrap().push(line);
}

fn last_said() -> String {
    let said = SAID.lock().unwrap().concat();
    let lines: Vec<&str> = said.lines().collect();
    lines[lines.len().saturating_sub(100)..].join("\n")
}

/// Runs a test in a thread with a network of its own; without the rights for it, says so.
pub(crate) fn in_a_world(size: Size, test: impl FnOnce(&mut World) + Send + 'static) {
    in_a_namespace(move |name| match World::new(size) {
        Ok(mut world) => test(&mut world),
        Err(error)
            if error.kind() == ErrorKind::PermissionDenied
                && !last_said().contains("processed") =>
        {
            skipped(name, &format!("no right to load a program: {error}"));
        }
        Err(error) => panic!("{error}\n{}", last_said()),
    });
}

/// Guesses at flows: few, so that tuples fall upon each other.
const HINTS: u32 = 16;

/// Whether the kernel lets a program see the numbers of its routes, so that ways are remembered.
pub(crate) static WAYS_ARE_REMEMBERED: LazyLock<bool> = LazyLock::new(|| {
    let kernel = Btf::from_vmlinux().unwrap();
    kernel.type_by_name::<Func<'_>>("bpf_cast_to_kern_ctx").is_some()
});

/// Buckets of a table of the tests: enough for exact shares of small weights.
pub(crate) const TABLE_BITS: u32 = 8;

impl World {
    fn new(size: Size) -> Result<Self, std::io::Error> {
        lay_out();
        libbpf_rs::set_print(Some((PrintLevel::Info, listen)));
        let object: &'static mut MaybeUninit<OpenObject> =
            Box::leak(Box::new(MaybeUninit::uninit()));
        let mut open = HaflingerSkelBuilder::default().open(object).map_err(io)?;
        let records = size.opening + size.established;
        open.maps.flow_index.set_max_entries(2 * records).map_err(io)?;
        open.maps.flows.set_max_entries(records).map_err(io)?;
        for map in [
            &mut open.maps.interfaces,
            &mut open.maps.service_index,
            &mut open.maps.services,
            &mut open.maps.service_loads,
        ] {
            map.set_max_entries(64).map_err(io)?;
        }
        for map in [
            &mut open.maps.backends,
            &mut open.maps.backend_loads,
            &mut open.maps.backend_counters,
            &mut open.maps.sources,
            &mut open.maps.source_ranges,
            &mut open.maps.affinities,
            &mut open.maps.fragments,
        ] {
            map.set_max_entries(1024).map_err(io)?;
        }
        open.maps.refusals.set_max_entries(1024).map_err(io)?;
        open.maps.buckets.set_max_entries(1 << 16).map_err(io)?;
        open.maps.ways.set_max_entries(size.established).map_err(io)?;
        open.maps.hints.set_max_entries(HINTS).map_err(io)?;
        let rodata = open.maps.rodata_data.as_deref_mut().expect("the program has constants");
        rodata.opening_records = size.opening;
        rodata.established_records = size.established;
        rodata.hint_mask = HINTS - 1;
        let skeleton = open.load().map_err(io)?;
        let (front, back) = (index_of("front"), index_of("back"));
        let mut world = Self {
            skeleton,
            settings: types::settings::default(),
            front,
            back,
            services: 0,
            backends: 0,
            buckets: 0,
            sources: 0,
            watch: Vec::new(),
        };
        world.watch()?;
        world.interface(front, front, FRONT_MTU, None);
        world.interface(back, back, BACK_MTU, None);
        world.settings(|settings| {
            settings.hash_key = *b"0123456789abcdef";
            settings.tunnel_source_v4 = address("10.0.0.1".parse().unwrap());
            settings.tunnel_source_v6 = address("fd00:f::1".parse().unwrap());
            settings.self_v4 = address("192.0.2.1".parse().unwrap());
            settings.self_v6 = address("2001:db8:f::1".parse().unwrap());
        });
        Ok(world)
    }

    /// Has changed neighbours counted, so that the program may remember ways.
    fn watch(&mut self) -> Result<(), std::io::Error> {
        let object = Box::leak(Box::new(MaybeUninit::uninit()));
        let mut open = WatchSkelBuilder::default().open(object).map_err(io)?;
        open.maps.generation.reuse_fd(self.maps().generation.as_fd()).map_err(io)?;
        let skeleton = open.load().map_err(io)?;
        let programs = &skeleton.progs;
        for program in
            [&programs.neighbour_updated, &programs.neighbour_timed, &programs.neighbour_released]
        {
            self.watch.push(program.attach().map_err(io)?);
        }
        self.put(&self.maps().generation, &0_u32, &types::generation { number: 1, zero: 0 });
        Ok(())
    }

    /// Nobody counts changes any more.
    pub(crate) fn look_away(&mut self) {
        self.watch.clear();
        self.put(&self.maps().generation, &0_u32, &types::generation::default());
    }

    /// Packets for whose way the kernel was asked.
    pub(crate) fn routes_asked(&self) -> u64 {
        let counts = self.maps().routes_asked.lookup_percpu(&[0; 4], MapFlags::ANY);
        counts.unwrap().unwrap().iter().map(|bytes| value_of::<u64>(bytes)).sum()
    }

    /// What the program may know of an interface.
    pub(crate) fn interface(&self, index: u32, redirect: u32, mtu: u32, vlan: Option<(u16, u16)>) {
        let (vlan_protocol, vlan) = vlan.unwrap_or_default();
        let interface = types::interface {
            redirect,
            mtu,
            transmits: 1,
            vlan: vlan.to_be(),
            vlan_protocol: vlan_protocol.to_be(),
            ..Default::default()
        };
        put(&self.maps().interfaces, &index.to_ne_bytes(), bytes_of(&interface));
    }

    /// Changes the settings.
    pub(crate) fn settings(&mut self, change: impl FnOnce(&mut types::settings)) {
        change(&mut self.settings);
        put(&self.maps().settings, &[0; 4], bytes_of(&self.settings));
    }

    /// Addresses to send from, in mode nat: the first slot and how many.
    pub(crate) fn sources(&mut self, sources: &[(IpAddr, u16, u16)]) -> (u16, u16) {
        let first = self.sources;
        for &(ip, port_min, port_max) in sources {
            let source =
                types::source { address: address(ip), port_min, port_max, ..Default::default() };
            let slot = u32::from(self.sources);
            put(&self.maps().sources, &slot.to_ne_bytes(), bytes_of(&source));
            self.sources += 1;
        }
        (first, self.sources - first)
    }

    /// Puts a service with its backends and a table of exact shares into the maps. Returns the
    /// slots of the service and of its backends.
    pub(crate) fn serve(&mut self, wish: &Wish, sources: (u16, u16)) -> (u32, Vec<u32>) {
        self.services += 1;
        let slot = self.services;
        let backends: Vec<u32> = wish
            .backends
            .iter()
            .map(|&(backend, weight)| {
                self.backends += 1;
                let value = types::backend {
                    address: address(backend.ip()),
                    port: backend.port().to_be(),
                    state: small(types::backend_state::BACKEND_ACTIVE.0),
                    service: slot,
                    weight,
                    sources_first: sources.0,
                    sources_count: sources.1,
                    ..Default::default()
                };
                put(&self.maps().backends, &self.backends.to_ne_bytes(), bytes_of(&value));
                self.backends
            })
            .collect();
        let turns = backends.iter().zip(&wish.backends).flat_map(|(&id, &(_, weight))| {
            std::iter::repeat_n(id, usize::try_from(weight).unwrap())
        });
        let firsts: Vec<u32> = turns.cycle().take(1 << TABLE_BITS).collect();
        let table = self.table(&firsts.iter().map(|&first| (first, 0)).collect::<Vec<_>>());
        let key = types::service_key {
            vip: address(wish.vip.ip()),
            port: wish.vip.port().to_be(),
            protocol: wish.protocol,
            ..Default::default()
        };
        let service = types::service { key, table, ..wish.service };
        put(&self.maps().services, &slot.to_ne_bytes(), bytes_of(&service));
        put(&self.maps().service_index, bytes_of(&key), &slot.to_ne_bytes());
        (slot, backends)
    }

    /// Writes a new table of first and second hops, a power of two of them.
    pub(crate) fn table(&mut self, hops: &[(u32, u32)]) -> types::table {
        let first = self.buckets;
        for (&(first, second), position) in hops.iter().zip(self.buckets..) {
            let bucket = types::bucket { first, second };
            put(&self.maps().buckets, &position.to_ne_bytes(), bytes_of(&bucket));
        }
        self.buckets += u32::try_from(hops.len()).unwrap();
        types::table { first, bits: hops.len().trailing_zeros() }
    }

    /// Changes an element of an array.
    pub(crate) fn change<T: Copy>(
        &self,
        map: &impl MapCore,
        slot: u32,
        change: impl FnOnce(&mut T),
    ) {
        let mut value = self.element(map, slot);
        change(&mut value);
        put(map, &slot.to_ne_bytes(), bytes_of(&value));
    }

    /// An element of an array.
    pub(crate) fn element<T: Copy>(&self, map: &impl MapCore, slot: u32) -> T {
        value_of(&map.lookup(&slot.to_ne_bytes(), MapFlags::ANY).unwrap().unwrap())
    }

    pub(crate) fn change_backend(&self, slot: u32, change: impl FnOnce(&mut types::backend)) {
        self.change(&self.maps().backends, slot, change);
    }

    pub(crate) fn change_service(&self, slot: u32, change: impl FnOnce(&mut types::service)) {
        self.change(&self.maps().services, slot, change);
    }

    /// The record to which the index leads.
    pub(crate) fn record_of(&self, ends: Ends, protocol: u8) -> Option<u32> {
        self.record_at(&key(ends, protocol))
    }

    /// The record to which a key leads.
    pub(crate) fn record_at(&self, key: &types::flow_key) -> Option<u32> {
        let found = self.maps().flow_index.lookup(bytes_of(key), MapFlags::ANY);
        Some(value_of::<types::flow_reference>(&found.unwrap()?).record)
    }

    /// The flow to which the index leads.
    pub(crate) fn flow_of(&self, ends: Ends, protocol: u8) -> Option<types::flow> {
        let record = self.record_of(ends, protocol)?;
        Some(self.element(&self.maps().flows, record))
    }

    /// What was counted of a backend, by all CPUs.
    pub(crate) fn backend_counters(&self, slot: u32) -> types::backend_counters {
        let map = &self.maps().backend_counters;
        let parts = map.lookup_percpu(&slot.to_ne_bytes(), MapFlags::ANY).unwrap().unwrap();
        let mut sum = types::backend_counters::default();
        for part in parts.iter().map(|bytes| value_of::<types::backend_counters>(bytes)) {
            for direction in 0..2 {
                sum.packets[direction] += part.packets[direction];
                sum.bytes[direction] += part.bytes[direction];
            }
            sum.flows += part.flows;
        }
        sum
    }

    /// Puts the same value into an element of every CPU.
    pub(crate) fn put_per_cpu<V: Copy>(&self, map: &impl MapCore, slot: u32, value: &V) {
        let values = vec![bytes_of(value).to_vec(); libbpf_rs::num_possible_cpus().unwrap()];
        map.update_percpu(&slot.to_ne_bytes(), &values, MapFlags::ANY).unwrap();
    }

    /// Puts a value into a map.
    pub(crate) fn put<K: Copy, V: Copy>(&self, map: &impl MapCore, key: &K, value: &V) {
        put(map, bytes_of(key), bytes_of(value));
    }

    pub(crate) fn flow_counters(&self) -> types::flow_counters {
        let parts =
            self.maps().flow_counters.lookup_percpu(&[0; 4], MapFlags::ANY).unwrap().unwrap();
        let mut sum = types::flow_counters::default();
        for part in parts.iter().map(|bytes| value_of::<types::flow_counters>(bytes)) {
            sum.opened += part.opened;
            sum.promoted += part.promoted;
            sum.stayed += part.stayed;
            sum.reopened += part.reopened;
            sum.forgotten += part.forgotten;
            sum.expired += part.expired;
            sum.evicted[0] += part.evicted[0];
            sum.evicted[1] += part.evicted[1];
        }
        sum
    }

    /// Gives the program a frame that comes from that side.
    pub(crate) fn send(&self, from: Side, frame: &[u8]) -> Outcome {
        let ingress = if from == Side::Client { self.front } else { self.back };
        self.send_by(ingress, frame)
    }

    pub(crate) fn send_by(&self, ingress: u32, frame: &[u8]) -> Outcome {
        let before = self.reasons();
        let (verdict, out) = self.run(ingress, frame);
        let after = self.reasons();
        let mut grown = (0..after.len()).filter(|&index| after[index] != before[index]);
        let reason = REASONS[grown.next().expect("the exit counts every packet")];
        assert_eq!(grown.next(), None, "counted twice");
        Outcome { verdict, reason, frame: out }
    }

    /// As `send`, without the reason, for many packets.
    pub(crate) fn send_quickly(&self, from: Side, frame: &[u8]) -> (u32, Vec<u8>) {
        self.run(if from == Side::Client { self.front } else { self.back }, frame)
    }

    fn run(&self, ingress: u32, frame: &[u8]) -> (u32, Vec<u8>) {
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
        (verdict, out)
    }

    /// Runs the sweep over all records as if it were so many seconds later.
    pub(crate) fn sweep(&self, later: u32) -> u32 {
        let records = self.maps().flows.info().unwrap().info.max_entries;
        let mut part = types::sweep { first: 0, count: records, now: now().wrapping_add(later) };
        let mut released = 0;
        while part.first < records {
            let mut context = bytes_of(&part).to_vec();
            let input = ProgramInput { context_in: Some(&mut context), ..Default::default() };
            released += self.skeleton.progs.sweep.test_run(input).unwrap().return_value;
            part.first += 4096;
        }
        released
    }

    /// Packets by reason, of all CPUs.
    fn reasons(&self) -> Vec<u64> {
        let of = |index: u32| {
            let counters = self.maps().reasons.lookup_percpu(&index.to_ne_bytes(), MapFlags::ANY);
            let counters = counters.unwrap().unwrap();
            counters.iter().map(|bytes| value_of::<types::reason_counters>(bytes).packets).sum()
        };
        (0..u32::try_from(REASONS.len()).unwrap()).map(of).collect()
    }

    /// Every element of the maps that describe flows, to compare.
    pub(crate) fn state(&self) -> String {
        let mut state = String::new();
        for map in [&self.maps().flow_index, &self.maps().affinities, &self.maps().fragments] {
            writeln!(state, "{:?}", map.keys().collect::<std::collections::BTreeSet<_>>()).unwrap();
        }
        for map in [&self.maps().flows, &self.maps().service_loads, &self.maps().backend_loads] {
            let elements = map.keys().map(|key| map.lookup(&key, MapFlags::ANY).unwrap());
            writeln!(state, "{:?}", elements.collect::<Vec<_>>()).unwrap();
        }
        state
    }

    /// The loaded program.
    pub(crate) fn program(&self) -> BorrowedFd<'_> {
        self.skeleton.progs.haflinger.as_fd()
    }

    /// The interface of a side.
    pub(crate) fn interface_of(&self, side: Side) -> u32 {
        if side == Side::Client { self.front } else { self.back }
    }

    /// The maps of the loaded program.
    pub(crate) fn maps(&self) -> &HaflingerMaps<'static> {
        &self.skeleton.maps
    }
}

fn io(error: libbpf_rs::Error) -> std::io::Error {
    std::io::Error::new(
        if error.kind() == libbpf_rs::ErrorKind::PermissionDenied {
            ErrorKind::PermissionDenied
        } else {
            ErrorKind::Other
        },
        error,
    )
}

/// Seconds of the clock that the program reads, which is a tick behind the fine one.
pub(crate) fn now() -> u32 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::MonotonicCoarse);
    u32::try_from(now.tv_sec).unwrap()
}

/// An enum's number in a field of one byte.
pub(crate) fn small(number: u32) -> u8 {
    u8::try_from(number).unwrap()
}
