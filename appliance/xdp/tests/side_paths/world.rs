//! The program in a network of its own, with flows put into the maps by hand.

use std::cell::RefCell;
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use haflinger_xdp::program::{HaflingerSkel, HaflingerSkelBuilder, types};
use libbpf_rs::skel::{OpenSkel as _, SkelBuilder as _};
use libbpf_rs::{MapCore, MapFlags, OpenObject, PerfBufferBuilder, ProgramInput};

use crate::network::{
    BACK_MTU, FRONT_MTU, Outcome, REASONS, Side, address, bytes_of, in_a_namespace, index_of, key,
    lay_out, put, skipped, value_of,
};
use crate::packets::{Ends, TCP};

/// Flows that a test may make: each is a record of its own, and the random ones make many.
const FLOWS_MAX: u32 = 2048;

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
    in_a_namespace(move |name| {
        if rustix::process::geteuid().is_root() {
            test(&mut World::new());
        } else {
            skipped(name, "loading an XDP program takes root");
        }
    });
}

impl World {
    fn new() -> Self {
        lay_out();
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
        let flows = &self.skeleton.maps.flows;
        let index = |ends, direction: types::direction| {
            let reference = types::flow_reference { record, direction: direction.0 };
            let index = &self.skeleton.maps.flow_index;
            // Whose the key was is no more: no two live flows share one.
            let found = index.lookup(bytes_of(&key(ends, protocol)), MapFlags::ANY).unwrap();
            if let Some(former) = found.map(|bytes| value_of::<types::flow_reference>(&bytes)) {
                put(flows, &former.record.to_ne_bytes(), bytes_of(&types::flow::default()));
            }
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
