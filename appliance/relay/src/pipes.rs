//! Pipes for splice(2), kept for reuse and bounded.

use std::os::fd::OwnedFd;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::pipe::{PipeFlags, pipe_with};

/// Idle pipes that are kept. Making one costs two system calls, so a pool is worth having, but
/// each idle pipe costs two descriptors: this covers bursts on a few hundred connections.
const IDLE_PIPES_MAX: usize = 256;

/// An empty, non-blocking pipe.
pub(crate) struct Pipe {
    pub(crate) read: OwnedFd,
    pub(crate) write: OwnedFd,
}

/// Pipes in use and idle.
pub(crate) struct PipePool {
    idle: Mutex<Vec<Pipe>>,
    existing: AtomicUsize,
}

impl PipePool {
    pub(crate) fn new() -> Self {
        Self { idle: Mutex::new(Vec::new()), existing: AtomicUsize::new(0) }
    }

    /// Pipes that exist, in use or idle.
    pub(crate) fn existing(&self) -> usize {
        self.existing.load(Ordering::Relaxed)
    }

    /// An empty pipe; `None` at the limit, or when the kernel has no descriptor for one.
    pub(crate) fn take(&self, pipes_max: usize) -> Option<Pipe> {
        if pipes_max == 0 {
            return None;
        }
        if let Some(pipe) = lock(&self.idle).pop() {
            return Some(pipe);
        }
        let grown = self.existing.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |existing| {
            (existing < pipes_max).then_some(existing + 1)
        });
        grown.ok()?;
        match pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK) {
            Ok((read, write)) => Some(Pipe { read, write }),
            Err(_) => {
                self.existing.fetch_sub(1, Ordering::Relaxed);
                None
            }
        }
    }

    /// Takes an empty pipe back.
    pub(crate) fn put_back(&self, pipe: Pipe) {
        let mut idle = lock(&self.idle);
        if idle.len() < IDLE_PIPES_MAX {
            idle.push(pipe);
        } else {
            drop(idle);
            self.discard(pipe);
        }
    }

    /// Closes a pipe that may still hold data of a broken connection: it must not reach another.
    pub(crate) fn discard(&self, pipe: Pipe) {
        drop(pipe);
        self.existing.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Locks although another thread panicked while holding it: the data is whole at every point
/// at which these short critical sections could panic.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_counts_idle_pipes_too_and_a_returned_pipe_is_used_again() {
        let pool = PipePool::new();
        let (first, second) = (pool.take(2).unwrap(), pool.take(2).unwrap());
        assert!(pool.take(2).is_none());
        pool.put_back(first);
        assert_eq!(pool.existing(), 2);
        assert!(pool.take(2).is_some());
        pool.discard(second);
        assert_eq!(pool.existing(), 1);
        assert!(pool.take(0).is_none());
    }
}
