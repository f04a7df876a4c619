//! Shares, order and bounds of every algorithm.

use std::collections::BTreeMap;

use haflinger_core::BackendState;
use haflinger_core::forwarding::ForwardingTable;
use proptest::prelude::*;

use super::*;
use crate::testing::{backend_set, member};

/// A set of active backends with these weights; those of weight 0 drain.
fn weighted(weights: &[Weight]) -> BackendSet {
    let members: Vec<_> = (1..).zip(weights).map(|(id, _)| member(id)).collect();
    let mut set = backend_set(&members);
    for (backend, weight) in set.backends.iter_mut().zip(weights) {
        backend.weight = *weight;
        if *weight == 0 {
            backend.state = BackendState::Draining;
        }
    }
    let entries = set.backends.iter().map(|backend| (backend.address, backend.weight));
    set.table = ForwardingTable::new(entries).view();
    set
}

fn first(preferred: Preferred) -> SocketAddr {
    preferred.0[0].unwrap()
}

/// Opens flows at whoever is preferred, none of which ends.
fn fill(set: &BackendSet, flows: u64) -> Vec<u64> {
    let mut open = vec![0_u64; set.backends.len()];
    for flow in 0..flows {
        let chosen = first(least_loaded(set, independent(7, flow), |at| open[at]));
        open[position_of(set, chosen).unwrap()] += 1;
    }
    open
}

#[test]
fn two_equal_backends_never_have_more_than_two_turns_in_a_row() {
    let set = weighted(&[100, 100]);
    let turns: Vec<_> = (0..1000).map(|turn| first(in_turn(&set.table, turn))).collect();
    assert!(turns.windows(3).all(|three| three[0] != three[1] || three[1] != three[2]));
}

#[test]
fn an_empty_table_prefers_nobody() {
    let set = weighted(&[]);
    assert_eq!(in_turn(&set.table, 3), Preferred::default());
    assert_eq!(by_hash(&set.table, 3, None), Preferred::default());
    assert_eq!(least_loaded(&set, 3, |_| 0), Preferred::default());
}

#[test]
fn the_least_loaded_of_a_small_set_is_always_found() {
    let set = weighted(&[100; COMPARED_MAX]);
    for idle in 0..set.backends.len() {
        for hash in 0..50 {
            let preferred = least_loaded(&set, hash, |at| if at == idle { 3 } else { 4 });
            assert_eq!(first(preferred), set.backends[idle].address);
        }
    }
}

#[test]
fn weights_count_for_the_load() {
    let set = weighted(&[100, 300]);
    let heavier = set.backends[1].address;
    assert_eq!(first(least_loaded(&set, 1, |_| 0)), heavier);
    assert_eq!(first(least_loaded(&set, 1, |at| [0, 1][at])), heavier);
    assert_eq!(first(least_loaded(&set, 1, |at| [0, 3][at])), set.backends[0].address);
}

#[test]
fn counters_near_their_end_do_not_overflow() {
    let set = weighted(&[haflinger_core::MAX_WEIGHT, 1]);
    let heavier = set.backends[0].address;
    assert_eq!(first(least_loaded(&set, 1, |_| u64::MAX)), heavier);
}

#[test]
fn sampling_keeps_a_large_set_nearly_even() {
    let set = weighted(&[100; 64]);
    let open = fill(&set, 64 * 100);
    let (least, most) = (open.iter().min().unwrap(), open.iter().max().unwrap());
    // By hash alone the spread would be about five times the square root of the mean: 50.
    assert!(most - least <= 8, "{least} to {most}");
}

proptest! {
    #[test]
    fn a_cycle_of_turns_gives_each_backend_exactly_its_buckets(
        weights in proptest::collection::vec(0_u32..1000, 1..40),
        start in any::<u64>(),
    ) {
        let set = weighted(&weights);
        let shares: BTreeMap<SocketAddr, u32> =
            set.table.shares().into_iter().map(|(address, share)| (*address, share)).collect();
        let mut turns: BTreeMap<SocketAddr, u32> = BTreeMap::new();
        for number in 0..set.table.bucket_count() as u64 {
            let address = first(in_turn(&set.table, start.wrapping_add(number)));
            *turns.entry(address).or_default() += 1;
        }
        prop_assert_eq!(turns, shares);
    }

    #[test]
    fn who_has_weight_0_is_never_preferred(
        weights in proptest::collection::vec(0_u32..3, 1..40),
        hash in any::<u64>(),
    ) {
        let set = weighted(&weights);
        let all = [
            by_hash(&set.table, hash, None),
            in_turn(&set.table, hash),
            least_loaded(&set, hash, |_| 0),
        ];
        for address in all.into_iter().flat_map(|preferred| preferred.0).flatten() {
            prop_assert!(set.get(&address).unwrap().weight > 0);
        }
        let anybody = weights.iter().any(|weight| *weight > 0);
        prop_assert!(all.iter().all(|preferred| preferred.0.iter().any(Option::is_some) == anybody));
    }

    #[test]
    fn flows_that_stay_fill_backends_by_weight(
        weights in proptest::collection::vec(1_u32..100, 1..COMPARED_MAX),
    ) {
        let set = weighted(&weights);
        let flows = 2000;
        let open = fill(&set, flows);
        let total: u64 = weights.iter().map(|weight| u64::from(*weight)).sum();
        for (count, weight) in open.iter().zip(&weights) {
            // Nobody is above its share by a flow, nor so far below that another would have to.
            let share = flows * u64::from(*weight) / total;
            prop_assert!(*count <= share + 2, "{} of {}", count, share);
            prop_assert!(*count + 16 >= share, "{} of {}", count, share);
        }
    }

    #[test]
    fn the_preferred_are_distinct_and_in_order_of_their_load(
        weights in proptest::collection::vec(1_u32..5, 1..40),
        loads in proptest::collection::vec(0_u64..9, 40),
        hash in any::<u64>(),
    ) {
        let set = weighted(&weights);
        let preferred = least_loaded(&set, hash, |at| loads[at]);
        let places: Vec<_> =
            preferred.0.iter().flatten().map(|one| position_of(&set, *one).unwrap()).collect();
        for pair in places.windows(2) {
            let scaled = |at: usize, of: usize| (loads[at] + 1) * u64::from(weights[of]);
            prop_assert!(scaled(pair[0], pair[1]) <= scaled(pair[1], pair[0]));
        }
        let distinct: std::collections::BTreeSet<_> = places.iter().collect();
        prop_assert_eq!(distinct.len(), places.len());
    }
}
