//! Histories of a forwarding table: shares stay exact, a change moves as few buckets as it can, who
//! has failed is named nowhere, and what is written is read again as the same table with the same
//! future.

#![no_main]

use haflinger_core::forwarding::ForwardingTable;
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;

/// Members: few, so that the same come and go.
const MEMBERS: u32 = 24;

/// Steps that are taken: each may look at thousands of buckets.
const STEPS_MAX: usize = 64;

#[derive(Arbitrary, Debug)]
enum Step {
    Update(Vec<(u8, u16)>),
    Fail(u8),
    /// A restart from the serial form.
    Reread,
    Later(u16),
}

fuzz_target!(|steps: Vec<Step>| {
    let mut table = ForwardingTable::<u32>::new([]);
    let mut now = 0;
    for step in steps.iter().take(STEPS_MAX) {
        let generation = table.generation();
        match step {
            Step::Later(seconds) => now += u64::from(*seconds),
            Step::Reread => {
                let again = ForwardingTable::decode(&table.encode()).expect("a table can be read");
                assert!(again.view() == table.view());
                table = again;
            }
            Step::Update(members) => {
                let members: Vec<_> =
                    members.iter().map(|(who, weight)| (member(*who), (*weight).into())).collect();
                let before = table.clone();
                table.update(members.clone(), now);
                few_moved(&before, &table);
                let again = table.update(members, now);
                assert_eq!(again.moved, 0, "the same members again move nothing");
            }
            Step::Fail(who) => {
                let who = member(*who);
                table.fail(&who, now);
                let named = |hops: haflinger_core::forwarding::Hops<&u32>| {
                    *hops.first == who || hops.second == Some(&who)
                };
                assert!(!table.view().buckets().any(named), "who failed is named");
            }
        }
        assert!(table.generation() >= generation);
        exact(&table);
    }
});

fn member(number: u8) -> u32 {
    u32::from(number) % MEMBERS
}

/// Every member has its share, rounded: never more than a bucket off.
fn exact(table: &ForwardingTable<u32>) {
    let view = table.view();
    let total: u64 = table.members().map(|(_, weight, _)| u64::from(weight)).sum();
    let buckets = view.bucket_count() as u64;
    assert!(buckets == 0 || buckets.is_power_of_two());
    let shares = view.shares();
    for (who, weight, held) in table.members() {
        assert_eq!(shares.get(who).copied().unwrap_or(0), held);
        let (share, off) = (buckets * u64::from(weight), u64::from(held) * total);
        assert!(share.abs_diff(off) < total, "{who} holds {held} of {buckets}");
    }
}

/// As many buckets moved as their new holders gained, and no more. A table that has doubled has
/// other buckets.
fn few_moved(before: &ForwardingTable<u32>, after: &ForwardingTable<u32>) {
    let (old, new) = (before.view(), after.view());
    if old.bucket_count() != new.bucket_count() {
        return;
    }
    let moved = old.buckets().zip(new.buckets()).filter(|(one, other)| one.first != other.first);
    let held = old.shares();
    let gained = new.shares().into_iter();
    let gained = gained.map(|(who, now)| now.saturating_sub(held.get(who).copied().unwrap_or(0)));
    assert_eq!(moved.count() as u64, gained.map(u64::from).sum::<u64>(), "more than the minimum");
}
