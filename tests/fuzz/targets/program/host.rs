//! The compiled program and what it asks of its host: maps in memory, routes, a frame to work on.
//!
//! Every element of a hash is an allocation of its own and is gone when it is deleted or written
//! anew, so that the address sanitizer sees what outlives it.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::ffi::{CStr, c_char, c_int, c_long, c_void};
use std::net::IpAddr;
use std::ptr::null_mut;

use haflinger_xdp::program::types;

/// Before a frame, as in the kernel.
const HEAD_ROOM: usize = 256;

/// Frames are no longer: a page of the kernel less its own needs.
pub const FRAME_MAX: usize = 3520;

/// Elements of what the loader gives a size, but for those that `World` names.
const ENTRIES: usize = 16;

// Numbers of linux/bpf.h.
const HASH: u32 = 1;
const ARRAY: u32 = 2;
const PERCPU_ARRAY: u32 = 6;
const LRU_HASH: u32 = 9;
const LPM_TRIE: u32 = 11;
const BPF_NOEXIST: u64 = 1;
const ENOENT: c_long = -2;
const E2BIG: c_long = -7;
const EEXIST: c_long = -17;

/// `struct host_map`.
#[repr(C)]
struct Shape {
    name: *const c_char,
    map: *const c_void,
    kind: u32,
    key: u32,
    value: u32,
    entries: u32,
}

/// `struct host`.
#[repr(C)]
pub struct Host {
    pub nanoseconds: u64,
    pub random: u32,
    pub socket: u32,
    pub unheard: u32,
    pub changes: u32,
    redirect: u32,
    event: types::trace_event,
}

/// `struct host_route`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    pub result: u32,
    pub interface: u32,
    pub mtu: u32,
    pub to: [u8; 6],
    pub from: [u8; 6],
}

/// `struct xdp_md`.
#[repr(C)]
struct Context {
    data: u32,
    data_end: u32,
    data_meta: u32,
    ingress: u32,
    queue: u32,
    egress: u32,
}

unsafe extern "C" {
    static mut host: Host;
    static host_maps: [Shape; 0];
    static host_map_count: u32;
    fn host_records(opening: u32, established: u32, hints: u32);
    fn host_memory(size: u32) -> *mut u8;
    fn host_run(context: *mut Context) -> c_int;
    #[link_name = "sweep"]
    fn run_sweep(part: *const types::sweep) -> c_int;
}

struct Map {
    name: &'static str,
    address: usize,
    kind: u32,
    key: usize,
    value: usize,
    entries: usize,
    array: Box<[u8]>,
    hash: BTreeMap<Vec<u8>, Box<[u8]>>,
    /// Keys of an LRU hash, the oldest first.
    ages: VecDeque<Vec<u8>>,
}

/// A packet given to the daemon: the header and the frame.
pub type Deferred = (types::deferred, Vec<u8>);

#[derive(Default)]
struct World {
    maps: Vec<Map>,
    /// By family.
    routes: Vec<(IpAddr, u8, Route)>,
    deferred: Vec<Deferred>,
}

thread_local! {
    static WORLD: RefCell<World> = RefCell::new(World { maps: maps(), ..World::default() });
    static MEMORY: *mut u8 = memory();
}

const MEMORY_BYTES: usize = 4096;

fn memory() -> *mut u8 {
    // SAFETY: a mapping of its own, kept for ever.
    let memory = unsafe { host_memory(MEMORY_BYTES as u32) };
    assert!(!memory.is_null(), "no memory below 4 GiB");
    memory
}

fn maps() -> Vec<Map> {
    // SAFETY: the array is as long as the number beside it, and neither ever changes.
    let shapes = unsafe {
        std::slice::from_raw_parts((&raw const host_maps).cast::<Shape>(), host_map_count as usize)
    };
    let map = |shape: &Shape| Map {
        // SAFETY: a literal of the program.
        name: unsafe { CStr::from_ptr(shape.name) }.to_str().expect("names are ASCII"),
        address: shape.map.addr(),
        kind: shape.kind,
        key: shape.key as usize,
        value: shape.value as usize,
        entries: shape.entries as usize,
        array: Box::default(),
        hash: BTreeMap::new(),
        ages: VecDeque::new(),
    };
    shapes.iter().map(map).collect()
}

impl Map {
    fn is_array(&self) -> bool {
        matches!(self.kind, ARRAY | PERCPU_ARRAY)
    }

    fn clear(&mut self, sizes: &[(&str, usize)]) {
        let wish = sizes.iter().find(|(name, _)| *name == self.name).map(|(_, size)| *size);
        // Hands, counters and settings are what the program says: one element.
        let is_sized =
            self.kind != PERCPU_ARRAY && !["settings", "generation", "clock"].contains(&self.name);
        let entries = wish.unwrap_or(if is_sized { ENTRIES } else { 1 });
        if wish.is_some() || self.entries == 1 {
            self.entries = entries;
        }
        self.hash.clear();
        self.ages.clear();
        if self.is_array() {
            self.array = vec![0; self.entries * self.value].into();
        }
    }

    fn element(&mut self, slot: usize) -> Option<&mut [u8]> {
        (slot < self.entries).then(|| &mut self.array[slot * self.value..][..self.value])
    }

    /// The longest prefix in the trie that the key begins with: its own length is not asked for.
    fn matches(&mut self, key: &[u8]) -> Option<&mut [u8]> {
        let covers = |prefix: &[u8]| {
            let bits = u32::from_ne_bytes(prefix[..4].try_into().expect("four bytes")) as usize;
            let (whole, rest) = (bits / 8, bits % 8);
            let (one, other) = (&prefix[4..], &key[4..]);
            one[..whole] == other[..whole]
                && (rest == 0 || (one[whole] ^ other[whole]) >> (8 - rest) == 0)
        };
        self.hash.iter_mut().find_map(|(prefix, value)| covers(prefix).then_some(&mut value[..]))
    }

    fn lookup(&mut self, key: &[u8]) -> Option<&mut [u8]> {
        match self.kind {
            ARRAY | PERCPU_ARRAY => self.element(slot_of(key)),
            LPM_TRIE => self.matches(key),
            _ => self.hash.get_mut(key).map(|value| &mut value[..]),
        }
    }

    fn update(&mut self, key: &[u8], value: &[u8], flags: u64) -> c_long {
        if self.is_array() {
            let Some(element) = self.element(slot_of(key)) else { return E2BIG };
            element.copy_from_slice(value);
            return 0;
        }
        let known = self.hash.contains_key(key);
        if known && flags & BPF_NOEXIST != 0 {
            return EEXIST;
        }
        if !known && self.hash.len() >= self.entries {
            match self.ages.pop_front() {
                Some(oldest) if self.kind == LRU_HASH => self.hash.remove(&oldest),
                _ => return E2BIG,
            };
        }
        if !known && self.kind == LRU_HASH {
            self.ages.push_back(key.to_vec());
        }
        self.hash.insert(key.to_vec(), value.into());
        0
    }

    fn delete(&mut self, key: &[u8]) -> c_long {
        assert!(self.kind == HASH, "{}: the program deletes from hashes only", self.name);
        if self.hash.remove(key).is_some() { 0 } else { ENOENT }
    }
}

fn slot_of(key: &[u8]) -> usize {
    u32::from_ne_bytes(key.try_into().expect("arrays have keys of four bytes")) as usize
}

fn with<T>(name: &str, task: impl FnOnce(&mut Map) -> T) -> T {
    WORLD.with_borrow_mut(|world| {
        let found = world.maps.iter_mut().find(|map| map.name == name);
        task(found.unwrap_or_else(|| panic!("host.c lists no map {name}")))
    })
}

fn with_map<T>(map: *const c_void, task: impl FnOnce(&mut Map) -> T) -> T {
    WORLD.with_borrow_mut(|world| {
        let found = world.maps.iter_mut().find(|known| known.address == map.addr());
        task(found.expect("host.c lists every map that the program uses"))
    })
}

/// # Safety
/// `from` points to that many bytes.
unsafe fn bytes<'a>(from: *const c_void, count: usize) -> &'a [u8] {
    // SAFETY: as promised.
    unsafe { std::slice::from_raw_parts(from.cast(), count) }
}

#[unsafe(no_mangle)]
extern "C" fn host_lookup(map: *const c_void, key: *const c_void) -> *mut c_void {
    with_map(map, |map| {
        // SAFETY: the program gives a key of the map's type.
        let found = map.lookup(unsafe { bytes(key, map.key) });
        found.map_or_else(null_mut, |value| value.as_mut_ptr().cast())
    })
}

#[unsafe(no_mangle)]
extern "C" fn host_update(
    map: *const c_void,
    key: *const c_void,
    value: *const c_void,
    flags: u64,
) -> c_long {
    // SAFETY: the program gives a key and a value of the map's types.
    with_map(map, |map| unsafe { map.update(bytes(key, map.key), bytes(value, map.value), flags) })
}

#[unsafe(no_mangle)]
extern "C" fn host_delete(map: *const c_void, key: *const c_void) -> c_long {
    // SAFETY: the program gives a key of the map's type.
    with_map(map, |map| map.delete(unsafe { bytes(key, map.key) }))
}

#[unsafe(no_mangle)]
extern "C" fn host_route_to(family: u8, destination: *const c_void, route: &mut Route) {
    // SAFETY: the program gives an address of the family.
    let address: IpAddr = match unsafe { bytes(destination, if family == 2 { 4 } else { 16 }) } {
        v4 if v4.len() == 4 => <[u8; 4]>::try_from(v4).expect("four bytes").into(),
        v6 => <[u8; 16]>::try_from(v6).expect("sixteen bytes").into(),
    };
    *route = route_to(address);
}

#[unsafe(no_mangle)]
extern "C" fn host_deferred(header: &types::deferred, frame: *const c_void) {
    // SAFETY: the header says how long the frame is.
    let frame = unsafe { bytes(frame, header.length as usize) }.to_vec();
    WORLD.with_borrow_mut(|world| world.deferred.push((*header, frame)));
}

/// Where the kernel would send a packet to `address`.
pub fn route_to(address: IpAddr) -> Route {
    let covers = |net: IpAddr, bits: u8| match (net, address) {
        (IpAddr::V4(net), IpAddr::V4(address)) => {
            (net.to_bits() ^ address.to_bits()).leading_zeros() >= u32::from(bits)
        }
        (IpAddr::V6(net), IpAddr::V6(address)) => {
            (net.to_bits() ^ address.to_bits()).leading_zeros() >= u32::from(bits)
        }
        _ => false,
    };
    WORLD.with_borrow(|world| {
        let found = world.routes.iter().find(|(net, bits, _)| covers(*net, *bits));
        // BPF_FIB_LKUP_RET_NOT_FWDED.
        let none = Route { result: 4, interface: 0, mtu: 0, to: [0; 6], from: [0; 6] };
        found.map_or(none, |(_, _, route)| *route)
    })
}

/// Empties every map and gives it its size.
pub fn begin(sizes: &[(&str, usize)], opening: u32, established: u32, hints: u32) {
    WORLD.with_borrow_mut(|world| {
        world.maps.iter_mut().for_each(|map| map.clear(sizes));
        world.routes.clear();
        world.deferred.clear();
    });
    // SAFETY: one thread.
    unsafe { host_records(opening, established, hints) };
    knobs(|knobs| {
        (knobs.nanoseconds, knobs.random, knobs.socket, knobs.unheard) = (0, 1, 0, 0);
    });
}

/// Sets the routes: network, prefix, what the kernel says.
pub fn set_routes(routes: Vec<(IpAddr, u8, Route)>) {
    // As the kernel does, after what it tells of has changed.
    knobs(|knobs| knobs.changes = knobs.changes.wrapping_add(1));
    WORLD.with_borrow_mut(|world| world.routes = routes);
}

/// What the helpers answer.
pub fn knobs<T>(change: impl FnOnce(&mut Host) -> T) -> T {
    // SAFETY: one thread, and the program does not run now.
    change(unsafe { &mut *(&raw mut host) })
}

/// What became of a frame.
pub struct Outcome {
    pub verdict: u32,
    pub frame: Vec<u8>,
    /// The interface of a redirection.
    pub redirect: u32,
    pub deferred: Option<Deferred>,
    /// What a trace tells of it.
    pub event: types::trace_event,
}

/// Runs the program on a frame that came by an interface.
pub fn run(ingress: u32, frame: &[u8]) -> Outcome {
    assert!(frame.len() <= FRAME_MAX);
    let memory = MEMORY.with(|memory| *memory);
    let start = MEMORY_BYTES - frame.len();
    assert!(start >= HEAD_ROOM);
    let data = (memory.addr() + start) as u32;
    let data_end = data + frame.len() as u32;
    let mut context = Context { data, data_end, data_meta: data, ingress, queue: 0, egress: 0 };
    knobs(|knobs| (knobs.redirect, knobs.event) = (0, types::trace_event::default()));
    // SAFETY: the memory is ours and long enough; nobody else looks at it.
    let verdict = unsafe {
        std::ptr::copy_nonoverlapping(frame.as_ptr(), memory.add(start), frame.len());
        host_run(&raw mut context)
    };
    let offset = context.data as usize - memory.addr();
    let length = (context.data_end - context.data) as usize;
    // SAFETY: the program keeps the frame within the memory.
    let frame = unsafe { std::slice::from_raw_parts(memory.add(offset), length) }.to_vec();
    let mut deferred = WORLD.with_borrow_mut(|world| std::mem::take(&mut world.deferred));
    assert!(deferred.len() <= 1, "deferred twice");
    let (redirect, event) = knobs(|knobs| (knobs.redirect, knobs.event));
    Outcome { verdict: verdict as u32, frame, redirect, deferred: deferred.pop(), event }
}

/// Releases what is expired.
pub fn sweep(count: u32, now: u32) -> u32 {
    // SAFETY: the program only reads it.
    unsafe { run_sweep(&types::sweep { first: 0, count, now }) as u32 }
}

/// The bytes of a value that the program shares.
pub fn bytes_of<T: Copy>(value: &T) -> &[u8] {
    // SAFETY: generated from the BTF of a struct of integers; its padding is named.
    unsafe { std::slice::from_raw_parts(std::ptr::from_ref(value).cast(), size_of::<T>()) }
}

/// The value that bytes of a map are.
pub fn value_of<T: Copy>(bytes: &[u8]) -> T {
    assert!(bytes.len() >= size_of::<T>());
    // SAFETY: there are enough bytes, any of them make a value, and the read needs no alignment.
    unsafe { bytes.as_ptr().cast::<T>().read_unaligned() }
}

/// An element of an array.
pub fn element<T: Copy>(map: &str, slot: u32) -> T {
    with(map, |map| value_of(map.element(slot as usize).expect("within the array")))
}

/// Writes an element of an array.
pub fn put<T: Copy>(map: &str, slot: u32, value: &T) {
    let code = with(map, |map| map.update(&slot.to_ne_bytes(), bytes_of(value), 0));
    assert_eq!(code, 0, "{map} has no element {slot}");
}

/// Changes an element of an array.
pub fn change<T: Copy>(map: &str, slot: u32, change: impl FnOnce(&mut T)) {
    let mut value = element(map, slot);
    change(&mut value);
    put(map, slot, &value);
}

/// Puts a key into a hash.
pub fn insert<K: Copy, V: Copy>(map: &str, key: &K, value: &V) {
    let code = with(map, |map| map.update(bytes_of(key), bytes_of(value), 0));
    assert_eq!(code, 0, "{map} is full");
}

/// Takes a key out of a hash.
pub fn remove<K: Copy>(map: &str, key: &K) {
    with(map, |map| map.delete(bytes_of(key)));
}

/// Everything in a hash.
pub fn entries<V: Copy>(map: &str) -> BTreeMap<Vec<u8>, V> {
    with(map, |map| map.hash.iter().map(|(key, value)| (key.clone(), value_of(value))).collect())
}

/// Every element of an array.
pub fn elements<T: Copy>(map: &str) -> Vec<T> {
    with(map, |map| map.array.chunks(map.value).map(value_of).collect())
}
