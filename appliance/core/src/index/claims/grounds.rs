//! The pools laid out: which pool an address belongs to, and which of a pool's addresses are held.
//!
//! The addresses of one pool in one family are a [`Space`]: positions from 0 on, without the
//! gaps between ranges and without the addresses that the pool leaves out. What is held is kept
//! as runs of positions, so that the end of a run of any length is found by one look-up.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use super::rules::{Strength, Turn};
use crate::{Family, Pool, PoolUse};

/// Positions over which first choices are spread: four times as many as services that one
/// edge serves, so that few collide, and no more, so that an IPv6 address stays short.
const SPREAD_MAX: u128 = 1 << 20;

/// Which [`Space`].
pub(super) type SpaceId = usize;

/// All pools.
#[derive(Debug, Default)]
pub(super) struct Grounds {
    /// In the order in which they are tried.
    pools: Vec<Arc<Pool>>,
    spaces: Vec<Space>,
    /// The spaces of each pool, IPv4 and IPv6.
    of_pool: Vec<[Option<SpaceId>; 2]>,
    /// Last address and pool of the range that begins at an address.
    ranges: BTreeMap<IpAddr, (IpAddr, usize)>,
    /// Addresses that Ingresses share: in use, and nobody's.
    reserved: BTreeSet<IpAddr>,
}

impl Grounds {
    pub(super) fn new(pools: &[Pool], reserved: &[IpAddr]) -> Self {
        let mut order: Vec<&Pool> = pools.iter().collect();
        // Stable: of equals the one that stands first.
        order.sort_by_key(|pool| (pool.priority, pool.selects.is_open()));
        let mut grounds = Self { reserved: reserved.iter().copied().collect(), ..Self::default() };
        for pool in order {
            let index = grounds.pools.len();
            for (first, last) in &pool.ranges {
                grounds.ranges.insert(*first, (*last, index));
            }
            let mut lay_out = |family| {
                let space = Space::new(pool, index, family)?;
                grounds.spaces.push(space);
                Some(grounds.spaces.len() - 1)
            };
            let spaces = [lay_out(Family::V4), lay_out(Family::V6)];
            grounds.of_pool.push(spaces);
            grounds.pools.push(Arc::new(pool.clone()));
        }
        for address in grounds.reserved.clone() {
            grounds.set(address, None);
        }
        grounds
    }

    /// Pools in the order in which they are tried.
    pub(super) fn pools(&self) -> &[Arc<Pool>] {
        &self.pools
    }

    /// The pool, by its place in the order, whose ranges hold the address.
    pub(super) fn index_of(&self, address: IpAddr) -> Option<usize> {
        let (_, (last, pool)) = self.ranges.range(..=address).next_back()?;
        (address <= *last).then_some(*pool)
    }

    /// The pool whose ranges hold the address.
    pub(super) fn pool_of(&self, address: IpAddr) -> Option<&Arc<Pool>> {
        self.pools.get(self.index_of(address)?)
    }

    pub(super) fn space_of(&self, pool: usize, family: Family) -> Option<SpaceId> {
        self.of_pool.get(pool)?[usize::from(family == Family::V6)]
    }

    /// Space and position of an address that can be given away.
    pub(super) fn place_of(&self, address: IpAddr) -> Option<(SpaceId, u128)> {
        let space = self.space_of(self.index_of(address)?, Family::of(address))?;
        Some((space, self.spaces[space].position(address)?))
    }

    pub(super) fn is_reserved(&self, address: IpAddr) -> bool {
        self.reserved.contains(&address)
    }

    pub(super) fn space(&self, id: SpaceId) -> &Space {
        &self.spaces[id]
    }

    pub(super) fn space_mut(&mut self, id: SpaceId) -> &mut Space {
        &mut self.spaces[id]
    }

    /// Notes who holds an address most strongly now; `None`: nobody.
    pub(super) fn set(&mut self, address: IpAddr, strongest: Option<&Turn>) {
        let Some((space, position)) = self.place_of(address) else { return };
        let held = strongest.is_some() || self.reserved.contains(&address);
        let chosen = strongest.filter(|turn| turn.strength == Strength::Chosen);
        let space = &mut self.spaces[space];
        space.set_chosen(position, chosen);
        match (space.run_end(position).is_some(), held) {
            (false, true) => space.hold(position),
            (true, false) => space.release(position),
            _ => {}
        }
    }

    pub(super) fn uses(&self) -> Vec<PoolUse> {
        let uses = self.spaces.iter().map(|space| PoolUse {
            pool: self.pools[space.pool].clone(),
            family: space.family,
            size: space.size,
            used: space.used,
            waiting: space.waiting.len(),
        });
        uses.collect()
    }
}

/// The addresses of one pool in one family.
#[derive(Debug)]
pub(super) struct Space {
    pool: usize,
    family: Family,
    /// Whether .0 and .255 are left out.
    skips: bool,
    segments: Vec<Segment>,
    size: u128,
    /// First and last position of each run of held ones; no two runs touch.
    runs: BTreeMap<u128, u128>,
    used: u128,
    /// Positions that are held by proposals alone, with the strongest.
    chosen: BTreeMap<u128, Turn>,
    by_strength: BTreeSet<(Turn, u128)>,
    /// Who found no place here.
    pub(super) waiting: BTreeSet<Turn>,
}

/// Consecutive ordinals of a space.
#[derive(Debug)]
struct Segment {
    /// Ordinal of the first address.
    first: u128,
    /// Its position.
    at: u128,
    length: u128,
}

impl Space {
    /// `None` where the pool has nothing to give away in the family.
    fn new(pool: &Pool, index: usize, family: Family) -> Option<Self> {
        let skips = pool.skip_0_and_255 && family == Family::V4;
        let of_family = pool.ranges.iter().filter(|(first, _)| Family::of(*first) == family);
        let usable = of_family.filter_map(|(first, last)| {
            let (first, last) = (number(*first), number(*last));
            match skips {
                false => Some((first, last)),
                true => Some((ordinals_before(first), ordinals_before(last + 1).checked_sub(1)?)),
            }
        });
        let mut ranges: Vec<(u128, u128)> = usable.filter(|(first, last)| first <= last).collect();
        ranges.sort_unstable();
        let (mut segments, mut size) = (Vec::with_capacity(ranges.len()), 0);
        for (first, last) in ranges {
            let length = last - first + 1;
            segments.push(Segment { first, at: size, length });
            size += length;
        }
        (size > 0).then(|| Self {
            pool: index,
            family,
            skips,
            segments,
            size,
            runs: BTreeMap::new(),
            used: 0,
            chosen: BTreeMap::new(),
            by_strength: BTreeSet::new(),
            waiting: BTreeSet::new(),
        })
    }

    /// Whether there is a place that is free, or held by proposals no stronger than `turn` alone.
    pub(super) fn may_place(&self, turn: &Turn) -> bool {
        let weakest = self.by_strength.last();
        self.used < self.size || weakest.is_some_and(|(weakest, _)| weakest >= turn)
    }

    fn position(&self, address: IpAddr) -> Option<u128> {
        let number = number(address);
        let ordinal = match self.skips {
            true if matches!(number % 256, 0 | 255) => return None,
            true => ordinals_before(number),
            false => number,
        };
        let after = self.segments.partition_point(|segment| segment.first <= ordinal);
        let segment = self.segments.get(after.checked_sub(1)?)?;
        let offset = ordinal - segment.first;
        (offset < segment.length).then(|| segment.at + offset)
    }

    /// The address at a position below the size.
    pub(super) fn address(&self, position: u128) -> IpAddr {
        let after = self.segments.partition_point(|segment| segment.at <= position);
        let segment = &self.segments[after - 1];
        let ordinal = segment.first + (position - segment.at);
        let number = match self.skips {
            true => ordinal / 254 * 256 + ordinal % 254 + 1,
            false => ordinal,
        };
        match self.family {
            // Positions of an IPv4 space come from IPv4 addresses.
            Family::V4 => Ipv4Addr::from(u32::try_from(number).unwrap_or(u32::MAX)).into(),
            Family::V6 => Ipv6Addr::from(number).into(),
        }
    }

    /// Where an object with this hash looks first.
    pub(super) fn start(&self, hash: u64) -> u128 {
        u128::from(hash) % self.size.min(SPREAD_MAX)
    }

    /// The last position of the run that holds `position`; `None`: it is free.
    pub(super) fn run_end(&self, position: u128) -> Option<u128> {
        let (_, last) = self.runs.range(..=position).next_back()?;
        (position <= *last).then_some(*last)
    }

    fn hold(&mut self, position: u128) {
        self.used += 1;
        let (mut first, mut last) = (position, position);
        if let Some((before, end)) = self.runs.range(..position).next_back()
            && *end + 1 == position
        {
            first = *before;
        }
        if let Some(end) = self.runs.remove(&(position + 1)) {
            last = end;
        }
        self.runs.insert(first, last);
    }

    fn release(&mut self, position: u128) {
        let Some((first, last)) = self.runs.range(..=position).next_back() else { return };
        let (first, last) = (*first, *last);
        self.used -= 1;
        self.runs.remove(&first);
        if first < position {
            self.runs.insert(first, position - 1);
        }
        if position < last {
            self.runs.insert(position + 1, last);
        }
    }

    fn set_chosen(&mut self, position: u128, turn: Option<&Turn>) {
        if self.chosen.get(&position) == turn {
            return;
        }
        let former = match turn {
            Some(turn) => {
                self.by_strength.insert((turn.clone(), position));
                self.chosen.insert(position, turn.clone())
            }
            None => self.chosen.remove(&position),
        };
        if let Some(former) = former {
            self.by_strength.remove(&(former, position));
        }
    }

    /// The first position from `start` on, round the space, that is free, or held by proposals
    /// no stronger than `turn` alone. Returns it with the number of positions looked at.
    pub(super) fn find(&self, start: u128, turn: &Turn) -> (Option<u128>, u64) {
        if !self.may_place(turn) {
            return (None, 1);
        }
        let mut looked_at = 0;
        let round = [(start, self.size), (0, start)];
        for (mut at, end) in round {
            while at < end {
                looked_at += 1;
                let Some(last) = self.run_end(at) else { return (Some(at), looked_at) };
                for (position, holder) in self.chosen.range(at..=last.min(end - 1)) {
                    looked_at += 1;
                    if holder >= turn {
                        return (Some(*position), looked_at);
                    }
                }
                at = last + 1;
            }
        }
        (None, looked_at)
    }

    /// Positions held by proposals in the run that follows `position`, which is free now: who
    /// holds them may have passed it by.
    pub(super) fn chosen_after(&self, position: u128) -> Vec<u128> {
        let mut positions = Vec::new();
        let mut from = position + 1;
        // Round the end once.
        for _ in 0..2 {
            from %= self.size;
            let Some(last) = self.run_end(from) else { break };
            positions.extend(self.chosen.range(from..=last).map(|(position, _)| *position));
            if last + 1 != self.size {
                break;
            }
            from = self.size;
        }
        positions
    }

    /// Whether who starts at `start` and sits at `position` has passed `passed` on the way.
    pub(super) fn passes(&self, start: u128, passed: u128, position: u128) -> bool {
        let way = |to: u128| if to >= start { to - start } else { self.size - start + to };
        way(passed) < way(position)
    }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u32::from(v4).into(),
        IpAddr::V6(v6) => v6.into(),
    }
}

/// How many IPv4 addresses below `number` end in neither .0 nor .255.
fn ordinals_before(number: u128) -> u128 {
    let (blocks, rest) = (number / 256, number % 256);
    blocks * 254 + rest.saturating_sub(1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pool(ranges: &[(&str, &str)], skip_0_and_255: bool) -> Pool {
        let ranges = ranges.iter().map(|(a, b)| (a.parse().unwrap(), b.parse().unwrap()));
        Pool { skip_0_and_255, ..Pool::new("p", ranges.collect()) }
    }

    fn listed(pool: &Pool) -> Vec<String> {
        let Some(space) = Space::new(pool, 0, Family::V4) else { return Vec::new() };
        (0..space.size).map(|position| space.address(position).to_string()).collect()
    }

    #[test]
    fn addresses_that_confuse_old_routers_are_left_out() {
        let some = pool(&[("192.0.2.254", "192.0.3.1")], true);
        assert_eq!(listed(&some), ["192.0.2.254", "192.0.3.1"]);
        assert_eq!(listed(&pool(&[("192.0.2.255", "192.0.3.0")], true)), Vec::<String>::new());
        let all = pool(&[("192.0.2.254", "192.0.3.0")], false);
        assert_eq!(listed(&all), ["192.0.2.254", "192.0.2.255", "192.0.3.0"]);
        let edge = pool(&[("192.0.2.0", "192.0.2.0"), ("192.0.2.9", "192.0.2.9")], true);
        assert_eq!(listed(&edge), ["192.0.2.9"]);
    }

    #[test]
    fn ranges_of_a_pool_are_one_space_and_know_their_pool() {
        let some = pool(&[("198.51.100.1", "198.51.100.2"), ("192.0.2.1", "192.0.2.1")], false);
        assert_eq!(listed(&some), ["192.0.2.1", "198.51.100.1", "198.51.100.2"]);
        let grounds = Grounds::new(&[some], &[]);
        let place = |text: &str| grounds.place_of(text.parse().unwrap()).map(|(_, at)| at);
        assert_eq!(place("198.51.100.2"), Some(2));
        assert_eq!(place("198.51.100.3"), None);
        assert_eq!(place("192.0.2.0"), None);
        assert_eq!(place("2001:db8::1"), None);
    }

    #[test]
    fn nearly_all_of_ipv6_is_one_space() {
        let space = Space::new(
            &pool(&[("::2", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff")], false),
            0,
            Family::V6,
        );
        let space = space.unwrap();
        assert_eq!(space.size, u128::MAX - 1);
        assert_eq!(space.address(0).to_string(), "::2");
        assert_eq!(space.position(space.address(space.size - 1)), Some(space.size - 1));
        assert!(space.start(u64::MAX) < SPREAD_MAX);
    }

    proptest! {
        /// Against the obvious: a list of all addresses.
        #[test]
        fn positions_and_runs_agree_with_a_list(
            from in 0..600_u32,
            length in 1..700_u32,
            skips in any::<bool>(),
            steps in prop::collection::vec((0..2000_usize, any::<bool>()), 0..60),
        ) {
            let first = 0x0a00_0000 + from;
            let text = |number: u32| Ipv4Addr::from(number).to_string();
            let pool = pool(&[(&text(first), &text(first + length - 1))], skips);
            let all: Vec<IpAddr> = (first..first + length)
                .map(|number| Ipv4Addr::from(number).into())
                .filter(|address| !pool.skips(*address))
                .collect();
            let Some(mut space) = Space::new(&pool, 0, Family::V4) else {
                prop_assert!(all.is_empty());
                return Ok(());
            };
            prop_assert_eq!(space.size, all.len() as u128);
            let mut held = vec![false; all.len()];
            for (at, hold) in steps {
                let at = at % all.len();
                prop_assert_eq!(space.address(at as u128), all[at]);
                prop_assert_eq!(space.position(all[at]), Some(at as u128));
                match (held[at], hold) {
                    (false, true) => space.hold(at as u128),
                    (true, false) => space.release(at as u128),
                    _ => continue,
                }
                held[at] = hold;
            }
            prop_assert_eq!(space.used, held.iter().filter(|held| **held).count() as u128);
            for at in 0..held.len() {
                let end = (at..held.len()).take_while(|at| held[*at]).last();
                prop_assert_eq!(space.run_end(at as u128), end.map(|end| end as u128));
            }
        }
    }
}
