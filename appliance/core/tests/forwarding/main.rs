//! The forwarding table from outside: against a slow second implementation, against its
//! invariants over random histories, and against frozen tables.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod golden;
mod history;
mod invariants;
mod oracle;
mod serial;
mod sizes;
