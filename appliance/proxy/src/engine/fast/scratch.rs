//! Where bytes are read to before it is known what they are.
//!
//! One place for each worker, borrowed from a read to the end of the same poll: connections hold no
//! buffer while they wait, and what is passed on at once is never copied.

use std::cell::RefCell;
use std::future::poll_fn;
use std::task::{Context, Poll};

/// Bytes of one read: of a large answer as much as a socket's buffer usually takes.
const SCRATCH_BYTES: usize = 64 * 1024;

thread_local! {
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; SCRATCH_BYTES].into());
}

/// A future that is polled with the scratch at hand. What is polled must not do the same.
pub(super) async fn poll_with_scratch<T>(
    mut poll: impl FnMut(&mut Context<'_>, &mut [u8]) -> Poll<T>,
) -> T {
    poll_fn(|cx| SCRATCH.with_borrow_mut(|scratch| poll(cx, scratch))).await
}
