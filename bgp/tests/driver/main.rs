//! The driver over loopback TCP, against a peer that the test plays itself and against itself.
//!
//! ```text
//!   speaker ── connects to ──> 127.81.t.h : port, where the test listens and speaks by hand
//! ```
//!
//! 1. Garbage is answered with the right NOTIFICATION, its sender waits, others notice nothing.
//! 2. A flood and a peer that never reads hold nobody up.
//! 3. A stop withdraws first, says why second, and closes third, within a bound.
//! 4. What cannot be announced is named with its reason.
//! 5. Settings change live, and only what must restart does.
//! 6. Two speakers that connect to each other at once end with one session.
//! 7. A listener that cannot be opened is tried again; metrics come and go with their peers.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]
#![expect(clippy::disallowed_methods, reason = "these tests run against the clock and the network")]

mod by_hand;
mod faults;
mod sessions;
mod settings_live;
