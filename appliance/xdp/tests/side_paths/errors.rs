//! ICMP errors: to the flow that they quote, in both directions, and past us otherwise.

use std::net::IpAddr;

use haflinger_xdp::program::types::mode as Mode;

use crate::network::{Outcome, Side, run};
use crate::packets::{Ends, Hop, TCP, UDP, icmp, ip};
use crate::world::{World, in_a_world};
use crate::{DROP, Flow, PASS, REDIRECT, hop_on, segment};

/// Types and codes that are errors, with what stands in their last word.
const ERRORS_V4: [(u8, u8, u32); 4] = [(3, 4, 1400), (3, 1, 0), (11, 0, 0), (12, 0, 5 << 24)];
const ERRORS_V6: [(u8, u8, u32); 4] = [(2, 0, 1400), (1, 4, 0), (3, 0, 0), (4, 1, 6)];

const OUTER: Hop =
    Hop { ttl: 60, traffic_class: 0xc0, dont_fragment: false, identification: 77, flow_label: 0 };
/// As the quoted packet arrived where the error was made.
const QUOTED: Hop =
    Hop { ttl: 3, traffic_class: 8, dont_fragment: true, identification: 99, flow_label: 5 };

/// A router on the client's side, and one on the backends'.
fn router(v4: bool, side: Side) -> IpAddr {
    let address = match (v4, side) {
        (true, Side::Client) => "198.51.100.254",
        (true, Side::Backend) => "10.1.255.254",
        (false, Side::Client) => "2001:db8:c::fe",
        (false, Side::Backend) => "fd00:1::fe",
    };
    address.parse().unwrap()
}

/// An error that comes from one side about what went there.
struct Case {
    side: Side,
    /// What it quotes, as it was sent to that side.
    quoted: Ends,
    /// The same packet as the other side had sent it.
    original: Ends,
}

impl Case {
    fn of(flow: Flow, side: Side) -> Self {
        let (original, quoted) = flow.direction(side == Side::Backend);
        Self { side, quoted, original }
    }

    fn send(&self, world: &World, from: IpAddr, kind: (u8, u8, u32), quote: &[u8]) -> Outcome {
        let packet = icmp(from, self.quoted.source.ip(), OUTER, kind, quote);
        world.send(self.side, &self.side.entering(&packet))
    }

    fn reason(&self) -> &'static str {
        match self.side {
            Side::Client => "ICMP_TO_BACKEND",
            Side::Backend => "ICMP_TO_CLIENT",
        }
    }
}

/// Every kind of error of every family, transport and side, with quotes of several lengths.
fn every_error_is_translated(mode: Mode, outer: impl Fn(&Case, IpAddr) -> IpAddr + Send + 'static) {
    in_a_world(move |world| {
        for flow in Flow::for_mode(mode) {
            let v4 = flow.client.source.is_ipv4();
            for protocol in [TCP, UDP] {
                world.flow(mode, protocol, flow.client, flow.sent);
                for case in [Case::of(flow, Side::Client), Case::of(flow, Side::Backend)] {
                    let quoted = segment(protocol, case.quoted, QUOTED, &[0xab; 333]);
                    let original = segment(protocol, case.original, QUOTED, &[0xab; 333]);
                    let header = if v4 { 20 } else { 40 };
                    let lengths = [header + 8, header + 16, header + 18, header + 21, quoted.len()];
                    for kind in if v4 { ERRORS_V4 } else { ERRORS_V6 } {
                        for length in lengths {
                            let from = router(v4, case.side);
                            let outcome = case.send(world, from, kind, &quoted[..length]);
                            let expected = icmp(
                                outer(&case, from),
                                case.original.source.ip(),
                                hop_on(OUTER),
                                kind,
                                &original[..length],
                            );
                            let what = format!("{flow:?} {:?} {kind:?} {length}", case.side);
                            assert_eq!(outcome.reason, case.reason(), "{what}");
                            assert_eq!(outcome.verdict, REDIRECT, "{what}");
                            assert_eq!(
                                outcome.frame,
                                case.side.other().leaving(&expected),
                                "{what}"
                            );
                        }
                    }
                }
            }
        }
    });
}

#[test]
fn in_mode_nat_an_error_comes_from_the_flows_own_address() {
    every_error_is_translated(Mode::MODE_NAT, |case, _| case.original.destination.ip());
}

#[test]
fn in_mode_routed_an_error_comes_from_the_router_that_found_it() {
    every_error_is_translated(Mode::MODE_ROUTED, |_, from| from);
}

#[test]
fn in_mode_routed_an_error_of_the_backend_itself_comes_from_the_vip() {
    in_a_world(|world| {
        for flow in Flow::routed() {
            world.flow(Mode::MODE_ROUTED, UDP, flow.client, flow.sent);
            let case = Case::of(flow, Side::Backend);
            let kind = if flow.client.source.is_ipv4() { (3, 3, 0) } else { (1, 4, 0) };
            let quoted = segment(UDP, case.quoted, QUOTED, b"question");
            let outcome = case.send(world, flow.sent.destination.ip(), kind, &quoted);
            let expected = icmp(
                flow.client.destination.ip(),
                flow.client.source.ip(),
                hop_on(OUTER),
                kind,
                &segment(UDP, case.original, QUOTED, b"question"),
            );
            assert_eq!(outcome.frame, case.side.other().leaving(&expected));
        }
    });
}

#[test]
fn a_quoted_datagram_without_a_checksum_stays_without() {
    in_a_world(|world| {
        let flow = Flow::nat()[0];
        world.flow(Mode::MODE_NAT, UDP, flow.client, flow.sent);
        let case = Case::of(flow, Side::Backend);
        let mut quoted = segment(UDP, case.quoted, QUOTED, b"question");
        let mut original = segment(UDP, case.original, QUOTED, b"question");
        quoted[26..28].fill(0);
        original[26..28].fill(0);
        let from = router(true, case.side);
        let outcome = case.send(world, from, (3, 3, 0), &quoted);
        let vip = flow.client.destination.ip();
        let expected = icmp(vip, flow.client.source.ip(), hop_on(OUTER), (3, 3, 0), &original);
        assert_eq!(outcome.frame, case.side.other().leaving(&expected));
    });
}

#[test]
fn what_quotes_no_flow_of_ours_passes_untouched() {
    in_a_world(|world| {
        for flow in Flow::nat() {
            let v4 = flow.client.source.is_ipv4();
            world.flow(Mode::MODE_NAT, TCP, flow.client, flow.sent);
            let case = Case::of(flow, Side::Client);
            let kind = if v4 { (3, 4, 1400) } else { (2, 0, 1400) };
            let header = if v4 { 20 } else { 40 };
            let quoted = segment(TCP, case.quoted, QUOTED, &[1; 64]);
            let mut other_port = case.quoted;
            other_port.source.set_port(444);
            let changed = |at: usize, to: u8| {
                let mut changed = quoted.clone();
                changed[at] = to;
                changed
            };
            let nested = icmp(
                case.quoted.source.ip(),
                case.quoted.destination.ip(),
                QUOTED,
                kind,
                &segment(TCP, case.quoted, QUOTED, &[]),
            );
            let quotes = [
                ("another port", segment(TCP, other_port, QUOTED, &[1; 64])),
                ("another protocol", segment(UDP, case.quoted, QUOTED, &[1; 64])),
                ("the other direction", segment(TCP, case.quoted.reversed(), QUOTED, &[1; 64])),
                ("seven bytes of transport", quoted[..header + 7].to_vec()),
                ("half a header", quoted[..header / 2].to_vec()),
                ("nothing", Vec::new()),
                ("another version", changed(0, 0x55)),
                ("an error within", nested),
            ];
            for (what, quote) in quotes {
                let from = router(v4, case.side);
                let packet = icmp(from, case.quoted.source.ip(), OUTER, kind, &quote);
                let outcome = world.send(case.side, &case.side.entering(&packet));
                assert_eq!((outcome.verdict, outcome.reason), (PASS, "ICMP_UNKNOWN"), "{what}");
                assert_eq!(outcome.frame, case.side.entering(&packet), "{what}");
            }
        }
    });
}

#[test]
fn headers_within_a_quote_that_lie_do_no_harm() {
    in_a_world(|world| {
        let flow = Flow::nat()[0];
        world.flow(Mode::MODE_NAT, TCP, flow.client, flow.sent);
        let case = Case::of(flow, Side::Client);
        let quoted = segment(TCP, case.quoted, QUOTED, &[1; 64]);
        // A header longer than the quote, one shorter than a header, a later fragment.
        for (at, value) in [(0, 0x4f), (0, 0x44), (7, 1)] {
            let mut quote = quoted[..40].to_vec();
            quote[at] = value;
            let outcome = case.send(world, router(true, case.side), (3, 4, 1400), &quote);
            assert_eq!((outcome.verdict, outcome.reason), (PASS, "ICMP_UNKNOWN"), "{at}");
        }
    });
}

#[test]
fn an_error_to_somebody_else_than_the_sender_of_what_it_quotes_passes() {
    in_a_world(|world| {
        for flow in Flow::nat() {
            let v4 = flow.client.source.is_ipv4();
            world.flow(Mode::MODE_NAT, TCP, flow.client, flow.sent);
            let case = Case::of(flow, Side::Client);
            let quote = segment(TCP, case.quoted, QUOTED, &[]);
            let kind = if v4 { (3, 4, 1400) } else { (2, 0, 1400) };
            let packet = icmp(router(v4, case.side), flow.sent.source.ip(), OUTER, kind, &quote);
            let outcome = world.send(case.side, &case.side.entering(&packet));
            assert_eq!((outcome.verdict, outcome.reason), (PASS, "ICMP_UNKNOWN"));
        }
    });
}

#[test]
fn an_ipv6_quote_is_found_behind_its_extension_headers() {
    in_a_world(|world| {
        let flow = Flow::nat()[1];
        world.flow(Mode::MODE_NAT, TCP, flow.client, flow.sent);
        let case = Case::of(flow, Side::Client);
        let with_options = |ends: Ends| {
            let whole = segment(TCP, ends, QUOTED, &[7; 40]);
            let mut payload = vec![TCP, 1, 1, 4, 0, 0, 0, 0, 1, 6, 0, 0, 0, 0, 0, 0];
            payload.extend(&whole[40..]);
            ip(ends.source.ip(), ends.destination.ip(), 60, QUOTED, &payload)
        };
        let from = router(false, case.side);
        let outcome = case.send(world, from, (2, 0, 1300), &with_options(case.quoted));
        let expected = icmp(
            case.original.destination.ip(),
            case.original.source.ip(),
            hop_on(OUTER),
            (2, 0, 1300),
            &with_options(case.original),
        );
        assert_eq!(outcome.frame, case.side.other().leaving(&expected));
    });
}

#[test]
fn without_a_known_next_hop_the_translated_error_is_handed_over() {
    in_a_world(|world| {
        run("ip", "neigh del 10.0.0.254 dev back");
        run("ip", "neigh del fd00:f::fe dev back");
        for flow in Flow::nat() {
            let v4 = flow.client.source.is_ipv4();
            world.flow(Mode::MODE_NAT, TCP, flow.client, flow.sent);
            let case = Case::of(flow, Side::Client);
            let kind = if v4 { (3, 4, 1400) } else { (2, 0, 1400) };
            let quote = segment(TCP, case.quoted, QUOTED, &[1; 30]);
            let packets = world.deferred(|world| {
                let outcome = case.send(world, router(v4, case.side), kind, &quote);
                assert_eq!((outcome.verdict, outcome.reason), (DROP, "DEFERRED"));
            });
            let expected = icmp(
                case.original.destination.ip(),
                case.original.source.ip(),
                hop_on(OUTER),
                kind,
                &segment(TCP, case.original, QUOTED, &[1; 30]),
            );
            assert_eq!(packets, [expected]);
        }
    });
}

#[test]
fn an_error_whose_hops_are_used_up_is_dropped_without_an_answer() {
    in_a_world(|world| {
        for flow in Flow::nat() {
            let v4 = flow.client.source.is_ipv4();
            world.flow(Mode::MODE_NAT, TCP, flow.client, flow.sent);
            let case = Case::of(flow, Side::Client);
            let kind = if v4 { (3, 4, 1400) } else { (2, 0, 1400) };
            let quote = segment(TCP, case.quoted, QUOTED, &[]);
            let from = router(v4, case.side);
            let packet = icmp(from, case.quoted.source.ip(), Hop { ttl: 1, ..OUTER }, kind, &quote);
            let outcome = world.send(case.side, &case.side.entering(&packet));
            assert_eq!((outcome.verdict, outcome.reason), (DROP, "TTL_EXCEEDED"));
        }
    });
}

#[test]
fn echoes_and_all_that_is_no_error_go_to_the_kernel() {
    in_a_world(|world| {
        for flow in Flow::nat() {
            let v4 = flow.client.source.is_ipv4();
            world.flow(Mode::MODE_NAT, TCP, flow.client, flow.sent);
            let kinds: &[u8] = if v4 { &[0, 4, 5, 8, 13] } else { &[0, 128, 129, 133, 135, 137] };
            let case = Case::of(flow, Side::Client);
            let quote = segment(TCP, case.quoted, QUOTED, &[]);
            for &kind in kinds {
                let from = router(v4, case.side);
                let packet = icmp(from, case.quoted.source.ip(), OUTER, (kind, 0, 0), &quote);
                let outcome = world.send(case.side, &case.side.entering(&packet));
                assert_eq!((outcome.verdict, outcome.reason), (PASS, "NOT_OURS"), "{kind}");
                assert_eq!(outcome.frame, case.side.entering(&packet), "{kind}");
            }
        }
    });
}
