//! Random histories of a table, and their replay.

use std::collections::BTreeMap;

use haflinger_core::forwarding::{Change, ForwardingTable, TableView};
use proptest::prelude::*;

/// Seconds after which a bucket may move again without risk: the default of a table.
pub(crate) const HOLD_SECS: u64 = 3600;

/// One thing that happens to a table.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// A member comes, or its weight changes; weight 0 drains it.
    Weigh(u32, u32),
    /// So many members come at once, all of one weight.
    Join(u32, u32, u32),
    /// A member is replaced by another of the same weight.
    Replace(u32, u32),
    /// A member leaves as planned.
    Leave(u32),
    /// A member is found dead.
    Fail(u32),
    /// Everyone leaves.
    Empty,
    /// The holder restarts from the serial form.
    Restart,
}

/// A step and the seconds that pass before it.
pub(crate) type Timed = (u64, Step);

/// Up to 24 steps with up to about 60 members: from the smallest table to thousands of buckets.
pub(crate) fn history() -> impl Strategy<Value = Vec<Timed>> {
    let who = 0..30_u32;
    let weight = prop_oneof![3 => Just(100_u32), 2 => 0..10_u32, 1 => 0..=1_000_000_u32];
    let step = prop_oneof![
        8 => (who.clone(), weight.clone()).prop_map(|(who, weight)| Step::Weigh(who, weight)),
        2 => (0..60_u32, 1..30_u32, weight)
            .prop_map(|(first, count, weight)| Step::Join(first, count, weight)),
        4 => (who.clone(), 30..60_u32).prop_map(|(old, new)| Step::Replace(old, new)),
        4 => who.clone().prop_map(Step::Leave),
        4 => (0..60_u32).prop_map(Step::Fail),
        1 => Just(Step::Empty),
        2 => Just(Step::Restart),
    ];
    prop::collection::vec((0..2500_u64, step), 1..24)
}

/// The call that a step makes.
#[derive(Clone, Debug)]
pub(crate) enum Call {
    Update(Vec<(u32, u32)>),
    Fail(u32),
    Restart,
}

/// What a step did.
pub(crate) struct Seen<'a> {
    pub(crate) call: &'a Call,
    pub(crate) now: u64,
    pub(crate) before: &'a TableView<u32>,
    pub(crate) after: &'a TableView<u32>,
    pub(crate) change: Change,
    pub(crate) table: &'a ForwardingTable<u32>,
}

/// Lets the steps happen to a table, and shows what each did.
pub(crate) fn replay(
    steps: &[Timed],
    mut see: impl FnMut(Seen<'_>) -> Result<(), TestCaseError>,
) -> Result<(), TestCaseError> {
    let mut table = ForwardingTable::<u32>::new([]);
    let mut members = BTreeMap::new();
    let mut now = 1_000_000;
    for (passed, step) in steps {
        now += passed;
        let before = table.view();
        let call = call(step, &mut members);
        let change = match &call {
            Call::Update(members) => table.update(members.iter().copied(), now),
            Call::Fail(member) => table.fail(member, now),
            Call::Restart => {
                table = ForwardingTable::decode(&table.encode()).expect("a table can be read");
                Change {
                    generation: table.generation(),
                    buckets: u32::try_from(table.view().bucket_count()).unwrap(),
                    ..Change::default()
                }
            }
        };
        let after = table.view();
        see(Seen { call: &call, now, before: &before, after: &after, change, table: &table })?;
    }
    Ok(())
}

/// Members as (first, second) by bucket.
pub(crate) fn hops(view: &TableView<u32>) -> Vec<(u32, Option<u32>)> {
    view.buckets().map(|hops| (*hops.first, hops.second.copied())).collect()
}

fn call(step: &Step, members: &mut BTreeMap<u32, u32>) -> Call {
    match step {
        Step::Weigh(who, weight) => {
            members.insert(*who, *weight);
        }
        Step::Join(first, count, weight) => {
            members.extend((*first..first + count).map(|who| (who, *weight)));
        }
        Step::Replace(old, new) => {
            if let Some(weight) = members.remove(old) {
                members.insert(*new, weight);
            }
        }
        Step::Leave(who) => {
            members.remove(who);
        }
        Step::Fail(who) => {
            members.remove(who);
            return Call::Fail(*who);
        }
        Step::Empty => members.clear(),
        Step::Restart => return Call::Restart,
    }
    Call::Update(members.iter().map(|(who, weight)| (*who, *weight)).collect())
}
