//! The flows as they stand in the maps, and what must always be true of them.

use std::collections::BTreeMap;

use haflinger_xdp::program::types;

use crate::host::{self, bytes_of};
use crate::world::World;

pub const TO_BACKEND: u32 = types::direction::TO_BACKEND.0;
pub const TO_CLIENT: u32 = types::direction::TO_CLIENT.0;

/// Everything that the maps know of flows.
#[derive(Clone)]
pub struct State {
    pub records: Vec<types::flow>,
    /// Key to record and direction.
    pub index: BTreeMap<Vec<u8>, (u32, u32)>,
    pub counters: types::flow_counters,
}

/// What answers to a flow look like when they come from the backend.
pub fn reverse_key(flow: &types::flow) -> types::flow_key {
    types::flow_key {
        source: flow.backend,
        destination: flow.source,
        source_port: flow.backend_port,
        destination_port: flow.source_port,
        protocol: flow.client.protocol,
        ..Default::default()
    }
}

fn is_live(flow: &types::flow) -> bool {
    flow.state == types::record_state::RECORD_LIVE.0
}

impl State {
    pub fn read() -> Self {
        let index = host::entries::<types::flow_reference>("flow_index");
        Self {
            records: host::elements("flows"),
            index: index.into_iter().map(|(key, at)| (key, (at.record, at.direction))).collect(),
            counters: host::element("flow_counters", 0),
        }
    }

    /// Live flows, by their record.
    pub fn live(&self) -> impl Iterator<Item = (u32, &types::flow)> {
        (0..).zip(&self.records).filter(|(_, flow)| is_live(flow))
    }

    /// The live flow that a key leads to.
    pub fn flow_at(&self, key: &types::flow_key) -> Option<(u32, &types::flow)> {
        let (record, _) = self.index.get(bytes_of(key))?;
        Some((*record, self.records.get(*record as usize)?)).filter(|(_, flow)| is_live(flow))
    }

    /// Each live flow's keys lead to it and nothing else is in the index, no two share a tuple, the
    /// loads are the numbers of live flows, and each region holds what it is for.
    pub fn check(&self, world: &World) {
        let mut keys = BTreeMap::new();
        let (mut services, mut backends) = (BTreeMap::new(), BTreeMap::new());
        for (record, flow) in (0..).zip(&self.records) {
            if !is_live(flow) {
                let free = types::record_state::RECORD_FREE.0;
                assert_eq!(flow.state, free, "record {record} is left in the middle of something");
                continue;
            }
            let client = keys.insert(bytes_of(&flow.client).to_vec(), (record, TO_BACKEND));
            assert_eq!(client, None, "two flows of one client's tuple: {record}");
            if u32::from(flow.mode) != types::mode::MODE_DSR.0 {
                let reverse = reverse_key(flow);
                let other = keys.insert(bytes_of(&reverse).to_vec(), (record, TO_CLIENT));
                assert_eq!(other, None, "two flows of one backend's tuple: {record}");
            }
            *services.entry(flow.service).or_insert(0) += 1;
            *backends.entry(flow.backend_id).or_insert(0) += 1;
            self.check_flow(world, record, flow);
        }
        assert_eq!(self.index, keys, "the index is not what the records say");
        for (slot, load) in (0..).zip(host::elements::<types::service_load>("service_loads")) {
            assert_eq!(load.connections, services.get(&slot).copied().unwrap_or(0), "{slot}");
        }
        for (slot, load) in (0..).zip(host::elements::<types::backend_load>("backend_loads")) {
            assert_eq!(load.connections, backends.get(&slot).copied().unwrap_or(0), "{slot}");
        }
    }

    fn check_flow(&self, world: &World, record: u32, flow: &types::flow) {
        let phase = types::phase(flow.phase.into());
        let opens = [types::phase::PHASE_OPENING, types::phase::PHASE_ANSWERED];
        if record >= world.opening {
            assert!(!opens.contains(&phase), "{phase:?} in the established region");
        }
        assert!(flow.phase <= types::phase::PHASE_DATAGRAMS.0 as u8);
        let is_datagrams = phase == types::phase::PHASE_DATAGRAMS;
        assert!(!is_datagrams || flow.client.protocol == crate::packets::UDP);
        let backend: types::backend = host::element("backends", flow.backend_id);
        assert_eq!(bytes_of(&flow.backend), bytes_of(&backend.address));
        assert_eq!(backend.service, flow.service);
        if u32::from(flow.mode) == types::mode::MODE_NAT.0 {
            let source: types::source = host::element("sources", backend.sources_first.into());
            assert_eq!(bytes_of(&flow.source), bytes_of(&source.address));
            let port = u16::from_be(flow.source_port);
            assert!((source.port_min..=source.port_max).contains(&port), "{port}");
        } else {
            assert_eq!(bytes_of(&flow.source), bytes_of(&flow.client.source));
            assert_eq!(flow.source_port, flow.client.source_port);
        }
    }

    /// What a packet with this key may have done to the flows: to its own anything, to others only
    /// what is counted.
    pub fn check_after(&self, before: &Self, packet: &types::flow_key, own: Option<u32>) {
        let (was, is) = (&before.counters, &self.counters);
        let grown = |field: fn(&types::flow_counters) -> u64| field(is) - field(was);
        let opened = grown(|counters| counters.opened);
        let gone = grown(|c| c.expired + c.evicted[0] + c.evicted[1] + c.reopened + c.forgotten);
        let count = |state: &Self| state.live().count() as u64;
        assert_eq!(count(self) + gone, count(before) + opened, "a flow came or went uncounted");
        assert!(opened <= 1);
        let own = own.and_then(|record| self.records.get(record as usize)).map(|flow| flow.client);
        for (_, flow) in before.live() {
            let Some((_, now)) = self.flow_at(&flow.client) else { continue };
            let reverse = reverse_key(flow);
            let mine = bytes_of(packet) == bytes_of(&flow.client)
                || bytes_of(packet) == bytes_of(&reverse)
                || own.is_some_and(|own| bytes_of(&own) == bytes_of(&flow.client));
            assert!(mine || bytes_of(now) == bytes_of(flow), "a packet changed another's flow");
        }
    }

    /// Nothing at all.
    pub fn check_same(&self, before: &Self) {
        assert_eq!(self.index, before.index);
        for (now, then) in self.records.iter().zip(&before.records) {
            assert_eq!(bytes_of(now), bytes_of(then), "a refused packet changed a flow");
        }
    }
}
