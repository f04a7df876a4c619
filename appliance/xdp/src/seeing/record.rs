//! One flow's record, in words.

use std::mem::offset_of;
use std::net::SocketAddr;
use std::sync::Arc;

use haflinger_core::{ForwardingMode, ServiceKey, Snapshot};

use crate::mapped::bytes_of;
use crate::maps::Maps;
use crate::program::types;
use crate::sweep::PHASES;
use crate::words;

/// How often a record is read that changes hands meanwhile. Twice in a row is rare; then it is left
/// out.
const ATTEMPTS: usize = 2;

/// Timeouts of flows whose service is gone, as `program/records.h` has them (a test compares), by
/// number of the phase.
const TIMEOUTS_SECS: [u32; PHASES.len()] = [30, 30, 7200, 120, 10, 120];

/// A flow at one time.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct FlowView {
    /// The client's end.
    pub client: SocketAddr,
    /// VIP, port and protocol.
    pub service: ServiceKey,
    /// The service's object, while there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub object: Option<String>,
    /// Where its packets go.
    pub backend: SocketAddr,
    /// That backend's name, while the service has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backend_name: Option<Arc<str>>,
    /// What the backend sees as the client.
    pub source: SocketAddr,
    /// How packets reach the backend.
    pub mode: ForwardingMode,
    /// How far it has come: `opening`, `answered`, `established`, `closing`, `closed` or
    /// `datagrams`.
    pub phase: &'static str,
    /// Seconds since it was opened.
    pub age_secs: u32,
    /// Seconds since its last packet.
    pub idle_secs: u32,
    /// Seconds after which it is forgotten if no packet comes.
    pub left_secs: u32,
    /// Packets to the backend, modulo 2^32.
    pub packets_in: u32,
    /// Packets to the client, modulo 2^32.
    pub packets_out: u32,
    /// Bytes to the backend, without the link layer.
    pub bytes_in: u64,
    /// Bytes to the client, without the link layer.
    pub bytes_out: u64,
    /// Bytes a second in both directions, over its life.
    pub bytes_per_sec: u64,
}

/// State and phase of a record: what a count takes. One cache line is touched.
pub(super) fn glance(maps: &Maps, at: u32) -> (u32, u8) {
    let octets = |offset| maps.flows.word(at, offset).to_ne_bytes();
    let state_at = offset_of!(types::flow, state);
    let first = state_at % 8;
    let state = octets(state_at)[first..first + 4].try_into().map_or(0, u32::from_ne_bytes);
    let phase_at = offset_of!(types::flow, phase);
    (state, octets(phase_at)[phase_at % 8])
}

/// Whether a record of that state is a flow to be shown. One that moves between the regions is
/// shown in its new place.
pub(super) fn is_live(state: u32) -> bool {
    state == types::record_state::RECORD_LIVE.0
}

/// A copy of a record that belonged to one flow from beginning to end.
pub(super) fn copy(maps: &Maps, at: u32) -> Option<types::flow> {
    for _ in 0..ATTEMPTS {
        let flow = maps.flows.read(at);
        // What a record says of its flow is written before it is live, and not after.
        let again = maps.flows.read(at);
        let is_same = bytes_of(&flow.client) == bytes_of(&again.client)
            && flow.created == again.created
            && flow.source_port == again.source_port;
        if !is_live(flow.state) || !is_live(again.state) {
            return None;
        }
        if is_same {
            return Some(again);
        }
    }
    None
}

/// Seconds without a packet after which the flow is forgotten: as `timeout_of` in
/// `program/records.h`.
fn timeout_secs(maps: &Maps, flow: &types::flow) -> u32 {
    let known = maps.services.read(flow.service).timeouts;
    let by_phase = [
        known.opening,
        known.opening,
        known.established,
        known.closing,
        known.closed,
        known.datagrams,
    ];
    let phase = usize::from(flow.phase).min(PHASES.len() - 1);
    if by_phase[phase] == 0 { TIMEOUTS_SECS[phase] } else { by_phase[phase] }
}

/// The service's key; `None` for a protocol that no flow has.
pub(super) fn service_of(flow: &types::flow) -> Option<ServiceKey> {
    let to = words::socket(&flow.client.destination, flow.client.destination_port);
    let protocol = words::protocol_of(flow.client.protocol)?;
    Some(ServiceKey { vip: to.ip(), port: to.port(), protocol })
}

/// The name that the snapshot has for a service's backend.
pub(super) fn backend_name(
    snapshot: &Snapshot,
    service: &ServiceKey,
    backend: &SocketAddr,
) -> Option<Arc<str>> {
    let service = snapshot.services.get(service)?;
    Some(service.backends.get(backend)?.name.clone())
}

/// A record in words; `now` in seconds of the program's clock.
pub(super) fn view(
    maps: &Maps,
    snapshot: &Snapshot,
    flow: &types::flow,
    now: u32,
) -> Option<FlowView> {
    let service = service_of(flow)?;
    let backend = words::socket(&flow.backend, flow.backend_port);
    let since = |then: u32| u32::try_from(now.wrapping_sub(then).cast_signed()).unwrap_or(0);
    let (age_secs, idle_secs) = (since(flow.created), since(flow.touched));
    let object = snapshot.services.get(&service).map(|known| known.object.to_string());
    Some(FlowView {
        client: words::socket(&flow.client.source, flow.client.source_port),
        service,
        object,
        backend,
        backend_name: backend_name(snapshot, &service, &backend),
        source: words::socket(&flow.source, flow.source_port),
        mode: words::mode_of(flow.mode)?,
        phase: PHASES.get(usize::from(flow.phase)).copied()?,
        age_secs,
        idle_secs,
        left_secs: timeout_secs(maps, flow).saturating_sub(idle_secs),
        packets_in: flow.packets[0],
        packets_out: flow.packets[1],
        bytes_in: flow.bytes[0],
        bytes_out: flow.bytes[1],
        bytes_per_sec: bytes_per_sec(flow, age_secs),
    })
}

/// Over the flow's life, of which the first second counts whole.
pub(super) fn bytes_per_sec(flow: &types::flow, age_secs: u32) -> u64 {
    (flow.bytes[0].saturating_add(flow.bytes[1])) / u64::from(age_secs.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: &str = include_str!("../../program/records.h");

    #[test]
    fn phases_stand_at_their_numbers() {
        let numbers = [
            types::phase::PHASE_OPENING,
            types::phase::PHASE_ANSWERED,
            types::phase::PHASE_ESTABLISHED,
            types::phase::PHASE_CLOSING,
            types::phase::PHASE_CLOSED,
            types::phase::PHASE_DATAGRAMS,
        ];
        let numbers: Vec<u32> = numbers.iter().map(|phase| phase.0).collect();
        assert_eq!(numbers, [0, 1, 2, 3, 4, 5]);
    }

    #[test]
    fn timeouts_of_flows_without_a_service_are_those_of_the_program() {
        let names = ["OPENING", "OPENING", "ESTABLISHED", "CLOSING", "CLOSED", "DATAGRAMS"];
        for (name, secs) in names.iter().zip(TIMEOUTS_SECS) {
            let line = format!("#define {name}_SECONDS {secs}\n");
            assert!(HEADER.contains(&line), "{line}");
        }
    }
}
