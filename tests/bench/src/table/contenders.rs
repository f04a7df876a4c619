//! What is compared, and Haflinger's own table as one of them.

use std::net::{Ipv4Addr, SocketAddr};

use haflinger_core::forwarding::{ForwardingTable, TableSettings, TableView};

use super::Members;

/// Anything that spreads flows over members by buckets.
pub(crate) trait Contender {
    /// Replacements lived through before measuring. What has no history needs none.
    const CHANGES_BEFORE: usize;

    /// Whether members hold their exact shares, so that the fewest moves are counted from what
    /// they hold. For the others they are counted from what they should hold.
    const IS_EXACT: bool;

    /// A first table.
    fn new(members: &Members) -> Self;

    /// Takes a new list of members, and makes the new table visible to a reader.
    fn change(&mut self, members: &Members);

    /// The owner of every bucket.
    fn owners(&self) -> Vec<SocketAddr>;

    /// Where a flow goes.
    fn lookup(&self, hash: u64) -> SocketAddr;
}

/// What stands in an empty table.
pub(crate) const NOBODY: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

/// Haflinger's table, and the view that a reader holds.
pub(crate) struct Haflinger {
    table: ForwardingTable<SocketAddr>,
    reader: TableView<SocketAddr>,
    now_secs: u64,
}

impl Contender for Haflinger {
    const CHANGES_BEFORE: usize = 500;
    const IS_EXACT: bool = true;

    fn new(members: &Members) -> Self {
        let buckets = 1 << 16;
        let table = ForwardingTable::with_settings(TableSettings {
            buckets_min: buckets,
            buckets_max: buckets,
            ..TableSettings::default()
        });
        let mut new = Self { table, reader: TableView::empty(), now_secs: 1_000_000 };
        new.change(members);
        new
    }

    fn change(&mut self, members: &Members) {
        self.now_secs += 60;
        let list = members.iter().map(|(member, weight)| (*member, *weight));
        self.table.update(list, self.now_secs);
        self.reader = self.table.view();
    }

    fn owners(&self) -> Vec<SocketAddr> {
        self.reader.buckets().map(|hops| *hops.first).collect()
    }

    fn lookup(&self, hash: u64) -> SocketAddr {
        self.reader.hops(hash).map_or(NOBODY, |hops| *hops.first)
    }
}
