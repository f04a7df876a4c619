//! What always holds, over random histories.

use std::collections::BTreeMap;

use haflinger_core::forwarding::{ForwardingTable, TableView};
use proptest::prelude::*;

use crate::history::{Call, HOLD_SECS, Step, history, hops, replay};
use crate::oracle::{Oracle, needed};

fn holdings(view: &TableView<u32>) -> BTreeMap<u32, u32> {
    view.shares().into_iter().map(|(member, held)| (*member, held)).collect()
}

/// The fewest moves by which holdings can become exact, by arithmetic on the holdings alone:
/// what members that leave hold, what others hold beyond the quota rounded up, and one for each
/// member that must give up a spare bucket because others come first.
fn arithmetic_minimum(held: &BTreeMap<u32, u32>, weights: &BTreeMap<u32, u32>, size: u32) -> u32 {
    let total: u64 = weights.values().map(|weight| u64::from(*weight)).sum();
    let product = |weight: u32| u64::from(size) * u64::from(weight);
    let floor = |weight: u32| u32::try_from(product(weight) / total).unwrap();
    let mut spare = size - weights.values().map(|weight| floor(*weight)).sum::<u32>();
    let above =
        |who: &u32, weight: u32| held.get(who).copied().unwrap_or(0).saturating_sub(floor(weight));
    // As if nobody got a spare bucket; each that goes to a member above its floor saves a move.
    let leaving = held.iter().filter(|(who, _)| !weights.contains_key(who));
    let mut moves = leaving.map(|(_, held)| held).sum::<u32>()
        + weights.iter().map(|(who, weight)| above(who, *weight)).sum::<u32>();
    let mut by_remainder = BTreeMap::<u64, Vec<bool>>::new();
    for (who, weight) in weights {
        let group = by_remainder.entry(product(*weight) % total).or_default();
        group.push(above(who, *weight) > 0);
    }
    for (_, group) in by_remainder.into_iter().rev() {
        let served = spare.min(u32::try_from(group.len()).unwrap());
        let holders = u32::try_from(group.iter().filter(|holds| **holds).count()).unwrap();
        moves -= served.min(holders);
        spare -= served;
    }
    moves
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn the_table_agrees_with_the_slow_one_to_the_bucket(steps in history()) {
        let mut oracle = Oracle::new(HOLD_SECS);
        replay(&steps, |seen| {
            let change = match seen.call {
                Call::Update(members) => oracle.update(members, seen.now),
                Call::Fail(member) => oracle.fail(*member, seen.now),
                Call::Restart => seen.change,
            };
            prop_assert_eq!(seen.change, change);
            let expected: Vec<_> =
                oracle.buckets.iter().map(|bucket| (bucket.first, bucket.second)).collect();
            prop_assert_eq!(hops(seen.after), expected);
            let members: Vec<_> =
                seen.table.members().map(|(who, weight, _)| (*who, weight)).collect();
            prop_assert_eq!(members, Vec::from_iter(oracle.weights.clone()));
            Ok(())
        })?;
    }

    #[test]
    fn no_member_is_ever_a_whole_bucket_off_its_share(steps in history()) {
        replay(&steps, |seen| {
            let held = holdings(seen.after);
            let total: i64 = seen.table.members().map(|(_, weight, _)| i64::from(weight)).sum();
            for (who, weight, counted) in seen.table.members() {
                let held = held.get(who).copied().unwrap_or(0);
                prop_assert_eq!(counted, held);
                let exact = i64::from(seen.change.buckets) * i64::from(weight);
                prop_assert!((i64::from(held) * total - exact).abs() < total);
            }
            Ok(())
        })?;
    }

    #[test]
    fn a_change_moves_the_arithmetic_minimum_and_only_from_over_to_under(steps in history()) {
        replay(&steps, |seen| {
            if seen.before.bucket_count() == 0 || seen.after.bucket_count() == 0 {
                prop_assert_eq!(seen.change.moved, 0);
                return Ok(());
            }
            let copies = seen.after.bucket_count() / seen.before.bucket_count();
            let (old, new) = (hops(seen.before), hops(seen.after));
            let held_before: BTreeMap<u32, u32> = holdings(seen.before)
                .into_iter()
                .map(|(who, held)| (who, held * u32::try_from(copies).unwrap()))
                .collect();
            let held_after = holdings(seen.after);
            let mut moved = 0;
            for (at, (first, _)) in new.iter().enumerate() {
                let from = old[at / copies].0;
                if from != *first {
                    moved += 1;
                    let count = |held: &BTreeMap<u32, u32>, who| held.get(&who).copied().unwrap_or(0);
                    prop_assert!(count(&held_after, from) < count(&held_before, from));
                    prop_assert!(count(&held_after, *first) > count(&held_before, *first));
                }
            }
            prop_assert_eq!(seen.change.moved, moved);
            let weights = seen.table.members().map(|(who, weight, _)| (*who, weight)).collect();
            let size = seen.change.buckets;
            prop_assert_eq!(moved, arithmetic_minimum(&held_before, &weights, size));
            Ok(())
        })?;
    }

    #[test]
    fn the_second_hop_is_who_held_the_bucket_before(steps in history()) {
        replay(&steps, |seen| {
            if seen.before.bucket_count() == 0 || seen.after.bucket_count() == 0 {
                prop_assert!(hops(seen.after).iter().all(|(_, second)| second.is_none()));
                return Ok(());
            }
            let copies = seen.after.bucket_count() / seen.before.bucket_count();
            let old = hops(seen.before);
            let dead = match seen.call {
                Call::Fail(member) => Some(*member),
                Call::Update(_) | Call::Restart => None,
            };
            for (at, (first, second)) in hops(seen.after).into_iter().enumerate() {
                let (old_first, old_second) = old[at / copies];
                let living = |who: Option<u32>| who.filter(|who| Some(*who) != dead);
                let expected = match () {
                    () if first == old_first => living(old_second),
                    () if Some(old_first) != dead => Some(old_first),
                    () if old_second == Some(first) => None,
                    () => living(old_second),
                };
                prop_assert_eq!(second, expected, "bucket {}", at);
                prop_assert_ne!(Some(first), dead);
                prop_assert_ne!(Some(first), second);
            }
            Ok(())
        })?;
    }

    #[test]
    fn a_dead_members_buckets_go_to_second_hops_that_have_room(steps in history()) {
        replay(&steps, |seen| {
            let Call::Fail(dead) = seen.call else { return Ok(()) };
            if seen.after.bucket_count() == 0 {
                return Ok(());
            }
            let (old, new) = (hops(seen.before), hops(seen.after));
            // A bucket passed its second hop by only if that one took as many as it may.
            let mut skipped = BTreeMap::<u32, u32>::new();
            for ((old_first, old_second), (first, _)) in old.iter().zip(&new) {
                if let Some(second) = old_second
                    && old_first == dead
                    && first != second
                {
                    *skipped.entry(*second).or_default() += 1;
                }
            }
            for who in skipped.into_keys() {
                let others = old.iter().zip(&new).filter(|((old_first, old_second), (first, _))| {
                    *first == who && (old_first, *old_second) != (dead, Some(who))
                        && *old_first != who
                });
                prop_assert_eq!(others.count(), 0, "{} got others' buckets instead", who);
            }
            Ok(())
        })?;
    }

    #[test]
    fn a_table_doubles_when_it_must_and_never_halves(steps in history()) {
        replay(&steps, |seen| {
            let (before, after) = (seen.before.bucket_count(), seen.after.bucket_count());
            let members = seen.table.members().count();
            match (before, members) {
                (_, 0) => prop_assert_eq!(after, 0),
                (0, _) => prop_assert_eq!(after, needed(members)),
                _ => {
                    prop_assert_eq!(after, before.max(needed(members)));
                    prop_assert_eq!(after, before << seen.change.doubled);
                }
            }
            Ok(())
        })?;
    }

    #[test]
    fn the_generation_rises_by_one_with_every_change_and_only_then(steps in history()) {
        replay(&steps, |seen| {
            let (before, after) = (seen.before.generation(), seen.after.generation());
            prop_assert_eq!(seen.change.generation, after);
            prop_assert!(after == before || after == before + 1);
            if after == before {
                prop_assert!(seen.before == seen.after);
            }
            Ok(())
        })?;
    }

    #[test]
    fn neither_order_nor_repetition_of_the_arguments_matters(
        steps in history(),
        seed in any::<prop::sample::Index>(),
    ) {
        let mut shuffled = ForwardingTable::<u32>::new([]);
        replay(&steps, |seen| {
            match seen.call {
                Call::Update(members) => {
                    let mut members = members.clone();
                    members.extend(members.clone());
                    let pivot = seed.index(members.len().max(1));
                    if !members.is_empty() {
 members.rotate_left(pivot);
}
                    members.reverse();
                    shuffled.update(members, seen.now);
                }
                Call::Fail(member) => {
                    shuffled.fail(member, seen.now);
                }
                // It lives on where the other one restarts.
                Call::Restart => {}
            }
            prop_assert_eq!(shuffled.encode(), seen.table.encode());
            Ok(())
        })?;
    }

    #[test]
    fn a_replaced_member_hands_over_exactly_its_buckets(
        steps in history(),
        pick in any::<prop::sample::Index>(),
        new in 100..200_u32,
    ) {
        let mut last = None;
        replay(&steps, |seen| {
            last = Some(seen.table.clone());
            Ok(())
        })?;
        let mut table = last.expect("a history has a step");
        let mut members: Vec<_> = table.members().map(|(who, weight, _)| (*who, weight)).collect();
        if members.is_empty() {
            return Ok(());
        }
        let at = pick.index(members.len());
        let old = std::mem::replace(&mut members[at].0, new);
        let before = hops(&table.view());
        table.update(members, 0);
        let replaced = |(first, second): &(u32, Option<u32>)| {
            if *first == old { (new, Some(old)) } else { (*first, *second) }
        };
        let expected: Vec<_> = before.iter().map(replaced).collect();
        prop_assert_eq!(hops(&table.view()), expected);
    }

    #[test]
    fn the_top_bits_of_the_hash_pick_the_bucket(steps in history(), hash in any::<u64>()) {
        replay(&steps, |seen| {
            let all = hops(seen.after);
            let picked = seen.after.hops(hash).map(|hops| (*hops.first, hops.second.copied()));
            let at = (u128::from(hash) * all.len() as u128) >> 64;
            prop_assert_eq!(picked, all.get(usize::try_from(at).unwrap()).copied());
            Ok(())
        })?;
    }

    #[test]
    fn a_view_never_changes(steps in history()) {
        let mut views = Vec::new();
        replay(&steps, |seen| {
            views.push((seen.after.clone(), hops(seen.after)));
            Ok(())
        })?;
        for (view, as_it_was) in views {
            prop_assert_eq!(hops(&view), as_it_was);
        }
    }
}

#[test]
fn a_weight_of_0_takes_nothing_and_gives_up_what_it_has() {
    let mut table = ForwardingTable::<u32>::new([(1, 100), (2, 100)]);
    let change = table.update([(1, 100), (2, 0)], 0);
    assert_eq!(change.moved, 128);
    assert!(hops(&table.view())[128..].iter().all(|hops| *hops == (1, Some(2))));
    assert!(ForwardingTable::<u32>::new([(1, 0)]).view().hops(7).is_none());
}

#[test]
fn only_moves_within_the_hold_time_are_at_risk() {
    let mut table = ForwardingTable::<u32>::new([(1, 1), (2, 1)]);
    let at = |table: &mut ForwardingTable<u32>, members: &[(u32, u32)], now| {
        let change = table.update(members.iter().copied(), now);
        (change.moved, change.at_risk)
    };
    assert_eq!(at(&mut table, &[(1, 1), (3, 1)], 1000), (128, 0), "never changed before");
    assert_eq!(at(&mut table, &[(1, 1), (4, 1)], 1000 + HOLD_SECS - 1), (128, 128));
    assert_eq!(at(&mut table, &[(1, 1), (5, 1)], 1000 + 2 * HOLD_SECS), (128, 0));
    assert_eq!(at(&mut table, &[(6, 1), (5, 1)], 1000 + 2 * HOLD_SECS), (128, 0), "other half");
}

#[test]
fn ten_thousand_members_have_fair_shares_in_the_largest_table() {
    let table = ForwardingTable::<u32>::new((0..10_000).map(|member| (member, 100)));
    let view = table.view();
    assert_eq!(view.bucket_count(), 1 << 20);
    assert!(view.shares().values().all(|share| (104..=105).contains(share)));
}

#[test]
fn members_beyond_the_most_are_refused_by_number() {
    let mut table = ForwardingTable::<u32>::new([]);
    let change = table.update((0..(1 << 14) + 5).rev().map(|member| (member, 100)), 0);
    assert_eq!(change.refused, 5);
    assert_eq!(table.members().map(|(member, ..)| *member).max(), Some((1 << 14) - 1));
    assert!(table.members().all(|(_, _, held)| held == 64));
}

#[test]
fn histories_reach_tables_that_keep_their_queues() {
    let steps = [(0, Step::Join(0, 29, 100)), (0, Step::Join(29, 29, 100))];
    let mut sizes = Vec::new();
    replay(&steps, |seen| {
        sizes.push(seen.after.bucket_count());
        Ok(())
    })
    .unwrap();
    assert_eq!(sizes, [4096, 8192]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn what_moved_is_what_a_look_at_every_bucket_finds(steps in history()) {
        let mut views: Vec<TableView<u32>> = Vec::new();
        replay(&steps, |seen| {
            views.push(seen.after.clone());
            // Also over several changes, so that slots are given to other members in between.
            for old in views.iter().rev().step_by(3) {
                let (before, after) = (hops(old), hops(seen.after));
                let Some(moved) = seen.after.moved_since(old) else {
                    prop_assert_ne!(before.len(), after.len());
                    continue;
                };
                let moved: Vec<_> =
                    moved.map(|(at, hops)| (at, (*hops.first, hops.second.copied()))).collect();
                let expected: Vec<_> = after
                    .iter()
                    .zip(&before)
                    .enumerate()
                    .filter(|(_, (new, old))| new != old)
                    .map(|(at, (new, _))| (at, *new))
                    .collect();
                prop_assert_eq!(moved, expected);
            }
            Ok(())
        })?;
    }
}
