//! Two codecs of others as oracles: each must read in our messages what we meant.
//!
//! `bgp-rs` panics on some messages and prints on others, so it sees only what we wrote; and it
//! guesses whether prefixes carry path identifiers, so it sees only the host prefixes that this
//! speaker announces.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bgpkit_parser::models::{AsnLength, BgpMessage, MetaCommunity, NextHopAddress};
use bgpkit_parser::parser::bgp::parse_bgp_message;
use haflinger_bgp::model::{Family, HoldTime, RouterId};
use haflinger_bgp::wire::{
    Attributes, Capabilities, Context, Message, Notification, Open, Path, Segment, announcements,
    encode_message, withdrawals,
};
use ipnet::IpNet;
use proptest::prelude::*;

use crate::generate::attributes;

fn encode(message: &Message, context: &Context) -> Vec<u8> {
    let mut octets = Vec::new();
    encode_message(message, context, &mut octets).unwrap();
    octets
}

fn bgpkit(octets: &[u8], context: &Context) -> BgpMessage {
    let length = if context.four_octet_as { AsnLength::Bits32 } else { AsnLength::Bits16 };
    let mut octets = bytes::Bytes::copy_from_slice(octets);
    parse_bgp_message(&mut octets, false, &length).unwrap()
}

fn bgp_rs(octets: &[u8], context: &Context) -> bgp_rs::Message {
    let capabilities = bgp_rs::Capabilities {
        FOUR_OCTET_ASN_SUPPORT: context.four_octet_as,
        ..bgp_rs::Capabilities::default()
    };
    let mut reader = bgp_rs::Reader { stream: octets, capabilities: &capabilities };
    let (header, message) = reader.read().unwrap();
    assert_eq!(usize::from(header.length), octets.len());
    assert!(reader.stream.is_empty(), "not read to the end");
    message
}

/// Host prefixes of both families, as this speaker announces them.
fn hosts() -> impl Strategy<Value = Vec<IpNet>> {
    let host = prop_oneof![
        (0x0100_0000u32..0xdfff_ffff).prop_map(|host| IpAddr::V4(Ipv4Addr::from(host))),
        (0u128..1 << 124).prop_map(|host| IpAddr::V6(Ipv6Addr::from(host | 1 << 125))),
    ];
    prop::collection::btree_set(host.prop_map(IpNet::from), 1..500)
        .prop_map(|hosts| hosts.into_iter().collect())
}

fn of(prefixes: &[IpNet], family: Family) -> Vec<IpNet> {
    prefixes.iter().filter(|net| Family::of(net) == family).copied().collect()
}

fn next_hop(family: Family) -> IpAddr {
    match family {
        Family::Ipv4 => IpAddr::V4(Ipv4Addr::new(192, 0, 2, 9)),
        Family::Ipv6 => IpAddr::V6("2001:db8::9".parse().unwrap()),
    }
}

/// What an oracle understood of UPDATEs of one family.
#[derive(Debug, Default, PartialEq)]
struct Understood {
    announced: Vec<IpNet>,
    withdrawn: Vec<IpNet>,
    next_hops: Vec<IpAddr>,
    as_numbers: Vec<u32>,
    communities: Vec<u32>,
    local_pref: Option<u32>,
    med: Option<u32>,
}

impl Understood {
    fn settle(mut self) -> Understood {
        self.next_hops.dedup();
        self
    }

    fn bgpkit(&mut self, message: BgpMessage) {
        let BgpMessage::Update(update) = message else { panic!("{message:?}") };
        self.announced.extend(update.announced_prefixes.iter().map(|net| net.prefix));
        self.withdrawn.extend(update.withdrawn_prefixes.iter().map(|net| net.prefix));
        let attributes = &update.attributes;
        assert!(!attributes.has_validation_warnings(), "{:?}", attributes.validation_warnings());
        self.next_hops.extend(attributes.next_hop().filter(IpAddr::is_ipv4));
        if let Some(reach) = attributes.get_reachable_nlri() {
            self.announced.extend(reach.prefixes.iter().map(|net| net.prefix));
            match reach.next_hop {
                Some(NextHopAddress::Ipv6(hop)) => self.next_hops.push(IpAddr::V6(hop)),
                other => panic!("{other:?}"),
            }
        }
        if let Some(unreach) = attributes.get_unreachable_nlri() {
            self.withdrawn.extend(unreach.prefixes.iter().map(|net| net.prefix));
        }
        let Some(path) = attributes.effective_as_path() else { return };
        self.as_numbers = path
            .iter_segments()
            .flat_map(|segment| segment.iter().map(|number| u32::from(*number)).collect::<Vec<_>>())
            .collect();
        self.communities = attributes
            .iter_communities()
            .map(|community| match community {
                MetaCommunity::Plain(plain) => number(plain),
                other => panic!("{other:?}"),
            })
            .collect();
        (self.local_pref, self.med) =
            (attributes.local_preference(), attributes.multi_exit_discriminator());
    }

    fn bgp_rs(&mut self, message: bgp_rs::Message) {
        let bgp_rs::Message::Update(update) = message else { panic!("{message:?}") };
        self.announced.extend(update.announced_routes.iter().map(net));
        self.withdrawn.extend(update.withdrawn_routes.iter().map(net));
        for attribute in update.attributes {
            match attribute {
                bgp_rs::PathAttribute::MP_REACH_NLRI(reach) => {
                    self.announced.extend(reach.announced_routes.iter().map(net));
                    let hop = <[u8; 16]>::try_from(reach.next_hop).unwrap();
                    self.next_hops.push(IpAddr::from(hop));
                }
                bgp_rs::PathAttribute::MP_UNREACH_NLRI(unreach) => {
                    self.withdrawn.extend(unreach.withdrawn_routes.iter().map(net));
                }
                bgp_rs::PathAttribute::NEXT_HOP(hop) => self.next_hops.push(hop),
                bgp_rs::PathAttribute::AS_PATH(path) => self.as_numbers = numbers(path),
                bgp_rs::PathAttribute::AS4_PATH(path) => self.as_numbers = numbers(path),
                bgp_rs::PathAttribute::COMMUNITY(values) => self.communities = values,
                bgp_rs::PathAttribute::LOCAL_PREF(value) => self.local_pref = Some(value),
                bgp_rs::PathAttribute::MULTI_EXIT_DISC(value) => self.med = Some(value),
                bgp_rs::PathAttribute::ORIGIN(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }
}

fn number(community: bgpkit_parser::models::Community) -> u32 {
    use bgpkit_parser::models::Community;
    match community {
        Community::NoExport => 0xffff_ff01,
        Community::NoAdvertise => 0xffff_ff02,
        Community::NoExportSubConfed => 0xffff_ff03,
        Community::Custom(high, low) => u32::from(high) << 16 | u32::from(low),
    }
}

fn numbers(path: bgp_rs::ASPath) -> Vec<u32> {
    let segments = path.segments.into_iter();
    let numbers = segments.flat_map(|segment| match segment {
        bgp_rs::Segment::AS_SEQUENCE(numbers) | bgp_rs::Segment::AS_SET(numbers) => numbers,
    });
    numbers.collect()
}

fn net(encoding: &bgp_rs::NLRIEncoding) -> IpNet {
    match encoding {
        bgp_rs::NLRIEncoding::IP(prefix) => {
            IpNet::new(IpAddr::from(prefix), prefix.length).unwrap()
        }
        other => panic!("{other:?}"),
    }
}

/// What we meant.
fn meant(hosts: Vec<IpNet>, family: Family, attributes: &Attributes) -> Understood {
    let segments = attributes.as_path.iter().flatten();
    let as_numbers = segments.flat_map(|segment| match segment {
        Segment::Sequence(numbers) | Segment::Set(numbers) => numbers.clone(),
    });
    Understood {
        announced: hosts,
        next_hops: vec![next_hop(family)],
        as_numbers: as_numbers.collect(),
        communities: attributes.communities.iter().map(|community| community.0).collect(),
        local_pref: attributes.local_pref,
        med: attributes.med,
        ..Understood::default()
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn both_oracles_understand_every_announcement(
        hosts in hosts(),
        (context, attributes) in any::<(bool, bool)>().prop_flat_map(|(four_octet_as, internal)| {
            let context = Context { four_octet_as, internal };
            (Just(context), attributes(context))
        }),
    ) {
        for family in Family::ALL {
            let hosts = of(&hosts, family);
            let path = Path { next_hop: next_hop(family), attributes: attributes.clone() };
            let (mut first, mut second) = (Understood::default(), Understood::default());
            for update in announcements(&hosts, &path, &context).unwrap() {
                let octets = encode(&Message::Update(update), &context);
                first.bgpkit(bgpkit(&octets, &context));
                second.bgp_rs(bgp_rs(&octets, &context));
            }
            if !hosts.is_empty() {
                let meant = meant(hosts, family, &attributes);
                prop_assert_eq!(&first.settle(), &meant, "bgpkit-parser");
                prop_assert_eq!(&second.settle(), &meant, "bgp-rs");
            }
        }
    }

    #[test]
    fn both_oracles_understand_every_withdrawal(hosts in hosts()) {
        let context = Context { four_octet_as: true, internal: false };
        for family in Family::ALL {
            let hosts = of(&hosts, family);
            let (mut first, mut second) = (Understood::default(), Understood::default());
            for update in withdrawals(&hosts) {
                let octets = encode(&Message::Update(update), &context);
                first.bgpkit(bgpkit(&octets, &context));
                second.bgp_rs(bgp_rs(&octets, &context));
            }
            prop_assert_eq!(&first.withdrawn, &hosts, "bgpkit-parser");
            prop_assert_eq!(&second.withdrawn, &hosts, "bgp-rs");
        }
    }

    #[test]
    fn both_oracles_understand_every_open(asn in 1u32.., secs in 3u16.., id in 1u32..0xdfff_ffff) {
        let context = Context { four_octet_as: true, internal: false };
        let message = Message::Open(Open {
            asn,
            hold_time: HoldTime::from_secs(secs).unwrap(),
            router_id: RouterId::new(Ipv4Addr::from(id)).unwrap(),
            capabilities: Capabilities::ours(),
        });
        let octets = encode(&message, &context);
        let BgpMessage::Open(first) = bgpkit(&octets, &context) else { panic!("no OPEN") };
        prop_assert_eq!((first.hold_time, u32::from(first.bgp_identifier)), (secs, id));
        let bgp_rs::Message::Open(second) = bgp_rs(&octets, &context) else { panic!("no OPEN") };
        prop_assert_eq!((second.hold_timer, second.identifier), (secs, id));
        let offered = bgp_rs::Capabilities::from_parameters(second.parameters.clone());
        prop_assert!(offered.FOUR_OCTET_ASN_SUPPORT && offered.ROUTE_REFRESH_SUPPORT);
        let families = [bgp_rs::AFI::IPV4, bgp_rs::AFI::IPV6];
        for family in families.map(|family| (family, bgp_rs::SAFI::Unicast)) {
            prop_assert!(offered.MP_BGP_SUPPORT.contains(&family));
        }
        let capabilities = second.parameters.iter().flat_map(|parameter| match parameter {
            bgp_rs::OpenParameter::Capabilities(list) => list.clone(),
            other => panic!("{other:?}"),
        });
        let number = capabilities.into_iter().find_map(|capability| match capability {
            bgp_rs::OpenCapability::FourByteASN(number) => Some(number),
            _ => None,
        });
        prop_assert_eq!(number, Some(asn));
    }

    #[test]
    fn both_oracles_understand_every_notification(
        code in 1u8..7,
        data in prop::collection::vec(any::<u8>(), 0..100),
    ) {
        let context = Context { four_octet_as: true, internal: false };
        let octets = encode(&Message::Notification(Notification::new(code, 1, &data)), &context);
        let BgpMessage::Notification(first) = bgpkit(&octets, &context) else { panic!("other") };
        prop_assert_eq!(first.error.get_codes(), (code, 1));
        prop_assert_eq!(&first.data, &data);
        let bgp_rs::Message::Notification(second) = bgp_rs(&octets, &context) else {
            panic!("other")
        };
        prop_assert_eq!((second.major_err_code, second.minor_err_code), (code, 1));
        prop_assert_eq!(second.data, data);
    }
}

#[test]
fn both_oracles_understand_the_short_messages() {
    let context = Context { four_octet_as: true, internal: false };
    let octets = encode(&Message::Keepalive, &context);
    assert!(matches!(bgpkit(&octets, &context), BgpMessage::KeepAlive));
    assert!(matches!(bgp_rs(&octets, &context), bgp_rs::Message::KeepAlive));
    let octets = encode(&Message::RouteRefresh(Some(Family::Ipv6)), &context);
    assert!(matches!(bgpkit(&octets, &context), BgpMessage::RouteRefresh(_)));
    let bgp_rs::Message::RouteRefresh(refresh) = bgp_rs(&octets, &context) else {
        panic!("no ROUTE-REFRESH")
    };
    assert_eq!((refresh.afi, refresh.safi), (bgp_rs::AFI::IPV6, bgp_rs::SAFI::Unicast));
    for family in Family::ALL {
        let octets = encode(&Message::EndOfRib(family), &context);
        let BgpMessage::Update(marker) = bgpkit(&octets, &context) else { panic!("no UPDATE") };
        assert!(marker.is_end_of_rib(), "{family:?}");
        let bgp_rs::Message::Update(marker) = bgp_rs(&octets, &context) else {
            panic!("no UPDATE")
        };
        assert!(marker.announced_routes.is_empty() && marker.withdrawn_routes.is_empty());
    }
}

#[test]
fn a_peer_of_two_octets_is_told_the_true_numbers_beside_the_short_ones() {
    let context = Context { four_octet_as: false, internal: false };
    let path = Path {
        next_hop: next_hop(Family::Ipv4),
        attributes: Attributes {
            origin: Some(haflinger_bgp::wire::Origin::Igp),
            as_path: Some(vec![Segment::Sequence(vec![4_200_000_001])]),
            ..Attributes::default()
        },
    };
    let host: IpNet = "192.0.2.1/32".parse().unwrap();
    let update = announcements(&[host], &path, &context).unwrap().remove(0);
    let octets = encode(&Message::Update(update), &context);
    let BgpMessage::Update(first) = bgpkit(&octets, &context) else { panic!("no UPDATE") };
    let short: Vec<u32> =
        first.attributes.as_path().unwrap().iter_origins().map(u32::from).collect();
    assert_eq!(short, [23_456]);
    let mut second = Understood::default();
    second.bgp_rs(bgp_rs(&octets, &context));
    assert_eq!(second.as_numbers, [4_200_000_001]);
}
