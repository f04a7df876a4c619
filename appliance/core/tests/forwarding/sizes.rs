//! How many buckets the table of a service has, and how even it is with them.

use haflinger_core::forwarding::{
    BUCKETS_MIN, COARSE_BUCKETS_PER_MEMBER_MIN, COARSE_MEMBERS_MAX, ForwardingTable, TableSettings,
};

use crate::oracle::needed;

fn table(members: impl IntoIterator<Item = (u32, u32)>) -> ForwardingTable<u32> {
    let mut table = ForwardingTable::with_settings(TableSettings::of_services());
    table.update(members, 0);
    table
}

fn even(members: usize) -> impl Iterator<Item = (u32, u32)> {
    (0..).take(members).map(|member| (member, 100))
}

#[test]
fn members_of_one_weight_differ_by_a_sixteenth_at_most() {
    for members in 1..=COARSE_MEMBERS_MAX {
        let table = table(even(members));
        let held: Vec<u32> = table.members().map(|(.., held)| held).collect();
        let (least, most) = (held.iter().min().unwrap(), held.iter().max().unwrap());
        assert!(
            *least >= COARSE_BUCKETS_PER_MEMBER_MIN && most - least <= 1,
            "{members}: {held:?}"
        );
        let buckets = table.view().bucket_count();
        assert!(buckets == BUCKETS_MIN as usize || buckets < 32 * members, "{members}: {buckets}");
    }
}

#[test]
fn many_members_and_different_weights_have_a_fine_table() {
    let many = COARSE_MEMBERS_MAX + 1;
    assert_eq!(table(even(many)).view().bucket_count(), needed(many));
    let uneven = table([(1, 100), (2, 1)]).view();
    assert_eq!(uneven.bucket_count(), BUCKETS_MIN as usize);
    assert_eq!(uneven.shares().get(&2), Some(&3), "one in a hundred");
}

/// Buckets of a fine table of four members.
const FINE: u32 = 512;

#[test]
fn a_coarse_table_becomes_fine_without_moving_a_flow() {
    let mut table = table(even(4));
    let before = table.view();
    assert_eq!(before.bucket_count(), BUCKETS_MIN as usize);
    let change = table.update([(0, 100), (1, 100), (2, 100), (3, 99)], 1);
    assert_eq!((change.doubled, change.buckets), (1, FINE));
    // One weight is a little less: one bucket in four hundred, and nothing beside.
    assert!(change.moved <= 1, "{change:?}");
    let after = table.view();
    let moved =
        (0..u64::from(FINE)).map(|bucket| bucket << (u64::BITS - FINE.ilog2())).filter(|hash| {
            let first = |view: &haflinger_core::forwarding::TableView<u32>| {
                view.hops(*hash).map(|hops| *hops.first)
            };
            first(&before) != first(&after)
        });
    assert_eq!(u32::try_from(moved.count()).unwrap(), change.moved);
}
