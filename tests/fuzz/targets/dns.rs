//! Zone transfers: no octets make reading panic, and whatever a zone holds, its plan settles
//! every wanted name and leaves alone what we do not own.

#![no_main]

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::LazyLock;

use haflinger_dns::owner::{heritage_record, owned_by_name, ownership_name};
use haflinger_dns::plan::{Decision, Rules, apply, decide, is_owned, owned_names};
use haflinger_dns::record::{Actual, Held};
use haflinger_dns::{DesiredName, Policy, RecordName, Tsig, TsigAlgorithm, read_transfer};
use libfuzzer_sys::fuzz_target;

const OWNER: &str = "blue";
const REQUEST: u16 = 7;
const NOW_SECS: u64 = 1_000;

/// The zone of every transfer, a wanted name in it, and the key of signed requests.
static ZONE: LazyLock<RecordName> = LazyLock::new(|| name("a"));
static WANTED: LazyLock<RecordName> = LazyLock::new(|| name("b.a"));
static KEY: LazyLock<Tsig> = LazyLock::new(|| Tsig {
    key_name: name("edge"),
    algorithm: TsigAlgorithm::HmacSha256,
    secret: b"secret".to_vec(),
});

fuzz_target!(|input: (u8, [u8; 3], &[u8])| {
    let (way, counts, octets) = input;
    let key = (way & 1 == 1).then_some(&*KEY);
    let transfer = match way >> 1 & 1 {
        0 => vec![octets.to_vec()],
        // Counts and the SOA records at both ends would keep the fuzzer out.
        _ => vec![message(counts, octets), message([0; 3], &[])],
    };
    let messages = transfer.iter().map(Vec::as_slice);
    let Ok(mut actual) = read_transfer(&ZONE, key, REQUEST, messages, NOW_SECS) else { return };
    assert!(key.is_none(), "the secret is not known to whoever writes the input");
    if way >> 2 & 1 == 1 {
        // No input spells an ownership record by chance.
        actual.add_txt("a-b.a", heritage_record(OWNER, "service/shop/web"));
    }
    for (at, held) in actual.iter() {
        check(at, held);
    }
    settle(actual);
});

/// One SOA record of the zone (RFC 1035 section 3.3.13), with empty names in it.
const SOA: &[u8] = &[
    1, b'a', 0, 0, 6, 0, 1, 0, 0, 0, 60, 0, 22, 0, 0, //
    0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1,
];

/// An answer to the request, of the SOA record and `counts` further records.
fn message([answers, authorities, additionals]: [u8; 3], records: &[u8]) -> Vec<u8> {
    let mut message = REQUEST.to_be_bytes().to_vec();
    let answers = answers.saturating_add(1);
    message.extend([0x84, 0, 0, 0, 0, answers, 0, authorities, 0, additionals]);
    message.extend(SOA);
    message.extend(records);
    message
}

fn name(text: &str) -> RecordName {
    RecordName::parse(text).expect("a host name")
}

fn check(at: &str, held: &Held) {
    assert!(!at.bytes().any(|octet| octet.is_ascii_uppercase()), "{at}");
    assert!(held.a.iter().flat_map(|set| &set.addresses).all(IpAddr::is_ipv4));
    assert!(held.aaaa.iter().flat_map(|set| &set.addresses).all(IpAddr::is_ipv6));
    if let Some((owned, kind)) = owned_by_name(at, None) {
        assert_eq!(ownership_name(&owned, kind, None).as_deref(), Ok(at));
    }
}

/// Plans and applies until nothing is left, and looks at what has become of the zone.
fn settle(before: Actual) {
    let rules =
        Rules { zone: &ZONE, owner: OWNER, ttl_secs: 60, policy: Policy::Sync, wildcard: None };
    let desired = DesiredName {
        addresses: BTreeSet::from([IpAddr::from([192, 0, 2, 1])]),
        ttl_secs: None,
        resource: "service/shop/web".into(),
    };
    let mut actual = before.clone();
    let mut names = owned_names(&before, &rules);
    names.insert(WANTED.clone());
    for name in &names {
        let wanted = (*name == *WANTED).then_some(&desired);
        if let Decision::Change(change) = decide(name, wanted, &actual, &rules) {
            apply(&change, &mut actual);
        }
        let again = decide(name, wanted, &actual, &rules);
        assert!(!matches!(again, Decision::Change(_)), "{again:?}");
    }
    for (at, held) in before.iter() {
        let ours = RecordName::parse(at).is_ok_and(|name| is_owned(&name, &before, &rules));
        if !ours && at != WANTED.as_str() {
            let now = actual.at(at).cloned().unwrap_or_default();
            assert_eq!((&now.a, &now.aaaa), (&held.a, &held.aaaa), "{at}");
        }
        let now = actual.at(at).cloned().unwrap_or_default();
        assert_eq!(now.exclusive, held.exclusive, "{at}");
    }
}
