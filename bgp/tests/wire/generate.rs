//! Generators of messages that this speaker could write.

use std::net::{Ipv4Addr, Ipv6Addr};

use haflinger_bgp::model::{Community, Family, HoldTime, PerFamily, RouterId, is_unicast};
use haflinger_bgp::wire::{
    Attributes, Capabilities, Context, Message, Notification, Open, Origin, Segment, Update,
};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use proptest::prelude::*;

pub(crate) fn ipv4_net() -> impl Strategy<Value = Ipv4Net> {
    let any_net = (any::<u32>(), 0u8..=32)
        .prop_map(|(address, bits)| Ipv4Net::new(Ipv4Addr::from(address), bits).unwrap().trunc());
    any_net.prop_filter("unicast", |net| is_unicast(&IpNet::V4(*net)))
}

pub(crate) fn ipv6_net() -> impl Strategy<Value = Ipv6Net> {
    let any_net = (any::<u128>(), 0u8..=128)
        .prop_map(|(address, bits)| Ipv6Net::new(Ipv6Addr::from(address), bits).unwrap().trunc());
    any_net.prop_filter("unicast", |net| is_unicast(&IpNet::V6(*net)))
}

pub(crate) fn context() -> impl Strategy<Value = Context> {
    (any::<bool>(), any::<bool>())
        .prop_map(|(four_octet_as, internal)| Context { four_octet_as, internal })
}

fn segment(most: u32) -> impl Strategy<Value = Segment> {
    (any::<bool>(), prop::collection::vec(1..=most, 1..6)).prop_map(|(set, numbers)| {
        if set { Segment::Set(numbers) } else { Segment::Sequence(numbers) }
    })
}

/// Attributes that survive a session of this kind unchanged.
pub(crate) fn attributes(context: Context) -> impl Strategy<Value = Attributes> {
    let most = if context.four_octet_as { u32::MAX } else { 65_535 };
    let origin = prop_oneof![Just(Origin::Igp), Just(Origin::Egp), Just(Origin::Incomplete)];
    (
        origin,
        prop::collection::vec(segment(most), 0..3),
        any::<u32>(),
        prop::option::of(any::<u32>()),
        prop::option::of(any::<u32>()),
        prop::collection::vec(any::<u32>().prop_map(Community), 0..128),
    )
        .prop_map(move |(origin, path, hop, med, local_pref, communities)| Attributes {
            origin: Some(origin),
            as_path: Some(path),
            next_hop: Some(Ipv4Addr::from(hop)),
            med,
            local_pref: local_pref.filter(|_| context.internal),
            communities,
        })
}

fn update(context: Context) -> impl Strategy<Value = Update> {
    (
        prop::collection::vec(ipv4_net(), 0..40),
        prop::collection::vec(ipv6_net(), 0..40),
        prop::collection::vec(ipv4_net(), 0..40),
        prop::collection::vec(ipv6_net(), 0..40),
        any::<u128>(),
        attributes(context),
    )
        .prop_map(|(withdrawn_v4, withdrawn_v6, announced_v4, announced_v6, hop, attributes)| {
            let mut update = Update {
                withdrawn_v4,
                withdrawn_v6,
                next_hop_v6: (!announced_v6.is_empty()).then_some(Ipv6Addr::from(hop)),
                announced_v4,
                announced_v6,
                attributes,
                treated_as_withdraw: None,
            };
            // What is not written cannot be read back.
            if update.announced() == 0 {
                update.attributes = Attributes::default();
            }
            if update.announced_v4.is_empty() {
                update.attributes.next_hop = None;
            }
            update
        })
        .prop_filter("says something", |update| *update != Update::default())
}

fn open() -> impl Strategy<Value = Open> {
    let hold_time =
        any::<u16>().prop_filter_map("hold time", |secs| HoldTime::from_secs(secs).ok());
    let router_id =
        any::<u32>().prop_filter_map("identifier", |id| RouterId::new(Ipv4Addr::from(id)).ok());
    (1u32.., hold_time, router_id, any::<[bool; 4]>()).prop_map(
        |(asn, hold_time, router_id, [four_octet_as, route_refresh, ipv4, ipv6])| Open {
            asn: if four_octet_as { asn } else { asn % 65_535 + 1 },
            hold_time,
            router_id,
            capabilities: Capabilities {
                four_octet_as,
                route_refresh,
                families: PerFamily { ipv4, ipv6 },
                multiprotocol: ipv4 || ipv6,
                other: Vec::new(),
            },
        },
    )
}

/// Any message, with the context of its session.
pub(crate) fn message() -> impl Strategy<Value = (Context, Message)> {
    context().prop_flat_map(|context| {
        let family = prop_oneof![Just(Family::Ipv4), Just(Family::Ipv6)];
        let notification = (any::<u8>(), any::<u8>(), prop::collection::vec(any::<u8>(), 0..300))
            .prop_map(|(code, subcode, data)| Notification::new(code, subcode, &data));
        let message = prop_oneof![
            1 => open().prop_map(Message::Open),
            4 => update(context).prop_map(Message::Update),
            1 => family.clone().prop_map(Message::EndOfRib),
            1 => notification.prop_map(Message::Notification),
            1 => Just(Message::Keepalive),
            1 => family.prop_map(|family| Message::RouteRefresh(Some(family))),
        ];
        (Just(context), message)
    })
}
