//! External DNS: what host names should be, compared with what servers hold, written by
//! RFC 2136 updates with TSIG.
//!
//! ```text
//! desired ──┐
//!           ├─> plan (pure) ─> update messages (pure) ─> one worker per zone and server
//! actual  ──┘                                            (TCP, signed, bounded)
//! ```
//!
//! The pure half ([`name`], [`record`], [`owner`], [`plan`], [`budget`]) decides; the
//! [`driver`] only reads, writes and remembers.
//!
//! Invariant: nothing is touched that an ownership record of ours does not claim. The plan
//! leaves it out, and each update carries prerequisites (RFC 2136 section 2.4), so that the
//! server refuses the change if something foreign appeared in between.
//!
//! This crate is the only user of hickory, and names no other room.

pub mod budget;
pub mod driver;
pub mod name;
pub mod owner;
pub mod plan;
pub mod record;
mod settings;
mod wire;

pub use budget::DeletionBudget;
pub use driver::{TransferError, Writer, WriterHandle, read_transfer};
pub use name::{NameError, RecordName};
pub use record::{DesiredName, DesiredRecords};
pub use settings::{
    OWNER_BYTES_MAX, Policy, SERVERS_MAX, Settings, SettingsError, TTL_SECS_MAX, Tsig,
    TsigAlgorithm, ZONES_MAX, ZoneSettings,
};
