//! Random packets of known flows, compared with a rewrite that computes every checksum whole.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use crate::network::{BACK, BACKEND_ROUTER, CLIENT_ROUTER, FRONT, Side};
use crate::packets::{Ends, TCP, UDP, checksum, frame, pseudo_header};
use crate::world::{Size, in_a_world};
use crate::{FAMILIES, Flags, REDIRECT, handshake, send, sent};

/// All of a packet but whose it is.
#[derive(Clone, Debug)]
struct Shape {
    protocol: u8,
    from: Side,
    hops: u8,
    traffic_class: u8,
    flow_label: u32,
    identification: u16,
    tags: Vec<[u8; 4]>,
    /// Options of IPv4 in words, extension headers of IPv6 in eight bytes each.
    options: usize,
    /// TCP: options in words.
    transport_options: usize,
    sequence: [u32; 2],
    payload: Vec<u8>,
    /// UDP may say that it has no checksum.
    summed: bool,
}

impl Shape {
    /// The packet between these ends after so many hops.
    fn packet(&self, ends: Ends, hops: u8) -> Vec<u8> {
        let transport = self.transport(ends);
        let ttl = self.hops - hops;
        match (ends.source.ip(), ends.destination.ip()) {
            (std::net::IpAddr::V4(source), std::net::IpAddr::V4(destination)) => {
                let header = 20 + 4 * self.options;
                let mut bytes = vec![0x40 | u8::try_from(header / 4).unwrap(), self.traffic_class];
                bytes.extend(u16::try_from(header + transport.len()).unwrap().to_be_bytes());
                bytes.extend(self.identification.to_be_bytes());
                bytes.extend([0x40, 0, ttl, self.protocol, 0, 0]);
                bytes.extend(source.octets());
                bytes.extend(destination.octets());
                bytes.resize(header, 1);
                let sum = checksum(&bytes);
                bytes[10..12].copy_from_slice(&sum.to_be_bytes());
                [bytes, transport].concat()
            }
            (std::net::IpAddr::V6(source), std::net::IpAddr::V6(destination)) => {
                let first = 6 << 28 | u32::from(self.traffic_class) << 20 | self.flow_label;
                let chain = self.chain();
                let mut bytes = first.to_be_bytes().to_vec();
                bytes.extend(u16::try_from(chain.len() + transport.len()).unwrap().to_be_bytes());
                bytes.extend([if chain.is_empty() { self.protocol } else { 60 }, ttl]);
                bytes.extend(source.octets());
                bytes.extend(destination.octets());
                [bytes, chain, transport].concat()
            }
            _ => unreachable!("both ends are of one family"),
        }
    }

    /// Destination options of eight bytes, all padding.
    fn chain(&self) -> Vec<u8> {
        let count = self.options.min(6);
        let header = |index| {
            let next = if index + 1 == count { self.protocol } else { 60 };
            [next, 0, 1, 4, 0, 0, 0, 0]
        };
        (0..count).flat_map(header).collect()
    }

    fn transport(&self, ends: Ends) -> Vec<u8> {
        let mut bytes = ends.source.port().to_be_bytes().to_vec();
        bytes.extend(ends.destination.port().to_be_bytes());
        let at = if self.protocol == TCP {
            bytes.extend(self.sequence.iter().flat_map(|word| word.to_be_bytes()));
            let header = 20 + 4 * self.transport_options;
            bytes.extend([u8::try_from(header / 4).unwrap() << 4, 0x18, 0x20, 0, 0, 0, 0, 0]);
            bytes.resize(header, 1);
            16
        } else {
            bytes.extend(u16::try_from(8 + self.payload.len()).unwrap().to_be_bytes());
            bytes.extend([0, 0]);
            6
        };
        bytes.extend(&self.payload);
        if self.protocol == TCP || self.summed {
            let (source, destination) = (ends.source.ip(), ends.destination.ip());
            let mut covered = pseudo_header(source, destination, self.protocol, bytes.len());
            covered.extend(&bytes);
            let sum = checksum(&covered);
            let sum = if self.protocol == UDP && sum == 0 { 0xffff } else { sum };
            bytes[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        }
        bytes
    }
}

fn shapes() -> impl Strategy<Value = Shape> {
    let network = (
        prop_oneof![Just(TCP), Just(UDP)],
        prop_oneof![Just(Side::Client), Just(Side::Backend)],
        2_u8..=255,
        any::<u8>(),
        0_u32..1 << 20,
        any::<u16>(),
        vec((0_u8..16, any::<u8>()).prop_map(|(high, low)| [0x81, 0, high, low]), 0..=2),
        0_usize..=10,
    );
    // Few different bytes: sums that carry, or come out as zero, are likely.
    let payload = (vec(any::<u8>(), 1..8), 0_usize..1200)
        .prop_map(|(bytes, length)| bytes.into_iter().cycle().take(length).collect());
    let transport = (0_usize..=10, any::<[u32; 2]>(), payload, any::<bool>());
    (network, transport).prop_map(|(network, transport)| {
        let (protocol, from, hops, traffic_class, flow_label, identification, tags, options) =
            network;
        let (transport_options, sequence, payload, summed) = transport;
        Shape {
            protocol,
            from,
            hops,
            traffic_class,
            flow_label,
            identification,
            tags,
            options,
            transport_options,
            sequence,
            payload,
            summed,
        }
    })
}

#[test]
fn a_random_packet_leaves_as_if_built_anew_for_its_other_ends() {
    in_a_world(Size::SMALL, |world| {
        for family in FAMILIES {
            family.serve(world, TCP, 1);
            family.serve(world, UDP, 1);
            handshake(world, family.ends());
            send(world, Side::Client, UDP, family.ends(), Flags::Ack);
            let cases = crate::network::cases();
            let config = Config { cases, failure_persistence: None, ..Config::default() };
            let outcome = TestRunner::new(config).run(&shapes(), |shape| {
                let (client, sent) = (family.ends(), sent(world, family.ends(), shape.protocol));
                let (came, leaves, to, of, back, link) = match shape.from {
                    Side::Client => (client, sent, FRONT, CLIENT_ROUTER, BACKEND_ROUTER, BACK),
                    Side::Backend => (
                        sent.reversed(),
                        client.reversed(),
                        BACK,
                        BACKEND_ROUTER,
                        CLIENT_ROUTER,
                        FRONT,
                    ),
                };
                let input = frame(to, of, &shape.tags, &shape.packet(came, 0));
                let outcome = world.send(shape.from, &input);
                prop_assert_eq!((outcome.verdict, outcome.reason), (REDIRECT, "FORWARDED"));
                let expected = frame(back, link, &[], &shape.packet(leaves, 1));
                prop_assert_eq!(outcome.frame, expected);
                Ok(())
            });
            if let Err(failure) = outcome {
                panic!("{family:?}: {failure}");
            }
        }
    });
}
