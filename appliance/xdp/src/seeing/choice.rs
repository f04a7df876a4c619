//! The backend that a new flow would get now: `program/choose.h` over again, without its effects.
//!
//! Reads what the program reads. A test holds both against each other on the same maps.

use std::io;

use crate::maps::{Index, Maps};
use crate::program::types;

/// As in `program/choose.h`.
const OTHER_BUCKETS: u32 = 4;
/// As in `program/choose.h`.
const LEAST_CANDIDATES: u32 = 4;
/// As in `program/choose.h`.
const GOLDEN: u32 = 0x9e37_79b1;
/// As in `program/choose.h`.
const TABLE_BITS_MAX: u32 = 20;
/// As in `program/types.h`.
const NO_BACKEND: u32 = 0;

/// Why it is that one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Because {
    /// It is the bucket's first hop.
    First,
    /// The first hop takes none, it is the second.
    Second,
    /// Neither takes any, it is the first hop of another bucket.
    OtherBucket,
    /// It served the client before, and is remembered for so many seconds more.
    Remembered { left_secs: u32 },
    /// It has the fewest connections for its weight of so many candidates.
    Least { candidates: u32 },
    /// It is its turn.
    Turn,
}

/// A backend's slot, or the number of the reason why there is none.
pub(super) type Choice = Result<(u32, Because), u32>;

/// What the program would look at for one client.
pub(super) struct Chooser<'a> {
    pub(super) maps: &'a Maps,
    pub(super) affinities: Option<&'a Index<types::affinity_key, types::affinity>>,
    /// The service's slot, and what it holds.
    pub(super) slot: u32,
    pub(super) service: types::service,
    pub(super) client: types::address,
    /// Of the flow, without the port with algorithm `source`.
    pub(super) hash: u64,
    /// Seconds of the program's clock.
    pub(super) now: u32,
}

impl Chooser<'_> {
    /// Number of buckets; 0 without a table.
    pub(super) fn buckets(&self) -> u32 {
        let bits = self.service.table.bits;
        if (1..=TABLE_BITS_MAX).contains(&bits) { 1 << bits } else { 0 }
    }

    /// The bucket of the flow's hash.
    pub(super) fn bucket(&self) -> u32 {
        self.bucket_of(self.hash)
    }

    fn bucket_of(&self, hash: u64) -> u32 {
        match self.buckets().checked_ilog2() {
            // There are no more than 2^20 buckets.
            Some(bits) => u32::try_from(hash >> (64 - bits)).unwrap_or_default(),
            None => 0,
        }
    }

    pub(super) fn hops(&self, bucket: u32) -> types::bucket {
        self.maps.buckets.read(self.service.table.first.wrapping_add(bucket))
    }

    pub(super) fn connections(&self, backend: u32) -> u32 {
        self.maps.backend_loads.read(backend).connections
    }

    fn is_active(&self, backend: u32) -> bool {
        let record = self.maps.backends.read(backend);
        backend != NO_BACKEND
            && record.service == self.slot
            && u32::from(record.state) == types::backend_state::BACKEND_ACTIVE.0
    }

    fn is_full(&self, backend: u32) -> bool {
        let max = self.service.backend_connections_max;
        max != 0 && self.connections(backend) >= max
    }

    /// The backend of a new flow of the client.
    pub(super) fn choose(&self) -> Choice {
        let max = self.service.connections_max;
        if max != 0 && self.maps.service_loads.read(self.slot).connections >= max {
            return Err(types::reason::REASON_SERVICE_LIMIT.0);
        }
        let mut full = false;
        let chosen = (self.buckets() != 0).then(|| {
            let mut takes = |backend: u32| {
                let active = self.is_active(backend);
                full |= active && self.is_full(backend);
                active && !self.is_full(backend)
            };
            let known = self.remembered().filter(|(backend, _)| takes(*backend));
            known.or_else(|| self.by_algorithm(&mut takes))
        });
        let none = if full {
            types::reason::REASON_BACKEND_LIMIT
        } else {
            types::reason::REASON_NO_BACKEND
        };
        chosen.flatten().ok_or(none.0)
    }

    /// The backend that served this client last.
    fn remembered(&self) -> Option<(u32, Because)> {
        let affinity = self.service.affinity;
        if u32::from(self.service.algorithm) != types::algorithm::ALGORITHM_SOURCE.0 {
            return None;
        }
        let key =
            types::affinity_key { service: self.slot, client: self.client, ..Default::default() };
        let known = self.affinities.and_then(|map| read(map.get(&key)))?;
        let left_secs = affinity.checked_sub(self.now.wrapping_sub(known.touched))?;
        (left_secs > 0).then_some((known.backend, Because::Remembered { left_secs }))
    }

    fn by_algorithm(&self, takes: &mut impl FnMut(u32) -> bool) -> Option<(u32, Because)> {
        let algorithm = types::algorithm(self.service.algorithm.into());
        let mut bucket = self.bucket();
        if algorithm == types::algorithm::ALGORITHM_ROUND_ROBIN {
            let turn = self.maps.service_loads.read(self.slot).turn;
            bucket = turn.wrapping_mul(GOLDEN) & (self.buckets() - 1);
        }
        if algorithm == types::algorithm::ALGORITHM_LEAST_CONNECTIONS
            && let Some(least) = self.least(takes)
        {
            return Some(least);
        }
        let (backend, because) = self.starting_at(bucket, takes)?;
        let in_turn = algorithm == types::algorithm::ALGORITHM_ROUND_ROBIN;
        let because = match because {
            Because::First if in_turn => Because::Turn,
            because => because,
        };
        Some((backend, because))
    }

    fn starting_at(
        &self,
        bucket: u32,
        takes: &mut impl FnMut(u32) -> bool,
    ) -> Option<(u32, Because)> {
        let hops = self.hops(bucket);
        if takes(hops.first) {
            return Some((hops.first, Because::First));
        }
        if takes(hops.second) {
            return Some((hops.second, Because::Second));
        }
        let mask = self.buckets() - 1;
        let others =
            (1..=OTHER_BUCKETS).map(|i| bucket.wrapping_add(GOLDEN.wrapping_mul(i)) & mask);
        let mut others = others.map(|bucket| self.hops(bucket).first);
        others.find(|first| takes(*first)).map(|first| (first, Because::OtherBucket))
    }

    fn least(&self, takes: &mut impl FnMut(u32) -> bool) -> Option<(u32, Because)> {
        let mut best = None;
        let mut hash = self.hash;
        for _ in 0..LEAST_CANDIDATES {
            let backend = self.hops(self.bucket_of(hash)).first;
            hash = hash.rotate_left(16);
            let less =
                |best: u32| self.load_beside(backend, best) < self.load_beside(best, backend);
            if takes(backend) && best.is_none_or(less) {
                best = Some(backend);
            }
        }
        best.map(|best| (best, Because::Least { candidates: LEAST_CANDIDATES }))
    }

    /// `a/x < b/y` as `a*y < b*x`, with the flow to come.
    fn load_beside(&self, backend: u32, other: u32) -> u64 {
        (u64::from(self.connections(backend)) + 1)
            * u64::from(self.maps.backends.read(other).weight)
    }
}

/// What cannot be read is not known.
fn read<T>(answer: io::Result<Option<T>>) -> Option<T> {
    answer.ok().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Capacities;

    const SLOT: u32 = 1;
    const BITS: u32 = 3;

    /// A service with three backends in slots 1 to 3 and eight buckets, the even ones to 1 and the
    /// odd ones to 2, behind each of them 3.
    fn maps() -> Maps {
        let maps = Maps::in_memory(&Capacities {
            services: 4,
            backends: 8,
            buckets: 32,
            source_ranges: 4,
            ..Capacities::default()
        });
        for slot in 1..=3 {
            set(&maps, slot, types::backend_state::BACKEND_ACTIVE);
        }
        for at in 0..8 {
            maps.buckets.write(8 + at, &types::bucket { first: 1 + at % 2, second: 3 });
        }
        maps
    }

    fn set(maps: &Maps, slot: u32, state: types::backend_state) {
        let state = u8::try_from(state.0).unwrap();
        let record = types::backend { service: SLOT, state, weight: 100, ..Default::default() };
        maps.backends.write(slot, &record);
    }

    fn load(maps: &Maps, slot: u32, connections: u32) {
        maps.backend_loads.write(slot, &types::backend_load { connections });
    }

    fn chooser(maps: &Maps, algorithm: types::algorithm, hash: u64) -> Chooser<'_> {
        let service = types::service {
            algorithm: u8::try_from(algorithm.0).unwrap(),
            table: types::table { first: 8, bits: BITS },
            backend_connections_max: 10,
            ..Default::default()
        };
        let client = types::address::default();
        Chooser { maps, affinities: None, slot: SLOT, service, client, hash, now: 100 }
    }

    fn hashed(maps: &Maps, bucket: u64) -> Choice {
        chooser(maps, types::algorithm::ALGORITHM_HASH, bucket << (64 - BITS)).choose()
    }

    #[test]
    fn the_bucket_s_first_hop_comes_first_and_then_its_second() {
        let maps = maps();
        assert_eq!(hashed(&maps, 4), Ok((1, Because::First)));
        assert_eq!(hashed(&maps, 5), Ok((2, Because::First)));
        set(&maps, 1, types::backend_state::BACKEND_DRAINING);
        assert_eq!(hashed(&maps, 4), Ok((3, Because::Second)));
        set(&maps, 3, types::backend_state::BACKEND_DOWN);
        assert_eq!(hashed(&maps, 4), Ok((2, Because::OtherBucket)));
    }

    #[test]
    fn full_backends_are_told_from_those_that_take_none() {
        let maps = maps();
        for slot in 1..=3 {
            load(&maps, slot, 10);
        }
        assert_eq!(hashed(&maps, 0), Err(types::reason::REASON_BACKEND_LIMIT.0));
        for slot in 1..=3 {
            set(&maps, slot, types::backend_state::BACKEND_DOWN);
        }
        assert_eq!(hashed(&maps, 0), Err(types::reason::REASON_NO_BACKEND.0));
    }

    #[test]
    fn the_service_s_limit_comes_before_all() {
        let maps = maps();
        maps.service_loads.write(SLOT, &types::service_load { connections: 7, turn: 0 });
        let mut chooser = chooser(&maps, types::algorithm::ALGORITHM_HASH, 0);
        chooser.service.connections_max = 7;
        assert_eq!(chooser.choose(), Err(types::reason::REASON_SERVICE_LIMIT.0));
    }

    #[test]
    fn the_least_loaded_of_the_candidates_is_taken() {
        let maps = maps();
        load(&maps, 1, 5);
        // Top bits 0, 1, 0 and 0 of the four turns of the hash.
        let chooser =
            chooser(&maps, types::algorithm::ALGORITHM_LEAST_CONNECTIONS, 0x0000_2000_0000_0000);
        assert_eq!(chooser.choose(), Ok((2, Because::Least { candidates: 4 })));
    }

    #[test]
    fn a_turn_is_taken_from_the_service_s_count() {
        let maps = maps();
        maps.service_loads.write(SLOT, &types::service_load { connections: 0, turn: 1 });
        let chooser = chooser(&maps, types::algorithm::ALGORITHM_ROUND_ROBIN, 0);
        // The golden multiple is odd, so bucket 1.
        assert_eq!(chooser.choose(), Ok((2, Because::Turn)));
    }

    #[test]
    fn without_a_table_there_is_no_backend() {
        let maps = maps();
        let mut chooser = chooser(&maps, types::algorithm::ALGORITHM_HASH, 0);
        chooser.service.table = types::table::default();
        assert_eq!(chooser.choose(), Err(types::reason::REASON_NO_BACKEND.0));
    }
}
