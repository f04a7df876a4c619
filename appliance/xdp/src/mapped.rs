//! Arrays that this process and the program share in memory.
//!
//! Both sides write in single stores of at most eight bytes, and so does this: an element is read
//! and written word by word, a word that is equal is not written. A reader never sees a field half
//! written; it may see one field before another, in the order in which they stand in the struct.

use std::ffi::c_void;
use std::marker::PhantomData;
use std::mem::{MaybeUninit, size_of};
use std::os::fd::AsFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

use crate::program::types;

/// A word: what is stored at once.
const WORD: usize = size_of::<u64>();

/// A layout that the program shares: plain numbers, any bytes are a value.
///
/// # Safety
///
/// Every pattern of bytes is a value of the type, and none of its bytes is padding that the
/// compiler may leave undefined.
pub(crate) unsafe trait Plain: Copy + Default + Send + Sync + 'static {}

macro_rules! plain {
    ($($name:ty),+ $(,)?) => {
        $(
            // SAFETY: generated from the BTF of a struct of integers (and of unions of arrays of
            // them); the generator names every padding byte as a field.
            unsafe impl Plain for $name {}
        )+
    };
}

plain!(
    types::affinity,
    types::affinity_key,
    types::backend,
    types::backend_counters,
    types::backend_load,
    types::deferred,
    types::bucket,
    types::flow,
    types::flow_counters,
    types::flow_key,
    types::flow_reference,
    types::generation,
    types::interface,
    types::range_key,
    types::reason_counters,
    types::refusal,
    types::service,
    types::service_key,
    types::service_load,
    types::settings,
    types::source,
    types::sweep,
    types::trace_counters,
    types::trace_event,
    u8,
    u32,
    u64,
);

/// The bytes of a plain value.
pub(crate) fn bytes_of<T: Plain>(value: &T) -> &[u8] {
    // SAFETY: a plain value has no undefined bytes, and the slice borrows it.
    unsafe { std::slice::from_raw_parts(std::ptr::from_ref(value).cast(), size_of::<T>()) }
}

/// The value that the first bytes make; `None` when there are too few.
pub(crate) fn value_of<T: Plain>(bytes: &[u8]) -> Option<T> {
    // SAFETY: there are enough bytes, any of them make a value, and the read needs no alignment.
    (bytes.len() >= size_of::<T>()).then(|| unsafe { bytes.as_ptr().cast::<T>().read_unaligned() })
}

/// An array of `T` in memory that the program shares.
pub(crate) struct Mapped<T> {
    start: NonNull<AtomicU64>,
    len: u32,
    element: PhantomData<T>,
}

// SAFETY: the memory belongs to no thread, and it is reached through atomic words alone.
unsafe impl<T: Plain> Send for Mapped<T> {}
// SAFETY: as above.
unsafe impl<T: Plain> Sync for Mapped<T> {}

impl<T: Plain> Mapped<T> {
    /// Words of an element: the kernel rounds it up to eight bytes.
    const WORDS: usize = size_of::<T>().div_ceil(WORD);

    /// The array behind a map that was made with `BPF_F_MMAPABLE` and has `len` elements of `T`.
    pub(crate) fn of_map(map: impl AsFd, len: u32) -> std::io::Result<Self> {
        let (protection, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED);
        // SAFETY: a fresh mapping at an address of the kernel's choice touches no memory of ours.
        let start =
            unsafe { mmap(std::ptr::null_mut(), Self::bytes(len), protection, flags, map, 0)? };
        Self::at(start, len)
    }

    /// An array in memory of its own.
    #[cfg(test)]
    pub(crate) fn anonymous(len: u32) -> std::io::Result<Self> {
        let (protection, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE);
        // SAFETY: as above.
        let start = unsafe {
            rustix::mm::mmap_anonymous(std::ptr::null_mut(), Self::bytes(len), protection, flags)?
        };
        Self::at(start, len)
    }

    fn at(start: *mut c_void, len: u32) -> std::io::Result<Self> {
        let start = NonNull::new(start.cast()).ok_or(std::io::ErrorKind::OutOfMemory)?;
        Ok(Self { start, len, element: PhantomData })
    }

    fn bytes(len: u32) -> usize {
        // The kernel gives whole pages, and no mapping is empty.
        (len as usize).max(1) * Self::WORDS * WORD
    }

    /// Elements.
    pub(crate) fn len(&self) -> u32 {
        self.len
    }

    fn words(&self, at: u32) -> Option<&[AtomicU64]> {
        if at >= self.len {
            return None;
        }
        // SAFETY: `at` was just compared with the length of the mapping, which lives as long as
        // `self`, is aligned to a page, and is written in atomic words alone on both sides.
        Some(unsafe {
            let first = self.start.add(at as usize * Self::WORDS);
            std::slice::from_raw_parts(first.as_ptr(), Self::WORDS)
        })
    }

    /// The element at `at`; the default one outside of the array.
    pub(crate) fn read(&self, at: u32) -> T {
        let Some(words) = self.words(at) else { return T::default() };
        let mut value = MaybeUninit::<T>::uninit();
        let mut bytes = value.as_mut_ptr().cast::<u8>();
        let mut left = size_of::<T>();
        for word in words {
            let word = word.load(Ordering::Acquire).to_ne_bytes();
            let count = left.min(WORD);
            // SAFETY: `count` bytes are left of the value, and a word has as many.
            unsafe {
                bytes.copy_from_nonoverlapping(word.as_ptr(), count);
                bytes = bytes.add(count);
            }
            left -= count;
        }
        // SAFETY: every byte was written, and any bytes are a value.
        unsafe { value.assume_init() }
    }

    /// The word of the element at `at` in which the byte at `offset` stands; 0 outside.
    pub(crate) fn word(&self, at: u32, offset: usize) -> u64 {
        let word = self.words(at).and_then(|words| words.get(offset / WORD));
        word.map_or(0, |word| word.load(Ordering::Acquire))
    }

    /// Adds one to the word of the element at `at` in which the byte at `offset` stands, whoever else
    /// adds to it. Nothing happens outside of the array.
    pub(crate) fn add_one(&self, at: u32, offset: usize) {
        if let Some(word) = self.words(at).and_then(|words| words.get(offset / WORD)) {
            word.fetch_add(1, Ordering::AcqRel);
        }
    }

    /// Writes the words of the element at `at` that differ; returns whether any did. Nothing
    /// happens outside of the array.
    pub(crate) fn write(&self, at: u32, value: &T) -> bool {
        let Some(words) = self.words(at) else { return false };
        let mut changed = false;
        for (word, bytes) in words.iter().zip(bytes_of(value).chunks(WORD)) {
            let mut wanted = [0; WORD];
            wanted[..bytes.len()].copy_from_slice(bytes);
            let wanted = u64::from_ne_bytes(wanted);
            if word.load(Ordering::Relaxed) != wanted {
                word.store(wanted, Ordering::Release);
                changed = true;
            }
        }
        changed
    }
}

impl<T> Drop for Mapped<T> {
    fn drop(&mut self) {
        let bytes = (self.len as usize).max(1) * size_of::<T>().div_ceil(WORD) * WORD;
        // SAFETY: this is the mapping that was made, and nothing borrows from it any more.
        // That it fails is impossible for a mapping that exists, and would only keep memory.
        let _ = unsafe { munmap(self.start.as_ptr().cast(), bytes) };
    }
}

impl<T> std::fmt::Debug for Mapped<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mapped").field("len", &self.len).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read() {
        let array = Mapped::<types::bucket>::anonymous(3).unwrap();
        assert!(array.write(1, &types::bucket { first: 7, second: 9 }));
        assert!(!array.write(1, &types::bucket { first: 7, second: 9 }));
        let read = |at| (array.read(at).first, array.read(at).second);
        assert_eq!([read(0), read(1), read(2)], [(0, 0), (7, 9), (0, 0)]);
    }

    #[test]
    fn outside_of_the_array_there_is_nothing() {
        let array = Mapped::<u32>::anonymous(2).unwrap();
        assert!(!array.write(2, &5));
        assert_eq!(array.read(2), 0);
    }

    #[test]
    fn elements_that_are_no_multiple_of_a_word_stand_apart() {
        let array = Mapped::<types::backend_load>::anonymous(4).unwrap();
        for at in 0..4 {
            array.write(at, &types::backend_load { connections: at + 1 });
        }
        let read: Vec<u32> = (0..4).map(|at| array.read(at).connections).collect();
        assert_eq!(read, [1, 2, 3, 4]);
    }

    #[test]
    fn values_and_bytes_are_the_same() {
        let key = types::flow_key { source_port: 0x1234, protocol: 6, ..Default::default() };
        let again: types::flow_key = value_of(bytes_of(&key)).unwrap();
        assert_eq!(bytes_of(&again), bytes_of(&key));
        assert!(value_of::<types::flow_key>(&bytes_of(&key)[1..]).is_none());
    }
}
