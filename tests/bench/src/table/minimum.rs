//! The arithmetic against which tables are measured, written apart from the table's own.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use super::Members;

/// The fewest buckets that a change must move: what members hold beyond their exact shares
/// after it. Counted from what they hold now where that is exact, else from their exact shares
/// before the change.
pub(super) fn moves(before: &[SocketAddr], old: &Members, new: &Members, is_exact: bool) -> usize {
    let held = if is_exact { count(before) } else { shares(before.len(), old, &BTreeMap::new()) };
    let shares = shares(before.len(), new, &held);
    let over =
        held.iter().map(|(who, held)| held.saturating_sub(shares.get(who).copied().unwrap_or(0)));
    over.sum()
}

/// The largest distance of a member from its exact share, in buckets.
pub(super) fn deviation(owners: &[SocketAddr], members: &Members) -> f64 {
    let held = count(owners);
    let total: f64 = members.values().copied().map(f64::from).sum();
    let distance = |(who, weight): (&SocketAddr, &u32)| {
        let exact = owners.len() as f64 * f64::from(*weight) / total;
        (held.get(who).copied().unwrap_or(0) as f64 - exact).abs()
    };
    members.iter().map(distance).fold(0.0, f64::max)
}

fn count(owners: &[SocketAddr]) -> BTreeMap<SocketAddr, usize> {
    let mut held = BTreeMap::new();
    for owner in owners {
        *held.entry(*owner).or_insert(0) += 1;
    }
    held
}

/// Largest remainder; among equal remainders those that hold the bucket already.
fn shares(
    buckets: usize,
    members: &Members,
    held: &BTreeMap<SocketAddr, usize>,
) -> BTreeMap<SocketAddr, usize> {
    let total: usize = members.values().map(|weight| *weight as usize).sum();
    let mut shares = BTreeMap::new();
    let mut order = Vec::new();
    for (who, weight) in members {
        let product = buckets * *weight as usize;
        shares.insert(*who, product / total);
        let holds = held.get(who).is_some_and(|held| *held > product / total);
        order.push((product % total, holds, *who));
    }
    order.sort_unstable();
    let spare = buckets - shares.values().sum::<usize>();
    for (_, _, who) in order.iter().rev().take(spare) {
        shares.entry(*who).and_modify(|share| *share += 1);
    }
    shares
}
