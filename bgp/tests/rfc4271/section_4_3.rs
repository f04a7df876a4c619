//! UPDATE: prefixes, attributes, and the markers that say nothing.

use haflinger_bgp::model::Family;
use haflinger_bgp::wire::{Message, Origin, Segment, Update};

use crate::raw::{decode, update};

/// ORIGIN IGP, AS_PATH (64513), NEXT_HOP 192.0.2.9.
pub(crate) const PATH: [u8; 20] =
    [0x40, 1, 1, 0, 0x40, 2, 6, 2, 1, 0, 0, 0xfc, 1, 0x40, 3, 4, 192, 0, 2, 9];

fn updated(octets: &[u8]) -> Update {
    match decode(octets).unwrap() {
        Message::Update(update) => update,
        other => panic!("{other:?}"),
    }
}

#[test]
fn prefixes_are_as_long_as_they_must_be() {
    let nlri = [0, 8, 10, 9, 10, 128, 32, 192, 0, 2, 1];
    let read = updated(&update(&[24, 198, 51, 100], &PATH, &nlri));
    let shown: Vec<String> = read.announced_v4.iter().map(ToString::to_string).collect();
    assert_eq!(shown, ["0.0.0.0/0", "10.0.0.0/8", "10.128.0.0/9", "192.0.2.1/32"]);
    assert_eq!(read.withdrawn_v4[0].to_string(), "198.51.100.0/24");
    assert_eq!(read.attributes.origin, Some(Origin::Igp));
    assert_eq!(read.attributes.as_path, Some(vec![Segment::Sequence(vec![64_513])]));
    assert_eq!(read.attributes.next_hop, Some([192, 0, 2, 9].into()));
}

#[test]
fn bits_beyond_the_length_are_irrelevant() {
    let read = updated(&update(&[], &PATH, &[4, 0xff]));
    // 240.0.0.0/4 with all bits of its octet set.
    assert_eq!(read.announced_v4[0].to_string(), "240.0.0.0/4");
}

#[test]
fn an_empty_update_is_the_end_of_ipv4() {
    assert_eq!(decode(&update(&[], &[], &[])), Ok(Message::EndOfRib(Family::Ipv4)));
    let marker = [0x80, 15, 3, 0, 2, 1];
    assert_eq!(decode(&update(&[], &marker, &[])), Ok(Message::EndOfRib(Family::Ipv6)));
}

#[test]
fn ipv6_prefixes_come_in_attributes() {
    let mut attributes = PATH[..13].to_vec();
    attributes.extend([0x80, 14, 38, 0, 2, 1, 16, 0x20, 0x01, 0x0d, 0xb8]);
    attributes.extend([0; 11]);
    attributes.extend([9, 0, 128, 0x20, 0x01, 0x0d, 0xb8]);
    attributes.extend([0; 11]);
    attributes.push(1);
    attributes.extend([0x80, 15, 8, 0, 2, 1, 32, 0x20, 0x01, 0x0d, 0xb9]);
    let read = updated(&update(&[], &attributes, &[]));
    assert_eq!(read.announced_v6[0].to_string(), "2001:db8::1/128");
    assert_eq!(read.next_hop_v6, "2001:db8::9".parse().ok());
    assert_eq!(read.withdrawn_v6[0].to_string(), "2001:db9::/32");
    assert_eq!(read.treated_as_withdraw, None);
}

#[test]
fn a_family_that_is_none_of_ours_is_passed_over() {
    // EVPN, whose prefixes have a form of their own.
    let mut attributes = vec![0x80, 14, 10, 0, 25, 70, 4, 192, 0, 2, 9, 0, 99];
    attributes.extend(PATH);
    let read = updated(&update(&[], &attributes, &[32, 192, 0, 2, 1]));
    assert_eq!((read.announced_v4.len(), read.announced_v6.len()), (1, 0));
}
