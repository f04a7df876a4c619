//! The maximum segment size in SYN and SYN-ACK.

use etherparse::TcpHeader;
use haflinger_xdp::program::types::mode as Mode;

use crate::network::{BACK_MTU, Side};
use crate::packets::{Hop, TCP, tcp};
use crate::world::in_a_world;
use crate::{Flow, hop_on};

const HOP: Hop =
    Hop { ttl: 60, traffic_class: 0, dont_fragment: true, identification: 7, flow_label: 0 };

fn opening(answer: bool, options: &[u8]) -> TcpHeader {
    let mut header = TcpHeader::new(0, 0, 1, 1024);
    header.syn = true;
    header.ack = answer;
    header.set_options_raw(options).unwrap();
    header
}

/// Options with the size at several places; an odd one crosses the words of the checksum.
fn options(size: u16) -> Vec<(&'static str, Vec<u8>)> {
    let [high, low] = size.to_be_bytes();
    vec![
        ("first", vec![2, 4, high, low]),
        ("behind others", vec![4, 2, 1, 3, 3, 7, 2, 4, high, low, 1, 0]),
        ("at an odd place", vec![1, 2, 4, high, low, 1, 1, 0]),
        ("at an odd place, later", vec![3, 3, 7, 2, 4, high, low, 0]),
        ("behind padding", vec![1, 1, 1, 1, 1, 1, 1, 1, 2, 4, high, low]),
    ]
}

#[test]
fn both_ends_are_told_what_the_smaller_side_carries() {
    in_a_world(|world| {
        for flow in Flow::nat() {
            let headers = if flow.client.source.is_ipv4() { 40 } else { 60 };
            let most = u16::try_from(BACK_MTU).unwrap() - headers;
            world.flow(Mode::MODE_NAT, TCP, flow.client, flow.sent);
            for stated in [most + 10, most, 536, u16::MAX] {
                let kept = options(stated.min(most));
                for ((what, stated), (_, kept)) in options(stated).into_iter().zip(kept) {
                    for side in [Side::Client, Side::Backend] {
                        let (original, translated) = flow.direction(side == Side::Client);
                        let answer = side == Side::Backend;
                        let packet = tcp(original, HOP, &opening(answer, &stated), &[]);
                        let outcome = world.send(side, &side.entering(&packet));
                        let expected = tcp(translated, hop_on(HOP), &opening(answer, &kept), &[]);
                        let expected = side.other().leaving(&expected);
                        assert_eq!(outcome.frame, expected, "{flow:?} {side:?} {what}");
                    }
                }
            }
        }
    });
}

#[test]
fn options_that_lie_are_left_alone() {
    in_a_world(|world| {
        for flow in Flow::nat() {
            world.flow(Mode::MODE_NAT, TCP, flow.client, flow.sent);
            for options in [
                vec![3, 0, 2, 4, 255, 255, 0, 0],
                vec![3, 1, 2, 4, 255, 255, 0, 0],
                vec![2, 3, 255, 255],
                vec![2, 5, 255, 255, 1, 0, 0, 0],
                vec![1, 1, 2, 4],
                vec![0, 0, 0, 0, 2, 4, 255, 255],
                vec![3, 255, 0, 0],
            ] {
                let packet = tcp(flow.client, HOP, &opening(false, &options), &[]);
                let outcome = world.send(Side::Client, &Side::Client.entering(&packet));
                let expected = tcp(flow.sent, hop_on(HOP), &opening(false, &options), &[]);
                let expected = Side::Backend.leaving(&expected);
                assert_eq!(outcome.frame, expected, "{options:?}");
            }
        }
    });
}
