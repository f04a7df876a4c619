//! Packing: never over 4096 octets, nothing lost, nothing twice.

use std::net::IpAddr;

use haflinger_bgp::model::{Community, Family};
use haflinger_bgp::wire::{
    Attributes, Context, EncodeError, MESSAGE_MAX, Message, Origin, Path, Segment, Update,
    announcements, encode_message, withdrawals,
};
use ipnet::IpNet;
use proptest::prelude::*;

use crate::generate::{attributes, ipv4_net, ipv6_net};

const CONTEXT: Context = Context { four_octet_as: true, internal: false };

fn octets(update: &Update, context: &Context) -> usize {
    let mut octets = Vec::new();
    encode_message(&Message::Update(update.clone()), context, &mut octets).unwrap();
    octets.len()
}

fn prefixes() -> impl Strategy<Value = Vec<IpNet>> {
    let any_net = prop_oneof![
        ipv4_net().prop_map(IpNet::V4),
        ipv6_net().prop_map(IpNet::V6),
        any::<u32>().prop_map(|host| {
            IpNet::from(IpAddr::from(std::net::Ipv4Addr::from(host & 0x0fff_ffff)))
        }),
    ];
    prop::collection::vec(any_net, 0..3000)
}

fn of(prefixes: &[IpNet], family: Family) -> Vec<IpNet> {
    prefixes.iter().filter(|net| Family::of(net) == family).copied().collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    #[test]
    fn announcements_fit_and_hold_every_prefix_in_order(
        prefixes in prefixes(),
        four_octet_as: bool,
        (context, attributes) in any::<bool>().prop_flat_map(|internal| {
            let context = Context { internal, ..CONTEXT };
            (Just(context), attributes(context))
        }),
    ) {
        let context = Context { four_octet_as, ..context };
        for next_hop in ["192.0.2.9", "2001:db8::9"] {
            let next_hop: IpAddr = next_hop.parse().unwrap();
            let path = Path { next_hop, attributes: attributes.clone() };
            let updates = announcements(&prefixes, &path, &context).unwrap();
            let mut packed = Vec::new();
            for update in &updates {
                prop_assert!(octets(update, &context) <= MESSAGE_MAX);
                packed.extend(update.announced_v4.iter().copied().map(IpNet::V4));
                packed.extend(update.announced_v6.iter().copied().map(IpNet::V6));
            }
            let family = if next_hop.is_ipv4() { Family::Ipv4 } else { Family::Ipv6 };
            prop_assert_eq!(packed, of(&prefixes, family));
        }
    }

    #[test]
    fn withdrawals_fit_and_hold_every_prefix(prefixes in prefixes()) {
        let mut packed = Vec::new();
        for update in withdrawals(&prefixes) {
            prop_assert!(octets(&update, &CONTEXT) <= MESSAGE_MAX);
            packed.extend(update.withdrawn_v4.into_iter().map(IpNet::V4));
            packed.extend(update.withdrawn_v6.into_iter().map(IpNet::V6));
        }
        let expected = [of(&prefixes, Family::Ipv4), of(&prefixes, Family::Ipv6)].concat();
        prop_assert_eq!(packed, expected);
    }
}

fn path(communities: usize) -> Path {
    Path {
        next_hop: "192.0.2.9".parse().unwrap(),
        attributes: Attributes {
            origin: Some(Origin::Igp),
            as_path: Some(vec![Segment::Sequence(vec![64_512])]),
            communities: vec![Community(1); communities],
            ..Attributes::default()
        },
    }
}

#[test]
fn messages_are_filled_as_far_as_they_go() {
    let hosts: Vec<IpNet> =
        (0..5000u32).map(|host| IpAddr::from((0x0a00_0000 + host).to_be_bytes()).into()).collect();
    let updates = announcements(&hosts, &path(0), &CONTEXT).unwrap();
    // 4096 less header, lengths and 20 octets of attributes: 810 hosts of five octets each.
    assert_eq!(updates[0].announced_v4.len(), 810);
    assert_eq!(updates.len(), 7);
    assert!(octets(&updates[0], &CONTEXT) > MESSAGE_MAX - 5);
}

#[test]
fn attributes_over_255_octets_survive() {
    // The codec crate corrupts them silently unless it is told of their length.
    let host: IpNet = "192.0.2.1/32".parse().unwrap();
    for communities in [63, 64, 128] {
        let update = announcements(&[host], &path(communities), &CONTEXT).unwrap().remove(0);
        let mut octets = Vec::new();
        encode_message(&Message::Update(update.clone()), &CONTEXT, &mut octets).unwrap();
        let read = haflinger_bgp::wire::decode_message(&octets, &CONTEXT).unwrap();
        assert_eq!(read, Message::Update(update), "{communities}");
    }
}

#[test]
fn attributes_that_leave_no_room_are_refused_and_nothing_is_written() {
    let host: IpNet = "192.0.2.1/32".parse().unwrap();
    let packed = announcements(&[host], &path(1100), &CONTEXT);
    assert!(matches!(packed, Err(EncodeError::TooLong(_))), "{packed:?}");
    let mut update = announcements(&[host], &path(1), &CONTEXT).unwrap().remove(0);
    update.attributes.communities = vec![Community(1); 1100];
    let mut octets = vec![7];
    let refused = encode_message(&Message::Update(update), &CONTEXT, &mut octets);
    assert!(matches!(refused, Err(EncodeError::TooLong(_))), "{refused:?}");
    assert_eq!(octets, [7]);
}
