//! OPEN: what is read from it, and that what we write is read back.

use haflinger_bgp::model::{HoldTime, PerFamily, RouterId};
use haflinger_bgp::wire::{Capabilities, Message, Open, encode_message};

use crate::raw::{EXTERNAL, decode, message, open_body};

fn opened(parameters: &[u8]) -> Open {
    match decode(&message(1, &open_body(parameters))).unwrap() {
        Message::Open(open) => open,
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_open_without_parameters_offers_ipv4_only() {
    let open = opened(&[]);
    assert_eq!((open.asn, open.hold_time.secs()), (64_513, 90));
    assert_eq!(open.router_id.to_string(), "192.0.2.2");
    assert_eq!(open.capabilities, Capabilities::default());
    assert!(open.capabilities.accepts(haflinger_bgp::model::Family::Ipv4));
    assert!(!open.capabilities.accepts(haflinger_bgp::model::Family::Ipv6));
}

#[test]
fn capabilities_are_found_in_one_parameter_or_many() {
    let one = [2, 14, 1, 4, 0, 2, 0, 1, 2, 0, 65, 4, 0xfa, 0x56, 0xea, 0x01];
    let many = [2, 6, 1, 4, 0, 2, 0, 1, 2, 2, 2, 0, 2, 6, 65, 4, 0xfa, 0x56, 0xea, 0x01];
    for parameters in [&one[..], &many[..]] {
        let open = opened(parameters);
        assert_eq!(open.asn, 0xfa56_ea01);
        assert_eq!(open.capabilities.families, PerFamily { ipv4: false, ipv6: true });
        assert!(open.capabilities.route_refresh && open.capabilities.four_octet_as);
    }
}

#[test]
fn unknown_capabilities_and_families_are_passed_over() {
    // Code 200; flow specification, which has no unicast; a family that IANA never assigned.
    let parameters = [2, 15, 200, 1, 7, 1, 4, 0, 1, 0, 133, 1, 4, 0x7f, 0x7f, 0, 99];
    let open = opened(&parameters);
    assert_eq!(open.capabilities.other, [200]);
    assert!(open.capabilities.multiprotocol);
    assert_eq!(open.capabilities.families, PerFamily::default());
}

#[test]
fn extended_parameters_are_read() {
    // RFC 9072: type 255, then a length of two octets, then parameters with such lengths.
    let mut body = open_body(&[]);
    body.pop();
    body.extend([255, 255, 0, 5, 2, 0, 2, 2, 0]);
    let Message::Open(open) = decode(&message(1, &body)).unwrap() else { panic!("no OPEN") };
    assert!(open.capabilities.route_refresh);
}

#[test]
fn what_we_write_is_read_back() {
    for asn in [64_512, 4_200_000_001] {
        let open = Open {
            asn,
            hold_time: HoldTime::from_secs(9).unwrap(),
            router_id: RouterId::new([192, 0, 2, 1].into()).unwrap(),
            capabilities: Capabilities::ours(),
        };
        let mut octets = Vec::new();
        encode_message(&Message::Open(open.clone()), &EXTERNAL, &mut octets).unwrap();
        assert_eq!(decode(&octets).unwrap(), Message::Open(open));
        let two_octets = u16::from_be_bytes([octets[20], octets[21]]);
        assert_eq!(u32::from(two_octets), if asn == 64_512 { asn } else { 23_456 });
    }
}
