//! Frozen tables. Appliances of different releases must build the same table from the same
//! history, so a change of `data/golden.txt` is a release note and a new version of the serial
//! form. The failing test prints the new content.

use std::fmt::Write as _;
use std::hash::Hasher;

use haflinger_core::forwarding::ForwardingTable;
use siphasher::sip::SipHasher13;

/// One line: what happened, the size, what moved, and digests of the buckets and of the serial
/// form.
fn line(out: &mut String, what: &str, table: &ForwardingTable<u32>, moved: u32) {
    let view = table.view();
    let mut buckets = SipHasher13::new();
    for hops in view.buckets() {
        buckets.write(&hops.first.to_le_bytes());
        buckets.write(&hops.second.map_or(u32::MAX, |second| *second).to_le_bytes());
    }
    let mut serial = SipHasher13::new();
    serial.write(&table.encode());
    let (size, generation) = (view.bucket_count(), view.generation());
    let (buckets, serial) = (buckets.finish(), serial.finish());
    writeln!(out, "{generation:3} {size:7} {moved:6} {buckets:016x} {serial:016x} {what}").unwrap();
}

fn tables() -> String {
    let mut out = String::new();
    let equal = |members: std::ops::Range<u32>| members.map(|member| (member, 100));
    for count in [1, 2, 3, 10, 100, 1000, 10_000] {
        let table = ForwardingTable::new(equal(0..count));
        line(&mut out, &format!("start with {count} members"), &table, 0);
    }
    let mut table = ForwardingTable::new([(1, 100), (2, 50), (3, 1)]);
    line(&mut out, "start with weights 100, 50, 1", &table, 0);
    let history: [(&str, Vec<(u32, u32)>); 8] = [
        ("one is added", vec![(1, 100), (2, 50), (3, 1), (4, 100)]),
        ("a weight is cut", vec![(1, 90), (2, 50), (3, 1), (4, 100)]),
        ("one is replaced", vec![(1, 90), (2, 50), (3, 1), (9, 100)]),
        ("one drains", vec![(1, 90), (2, 0), (3, 1), (9, 100)]),
        ("forty come", (1..=40).map(|member| (member, 100)).collect()),
        ("half are replaced", (21..=60).map(|member| (member, 100)).collect()),
        ("weights differ", (21..=60).map(|member| (member, member)).collect()),
        ("five stay", (21..=25).map(|member| (member, 7)).collect()),
    ];
    for (at, (what, members)) in history.into_iter().enumerate() {
        let change = table.update(members, 1000 * at as u64);
        line(&mut out, what, &table, change.moved);
    }
    for member in [22, 60, 24] {
        let change = table.fail(&member, 8000);
        line(&mut out, &format!("{member} is found dead"), &table, change.moved);
    }
    out
}

#[test]
fn tables_are_as_they_were_frozen() {
    let tables = tables();
    let frozen = include_str!("data/golden.txt");
    assert!(tables == frozen, "a table has changed: this needs a release note. Now:\n{tables}");
}

#[test]
fn the_serial_form_is_as_it_was_frozen() {
    let mut table = ForwardingTable::<u32>::new([(1, 100), (2, 50)]);
    table.update([(1, 100), (3, 50)], 1_000_000);
    let hex: String = table.encode().iter().fold(String::new(), |mut hex, byte| {
        write!(hex, "{byte:02x}").unwrap();
        hex
    });
    let head = "48465442" /* magic */.to_owned() + "01" /* version */ + "08" /* 256 buckets */;
    let stamps = "02" /* generation */.to_owned() + "00" /* settled */ + "01c0843d02" /* a stamp */;
    let members = "02" /* of them */
        .to_owned()
        + "040000000164"
        + "040000000332";
    let former = "01" /* of them */
        .to_owned()
        + "0400000002";
    let runs = "ab01000000".to_owned() /* 171, never changed */ + "55010301" /* 85, now */;
    let checksum = "1e854d7d33ae3181";
    assert_eq!(hex, head + &stamps + &members + &former + &runs + checksum);
}
