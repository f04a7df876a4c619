//! The forwarding table: buckets, hops and their transitions.

mod view;

pub use view::{Hops, TableView};
