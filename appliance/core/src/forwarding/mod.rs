//! The forwarding table: buckets, hops and their transitions.
//!
//! A table has a power of two of buckets, and the top bits of a flow's keyed hash pick one. A
//! bucket holds a first hop, to which new flows go, and a second hop, where an established flow
//! may still live. The same code builds the service table (bucket → backend) and the fleet table
//! (bucket → appliance).
//!
//! What always holds:
//!
//! - The share of each member is exact: `buckets × weight / total weight`, rounded by largest
//!   remainder ([`shares`]). Members with equal remainders get the spare buckets so that the
//!   fewest move: first those that hold one already, then heirs, then in member order.
//! - A change moves buckets only from members over their share to members under it, so that the
//!   number of moved buckets is the arithmetic minimum ([`plan`]).
//! - A planned move writes `{first: new, second: old first}`; the bucket whose last change lies
//!   furthest back moves first ([`ages`]).
//! - The table is a function of its history: of the calls, with their arguments as sets. Neither
//!   argument order, nor addresses in memory, nor a hash map's order has any part in it.
//!
//! It never reads a clock, draws a random number or does any I/O.

mod ages;
mod cow;
mod member;
mod plan;
mod serial;
mod shares;
mod slots;
mod starts;
mod table;
mod view;

pub use member::Member;
pub use serial::DecodeError;
pub use starts::Starts;
pub use table::{Change, ForwardingTable, TableSettings};
pub use view::{Hops, TableView};

/// Members with a weight above 0 that one table takes. A bound keeps slots within 16 bits, which
/// halves the table; at the most buckets it leaves 64 for each. Further members, in member order,
/// get nothing and are counted in [`Change::refused`].
pub const MEMBERS_MAX: usize = 1 << 14;

/// Fewest buckets of a table that has members: with one or two members nothing is gained by
/// more, and there may be 50,000 such services.
pub const BUCKETS_MIN: u32 = 1 << 8;

/// A table doubles when it has fewer buckets than this for each member, where it may be
/// [coarse](TableSettings::coarse). One member then has at most a sixteenth more flows than another,
/// which is less than chance makes of a thousand flows.
pub const COARSE_BUCKETS_PER_MEMBER_MIN: u32 = 16;

/// With more members than this no table is coarse: few services have as many, and what is uneven
/// there adds up.
pub const COARSE_MEMBERS_MAX: usize = 64;

/// Most buckets of a table: 4 MiB for readers, and still fair with 10,000 members.
pub const BUCKETS_MAX: u32 = 1 << 20;

/// A table doubles when it has fewer buckets than this for each member. 128 / √2: the power of
/// two chosen is the one nearest to 128 buckets a member.
pub const BUCKETS_PER_MEMBER_MIN: u32 = 90;
