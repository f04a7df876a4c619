//! RFC 7606, revised error handling: which faults of an UPDATE end the session, which withdraw
//! its prefixes, and which cost only an attribute. Numbers are sections.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use haflinger_bgp::wire::{Context, Message, Notification, Update, decode_message};

const EXTERNAL: Context = Context { four_octet_as: true, internal: false };
const INTERNAL: Context = Context { four_octet_as: true, internal: true };

const ORIGIN: [u8; 4] = [0x40, 1, 1, 0];
const AS_PATH: [u8; 9] = [0x40, 2, 6, 2, 1, 0, 0, 0xfc, 1];
const NEXT_HOP: [u8; 7] = [0x40, 3, 4, 192, 0, 2, 9];
/// 192.0.2.1/32
const NLRI: [u8; 5] = [32, 192, 0, 2, 1];

fn update(attributes: &[&[u8]], nlri: &[u8]) -> Vec<u8> {
    let attributes = attributes.concat();
    let length = 19 + 4 + attributes.len() + nlri.len();
    let mut octets = vec![0xff; 16];
    octets.extend(u16::try_from(length).unwrap().to_be_bytes());
    octets.extend([2, 0, 0]);
    octets.extend(u16::try_from(attributes.len()).unwrap().to_be_bytes());
    octets.extend(attributes);
    octets.extend(nlri);
    octets
}

fn read(octets: &[u8], context: &Context) -> Result<Update, Notification> {
    decode_message(octets, context).map(|message| match message {
        Message::Update(update) => update,
        other => panic!("{other:?}"),
    })
}

/// The subcode for which the prefix was treated as withdrawn.
fn withdrawn(octets: &[u8], context: &Context) -> u8 {
    let update = read(octets, context).unwrap();
    let fault = update.treated_as_withdraw.expect("not treated as withdraw");
    assert_eq!((update.announced_v4.len(), update.withdrawn_v4.len()), (0, 1));
    fault.subcode
}

fn accepted(octets: &[u8], context: &Context) -> Update {
    let update = read(octets, context).unwrap();
    assert_eq!(update.treated_as_withdraw, None);
    assert_eq!(update.announced_v4.len(), 1);
    update
}

#[test]
fn section_3_c_wrong_flags_withdraw() {
    let origin = [0xc0, 1, 1, 0];
    assert_eq!(withdrawn(&update(&[&origin, &AS_PATH, &NEXT_HOP], &NLRI), &EXTERNAL), 6);
    // The partial bit alone is no fault.
    let origin = [0x60, 1, 1, 0];
    accepted(&update(&[&origin, &AS_PATH, &NEXT_HOP], &NLRI), &EXTERNAL);
}

#[test]
fn section_3_d_missing_mandatory_attributes_withdraw() {
    for attributes in
        [vec![&AS_PATH[..], &NEXT_HOP], vec![&ORIGIN, &NEXT_HOP], vec![&ORIGIN, &AS_PATH]]
    {
        assert_eq!(withdrawn(&update(&attributes, &NLRI), &EXTERNAL), 3);
    }
}

#[test]
fn section_3_g_of_a_repeated_attribute_the_first_counts() {
    let second = [0x40, 3, 4, 192, 0, 2, 10];
    let read = accepted(&update(&[&ORIGIN, &AS_PATH, &NEXT_HOP, &second], &NLRI), &EXTERNAL);
    assert_eq!(read.attributes.next_hop, Some([192, 0, 2, 9].into()));
    let marker = [0x80, 15, 3, 0, 2, 1];
    let answer = read_err(&update(&[&marker, &marker], &[]));
    assert_eq!(answer, (3, 1));
}

fn read_err(octets: &[u8]) -> (u8, u8) {
    let answer = read(octets, &EXTERNAL).unwrap_err();
    (answer.code, answer.subcode)
}

#[test]
fn section_4_an_attribute_that_runs_over_withdraws() {
    let over = [0x40, 3, 9, 192, 0, 2, 9];
    assert_eq!(withdrawn(&update(&[&ORIGIN, &AS_PATH, &over], &NLRI), &EXTERNAL), 1);
    assert_eq!(withdrawn(&update(&[&ORIGIN, &AS_PATH, &NEXT_HOP, &[0x40]], &NLRI), &EXTERNAL), 1);
}

#[test]
fn section_5_2_a_fault_without_reachable_prefixes_resets() {
    assert_eq!(read_err(&update(&[&[0x40, 1, 1, 9]], &[])), (3, 6));
}

#[test]
fn section_5_3_a_semantically_wrong_prefix_is_passed_over() {
    let nlri = [NLRI.as_slice(), &[32, 224, 0, 0, 5]].concat();
    accepted(&update(&[&ORIGIN, &AS_PATH, &NEXT_HOP], &nlri), &EXTERNAL);
}

#[test]
fn section_7_1_to_7_4_broken_values_withdraw() {
    let cases: [(&[u8], u8); 6] = [
        (&[0x40, 1, 1, 3], 6),
        (&[0x40, 1, 2, 0, 0], 6),
        (&[0x40, 2, 3, 2, 1, 0], 11),
        (&[0x40, 2, 2, 9, 0], 11),
        (&[0x40, 3, 3, 192, 0, 2], 8),
        (&[0x80, 4, 3, 0, 0, 1], 9),
    ];
    for (broken, subcode) in cases {
        let good = [&ORIGIN[..], &AS_PATH, &NEXT_HOP];
        let others = good.into_iter().filter(|attribute| attribute[1] != broken[1]);
        let attributes: Vec<&[u8]> = others.chain([broken]).collect();
        assert_eq!(withdrawn(&update(&attributes, &NLRI), &EXTERNAL), subcode, "{broken:?}");
    }
}

#[test]
fn section_7_5_local_pref_counts_within_an_as_only() {
    let broken = [0x40, 5, 3, 0, 0, 1];
    let good = [0x40, 5, 4, 0, 0, 0, 200];
    let with = |local_pref: &[u8]| update(&[&ORIGIN, &AS_PATH, &NEXT_HOP, local_pref], &NLRI);
    assert_eq!(withdrawn(&with(&broken), &INTERNAL), 5);
    assert_eq!(accepted(&with(&good), &INTERNAL).attributes.local_pref, Some(200));
    assert_eq!(accepted(&with(&broken), &EXTERNAL).attributes.local_pref, None);
    assert_eq!(accepted(&with(&good), &EXTERNAL).attributes.local_pref, None);
}

#[test]
fn section_7_6_and_7_7_broken_aggregates_are_discarded() {
    let broken: [&[u8]; 2] = [&[0x40, 6, 1, 0], &[0xc0, 7, 2, 0, 0]];
    for attribute in broken {
        accepted(&update(&[&ORIGIN, &AS_PATH, &NEXT_HOP, attribute], &NLRI), &EXTERNAL);
    }
}

#[test]
fn section_7_8_broken_communities_withdraw() {
    let broken = [0xc0, 8, 3, 0, 0, 1];
    assert_eq!(withdrawn(&update(&[&ORIGIN, &AS_PATH, &NEXT_HOP, &broken], &NLRI), &EXTERNAL), 9);
    let good = [0xc0, 8, 4, 0xfc, 0, 0, 100];
    let read = accepted(&update(&[&ORIGIN, &AS_PATH, &NEXT_HOP, &good], &NLRI), &EXTERNAL);
    assert_eq!(read.attributes.communities[0].to_string(), "64512:100");
}

#[test]
fn section_7_11_a_broken_mp_reach_resets() {
    let broken: [&[u8]; 4] = [
        // Cut off; next hop of a length that no IPv6 address has; a prefix of 129 bits; empty.
        &[0x80, 14, 4, 0, 2, 1, 16],
        &[0x80, 14, 9, 0, 2, 1, 4, 192, 0, 2, 9, 0],
        &[0x80, 14, 7, 0, 2, 1, 0, 0, 129, 0],
        &[0x80, 14, 0],
    ];
    for attribute in broken {
        let answer = read_err(&update(&[&ORIGIN, &AS_PATH, attribute], &[]));
        assert_eq!(answer, (3, 9), "{attribute:?}");
    }
}

#[test]
fn section_7_12_a_broken_mp_unreach_resets() {
    for attribute in [&[0x80, 15, 2, 0, 2][..], &[0x80, 15, 5, 0, 2, 1, 129, 0]] {
        assert_eq!(read_err(&update(&[attribute], &[])), (3, 9), "{attribute:?}");
    }
}

#[test]
fn unknown_optional_attributes_are_passed_over() {
    let unknown = [0xc0, 99, 2, 1, 2];
    accepted(&update(&[&ORIGIN, &AS_PATH, &NEXT_HOP, &unknown], &NLRI), &EXTERNAL);
}
