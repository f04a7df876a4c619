//! A fixed-chunk array that is copied on write.
//!
//! A clone costs one atomic increment and is a reader's immutable picture. Writing copies only
//! the chunks that are written and that some reader still holds.

use std::sync::Arc;

/// Chunks of `N` elements behind shared pointers.
#[derive(Debug)]
pub(super) struct CowArray<T, const N: usize> {
    chunks: Arc<[Arc<[T; N]>]>,
}

impl<T, const N: usize> Clone for CowArray<T, N> {
    fn clone(&self) -> Self {
        Self { chunks: Arc::clone(&self.chunks) }
    }
}

impl<T, const N: usize> CowArray<T, N> {
    /// No elements.
    pub(super) fn empty() -> Self {
        Self { chunks: Arc::from([]) }
    }

    /// `chunks × N` elements, each made from its position.
    pub(super) fn from_fn(chunks: usize, mut element: impl FnMut(usize) -> T) -> Self {
        let chunk = |at: usize, element: &mut dyn FnMut(usize) -> T| {
            Arc::new(std::array::from_fn(|offset| element(at * N + offset)))
        };
        Self { chunks: (0..chunks).map(|at| chunk(at, &mut element)).collect() }
    }

    /// Number of elements.
    pub(super) fn len(&self) -> usize {
        self.chunks.len() * N
    }

    /// The element at `at`, if there is one.
    pub(super) fn get(&self, at: usize) -> Option<&T> {
        Some(&self.chunks.get(at / N)?[at % N])
    }

    /// Whether both are the same picture, by address.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.chunks, &other.chunks)
    }

    /// Positions of the chunks that are not the same picture as in `other`, by address: what was
    /// written since, if `other` is an earlier clone of the same length. Both must have one length.
    pub(super) fn written_since(
        &self,
        other: &Self,
    ) -> impl Iterator<Item = std::ops::Range<usize>> {
        let pairs = self.chunks.iter().zip(other.chunks.iter()).enumerate();
        let written = pairs.filter(|(_, (new, old))| !Arc::ptr_eq(new, old));
        written.map(|(at, _)| at * N..(at + 1) * N)
    }

    /// All elements in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        self.chunks.iter().flat_map(|chunk| chunk.iter())
    }
}

impl<T: Clone, const N: usize> CowArray<T, N> {
    /// The element at `at`, to be written.
    pub(super) fn edit(&mut self, at: usize) -> &mut T {
        &mut Arc::make_mut(&mut Arc::make_mut(&mut self.chunks)[at / N])[at % N]
    }

    /// Calls `change` with the position and the element for each of the ascending positions `at`;
    /// every chunk is looked up once.
    pub(super) fn edit_ascending(&mut self, at: &[u32], mut change: impl FnMut(u32, &mut T)) {
        if at.is_empty() {
            return;
        }
        let chunks = Arc::make_mut(&mut self.chunks);
        let mut positions = at.iter().copied().peekable();
        while let Some(first) = positions.peek().copied() {
            let number = first as usize / N;
            let chunk = Arc::make_mut(&mut chunks[number]);
            while let Some(position) = positions.next_if(|next| *next as usize / N == number) {
                change(position, &mut chunk[position as usize % N]);
            }
        }
    }

    /// Appends one chunk.
    pub(super) fn push_chunk(&mut self, mut element: impl FnMut() -> T) {
        let chunk = Arc::new(std::array::from_fn(|_| element()));
        self.chunks = self.chunks.iter().cloned().chain([chunk]).collect();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clone_keeps_its_picture_and_shares_what_was_not_written() {
        let mut array = CowArray::<usize, 4>::from_fn(3, |at| at);
        let before = array.clone();
        array.edit_ascending(&[1, 3, 9], |at, element| *element = 100 + at as usize);
        assert!(before.iter().copied().eq(0..12));
        let expected = [0, 101, 2, 103, 4, 5, 6, 7, 8, 109, 10, 11];
        assert!(array.iter().copied().eq(expected));
        assert!(Arc::ptr_eq(&before.chunks[1], &array.chunks[1]));
        assert!(!Arc::ptr_eq(&before.chunks[0], &array.chunks[0]));
    }

    #[test]
    fn appended_chunks_keep_what_was_there() {
        let mut array = CowArray::<u8, 2>::from_fn(1, |_| 7);
        array.push_chunk(|| 8);
        *array.edit(3) = 9;
        assert!(array.iter().copied().eq([7, 7, 8, 9]));
        assert_eq!((array.len(), array.get(4)), (4, None));
    }
}
