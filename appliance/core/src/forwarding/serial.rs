//! The compact serial form of a table, with its history.
//!
//! ```text
//! | "HFTB" 4 | version 1 | bits v | generation v | settled v |
//! | stamps v | { seconds v, generations since the one before v } … |
//! | members v | { length v, member, weight v } … |
//! | former members v | { length v, member } … |
//! | { run length v, first hop v, second hop v, generations since the last change v } … |
//! | checksum 8 |
//! ```
//!
//! *v* is an unsigned LEB128 number of at most 64 bits. `bits` is the logarithm of the number of
//! buckets, 0 for an empty table. A first hop is a position in the list of members; a second hop
//! is 0 for none, else 1 more than a position in both lists together. Both lists are ascending.
//! Seconds of a stamp count from the one before. The last number of a run is 0 for a bucket that
//! never changed, else 1 more than the generations since. The checksum, little-endian, is
//! SipHash-1-3 with key 0 of everything before it: it finds accidents, not forgery.
//!
//! A table has exactly one serial form and decoding accepts nothing else, so equal bytes and
//! equal tables are the same thing. Settings are not part of it.

use std::hash::Hasher;

use siphasher::sip::SipHasher13;

use super::ages::{Ages, BucketHops, Buckets, CHUNK, Stamps};
use super::member::Member;
use super::shares;
use super::slots::{NO_SLOT, SLOTS_MAX, Slot};
use super::table::{Entry, ForwardingTable, TableSettings};
use super::{BUCKETS_MAX, BUCKETS_MIN, MEMBERS_MAX};
use crate::{MAX_WEIGHT, Weight};

const MAGIC: [u8; 4] = *b"HFTB";
const VERSION: u8 = 1;
const CHECKSUM_BYTES: usize = 8;

/// Why bytes are not a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// It does not begin like a table.
    #[error("not a forwarding table")]
    Magic,
    /// It was written by a newer release.
    #[error("version {0} of the forwarding table is unknown")]
    Version(u8),
    /// It is damaged.
    #[error("the forwarding table's checksum does not match")]
    Checksum,
    /// It ends early.
    #[error("the forwarding table ends within its {0}")]
    Truncated(&'static str),
    /// Bytes follow its end.
    #[error("{0} bytes follow the forwarding table's end")]
    Trailing(usize),
    /// A number is out of its range, or not written in its shortest form.
    #[error("the forwarding table's {0} is out of range")]
    Range(&'static str),
    /// Bytes that are no member of this kind of table.
    #[error("member {0} of the forwarding table cannot be read")]
    Member(usize),
    /// Members out of order, or one twice.
    #[error("member {0} of the forwarding table is out of order")]
    Order(usize),
    /// A former member that no second hop names.
    #[error("former member {0} of the forwarding table is no second hop")]
    Unused(usize),
    /// Members do not hold their exact shares.
    #[error("the forwarding table's shares are not exact")]
    Shares,
}

impl<M: Member> ForwardingTable<M> {
    /// The serial form.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(64 + self.entries.len() * 24 + self.buckets.len() * 2);
        out.extend(MAGIC);
        out.push(VERSION);
        put(&mut out, self.buckets.len().checked_ilog2().unwrap_or(0).into());
        put(&mut out, self.generation);
        self.encode_stamps(&mut out);
        let positions = self.encode_names(&mut out);
        self.encode_runs(&positions, &mut out);
        let checksum = checksum(&out);
        out.extend(checksum);
        out
    }

    fn encode_stamps(&self, out: &mut Vec<u8>) {
        put(out, self.stamps.settled.into());
        put(out, self.stamps.recent.len() as u64);
        let mut before = (0, self.stamps.settled);
        for stamp in &self.stamps.recent {
            put(out, stamp.0 - before.0);
            put(out, (stamp.1 - before.1).into());
            before = *stamp;
        }
    }

    /// Members, then former members; returns positions by slot.
    fn encode_names(&self, out: &mut Vec<u8>) -> Vec<u64> {
        let mut positions = vec![u64::MAX; self.slots.len()];
        put(out, self.entries.len() as u64);
        for (at, entry) in self.entries.iter().enumerate() {
            positions[usize::from(entry.slot)] = at as u64;
            put_member(out, &entry.member);
            put(out, entry.weight.into());
        }
        let former = self.slots.former();
        put(out, former.len() as u64);
        for (at, (member, slot)) in former.iter().enumerate() {
            positions[usize::from(*slot)] = (self.entries.len() + at) as u64;
            put_member(out, member);
        }
        positions
    }

    fn encode_runs(&self, positions: &[u64], out: &mut Vec<u8>) {
        let mut buckets = (0_u32..).zip(self.buckets.iter()).peekable();
        while let Some((bucket, hops)) = buckets.next() {
            let age = self.ages.of(bucket);
            let mut length = 1;
            while buckets
                .next_if(|(next, next_hops)| *next_hops == hops && self.ages.of(*next) == age)
                .is_some()
            {
                length += 1;
            }
            put(out, length);
            put(out, positions[usize::from(hops.first)]);
            put(out, positions.get(usize::from(hops.second)).map_or(0, |at| at + 1));
            put(out, if age == 0 { 0 } else { self.generation - u64::from(age) + 1 });
        }
    }

    /// Reads the serial form of a table with the default settings.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        Self::decode_with(TableSettings::default(), bytes)
    }

    /// Reads a serial form. Total: any bytes give a table in which everything holds that always
    /// holds, or an error; memory is bounded by the bytes given and by `BUCKETS_MAX`.
    pub fn decode_with(settings: TableSettings, bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut input = Input::open(bytes)?;
        let bits: u32 = input.number("size", BUCKETS_MAX.ilog2().into())?;
        let buckets = if bits == 0 { 0 } else { 1_u32 << bits };
        if bits != 0 && buckets < BUCKETS_MIN {
            return Err(DecodeError::Range("size"));
        }
        let generation: u64 = input.number("generation", u64::MAX)?;
        let stamps = input.stamps(generation)?;
        let mut table = Self { generation, stamps, ..Self::with_settings(settings) };
        let members_max = if buckets == 0 { 0 } else { MEMBERS_MAX };
        let members: Vec<(M, Weight)> = input.members(members_max, |input| {
            match input.number("weight", MAX_WEIGHT.into())? {
                0 => Err(DecodeError::Range("weight")),
                weight => Ok(weight),
            }
        })?;
        let former: Vec<(M, ())> = input.members(SLOTS_MAX - members.len(), |_| Ok(()))?;
        for (member, weight) in members {
            let slot = table.slots.join(member.clone());
            table.entries.push(Entry { member, weight, slot, held: 0 });
        }
        let members = table.entries.len();
        for (at, (member, ())) in former.into_iter().enumerate() {
            if table.entries.binary_search_by(|entry| entry.member.cmp(&member)).is_ok() {
                return Err(DecodeError::Order(members + at));
            }
            table.slots.join(member);
        }
        table.read_runs(&mut input, buckets)?;
        input.end()?;
        table.check()?;
        Ok(table)
    }

    /// Buckets, ages and what follows from them. Slots are positions in both lists.
    fn read_runs(&mut self, input: &mut Input<'_>, buckets: u32) -> Result<(), DecodeError> {
        let mut all = Vec::with_capacity(buckets as usize);
        let mut ages = Vec::with_capacity(buckets as usize);
        let mut before = None;
        while all.len() < buckets as usize {
            let left = buckets as usize - all.len();
            let run = self.read_run(input, left)?;
            if before == Some((run.hops, run.age)) {
                return Err(DecodeError::Range("run"));
            }
            before = Some((run.hops, run.age));
            all.resize(all.len() + run.length as usize, run.hops);
            ages.resize(all.len(), run.age);
            self.entries[usize::from(run.hops.first)].held += run.length;
            if run.hops.second != NO_SLOT {
                self.slots.hold_many(run.hops.second, run.length);
            }
        }
        self.buckets = Buckets::from_fn(buckets as usize / CHUNK, |at| all[at]);
        self.ages = Ages::from_list(ages);
        Ok(())
    }

    fn read_run(&self, input: &mut Input<'_>, left: usize) -> Result<Run, DecodeError> {
        let length: u32 = input.number("run length", left as u64)?;
        let members = self.entries.len() as u64;
        let first_max = members.checked_sub(1).ok_or(DecodeError::Range("first hop"))?;
        let first: Slot = input.number("first hop", first_max)?;
        let second: Slot = input.number("second hop", self.slots.len() as u64)?;
        let since: u64 = input.number("age", self.generation)?;
        // `since` is 1 more than the generations since, so the oldest age is 1.
        let age = if since == 0 { 0 } else { self.generation - since + 1 };
        let age = u32::try_from(age).map_err(|_| DecodeError::Range("age"))?;
        let second = second.checked_sub(1).unwrap_or(NO_SLOT);
        if length == 0 || first == second {
            return Err(DecodeError::Range("run"));
        }
        Ok(Run { length, hops: BucketHops { first, second }, age })
    }

    /// What holds for the table as a whole.
    fn check(&mut self) -> Result<(), DecodeError> {
        let members = self.entries.len();
        for slot in members..self.slots.len() {
            let number = Slot::try_from(slot).unwrap_or(NO_SLOT);
            if self.slots.uses(number) == 1 {
                return Err(DecodeError::Unused(slot));
            }
            self.slots.leave(number);
        }
        let held: Vec<_> = self.entries.iter().map(|entry| (entry.weight, entry.held)).collect();
        let buckets = u32::try_from(self.buckets.len()).unwrap_or(BUCKETS_MAX);
        let empty = held.is_empty() && buckets == 0;
        if empty || shares::is_exact(buckets, &held) { Ok(()) } else { Err(DecodeError::Shares) }
    }
}

struct Run {
    length: u32,
    hops: BucketHops,
    age: u32,
}

fn checksum(bytes: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let mut hasher = SipHasher13::new_with_key(&[0; 16]);
    hasher.write(bytes);
    hasher.finish().to_le_bytes()
}

fn put(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number.to_le_bytes()[0] | 0x80);
        number >>= 7;
    }
    out.push(number.to_le_bytes()[0]);
}

fn put_member<M: Member>(out: &mut Vec<u8>, member: &M) {
    let mut bytes = Vec::with_capacity(18);
    member.write(&mut bytes);
    put(out, bytes.len() as u64);
    out.extend(bytes);
}

/// What is still to be read.
struct Input<'a> {
    rest: &'a [u8],
}

impl<'a> Input<'a> {
    /// Checks frame, version and checksum.
    fn open(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let rest = bytes.strip_prefix(&MAGIC).ok_or(DecodeError::Magic)?;
        let (version, _) = rest.split_first().ok_or(DecodeError::Truncated("head"))?;
        if *version != VERSION {
            return Err(DecodeError::Version(*version));
        }
        let (sealed, sum) = bytes
            .split_last_chunk::<CHECKSUM_BYTES>()
            .filter(|(sealed, _)| sealed.len() > MAGIC.len())
            .ok_or(DecodeError::Truncated("head"))?;
        if checksum(sealed) != *sum {
            return Err(DecodeError::Checksum);
        }
        Ok(Self { rest: &sealed[MAGIC.len() + 1..] })
    }

    fn byte(&mut self, what: &'static str) -> Result<u8, DecodeError> {
        let (byte, rest) = self.rest.split_first().ok_or(DecodeError::Truncated(what))?;
        self.rest = rest;
        Ok(*byte)
    }

    /// A number up to `max`, in its shortest form.
    fn number<T: TryFrom<u64>>(&mut self, what: &'static str, max: u64) -> Result<T, DecodeError> {
        let mut number = 0_u64;
        for shift in (0..u64::BITS).step_by(7) {
            let byte = self.byte(what)?;
            let part = u64::from(byte & 0x7f);
            if part << shift >> shift != part || (byte == 0 && shift > 0) {
                break;
            }
            number |= part << shift;
            if byte < 0x80 {
                let number = (number <= max).then(|| T::try_from(number).ok()).flatten();
                return number.ok_or(DecodeError::Range(what));
            }
        }
        Err(DecodeError::Range(what))
    }

    fn stamps(&mut self, generation: u64) -> Result<Stamps, DecodeError> {
        let last = u32::try_from(generation).unwrap_or(u32::MAX);
        let settled: u32 = self.number("settled generation", last.into())?;
        let mut stamps = Stamps { settled, ..Stamps::default() };
        let mut before = (0_u64, settled);
        for nth in 0..self.number::<u64>("number of stamps", u64::MAX)? {
            let secs: u64 = self.number("stamp", u64::MAX - before.0)?;
            let passed: u32 = self.number("stamp", (last - before.1).into())?;
            if (nth > 0 && secs == 0) || (passed == 0 && before.1 != u32::MAX) {
                return Err(DecodeError::Range("stamp"));
            }
            before = (before.0 + secs, before.1 + passed);
            stamps.recent.push_back(before);
        }
        Ok(stamps)
    }

    /// An ascending list of members, each with what `extra` reads.
    fn members<M: Member, T>(
        &mut self,
        max: usize,
        extra: impl Fn(&mut Self) -> Result<T, DecodeError>,
    ) -> Result<Vec<(M, T)>, DecodeError> {
        let count: usize = self.number("number of members", max as u64)?;
        // A member takes a byte at least: no more room than there is input.
        let mut members: Vec<(M, T)> = Vec::with_capacity(count.min(self.rest.len()));
        for at in 0..count {
            let length: usize = self.number("length of a member", u64::MAX)?;
            let (bytes, rest) =
                self.rest.split_at_checked(length).ok_or(DecodeError::Truncated("members"))?;
            self.rest = rest;
            let member = M::read(bytes).ok_or(DecodeError::Member(at))?;
            if members.last().is_some_and(|(before, _)| *before >= member) {
                return Err(DecodeError::Order(at));
            }
            members.push((member, extra(self)?));
        }
        Ok(members)
    }

    fn end(&self) -> Result<(), DecodeError> {
        if self.rest.is_empty() { Ok(()) } else { Err(DecodeError::Trailing(self.rest.len())) }
    }
}
