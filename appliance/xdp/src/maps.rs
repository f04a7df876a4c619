//! Every map, typed.

use std::io;
use std::os::fd::OwnedFd;

use crate::mapped::Mapped;
use crate::program::types;
use crate::sys::{KernelMap, PerCpu};

/// The maps of a loaded program.
#[derive(Debug)]
pub(crate) struct Maps {
    pub(crate) flows: Mapped<types::flow>,
    pub(crate) services: Mapped<types::service>,
    pub(crate) service_loads: Mapped<types::service_load>,
    pub(crate) buckets: Mapped<types::bucket>,
    pub(crate) backends: Mapped<types::backend>,
    pub(crate) backend_loads: Mapped<types::backend_load>,
    pub(crate) sources: Mapped<types::source>,
    pub(crate) settings: Mapped<types::settings>,
    pub(crate) service_index: Index<types::service_key, u32>,
    pub(crate) source_ranges: Index<types::range_key, u8>,
    pub(crate) interfaces: Mapped<types::interface>,
    pub(crate) generation: Mapped<types::generation>,
    pub(crate) flow_index: Index<types::flow_key, types::flow_reference>,
    pub(crate) backend_counters: Counters<types::backend_counters>,
}

/// A map that is asked by key: the kernel's, or one in memory for tests of what is above it.
#[derive(Debug)]
pub(crate) enum Index<K, V> {
    Kernel(KernelMap<K, V>),
    #[cfg(test)]
    Memory(memory::MemoryMap<K, V>),
}

use crate::mapped::Plain;

impl<K: Plain, V: Plain> Index<K, V> {
    pub(crate) fn of_map(map: OwnedFd) -> io::Result<Self> {
        KernelMap::new(map).map(Self::Kernel)
    }

    pub(crate) fn get(&self, key: &K) -> io::Result<Option<V>> {
        match self {
            Self::Kernel(map) => map.get(key),
            #[cfg(test)]
            Self::Memory(map) => Ok(map.get(key)),
        }
    }

    pub(crate) fn insert(&self, key: &K, value: &V) -> io::Result<()> {
        match self {
            Self::Kernel(map) => map.insert(key, value),
            #[cfg(test)]
            Self::Memory(map) => map.insert(key, value),
        }
    }

    pub(crate) fn remove(&self, key: &K) -> io::Result<bool> {
        match self {
            Self::Kernel(map) => map.remove(key),
            #[cfg(test)]
            Self::Memory(map) => Ok(map.remove(key)),
        }
    }

    pub(crate) fn keys(&self) -> io::Result<Vec<K>> {
        match self {
            Self::Kernel(map) => map.keys(),
            #[cfg(test)]
            Self::Memory(map) => Ok(map.keys()),
        }
    }
}

/// Counters by CPU: the kernel's, or none in tests.
#[derive(Debug)]
pub(crate) enum Counters<V> {
    Kernel(PerCpu<V>),
    #[cfg(test)]
    None,
}

impl<V: Plain> Counters<V> {
    pub(crate) fn get(&self, at: u32) -> io::Result<Vec<V>> {
        match self {
            Self::Kernel(map) => map.get(at),
            #[cfg(test)]
            Self::None => Ok(Vec::new()),
        }
    }

    pub(crate) fn clear(&self, at: u32) -> io::Result<()> {
        match self {
            Self::Kernel(map) => map.clear(at),
            #[cfg(test)]
            Self::None => Ok(()),
        }
    }
}

#[cfg(test)]
pub(crate) mod memory {
    use std::collections::BTreeMap;
    use std::io;
    use std::marker::PhantomData;
    use std::sync::Mutex;

    use super::{Counters, Index, Maps};
    use crate::mapped::{Mapped, Plain, bytes_of, value_of};
    use crate::settings::Capacities;

    /// A bounded map in memory.
    #[derive(Debug)]
    pub(crate) struct MemoryMap<K, V> {
        entries: Mutex<BTreeMap<Vec<u8>, Vec<u8>>>,
        capacity: usize,
        types: PhantomData<fn(K) -> V>,
    }

    impl<K: Plain, V: Plain> MemoryMap<K, V> {
        fn new(capacity: u32) -> Self {
            Self { entries: Mutex::default(), capacity: capacity as usize, types: PhantomData }
        }

        pub(crate) fn get(&self, key: &K) -> Option<V> {
            self.entries.lock().unwrap().get(bytes_of(key)).and_then(|bytes| value_of(bytes))
        }

        pub(crate) fn insert(&self, key: &K, value: &V) -> io::Result<()> {
            let mut entries = self.entries.lock().unwrap();
            if entries.len() >= self.capacity && !entries.contains_key(bytes_of(key)) {
                return Err(io::ErrorKind::StorageFull.into());
            }
            entries.insert(bytes_of(key).into(), bytes_of(value).into());
            Ok(())
        }

        pub(crate) fn remove(&self, key: &K) -> bool {
            self.entries.lock().unwrap().remove(bytes_of(key)).is_some()
        }

        pub(crate) fn keys(&self) -> Vec<K> {
            self.entries.lock().unwrap().keys().filter_map(|bytes| value_of(bytes)).collect()
        }
    }

    impl Maps {
        /// Maps in memory.
        pub(crate) fn in_memory(capacities: &Capacities) -> Self {
            Self {
                flows: Mapped::anonymous(16).unwrap(),
                services: Mapped::anonymous(capacities.services).unwrap(),
                service_loads: Mapped::anonymous(capacities.services).unwrap(),
                buckets: Mapped::anonymous(capacities.buckets).unwrap(),
                backends: Mapped::anonymous(capacities.backends + 1).unwrap(),
                backend_loads: Mapped::anonymous(capacities.backends + 1).unwrap(),
                sources: Mapped::anonymous(4096).unwrap(),
                settings: Mapped::anonymous(1).unwrap(),
                service_index: Index::Memory(MemoryMap::new(capacities.services)),
                source_ranges: Index::Memory(MemoryMap::new(capacities.source_ranges)),
                interfaces: Mapped::anonymous(64).unwrap(),
                generation: Mapped::anonymous(1).unwrap(),
                flow_index: Index::Memory(MemoryMap::new(64)),
                backend_counters: Counters::None,
            }
        }
    }
}
