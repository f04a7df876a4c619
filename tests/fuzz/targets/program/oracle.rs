//! What may have become of a packet. Written for each kind of end, from the packet and from the
//! record of its flow, without a look at how the program gets there.

use haflinger_xdp::program::types;

use crate::host::{self, Outcome, bytes_of};
use crate::packets::{TCP, UDP};
use crate::state::State;
use crate::view::{View, half, network, word};
use crate::world::{self, ip_of};

const DROP: u32 = 1;
const PASS: u32 = 2;
const TX: u32 = 3;
const REDIRECT: u32 = 4;

/// Reasons after which no flow may have changed.
const UNTOUCHED: [types::reason; 5] = [
    types::reason::REASON_NOT_IP,
    types::reason::REASON_NOT_UNDERSTOOD,
    types::reason::REASON_MALFORMED,
    types::reason::REASON_FRAGMENT_UNKNOWN,
    types::reason::REASON_ICMP_UNKNOWN,
];

/// A packet before and after.
pub struct Case<'a> {
    pub before: &'a State,
    pub after: &'a State,
    pub input: &'a [u8],
    pub outcome: &'a Outcome,
}

impl Case<'_> {
    pub fn check(&self) {
        let event = &self.outcome.event;
        let reason = types::reason(event.reason);
        assert_eq!(event.verdict, self.outcome.verdict);
        assert_ne!(reason, types::reason::REASON_INTERNAL, "a broken invariant");
        if UNTOUCHED.contains(&reason) {
            self.after.check_same(self.before);
        }
        let found = types::stage::STAGE_FLOW_FOUND.0 | types::stage::STAGE_FLOW_CREATED.0;
        let own = (event.stages & found != 0).then_some(event.record);
        self.after.check_after(self.before, &event.packet, own);
        if reason == types::reason::REASON_FORWARDED_NEW {
            self.chosen();
        }
        match (self.outcome.verdict, &self.outcome.deferred) {
            (PASS, None) => assert_eq!(self.outcome.frame, self.input, "passed, and changed"),
            (DROP, None) => {}
            (DROP, Some((header, frame))) => {
                let packet = &frame[header.offset.into()..];
                let kind = if packet[0] >> 4 == 4 { 0x0800 } else { 0x86dd };
                assert_eq!(header.protocol, kind);
                self.forwarded(packet);
            }
            (TX, None) => self.answered(),
            (REDIRECT, None) => {
                self.framed();
                self.forwarded(network(&self.outcome.frame).0);
            }
            (verdict, deferred) => panic!("verdict {verdict}, deferred: {}", deferred.is_some()),
        }
    }

    /// The flow that the packet went by.
    fn flow(&self) -> &types::flow {
        let record = self.outcome.event.record;
        let live = self.after.live().find(|(at, _)| *at == record);
        live.unwrap_or_else(|| panic!("forwarded by the record {record}, which is no flow")).1
    }

    /// A new flow goes to who may have it.
    fn chosen(&self) {
        let (event, flow) = (&self.outcome.event, self.flow());
        assert_eq!(bytes_of(&flow.client), bytes_of(&event.packet));
        let backend: types::backend = host::element("backends", flow.backend_id);
        let service: types::service = host::element("services", flow.service);
        assert_eq!(u32::from(backend.state), types::backend_state::BACKEND_ACTIVE.0);
        let load: types::backend_load = host::element("backend_loads", flow.backend_id);
        let most = service.backend_connections_max;
        assert!(most == 0 || load.connections <= most, "more flows than a backend may have");
        let load: types::service_load = host::element("service_loads", flow.service);
        let most = service.connections_max;
        assert!(most == 0 || load.connections <= most, "more flows than a service may have");
        if service.ranged != 0 {
            let octets: [u8; 16] = host::value_of(bytes_of(&event.packet.source));
            assert!(octets[15] < 4, "outside the source ranges: {}", ip_of(&event.packet.source));
        }
    }

    /// The link layer of what was sent to a neighbour.
    fn framed(&self) {
        let frame = &self.outcome.frame;
        let interface: types::interface = host::element("interfaces", self.outcome.event.egress);
        let (packet, tags) = network(frame);
        let kind: u16 = if packet[0] >> 4 == 4 { 0x0800 } else { 0x86dd };
        let view = View::of(packet);
        let to = view.destination(packet);
        let to = <[u8; 4]>::try_from(to)
            .map_or_else(|_| <[u8; 16]>::try_from(to).expect("16 bytes").into(), Into::into);
        let route = host::route_to(to);
        assert_eq!(interface.transmits, 1);
        assert_eq!(self.outcome.redirect, interface.redirect);
        assert_eq!((route.result, route.interface), (0, self.outcome.event.egress));
        assert_eq!((&frame[..6], &frame[6..12]), (&route.to[..], &route.from[..]));
        let tag = [bytes_of(&interface.vlan_protocol), bytes_of(&interface.vlan)].concat();
        assert_eq!(tags, if interface.vlan == 0 { &[][..] } else { &tag });
        assert_eq!(half(frame, 12 + tags.len()), kind);
        assert!(view.length <= route.mtu as usize, "longer than the way is wide");
    }

    /// A packet that goes on, whoever sends it.
    fn forwarded(&self, output: &[u8]) {
        let flow = self.flow();
        let (input, _) = network(self.input);
        let view = View::of(input);
        let is_error = world::is_icmp(view.protocol) && !view.is_later;
        if self.outcome.event.stages & types::stage::STAGE_ANSWERED.0 != 0 {
            self.from_the_tunnel(flow, output);
        } else if u32::from(flow.mode) == types::mode::MODE_DSR.0 {
            encapsulated(flow, input, output);
        } else if is_error {
            error(flow, input, output);
        } else {
            self.rewritten(flow, input, output);
        }
    }

    /// Modes nat and routed: the tuple is another, a hop is gone, the checksums account for it.
    fn rewritten(&self, flow: &types::flow, input: &[u8], output: &[u8]) {
        let (old, new) = (View::of(input), View::of(output));
        let forth = is_client(flow, &self.outcome.event.packet);
        let (source, destination, ports) = after(flow, forth);
        let mut expected = input.to_vec();
        expected[old.hops()] -= 1;
        old.set_addresses(&mut expected, &source, &destination);
        let mut output_masked = output.to_vec();
        if !old.is_later {
            expected[old.transport..old.transport + 4].copy_from_slice(&ports);
        }
        let renamed = u32::from(flow.mode) == types::mode::MODE_NAT.0 || !forth;
        let identification = old.identification().filter(|_| old.is_fragment && renamed);
        let checks = [old.v4.then_some(10..12), old.check().map(|at| at..at + 2), identification];
        for range in checks.into_iter().flatten() {
            expected[range.clone()].fill(0);
            output_masked[range].fill(0);
        }
        if old.protocol == TCP && !old.is_later && input[old.transport + 13] & 2 != 0 {
            lowered(&old, &mut expected, &output_masked);
        }
        assert_eq!(output_masked, expected, "a field changed that must not");
        same_sums(&old, input, &new, output);
    }

    /// An error of a tunnel's way has become one of ours to the client.
    fn from_the_tunnel(&self, flow: &types::flow, output: &[u8]) {
        let view = View::of(output);
        assert!(view.is_right(output), "a checksum of ours is wrong");
        assert_eq!(view.source(output), short(&flow.client.destination));
        assert_eq!(view.destination(output), short(&flow.client.source));
        let quote = &output[view.transport + 8..view.length];
        let within = self.input.windows(quote.len()).any(|part| part == quote);
        assert!(within, "quotes what it was not sent");
    }

    /// What goes back to whoever sent the packet.
    fn answered(&self) {
        let (input, tags) = network(self.input);
        let (output, same) = network(&self.outcome.frame);
        assert_eq!(tags, same);
        assert_eq!(self.outcome.frame[..6], self.input[6..12]);
        assert_eq!(self.outcome.frame[6..12], self.input[..6]);
        let (old, new) = (View::of(input), View::of(output));
        assert_eq!((new.v4, new.length), (old.v4, output.len()));
        assert!(new.is_right(output), "a checksum of ours is wrong");
        assert_eq!(new.destination(output), old.source(input));
        if new.protocol == TCP {
            assert_eq!(new.source(output), old.destination(input));
            reset(&old, input, &new, output);
            return;
        }
        let own: std::net::IpAddr =
            world::SELVES[usize::from(!new.v4)].parse().expect("an address");
        let own = world::address(own);
        let from = new.source(output);
        assert!(from == old.destination(input) || from == short(&own), "from a stranger");
        assert!(output.len() <= if new.v4 { 576 } else { 1280 });
        let quote = &output[new.transport + 8..];
        assert!(input.starts_with(quote), "quotes another packet");
        assert!(quote.len() >= (old.transport + 8 - 3).min(input.len() & !3));
    }
}

/// An address in the length of its family.
fn short(address: &types::address) -> &[u8] {
    let bytes = bytes_of(address);
    if ip_of(address).is_ipv4() { &bytes[12..] } else { bytes }
}

fn is_client(flow: &types::flow, key: &types::flow_key) -> bool {
    // A later fragment has found its ports; all else is as received.
    let own = &flow.client;
    let sides = (bytes_of(&own.source), bytes_of(&own.destination));
    let ports = (own.source_port, own.destination_port);
    sides == (bytes_of(&key.source), bytes_of(&key.destination))
        && ports == (key.source_port, key.destination_port)
}

/// The tuple that a packet of the flow is sent with: source, destination, ports.
fn after(flow: &types::flow, forth: bool) -> (Vec<u8>, Vec<u8>, [u8; 4]) {
    let (source, destination, ports) = if forth {
        (&flow.source, &flow.backend, [flow.source_port, flow.backend_port])
    } else {
        let client = &flow.client;
        (&client.destination, &client.source, [client.destination_port, client.source_port])
    };
    (short(source).to_vec(), short(destination).to_vec(), host::value_of(bytes_of(&ports)))
}

fn same_sums(old: &View, input: &[u8], new: &View, output: &[u8]) {
    let ((header, covered), (header_after, covered_after)) = (old.sums(input), new.sums(output));
    assert_eq!(header, header_after, "the checksum of the header");
    if old.is_later {
        return;
    }
    let at = old.check().expect("a transport");
    if old.protocol == UDP && half(input, at) == 0 {
        assert_eq!(half(output, at), 0, "no checksum became one");
        return;
    }
    assert!(old.protocol != UDP || half(output, at) != 0, "a checksum became none");
    assert_eq!(covered, covered_after, "the checksum of the transport");
}

/// Takes over the maximum segment size of the output, if it is lower.
fn lowered(view: &View, expected: &mut [u8], output: &[u8]) {
    let end = view.transport + usize::from(expected[view.transport + 12] >> 4) * 4;
    let mut at = view.transport + 20;
    while at + 4 <= end {
        match expected[at] {
            0 => return,
            1 => at += 1,
            2 if expected[at + 1] == 4 => {
                if half(output, at + 2) < half(expected, at + 2) {
                    expected[at + 2..at + 4].copy_from_slice(&output[at + 2..at + 4]);
                }
                return;
            }
            _ => at += usize::from(expected[at + 1]).max(2),
        }
    }
}

/// Mode dsr: the packet a hop older, behind a header to the backend.
fn encapsulated(flow: &types::flow, input: &[u8], output: &[u8]) {
    let v4 = output[0] >> 4 == 4;
    let header = if v4 { 20 } else { 40 };
    let inner = &output[header..];
    let view = View::of(input);
    let mut expected = input.to_vec();
    expected[view.hops()] -= 1;
    if view.v4 {
        expected[10..12].copy_from_slice(&inner[10..12]);
    }
    assert_eq!(inner, expected, "the packet in the tunnel is another");
    assert_eq!(view.sums(input), view.sums(inner));
    let outer = View::of(output);
    assert_eq!(outer.protocol, if view.v4 { 4 } else { 41 });
    assert_eq!(outer.length, header + view.length);
    assert!(!v4 || outer.sums(output).0 == 0, "the outer checksum is wrong");
    assert_eq!(outer.destination(output), short(&flow.backend));
    let own: std::net::IpAddr = world::TUNNELS[usize::from(!v4)].parse().expect("an address");
    assert_eq!(outer.source(output), short(&world::address(own)));
}

/// An error about a packet of the flow: it and what it quotes are translated.
fn error(flow: &types::flow, input: &[u8], output: &[u8]) {
    let (old, new) = (View::of(input), View::of(output));
    let at = old.transport + 8;
    let quoted = View::of(&input[at..]);
    let forth = quotes_answer(flow, &quoted, &input[at..]);
    let (source, destination, ports) = after(flow, forth);
    let sent_from = new.source(output).to_vec();
    let nat = u32::from(flow.mode) == types::mode::MODE_NAT.0;
    assert!(sent_from == source || (!nat && sent_from == old.source(input)), "from a stranger");
    let mut expected = input.to_vec();
    expected[old.hops()] -= 1;
    old.set_addresses(&mut expected, &sent_from, &destination);
    quoted.set_addresses(&mut expected[at..], &destination, &source);
    let transport = at + quoted.transport;
    expected[transport..transport + 2].copy_from_slice(&ports[2..]);
    expected[transport + 2..transport + 4].copy_from_slice(&ports[..2]);
    let mut masked = output.to_vec();
    let inner = quoted.check().map(|check| at + check).filter(|check| check + 2 <= old.length);
    let headers = [old.v4.then_some(10), old.v4.then_some(at + 10)];
    for check in headers.into_iter().chain([old.check(), inner]).flatten() {
        expected[check..check + 2].fill(0);
        masked[check..check + 2].fill(0);
    }
    assert_eq!(masked, expected, "a field changed that must not");
    assert_eq!(old.sums(input), new.sums(output), "the error's checksums");
    let (quote, after) = (&input[at..old.length], &output[at..old.length]);
    if inner.is_some() {
        same_sums(&quoted, quote, &View::of(after), after);
    }
}

/// Whether a quoted packet is one that the client received.
fn quotes_answer(flow: &types::flow, view: &View, quote: &[u8]) -> bool {
    let (client, at) = (&flow.client, view.transport);
    let ports = [client.destination_port, client.source_port];
    view.source(quote) == short(&client.destination)
        && view.destination(quote) == short(&client.source)
        && quote[at..at + 4] == *bytes_of(&ports)
}

/// RFC 9293, section 3.10.7.1.
fn reset(old: &View, input: &[u8], new: &View, output: &[u8]) {
    let (asked, reset) = (&input[old.transport..old.length], &output[new.transport..]);
    assert_eq!((half(reset, 0), half(reset, 2)), (half(asked, 2), half(asked, 0)));
    assert_eq!((reset.len(), reset[12] >> 4), (20, 5));
    let flags = asked[13];
    assert_eq!(flags & 4, 0, "a reset is never answered");
    if flags & 0x10 != 0 {
        assert_eq!((reset[13], word(reset, 4)), (4, word(asked, 8)));
        return;
    }
    let data = asked.len() - usize::from(asked[12] >> 4) * 4;
    let length = data as u32 + u32::from(flags >> 1 & 1) + u32::from(flags & 1);
    assert_eq!((reset[13], word(reset, 8)), (0x14, word(asked, 4).wrapping_add(length)));
}
